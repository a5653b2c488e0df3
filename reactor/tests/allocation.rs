//! In steady state a loop allocates nothing: not for a round trip, not for a message to a topic. The whole process is
//! counted, so the clients here allocate nothing either.

mod support;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use reactor::{Address, Application, Backend, ConnectionId, Context, Handler, Input, Service, Topic};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use support::unless_chaos;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const GUARD: Duration = Duration::from_secs(120);

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

/// Sets timers of the handler and of the connection at each line. One is set again, one is cancelled, and the answer comes when two
/// have gone off.
struct Timed;

impl Handler for Timed {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while input.until_eol().is_some() {
            cx.timers().set(0, GUARD);
            let id = cx.id().to_u64();
            cx.timers().set(id, Duration::ZERO);
            cx.at(cx.id()).timers().set(1, GUARD);
            cx.at(cx.id()).timers().cancel(1);
        }
    }

    fn on_timer(&mut self, id: u64, cx: &mut Context<'_>) {
        cx.at(ConnectionId::from_u64(id)).timers().set(2, Duration::ZERO);
    }

    fn on_connection_timer(&mut self, _: &mut (), _: u64, cx: &mut Context<'_>) {
        cx.write(b"You said: hello\n");
    }
}

/// Publishes every line to everybody, the sender included.
struct Fanout {
    everybody: Topic,
}

impl Handler for Fanout {
    type Connection = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe(&self.everybody);
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            cx.publish(&self.everybody, line);
        }
    }
}

/// Runs a service, and has a client talk to it.
fn with<H: Handler>(
    backend: Backend,
    factory: impl Fn() -> H + Send + Sync + 'static,
    talk: impl FnOnce(SocketAddr) -> Stats,
) -> Stats {
    let (started, has_started) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut application = Application::with_backend(backend).expect("the backend is there");
        let service = application.add_service(Service::tcp("127.0.0.1:0", factory)).expect("a port is free");
        let Some(Address::Tcp(address)) = service.address() else { panic!("it listens on TCP") };
        started.send((*address, application.handle())).expect("the test waits");
        application.run().expect("it ends well");
    });
    let (address, handle) = has_started.recv().expect("it starts");
    let outcome = talk(address);
    handle.halt();
    thread.join().expect("the loop does not panic");
    outcome
}

/// Returns the allocations of the process in the better half of the rounds, after further rounds that fill pools and lists. The test
/// harness has a thread, too, which allocates once when a test takes long.
fn steady(rounds: usize, mut round: impl FnMut(usize)) -> Stats {
    (0..rounds / 10).for_each(&mut round);
    let mut half = || {
        let region = Region::new(GLOBAL);
        (0..rounds / 2).for_each(&mut round);
        region.change()
    };
    let (first, second) = (half(), half());
    let calls = |stats: &Stats| stats.allocations + stats.reallocations;
    if calls(&first) < calls(&second) { first } else { second }
}

fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(GUARD)).expect("not zero");
    client.set_nodelay(true).expect("it is TCP");
    client
}

fn echoes<H: Handler>(backend: Backend, rounds: usize, factory: impl Fn() -> H + Send + Sync + 'static) -> Stats {
    with(backend, factory, |address| {
        let (mut client, mut answer) = (client(address), [0; 16]);
        steady(rounds, |_| {
            client.write_all(b"hello\n").expect("it is open");
            client.read_exact(&mut answer).expect("an answer comes");
            assert_eq!(&answer, b"You said: hello\n");
        })
    })
}

fn messages_to_fifty(backend: Backend) -> Stats {
    with(
        backend,
        || Fanout { everybody: Topic::new("everybody") },
        |address| {
            // One after the other, each once all heard the word of the one before.
            let (mut members, mut word) = (Vec::new(), [0; 6]);
            for _ in 0..50 {
                members.push(client(address));
                members.last_mut().expect("just pushed").write_all(b"hello\n").expect("it is open");
                members.iter_mut().for_each(|member| member.read_exact(&mut word).expect("a word comes"));
            }
            steady(1_000, |round| {
                members[round % 50].write_all(b"hello\n").expect("it is open");
                for member in &mut members {
                    member.read_exact(&mut word).expect("a word comes");
                    assert_eq!(&word, b"hello\n");
                }
            })
        },
    )
}

/// One test and not several: the whole process is counted.
#[test]
fn ten_thousand_round_trips_a_thousand_timers_and_a_thousand_messages_to_fifty_members_allocate_nothing() {
    let region = Region::new(GLOBAL);
    drop(std::hint::black_box(Box::new(7)));
    assert!(region.change().allocations > 0, "nothing is counted");
    unless_chaos!("counts allocations, and chaos allocates");
    for backend in [Backend::Epoll, Backend::Select] {
        let (echo, fanout) = (echoes(backend, 10_000, || Echo), messages_to_fifty(backend));
        let timed = echoes(backend, 1_000, || Timed);
        assert_eq!((timed.allocations, timed.reallocations), (0, 0), "timers on {backend}: {timed:?}");
        assert_eq!((echo.allocations, echo.reallocations), (0, 0), "echo on {backend}: {echo:?}");
        assert_eq!((fanout.allocations, fanout.reallocations), (0, 0), "fan-out on {backend}: {fanout:?}");
    }
}
