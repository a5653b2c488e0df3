//! Why a connection ended: values that a test can compare and a log can print.

use std::fmt;

use crate::error::Errno;

/// Why a connection ended, told to [`Handler::on_close`](crate::Handler::on_close).
///
/// ```
/// use reactor::{CloseReason, Deadline};
/// assert_eq!(CloseReason::TimedOut(Deadline::Idle).to_string(), "timed out (idle)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its half, and everything it was owed has been sent.
    PeerEnded,
    /// The service asked for it ([`Context::close`](crate::Context::close)), and everything owed has been sent.
    Closed,
    /// The service asked for it without delay ([`Context::abort`](crate::Context::abort)).
    Aborted,
    /// The peer reset the connection, or went away while it was still being sent to (ECONNRESET, EPIPE).
    Reset,
    /// The system reported another error.
    Failed(Errno),
    /// An outbound connection did not come about: refused, unreachable, …
    ConnectFailed(Errno),
    /// The handshake of the connection's [`Layer`](crate::Layer) failed. A handshake that took too long has the reason
    /// [`TimedOut`](Self::TimedOut) and is counted as this one.
    Handshake,
    /// A deadline passed.
    TimedOut(Deadline),
    /// The peer sent more than the service is willing to keep without making sense of it.
    InputOverflow {
        /// [`Limits::input`](crate::Limits::input), in bytes.
        limit: usize,
    },
    /// The peer was owed more than the service is willing to keep for it.
    OutputOverflow {
        /// Bytes owed when the limit, [`Limits::output_max`](crate::Limits::output_max), was met.
        queued: usize,
    },
    /// A file that was being sent ([`Output::put_file`](crate::Output::put_file)) turned out shorter than its range.
    ShortFile,
    /// A callback of this connection panicked.
    Panicked,
    /// The connection's process was killed by a signal, such as that of a fault or of the system's want of memory
    /// ([`Runner::processes`](crate::Runner::processes)). Counted, and told to no handler: the handler is gone with the process.
    Killed,
    /// All connections together held more than the application's memory budget
    /// ([`Application::memory`](crate::Application::memory)), and this was one of those that held most.
    Memory,
    /// The application is stopping, and everything owed has been sent.
    Stopped,
    /// The application was stopping, and the drain time was over before everything was sent.
    DrainExpired,
}

impl CloseReason {
    /// How many kinds there are, for counting.
    pub(crate) const KINDS: usize = 16;

    /// The kind as a small number, its value left out.
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
        }
    }

    /// Whether somebody may want to know how it came to that: no end that peers or services bring about as a matter of
    /// routine.
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

/// Which deadline passed. Their lengths are in [`Deadlines`](crate::Deadlines), but for the handler's own.
///
/// ```
/// assert_eq!(reactor::Deadline::WriteProgress.to_string(), "write progress");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The peer connected and never got as far as a first request.
    FirstRequest,
    /// No byte moved either way.
    Idle,
    /// The peer did not take what it is owed.
    WriteProgress,
    /// The connection was closing and the peer did not let it end; what it was owed is lost.
    Linger,
    /// An outbound connection did not come about in time.
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
