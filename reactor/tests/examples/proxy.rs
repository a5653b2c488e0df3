//! The example `proxy`: bytes, ends and resets pass it, a reader that stops holds up its sender alone, and signals end it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use reactor::{Address, Application, Context, Handle, Handler, Input, Service};
use rustix::process::Signal;

use crate::support::{BACKENDS, Example, GUARD, unless_chaos};
use crate::{connect, guarded, pattern, read_all, same};

const EIGHT_MB: usize = 8 << 20;

/// A proxy, and the listener behind the proxy.
fn proxy(backend: &str) -> (Example, TcpListener) {
    let upstream = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = upstream.local_addr().expect("it is bound").to_string();
    (Example::start("proxy", backend, &["127.0.0.1:0", &address]), upstream)
}

/// An echo on a Unix socket, in this process.
fn echo_on(path: &str, backend: &str) -> (Handle, thread::JoinHandle<()>) {
    struct Echo;

    impl Handler for Echo {
        type Connection = ();

        fn on_open(&mut self, _: &mut Context<'_>) {}

        fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
            cx.write(input.take_all());
        }
    }

    let mut app = Application::with_backend(backend.parse().expect("a backend")).expect("it is there");
    let address = Address::Unix(path.into());
    app.add_service(Service::at(vec![address], || Echo)).expect("the path is free");
    let handle = app.handle();
    (handle, thread::spawn(move || app.run().expect("it ends well")))
}

fn through(proxy: &Example, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(proxy.address);
    let (server, _) = upstream.accept().expect("the proxy connects");
    (client, guarded(server))
}

#[test]
fn proxy_passes_eight_megabytes_both_ways_at_once() {
    for backend in BACKENDS {
        let (proxy, upstream) = proxy(backend);
        let (client, server) = through(&proxy, &upstream);
        let (up, down) = (pattern(EIGHT_MB, 1), pattern(EIGHT_MB, 2));
        let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor is free");
        thread::scope(|scope| {
            for (stream, bytes) in [(clone(&client), &up), (clone(&server), &down)] {
                scope.spawn(move || {
                    (&stream).write_all(bytes).expect("it is taken");
                    stream.shutdown(Shutdown::Write).expect("it is open");
                });
            }
            let other = clone(&server);
            let received = scope.spawn(move || read_all(&mut { other }));
            same(&read_all(&mut clone(&client)), &down);
            same(&received.join().expect("it reads"), &up);
        });
        assert_eq!(proxy.terminate().code(), Some(0), "{backend}");
    }
}

/// An echo on a Unix socket, which keeps little in the kernel; a proxy before it; a client that sends all it has to say
/// before it reads. The echo is not read while its answers wait, so the proxy has to read those answers.
#[test]
fn proxy_passes_an_echo_to_a_client_that_says_everything_before_it_reads() {
    for backend in BACKENDS {
        let path = std::env::temp_dir().join(format!("reactor-proxied-{}-{backend}.sock", std::process::id()));
        let path = path.to_str().expect("it is text");
        let (server, thread) = echo_on(path, backend);
        let proxy = Example::start("proxy", backend, &["127.0.0.1:0", &format!("unix:{path}")]);
        let bytes = pattern(4 << 20, 5);
        let mut client = connect(proxy.address);
        client.write_all(&bytes).expect("the proxy reads on");
        client.shutdown(Shutdown::Write).expect("it is open");
        same(&read_all(&mut client), &bytes);
        assert_eq!(proxy.terminate().code(), Some(0), "{backend}");
        server.halt();
        thread.join().expect("it does not panic");
    }
}

/// How much the kernel keeps of what nobody reads, on two connections in a row, is a few megabytes; the proxy adds one
/// high-water mark and one receive buffer. So a sender gets stuck far below 64 MB, and goes on once the reader does.
#[test]
fn proxy_makes_the_sender_wait_for_a_reader_that_stops_and_loses_nothing() {
    let bytes = pattern(64 << 20, 3);
    // The number of bytes after which the sender is stuck. On a slow machine half a minute may pass before that, and then the proxy
    // gives up the reader.
    let sent_until_stuck = |client: &TcpStream| {
        client.set_write_timeout(Some(Duration::from_millis(500))).expect("not zero");
        let mut sent = 0;
        loop {
            match { client }.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(sent),
                Err(_) => return None,
            }
            assert!(sent < bytes.len(), "the proxy took it all, and nobody read");
        }
    };
    for backend in BACKENDS {
        let began = Instant::now();
        let (proxy, client, mut server, stuck_at) = loop {
            let (proxy, upstream) = proxy(backend);
            let (client, server) = through(&proxy, &upstream);
            if let Some(stuck_at) = sent_until_stuck(&client) {
                break (proxy, client, server, stuck_at);
            }
            assert!(began.elapsed() < GUARD, "{backend}: the sender's connection ends");
        };
        client.set_write_timeout(Some(GUARD)).expect("not zero");
        thread::scope(|scope| {
            scope.spawn(|| {
                (&client).write_all(&bytes[stuck_at..]).expect("it is taken");
                client.shutdown(Shutdown::Write).expect("it is open");
            });
            same(&read_all(&mut server), &bytes);
        });
        drop(server);
        assert_eq!(proxy.terminate().code(), Some(0), "{backend}");
    }
}

/// The reader takes little at a time, so that "above" and "drained" alternate hundreds of times: after a lost callback the
/// test would hang.
#[test]
fn proxy_goes_on_however_often_the_reader_falls_behind() {
    for backend in BACKENDS {
        let (proxy, upstream) = proxy(backend);
        let (client, mut server) = through(&proxy, &upstream);
        let bytes = pattern(24 << 20, 4);
        thread::scope(|scope| {
            scope.spawn(|| {
                (&client).write_all(&bytes).expect("it is taken");
                client.shutdown(Shutdown::Write).expect("it is open");
            });
            let (mut received, mut some) = (Vec::with_capacity(bytes.len()), vec![0; 512 * 1024]);
            loop {
                match server.read(&mut some).expect("more comes") {
                    0 => break,
                    count => received.extend_from_slice(&some[..count]),
                }
                thread::yield_now();
            }
            same(&received, &bytes);
        });
        drop((client, server));
        assert_eq!(proxy.terminate().code(), Some(0), "{backend}");
    }
}

#[test]
fn a_half_close_goes_through_the_proxy_and_the_answer_comes_back() {
    for backend in BACKENDS {
        let (proxy, upstream) = proxy(backend);
        let (mut client, mut server) = through(&proxy, &upstream);
        client.write_all(b"question").expect("it is open");
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(read_all(&mut server), b"question", "{backend}: the end comes through");
        let answer = pattern(4 << 20, 5);
        thread::scope(|scope| {
            scope.spawn(|| {
                server.write_all(&answer).expect("the other half is open");
                server.shutdown(Shutdown::Write).expect("it is open");
            });
            same(&read_all(&mut client), &answer);
        });
        assert_eq!(proxy.terminate().code(), Some(0), "{backend}");
    }
}

#[test]
fn a_question_on_its_way_through_the_proxy_is_answered_while_the_proxy_stops() {
    unless_chaos!("has the drain time for the listener to be closed, which may rest for longer");
    for backend in BACKENDS {
        let (proxy, upstream) = proxy(backend);
        let (mut client, mut server) = through(&proxy, &upstream);
        client.write_all(b"question").expect("it is open");
        server.read_exact(&mut [0; 8]).expect("the question comes through");
        proxy.signal(Signal::TERM);
        proxy.wait_for_closed_listener();
        // Resets the connections that were made while the test was waiting, and that nobody accepts.
        drop(upstream);
        server.write_all(b"answer").expect("it is open");
        server.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(read_all(&mut client), b"answer", "{backend}");
        client.shutdown(Shutdown::Write).expect("it is open");
        let mut proxy = proxy;
        assert_eq!(proxy.child.wait().expect("it is our child").code(), Some(0), "{backend}");
    }
}

#[test]
fn a_proxy_without_an_upstream_ends_the_client_and_goes_on() {
    for backend in BACKENDS {
        // Bound, so that nobody else gets the port, and not listening.
        let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        nobody.bind(&any.into()).expect("a port is free");
        let upstream = nobody.local_addr().expect("it is bound").as_socket().expect("it is IP").to_string();
        let proxy = Example::start("proxy", backend, &["127.0.0.1:0", &upstream]);
        for _ in 0..3 {
            assert_eq!(read_all(&mut connect(proxy.address)), b"");
        }
        assert_eq!(proxy.terminate().code(), Some(0), "{backend}");
    }
}

#[test]
fn a_reset_goes_through_the_proxy() {
    for backend in BACKENDS {
        let (proxy, upstream) = proxy(backend);
        let (client, mut server) = through(&proxy, &upstream);
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("it is a socket");
        drop(client);
        let error = server.read(&mut [0; 16]).expect_err("it is no orderly end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{backend}");
        assert_eq!(proxy.terminate().code(), Some(0), "{backend}");
    }
}

/// Writes until the proxy owes the server more than the server takes. A proxy that only waits for a core owes nothing yet, and would
/// end with the first signal: so it must sleep while it has input to read.
fn keep_waiting(client: &TcpStream, proxy: &Example) {
    client.set_nonblocking(true).expect("it is a socket");
    let sleeps = || match fs::read_to_string(format!("/proc/{}/stat", proxy.child.id())) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('S')),
        Err(_) => true,
    };
    let mut client = client;
    loop {
        while client.write(&[0; 1 << 16]).is_ok() {}
        if sleeps() && client.write(&[0]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_second_signal_ends_at_once_with_its_number() {
    unless_chaos!("has the drain time for the listener to be closed, which may rest for longer");
    for backend in BACKENDS {
        let (proxy, upstream) = proxy(backend);
        let (client, server) = through(&proxy, &upstream);
        keep_waiting(&client, &proxy);
        proxy.signal(Signal::TERM);
        // The proxy tells the second signal from the first only after it has taken the first one.
        proxy.wait_for_closed_listener();
        proxy.signal(Signal::INT);
        let mut proxy = proxy;
        assert_eq!(proxy.child.wait().expect("it is our child").code(), Some(128 + Signal::INT.as_raw()), "{backend}");
        drop(server);
    }
}
