//! A connection as a value: its methods equal the short forms, and an id that names no connection of the loop finds
//! nothing.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::io::ioctl_fionread;

use reactor::{Address, Bytes, CloseReason, ConnectionId, Deadlines, Handler, Input, Peer, Service, Topic, Written};

use crate::stage::{Plan, Stage, client_of, read_all, read_exactly, round_trip, socket_path};
use crate::support::application::serve_with;
use crate::support::{GUARD, on_every_backend};

/// Answers each line with the number of messages that its connection has been sent; a message `panic` panics.
struct Inbox(Sender<Option<u32>>);

type Context<'a> = reactor::Context<'a, u32, &'static str>;

impl Handler<&'static str> for Inbox {
    type Connection = u32;

    fn on_open(&mut self, cx: &mut Context<'_>) -> u32 {
        cx.write(cx.id().to_u64().to_be_bytes());
        0
    }

    fn on_data(&mut self, count: &mut u32, input: &mut Input<'_>, cx: &mut Context<'_>) {
        // The question may come in pieces.
        while input.until_eol().is_some() {
            cx.write(count.to_be_bytes());
        }
    }

    fn on_message(&mut self, to: ConnectionId, state: Option<&mut u32>, message: &'static str, cx: &mut Context<'_>) {
        assert_eq!(cx.id(), ConnectionId::NONE);
        let known = state.as_deref().copied();
        if let Some(count) = state {
            *count += 1;
        }
        self.0.send(known).expect("the test waits for it");
        match message {
            "panic" => panic!("meant"),
            "list" => {
                let count = cx.connections().len().to_string();
                cx.at(to).write(count);
            }
            _ => {}
        }
    }
}

on_every_backend! {
    fn a_message_is_lent_the_state_of_its_addressee_while_that_exists(backend: Backend) {
        let (tell, told) = channel();
        let factory = move || Inbox(tell.clone());
        let running = serve_with(backend, move || Service::tcp("127.0.0.1:0", factory), |_| {});
        let mut clients = [(); 2].map(|()| client_of(running.address()));
        let ids = clients.each_mut().map(|client| ConnectionId::from_u64(u64::from_be_bytes(read_exactly(client))));
        let post = |to, message| running.service.post(to, message).expect("there is room");
        let next = || told.recv_timeout(GUARD).expect("it is told");
        post(ids[0], "one");
        post(ids[0], "two");
        post(ids[1], "one");
        post(ConnectionId::NONE, "nobody");
        assert_eq!([next(), next(), next(), next()], [Some(0), Some(1), Some(0), None]);
        clients[0].write_all(b"how many\n").unwrap();
        assert_eq!(read_exactly(&mut clients[0]), 2u32.to_be_bytes());
        // A panic may have left the state half changed: the connection of the state ends, and no other connection.
        post(ids[0], "panic");
        assert_eq!(next(), Some(2));
        assert_eq!(read_all(&mut clients[0]), b"");
        post(ids[0], "gone");
        assert_eq!(next(), None);
        clients[1].write_all(b"how many\n").unwrap();
        assert_eq!(read_exactly(&mut clients[1]), 1u32.to_be_bytes());
        post(ids[1], "list");
        assert_eq!(next(), Some(1));
        assert_eq!(&read_exactly::<1>(&mut clients[1]), b"1", "the other has ended");
    }

    fn a_handler_lists_its_own_connections_and_no_others(backend: Backend) {
        let (keep, _kept) = channel();
        let stage = Stage::tuned(backend, Plan::echo(), |service| service, move |application| {
            // A service beside it, with a connection of its own to the witness's loop.
            let (tell, _) = channel();
            let other = application.add_service(Service::tcp("127.0.0.1:0", move || Inbox(tell.clone()))).unwrap();
            let address = other.address().unwrap().to_string();
            let client = std::net::TcpStream::connect(address.strip_prefix("tcp://").unwrap()).unwrap();
            keep.send(client).unwrap();
        });
        let clients = [(); 3].map(|()| stage.open());
        let mut ids = clients.each_ref().map(|(_, id)| *id).to_vec();
        let (mut listed, outbound) = stage.ask(|cx| {
            let nobody = cx.connect(std::net::SocketAddr::from(([127, 0, 0, 1], 1)), ());
            (cx.connections(), nobody)
        });
        ids.push(outbound);
        ids.sort();
        listed.sort();
        assert_eq!(listed, ids);
        stage.closed(outbound);
        let first = clients[0].1;
        stage.order(move |cx| cx.at(first).abort());
        stage.closed(first);
        let mut left = stage.ask(|cx| cx.connections());
        left.sort();
        ids.retain(|id| ![first, outbound].contains(id));
        assert_eq!(left, ids);
    }

    // A peer may connect to any address of this host if the service listens on all.
    fn a_connection_tells_both_of_its_addresses(backend: Backend) {
        let patient = Deadlines { first_request: None, ..Deadlines::default() };
        let everywhere = |factory| Service::tcp("0.0.0.0:0", factory);
        let stage = Stage::at(backend, Plan::echo(), everywhere, |service| service.deadlines(patient), |_| {});
        let port = stage.address().port();
        for host in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let client = client_of((host, port).into());
            let id = stage.until(|seen| matches!(seen, crate::stage::Seen::Opened(_))).id();
            let both = stage.ask(move |cx| (cx.at(id).local_address(), cx.at(id).peer()));
            let expected = (Some(client.peer_addr().unwrap().into()), Some(Peer::Tcp(client.local_addr().unwrap())));
            assert_eq!(both, expected);
        }
    }

    fn a_connection_of_a_unix_socket_tells_the_path_of_its_listener(backend: Backend) {
        let path = socket_path("local-address", backend);
        let at = path.clone();
        let stage = Stage::at(backend, Plan::echo(), |factory| Service::unix(at, factory), |service| service, |_| {});
        let client = UnixStream::connect(&path).unwrap();
        let id = stage.until(|seen| matches!(seen, crate::stage::Seen::Opened(_))).id();
        assert_eq!(stage.ask(move |cx| cx.at(id).local_address()), Some(Address::Unix(path)));
        drop(client);
    }

    fn an_outbound_connection_tells_the_address_that_the_system_chose(backend: Backend) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stage = Stage::new(backend, Plan::new());
        let (id, before) = stage.ask(move |cx| {
            let id = cx.connect(address, ());
            (id, cx.at(id).local_address())
        });
        assert_eq!(before, None, "there is no socket yet");
        let (_peer, from) = listener.accept().unwrap();
        assert_eq!(stage.ask(move |cx| cx.at(id).local_address()), Some(Address::Tcp(from)));
    }

    fn a_connection_tells_what_went_each_way_and_since_when(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let (mut client, id) = stage.open();
        round_trip(&mut client, b"twelve bytes");
        let counts = stage.ask(move |cx| (cx.at(id).exists(), cx.at(id).received(), cx.at(id).sent(), cx.at(id).queued()));
        assert_eq!(counts, (true, 12, 12, 0));
        let (age, idle) = stage.ask(move |cx| (cx.at(id).age(), cx.at(id).idle()));
        assert!(age >= idle);
        stage.wait_until("it is older than it was", move |cx| cx.at(id).age() > age + Duration::from_millis(2));
        stage.wait_until("nothing has moved for a while", move |cx| cx.at(id).idle() > Duration::from_millis(2));
        let age = stage.ask(move |cx| cx.at(id).age());
        round_trip(&mut client, b"more");
        let idle = stage.ask(move |cx| cx.at(id).age() - cx.at(id).idle());
        assert!(idle >= age, "idle time counts from the latest byte, which came {idle:?} after the beginning");
    }

    // Each way to write, to a connection other than the callback's own.
    fn every_way_to_write_reaches_another_connection_in_order(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let (mut client, id) = stage.open();
        let outcomes = stage.ask(move |cx| {
            let file = Arc::new(std::fs::File::open("Cargo.toml").unwrap());
            let mut other = cx.at(id);
            let outcomes = [
                other.write("one "),
                other.write_shared(Bytes::from_static(b"two ")),
                other.encode(|writer| writer.put(b"three ")),
                other.write_file(file, 0..4),
            ];
            other.output().expect("it takes writes").put(b" five");
            outcomes
        });
        assert_eq!(outcomes, [Written::Queued; 4]);
        let manifest = std::fs::read("Cargo.toml").unwrap();
        let expected = [b"one two three ", &manifest[..4], b" five"].concat();
        assert_eq!(read_exactly::<23>(&mut client)[..], expected);
    }

    fn input_left_unread_is_offered_again_when_another_callback_asks_for_it(backend: Backend) {
        let plan = Plan::new().data(|input, cx| {
            // Takes nothing before the second offer.
            if input.as_slice() != b"held" || cx.at(cx.id()).sent() > 0 {
                cx.write(input.take_all());
            }
        });
        let stage = Stage::new(backend, plan);
        let (mut client, id) = stage.open();
        client.write_all(b"held").unwrap();
        stage.until(|seen| matches!(seen, crate::stage::Seen::Data(..)));
        stage.order(move |cx| {
            cx.at(id).write("now: ");
        });
        assert_eq!(&read_exactly::<5>(&mut client), b"now: ");
        assert_eq!(stage.ask(move |cx| cx.at(id).unread().to_vec()), b"held");
        stage.order(move |cx| cx.at(id).offer_again());
        assert_eq!(&read_exactly::<4>(&mut client), b"held");
    }

    fn a_brief_close_of_another_connection_sends_what_is_owed(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let (mut client, id) = stage.open();
        stage.order(move |cx| {
            cx.at(id).write("goodbye");
            cx.at(id).close_briefly();
        });
        assert_eq!(read_all(&mut client), b"goodbye");
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
    }

    // Rule 13. The close resets the connection, since bytes are left unread. The answer and our end have left before.
    fn a_brief_close_loses_no_answer_to_bytes_that_nobody_has_read(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let (mut client, id) = stage.open();
        stage.ask(move |cx| cx.at(id).pause_reading());
        client.write_all(&[0; 1000]).unwrap();
        stage.wait_until("the bytes have arrived", move |cx| ioctl_fionread(cx.at(id).descriptor().expect("it is open")) == Ok(1000));
        stage.order(move |cx| {
            cx.at(id).write("goodbye");
            cx.at(id).close_briefly();
        });
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
        assert_eq!(&read_exactly::<7>(&mut client), b"goodbye");
    }

    // Rule 1. Any integer is an acceptable id, even one from a peer.
    fn an_id_that_names_no_connection_finds_nothing(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let (mut client, id) = stage.open();
        let (back, answers) = stage.ask(move |cx| {
            let numbers = [0, 2, u64::MAX, 1 << 63, id.to_u64() + 1, id.to_u64() ^ 1 << 32, id.to_u64() ^ 1 << 60];
            let answers: Vec<_> = numbers.into_iter().map(|number| {
                let topic = Topic::new("nobody");
                let mut nobody = cx.at(ConnectionId::from_u64(number));
                let written = [nobody.write("x"), nobody.encode(|writer| writer.put(b"x"))];
                nobody.set_deadline(Duration::ZERO);
                nobody.clear_deadline();
                nobody.pause_reading();
                nobody.resume_reading();
                nobody.offer_again();
                nobody.wait_for_output();
                nobody.read_on();
                nobody.finish();
                nobody.close_briefly();
                nobody.close();
                nobody.abort();
                let facts = (nobody.exists(), nobody.received(), nobody.sent(), nobody.queued(), nobody.age(), nobody.idle());
                let member = nobody.subscribe(&topic) || nobody.unsubscribe(&topic);
                (written, facts, member, nobody.peer(), nobody.local_address(), nobody.output().is_none() && nobody.unread().is_empty())
            }).collect();
            (ConnectionId::from_u64(id.to_u64()), answers)
        });
        assert_eq!(back, id);
        let nothing = (false, 0, 0, 0, Duration::ZERO, Duration::ZERO);
        for answer in answers {
            assert_eq!(answer, ([Written::Refused; 2], nothing, false, None, None, true));
        }
        round_trip(&mut client, b"the real one is there");
    }
}
