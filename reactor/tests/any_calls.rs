//! Whatever safe code a handler calls in whichever callback, the loops live on, other connections are served, and no limit
//! is lifted. Every verb of the public API is called by chance, about connections of one's own loop, of another, and of
//! none, and callbacks panic. A failing seed is named.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::panic::panic_any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use reactor::{
    Address, Application, Backend, Bytes, CloseReason, ConnectionId, Deadlines, Handler, Input, Limits, Output, Runner,
    Service, SlowPolicy, Topic, Writer, Written,
};
use support::GUARD;

type Context<'a> = reactor::Context<'a, Bomb, String>;

const SEEDS: u64 = 30;
const PEERS: usize = 6;

/// A xorshift generator.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// A value that may panic when it is dropped, as a payload of a panic and as a connection's state.
struct Bomb {
    armed: bool,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.armed && !thread::panicking() {
            self.armed = false;
            panic!("meant: a value panics when it is dropped");
        }
    }
}

/// Bytes whose owner may panic when the loop has sent them.
struct Owner(Vec<u8>, #[expect(dead_code, reason = "dropped with the bytes")] Bomb);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The state that all loops of one seed share.
#[derive(Default)]
struct Shared {
    ids: Mutex<Vec<ConnectionId>>,
    /// More was queued than the limits allow.
    unbounded: AtomicBool,
    calls: AtomicU64,
}

/// Calls anything.
struct Anything {
    chance: Chance,
    shared: Arc<Shared>,
    topics: [Topic; 2],
    limits: Limits,
    /// No files and no messages, so that what is queued can be compared with the limits.
    plain: bool,
    places: Arc<Vec<Address>>,
    opened: usize,
}

impl Anything {
    fn bomb(&mut self) -> Bomb {
        Bomb { armed: self.chance.one_in(10) }
    }

    fn owned(&mut self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Owner(bytes, self.bomb()))
    }

    fn some_id(&mut self, cx: &Context<'_>) -> ConnectionId {
        let ids = self.shared.ids.lock().expect("no callback panics with it");
        match self.chance.below(8) {
            0 => ConnectionId::NONE,
            1..4 => cx.id(),
            _ if ids.is_empty() => ConnectionId::NONE,
            _ => ids[self.chance.below(ids.len())],
        }
    }

    fn span(&mut self) -> Duration {
        [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(3), Duration::MAX][self.chance.below(4)]
    }

    fn bytes(&mut self) -> Vec<u8> {
        let most = [1, 100, 5000, 60_000][self.chance.below(4)];
        vec![b'a' + (most % 23) as u8; self.chance.below(most)]
    }

    /// Checks that a write to `id` exceeds the limit of queued bytes by one write at most.
    fn check(&self, cx: &mut Context<'_>, id: ConnectionId, before: usize, written: Written) {
        let queued = cx.at(id).queued();
        let taken = queued > before && written != Written::Refused;
        if self.plain && taken && before > self.limits.output_high && queued > self.limits.output_max {
            self.shared.unbounded.store(true, Relaxed);
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) {
        let (own, id, bytes) = (cx.id(), self.some_id(cx), self.bytes());
        let (before_own, before) = (cx.queued(), cx.at(id).queued());
        match self.chance.below(6) {
            0 => {
                let written = cx.write(&bytes);
                self.check(cx, own, before_own, written);
            }
            1 => {
                let written = cx.write_shared(self.owned(bytes));
                self.check(cx, own, before_own, written);
            }
            2 => {
                // Whatever is put in the place of what is lent, and whatever is moved out of it.
                let (mode, chance) = (self.chance.below(4), self.chance.below(1000));
                let owned = self.owned(vec![b'y'; chance]);
                let written = cx.encode(|writer: &mut Writer<'_>| {
                    writer.put(&bytes);
                    let leaked = Box::leak(Box::new(Output::default()));
                    match mode {
                        0 => *writer = leaked.writer(),
                        1 => {
                            let mut other = leaked.writer();
                            std::mem::swap(writer, &mut other);
                        }
                        2 if chance < 50 => panic_any(Bomb { armed: chance < 25 }),
                        _ => {}
                    }
                    writer.put_shared(owned);
                    let _ = write!(writer, "{}", writer.queued());
                });
                self.check(cx, own, before_own, written);
            }
            3 => {
                if let Some(mut writer) = cx.output() {
                    writer.put(&bytes);
                    self.check(cx, own, before_own, Written::Queued);
                }
            }
            4 if self.chance.one_in(2) => {
                let written = cx.at(id).encode(|writer| writer.put(&bytes));
                self.check(cx, id, before, written);
                if let Some(mut writer) = cx.at(id).output() {
                    writer.put(b"x");
                }
            }
            4 => {
                let written = cx.at(id).write(&bytes);
                self.check(cx, id, before, written);
            }
            _ => {
                let written = cx.at(id).write_shared(self.owned(bytes));
                self.check(cx, id, before, written);
            }
        }
    }

    fn call(&mut self, cx: &mut Context<'_>) {
        self.shared.calls.fetch_add(1, Relaxed);
        let (id, span) = (self.some_id(cx), self.span());
        let topic = self.topics[self.chance.below(2)].clone();
        let verb = self.chance.below(44);
        // Connections should live for a while.
        if matches!(verb, 11..=19 | 42) && !self.chance.one_in(8) {
            return;
        }
        match verb {
            0..=9 => self.write(cx),
            10 if !self.plain && self.chance.one_in(2) => {
                let file = Arc::new(File::open("Cargo.toml").expect("tests run beside it"));
                cx.at(id).write_file(file, 0..10);
            }
            10 if !self.plain => {
                let file = Arc::new(File::open("Cargo.toml").expect("tests run beside it"));
                cx.write_file(file, 0..[0, 10, 1 << 40][self.chance.below(3)]);
            }
            11 => cx.close(),
            12 if self.chance.one_in(2) => cx.at(id).close_briefly(),
            12 => cx.close_briefly(),
            13 => cx.at(id).close(),
            14 => cx.finish(),
            15 => cx.at(id).finish(),
            16 => cx.abort(),
            17 => cx.at(id).abort(),
            18 => cx.pause_reading(),
            19 => cx.at(id).pause_reading(),
            20 | 21 => cx.resume_reading(),
            22 | 23 => cx.at(id).resume_reading(),
            24 if self.chance.one_in(2) => cx.at(id).offer_again(),
            24 => cx.offer_again(),
            25 => cx.wait_for_output(),
            26 => cx.at(id).wait_for_output(),
            27 => cx.read_on(),
            28 => cx.at(id).read_on(),
            29 => cx.request_turn(),
            30 => cx.set_deadline(span),
            31 => cx.at(id).set_deadline(span),
            32 if self.chance.one_in(2) => cx.at(id).clear_deadline(),
            32 => cx.clear_deadline(),
            33 => drop(cx.service_handle()),
            34 => drop((cx.subscribe(&topic), cx.at(id).subscribe(&topic))),
            35 => drop((cx.unsubscribe(&topic), cx.at(id).unsubscribe(&topic))),
            36 if !self.plain => {
                let bytes = self.bytes();
                let bytes = self.owned(bytes);
                cx.publish(&topic, &bytes);
                cx.publish_to_others(&topic, &bytes);
                cx.publish_shared(&topic, &bytes);
            }
            37 if self.opened < 20 => {
                self.opened += 1;
                let to = self.places[self.chance.below(self.places.len())].clone();
                let bomb = self.bomb();
                let id = cx.connect(to, bomb);
                if self.chance.one_in(2) {
                    cx.at(id).abort();
                }
            }
            38 if self.opened < 20 => {
                self.opened += 1;
                let place = ["/dev/null", "/", "Cargo.toml"][self.chance.below(3)];
                let bomb = self.bomb();
                cx.watch(OwnedFd::from(File::open(place).expect("it is there")), bomb);
            }
            39 => cx.hold_end(self.chance.one_in(2)),
            40 => {
                let key = self.chance.below(5) as u64;
                match self.chance.below(7) {
                    0 => cx.timers().set(key, span),
                    1 => cx.timers().every(key, span),
                    2 => drop(cx.timers().cancel(key)),
                    3 => cx.at(id).timers().set(key, span),
                    4 => cx.at(id).timers().every(key, span),
                    5 => drop(cx.at(id).timers().cancel(key)),
                    _ if self.chance.one_in(4) => cx.at(id).timers().cancel_all(),
                    _ => drop((cx.at(id).timers().is_set(key), format!("{:?}", cx.timers()))),
                }
            }
            41 => {
                let _ = cx.service_handle().post(id, "posted".to_owned());
            }
            42 => panic_any(Bomb { armed: true }),
            43 => {
                let known = (cx.peer(), cx.service().len(), cx.now(), cx.turn(), cx.serves_alone());
                let _ = (known, cx.stats());
                let listed = cx.connections().into_iter().all(|id| cx.at(id).exists());
                assert!(listed, "each connection that is listed exists");
                let other = cx.at(id);
                let counts = (other.received(), other.sent(), other.queued(), other.age(), other.idle());
                let _ = (counts, other.peer(), other.local_address(), other.exists(), other.id(), format!("{other:?}"));
            }
            _ => drop((cx.members(&topic), cx.is_stopping(), cx.at(id).queued(), format!("{cx:?}"))),
        }
    }

    fn calls(&mut self, cx: &mut Context<'_>) {
        for _ in 0..self.chance.below(4) {
            self.call(cx);
        }
    }

    fn read<'a>(&mut self, input: &mut Input<'a>) {
        let all = input.as_slice();
        match self.chance.below(12) {
            0 => {}
            1 => drop(input.until_eol()),
            2 => drop(input.until_eol_within(5)),
            3 => drop(input.take(self.chance.below(100))),
            // More than there is: panics.
            4 if self.chance.one_in(10) => input.consume(input.len() + 1),
            5 if self.chance.one_in(10) => drop(input.scan(usize::MAX, |unread, _| Some(unread.len() + 1000))),
            6 => drop(input.scan(10, |_, from| Some(from))),
            // Something else in the place of what is lent: longer, shorter, and what has been read already.
            7 => *input = Input::of(&[b'l'; 5000]),
            8 => drop(std::mem::replace(input, Input::of(b""))),
            9 => {
                input.take_all();
                *input = Input::of(all);
            }
            _ => drop(input.take_all()),
        }
    }
}

impl Handler<String> for Anything {
    type Connection = Bomb;

    fn on_start(&mut self, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_open(&mut self, cx: &mut Context<'_>) -> Bomb {
        self.shared.ids.lock().expect("no callback panics with it").push(cx.id());
        self.calls(cx);
        self.bomb()
    }

    fn on_connected(&mut self, _: &mut Bomb, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_data(&mut self, state: &mut Bomb, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if self.chance.one_in(10) {
            *state = self.bomb();
        }
        self.read(input);
        self.calls(cx);
        self.read(input);
    }

    fn on_end_of_input(&mut self, _: &mut Bomb, input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.read(input);
        self.calls(cx);
        if self.chance.one_in(2) {
            cx.close();
        }
    }

    fn on_drained(&mut self, _: &mut Bomb, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_missed(&mut self, _: &mut Bomb, _: u64, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_too_slow(&mut self, _: &mut Bomb, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_timer(&mut self, _: u64, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_connection_timer(&mut self, _: &mut Bomb, _: u64, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_deadline(&mut self, _: &mut Bomb, cx: &mut Context<'_>) {
        self.calls(cx);
        if self.chance.one_in(2) {
            cx.close();
        }
    }

    fn on_stopping(&mut self, _: &mut Bomb, cx: &mut Context<'_>) {
        self.calls(cx);
    }

    fn on_message(&mut self, to: ConnectionId, _: Option<&mut Bomb>, _: String, cx: &mut Context<'_>) {
        self.calls(cx);
        cx.at(to).close();
    }

    fn on_close(&mut self, _: Bomb, _: CloseReason, cx: &mut Context<'_>) {
        self.calls(cx);
    }
}

/// A service whose connections must be served meanwhile.
struct Echo;

impl Handler for Echo {
    type Connection = ();

    fn on_open(&mut self, _: &mut reactor::Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut reactor::Context<'_>) {
        cx.write(input.take_all());
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(to).expect("it listens");
    client.set_read_timeout(Some(GUARD)).expect("not zero");
    client.set_write_timeout(Some(Duration::from_millis(20))).expect("not zero");
    client
}

fn is_served(client: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    client.write_all(b"alive").is_ok() && client.read_exact(&mut answer).is_ok() && &answer == b"alive"
}

fn try_seed(seed: u64, backend: Backend) {
    let mut chance = Chance(seed * 0x9E37_79B9 + 1);
    let policy = [SlowPolicy::Disconnect, SlowPolicy::DropOldest, SlowPolicy::DropNewest][chance.below(3)];
    let limits = Limits {
        input: 3000,
        output_high: 2000,
        output_low: 500,
        output_max: 20_000,
        member_queue: 4000,
        slow_members: policy,
        ..Limits::default()
    };
    let deadlines = Deadlines {
        idle: chance.one_in(2).then(|| Duration::from_millis(100)),
        linger: Duration::from_millis(50),
        ..Deadlines::default()
    };
    let mut app = Application::with(backend, Runner::loops(2).expect("two are allowed")).expect("the backend is there");
    app.drain_timeout(Some(Duration::from_millis(200)));
    let echo = app.add_service(Service::tcp("127.0.0.1:0", || Echo)).expect("a port is free");
    let echo = echo.address().and_then(|address| address.to_string().strip_prefix("tcp://")?.parse().ok());
    let echo: SocketAddr = echo.expect("it listens on TCP");
    let (shared, plain, start) = (Arc::<Shared>::default(), chance.one_in(2), AtomicU64::new(seed));
    let places = vec![
        Address::Tcp(echo),
        Address::Tcp(([127, 0, 0, 1], 1).into()),
        Address::Unix("/nobody/listens/here".into()),
        Address::Unix("x".repeat(300).into()),
    ];
    let (seen, bounds, places) = (shared.clone(), limits.clone(), Arc::new(places));
    let make = move || Anything {
        chance: Chance(start.fetch_add(7919, Relaxed) * 31 + 7),
        shared: seen.clone(),
        topics: [Topic::new("one"), Topic::new("other")],
        limits: bounds.clone(),
        plain,
        places: places.clone(),
        opened: 0,
    };
    let any = Service::tcp("127.0.0.1:0", make).limits(limits).deadlines(deadlines);
    let any = app.add_service(any).expect("a port is free");
    let any = any.address().and_then(|address| address.to_string().strip_prefix("tcp://")?.parse().ok());
    let any: SocketAddr = any.expect("it listens on TCP");
    let handle = app.handle();
    let server = thread::Builder::new().name("loop".into()).spawn(move || app.run()).expect("a thread is free");
    // One on each loop.
    let mut witnesses = [connect(echo), connect(echo), connect(echo)];
    assert!(witnesses.iter_mut().all(is_served), "seed {seed} on {backend}: it begins");
    let mut peers: Vec<TcpStream> = (0..PEERS).map(|_| connect(any)).collect();
    for _ in 0..60 {
        let at = chance.below(PEERS);
        let peer = &mut peers[at];
        match chance.below(10) {
            0..=4 => {
                let _ = peer.write(&b"some words\nand more of them\n".repeat(chance.below(40)));
            }
            5 | 6 => {
                peer.set_nonblocking(true).expect("it is open");
                let _ = peer.read(&mut [0; 30_000]);
                peer.set_nonblocking(false).expect("it is open");
            }
            7 => drop(peer.shutdown(Shutdown::Write)),
            8 => *peer = connect(any),
            _ => assert!(is_served(&mut witnesses[chance.below(3)]), "seed {seed} on {backend}: a loop has ended"),
        }
    }
    assert!(witnesses.iter_mut().all(is_served), "seed {seed} on {backend}: a loop has ended");
    assert!(is_served(&mut connect(echo)), "seed {seed} on {backend}: nobody is let in any more");
    assert!(!shared.unbounded.load(Relaxed), "seed {seed} on {backend}: a limit was lifted");
    assert!(shared.calls.load(Relaxed) > 0, "seed {seed} on {backend}: nothing was called");
    handle.halt();
    let outcome = server.join();
    assert!(matches!(outcome, Ok(Ok(()))), "seed {seed} on {backend}: it ends badly");
}

#[test]
fn whatever_a_handler_calls_the_loops_live_on_and_no_limit_is_lifted() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Panics of callbacks are meant, and thousands.
        if thread::current().name().is_some_and(|name| name.starts_with("whatever")) {
            loud(panic);
        }
    }));
    for backend in [Backend::Epoll, Backend::Select] {
        (1..=SEEDS).for_each(|seed| try_seed(seed, backend));
    }
}
