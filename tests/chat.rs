//! The chat room from outside.

mod support;

use support::client::{Client, frame};
use support::command::{Glowplug, Scratch};
use support::{on_every_backend, unless_chaos};

const CHAT: &str = "chat serve --port 0 --log-level off";

/// A member who speaks in lines. The number of members is not checked.
fn join(chat: &Glowplug, name: &str) -> Client {
    let mut client = chat.connect();
    assert_eq!(client.ask(&format!("NAME: {name}")), "CLIENT: 127.0.0.1");
    client
}

/// A member who speaks in frames.
fn join_in_frames(chat: &Glowplug, name: &str) -> Client {
    let mut client = chat.connect();
    client.send_frame(format!("NAME: {name}"));
    assert_eq!(client.frame(), "CLIENT: 127.0.0.1");
    client
}

on_every_backend! {
    fn members_hear_who_comes_what_is_said_and_who_goes(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let mut ben = join(&chat, "ben");
        assert_eq!(ann.line(), "(Connected: New client (2) from ben@127.0.0.1)");
        let mut cat = join(&chat, "cat");
        for member in [&mut ann, &mut ben] {
            assert_eq!(member.line(), "(Connected: New client (3) from cat@127.0.0.1)");
        }
        ann.send("hello\r\nthere\n");
        for member in [&mut ben, &mut cat] {
            assert_eq!(member.line(), "#ann@127.0.0.1>>hello");
            assert_eq!(member.line(), "#ann@127.0.0.1>>there");
        }
        drop(cat);
        for member in [&mut ann, &mut ben] {
            assert_eq!(member.line(), "(Now hung up: Client from cat@127.0.0.1)", "and ann never heard herself");
        }
        ben.half_close();
        assert_eq!(ben.rest_as_text(), "");
        assert_eq!(ann.line(), "(Now hung up: Client from ben@127.0.0.1)");
    }

    fn lines_and_frames_are_spoken_in_one_room(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut line = join(&chat, "line");
        let mut framed = join_in_frames(&chat, "framed");
        assert_eq!(line.line(), "(Connected: New client (2) from framed@127.0.0.1)");
        framed.send_frame("from a frame");
        assert_eq!(line.line(), "#framed@127.0.0.1>>from a frame");
        line.send("from a line\n");
        assert_eq!(framed.frame(), "#line@127.0.0.1>>from a line");
        framed.send_frame("/who");
        assert_eq!(framed.frame(), "(2 here: line@127.0.0.1, framed@127.0.0.1)");
        framed.send_frame("/quit");
        assert_eq!(framed.frame(), "(Goodbye)");
        assert_eq!(framed.rest(), b"");
        assert_eq!(line.line(), "(Now hung up: Client from framed@127.0.0.1)");
    }

    fn a_name_alone_is_enough_on_lines_and_empty_lines_before_it_are_ignored(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = chat.connect();
        ann.send("\n\r\n");
        assert_eq!(ann.ask("Änn#1"), "CLIENT: 127.0.0.1");
        assert_eq!(ann.ask("/who"), "(1 here: Änn#1@127.0.0.1)");
    }

    fn a_name_that_is_bad_or_taken_is_refused_and_free_once_its_owner_has_left(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let long = "ü".repeat(33);
        for bad in ["ann", "a b", "a@b", "/a", "(a", "#a", "a\x1bb", "a\u{2028}b", " ", &long] {
            let mut client = chat.connect();
            assert!(client.ask(&format!("NAME: {bad}")).starts_with("ERROR: "), "{bad:?}");
            assert_eq!(client.rest(), b"", "{bad:?}");
        }
        assert_eq!(ann.ask("/who"), "(1 here: ann@127.0.0.1)", "she has heard of none of them");
        assert_eq!(ann.ask("/quit"), "(Goodbye)");
        assert_eq!(ann.rest(), b"");
        join(&chat, "ann");
        join(&chat, &"ü".repeat(32));
    }

    fn commands_are_answered_to_the_asker_alone(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let mut ben = join(&chat, "ben");
        ann.line();
        assert_eq!(ann.ask("/who"), "(2 here: ann@127.0.0.1, ben@127.0.0.1)");
        let help = ann.ask("/help");
        assert!(help.starts_with('(') && help.ends_with(')'), "{help}");
        assert!(ann.ask("/dance").starts_with("ERROR: "), "not fatal");
        ann.send("//who\n\n// \n");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>/who");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>/ ", "the empty message before it was ignored");
    }

    fn control_characters_are_replaced_on_their_way(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut line = join(&chat, "line");
        let mut framed = join_in_frames(&chat, "framed");
        line.line();
        framed.send_frame("a\tb\n(Connected: forged)\r\x1b[2J\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\0é🙂");
        let clean = "#framed@127.0.0.1>>a\tb\u{fffd}(Connected: forged)\u{fffd}\u{fffd}[2J\
                     \u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}é🙂";
        assert_eq!(line.line(), clean);
        line.send("\x07ding\n");
        assert_eq!(framed.frame(), "#line@127.0.0.1>>\u{fffd}ding");
    }

    fn frames_split_at_every_byte_are_the_same_frames(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let stream = [frame("NAME: ben"), frame("Grüße"), frame(""), frame("/quit")].concat();
        let heard = |ann: &mut Client| {
            assert_eq!(ann.line(), "(Connected: New client (2) from ben@127.0.0.1)");
            assert_eq!(ann.line(), "#ben@127.0.0.1>>Grüße");
            assert_eq!(ann.line(), "(Now hung up: Client from ben@127.0.0.1)");
        };
        let answer = [frame("CLIENT: 127.0.0.1"), frame("(Goodbye)")].concat();
        for cut in 1..stream.len() {
            let mut ben = chat.connect();
            ben.send(&stream[..cut]);
            ben.send(&stream[cut..]);
            assert_eq!(ben.rest(), answer, "split at {cut}");
            heard(&mut ann);
        }
        let mut ben = chat.connect();
        ben.send_by_bytes(&stream);
        assert_eq!(ben.rest(), answer);
        heard(&mut ann);
    }

    fn telnet_options_are_skipped_wherever_they_stand(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let mut telnet = chat.connect();
        telnet.send(b"\xff\xfb\x1f\xff\xfa\x18\0xterm\n\xff\xf0te\xff\xfd\x03lnet\r\n");
        assert_eq!(telnet.line(), "CLIENT: 127.0.0.1");
        assert_eq!(ann.line(), "(Connected: New client (2) from telnet@127.0.0.1)");
        telnet.send_by_bytes(b"h\xff\xf1i\xff\xfb\n\r\n");
        assert_eq!(ann.line(), "#telnet@127.0.0.1>>hi");
    }

    fn what_is_too_long_or_no_text_is_an_error_and_the_end(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let long = vec![b'x'; 65_537];
        let on_lines: [&[u8]; 2] = [&long, b"\xc3\x28\n"];
        for bad in on_lines {
            let mut ben = join(&chat, "ben");
            ben.send(bad);
            assert!(ben.line().starts_with("ERROR: "));
            assert_eq!(ben.rest(), b"");
        }
        let in_frames: [&[u8]; 3] = [&65_537u32.to_be_bytes(), b"\xff\xff\xff\xff", b"\0\0\0\x02\xc3\x28"];
        for bad in in_frames {
            let mut ben = join_in_frames(&chat, "ben");
            ben.send(bad);
            assert!(ben.frame().starts_with("ERROR: "), "{bad:?}");
            assert_eq!(ben.rest(), b"");
        }
        for _ in 0..on_lines.len() + in_frames.len() {
            assert_eq!(ann.line(), "(Connected: New client (2) from ben@127.0.0.1)");
            assert_eq!(ann.line(), "(Now hung up: Client from ben@127.0.0.1)");
        }
    }

    fn the_longest_message_reaches_both_kinds_of_members(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let mut ben = join_in_frames(&chat, "ben");
        ann.line();
        let text = "x".repeat(65_536);
        ann.send(format!("{text}\n"));
        assert_eq!(ben.frame(), format!("#ann@127.0.0.1>>{text}"));
        ben.send_frame(&text);
        assert_eq!(ann.line(), format!("#ben@127.0.0.1>>{text}"));
        // Each byte of it becomes three.
        ben.send_frame(vec![0; 65_536]);
        assert_eq!(ann.line(), format!("#ben@127.0.0.1>>{}", "\u{fffd}".repeat(65_536)));
    }

    fn each_senders_messages_arrive_in_order(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut reader = join(&chat, "reader");
        let mut senders: Vec<_> = ["a", "b", "c"].map(|name| join(&chat, name)).into();
        for _ in &senders {
            reader.line();
        }
        for number in 0..300 {
            senders.iter_mut().for_each(|sender| sender.send(format!("{number}\n")));
        }
        let mut next = [0; 3];
        for _ in 0..900 {
            let line = reader.line();
            let (who, number) = line.split_once("@127.0.0.1>>").unwrap();
            let sender = ["#a", "#b", "#c"].iter().position(|name| *name == who).unwrap();
            assert_eq!(number, next[sender].to_string(), "{who}");
            next[sender] += 1;
        }
    }

    fn a_burst_of_short_messages_under_a_long_name_costs_no_reader_its_seat(backend: Backend) {
        unless_chaos!("needs readers whose kernel takes what it has room for; others are slow, and let go");
        const MESSAGES: usize = 40_000;
        let chat = Glowplug::start(backend, CHAT);
        let mut readers: Vec<Client> = (0..5).map(|number| join(&chat, &format!("reader{number}"))).collect();
        let name = "n".repeat(32);
        let mut loud = join(&chat, &name);
        readers.iter_mut().for_each(|reader| while reader.line() != format!("(Connected: New client (6) from {name}@127.0.0.1)") {});
        loud.send("x\n".repeat(MESSAGES));
        let wanted = format!("#{name}@127.0.0.1>>x");
        std::thread::scope(|scope| {
            for reader in &mut readers {
                scope.spawn(|| (0..MESSAGES).for_each(|_| assert_eq!(reader.line(), wanted)));
            }
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
        // Until the kernel's buffers are full, and then a megabyte.
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

    fn over_a_unix_socket_a_members_address_is_unix(backend: Backend) {
        let scratch = Scratch::new();
        let chat = Glowplug::start(backend, &format!("chat serve --unix {}", scratch.join("chat").display()));
        let mut ann = chat.connect();
        assert_eq!(ann.ask("ann"), "CLIENT: unix");
        assert_eq!(ann.ask("/who"), "(1 here: ann@unix)");
    }

    fn an_ipv4_member_of_an_ipv6_room_is_shown_as_ipv4(backend: Backend) {
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            return;
        }
        let chat = Glowplug::start(backend, "chat serve --host :: --port 0");
        let port = chat.address().port().unwrap();
        let mut four = Client::connect(&format!("127.0.0.1:{port}").parse().unwrap());
        assert_eq!(four.ask("four"), "CLIENT: 127.0.0.1");
        let mut six = Client::connect(&format!("[::1]:{port}").parse().unwrap());
        assert_eq!(six.ask("six"), "CLIENT: ::1");
        assert_eq!(four.line(), "(Connected: New client (2) from six@::1)");
    }
}
