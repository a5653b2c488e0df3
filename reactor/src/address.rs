//! Addresses of services, and peers.

use std::fmt::{self, Write};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// An address to listen on or to connect to: TCP over IPv4 or IPv6, or a Unix stream socket.
///
/// Shown as `tcp://127.0.0.1:8800`, `tcp://[::1]:8800` or `unix:///run/chat.sock`; with a relative path as
/// `unix:chat.sock`; and a name in Linux's abstract namespace, which begins with NUL, as `unix:@name`. Control
/// characters of a path, and bytes that are not UTF-8, are escaped, so an address is always one line. An address of one
/// of these two kinds cannot be parsed from its shown form.
///
/// ```
/// use reactor::Address;
/// let address: Address = "127.0.0.1:8800".parse()?;
/// assert_eq!(address.to_string(), "tcp://127.0.0.1:8800");
/// assert_eq!("unix:/run/chat.sock".parse::<Address>()?, Address::Unix("/run/chat.sock".into()));
/// # Ok::<(), reactor::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP endpoint: an IPv4 or IPv6 address, and a port.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

impl Address {
    /// Finds every address for `text`: `host:port` with a name, `1.2.3.4:port`, `[v6]:port` or `unix:PATH`.
    ///
    /// **Blocks** while a name is looked up, so call it before the loop runs or on another thread.
    ///
    /// # Errors
    /// [`AddressError`] names the text and the cause.
    pub fn resolve(text: &str) -> Result<Vec<Address>, AddressError> {
        if let Some(path) = unix_path(text) {
            return Ok(vec![Address::Unix(path)]);
        }
        let failed = |cause| AddressError { address: text.to_owned(), cause };
        let mut found: Vec<Address> = Vec::new();
        for address in look_up(text).map_err(failed)?.map(Address::Tcp) {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        if found.is_empty() {
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
        }
        Ok(found)
    }

    /// The address of a text that contains no name, or the fault of the text. `None`: the name has to be looked up.
    pub(crate) fn without_look_up(text: &str) -> Option<Result<Address, AddressError>> {
        if let Ok(address) = text.parse() {
            return Some(Ok(address));
        }
        let bad = |why: &str| {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
            Some(Err(AddressError { address: text.to_owned(), cause }))
        };
        let Some((host, port)) = text.strip_prefix("tcp://").unwrap_or(text).rsplit_once(':') else {
            return bad("it has no port: not of the form host:port");
        };
        match port.parse::<u16>() {
            Err(_) => bad("the port is not a number from 0 to 65535"),
            Ok(_) if host.is_empty() => bad("it has no host: not of the form host:port"),
            // An address without brackets, or one that is no address.
            Ok(_) if host.contains(':') && !host.contains('%') => bad("not of the form host:port or [v6]:port"),
            Ok(_) => None,
        }
    }

    /// The port of a TCP address; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) => None,
        }
    }
}

/// Looks up a name. A numeric address in brackets may have a zone (`[fe80::1%eth0]:80`), which the resolver accepts
/// without the brackets.
fn look_up(text: &str) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    let text = text.strip_prefix("tcp://").unwrap_or(text);
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    match bracketed.map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(port))) if host.contains('%') => (host, port).to_socket_addrs(),
        _ => text.to_socket_addrs(),
    }
}

/// The path in `unix:PATH`, or in the shown form `unix:///PATH`.
fn unix_path(text: &str) -> Option<PathBuf> {
    let path = text.strip_prefix("unix:")?;
    Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
}

impl FromStr for Address {
    type Err = AddressError;

    /// Parses numeric addresses and `unix:PATH`, so it never blocks; see [`Address::resolve`] for names.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = unix_path(text) {
            return Ok(Address::Unix(path));
        }
        text.strip_prefix("tcp://").unwrap_or(text).parse().map(Address::Tcp).map_err(|_| AddressError {
            address: text.to_owned(),
            cause: io::Error::new(io::ErrorKind::InvalidInput, "not of the form ip:port, [v6]:port or unix:PATH"),
        })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Unix(path) => {
                let path = path.as_os_str().as_bytes();
                let (before, path) = match path {
                    [0, name @ ..] => ("unix:@", name),
                    [b'/', ..] => ("unix://", path),
                    // Must not look like an abstract name, nor like the rest of `unix://`.
                    [b'@', ..] => ("unix:./", path),
                    _ => ("unix:", path),
                };
                f.write_str(before)?;
                write_in_one_line(path, f)
            }
        }
    }
}

/// Writes a path unchanged, unless it contains a character that does not belong in a line.
fn write_in_one_line(path: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if let Ok(plain) = str::from_utf8(path)
        && !plain.contains(breaks)
    {
        return f.write_str(plain);
    }
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                // Escaped, so that no other text looks like an escape.
                '\\' => f.write_str("\\\\")?,
                c if breaks(c) => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
    }
    Ok(())
}

/// A malformed address, or a name that could not be looked up.
///
/// ```
/// let error = reactor::Address::resolve("127.0.0.1:http").unwrap_err();
/// assert!(error.to_string().starts_with("127.0.0.1:http: "));
/// ```
#[derive(Error)]
#[error("{address}: {cause}")]
pub struct AddressError {
    /// The text that was to be an address, as it was given.
    pub address: String,
    /// The flaw of the text, or the resolver's error.
    pub cause: io::Error,
}

/// Equals `Display`: a `main` that returns the error prints this text.
impl fmt::Debug for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The other end of a connection. An IPv4 peer of an IPv6 listener is shown as IPv4.
///
/// ```
/// use reactor::Peer;
/// let peer = Peer::tcp("[::ffff:10.0.0.1]:4000".parse().unwrap());
/// assert_eq!(peer.to_string(), "10.0.0.1:4000");
/// assert_eq!(peer.host(), "10.0.0.1");
/// assert_eq!(Peer::Unix.host(), "unix");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The far end of a TCP connection.
    Tcp(SocketAddr),
    /// The far end of a Unix stream socket, without its path: clients rarely bind one.
    Unix,
    /// A watched descriptor without a peer, such as standard input.
    Descriptor,
    /// The far end of a connection whose name is being looked up ([`Context::connect_to`](crate::Context::connect_to)).
    Unresolved,
}

impl Peer {
    /// The peer at this address.
    pub(crate) fn of(address: &Address) -> Self {
        match address {
            Address::Tcp(address) => Peer::tcp(*address),
            Address::Unix(_) => Peer::Unix,
        }
    }

    /// Makes a TCP peer. An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) becomes the IPv4 address.
    pub fn tcp(address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Peer::Tcp(SocketAddr::from((v4, address.port()))),
                None => Peer::Tcp(address),
            },
            IpAddr::V4(_) => Peer::Tcp(address),
        }
    }

    /// The address without its port: `127.0.0.1`, `::1`, `unix`, `descriptor` or `unresolved`.
    pub fn host(&self) -> String {
        match self {
            Peer::Tcp(address) => address.ip().to_string(),
            Peer::Unix => "unix".to_owned(),
            Peer::Descriptor => "descriptor".to_owned(),
            Peer::Unresolved => "unresolved".to_owned(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => write!(f, "{address}"),
            Peer::Unix => f.write_str("unix"),
            Peer::Descriptor => f.write_str("descriptor"),
            Peer::Unresolved => f.write_str("unresolved"),
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_what_it_shows() {
        for text in ["tcp://127.0.0.1:80", "tcp://[::1]:80", "unix:///tmp/x"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_address_resolves_as_it_shows() {
        for text in ["tcp://127.0.0.1:80", "tcp://[::1]:80", "unix:///tmp/x"] {
            let found = Address::resolve(text).unwrap();
            assert_eq!(found.iter().map(Address::to_string).collect::<Vec<_>>(), [text]);
        }
    }

    #[test]
    fn a_unix_address_is_one_line_whatever_its_path() {
        use std::ffi::OsStr;
        let table: [(&[u8], &str); 8] = [
            (b"/run/x", "unix:///run/x"),
            (b"x.sock", "unix:x.sock"),
            (b"@x", "unix:./@x"),
            (b"\0name", "unix:@name"),
            (b"\0na\nme\0", "unix:@na\\nme\\u{0}"),
            (b"/a\nlistening b", "unix:///a\\nlistening b"),
            (b"/a\\\x1b[2J", "unix:///a\\\\\\u{1b}[2J"),
            (b"/\xff\\", "unix:///\\xff\\\\"),
        ];
        for (path, shown) in table {
            assert_eq!(Address::Unix(OsStr::from_bytes(path).into()).to_string(), shown);
        }
        assert_eq!("unix:x.sock".parse::<Address>().unwrap().to_string(), "unix:x.sock");
    }

    #[test]
    fn a_bad_address_is_named_in_its_error() {
        let error = "nowhere".parse::<Address>().unwrap_err().to_string();
        assert!(error.contains("nowhere"), "{error}");
        let error = Address::resolve("127.0.0.1:99999").unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:99999"), "{error}");
    }

    #[test]
    fn an_ipv4_mapped_peer_is_shown_as_ipv4() {
        assert_eq!(Peer::tcp("[::ffff:1.2.3.4]:5".parse().unwrap()).host(), "1.2.3.4");
        assert_eq!(Peer::tcp("[::1]:5".parse().unwrap()).host(), "::1");
    }
}
