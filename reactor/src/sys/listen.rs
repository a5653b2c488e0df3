//! Listening sockets: bound to an address, or inherited from the parent process. All functions run before the loop, so
//! they may block.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::socket::{self, RawAddress, UNIX_PATH_MAX};
use super::{Fd, process};
use crate::address::Address;
use crate::error::{Errno, Error};
use crate::socket_options::Tuning;

/// The loop's view of a listener: a descriptor for the driver, an address for the log. A drop closes the listener.
pub(crate) trait Listens: Send {
    /// The descriptor, for the poller and for accept. Never close this number: only the drop closes it.
    fn fd(&self) -> Fd;
    /// The actual address of the listener.
    fn address(&self) -> &Address;
    /// The number of connections in the accept queue. `None` if the system does not report the number.
    fn waiting(&self) -> Option<usize>;
}

/// A listening socket, non-blocking and close-on-exec. A drop closes the socket, and removes the file of a Unix socket
/// that was made here.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The file to remove. `None` for TCP and for an inherited socket. Dropped before the socket is closed, so that at
    /// no time a file exists that refuses connections.
    #[allow(dead_code, reason = "held for its drop")]
    file: Option<SocketFile>,
    address: Address,
    socket: OwnedFd,
}

#[derive(Clone, Debug)]
pub(crate) struct ListenOptions {
    /// Length of the accept queue. The system limits the length to its own maximum.
    pub(crate) backlog: i32,
    /// For services where the client speaks first: a connection is reported with its first bytes, or after this time.
    /// Linux only.
    pub(crate) defer_accept: Option<Duration>,
    /// The options of the listener, which accepted connections inherit. TCP only: for Unix sockets see
    /// [`Sys::accept`](super::Sys::accept).
    pub(crate) tuning: Tuning,
    /// Urgent data is read in its place in the stream. TCP only.
    pub(crate) urgent_in_line: bool,
}

/// A listener that the parent process left open for this process.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The name that the parent process gave the listener.
    pub(crate) name: Option<String>,
    pub(crate) listening: Listening,
}

/// Takes the listeners passed by sd_listen_fds(3), with their names, in order. A second call finds none. A child finds
/// none either, since LISTEN_PID is not its own number.
pub(crate) fn inherited() -> Result<Vec<Inherited>, Error> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let passed = passed(
        variable("LISTEN_PID").as_deref(),
        variable("LISTEN_FDS").as_deref(),
        variable("LISTEN_FDNAMES").as_deref(),
        process::pid(),
    )?;
    if passed.descriptors.is_empty() || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    // All descriptors are checked before any is owned, so an error leaves the descriptors of a wrong setup unchanged.
    // The check comes before a list is made, since the count may be any number.
    for descriptor in passed.descriptors.clone() {
        check_listens(Fd(descriptor))?;
    }
    let mut names = passed.names.into_iter();
    let own = |descriptor| {
        // SAFETY: the check has just found the descriptor open. This process owns the descriptor: LISTEN_PID names this
        // process, and TAKEN ensures that the descriptor is taken once.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Inherited { name: names.next().flatten(), listening: Listening::from_fd(socket)? })
    };
    passed.descriptors.map(own).collect()
}

impl Listening {
    /// Listens at `address`. Port 0 becomes a free port.
    pub(crate) fn bind(address: &Address, options: &ListenOptions) -> Result<Listening, Error> {
        match address {
            Address::Tcp(tcp) => bind_tcp(tcp, options).map_err(io::Error::from),
            Address::Unix(path) => bind_unix(path, options),
        }
        .map_err(|cause| Error::Bind { address: wholly(address), cause })
    }

    /// Takes over a listening socket. The non-blocking mode is shared with duplicates of the socket in other processes.
    /// A Unix socket's file is left to its maker.
    pub(crate) fn from_fd(socket: OwnedFd) -> Result<Self, Error> {
        let fd = socket::fd(&socket);
        check_listens(fd)?;
        let failed = |errno: Errno| Error::Inherited { descriptor: fd.0, why: errno.to_string() };
        socket::make_non_blocking(fd).map_err(failed)?;
        let raw = socket::bound(fd).map_err(failed)?;
        let address = raw.address().ok_or_else(|| Error::Inherited {
            descriptor: fd.0,
            why: "it is neither a TCP nor a Unix socket".to_owned(),
        })?;
        if let Address::Tcp(_) = address {
            socket::tune_tcp(fd, &Tuning::default()).map_err(failed)?;
        }
        Ok(Listening { file: None, address, socket })
    }

    /// [`ListenOptions::urgent_in_line`] for an existing listener.
    pub(crate) fn urgent_in_line(&self) -> Result<(), Errno> {
        match self.address {
            Address::Tcp(_) => urgent_in_line(self.fd()),
            Address::Unix(_) => Ok(()),
        }
    }

    /// [`ListenOptions::defer_accept`] for an existing listener. Does nothing for Unix sockets, and on systems without
    /// the option.
    pub(crate) fn defer_accept(&self, span: Duration) -> Result<(), Errno> {
        match self.address {
            Address::Tcp(_) => defer_accept(self.fd(), span),
            Address::Unix(_) => Ok(()),
        }
    }

    /// [`ListenOptions::tuning`] for an existing listener.
    pub(crate) fn tune(&self, tuning: &Tuning) -> Result<(), Errno> {
        match self.address {
            Address::Tcp(_) => socket::tune_tcp(self.fd(), tuning),
            Address::Unix(_) => Ok(()),
        }
    }
}

impl Listens for Listening {
    fn fd(&self) -> Fd {
        socket::fd(&self.socket)
    }

    fn address(&self) -> &Address {
        &self.address
    }

    fn waiting(&self) -> Option<usize> {
        socket::waiting(self.fd())
    }
}

fn bind_tcp(address: &SocketAddr, options: &ListenOptions) -> Result<Listening, Errno> {
    let wanted = Address::Tcp(*address);
    let socket = socket::open(&wanted)?;
    let fd = socket::fd(&socket);
    // A restart must not wait for old connections in TIME_WAIT. SO_REUSEPORT is never set, because a taken port would
    // go unnoticed.
    socket::set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if let SocketAddr::V6(v6) = address {
        // `::` takes IPv4 too, whatever the system's default is. On OpenBSD, where that is impossible, it stays IPv6.
        let only = !v6.ip().is_unspecified();
        let set = socket::set(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(only));
        if only {
            set?;
        }
    }
    socket::tune_tcp(fd, &options.tuning)?;
    if options.urgent_in_line {
        urgent_in_line(fd)?;
    }
    if let Some(span) = options.defer_accept {
        defer_accept(fd, span)?;
    }
    socket::bind(fd, &RawAddress::of(&wanted)?)?;
    socket::listen(fd, options.backlog)?;
    let address = socket::bound(fd)?.address().unwrap_or(wanted);
    Ok(Listening { file: None, address, socket })
}

/// Sets SO_OOBINLINE, which accepted sockets inherit.
fn urgent_in_line(fd: Fd) -> Result<(), Errno> {
    socket::set(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)
}

/// Sets the time in whole seconds, rounded up, because zero would turn the option off.
fn defer_accept(fd: Fd, span: Duration) -> Result<(), Errno> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let seconds = i32::try_from(span.as_nanos().div_ceil(1_000_000_000)).unwrap_or(i32::MAX).max(1);
        socket::set(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (fd, span);
        Ok(())
    }
}

fn bind_unix(path: &Path, options: &ListenOptions) -> io::Result<Listening> {
    let address = Address::Unix(path.to_owned());
    let raw = RawAddress::of(&address).map_err(|errno| match errno.0 {
        libc::ENAMETOOLONG => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the path of a Unix socket has at most {UNIX_PATH_MAX} bytes here"),
        ),
        _ => io::Error::new(io::ErrorKind::InvalidInput, "not a path for a Unix socket"),
    })?;
    make_room(path, &address, &raw)?;
    let socket = socket::open(&address)?;
    let fd = socket::fd(&socket);
    socket::bind(fd, &raw)?;
    // Made before `listen`, so that the drop removes the file if `listen` fails.
    let listening = Listening { file: Some(SocketFile::of(path)?), address: wholly(&address), socket };
    socket::listen(fd, options.backlog)?;
    Ok(listening)
}

/// The address for display, with the absolute path, so that it can be used from another directory. The socket itself is
/// bound to the given path, which may be short enough where the absolute path is not.
fn wholly(address: &Address) -> Address {
    match address {
        Address::Unix(path) => Address::Unix(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        Address::Tcp(_) => address.clone(),
    }
}

/// Removes a socket file that a killed server has left at `path`. Fails if the socket is alive, or if the file is no
/// socket.
///
/// Between the check and the bind another server may do the same; then the later one gets the path. A lock would
/// prevent that, and would leave a file of its own.
fn make_room(path: &Path, address: &Address, raw: &RawAddress) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "exists and is not a socket"));
        }
        Ok(_) => {}
    }
    let probe = socket::open(address)?;
    match socket::connect(socket::fd(&probe), raw) {
        Err(Errno(libc::ECONNREFUSED)) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        Err(Errno(libc::ENOENT)) => Ok(()),
        // EAGAIN: the socket's queue is full, so it is alive. EPROTOTYPE: it is alive, and uses datagrams.
        Ok(()) | Err(Errno(libc::EAGAIN | libc::EPROTOTYPE)) => Err(Errno(libc::EADDRINUSE).to_io()),
        Err(errno) => Err(errno.to_io()),
    }
}

/// The file of a bound Unix socket, with the identity of the file.
#[derive(Debug)]
struct SocketFile {
    /// Absolute, since the working directory may change before the removal.
    path: PathBuf,
    device: u64,
    inode: u64,
    /// The process that made the file, and may remove it: a forked child drops this value as well.
    process: u32,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let (path, found) = (std::path::absolute(path)?, fs::symlink_metadata(path)?);
        Ok(SocketFile { path, device: found.dev(), inode: found.ino(), process: process::pid() })
    }
}

impl Drop for SocketFile {
    /// Removes only the original file: a successor may have put its own socket at the path.
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if self.process == process::pid() && fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The descriptors that a service manager promises.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    descriptors: Range<RawFd>,
    /// Names of the first descriptors.
    names: Vec<Option<String>>,
}

/// The descriptors that these three variables promise to process `here`, with their names.
fn passed(pid: Option<&str>, count: Option<&str>, names: Option<&str>, here: u32) -> Result<Passed, Error> {
    /// The first descriptor: the protocol has no other start.
    const FIRST: RawFd = 3;
    let absurd = |variable, why| Error::Environment { variable, why };
    let none = Passed { descriptors: FIRST..FIRST, names: Vec::new() };
    let Some(pid) = pid else { return Ok(none) };
    let process: u32 =
        pid.parse().map_err(|_| absurd("LISTEN_PID", format!("{pid:?} is not the number of a process")))?;
    if process != here {
        return Ok(none);
    }
    let count = count.unwrap_or("0");
    let last = count.parse().ok().filter(|&count: &RawFd| count >= 0).and_then(|count| FIRST.checked_add(count));
    let end = last.ok_or_else(|| absurd("LISTEN_FDS", format!("{count:?} is not a number of descriptors")))?;
    let named = names.filter(|names| !names.is_empty()).into_iter().flat_map(|names| names.split(':'));
    let names: Vec<_> = named.map(|name| (!name.is_empty()).then(|| name.to_owned())).collect();
    if names.len() > (end - FIRST) as usize {
        let why = format!("{} names, and LISTEN_FDS says {count}", names.len());
        return Err(absurd("LISTEN_FDNAMES", why));
    }
    Ok(Passed { descriptors: FIRST..end, names })
}

/// Fails unless the descriptor is a listening stream socket. The error names the actual kind of the descriptor.
fn check_listens(fd: Fd) -> Result<(), Error> {
    let why = match socket::stream_listens(fd) {
        Ok(true) => return Ok(()),
        Ok(false) => "it does not listen".to_owned(),
        Err(why) => why,
    };
    Err(Error::Inherited { descriptor: fd.0, why })
}

#[cfg(test)]
mod tests;
