//! A storm of joins and leaves in a chat room: guests join and leave as fast as the server lets them, while one member says
//! a line at fixed times. Measured is the time from a line to the last member that receives it. Members share one thread,
//! and each guest has its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::clients::port_at_connect;
use crate::report::Report;

const USAGE: &str = "storm ADDR [--members N] [--guests N] [--seconds S] [--every MILLISECONDS] [--rude]";
const SCRATCH: usize = 256 * 1024;
/// Limit for a member without any byte while the members join.
const SILENCE: Duration = Duration::from_secs(10);
/// After the last line, for lines on their way. Later ones are lost.
const DRAIN: Duration = Duration::from_secs(5);
/// Source addresses of the guests: each has 28,000 ports, and a closed connection may keep its port for a minute.
const SOURCES: u32 = 64;
/// Before the number of a line that the member says.
const MARK: &[u8] = b"#m0@127.0.0.1>>line ";

struct Member {
    stream: TcpStream,
    /// The beginning of a line whose end has not arrived.
    cut: Vec<u8>,
}

/// The state that all guests share.
#[derive(Default)]
struct Guests {
    /// Guests leave without waiting for their welcome.
    rude: bool,
    over: AtomicBool,
    opened: AtomicU32,
    /// Guests that were welcomed, or that left without waiting.
    joined: AtomicU64,
    failed: AtomicU64,
}

struct Storm {
    poll: Poll,
    events: Events,
    members: Vec<Member>,
    /// Bytes that members have received.
    bytes: u64,
    /// For each line of the member: when it was said, and the number of members that have not received it.
    lines: Vec<(Instant, usize)>,
    report: Report,
    scratch: Vec<u8>,
}

pub fn run(address: &str, rest: &[&str]) -> Result<(), String> {
    let address: SocketAddr = address.parse().map_err(|_| format!("not an address: {address}"))?;
    let (mut members, mut guests, mut seconds, mut every) = (500, 4, 10, 20);
    let rude = rest.last() == Some(&"--rude");
    for pair in rest[..rest.len() - usize::from(rude)].chunks(2) {
        let [option, value] = pair else { return Err(format!("{} needs a value\nusage: {USAGE}", pair[0])) };
        let number = value.parse().map_err(|_| format!("{option} does not take {value}\nusage: {USAGE}"))?;
        match *option {
            "--members" => members = number,
            "--guests" => guests = number,
            "--seconds" => seconds = number,
            "--every" => every = number,
            _ => return Err(format!("unknown option {option}\nusage: {USAGE}")),
        }
    }
    if members < 2 {
        return Err("two members at least".to_owned());
    }
    let mut storm = Storm::connect(address, members)?;
    storm.settle()?;
    let (seconds, every) = (Duration::from_secs(seconds as u64), Duration::from_millis(every as u64));
    let all = Arc::new(Guests { rude, ..Guests::default() });
    let threads: Vec<_> = (0..guests)
        .map(|_| {
            let all = all.clone();
            thread::spawn(move || all.come_and_go(address))
        })
        .collect();
    let outcome = storm.listen(seconds, every, &all);
    all.over.store(true, Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a guest panicked")?;
    }
    println!("{} joined={} failed={}", outcome?, all.joined.load(Relaxed), all.failed.load(Relaxed));
    Ok(())
}

impl Storm {
    fn connect(address: SocketAddr, members: usize) -> Result<Storm, String> {
        let poll = Poll::new().map_err(|why| why.to_string())?;
        let mut all = Vec::with_capacity(members);
        for number in 0..members {
            let mut stream = join(address, number).map_err(|why| format!("member {number} at {address}: {why}"))?;
            poll.registry().register(&mut stream, Token(number), Interest::READABLE).map_err(|why| why.to_string())?;
            all.push(Member { stream, cut: Vec::new() });
        }
        Ok(Storm {
            poll,
            events: Events::with_capacity(2048),
            members: all,
            bytes: 0,
            lines: Vec::new(),
            report: Report::default(),
            scratch: vec![0; SCRATCH],
        })
    }

    /// Until all members have received one line, and so all that was said while they joined.
    fn settle(&mut self) -> Result<(), String> {
        let start = Instant::now();
        self.say(start)?;
        while self.lines[0].1 > 0 {
            if start.elapsed() > SILENCE {
                return Err("a line has not reached everybody".to_owned());
            }
            self.hear_for(SILENCE)?;
        }
        (self.report, self.bytes) = (Report::default(), 0);
        Ok(())
    }

    fn listen(&mut self, length: Duration, every: Duration, guests: &Guests) -> Result<String, String> {
        let start = Instant::now();
        let mut next = start + every;
        while Instant::now() < start + length {
            // Measured from the time at which it was due: a load that is late itself does not hide that.
            if Instant::now() >= next {
                self.say(next)?;
                next += every;
            }
            self.hear_for(next.saturating_duration_since(Instant::now()))?;
        }
        guests.over.store(true, Relaxed);
        while self.lines.iter().any(|line| line.1 > 0) && Instant::now() < start + length + DRAIN {
            self.hear_for(Duration::from_millis(10))?;
        }
        self.report.elapsed = length;
        let lost = self.lines.iter().filter(|line| line.1 > 0).count();
        Ok(format!("{} said={} lost={lost} bytes={}", self.report, self.lines.len() - 1, self.bytes))
    }

    /// The member says the next line.
    fn say(&mut self, due: Instant) -> Result<(), String> {
        let line = format!("line {}\n", self.lines.len());
        self.lines.push((due, self.members.len() - 1));
        match self.members[0].stream.write(line.as_bytes()) {
            Ok(count) if count == line.len() => Ok(()),
            other => Err(format!("the member cannot say a line: {other:?}")),
        }
    }

    fn hear_for(&mut self, timeout: Duration) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(why) if why.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.map_err(|why| why.to_string())?,
        }
        let heard: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        heard.into_iter().try_for_each(|member| self.hear(member))
    }

    /// Receives all that has come for a member, and counts the lines of the one who talks.
    fn hear(&mut self, index: usize) -> Result<(), String> {
        let Storm { members, scratch, lines, report, bytes, .. } = self;
        let Member { stream, cut } = &mut members[index];
        loop {
            let kept = cut.len();
            scratch[..kept].copy_from_slice(cut);
            let count = match stream.read(&mut scratch[kept..]) {
                Ok(0) => return Err(format!("member {index}: the server closed the connection")),
                Ok(count) => count,
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) => return Err(format!("member {index}: {why}")),
            };
            *bytes += count as u64;
            let all = &scratch[..kept + count];
            let whole = memchr::memrchr(b'\n', all).map_or(0, |last| last + 1);
            for at in memmem::find_iter(&all[..whole], MARK) {
                let digits = all[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
                let number = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
                let Some((since, missing)) = lines.get_mut(number) else { return Err("a line never said".to_owned()) };
                *missing -= 1;
                if *missing == 0 {
                    report.record(1, since.elapsed());
                }
            }
            cut.clear();
            cut.extend_from_slice(&all[whole..]);
            if cut.len() > SCRATCH / 2 {
                return Err(format!("member {index}: a line without an end"));
            }
        }
    }
}

impl Guests {
    /// Visits the room until the storm is over: a guest comes when the previous guest has left.
    fn come_and_go(&self, address: SocketAddr) {
        while !self.over.load(Relaxed) {
            let counter = if self.visit(address).is_ok() { &self.joined } else { &self.failed };
            counter.fetch_add(1, Relaxed);
        }
    }

    fn visit(&self, address: SocketAddr) -> std::io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
        port_at_connect(&socket)?;
        let number = self.opened.fetch_add(1, Relaxed);
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + number % SOURCES);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.connect(&address.into())?;
        let mut stream = std::net::TcpStream::from(socket);
        stream.write_all(format!("g{number}\n").as_bytes())?;
        let mut welcome = *b"CLIENT: ";
        if !self.rude {
            stream.read_exact(&mut welcome)?;
        }
        if welcome == *b"CLIENT: " { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }
}

/// A member joins, and has been welcomed.
fn join(address: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let mut stream = std::net::TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("m{number}\n").as_bytes())?;
    let mut welcome = *b"CLIENT: ";
    stream.read_exact(&mut welcome)?;
    if welcome != *b"CLIENT: " {
        return Err(std::io::Error::other(welcome.escape_ascii().to_string()));
    }
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}
