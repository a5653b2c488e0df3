//! Rules 33 and 34: the memory that peers hold is bounded, for each peer in the kernel, and for all peers together in
//! this process.

use std::io::{Read, Write};
use std::net::TcpListener;

use reactor::{Address, Application, CloseReason, ConnectionId, Deadlines, Limits, Listener, Service, Topic};

use crate::stage::{Factory, Plan, Seen, Stage, Transport, read_all, round_trip};
use crate::support::{GUARD, on_every_backend, unless_chaos};

/// Unsent bytes that the kernel may keep in these tests.
const UNSENT: usize = 16 * 1024;
/// Allowed beyond [`UNSENT`]: one segment of the loopback device (64 KiB), and the receive buffer of a narrow client.
const SLACK: usize = 128 * 1024;
/// Bytes written to one peer at once. Without a bound the kernel takes megabytes.
const ANSWER: usize = 8 << 20;

fn limits() -> Limits {
    Limits { unsent: UNSENT, output_max: 2 * ANSWER, ..Limits::default() }
}

/// A stage with this memory budget, where no other limit bounds or ends a connection.
fn within(transport: Transport, plan: Plan, bytes: usize) -> Stage {
    let wide = Limits { output_high: 64 << 20, output_max: 64 << 20, member_queue: 64 << 20, ..limits() };
    let patient = Deadlines { first_request: None, write_progress: None, linger: GUARD, ..Deadlines::default() };
    Stage::tuned(
        transport,
        plan,
        |service| service.limits(wide).deadlines(patient),
        move |app: &mut Application| {
            app.memory(bytes);
        },
    )
}

fn write_to(stage: &Stage, id: ConnectionId, count: usize) {
    stage.ask(move |cx| cx.at(id).write(vec![b'x'; count]));
}

on_every_backend! {
    // Rule 33.
    fn the_kernel_keeps_little_for_a_peer_that_does_not_read(transport: Transport) {
        let bound: fn(Factory) -> _ = |factory| Service::tcp("127.0.0.1:0", factory);
        let inherited: fn(Factory) -> _ = |factory| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Service::on(Listener::try_from(listener).unwrap(), factory)
        };
        for make in [bound, inherited] {
            let stage = Stage::at(transport, Plan::new(), make, |service| service.limits(limits()), |_| {});
            let mut client = stage.narrow_client();
            let id = stage.next().id();
            stage.ask(move |cx| cx.at(id).write(vec![b'x'; ANSWER]));
            stage.is_quiet();
            let owed = stage.ask(move |cx| cx.at(id).queued());
            assert!(owed >= ANSWER - UNSENT - SLACK, "the kernel has taken {} bytes", ANSWER - owed);
            // The rest is sent all the same, and in full.
            client.read_exact(&mut vec![0; ANSWER]).unwrap();
            stage.wait_until("all has left", move |cx| cx.at(id).queued() == 0);
        }
    }

    // Rule 33.
    fn the_kernel_keeps_little_for_an_outbound_connection_too(backend: Backend) {
        let upstream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        upstream.set_recv_buffer_size(4096).unwrap();
        upstream.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        upstream.listen(1).unwrap();
        let upstream = TcpListener::from(upstream);
        let address = upstream.local_addr().unwrap();
        let stage = Stage::tuned(backend, Plan::new(), |service| service.limits(limits()), |_| {});
        let id = stage.ask(move |cx| cx.connect(Address::Tcp(address), ()));
        stage.until(|seen| *seen == Seen::Connected(id));
        let (mut peer, _) = upstream.accept().unwrap();
        stage.ask(move |cx| cx.at(id).write(vec![b'x'; ANSWER]));
        stage.is_quiet();
        let owed = stage.ask(move |cx| cx.at(id).queued());
        assert!(owed >= ANSWER - UNSENT - SLACK, "the kernel has taken {} bytes", ANSWER - owed);
        peer.read_exact(&mut vec![0; ANSWER]).unwrap();
    }

    // Rule 34.
    fn above_the_budget_the_largest_holder_ends_and_the_others_get_all_that_they_are_owed(transport: Transport) {
        let stage = within(transport, Plan::new().too_slow(|cx| {
            cx.write(b"too slow");
        }), 14 << 20);
        let mut clients: Vec<_> = (0..3).map(|_| (stage.narrow_client(), stage.next().id())).collect();
        for ((_, id), size) in clients.iter().zip([3 << 20, 6 << 20, 2 << 20]) {
            write_to(&stage, *id, size);
        }
        let (_deaf, largest) = clients.remove(1);
        let last = stage.narrow_client();
        let last_id = stage.next().id();
        // Now the budget is exceeded, and another connection is the largest.
        write_to(&stage, last_id, 5 << 20);
        stage.until(|seen| *seen == Seen::TooSlow(largest));
        assert_eq!(stage.closed(largest).0, CloseReason::Memory);
        assert_eq!(stage.stats().closed(CloseReason::Memory), 1);
        for ((mut client, id), size) in clients.into_iter().chain([(last, last_id)]).zip([3 << 20, 2 << 20, 5 << 20]) {
            client.read_exact(&mut vec![0; size]).unwrap();
            stage.wait_until("all has left", move |cx| cx.at(id).queued() == 0);
        }
        assert_eq!(stage.stats().closed(CloseReason::Memory), 1, "one was enough");
        stage.is_quiet();
        stage.end();
    }

    // Rules 12 and 34.
    fn members_that_end_for_want_of_memory_read_whole_messages_and_the_last_words(transport: Transport) {
        const SIZE: usize = 5000;
        let topic = Topic::new("news");
        let joins = topic.clone();
        let plan = Plan::new().open(move |cx| {
            cx.subscribe(&joins);
        });
        let stage = within(transport, plan.too_slow(|cx| {
            cx.write(b"too slow");
            cx.close();
        }), 2 << 20);
        let mut deaf: Vec<_> = (0..4).map(|_| (stage.narrow_client(), stage.next().id())).collect();
        let (mut good, good_id) = stage.open();
        let mut number = 0u32;
        // Ten megabytes, of which the members together may hold two.
        while number < 2000 {
            let topic = topic.clone();
            stage.ask(move |cx| {
                for number in number..number + 10 {
                    let mut message = vec![b'n'; SIZE];
                    message[..4].copy_from_slice(&number.to_be_bytes());
                    cx.publish(&topic, message);
                }
            });
            for number in number..number + 10 {
                let mut message = vec![0; SIZE];
                good.read_exact(&mut message).unwrap();
                assert_eq!(message[..4], number.to_be_bytes(), "who reads misses nothing");
            }
            number += 10;
        }
        assert!(stage.left_over().iter().all(|seen| seen.id() != good_id), "who reads does not notice");
        let ended = stage.stats().closed(CloseReason::Memory) as usize;
        for (client, _) in &mut deaf {
            let heard = read_all(client);
            let (messages, word) = heard.split_at(heard.len() - b"too slow".len());
            assert_eq!(word, b"too slow");
            assert_eq!(messages.len() % SIZE, 0, "what had begun was finished");
            for (number, message) in messages.chunks(SIZE).enumerate() {
                assert_eq!(message[..4], (number as u32).to_be_bytes());
            }
        }
        assert!(ended <= deaf.len());
        drop(deaf);
        stage.wait_until("they have ended", |cx| cx.stats().closed(CloseReason::Memory) == 4);
    }

    // Rule 34.
    fn what_many_members_are_owed_counts_once(transport: Transport) {
        let topic = Topic::new("news");
        let joins = topic.clone();
        let stage = within(transport, Plan::new().open(move |cx| {
            cx.subscribe(&joins);
        }), 4 << 20);
        let mut members: Vec<_> = (0..20).map(|_| (stage.narrow_client(), stage.next().id())).collect();
        stage.ask(move |cx| cx.publish(&topic, vec![b'x'; 2 << 20]));
        for (member, _) in &mut members {
            member.read_exact(&mut vec![0; 2 << 20]).unwrap();
        }
        assert_eq!((stage.stats().closed(CloseReason::Memory), stage.stats().suspended), (0, 0));
    }

    // Rule 34.
    fn near_the_budget_the_largest_holder_is_not_read_until_there_is_less(transport: Transport) {
        unless_chaos!("whose kernel takes less than it could, so that more is held than was meant");
        let stage = within(transport, Plan::echo(), 8 << 20);
        let mut large = stage.narrow_client();
        let large_id = stage.next().id();
        let (mut small, small_id) = stage.open();
        write_to(&stage, large_id, 7 << 20);
        stage.wait_until("it is suspended", |cx| cx.stats().suspended == 1);
        large.write_all(b"unheard").unwrap();
        for _ in 0..10 {
            round_trip(&mut small, b"the others are read");
        }
        let heard = |seen: &Seen| matches!(seen, Seen::Data(id, _) if *id != small_id);
        assert!(!stage.left_over().iter().any(heard), "the largest holder is not read");
        stage.is_quiet();
        let mut rest = vec![0; (7 << 20) + 7];
        large.read_exact(&mut rest).unwrap();
        assert!(rest.ends_with(b"unheard"), "and is, once there is less");
        assert_eq!(stage.stats().closed(CloseReason::Memory), 0);
    }

    // Rules 24 and 34.
    fn a_stop_reads_from_those_that_were_not_read_for_want_of_memory(transport: Transport) {
        let stage = within(transport, Plan::echo(), 8 << 20);
        let mut large = stage.narrow_client();
        let large_id = stage.next().id();
        write_to(&stage, large_id, 7 << 20);
        stage.wait_until("it is suspended", |cx| cx.stats().suspended >= 1);
        large.write_all(b"last request").unwrap();
        stage.running.handle.halt();
        let heard = read_all(&mut large);
        assert_eq!(heard.len(), (7 << 20) + 12);
        assert!(heard.ends_with(b"last request"));
        drop(large);
        let seen = stage.end();
        let closes = seen.iter().filter(|seen| matches!(seen, Seen::Closed(id, ..) if *id == large_id)).count();
        assert_eq!(closes, 1);
    }
}
