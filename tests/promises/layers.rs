//! Rules of connections with a [`Layer`] alone: handshakes, authenticated ends, alerts, and bytes that the layer itself owes. The
//! tests of a [`Transport`](crate::transport::Transport) check that the rules of plain connections hold for the plaintext.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use reactor::{Application, CloseReason, Context, Deadline, Deadlines, Handler, Input, Layer, Limits, Opened};
use reactor::{Runner, Service};

use crate::records::{ALERT, END, HELLO, RECORD_MAX, Records, UPDATE, WELCOME, append_masked, opened, sealed};
use crate::stage::{Order, Plan, Seen, Stage, Witness, client_with, pattern, read_all, same, server_end};
use crate::support::{GUARD, on_every_backend, unless_chaos};

fn greet(client: &mut TcpStream) {
    client.write_all(HELLO).unwrap();
    let mut welcome = [0; 4];
    client.read_exact(&mut welcome).unwrap();
    assert_eq!(&welcome, WELCOME);
}

/// Seals records of a chosen length, and counts the bytes of the wire.
struct Counted {
    records: Box<dyn Layer>,
    record: usize,
    sealed: Arc<AtomicUsize>,
}

impl Layer for Counted {
    fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> Opened {
        self.records.open(wire, plain)
    }

    fn seal(&mut self, plain: &[u8]) {
        plain.chunks(self.record).for_each(|part| self.records.seal(part));
    }

    fn owes(&self) -> bool {
        self.records.owes()
    }

    fn owed(&mut self, wire: &mut Vec<u8>) {
        let before = wire.len();
        self.records.owed(wire);
        self.sealed.fetch_add(wire.len() - before, SeqCst);
    }

    fn is_ready(&self) -> bool {
        self.records.is_ready()
    }

    fn finish(&mut self) {
        self.records.finish();
    }
}

/// Bytes on their way to this client: unacknowledged ones at the server's end, and unread ones at the client's.
fn in_kernel(client: &TcpStream) -> usize {
    let [own, peer] =
        [client.local_addr(), client.peer_addr()].map(|address| format!(":{:04X}", address.unwrap().port()));
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let queues = |local: &str, remote: &str| {
        let line = table.lines().find(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1].ends_with(local) && fields[2].ends_with(remote)
        });
        let (sends, receives) = line.unwrap().split_whitespace().nth(4).unwrap().split_once(':').unwrap();
        [sends, receives].map(|queue| usize::from_str_radix(queue, 16).unwrap())
    };
    queues(&peer, &own)[0] + queues(&own, &peer)[1]
}

/// Reads `count` bytes of plaintext.
fn plain_of(client: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    while plain.len() < count {
        let mut length = [0; 2];
        client.read_exact(&mut length).unwrap();
        let length = u16::from_be_bytes(length);
        assert!(length != END && length != UPDATE, "after {} of {count} bytes", plain.len());
        let mut part = vec![0; length.into()];
        client.read_exact(&mut part).unwrap();
        append_masked(&mut plain, &part);
    }
    plain
}

fn layered(backend: Backend, plan: Plan) -> Stage {
    tuned(backend, plan, |service| service)
}

fn tuned(
    backend: Backend,
    plan: Plan,
    tune: impl FnOnce(Service<Witness, Order>) -> Service<Witness, Order> + Send + 'static,
) -> Stage {
    Stage::tuned(backend, plan, |service| tune(service).layered(Records::server), |_| {})
}

/// Connects a client, and returns the client after the handshake, with the connection's id.
fn open(stage: &Stage) -> (TcpStream, reactor::ConnectionId) {
    let mut client = stage.stream();
    greet(&mut client);
    (client, stage.until(|seen| matches!(seen, Seen::Opened(_))).id())
}

fn patient() -> Deadlines {
    Deadlines { first_request: None, write_progress: None, handshake: None, linger: GUARD, ..Deadlines::default() }
}

use reactor::Backend;

on_every_backend! {
    fn a_handler_hears_of_a_connection_when_the_handshake_is_done(backend: Backend) {
        let plan = Plan::echo().open(|cx| {
            let agreed = cx.agreed::<&str>().copied();
            cx.write(agreed.unwrap_or("nothing"));
        });
        let stage = layered(backend, plan);
        let mut client = stage.stream();
        stage.wait_until("it is accepted", |cx| cx.stats().accepted == 1);
        client.write_all(&HELLO[..2]).unwrap();
        stage.sees_nothing();
        // The first request comes together with the rest of the handshake.
        client.write_all(&[&HELLO[2..], &sealed(b"one")].concat()).unwrap();
        let mut welcome = [0; 4];
        client.read_exact(&mut welcome).unwrap();
        assert_eq!(&welcome, WELCOME);
        assert_eq!(plain_of(&mut client, 10), b"recordsone");
        let id = stage.next().id();
        assert_eq!(stage.data(id, 3), b"one");
        client.write_all(&sealed(b"two")).unwrap();
        assert_eq!(plain_of(&mut client, 3), b"two");
        assert_eq!(stage.data(id, 3), b"two");
    }

    fn a_record_that_comes_a_byte_at_a_time_is_one(backend: Backend) {
        let stage = layered(backend, Plan::echo());
        let (mut client, _) = open(&stage);
        client.set_nodelay(true).unwrap();
        for byte in sealed(b"in pieces") {
            client.write_all(&[byte]).unwrap();
        }
        assert_eq!(plain_of(&mut client, 9), b"in pieces");
    }

    fn megabytes_go_both_ways_whole_and_in_order(backend: Backend) {
        let stage = tuned(backend, Plan::echo(), |service| service.deadlines(patient()));
        let (mut client, id) = open(&stage);
        let bytes = pattern(4 << 20);
        let (mut sending, all) = (client.try_clone().unwrap(), bytes.clone());
        let sends = std::thread::spawn(move || {
            sending.write_all(&sealed(&all)).unwrap();
            sending.write_all(&END.to_be_bytes()).unwrap();
        });
        let (plain, is_whole) = opened(&read_all(&mut client));
        sends.join().unwrap();
        same(&plain, &bytes);
        assert!(is_whole, "the end is authenticated");
        drop(client);
        assert_eq!(stage.closed(id), (CloseReason::PeerEnded, 0));
    }

    fn the_peers_authenticated_end_is_a_half_close_and_answers_still_leave(backend: Backend) {
        let plan = Plan::new().end(|_, cx| {
            cx.write(pattern(1 << 20));
            cx.close();
        });
        let stage = layered(backend, plan);
        let (mut client, id) = open(&stage);
        client.write_all(&[&sealed(b"all")[..], &END.to_be_bytes()].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (plain, is_whole) = opened(&read_all(&mut client));
        same(&plain, &pattern(1 << 20));
        assert!(is_whole);
        assert_eq!(stage.closed(id), (CloseReason::PeerEnded, 0));
    }

    fn an_end_that_is_not_authenticated_is_a_reset_after_what_was_whole(backend: Backend) {
        let stage = layered(backend, Plan::lines());
        let (mut client, id) = open(&stage);
        client.write_all(&sealed(b"whole\nnot wh")).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let seen = stage.until(|seen| matches!(seen, Seen::Data(..) | Seen::Closed(..)));
        assert_eq!(seen, Seen::Data(id, b"whole\n".to_vec()));
        let ended = stage.until(|seen| matches!(seen, Seen::End(..) | Seen::Closed(..)));
        assert_eq!(ended, Seen::Closed(id, CloseReason::Reset, 0));
    }

    fn a_bad_hello_costs_one_connection_and_is_answered_with_an_alert(backend: Backend) {
        let stage = layered(backend, Plan::echo());
        let (mut other, _) = open(&stage);
        let mut client = stage.stream();
        // More bytes than are read: a close would reset the connection and lose the alert.
        client.write_all(&[b"GET / HTTP/1.1\r\n".to_vec(), vec![b'x'; 100_000]].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), ALERT);
        stage.wait_until("it is counted", |cx| cx.stats().closed(CloseReason::Handshake) == 1);
        other.write_all(&sealed(b"still here")).unwrap();
        assert_eq!(plain_of(&mut other, 10), b"still here");
        assert!(stage.left_over().iter().all(|seen| !matches!(seen, Seen::Opened(_) | Seen::Closed(..))));
    }

    fn who_goes_away_during_the_handshake_is_counted_as_one_that_failed(backend: Backend) {
        let stage = layered(backend, Plan::echo());
        drop(stage.stream());
        let mut half = stage.stream();
        half.write_all(&HELLO[..3]).unwrap();
        drop(half);
        stage.wait_until("both are counted", |cx| {
            let stats = cx.stats();
            stats.closed(CloseReason::Handshake) + stats.closed(CloseReason::Reset) == 2 && stats.open == 0
        });
        stage.sees_nothing();
    }

    fn a_handshake_that_takes_too_long_ends_and_counts_as_one_that_failed(backend: Backend) {
        let handshake = Some(Duration::from_millis(50));
        let stage = tuned(backend, Plan::echo(), move |service| {
            service.deadlines(Deadlines { handshake, ..Deadlines::default() })
        });
        let mut client = stage.stream();
        client.write_all(&HELLO[..3]).unwrap();
        assert_eq!(read_all(&mut client), b"");
        stage.wait_until("it is counted", |cx| {
            cx.stats().closed(CloseReason::TimedOut(Deadline::Handshake)) == 1
        });
        assert_eq!(stage.stats().closed(CloseReason::Handshake), 1, "one count for both");
        stage.sees_nothing();
    }

    fn what_makes_no_sense_after_the_handshake_ends_the_connection_with_an_alert(backend: Backend) {
        let stage = layered(backend, Plan::echo());
        let (mut client, id) = open(&stage);
        client.write_all(&sealed(b"good")).unwrap();
        assert_eq!(plain_of(&mut client, 4), b"good");
        client.write_all(&[&0xEEEE_u16.to_be_bytes()[..], &[b'x'; 100_000]].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), ALERT);
        assert!(matches!(stage.closed(id).0, CloseReason::Failed(_)));
    }

    fn what_the_layer_owes_leaves_at_once_and_the_handler_hears_nothing(backend: Backend) {
        let stage = layered(backend, Plan::echo());
        let (mut client, _) = open(&stage);
        client.write_all(&UPDATE.to_be_bytes()).unwrap();
        let mut answer = [0; 2];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, UPDATE.to_be_bytes());
        stage.sees_nothing();
    }

    fn what_the_layer_owes_leaves_while_the_peer_is_not_read(backend: Backend) {
        // More than the high-water mark is queued, so reading from the peer pauses, and its update waits.
        let stage = tuned(backend, Plan::echo(), |service| service.deadlines(patient()));
        let (mut client, id) = open(&stage);
        client.write_all(&[&UPDATE.to_be_bytes()[..], &sealed(b"x"), &UPDATE.to_be_bytes()].concat()).unwrap();
        let mut answer = [0; 7];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer.iter().filter(|&&byte| byte == 0xFF).count(), 4);
        assert_eq!(stage.data(id, 1), b"x");
    }

    // Rule 33. The length of a record is the layer's, so bytes of the wire count.
    #[cfg_attr(not(target_os = "linux"), ignore = "procfs tells how much the kernel holds")]
    fn no_more_than_64_kib_is_sealed_ahead_of_a_peer_that_does_not_read(backend: Backend) {
        const ANSWER: usize = 8 << 20;
        for record in [RECORD_MAX, 40] {
            let sealed = Arc::new(AtomicUsize::new(0));
            let count = sealed.clone();
            let stage = Stage::tuned(
                backend,
                Plan::new().open(|cx| {
                    cx.write(vec![b'.'; ANSWER]);
                }),
                move |service| {
                    let layer = move || -> Box<dyn Layer> {
                        Box::new(Counted { records: Records::server(), record, sealed: count.clone() })
                    };
                    service.deadlines(patient()).layered(layer)
                },
                |_| {},
            );
            let mut client = client_with(stage.address(), 4096);
            greet(&mut client);
            let id = stage.until(|seen| matches!(seen, Seen::Opened(_))).id();
            stage.wait_until("some has left", move |cx| cx.at(id).queued() < ANSWER);
            stage.is_quiet();
            // The client has read the server's hello alone.
            let ahead = sealed.load(SeqCst) - WELCOME.len() - in_kernel(&client);
            assert!(ahead <= 64 << 10, "{ahead} bytes are sealed in records of {record}, and not in the kernel");
            let plain = plain_of(&mut client, ANSWER);
            assert!(plain.iter().all(|&byte| byte == b'.'));
        }
    }

    // Rule 34.
    fn what_a_layer_holds_counts_with_the_memory_of_all_connections(backend: Backend) {
        const COUNT: usize = 40;
        const PART: usize = 15_000;
        let stage = Stage::tuned(
            backend,
            Plan::echo(),
            |service| service.deadlines(patient()).layered(Records::server),
            |app: &mut Application| {
                app.memory(COUNT / 2 * PART);
            },
        );
        let (mut asks, id) = open(&stage);
        // Each peer sends a record without its last bytes, so nothing reaches a handler.
        let (record, mut clients) = (sealed(&[b'.'; RECORD_MAX]), Vec::new());
        for _ in 0..COUNT {
            let (mut client, _) = open(&stage);
            client.write_all(&record[..PART]).unwrap();
            clients.push(client);
        }
        let is_bounded = |cx: &mut crate::stage::Context<'_>| cx.stats().closed(CloseReason::Memory) >= COUNT as u64 / 2 - 1;
        stage.wait_until("the budget has closed the half that was too much", is_bounded);
        assert!(stage.stats().closed(CloseReason::Memory) < COUNT as u64, "all are closed");
        // A connection that holds little is served as before.
        asks.write_all(&sealed(b"still here")).unwrap();
        assert_eq!(plain_of(&mut asks, 10), b"still here");
        assert_eq!(stage.data(id, 10), b"still here");
        stage.is_quiet();
        // When the peers have gone, the budget has room again.
        let closed = stage.stats().closed(CloseReason::Memory);
        drop(clients);
        stage.wait_until("all but one have gone", move |cx| {
            cx.stats().closed(CloseReason::Reset) + closed == COUNT as u64
        });
        let (mut late, _) = open(&stage);
        late.write_all(&record).unwrap();
        assert_eq!(plain_of(&mut late, RECORD_MAX).len(), RECORD_MAX);
        assert_eq!(stage.stats().closed(CloseReason::Memory), closed);
    }

    fn a_handshake_that_holds_memory_is_closed_before_the_handler_knows_of_it(backend: Backend) {
        /// Gathers a hello that never ends.
        #[derive(Default)]
        struct Endless(Vec<u8>);
        impl Layer for Endless {
            fn open(&mut self, wire: &[u8], _: &mut [u8]) -> Opened {
                self.0.extend(wire);
                Opened::default()
            }
            fn seal(&mut self, _: &[u8]) {}
            fn owes(&self) -> bool {
                false
            }
            fn owed(&mut self, _: &mut Vec<u8>) {}
            fn is_ready(&self) -> bool {
                false
            }
            fn memory(&self) -> usize {
                self.0.capacity()
            }
            fn finish(&mut self) {}
        }
        let stage = Stage::tuned(
            backend,
            Plan::new(),
            |service| service.deadlines(patient()).layered(|| Box::new(Endless::default())),
            |app: &mut Application| {
                app.memory(100_000);
            },
        );
        let mut client = stage.stream();
        // The connection ends while the client is sending.
        while client.write_all(&[b'.'; 10_000]).is_ok() {}
        stage.wait_until("it has ended", |cx| cx.stats().closed(CloseReason::Memory) == 1);
        stage.sees_nothing();
    }

    fn a_close_that_does_not_linger_sends_the_authenticated_end_after_everything(backend: Backend) {
        let stage = tuned(backend, Plan::new().open(|cx| {
            cx.write(vec![b'.'; 2 << 20]);
            cx.close_briefly();
        }), |service| service.deadlines(patient()));
        let mut client = client_with(stage.address(), 4096);
        greet(&mut client);
        let (plain, is_whole) = opened(&read_all(&mut client));
        assert_eq!((plain.len(), is_whole), (2 << 20, true));
    }

    fn an_abort_resets_and_sends_no_authenticated_end(backend: Backend) {
        let stage = layered(backend, Plan::new().data(|input, cx| {
            input.take_all();
            cx.abort();
        }));
        let (mut client, id) = open(&stage);
        client.write_all(&sealed(b"?")).unwrap();
        let mut wire = Vec::new();
        assert_eq!(client.read_to_end(&mut wire).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!((wire, stage.closed(id).0), (Vec::new(), CloseReason::Aborted));
    }

    fn over_a_limit_a_connection_is_closed_without_a_handshake(backend: Backend) {
        let limits = Limits { connections: Some(1), ..Limits::default() };
        let stage = tuned(backend, Plan::echo(), move |service| service.limits(limits).refusal("full"));
        let (_one, _) = open(&stage);
        let mut two = stage.stream();
        let mut wire = Vec::new();
        let _ = two.write_all(HELLO);
        let _ = two.read_to_end(&mut wire);
        assert_eq!(wire, b"");
        stage.wait_until("it is counted", |cx| cx.stats().refused == 1);
    }

    fn a_stop_answers_what_was_asked_and_does_not_wait_for_who_is_silent(backend: Backend) {
        let stage = layered(backend, Plan::echo());
        let (mut asks, id) = open(&stage);
        let silent = stage.stream();
        stage.wait_until("both are accepted", |cx| cx.stats().accepted == 2);
        let frozen = stage.freeze();
        asks.write_all(&sealed(b"last")).unwrap();
        stage.running.handle.halt();
        drop(frozen);
        let (plain, is_whole) = opened(&read_all(&mut asks));
        assert_eq!((&plain[..], is_whole), (&b"last"[..], true));
        drop((asks, silent));
        assert_eq!(stage.closed(id).0, CloseReason::Stopped);
    }

    fn a_stop_lets_a_handshake_end_that_has_begun(backend: Backend) {
        unless_chaos!("a fault may put the first half off until after the stop has begun");
        let stage = layered(backend, Plan::echo());
        let mut client = stage.stream();
        client.write_all(&HELLO[..2]).unwrap();
        stage.wait_until("it is accepted", |cx| cx.stats().accepted == 1);
        // The sent bytes are read before the stop begins.
        let Some(server) = server_end(&client.try_clone().unwrap().into()) else { return };
        stage.wait_until("they are read", move |_| rustix::io::ioctl_fionread(&server).expect("it is a socket") == 0);
        stage.running.handle.halt();
        client.write_all(&[&HELLO[2..], &sealed(b"first")].concat()).unwrap();
        let wire = read_all(&mut client);
        let (plain, is_whole) = opened(&wire[4..]);
        assert_eq!((&plain[..], is_whole), (&b"first"[..], true));
    }

    fn a_thousand_handshakes_at_once_keep_an_established_peer_no_more_than_a_few_turns(backend: Backend) {
        unless_chaos!("faults put handshakes off");
        let stage = tuned(backend, Plan::echo(), |service| service.deadlines(patient()));
        let (mut established, _) = open(&stage);
        let frozen = stage.freeze();
        let mut clients: Vec<_> = (0..200).map(|_| stage.stream()).collect();
        for client in &mut clients {
            client.write_all(HELLO).unwrap();
        }
        established.write_all(&sealed(b"ping")).unwrap();
        drop(frozen);
        assert_eq!(plain_of(&mut established, 4), b"ping");
        // Sixteen steps a turn: the ping is answered while most handshakes still wait.
        for client in &mut clients {
            let mut welcome = [0; 4];
            client.read_exact(&mut welcome).unwrap();
            assert_eq!(&welcome, WELCOME);
        }
        let turns = stage.stats().turns;
        assert!(turns >= 200 / 16, "{turns} turns for 200 handshakes");
    }

    fn an_outbound_connection_stands_when_its_layer_is_ready(backend: Backend) {
        let server = layered(backend, Plan::echo());
        let stage = Stage::new(backend, Plan::new());
        let to = server.running.service.address().unwrap().clone();
        let id = stage.ask(move |cx| {
            let id = cx.connect_layered(to, Records::client(), ());
            cx.at(id).write(b"early");
            id
        });
        assert_eq!(stage.until(|seen| matches!(seen, Seen::Connected(_) | Seen::Closed(..))), Seen::Connected(id));
        assert_eq!(stage.data(id, 5), b"early");
        stage.order(move |cx| cx.at(id).close());
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
        let opened = server.until(|seen| matches!(seen, Seen::Opened(_))).id();
        assert_eq!(server.closed(opened).0, CloseReason::PeerEnded);
    }

    // The server listens on one of the addresses of the name.
    fn a_connection_by_name_keeps_its_layer_from_address_to_address(backend: Backend) {
        let server = layered(backend, Plan::echo());
        let stage = Stage::new(backend, Plan::new());
        let name = format!("localhost:{}", server.address().port());
        let id = stage.ask(move |cx| {
            let id = cx.connect_layered_to(name, Records::client(), ());
            cx.at(id).write(b"early");
            id
        });
        assert_eq!(stage.until(|seen| matches!(seen, Seen::Connected(_) | Seen::Closed(..))), Seen::Connected(id));
        assert_eq!(stage.data(id, 5), b"early");
        assert_eq!(stage.ask(move |cx| cx.at(id).name().map(str::to_owned)), None, "it is established");
    }

    fn a_handshake_that_fails_ends_a_connection_by_name(backend: Backend) {
        let server = Stage::new(backend, Plan::echo());
        let stage = Stage::new(backend, Plan::new());
        let name = format!("localhost:{}", server.address().port());
        let id = stage.ask(move |cx| cx.connect_layered_to(name, Records::client(), ()));
        let seen = stage.until(|seen| matches!(seen, Seen::Connected(_) | Seen::Closed(..)));
        assert_eq!(seen, Seen::Closed(id, CloseReason::Handshake, 0));
    }

    fn an_adopted_stream_is_connected_when_its_layer_is_ready(backend: Backend) {
        let server = Stage::new(backend, Plan::echo());
        let stage = Stage::new(backend, Plan::new());
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let theirs = server.ask(move |cx| cx.adopt_layered(far.into(), Records::server(), ()).unwrap());
        let id = stage.ask(move |cx| cx.adopt_layered(near.into(), Records::client(), ()).unwrap());
        stage.order(move |cx| {
            cx.at(id).write(b"sealed");
        });
        assert_eq!(stage.until(|seen| matches!(seen, Seen::Connected(_) | Seen::Closed(..))), Seen::Connected(id));
        assert_eq!(stage.data(id, 6), b"sealed");
        assert_eq!((stage.stats().accepted, stage.stats().connected), (1, 0));
        stage.order(move |cx| cx.at(id).close());
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
        assert_eq!(server.closed(theirs).0, CloseReason::PeerEnded);
    }

    fn an_adopted_stream_whose_handshake_takes_too_long_is_closed(backend: Backend) {
        let short = Deadlines { handshake: Some(Duration::from_millis(50)), ..Deadlines::default() };
        let stage = Stage::tuned(backend, Plan::new(), |service| service.deadlines(short), |_| {});
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let id = stage.ask(move |cx| cx.adopt_layered(near.into(), Records::client(), ()).unwrap());
        assert_eq!(stage.closed(id).0, CloseReason::TimedOut(Deadline::Handshake));
    }

    fn an_outbound_handshake_that_fails_says_so(backend: Backend) {
        // The other end is an echo without a layer: it returns the hello, which is no welcome.
        let server = Stage::new(backend, Plan::echo());
        let stage = Stage::new(backend, Plan::new());
        let to = server.running.service.address().unwrap().clone();
        let id = stage.ask(move |cx| cx.connect_layered(to, Records::client(), ()));
        let seen = stage.until(|seen| matches!(seen, Seen::Connected(_) | Seen::Closed(..)));
        assert_eq!(seen, Seen::Closed(id, CloseReason::Handshake, 0));
    }

    fn one_service_listens_with_and_without_a_layer(backend: Backend) {
        let beside = vec![reactor::Address::Tcp(([127, 0, 0, 1], 0).into())];
        let stage = Stage::tuned(backend, Plan::echo(), |service| service.layered_at(beside, Records::server), |_| {});
        let addresses = stage.running.service.addresses().to_vec();
        let mut plain = stage.stream();
        plain.write_all(b"plain").unwrap();
        let mut echoed = [0; 5];
        plain.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"plain");
        let mut client = TcpStream::connect(("127.0.0.1", addresses[1].port().unwrap())).unwrap();
        greet(&mut client);
        client.write_all(&sealed(b"sealed")).unwrap();
        assert_eq!(plain_of(&mut client, 6), b"sealed");
    }

    fn every_model_serves_layered_connections(backend: Backend) {
        struct Echo;
        impl Handler for Echo {
            type Connection = ();
            fn on_open(&mut self, _: &mut Context<'_>) {}
            fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
                cx.write(input.take_all());
            }
        }
        for runner in [Runner::loops(3).unwrap(), Runner::threads()] {
            let mut app = Application::with(backend, runner).unwrap();
            // Two services, and the layered listener is not the first: each connection must find its own service.
            app.add_service(Service::tcp("127.0.0.1:0", || Echo)).unwrap();
            let beside = vec![reactor::Address::Tcp(([127, 0, 0, 1], 0).into())];
            let service = Service::tcp("127.0.0.1:0", || Echo).layered_at(beside, Records::server);
            let service = app.add_service(service).unwrap();
            let (handle, addresses) = (app.handle(), service.addresses().to_vec());
            let running = std::thread::spawn(move || app.run());
            let mut all: Vec<_> = (0..10)
                .map(|_| {
                    let mut client = TcpStream::connect(("127.0.0.1", addresses[1].port().unwrap())).unwrap();
                    client.set_read_timeout(Some(GUARD)).unwrap();
                    greet(&mut client);
                    client
                })
                .collect();
            for client in &mut all {
                client.write_all(&sealed(b"here")).unwrap();
                assert_eq!(plain_of(client, 4), b"here");
            }
            let mut plain = TcpStream::connect(("127.0.0.1", addresses[0].port().unwrap())).unwrap();
            plain.write_all(b"plain").unwrap();
            let mut echoed = [0; 5];
            plain.read_exact(&mut echoed).unwrap();
            drop((all, plain));
            handle.halt();
            running.join().unwrap().unwrap();
        }
    }
}
