//! Members that speak lines and frames: messages, arrivals and departures, names, limits, history.

use std::io::Write;
use std::thread;

use crate::support::client::{Client, frame};
use crate::support::command::{Ended, Glowplug, Scratch, run};
use crate::support::on_every_backend;
use crate::{CHAT, Way, join, join_in_frames};

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

    fn a_name_alone_is_enough_on_lines_and_the_first_empty_line_before_it_is_answered(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = chat.connect();
        ann.send("\n\r\n\n");
        assert_eq!(ann.line(), "(Type your name)");
        assert_eq!(ann.ask("Änn#1"), "CLIENT: 127.0.0.1");
        assert_eq!(ann.ask("/who"), "(1 here: Änn#1@127.0.0.1)");
    }

    fn a_name_that_is_bad_or_taken_is_refused_and_free_once_its_owner_has_left(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let long = "ü".repeat(33);
        for bad in ["ann", "a b", "a@b", "/a", "(a", "#a", "a\x1bb", "a\u{2028}b", " ", &long, "\u{2800}", "\u{301}", "ann,", "ann＠x>>hi"] {
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
        assert_eq!(telnet.bytes(6), b"\xff\xfe\x1f\xff\xfc\x03", "before there is a name");
        assert_eq!(telnet.line(), "CLIENT: 127.0.0.1");
        assert_eq!(ann.line(), "(Connected: New client (2) from telnet@127.0.0.1)");
        telnet.send_by_bytes(b"h\xff\xf1i\xff\xfb\n\r\n");
        assert_eq!(ann.line(), "#telnet@127.0.0.1>>hi");
        assert_eq!(telnet.bytes(3), b"\xff\xfe\n");
    }

    fn urgent_data_is_read_in_its_place(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let mut telnet = join(&chat, "telnet");
        ann.line();
        // As telnet sends Ctrl-C: the mark at its end is urgent data.
        telnet.send(b"one\n\xff\xf4\xff\xfd\x06");
        telnet.writer().send_out_of_band(b"\xff\xf2").unwrap();
        telnet.send(b"two\n");
        telnet.writer().send_out_of_band(b"three\n").unwrap();
        assert_eq!(telnet.bytes(3), b"\xff\xfc\x06");
        for said in ["one", "two", "three"] {
            assert_eq!(ann.line(), format!("#telnet@127.0.0.1>>{said}"));
        }
    }

    fn every_do_of_a_flood_is_refused_between_messages_and_in_none(backend: Backend) {
        const DOS: usize = 10_000;
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "ann");
        let mut telnet = join(&chat, "telnet");
        ann.line();
        let mut writer = telnet.writer();
        let flood = thread::spawn(move || writer.write_all(&b"\xff\xf4\xff\xfd\x06\xff\xfc\x01\xff\xfe\x03".repeat(DOS)).unwrap());
        for number in 0..100 {
            ann.send(format!("message {number}\n"));
        }
        let (mut refusals, mut next) = (0, 0);
        while refusals < DOS || next < 100 {
            match telnet.bytes(1)[0] {
                0xff => {
                    assert_eq!(telnet.bytes(2), b"\xfc\x06");
                    refusals += 1;
                }
                byte => {
                    assert_eq!(byte, b'#');
                    assert_eq!(telnet.line(), format!("ann@127.0.0.1>>message {next}"));
                    next += 1;
                }
            }
        }
        flood.join().unwrap();
        assert_eq!((telnet.ask("/quit").as_str(), refusals), ("(Goodbye)", DOS));
        assert_eq!(telnet.rest(), b"");
    }

    fn before_there_is_a_name_no_more_than_a_name_is_taken(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let line = vec![b'x'; 513];
        for (way, long) in [(Way::Lines, &line[..]), (Way::Frames, &513u32.to_be_bytes())] {
            let mut client = chat.connect();
            client.send(long);
            assert!(way.next(&mut client).ends_with(" longer than 512 bytes"));
            assert_eq!(client.rest(), b"");
        }
        for (way, bad) in [(Way::Lines, [&line[1..], b"\n"].concat()), (Way::Frames, frame([b"NAME: ", &line[7..]].concat()))] {
            let mut client = chat.connect();
            client.send(bad);
            assert_eq!(way.next(&mut client), "ERROR: bad name: a name has 1 to 32 characters");
        }
        // The rest of the input is not part of the name.
        let mut ann = chat.connect();
        ann.send(format!("ann\n{}\n/who\n", "x".repeat(60_000)));
        assert_eq!(ann.line(), "CLIENT: 127.0.0.1");
        assert_eq!(ann.line(), "(1 here: ann@127.0.0.1)");
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
        // Each byte becomes three bytes.
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

    fn new_members_get_the_latest_messages_and_nothing_else(backend: Backend) {
        let chat = Glowplug::start(backend, &format!("{CHAT} --history 3"));
        let mut ann = join(&chat, "ann");
        ann.send("one\n/help\n//two\nthree\x07\nfour\n");
        assert!(ann.line().starts_with('('));
        let past = ["#ann@127.0.0.1>>/two", "#ann@127.0.0.1>>three\u{fffd}", "#ann@127.0.0.1>>four"];
        // The answer to `/who` follows the messages, so the room has heard the messages by then.
        assert_eq!(ann.ask("/who"), "(1 here: ann@127.0.0.1)");
        let mut ben = join(&chat, "ben");
        past.iter().for_each(|message| assert_eq!(ben.line(), *message));
        let mut cat = join_in_frames(&chat, "cat");
        past.iter().for_each(|message| assert_eq!(cat.frame(), *message));
        assert_eq!(ben.line(), "(Connected: New client (3) from cat@127.0.0.1)");
        ann.send("five\n");
        for _ in 0..2 {
            ann.line();
        }
        assert_eq!((ben.line(), cat.frame()), ("#ann@127.0.0.1>>five".to_owned(), "#ann@127.0.0.1>>five".to_owned()));
        assert_eq!(ben.ask("/who"), "(3 here: ann@127.0.0.1, ben@127.0.0.1, cat@127.0.0.1)");
        let mut dan = join(&chat, "dan");
        for message in ["#ann@127.0.0.1>>three\u{fffd}", "#ann@127.0.0.1>>four", "#ann@127.0.0.1>>five"] {
            assert_eq!(dan.line(), message, "comings and goings are no messages");
        }
    }

    fn history_is_bounded_in_bytes_and_its_number_has_a_limit(backend: Backend) {
        let chat = Glowplug::start(backend, &format!("{CHAT} --history 10000"));
        let mut ann = join(&chat, "ann");
        let text = "x".repeat(60_000);
        (0..20).for_each(|number| ann.send(format!("{number} {text}\n")));
        ann.ask("/who");
        let mut ben = join(&chat, "ben");
        // Four messages are below 256 KiB.
        for number in 16..20 {
            assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{number} {text}"));
        }
        assert_eq!(ben.ask("/who"), "(2 here: ann@127.0.0.1, ben@127.0.0.1)");
        let Ended { code, stderr, .. } = run(backend, "chat serve --history 10001");
        assert_eq!(code, Some(2));
        assert!(stderr.contains("10001 is not in 0..=10000"), "{stderr}");
    }

    fn names_that_look_like_one_that_is_here_are_taken(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = join(&chat, "Paypal");
        // Other case, a Cyrillic letter, a capital i, full width.
        for alike in ["PAYPAL", "P\u{430}ypal", "PaypaI", "\u{ff30}aypal"] {
            let mut client = chat.connect();
            assert_eq!(client.ask(alike), "ERROR: the name is taken", "{alike:?}");
            assert_eq!(client.rest(), b"");
        }
        let mut unseen = chat.connect();
        assert!(unseen.ask("\u{200b}\u{200d}").starts_with("ERROR: bad name"));
        assert_eq!(ann.ask("/who"), "(1 here: Paypal@127.0.0.1)");
        join(&chat, "Paypals");
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
