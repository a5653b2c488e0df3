//! The load of the fan-out benchmark: a sender and many members on a single thread. The sender sends `depth` messages at
//! once, every member has to get all of them, byte for byte and in order, and then the sender goes on.
//!
//! Five protocols with equal messages: glowplug's chat in lines, in frames and by WebSocket, NATS, and Redis. In each of them a
//! message is equal bytes for every member, known beforehand. The floor is the sixth and hands on its input: there the sender
//! itself sends the bytes that members of the chat receive. `--from` is the address of the sender's own server, where a room has
//! several.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

const USAGE: &str = "fanout chat|frames|websocket|floor|nats|redis ADDR [--members N] [--depth N] [--size BYTES] [--from ADDR] [--seconds S | --slices]";
/// Limit without any byte: a message is lost.
const SILENCE: Duration = Duration::from_secs(10);
const SCRATCH: usize = 256 * 1024;
/// Redis has an accept queue of at most 511 connections, so members connect one by one.
const CONNECT: Duration = Duration::from_secs(5);
/// Opens a WebSocket. The first frame follows without waiting for the answer.
const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// A client's pong, which a member by WebSocket sends so often between two slices: the server pings who is silent for 30 s,
/// and pings are no part of the load.
const PONG: &[u8] = b"\x8a\x80\0\0\0\0";
const PONG_EVERY: Duration = Duration::from_secs(10);
/// Sent once, before the first round.
const FENCE: &str = "all here";

/// The protocol of a server.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Chat,
    Frames,
    WebSocket,
    Floor,
    Nats,
    Redis,
}

impl Way {
    fn named(name: &str) -> Option<Way> {
        match name {
            "chat" => Some(Way::Chat),
            "frames" => Some(Way::Frames),
            "websocket" => Some(Way::WebSocket),
            "floor" => Some(Way::Floor),
            "nats" => Some(Way::Nats),
            "redis" => Some(Way::Redis),
            _ => None,
        }
    }

    /// A member's subscription, and the end of the answer to it.
    fn join(self, number: usize) -> (Vec<u8>, Vec<u8>) {
        let (said, answer): (Vec<u8>, &[u8]) = match self {
            Way::Chat | Way::Frames | Way::WebSocket => return self.named_in_chat(&format!("m{number}")),
            Way::Floor => (Vec::new(), b""),
            Way::Nats => (b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB t 1\r\nPING\r\n".into(), b"PONG\r\n"),
            Way::Redis => (b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nt\r\n".into(), b"$1\r\nt\r\n:1\r\n"),
        };
        (said, answer.into())
    }

    /// The name of a member of the chat, and the end of the answer.
    fn named_in_chat(self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let mut said = self.says(&format!("NAME: {name}"));
        if self == Way::WebSocket {
            said.splice(..0, HANDSHAKE.bytes());
        }
        (said, self.framed("CLIENT: 127.0.0.1"))
    }

    /// A text as members of the chat receive it.
    fn framed(self, text: &str) -> Vec<u8> {
        let length = text.len();
        let head = match (self, length) {
            (Way::Frames, _) => (length as u32).to_be_bytes().to_vec(),
            (Way::WebSocket, 0..126) => vec![0x81, length as u8],
            (Way::WebSocket, 126..0x1_0000) => vec![0x81, 126, (length >> 8) as u8, length as u8],
            (Way::WebSocket, _) => [&[0x81, 127], &(length as u64).to_be_bytes()[..]].concat(),
            _ => return format!("{text}\n").into_bytes(),
        };
        [&head, text.as_bytes()].concat()
    }

    /// The sender's greeting. The sender is a member of the chat alone.
    fn arrive(self) -> (Vec<u8>, Vec<u8>) {
        let (said, answer): (&[u8], &[u8]) = match self {
            Way::Chat | Way::Frames | Way::WebSocket => return self.named_in_chat("s"),
            Way::Floor => (b"", b""),
            Way::Nats => (b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n", b"PONG\r\n"),
            Way::Redis => (b"PING\r\n", b"+PONG\r\n"),
        };
        (said.into(), answer.into())
    }

    /// Bytes that every member receives after the sender has come, and the member's answer. NATS asks each client for a
    /// sign of life once, a second or two after the client has come.
    fn arrived(self, members: usize) -> (Vec<u8>, &'static [u8]) {
        match self {
            Way::Chat | Way::Frames | Way::WebSocket => {
                (self.framed(&format!("(Connected: New client ({}) from s@127.0.0.1)", members + 1)), b"")
            }
            Way::Nats => (b"PING\r\n".into(), b"PONG\r\n"),
            Way::Floor | Way::Redis => (Vec::new(), b""),
        }
    }

    fn says(self, text: &str) -> Vec<u8> {
        match self {
            Way::Chat => format!("{text}\n"),
            Way::Frames => return self.framed(text),
            Way::WebSocket => {
                // A client's frame, masked with zeros.
                let mut frame = self.framed(text);
                let head = frame.len() - text.len();
                frame[1] |= 0x80;
                frame.splice(head..head, [0; 4]);
                return frame;
            }
            Way::Floor => return Way::Chat.hears(text),
            Way::Nats => format!("PUB t {}\r\n{text}\r\n", text.len()),
            Way::Redis => format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n${}\r\n{text}\r\n", text.len()),
        }
        .into_bytes()
    }

    fn hears(self, text: &str) -> Vec<u8> {
        match self {
            Way::Chat | Way::Floor => format!("#s@127.0.0.1>>{text}\n"),
            Way::Frames | Way::WebSocket => return self.framed(&format!("#s@127.0.0.1>>{text}")),
            Way::Nats => format!("MSG t 1 {}\r\n{text}\r\n", text.len()),
            Way::Redis => format!("*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n${}\r\n{text}\r\n", text.len()),
        }
        .into_bytes()
    }

    /// The server's answer to the sender for each message.
    fn answers(self, members: usize) -> Vec<u8> {
        match self {
            Way::Redis => format!(":{members}\r\n").into_bytes(),
            _ => Vec::new(),
        }
    }
}

/// Length of a slice.
enum Until {
    Time(Duration),
    Rounds(usize),
}

/// A client that gets equal bytes again and again.
struct Listener {
    stream: TcpStream,
    /// Received bytes of the current round.
    heard: usize,
}

struct Load {
    poll: Poll,
    /// The sender is the last.
    listeners: Vec<Listener>,
    /// The sender's bytes of one round, and the bytes that members and sender receive.
    said: Vec<u8>,
    heard: Vec<u8>,
    answered: Vec<u8>,
    depth: usize,
    scratch: Vec<u8>,
    /// When members by WebSocket sent a pong last.
    ponged: Option<Instant>,
}

pub fn run(way: &str, address: &str, rest: &[&str]) -> Result<(), String> {
    let way = Way::named(way).ok_or_else(|| format!("usage: {USAGE}"))?;
    let address: SocketAddr = address.parse().map_err(|_| format!("not an address: {address}"))?;
    let (mut members, mut depth, mut size, mut seconds, mut slices) = (1000, 1, 64, 1.0, false);
    let mut from = address;
    let mut words = rest.iter();
    while let Some(&option) = words.next() {
        if option == "--slices" {
            slices = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{option} needs a value\nusage: {USAGE}"))?;
        let number = value.parse().ok().filter(|&n: &usize| n > 0);
        let bad = || format!("{option} does not take {value}\nusage: {USAGE}");
        match option {
            "--members" => members = number.ok_or_else(bad)?,
            "--depth" => depth = number.ok_or_else(bad)?,
            "--size" => size = number.ok_or_else(bad)?,
            "--from" => from = value.parse().map_err(|_| bad())?,
            "--seconds" => seconds = value.parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        }
    }
    let text: String = ('a'..='z').cycle().take(size).collect();
    let mut load = Load::connect(way, [address, from], members, depth, &text)?;
    // Unmeasured: buffers on both sides grow to their size.
    for _ in 0..3 {
        load.round()?;
    }
    if !slices {
        println!("{}", load.slice(Until::Time(Duration::from_secs_f64(seconds)))?);
        return Ok(());
    }
    println!("ready members={members} delivery_bytes={}", way.hears(&text).len());
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|why| why.to_string())?;
        let (unit, value) = line.split_once(' ').ok_or("a slice is `seconds S` or `rounds N`")?;
        let until = match unit {
            "seconds" => value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()).map(Until::Time),
            "rounds" => value.parse().ok().map(Until::Rounds),
            _ => None,
        };
        println!("{}", load.slice(until.ok_or_else(|| format!("not a slice: {line}"))?)?);
    }
    Ok(())
}

impl Load {
    /// `addresses`: the members' server, and the sender's.
    fn connect(
        way: Way,
        [address, from]: [SocketAddr; 2],
        members: usize,
        depth: usize,
        text: &str,
    ) -> Result<Load, String> {
        let connect = |address: SocketAddr| -> std::io::Result<std::net::TcpStream> {
            let stream = std::net::TcpStream::connect_timeout(&address, CONNECT)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let mut streams = Vec::with_capacity(members + 1);
        for number in 0..members {
            let named = |why: String| format!("member {number} at {address}: {why}");
            let mut stream = connect(address).map_err(|why| named(why.to_string()))?;
            let (said, answer) = way.join(number);
            stream.write_all(&said).map_err(|why| named(why.to_string()))?;
            until(&mut stream, &answer).map_err(named)?;
            streams.push(stream);
        }
        let named = |why: String| format!("the sender at {from}: {why}");
        let mut sender = connect(from).map_err(|why| named(why.to_string()))?;
        let (said, answer) = way.arrive();
        sender.write_all(&said).map_err(|why| named(why.to_string()))?;
        until(&mut sender, &answer).map_err(named)?;
        let (last, answer) = way.arrived(members);
        if way == Way::Nats {
            streams.push(sender.try_clone().map_err(|why| why.to_string())?);
        }
        for stream in &mut streams {
            until(stream, &last)?;
            stream.write_all(answer).map_err(|why| why.to_string())?;
        }
        if let Way::Chat | Way::Frames | Way::WebSocket | Way::Floor = way {
            // With several loops, the news of an early member may reach a late member. After the first message no more
            // news comes. The floor sends no news at all.
            sender.write_all(&way.says(FENCE)).map_err(|why| why.to_string())?;
            streams.iter_mut().try_for_each(|stream| until(stream, &way.hears(FENCE)))?;
        }
        if from != address {
            // On its own server the sender reads of the last member later than the member itself has its welcome.
            let back = way.framed(&format!("#m{}@127.0.0.1>>{FENCE}", members - 1));
            let (last, others) = streams.split_last_mut().ok_or("no members")?;
            last.write_all(&way.says(FENCE)).map_err(|why| why.to_string())?;
            others.iter_mut().chain([&mut sender]).try_for_each(|stream| until(stream, &back))?;
        }
        streams.truncate(members);
        streams.push(sender);
        let poll = Poll::new().map_err(|why| why.to_string())?;
        let mut listeners = Vec::with_capacity(streams.len());
        for (index, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true).map_err(|why| why.to_string())?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE).map_err(|why| why.to_string())?;
            listeners.push(Listener { stream, heard: 0 });
        }
        Ok(Load {
            poll,
            listeners,
            said: way.says(text).repeat(depth),
            heard: way.hears(text).repeat(depth),
            answered: way.answers(members).repeat(depth),
            depth,
            scratch: vec![0; SCRATCH],
            ponged: (way == Way::WebSocket).then(Instant::now),
        })
    }

    fn slice(&mut self, until: Until) -> Result<String, String> {
        if self.ponged.is_some_and(|ponged| ponged.elapsed() >= PONG_EVERY) {
            for listener in &mut self.listeners {
                listener.stream.write_all(PONG).map_err(|why| why.to_string())?;
            }
            self.ponged = Some(Instant::now());
        }
        let start = Instant::now();
        let mut rounds = Vec::new();
        let goes_on = |rounds: usize| match until {
            Until::Time(length) => start.elapsed() < length,
            Until::Rounds(count) => rounds < count,
        };
        while goes_on(rounds.len()) {
            let before = Instant::now();
            self.round()?;
            rounds.push(before.elapsed());
        }
        let elapsed = start.elapsed();
        if rounds.is_empty() {
            return Err("no round was asked for".to_owned());
        }
        rounds.sort_unstable();
        let at = |share: f64| rounds[((rounds.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e6;
        let messages = rounds.len() * self.depth;
        let deliveries = messages * (self.listeners.len() - 1);
        Ok(format!(
            "messages={messages} deliveries={deliveries} seconds={:.6} p50_us={:.1} p99_us={:.1}",
            elapsed.as_secs_f64(),
            at(0.5),
            at(0.99)
        ))
    }

    /// Sends `depth` messages, and waits until each member has all of them.
    fn round(&mut self) -> Result<(), String> {
        let Load { poll, listeners, said, heard, answered, scratch, .. } = self;
        let last = listeners.len() - 1;
        let sender = &mut listeners[last];
        match sender.stream.write(said) {
            Ok(count) if count == said.len() => {}
            other => return Err(format!("the sender cannot say all of it at once: {other:?}")),
        }
        let mut waiting = last + usize::from(!answered.is_empty());
        let mut events = Events::with_capacity(2048);
        while waiting > 0 {
            match poll.poll(&mut events, Some(SILENCE)) {
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|why| why.to_string())?,
            }
            if events.is_empty() {
                return Err(format!("{waiting} wait in vain for {} s", SILENCE.as_secs()));
            }
            for event in &events {
                let index = event.token().0;
                let wanted = if index == last { &*answered } else { &*heard };
                if listeners[index].listen(wanted, scratch).map_err(|why| format!("member {index}: {why}"))? {
                    waiting -= 1;
                }
            }
        }
        listeners.iter_mut().for_each(|listener| listener.heard = 0);
        Ok(())
    }
}

impl Listener {
    /// Whether the client has now received all expected bytes.
    fn listen(&mut self, wanted: &[u8], scratch: &mut [u8]) -> Result<bool, String> {
        loop {
            let count = match self.stream.read(scratch) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(count) => count,
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(why) => return Err(why.to_string()),
            };
            let new = &scratch[..count];
            let end = self.heard + count;
            if wanted.get(self.heard..end) != Some(new) {
                let shown = new[..count.min(400)].escape_ascii();
                return Err(format!("not what was said, after {} bytes: {shown}", self.heard));
            }
            self.heard = end;
            // Edge-triggered: less than a buffer means that the socket is empty.
            if count < scratch.len() {
                return Ok(end == wanted.len());
            }
        }
    }
}

/// Reads until these bytes have come, and the rest of the line after them, if they belong to a line.
fn until(stream: &mut std::net::TcpStream, wanted: &[u8]) -> Result<(), String> {
    if wanted.is_empty() {
        return Ok(());
    }
    let (mut all, mut searched, mut buffer) = (Vec::new(), 0, [0; 64 * 1024]);
    loop {
        let found = all[searched..].windows(wanted.len()).any(|bytes| bytes == wanted);
        if found && all.ends_with(if wanted.ends_with(b"\n") { b"\n" } else { wanted }) {
            return Ok(());
        }
        if !found {
            searched = all.len().saturating_sub(wanted.len());
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("the end instead of {}", wanted.escape_ascii())),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(why) => return Err(format!("waiting for {}: {why}", wanted.escape_ascii())),
        }
    }
}
