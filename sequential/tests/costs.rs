//! The costs of the sequential face: no allocation for an await in steady state, at most 256 bytes for an idle connection in addition
//! to the future, no wake-up for sleeping tasks. The counters cover the whole process, so the clients allocate nothing either.

use std::alloc::System;
use std::io::{Read, Write};
use std::mem::size_of_val;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use reactor::{Address, Application, Backend, Context, Deadlines, Handle, Handler, Input, Limits, Service};
use sequential::{Peer, Queue, Tasks, first, sleep, within};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const GUARD: Duration = Duration::from_secs(120);

fn under_chaos() -> bool {
    cfg!(feature = "chaos") && std::env::var_os("REACTOR_CHAOS").is_some_and(|orders| !orders.is_empty())
}

/// Runs a service, and a client that talks to the service.
fn with<H, M, R>(
    backend: Backend,
    factory: impl Fn() -> H + Send + Sync + 'static,
    talk: impl FnOnce(SocketAddr, &Handle) -> R,
) -> R
where
    H: Handler<M>,
    M: Send + 'static,
{
    let (started, has_started) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut application = Application::with_backend(backend).expect("the backend is there");
        let service = Service::tcp("127.0.0.1:0", factory)
            .limits(Limits { backlog: 4096, ..Limits::default() })
            .deadlines(Deadlines { first_request: None, ..Deadlines::default() });
        let service = application.add_service(service).expect("a port is free");
        application.drain_timeout(Some(Duration::ZERO));
        let Some(Address::Tcp(address)) = service.address() else { panic!("it listens on TCP") };
        started.send((*address, application.handle())).expect("the test waits");
        application.run().expect("it ends well");
    });
    let (address, handle) = has_started.recv().expect("it starts");
    let outcome = talk(address, &handle);
    handle.halt();
    thread.join().expect("the loop does not panic");
    outcome
}

fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(GUARD)).expect("not zero");
    client.set_nodelay(true).expect("it is TCP");
    client
}

async fn echo(peer: &mut Peer) {
    while let Some(line) = peer.until_eol().await {
        peer.send(b"You said: ");
        peer.send(&line);
    }
}

/// Uses every kind of wait once for each line.
async fn every_wait(peer: &mut Peer) {
    let queue = Queue::new(1);
    while let Ok(Some(line)) = within(Duration::from_secs(600), peer.until_eol()).await {
        queue.put(line).await.expect("it is open");
        let line = queue.take().await.expect("it is open");
        first(queue.take(), sleep(Duration::from_micros(10))).await;
        sleep(Duration::from_micros(10)).await;
        assert!(peer.send_wait(b"You said: ").await && peer.send_wait(&line).await);
    }
}

/// Allocations of the process in the better half of the rounds, after a quarter more rounds that fill pools and lists. The better half
/// counts, because the test harness has a thread that allocates once when a test takes long.
fn in_steady_state(rounds: usize, line: &[u8], address: SocketAddr) -> (usize, usize) {
    let expected = [b"You said: ", line].concat();
    let (mut client, mut answer) = (client(address), vec![0; expected.len()]);
    let mut round = |_| {
        client.write_all(line).expect("it is open");
        client.read_exact(&mut answer).expect("an answer comes");
        assert!(answer == expected);
    };
    (0..rounds / 4).for_each(&mut round);
    let mut half = || {
        let region = Region::new(GLOBAL);
        (0..rounds / 2).for_each(&mut round);
        let change = region.change();
        (change.allocations, change.reallocations)
    };
    half().min(half())
}

/// The echo of the callback face. Memory per connection is compared with this handler.
struct Echo;

impl Handler for Echo {
    type Connection = ();
    fn on_open(&mut self, _: &mut Context<'_>) {}
    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            cx.write(b"You said: ");
            cx.write(line);
        }
    }
}

/// Bytes that the process holds for `count` connections that have got an answer and wait for a line.
fn held_for_idle(count: usize, address: SocketAddr, handle: &Handle) -> usize {
    let mut clients = Vec::with_capacity(count + 1);
    let mut answer = [0; 16];
    let mut open = || {
        let mut client = client(address);
        client.write_all(b"hello\n").expect("it is open");
        client.read_exact(&mut answer).expect("an answer comes");
        clients.push(client);
    };
    // The loop has its own buffers after the first answer.
    open();
    let region = Region::new(GLOBAL);
    (0..count).for_each(|_| open());
    assert_eq!(handle.stats().open as usize, count + 1);
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

/// Number of sleeping tasks.
static ASLEEP: AtomicUsize = AtomicUsize::new(0);

/// Forks 10,000 tasks that sleep: as many connections would need as many descriptors.
async fn sleep_in_ten_thousand(peer: &mut Peer) {
    peer.until_eol().await;
    for _ in 0..10_000 {
        sequential::fork(async {
            ASLEEP.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_secs(3600)).await;
        });
    }
    peer.send("asleep\n");
    while peer.until_eol().await.is_some() {
        peer.send("here\n");
    }
}

/// The size of the future for each connection, as `Tasks` makes it.
fn size_of_the_future() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    // The task measures the future of its function; the boxed future also holds the peer and the shared function.
    async fn measured(peer: &mut Peer) {
        SIZE.store(size_of_val(&echo(peer)), Ordering::Relaxed);
    }
    with(
        Backend::Select,
        || Tasks::new(measured),
        |address, _| {
            let _ = client(address).read(&mut [0]);
        },
    );
    SIZE.load(Ordering::Relaxed) + size_of::<Peer>() + size_of::<usize>()
}

/// A single test, because the counters cover the whole process.
#[test]
fn an_await_allocates_nothing_an_idle_connection_is_small_and_sleepers_cause_no_wake_ups() {
    if under_chaos() {
        eprintln!("left out under chaos: it counts allocations, and chaos allocates");
        return;
    }
    for backend in [Backend::Epoll, Backend::Select] {
        let short = with(backend, || Tasks::new(echo), |at, _| in_steady_state(5_000, b"hello\n", at));
        assert_eq!(short, (0, 0), "echo on {backend}");
        let line = [&[b'x'; 20_000][..], b"\n"].concat();
        let long = with(backend, || Tasks::new(echo), |at, _| in_steady_state(300, &line, at));
        assert_eq!(long, (0, 0), "echo of long lines on {backend}");
        let every = with(backend, || Tasks::new(every_wait), |at, _| in_steady_state(300, b"hello\n", at));
        assert_eq!(every, (0, 0), "every wait on {backend}");
    }

    const IDLE: usize = 500;
    let of_callbacks = with(Backend::Epoll, || Echo, |at, handle| held_for_idle(IDLE, at, handle));
    let of_tasks = with(Backend::Epoll, || Tasks::new(echo), |at, handle| held_for_idle(IDLE, at, handle));
    let more = of_tasks.saturating_sub(of_callbacks) / IDLE;
    let future = size_of_the_future();
    println!("an idle connection: {more} bytes more than with callbacks, its future has {future}");
    assert!(more <= future + 256, "{more} bytes more, and the future has {future}");

    for backend in [Backend::Epoll, Backend::Select] {
        ASLEEP.store(0, Ordering::Relaxed);
        with(
            backend,
            || Tasks::new(sleep_in_ten_thousand),
            |address, handle| {
                let mut client = client(address);
                let mut ask = |answer: &[u8]| {
                    client.write_all(b"go\n").expect("it is open");
                    let mut bytes = [0; 16];
                    client.read_exact(&mut bytes[..answer.len()]).expect("an answer comes");
                    assert_eq!(&bytes[..answer.len()], answer);
                };
                ask(b"asleep\n");
                while ASLEEP.load(Ordering::Relaxed) < 10_000 {
                    ask(b"here\n");
                }
                ask(b"here\n");
                let before = handle.stats().turns;
                std::thread::sleep(Duration::from_millis(500));
                let turns = handle.stats().turns - before;
                assert!(turns <= 2, "{turns} turns while all sleep");
            },
        );
    }
}
