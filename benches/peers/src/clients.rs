//! The load of the models: closed-loop clients on one thread, with one message in flight each. `kept` clients stay
//! connected and ask again; `short` clients connect, ask once, close, and connect again. Answers are compared byte for
//! byte. A failed connection is counted, because a server that cannot take so many is a result, not an accident.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::report::Report;

const USAGE: &str = "clients kept|short ADDR [--connections N] [--size BYTES] [--patience S]";
/// Limit until all connections have been served once: a slower server cannot take so many.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections opened at once meanwhile, so that no accept queue runs over before the work has begun.
const UNDER_WAY: usize = 256;
/// Limit after a slice for requests in flight: the accept queue of a slow server is full, and the kernel of a client
/// tries again after one, two, four seconds. Afterwards requests are abandoned and counted.
const DRAIN: Duration = Duration::from_secs(4);
/// The side that closes first keeps the pair of ports for a minute, and one address has 28,000 ports: fewer than two
/// seconds use up. So connections come from this many addresses of the loopback network in turn.
const SOURCES: u32 = 64;

struct Load {
    poll: Poll,
    address: SocketAddr,
    kept: bool,
    clients: Vec<Option<Client>>,
    said: Vec<u8>,
    scratch: Vec<u8>,
    /// Connections so far.
    opened: u32,
    failures: Failures,
}

struct Client {
    stream: TcpStream,
    said: bool,
    heard: usize,
    since: Instant,
}

/// Counts since the last report.
#[derive(Default)]
struct Failures {
    count: u64,
    last: String,
}

/// The result of an event on a connection.
enum Progress {
    Waiting,
    /// The message sent at this time has been answered.
    Answered(Instant),
    Failed,
}

pub fn run(kind: &str, address: &str, rest: &[&str]) -> Result<(), String> {
    let kept = match kind {
        "kept" => true,
        "short" => false,
        _ => return Err(format!("usage: {USAGE}")),
    };
    let address: SocketAddr = address.parse().map_err(|_| format!("not an address: {address}"))?;
    let (mut connections, mut size, mut patience) = (64, 64, PATIENCE);
    for pair in rest.chunks(2) {
        let [option, value] = pair else { return Err(format!("{} needs a value\nusage: {USAGE}", pair[0])) };
        let number = value.parse().ok().filter(|&n: &usize| n > 0);
        let number = number.ok_or_else(|| format!("{option} does not take {value}\nusage: {USAGE}"))?;
        match *option {
            "--connections" => connections = number,
            "--size" => size = number,
            "--patience" => patience = Duration::from_secs(number as u64),
            _ => return Err(format!("unknown option {option}\nusage: {USAGE}")),
        }
    }
    let mut load = Load::new(address, kept, connections, size)?;
    let served = load.gather(patience)?;
    println!("ready served={served} {}", load.failures.fields());
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|why| why.to_string())?;
        let seconds = line.strip_prefix("seconds ").and_then(|s| s.parse().ok());
        let length = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        println!("{}", load.slice(length.ok_or_else(|| format!("not `seconds S`: {line}"))?)?);
    }
    Ok(())
}

impl Load {
    fn new(address: SocketAddr, kept: bool, connections: usize, size: usize) -> Result<Load, String> {
        Ok(Load {
            poll: Poll::new().map_err(|why| why.to_string())?,
            address,
            kept,
            clients: (0..connections).map(|_| None).collect(),
            said: (0..size).map(|n| n as u8).collect(),
            scratch: vec![0; size + 1],
            opened: 0,
            failures: Failures::default(),
        })
    }

    /// Sends one message on each connection, unmeasured, a limited number at once. Returns the number of answers.
    fn gather(&mut self, patience: Duration) -> Result<usize, String> {
        let end = Instant::now() + patience;
        let (mut next, mut waiting, mut served) = (0, 0, 0);
        let mut events = Events::with_capacity(1024);
        loop {
            while waiting < UNDER_WAY && next < self.clients.len() {
                waiting += usize::from(self.open(next)?);
                next += 1;
            }
            if waiting == 0 || !self.wait(&mut events, end)? {
                self.give_up();
                return Ok(served);
            }
            for event in &events {
                match self.advance(event.token().0)? {
                    Progress::Waiting => continue,
                    Progress::Answered(_) => served += 1,
                    Progress::Failed => {}
                }
                waiting -= 1;
            }
        }
    }

    /// Throughput counts the answers within `length`; latencies include late answers.
    fn slice(&mut self, length: Duration) -> Result<String, String> {
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let end = start + length;
        let (mut report, mut in_time, mut waiting) = (Report::default(), 0, 0);
        for index in 0..self.clients.len() {
            waiting += usize::from(self.begin(index)?);
        }
        while waiting > 0 && self.wait(&mut events, end + DRAIN)? {
            for event in &events {
                let outcome = self.advance(event.token().0)?;
                if let Progress::Waiting = outcome {
                    continue;
                }
                let now = Instant::now();
                if let Progress::Answered(since) = outcome {
                    report.record(1, now - since);
                    in_time += u64::from(now < end);
                }
                if now >= end || !self.begin(event.token().0)? {
                    waiting -= 1;
                }
            }
        }
        report.elapsed = length;
        let given_up = self.give_up();
        Ok(format!("{report} in_time={in_time} given_up={given_up} {}", self.failures.fields()))
    }

    /// Whether something has happened before `end`.
    fn wait(&mut self, events: &mut Events, end: Instant) -> Result<bool, String> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.poll.poll(events, Some(left)) {
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(why.to_string()),
                Ok(()) => return Ok(!events.is_empty()),
            }
        }
    }

    /// Sends a client's next message; false when the client cannot send. A failed kept connection stays away.
    fn begin(&mut self, index: usize) -> Result<bool, String> {
        if !self.kept {
            return self.open(index);
        }
        let Some(client) = &mut self.clients[index] else { return Ok(false) };
        (client.said, client.heard, client.since) = (false, 0, Instant::now());
        let said = client.say(&self.said);
        Ok(self.unless_failed(index, said))
    }

    /// Opens a connection that sends its message when connected; false when no connection can be opened.
    fn open(&mut self, index: usize) -> Result<bool, String> {
        let since = Instant::now();
        let stream = match self.connect() {
            Ok(stream) => stream,
            Err(why) => {
                self.failures.add(format!("connecting: {why}"));
                return Ok(false);
            }
        };
        let client = self.clients[index].insert(Client { stream, said: false, heard: 0, since });
        // On loopback the connection is usually established already. If not, writability tells when.
        let said = client.say(&self.said);
        let both = Interest::READABLE | Interest::WRITABLE;
        let interest = if client.said { Interest::READABLE } else { both };
        let registered = self.poll.registry().register(&mut client.stream, Token(index), interest);
        registered.map_err(|why| why.to_string())?;
        Ok(self.unless_failed(index, said))
    }

    fn connect(&mut self) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        port_at_connect(&socket)?;
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + self.opened % SOURCES);
        self.opened = self.opened.wrapping_add(1);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.address.into()) {
            Err(why) if why.raw_os_error() == Some(libc::EINPROGRESS) => {}
            other => other?,
        }
        Ok(TcpStream::from_std(socket.into()))
    }

    /// An error is for a wrong byte alone: a server that garbles is not worth measuring.
    fn advance(&mut self, index: usize) -> Result<Progress, String> {
        // An event without a client: an earlier event of the batch closed the client's connection.
        let Some(client) = &mut self.clients[index] else { return Ok(Progress::Waiting) };
        // A kept client sends its next message outside of its events: this event belongs to the answer before.
        if client.heard == self.said.len() {
            return Ok(Progress::Waiting);
        }
        let said = client.say(&self.said);
        if !self.unless_failed(index, said) {
            return Ok(Progress::Failed);
        }
        let Load { clients, said, scratch, failures, kept, .. } = self;
        let Some(client) = &mut clients[index] else { return Ok(Progress::Failed) };
        loop {
            let received = match client.stream.read(scratch) {
                Ok(received @ 1..) => received,
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(Progress::Waiting);
                }
                ended => {
                    failures.add(match ended {
                        Err(why) => format!("receiving: {why}"),
                        Ok(_) => "closed before it was answered".to_owned(),
                    });
                    clients[index] = None;
                    return Ok(Progress::Failed);
                }
            };
            let end = client.heard + received;
            if said.get(client.heard..end) != Some(&scratch[..received]) {
                return Err(format!("not what was said: {}", scratch[..received].escape_ascii()));
            }
            client.heard = end;
            if end == said.len() {
                let since = client.since;
                if !*kept {
                    clients[index] = None;
                }
                return Ok(Progress::Answered(since));
            }
        }
    }

    /// Counts a failure and drops the client; true if no client was left.
    fn unless_failed(&mut self, index: usize, outcome: std::io::Result<()>) -> bool {
        if let Err(why) = &outcome {
            self.failures.add(format!("sending: {why}"));
            self.clients[index] = None;
        }
        outcome.is_ok()
    }

    /// Drops the clients that still wait for an answer, and returns their number.
    fn give_up(&mut self) -> usize {
        let length = self.said.len();
        let mut given_up = 0;
        for client in &mut self.clients {
            given_up += usize::from(client.take_if(|client| client.heard < length).is_some());
        }
        given_up
    }
}

impl Client {
    /// Sends the whole message once the connection stands: a message is smaller than any buffer.
    fn say(&mut self, said: &[u8]) -> std::io::Result<()> {
        while !self.said {
            match self.stream.write(said) {
                Ok(count) if count == said.len() => self.said = true,
                Ok(_) => return Err(ErrorKind::WriteZero.into()),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }
}

impl Failures {
    fn add(&mut self, why: String) {
        self.count += 1;
        self.last = why;
    }

    /// The words come last, because they contain spaces.
    fn fields(&mut self) -> String {
        let Failures { count, last } = std::mem::take(self);
        format!("failed={count} why={last}")
    }
}

/// Lets binding to an address take no port: at `connect` the port may be in use towards another server.
pub(crate) fn port_at_connect(socket: &Socket) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and value and length describe an int.
    let result = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, value, length)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Echoes to this many connections, one after another, with `answers` messages on each before the server closes.
    fn server(connections: usize, answers: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for _ in 0..connections {
                let (mut stream, _) = listener.accept().unwrap();
                let mut message = [0; 64];
                for _ in 0..answers {
                    if stream.read_exact(&mut message).is_err() {
                        break;
                    }
                    stream.write_all(&message).unwrap();
                }
            }
        });
        address
    }

    fn number(report: &str, name: &str) -> u64 {
        let word = report.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.unwrap_or_else(|| panic!("no {name} in {report}")).parse().unwrap()
    }

    #[test]
    fn a_kept_connection_asks_again_until_the_server_closes_it() {
        let mut load = Load::new(server(1, 101), true, 1, 64).unwrap();
        assert_eq!(load.gather(PATIENCE), Ok(1));
        let report = load.slice(Duration::from_secs(60)).unwrap();
        assert_eq!((number(&report, "in_time"), number(&report, "failed")), (100, 1), "{report}");
        // Stays away.
        let report = load.slice(Duration::from_secs(60)).unwrap();
        assert_eq!((number(&report, "in_time"), number(&report, "failed")), (0, 0), "{report}");
    }

    #[test]
    fn short_connections_ask_once_and_connect_again_until_nobody_listens() {
        let mut load = Load::new(server(21, 1), false, 1, 64).unwrap();
        assert_eq!(load.gather(PATIENCE), Ok(1));
        let report = load.slice(Duration::from_secs(60)).unwrap();
        assert_eq!(number(&report, "in_time"), 20, "{report}");
        assert!(number(&report, "failed") >= 1 && report.contains("refused"), "{report}");
    }

    #[test]
    fn who_is_closed_without_an_answer_has_failed() {
        let mut load = Load::new(server(3, 0), true, 3, 64).unwrap();
        assert_eq!(load.gather(PATIENCE), Ok(0));
        assert_eq!(load.failures.count, 3);
    }
}
