//! The client and a scripted server.

use std::time::Duration;

use services::nats::{Cause, Login, NoAnswer, NotSent, QUEUE_MAX, Sent};

use crate::recorder::{Command, Event, Node, said, said_with};
use crate::server::{INFO, Server};
use crate::support::{GUARD, on_every_backend};

on_every_backend! {
    fn a_client_says_who_it_is_publishes_and_hears_and_answers_pings(backend: Backend) {
        let server = Server::start();
        let node = Node::start(backend, &[format!("nats://ann:p%40ss@{}", server.place())]);
        let (mut peer, connect) = server.greet();
        for part in [r#""user":"ann""#, r#""pass":"p@ss""#, r#""echo":false"#, r#""headers":true"#, r#""name":"recorder""#] {
            assert!(connect.contains(part), "{connect}");
        }
        assert_eq!(node.connected(), server.url(), "without the login");
        node.subscribe("room.*");
        peer.expect("SUB room.* 1");
        node.say(said("room.a", "hi"));
        for line in ["PUB room.a 2", "hi"] {
 peer.expect(line);
}
        node.say(said_with("room.a", ("k", "v"), "hi"));
        for line in ["HPUB room.a 18 20", "NATS/1.0", "k: v", "", "hi"] {
            peer.expect(line);
        }
        peer.send("PING\r\nMSG room.b 1 re.ply 5\r\nhello\r\nHMSG room.c 1 18 18\r\nNATS/1.0\r\nn: w\r\n\r\n\r\nMSG x 9 0\r\n\r\n");
        peer.expect("PONG");
        let heard = |subject: &str, reply: Option<&str>, fields: &[(&str, &str)], payload: &str| Event::Heard {
            sid: 1,
            subject: subject.into(),
            reply: reply.map(str::to_owned),
            fields: fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            payload: payload.into(),
        };
        assert_eq!(node.next(), heard("room.b", Some("re.ply"), &[], "hello"));
        assert_eq!(node.next(), heard("room.c", None, &[("n", "w")], ""));
        node.does(Command::SubscribeIn("jobs".into(), "workers".into())).expect("it is valid");
        peer.expect("SUB jobs workers 2");
        node.does(Command::Unsubscribe(1)).expect("it is there");
        peer.expect("UNSUB 1");
        for wrong in ["a b", "a\r\nPUB x 0", "a.*", ""] {
            assert!(matches!(node.does(Command::Publish(said(wrong, ""))), Err(NotSent::Invalid(_))), "{wrong:?}");
        }
        node.say(said("end", ""));
        peer.expect("PUB end 0");
    }

    fn a_request_is_answered_once_or_nobody_answers_or_its_time_is_over(backend: Backend) {
        let server = Server::start();
        let node = Node::start(backend, &[server.url()]);
        let (mut peer, _) = server.greet();
        node.connected();
        let mut inboxes = Vec::new();
        for (key, within) in [(7, GUARD), (8, GUARD), (9, Duration::from_millis(50))] {
            assert_eq!(node.does(Command::Request(said("ask", "?"), within, key)), Ok(Sent::Queued));
            let line = peer.line();
            inboxes.push(line.split(' ').nth(2).expect("a subject for the answer").to_owned());
            peer.expect("?");
        }
        assert_eq!(node.next(), Event::Answered(9, Err(NoAnswer::TimedOut)));
        peer.send(format!("MSG {0} 0 3\r\nyes\r\nMSG {0} 0 2\r\nno\r\n", inboxes[0]));
        assert_eq!(node.next(), Event::Answered(7, Ok("yes".into())));
        peer.send(format!("HMSG {} 0 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", inboxes[1]));
        assert_eq!(node.next(), Event::Answered(8, Err(NoAnswer::NoResponders)));
        assert_eq!(node.does(Command::Request(said("ask", "?"), GUARD, 10)), Ok(Sent::Queued));
        drop(peer);
        assert_eq!(node.next(), Event::Answered(10, Err(NoAnswer::Lost)));
        assert!(matches!(node.next(), Event::Lost(_)));
    }

    fn a_refused_login_is_told_without_the_secret_and_tried_again(backend: Backend) {
        let server = Server::start();
        let node = Node::with(backend, &[server.url()], Some(Login::Token("t0ken".into())), None);
        for _ in 0..2 {
            let cause = server.fail(&node, |peer| {
                peer.send(format!("INFO {INFO}\r\n"));
                // With all of the client's bytes read, the end is orderly, and a reset cannot outrun the error.
                let connect = peer.line_of_greeting();
                assert!(connect.is_none_or(|connect| connect.contains(r#""auth_token":"t0ken""#)));
                peer.line_of_greeting();
                peer.send("-ERR 'Authorization Violation'\r\n");
            });
            assert_eq!(cause, Cause::Refused("Authorization Violation".into()));
            assert!(!format!("{cause} {cause:?}").contains("t0ken"));
        }
    }

    fn an_error_that_ends_nothing_is_told_and_one_that_ends_the_connection_is_its_cause(backend: Backend) {
        let server = Server::start();
        let node = Node::start(backend, &[server.url()]);
        let (mut peer, _) = server.greet();
        node.connected();
        peer.send("-ERR 'Permissions Violation for Publish to \"a\"'\r\n");
        assert_eq!(node.next(), Event::Refused("Permissions Violation for Publish to \"a\"".into()));
        node.say(said("b", ""));
        for line in ["PUB b 0", ""] {
            peer.expect(line);
        }
        // Everything is read, so the end is orderly.
        peer.send("-ERR 'Stale \x1bConnection'\r\n");
        drop(peer);
        let Event::Refused(text) = node.next() else { panic!() };
        assert!(text.starts_with("Stale ") && !text.contains('\x1b'), "{text:?}");
        assert_eq!(node.lost(), Cause::Refused(text));
    }

    fn a_lost_client_goes_to_the_next_server_with_its_subscriptions(backend: Backend) {
        let (one, two) = (Server::start(), Server::start());
        let node = Node::start(backend, &[one.url(), two.url()]);
        let (mut peer, _) = one.greet();
        assert_eq!(node.connected(), one.url());
        node.subscribe("a");
        node.subscribe("b.>");
        node.does(Command::Unsubscribe(1)).expect("it is there");
        for line in ["SUB a 1", "SUB b.> 2", "UNSUB 1"] {
            peer.expect(line);
        }
        drop(peer);
        assert_eq!(node.lost(), Cause::Ended(reactor::CloseReason::PeerEnded));
        let (mut peer, _) = two.greet();
        assert_eq!(node.connected(), two.url());
        peer.expect("SUB b.> 2");
        peer.send("MSG b.c 2 1\r\n!\r\n");
        assert_eq!(node.heard(), (2, "b.c".into(), "!".into()));
        assert_eq!(node.does(Command::Reconnect), Ok(Sent::Queued));
        assert_eq!(node.lost(), Cause::Requested);
        assert_eq!(node.does(Command::Publish(said("b", ""))).err().unwrap_or(NotSent::Away), NotSent::Away);
        one.greet();
        assert_eq!(node.connected(), one.url());
    }

    fn the_cluster_tells_of_its_servers_and_a_server_that_is_going_to_stop_is_left(backend: Backend) {
        let (one, two) = (Server::start(), Server::start());
        let node = Node::start(backend, &[format!("nats://t0ken@{}", one.place())]);
        let (mut peer, _) = one.greet();
        node.connected();
        let info = |ldm: bool| {
            let rest = INFO.strip_suffix('}').expect("it is an object");
            format!("INFO {rest},\"ldm\":{ldm},\"connect_urls\":[\"{}\",\"{}\"]}}\r\n", one.place(), two.place())
        };
        peer.send(info(false));
        peer.send(info(true));
        assert_eq!(peer.rest(), "", "an orderly end");
        drop(peer);
        assert_eq!(node.lost(), Cause::LameDuck);
        let (_peer, connect) = two.greet();
        assert!(connect.contains(r#""auth_token":"t0ken""#), "{connect}");
        assert_eq!(node.connected(), two.url());
    }

    fn a_server_is_found_by_its_hosts_name(backend: Backend) {
        let server = Server::start();
        let port = server.place().rsplit_once(':').expect("it has a port").1.to_owned();
        let node = Node::start(backend, &[format!("nats://localhost:{port}")]);
        // `localhost` may have an IPv6 address, which refuses.
        server.greet();
        assert_eq!(node.connected(), format!("nats://localhost:{port}"));
    }

    fn bytes_that_are_not_the_protocol_end_an_attempt(backend: Backend) {
        let server = Server::start();
        let node = Node::start(backend, &[server.url()]);
        let cause = server.fail(&node, |peer| peer.send("HTTP/1.1 400 Bad Request\r\n\r\n"));
        assert!(matches!(cause, Cause::Protocol(_)), "{cause}");
        let info = INFO.replace("\"headers\"", "\"tls_required\":true,\"headers\"");
        let cause = server.fail(&node, |peer| peer.send(format!("INFO {info}\r\n")));
        assert!(matches!(cause, Cause::Tls(_)), "{cause}");
        // The connection is there, and its greeting does not come.
        let silent = server.accept();
        assert_eq!(node.next_failure(), Cause::TooSlow);
        drop(silent);
        server.greet();
        node.connected();
    }

    fn the_queue_to_the_server_is_bounded_and_tells_when_it_has_drained(backend: Backend) {
        let server = Server::start();
        let node = Node::start(backend, &[server.url()]);
        let (mut peer, _) = server.greet();
        node.connected();
        let limit = 1_048_576;
        assert_eq!(node.does(Command::Publish(said("a", vec![0; limit + 1]))), Err(NotSent::TooLong { limit }));
        let payload = vec![b'x'; 100_000];
        let (mut taken, mut slow) = (0, false);
        let end = loop {
            match node.does(Command::Publish(said("a", &payload))) {
                Ok(sent) => slow |= sent == Sent::AboveHighWater,
                Err(error) => break error,
            }
            taken += 1;
        };
        // The kernel's buffers take some more.
        assert!(slow && end == NotSent::Full && taken * payload.len() >= QUEUE_MAX - 2 * payload.len());
        for _ in 0..taken {
            peer.expect("PUB a 100000");
            peer.expect_payload(&payload);
        }
        node.until(|event| (*event == Event::Drained).then_some(()));
        node.say(said("b", ""));
        peer.expect("PUB b 0");
    }

    fn a_client_that_stops_says_its_last_words(backend: Backend) {
        let server = Server::start();
        let node = Node::start(backend, &[server.url()]);
        let (mut peer, _) = server.greet();
        node.connected();
        node.does(Command::LastWords("room.bye".into())).expect("it is noted");
        node.running.handle.halt();
        assert_eq!(peer.rest(), "PUB room.bye 3\r\nbye\r\n");
        drop(peer);
        let Node { running, .. } = node;
        running.join().expect("the loop ends well");
    }
}
