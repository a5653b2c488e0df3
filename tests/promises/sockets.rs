//! Sockets: open streams that a handler gives to the loop, and the options of a service's sockets.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use reactor::{
    Address, CloseReason, ConnectionId, Deadline, Deadlines, Error, Keepalive, Limits, Listener, Peer, Service,
    SocketOptions,
};
use socket2::SockRef;

use crate::stage::{
    Client, Context, Plan, Seen, Stage, client_of, guarded, pattern, read_all, read_exactly, reset, same, socket_path,
};
use crate::support::{GUARD, on_every_backend};

/// A stage whose connections echo, and one end of a pair of sockets whose other end the stage has adopted.
fn adopted(stage: &Stage) -> (UnixStream, ConnectionId) {
    let (ours, theirs) = UnixStream::pair().expect("descriptors are free");
    theirs.set_read_timeout(Some(GUARD)).expect("not zero");
    theirs.set_write_timeout(Some(GUARD)).expect("not zero");
    (theirs, adopt(stage, ours).expect("it is a stream"))
}

fn adopt(stage: &Stage, descriptor: impl Into<OwnedFd>) -> Result<ConnectionId, Error> {
    let descriptor = descriptor.into();
    stage.ask(move |cx| cx.adopt(descriptor, ()))
}

/// The options of a socket as the kernel tells them: TCP_NODELAY, and the times of SO_KEEPALIVE.
fn told(socket: &impl AsFd) -> (bool, Option<Keepalive>) {
    let socket = SockRef::from(socket);
    let keepalive = socket.keepalive().expect("a socket").then(|| Keepalive {
        idle: socket.tcp_keepalive_time().expect("TCP"),
        interval: socket.tcp_keepalive_interval().expect("TCP"),
        probes: socket.tcp_keepalive_retries().expect("TCP"),
    });
    (socket.tcp_nodelay().expect("TCP"), keepalive)
}

/// The sizes of a socket's buffers, which Linux has doubled: for receiving and for sending.
fn buffers(socket: &impl AsFd) -> [usize; 2] {
    let socket = SockRef::from(socket);
    [socket.recv_buffer_size().expect("a socket") / 2, socket.send_buffer_size().expect("a socket") / 2]
}

/// Options that are all different from the default.
fn unusual() -> SocketOptions {
    let keepalive = Keepalive { idle: Duration::from_millis(4_001), interval: Duration::from_secs(7), probes: 3 };
    SocketOptions {
        no_delay: false,
        keepalive: Some(keepalive),
        receive_buffer: Some(20_000),
        send_buffer: Some(30_000),
    }
}

/// The values of `unusual` as the kernel tells them: whole seconds.
fn unusual_told() -> (bool, Option<Keepalive>) {
    (false, unusual().keepalive.map(|keepalive| Keepalive { idle: Duration::from_secs(5), ..keepalive }))
}

/// On the loop: the options of this connection.
fn options_of(id: ConnectionId, cx: &mut Context<'_>) -> ((bool, Option<Keepalive>), [usize; 2]) {
    let connection = cx.at(id);
    let descriptor = connection.descriptor().expect("it has a socket");
    (told(&descriptor), buffers(&descriptor))
}

on_every_backend! {
    fn an_adopted_stream_is_a_connection_like_any_other(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // Input that waits in the socket is delivered first.
        theirs.write_all(b"waits").unwrap();
        let id = adopt(&stage, ours).unwrap();
        assert_eq!(&read_exactly::<5>(&mut theirs), b"waits");
        let all = pattern(1 << 20);
        let (sent, mut reader) = (all.clone(), theirs.try_clone().unwrap());
        let writing = std::thread::spawn(move || {
            theirs.write_all(&sent).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
        });
        same(&read_all(&mut reader), &all);
        writing.join().unwrap();
        assert_eq!(stage.closed(id), (CloseReason::PeerEnded, 0));
        let stats = stage.stats();
        assert_eq!((stats.accepted, stats.open, stats.connected, stats.closed(CloseReason::PeerEnded)), (1, 0, 0, 1));
        assert_eq!((stats.received as usize, stats.sent as usize), (all.len() + 5, all.len() + 5));
        assert!(!stage.end().iter().any(|seen| matches!(seen, Seen::Opened(_) | Seen::Connected(_) | Seen::Closed(..))));
    }

    fn an_adopted_tcp_connection_has_its_peer_and_its_own_address(backend: Backend) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let client = client_of(own);
        let stage = Stage::new(backend, Plan::echo());
        let id = adopt(&stage, listener.accept().unwrap().0).unwrap();
        let told = stage.ask(move |cx| (cx.at(id).peer(), cx.at(id).local_address(), cx.connections()));
        assert_eq!(told, (Some(Peer::Tcp(client.local_addr().unwrap())), Some(Address::Tcp(own)), vec![id]));
        let (_theirs, unix) = adopted(&stage);
        assert_eq!(stage.ask(move |cx| (cx.at(unix).peer(), cx.at(unix).local_address())), (Some(Peer::Unix), None));
    }

    // A dispatching process accepts connections, and sends the descriptors.
    fn a_descriptor_that_came_by_a_message_is_adopted(backend: Backend) {
        let (from, to) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = client_of(listener.local_addr().unwrap());
        let accepted = listener.accept().unwrap().0;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut out = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = [accepted.as_fd()];
        assert!(out.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(&from, &[IoSlice::new(b"x")], &mut out, rustix::net::SendFlags::empty()).unwrap();
        drop(accepted);
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut came = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let flags = rustix::net::RecvFlags::empty();
        rustix::net::recvmsg(&to, &mut [IoSliceMut::new(&mut [0])], &mut came, flags).unwrap();
        let mut received = came.drain().filter_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let stage = Stage::new(backend, Plan::echo());
        let id = adopt(&stage, received.next().expect("it has come")).unwrap();
        client.write_all(b"handed over").unwrap();
        assert_eq!(&read_exactly::<11>(&mut client), b"handed over");
        stage.order(move |cx| cx.at(id).abort());
        assert_eq!(stage.closed(id), (CloseReason::Aborted, 0));
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    fn what_is_no_open_stream_is_an_error_that_says_what_it_is(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let (other, _id) = stage.open();
        let before = stage.ask(|cx| cx.connections());
        let path = socket_path("adopt", backend);
        let (pipe, _end) = std::io::pipe().unwrap();
        let unconnected = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let (packets, _packets) =
            socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
        let gone = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            reset(client_of(listener.local_addr().unwrap()));
            let gone = listener.accept().unwrap().0;
            // The reset has arrived when reading fails.
            guarded(&gone);
            assert!(gone.peek(&mut [0; 1]).is_err());
            gone
        };
        let table: [(OwnedFd, &str); 9] = [
            (File::open("/proc/self/exe").unwrap().into(), "it is not a socket"),
            (pipe.into(), "it is not a socket"),
            (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "it is not a stream socket"),
            (UnixDatagram::unbound().unwrap().into(), "it is not a stream socket"),
            (packets.into(), "it is not a stream socket"),
            (TcpListener::bind("127.0.0.1:0").unwrap().into(), "it is a listener"),
            (UnixListener::bind(&path).unwrap().into(), "it is a listener"),
            (unconnected.into(), "it is not connected"),
            (gone.into(), "it is not connected"),
        ];
        for (descriptor, why) in table {
            let number = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
            let error = adopt(&stage, descriptor).unwrap_err();
            assert!(matches!(error, Error::Adopted { descriptor, .. } if descriptor == number));
            assert_eq!(error.to_string(), format!("descriptor {number}: {why}"));
        }
        std::fs::remove_file(path).unwrap();
        assert_eq!(stage.ask(|cx| cx.connections()), before);
        assert_eq!(stage.left_over(), []);
        let mut other = other;
        crate::stage::round_trip(&mut other, b"still here");
    }

    fn a_stream_whose_peer_has_left_before_is_heard_to_its_end(backend: Backend) {
        let stage = Stage::new(backend, Plan::new());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"last words").unwrap();
        drop(theirs);
        let id = adopt(&stage, ours).unwrap();
        assert_eq!(stage.data(id, 10), b"last words");
        assert_eq!(stage.until(|seen| matches!(seen, Seen::End(..))), Seen::End(id, 0));
        stage.closed(id);
        assert_eq!(stage.stats().open, 0);
    }

    fn an_adopted_stream_has_the_deadlines_of_its_service(backend: Backend) {
        let none = Deadlines { first_request: None, idle: None, write_progress: None, ..Deadlines::default() };
        let short = Some(Duration::from_millis(50));
        let table = [
            (Deadlines { first_request: short, ..none.clone() }, Deadline::FirstRequest),
            (Deadlines { idle: short, ..none }, Deadline::Idle),
        ];
        for (deadlines, which) in table {
            let stage = Stage::tuned(backend, Plan::echo(), |service| service.deadlines(deadlines), |_| {});
            let (mut theirs, id) = adopted(&stage);
            assert_eq!(stage.closed(id).0, CloseReason::TimedOut(which));
            assert_eq!(read_all(&mut theirs), b"");
        }
    }

    fn an_adopted_stream_has_the_limits_of_its_service(backend: Backend) {
        let limits = Limits { input: 1000, connections: Some(2), ..Limits::default() };
        let plan = Plan::new().data(|_, _| {});
        let stage = Stage::tuned(backend, plan, |service| service.limits(limits).refusal("full"), |_| {});
        let (mut theirs, id) = adopted(&stage);
        let (_second, _) = adopted(&stage);
        // Both count, so a client is refused, and so is a third stream.
        let mut client = stage.client();
        assert_eq!(read_all(&mut client), b"full");
        let (third, mut left) = UnixStream::pair().unwrap();
        let error = adopt(&stage, third).unwrap_err().to_string();
        assert!(error.ends_with(": at the limit of 2 connections"), "{error}");
        assert_eq!(read_all(&mut left), b"", "its descriptor is closed");
        theirs.write_all(&[b'x'; 1001]).unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::InputOverflow { limit: 1000 });
        let (_fourth, _) = adopted(&stage);
    }

    fn a_stop_lets_an_adopted_stream_finish(backend: Backend) {
        let stage = Stage::new(backend, Plan::lines());
        let (mut theirs, id) = adopted(&stage);
        theirs.write_all(b"asked\n").unwrap();
        assert_eq!(stage.data(id, 6), b"asked\n");
        let seen = stage.end();
        assert!(seen.contains(&Seen::Stopping(id)) && seen.contains(&Seen::Closed(id, CloseReason::Stopped, 0)), "{seen:?}");
        assert_eq!(read_all(&mut theirs), b"asked\n");
    }

    fn a_stream_adopted_by_the_last_callback_of_a_stop_is_closed(backend: Backend) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = std::sync::Mutex::new(Some(ours));
        let plan = Plan::new().closed(move |cx| {
            let stream = ours.lock().expect("nobody panics").take();
            if let Some(stream) = stream {
                assert_eq!(cx.adopt(stream.into(), ()).expect("no error"), ConnectionId::NONE);
            }
        });
        let stage = Stage::new(backend, plan);
        let (_client, _) = stage.open();
        stage.end();
        assert_eq!(read_all(&mut theirs), b"");
    }

    fn hundreds_of_adopted_streams_come_and_go_without_a_trace(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        for _ in 0..10 {
            let pairs: Vec<_> = (0..20).map(|_| adopted(&stage)).collect();
            for (mut theirs, id) in pairs {
                theirs.write_all(b"here").unwrap();
                assert_eq!(&read_exactly::<4>(&mut theirs), b"here");
                drop(theirs);
                stage.closed(id);
            }
        }
        let stats = stage.stats();
        assert_eq!((stats.accepted, stats.open, stats.closed_total()), (200, 0, 200));
    }

    fn an_adopted_stream_makes_its_socket_not_block_and_closes_it_in_a_program(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let (_theirs, id) = adopted(&stage);
        let flags = stage.ask(move |cx| {
            let connection = cx.at(id);
            let descriptor = connection.descriptor().expect("it has a socket");
            let status = rustix::fs::fcntl_getfl(descriptor).expect("open");
            (status.contains(rustix::fs::OFlags::NONBLOCK), rustix::io::fcntl_getfd(descriptor).expect("open"))
        });
        assert_eq!(flags, (true, rustix::io::FdFlags::CLOEXEC));
    }

    fn without_options_of_their_own_sockets_have_the_documented_defaults(backend: Backend) {
        let stage = Stage::new(backend, Plan::new());
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let (ids, _others) = each_kind(&stage, &upstream);
        let defaults = (true, Some(Keepalive::default()));
        for id in ids {
            assert_eq!(stage.ask(move |cx| options_of(id, cx).0), defaults);
        }
    }

    fn the_options_of_a_service_hold_for_accepted_outbound_and_adopted_sockets(backend: Backend) {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = Stage::tuned(backend, Plan::new(), |service| service.socket_options(unusual()), |_| {});
        let ready = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken_over = Stage::at(
            backend,
            Plan::new(),
            |factory| Service::on(Listener::try_from(ready).expect("it listens"), factory),
            |service| service.socket_options(unusual()),
            |_| {},
        );
        for stage in [bound, taken_over] {
            let (ids, _others) = each_kind(&stage, &upstream);
            for id in ids {
                assert_eq!(stage.ask(move |cx| options_of(id, cx)), (unusual_told(), [20_000, 30_000]));
            }
        }
        let silent = SocketOptions { keepalive: None, ..SocketOptions::default() };
        let stage = Stage::tuned(backend, Plan::new(), |service| service.socket_options(silent), |_| {});
        let (ids, _others) = each_kind(&stage, &upstream);
        for id in ids {
            assert_eq!(stage.ask(move |cx| options_of(id, cx).0), (true, None));
        }
    }

    fn a_unix_socket_has_the_send_buffer_of_its_service(backend: Backend) {
        let path = socket_path("options", backend);
        let at = path.clone();
        let options = SocketOptions { send_buffer: Some(50_000), ..SocketOptions::default() };
        let stage = Stage::at(
            backend,
            Plan::new(),
            move |factory| Service::unix(at, factory),
            |service| service.socket_options(options),
            |_| {},
        );
        let _client = UnixStream::connect(&path).unwrap();
        let accepted = stage.until(|seen| matches!(seen, Seen::Opened(_))).id();
        let outbound = stage.ask(move |cx| cx.connect(Address::Unix(path), ()));
        stage.until(|seen| matches!(seen, Seen::Connected(_)));
        let (_theirs, adopted) = adopted(&stage);
        for id in [accepted, outbound, adopted] {
            let sizes = stage.ask(move |cx| buffers(&cx.at(id).descriptor().expect("it has a socket")));
            assert_eq!(sizes[1], 50_000);
        }
    }

    fn an_option_out_of_range_is_an_error_that_names_it(backend: Backend) {
        let mut application = reactor::Application::with_backend(backend).unwrap();
        let options = SocketOptions { send_buffer: Some(0), ..SocketOptions::default() };
        struct Nobody;
        impl reactor::Handler for Nobody {
            type Connection = ();
            fn on_open(&mut self, _: &mut reactor::Context<'_>) {}
            fn on_data(&mut self, _: &mut (), _: &mut reactor::Input<'_>, _: &mut reactor::Context<'_>) {}
        }
        let service = Service::tcp("127.0.0.1:0", || Nobody).socket_options(options);
        let error = application.add_service(service).unwrap_err();
        assert_eq!(error.to_string(), "send_buffer: 0 bytes: it is 1 to 1073741823");
    }
}

/// A connection of each kind: accepted, outbound and adopted; and the other ends.
fn each_kind(stage: &Stage, upstream: &TcpListener) -> ([ConnectionId; 3], Vec<Client>) {
    let (client, accepted) = stage.open();
    let to: SocketAddr = upstream.local_addr().expect("it is bound");
    let outbound = stage.ask(move |cx| cx.connect(to, ()));
    let (server, _) = upstream.accept().expect("it comes");
    stage.until(|seen| matches!(seen, Seen::Connected(_)));
    let theirs = client_of(to);
    let (ours, _) = upstream.accept().expect("it comes");
    let adopted = adopt(stage, ours).expect("it is a stream");
    ([accepted, outbound, adopted], vec![client, server.into(), theirs.into()])
}
