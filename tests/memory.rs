//! Memory that peers can hold, in this process and in the kernel.

mod support;

use std::path::Path;

use reactor::{Address, Backend};
use socket2::{Domain, SockAddr, Socket, Type};
use support::client::Client;
use support::command::{Glowplug, Scratch, eventually, run};
use support::{GUARD, on_every_backend, unless_chaos};

/// A client whose kernel buffers few unread bytes.
fn narrow(address: &Address, receive_buffer: usize) -> Client {
    let (domain, to) = match address {
        Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path).unwrap()),
    };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(receive_buffer).unwrap();
    socket.connect(&to).unwrap();
    socket.set_read_timeout(Some(GUARD)).unwrap();
    socket.set_write_timeout(Some(GUARD)).unwrap();
    Client::from(socket)
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().strip_suffix(" kB").expect("kilobytes").parse::<usize>().expect("a number") * 1024
}

fn chat_at(backend: Backend, unix: Option<&Path>, options: &str) -> Glowplug {
    let at = unix.map_or("--port 0".to_owned(), |path| format!("--unix {}", path.display()));
    Glowplug::start(backend, &format!("chat serve {at} --log-level off {options}"))
}

fn join(client: &mut Client, name: &str) {
    assert!(client.ask(&format!("NAME: {name}")).starts_with("CLIENT: "));
}

on_every_backend! {
    // Rule 33. With the kernel's own bounds this was 3.9 MB.
    fn who_missed_messages_reads_little_of_the_old_ones_before_being_told(backend: Backend) {
        unless_chaos!("whose kernel takes less than it could at any time");
        const OLD: usize = 512 * 1024;
        let scratch = Scratch::new();
        let path = scratch.path().join("chat");
        for unix in [None, Some(path.as_path())] {
            let chat = chat_at(backend, unix, "--slow drop-oldest --member-queue 65536");
            let (mut ann, mut ben) = (chat.connect(), chat.connect());
            join(&mut ann, "ann");
            join(&mut ben, "ben");
            ann.line();
            let mut deaf = narrow(chat.address(), 65_536);
            join(&mut deaf, "deaf");
            for member in [&mut ann, &mut ben] {
                assert!(member.line().contains("deaf"));
            }
            let text = "x".repeat(1000);
            // Eight megabytes, in steps that any kernel takes.
            for _ in 0..800 {
                ann.send(format!("{text}\n").repeat(10));
                (0..10).for_each(|_| assert!(ben.line().ends_with(&text)));
            }
            let mut old = 0;
            loop {
                let line = deaf.line();
                if line.starts_with("(Missed: ") {
                    break;
                }
                old += line.len() + 1;
                assert!(old <= OLD, "{old} bytes of old messages, and nothing is told");
            }
        }
    }

    // Rule 34, over several loops. With its queue alone each member could hold 4 MB.
    fn members_that_do_not_read_hold_the_budget_together_and_the_others_miss_nothing(backend: Backend) {
        const DEAF: usize = 20;
        for loops in [1, 2] {
            let options = format!("--slow drop-oldest --member-queue 4194304 --memory 16M --loops {loops}");
            let chat = chat_at(backend, None, &options);
            let (mut ann, mut ben) = (chat.connect(), chat.connect());
            join(&mut ann, "ann");
            join(&mut ben, "ben");
            ann.line();
            let mut deaf: Vec<Client> = (0..DEAF).map(|_| narrow(chat.address(), 4096)).collect();
            for (number, client) in deaf.iter_mut().enumerate() {
                join(client, &format!("deaf{number}"));
                for member in [&mut ann, &mut ben] {
                    // Loops may announce the other members a little later.
                    while !member.line().contains(&format!("deaf{number}@")) {}
                }
            }
            let before = resident(chat.pid());
            let text = "x".repeat(5000);
            let (mut most, mut ended) = (0, Vec::new());
            for _ in 0..100 {
                ann.send(format!("{text}\n").repeat(10));
                let mut heard = 0;
                while heard < 10 {
                    let line = ben.line();
                    // Ended members are announced meanwhile.
                    match line.strip_prefix("(Now hung up: Client from deaf") {
                        Some(rest) => ended.push(rest.split('@').next().unwrap().parse::<usize>().unwrap()),
                        None => {
                            assert!(line.ends_with(&text), "{line}");
                            heard += 1;
                        }
                    }
                }
                most = most.max(resident(chat.pid()).saturating_sub(before));
            }
            assert!(!ended.is_empty(), "{loops} loops: nobody was closed, and {most} bytes were held");
            for number in &ended {
                let heard = deaf[*number].rest();
                assert!(heard.ends_with(b"\nERROR: too slow\n"), "what had begun was finished, and the last words follow");
            }
            // The budget, twice for growing queues, and reused buffers.
            assert!(most < 56 << 20, "{loops} loops: {most} bytes more");
        }
    }

    // Rule 34: a decoder takes an unfinished line out of the input, and the handler tells the loop of its memory.
    fn unfinished_lines_count_with_the_budget(backend: Backend) {
        const MEMBERS: usize = 200;
        let chat = chat_at(backend, None, "--memory 4M");
        let mut first = chat.connect();
        join(&mut first, "first");
        // One after the other, so that the server's time limit for a name does not end a guest. All of them together are three times
        // the budget.
        let talking = |number| {
            let mut member = chat.connect();
            join(&mut member, &format!("n{number}"));
            let _ = member.try_send([b'x'; 60_000]);
            member
        };
        let mut members: Vec<Client> = (0..MEMBERS).map(talking).collect();
        let gone = loop {
            if let Some(gone) = first.line().strip_prefix("(Now hung up: Client from n") {
                break gone.split('@').next().unwrap().parse::<usize>().unwrap();
            }
        };
        let heard = members[gone].rest();
        assert!(heard.ends_with(b"ERROR: too slow\n"), "{}", heard.escape_ascii());
    }

    // Rule 34, where each connection has a process.
    fn a_process_has_an_equal_share_of_the_budget(backend: Backend) {
        let echo = Glowplug::start(backend, "echo --port 0 --log-level off --model processes --memory 64K");
        let line = "x".repeat(30_000);
        let mut first = echo.connect();
        assert_eq!(first.ask(&line).len(), line.len() + "You said: ".len(), "the budget is its alone");
        let mut others: Vec<Client> = (0..5).map(|_| echo.connect()).collect();
        others.iter_mut().for_each(|other| assert_eq!(other.ask("here"), "You said: here"));
        // The first connection now has a sixth of the budget. The unfinished line stays in memory.
        first.send(&line);
        assert_eq!(first.rest_or_reset(), b"");
        others.iter_mut().for_each(|other| assert_eq!(other.ask("here"), "You said: here", "the others have theirs"));
        drop(first);
        // A connection over its share ends when others come, although it neither sends nor receives.
        drop(others);
        let mut large = eventually("a connection may hold most of the budget", || {
            let mut large = echo.connect();
            let answer = large.try_ask(&line)?;
            (answer.len() > line.len()).then_some(large)
        });
        large.send(&line);
        let others: Vec<Client> = (0..5).map(|_| echo.connect()).collect();
        assert_eq!(large.rest_or_reset(), b"");
        drop(others);
        // Ended connections leave their shares to the others.
        eventually("a line that needs the whole budget is answered", || {
            let mut next = echo.connect();
            next.send(&line);
            let _ = next.try_send("\n");
            (next.rest_after_half_close().len() > line.len()).then_some(())
        });
    }

    fn a_size_that_is_none_is_wrong_usage(backend: Backend) {
        for size in ["0", "1.5G", "+1", "lots", "64KB"] {
            let ended = run(backend, &format!("echo --port 0 --memory {size}"));
            assert_eq!(ended.code, Some(2), "{size}: {}", ended.stderr);
            assert!(ended.stderr.contains("--memory"), "{}", ended.stderr);
        }
    }

    fn after_a_burst_of_half_sent_frames_memory_returns_to_where_it_was(backend: Backend) {
        const BURST: usize = 600;
        let chat = chat_at(backend, None, "");
        let mut ann = chat.connect();
        join(&mut ann, "ann");
        let before = resident(chat.pid());
        let frame: Vec<u8> = 65_536u32.to_be_bytes().into_iter().chain(vec![b'x'; 65_000]).collect();
        let names: Vec<String> = (0..BURST).map(|number| format!("NAME: n{number}")).collect();
        let mut clients: Vec<Client> = Vec::new();
        for name in &names {
            let mut client = chat.connect();
            client.send_frame(name);
            assert_eq!(client.frame(), "CLIENT: 127.0.0.1");
            client.send(&frame);
            clients.push(client);
        }
        eventually("the half-sent frames are kept", || {
            (resident(chat.pid()) > before + BURST * 60_000).then_some(())
        });
        drop(clients);
        eventually("memory returns to where it was", || {
            (resident(chat.pid()) < before + (20 << 20)).then_some(())
        });
    }

    fn after_lines_without_an_end_from_all_members_memory_returns_to_where_it_was(backend: Backend) {
        const MEMBERS: usize = 800;
        let chat = chat_at(backend, None, "");
        let before = resident(chat.pid());
        // One after the other, so that the server's time limit for a name does not end a guest.
        let named = |number| {
            let mut member = chat.connect();
            join(&mut member, &format!("n{number}"));
            member
        };
        let mut members: Vec<Client> = (0..MEMBERS).map(named).collect();
        // Each of them is read, refused and announced to all others, in the same few turns.
        let endless = vec![b'x'; 60_000];
        members.iter_mut().for_each(|member| _ = member.try_send(&endless));
        drop(members);
        // Names become free when their members' leaving is announced.
        for number in 0..MEMBERS {
            let name = format!("NAME: n{number}");
            eventually("everybody has left", || chat.connect().try_ask(&name)?.starts_with("CLIENT: ").then_some(()));
        }
        eventually("memory returns to where it was", || {
            (resident(chat.pid()) < before + (20 << 20)).then_some(())
        });
    }

    fn after_answers_that_nobody_took_memory_returns_to_where_it_was(backend: Backend) {
        const BURST: usize = 100;
        let echo = Glowplug::start(backend, "echo --port 0 --raw");
        let before = resident(echo.pid());
        let clients: Vec<Client> = (0..BURST).map(|_| echo.connect()).collect();
        eventually("the answers are kept", || {
            // A server that is held up takes more later.
            for client in &clients {
                let writer = client.writer();
                writer.set_nonblocking(true).expect("it is a socket");
                while writer.send(&[b'x'; 65_536]).is_ok() {}
            }
            (resident(echo.pid()) > before + (20 << 20)).then_some(())
        });
        drop(clients);
        eventually("memory returns to where it was", || {
            (resident(echo.pid()) < before + (20 << 20)).then_some(())
        });
    }
}
