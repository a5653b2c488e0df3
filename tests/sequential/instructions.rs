//! Instructions of an echo by a task, beside an echo by callbacks, counted by valgrind's callgrind in a release build.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::support::GUARD;

/// Instructions that the echo of a line may cost more with a task than with callbacks.
const MORE_MAX: f64 = 150.0;
const CLIENTS: usize = 64;
const LINE: &[u8] = b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n";
const ANSWER: usize = b"You said: ".len() + LINE.len();

/// Builds the command as it is shipped, and returns its path.
fn shipped() -> String {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "-p", "glowplug", "--bin", "glowplug", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(built.status.success());
    let lines = String::from_utf8(built.stdout).expect("it is JSON");
    let path = lines.lines().rev().find_map(|line| line.split_once("\"executable\":\""));
    path.and_then(|(_, rest)| rest.split('"').next()).expect("there is an executable").to_owned()
}

/// Waits until the process is stopped by a signal.
fn wait_for_stop(pid: u32) {
    loop {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
        if state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn signal(server: &Child, signal: Signal) {
    let pid = Pid::from_raw(server.id() as i32).expect("it is no zero");
    kill_process(pid, signal).expect("the server runs");
}

/// Counts the instructions of a server that answers each client `rounds` times. In each round, the server is stopped while the
/// clients write, so that each turn has the lines of all clients.
fn instructions(program: &str, style: &str, rounds: usize) -> u64 {
    let mut server = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", program, "echo", "--style", style])
        .args(["--port", "0", "--log-level", "off"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind is installed");
    let mut said = String::new();
    BufReader::new(server.stdout.take().expect("it is piped")).read_line(&mut said).expect("it is text");
    let (_, address) = said.trim().rsplit_once("tcp://").expect("it says where it listens");
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let client = TcpStream::connect(address).expect("it listens");
            client.set_read_timeout(Some(GUARD)).expect("not zero");
            client
        })
        .collect();
    for _ in 0..rounds {
        signal(&server, Signal::STOP);
        wait_for_stop(server.id());
        clients.iter_mut().for_each(|client| client.write_all(LINE).expect("it is open"));
        signal(&server, Signal::CONT);
        clients.iter_mut().for_each(|client| client.read_exact(&mut [0; ANSWER]).expect("an answer comes"));
    }
    drop(clients);
    signal(&server, Signal::TERM);
    let mut counted = String::new();
    server.stderr.take().expect("it is piped").read_to_string(&mut counted).expect("it is text");
    server.wait().expect("it ends");
    let count = counted.lines().find_map(|line| line.split_once("Collected : "));
    count.and_then(|(_, count)| count.trim().parse().ok()).unwrap_or_else(|| panic!("no count in {counted}"))
}

#[test]
#[ignore = "needs valgrind, and builds a release"]
fn an_echo_by_a_task_takes_few_more_instructions_than_by_callbacks() {
    let program = shipped();
    let (few, many) = (5, 30);
    // A busy machine adds instructions, such as those of deadlines that come due, and takes none away: the least of some runs counts.
    let least = |style, rounds| (0..3).map(|_| instructions(&program, style, rounds)).min().unwrap_or_default();
    let of_an_echo = |style| {
        let more = least(style, many) - least(style, few);
        more as f64 / ((many - few) * CLIENTS) as f64
    };
    let (callbacks, sequential) = (of_an_echo("callbacks"), of_an_echo("sequential"));
    println!("an echo: {callbacks:.0} instructions with callbacks, {sequential:.0} with a task");
    assert!(sequential - callbacks <= MORE_MAX, "{callbacks:.1} with callbacks, {sequential:.1} with a task");
}
