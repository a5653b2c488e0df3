//! The cost of a steady state in system calls, counted by strace(1). The tests of the promises count by the loop's counters;
//! these tests prove that the counters are true.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use support::{BACKENDS, Example, GUARD, path_of, unless_chaos};

const ROUNDS: usize = 1000;

/// Calls by name, of `strace -f -o FILE`: `PID name(…) = …`. What was interrupted by another thread counts where it
/// begins.
fn calls(trace: &str) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for line in trace.lines() {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        if let Some((name, _)) = call.split_once('(').filter(|(name, _)| !name.contains(' ') && !name.is_empty()) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
        if call.starts_with("epoll_ctl(") && call.contains("EPOLL_CTL_MOD") {
            *calls.entry("EPOLL_CTL_MOD".to_owned()).or_default() += 1;
        }
    }
    calls
}

#[test]
fn calls_are_counted_by_name_and_resumed_ones_once() {
    let trace = "7 epoll_ctl(3, EPOLL_CTL_MOD, 5, {}) = 0\n7 recvfrom(5,  <unfinished ...>\n7 <... recvfrom resumed>\"x\") = 1\n\
                 7 recvfrom(5, \"\", 1) = 0\n7 --- SIGTERM {si_signo=SIGTERM} ---\n7 +++ exited with 0 +++\n";
    let calls = calls(trace);
    assert_eq!((calls["epoll_ctl"], calls["EPOLL_CTL_MOD"], calls["recvfrom"], calls.len()), (1, 1, 2, 3));
}

#[test]
#[ignore = "needs strace"]
fn a_thousand_small_echoes_cost_one_receive_one_send_and_one_wait_each() {
    unless_chaos!("counts system calls");
    for backend in BACKENDS {
        let trace = std::env::temp_dir().join(format!("reactor-syscalls-{backend}-{}", std::process::id()));
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "0", "-e", "trace=network,desc,read,write", "-o"]).arg(&trace);
        command.arg(path_of("echo")).arg("127.0.0.1:0");
        let mut echo = Example::spawn(command, backend);
        let mut client = TcpStream::connect(echo.address).expect("it listens");
        client.set_read_timeout(Some(GUARD)).expect("not zero");
        let (mut answer, start) = ([0; 12], Instant::now());
        for _ in 0..ROUNDS {
            client.write_all(b"x\n").expect("it is open");
            client.read_exact(&mut answer).expect("an answer comes");
        }
        let seconds = start.elapsed().as_secs() as usize;
        drop(client);
        // The tracer dies, and takes what it traces along; by then all that is counted has been written.
        let traced = fs::read_to_string(format!("/proc/{0}/task/{0}/children", echo.child.id())).expect("procfs");
        let traced: i32 = traced.trim().parse().expect("one child");
        let traced = rustix::process::Pid::from_raw(traced).expect("not zero");
        rustix::process::kill_process(traced, rustix::process::Signal::TERM).expect("it is there");
        assert!(echo.child.wait().expect("it is our child").success());
        let text = fs::read_to_string(&trace).expect("it was written");
        // When it begins, and once a second after that.
        assert!(text.matches("schedstat").count() <= seconds + 3, "{backend}: {seconds} s");
        let calls = calls(&text);
        fs::remove_file(&trace).expect("it is there");
        let count = |names: &[&str]| names.iter().map(|name| calls.get(*name).copied().unwrap_or(0)).sum::<usize>();
        // A timer may be due in a second.
        let slack = 10 + seconds;
        assert_eq!(count(&["EPOLL_CTL_MOD"]), 0, "{backend}: {calls:?}");
        assert!(count(&["epoll_ctl"]) <= slack, "{backend}: {calls:?}");
        assert_eq!(count(&["sendto", "sendmsg"]), ROUNDS, "{backend}: {calls:?}");
        // One more for the end of input.
        assert_eq!(count(&["recvfrom", "recvmsg"]), ROUNDS + 1, "{backend}: {calls:?}");
        let waits = count(&["epoll_wait", "epoll_pwait", "epoll_pwait2", "select", "pselect6"]);
        assert!((ROUNDS..=ROUNDS + slack).contains(&waits), "{backend}: {calls:?}");
    }
}
