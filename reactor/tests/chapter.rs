//! The programs of `examples/chapter/`, each with its client, as a reader of the chapter runs them. The fifth is a test of the package
//! `sequential`.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use support::{BACKENDS, Example, GUARD, path_of};

/// The output of the client of the first two programs.
fn client(server: &Example, text: &str) -> String {
    let client = Command::new(path_of("chapter_client")).args([&server.address.to_string(), text]).output();
    String::from_utf8(client.expect("it runs").stdout).expect("it is text")
}

/// The names before two answers to two clients.
fn names(program: &str, backend: &str) -> (Example, [String; 2]) {
    let server = Example::start(program, backend, &["127.0.0.1:0"]);
    let names = ["Hello echo server!", "again"].map(|text| {
        let said = client(&server, text);
        let answer = said.strip_prefix(&format!("sends: {text}\nreceived: ")).unwrap_or_else(|| panic!("{said:?}"));
        answer.strip_suffix(&format!(": {text}\n")).unwrap_or_else(|| panic!("{answer:?}")).to_owned()
    });
    (server, names)
}

#[test]
fn the_forking_server_answers_by_a_process_for_each_client() {
    for backend in BACKENDS {
        let (server, [one, other]) = names("chapter_forking", backend);
        let parent = server.child.id().to_string();
        assert!(one != other && one != parent && other != parent, "{one} {other} {parent}");
        one.parse::<u32>().expect("the number of a process");
        assert_eq!(server.terminate().code(), Some(0));
    }
}

#[test]
fn the_threading_server_answers_by_a_thread_for_each_client() {
    for backend in BACKENDS {
        let (server, [one, other]) = names("chapter_threading", backend);
        assert_ne!(one, other);
        assert_eq!(server.terminate().code(), Some(0));
    }
}

/// A member of the chat.
struct Member {
    child: Child,
    says: Option<ChildStdin>,
    hears: BufReader<ChildStdout>,
}

impl Member {
    fn join(room: &Example, name: &str) -> Self {
        let mut command = Command::new(path_of("chapter_chat_client"));
        command.args([&room.address.to_string(), name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let hears = BufReader::new(child.stdout.take().expect("it is piped"));
        Member { says: child.stdin.take(), hears, child }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.says.as_ref().expect("it is there"), "{line}").expect("it is open");
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.hears.read_line(&mut line).expect("it is text");
        line
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_chat_passes_on_what_each_client_says_and_who_comes_and_goes() {
    for backend in BACKENDS {
        let room = Example::start("chapter_chat", backend, &["127.0.0.1:0"]);
        let mut ann = TcpStream::connect(room.address).expect("it listens");
        ann.set_read_timeout(Some(GUARD)).expect("not zero");
        ann.write_all(b"ann\n").expect("it is open");
        // The room answers the end of a later connection, so it has read the first name by then, or does so in the same turn.
        let mut eve = TcpStream::connect(room.address).expect("it listens");
        eve.set_read_timeout(Some(GUARD)).expect("not zero");
        eve.write_all(b"eve\n").expect("it is open");
        eve.shutdown(Shutdown::Write).expect("it is open");
        eve.read_to_end(&mut Vec::new()).expect("it ends");
        let mut hears = BufReader::new(ann.try_clone().expect("a descriptor"));
        let mut hear = || {
            let mut line = String::new();
            hears.read_line(&mut line).expect("a line comes");
            line
        };
        let mut bob = Member::join(&room, "bob");
        let mut heard = hear();
        while heard.contains("from eve)") {
            heard = hear();
        }
        assert_eq!(heard, "(Connected: New client (2) from bob)\n");
        bob.say("hello, ann");
        assert_eq!(hear(), "#bob>>hello, ann\n");
        ann.write_all(b"hello, bob\n").expect("it is open");
        assert_eq!(bob.hear(), "#ann>>hello, bob\n");
        bob.says = None;
        assert_eq!(hear(), "(Now hung up: Client from bob)\n");
        assert_eq!(room.terminate().code(), Some(0));
    }
}

#[test]
fn the_web_server_answers_each_request() {
    let server = Example::start("chapter_web", "epoll", &["127.0.0.1:0"]);
    let mut client = TcpStream::connect(server.address).expect("it listens");
    client.set_read_timeout(Some(GUARD)).expect("not zero");
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /again HTTP/1.1\r\n\r\n"] {
        request.as_bytes().chunks(7).for_each(|piece| client.write_all(piece).expect("it is open"));
        let mut answer = [0; 90];
        client.read_exact(&mut answer).expect("an answer comes");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nHello from Epoll Server!\n"), "{answer}");
    }
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn no_program_of_the_chapter_has_more_than_forty_lines() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chapter");
    let mut programs = 0;
    for entry in std::fs::read_dir(directory).expect("it is there") {
        let path = entry.expect("the listing goes on").path();
        let lines = std::fs::read_to_string(&path).expect("it is text").lines().count();
        assert!(lines <= 40, "{} has {lines} lines", path.display());
        programs += 1;
    }
    assert_eq!(programs, 7, "five programs, and two clients");
}
