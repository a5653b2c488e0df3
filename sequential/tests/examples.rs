//! The examples as programs: started on any free port, talked to, ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const GUARD: Duration = Duration::from_secs(60);
const BACKENDS: [&str; 2] = ["epoll", "select"];

/// Where `cargo test` has put the example: beside the directory of this test.
fn path_of(example: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a test knows where it is");
    let directory = this.parent().and_then(|deps| deps.parent()).expect("it is in target/PROFILE/deps");
    directory.join("examples").join(example)
}

/// An example as a child process. Killed when dropped.
struct Example {
    child: Child,
    address: SocketAddr,
}

impl Example {
    fn start(name: &str, backend: &str) -> Self {
        let mut command = Command::new(path_of(name));
        command.arg("127.0.0.1:0").env("REACTOR_BACKEND", backend).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} is not built: {error}"));
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it is text");
        let address = line.trim().strip_prefix("listening tcp://").and_then(|address| address.parse().ok());
        Example { child, address: address.unwrap_or_else(|| panic!("{name} said {line:?}")) }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("it listens");
        client.set_read_timeout(Some(GUARD)).expect("not zero");
        client
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rest_of(mut client: TcpStream) -> String {
    client.shutdown(Shutdown::Write).expect("it is open");
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("it ends in order");
    rest
}

#[test]
fn the_echo_answers_each_line() {
    for backend in BACKENDS {
        let echo = Example::start("echo_sequential", backend);
        let mut client = echo.connect();
        client.write_all(b"one\ntwo\r\nno end").expect("it is open");
        assert_eq!(rest_of(client), "You said: one\nYou said: two\r\n");
    }
}
