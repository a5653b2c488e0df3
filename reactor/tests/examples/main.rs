//! The examples as programs: started on any free port, talked to, ended by SIGTERM.

mod proxy;
mod redis;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use support::{BACKENDS, Example, GUARD};

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

/// The most memory that a process has had, in bytes.
fn peak_of(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
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
