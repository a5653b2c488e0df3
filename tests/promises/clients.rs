//! The other side of the stage: clients and their bytes, attempts that have to keep a pace, and the server's end of a client's
//! connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::stage::QUIET;
use crate::support::GUARD;
use crate::transport::{Client, Transport};

pub fn client_of(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("it listens");
    guarded(&client);
    client
}

pub fn guarded(client: &TcpStream) {
    client.set_read_timeout(Some(GUARD)).expect("not zero");
    client.set_write_timeout(Some(GUARD)).expect("not zero");
    client.set_nodelay(true).expect("it is TCP");
}

/// A client with a receive buffer of twice `receive_buffer` bytes, which never grows.
pub fn client_with(address: SocketAddr, receive_buffer: usize) -> TcpStream {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a descriptor is free");
    socket.set_recv_buffer_size(receive_buffer).expect("it is a socket");
    socket.connect(&address.into()).expect("it listens");
    let client = TcpStream::from(socket);
    guarded(&client);
    client
}

/// Ends the client with a reset.
pub fn reset(client: impl Into<Client>) {
    let client = client.into();
    client.abandon();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it is a socket");
}

/// Reads everything until the end.
pub fn read_all(client: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("it ends in order");
    bytes
}

pub fn read_exactly<const N: usize>(client: &mut impl Read) -> [u8; N] {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).expect("that much comes");
    bytes
}

/// Sends one line and waits for its echo.
pub fn round_trip(client: &mut (impl Read + Write), line: &[u8]) {
    client.write_all(line).expect("it is open");
    let mut answer = vec![0; line.len()];
    client.read_exact(&mut answer).expect("it comes back");
    assert_eq!(answer, line);
}

/// The longest pause between two steps of a test that has to keep a pace.
pub struct Pace {
    last: Instant,
    longest: Duration,
}

impl Pace {
    /// Begins now: earlier pauses do not count.
    pub fn restart(&mut self) {
        *self = Pace { last: Instant::now(), longest: Duration::ZERO };
    }

    /// Makes a step.
    pub fn step(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
    }
}

/// Repeats an attempt until the attempt succeeds. Panics if an attempt fails although it kept its pace: no two of its steps were
/// further apart than `allowed`. An attempt that the machine held up proves nothing. On a machine that holds up every attempt, this
/// function gives up in silence.
pub fn at_pace(allowed: Duration, attempt: impl Fn(&mut Pace) -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < GUARD {
        let mut pace = Pace { last: Instant::now(), longest: Duration::ZERO };
        let outcome = attempt(&mut pace);
        pace.step();
        match outcome {
            Ok(()) => return,
            Err(fault) => assert!(pace.longest >= allowed, "{fault}"),
        }
    }
}

/// Sends until nothing was taken for a while, or until `most` bytes were. Returns the number of sent bytes. A loop that is held up
/// for a while has more room later.
pub fn send_until_stuck(client: &Client, bytes: &[u8], most: usize) -> usize {
    send_on_until_stuck(client, bytes, 0, most)
}

/// Goes on as [`send_until_stuck`] does, after the first `sent` bytes. Returns the number of all sent bytes.
pub fn send_on_until_stuck(client: &Client, bytes: &[u8], mut sent: usize, most: usize) -> usize {
    client.set_write_timeout(Some(QUIET)).expect("not zero");
    while sent < most {
        let at = sent % bytes.len();
        match { client }.write(&bytes[at..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
    }
    client.set_write_timeout(Some(GUARD)).expect("not zero");
    sent
}

/// Bytes that reveal a missing, doubled or misplaced byte.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Compares megabytes without printing them, as `assert_eq!` would.
pub fn same(one: &[u8], other: &[u8]) {
    assert_eq!(one.len(), other.len());
    assert!(one == other, "they differ at {:?}", one.iter().zip(other).position(|(one, other)| one != other));
}

/// Duplicates the loop's descriptor of this client's connection. `None` if the system does not allow that.
pub fn server_end(client: &Client) -> Option<OwnedFd> {
    let peer = client.local_addr().expect("it is connected");
    let this = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).ok()?;
    for entry in std::fs::read_dir("/proc/self/fd").ok()? {
        let Some(number) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok()) else { continue };
        let flags = rustix::process::PidfdGetfdFlags::empty();
        let Ok(copy) = rustix::process::pidfd_getfd(&this, number, flags) else { continue };
        let socket = socket2::SockRef::from(&copy);
        if socket.peer_addr().ok().and_then(|address| address.as_socket()) == Some(peer) {
            return Some(copy);
        }
    }
    None
}

/// A path for the Unix socket of one test.
pub fn socket_path(name: &str, transport: impl Into<Transport>) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("promises-{name}-{}-{}.sock", transport.into(), std::process::id()))
}

/// Waits until `count` bytes are in the kernel at the server's end, where a reset leaves them. A reset discards bytes
/// that are still in the client's kernel for lack of memory at the other end.
pub fn has_arrived(client: &Client, count: usize) {
    let count = client.on_the_wire(count);
    let Some(server) = server_end(client) else { return };
    let start = Instant::now();
    while rustix::io::ioctl_fionread(&server).expect("it is a socket") < count as u64 {
        assert!(start.elapsed() < GUARD, "the kernel has not taken {count} bytes");
        std::thread::yield_now();
    }
}
