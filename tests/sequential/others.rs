//! Tasks and the world beyond their connection: outbound connections, topics, the operator.

use std::pin::pin;

use reactor::{CloseReason, Topic};
use sequential::{Client, ConnectError, Peer, publish};

use super::support::command::eventually;
use super::support::on_every_backend;
use super::{client, echo, tasks, telling};

on_every_backend! {
    fn a_client_by_address_and_by_name_reads_and_sends_as_a_peer_does(backend: Backend) {
        let upstream = tasks(backend, echo);
        let address = upstream.service.address().expect("it listens").clone();
        let port = upstream.address().port();
        let running = tasks(backend, async move |peer: &mut Peer| {
            let mut by_address = Client::connect(address.clone()).await.expect("it accepts");
            let mut by_name = Client::connect_name(&format!("localhost:{port}")).await.expect("it accepts");
            while let Some(line) = peer.until_eol().await {
                by_address.send(&line);
                by_name.send(&line);
                for other in [&mut by_address, &mut by_name] {
                    let answer = other.until_eol().await.expect("an answer");
                    peer.send(&answer);
                }
            }
            by_name.finish();
            assert!(by_name.until_eol().await.is_none(), "its half has ended, too");
        });
        let mut client = client(&running);
        for round in 0..50 {
            client.send(format!("{round}\n"));
            assert_eq!((client.line(), client.line()), (format!("You said: {round}"), format!("You said: {round}")));
        }
        client.half_close();
        assert_eq!(client.rest(), b"");
    }

    fn pieces_leave_in_order_to_a_peer_and_to_a_client(backend: Backend) {
        let upstream = tasks(backend, echo);
        let address = upstream.service.address().expect("it listens").clone();
        let running = tasks(backend, async move |peer: &mut Peer| {
            let mut other = Client::connect(address.clone()).await.expect("it accepts");
            while let Some(line) = peer.until_eol().await {
                peer.send("first ");
                peer.send_all([&b"second "[..], b"", b"third "]);
                other.send_all([b"of the client ", &line]);
                let answer = other.until_eol().await.expect("an answer");
                peer.send_all([&*answer, &line]);
            }
        });
        let mut client = client(&running);
        for round in 0..20 {
            let line = format!("{round}");
            assert_eq!(client.ask(&line), format!("first second third You said: of the client {line}"));
            assert_eq!(client.line(), line);
        }
    }

    fn a_client_that_was_established_and_reset_before_its_task_looked_yields_what_had_come(backend: Backend) {
        let upstream = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = upstream.local_addr().expect("it listens");
        let running = tasks(backend, async move |peer: &mut Peer| {
            let mut opening = pin!(Client::connect(address));
            std::future::poll_fn(|cx| {
                assert!(opening.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            peer.send("opening\n");
            peer.until_eol().await;
            let mut other = opening.await.expect("it was established");
            let line = other.until_eol().await.expect("a line had come");
            peer.send_all([&*line, format!("{:?}\n", other.reason()).as_bytes()]);
            assert!(other.until_eol().await.is_none());
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "opening");
        let (mut server, _) = upstream.accept().expect("it connects");
        std::io::Write::write_all(&mut server, b"hello\n").expect("it is open");
        let stats = || running.handle.stats();
        eventually("the client's connection and its line", || (stats().connected == 1 && stats().received == 6).then_some(()));
        let reset = socket2::SockRef::from(&server).set_linger(Some(std::time::Duration::ZERO));
        reset.expect("it is a socket");
        drop(server);
        eventually("the client's end", || (stats().ended == 1).then_some(()));
        client.send("look\n");
        assert_eq!(client.line(), "hello");
        assert!(client.line().starts_with("Some("));
    }

    fn a_client_that_is_refused_says_why(backend: Backend) {
        let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
        nobody.bind(&any.into()).expect("a port is free");
        let address = nobody.local_addr().expect("it is bound").as_socket().expect("it is TCP");
        let running = tasks(backend, async move |peer: &mut Peer| {
            match Client::connect(address).await {
                Err(ConnectError::Connection(CloseReason::ConnectFailed(_))) => peer.send("refused"),
                other => peer.send(format!("{other:?}")),
            }
            match Client::connect_name("a name without a port").await {
                Err(ConnectError::Name(_)) => peer.send(", no name"),
                other => peer.send(format!("{other:?}")),
            }
        });
        assert_eq!(client(&running).rest_as_text(), "refused, no name");
    }

    fn megabytes_go_through_a_relay_of_two_tasks_in_order(backend: Backend) {
        let upstream = tasks(backend, async |peer: &mut Peer| {
            while let Some(bytes) = peer.some().await {
                peer.send_wait(&bytes).await;
            }
        });
        let address = upstream.service.address().expect("it listens").clone();
        let running = tasks(backend, async move |peer: &mut Peer| {
            let mut other = Client::connect(address.clone()).await.expect("it accepts");
            peer.read_on();
            other.read_on();
            let (to_peer, to_other) = (peer.sender(), other.sender());
            let up = async {
                while let Some(bytes) = peer.some().await {
                    to_other.send_wait(&bytes).await;
                }
                to_other.finish();
            };
            let down = async {
                while let Some(bytes) = other.some().await {
                    to_peer.send_wait(&bytes).await;
                }
            };
            // `first` ends with the first of them, so the end of one direction is passed on within it.
            sequential::first(down, async { up.await; std::future::pending::<()>().await }).await;
        });
        let mut client = client(&running);
        let bytes: Vec<u8> = (0..4_000_000u32).map(|at| (at ^ (at >> 8)) as u8).collect();
        let (mut writer, all) = (client.writer(), bytes.clone());
        let writer = std::thread::spawn(move || {
            use std::io::Write;
            writer.write_all(&all).expect("it is taken");
            writer.shutdown(std::net::Shutdown::Write).expect("it is open");
        });
        let back = client.rest();
        assert_eq!(back.len(), bytes.len());
        assert!(back == bytes);
        writer.join().expect("it writes");
    }

    fn topics_reach_the_peers_of_tasks(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let room = Topic::new("room");
            peer.subscribe(&room);
            peer.send("welcome\n");
            while let Some(line) = peer.until_eol().await {
                if line.starts_with(b"!") {
                    publish(&room, line.to_vec());
                } else {
                    peer.publish_to_others(&room, line.to_vec());
                }
            }
            peer.unsubscribe(&room);
        });
        let (mut one, mut other) = (client(&running), client(&running));
        assert_eq!((one.line(), other.line()), ("welcome".into(), "welcome".into()));
        one.send("from one\n!to all\n");
        assert_eq!((other.line(), other.line(), one.line()), ("from one".into(), "!to all".into(), "!to all".into()));
    }

    fn a_task_that_computes_for_too_long_is_counted_as_a_slow_callback(backend: Backend) {
        let (tell, told) = telling();
        let running = tasks(backend, async move |peer: &mut Peer| {
            while peer.until_eol().await.is_some() {
                // Time of the processor: time spent waiting for a core does not count, and is not this task's.
                let spent = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
                let until = spent() + rustix::time::Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
                while spent() < until {
                    std::hint::spin_loop();
                }
                peer.send("done\n");
                let _ = tell.send(());
            }
        });
        let mut client = client(&running);
        while running.handle.stats().slow_callbacks == 0 {
            assert_eq!(client.ask("compute"), "done");
            told.next();
        }
    }
}
