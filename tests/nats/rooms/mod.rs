//! One chat room on several servers, with a real `nats-server`, which must be installed: the command from outside.
//!
//! | | |
//! | --- | --- |
//! | `together` | two servers with a whole link: messages, names, presence, the console |
//! | `crowd` | ways to speak, histories, loops and threads, members that do not read |
//! | `away` | `nats-server` is killed or frozen, or takes nothing |
//! | `cut` | a link that is cut without a word |
//! | `cluster` | a cluster that loses a server |
//! | `secured` | TLS and logins |
//! | `start` | permissions, errors and wrong usage at the start |

mod away;
mod cluster;
mod crowd;
mod cut;
mod secured;
mod start;
mod together;

use std::time::Duration;

use reactor::Backend;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::engine::Engine;
use crate::support::client::Client;
use crate::support::command::{Ended, Glowplug, Scratch, command, run};
use crate::support::websocket::{self, handshake};

/// A guard for a slow machine. A server that dies is missed after 12 s.
const PATIENCE: Duration = Duration::from_secs(180);
const ALONE: &str = "(Alone: the other servers cannot be reached)";
const TOGETHER: &str = "(Together again)";
const TAKEN: &str = "ERROR: the name is taken";

/// A server of the room, with these options.
fn serve(backend: Backend, options: &str) -> Glowplug {
    Glowplug::start(backend, &format!("chat serve --port 0 --log-level off {options}"))
}

/// Two servers of a room, and their `nats-server`.
struct Two {
    here: Glowplug,
    there: Glowplug,
    engine: Engine,
    _scratch: Scratch,
}

impl Two {
    fn start(backend: Backend) -> Self {
        Self::with(backend, "", "")
    }

    /// Two servers with these options.
    fn with(backend: Backend, here: &str, there: &str) -> Self {
        let scratch = Scratch::new();
        let engine = Engine::start(scratch.path(), &["-js"]);
        let nats = engine.url("");
        let server = |options: &str| serve(backend, &format!("--nats {nats} {options}"));
        Two { here: server(here), there: server(there), engine, _scratch: scratch }
    }

    fn ann_and_ben(&self) -> (Member, Member) {
        ann_and_ben(&self.here, &self.there)
    }
}

/// Ann on `here` and Ben on `there`. Both servers know both members.
fn ann_and_ben(here: &Glowplug, there: &Glowplug) -> (Member, Member) {
    let (mut ann, mut ben) = (Member::join(here, "ann"), Member::join(there, "ben"));
    ann.reads_of_the_arrival_of("ben");
    ben.finds(&["ann", "ben"]);
    (ann, ben)
}

/// How a member speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Lines,
    Frames,
    WebSocket,
}

/// A member of the room.
struct Member {
    client: Client,
    way: Way,
}

impl Member {
    /// A guest, who has sent nothing.
    fn connect(server: &Glowplug) -> Self {
        Self::on(server, Socket::new(Domain::IPV4, Type::STREAM, None).unwrap())
    }

    fn on(server: &Glowplug, socket: Socket) -> Self {
        socket.connect(&server.tcp().into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Member { client: Client::from(socket), way: Way::Lines }
    }

    fn join(server: &Glowplug, name: &str) -> Self {
        Member::join_in(server, name, Way::Lines)
    }

    fn join_in(server: &Glowplug, name: &str, way: Way) -> Self {
        Member::connect(server).named(server, name, way)
    }

    /// A member that does not read, and whose kernel buffers little.
    fn deaf(server: &Glowplug, name: &str, way: Way) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Member::on(server, socket).named(server, name, way)
    }

    fn named(mut self, server: &Glowplug, name: &str, way: Way) -> Self {
        if way == Way::WebSocket {
            self.client.send(handshake("/ws", &format!("Host: {}\r\n", server.tcp())));
            websocket::accepted(&mut self.client);
        }
        self.way = way;
        self.say(&format!("NAME: {name}"));
        self.reads("CLIENT: 127.0.0.1");
        self
    }

    /// Joins as soon as the name is free.
    fn join_later(server: &Glowplug, name: &str) -> Self {
        loop {
            let mut member = Member::connect(server);
            match member.client.ask(name).as_str() {
                TAKEN => {}
                answer => {
                    assert_eq!(answer, "CLIENT: 127.0.0.1");
                    return member;
                }
            }
        }
    }

    fn is_refused(server: &Glowplug, name: &str) {
        assert_eq!(Member::connect(server).client.ask(name), TAKEN);
    }

    fn say(&mut self, text: &str) {
        match self.way {
            Way::Lines => self.client.send(format!("{text}\n")),
            Way::Frames => self.client.send_frame(text),
            Way::WebSocket => websocket::say(&mut self.client, text),
        }
    }

    /// The next line, frame or message.
    fn line(&mut self) -> String {
        match self.way {
            Way::Lines => self.client.line(),
            Way::Frames => self.client.frame(),
            Way::WebSocket => websocket::text(&mut self.client),
        }
    }

    fn reads(&mut self, text: &str) {
        assert_eq!(self.line(), text);
    }

    /// Reads up to this line. Returns the lines before.
    fn reads_up_to(&mut self, text: &str) -> Vec<String> {
        self.reads_up_to_any(|line| line == text)
    }

    /// Reads up to the arrival of this member. The count depends on whether a member that is going to be closed has gone.
    fn reads_of_the_arrival_of(&mut self, name: &str) -> Vec<String> {
        let end = format!(" from {name}@127.0.0.1)");
        self.reads_up_to_any(|line| line.starts_with("(Connected: ") && line.ends_with(&end))
    }

    fn reads_of_the_end_of(&mut self, name: &str) -> Vec<String> {
        self.reads_up_to(&format!("(Now hung up: Client from {name}@127.0.0.1)"))
    }

    fn reads_up_to_any(&mut self, is_it: impl Fn(&str) -> bool) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            match self.line() {
                line if is_it(&line) => return before,
                line => before.push(line),
            }
            assert!(before.len() < 100_000, "the line does not come");
        }
    }

    /// Asks `/who` until the list has exactly these names, in any order. Returns all other lines.
    fn finds(&mut self, names: &[&str]) -> Vec<String> {
        let (begun, mut lines) = (std::time::Instant::now(), Vec::new());
        let mut wanted: Vec<String> = names.iter().map(|name| format!("{name}@127.0.0.1")).collect();
        wanted.sort();
        loop {
            self.say("/who");
            let list = loop {
                match self.line() {
                    line if line.contains(" here: ") => break line,
                    line => lines.push(line),
                }
            };
            let (count, found) = list.split_once(" here: ").expect("it was looked for");
            let mut found: Vec<&str> = found.trim_end_matches(')').split(", ").collect();
            found.sort_unstable();
            assert_eq!(count, format!("({}", found.len()));
            if found == wanted {
                return lines;
            }
            assert!(begun.elapsed() < PATIENCE, "{list}");
        }
    }

    /// Asks a question. The answer comes after the server has read all earlier messages. Returns the lines before the answer.
    fn is_answered(&mut self) -> Vec<String> {
        self.say("/who");
        self.reads_up_to_any(|line| line.contains(" here: "))
    }

    /// Reads that another member has the name, and the end.
    fn has_to_go(&mut self) {
        self.reads_up_to(TAKEN);
        assert!(self.client.is_ended());
    }
}

/// The number of messages that the lines report as missed.
fn missed(lines: &[String]) -> usize {
    let counts = lines.iter().filter_map(|line| line.strip_prefix("(Missed: ")?.strip_suffix(" messages)"));
    counts.map(|count| count.parse::<usize>().expect("a number")).sum()
}

/// The numbers at the beginning of this member's messages. Panics unless they grow.
fn numbers(lines: &[String], name: &str) -> Vec<usize> {
    let start = format!("#{name}@127.0.0.1>>");
    let texts = lines.iter().filter_map(|line| line.strip_prefix(&start));
    let numbers: Vec<usize> = texts.filter_map(|text| text.split(' ').next()?.parse().ok()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    numbers
}

/// Whether a server was missed meanwhile, as on a machine on which it stood still for 12 s.
fn has_hung_up(lines: &[String], name: &str) -> bool {
    lines.iter().any(|line| *line == format!("(Now hung up: Client from {name}@127.0.0.1)"))
}

/// Checks that each of `count` messages came once and in order, or was reported as missed.
fn are_heard_or_missed(lines: &[String], name: &str, count: usize) {
    let heard = numbers(lines, name);
    // On a slow machine the server was away for 12 s. Its members have hung up then, and no message is missed.
    if !has_hung_up(lines, name) {
        assert_eq!(heard.len() + missed(lines), count, "{lines:?}");
    }
}

/// Ann and Ben say that they are done, and read up to the other's last word. Checks that each has heard or missed every number of the other.
/// `said`: the count of Ann's and of Ben's numbers. `of_ben`: lines that Ann has read already.
fn all_is_heard_or_missed(ann: &mut Member, ben: &mut Member, said: [usize; 2], mut of_ben: Vec<String>) {
    ann.say("done");
    let of_ann = ben.reads_up_to("#ann@127.0.0.1>>done");
    are_heard_or_missed(&of_ann, "ann", said[0]);
    ben.say("done");
    of_ben.extend(ann.reads_up_to("#ben@127.0.0.1>>done"));
    are_heard_or_missed(&of_ben, "ben", said[1]);
    ann.finds(&["ann", "ben"]);
    ben.finds(&["ann", "ben"]);
}

/// Runs a command until its end with status 1, and returns the last line of standard error. On a slow machine all attempts to connect
/// may be too slow. Such a run is repeated.
fn error_of(command: impl Fn() -> std::process::Command) -> String {
    loop {
        let Ended { code, stderr, .. } = Glowplug::spawn(command()).end();
        assert_eq!(code, Some(1), "{stderr}");
        if stderr.contains("not connected within") {
            continue;
        }
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: "), "{stderr}");
        return last.to_owned();
    }
}
