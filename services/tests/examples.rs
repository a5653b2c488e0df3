//! The example as a program: started on any free port, talked to by raw bytes, ended by SIGTERM.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const GUARD: Duration = Duration::from_secs(120);

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8803\r\nOrigin: http://127.0.0.1:8803\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Killed when dropped.
struct Example(Child, String);

impl Example {
    /// `cargo test` puts examples beside the directory of this test.
    fn start(name: &str, backend: &str) -> Self {
        let this = std::env::current_exe().expect("a test knows where it is");
        let directory = this.ancestors().nth(2).expect("it is in target/PROFILE/deps");
        let path = directory.join("examples").join(name);
        assert!(path.exists(), "{} is not built: `cargo build --examples`", path.display());
        let mut command = Command::new(path);
        command.arg("127.0.0.1:0").env("REACTOR_BACKEND", backend).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it is text");
        let address = line.trim().strip_prefix("listening tcp://").expect("it says so").to_owned();
        Example(child, address)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.1).expect("it listens");
        stream.set_read_timeout(Some(GUARD)).expect("not zero");
        stream
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn expect(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    let mut got = vec![0; bytes.as_ref().len()];
    stream.read_exact(&mut got).expect("an answer comes");
    assert_eq!(got, bytes.as_ref(), "{}", got.escape_ascii());
}

#[test]
fn a_websocket_service_takes_60_lines_at_most_and_sends_each_text_to_everybody() {
    let source = include_str!("../examples/broadcast.rs");
    assert!(source.lines().count() <= 60, "{} lines", source.lines().count());
    for backend in ["epoll", "select"] {
        let mut example = Example::start("broadcast", backend);
        let mut clients = [example.connect(), example.connect()];
        for client in &mut clients {
            client.write_all(HANDSHAKE.as_bytes()).expect("it is open");
            expect(client, ACCEPTED);
        }
        let [one, two] = &mut clients;
        // Masked with zeros.
        one.write_all(b"\x81\x82\0\0\0\0hi").expect("it is open");
        expect(one, b"\x81\x02hi");
        expect(two, b"\x81\x02hi");
        two.write_all(b"\x89\x81\0\0\0\0?\x82\x80\0\0\0\0").expect("it is open");
        expect(two, b"\x8a\x01?\x88\x0c\x03\xebtexts only");
        assert_eq!(two.read_to_end(&mut Vec::new()).expect("an orderly end"), 0);

        let mut other = example.connect();
        let foreign = HANDSHAKE.replace("Origin: http://127.0.0.1:8803", "Origin: https://elsewhere.example");
        other.write_all(foreign.as_bytes()).expect("it is open");
        expect(&mut other, "HTTP/1.1 403 Forbidden\r\n");

        // The server must not wait for the end of a connection.
        drop((clients, other));
        kill_process(Pid::from_child(&example.0), Signal::TERM).expect("it is there");
        assert!(example.0.wait().expect("it is our child").success());
    }
}
