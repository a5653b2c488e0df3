//! Members that speak WebSocket, beside members on lines and in frames: their ends and codes, and hostile clients.

use std::io::Write;
use std::thread;

use reactor::Backend;
use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::command::{Glowplug, command, eventually};
use crate::support::websocket::{
    self, BINARY, CLOSE, PING, PONG, TEXT, accepted, closed, expect, frame, handshake, say, text,
};
use crate::support::{on_every_backend, unless_chaos};
use crate::{CHAT, flood_until_the_end_of_deaf, host, line_after_the_flood, narrow, response_of};

/// A client with an accepted handshake, and without a name.
fn open(chat: &Glowplug) -> Client {
    websocket::open(chat, &handshake("/ws", &host(chat)))
}

/// A member who speaks WebSocket.
pub fn join(chat: &Glowplug, name: &str) -> Client {
    let mut client = open(chat);
    say(&mut client, format!("NAME: {name}"));
    assert_eq!(text(&mut client), "CLIENT: 127.0.0.1");
    client
}

/// A member who speaks in lines. The next line answers the name.
fn join_on_lines(chat: &Glowplug, name: &str) -> Client {
    let mut client = chat.connect();
    assert_eq!(client.ask(name), "CLIENT: 127.0.0.1");
    client
}

/// A member that does not read.
fn deaf(chat: &Glowplug) -> Client {
    let mut client = narrow(chat);
    client.send(handshake("/ws", &host(chat)));
    accepted(&mut client);
    say(&mut client, "NAME: deaf");
    assert_eq!(text(&mut client), "CLIENT: 127.0.0.1");
    client
}

/// A client whose first bytes have arrived when the server accepts it.
fn refused(chat: &Glowplug, first: impl AsRef<[u8]>) -> Client {
    chat.stand_still();
    let mut client = chat.connect();
    client.send(first);
    chat.go_on();
    client
}

on_every_backend! {
    fn lines_frames_and_messages_are_spoken_in_one_room(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut line = join_on_lines(&chat, "line");
        let mut browser = join(&chat, "browser");
        assert_eq!(line.line(), "(Connected: New client (2) from browser@127.0.0.1)");
        let mut framed = chat.connect();
        framed.send_frame("NAME: framed");
        assert_eq!(framed.frame(), "CLIENT: 127.0.0.1");
        for heard in [line.line(), text(&mut browser)] {
            assert_eq!(heard, "(Connected: New client (3) from framed@127.0.0.1)");
        }
        say(&mut browser, "from a browser");
        assert_eq!((line.line(), framed.frame()), ("#browser@127.0.0.1>>from a browser".into(), "#browser@127.0.0.1>>from a browser".into()));
        line.send("from a line\n");
        assert_eq!((text(&mut browser), framed.frame()), ("#line@127.0.0.1>>from a line".into(), "#line@127.0.0.1>>from a line".into()));
        framed.send_frame("from a frame");
        assert_eq!((text(&mut browser), line.line()), ("#framed@127.0.0.1>>from a frame".into(), "#framed@127.0.0.1>>from a frame".into()));
        say(&mut browser, "/who");
        assert_eq!(text(&mut browser), "(3 here: line@127.0.0.1, browser@127.0.0.1, framed@127.0.0.1)");
        say(&mut browser, "/dance");
        assert!(text(&mut browser).starts_with("ERROR: unknown command"), "not fatal");
        say(&mut browser, "//slash\n(Connected: forged)");
        assert_eq!(line.line(), "#browser@127.0.0.1>>/slash\u{fffd}(Connected: forged)");
        say(&mut browser, "");
        say(&mut browser, "/quit");
        assert_eq!(text(&mut browser), "(Goodbye)");
        assert_eq!(closed(&mut browser), 1000);
        assert_eq!(line.line(), "(Now hung up: Client from browser@127.0.0.1)");
    }

    fn the_longest_message_goes_both_ways(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut line = join_on_lines(&chat, "line");
        let mut browser = join(&chat, "browser");
        line.line();
        for length in [100, 126, 65_536] {
            let long = "x".repeat(length);
            say(&mut browser, &long);
            assert_eq!(line.line(), format!("#browser@127.0.0.1>>{long}"));
            line.send(format!("{long}\n"));
            assert_eq!(text(&mut browser), format!("#line@127.0.0.1>>{long}"));
        }
        browser.send([&[TEXT, 0xff][..], &65_537u64.to_be_bytes()].concat());
        assert_eq!(closed(&mut browser), 1009, "at its head");
    }

    fn a_handshake_and_frames_split_at_every_byte_are_the_same(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join_on_lines(&chat, "ann");
        let request = handshake("/ws?from=here", &host(&chat));
        let stream = [request.as_bytes(), &frame(TEXT, "NAME: ben"), &frame(0x01, "Gr"), &frame(PING, "?"), &frame(0x80, "üße"), &frame(TEXT, "/quit")].concat();
        let mut by_bytes = chat.connect();
        by_bytes.send_by_bytes(&stream);
        let mut clients = vec![by_bytes];
        // One client at a time, so that each can take the name.
        let mut cut = 1;
        while let Some(mut ben) = clients.pop() {
            accepted(&mut ben);
            assert_eq!(text(&mut ben), "CLIENT: 127.0.0.1");
            expect(&mut ben, PONG, "?");
            assert_eq!(text(&mut ben), "(Goodbye)");
            assert_eq!(closed(&mut ben), 1000);
            assert_eq!(ann.line(), "(Connected: New client (2) from ben@127.0.0.1)");
            assert_eq!(ann.line(), "#ben@127.0.0.1>>Grüße");
            assert_eq!(ann.line(), "(Now hung up: Client from ben@127.0.0.1)");
            if cut < stream.len() {
                let mut next = chat.connect();
                next.send(&stream[..cut]);
                next.send(&stream[cut..]);
                clients.push(next);
            }
            // Cuts at each place in the frames, and at some places in the head.
            cut += if cut < request.len() - 4 { 7 } else { 1 };
        }
    }

    fn each_end_has_its_code_and_nobody_else_notices(backend: Backend) {
        let mut chat = Glowplug::start(backend, "chat serve --port 0 --log-level debug");
        let mut ann = join(&chat, "ann");
        for (bytes, code) in [
            (frame(CLOSE, b"\x03\xe8bye"), 1000),
            (frame(CLOSE, b"\x0f\xa1"), 4001),
            (frame(CLOSE, ""), 1005),
            (frame(BINARY, "bytes"), 1003),
            (frame(TEXT, b"\xc3("), 1007),
            (frame(0x83, ""), 1002),
            (frame(0xc1, ""), 1002),
            (vec![TEXT, 5], 1002),
            (frame(0x80, ""), 1002),
        ] {
            let mut ben = join(&chat, "ben");
            assert_eq!(text(&mut ann), "(Connected: New client (2) from ben@127.0.0.1)");
            ben.send(&bytes);
            assert_eq!(closed(&mut ben), code, "{}", bytes.escape_ascii());
            assert_eq!(text(&mut ann), "(Now hung up: Client from ben@127.0.0.1)");
            // Before a name the end is equal, and is not announced.
            let mut nobody = open(&chat);
            nobody.send(&bytes);
            assert_eq!(closed(&mut nobody), code, "{}", bytes.escape_ascii());
        }
        chat.told("1003: texts only");
        chat.told("1007: the text is not UTF-8");
        chat.told("1002: the opcode is unknown");
        say(&mut ann, "/who");
        assert_eq!(text(&mut ann), "(1 here: ann@127.0.0.1)");
    }

    fn a_name_that_is_bad_or_taken_is_told_and_closed_with_1008(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let long = format!("NAME: {}", "x".repeat(507));
        for (first, error) in [
            ("NAME: ann", "ERROR: the name is taken"),
            ("NAME: \u{430}nn", "ERROR: the name is taken"),
            ("ann", "ERROR: bad name: the first message is NAME: and a name"),
            ("NAME: a b", "ERROR: bad name: "),
            ("NAME: #a", "ERROR: bad name: "),
            (&long[..], "ERROR: first message longer than 512 bytes"),
        ] {
            let mut client = open(&chat);
            // Empty messages before the name are ignored.
            say(&mut client, "");
            say(&mut client, first);
            let told = text(&mut client);
            assert!(told.starts_with(error), "{first}: {told}");
            assert_eq!(closed(&mut client), 1008, "{first}");
        }
        say(&mut ann, "/who");
        assert_eq!(text(&mut ann), "(1 here: ann@127.0.0.1)", "she has heard of none of them");
    }

    fn a_member_that_is_sent_away_is_told_so_and_the_rest_stay(backend: Backend) {
        let mut child = command(backend, CHAT);
        child.stdin(std::process::Stdio::piped());
        let mut chat = Glowplug::spawn(child);
        chat.listens();
        let (mut ann, mut ben) = (join(&chat, "ann"), join(&chat, "ben"));
        text(&mut ann);
        writeln!(chat.stdin(), "/kick ben").unwrap();
        assert_eq!(text(&mut ben), "ERROR: kicked");
        assert_eq!(closed(&mut ben), 1008);
        assert_eq!(text(&mut ann), "(Now hung up: Client from ben@127.0.0.1)");
    }

    fn a_stop_closes_with_1001(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let (mut ann, mut nobody) = (join(&chat, "ann"), open(&chat));
        let stopping = thread::spawn(move || chat.stop());
        assert_eq!((closed(&mut ann), closed(&mut nobody)), (1001, 1001));
        drop((ann, nobody));
        assert_eq!(stopping.join().unwrap().code, Some(0));
    }

    fn a_guest_for_whom_there_is_no_room_reads_why_in_its_own_protocol(backend: Backend) {
        for model in ["loops", "loops --loops 3", "threads"] {
            let mut chat = Glowplug::start(backend, &format!("chat serve --port 0 --model {model} --max-connections 2"));
            let (mut ann, mut ben) = (join(&chat, "ann"), join_on_lines(&chat, "ben"));
            assert_eq!(text(&mut ann), "(Connected: New client (2) from ben@127.0.0.1)");
            for request in [format!("GET / HTTP/1.1\r\n{}\r\n", host(&chat)), handshake("/ws", &host(&chat)), "HEAD / HTTP/1.0\r\n\r\n".into()] {
                let response = response_of(&mut refused(&chat, &request), &request);
                assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{request}");
                assert_eq!(response.body, if request.starts_with("GET") { "503 Service Unavailable\n" } else { "" });
            }
            // The pieces of a request line, and the time between them, are any up to a second.
            let by_pieces = || {
                let mut slow = chat.connect();
                for piece in ["G", "ET", " ", "/"] {
                    slow.try_send(piece).ok()?;
                    thread::yield_now();
                }
                slow.try_response(false)
            };
            assert_eq!(eventually("an answer to a request in pieces", by_pieces).status, 503);
            say(&mut ann, "meanwhile");
            assert_eq!(ben.line(), "#ann@127.0.0.1>>meanwhile");
            let mut line = refused(&chat, "NAME: cat\n");
            assert_eq!((line.line(), line.rest()), ("ERROR: no room left".to_owned(), Vec::new()));
            let mut framed = refused(&chat, crate::support::client::frame("NAME: cat"));
            assert_eq!((framed.frame(), framed.rest()), ("ERROR: no room left".to_owned(), Vec::new()));
            assert_eq!(chat.connect().rest(), b"", "the server says nothing before the client's first byte");
            chat.told("chat: refused 1 connection, the last from 127.0.0.1:");
            chat.signal(Signal::USR1);
            chat.told("chat: accepted 2, open 2, closed 0, refused ");
            drop(ann);
            assert_eq!(ben.line(), "(Now hung up: Client from ann@127.0.0.1)");
            let joins = || {
                let mut client = chat.connect();
                client.try_ask("cat").filter(|answer| answer == "CLIENT: 127.0.0.1")
            };
            eventually("there is room again", joins);
        }
    }

    fn a_flood_of_refused_guests_holds_few_descriptors_and_keeps_nobody_waiting(backend: Backend) {
        unless_chaos!("counts descriptors");
        let chat = Glowplug::start(backend, &format!("{CHAT} --max-connections 2"));
        let (mut ann, mut ben) = (join(&chat, "ann"), join_on_lines(&chat, "ben"));
        text(&mut ann);
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", chat.pid())).expect("procfs").count();
        let before = descriptors();
        let mut most = 0;
        let mut silent: Vec<Client> = Vec::new();
        for number in 0..1000 {
            silent.push(chat.connect());
            if number % 100 == 99 {
                say(&mut ann, number.to_string());
                assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{number}"));
                most = most.max(descriptors());
            }
        }
        // 16 wait, and a turn accepts 64 others, which are closed as the turn ends. A server that was held up has several such turns
        // between two looks of this test. Guests that kept their descriptors would be a thousand.
        assert!(most <= before + 500, "{most} descriptors, and {before} before");
        for client in &mut silent {
            assert_eq!(client.rest(), b"");
        }
        eventually("all but the waiting guests' descriptors are closed", || (descriptors() <= before + 16).then_some(()));
        let request = format!("GET / HTTP/1.1\r\n{}\r\n", host(&chat));
        assert_eq!(refused(&chat, &request).response().status, 503);
    }

    fn a_slow_member_is_let_go_with_1008_after_whole_messages(backend: Backend) {
        let chat = Glowplug::start(backend, &format!("{CHAT} --member-queue 100000"));
        let mut ann = join_on_lines(&chat, "ann");
        let mut deaf = deaf(&chat);
        assert_eq!(ann.line(), "(Connected: New client (2) from deaf@127.0.0.1)");
        flood_until_the_end_of_deaf(&mut ann);
        assert_eq!(line_after_the_flood(|| text(&mut deaf)), "ERROR: too slow");
        assert_eq!(closed(&mut deaf), 1008);
    }

    fn a_slow_member_that_is_kept_reads_what_it_missed_in_its_place(backend: Backend) {
        for policy in ["drop-oldest", "drop-newest"] {
            let chat = Glowplug::start(backend, &format!("{CHAT} --member-queue 100000 --slow {policy}"));
            let (mut ann, mut ben) = (join(&chat, "ann"), join(&chat, "ben"));
            let mut deaf = deaf(&chat);
            (0..2).for_each(|_| drop(text(&mut ann)));
            text(&mut ben);
            say(&mut deaf, "/help");
            let long = "x".repeat(500);
            let said = 15_000;
            // In steps that any kernel takes, so that a reader is never behind.
            for step in 0..said / 100 {
                let numbers = step * 100..(step + 1) * 100;
                ann.send(numbers.clone().flat_map(|number| frame(TEXT, format!("{number} {long}"))).collect::<Vec<u8>>());
                for number in numbers {
                    assert_eq!(text(&mut ben), format!("#ann@127.0.0.1>>{number} {long}"), "who reads misses nothing");
                }
            }
            let (mut next, mut notices, mut help) = (0, 0, 0);
            while next < said {
                let heard = text(&mut deaf);
                if let Some(missed) = heard.strip_prefix("(Missed: ") {
                    next += missed.strip_suffix(" messages)").unwrap().parse::<usize>().unwrap();
                    notices += 1;
                } else if heard.starts_with("(/who") {
                    help += 1;
                } else {
                    assert_eq!(heard, format!("#ann@127.0.0.1>>{next} {long}"), "{policy}");
                    next += 1;
                }
            }
            assert_eq!((next, help), (said, 1), "{policy}");
            assert!(notices > 0, "{policy}: nothing was missed");
        }
    }

    fn a_new_member_gets_the_latest_messages_whatever_way_they_were_said(backend: Backend) {
        let chat = Glowplug::start(backend, &format!("{CHAT} --history 2"));
        let (mut ann, mut ben) = (join(&chat, "ann"), join_on_lines(&chat, "ben"));
        text(&mut ann);
        say(&mut ann, "one");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>one");
        ben.send("two\n");
        assert_eq!(text(&mut ann), "#ben@127.0.0.1>>two");
        let (mut cat, mut dan) = (join(&chat, "cat"), join_on_lines(&chat, "dan"));
        for past in ["#ann@127.0.0.1>>one", "#ben@127.0.0.1>>two"] {
            assert_eq!((text(&mut cat), dan.line()), (past.to_owned(), past.to_owned()));
        }
    }

    fn on_several_loops_and_on_threads_all_hear_each_other(backend: Backend) {
        for model in ["--loops 3", "--model threads"] {
            let chat = Glowplug::start(backend, &format!("{CHAT} {model}"));
            let mut line = join_on_lines(&chat, "line");
            let mut browsers: Vec<Client> = (0..5).map(|number| join(&chat, &format!("b{number}"))).collect();
            (0..5).for_each(|_| drop(line.line()));
            for number in 0..5 {
                say(&mut browsers[number], format!("I am {number}"));
                let said = format!("#b{number}@127.0.0.1>>I am {number}");
                assert_eq!(line.line(), said, "{model}");
                for (other, browser) in browsers.iter_mut().enumerate() {
                    while other != number && text(browser) != said {}
                }
            }
            line.send("/quit\n");
            let gone = "(Now hung up: Client from line@127.0.0.1)";
            browsers.iter_mut().for_each(|browser| while text(browser) != gone {});
            for browser in &mut browsers {
                browser.send(frame(CLOSE, b"\x03\xe8"));
                loop {
                    let (first, payload) = websocket::received(browser);
                    if first == CLOSE {
                        assert_eq!(payload, b"\x03\xe8");
                        break;
                    }
                }
            }
        }
    }

    fn a_flood_of_pings_is_answered_by_few_pongs_and_the_others_are_served(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let (mut ann, mut ben) = (join(&chat, "ann"), join_on_lines(&chat, "ben"));
        text(&mut ann);
        let mut flooder = join(&chat, "flooder");
        text(&mut ann);
        ben.line();
        const PINGS: usize = 200_000;
        let mut writer = flooder.writer();
        let flood = thread::spawn(move || {
            let pings = frame(PING, "x").repeat(1000);
            (0..PINGS / 1000).for_each(|_| writer.write_all(&pings).expect("it is taken"));
            writer.write_all(&[frame(PING, "last"), frame(TEXT, "/quit")].concat()).expect("it is taken");
        });
        for number in 0..100 {
            say(&mut ann, number.to_string());
            let said = format!("#ann@127.0.0.1>>{number}");
            // The flood may be over, and the flooding client closed.
            while let heard = ben.line()
                && heard != said
            {
                assert_eq!(heard, "(Now hung up: Client from flooder@127.0.0.1)");
            }
        }
        let mut last = Vec::new();
        loop {
            match websocket::received(&mut flooder) {
                (PONG, payload) => last = payload,
                (TEXT, payload) if payload == b"(Goodbye)" => break,
                (TEXT, _) => {}
                (other, _) => panic!("{other:#x}"),
            }
        }
        assert_eq!(last, b"last", "the newest ping is always answered");
        flood.join().unwrap();
    }

    fn a_message_of_65536_fragments_of_a_byte_is_a_message(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let (mut ann, mut ben) = (join(&chat, "ann"), join_on_lines(&chat, "ben"));
        text(&mut ann);
        let mut fragments = frame(0x01, "x");
        (0..65_534).for_each(|_| fragments.extend(frame(0x00, "x")));
        ann.send(&fragments);
        ben.send("in between\n");
        assert_eq!(text(&mut ann), "#ben@127.0.0.1>>in between");
        ann.send(frame(0x80, "x"));
        assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{}", "x".repeat(65_536)));
        // One more byte would be too long, and is refused at the frame's head.
        ann.send([&fragments[..], &frame(0x00, "x"), &frame(0x80, "x")].concat());
        assert_eq!(closed(&mut ann), 1009);
        // Empty fragments do not count, and hold no memory.
        let mut cat = join(&chat, "cat");
        cat.send([frame(0x01, ""), frame(0x00, "").repeat(65_536), frame(0x80, "empty")].concat());
        while ben.line() != "#cat@127.0.0.1>>empty" {}
    }

    fn a_member_that_holds_too_much_memory_is_closed_with_1013_and_the_rest_stay(backend: Backend) {
        for model in ["loops", "loops --loops 2", "threads"] {
            let chat = Glowplug::start(backend, &format!("{CHAT} --model {model} --memory 1M"));
            let mut line = join_on_lines(&chat, "line");
            // Unfinished messages: all of them together are more than twice the budget.
            let mut members: Vec<Client> = (0..40)
                .map(|number| {
                    let mut member = join(&chat, &format!("n{number}"));
                    member.send(frame(0x01, [b'x'; 60_000]));
                    member
                })
                .collect();
            let number = |told: &str| {
                let gone = told.strip_prefix("(Now hung up: Client from n")?;
                gone.split('@').next()?.parse::<usize>().ok()
            };
            let mut gone = vec![loop {
                if let Some(number) = number(&line.line()) {
                    break number;
                }
            }];
            line.send("/who\n");
            loop {
                match line.line() {
                    told if told.contains(" here: line@127.0.0.1") => break,
                    told => gone.extend(number(&told)),
                }
            }
            for number in gone {
                let mut last = String::new();
                let code = loop {
                    match websocket::received(&mut members[number]) {
                        (TEXT, told) => last = String::from_utf8(told).unwrap(),
                        (CLOSE, code) => break u16::from_be_bytes(*code.first_chunk().unwrap()),
                        // A slow test looks like a silent member.
                        (other, _) => assert_eq!(other, PING),
                    }
                };
                assert_eq!((&last[..], code), ("ERROR: too slow", 1013), "{model}");
            }
        }
    }
}

#[test]
fn a_handshake_a_name_and_a_question_may_arrive_together() {
    let chat = Glowplug::start(Backend::Epoll, CHAT);
    chat.stand_still();
    let mut client = chat.connect();
    client.send([handshake("/ws", &host(&chat)).as_bytes(), &frame(TEXT, "NAME: ann"), &frame(TEXT, "/who")].concat());
    chat.go_on();
    accepted(&mut client);
    assert_eq!(text(&mut client), "CLIENT: 127.0.0.1");
    assert_eq!(text(&mut client), "(1 here: ann@127.0.0.1)");
}
