//! Rules 22 to 29: the loop among threads, signals, other processes and other sockets; its start and its end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use reactor::{
    Address, Application, CloseReason, ConnectionId, Context, Deadlines, Error, Handler, Input, Limits, PostError,
    Runner, Service, Written,
};
use rustix::process::Signal;

use crate::child::{Child, LINES, STARTS, counters};
use crate::stage::{
    Client, Order, Plan, Seen, Stage, client_of, pattern, read_all, read_exactly, reset, round_trip, same,
    send_until_stuck, socket_path,
};
use crate::support::application::serve;
use crate::support::{GUARD, on_every_backend};

/// Counts the messages of eight threads, and checks that each thread's numbers come in order.
struct Counter {
    next: [u64; 8],
    seen: Arc<AtomicU64>,
    turns: Arc<AtomicU64>,
}

impl Handler<(usize, u64)> for Counter {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_, (), (usize, u64)>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_, (), (usize, u64)>) {
        input.take_all();
    }

    fn on_message(
        &mut self,
        _: ConnectionId,
        _: Option<&mut ()>,
        (thread, number): (usize, u64),
        cx: &mut Context<'_, (), (usize, u64)>,
    ) {
        assert_eq!(self.next[thread], number);
        self.next[thread] += 1;
        self.turns.store(cx.stats().turns, SeqCst);
        self.seen.fetch_add(1, SeqCst);
    }
}

/// A drain time, for a test that does not wait for its end.
fn drain(timeout: Duration) -> impl FnOnce(&mut Application) + Send + 'static {
    move |application| {
        application.drain_timeout(Some(timeout));
    }
}

/// Connections that one turn accepts: as many may come between the order to stop and the turn that sees the order.
const A_TURN: usize = 64;

fn opened(seen: &[Seen]) -> usize {
    seen.iter().filter(|seen| matches!(seen, Seen::Opened(_))).count()
}

fn same_service(
    service: Service<crate::stage::Witness, crate::stage::Order>,
) -> Service<crate::stage::Witness, crate::stage::Order> {
    service
}

/// A port of this host without a listener, for as long as the socket lives.
fn closed_port() -> (socket2::Socket, SocketAddr) {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a descriptor is free");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port is free");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("it is IP");
    (socket, address)
}

/// A client that connects again after each end.
struct Again {
    upstream: SocketAddr,
}

impl Handler for Again {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        cx.connect(self.upstream, ());
    }

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_>) {}

    fn on_close(&mut self, _: (), _: CloseReason, cx: &mut Context<'_>) {
        let again = cx.connect(self.upstream, ());
        assert_eq!(again == ConnectionId::NONE, cx.is_stopping());
    }
}

/// A service that only receives messages, and never replies.
struct Mute;

impl Handler<u8> for Mute {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_, (), u8>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_, (), u8>) {}
}

/// Blocks in the callback that receives `block`.
#[derive(Clone)]
struct Blocks {
    in_callback: Arc<Barrier>,
    callback_ends: Arc<Barrier>,
}

impl Handler for Blocks {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        let bytes = input.take_all();
        if bytes == b"block" {
            self.in_callback.wait();
            self.callback_ends.wait();
        }
        cx.write(bytes);
    }

    fn on_stopping(&mut self, _: &mut (), _: &mut Context<'_>) {}
}

on_every_backend! {
    // Rule 22.
    fn a_storm_of_signals_loses_nothing(transport: Transport) {
        let child = Child::start("echo", transport);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    child.signal(Signal::USR1);
                    thread::sleep(Duration::from_micros(500));
                }
            });
            let talking: Vec<_> = (0..3).map(|_| scope.spawn(|| {
                let mut client = child.client();
                for number in 0..500 {
                    round_trip(&mut client, format!("line {number}\n").as_bytes());
                }
                // Covers blocked sends and partial reads as well.
                let lines = LINES.repeat(32);
                thread::scope(|scope| {
                    let writer = client.try_clone().unwrap();
                    let lines = &lines;
                    scope.spawn(move || {
                        (&writer).write_all(lines).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    same(&read_all(&mut client), lines);
                });
            })).collect();
            let outcomes: Vec<_> = talking.into_iter().map(|client| client.join()).collect();
            over.store(true, SeqCst);
            assert!(outcomes.iter().all(Result::is_ok));
        });
        assert_eq!(child.terminate(), Some(0));
    }

    // Rule 23.
    fn a_million_messages_of_eight_threads_all_arrive_in_order_with_few_wake_ups(backend: Backend) {
        const EACH: u64 = 125_000;
        let (seen, turns) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, turn) = (seen.clone(), turns.clone());
        let running = serve(backend, move || Counter { next: [0; 8], seen: count.clone(), turns: turn.clone() });
        thread::scope(|scope| {
            for thread in 0..8 {
                let service = running.service.clone();
                scope.spawn(move || {
                    for number in 0..EACH {
                        service.post_wait(ConnectionId::NONE, (thread, number)).expect("the loop runs");
                    }
                });
            }
        });
        let start = Instant::now();
        while seen.load(SeqCst) < 8 * EACH {
            assert!(start.elapsed() < GUARD, "{} arrived", seen.load(SeqCst));
            thread::yield_now();
        }
        // At most one wake-up for each turn, since each turn clears the flag once.
        let turns = turns.load(SeqCst);
        assert!(turns < 8 * EACH / 10, "{turns} turns");
    }

    // Rule 23.
    fn a_full_mailbox_gives_the_message_back_and_takes_more_later(backend: Backend) {
        let stage = Stage::new(backend, Plan::new());
        let frozen = stage.freeze();
        let taken = Arc::new(AtomicU64::new(0));
        let mut posted = 0;
        let refused = loop {
            let taken = taken.clone();
            match stage.running.service.post(ConnectionId::NONE, Order(Box::new(move |_| {
                taken.fetch_add(1, SeqCst);
            }))) {
                Ok(()) => posted += 1,
                Err(error) => break error,
            }
            assert!(posted <= 1 << 20, "it is not bounded");
        };
        assert!(matches!(refused, PostError::Full(_)));
        drop(frozen);
        let order = refused.into_message();
        assert!(stage.running.service.post_wait(ConnectionId::NONE, order).is_ok(), "it runs");
        stage.wait_until("all were taken", move |_| taken.load(SeqCst) == posted + 1);
    }

    // Rule 23.
    fn who_posts_after_the_end_is_told(backend: Backend) {
        let stage = Stage::new(backend, Plan::new());
        let service = stage.running.service.clone();
        stage.end();
        assert!(matches!(service.post(ConnectionId::NONE, Order(Box::new(|_| {}))), Err(PostError::Closed(_))));
        assert!(matches!(service.post_wait(ConnectionId::NONE, Order(Box::new(|_| {}))), Err(PostError::Closed(_))));
        assert!(matches!(service.handle().publish(&"topic".into(), "bytes"), Err(PostError::Closed(_))));
    }

    // Rule 23.
    fn who_posts_to_an_application_that_never_runs_is_told(backend: Backend) {
        let mut application = Application::with_backend(backend).unwrap();
        let service = application.add_service(Service::outbound(|| Mute)).unwrap();
        drop(application);
        assert!(matches!(service.post_wait(ConnectionId::NONE, 7), Err(PostError::Closed(7))));
        assert!(matches!(service.handle().publish(&"topic".into(), "bytes"), Err(PostError::Closed(_))));
    }

    // Rule 23.
    fn what_was_posted_before_the_stop_is_handed_over_before_the_end(backend: Backend) {
        const MESSAGES: u64 = 20_000;
        let stage = Stage::new(backend, Plan::new());
        let handled = Arc::new(AtomicU64::new(0));
        let frozen = stage.freeze();
        for _ in 0..MESSAGES {
            let handled = handled.clone();
            stage.order(move |_| {
                handled.fetch_add(1, SeqCst);
            });
        }
        stage.running.handle.halt();
        drop(frozen);
        stage.end();
        assert_eq!(handled.load(SeqCst), MESSAGES);
    }

    // Rule 24.
    fn who_always_connects_again_can_be_stopped_all_the_same(backend: Backend) {
        let upstream = Stage::new(backend, Plan::echo());
        let address = upstream.address();
        let mut application = Application::with_backend(backend).unwrap();
        application.add_service(Service::outbound(move || Again { upstream: address })).unwrap();
        let handle = application.handle();
        let running = thread::spawn(move || application.run());
        assert!(matches!(upstream.next(), Seen::Opened(_)));
        handle.halt();
        running.join().unwrap().unwrap();
    }

    // Rule 24.
    fn those_in_the_accept_queue_are_served_before_the_end(transport: Transport) {
        let stage = Stage::tuned(transport, Plan::lines(), same_service, |application| {
            application.drain_timeout(None);
        });
        let frozen = stage.freeze();
        let mut clients: Vec<Client> = (0..200).map(|_| stage.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("client {number}\n").as_bytes()).unwrap();
        }
        stage.running.handle.halt();
        drop(frozen);
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(read_all(client), format!("client {number}\n").as_bytes());
        }
        drop(clients);
        let seen = stage.end();
        let stopped = seen.iter().filter(|seen| matches!(seen, Seen::Closed(_, CloseReason::Stopped, 0))).count();
        assert_eq!(stopped, 200, "{seen:?}");
    }

    // Rule 24.
    fn who_comes_while_it_stops_does_not_put_off_the_end(backend: Backend) {
        let listens = Arc::<OnceLock<SocketAddr>>::default();
        let address = listens.clone();
        // Each accepted client makes another client join the queue.
        let plan = Plan::lines().open(move |_| drop(TcpStream::connect(address.get().expect("it is told"))));
        let stage = Stage::new(backend, plan);
        listens.set(stage.address()).expect("it is told once");
        let frozen = stage.freeze();
        let clients: Vec<Client> = (0..3).map(|_| stage.client()).collect();
        stage.running.handle.halt();
        drop(frozen);
        let opened = opened(&stage.end());
        // Other systems do not report the length of the queue.
        assert!(opened >= 3 && (opened <= A_TURN + 3 || !cfg!(target_os = "linux")), "{opened}");
        drop(clients);
    }

    // Rule 24.
    fn a_stop_ends_once_the_last_answer_is_acknowledged_although_the_peer_keeps_its_end_open(backend: Backend) {
        let path = socket_path("acknowledged", backend);
        let listens = path.clone();
        let make = move |factory| Service::unix(listens, factory);
        let hour = Duration::from_secs(3600);
        let patient = Deadlines { linger: hour, first_request: None, ..Deadlines::default() };
        let endless = |app: &mut Application| _ = app.drain_timeout(None);
        let stage = Stage::at(backend, Plan::echo(), make, move |service| service.deadlines(patient), endless);
        // On a Unix socket, unread bytes are unacknowledged.
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"three requests\n").unwrap();
        let Seen::Opened(id) = stage.next() else { panic!("it is opened first") };
        stage.data(id, 15);
        stage.running.handle.halt();
        stage.until(|seen| *seen == Seen::Stopping(id));
        client.read_exact(&mut [0; 15]).unwrap();
        // Well within the hour of the deadline.
        let seen = stage.end();
        assert!(seen.contains(&Seen::Closed(id, CloseReason::Stopped, 0)), "{seen:?}");
        drop(client);
    }

    // Rule 24.
    fn where_nobody_tells_who_was_there_a_stop_takes_in_as_many_as_can_have_been(backend: Backend) {
        let path = socket_path("storm", backend);
        let (listens, connects, limits) = (path.clone(), path.clone(), Limits { backlog: 8, ..Limits::default() });
        let plan = Plan::lines().open(move |_| drop(UnixStream::connect(&connects)));
        let make = move |factory| Service::unix(listens, factory);
        let stage = Stage::at(backend, plan, make, move |service| service.limits(limits), |_| {});
        let frozen = stage.freeze();
        let clients: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        stage.running.handle.halt();
        drop(frozen);
        let opened = opened(&stage.end());
        assert!((3..=A_TURN + 8 + 1).contains(&opened), "{opened}");
        drop(clients);
    }

    // Rules 17 and 24: the last accept found no descriptor, and when one is free, no client is waiting.
    fn a_stop_without_descriptors_ends_once_all_have_ended_and_does_not_wait_for_newcomers(transport: Transport) {
        // While accepting is suspended, and some time later, when only the stop itself tries again. If the later time
        // comes too early, both rounds check the former case.
        for rested in [Duration::ZERO, Duration::from_millis(1200)] {
            let mut child = Child::start("starving and patient", transport);
            let mut clients = Vec::new();
            // Linux takes a descriptor before it looks for a waiting client, so the last possible accept reveals the
            // shortage.
            loop {
                let mut client = child.client();
                round_trip(&mut client, b"hello\n");
                let starved = counters(&mut client).starved;
                clients.push(client);
                if starved > 0 {
                    break;
                }
                assert!(clients.len() < 8, "there is room for all");
            }
            thread::sleep(rested);
            child.signal(Signal::TERM);
            clients.iter_mut().for_each(|client| assert_eq!(read_all(client), b""));
            drop(clients);
            let start = Instant::now();
            let status = loop {
                if let Some(status) = child.process.try_wait().expect("it is our child") {
                    break status;
                }
                assert!(start.elapsed() < GUARD, "it waits, and nobody is there");
                thread::sleep(Duration::from_millis(1));
            };
            assert_eq!(status.code(), Some(0));
        }
    }

    // Rule 24.
    fn everything_asked_before_the_stop_is_answered_however_much_it_is(transport: Transport) {
        const ANSWER: usize = 1 << 20;
        let plan = Plan::new().data(|input, cx| {
            // One line at a time, as long as the output has room for the answer.
            while cx.queued() <= 256 << 10
                && let Some(line) = input.until_eol()
            {
                cx.write(vec![line[0]; ANSWER]);
            }
        });
        let stage = Stage::new(transport, plan);
        let (mut client, _) = stage.open();
        let frozen = stage.freeze();
        client.write_all(b"a\nb\nc\nd\ne\nf\ng\nh\n").unwrap();
        stage.running.handle.halt();
        drop(frozen);
        let answers = read_all(&mut client);
        // Dropped at once: the server lingers for the client, and the comparison takes time.
        drop(client);
        let expected: Vec<u8> = (b'a'..=b'h').flat_map(|letter| vec![letter; ANSWER]).collect();
        same(&answers, &expected);
        assert!(matches!(stage.end().last(), Some(Seen::Closed(_, CloseReason::Stopped, 0))));
    }

    // Rule 24.
    fn who_owes_nothing_closes_at_once(transport: Transport) {
        let stage = Stage::tuned(transport, Plan::echo(), |service| {
            service.deadlines(Deadlines { linger: GUARD, ..Deadlines::default() })
        }, drain(GUARD));
        let mut idle: Vec<Client> = (0..10).map(|_| stage.open().0).collect();
        round_trip(&mut idle[0], b"answered long ago");
        let start = Instant::now();
        // The clients hold their ends open.
        let seen = stage.end();
        assert!(start.elapsed() < GUARD / 4, "it took {:?}", start.elapsed());
        assert_eq!(seen.iter().filter(|seen| matches!(seen, Seen::Stopping(_))).count(), 10);
        assert_eq!(seen.iter().filter(|seen| matches!(seen, Seen::Closed(_, CloseReason::Stopped, 0))).count(), 10);
        idle.iter_mut().for_each(|client| assert_eq!(read_all(client), b""));
    }

    // Rule 24.
    fn a_service_may_say_goodbye_and_go_on_until_it_is_done(transport: Transport) {
        let plan = Plan::lines().stopping(|cx| {
            cx.write(b"soon\n");
        }).data(|input, cx| {
            if let Some(line) = input.until_eol() {
                cx.write(line);
                cx.close();
            }
        });
        let stage = Stage::new(transport, plan);
        let (mut client, _) = stage.open();
        stage.running.handle.halt();
        assert_eq!(&read_exactly::<5>(&mut client), b"soon\n");
        client.write_all(b"one more\n").unwrap();
        assert_eq!(read_all(&mut client), b"one more\n");
        drop(client);
        assert!(matches!(stage.end().last(), Some(Seen::Closed(_, CloseReason::Stopped, 0))));
    }

    // Rule 24.
    fn what_is_left_at_the_drain_deadline_is_reset(transport: Transport) {
        let plan = Plan::new().stopping(|_| {});
        let stage = Stage::tuned(transport, plan, same_service, drain(Duration::from_millis(100)));
        let (mut stubborn, id) = stage.open();
        let (mut owed, owed_id) = stage.open();
        stage.order(move |cx| {
            cx.at(owed_id).write_shared(vec![b'x'; 32 << 20].into());
        });
        let seen = stage.end();
        let reasons: Vec<_> = seen.iter().filter_map(|seen| match seen {
            Seen::Closed(id, reason, owed) => Some((*id, *reason, *owed > 0)),
            _ => None,
        }).collect();
        assert!(reasons.contains(&(id, CloseReason::DrainExpired, false)), "{reasons:?}");
        assert!(reasons.contains(&(owed_id, CloseReason::DrainExpired, true)), "{reasons:?}");
        assert_eq!(stubborn.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(owed.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    // Rule 24. A connection's own thread or process may block in a callback; the stop does not wait for the callback.
    fn a_thread_that_is_stuck_in_a_callback_is_left_behind_when_the_drain_time_is_over(backend: Backend) {
        let (callback_ends, in_callback) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let mut application = Application::with(backend, Runner::threads()).unwrap();
        application.drain_timeout(Some(Duration::from_millis(200)));
        let blocks = Blocks { in_callback: in_callback.clone(), callback_ends: callback_ends.clone() };
        let service = application.add_service(Service::tcp("127.0.0.1:0", move || blocks.clone())).unwrap();
        let Some(Address::Tcp(address)) = service.address() else { panic!("it listens on TCP") };
        let (handle, (ended, end)) = (application.handle(), channel());
        let running = thread::spawn(move || ended.send(application.run().map_err(|error| error.to_string())));
        let [mut stuck, mut stubborn] = [(); 2].map(|()| client_of(*address));
        round_trip(&mut stubborn, b"x");
        stuck.write_all(b"block").unwrap();
        in_callback.wait();
        handle.halt();
        assert_eq!(end.recv_timeout(GUARD).expect("an end while the callback goes on"), Ok(()));
        let stats = handle.stats();
        // The other thread had its time, and ended in order.
        assert_eq!((stats.closed(CloseReason::DrainExpired), stats.open), (1, 1));
        assert_eq!(stubborn.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        callback_ends.wait();
        // The thread returns, finds the application ended, and ends.
        let end = stuck.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{end:?}");
        running.join().unwrap().unwrap();
    }

    // Rule 24.
    fn a_streamer_is_told_that_it_is_time_to_stop(transport: Transport) {
        let plan = Plan::new()
            .open(|cx| {
                cx.write(vec![b'x'; 300_000]);
            })
            .drained(|cx| {
                cx.write(vec![b'x'; 300_000]);
            });
        let stage = Stage::tuned(transport, plan, same_service, drain(Duration::from_secs(2)));
        let (mut client, id) = stage.open();
        let reading = thread::spawn(move || client.read_to_end(&mut Vec::new()).map_err(|error| error.kind()));
        stage.until(|seen| matches!(seen, Seen::Drained(_)));
        let seen = stage.end();
        assert!(seen.contains(&Seen::Stopping(id)));
        assert_eq!(seen.last(), Some(&Seen::Closed(id, CloseReason::Stopped, 0)));
        assert!(matches!(reading.join().unwrap(), Ok(300_000..)));
    }

    // Rule 24.
    fn a_stopping_service_listens_no_more(transport: Transport) {
        let stage = Stage::new(transport, Plan::new().stopping(|_| {}));
        let (client, id) = stage.open();
        let address = stage.address();
        stage.running.handle.halt();
        stage.until(|seen| *seen == Seen::Stopping(id));
        let start = Instant::now();
        while TcpStream::connect(address).is_ok() {
            assert!(start.elapsed() < GUARD, "it still listens");
            // Without a pause the listener's queue is full, and an attempt takes seconds.
            thread::sleep(Duration::from_millis(1));
        }
        drop(client);
        stage.closed(id);
    }

    // Rule 24.
    fn a_signal_ends_it_in_order_and_nothing_answered_is_lost(transport: Transport) {
        let child = Child::start("echo", transport);
        let mut clients: Vec<Client> = (0..50).map(|_| child.client()).collect();
        clients.iter_mut().for_each(|client| round_trip(client, b"before\n"));
        clients.iter_mut().for_each(|client| client.write_all(b"at the end\n").unwrap());
        child.signal(Signal::TERM);
        for client in &mut clients {
            assert_eq!(read_all(client), b"at the end\n");
        }
        drop(clients);
        assert_eq!(child.wait(), Some(0));
    }

    // Rule 35.
    fn a_signal_that_was_blocked_at_the_start_is_heard(backend: Backend) {
        let child = Child::start_by("echo", backend, "exec env --block-signal=TERM,INT,USR1,HUP \"$0\" \"$@\"");
        round_trip(&mut child.client(), b"hello\n");
        assert_eq!(child.terminate(), Some(0));
    }

    // Rule 24.
    fn a_second_signal_ends_it_at_once(transport: Transport) {
        for second in [Signal::INT, Signal::TERM] {
            let child = Child::start("patient", transport);
            let client = child.client();
            send_until_stuck(&client, &LINES, 64 << 20);
            child.signal(Signal::TERM);
            while TcpStream::connect(child.address).is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
            child.signal(second);
            assert_eq!(child.wait(), Some(128 + second.as_raw()));
        }
    }

    // Rule 25. For epoll the test shows nothing more.
    fn descriptors_beyond_1024_are_served(backend: Backend) {
        let stage = Stage::patient(backend, Plan::echo());
        // Occupies low numbers, so the loop's descriptors are high. Other tests free some numbers meanwhile, so more
        // may be needed.
        let (mut held, mut clients) = (Vec::new(), Vec::<Client>::new());
        while clients.len() < 100 || !clients.iter().any(|client| client.as_raw_fd() > 1200) {
            held.extend((0..11).map(|_| std::fs::File::open("/dev/null").unwrap()));
            clients.push(stage.open().0);
        }
        for _ in 0..3 {
            clients.iter_mut().for_each(|client| round_trip(client, b"high"));
        }
        let bytes = pattern(4 << 20);
        let mut last = clients.pop().unwrap();
        thread::scope(|scope| {
            let writer = last.try_clone().unwrap();
            let bytes = &bytes;
            scope.spawn(move || {
                (&writer).write_all(bytes).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            same(&read_all(&mut last), bytes);
        });
    }

    // Rule 26.
    fn no_descriptor_goes_to_a_program_that_is_started(backend: Backend) {
        let (upstream, address) = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            (listener, address)
        };
        let stage = Stage::new(backend, Plan::echo());
        let (mut client, _) = stage.open();
        let id = stage.ask(move |cx| cx.connect(Address::Tcp(address), ()));
        stage.until(|seen| *seen == Seen::Connected(id));
        round_trip(&mut client, b"both ends are here");
        let starts = STARTS.read().unwrap_or_else(|failed| failed.into_inner());
        let listing = std::process::Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
        drop(starts);
        let listing = String::from_utf8(listing.stdout).unwrap();
        assert!(listing.contains("->"), "{listing}");
        assert!(!listing.contains("socket:") && !listing.contains("anon_inode:"), "{listing}");
        drop(upstream);
    }

    // Rule 27.
    fn a_connection_comes_about_and_what_was_written_before_is_sent(backend: Backend) {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = upstream.local_addr().unwrap();
        let stage = Stage::new(backend, Plan::new());
        let id = stage.ask(move |cx| {
            let id = cx.connect(Address::Tcp(address), ());
            cx.at(id).write(b"early");
            id
        });
        let (mut server, _) = upstream.accept().unwrap();
        assert_eq!(&read_exactly::<5>(&mut server), b"early");
        assert_eq!(stage.next(), Seen::Connected(id));
        server.write_all(b"answer").unwrap();
        assert_eq!(stage.data(id, 6), b"answer");
        drop(server);
        assert_eq!(stage.next(), Seen::End(id, 0));
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
        assert_eq!(stage.stats().connected, 1);
    }

    // Rule 27.
    fn a_connection_that_fails_says_why_once_and_later(backend: Backend) {
        let (_held, refusing) = closed_port();
        let nowhere = socket_path("nowhere", backend);
        let not_listening = socket_path("deaf", backend);
        drop(UnixListener::bind(&not_listening).unwrap());
        let stage = Stage::new(backend, Plan::new());
        let outcomes = [
            (Address::Tcp(refusing), ErrorKind::ConnectionRefused),
            (Address::Unix(nowhere), ErrorKind::NotFound),
            (Address::Unix(not_listening.clone()), ErrorKind::ConnectionRefused),
            (Address::Tcp(SocketAddr::from(([255, 255, 255, 255], 9))), ErrorKind::NetworkUnreachable),
        ];
        for (address, kind) in outcomes {
            let to = address.clone();
            let id = stage.ask(move |cx| cx.connect(to, ()));
            match stage.next() {
                Seen::Closed(closed, CloseReason::ConnectFailed(errno), 0) => {
                    assert_eq!((closed, errno.to_io().kind()), (id, kind), "{address}");
                }
                other => panic!("{address}: {other:?}"),
            }
        }
        stage.sees_nothing();
        assert_eq!(stage.stats().connected, 0);
        std::fs::remove_file(not_listening).unwrap();
    }

    // Rule 27.
    fn a_connection_that_is_closed_before_it_stands_has_that_one_outcome(backend: Backend) {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_held, refusing) = closed_port();
        let stage = Stage::new(backend, Plan::new());
        for address in [upstream.local_addr().unwrap(), refusing] {
            let id = stage.ask(move |cx| {
                let id = cx.connect(Address::Tcp(address), ());
                cx.at(id).close();
                id
            });
            assert_eq!(stage.next(), Seen::Closed(id, CloseReason::Closed, 0));
        }
        stage.sees_nothing();
    }

    // Rule 27.
    fn a_connection_that_is_reset_at_once_came_about_first(backend: Backend) {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = upstream.local_addr().unwrap();
        let stage = Stage::new(backend, Plan::new());
        let frozen = stage.freeze();
        stage.order(move |cx| {
            cx.connect(Address::Tcp(address), ());
        });
        drop(frozen);
        let (server, _) = upstream.accept().unwrap();
        reset(server);
        // Either outcome may come first; but the end comes once, with its reason.
        let mut seen = vec![stage.next()];
        if matches!(seen[0], Seen::Connected(_)) {
            seen.push(stage.next());
        }
        match seen.last() {
            Some(Seen::Closed(_, CloseReason::Reset, 0)) => {}
            Some(Seen::Closed(_, CloseReason::ConnectFailed(errno), 0)) => {
                assert_eq!(errno.to_io().kind(), ErrorKind::ConnectionReset);
            }
            other => panic!("{other:?}"),
        }
        stage.sees_nothing();
    }

    // Rule 28.
    fn a_port_is_bound_again_at_once_and_a_taken_one_is_noticed(backend: Backend) {
        // An own loopback address, so that no other socket gets the port when it is free.
        let host = if backend == reactor::Backend::Epoll { "127.0.0.77:0" } else { "127.0.0.79:0" };
        let plan = Plan::new().open(|cx| cx.close());
        let stage = Stage::at(backend, plan, move |factory| Service::tcp(host, factory), same_service, |_| {});
        let address = stage.address();
        // The side that closes first keeps its port in TIME_WAIT.
        let mut client = stage.client();
        assert_eq!(read_all(&mut client), b"");
        drop(client);
        let mut second = Application::with_backend(backend).unwrap();
        let taken = second.add_service(Service::tcp(&address.to_string(), || Nobody)).unwrap_err();
        match taken {
            Error::Bind { address: at, cause } => {
                assert_eq!((at, cause.kind()), (Address::Tcp(address), ErrorKind::AddrInUse));
            }
            other => panic!("{other:?}"),
        }
        let no_process_starts = STARTS.write().unwrap_or_else(|failed| failed.into_inner());
        stage.end();
        let again = Stage::at(backend, Plan::echo(), move |factory| {
            Service::tcp(&address.to_string(), factory)
        }, same_service, |_| {});
        drop(no_process_starts);
        assert_eq!(again.address(), address);
        round_trip(&mut again.client(), b"again");
    }

    // Rule 28.
    fn a_silent_client_is_noticed_unless_the_service_says_that_clients_speak_first(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let _silent = stage.client();
        assert!(matches!(stage.next(), Seen::Opened(_)));
        let stage = Stage::tuned(backend, Plan::echo(), |service| service.client_speaks_first(GUARD), |_| {});
        let mut client = stage.client();
        stage.sees_nothing();
        round_trip(&mut client, b"now");
    }

    // Rule 29.
    fn nothing_is_left_of_applications_that_came_and_went(backend: Backend) {
        assert_eq!(Child::start("come and go", backend).wait(), Some(0));
    }

    // Rule 29.
    fn every_connection_and_every_byte_is_accounted_for(transport: Transport) {
        let totals = Arc::new(Mutex::new((0, 0)));
        let count = totals.clone();
        let plan = Plan::new().data(move |input, cx| {
            let bytes = input.take(input.len() / 2).unwrap_or_default();
            let mut totals = count.lock().expect("nobody panics");
            totals.0 += bytes.len();
            // Refused when sending has failed, while received bytes are still delivered.
            if cx.write(bytes) != Written::Refused {
                totals.1 += bytes.len();
            }
            match bytes.len() % 7 {
                0 => cx.pause_reading(),
                1 => cx.close(),
                2 => cx.abort(),
                _ => {}
            }
        });
        let stage = Stage::new(transport, plan);
        for size in (1..200).map(|number| number * 37) {
            let mut client = stage.client();
            client.write_all(&pattern(size)).unwrap();
            match size % 3 {
                0 => drop(client),
                1 => reset(client),
                _ => {
                    let id = stage.until(|seen| matches!(seen, Seen::Data(..))).id();
                    stage.order(move |cx| cx.at(id).close());
                }
            }
        }
        stage.wait_until("all were accepted", |cx| cx.stats().accepted == 199);
        // Paused connections stay until they are closed.
        let ids: Vec<ConnectionId> = stage.left_over().iter().map(Seen::id).collect();
        stage.order(move |cx| ids.into_iter().for_each(|id| cx.at(id).close()));
        let start = Instant::now();
        let stats = loop {
            let stats = stage.stats();
            if stats.closed_total() == 199 {
                break stats;
            }
            assert!(start.elapsed() < GUARD, "{stats}");
            thread::sleep(Duration::from_millis(5));
        };
        let (consumed, written) = *totals.lock().unwrap();
        assert_eq!(stats.received, consumed as u64 + stats.unread, "{stats}");
        assert_eq!(written as u64, stats.sent + stats.unsent, "{stats}");
        assert_eq!(stats.accepted, 199);
        stage.wait_until("nobody is left", |cx| cx.stats().open == 0);
    }

    // Rule 29.
    fn several_applications_live_in_one_process(backend: Backend) {
        let stages: Vec<Stage> = (0..4).map(|_| Stage::new(backend, Plan::echo())).collect();
        for stage in &stages {
            round_trip(&mut client_of(stage.address()), b"each");
        }
        stages.into_iter().for_each(|stage| drop(stage.end()));
    }
}

struct Nobody;

impl Handler for Nobody {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_>) {}
}
