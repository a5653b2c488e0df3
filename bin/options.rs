//! Options that subcommands share, and the parsers of their values. A wrong value is reported as wrong usage before any
//! file or socket is opened.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use log::LevelFilter;
use reactor::Backend;

/// Default address of all services: only this machine may connect.
pub const HOST: &str = "127.0.0.1";

/// Options of every serving subcommand, also allowed before its name. For the other subcommands see
/// [`command`](crate::commands::command).
#[derive(Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Poller that waits for events. This option wins over the variable REACTOR_BACKEND
    #[arg(long, ignore_case = true, default_value = "auto", value_parser = backend())]
    pub backend: Backend,

    /// How connections are served
    #[arg(long, value_enum, ignore_case = true, default_value = "loops")]
    pub model: Model,

    /// Number of event loops, each on a thread; only with --model loops [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub loops: Option<u16>,

    /// Pin each event loop to a core; only with --model loops
    #[arg(long)]
    pub pin: bool,

    /// Largest number of connections at once with --model threads or processes; further connections wait in the backlog
    /// [default: 4096 threads, 1024 processes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub at_most: Option<u32>,

    /// Largest number of connections, for all services together; further connections are refused [default: as many as
    /// descriptors allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,

    /// Memory limit of all connections together; K, M and G are powers of 1024. From 80 % on, reading from the largest
    /// connections pauses; above the limit the largest are closed [default: a quarter of the machine's or the cgroup's]
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<Size>,

    /// Close a connection after this time without traffic, 0 = never [default: 60 for http, 0 for echo and chat]
    #[arg(long, value_name = "SECS")]
    pub idle_timeout: Option<Timeout>,

    /// Let the kernel hold a TCP connection until its client has sent a byte, at most for this time, 0 = off; Linux only. A
    /// short connection costs up to 5 % less. Until then a silent client is in no log line, report, limit or timeout, and
    /// is reset if the server stops
    #[arg(long, value_name = "SECS", default_value = "0")]
    pub defer_accept: Timeout,

    /// Longest time that a stop waits for open connections, which are reset then; 0 = without limit
    #[arg(long, value_name = "SECS", default_value = "10")]
    pub drain_timeout: Timeout,

    /// Speak TLS with the certificate in this file: PEM, the leaf certificate first. For several server names, repeat --tls-cert
    /// and --tls-key in pairs. SIGHUP reads the files anew
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Vec<PathBuf>,

    /// Private key of the certificate: PEM, not encrypted. The first --tls-key belongs to the first --tls-cert, and so on
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Vec<PathBuf>,

    /// Lowest level that is logged, on standard error and in the log file
    #[arg(long, value_name = "LEVEL", ignore_case = true, default_value = "info")]
    #[arg(value_parser = level())]
    pub log_level: LevelFilter,

    /// Also append the log to this file; SIGHUP reopens the file
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// How connections are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// Event loops, each on a thread
    Loops,
    /// A thread for each connection
    Threads,
    /// A forked process for each connection; not for chat
    Processes,
}

impl Common {
    /// Whether the process forks, and so must have no other thread.
    pub fn forks(&self) -> bool {
        self.model == Model::Processes
    }

    /// Whether there is a certificate, so that services can speak TLS.
    pub fn has_tls(&self) -> bool {
        !self.tls_cert.is_empty()
    }

    /// The certificates with their keys.
    pub fn pairs(&self) -> Vec<tls::Pair> {
        self.tls_cert.iter().zip(&self.tls_key).map(|(certificate, key)| tls::Pair::new(certificate, key)).collect()
    }

    /// The given idle timeout, or the service's default.
    pub fn idle_timeout_or(&self, default: Option<Duration>) -> Option<Duration> {
        self.idle_timeout.map_or(default, |timeout| timeout.0)
    }
}

fn backend() -> impl TypedValueParser<Value = Backend> {
    PossibleValuesParser::new(["auto", "epoll", "select"]).try_map(|name| name.parse::<Backend>())
}

fn level() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .try_map(|name| name.parse::<LevelFilter>())
}

/// Seconds as typed; `0` means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Option<Duration>);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
        if seconds == 0.0 {
            return Ok(Timeout(None));
        }
        let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
        // A time too short for the clock becomes one nanosecond, and not "none".
        Ok(Timeout(Some(duration.max(Duration::from_nanos(1)))))
    }
}

/// Bytes as typed, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, shift) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], 10),
            Some((at, 'm' | 'M')) => (&text[..at], 20),
            Some((at, 'g' | 'G')) => (&text[..at], 30),
            _ => (text, 0),
        };
        // `parse` accepts a sign, too.
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let bytes = number.parse::<usize>().ok().filter(|_| digits).and_then(|number| number.checked_mul(1 << shift));
        match bytes {
            Some(0) => Err("at least one byte is needed".to_owned()),
            Some(bytes) => Ok(Size(bytes)),
            None => Err("not a number of bytes, such as 65536, 64K, 256M or 2G".to_owned()),
        }
    }
}

/// The address of a service that is alone in its process. Each subcommand sets the default of `--port`.
#[derive(Args)]
pub struct ListenAt {
    /// IPv4 or IPv6 address to listen on, or a name, which stands for all of its addresses
    #[arg(long, default_value = HOST, value_parser = NonEmptyStringValueParser::new())]
    host: String,

    /// Port to listen on, 0 = any free one
    #[arg(long)]
    port: u16,

    /// Listen on a Unix socket at this path, instead of TCP
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    unix: Option<PathBuf>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `host:port`; the name is not looked up yet.
    Tcp(String),
    Unix(PathBuf),
}

/// The part of an example that makes a certificate. A macro, since only literals can be joined at build time.
macro_rules! with_tls {
    () => {
        "\
With TLS, and a self-signed certificate:
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\
    -days 30 -subj /CN=localhost -addext \\
    subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem
"
    };
}
pub(crate) use with_tls;

/// Somewhere to listen, with TLS or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub place: Place,
    pub tls: bool,
}

impl ListenAt {
    /// With TLS if there is a certificate.
    pub fn place(self, common: &Common) -> At {
        At { place: self.socket(), tls: common.has_tls() }
    }

    fn socket(self) -> Place {
        match self.unix {
            Some(path) => Place::Unix(path),
            None => Place::tcp(&self.host, self.port),
        }
    }
}

impl Place {
    /// Joins host and port. An IPv6 address gets brackets unless it has brackets already.
    pub fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp(if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        })
    }
}

/// An ADDR of `glowplug serve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addr {
    Off,
    At(At),
}

impl FromStr for Addr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "an address is host:port, [v6]:port, unix:PATH or off, with tls: before any but off";
        if text == "off" {
            return Ok(Addr::Off);
        }
        let at = |place, tls| Ok(Addr::At(At { place, tls }));
        // `tls+unix:///PATH` and `tls://host:port` are how addresses are shown.
        let (text, tls) = match text.strip_prefix("tls:") {
            Some(rest) => (rest.strip_prefix("//").unwrap_or(rest), true),
            None => match text.strip_prefix("tls+").filter(|rest| rest.starts_with("unix:")) {
                Some(rest) => (rest, true),
                None if text.starts_with("tls+") => return Err(FORMS.to_owned()),
                None => (text, false),
            },
        };
        // Messages show addresses as `unix:///PATH` and `tcp://host:port`, so pasted addresses are accepted.
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(FORMS.to_owned()) } else { at(Place::Unix(path.into()), tls) };
        }
        let text = text.strip_prefix("tcp://").unwrap_or(text);
        let (host, port) = text.rsplit_once(':').ok_or(FORMS)?;
        if text.parse::<Ipv6Addr>().is_ok() || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']'))) {
            return Err(format!("an IPv6 address is written in brackets; {FORMS}"));
        }
        if host.is_empty() {
            return Err(FORMS.to_owned());
        }
        let port = port.parse().map_err(|_| format!("{port:?} is not a port; {FORMS}"))?;
        at(Place::tcp(host, port), tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Result<Addr, ()> {
        Ok(Addr::At(At { place: Place::Tcp(text.to_owned()), tls: false }))
    }

    #[test]
    fn an_addr_is_read_or_refused() {
        let unix = |path: &str| Ok(Addr::At(At { place: Place::Unix(path.into()), tls: false }));
        let secure = |addr: Result<Addr, ()>| match addr {
            Ok(Addr::At(at)) => Ok(Addr::At(At { tls: true, ..at })),
            other => other,
        };
        let table = [
            ("off", Ok(Addr::Off)),
            ("127.0.0.1:80", tcp("127.0.0.1:80")),
            ("tcp://127.0.0.1:80", tcp("127.0.0.1:80")),
            ("localhost:0", tcp("localhost:0")),
            ("[::1]:80", tcp("[::1]:80")),
            ("unix:x.sock", unix("x.sock")),
            ("unix:/run/x", unix("/run/x")),
            ("unix:///run/x", unix("/run/x")),
            ("tls:127.0.0.1:80", secure(tcp("127.0.0.1:80"))),
            ("tls://127.0.0.1:80", secure(tcp("127.0.0.1:80"))),
            ("tls:[::1]:80", secure(tcp("[::1]:80"))),
            ("tls:unix:/run/x", secure(unix("/run/x"))),
            ("tls+unix:///run/x", secure(unix("/run/x"))),
            ("tls:", Err(())),
            ("tls:off", Err(())),
            ("tls:80", Err(())),
            ("tls+127.0.0.1:80", Err(())),
            ("unix:", Err(())),
            ("unix://", Err(())),
            ("", Err(())),
            ("80", Err(())),
            (":80", Err(())),
            ("localhost", Err(())),
            ("localhost:", Err(())),
            ("localhost:65536", Err(())),
            ("localhost:-1", Err(())),
            ("::1:80", Err(())),
            ("::1", Err(())),
            ("OFF", Err(())),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Addr>().map_err(drop), expected, "{text:?}");
        }
    }

    #[test]
    fn a_host_is_taken_with_brackets_and_without() {
        for (host, expected) in
            [("::1", "[::1]:80"), ("[::1]", "[::1]:80"), ("name", "name:80"), ("1.2.3.4", "1.2.3.4:80")]
        {
            assert_eq!(Place::tcp(host, 80), Place::Tcp(expected.to_owned()));
        }
    }

    #[test]
    fn a_size_is_a_number_of_bytes_with_a_suffix_or_without() {
        for (text, bytes) in
            [("1", 1), ("65536", 65_536), ("64K", 65_536), ("64k", 65_536), ("3M", 3 << 20), ("2G", 2 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "0", "0K", "K", "-1", "+1", "1.5G", "1T", "1KB", "1 K", "99999999999G", "1é"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds_and_zero_is_none() {
        let some = |millis| Ok(Timeout(Some(Duration::from_millis(millis))));
        for (text, expected) in
            [("0", Ok(Timeout(None))), ("0.0", Ok(Timeout(None))), ("60", some(60_000)), ("0.25", some(250))]
        {
            assert_eq!(text.parse::<Timeout>(), expected, "{text}");
        }
        assert_eq!("1e-12".parse(), Ok(Timeout(Some(Duration::from_nanos(1)))));
        for text in ["", "-1", "nan", "inf", "1e30", "10s"] {
            assert!(text.parse::<Timeout>().is_err(), "{text}");
        }
    }
}
