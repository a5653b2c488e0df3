//! The examples as programs: started on any free port, talked to, ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const GUARD: Duration = Duration::from_secs(120);
const BACKENDS: [&str; 2] = ["epoll", "select"];

/// The path at which `cargo test` puts the example: `target/PROFILE/examples`, next to the test's own directory.
fn path_of(example: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a test knows where it is");
    let directory = this.parent().and_then(|deps| deps.parent()).expect("it is in target/PROFILE/deps");
    directory.join("examples").join(example)
}

/// An example as a child process. Killed when dropped.
struct Example {
    child: Child,
    address: SocketAddr,
    /// Output after the line with the address.
    said: BufReader<ChildStdout>,
}

impl Example {
    fn start(name: &str, backend: &str) -> Self {
        Self::start_with(name, backend, &[])
    }

    fn start_with(name: &str, backend: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(path_of(name));
        command
            .arg("127.0.0.1:0")
            .args(arguments)
            .env("REACTOR_BACKEND", backend)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} is not built: {error}"));
        let (mut said, mut line) = (BufReader::new(child.stdout.take().expect("it is piped")), String::new());
        said.read_line(&mut line).expect("it is text");
        let address = line.trim().strip_prefix("listening tcp://").and_then(|address| address.parse().ok());
        Example { child, address: address.unwrap_or_else(|| panic!("{name} said {line:?}")), said }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("it listens");
        client.set_read_timeout(Some(GUARD)).expect("not zero");
        client
    }
}

/// A client that reads line by line.
struct Client(BufReader<TcpStream>);

impl Client {
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("it is open");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line comes");
        line
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(&format!("{command}\n"));
        self.line()
    }

    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).expect("it ends in order");
        rest
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

#[test]
fn the_fifth_program_of_the_chapter_says_what_was_said() {
    for backend in BACKENDS {
        let echo = Example::start("chapter_diesel", backend);
        let mut client = echo.connect();
        client.write_all(b"hello\n").expect("it is open");
        let mut line = String::new();
        BufReader::new(client.try_clone().expect("a descriptor")).read_line(&mut line).expect("an answer comes");
        assert_eq!(line, "You said: hello\n");
        assert_eq!(rest_of(client), "");
    }
}

/// Each verb under each model, on both backends. A program, since a process forks only while it has a single thread.
#[test]
fn every_verb_works_under_every_model() {
    for (backend, model) in
        BACKENDS.into_iter().flat_map(|backend| ["loop", "loops", "threads", "processes"].map(|model| (backend, model)))
    {
        println!("{model} on {backend}");
        let mut verbs = Example::start_with("verbs", backend, &[model]);
        let connect = || Client(BufReader::new(verbs.connect()));
        let mut client = connect();
        let address = verbs.address;
        let dialogue = [
            ("sleep 1", "slept"),
            ("within 1", "the time has passed"),
            ("within 3600000\nhello", "in time: hello"),
            ("first", "first: 7"),
            ("fork 20", "half: Some(10)"),
            ("queue 5", "sum: 15"),
            ("thread", "in a thread of its own: true"),
            (&format!("ask {address}"), "asked, half: Some(42)"),
            (&format!("ask localhost:{}", address.port()), "asked, half: Some(42)"),
            ("nonsense", "what?"),
        ];
        for (command, answer) in dialogue {
            assert_eq!(client.ask(command), format!("{answer}\n"), "{command} under {model} on {backend}");
        }

        // Topics: each client hears each message once.
        let mut clients: Vec<Client> = (0..3).map(|_| connect()).collect();
        let mut seats: Vec<String> = clients.iter_mut().map(|client| client.ask("who")).collect();
        seats.sort();
        seats.dedup();
        let apart = match model {
            "loop" => 1..=1,
            "loops" => 1..=2,
            _ => 3..=3,
        };
        assert!(apart.contains(&seats.len()), "{seats:?} under {model}");
        for speaker in 0..clients.len() {
            clients[speaker].send(&format!("say I am {speaker}\n"));
            for listener in clients.iter_mut().chain([&mut client]) {
                assert_eq!(listener.line(), format!("somebody says: I am {speaker}\n"), "under {model} on {backend}");
            }
        }

        // Ends: a panic costs its connection, an end of input is answered, a stop lets each task finish.
        let mut panicking = clients.pop().expect("there are three");
        panicking.send("panic\n");
        let _ = panicking.0.read_to_string(&mut String::new());
        let mut leaving = clients.pop().expect("there are two");
        leaving.send("first\nunended");
        leaving.0.get_ref().shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(leaving.rest(), "first: 7\nunendedthe end\n");
        assert_eq!(client.ask("fork 2"), "half: Some(1)\n", "the others go on");
        let terminated = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", verbs.child.id())).status();
        assert!(terminated.expect("there is a shell").success());
        assert_eq!(client.rest(), "the end\n");
        assert_eq!(clients.pop().expect("there is one").rest(), "the end\n");
        assert!(verbs.child.wait().expect("it is our child").success(), "under {model} on {backend}");
    }
}

#[test]
fn the_mail_server_takes_a_message_and_prints_it() {
    for backend in BACKENDS {
        let mut smtp = Example::start("smtp", backend);
        let mut client = smtp.connect();
        let mut hears = BufReader::new(client.try_clone().expect("a descriptor"));
        let mut hear = || {
            let mut line = String::new();
            hears.read_line(&mut line).expect("a line comes");
            line
        };
        assert_eq!(hear(), "220 ready\r\n");
        let steps = [
            ("EHLO here\r\n", "250 ok\r\n"),
            ("DATA\r\n", "503 not yet\r\n"),
            ("mail from:<ann@example.org>\r\n", "250 ok\r\n"),
            ("RCPT TO:<bob@example.org>\r\n", "250 ok\r\n"),
            ("DATA\r\n", "354 end with a dot\r\n"),
            ("Subject: hello\r\n\r\n..dots\r\n.\r\n", "250 taken\r\n"),
            ("QUIT\r\n", "221 goodbye\r\n"),
        ];
        for (command, answer) in steps {
            client.write_all(command.as_bytes()).expect("it is open");
            assert_eq!(hear(), answer, "{command}");
        }
        let expected = "mail from:<ann@example.org>\nRCPT TO:<bob@example.org>\nSubject: hello\r\n\r\n.dots\r\n";
        let mut printed = vec![0; expected.len()];
        smtp.said.read_exact(&mut printed).expect("it prints the message");
        assert_eq!(String::from_utf8_lossy(&printed), expected);
    }
    let lines = include_str!("../examples/smtp.rs").lines().count();
    assert!(lines <= 80, "{lines} lines");
}
