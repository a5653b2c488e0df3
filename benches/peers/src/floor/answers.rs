//! The least that an answer can cost: one receive, a search for the end of each request, one send of a constant. It reads no
//! request, so it is no server; what others cost above it is what they do with theirs.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, Socket, Type};

const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 1024;
const BACKLOG: i32 = 4096;
/// Bytes taken by one receive.
const SCRATCH: usize = 64 * 1024;
/// Requests that arrive together and are answered together, at most.
const DEPTH_MAX: usize = 16;

struct Connection {
    stream: TcpStream,
    /// Bytes of answers that are owed.
    owed: usize,
    registered: bool,
}

/// Answers each request with `size` bytes, and closes after the first if told so. Then it also lets the kernel wait for
/// that request, reads it at once, and leaves the poller alone.
pub fn serve(address: SocketAddr, size: usize, closes: bool) -> Result<()> {
    let one = answer(size, closes);
    // Several in a row for those that arrive together; where that would take too much memory, they leave one by one.
    let answers = one.repeat(if size <= SCRATCH { DEPTH_MAX } else { 1 });
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(EVENTS));
    let mut listener = listen(address, closes)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    crate::listening("floor", listener.local_addr()?)?;
    let mut connections: Slab<Connection> = Slab::new();
    let mut scratch = vec![0; SCRATCH];
    loop {
        match poll.poll(&mut events, None) {
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let key = event.token().0;
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let mut connection = Connection { stream, owed: 0, registered: false };
                    if !closes || connection.advance(&mut scratch, &answers, one.len(), closes) {
                        let slot = connections.vacant_entry();
                        let both = Interest::READABLE | Interest::WRITABLE;
                        poll.registry().register(&mut connection.stream, Token(slot.key()), both)?;
                        connection.registered = true;
                        slot.insert(connection);
                    }
                }
            } else if let Some(connection) = connections.get_mut(key)
                && !connection.advance(&mut scratch, &answers, one.len(), closes)
            {
                connections.remove(key);
            }
        }
    }
}

impl Connection {
    /// What is owed first, then one receive and its answers. False when the connection is over.
    fn advance(&mut self, scratch: &mut [u8], answers: &[u8], length: usize, closes: bool) -> bool {
        if self.owed == 0 {
            match self.stream.read(scratch) {
                Ok(0) => return false,
                Ok(received) => self.owed = requests(&scratch[..received]) * length,
                Err(why) => return why.kind() == ErrorKind::WouldBlock,
            }
        }
        while self.owed > 0 {
            // Where the next byte is; a request waits for its answer, so what is owed ends with the last one.
            let start = (length - self.owed % length) % length;
            let end = answers.len().min(start + self.owed);
            match self.stream.write(&answers[start..end]) {
                Ok(sent) => self.owed -= sent,
                Err(why) => return why.kind() == ErrorKind::WouldBlock,
            }
        }
        !closes
    }
}

/// How many heads end in these bytes.
fn requests(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).filter(|&at| at >= 3 && bytes[at - 3..at] == *b"\r\n\r").count()
}

fn answer(size: usize, closes: bool) -> Vec<u8> {
    let connection = if closes { "Connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: floor\r\nContent-Type: text/plain\r\n\
         Content-Length: {size}\r\n{connection}\r\n"
    );
    head.into_bytes().into_iter().chain((0..size).map(|at| b'a' + (at % 23) as u8)).collect()
}

fn listen(address: SocketAddr, defers: bool) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Inherited by each connection.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    if defers {
        defer(&socket)?;
    }
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// A connection is accepted when something has come over it.
fn defer(socket: &Socket) -> Result<()> {
    use std::os::fd::AsRawFd;
    let (level, option, seconds) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 30 as libc::c_int);
    // SAFETY: the kernel reads one int, and `seconds` is one.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const seconds).cast(), size_of::<libc::c_int>() as _)
    };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
