//! Limits and deadlines: every bound that a service sets for its connections, with its unit and reason, and the only
//! place of each default.

use std::time::Duration;

/// Limits on the resources of a service's connections.
///
/// ```
/// use reactor::Limits;
/// let limits = Limits { connections: Some(500), ..Limits::default() };
/// assert!(limits.output_low < limits.output_high && limits.output_high < limits.output_max);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of open connections. A further connection is accepted, gets
    /// [`Service::refusal`](crate::Service::refusal) or the choice of
    /// [`Service::refusal_by`](crate::Service::refusal_by), and is closed. `None` (the default): as many as the descriptor
    /// limit allows. At the descriptor limit, a further connection waits in the listener's backlog until a descriptor is
    /// free.
    pub connections: Option<usize>,
    /// Received bytes that the loop keeps until the handler consumes them, 128 KiB by default. A longer item never
    /// completes, so the connection ends with [`CloseReason::InputOverflow`](crate::CloseReason::InputOverflow), after
    /// earlier answers have been sent.
    pub input: usize,
    /// Queued bytes above which the loop stops reading from a peer, 256 KiB by default: a peer that does not read gets
    /// no further answers. A write that begins below `output_high` is accepted in full, at any size. A relay reads on:
    /// [`Context::read_on`](crate::Context::read_on).
    pub output_high: usize,
    /// Queued bytes below which reading resumes and [`Handler::on_drained`](crate::Handler::on_drained) is called, 64
    /// KiB by default: low enough that stopping and resuming cost little, high enough that the peer never waits.
    pub output_low: usize,
    /// Queued bytes beyond which a write is refused that begins above `output_high`, 8 MiB by default: the last
    /// protection against a handler that ignores [`Written`](crate::Written). So at most `output_max` bytes are queued, or
    /// `output_high` and a single answer. The first write that does not fit is refused, with all later writes. Accepted
    /// bytes are still sent, and then the connection ends with
    /// [`CloseReason::OutputOverflow`](crate::CloseReason::OutputOverflow). A handler with large answers waits for its
    /// output: [`Context::wait_for_output`](crate::Context::wait_for_output).
    pub output_max: usize,
    /// Bytes queued for a member of a topic above which no further messages are queued, 1 MiB by default: minutes of
    /// talk, and a thousand members that do not read cost at most a gigabyte. Each message counts 32 bytes in addition
    /// to its length. A single message is always accepted when the queue is empty. The handler's own writes to a member
    /// count, and are bounded only by `output_max`.
    pub member_queue: usize,
    /// The policy for a member above `member_queue`, without effect on the other members. By default the member is
    /// disconnected.
    pub slow_members: SlowPolicy,
    /// Bytes that are read and discarded while a connection closes, 64 MiB by default. Closing with unread bytes would
    /// make the kernel reset the connection, and the peer would lose an unread answer (RFC 9112 section 9.6).
    pub linger_bytes: u64,
    /// Number of refused connections that may linger, or wait for their first bytes
    /// ([`Service::refusal_by`](crate::Service::refusal_by)), 16 by default: enough that an honest client learns the reason,
    /// too few to circumvent `connections`. Further refused connections get the refusal, and are closed at once.
    pub refused_lingering: usize,
    /// Unsent bytes that the kernel takes for a peer, 128 KiB by default. The rest waits in the connection's output,
    /// where the other limits apply. Without this bound the kernel takes up to 4 MB for a peer that does not read. TCP:
    /// TCP_NOTSENT_LOWAT, which the kernel may exceed by one segment (64 KiB); further bytes may be under way, and in
    /// the peer's own buffer. Unix sockets: half of the bound as SO_SNDBUF, which Linux doubles, and which counts all
    /// bytes that the peer has not read. Linux and Android; other systems keep their own bounds. A smaller value costs
    /// more calls for one large answer.
    pub unsent: usize,
    /// Length of the listener's accept queue, 4096 by default. The kernel limits the length (`net.core.somaxconn` on
    /// Linux).
    pub backlog: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: None,
            input: 128 * 1024,
            output_high: 256 * 1024,
            output_low: 64 * 1024,
            output_max: 8 * 1024 * 1024,
            member_queue: 1024 * 1024,
            slow_members: SlowPolicy::Disconnect,
            linger_bytes: 64 * 1024 * 1024,
            refused_lingering: 16,
            unsent: 128 * 1024,
            backlog: 4096,
        }
    }
}

/// The policy for a member of a topic with more than [`Limits::member_queue`] queued.
///
/// ```
/// use reactor::{Limits, SlowPolicy};
/// let ticker = Limits { member_queue: 64 * 1024, slow_members: SlowPolicy::DropOldest, ..Limits::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPolicy {
    /// The member may get last words ([`Handler::on_too_slow`](crate::Handler::on_too_slow)), and is closed: a message
    /// that has begun to leave is finished, and waiting messages are dropped.
    Disconnect,
    /// The oldest waiting messages are dropped, and [`Handler::on_missed`](crate::Handler::on_missed) reports their
    /// number: for news that lose their value. Only complete messages that have not begun to leave are dropped, never
    /// bytes written to the member alone. The member stays at any speed: [`Deadlines::write_progress`] does not apply.
    DropOldest,
    /// The newest messages are dropped: for a log, which is worth more without gaps in its middle.
    DropNewest,
}

impl SlowPolicy {
    /// Whether a slow member stays a member.
    pub(crate) fn keeps(self) -> bool {
        self != SlowPolicy::Disconnect
    }
}

/// Time limits for a service's connections. `None` means no limit.
///
/// Each connection has a further deadline, set by the handler:
/// [`Context::set_deadline`](crate::Context::set_deadline).
///
/// ```
/// use reactor::Deadlines;
/// use std::time::Duration;
/// let deadlines = Deadlines { idle: Some(Duration::from_secs(60)), ..Deadlines::default() };
/// assert_eq!(deadlines.first_request, Some(Duration::from_secs(30)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Time from the opening of an accepted connection until the handler has consumed a byte, written to the connection, or
    /// subscribed the connection. 30 s by default: an honest client needs no longer, and a silent client holds a descriptor.
    pub first_request: Option<Duration>,
    /// Time without a byte in either direction. `None` by default: only the service knows whether silence is normal.
    pub idle: Option<Duration>,
    /// Time within which a peer must acknowledge 4096 further bytes, while more is queued than the kernel takes. 30 s
    /// by default; one byte a minute is too slow. Checked at least every 5 s, so a peer that stops reading ends at most
    /// 5 s after the deadline. Does not apply to members of a topic whose [`SlowPolicy`] keeps them.
    pub write_progress: Option<Duration>,
    /// Time within which the peer must end its half, after ours has ended in a close. 5 s by default. A peer that takes
    /// 4096 further bytes from the kernel gets the time again; a peer that sends as many gets the time again at most
    /// five times. While bytes are queued, `write_progress` applies if it is longer. No other deadline applies to a
    /// closing connection.
    pub linger: Duration,
    /// Time for an outbound connection to be established, including the handshake of its [`Layer`](crate::Layer). 30 s
    /// by default; the kernel's own limit is over two minutes.
    pub connect: Option<Duration>,
    /// Time for the handshake of an accepted connection whose service has a [`Layer`](crate::Layer). 10 s by default.
    /// The other deadlines begin after the handshake.
    pub handshake: Option<Duration>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            first_request: Some(Duration::from_secs(30)),
            idle: None,
            write_progress: Some(Duration::from_secs(30)),
            linger: Duration::from_secs(5),
            connect: Some(Duration::from_secs(30)),
            handshake: Some(Duration::from_secs(10)),
        }
    }
}

/// Bytes that count as progress for [`Deadlines::write_progress`] and [`Deadlines::linger`].
pub(crate) const PROGRESS_MIN: u64 = 4096;
