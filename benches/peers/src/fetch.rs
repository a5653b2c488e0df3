//! The load for files: closed-loop clients on one thread that ask for one path, over connections that are kept, or over
//! a new connection each time. A client compares every byte of each answer but the date's, however large the answer is.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::report::Report;
use crate::secure::{Stream, Tls};

const USAGE: &str = "fetch ADDR PATH [--connections N] [--depth N] [--fresh] [--tls CERTIFICATE SUITE]";
/// Limit without any byte: the server has lost a request.
const SILENCE: Duration = Duration::from_secs(10);
const SCRATCH: usize = 256 * 1024;

/// The request, and the expected answer.
struct Work {
    address: SocketAddr,
    tls: Option<Tls>,
    requests: Vec<u8>,
    depth: usize,
    /// A new connection for each request.
    fresh: bool,
    answer: Vec<u8>,
    date: Range<usize>,
}

struct Client {
    stream: Stream,
    sent: usize,
    /// Missing answers, and the received bytes of the next answer.
    missing: usize,
    at: usize,
    since: Instant,
}

pub fn run(address: &str, path: &str, rest: &[&str]) -> Result<(), String> {
    let address: SocketAddr = address.parse().map_err(|_| format!("not an address: {address}"))?;
    let (mut connections, mut depth, mut fresh, mut tls) = (64, 1, false, None);
    let mut words = rest.iter();
    while let Some(&option) = words.next() {
        if option == "--tls" {
            let (Some(root), Some(suite)) = (words.next(), words.next()) else {
                return Err("--tls needs a certificate and a suite".to_owned());
            };
            tls = Some(Tls::new(root, suite)?);
            continue;
        }
        let mut number = || words.next().and_then(|n| n.parse().ok()).filter(|&n: &usize| n > 0);
        match option {
            "--connections" => connections = number().ok_or("--connections needs a number")?,
            "--depth" => depth = number().ok_or("--depth needs a number")?,
            "--fresh" => fresh = true,
            _ => return Err(format!("unknown option {option}\nusage: {USAGE}")),
        }
    }
    let close = if fresh { "Connection: close\r\n" } else { "" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{close}\r\n").into_bytes();
    let (answer, date) = learn(address, tls.as_ref(), &request)?;
    let depth = if fresh { 1 } else { depth };
    let work = Work { address, tls, requests: request.repeat(depth), depth, fresh, answer, date };
    let mut poll = Poll::new().map_err(|why| why.to_string())?;
    let mut clients =
        (0..connections).map(|index| Client::connect(&work, &poll, index)).collect::<Result<Vec<_>, _>>()?;
    println!("ready answer_bytes={}", work.answer.len());
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|why| why.to_string())?;
        let seconds = line.strip_prefix("seconds ").and_then(|s| s.parse().ok());
        let length = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        let length = length.ok_or_else(|| format!("not `seconds S`: {line}"))?;
        println!("{}", slice(&work, &mut poll, &mut clients, length)?);
    }
    Ok(())
}

/// The first answer: 200, with a length and a date.
fn learn(address: SocketAddr, tls: Option<&Tls>, request: &[u8]) -> Result<(Vec<u8>, Range<usize>), String> {
    let stream = std::net::TcpStream::connect(address).map_err(|why| why.to_string())?;
    let mut stream = Stream::new(stream, tls)?;
    stream.write_all(request).map_err(|why| why.to_string())?;
    let (mut answer, mut piece, since) = (Vec::new(), vec![0; SCRATCH], Instant::now());
    loop {
        let count = match stream.read(&mut piece) {
            Err(why) if why.kind() == ErrorKind::WouldBlock && since.elapsed() < SILENCE => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            other => other.map_err(|why| format!("the first answer: {why}"))?,
        };
        if count == 0 {
            return Err("the first answer is cut short".to_owned());
        }
        answer.extend_from_slice(&piece[..count]);
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(&answer).map_err(|why| format!("the first answer: {why}"))?;
        let httparse::Status::Complete(head) = parsed else { continue };
        let field = |name: &str| response.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
        let length = field("content-length").and_then(|v| std::str::from_utf8(v).ok()?.parse::<usize>().ok());
        let (Some(200), Some(length), Some(date)) = (response.code, length, field("date")) else {
            return Err(format!("the first answer is wrong: {}", answer[..head].escape_ascii()));
        };
        if answer.len() >= head + length {
            let start = date.as_ptr() as usize - answer.as_ptr() as usize;
            let date = start..start + date.len();
            return Ok((answer, date));
        }
    }
}

/// Asks until the time is over, and waits for the remaining answers.
fn slice(work: &Work, poll: &mut Poll, clients: &mut [Client], length: Duration) -> Result<Report, String> {
    let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; SCRATCH]);
    let start = Instant::now();
    let end = start + length;
    let (mut report, mut waiting) = (Report::default(), clients.len());
    for client in clients.iter_mut() {
        client.ask(work)?;
    }
    while waiting > 0 {
        match poll.poll(&mut events, Some(SILENCE)) {
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            other => other.map_err(|why| why.to_string())?,
        }
        if events.is_empty() {
            return Err(format!("{waiting} clients wait after {} s of silence", SILENCE.as_secs()));
        }
        for event in &events {
            let index = event.token().0;
            if clients[index].missing == 0 || !clients[index].advance(work, &mut scratch)? {
                continue;
            }
            let now = Instant::now();
            report.record(work.depth as u64, now - clients[index].since);
            if work.fresh {
                clients[index] = Client::connect(work, poll, index)?;
            }
            if now < end { clients[index].ask(work)? } else { waiting -= 1 }
        }
    }
    report.elapsed = start.elapsed();
    Ok(report)
}

impl Client {
    fn connect(work: &Work, poll: &Poll, index: usize) -> Result<Client, String> {
        let named = |why: String| format!("connection {index}: {why}");
        let open = || -> std::io::Result<std::net::TcpStream> {
            let stream = std::net::TcpStream::connect(work.address)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let mut stream =
            Stream::new(open().map_err(|why| named(why.to_string()))?, work.tls.as_ref()).map_err(named)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = poll.registry().register(stream.socket(), Token(index), both);
        registered.map_err(|why| named(why.to_string()))?;
        Ok(Client { stream, sent: 0, missing: 0, at: 0, since: Instant::now() })
    }

    fn ask(&mut self, work: &Work) -> Result<(), String> {
        (self.sent, self.missing, self.at) = (0, work.depth, 0);
        self.since = Instant::now();
        self.send(work)
    }

    fn send(&mut self, work: &Work) -> Result<(), String> {
        while self.sent < work.requests.len() {
            match self.stream.write(&work.requests[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) => return Err(format!("sending: {why}")),
            }
        }
        Ok(())
    }

    /// Whether all answers, and the end of a fresh connection, have come.
    fn advance(&mut self, work: &Work, scratch: &mut [u8]) -> Result<bool, String> {
        self.send(work)?;
        loop {
            match self.stream.read(scratch) {
                Ok(0) if work.fresh && self.missing == 1 && self.at == work.answer.len() => {
                    self.missing = 0;
                    return Ok(true);
                }
                Ok(0) => return Err("the server closed a connection".to_owned()),
                Ok(count) => self.check(work, &scratch[..count])?,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(why) => return Err(format!("receiving: {why}")),
            }
            if self.missing == 0 {
                return Ok(true);
            }
        }
    }

    fn check(&mut self, work: &Work, mut input: &[u8]) -> Result<(), String> {
        while !input.is_empty() {
            if self.missing == 0 || self.at == work.answer.len() {
                return Err("bytes that nobody asked for".to_owned());
            }
            let count = input.len().min(work.answer.len() - self.at);
            let (from, to) = (self.at, self.at + count);
            // The bytes before the date, and the bytes after it.
            for part in [from..to.min(work.date.start), from.max(work.date.end)..to] {
                if part.start < part.end && input[part.start - from..part.end - from] != work.answer[part] {
                    return Err("a wrong answer".to_owned());
                }
            }
            self.at = to;
            input = &input[count..];
            if self.at == work.answer.len() && !work.fresh {
                (self.missing, self.at) = (self.missing - 1, 0);
            }
        }
        Ok(())
    }
}
