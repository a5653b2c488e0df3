//! The servers of a client: given by URL, or learned from the cluster, and the order in which the client tries them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use reactor::Address;

use crate::codec::nats::{Info, Login};

/// The port of NATS, for URLs without one.
pub const PORT: u16 = 4222;

/// The URL of a server: `nats://` or `tls://`, `[user:password@|token@]HOST[:PORT]`. `%XX` in names and secrets stands for a byte.
///
/// `Debug` and `Display` show no secret, and errors repeat no part of the text.
///
/// ```
/// use services::nats::Url;
/// let url: Url = "tls://ann:s3cret@nats.example:4443".parse()?;
/// assert_eq!(url.to_string(), "tls://nats.example:4443");
/// assert_eq!("nats://[::1]".parse::<Url>()?.to_string(), "nats://[::1]:4222");
/// let error = "http://ann:s3cret@nats.example".parse::<Url>().unwrap_err();
/// assert_eq!(error.to_string(), "not the URL of a NATS server: it begins with neither nats:// nor tls://");
/// # Ok::<(), services::nats::UrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(super) tls: bool,
    /// A name, or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) login: Login,
}

/// The reason for which a text is no URL of a NATS server. Repeats no part of the text, which may have a secret.
///
/// ```
/// use services::nats::Url;
/// assert!("nats://:4222".parse::<Url>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlError(&'static str);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not the URL of a NATS server: {}", self.0)
    }
}

impl std::error::Error for UrlError {}

impl Url {
    /// Whether the URL begins with `tls://`, which asks for TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether the URL has a user and a password, or a token.
    pub fn has_login(&self) -> bool {
        self.login != Login::Nobody
    }

    /// The host: a name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (tls, rest) = match (text.strip_prefix("nats://"), text.strip_prefix("tls://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(UrlError("it begins with neither nats:// nor tls://")),
        };
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (login_of(login)?, place),
            None => (Login::Nobody, rest),
        };
        let (host, port) = host_and_port(place.strip_suffix('/').unwrap_or(place))?;
        Ok(Url { tls, host, port, login })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "tls://" } else { "nats://" })?;
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        write!(f, ":{}", self.port)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `user:password` or a token, with `%XX` decoded.
fn login_of(text: &str) -> Result<Login, UrlError> {
    let whole =
        |text: &str| decoded(text).ok_or(UrlError("a % in its login is not followed by two hexadecimal digits"));
    Ok(match text.split_once(':') {
        Some((name, password)) => Login::User { name: whole(name)?, password: whole(password)? },
        None if text.is_empty() => Login::Nobody,
        None => Login::Token(whole(text)?),
    })
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// `HOST[:PORT]`, with brackets around an IPv6 address.
fn host_and_port(text: &str) -> Result<(String, u16), UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(UrlError("a bracket is not closed"))?;
            if !host.parse::<IpAddr>().is_ok_and(|host| host.is_ipv6()) {
                return Err(UrlError("the text in brackets is no IPv6 address"));
            }
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(NO_PORT)?) };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || host.len() > 253 || !host.chars().all(is_host) {
        return Err(UrlError("its host is neither a name nor an address"));
    }
    let port = port.map_or(Ok(PORT), |port| port.parse().ok().filter(|&port| port != 0).ok_or(NO_PORT))?;
    Ok((host.to_owned(), port))
}

const NO_PORT: UrlError = UrlError("its port is no number from 1 to 65535");

/// A server, and its addresses.
pub(super) struct Server {
    pub(super) url: Url,
    /// The name in the server's certificate.
    pub(super) tls_name: String,
    /// Learned from INFO, not given.
    is_learned: bool,
    addresses: Vec<Address>,
    /// Addresses tried since the latest look-up.
    tried: usize,
    /// A thread looks the name up.
    pub(super) is_looked_up: bool,
}

impl Server {
    fn new(url: Url, tls_name: String, is_learned: bool) -> Self {
        let addresses = url.host.parse::<IpAddr>().map(|host| Address::Tcp(SocketAddr::new(host, url.port)));
        let addresses = addresses.into_iter().collect();
        Server { url, tls_name, is_learned, addresses, tried: 0, is_looked_up: false }
    }

    fn is_numeric(&self) -> bool {
        self.url.host.parse::<IpAddr>().is_ok()
    }

    /// Whether the name should be looked up: never before, or all addresses were tried since.
    pub(super) fn wants_look_up(&self) -> bool {
        !self.is_numeric() && !self.is_looked_up && self.tried >= self.addresses.len()
    }

    /// The next address, if one is known. Addresses of an earlier look-up stay good while a later one runs.
    pub(super) fn next_address(&mut self) -> Option<Address> {
        let count = self.addresses.len();
        let address = self.addresses.get(self.tried % count.max(1)).cloned();
        self.tried += usize::from(address.is_some());
        address
    }

    /// Takes the result of a look-up.
    pub(super) fn found(&mut self, addresses: Vec<Address>) {
        (self.addresses, self.tried) = (addresses, 0);
    }
}

/// All servers, in the order of trial.
pub(super) struct Servers {
    all: Vec<Server>,
    /// The server tried last.
    at: usize,
    has_begun: bool,
}

impl Servers {
    pub(super) fn new(urls: Vec<Url>) -> Self {
        let server = |url: Url| Server::new(url.clone(), url.host, false);
        Servers { all: urls.into_iter().map(server).collect(), at: 0, has_begun: false }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The number of attempts in which every known address is tried. The servers take turns, so the one with the most addresses
    /// decides.
    pub(super) fn round(&self) -> usize {
        let most = self.all.iter().map(|server| server.addresses.len()).max().unwrap_or_default();
        self.count() * most.max(1)
    }

    /// Goes on to the next server, so that a client that has lost its server tries another one first. `None` without servers.
    pub(super) fn advance(&mut self) -> Option<&mut Server> {
        if std::mem::replace(&mut self.has_begun, true) {
            self.at = (self.at + 1) % self.all.len().max(1);
        }
        self.all.get_mut(self.at)
    }

    pub(super) fn current(&mut self) -> Option<&mut Server> {
        self.all.get_mut(self.at)
    }

    pub(super) fn named(&mut self, host: &str, port: u16) -> impl Iterator<Item = &mut Server> {
        self.all.iter_mut().filter(move |server| server.url.host == host && server.url.port == port)
    }

    /// The login for the current server: its own, else the first that a given URL has.
    pub(super) fn login(&self) -> &Login {
        let own = self.all.get(self.at).filter(|server| server.url.login != Login::Nobody);
        let any = || self.all.iter().find(|server| server.url.login != Login::Nobody);
        own.or_else(any).map_or(&Login::Nobody, |server| &server.url.login)
    }

    /// Replaces the learned servers by those of INFO. Given servers stay.
    pub(super) fn learn(&mut self, info: &Info) {
        let Some(current) = self.all.get(self.at) else { return };
        let (tls, tls_name, here) = (current.url.tls, current.tls_name.clone(), current.url.clone());
        let is_told =
            |url: &Url, told: &[(String, u16)]| told.iter().any(|(host, port)| *host == url.host && *port == url.port);
        let told: Vec<(String, u16)> = info.connect_urls.iter().filter_map(|text| host_and_port(text).ok()).collect();
        self.all.retain(|server| !server.is_learned || server.url == here || is_told(&server.url, &told));
        for (host, port) in told {
            if self.all.iter().any(|server| server.url.host == host && server.url.port == port) {
                continue;
            }
            // The cluster tells addresses, and its certificates have names.
            let is_address = host.parse::<IpAddr>().is_ok();
            let tls_name = if is_address { tls_name.clone() } else { host.clone() };
            self.all.push(Server::new(Url { tls, host, port, login: Login::Nobody }, tls_name, true));
        }
        self.at = self.all.iter().position(|server| server.url == here).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(urls: &[&str]) -> Info {
        Info { connect_urls: urls.iter().map(|url| url.to_string()).collect(), ..Info::default() }
    }

    fn tried(servers: &mut Servers, count: usize) -> Vec<String> {
        (0..count).map(|_| servers.advance().unwrap().url.to_string()).collect()
    }

    #[test]
    fn a_url_has_a_host_and_perhaps_a_port_and_a_login() {
        for (text, shown, login) in [
            ("nats://a", "nats://a:4222", Login::Nobody),
            ("nats://a:1/", "nats://a:1", Login::Nobody),
            ("tls://[::1]:5", "tls://[::1]:5", Login::Nobody),
            ("nats://t0ken@10.0.0.1:1", "nats://10.0.0.1:1", Login::Token("t0ken".into())),
            (
                "nats://a%40b:p%3Aq:r@s@h",
                "nats://h:4222",
                Login::User { name: "a@b".into(), password: "p:q:r@s".into() },
            ),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!(url.has_login(), login != Login::Nobody);
            assert_eq!((url.to_string(), format!("{url:?}"), url.login), (shown.into(), shown.into(), login));
        }
    }

    #[test]
    fn a_text_that_is_no_url_is_refused_and_not_repeated() {
        for text in [
            "",
            "s3cret",
            "nats:s3cret",
            "NATS://s3cret",
            "nats://",
            "nats://s3cret@",
            "nats://s3cret@:1",
            "nats://a:s3cret@h:0",
            "nats://s3cret@h:65536",
            "nats://s3cret@h:x",
            "nats://s3cret@[::1",
            "nats://s3cret@[h]:1",
            "nats://s3cret@[::1]x",
            "nats://s3cret@a b",
            "nats://s3cret%4@h",
            "nats://s3cret%zz@h",
            "nats://s3cret%ff@h",
            "nats://s3cret@h/path",
            "nats://a:b:c",
        ] {
            let error = text.parse::<Url>().expect_err(text).to_string();
            assert!(!error.contains("cret"), "{error}");
        }
    }

    #[test]
    fn servers_are_tried_in_turn_and_the_cluster_adds_and_removes_its_own() {
        let urls = ["nats://t@10.0.0.1:1", "nats://named:2"].map(|url| url.parse().unwrap());
        let mut servers = Servers::new(urls.into());
        assert_eq!(tried(&mut servers, 3), ["nats://10.0.0.1:1", "nats://named:2", "nats://10.0.0.1:1"]);
        servers.learn(&info(&["10.0.0.1:1", "10.0.0.3:3", "rubbish:", "[::1]:4"]));
        assert_eq!(tried(&mut servers, 3), ["nats://named:2", "nats://10.0.0.3:3", "nats://[::1]:4"]);
        assert_eq!(servers.login(), &Login::Token("t".into()), "the cluster's servers take the login that was given");
        servers.learn(&info(&["10.0.0.5:5"]));
        let four = ["nats://10.0.0.5:5", "nats://10.0.0.1:1", "nats://named:2", "nats://[::1]:4"];
        assert_eq!(tried(&mut servers, 4), four, "the present server stays");
        servers.learn(&info(&[]));
        assert_eq!(servers.count(), 3);
    }

    #[test]
    fn a_name_is_looked_up_again_once_all_its_addresses_were_tried() {
        let mut servers = Servers::new(vec!["tls://named:2".parse().unwrap()]);
        let server = servers.advance().unwrap();
        assert!(server.wants_look_up() && server.next_address().is_none());
        let found: Vec<Address> = ["10.0.0.1:2", "10.0.0.2:2"].map(|text| text.parse().unwrap()).into();
        server.found(found.clone());
        assert!(!server.wants_look_up());
        assert_eq!(servers.round(), 2, "a name with two addresses has failed after two attempts");
        let server = servers.current().unwrap();
        assert_eq!([server.next_address(), server.next_address()], [Some(found[0].clone()), Some(found[1].clone())]);
        assert!(server.wants_look_up());
        assert_eq!(server.next_address(), Some(found[0].clone()), "the earlier addresses are used meanwhile");
    }
}
