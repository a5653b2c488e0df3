//! Stream sockets for `kernel` and `listen`: addresses in the kernel's format, and options.

use std::ffi::OsStr;
use std::mem::{offset_of, size_of};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use libc::{c_int, sockaddr, socklen_t};

use super::Fd;
use super::call::{check, retry};
use crate::address::{Address, Peer};
use crate::error::Errno;
use crate::socket_options::{Keepalive, Tuning, seconds};

/// The longest path of a Unix socket, in bytes: 107 on Linux, 103 on the BSDs. A NUL follows.
pub(super) const UNIX_PATH_MAX: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1;

/// A socket address in the kernel's format: one of several structs, by its family.
pub(super) struct RawAddress {
    name: Name,
    length: socklen_t,
}

#[repr(C)]
union Name {
    any: libc::sockaddr_storage,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    unix: libc::sockaddr_un,
}

impl RawAddress {
    /// ENAMETOOLONG for a path over `UNIX_PATH_MAX`, EINVAL for an empty path or a path with NUL.
    pub(super) fn of(address: &Address) -> Result<Self, Errno> {
        let mut raw = RawAddress::empty();
        match address {
            Address::Tcp(SocketAddr::V4(address)) => {
                // SAFETY: all zeros is a sockaddr_in: it is integers throughout.
                let mut v4: libc::sockaddr_in = unsafe { std::mem::zeroed() };
                v4.sin_family = libc::AF_INET as _;
                v4.sin_port = address.port().to_be();
                v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
                raw.name.v4 = v4;
                raw.length = size_of::<libc::sockaddr_in>() as socklen_t;
            }
            Address::Tcp(SocketAddr::V6(address)) => {
                // SAFETY: all zeros is a sockaddr_in6: it is integers throughout.
                let mut v6: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
                v6.sin6_family = libc::AF_INET6 as _;
                v6.sin6_port = address.port().to_be();
                v6.sin6_addr.s6_addr = address.ip().octets();
                v6.sin6_flowinfo = address.flowinfo();
                v6.sin6_scope_id = address.scope_id();
                raw.name.v6 = v6;
                raw.length = size_of::<libc::sockaddr_in6>() as socklen_t;
            }
            Address::Unix(path) => {
                let path = path.as_os_str().as_bytes();
                if path.len() > UNIX_PATH_MAX {
                    return Err(Errno(libc::ENAMETOOLONG));
                }
                if path.is_empty() || path.contains(&0) {
                    return Err(Errno(libc::EINVAL));
                }
                // SAFETY: all zeros is a sockaddr_un: it is integers throughout.
                let mut unix: libc::sockaddr_un = unsafe { std::mem::zeroed() };
                unix.sun_family = libc::AF_UNIX as _;
                for (to, from) in unix.sun_path.iter_mut().zip(path) {
                    *to = *from as libc::c_char;
                }
                raw.name.unix = unix;
                raw.length = (offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1) as socklen_t;
            }
        }
        Ok(raw)
    }

    /// All zeros, with room for any family.
    fn empty() -> Self {
        // SAFETY: all zeros is a sockaddr_storage: it is integers throughout.
        let any = unsafe { std::mem::zeroed() };
        RawAddress { name: Name { any }, length: size_of::<libc::sockaddr_storage>() as socklen_t }
    }

    fn family(&self) -> c_int {
        if (self.length as usize) < size_of::<libc::sa_family_t>() {
            return libc::AF_UNSPEC;
        }
        // SAFETY: every struct of the union has its family at one place, and all bytes were set at the start.
        c_int::from(unsafe { self.name.any.ss_family })
    }

    fn tcp(&self) -> Option<SocketAddr> {
        match self.family() {
            libc::AF_INET => {
                // SAFETY: the family says that this is a sockaddr_in, and any bytes are a valid one.
                let v4 = unsafe { self.name.v4 };
                let host = v4.sin_addr.s_addr.to_ne_bytes().into();
                Some(SocketAddrV4::new(host, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that this is a sockaddr_in6, and any bytes are a valid one.
                let v6 = unsafe { self.name.v6 };
                let (host, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
                Some(SocketAddrV6::new(host, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// The peer. A family other than IP gives `Peer::Unix`: macOS returns an empty address for a peer that has gone.
    pub(super) fn peer(&self) -> Peer {
        self.tcp().map_or(Peer::Unix, Peer::tcp)
    }

    /// The address. `None` for a family other than IP and Unix. A name in Linux's abstract namespace keeps its leading
    /// NUL.
    pub(super) fn address(&self) -> Option<Address> {
        if self.family() != libc::AF_UNIX {
            return self.tcp().map(Address::Tcp);
        }
        // SAFETY: the family says that this is a sockaddr_un, and any bytes are a valid one.
        let unix = unsafe { self.name.unix };
        let length = (self.length as usize).saturating_sub(offset_of!(libc::sockaddr_un, sun_path));
        let mut path: Vec<u8> = unix.sun_path.iter().take(length).map(|&c| c as u8).collect();
        if path.first() != Some(&0) || length == 1 {
            path.truncate(path.iter().position(|&c| c == 0).unwrap_or(path.len()));
        }
        Some(Address::Unix(OsStr::from_bytes(&path).into()))
    }

    fn family_of(address: &Address) -> c_int {
        match address {
            Address::Tcp(SocketAddr::V4(_)) => libc::AF_INET,
            Address::Tcp(SocketAddr::V6(_)) => libc::AF_INET6,
            Address::Unix(_) => libc::AF_UNIX,
        }
    }
}

/// Opens a stream socket, non-blocking, for an address of this kind.
pub(super) fn open(kind: &Address) -> Result<OwnedFd, Errno> {
    let family = RawAddress::family_of(kind);
    // Apple has no flags for this; a fork in another thread may copy the descriptor before it is close-on-exec.
    #[cfg(not(target_vendor = "apple"))]
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    #[cfg(target_vendor = "apple")]
    let flags = 0;
    // SAFETY: takes no pointer.
    let number = check(unsafe { libc::socket(family, libc::SOCK_STREAM | flags, 0) })?;
    // SAFETY: the call has just made this descriptor, and no other code knows its number.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    #[cfg(target_vendor = "apple")]
    prepare(Fd(number))?;
    Ok(socket)
}

/// Accepts the next connection of `listener`, non-blocking, with its peer. On Linux one call suffices, and the options
/// come from the listener, so no call is made for each connection.
pub(super) fn accept(listener: Fd) -> Result<(Fd, Peer), Errno> {
    let mut from = RawAddress::empty();
    let room = from.length;
    let number = retry(|| {
        let (name, length) = ((&raw mut from.name).cast::<sockaddr>(), &raw mut from.length);
        #[cfg(not(target_vendor = "apple"))]
        // SAFETY: the kernel writes at most `length` bytes at `name`, which has as many, and the true length at
        // `length`.
        let answer = unsafe { libc::accept4(listener.0, name, length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
        #[cfg(target_vendor = "apple")]
        // SAFETY: the kernel writes at most `length` bytes at `name`, which has as many, and the true length at
        // `length`.
        let answer = unsafe { libc::accept(listener.0, name, length) };
        answer
    })?;
    from.length = from.length.min(room);
    #[cfg(target_vendor = "apple")]
    if let Err(errno) = prepare(Fd(number)) {
        close(Fd(number));
        return Err(errno);
    }
    Ok((Fd(number), from.peer()))
}

/// Starts to connect. A signal does not stop the connect: EINTR counts as EINPROGRESS.
///
/// EAGAIN comes from a Unix listener with a full queue. It is an error: nothing was started, and no event would report
/// room.
pub(super) fn connect(socket: Fd, to: &RawAddress) -> Result<(), Errno> {
    let name = (&raw const to.name).cast::<sockaddr>();
    // SAFETY: the kernel reads `length` bytes at `name`, and the stored struct has that length.
    match check(unsafe { libc::connect(socket.0, name, to.length) }) {
        Ok(_) | Err(Errno(libc::EINPROGRESS | libc::EINTR)) => Ok(()),
        Err(errno) => Err(errno),
    }
}

pub(super) fn bind(socket: Fd, to: &RawAddress) -> Result<(), Errno> {
    let name = (&raw const to.name).cast::<sockaddr>();
    // SAFETY: the kernel reads `length` bytes at `name`, and the stored struct has that length.
    check(unsafe { libc::bind(socket.0, name, to.length) }).map(drop)
}

pub(super) fn listen(socket: Fd, backlog: i32) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::listen(socket.0, backlog) }).map(drop)
}

/// The number of connections in a listener's queue. Linux reports the number only for TCP (TCP_INFO).
pub(super) fn waiting(listener: Fd) -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        /// The kernel's state of a listening TCP socket.
        const LISTENS: u8 = 10;
        // SAFETY: all zeros is a valid tcp_info, which consists of numbers.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tcp_info>() as socklen_t;
        let room = (&raw mut info).cast();
        // SAFETY: the kernel writes at most `length` bytes at `room`, which has as many.
        check(unsafe { libc::getsockopt(listener.0, libc::IPPROTO_TCP, libc::TCP_INFO, room, &mut length) }).ok()?;
        // For a listener, `unacked` is the length of its queue, and `sacked` the maximum. If one is not reported,
        // neither is the other.
        (info.tcpi_state == LISTENS && info.tcpi_sacked > 0).then_some(info.tcpi_unacked as usize)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = listener;
        None
    }
}

/// The address that the socket is bound to.
pub(super) fn bound(socket: Fd) -> Result<RawAddress, Errno> {
    let mut raw = RawAddress::empty();
    let room = raw.length;
    let (name, length) = ((&raw mut raw.name).cast::<sockaddr>(), &raw mut raw.length);
    // SAFETY: the kernel writes at most `length` bytes at `name`, which has as many, and the true length at `length`.
    check(unsafe { libc::getsockname(socket.0, name, length) })?;
    raw.length = raw.length.min(room);
    Ok(raw)
}

/// The local address of a connection. `None` if the descriptor is no socket, or a Unix socket without a path. An IPv4
/// address of an IPv6 socket is returned as IPv4, as for peers.
pub(super) fn local_address(socket: Fd) -> Option<Address> {
    match bound(socket).ok()?.address()? {
        Address::Unix(path) if path.as_os_str().is_empty() => None,
        Address::Unix(path) => Some(Address::Unix(path)),
        Address::Tcp(address) => match Peer::tcp(address) {
            Peer::Tcp(address) => Some(Address::Tcp(address)),
            _ => None,
        },
    }
}

/// Whether a stream socket listens. An error says what the descriptor is instead.
pub(super) fn stream_listens(fd: Fd) -> Result<bool, String> {
    let ask = |option| get(fd, libc::SOL_SOCKET, option);
    match (ask(libc::SO_TYPE), ask(libc::SO_ACCEPTCONN)) {
        (Err(Errno(libc::EBADF)), _) => Err("it is not open".to_owned()),
        (Err(Errno(libc::ENOTSOCK)), _) => Err("it is not a socket".to_owned()),
        (Err(errno), _) | (Ok(libc::SOCK_STREAM), Err(errno)) => Err(errno.to_string()),
        (Ok(libc::SOCK_STREAM), Ok(listens)) => Ok(listens != 0),
        (Ok(_), _) => Err("it is not a stream socket".to_owned()),
    }
}

/// Makes an open stream non-blocking and close-on-exec, and sets its options. Returns the peer. An error says what the
/// descriptor is instead.
pub(super) fn prepare_stream(fd: Fd, tuning: &Tuning) -> Result<Peer, String> {
    if stream_listens(fd)? {
        return Err("it is a listener".to_owned());
    }
    let mut raw = RawAddress::empty();
    let room = raw.length;
    let (name, length) = ((&raw mut raw.name).cast::<sockaddr>(), &raw mut raw.length);
    // SAFETY: the kernel writes at most `length` bytes at `name`, which has as many, and the true length at `length`.
    match check(unsafe { libc::getpeername(fd.0, name, length) }) {
        Err(Errno(libc::ENOTCONN)) => return Err("it is not connected".to_owned()),
        answer => answer.map_err(|errno| errno.to_string())?,
    };
    raw.length = raw.length.min(room);
    match raw.address() {
        Some(Address::Tcp(_)) => tune_tcp(fd, tuning).map_err(|errno| errno.to_string())?,
        Some(Address::Unix(_)) => tune_unix(fd, tuning),
        None => return Err("it is neither a TCP nor a Unix socket".to_owned()),
    }
    // EINVAL if the peer has gone already; then recv reports the end.
    #[cfg(target_vendor = "apple")]
    let _ = set(fd, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, 1);
    make_non_blocking(fd).map_err(|errno| errno.to_string())?;
    Ok(raw.peer())
}

pub(super) fn close(fd: Fd) {
    // SAFETY: takes no pointer. Never repeated after EINTR: Linux has freed the number by then, and another descriptor
    // may have the number.
    unsafe { libc::close(fd.0) };
}

/// Sets an integer option.
pub(super) fn set(socket: Fd, level: c_int, option: c_int, value: c_int) -> Result<(), Errno> {
    set_to(socket, level, option, &value)
}

/// Sets an option of type `T`.
pub(super) fn set_to<T: Copy>(socket: Fd, level: c_int, option: c_int, value: &T) -> Result<(), Errno> {
    let (pointer, length) = ((&raw const *value).cast(), size_of::<T>() as socklen_t);
    // SAFETY: the kernel reads at most `length` bytes at the pointer, the whole of `value`.
    check(unsafe { libc::setsockopt(socket.0, level, option, pointer, length) }).map(drop)
}

/// Reads an integer option.
pub(super) fn get(socket: Fd, level: c_int, option: c_int) -> Result<c_int, Errno> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel writes at most `length` bytes at `value`, which has as many.
    check(unsafe { libc::getsockopt(socket.0, level, option, (&raw mut value).cast(), &mut length) })?;
    Ok(value)
}

/// Sets all options of a TCP socket. Sockets inherit the options from their listener, at no cost for each connection.
pub(super) fn tune_tcp(socket: Fd, tuning: &Tuning) -> Result<(), Errno> {
    #[cfg(target_vendor = "apple")]
    const TCP_KEEPIDLE: c_int = libc::TCP_KEEPALIVE;
    #[cfg(not(any(target_vendor = "apple", target_os = "openbsd")))]
    const TCP_KEEPIDLE: c_int = libc::TCP_KEEPIDLE;

    let options = &tuning.options;
    set(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, options.no_delay.into())?;
    set(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, options.keepalive.is_some().into())?;
    // OpenBSD has these settings only for the whole system.
    #[cfg(not(target_os = "openbsd"))]
    if let Some(Keepalive { idle, interval, probes }) = options.keepalive {
        set(socket, libc::IPPROTO_TCP, TCP_KEEPIDLE, seconds(idle) as c_int)?;
        set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds(interval) as c_int)?;
        set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, probes as c_int)?;
    }
    // Before the socket listens or connects, because the handshake decides the greatest window.
    if let Some(bytes) = options.receive_buffer {
        set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes as c_int)?;
    }
    if let Some(bytes) = options.send_buffer {
        set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes as c_int)?;
    }
    bound_unsent(socket, tuning.unsent);
    Ok(())
}

/// Sets the options of a connected or connecting Unix socket, which inherits none. Fails for no open socket: the only option
/// is a size within the range that the kernel takes.
pub(super) fn tune_unix(socket: Fd, tuning: &Tuning) {
    match tuning.options.send_buffer {
        Some(bytes) => drop(set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes as c_int)),
        None => bound_unread(socket, tuning.unsent),
    }
}

/// Bounds the unsent bytes that the kernel takes for a TCP socket. Accepted sockets inherit the bound from their
/// listener. A kernel without the option (before Linux 3.12) keeps its own bound.
pub(super) fn bound_unsent(socket: Fd, bytes: usize) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // Zero would mean the system's bound.
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX).max(1);
        let _ = set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, bytes);
}

/// Bounds the bytes that the kernel takes for a Unix socket before the peer reads them. Linux doubles the value for its
/// own bookkeeping, and has a minimum of some 4 KiB. An accepted socket does not inherit the bound.
pub(super) fn bound_unread(socket: Fd, bytes: usize) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let bytes = c_int::try_from(bytes / 2).unwrap_or(c_int::MAX);
        let _ = set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, bytes);
}

/// Makes a descriptor non-blocking and close-on-exec, if it was opened without these flags.
pub(super) fn make_non_blocking(fd: Fd) -> Result<(), Errno> {
    // SAFETY: takes no pointer, and neither do the next two calls.
    let flags = retry(|| unsafe { libc::fcntl(fd.0, libc::F_GETFL) })?;
    // SAFETY: as above.
    retry(|| unsafe { libc::fcntl(fd.0, libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    // SAFETY: as above.
    retry(|| unsafe { libc::fcntl(fd.0, libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// Sets per socket the modes that other systems set by flags, and turns off SIGPIPE for writes to a broken connection.
#[cfg(target_vendor = "apple")]
fn prepare(socket: Fd) -> Result<(), Errno> {
    make_non_blocking(socket)?;
    // EINVAL if the peer has gone already; then recv reports the end.
    let _ = set(socket, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, 1);
    Ok(())
}

/// The number of an owned descriptor.
pub(super) fn fd(socket: &OwnedFd) -> Fd {
    Fd(socket.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_through_the_kernels_words() {
        for text in ["1.2.3.4:5", "[::1]:65535", "[fe80::1:2]:80", "unix:/run/a.sock"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(RawAddress::of(&address).unwrap().address(), Some(address));
        }
    }

    #[test]
    fn a_path_of_the_greatest_length_fits_and_one_more_does_not() {
        let path = |length| Address::Unix("x".repeat(length).into());
        let longest = path(UNIX_PATH_MAX);
        assert_eq!(RawAddress::of(&longest).unwrap().address(), Some(longest));
        assert_eq!(RawAddress::of(&path(UNIX_PATH_MAX + 1)).err(), Some(Errno(libc::ENAMETOOLONG)));
        for bad in ["", "a\0b"] {
            assert_eq!(RawAddress::of(&Address::Unix(bad.into())).err(), Some(Errno(libc::EINVAL)));
        }
    }

    #[test]
    fn no_address_at_all_is_a_peer_without_one() {
        let mut nothing = RawAddress::empty();
        assert_eq!(nothing.peer(), Peer::Unix);
        nothing.length = 0;
        assert_eq!((nothing.peer(), nothing.address()), (Peer::Unix, None));
    }
}
