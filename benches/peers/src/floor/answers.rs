//! The least cost of an answer: one receive, a search for the end of each request, one send of a constant. A large
//! answer is a head and then a sendfile. The floor reads no request, so it is no server: the cost of a server above the
//! floor is the server's own work.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

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

/// Content above this size is sent from a file: sendfile is cheaper from there on.
const COPIED_MAX: usize = 16 * 1024;

/// The content of an answer.
enum Answers {
    /// Several answers in a row, and the length of an answer.
    Copied(Vec<u8>, usize),
    Filed {
        head: Vec<u8>,
        content: File,
        length: usize,
    },
}

struct Connection {
    stream: TcpStream,
    /// Queued bytes of answers.
    owed: usize,
    registered: bool,
}

/// Answers each request with `size` bytes, and closes after the first answer if `closes`. Then the floor also lets the
/// kernel wait for the request, reads at once, and leaves the poller alone.
pub fn serve(address: SocketAddr, size: usize, closes: bool) -> Result<()> {
    let answers = Answers::new(size, closes)?;
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
                    if !closes || connection.advance(&mut scratch, &answers, closes) {
                        let slot = connections.vacant_entry();
                        let both = Interest::READABLE | Interest::WRITABLE;
                        poll.registry().register(&mut connection.stream, Token(slot.key()), both)?;
                        connection.registered = true;
                        slot.insert(connection);
                    }
                }
            } else if let Some(connection) = connections.get_mut(key)
                && !connection.advance(&mut scratch, &answers, closes)
            {
                connections.remove(key);
            }
        }
    }
}

impl Connection {
    /// Sends queued bytes first, then receives once and answers. False when the connection is over.
    fn advance(&mut self, scratch: &mut [u8], answers: &Answers, closes: bool) -> bool {
        if self.owed == 0 {
            match self.stream.read(scratch) {
                Ok(0) => return false,
                Ok(received) => self.owed = requests(&scratch[..received]) * answers.length(),
                Err(why) => return why.kind() == ErrorKind::WouldBlock,
            }
        }
        while self.owed > 0 {
            match answers.send(&self.stream, self.owed) {
                Ok(sent) => self.owed -= sent,
                Err(why) => return why.kind() == ErrorKind::WouldBlock,
            }
        }
        !closes
    }
}

/// The number of heads that end in these bytes.
fn requests(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).filter(|&at| at >= 3 && bytes[at - 3..at] == *b"\r\n\r").count()
}

impl Answers {
    fn new(size: usize, closes: bool) -> Result<Answers> {
        let connection = if closes { "Connection: close\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: floor\r\nContent-Type: text/plain\r\n\
             Content-Length: {size}\r\n{connection}\r\n"
        );
        let length = head.len() + size;
        let head = head.into_bytes();
        let content: Vec<u8> = (0..size).map(|at| b'a' + (at % 23) as u8).collect();
        if size <= COPIED_MAX {
            return Ok(Answers::Copied([head, content].concat().repeat(DEPTH_MAX), length));
        }
        let path = std::env::temp_dir().join(format!("peers-floor-{}", std::process::id()));
        std::fs::write(&path, content)?;
        let file = File::open(&path);
        std::fs::remove_file(&path)?;
        Ok(Answers::Filed { head, content: file?, length })
    }

    /// The length of one answer.
    fn length(&self) -> usize {
        match self {
            Answers::Copied(_, length) | Answers::Filed { length, .. } => *length,
        }
    }

    /// Sends as much as possible of `owed` bytes, which end with an answer.
    fn send(&self, mut stream: &TcpStream, owed: usize) -> Result<usize> {
        let length = self.length();
        let start = (length - owed % length) % length;
        match self {
            Answers::Copied(bytes, _) => stream.write(&bytes[start..bytes.len().min(start + owed)]),
            Answers::Filed { head, .. } if start < head.len() => {
                socket2::SockRef::from(stream).send_with_flags(&head[start..], libc::MSG_MORE | libc::MSG_NOSIGNAL)
            }
            Answers::Filed { head, content, .. } => {
                let mut at = (start - head.len()) as libc::off_t;
                // SAFETY: the kernel reads and writes the one offset that the call passes.
                let sent =
                    unsafe { libc::sendfile(stream.as_raw_fd(), content.as_raw_fd(), &raw mut at, length - start) };
                usize::try_from(sent).map_err(|_| Error::last_os_error())
            }
        }
    }
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

/// Defers accepting a connection until data has arrived.
fn defer(socket: &Socket) -> Result<()> {
    let (level, option, seconds) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 30 as libc::c_int);
    // SAFETY: the kernel reads one int, and `seconds` is one.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const seconds).cast(), size_of::<libc::c_int>() as _)
    };
    if answer == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
