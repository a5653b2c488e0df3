//! The load: closed-loop clients on one thread, so that a load can share a core with its server. Each connection sends
//! `depth` requests at once, waits for that many answers, compares every byte of them, and sends the next. Idle
//! connections ask once and are silent from then on.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::protocol::BODY;
use crate::report::Report;

const USAGE: &str = "load http|echo|lines ADDR [--connections N] [--idle N] [--depth N] [--size BYTES] \
     [--seconds S | --requests N | --slices]";
/// Limit without any byte: the server has lost a request.
const SILENCE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
const SCRATCH: usize = 64 * 1024;
const DEFAULT_SECONDS: f64 = 1.0;

/// When to stop asking. The load still waits for missing answers.
#[derive(Clone, Copy)]
enum Until {
    Time(Duration),
    Count(u64),
}

/// The request and the expected answer.
struct Work {
    /// `depth` requests, as they are sent.
    requests: Vec<u8>,
    one_request: usize,
    depth: usize,
    expected: Expected,
}

enum Expected {
    /// The request itself.
    Same,
    /// The answer, in which a date may move. An answer of HTTP is learned from the first response, and checked then.
    Fixed {
        answer: Vec<u8>,
        date: std::ops::Range<usize>,
    },
    Unknown,
}

struct Client {
    stream: TcpStream,
    /// Sent bytes of the requests, and their length.
    sent: usize,
    to_send: usize,
    answers: Vec<u8>,
    missing: usize,
    since: Instant,
}

struct Load {
    poll: Poll,
    clients: Vec<Client>,
    /// The range of active clients; further clients are idle.
    asking: Vec<usize>,
    work: Work,
    scratch: Vec<u8>,
}

pub fn run(work: &str, address: &str, rest: &[&str]) -> Result<(), String> {
    let address: SocketAddr = address.parse().map_err(|_| format!("not an address: {address}"))?;
    let (mut connections, mut idle, mut depth, mut size) = (64, 0, 1, 64);
    let mut until = Until::Time(Duration::from_secs_f64(DEFAULT_SECONDS));
    let mut slices = false;
    let mut words = rest.iter();
    while let Some(&option) = words.next() {
        if option == "--slices" {
            slices = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{option} needs a value\nusage: {USAGE}"))?;
        match option {
            "--connections" => connections = at_least_one(option, value)?,
            "--idle" => idle = value.parse().map_err(|_| format!("{option} needs a number, not {value}"))?,
            "--depth" => depth = at_least_one(option, value)?,
            "--size" => size = at_least_one(option, value)?,
            "--seconds" | "--requests" => until = parse_until(&option[2..], value)?,
            _ => return Err(format!("unknown option {option}\nusage: {USAGE}")),
        }
    }
    let (one, expected) = match work {
        "http" => (format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes(), Expected::Unknown),
        // Every byte value, so that a server which looks at the bytes is found out.
        "echo" => ((0..size).map(|n| n as u8).collect(), Expected::Same),
        // The answer of `glowplug echo` without `--raw`.
        "lines" => {
            let line = [vec![b'x'; size.saturating_sub(1)], vec![b'\n']].concat();
            let answer = [b"You said: ", line.as_slice()].concat();
            (line, Expected::Fixed { answer, date: 0..0 })
        }
        _ => return Err(format!("no such work: {work}")),
    };
    let work = Work { requests: one.repeat(depth), one_request: one.len(), depth, expected };
    let mut load = Load::connect(address, connections, idle, work)?;
    // Unmeasured: this round warms both sides up, and brings the answer that all later answers have to equal.
    load.greet()?;
    if !slices {
        println!("{}", load.slice(until)?);
        return Ok(());
    }
    println!("ready connections={connections} idle={idle} answer_bytes={}", load.work.answer_length());
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|why| why.to_string())?;
        if line == "greet" {
            load.greet()?;
            println!("greeted");
            continue;
        }
        let (unit, value) = line.split_once(' ').ok_or("a slice is `seconds S` or `requests N`")?;
        println!("{}", load.slice(parse_until(unit, value)?)?);
    }
    Ok(())
}

fn at_least_one(option: &str, value: &str) -> Result<usize, String> {
    value.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("{option} needs a number from 1, not {value}"))
}

fn parse_until(unit: &str, value: &str) -> Result<Until, String> {
    let until = match unit {
        "seconds" => value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()).map(Until::Time),
        "requests" => value.parse().ok().map(Until::Count),
        _ => None,
    };
    until.ok_or_else(|| format!("not a length: {unit} {value}"))
}

impl Load {
    fn connect(address: SocketAddr, connections: usize, idle: usize, work: Work) -> Result<Load, String> {
        let poll = Poll::new().map_err(|why| why.to_string())?;
        let all = connections + idle;
        let mut clients = Vec::with_capacity(all);
        // Spread evenly, so that active clients are not neighbours in the memory of client or server.
        let asking = (0..connections).map(|n| n * all / connections).collect();
        for index in 0..all {
            let open = || -> std::io::Result<TcpStream> {
                let stream = std::net::TcpStream::connect_timeout(&address, CONNECT)?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let mut stream = TcpStream::from_std(stream);
                let both = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut stream, Token(index), both)?;
                Ok(stream)
            };
            let stream = open().map_err(|why| format!("connection {index} to {address}: {why}"))?;
            let since = Instant::now();
            clients.push(Client { stream, sent: 0, to_send: 0, answers: Vec::new(), missing: 0, since });
        }
        Ok(Load { poll, clients, asking, work, scratch: vec![0; SCRATCH] })
    }

    /// Sends one request on each connection.
    fn greet(&mut self) -> Result<(), String> {
        let depth = std::mem::replace(&mut self.work.depth, 1);
        let asking = std::mem::replace(&mut self.asking, (0..self.clients.len()).collect());
        let greeted = self.slice(Until::Count(self.clients.len() as u64));
        (self.work.depth, self.asking) = (depth, asking);
        greeted.map(drop)
    }

    fn slice(&mut self, until: Until) -> Result<Report, String> {
        let Load { poll, clients, asking, work, scratch } = self;
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let (end, mut budget) = match until {
            Until::Time(length) => (Some(start + length), u64::MAX),
            Until::Count(count) => (None, count),
        };
        let mut report = Report::default();
        let mut waiting = 0;
        for &index in asking.iter() {
            if clients[index].ask(work, &mut budget)? {
                waiting += 1;
            }
        }
        while waiting > 0 {
            match poll.poll(&mut events, Some(SILENCE)) {
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|why| why.to_string())?,
            }
            if events.is_empty() {
                let missing: usize = clients.iter().map(|client| client.missing).sum();
                return Err(format!("{missing} answers missing after {} s of silence", SILENCE.as_secs()));
            }
            for event in &events {
                let client = &mut clients[event.token().0];
                let Some(arrived) = client.advance(work, scratch)? else {
                    continue;
                };
                report.record(work.depth as u64, arrived - client.since);
                let goes_on = end.is_none_or(|end| arrived < end);
                if !goes_on || !client.ask(work, &mut budget)? {
                    waiting -= 1;
                }
            }
        }
        report.elapsed = start.elapsed();
        Ok(report)
    }
}

impl Client {
    /// Sends the next requests; false when no request is left to send.
    fn ask(&mut self, work: &Work, budget: &mut u64) -> Result<bool, String> {
        if *budget < work.depth as u64 {
            return Ok(false);
        }
        *budget -= work.depth as u64;
        self.sent = 0;
        self.to_send = work.depth * work.one_request;
        self.missing = work.depth;
        self.since = Instant::now();
        self.send(work)?;
        Ok(true)
    }

    fn send(&mut self, work: &Work) -> Result<(), String> {
        while self.sent < self.to_send {
            match self.stream.write(&work.requests[self.sent..self.to_send]) {
                Ok(n) => self.sent += n,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) => return Err(format!("sending: {why}")),
            }
        }
        Ok(())
    }

    /// The arrival of the last answer, or None while answers are missing.
    fn advance(&mut self, work: &mut Work, scratch: &mut [u8]) -> Result<Option<Instant>, String> {
        self.send(work)?;
        loop {
            let received = match self.stream.read(scratch) {
                Ok(0) => return Err("the server closed a connection".to_owned()),
                Ok(received) => received,
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(why) => return Err(format!("receiving: {why}")),
            };
            let whole = self.answers.is_empty();
            if !whole {
                self.answers.extend_from_slice(&scratch[..received]);
            }
            let input = if whole { &scratch[..received] } else { self.answers.as_slice() };
            let mut checked = 0;
            while let Some(length) = work.check(&input[checked..])? {
                checked += length;
                self.missing = self.missing.checked_sub(1).ok_or("more answers than requests")?;
            }
            if self.missing == 0 && checked < input.len() {
                return Err(format!("bytes that nobody asked for: {}", shown(&input[checked..])));
            }
            if whole {
                self.answers.extend_from_slice(&scratch[checked..received]);
            } else {
                self.answers.drain(..checked);
            }
            if self.missing == 0 {
                return Ok(Some(Instant::now()));
            }
        }
    }
}

impl Work {
    fn answer_length(&self) -> usize {
        match &self.expected {
            Expected::Same => self.one_request,
            Expected::Fixed { answer, .. } => answer.len(),
            Expected::Unknown => 0,
        }
    }

    /// The length of the right answer at the beginning of `input`; None while the answer is incomplete.
    fn check(&mut self, input: &[u8]) -> Result<Option<usize>, String> {
        if let Expected::Unknown = self.expected {
            match learn(input)? {
                Some(expected) => self.expected = expected,
                None => return Ok(None),
            }
        }
        let length = self.answer_length();
        if input.len() < length {
            return Ok(None);
        }
        let input = &input[..length];
        let right = match &self.expected {
            Expected::Fixed { answer, date } => {
                input[..date.start] == answer[..date.start] && input[date.end..] == answer[date.end..]
            }
            _ => *input == self.requests[..length],
        };
        if right { Ok(Some(length)) } else { Err(format!("a wrong answer: {}", shown(input))) }
    }
}

/// Checks the first HTTP answer: 200, the fixed body, a length, a date.
fn learn(input: &[u8]) -> Result<Option<Expected>, String> {
    let wrong = |why: &str| format!("{why} in the first answer: {}", shown(input));
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(input).map_err(|why| wrong(&why.to_string()))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    if response.code != Some(200) {
        return Err(wrong("no 200"));
    }
    let field = |name: &str| response.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
    let length = field("content-length").and_then(|v| std::str::from_utf8(v).ok()?.parse::<usize>().ok());
    if length != Some(BODY.len()) {
        return Err(wrong("no right Content-Length"));
    }
    let Some(date) = field("date") else {
        return Err(wrong("no Date"));
    };
    let Some(body) = input.get(head..head + BODY.len()) else {
        return Ok(None);
    };
    if body != BODY.as_bytes() {
        return Err(wrong("another body"));
    }
    let start = date.as_ptr() as usize - input.as_ptr() as usize;
    let date = start..start + date.len();
    Ok(Some(Expected::Fixed { answer: input[..head + BODY.len()].to_vec(), date }))
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(400)].escape_ascii().to_string()
}
