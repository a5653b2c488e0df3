//! The least cost of fan-out: one loop, one `recv`, and one `send` of the received bytes to each other connection. No
//! protocol, no names, no queue and no bookkeeping, so a slow reader ends the program. The cost of a chat or a broker
//! above the floor is its own work; the floor's cost is the kernel's.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// The backlog of all servers of the benchmarks.
const EVENTS: usize = 1024;
/// More than the load has in flight, so that one receive brings all of it.
const SCRATCH: usize = 64 * 1024;
const LISTENER: Token = Token(usize::MAX);

pub fn serve(address: SocketAddr) -> Result<()> {
    let mut listener = TcpListener::bind(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    crate::listening("fanout", listener.local_addr()?)?;
    let mut members: Vec<Option<TcpStream>> = Vec::new();
    let (mut events, mut scratch) = (Events::with_capacity(EVENTS), vec![0; SCRATCH]);
    loop {
        match poll.poll(&mut events, None) {
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => accept(&listener, &poll, &mut members)?,
                Token(from) => relay(&mut members, from, &mut scratch)?,
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, members: &mut Vec<Option<TcpStream>>) -> Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(why) => return Err(why),
        };
        stream.set_nodelay(true)?;
        poll.registry().register(&mut stream, Token(members.len()), Interest::READABLE)?;
        members.push(Some(stream));
    }
}

/// Edge-triggered, so until less than a buffer comes.
fn relay(members: &mut [Option<TcpStream>], from: usize, scratch: &mut [u8]) -> Result<()> {
    while let Some(sender) = &mut members[from] {
        let count = match sender.read(scratch) {
            Ok(count) if count > 0 => count,
            Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
            _ => {
                members[from] = None;
                return Ok(());
            }
        };
        for (index, member) in members.iter_mut().enumerate() {
            if index != from
                && let Some(stream) = member
            {
                match stream.write(&scratch[..count]) {
                    Ok(sent) if sent == count => {}
                    Ok(_) => return Err(Error::other("a member does not read")),
                    Err(why) if why.kind() == ErrorKind::WouldBlock => return Err(why),
                    // The peer has closed, and the peer's own event says so.
                    Err(_) => {}
                }
            }
        }
        if count < scratch.len() {
            return Ok(());
        }
    }
    Ok(())
}
