//! Options of a service's sockets: the only place of each default, with its reason.

use std::time::Duration;

use crate::error::Error;
use crate::limits::Limits;

/// Options of the sockets of a service: of its listeners and accepted connections, of outbound connections, and of adopted
/// connections ([`Context::adopt`](crate::Context::adopt)).
///
/// Accepted TCP connections inherit the options from their listener, so no connection costs a system call. On Unix sockets only
/// `send_buffer` has an effect. The bytes that the kernel keeps unsent have a limit of their own:
/// [`Limits::unsent`](crate::Limits::unsent).
///
/// ```
/// use reactor::{Application, Context, Handler, Input, Keepalive, Service, SocketOptions};
/// use std::time::Duration;
/// # struct Upload;
/// # impl Handler for Upload {
/// #     type Connection = ();
/// #     fn on_open(&mut self, _: &mut Context<'_>) {}
/// #     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) { input.take_all(); }
/// # }
///
/// // Behind a balancer that forgets a connection after 60 silent seconds.
/// let options = SocketOptions {
///     keepalive: Some(Keepalive { idle: Duration::from_secs(45), ..Keepalive::default() }),
///     ..SocketOptions::default()
/// };
/// let mut app = Application::new()?;
/// app.add_service(Service::tcp("127.0.0.1:0", || Upload).socket_options(options))?;
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP_NODELAY, on by default. All writes of a callback leave in one send, so there is nothing that Nagle's algorithm could
    /// gather. With the algorithm, a second small answer waits for the acknowledgement of the first: up to 40 ms.
    pub no_delay: bool,
    /// SO_KEEPALIVE with its times, on by default: without probes, a connection whose cable was pulled seems alive for ever.
    /// `None`: no probes.
    pub keepalive: Option<Keepalive>,
    /// SO_RCVBUF, in bytes: the received bytes that the kernel keeps for the loop. `None` by default: Linux then begins with 128
    /// KiB, and grows the buffer to the speed and distance of the peer, up to 6 MiB (`net.ipv4.tcp_rmem`). A fixed size turns
    /// that growth off: smaller for many peers that send much, larger only for a known long and fast path. Linux doubles the
    /// size for its own bookkeeping, and silently limits it to `net.core.rmem_max`. No effect on Unix sockets.
    pub receive_buffer: Option<usize>,
    /// SO_SNDBUF, in bytes: the bytes that the kernel keeps until the peer has acknowledged them. `None` by default: Linux grows
    /// the buffer up to 4 MiB (`net.ipv4.tcp_wmem`), and [`Limits::unsent`](crate::Limits::unsent) bounds the unsent part. A
    /// fixed size bounds both parts, and with it the speed over a long path. Linux doubles and limits the size
    /// (`net.core.wmem_max`). On Unix sockets the value replaces `Limits::unsent`.
    pub send_buffer: Option<usize>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions { no_delay: true, keepalive: Some(Keepalive::default()), receive_buffer: None, send_buffer: None }
    }
}

/// The times of keepalive probes (tcp(7)): when a silent peer is asked whether it still exists. By default a pulled cable is
/// found after two minutes. OpenBSD has these settings only for the whole system.
///
/// ```
/// use reactor::Keepalive;
/// let Keepalive { idle, interval, probes } = Keepalive::default();
/// assert_eq!((idle + interval * probes).as_secs(), 120);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, in whole seconds (rounded up), from 1 s to 32,767 s. 60 s by default: a quiet peer costs
    /// one packet a minute.
    pub idle: Duration,
    /// Time between two probes, in whole seconds (rounded up), from 1 s to 32,767 s. 10 s by default: longer than any round
    /// trip, so that each probe can be answered.
    pub interval: Duration,
    /// Unanswered probes until the connection counts as broken, from 1 to 127. 6 by default: an interface that restarts within
    /// a minute loses no connection.
    pub probes: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 6 }
    }
}

/// The greatest keepalive times and number of probes of Linux.
const SECONDS_MAX: u64 = 32_767;
const PROBES_MAX: u32 = 127;
/// The kernel keeps the doubled size of a buffer in a signed number of 32 bits.
const BUFFER_MAX: usize = i32::MAX as usize / 2;

/// Whole seconds, rounded up, as the kernel counts keepalive times.
pub(crate) fn seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

impl SocketOptions {
    /// The options, with the limit of unsent bytes.
    pub(crate) fn tuning(&self, limits: &Limits) -> Tuning {
        Tuning { options: self.clone(), unsent: limits.unsent }
    }

    /// Refuses values that no kernel takes. The error names the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |option, why| Err(Error::SocketOption { option, why });
        if let Some(Keepalive { idle, interval, probes }) = self.keepalive {
            for (option, span) in [("keepalive.idle", idle), ("keepalive.interval", interval)] {
                if !(1..=SECONDS_MAX).contains(&seconds(span)) {
                    return bad(option, format!("{span:?}: it is 1 s to {SECONDS_MAX} s"));
                }
            }
            if !(1..=PROBES_MAX).contains(&probes) {
                return bad("keepalive.probes", format!("{probes}: it is 1 to {PROBES_MAX}"));
            }
        }
        for (option, bytes) in [("receive_buffer", self.receive_buffer), ("send_buffer", self.send_buffer)] {
            if let Some(bytes) = bytes.filter(|bytes| !(1..=BUFFER_MAX).contains(bytes)) {
                return bad(option, format!("{bytes} bytes: it is 1 to {BUFFER_MAX}"));
            }
        }
        Ok(())
    }
}

/// All that a socket of a service is told about itself: its options, and the bytes that the kernel keeps unsent for it
/// ([`Limits::unsent`](crate::Limits::unsent)).
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    pub(crate) options: SocketOptions,
    pub(crate) unsent: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        SocketOptions::default().tuning(&Limits::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_no_kernel_takes_is_an_error_that_names_the_option() {
        let keepalive = |keepalive| SocketOptions { keepalive: Some(keepalive), ..SocketOptions::default() };
        let fine = Keepalive::default();
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let table = [
            (keepalive(Keepalive { idle: Duration::ZERO, ..fine }), "keepalive.idle: 0ns: it is 1 s to 32767 s"),
            (keepalive(Keepalive { interval: day, ..fine }), "keepalive.interval: 86400s: it is 1 s to 32767 s"),
            (keepalive(Keepalive { probes: 0, ..fine }), "keepalive.probes: 0: it is 1 to 127"),
            (
                SocketOptions { receive_buffer: Some(0), ..SocketOptions::default() },
                "receive_buffer: 0 bytes: it is 1 to 1073741823",
            ),
            (
                SocketOptions { send_buffer: Some(1 << 31), ..SocketOptions::default() },
                "send_buffer: 2147483648 bytes: it is 1 to 1073741823",
            ),
        ];
        for (options, said) in table {
            assert_eq!(options.check().unwrap_err().to_string(), said);
        }
        let lowest = keepalive(Keepalive { idle: Duration::from_millis(1), interval: second, probes: 1 });
        for options in [lowest, SocketOptions::default(), SocketOptions { keepalive: None, ..SocketOptions::default() }]
        {
            assert!(options.check().is_ok(), "{options:?}");
        }
    }
}
