//! Members of a chat that listen.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::rig::Server;

/// For anything that has to come.
const GUARD: Duration = Duration::from_secs(60);
const WELCOME: &[u8] = b"CLIENT: 127.0.0.1\n";

pub struct Members(Vec<Member>);

struct Member {
    stream: TcpStream,
    /// The end of what has arrived.
    last: Vec<u8>,
    is_in: bool,
}

impl Members {
    /// Connects `count` members in turn; each has its name before the next member connects.
    pub fn join(server: &Server, prefix: &str, count: usize) -> Result<Members, String> {
        let mut all = Members(Vec::with_capacity(count));
        for number in 0..count {
            let mut one = Members(vec![Member::connect(server)?]);
            one.0[0].ask(prefix, number)?;
            one.hear_until("a welcome", |member| member.is_in)?;
            all.0.append(&mut one.0);
        }
        Ok(all)
    }

    /// Connects `count` guests, lets them ask all at once, and returns the time until all are members.
    pub fn join_at_once(server: &Server, prefix: &str, count: usize) -> Result<(Members, Duration), String> {
        let mut all = Members((0..count).map(|_| Member::connect(server)).collect::<Result<_, _>>()?);
        let begin = Instant::now();
        for (number, member) in all.0.iter_mut().enumerate() {
            member.ask(prefix, number)?;
        }
        all.hear_until("all welcomes", |member| member.is_in)?;
        Ok((all, begin.elapsed()))
    }

    /// Waits until a member has read that so many are here.
    pub fn hear_of(&mut self, count: usize) -> Result<(), String> {
        let text = format!("({count} here: ");
        loop {
            self.hear_until("a pause", |_| true)?;
            let member = &mut self.0[0];
            member.stream.set_nonblocking(false).map_err(|why| why.to_string())?;
            member.stream.write_all(b"/who\n").map_err(|why| why.to_string())?;
            let (mut all, mut bytes) = (Vec::new(), vec![0; 64 * 1024]);
            let begin = Instant::now();
            while !String::from_utf8_lossy(&all).lines().any(|line| line.contains(" here: ") && line.ends_with(')')) {
                let count = member.stream.read(&mut bytes).map_err(|why| format!("/who: {why}"))?;
                all.extend_from_slice(&bytes[..count]);
            }
            if String::from_utf8_lossy(&all).contains(&text) {
                member.stream.set_nonblocking(true).map_err(|why| why.to_string())?;
                return self.hear_until("the rest", |_| true);
            }
            if begin.elapsed() > GUARD {
                return Err(format!("never: {text}"));
            }
        }
    }

    /// Reads what has come of everybody, until the condition holds for all.
    fn hear_until(&mut self, what: &str, holds: impl Fn(&Member) -> bool) -> Result<(), String> {
        let (begin, mut bytes) = (Instant::now(), vec![0; 64 * 1024]);
        loop {
            for member in &mut self.0 {
                member.hear(&mut bytes)?;
            }
            if self.0.iter().all(&holds) {
                return Ok(());
            }
            if begin.elapsed() > GUARD {
                return Err(format!("{what}: not within {} s", GUARD.as_secs()));
            }
            // Servers and load may share a core.
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

impl Member {
    fn connect(server: &Server) -> Result<Member, String> {
        let named = |why: std::io::Error| format!("{}: {why}", server.address());
        let stream = TcpStream::connect(server.address()).map_err(named)?;
        stream.set_nodelay(true).map_err(named)?;
        stream.set_read_timeout(Some(GUARD)).map_err(named)?;
        stream.set_nonblocking(true).map_err(named)?;
        Ok(Member { stream, last: Vec::new(), is_in: false })
    }

    fn ask(&mut self, prefix: &str, number: usize) -> Result<(), String> {
        self.stream.write_all(format!("{prefix}{number}\n").as_bytes()).map_err(|why| format!("a name: {why}"))
    }

    fn hear(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        loop {
            match self.stream.read(bytes) {
                Ok(0) => return Err(format!("closed after {}", String::from_utf8_lossy(&self.last))),
                Ok(count) if !self.is_in => {
                    self.last.extend_from_slice(&bytes[..count]);
                    self.is_in = self.last.starts_with(WELCOME);
                }
                Ok(_) => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(format!("a member: {why}")),
            }
        }
    }
}
