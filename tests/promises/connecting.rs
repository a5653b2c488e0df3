//! Rule 27: an outbound connection has a single outcome, with its reason.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use reactor::{Address, CloseReason};

use crate::stage::{Plan, Seen, Stage, read_exactly, reset, socket_path};
use crate::support::on_every_backend;

/// A port of this host without a listener, for as long as the socket lives.
fn closed_port() -> (socket2::Socket, SocketAddr) {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a descriptor is free");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port is free");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("it is IP");
    (socket, address)
}

on_every_backend! {
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
}
