//! Several loops in one application: new connections are spread over the loops, publications reach members on all
//! loops, and the promises of one loop hold for all together.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use reactor::{Application, Backend, CloseReason, ConnectionId, Handler, Input, Limits, Runner, Service, Topic};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::child::Child;
use crate::stage::{QUIET, client_of, read_all, round_trip};
use crate::support::application::{Running, serve_by};
use crate::support::{GUARD, on_every_backend};

type Context<'a> = reactor::Context<'a, (), Order>;

/// An order for the handler that serves a connection.
struct Order(Box<dyn FnOnce(&mut Context<'_>) + Send>);

/// Answers each line with the line itself; publishes lines that begin with `!` to all others; panics at `panic`.
struct Member {
    topic: Topic,
    opened: Sender<ConnectionId>,
    closed: Sender<CloseReason>,
}

impl Handler<Order> for Member {
    type Connection = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe(&self.topic);
        let _ = self.opened.send(cx.id());
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            match line {
                b"panic\n" => panic!("as the test has it"),
                [b'!', published @ ..] => {
                    cx.publish_to_others(&self.topic, published);
                }
                line => {
                    cx.write(line);
                }
            }
        }
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, order: Order, cx: &mut Context<'_>) {
        order.0(cx);
    }

    fn on_close(&mut self, _: (), reason: CloseReason, _: &mut Context<'_>) {
        let _ = self.closed.send(reason);
    }
}

struct Loops {
    running: Running<Order>,
    opened: Receiver<ConnectionId>,
    closed: Receiver<CloseReason>,
    topic: Topic,
}

impl Loops {
    fn new(backend: Backend, count: usize) -> Self {
        Self::tuned(backend, count, Limits::default(), |_| {})
    }

    fn tuned(
        backend: Backend,
        count: usize,
        limits: Limits,
        configure: impl FnOnce(&mut Application) + Send + 'static,
    ) -> Self {
        Self::by(backend, Runner::loops(count).unwrap(), limits, configure)
    }

    fn by(
        backend: Backend,
        runner: Runner,
        limits: Limits,
        configure: impl FnOnce(&mut Application) + Send + 'static,
    ) -> Self {
        let topic = Topic::new("all");
        let ((opened, is_opened), (closed, is_closed)) = (channel(), channel());
        let (opened, closed, of_handlers) = (Mutex::new(opened), Mutex::new(closed), topic.clone());
        let factory = move || Member {
            topic: of_handlers.clone(),
            opened: opened.lock().unwrap().clone(),
            closed: closed.lock().unwrap().clone(),
        };
        let make = || Service::tcp("127.0.0.1:0", factory).limits(limits).refusal("full\n");
        let running = serve_by(backend, runner, make, configure);
        Loops { running, opened: is_opened, closed: is_closed, topic }
    }

    fn client(&self) -> TcpStream {
        client_of(self.running.address())
    }

    fn open(&self) -> (TcpStream, ConnectionId) {
        let client = self.client();
        (client, self.opened.recv_timeout(GUARD).expect("it is served"))
    }

    /// Runs an order on the loop of this connection, and waits for the answer.
    fn ask<R: Send + 'static>(
        &self,
        id: ConnectionId,
        order: impl FnOnce(&mut Context<'_>) -> R + Send + 'static,
    ) -> R {
        let (answer, answered) = channel();
        let order = Order(Box::new(move |cx| drop(answer.send(order(cx)))));
        self.running.service.post(id, order).unwrap_or_else(|error| panic!("{error}"));
        answered.recv_timeout(GUARD).expect("the loop answers")
    }

    /// Stops the loop of this connection until the returned value is dropped.
    fn freeze(&self, id: ConnectionId) -> Sender<()> {
        let (frozen, is_frozen) = channel();
        let (thaw, thawed) = channel::<()>();
        let order = Order(Box::new(move |_| {
            let _ = frozen.send(());
            let _ = thawed.recv();
        }));
        self.running.service.post(id, order).unwrap_or_else(|error| panic!("{error}"));
        is_frozen.recv_timeout(GUARD).expect("it comes to that");
        thaw
    }
}

/// The loop of a connection, as its id names the loop.
fn loop_of(id: ConnectionId) -> String {
    id.to_string().split('.').next().unwrap_or_default().to_owned()
}

/// Returns the cores on which the calling thread may run.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(None).expect("it is told");
    (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
}

/// Restricts the calling thread to `core`.
fn keep_to(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("it may be used");
}

fn take(client: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).expect("all of it comes");
    bytes
}

/// Tells the loop of each message, and how many loops there are.
struct Numbered(Sender<(usize, usize, u32)>);

impl Handler<u32> for Numbered {
    type Connection = ();

    fn on_open(&mut self, _: &mut reactor::Context<'_, (), u32>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut reactor::Context<'_, (), u32>) {
        input.take_all();
    }

    fn on_message(
        &mut self,
        to: ConnectionId,
        _: Option<&mut ()>,
        number: u32,
        cx: &mut reactor::Context<'_, (), u32>,
    ) {
        assert_eq!(to, ConnectionId::NONE);
        self.0.send((cx.loop_number(), cx.loops(), number)).expect("the test waits for it");
    }
}

on_every_backend! {
    // Rule 32.
    fn a_message_is_posted_to_one_loop_or_to_each(backend: Backend) {
        let (tell, told) = channel();
        let mut application = reactor::Application::with(backend, Runner::loops(3).unwrap()).unwrap();
        let service = Service::outbound(move || Numbered(tell.clone()));
        let service = application.add_service(service).unwrap();
        let handle = application.handle();
        let running = std::thread::spawn(move || application.run());
        assert_eq!(handle.loops(), 3);
        let next = || told.recv_timeout(GUARD).expect("it arrives");
        for number in 0..3 {
            service.post_to_loop(number, 7).unwrap();
            assert_eq!(next(), (number, 3, 7));
            service.post_to_loop_wait(number, 6).unwrap();
            assert_eq!(next(), (number, 3, 6));
        }
        for number in [3, 255, 256, 1 << 20, usize::MAX] {
            assert!(matches!(service.post_to_loop(number, 8), Err(reactor::PostError::Closed(8))), "loop {number}");
        }
        service.post_to_all(9).unwrap();
        let mut all = [next(), next(), next()];
        all.sort();
        assert_eq!(all, [(0, 3, 9), (1, 3, 9), (2, 3, 9)], "each loop once, and nothing else");
        handle.halt();
        running.join().unwrap().unwrap();
        let missed = service.post_to_all(10).unwrap_err();
        let missed: Vec<_> = missed.into_iter().map(|(number, error)| (number, error.into_message())).collect();
        assert_eq!(missed, [(0, 10), (1, 10), (2, 10)], "those that have ended");
    }


    fn new_connections_are_spread_evenly_over_the_loops(backend: Backend) {
        let loops = Loops::new(backend, 4);
        let mut clients: Vec<(TcpStream, ConnectionId)> = (0..40).map(|_| loops.open()).collect();
        let count = |clients: &[(TcpStream, ConnectionId)]| {
            let mut each = HashMap::<String, usize>::new();
            clients.iter().for_each(|(_, id)| *each.entry(loop_of(*id)).or_default() += 1);
            let mut counts: Vec<usize> = each.into_values().collect();
            counts.sort();
            counts
        };
        assert_eq!(count(&clients), [10, 10, 10, 10]);
        // The loop that has lost connections gets the next ones.
        let gone = loop_of(clients[0].1);
        let (left, stay): (Vec<_>, Vec<_>) = clients.drain(..).partition(|(_, id)| loop_of(*id) == gone);
        let leavers = left.len();
        drop(left);
        assert_eq!((0..leavers).map_while(|_| loops.closed.recv_timeout(GUARD).ok()).count(), leavers);
        clients = stay;
        clients.extend((0..leavers).map(|_| loops.open()));
        assert_eq!(count(&clients), [10, 10, 10, 10]);
        for (client, _) in &mut clients {
            round_trip(client, b"hello\n");
        }
    }

    fn what_one_loop_publishes_reaches_members_on_all_of_them_in_order(backend: Backend) {
        const MESSAGES: usize = 2_000;
        let loops = Loops::new(backend, 3);
        let mut clients: Vec<TcpStream> = (0..9).map(|_| loops.open().0).collect();
        let expected = |by: usize| (0..MESSAGES).map(move |number| format!("{by} {number}\n"));
        for (by, client) in clients[..3].iter().enumerate() {
            let mut client = client.try_clone().unwrap();
            let said: String = expected(by).map(|line| format!("!{line}")).collect();
            std::thread::spawn(move || client.write_all(said.as_bytes()));
        }
        let total: usize = (0..3).map(|by| expected(by).map(|line| line.len()).sum::<usize>()).sum();
        for (place, client) in clients.iter_mut().enumerate() {
            let own = if place < 3 { expected(place).map(|line| line.len()).sum() } else { 0 };
            let heard = String::from_utf8(take(client, total - own)).unwrap();
            for by in (0..3).filter(|&by| by != place) {
                let of_one: Vec<&str> = heard.lines().filter(|line| line.starts_with(&format!("{by} "))).collect();
                assert!(of_one.iter().copied().eq(expected(by).collect::<String>().lines()), "from {by} to {place}");
            }
        }
    }

    fn a_message_that_another_thread_publishes_or_posts_finds_its_loop(backend: Backend) {
        let loops = Loops::new(backend, 3);
        let mut clients: Vec<(TcpStream, ConnectionId)> = (0..6).map(|_| loops.open()).collect();
        loops.running.handle.publish(&loops.topic, "to all\n").unwrap();
        for (client, _) in &mut clients {
            assert_eq!(take(client, 7), b"to all\n");
        }
        for (client, id) in &mut clients {
            let id = *id;
            assert_eq!(loops.ask(id, move |cx| cx.at(id).write(b"to you\n")), reactor::Written::Queued);
            assert_eq!(take(client, 7), b"to you\n");
        }
        // Another loop does not know the connection.
        let (here, there) = (clients[0].1, clients[1].1);
        assert_ne!(loop_of(here), loop_of(there));
        assert_eq!(loops.ask(there, move |cx| cx.at(here).write(b"no")), reactor::Written::Refused);
    }

    fn one_that_was_not_read_for_want_of_room_and_had_left_nothing_unread_is_read_again(backend: Backend) {
        let limits = Limits { member_queue: 64 << 20, ..Limits::default() };
        let loops = Loops::tuned(backend, 2, limits, |_| {});
        let (mut publisher, publishes) = loops.open();
        let (mut member, listens) = loops.open();
        assert_ne!(loop_of(publishes), loop_of(listens));
        let thaw = loops.freeze(listens);
        let line = [&b"!"[..], &vec![b'x'; 100 * 1024], b"\n"].concat();
        // One line at a time, each received whole, until the other loop has no room and the next line is not read.
        let before = loops.ask(publishes, |cx| cx.stats().received);
        let mut sent = before;
        'lines: loop {
            publisher.write_all(&line).unwrap();
            sent += line.len() as u64;
            assert!(sent < 64 << 20, "there is room for ever");
            let start = std::time::Instant::now();
            while loops.ask(publishes, |cx| cx.stats().received) < sent {
                if start.elapsed() > 10 * QUIET {
                    break 'lines;
                }
            }
        }
        let read = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while member.read(&mut buffer).is_ok_and(|count| count > 0) {}
        });
        drop(thaw);
        round_trip(&mut publisher, b"read again\n");
        drop(loops);
        read.join().unwrap();
    }

    fn while_a_loop_has_no_room_whoever_publishes_is_not_read_and_nothing_is_lost(backend: Backend) {
        const LINE: usize = 1024;
        // The messages for the frozen loop come in one burst: more than the usual limit of a member's queue.
        let limits = Limits { member_queue: 64 << 20, ..Limits::default() };
        let loops = Loops::tuned(backend, 2, limits, |_| {});
        let (mut publisher, publishes) = loops.open();
        let (mut member, listens) = loops.open();
        let (mut neighbour, beside) = loops.open();
        assert_ne!(loop_of(publishes), loop_of(listens));
        assert_eq!(loop_of(publishes), loop_of(beside));
        let thaw = loops.freeze(listens);
        // The neighbour reads all the time, so only the frozen loop limits the publisher.
        let mut also = neighbour.try_clone().unwrap();
        let line = [&b"!"[..], &[b'x'; LINE - 1], b"\n"].concat();
        publisher.set_write_timeout(Some(QUIET)).unwrap();
        let read = std::thread::spawn(move || {
            let mut heard = 0;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = also.read(&mut buffer).unwrap();
                heard += count;
                if buffer[..count].contains(&b'.') {
                    return heard;
                }
            }
        });
        let mut sent = 0;
        'flood: while sent < 512 << 20 {
            let mut at = 0;
            while at < line.len() {
                match publisher.write(&line[at..]) {
                    Ok(count) => at += count,
                    Err(_) if at == 0 => break 'flood,
                    Err(_) => break 'flood,
                }
                sent += 1;
            }
        }
        let received = loops.ask(publishes, |cx| cx.stats().received);
        assert!(received < 32 << 20, "{received} bytes were taken in from one that was to wait");
        // Other connections of the publisher's loop are served meanwhile.
        neighbour.write_all(b"still here\n").unwrap();
        drop(thaw);
        // The cut line is completed, and all lines arrive.
        publisher.set_write_timeout(Some(GUARD)).unwrap();
        publisher.write_all(b"\n!.\n").unwrap();
        let mut buffer = vec![0; 64 * 1024];
        let mut heard = 0;
        loop {
            let count = member.read(&mut buffer).unwrap();
            assert!(count > 0);
            heard += count;
            if buffer[..count].contains(&b'.') {
                break;
            }
        }
        assert_eq!(heard + b"still here\n".len(), read.join().unwrap());
    }

    fn each_pinned_loop_keeps_to_a_core_of_its_own_in_turn(backend: Backend) {
        let count = cores().len() + 1;
        let loops = Loops::by(backend, Runner::loops(count).unwrap().pinned(), Limits::default(), |_| {});
        let clients: Vec<(TcpStream, ConnectionId)> = (0..count).map(|_| loops.open()).collect();
        let mut each: Vec<(usize, Vec<usize>)> = clients
            .iter()
            .map(|&(_, id)| (loop_of(id).parse().unwrap(), loops.ask(id, |_| cores())))
            .collect();
        each.sort();
        let in_turn = cores().into_iter().cycle().map(|core| vec![core]);
        assert!(each.iter().cloned().eq((0..count).zip(in_turn)), "{each:?}");
    }

    fn loops_that_are_not_pinned_run_where_they_may(backend: Backend) {
        let loops = Loops::new(backend, 2);
        for (_client, id) in [loops.open(), loops.open()] {
            assert_eq!(loops.ask(id, |_| cores()), cores());
        }
    }

    fn pinned_loops_use_no_core_that_their_process_may_not(backend: Backend) {
        let only = *cores().last().unwrap();
        let runner = Runner::loops(2).unwrap().pinned();
        let loops = Loops::by(backend, runner, Limits::default(), move |_| keep_to(only));
        for (_client, id) in [loops.open(), loops.open()] {
            assert_eq!(loops.ask(id, |_| cores()), [only]);
        }
    }

    fn a_thread_that_a_pinned_loop_starts_may_leave_its_core_and_the_loop_may_not(backend: Backend) {
        let loops = Loops::by(backend, Runner::loops(2).unwrap().pinned(), Limits::default(), |_| {});
        for (_client, id) in [loops.open(), loops.open()] {
            let handle = loops.running.handle.clone();
            let (own, inherited, after) = loops.ask(id, move |_| {
                handle.leave_core();
                let there = std::thread::spawn(move || {
                    let inherited = cores();
                    handle.leave_core();
                    (inherited, cores())
                });
                let (inherited, after) = there.join().unwrap();
                (cores(), inherited, after)
            });
            assert_eq!((own.len(), &inherited, after), (1, &own, cores()));
        }
    }

    fn whoever_runs_pinned_loops_has_its_cores_back_afterwards(backend: Backend) {
        let before = cores();
        let mut application = Application::with(backend, Runner::loops(2).unwrap().pinned()).unwrap();
        let (tell, told) = channel();
        application.add_loop(QUIET, move |cx| {
            let _ = tell.send(cores());
            cx.halt();
        });
        application.run().unwrap();
        assert_eq!(told.try_iter().last().unwrap(), [before[0]]);
        assert_eq!(cores(), before);
        // The cores are also restored if one loop panics.
        let mut application = Application::with(backend, Runner::loops(2).unwrap().pinned()).unwrap();
        application.add_service(Service::tcp("127.0.0.1:0", || -> Member { panic!("as the test has it") })).unwrap();
        std::panic::catch_unwind(AssertUnwindSafe(|| application.run())).unwrap_err();
        assert_eq!(cores(), before);
    }

    fn a_panic_on_one_loop_harms_no_other(backend: Backend) {
        let loops = Loops::new(backend, 2);
        let (mut one, _) = loops.open();
        let (mut other, _) = loops.open();
        one.write_all(b"panic\n").unwrap();
        assert_eq!(loops.closed.recv_timeout(GUARD).unwrap(), CloseReason::Panicked);
        round_trip(&mut other, b"hello\n");
        let (mut next, _) = loops.open();
        round_trip(&mut next, b"hello\n");
        assert_eq!(loops.running.handle.stats().panics, 1);
    }

    fn caps_and_counters_are_those_of_all_loops_together(backend: Backend) {
        let limits = Limits { connections: Some(3), ..Limits::default() };
        let loops = Loops::tuned(backend, 2, limits, |_| {});
        let mut clients: Vec<TcpStream> = (0..3).map(|_| loops.open().0).collect();
        assert_eq!(read_all(&mut loops.client()), b"full\n");
        clients.iter_mut().for_each(|client| round_trip(client, b"hello\n"));
        let stats = loops.running.handle.stats();
        assert_eq!((stats.accepted, stats.refused, stats.received), (3, 1, 18), "{stats}");
        drop(clients.pop());
        loops.closed.recv_timeout(GUARD).unwrap();
        round_trip(&mut loops.open().0, b"hello\n");
    }

    fn stopping_serves_those_in_the_accept_queue_on_every_loop(backend: Backend) {
        let loops = Loops::new(backend, 2);
        let (_first, on_first) = loops.open();
        let (_second, on_second) = loops.open();
        let thaws = [loops.freeze(on_first), loops.freeze(on_second)];
        let mut queued: Vec<TcpStream> = (0..20).map(|_| loops.client()).collect();
        queued.iter_mut().for_each(|client| client.write_all(b"hello\n").unwrap());
        loops.running.handle.halt();
        drop(thaws);
        for client in &mut queued {
            assert_eq!(read_all(client), b"hello\n");
        }
        let served: Vec<String> = loops.opened.try_iter().map(loop_of).collect();
        assert_eq!(served.len(), 20);
        // A loop that has ended some of its connections meanwhile gets more of the others.
        let by_first = served.iter().filter(|number| *number == "0").count();
        assert!((1..20).contains(&by_first), "{served:?}");
        drop(queued);
        let handle = loops.running.handle.clone();
        loops.running.join().unwrap();
        assert_eq!(handle.stats().closed_total(), 22);
    }

    fn a_descriptor_that_any_loop_frees_lets_in_who_waits_for_one(backend: Backend) {
        let child = Child::start_by("two loops", backend, "ulimit -n 32 && exec \"$0\" \"$@\"");
        let mut clients: Vec<TcpStream> = (0..24).map(|_| client_of(child.address)).collect();
        clients.iter_mut().for_each(|client| client.write_all(b"hello\n").unwrap());
        // The answers of those at the beginning have come when no further answer comes in a while.
        let has_answer = |client: &TcpStream| {
            client.set_read_timeout(Some(QUIET)).unwrap();
            let answered = client.peek(&mut [0; 6]).is_ok();
            client.set_read_timeout(Some(GUARD)).unwrap();
            answered
        };
        let (mut served, mut before) = (0, usize::MAX);
        while served < 2 || served != before {
            before = std::mem::replace(&mut served, clients.iter().take_while(|client| has_answer(client)).count());
        }
        assert!(served < 24, "all are served");
        // A client that leaves, on any loop, makes room for the next client.
        let mut waiting = clients.split_off(served);
        for mut next in waiting.drain(..served.min(24 - served)) {
            drop(clients.pop());
            let mut answer = [0; 6];
            next.read_exact(&mut answer).expect("it is its turn");
        }
        drop((clients, waiting));
        assert_eq!(child.terminate(), Some(0));
    }
}
