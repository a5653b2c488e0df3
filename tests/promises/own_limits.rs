//! Limits and deadlines changed for one connection: each acts on that connection, and on no other connection.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use reactor::{CloseReason, ConnectionId, Deadline, Deadlines, Limits, SlowPolicy, Topic, Written};
use socket2::SockRef;

use crate::stage::{Client, Plan, Seen, Stage, Transport, read_all, round_trip, send_until_stuck};
use crate::support::on_every_backend;

/// Two connections of a service; the first connection gets its own limits.
struct Two {
    stage: Stage,
    own: (Client, ConnectionId),
    other: (Client, ConnectionId),
}

impl Two {
    fn new(transport: Transport, plan: Plan, change: impl FnOnce(&mut Limits) + Send + 'static) -> Self {
        Self::by(Stage::patient(transport, plan), Stage::client, change)
    }

    fn by(stage: Stage, client: impl Fn(&Stage) -> Client, change: impl FnOnce(&mut Limits) + Send + 'static) -> Self {
        let [own, other] = [(); 2].map(|()| {
            let client = client(&stage);
            (client, stage.until(|seen| matches!(seen, Seen::Opened(_))).id())
        });
        let id = own.1;
        stage.ask(move |cx| cx.at(id).change_limits(change));
        Two { stage, own, other }
    }
}

/// Deadlines that never come.
fn none() -> Deadlines {
    let linger = Duration::from_secs(3600);
    Deadlines { first_request: None, idle: None, write_progress: None, linger, connect: None, handshake: None }
}

/// A stage without deadlines, and two clients whose connections close only by a deadline.
fn timed(transport: Transport, plan: Plan) -> Two {
    let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
    Two::by(stage, Stage::narrow_client, |_| {})
}

const SHORT: Duration = Duration::from_millis(50);

on_every_backend! {
    fn the_limits_and_deadlines_of_a_connection_are_its_services_until_they_are_changed(transport: Transport) {
        let two = Two::new(transport, Plan::new(), |limits| limits.input = 7);
        let (own, other) = (two.own.1, two.other.1);
        let [first, second] = [own, other].map(|id| two.stage.ask(move |cx| cx.at(id).limits().cloned()));
        assert_eq!(second, Some(Limits::default()));
        assert_eq!(first, Some(Limits { input: 7, ..Limits::default() }));
        two.stage.ask(move |cx| cx.at(own).change_deadlines(|deadlines| deadlines.idle = Some(Duration::from_secs(9))));
        let [first, second] = [own, other].map(|id| two.stage.ask(move |cx| cx.at(id).deadlines().cloned()));
        let patient = Deadlines { first_request: None, ..Deadlines::default() };
        assert_eq!(second, Some(patient.clone()));
        assert_eq!(first, Some(Deadlines { idle: Some(Duration::from_secs(9)), ..patient }));
        // A stale id changes nothing.
        two.stage.ask(|cx| {
            let mut nobody = cx.at(ConnectionId::NONE);
            nobody.change_limits(|_| unreachable!("there is no connection"));
            nobody.change_deadlines(|_| unreachable!("there is no connection"));
            assert!(nobody.limits().is_none() && nobody.deadlines().is_none());
        });
        // The next connection in the slot has the service's limits again.
        drop(two.own.0);
        two.stage.closed(own);
        let (_client, next) = two.stage.open();
        assert_eq!(two.stage.ask(move |cx| cx.at(next).limits().cloned()), Some(Limits::default()));
    }

    fn input(transport: Transport) {
        let Two { stage, own: (mut own, id), other: (mut other, _) } =
            Two::new(transport, Plan::lines(), |limits| limits.input = 100);
        own.write_all(&[b'x'; 101]).unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::InputOverflow { limit: 100 });
        let mut line = vec![b'x'; 50_000];
        line.push(b'\n');
        round_trip(&mut other, &line);
        // A larger limit holds from the callback on that sets it.
        let plan = Plan::lines().open(|cx| {
            let id = cx.id();
            cx.at(id).change_limits(|limits| limits.input = 1 << 20);
        });
        let stage = Stage::patient(transport, plan);
        let mut line = vec![b'x'; 1_000_000];
        line.push(b'\n');
        let mut client = stage.client();
        let (mut writer, sent) = (client.try_clone().unwrap(), line.clone());
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut echoed = vec![0; line.len()];
        client.read_exact(&mut echoed).unwrap();
        writing.join().unwrap();
        crate::stage::same(&echoed, &line);
    }

    fn output_max(transport: Transport) {
        let Two { stage, own: (mut client, own), other: (mut reader, other) } =
            Two::new(transport, Plan::new(), |limits| (limits.output_high, limits.output_max) = (10, 100));
        for (id, outcome) in [(own, Written::Refused), (other, Written::Queued)] {
            let written = stage.ask(move |cx| {
                let mut one = cx.at(id);
                one.write([b'x'; 50]);
                one.write([b'y'; 51])
            });
            assert_eq!(written, outcome);
        }
        assert_eq!(stage.closed(own), (CloseReason::OutputOverflow { queued: 50 }, 0));
        assert_eq!(read_all(&mut client), [b'x'; 50]);
        reader.read_exact(&mut [0; 101]).unwrap();
        // A maximum that changes while output is queued.
        let (_client, id) = stage.open();
        let written = stage.ask(move |cx| {
            let mut one = cx.at(id);
            one.change_limits(|limits| limits.output_high = 10);
            let first = one.write([b'x'; 50]);
            one.change_limits(|limits| limits.output_max = 100);
            (first, one.write([b'y'; 51]))
        });
        assert_eq!(written, (Written::AboveHighWater, Written::Refused));
    }

    fn output_high_and_output_low(transport: Transport) {
        let answer = |limits: &mut Limits| (limits.output_high, limits.output_low) = (1 << 28, 1 << 27);
        let plan = Plan::new().open(|cx| {
            // More than the kernel takes.
            cx.write_shared(vec![b'x'; 4 << 20].into());
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
        let Two { stage, own: (mut own, id), other: (mut other, other_id) } = Two::by(stage, |stage| stage.client_with(100_000), answer);
        own.write_all(b"heard").unwrap();
        assert_eq!(stage.data(id, 5), b"heard");
        other.write_all(b"later").unwrap();
        stage.sees_nothing();
        // Marks that are raised above what is queued let the peer be read at once.
        stage.ask(move |cx| cx.at(other_id).change_limits(answer));
        assert_eq!(stage.data(other_id, 5), b"later");
        // Marks that are lowered below it stop reading again.
        stage.ask(move |cx| cx.at(id).change_limits(|limits| (limits.output_high, limits.output_low) = (100, 50)));
        own.write_all(b"again").unwrap();
        stage.sees_nothing();
        let reading = std::thread::spawn(move || own.read_exact(&mut vec![0; 4 << 20]).map(|()| own));
        assert_eq!(stage.data(id, 5), b"again");
        reading.join().unwrap().unwrap();
    }

    fn member_queue_and_slow_members(transport: Transport) {
        let stage = Stage::tuned(transport, Plan::new(), |service| service.deadlines(none()), |_| {});
        let keep = |limits: &mut Limits| (limits.member_queue, limits.slow_members) = (1000, SlowPolicy::DropNewest);
        let Two { stage, own: (own, id), other: (other, other_id) } = Two::by(stage, Stage::narrow_client, keep);
        let topic = Topic::from("all");
        let all = topic.clone();
        stage.ask(move |cx| [id, other_id].map(|id| cx.at(id).subscribe(&all)));
        // More than kernel and queue take: the first member stays, the second member is too slow.
        for _ in 0..200 {
            let all = topic.clone();
            stage.ask(move |cx| cx.publish(&all, &[b'x'; 100_000][..]));
        }
        assert_eq!(stage.until(|seen| matches!(seen, Seen::TooSlow(_))), Seen::TooSlow(other_id));
        let queued = stage.ask(move |cx| cx.at(id).queued());
        assert!(queued < 200_000, "{queued} bytes wait for a member with a queue of 1000");
        assert_eq!(stage.left_over(), []);
        drop((own, other));
    }

    fn linger_bytes(transport: Transport) {
        let stage = Stage::tuned(transport, Plan::new(), |service| service.deadlines(none()), |_| {});
        let few = |limits: &mut Limits| limits.linger_bytes = 1000;
        let Two { stage, own: (mut own, id), other: (mut other, other_id) } = Two::by(stage, Stage::client, few);
        stage.ask(move |cx| [id, other_id].map(|id| cx.at(id).close()));
        let [bytes, ending] = [1001, 1].map(|count| vec![b'x'; count]);
        own.write_all(&bytes).unwrap();
        other.write_all(&bytes).unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::Closed);
        stage.sees_nothing();
        other.write_all(&ending).unwrap();
        drop(other);
        assert_eq!(stage.closed(other_id).0, CloseReason::Closed);
    }

    #[cfg_attr(not(target_os = "linux"), ignore = "the kernel has no such bound")]
    fn unsent(transport: Transport) {
        // The peer's buffer takes nothing more, so the rest is what our kernel keeps unsent.
        let plan = Plan::new();
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
        let small = |limits: &mut Limits| limits.unsent = 4096;
        let Two { stage, own: (_own, id), other: (_other, other_id) } = Two::by(stage, Stage::narrow_client, small);
        stage.ask(move |cx| {
            for id in [id, other_id] {
                cx.at(id).write_shared(vec![b'x'; 32 << 20].into());
            }
        });
        stage.wait_until("both are blocked", move |cx| [id, other_id].iter().all(|&id| cx.at(id).sent() > 0));
        stage.is_quiet();
        let [own, other] = [id, other_id].map(|id| stage.ask(move |cx| cx.at(id).sent()));
        assert!(own < other, "{own} bytes of the one with a small bound, {other} of the other");
    }

    fn a_bound_of_unsent_bytes_that_was_changed_before_the_socket_exists_holds(backend: Backend) {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = upstream.local_addr().unwrap();
        let stage = Stage::new(backend, Plan::new());
        let id = stage.ask(move |cx| {
            let id = cx.connect(to, ());
            cx.at(id).change_limits(|limits| limits.unsent = 5000);
            id
        });
        stage.until(|seen| matches!(seen, Seen::Connected(_)));
        let told = stage.ask(move |cx| {
            let connection = cx.at(id);
            let descriptor = connection.descriptor().expect("it has a socket");
            SockRef::from(&descriptor).tcp_notsent_lowat().expect("TCP")
        });
        assert_eq!(told, 5000);
    }

    fn first_request(transport: Transport) {
        let two = timed(transport, Plan::new());
        let id = two.own.1;
        two.stage.ask(move |cx| cx.at(id).change_deadlines(|deadlines| deadlines.first_request = Some(SHORT)));
        assert_eq!(two.stage.closed(id).0, CloseReason::TimedOut(Deadline::FirstRequest));
        two.stage.sees_nothing();
    }

    fn idle(transport: Transport) {
        let two = timed(transport, Plan::new());
        let id = two.own.1;
        two.stage.ask(move |cx| cx.at(id).change_deadlines(|deadlines| deadlines.idle = Some(SHORT)));
        assert_eq!(two.stage.closed(id).0, CloseReason::TimedOut(Deadline::Idle));
        two.stage.sees_nothing();
        // Without its idle deadline, a connection outlives its neighbour.
        let idle = Deadlines { idle: Some(4 * SHORT), ..none() };
        let is_first = AtomicBool::new(true);
        let plan = Plan::new().open(move |cx| {
            if is_first.swap(false, SeqCst) {
                cx.at(cx.id()).change_deadlines(|deadlines| deadlines.idle = None);
            }
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(idle), |_| {});
        let (stays, id) = stage.open();
        let (_ends, ends) = stage.open();
        assert_eq!(stage.closed(ends).0, CloseReason::TimedOut(Deadline::Idle));
        stage.sees_nothing();
        drop(stays);
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
    }

    fn write_progress(transport: Transport) {
        let two = timed(transport, Plan::new());
        let (id, other) = (two.own.1, two.other.1);
        two.stage.ask(move |cx| {
            cx.at(id).change_deadlines(|deadlines| deadlines.write_progress = Some(SHORT));
            for id in [id, other] {
                cx.at(id).write_shared(vec![b'x'; 32 << 20].into());
            }
        });
        assert_eq!(two.stage.closed(id).0, CloseReason::TimedOut(Deadline::WriteProgress));
        two.stage.sees_nothing();
    }

    fn linger(transport: Transport) {
        let two = timed(transport, Plan::new());
        let (id, other) = (two.own.1, two.other.1);
        two.stage.ask(move |cx| {
            cx.at(id).change_deadlines(|deadlines| deadlines.linger = SHORT);
            for id in [id, other] {
                cx.at(id).close();
            }
        });
        assert_eq!(two.stage.closed(id).0, CloseReason::Closed);
        two.stage.sees_nothing();
        drop(two.other.0);
        two.stage.closed(other);
    }

    fn connect(backend: Backend) {
        // A full queue: the kernel answers no further connection.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
        let _queued: Vec<_> = (0..4)
            .map(|_| {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&address.into());
                socket
            })
            .collect();
        let stage = Stage::tuned(backend, Plan::new(), |service| service.deadlines(none()), |_| {});
        let [own, _other] = stage.ask(move |cx| {
            let both = [(); 2].map(|()| cx.connect(address, ()));
            cx.at(both[0]).change_deadlines(|deadlines| deadlines.connect = Some(SHORT));
            both
        });
        assert_eq!(stage.next(), Seen::Closed(own, CloseReason::TimedOut(Deadline::Connect), 0));
        stage.sees_nothing();
    }

    fn a_peer_that_is_choked_by_its_own_marks_costs_the_others_nothing(transport: Transport) {
        let Two { stage, own: (own, id), other: (mut other, _) } =
            Two::by(Stage::patient(transport, Plan::echo()), |stage| stage.client_with(4096), |limits| {
                (limits.output_high, limits.output_low) = (1000, 500);
            });
        let sent = send_until_stuck(&own, &[b'x'; 10_000], 64 << 20);
        assert!(sent < 64 << 20, "all was taken");
        round_trip(&mut other, b"quick");
        drop(own);
        stage.closed(id);
    }
}
