//! Rules of the loop whose proof needs rustls: sends in a turn, deadlines, handshakes beside established connections, and
//! early data. The service runs in this process, and a layer around the one of rustls counts.

use std::any::Any;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use reactor::{Backend, CloseReason, Context, Deadline, Deadlines, Handler, Input, Layer, Opened, Service};
use rustls::{ClientConnection, HandshakeKind};

use crate::support::application::{Running, serve_with};
use crate::support::{GUARD, on_every_backend, unless_chaos};
use crate::{Stream, begin, client_config, connect, connect_as, file, line};

/// An event that the service has seen, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// `on_data` of an established connection.
    Data,
    /// A step of a handshake.
    Step,
}

/// Counts of a service and of its layers.
#[derive(Default)]
struct Counts {
    /// Transfers of a layer's bytes to the wire, each of them one send.
    sends: AtomicUsize,
    /// Calls of `on_data`.
    calls: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

/// The layer of rustls, counted.
struct Counted {
    tls: Box<dyn Layer>,
    counts: Arc<Counts>,
}

impl Layer for Counted {
    fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> Opened {
        if !self.tls.is_ready() {
            self.counts.seen.lock().unwrap().push(Seen::Step);
        }
        self.tls.open(wire, plain)
    }

    fn seal(&mut self, plain: &[u8]) {
        self.tls.seal(plain);
    }

    fn owes(&self) -> bool {
        self.tls.owes()
    }

    fn owed(&mut self, wire: &mut Vec<u8>) {
        self.counts.sends.fetch_add(1, SeqCst);
        self.tls.owed(wire);
    }

    fn is_ready(&self) -> bool {
        self.tls.is_ready()
    }

    fn memory(&self) -> usize {
        self.tls.memory()
    }

    fn finish(&mut self) {
        self.tls.finish();
    }

    fn agreed(&mut self) -> Option<Box<dyn Any>> {
        self.tls.agreed()
    }
}

/// Answers each line in several pieces. The line `large` is answered by megabytes, and `wait` holds the loop until the test
/// goes on.
struct Lines {
    counts: Arc<Counts>,
    closed: Sender<CloseReason>,
    waits: Arc<Mutex<Receiver<()>>>,
}

const LARGE: usize = 32 << 20;

impl Handler for Lines {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.counts.calls.fetch_add(1, SeqCst);
        self.counts.seen.lock().unwrap().push(Seen::Data);
        while let Some(line) = input.until_eol() {
            match line {
                b"large\n" => {
                    cx.write_shared(vec![b'x'; LARGE].into());
                }
                b"wait\n" => drop(self.waits.lock().unwrap().recv_timeout(GUARD)),
                b".\n" => {}
                line => {
                    cx.write("You said: ");
                    line.chunks(3).for_each(|part| {
                        cx.write(part);
                    });
                }
            }
        }
    }

    fn on_close(&mut self, _: (), reason: CloseReason, _: &mut Context<'_>) {
        let _ = self.closed.send(reason);
    }
}

struct Served {
    running: Running,
    counts: Arc<Counts>,
    closed: Receiver<CloseReason>,
    go_on: Sender<()>,
}

impl Served {
    fn start(backend: Backend, deadlines: Deadlines) -> Served {
        let counts = Arc::new(Counts::default());
        let (closed, is_closed) = channel();
        let (go_on, waits) = channel();
        let (counted, waits) = (counts.clone(), Arc::new(Mutex::new(waits)));
        let make = move || {
            let pair = tls::Pair::new(file("localhost.pem"), file("localhost.key"));
            let (layer, wrapped) = (tls::Server::new(&[pair]).unwrap().layer(), counted.clone());
            let lines = move || Lines { counts: counted.clone(), closed: closed.clone(), waits: waits.clone() };
            let layer = move || -> Box<dyn Layer> { Box::new(Counted { tls: layer(), counts: wrapped.clone() }) };
            Service::tcp("127.0.0.1:0", lines).deadlines(deadlines).layered(layer)
        };
        Served { running: serve_with(backend, make, |_| {}), counts, closed: is_closed, go_on }
    }

    fn address(&self) -> SocketAddr {
        self.running.address()
    }
}

/// Deadlines that no slow machine meets.
fn patient() -> Deadlines {
    Deadlines { first_request: None, write_progress: None, handshake: None, idle: None, ..Deadlines::default() }
}

/// A connection that has been answered once, so that the handshake is over and the tickets have come.
fn established(address: SocketAddr) -> Stream {
    let mut stream = connect(address);
    says(&mut stream, "first");
    stream
}

fn says(stream: &mut Stream, what: &str) {
    stream.write_all(format!("{what}\n").as_bytes()).unwrap();
    assert_eq!(line(stream), format!("You said: {what}\n"));
}

/// Sends a record for each of these pieces, in a single write.
fn write_records<'a>(stream: &mut Stream, pieces: impl IntoIterator<Item = &'a [u8]>) {
    let mut wire = Vec::new();
    for piece in pieces {
        stream.conn.writer().write_all(piece).unwrap();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut wire).unwrap();
        }
    }
    stream.sock.write_all(&wire).unwrap();
}

/// A way to keep the server busy without ever making a request.
type Drip = fn(&mut ClientConnection) -> Vec<u8>;

/// A record of one byte.
fn small_record(session: &mut ClientConnection) -> Vec<u8> {
    session.writer().write_all(b"x").unwrap();
    wire_of(session)
}

/// A record without content for the handler.
fn key_update(session: &mut ClientConnection) -> Vec<u8> {
    session.refresh_traffic_keys().unwrap();
    wire_of(session)
}

fn wire_of(session: &mut ClientConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut wire).unwrap();
    }
    wire
}

on_every_backend! {
    fn the_output_of_a_turn_is_one_send_however_many_pieces_and_records_it_answers(backend: Backend) {
        unless_chaos!("faults split receives and sends");
        let served = Served::start(backend, patient());
        let (mut stream, counts) = (established(served.address()), &served.counts);
        let so_far = || (counts.calls.load(SeqCst), counts.sends.load(SeqCst));
        let before = so_far();
        for _ in 0..100 {
            says(&mut stream, "a line in a record of its own");
        }
        let after = so_far();
        assert_eq!((after.0 - before.0, after.1 - before.1), (100, 100));
        let before = after;
        for _ in 0..20 {
            write_records(&mut stream, [&b"one of many\n"[..]; 50]);
            for _ in 0..50 {
                assert_eq!(line(&mut stream), "You said: one of many\n");
            }
        }
        let (calls, sends) = (so_far().0 - before.0, so_far().1 - before.1);
        assert_eq!(sends, calls, "a send for each turn with an answer");
        assert!(calls < 20 * 50, "{calls} turns for 1,000 records");
        assert_eq!(served.running.handle.stats().partial_sends, 0);
    }

    // Rule 21. Each way alone, since one of them could hide that another is a way around the deadline.
    fn who_never_completes_a_first_request_is_closed_however_small_its_records_are(backend: Backend) {
        // rustls takes 32 key updates in a row, so they come more slowly.
        let ways: [(&str, Drip, usize, u64); 3] = [
            ("records of one byte", small_record, usize::MAX, 5),
            ("the bytes of records, one by one", small_record, 1, 5),
            ("key updates", key_update, usize::MAX, 50),
        ];
        for (what, drip, at_once, every) in ways {
            let deadlines = Deadlines { first_request: Some(Duration::from_millis(500)), ..patient() };
            let served = Served::start(backend, deadlines);
            let mut stream = connect(served.address());
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
            let dripping = thread::spawn(move || {
                'all: loop {
                    let wire = drip(&mut stream.conn);
                    for part in wire.chunks(at_once) {
                        if stream.sock.write_all(part).is_err() {
                            break 'all;
                        }
                        thread::sleep(Duration::from_millis(every));
                    }
                }
            });
            let reason = served.closed.recv_timeout(GUARD).expect(what);
            assert_eq!(reason, CloseReason::TimedOut(Deadline::FirstRequest), "{what}");
            dripping.join().unwrap();
        }
    }

    // Rule 21.
    fn who_takes_a_byte_of_the_wire_now_and_then_makes_no_progress(backend: Backend) {
        let deadlines = Deadlines { write_progress: Some(Duration::from_millis(500)), ..patient() };
        let served = Served::start(backend, deadlines);
        let mut stream = established(served.address());
        let _ = socket2::SockRef::from(&stream.sock).set_recv_buffer_size(4096);
        stream.write_all(b"large\n").unwrap();
        let mut socket: TcpStream = stream.sock.try_clone().unwrap();
        let (over, is_over) = channel::<()>();
        let sipping = thread::spawn(move || {
            while matches!(socket.read(&mut [0; 1]), Ok(1)) && is_over.try_recv() == Err(TryRecvError::Empty) {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let reason = served.closed.recv_timeout(GUARD).expect("it is closed");
        assert_eq!(reason, CloseReason::TimedOut(Deadline::WriteProgress));
        drop(over);
        sipping.join().unwrap();
    }

    // Rule 37. In counts: whatever the machine's speed, an established peer waits for few steps of handshakes.
    fn an_established_peer_is_served_between_few_steps_of_many_handshakes(backend: Backend) {
        unless_chaos!("a fault puts a receive off until after other steps");
        const HANDSHAKES: usize = 200;
        /// Steps in a turn, as in `layer/shared.rs`.
        const STEPS_PER_TURN: usize = 16;
        let served = Served::start(backend, patient());
        let (mut holds, mut speaks) = (established(served.address()), established(served.address()));
        holds.write_all(b"wait\n").unwrap();
        // While the loop is held, more arrives for the speaker than many turns read, and all handshakes begin.
        let lines = b".\n".repeat(8000);
        write_records(&mut speaks, [&lines[..]; 12]);
        let config = client_config();
        let mut new: Vec<Stream> = (0..HANDSHAKES).map(|_| begin(served.address(), &config)).collect();
        served.counts.seen.lock().unwrap().clear();
        served.go_on.send(()).unwrap();
        for stream in &mut new {
            says(stream, "x");
        }
        let seen = served.counts.seen.lock().unwrap().clone();
        assert!(seen.iter().filter(|seen| **seen == Seen::Step).count() >= HANDSHAKES);
        // From one receive of the speaker to the next: the end of one turn, and the beginning of another.
        let last = seen.iter().enumerate().filter(|(_, seen)| **seen == Seen::Data).map(|(at, _)| at).nth(5);
        let most = seen[..last.expect("it is served")].split(|seen| *seen == Seen::Data).map(<[_]>::len).max();
        assert!(most.is_some_and(|most| most <= 2 * STEPS_PER_TURN), "{most:?} steps in a row: {seen:?}");
    }

    fn early_data_is_off(backend: Backend) {
        let served = Served::start(backend, patient());
        let mut config = (*client_config()).clone();
        config.enable_early_data = true;
        let config = Arc::new(config);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = connect_as(served.address(), "localhost", &config);
            // A client may send early data only as far as its ticket says.
            assert!(stream.conn.early_data().is_none(), "{kind:?}");
            says(&mut stream, "not early");
            assert_eq!((stream.conn.handshake_kind(), stream.conn.is_early_data_accepted()), (Some(kind), false));
        }
    }
}
