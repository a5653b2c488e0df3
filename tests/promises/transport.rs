//! The floor below the handlers of a test: a backend, with or without a layer between the connection and the socket. And clients
//! that speak through such a layer.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reactor::Backend;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::records::{END, HELLO, RECORD_MAX, append_masked, sealed, sealed_length};

/// A backend, and whether connections have a layer. Each promise about connections is tested on every backend without a layer
/// and with one.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    pub backend: Backend,
    pub layered: bool,
}

impl From<Backend> for Transport {
    fn from(backend: Backend) -> Self {
        Transport { backend, layered: false }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.backend, if self.layered { "-layered" } else { "" })
    }
}

/// A blocking client. With a layer the methods have the meaning that they have on a [`TcpStream`], for the plaintext: the end of
/// a half is authenticated, a dropped client ends in order if all plaintext has been read, and a [reset](Client::abandon) sends
/// no end.
pub struct Client {
    socket: Arc<TcpStream>,
    session: Option<Arc<Session>>,
}

/// The client's side of a layer. Dropped with the last clone of its client.
struct Session {
    socket: Arc<TcpStream>,
    writing: Mutex<Writing>,
    reading: Mutex<Reading>,
    abandoned: AtomicBool,
    nonblocking: AtomicBool,
}

#[derive(Default)]
struct Writing {
    /// The end of a record that the kernel has not taken.
    wire: Vec<u8>,
    /// Our half has ended.
    ended: bool,
}

#[derive(Default)]
struct Reading {
    wire: Vec<u8>,
    plain: Vec<u8>,
    /// The server's end has been read, and then the end of the stream.
    ended: bool,
    fin: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<TcpStream> for Client {
    fn from(socket: TcpStream) -> Self {
        Client { socket: Arc::new(socket), session: None }
    }
}

impl Client {
    /// Makes a client that sends the hello of its handshake at once.
    pub fn layered(socket: TcpStream) -> Self {
        let socket = Arc::new(socket);
        (&*socket).write_all(HELLO).expect("a new connection takes four bytes");
        let session = Session {
            socket: socket.clone(),
            writing: Mutex::default(),
            reading: Mutex::default(),
            abandoned: AtomicBool::new(false),
            nonblocking: AtomicBool::new(false),
        };
        Client { socket, session: Some(Arc::new(session)) }
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Client { socket: self.socket.clone(), session: self.session.clone() })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(timeout)
    }

    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        if let Some(session) = &self.session {
            session.nonblocking.store(nonblocking, SeqCst);
        }
        self.socket.set_nonblocking(nonblocking)
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.session {
            Some(session) if how != Shutdown::Read => session.end(how),
            _ => self.socket.shutdown(how),
        }
    }

    /// Has the drop of the client send no end of the layer.
    pub fn abandon(&self) {
        if let Some(session) = &self.session {
            session.abandoned.store(true, SeqCst);
        }
    }

    /// Bytes on the wire for `count` bytes of plaintext that are written together.
    pub fn on_the_wire(&self, count: usize) -> usize {
        if self.session.is_some() { sealed_length(count) } else { count }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Read for &Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.session {
            Some(session) => session.read(buffer),
            None => (&*self.socket).read(buffer),
        }
    }
}

impl Write for &Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.session {
            Some(session) => session.write(bytes),
            None => (&*self.socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut writing = lock(&self.writing);
        while !writing.wire.is_empty() {
            let count = (&*self.socket).write(&writing.wire)?;
            writing.wire.drain(..count);
        }
        let part = &bytes[..bytes.len().min(RECORD_MAX)];
        let record = sealed(part);
        let count = (&*self.socket).write(&record)?;
        // A timeout in the middle of a record: the rest leaves before anything else does.
        writing.wire.extend_from_slice(&record[count..]);
        Ok(part.len())
    }

    /// Sends what the kernel takes at once, and the FIN when nothing is left after the end.
    fn push(&self, writing: &mut Writing) -> io::Result<()> {
        while !writing.wire.is_empty() {
            match send(&*self.socket, &writing.wire, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(writing.wire.drain(..count)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        if writing.ended { self.socket.shutdown(Shutdown::Write) } else { Ok(()) }
    }

    fn end(&self, how: Shutdown) -> io::Result<()> {
        let mut writing = lock(&self.writing);
        if !std::mem::replace(&mut writing.ended, true) {
            writing.wire.extend(END.to_be_bytes());
        }
        self.push(&mut writing)?;
        if how == Shutdown::Both { self.socket.shutdown(Shutdown::Read) } else { Ok(()) }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reading = lock(&self.reading);
        let mut some = vec![0; 64 * 1024];
        loop {
            if !reading.plain.is_empty() {
                let count = reading.plain.len().min(buffer.len());
                buffer[..count].copy_from_slice(&reading.plain[..count]);
                reading.plain.drain(..count);
                return Ok(count);
            }
            if reading.fin {
                return Ok(0);
            }
            let count = self.receive(&mut some)?;
            reading.take_in(&some[..count])?;
        }
    }

    /// Waits for bytes of the wire. What is left of earlier records leaves meanwhile.
    fn receive(&self, some: &mut [u8]) -> io::Result<usize> {
        let owes = || self.writing.try_lock().is_ok_and(|writing| !writing.wire.is_empty());
        while owes() {
            let mut both = [PollFd::new(&*self.socket, PollFlags::IN | PollFlags::OUT)];
            let timeout =
                if self.nonblocking.load(SeqCst) { Some(Duration::ZERO) } else { self.socket.read_timeout()? };
            let timeout = timeout.map(|timeout| Timespec::try_from(timeout).expect("it is short"));
            if poll(&mut both, timeout.as_ref())? == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.push(&mut lock(&self.writing))?;
            match recv(&*self.socket, &mut *some, RecvFlags::DONTWAIT) {
                Ok((count, _)) => return Ok(count),
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        (&*self.socket).read(some)
    }
}

impl Reading {
    /// Opens what is complete. No bytes are the end of the stream, which has to follow the server's authenticated end.
    fn take_in(&mut self, wire: &[u8]) -> io::Result<()> {
        if wire.is_empty() {
            self.fin = self.ended;
            return if self.ended { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        self.wire.extend_from_slice(wire);
        let mut at = 0;
        while let Some(&[high, low]) = self.wire.get(at..at + 2) {
            assert!(!self.ended, "bytes follow the authenticated end");
            let length = u16::from_be_bytes([high, low]);
            if length == END {
                self.ended = true;
                at += 2;
                continue;
            }
            let Some(part) = self.wire.get(at + 2..at + 2 + usize::from(length)) else { break };
            append_masked(&mut self.plain, part);
            at += 2 + usize::from(length);
        }
        self.wire.drain(..at);
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut reading = lock(&self.reading);
        // Unread plaintext makes the kernel reset the connection, as without a layer. The server's end is no plaintext.
        if ioctl_fionread(&*self.socket).is_ok_and(|count| count == 2) {
            let mut some = [0; 2];
            if let Ok((count, _)) = recv(&*self.socket, &mut some, RecvFlags::DONTWAIT) {
                let _ = reading.take_in(&some[..count]);
            }
        }
        let is_read = reading.plain.is_empty() && reading.wire.is_empty();
        if !self.abandoned.load(SeqCst) && is_read && ioctl_fionread(&*self.socket).is_ok_and(|count| count == 0) {
            let _ = self.end(Shutdown::Write);
        } else {
            let _ = socket2::SockRef::from(&*self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}
