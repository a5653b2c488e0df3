//! The client and real servers: `nats-server`, which must be installed.

use std::fs;

use rustix::process::Signal;
use services::nats::{Cause, Login, NoAnswer, Sent};

use crate::encrypted::{file, trusting};
use crate::engine::{Engine, free_port};
use crate::recorder::{Command, Event, Node, said, said_with};
use crate::support::command::Scratch;
use crate::support::on_every_backend;

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn messages_with_headers_go_from_one_client_to_another_and_none_comes_back(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &[]);
        let (one, two) = (Node::start(backend, &[engine.url("")]), Node::start(backend, &[engine.url("")]));
        one.connected();
        two.connected();
        for node in [&one, &two] {
            node.subscribe("room.>");
            // An answer from the server: the subscription is known there.
            assert_eq!(node.ask(said("nobody", "?"), 1), Err(NoAnswer::NoResponders));
        }
        for number in 0..1000 {
            one.say(said_with("room.x", ("n", "ü"), &number.to_string()));
        }
        for number in 0..1000 {
            let Event::Heard { subject, fields, payload, .. } = two.next() else { panic!() };
            assert_eq!((subject, payload), ("room.x".into(), number.to_string()));
            assert_eq!(fields, [("n".to_owned(), "ü".to_owned())]);
        }
        two.say(said("room.y", "back"));
        assert_eq!(one.heard(), (1, "room.y".into(), "back".into()), "and none of its own");
    }

    #[ignore = "needs nats-server"]
    fn logins_by_name_and_by_token_are_taken_and_wrong_ones_refused(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["--user", "ann", "--pass", "s3cret"]);
        Node::start(backend, &[engine.url("ann:s3cret@")]).connected();
        let wrong = Node::start(backend, &[engine.url("ann:wr0ng@")]);
        assert_eq!(wrong.failed(), Cause::Refused("Authorization Violation".into()));
        let engine = Engine::start(scratch.path(), &["--auth", "t0ken"]);
        Node::start(backend, &[engine.url("t0ken@")]).connected();
        let login = Login::Token("t0ken".into());
        Node::with(backend, &[engine.url("")], Some(login), None).connected();
        let none = Node::start(backend, &[engine.url("")]);
        assert_eq!(none.failed(), Cause::Refused("Authorization Violation".into()));
    }

    #[ignore = "needs nats-server"]
    fn a_subject_without_permission_is_refused_and_the_connection_goes_on(backend: Backend) {
        let scratch = Scratch::new();
        let config = scratch.path().join("config");
        let permissions = "authorization { users = [ { user: ann, password: p, permissions: { publish: [\"a\"], subscribe: [\"a\", \"_INBOX.>\"] } } ] }";
        fs::write(&config, permissions).expect("a directory");
        let engine = Engine::start(scratch.path(), &["-c", config.to_str().expect("it is text")]);
        let node = Node::start(backend, &[engine.url("ann:p@")]);
        node.connected();
        node.say(said("b", "x"));
        let Event::Refused(text) = node.next() else { panic!() };
        assert!(text.starts_with("Permissions Violation for Publish"), "{text}");
        assert_eq!(node.ask(said("a", "x"), 1), Err(NoAnswer::NoResponders));
    }

    #[ignore = "needs nats-server"]
    fn a_key_of_a_bucket_is_created_once_and_changed_at_its_revision(backend: Backend) {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let node = Node::start(backend, &[engine.url("")]);
        node.connected();
        let bucket = r#"{"name":"KV_names","subjects":["$KV.names.>"],"max_msgs_per_subject":1,"discard":"new","allow_rollup_hdrs":true,"deny_delete":true,"allow_direct":true,"storage":"memory"}"#;
        let created = node.ask(said("$JS.API.STREAM.CREATE.KV_names", bucket), 1).expect("JetStream is there");
        assert!(!created.contains("\"error\""), "{created}");
        let put = |revision: &str, value: &str| {
            let field = ("Nats-Expected-Last-Subject-Sequence", revision);
            node.ask(said_with("$KV.names.ann", field, value), 2).expect("JetStream answers")
        };
        let first = put("0", "node 1");
        assert!(first.contains("\"seq\":1"), "{first}");
        let second = put("0", "node 2");
        assert!(second.contains("wrong last sequence: 1") && second.contains("10071"), "{second}");
        assert!(put("1", "node 1 again").contains("\"seq\":2"));
        let last = node.ask(said("$JS.API.DIRECT.GET.KV_names.$KV.names.ann", ""), 3).expect("it is there");
        assert_eq!(last, "node 1 again");
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_is_killed_or_frozen_is_away_and_found_again(backend: Backend) {
        let scratch = Scratch::new();
        let mut engine = Engine::start(scratch.path(), &[]);
        let node = Node::start(backend, &[engine.url("")]);
        node.connected();
        node.subscribe("a");
        engine.kill();
        assert!(matches!(node.lost(), Cause::Ended(_)));
        node.unreachable();
        engine.restart();
        node.connected();
        let other = Node::start(backend, &[engine.url("")]);
        other.connected();
        assert_eq!(node.ask(said("nobody", ""), 1), Err(NoAnswer::NoResponders));
        other.say(said("a", "again"));
        assert_eq!(node.heard(), (1, "a".into(), "again".into()));
        engine.signal(Signal::STOP);
        assert_eq!(node.lost(), Cause::Silent);
        engine.signal(Signal::CONT);
        node.connected();
    }

    #[ignore = "needs nats-server"]
    fn a_client_goes_over_to_the_other_server_of_a_cluster_of_which_it_was_told_one(backend: Backend) {
        let scratch = Scratch::new();
        let free = || format!("nats://127.0.0.1:{}", free_port());
        let route = free();
        let mut one = Engine::start(scratch.path(), &["--cluster_name", "c", "--cluster", &route]);
        let other = free();
        let two = Engine::start(scratch.path(), &["--cluster_name", "c", "--cluster", &other, "--routes", &route]);
        let far = Node::start(backend, &[two.url("")]);
        far.connected();
        far.subscribe("a");
        assert_eq!(far.ask(said("nobody", ""), 1), Err(NoAnswer::NoResponders));
        let node = Node::start(backend, &[one.url("")]);
        assert_eq!(node.connected(), one.url(""));
        // The cluster has met when a message passes from one server to the other.
        let mut number = 0;
        let met = loop {
            number += 1;
            node.say(said("a", number.to_string()));
            if let Some(met) = far.heard_soon() {
                break met;
            }
            assert!(number < 1000, "the servers do not meet");
        };
        assert_eq!((met.0, met.1), (1, "a".into()));
        one.kill();
        node.lost();
        assert_eq!(node.connected(), two.url(""));
        assert_eq!(node.does(Command::Publish(said("a", "from there"))), Ok(Sent::Queued));
        while far.heard().2 != "from there" {}
    }

    #[ignore = "needs nats-server"]
    fn a_server_that_requires_tls_is_spoken_to_in_tls(backend: Backend) {
        let scratch = Scratch::new();
        let (certificate, key) = (file("localhost.pem"), file("localhost.key"));
        let (certificate, key) = (certificate.to_str().expect("it is text"), key.to_str().expect("it is text"));
        let engine = Engine::start(scratch.path(), &["--tls", "--tlscert", certificate, "--tlskey", key]);
        let node = Node::with(backend, &[engine.tls_url("")], None, Some(trusting()));
        node.connected();
        assert_eq!(node.ask(said("nobody", "?"), 1), Err(NoAnswer::NoResponders));
        let plain = Node::start(backend, &[engine.url("")]);
        assert!(matches!(plain.failed(), Cause::Tls(_)));
        let untrusted = tls::Client::new(tls::Roots::File(&file("other.pem"))).expect("it is a certificate");
        let doubting = Node::with(backend, &[engine.tls_url("")], None, Some(untrusted));
        assert!(matches!(doubting.failed(), Cause::Tls(_)));
    }
}
