//! A thread, or a process, for each connection: the same handler, the same promises, on every backend. It is the example
//! `members` as a program, since a process forks only while it has a single thread, and a test has two.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use reactor::{Application, Backend, Context, Error, Handler, Input, Runner, Service};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::{BACKENDS, Example, GUARD, path_of};

/// How long nothing must happen where nothing is to happen. Too short proves less and never fails.
const QUIET: Duration = Duration::from_millis(150);
/// The models in which each connection has one of its own.
const MODELS: [&str; 2] = ["threads", "processes"];

/// The example `members` under one model, on one backend.
struct Members {
    example: Example,
    model: &'static str,
}

/// On every backend, under each of these models; `most` is their limit.
fn on_each(models: &[&'static str], most: &str, test: impl Fn(Members)) {
    for backend in BACKENDS {
        for model in models {
            println!("{model} on {backend}");
            let example = Example::start("members", backend, &["127.0.0.1:0", model, most]);
            test(Members { example, model });
        }
    }
}

impl Members {
    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.example.address).expect("it listens");
        client.set_read_timeout(Some(GUARD)).expect("not zero");
        client.set_write_timeout(Some(GUARD)).expect("not zero");
        client
    }

    /// Clients that are served.
    fn clients(&self, count: usize) -> Vec<TcpStream> {
        let mut clients: Vec<TcpStream> = (0..count).map(|_| self.client()).collect();
        clients.iter_mut().for_each(is_served);
        clients
    }

    /// How many threads, or copies, it has besides its first thread.
    fn others(&self) -> usize {
        let id = self.example.child.id();
        if self.model == "threads" {
            return fs::read_dir(format!("/proc/{id}/task")).expect("procfs").count() - 1;
        }
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("procfs");
        children.split_whitespace().count()
    }

    /// The report of the loop that accepts. Loops of connections write reports of their own, before or after it.
    fn report(&mut self) -> String {
        self.example.signal(Signal::USR1);
        loop {
            let mut report = String::new();
            while !report.ends_with("end of report\n") {
                assert_ne!(self.example.said.read_line(&mut report).expect("it is text"), 0, "{report}");
            }
            if report.contains("counters of all loops: ") {
                return report;
            }
        }
    }

    fn wait_until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let since = Instant::now();
        while !so(self) {
            assert!(since.elapsed() < GUARD, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// By itself, in good order.
    fn ends(mut self) {
        assert!(self.example.child.wait().expect("it is our child").success());
    }

    fn terminate(self) {
        assert!(self.example.terminate().success());
    }
}

fn ask(client: &mut TcpStream, question: &str) -> String {
    writeln!(client, "{question}").expect("it is open");
    let mut line = String::new();
    BufReader::with_capacity(1, client).read_line(&mut line).expect("it answers");
    line.trim_end().to_owned()
}

fn is_served(client: &mut TcpStream) {
    assert_eq!(ask(client, "hello"), "hello");
}

/// Returns the process that serves `client`.
fn process_of(client: &mut TcpStream) -> Pid {
    let answer = ask(client, "who");
    let number = answer.strip_prefix("process ").and_then(|rest| rest.split(',').next()?.parse().ok());
    number.and_then(Pid::from_raw).unwrap_or_else(|| panic!("{answer:?}"))
}

fn read_all(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("it ends in order");
    bytes
}

/// However: nothing more comes.
fn is_over(client: &mut TcpStream) -> bool {
    client.read(&mut [0; 1]).map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |count| count == 0)
}

/// Whether it has ended. Whoever has taken over an orphan may be slow to reap it.
fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

#[test]
fn each_connection_has_one_of_its_own_that_ends_with_it() {
    on_each(&MODELS, "100", |mut members| {
        let mut clients = members.clients(8);
        let who: HashSet<String> = clients.iter_mut().map(|client| ask(client, "who")).collect();
        assert_eq!(who.len(), 8, "{who:?}");
        assert_eq!(members.others(), 8);
        // However it ends: the client leaves, the client has said all, the client leaves with something unread.
        drop(clients.split_off(4));
        clients[3].shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut clients[3]), b"");
        drop(clients.pop());
        clients[2].write_all(b"left unread\n").unwrap();
        clients[2].peek(&mut [0; 1]).unwrap();
        drop(clients.pop());
        members.wait_until("they have ended", |members| members.others() == 2);
        clients.iter_mut().for_each(is_served);
        drop(clients);
        members.wait_until("all have ended", |members| members.others() == 0);
        members.terminate();
    });
}

#[test]
fn what_one_publishes_reaches_the_others_in_order() {
    const LINES: usize = 2000;
    on_each(&MODELS, "100", |members| {
        let mut clients = members.clients(4);
        let mut publisher = clients.pop().unwrap();
        let text: Vec<u8> = (0..LINES).flat_map(|number| format!("!{number}\n").into_bytes()).collect();
        publisher.write_all(&text).unwrap();
        for client in clients {
            let mut lines = BufReader::new(client).lines();
            for number in 0..LINES {
                assert_eq!(lines.next().unwrap().unwrap(), number.to_string());
            }
        }
        is_served(&mut publisher);
        drop(publisher);
        members.terminate();
    });
}

#[test]
fn a_panic_harms_no_other() {
    on_each(&MODELS, "100", |mut members| {
        let mut clients = members.clients(2);
        clients[0].write_all(b"panic\n").unwrap();
        assert!(is_over(&mut clients[0]));
        is_served(&mut clients[1]);
        members.clients(1);
        members.wait_until("it is counted", |members| members.report().contains("panics 1,"));
        drop(clients);
        members.terminate();
    });
}

#[test]
fn at_their_limit_new_connections_wait_until_one_ends() {
    on_each(&MODELS, "2", |members| {
        let mut clients = members.clients(2);
        let mut waiting = members.client();
        waiting.write_all(b"hello\n").unwrap();
        waiting.set_read_timeout(Some(QUIET)).unwrap();
        assert!(waiting.read(&mut [0; 1]).is_err(), "nobody serves it yet");
        assert_eq!(members.others(), 2);
        drop(clients.pop());
        waiting.set_read_timeout(Some(GUARD)).unwrap();
        waiting.read_exact(&mut [0; 6]).expect("it is its turn");
        members.terminate();
    });
}

#[test]
fn where_descriptors_run_out_new_connections_wait_and_nobody_is_turned_away() {
    for (backend, model) in BACKENDS.into_iter().flat_map(|backend| MODELS.map(|model| (backend, model))) {
        println!("{model} on {backend}");
        let mut command = Command::new("/bin/sh");
        let script = "ulimit -n 64 && exec \"$0\" \"$@\"";
        command.args(["-c", script]).arg(path_of("members")).args(["127.0.0.1:0", model, "1000"]);
        let members = Members { example: Example::spawn(command, backend), model };
        for _ in 0..3 {
            // All come at once, while those before them leave.
            members.example.signal(Signal::STOP);
            let mut clients: Vec<TcpStream> = (0..100).map(|_| members.client()).collect();
            clients.iter_mut().for_each(|client| client.write_all(b"hello\n").unwrap());
            members.example.signal(Signal::CONT);
            for mut client in clients {
                client.read_exact(&mut [0; 6]).expect("it is served in its turn");
            }
        }
        members.terminate();
    }
}

#[test]
fn a_process_takes_no_more_memory_where_there_are_many() {
    const MANY: usize = 400;
    on_each(&["processes"], "1000", |members| {
        let mut clients = members.clients(MANY);
        let own = |client: &mut TcpStream| {
            let pid = process_of(client).as_raw_nonzero();
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("procfs");
            let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).expect("it is told");
            line.trim_end_matches("kB").trim().parse::<usize>().expect("a number")
        };
        let (first, last) = (own(&mut clients[0]), own(&mut clients[MANY - 1]));
        assert!(last < first + 160, "{last} KiB, and {first} where there is one");
        members.terminate();
    });
}

#[test]
fn a_stop_lets_each_of_them_finish_and_leaves_nobody_behind() {
    on_each(&MODELS, "100", |members| {
        let mut clients = members.clients(5);
        let processes: HashSet<Pid> = clients.iter_mut().map(process_of).collect();
        clients.iter_mut().for_each(|client| client.write_all(b"one\ntwo\n").unwrap());
        members.example.signal(Signal::TERM);
        for client in &mut clients {
            assert_eq!(read_all(client), b"one\ntwo\n");
        }
        drop(clients);
        members.ends();
        // Not even as zombies.
        assert!(processes.iter().all(|&pid| test_kill_process(pid).is_err()));
    });
}

#[test]
fn a_handler_that_halts_the_application_halts_all_of_it() {
    on_each(&MODELS, "100", |members| {
        let mut clients = members.clients(2);
        clients[0].write_all(b"halt\n").unwrap();
        assert_eq!(read_all(&mut clients[1]), b"");
        drop(clients);
        members.ends();
    });
}

#[test]
fn what_one_says_before_it_leaves_is_heard_by_all() {
    const LINES: usize = 200;
    on_each(&MODELS, "100", |members| {
        let [mut member, mut publisher, mut halts] = members.clients(3).try_into().unwrap();
        let text: Vec<u8> = (0..LINES).flat_map(|number| format!("!{number}\n").into_bytes()).collect();
        publisher.write_all(&text).unwrap();
        drop(publisher);
        let all: String = (0..LINES).map(|number| format!("{number}\n")).collect();
        let mut heard = vec![0; all.len()];
        member.read_exact(&mut heard).unwrap();
        assert!(heard == all.as_bytes());
        halts.write_all(b"halt\n").unwrap();
        drop(halts);
        assert_eq!(read_all(&mut member), b"");
        drop(member);
        members.ends();
    });
}

#[test]
fn what_each_has_counted_is_in_the_sum() {
    on_each(&MODELS, "100", |mut members| {
        drop(members.clients(3));
        members.wait_until("they have ended", |members| members.others() == 0);
        let report = members.report();
        let sum = report.lines().find(|line| line.starts_with("counters of all loops: ")).unwrap_or(&report);
        for counted in ["accepted 3,", "open 0,", "received bytes 18,", "sent bytes 18,", "closed 3 ("] {
            assert!(sum.contains(counted), "{counted}: {sum}");
        }
        members.terminate();
    });
}

#[test]
fn a_crash_of_a_process_harms_no_other_and_is_counted() {
    on_each(&["processes"], "100", |mut members| {
        let mut clients = members.clients(5);
        clients[0].write_all(b"abort\n").unwrap();
        kill_process(process_of(&mut clients[1]), Signal::KILL).unwrap();
        // The first that is only sent, and no fault, is taken by the runtime, which looks for an overflow of the stack.
        for _ in 0..2 {
            kill_process(process_of(&mut clients[2]), Signal::SEGV).unwrap();
        }
        assert!(clients[..3].iter_mut().all(is_over), "each ends with its process");
        clients[3].write_all(b"!news\n").unwrap();
        let mut news = [0; 5];
        clients[4].read_exact(&mut news).unwrap();
        assert_eq!(&news, b"news\n");
        drop((members.clients(1), clients));
        // No process is left as a zombie.
        members.wait_until("all are reaped", |members| members.others() == 0);
        let report = members.report();
        for counted in ["accepted 6,", "open 0,", "closed 6 (", "killed 3"] {
            assert!(report.contains(counted), "{counted}: {report}");
        }
        members.terminate();
    });
}

#[test]
fn a_process_that_hangs_is_killed_when_the_drain_time_is_over() {
    on_each(&["processes"], "100", |members| {
        let mut clients = members.clients(2);
        clients[0].write_all(b"hang\n").unwrap();
        members.example.signal(Signal::TERM);
        assert_eq!(read_all(&mut clients[1]), b"", "who does not hang has ended long before");
        assert!(is_over(&mut clients[0]));
        members.ends();
    });
}

#[test]
fn a_second_signal_ends_even_a_process_that_hangs_at_once() {
    on_each(&["processes"], "100", |mut members| {
        let mut clients = members.clients(2);
        let processes: Vec<Pid> = clients.iter_mut().map(process_of).collect();
        clients[0].write_all(b"hang\n").unwrap();
        members.example.signal(Signal::TERM);
        assert_eq!(read_all(&mut clients[1]), b"", "the first has been heard");
        members.example.signal(Signal::TERM);
        assert_eq!(members.example.child.wait().unwrap().code(), Some(128 + 15));
        assert!(is_over(&mut clients[0]));
        members.wait_until("they have ended", |_| processes.iter().all(|&pid| is_gone(pid)));
    });
}

#[test]
fn when_the_parent_is_gone_its_processes_end_in_order() {
    on_each(&["processes"], "100", |members| {
        let mut clients = members.clients(3);
        members.example.signal(Signal::KILL);
        for client in &mut clients {
            assert_eq!(read_all(client), b"");
        }
    });
}

#[test]
fn a_process_that_does_not_listen_holds_back_who_publishes_and_nothing_is_lost() {
    on_each(&["processes"], "100", |members| {
        let [mut publisher, mut member] = members.clients(2).try_into().unwrap();
        let frozen = process_of(&mut member);
        kill_process(frozen, Signal::STOP).unwrap();
        let line = [&b"!"[..], &[b'x'; 1023], b"\n"].concat();
        publisher.set_write_timeout(Some(QUIET)).unwrap();
        let (mut sent, mut at) = (0, 0);
        while sent < 512 << 20
            && let Ok(count) = publisher.write(&line[at..])
        {
            (sent, at) = (sent + count, (at + count) % line.len());
        }
        assert!(sent < 256 << 20, "{sent} bytes were taken in from one that was to wait");
        kill_process(frozen, Signal::CONT).unwrap();
        publisher.set_write_timeout(Some(GUARD)).unwrap();
        publisher.write_all(&line[at..]).unwrap();
        publisher.write_all(b"!.\n").unwrap();
        let published = (sent - at) / line.len() + 1;
        let (mut heard, mut buffer) = (0, vec![0; 64 * 1024]);
        loop {
            let count = member.read(&mut buffer).unwrap();
            assert!(count > 0, "after {heard} bytes");
            heard += count;
            if buffer[..count].contains(&b'.') {
                break;
            }
        }
        assert_eq!(heard, published * (line.len() - 1) + b".\n".len());
        members.terminate();
    });
}

#[test]
fn a_process_has_no_descriptor_that_is_not_its_own() {
    on_each(&["processes"], "100", |mut members| {
        let mut clients = members.clients(20);
        let descriptors_of = |client: &mut TcpStream| {
            let process = process_of(client).as_raw_nonzero();
            fs::read_dir(format!("/proc/{process}/fd")).expect("procfs").count()
        };
        let counts: Vec<usize> = clients.iter_mut().map(descriptors_of).collect();
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
        // The parent has one more for each, and its listener besides.
        // A client may be answered before the parent has closed its own descriptor of the connection.
        let expected = counts[0] - 2 + 1 + clients.len();
        members.wait_until("the parent has its own descriptors alone", |members| {
            fs::read_dir(format!("/proc/{}/fd", members.example.child.id())).expect("procfs").count() == expected
        });
        members.terminate();
    });
}

struct Silent;

impl Handler for Silent {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
        input.take_all();
    }
}

#[test]
fn the_loop_that_accepts_refuses_by_the_first_bytes_and_starts_nothing_for_them() {
    for backend in BACKENDS {
        for model in MODELS.into_iter().chain(["loops"]) {
            let example = Example::start("members", backend, &["127.0.0.1:0", model, "100", "1"]);
            let mut members = Members { example, model };
            let mut served = members.clients(1);
            let mut refused: Vec<TcpStream> = (0..20).map(|_| members.client()).collect();
            for client in &mut refused {
                // In two pieces, of which the first does not decide.
                client.write_all(b"let me").expect("it is waited for");
                is_served(&mut served[0]);
                // Beyond the number that waits, a client may have been closed.
                let _ = client.write_all(b" in\n");
            }
            for client in refused.iter_mut().take(16) {
                assert_eq!(read_all(client), b"full\n", "{model} on {backend}");
            }
            is_served(&mut served[0]);
            // Of two loops, each accepts.
            if model != "loops" {
                assert_eq!(members.others(), 1, "{model} on {backend}");
                members.wait_until("all others are refused", |members| {
                    members.report().contains("members: accepted 1, open 1, closed 0, refused 20\n")
                });
            }
            drop((served, refused));
            members.terminate();
        }
    }
}

#[test]
fn a_process_with_several_threads_does_not_fork_and_says_so() {
    for backend in [Backend::Epoll, Backend::Select] {
        // The process of this test has several threads, like that of every test.
        let mut application = Application::with(backend, Runner::processes()).unwrap();
        application.add_service(Service::tcp("127.0.0.1:0", || Silent)).unwrap();
        let error = application.run().unwrap_err();
        assert!(matches!(error, Error::Runner { .. }));
        let told = error.to_string();
        assert!(told.starts_with("a process forks for each connection only while it has a single thread"), "{told}");
    }
}
