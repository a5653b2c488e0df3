//! The load of handshakes: clients on one thread that connect, shake hands, say that they end, and wait for the server's
//! end. So each connection costs a server its handshake with the tickets, and nothing else. Closed-loop by default;
//! with `--rate`, connections begin on a schedule, whether or not earlier ones have ended.

use std::io::{BufRead, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use crate::report::Report;
use crate::secure::Tls;

const USAGE: &str = "handshakes full|resumed ADDR CERTIFICATE SUITE [--connections N] [--rate N]";
/// Limit without any byte: the server has lost a connection.
const SILENCE: Duration = Duration::from_secs(10);

struct Load {
    address: SocketAddr,
    tls: Tls,
    kind: HandshakeKind,
    poll: Poll,
    places: Vec<Place>,
}

/// The client of one connection after another.
struct Place {
    config: Arc<ClientConfig>,
    open: Option<Open>,
}

struct Open {
    stream: TcpStream,
    session: ClientConnection,
    since: Instant,
    /// The handshake is done, and our end has been said.
    done: Option<Duration>,
}

pub fn run(kind: &str, address: &str, rest: &[&str]) -> Result<(), String> {
    let address: SocketAddr = address.parse().map_err(|_| format!("not an address: {address}"))?;
    let [root, suite, ref rest @ ..] = *rest else { return Err(USAGE.to_owned()) };
    let tls = Tls::new(root, suite)?;
    let kind = match kind {
        "full" => HandshakeKind::Full,
        "resumed" => HandshakeKind::Resumed,
        _ => return Err(USAGE.to_owned()),
    };
    let (mut connections, mut rate) = (16, None);
    let mut words = rest.iter();
    while let Some(&option) = words.next() {
        let number = words.next().and_then(|n| n.parse().ok()).filter(|&n: &usize| n > 0);
        let number = number.ok_or_else(|| format!("{option} needs a number\nusage: {USAGE}"))?;
        match option {
            "--connections" => connections = number,
            "--rate" => rate = Some(Duration::from_secs(1) / number as u32),
            _ => return Err(format!("unknown option {option}\nusage: {USAGE}")),
        }
    }
    let poll = Poll::new().map_err(|why| why.to_string())?;
    let place = |_| Place { config: tls.client(kind == HandshakeKind::Resumed), open: None };
    let places = (0..connections).map(place).collect();
    let mut load = Load { address, tls, kind, poll, places };
    if kind == HandshakeKind::Resumed {
        // The first handshake of each client is a full one, and brings the tickets.
        load.kind = HandshakeKind::Full;
        (0..connections).try_for_each(|index| load.begin(index))?;
        load.end(connections)?;
        load.kind = kind;
    }
    println!("ready connections={connections}");
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|why| why.to_string())?;
        let seconds = line.strip_prefix("seconds ").and_then(|s| s.parse().ok());
        let length = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        let length = length.ok_or_else(|| format!("not `seconds S`: {line}"))?;
        let report = match rate {
            Some(every) => load.paced(length, every)?,
            None => load.slice(length)?,
        };
        println!("{report}");
    }
    Ok(())
}

impl Load {
    /// Each client connects again and again until the time is over. Latencies are those of handshakes.
    fn slice(&mut self, length: Duration) -> Result<Report, String> {
        let (mut report, start, mut waiting) = (Report::default(), Instant::now(), self.places.len());
        (0..self.places.len()).try_for_each(|index| self.begin(index))?;
        while waiting > 0 {
            for (index, took) in self.wait(SILENCE)? {
                report.record(1, took);
                if start.elapsed() < length { self.begin(index)? } else { waiting -= 1 }
            }
        }
        report.elapsed = start.elapsed();
        Ok(report)
    }

    /// A client begins each time that `every` has passed. Latencies count from the time at which a connection was due.
    fn paced(&mut self, length: Duration, every: Duration) -> Result<Report, String> {
        let (mut report, start, mut begun, mut waiting) = (Report::default(), Instant::now(), 0, 0);
        let mut free: Vec<usize> = (0..self.places.len()).collect();
        let all = (length.as_nanos() / every.as_nanos()) as u32;
        while begun < all || waiting > 0 {
            let due = every * begun;
            let left = due.saturating_sub(start.elapsed());
            if begun < all && left.is_zero() {
                let index = free.pop().ok_or("more connections are open than `--connections` allows")?;
                self.begin(index)?;
                (begun, waiting) = (begun + 1, waiting + 1);
                continue;
            }
            for (index, took) in self.wait(if begun < all { left } else { SILENCE })? {
                report.record(1, took);
                free.push(index);
                waiting -= 1;
            }
        }
        report.elapsed = start.elapsed();
        Ok(report)
    }

    /// Waits for this many connections to end.
    fn end(&mut self, mut waiting: usize) -> Result<(), String> {
        while waiting > 0 {
            waiting -= self.wait(SILENCE)?.len();
        }
        Ok(())
    }

    fn begin(&mut self, index: usize) -> Result<(), String> {
        let named = |why: std::io::Error| format!("connection {index}: {why}");
        let since = Instant::now();
        let mut stream = TcpStream::connect(self.address).map_err(named)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(index), both).map_err(named)?;
        let session = Tls::session(&self.places[index].config)?;
        self.places[index].open = Some(Open { stream, session, since, done: None });
        Ok(())
    }

    /// The clients whose connections have ended meanwhile, each with the time of its handshake.
    fn wait(&mut self, limit: Duration) -> Result<Vec<(usize, Duration)>, String> {
        let (mut events, mut ended) = (Events::with_capacity(1024), Vec::new());
        match self.poll.poll(&mut events, Some(limit)) {
            Err(why) if why.kind() == ErrorKind::Interrupted => return Ok(ended),
            other => other.map_err(|why| why.to_string())?,
        }
        if events.is_empty() && limit == SILENCE {
            return Err(format!("connections wait after {} s of silence", SILENCE.as_secs()));
        }
        for event in &events {
            let index = event.token().0;
            let Some(open) = &mut self.places[index].open else { continue };
            let has_ended = open.advance(&self.tls, self.kind).map_err(|why| format!("connection {index}: {why}"))?;
            if has_ended && let Some(took) = open.done {
                self.places[index].open = None;
                ended.push((index, took));
            }
        }
        Ok(ended)
    }
}

impl Open {
    /// Whether the server has ended the connection, after the handshake.
    fn advance(&mut self, tls: &Tls, kind: HandshakeKind) -> Result<bool, String> {
        let Open { stream, session, since, done } = self;
        let blocked = |why: &std::io::Error| matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected);
        loop {
            while session.wants_write() {
                match session.write_tls(stream) {
                    Ok(_) => {}
                    Err(why) if blocked(&why) => return Ok(false),
                    Err(why) => return Err(format!("sending: {why}")),
                }
            }
            match session.read_tls(stream) {
                Ok(0) if done.is_some() => return Ok(true),
                Ok(0) => return Err("the server ended the handshake".to_owned()),
                Ok(_) => {}
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) if blocked(&why) => return Ok(false),
                // The server's system resets a connection on which our end is still unread.
                Err(why) if why.kind() == ErrorKind::ConnectionReset && done.is_some() => return Ok(true),
                Err(why) => return Err(format!("receiving: {why}")),
            }
            let state = session.process_new_packets().map_err(|why| why.to_string())?;
            if state.plaintext_bytes_to_read() > 0 {
                let _ = session.reader().read(&mut [0; 1024]);
                return Err("bytes that nobody asked for".to_owned());
            }
            if done.is_none() && !session.is_handshaking() {
                tls.check(session, kind)?;
                *done = Some(since.elapsed());
                session.send_close_notify();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    fn file(name: &str) -> String {
        format!("{}/../../tests/tls_files/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    /// Shakes hands with one client after another, and ends when the client does.
    fn server() -> SocketAddr {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![CertificateDer::from_pem_file(file("localhost.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(file("localhost.key")).unwrap();
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut session) = (stream.unwrap(), ServerConnection::new(config.clone()).unwrap());
                while let Ok((1.., _)) = session.complete_io(&mut stream) {
                    if session.process_new_packets().is_ok_and(|state| state.peer_has_closed()) {
                        break;
                    }
                }
                session.send_close_notify();
                let _ = session.complete_io(&mut stream);
            }
        });
        address
    }

    fn load(address: SocketAddr, kind: HandshakeKind) -> Load {
        let tls = Tls::new(&file("localhost.pem"), "aes128").unwrap();
        let places = vec![Place { config: tls.client(kind == HandshakeKind::Resumed), open: None }];
        Load { address, tls, kind, poll: Poll::new().unwrap(), places }
    }

    #[test]
    fn a_client_shakes_hands_again_and_again_and_every_handshake_is_of_the_expected_kind() {
        let address = server();
        let mut full = load(address, HandshakeKind::Full);
        assert!(full.slice(Duration::from_millis(50)).unwrap().requests > 0);
        // A client without a ticket cannot resume. Its connection ends with the load.
        let without = load(address, HandshakeKind::Resumed).slice(Duration::ZERO);
        assert!(without.is_err_and(|why| why.contains("of the kind")));
        let mut resumed = load(address, HandshakeKind::Resumed);
        resumed.kind = HandshakeKind::Full;
        resumed.slice(Duration::ZERO).unwrap();
        resumed.kind = HandshakeKind::Resumed;
        assert!(resumed.slice(Duration::from_millis(50)).unwrap().requests > 0);
    }

    #[test]
    fn on_a_schedule_as_many_begin_as_are_due() {
        let mut load = load(server(), HandshakeKind::Full);
        assert_eq!(load.paced(Duration::from_millis(50), Duration::from_millis(50)).unwrap().requests, 1);
    }

    #[test]
    fn a_server_without_tls_ends_the_load() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert!(load(address, HandshakeKind::Full).slice(Duration::ZERO).is_err());
    }
}
