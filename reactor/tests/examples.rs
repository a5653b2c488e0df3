//! The examples as programs: started on any free port, talked to, ended by SIGTERM.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reactor::{Address, Application, Context, Handle, Handler, Input, Service};
use rustix::process::Signal;
use support::{BACKENDS, Example, GUARD, unless_chaos};

const EIGHT_MB: usize = 8 << 20;
/// The models, by the names that the examples know.
const MODELS: [&str; 3] = ["loops", "threads", "processes"];

fn connect(address: SocketAddr) -> TcpStream {
    guarded(TcpStream::connect(address).expect("it listens"))
}

fn guarded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(GUARD)).expect("not zero");
    stream.set_write_timeout(Some(GUARD)).expect("not zero");
    stream
}

/// Bytes that show where one is missing, doubled or in the wrong place.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed) as u8).collect()
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("it ends in order");
    bytes
}

/// `assert_eq!` of megabytes would print them.
fn same(one: &[u8], other: &[u8]) {
    assert_eq!(one.len(), other.len());
    assert!(one == other, "they differ at {:?}", one.iter().zip(other).position(|(one, other)| one != other));
}

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
fn echo_answers_each_line_and_ends_well() {
    for backend in BACKENDS {
        let echo = Example::start("echo", backend, &["127.0.0.1:0"]);
        let mut client = connect(echo.address);
        client.write_all(b"one\ntwo\r\nno end").expect("it is open");
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(read_all(&mut client), b"You said: one\nYou said: two\r\n");
        assert_eq!(echo.terminate().code(), Some(0), "{backend}");
    }
}

/// Sends a line and reads the answer, up to the line that ends it.
fn ask(client: &mut BufReader<TcpStream>, line: &str) -> String {
    client.get_mut().write_all(line.as_bytes()).expect("it is open");
    let mut answer = String::new();
    client.read_line(&mut answer).expect("an answer comes");
    answer
}

#[test]
fn clients_are_listed_and_ended_by_number_without_a_registry() {
    for backend in BACKENDS {
        let server = Example::start("clients", backend, &["127.0.0.1:0"]);
        let mut clients = [(); 3].map(|()| BufReader::new(connect(server.address)));
        let ids = clients.each_mut().map(|client| ask(client, "CLIENT ID\n").trim().to_owned());
        let mut listed = vec![ask(&mut clients[0], "CLIENT LIST\n")];
        for _ in 1..3 {
            let mut line = String::new();
            clients[0].read_line(&mut line).expect("a line for each client");
            listed.push(line);
        }
        for (id, client) in ids.iter().zip(&clients) {
            let address = client.get_ref().local_addr().expect("it is connected");
            let line = format!("id={id} addr={address} age=");
            assert!(listed.iter().any(|listed| listed.starts_with(&line)), "{line} is not in {listed:?}");
        }
        assert_eq!(ask(&mut clients[0], &format!("CLIENT KILL ID {}\n", ids[1])), "OK\n");
        assert_eq!(read_all(clients[1].get_mut()), b"", "it ends in order");
        assert_eq!(ask(&mut clients[2], "CLIENT KILL ID 77\n"), "ERR no such client\n");
        assert_eq!(ask(&mut clients[2], "CLIENT KILL ID me\n"), "ERR no such client\n");
        // The answer leaves before the end.
        assert_eq!(ask(&mut clients[2], &format!("CLIENT KILL ID {}\n", ids[2])), "OK\n");
        assert_eq!(read_all(clients[2].get_mut()), b"");
        drop(clients);
        assert_eq!(server.terminate().code(), Some(0), "{backend}");
    }
}

#[test]
fn ticker_tells_everybody_the_same_numbers_in_order() {
    for backend in BACKENDS {
        let ticker = Example::start("ticker", backend, &["127.0.0.1:0", "5"]);
        let mut clients = [connect(ticker.address), connect(ticker.address)];
        for client in &mut clients {
            let mut bytes = Vec::new();
            while bytes.iter().filter(|byte| **byte == b'\n').count() < 5 {
                let mut some = [0; 64];
                let count = client.read(&mut some).expect("a tick comes");
                bytes.extend_from_slice(&some[..count]);
            }
            let text = String::from_utf8(bytes).expect("digits");
            let whole = &text[..=text.rfind('\n').expect("five of them")];
            let numbers: Vec<u64> = whole.lines().map(|line| line.parse().expect("a number")).collect();
            assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
        }
        assert_eq!(ticker.terminate().code(), Some(0), "{backend}");
    }
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

fn redis(backend: &str) -> (Example, TcpStream) {
    let redis = Example::start("redis", backend, &["127.0.0.1:0"]);
    let client = connect(redis.address);
    (redis, client)
}

/// Sends, and reads as many bytes as are expected.
fn answers(client: &mut TcpStream, request: &[u8], expected: &[u8]) {
    client.write_all(request).expect("it is open");
    let mut received = vec![0; expected.len()];
    client.read_exact(&mut received).expect("it answers");
    assert_eq!(received.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn redis_answers_commands_in_any_pieces_and_names_what_it_cannot_read() {
    for backend in BACKENDS {
        let (redis, mut client) = redis(backend);
        answers(&mut client, b"*1\r\n$4\r\nping\r\n", b"+PONG\r\n");
        let set = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n";
        set[..30].iter().for_each(|byte| client.write_all(&[*byte]).expect("it is open"));
        answers(&mut client, &set[30..], b"+OK\r\n");
        let (get, del) = (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n");
        let both = [&get[..], del, get].concat();
        answers(&mut client, &both, b"$5\r\nvalue\r\n:1\r\n$-1\r\n");
        answers(
            &mut client,
            b"*1\r\n:7\r\n",
            b"-ERR Protocol error: an item begins with another byte than it should\r\n",
        );
        assert_eq!(read_all(&mut client), b"");
        assert_eq!(redis.terminate().code(), Some(0), "{backend}");
    }
}

#[test]
fn redis_pushes_what_is_published_to_those_who_subscribe() {
    for backend in BACKENDS {
        let (redis, mut subscriber) = redis(backend);
        let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
        answers(&mut subscriber, b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n", subscribed);
        let mut publisher = connect(redis.address);
        answers(&mut publisher, b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n$5\r\nhello\r\n", b":1\r\n");
        answers(&mut subscriber, b"", b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
        assert_eq!(redis.terminate().code(), Some(0), "{backend}");
    }
}

/// The most memory that a process has had, in bytes.
fn peak_of(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[test]
fn a_large_value_is_kept_where_it_was_received_without_a_copy() {
    const SIZE: usize = 64 << 20;
    let (redis, mut client) = redis("epoll");
    client.write_all(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${SIZE}\r\n").as_bytes()).expect("it is open");
    let value = pattern(SIZE, 7);
    client.write_all(&value).expect("it is taken");
    answers(&mut client, b"\r\n", b"+OK\r\n");
    let peak = peak_of(redis.child.id());
    assert!(peak < SIZE + (SIZE / 4), "{peak} bytes for a value of {SIZE}");
    answers(&mut client, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", format!("${SIZE}\r\n").as_bytes());
    let mut back = vec![0; SIZE];
    client.read_exact(&mut back).expect("it answers");
    same(&back, &value);
}

#[test]
#[ignore = "needs redis-cli"]
fn redis_cli_sets_gets_subscribes_and_publishes() {
    let (redis, _client) = redis("epoll");
    let port = redis.address.port().to_string();
    let cli = |words: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().expect("redis-cli is there");
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).expect("it prints text")
    };
    assert_eq!(cli(&["ping"]), "PONG\n");
    assert_eq!(cli(&["set", "greeting", "hello there"]), "OK\n");
    assert_eq!(cli(&["get", "greeting"]), "hello there\n");
    assert_eq!(cli(&["get", "nothing"]), "\n");
    assert_eq!(cli(&["del", "greeting", "nothing"]), "1\n");
    assert!(cli(&["nonsense"]).starts_with("ERR unknown command"));
    let mut subscriber = Command::new("redis-cli");
    subscriber.args(["-p", &port, "subscribe", "news"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut subscriber = subscriber.spawn().expect("redis-cli is there");
    let mut lines = BufReader::new(subscriber.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().expect("it goes on").expect("it is text");
    // Which answer comes first says that it is subscribed.
    let subscribed: Vec<_> = (0..3).map(|_| next()).collect();
    assert!(subscribed.iter().any(|line| line.contains("news")), "{subscribed:?}");
    assert_eq!(cli(&["publish", "news", "it rains"]), "1\n");
    let message: Vec<_> = (0..3).map(|_| next()).collect();
    assert!(message.iter().any(|line| line.contains("it rains")), "{message:?}");
    subscriber.kill().expect("it is our child");
    let _ = subscriber.wait();
    assert_eq!(redis.terminate().code(), Some(0));
}

#[test]
fn a_pipeline_of_large_answers_leaves_whole_and_in_constant_memory() {
    const ANSWER: usize = 100_000_000;
    let download = Example::start("download", "epoll", &["127.0.0.1:0"]);
    let mut client = connect(download.address);
    client.write_all(b"one\ntwo\n").expect("it is open");
    client.shutdown(Shutdown::Write).expect("it is open");
    let (mut some, mut count, mut dots) = (vec![0; 1 << 20], 0, 0);
    loop {
        let read = client.read(&mut some).expect("it ends in order");
        if read == 0 {
            break;
        }
        count += read;
        dots += some[..read].iter().filter(|byte| **byte == b'.').count();
    }
    assert_eq!((count, dots), (2 * (ANSWER + 8), 2 * ANSWER));
    let peak = peak_of(download.child.id());
    assert!(peak < ANSWER / 2, "{peak} bytes");
    assert_eq!(download.terminate().code(), Some(0));
}

#[test]
fn each_client_has_a_program_of_its_own_at_an_adopted_socket_under_every_model() {
    for backend in BACKENDS {
        for model in ["loops", "threads", "processes"] {
            let example = Example::start("helpers", backend, &["127.0.0.1:0", model, "tr", "a-z", "A-Z"]);
            let mut clients = [(); 3].map(|()| connect(example.address));
            for client in &mut clients {
                client.write_all(b"in small letters").expect("it is open");
                client.shutdown(Shutdown::Write).expect("it is open");
            }
            for client in &mut clients {
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).expect("it ends in order");
                assert_eq!(answer, b"IN SMALL LETTERS", "{model} on {backend}");
            }
            drop(clients);
            assert_eq!(example.terminate().code(), Some(0), "{model} on {backend}");
        }
    }
}

#[test]
fn a_program_that_inetd_starts_serves_its_standard_input_under_every_model() {
    for backend in BACKENDS {
        for model in ["loops", "threads", "processes"] {
            let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("descriptors are free");
            ours.set_read_timeout(Some(GUARD)).expect("not zero");
            let mut command = Command::new(support::path_of("inetd"));
            command.env("REACTOR_BACKEND", backend).arg(model).stdin(std::os::fd::OwnedFd::from(theirs));
            let mut child = command.spawn().expect("it starts");
            drop(command);
            ours.write_all(b"one\ntwo\n").expect("it is open");
            ours.shutdown(Shutdown::Write).expect("it is open");
            let mut answer = Vec::new();
            ours.read_to_end(&mut answer).expect("it ends in order");
            assert_eq!(answer, b"one\ntwo\n", "{model} on {backend}");
            assert_eq!(child.wait().expect("it is our child").code(), Some(0), "{model} on {backend}");
        }
    }
    let output = Command::new(support::path_of("inetd")).stdin(Stdio::null()).output().expect("it starts");
    let said = String::from_utf8(output.stderr).expect("it is text");
    assert!(said.starts_with("standard input: descriptor ") && said.ends_with(": it is not a socket\n"), "{said}");
}

#[test]
fn a_client_reaches_a_server_by_its_name_and_says_when_there_is_none() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = server.local_addr().expect("it is bound").port();
    let mut client = Command::new(support::path_of("by_name"));
    let client = client.args([&format!("localhost:{port}"), "hello"]).stdout(Stdio::piped()).spawn();
    let (mut stream, _) = server.accept().expect("the client connects");
    let mut line = Vec::new();
    stream.read_to_end(&mut line).expect("it ends in order");
    assert_eq!(line, b"hello\n");
    stream.write_all(b"hello to you\n").expect("it reads");
    drop((stream, server));
    let output = client.expect("it starts").wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"hello to you\n"[..]));
    // Bound, so that nobody else gets the port, and not listening.
    let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    nobody.bind(&any.into()).expect("a port is free");
    let port = nobody.local_addr().expect("it is bound").as_socket().expect("it is IP").port();
    let failed = Command::new(support::path_of("by_name")).args([&format!("localhost:{port}"), "hello"]).output();
    let said = String::from_utf8(failed.expect("it starts").stderr).expect("it is text");
    assert!(said.contains(&format!("no server answers at localhost:{port}")), "{said}");
}

/// The example `greeter` under a model, and its file.
fn greeter(test: &str, backend: &str, model: &str) -> (Command, std::path::PathBuf) {
    let file = std::env::temp_dir().join(format!("reactor-{test}-{backend}-{model}-{}", std::process::id()));
    let mut command = Command::new(support::path_of("greeter"));
    command.arg(&file).args(["127.0.0.1:0", model]).env("REACTOR_BACKEND", backend);
    (command, file)
}

#[test]
fn a_factory_that_fails_ends_the_greeter_under_every_model() {
    for (backend, model) in BACKENDS.iter().flat_map(|backend| MODELS.map(|model| (backend, model))) {
        let output = greeter("missing", backend, model).0.output().expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{model} on {backend}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("Greeter: No such file or directory"), "{model} on {backend}: {error}");
    }
}

#[test]
fn a_handler_has_what_its_factory_was_given_under_every_model() {
    for (backend, model) in BACKENDS.iter().flat_map(|backend| MODELS.map(|model| (backend, model))) {
        let (command, file) = greeter("greeting", backend, model);
        std::fs::write(&file, "hello\n").expect("a file can be written");
        let greeter = Example::spawn(command, backend);
        let address = greeter.address;
        let greeted = |words: &str| {
            let mut client = BufReader::new(connect(address));
            let mut line = || {
                let mut line = String::new();
                client.read_line(&mut line).map(|_| line)
            };
            if line().expect("it ends in order") != format!("{words} from tcp://{address}\n") {
                return false;
            }
            client.get_mut().write_all(b"12345\n").expect("it is open");
            let mut answer = String::new();
            client.read_line(&mut answer).expect("an answer comes");
            answer == "6 bytes\n"
        };
        assert!(greeted("hello"), "{model} on {backend}");
        std::fs::remove_file(&file).expect("it is there");
        // Each loop has a handler already. A thread or a process of a connection makes its own, and fails.
        let has_own_loop = model != "loops";
        let mut client = connect(address);
        let mut told = [0; 1];
        let is_served = client.read(&mut told).is_ok_and(|count| count == 1);
        assert_eq!(is_served, !has_own_loop, "{model} on {backend}");
        std::fs::write(&file, "hi\n").expect("a file can be written");
        assert!(greeted(if has_own_loop { "hi" } else { "hello" }), "{model} on {backend}");
        std::fs::remove_file(&file).expect("it is there");
        assert!(greeter.terminate().success(), "{model} on {backend}");
    }
}
