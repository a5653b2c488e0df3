//! Errors: `Error` before or while an application runs, `Errno` from one system call.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::address::{Address, AddressError};

/// The reason for which an application cannot be set up or cannot run. The text of an error is a line with the object and the
/// cause.
///
/// ```
/// use reactor::{Application, Context, Handler, Input, Service};
/// # struct Quiet;
/// # impl Handler for Quiet {
/// #     type Connection = ();
/// #     fn on_open(&mut self, _: &mut Context<'_>) {}
/// #     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) { input.take_all(); }
/// # }
/// let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = taken.local_addr()?.to_string();
/// let error = Application::new()?.add_service(Service::tcp(&address, || Quiet)).unwrap_err();
/// assert!(error.to_string().starts_with(&format!("tcp://{address}: Address already in use")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Error)]
#[non_exhaustive]
pub enum Error {
    /// An address could not be parsed, or its name could not be looked up.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A value of [`SocketOptions`](crate::SocketOptions) is out of range.
    #[error("{option}: {why}")]
    SocketOption {
        /// The name of the option.
        option: &'static str,
        /// The value, and its range.
        why: String,
    },
    /// A listener could not be bound: address in use, no permission, not an address of this host, no socket at the
    /// path.
    #[error("{address}: {cause}")]
    Bind {
        /// The address to bind.
        address: Address,
        /// The system's error.
        cause: io::Error,
    },
    /// An inherited listener cannot be used.
    #[error("listener {descriptor}: {why}")]
    Inherited {
        /// The descriptor's number.
        descriptor: i32,
        /// The fault of the descriptor.
        why: String,
    },
    /// A descriptor cannot be adopted ([`Context::adopt`](crate::Context::adopt)).
    #[error("descriptor {descriptor}: {why}")]
    Adopted {
        /// The descriptor's number.
        descriptor: i32,
        /// The actual kind of the descriptor, or the limit that admits no further connection.
        why: String,
    },
    /// An environment variable has a malformed value: `LISTEN_PID`, `LISTEN_FDS` or `LISTEN_FDNAMES`.
    #[error("{variable}: {why}")]
    Environment {
        /// The variable's name.
        variable: &'static str,
        /// The fault of the value.
        why: String,
    },
    /// The limit on open descriptors leaves no descriptor for a connection.
    #[error(
        "the limit of {limit} open descriptors (ulimit -n) leaves no room for a connection: it takes {needed}, and {open} are open"
    )]
    NoDescriptors {
        /// RLIMIT_NOFILE of this process.
        limit: usize,
        /// Number of descriptors for a connection, including the descriptors of a per-connection loop.
        needed: usize,
        /// Number of descriptors that the process has open.
        open: usize,
    },
    /// `REACTOR_BACKEND` or a name given in code is not a backend.
    #[error("unknown backend {name:?}: it is one of auto, epoll, select")]
    UnknownBackend {
        /// The given name.
        name: String,
    },
    /// The backend exists but cannot be used on this system.
    #[error("backend {backend} cannot be used here: {cause}")]
    BackendUnavailable {
        /// The name.
        backend: &'static str,
        /// The system's error.
        cause: io::Error,
    },
    /// `REACTOR_CHAOS` has a malformed value. Only with the feature `chaos`.
    #[cfg(feature = "chaos")]
    #[error("REACTOR_CHAOS: {part:?}: {why}")]
    Chaos {
        /// The malformed part.
        part: String,
        /// The fault of the part.
        why: String,
    },
    /// The chosen model cannot serve the connections.
    #[error("{why}")]
    Runner {
        /// The reason.
        why: String,
    },
    /// The factory of a handler has failed: see [`Service::try_new`](crate::Service::try_new).
    #[error("{service}: {cause}")]
    Handler {
        /// The name of the service.
        service: String,
        /// The error of the factory.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An application runs only in the process that built the application: after a fork, parent and child share its descriptors.
    #[error("this application was built in process {built}, and cannot run in process {here}, a fork of it")]
    Forked {
        /// Id of the process that built the application.
        built: u32,
        /// Id of the process that tried to run the application.
        here: u32,
    },
    /// A second application of the process asked to handle signals. Signals are process-wide, so a
    /// single application may handle signals.
    #[error("the signals of this process are handled already")]
    SignalsTaken,
    /// A system call failed unexpectedly.
    #[error("{what}: {cause}")]
    System {
        /// The action that failed.
        what: &'static str,
        /// The system's error.
        cause: io::Error,
    },
}

/// Equals `Display`, because a `main` that returns the error prints the `Debug` text.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a failed system call's error: see errno(3).
///
/// ```
/// use reactor::{CloseReason, Errno};
/// let refused = CloseReason::ConnectFailed(Errno(111));
/// if let CloseReason::ConnectFailed(errno) = refused {
///     assert_eq!(errno.to_io().raw_os_error(), Some(111));
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The standard library's error, with its text and kind.
    pub fn to_io(self) -> io::Error {
        io::Error::from_raw_os_error(self.0)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        errno.to_io()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_io())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
