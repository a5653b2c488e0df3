//! Which clients may connect. A browser lets every page open a WebSocket to every address, and names the page's origin
//! (`Origin`), so a server that trusts its network must refuse foreign pages.
//!
//! Two rules: the page's origin must be the server itself or an allowed one; and where the server's address is private,
//! the request must not name a foreign host, because the owner of the name may have pointed the name at the server's
//! address (DNS rebinding).
//!
//! ```
//! use services::codec::request::Head;
//! use services::codec::websocket::origin::Origins;
//!
//! let request = b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8801\r\nOrigin: http://127.0.0.1:8801\r\n\r\n";
//! let (own, _) = Head::parse(request).unwrap().unwrap();
//! let request = b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8801\r\nOrigin: https://other.example\r\n\r\n";
//! let (other, _) = Head::parse(request).unwrap().unwrap();
//!
//! let local = "127.0.0.1".parse().ok();
//! let mut origins = Origins::default();
//! assert!(origins.admit(&own, local));
//! assert!(!origins.admit(&other, local));
//! origins.allow("https://other.example").unwrap();
//! assert!(origins.admit(&other, local));
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::handshake::{self, Accepted, Refusal};
use crate::codec::request::Head;

/// The origins whose pages may connect besides the server's own.
///
/// ```
/// use services::codec::websocket::origin::Origins;
///
/// let mut origins = Origins::default();
/// origins.allow("https://chat.example.org")?;
/// assert!(origins.allow("chat.example.org").is_err()); // the scheme is missing
/// # Ok::<(), services::codec::websocket::origin::NotAnOrigin>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    allowed: Vec<Origin>,
}

/// An origin as browsers write it: in small letters, without the scheme's usual port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    /// Host and port.
    authority: String,
}

/// A text that is no origin.
///
/// ```
/// use services::codec::websocket::origin::Origins;
/// let error = Origins::default().allow("example.org").unwrap_err();
/// assert_eq!(error.to_string(), "not an origin: give SCHEME://HOST or SCHEME://HOST:PORT, or * for any");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnOrigin;

impl fmt::Display for NotAnOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an origin: give SCHEME://HOST or SCHEME://HOST:PORT, or * for any")
    }
}

impl std::error::Error for NotAnOrigin {}

impl Origins {
    /// Allows the pages of this origin, such as `https://chat.example.org` or `http://localhost:3000`, and requests that
    /// name its host. `*` allows all pages and all hosts. One slash at the end is overlooked.
    ///
    /// # Errors
    /// For a text without a scheme, or with a path, a user or blanks.
    pub fn allow(&mut self, origin: &str) -> Result<(), NotAnOrigin> {
        if origin == "*" {
            self.any = true;
            return Ok(());
        }
        let lower = origin.to_ascii_lowercase();
        let (scheme, authority) = split(lower.strip_suffix('/').unwrap_or(&lower)).ok_or(NotAnOrigin)?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
            return Err(NotAnOrigin);
        }
        let (host, port) = host_and_port(authority);
        let is_host_byte = |byte: u8| byte.is_ascii_graphic() && !b"/\\?#@,*<>\"".contains(&byte);
        let is_port = |port: &str| port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit());
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']']) && host.bytes().all(is_host_byte),
        };
        if !is_host || !port.is_none_or(is_port) || (authority.ends_with(']') && !is_bracketed) {
            return Err(NotAnOrigin);
        }
        let authority = without_usual_port(authority).to_owned();
        self.allowed.push(Origin { scheme: scheme.to_owned(), authority });
        Ok(())
    }

    /// Whether a request may become a connection to a server whose own address is `local`; `None` for a Unix socket, to
    /// which the rule about private addresses does not apply.
    ///
    /// Without `Origin` the client is no browser, and only the rule about the host applies. `Origin: null`, of pages
    /// without an origin, is never the server's own, and only allowed by `*`.
    pub fn admit(&self, head: &Head<'_>, local: Option<IpAddr>) -> bool {
        if self.any {
            return true;
        }
        let Some(host) = head.value("Host").and_then(|host| std::str::from_utf8(host).ok()) else { return false };
        if local.is_some_and(is_private) && !self.names(host) {
            return false;
        }
        let mut origins = head.values("Origin");
        match (origins.next(), origins.next()) {
            (None, _) => true,
            (Some(origin), None) => std::str::from_utf8(origin).is_ok_and(|origin| self.admit_origin(origin, host)),
            (Some(_), Some(_)) => false,
        }
    }

    /// Checks a request for the handshake as [`handshake::accept`] does, and then the sender.
    ///
    /// # Errors
    /// As [`handshake::accept`], and [`Refusal::Forbidden`] for a handshake that is not [admitted](Origins::admit).
    ///
    /// ```
    /// use services::codec::request::Head;
    /// use services::codec::websocket::handshake::Refusal;
    /// use services::codec::websocket::origin::Origins;
    /// let request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8801\r\nOrigin: https://other.example\r\nUpgrade: websocket\r\n\
    ///     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    /// let (head, _) = Head::parse(request).unwrap().unwrap();
    /// let local = "127.0.0.1".parse().ok();
    /// assert_eq!(Origins::default().accept(&head, local), Err(Refusal::Forbidden));
    /// ```
    pub fn accept(&self, head: &Head<'_>, local: Option<IpAddr>) -> Result<Accepted, Refusal> {
        let accepted = handshake::accept(head)?;
        if self.admit(head, local) { Ok(accepted) } else { Err(Refusal::Forbidden) }
    }

    /// Whether pages of this origin may connect to this host.
    fn admit_origin(&self, origin: &str, host: &str) -> bool {
        let Some((scheme, authority)) = split(origin) else { return false };
        let authority = without_usual_port(authority);
        let is_allowed = |allowed: &Origin| allowed.scheme == scheme && allowed.authority == authority;
        (!authority.is_empty() && authority == without_usual_port(host)) || self.allowed.iter().any(is_allowed)
    }

    /// Whether `Host` is a name of the server that no attacker could have chosen: an IP address, `localhost`, or a host
    /// that is allowed.
    fn names(&self, host: &str) -> bool {
        let (host, _) = host_and_port(host);
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_address = match address {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        let is_allowed = |origin: &Origin| host_and_port(&origin.authority).0.eq_ignore_ascii_case(host);
        is_address || host.eq_ignore_ascii_case("localhost") || self.allowed.iter().any(is_allowed)
    }
}

/// The scheme and the rest of `scheme://host:port`.
fn split(origin: &str) -> Option<(&str, &str)> {
    origin.split_once("://").filter(|(scheme, authority)| !scheme.is_empty() && !authority.is_empty())
}

/// Host and port of `host:port` or `[v6]:port`.
fn host_and_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Without the port that http or https has anyway: browsers leave out their own scheme's, and a proxy that ends TLS
/// changes the scheme.
fn without_usual_port(authority: &str) -> &str {
    match host_and_port(authority) {
        (host, Some("80" | "443")) => host,
        _ => authority,
    }
}

/// Whether an address belongs to the machine, to a private network or to a link: 127/8, ::1, RFC 1918, fc00::/7,
/// 169.254/16, fe80::/10. Pages of the public network reach it only through a browser inside.
///
/// ```
/// use services::codec::websocket::origin::is_private;
/// assert!(is_private("192.168.1.7".parse().unwrap()) && is_private("::ffff:10.0.0.1".parse().unwrap()));
/// assert!(!is_private("192.0.2.1".parse().unwrap()));
/// ```
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "203.0.113.9";
    const LOOPBACK: &str = "127.0.0.1";

    fn admits(allowed: &[&str], local: &str, host: &str, origins: &[&str]) -> bool {
        let mut all = Origins::default();
        allowed.iter().for_each(|origin| all.allow(origin).unwrap());
        let origins: String = origins.iter().map(|origin| format!("Origin: {origin}\r\n")).collect();
        let request = format!("GET /ws HTTP/1.1\r\nHost: {host}\r\n{origins}\r\n");
        let (head, _) = Head::parse(request.as_bytes()).unwrap().unwrap();
        all.admit(&head, local.parse().ok())
    }

    #[test]
    fn a_page_of_the_server_itself_may_connect_and_others_may_not() {
        for (host, origin, expected) in [
            ("chat.example", "http://chat.example", true),
            ("chat.example", "https://chat.example", true),
            ("chat.example:8801", "http://chat.example:8801", true),
            ("chat.example:80", "http://chat.example", true),
            ("chat.example", "http://chat.example:80", true),
            ("chat.example:443", "https://chat.example", true),
            ("chat.example:443", "http://chat.example:80", true),
            ("203.0.113.9:8801", "http://203.0.113.9:8801", true),
            ("[2001:db8::1]:8801", "http://[2001:db8::1]:8801", true),
            ("[2001:db8::1]", "http://[2001:db8::1]:80", true),
            ("chat.example:8801", "http://chat.example", false),
            ("chat.example", "http://chat.example:8801", false),
            ("chat.example:8801", "http://chat.example:8802", false),
            ("chat.example:8801", "http://chat.example:88010", false),
            ("chat.example", "http://chat.example.evil", false),
            ("chat.example", "http://evil.chat.example", false),
            ("chat.example", "http://evil", false),
            ("chat.example", "http://chat.example/", false),
            ("chat.example", "http://user@chat.example", false),
            ("chat.example", "chat.example", false),
            ("chat.example", "://chat.example", false),
            ("chat.example", "http://CHAT.example", false),
            ("chat.example", "http://", false),
            ("chat.example", "null", false),
            ("null", "null", false),
            ("chat.example", "", false),
        ] {
            assert_eq!(admits(&[], PUBLIC, host, &[origin]), expected, "{origin} to {host}");
        }
        assert!(admits(&[], PUBLIC, "chat.example", &[]), "no browser");
        assert!(!admits(&[], PUBLIC, "a", &["http://a", "http://a"]), "two origins");
    }

    #[test]
    fn origins_that_are_allowed_may_connect() {
        let allowed = ["https://one.example", "http://Two.example:3000/", "https://three.example:443", "app+x://here"];
        for (origin, expected) in [
            ("https://one.example", true),
            ("https://one.example:443", true),
            ("http://two.example:3000", true),
            ("https://three.example", true),
            ("app+x://here", true),
            ("http://one.example", false),
            ("http://two.example", false),
            ("https://one.example:8443", false),
            ("null", false),
        ] {
            assert_eq!(admits(&allowed, PUBLIC, "chat.example", &[origin]), expected, "{origin}");
        }
        for origin in ["http://anything", "null", ""] {
            assert!(admits(&["*"], LOOPBACK, "rebound.example", &[origin]), "{origin}");
        }
    }

    #[test]
    fn a_private_address_answers_only_to_its_own_names() {
        for local in ["127.0.0.1", "127.8.8.8", "::1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1"] {
            assert!(!admits(&[], local, "rebound.example", &["http://rebound.example"]), "{local}");
            assert!(!admits(&[], local, "rebound.example", &[]), "{local}, without origin");
        }
        for local in ["fc00::1", "fdff::1", "fe80::1", "febf::1", "169.254.1.1", "::ffff:192.168.0.1"] {
            assert!(!admits(&[], local, "rebound.example", &["http://rebound.example"]), "{local}");
        }
        for local in [PUBLIC, "172.32.0.1", "2001:db8::1", "fec0::1", "no address: a Unix socket"] {
            assert!(admits(&[], local, "rebound.example", &["http://rebound.example"]), "{local}");
        }
        for (host, expected) in [
            ("127.0.0.1:8801", true),
            ("192.168.1.2", true),
            ("[::1]:8801", true),
            ("localhost", true),
            ("LOCALHOST:8801", true),
            ("known.example", true),
            ("known.example:8801", true),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
            ("0x7f000001", false),
            ("2130706433", false),
            ("xlocalhost", false),
        ] {
            assert_eq!(admits(&["https://known.example"], LOOPBACK, host, &[]), expected, "{host}");
        }
    }

    #[test]
    fn a_text_that_is_no_origin_is_not_allowed() {
        for text in [
            "",
            "example.org",
            "http://",
            "://a",
            "http://a/b",
            "http://a//",
            "http://a?b",
            "http://u@a",
            "http://a b",
            "http://a:b",
            "http://a:99999",
            "http://a:+1",
            "http://[::1",
            "http://[x]",
            "http://a:b:1",
            "null",
            "**",
            "http://*.a",
            "1http://a",
            "http://a,http://b",
        ] {
            assert_eq!(Origins::default().allow(text), Err(NotAnOrigin), "{text}");
        }
        for text in ["http://a", "http://a/", "http://a:1", "http://[::1]", "http://[::1]:80", "http://1.2.3.4:5", "*"]
        {
            assert_eq!(Origins::default().allow(text), Ok(()), "{text}");
        }
    }
}
