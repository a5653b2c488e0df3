//! Rules 24 and 35: the application stops in order. Received input is answered, the drain time bounds the stop, and a second
//! signal ends the process at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use reactor::{
    Address, Application, CloseReason, ConnectionId, Context, Deadlines, Handler, Input, Limits, Runner, Service,
};
use rustix::process::Signal;

use crate::child::{Child, LINES, counters};
use crate::stage::{
    Client, Plan, Seen, Stage, client_of, read_all, read_exactly, round_trip, same, send_until_stuck, socket_path,
};
use crate::support::{GUARD, on_every_backend};

/// A drain time, for a test that does not wait for its end.
fn drain(timeout: Duration) -> impl FnOnce(&mut Application) + Send + 'static {
    move |application| {
        application.drain_timeout(Some(timeout));
    }
}

/// Connections that a turn accepts: as many may come between the order to stop and the turn that handles the order.
const A_TURN: usize = 64;

fn opened(seen: &[Seen]) -> usize {
    seen.iter().filter(|seen| matches!(seen, Seen::Opened(_))).count()
}

fn same_service(
    service: Service<crate::stage::Witness, crate::stage::Order>,
) -> Service<crate::stage::Witness, crate::stage::Order> {
    service
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

/// Stops an application with two threads, of which one is stuck in a callback. Returns whether the other one had ended in order when
/// the drain time was over.
fn stuck_thread_alone_is_left_behind(backend: reactor::Backend, drain_time: Duration) -> bool {
    let (callback_ends, in_callback) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let mut application = Application::with(backend, Runner::threads()).unwrap();
    application.drain_timeout(Some(drain_time));
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
    // If the other thread had its time, it ended in order.
    let alone = (stats.closed(CloseReason::DrainExpired), stats.open) == (1, 1);
    let end = stubborn.read(&mut [0; 1]).map_err(|error| error.kind());
    assert!(!alone || end == Err(ErrorKind::ConnectionReset), "{end:?}");
    callback_ends.wait();
    // The thread returns, finds the application ended, and ends.
    let end = stuck.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
    assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    running.join().unwrap().unwrap();
    alone
}

on_every_backend! {
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
    fn a_stop_without_descriptors_ends_once_all_have_ended_and_does_not_wait_for_new_connections(transport: Transport) {
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
        // The other thread has an eighth of the time to end, which may be too little on a busy machine.
        let all = [200, 800, 3200, 12_800].map(Duration::from_millis);
        assert!(all.iter().any(|time| stuck_thread_alone_is_left_behind(backend, *time)), "the other thread is left behind, too");
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
        let stage = Stage::tuned(transport, plan, same_service, drain(GUARD));
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
}
