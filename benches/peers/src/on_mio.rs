//! A plain mio loop: one thread, one receive buffer for all connections, one send per connection per turn, and each
//! descriptor registered once, for both directions, edge-triggered. No budget per connection and no deadlines.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::protocol::Protocol;

const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 1024;
/// Bytes taken by one receive.
const SCRATCH: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// The edge comes once; these flags remember it until a call has found the opposite.
    readable: bool,
    writable: bool,
    /// The peer has finished: a short read no longer means that the socket is empty.
    ended: bool,
    closing: bool,
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

pub fn serve<P: Protocol>(address: SocketAddr, service: &str, mut protocol: P) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(EVENTS);
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    crate::listening(service, listener.local_addr()?)?;
    let mut connections = Slab::new();
    let mut scratch = vec![0; SCRATCH];
    loop {
        match poll.poll(&mut events, None) {
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        P::tick();
        for event in &events {
            if event.token() == LISTENER {
                accept(&poll, &listener, &mut connections);
                continue;
            }
            let Some(connection) = connections.get_mut(event.token().0) else {
                continue;
            };
            connection.readable |= event.is_readable();
            connection.writable |= event.is_writable();
            connection.ended |= event.is_read_closed();
            // A failed connection has ended: its peer is a load generator, and reports missing answers.
            if !advance(connection, &mut protocol, &mut scratch).unwrap_or(false) {
                // Dropping closes the descriptor, which also removes it from the poller.
                connections.remove(event.token().0);
            }
        }
    }
}

fn accept(poll: &Poll, listener: &TcpListener, connections: &mut Slab<Connection>) {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(why) if why.kind() == ErrorKind::WouldBlock => return,
            Err(why) if matches!(why.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => continue,
            // Connections that wait now are accepted at the next edge, when another client connects.
            Err(why) => return eprintln!("accept: {why}"),
        };
        let slot = connections.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let ready =
            stream.set_nodelay(true).and_then(|()| poll.registry().register(&mut stream, Token(slot.key()), both));
        match ready {
            Ok(()) => slot.insert(Connection {
                stream,
                readable: false,
                writable: false,
                ended: false,
                closing: false,
                unread: Vec::new(),
                unsent: Vec::new(),
            }),
            Err(why) => return eprintln!("accept: {why}"),
        };
    }
}

/// Moves bytes until the socket has no more to give or to take. False when the connection is over. Queued bytes leave
/// before new bytes are read, so reading stops from a peer that does not read.
fn advance<P: Protocol>(connection: &mut Connection, protocol: &mut P, scratch: &mut [u8]) -> Result<bool> {
    let Connection { stream, readable, writable, ended, closing, unread, unsent } = connection;
    loop {
        if !unsent.is_empty() {
            let sent = send(stream, unsent, writable)?;
            unsent.drain(..sent);
            if !unsent.is_empty() {
                return Ok(true);
            }
        }
        if *closing {
            return Ok(false);
        }
        if !*readable {
            return Ok(true);
        }
        let received = match stream.read(scratch) {
            Ok(0) => return Ok(false),
            Ok(received) => received,
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            Err(why) if why.kind() == ErrorKind::WouldBlock => {
                *readable = false;
                return Ok(true);
            }
            Err(why) => return Err(why),
        };
        // A short read empties the socket, and later bytes make a new edge: no second read to be told EAGAIN.
        // An end that came with these bytes makes no edge, so then a second read finds it.
        *readable = received == scratch.len() || *ended;
        let whole = unread.is_empty();
        if !whole {
            unread.extend_from_slice(&scratch[..received]);
        }
        let input = if whole { &scratch[..received] } else { unread.as_slice() };
        let answer = protocol.answer(input);
        *closing = answer.close;
        let sent = if answer.bytes.is_empty() { 0 } else { send(stream, answer.bytes, writable)? };
        unsent.extend_from_slice(&answer.bytes[sent..]);
        let consumed = answer.consumed;
        if whole {
            unread.extend_from_slice(&scratch[consumed..received]);
        } else {
            unread.drain(..consumed);
        }
    }
}

/// How much the socket took. Less than all only when the socket is full, and then the next edge tells when to go on.
fn send(stream: &mut TcpStream, bytes: &[u8], writable: &mut bool) -> Result<usize> {
    let mut sent = 0;
    while *writable && sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(n) => sent += n,
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) if why.kind() == ErrorKind::WouldBlock => *writable = false,
            Err(why) => return Err(why),
        }
    }
    Ok(sent)
}
