//! Why a connection ended: values that a test can compare and a log can print.

use std::fmt;

use crate::error::Errno;

/// Why a connection ended: the argument of [`Handler::on_close`](crate::Handler::on_close).
///
/// ```
/// use reactor::{CloseReason, Deadline};
/// assert_eq!(CloseReason::TimedOut(Deadline::Idle).to_string(), "timed out (idle)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its half, and all queued bytes have been sent.
    PeerEnded,
    /// The service closed the connection ([`Context::close`](crate::Context::close)), and all queued bytes have been
    /// sent.
    Closed,
    /// The service closed the connection without delay ([`Context::abort`](crate::Context::abort)).
    Aborted,
    /// The peer reset the connection, or went away while bytes were being sent (ECONNRESET, EPIPE).
    Reset,
    /// The system reported another error.
    Failed(Errno),
    /// An outbound connection was not established: refused, unreachable, …
    ConnectFailed(Errno),
    /// The name of an outbound connection ([`Context::connect_to`](crate::Context::connect_to)) could not be looked up.
    /// [`ConnectionRef::connect_error`](crate::ConnectionRef::connect_error) has the name and the cause.
    LookUpFailed,
    /// The handshake of the connection's [`Layer`](crate::Layer) failed. A handshake that took too long has the reason
    /// [`TimedOut`](Self::TimedOut), and is counted here.
    Handshake,
    /// A deadline passed.
    TimedOut(Deadline),
    /// The peer sent an item longer than the service's limit.
    InputOverflow {
        /// [`Limits::input`](crate::Limits::input), in bytes.
        limit: usize,
    },
    /// More bytes were queued for the peer than the service's limit.
    OutputOverflow {
        /// Bytes queued when the limit, [`Limits::output_max`](crate::Limits::output_max), was reached.
        queued: usize,
    },
    /// A file being sent ([`Output::put_file`](crate::Output::put_file)) was shorter than its range.
    ShortFile,
    /// A callback of this connection panicked.
    Panicked,
    /// The connection's process was killed by a signal, for example after a fault, or for the system's lack of memory
    /// ([`Runner::processes`](crate::Runner::processes)). Counted without a callback: the handler ended with the
    /// process.
    Killed,
    /// All connections together held more than the application's memory budget
    /// ([`Application::memory`](crate::Application::memory)), and this connection was among the largest.
    Memory,
    /// The application stopped, and all queued bytes were sent.
    Stopped,
    /// The application stopped, and the drain time ended before all bytes were sent.
    DrainExpired,
}

impl CloseReason {
    /// Number of kinds, for counters.
    pub(crate) const KINDS: usize = 17;

    /// The kind as a small number, without its value.
    pub(crate) fn kind(self) -> usize {
        match self {
            CloseReason::PeerEnded => 0,
            CloseReason::Closed => 1,
            CloseReason::Aborted => 2,
            CloseReason::Reset => 3,
            CloseReason::Failed(_) => 4,
            CloseReason::ConnectFailed(_) => 5,
            CloseReason::TimedOut(Deadline::Handshake) | CloseReason::Handshake => 15,
            CloseReason::TimedOut(_) => 6,
            CloseReason::InputOverflow { .. } => 7,
            CloseReason::OutputOverflow { .. } => 8,
            CloseReason::Panicked => 9,
            CloseReason::Stopped => 10,
            CloseReason::DrainExpired => 11,
            CloseReason::ShortFile => 12,
            CloseReason::Killed => 13,
            CloseReason::Memory => 14,
            CloseReason::LookUpFailed => 16,
        }
    }

    /// Whether the end may need an investigation: not an end that peers or services cause as a matter of routine.
    pub(crate) fn is_fault(self) -> bool {
        match self {
            CloseReason::Failed(_)
            | CloseReason::InputOverflow { .. }
            | CloseReason::OutputOverflow { .. }
            | CloseReason::ShortFile
            | CloseReason::Killed
            | CloseReason::Panicked => true,
            CloseReason::PeerEnded
            | CloseReason::Closed
            | CloseReason::Aborted
            | CloseReason::Reset
            | CloseReason::ConnectFailed(_)
            | CloseReason::LookUpFailed
            | CloseReason::Handshake
            | CloseReason::TimedOut(_)
            | CloseReason::Memory
            | CloseReason::Stopped
            | CloseReason::DrainExpired => false,
        }
    }

    /// The names of the kinds, by number.
    pub(crate) const KIND_NAMES: [&'static str; Self::KINDS] = [
        "peer ended",
        "closed",
        "aborted",
        "reset",
        "failed",
        "connect failed",
        "timed out",
        "input overflow",
        "output overflow",
        "panicked",
        "stopped",
        "drain expired",
        "short file",
        "killed",
        "memory",
        "handshake",
        "look-up failed",
    ];
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Failed(errno) => write!(f, "failed: {errno}"),
            CloseReason::ConnectFailed(errno) => write!(f, "connect failed: {errno}"),
            CloseReason::TimedOut(deadline) => write!(f, "timed out ({deadline})"),
            CloseReason::InputOverflow { limit } => write!(f, "input over its limit of {limit} bytes"),
            CloseReason::OutputOverflow { queued } => write!(f, "output over its limit with {queued} bytes owed"),
            plain => f.write_str(Self::KIND_NAMES[plain.kind()]),
        }
    }
}

/// The deadline that passed. [`Deadlines`](crate::Deadlines) has their lengths, except for the handler's own.
///
/// ```
/// assert_eq!(reactor::Deadline::WriteProgress.to_string(), "write progress");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The handler neither consumed a byte, nor wrote, nor subscribed the connection in time.
    FirstRequest,
    /// No byte moved in either direction.
    Idle,
    /// The peer did not take the queued bytes.
    WriteProgress,
    /// The connection was closing, and the peer did not let it end; queued bytes are lost.
    Linger,
    /// An outbound connection was not established in time.
    Connect,
    /// The layer of an accepted connection was not ready in time.
    Handshake,
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deadline::FirstRequest => "first request",
            Deadline::Idle => "idle",
            Deadline::WriteProgress => "write progress",
            Deadline::Linger => "linger",
            Deadline::Connect => "connect",
            Deadline::Handshake => "handshake",
        })
    }
}
