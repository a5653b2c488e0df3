//! Members that do not read, or disappear: their end, and the effect on other members.

use std::sync::Barrier;
use std::thread;

use crate::support::client::Client;
use crate::support::command::{Glowplug, command, eventually};
use crate::support::{on_every_backend, unless_chaos};
use crate::{CHAT, Way, flood_until_the_end_of_deaf, join, line_after_the_flood, narrow, resident};

/// A client that never reads, and speaks in lines or in frames.
fn deaf(chat: &Glowplug, way: Way) -> Client {
    let mut client = narrow(chat);
    match way {
        Way::Lines => assert_eq!(client.ask("NAME: deaf"), "CLIENT: 127.0.0.1"),
        Way::Frames => {
            client.send_frame("NAME: deaf");
            assert_eq!(client.frame(), "CLIENT: 127.0.0.1");
        }
    }
    client
}

on_every_backend! {
    fn a_burst_of_short_messages_under_a_long_name_costs_no_reader_its_seat(backend: Backend) {
        unless_chaos!("needs readers whose kernel takes what it has room for; others are slow, and let go");
        const MESSAGES: usize = 40_000;
        let name = "n".repeat(32);
        let wanted = format!("#{name}@127.0.0.1>>x");
        // A reader that the machine holds up is slow indeed, so not every attempt tells.
        eventually("readers that all keep their seats", || {
            let chat = Glowplug::start(backend, CHAT);
            let mut readers: Vec<Client> = (0..5).map(|number| join(&chat, &format!("reader{number}"))).collect();
            let mut loud = join(&chat, &name);
            readers.iter_mut().for_each(|reader| while reader.line() != format!("(Connected: New client (6) from {name}@127.0.0.1)") {});
            loud.send("x\n".repeat(MESSAGES));
            std::thread::scope(|scope| {
                let hears = |reader: &mut Client| (0..MESSAGES).all(|_| reader.line() == wanted);
                let all: Vec<_> = readers.iter_mut().map(|reader| scope.spawn(move || hears(reader))).collect();
                all.into_iter().all(|reader| reader.join().unwrap()).then_some(())
            })
        });
    }

    fn all_that_a_member_said_is_heard_although_it_has_gone_since_without_reading(backend: Backend) {
        const MESSAGES: usize = 3000;
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let mut ben = join(&chat, "ben");
        assert_eq!(ann.line(), "(Connected: New client (2) from ben@127.0.0.1)");
        // Unread when ben closes, so that the close is a reset.
        ann.send("for ben\n".repeat(10));
        ben.send((0..MESSAGES).map(|number| format!("message {number}\n")).collect::<String>());
        drop(ben);
        for number in 0..MESSAGES {
            assert_eq!(ann.line(), format!("#ben@127.0.0.1>>message {number}"));
        }
        assert_eq!(ann.line(), "(Now hung up: Client from ben@127.0.0.1)");
    }

    fn a_member_that_does_not_read_is_let_go_and_the_rest_do_not_notice(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let mut ben = join(&chat, "ben");
        ann.line();
        let _deaf = join(&chat, "deaf");
        ann.line();
        ben.line();
        let text = "x".repeat(60_000);
        // Fills the kernel's buffers, and then a queue of a megabyte.
        for number in 0.. {
            assert!(number < 2000, "it is never let go");
            ann.send(format!("{text}\n"));
            let line = ben.line();
            if line == "(Now hung up: Client from deaf@127.0.0.1)" {
                assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{text}"));
                break;
            }
            assert_eq!(line, format!("#ann@127.0.0.1>>{text}"));
        }
        assert_eq!(ann.line(), "(Now hung up: Client from deaf@127.0.0.1)");
    }

    fn who_is_too_slow_is_told_after_what_had_begun_and_then_it_is_the_end(backend: Backend) {
        for way in [Way::Lines, Way::Frames] {
            let chat = Glowplug::start(backend, &format!("{CHAT} --member-queue 100000 --slow disconnect"));
            let mut ann = join(&chat, "ann");
            let mut deaf = deaf(&chat, way);
            assert_eq!(ann.line(), "(Connected: New client (2) from deaf@127.0.0.1)");
            flood_until_the_end_of_deaf(&mut ann);
            assert_eq!(line_after_the_flood(|| way.next(&mut deaf)), "ERROR: too slow");
            assert_eq!(deaf.rest(), b"");
            assert_eq!(ann.ask("/who"), "(1 here: ann@127.0.0.1)");
        }
    }

    fn a_member_that_is_kept_reads_what_it_missed_in_its_place_and_every_answer(backend: Backend) {
        for (policy, way) in [("drop-oldest", Way::Lines), ("drop-newest", Way::Frames), ("drop-oldest", Way::Frames)] {
            let chat = Glowplug::start(backend, &format!("{CHAT} --member-queue 100000 --slow {policy}"));
            let mut ann = join(&chat, "ann");
            let mut ben = join(&chat, "ben");
            let mut deaf = deaf(&chat, way);
            for _ in 0..2 {
                ann.line();
            }
            ben.line();
            // The answer waits before the messages, and is never dropped.
            match way {
                Way::Lines => deaf.send("/help\n"),
                Way::Frames => deaf.send_frame("/help"),
            }
            let text = "x".repeat(500);
            let said = 20_000;
            // In steps that any kernel takes, so that a reader is never behind.
            for step in 0..said / 100 {
                let numbers = step * 100..(step + 1) * 100;
                ann.send(numbers.clone().map(|number| format!("{number} {text}\n")).collect::<String>());
                for number in numbers {
                    assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{number} {text}"), "who reads misses nothing");
                }
            }
            let (mut next, mut notices, mut help) = (0, 0, 0);
            while next < said {
                let heard = way.next(&mut deaf);
                if let Some(missed) = heard.strip_prefix("(Missed: ") {
                    next += missed.strip_suffix(" messages)").unwrap().parse::<usize>().unwrap();
                    notices += 1;
                } else if heard.starts_with("(/who") {
                    help += 1;
                } else {
                    assert_eq!(heard, format!("#ann@127.0.0.1>>{next} {text}"), "{policy}");
                    next += 1;
                }
            }
            assert_eq!((next, help), (said, 1), "{policy}");
            assert!(notices > 0, "{policy}: nothing was missed");
            ann.send("still here?\n");
            assert_eq!(way.next(&mut deaf), "#ann@127.0.0.1>>still here?");
        }
    }

    fn one_that_never_reads_costs_a_hundred_others_nothing_and_little_memory(backend: Backend) {
        const MEMBERS: usize = 100;
        const MESSAGES: usize = 20_000;
        const STEP: usize = 250;
        for policy in ["drop-oldest", "drop-newest"] {
            let chat = Glowplug::start(backend, &format!("{CHAT} --slow {policy}"));
            let mut ann = join(&chat, "ann");
            let mut others: Vec<Client> = (0..MEMBERS).map(|number| join(&chat, &format!("m{number}"))).collect();
            let _deaf = deaf(&chat, Way::Lines);
            let last = format!("(Connected: New client ({}) from deaf@127.0.0.1)", MEMBERS + 2);
            others.iter_mut().for_each(|other| while other.line() != last {});
            let before = resident(chat.pid());
            // Six megabytes for each member.
            let text = "x".repeat(300);
            // In steps that any kernel takes, so that a reader is never behind.
            let together = Barrier::new(MEMBERS + 1);
            let message = |number| format!("{number} {text}\n");
            thread::scope(|scope| {
                for other in &mut others {
                    scope.spawn(|| {
                        for number in 0..MESSAGES {
                            assert_eq!(other.line() + "\n", format!("#ann@127.0.0.1>>{}", message(number)));
                            if number % STEP == STEP - 1 {
                                together.wait();
                            }
                        }
                    });
                }
                for step in 0..MESSAGES / STEP {
                    ann.send((step * STEP..(step + 1) * STEP).map(message).collect::<String>());
                    together.wait();
                }
            });
            // A megabyte for the slow member's queue, the bookkeeping, and reused buffers.
            let grown = resident(chat.pid()).saturating_sub(before);
            assert!(grown < 8 << 20, "{policy}: {grown} bytes more");
        }
    }

    fn a_flood_of_the_shortest_messages_is_bounded_by_what_they_cost_to_keep(backend: Backend) {
        let chat = Glowplug::start(backend, &format!("{CHAT} --slow drop-oldest"));
        let mut ann = join(&chat, "a");
        let mut ben = join(&chat, "b");
        let _deaf = deaf(&chat, Way::Lines);
        assert_eq!(ben.line(), "(Connected: New client (3) from deaf@127.0.0.1)");
        let before = resident(chat.pid());
        for _ in 0..400 {
            ann.send("x\n".repeat(1000));
            (0..1000).for_each(|_| assert_eq!(ben.line(), "#a@127.0.0.1>>x"));
        }
        let grown = resident(chat.pid()).saturating_sub(before);
        assert!(grown < 8 << 20, "{grown} bytes more");
    }

    fn members_whose_process_is_killed_have_hung_up_and_their_names_are_free(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let script = "for i in 1 2 3 4 5; do exec {fd}<>/dev/tcp/127.0.0.1/$0; echo m$i >&$fd; done; read -r";
        for _ in 0..3 {
            let mut holder = std::process::Command::new("bash")
                .args(["-c", script, &chat.tcp().port().to_string()])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .expect("bash is there");
            let mut came: Vec<String> = (0..5).map(|_| ann.line()).collect();
            came.iter_mut().for_each(|line| *line = line.split(" from ").nth(1).unwrap().to_owned());
            came.sort();
            let expected = |end: &str| (1..=5).map(|i| format!("{end}m{i}@127.0.0.1)")).collect::<Vec<_>>();
            assert_eq!(came, expected(""));
            // Unread when the clients end, so that each end is a reset.
            ann.send("nobody reads this\n");
            assert!(ann.ask("/who").starts_with("(6 here: "));
            holder.kill().unwrap();
            holder.wait().unwrap();
            let mut gone: Vec<String> = (0..5).map(|_| ann.line()).collect();
            gone.sort();
            assert_eq!(gone, expected("(Now hung up: Client from "));
        }
        assert_eq!(ann.ask("/who"), "(1 here: ann@127.0.0.1)");
    }

    fn when_hundreds_go_at_once_others_are_served_in_between_and_each_is_told_of(backend: Backend) {
        const STAY: usize = 200;
        const GO: usize = 700;
        let words = "serve --echo 127.0.0.1:0 --chat 127.0.0.1:0 --http off --log-level off";
        let mut serve = Glowplug::spawn(command(backend, words));
        let (echo, chat) = (serve.listens().1, serve.listens().1);
        let name = |client: &mut Client, name: &str| assert_eq!(client.ask(name), "CLIENT: 127.0.0.1");
        // One after the other, so that the server's time limit for a name does not end a guest.
        let named = |who: String| {
            let mut client = Client::connect(&chat);
            name(&mut client, &who);
            client
        };
        let mut stay: Vec<Client> = (0..STAY).map(|number| named(format!("stay{number}"))).collect();
        let go: Vec<Client> = (0..GO).map(|number| named(format!("go{number}"))).collect();
        let last = format!("(Connected: New client ({}) from go{}@127.0.0.1)", STAY + GO, GO - 1);
        stay.iter_mut().for_each(|client| while client.line() != last {});
        let mut echo = Client::connect(&echo);
        assert_eq!(echo.ask("before"), "You said: before");
        // All lines arrive in one turn, because the process is stopped meanwhile.
        serve.stand_still();
        drop(go);
        let together = Barrier::new(2);
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                together.wait();
                let answered: Vec<_> = (0..50).map(|number| echo.ask(&number.to_string())).collect();
                assert_eq!(answered[49], "You said: 49");
            });
            together.wait();
            serve.go_on();
            for client in &mut stay {
                let mut gone: Vec<String> = (0..GO).map(|_| client.line()).collect();
                gone.sort();
                gone.dedup();
                assert_eq!(gone.len(), GO, "each once");
                assert!(gone.iter().all(|line| line.starts_with("(Now hung up: Client from go")));
            }
            asking.join().unwrap();
        });
        // The next client takes a free name, and is announced after the room was told that the name's member has left.
        let mut again = Client::connect(&chat);
        name(&mut again, "go0");
        assert_eq!(stay[0].line(), format!("(Connected: New client ({}) from go0@127.0.0.1)", STAY + 1));
    }
}
