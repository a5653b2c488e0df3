//! In pipes and with files: lines in, messages out.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::thread;

use rustix::process::Signal;

use crate::support::client::frame;
use crate::support::command::{Ended, Glowplug, Scratch, command, eventually, shell};
use crate::support::on_every_backend;
use crate::terminal::at_terminal;
use crate::{CHAT, Fake, again_at, at_own_host, is_blocking, join_words, member, refusing};

fn resident_kilobytes(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

on_every_backend! {
    fn in_a_pipe_lines_go_in_and_messages_come_out(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ben = member(&chat, "ben");
        let mut command = command(backend, &join_words(&chat));
        command.stdin(Stdio::piped());
        let mut ann = Glowplug::spawn(command);
        let mut typed = ann.stdin();
        assert_eq!(ben.line(), "(Connected: New client (2) from ann@127.0.0.1)");
        typed.write_all(b"hello\r\n\nb\xff\xfed\n").unwrap();
        assert_eq!(ben.line(), "#ann@127.0.0.1>>hello");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>b\u{fffd}\u{fffd}d");
        ben.send("hi\n");
        assert_eq!(ann.line().as_deref(), Some("#ben@127.0.0.1>>hi"));
        typed.write_all(b"/who\n/dance\nthe end").unwrap();
        drop(typed);
        assert_eq!(ben.line(), "#ann@127.0.0.1>>the end", "without an ending");
        let Ended { code, stdout, stderr } = ann.end();
        assert_eq!(code, Some(0), "{stderr}");
        let lines: Vec<_> = stdout.lines().collect();
        assert_eq!(lines[..2], ["#ben@127.0.0.1>>hi", "(2 here: ben@127.0.0.1, ann@127.0.0.1)"]);
        assert!(lines.len() == 3 && lines[2].starts_with("ERROR: unknown command"), "{stdout}");
        assert_eq!(stderr, format!("Now connected to chat server@ port {}\n", chat.tcp().port()));
    }

    fn input_of_every_kind_is_sent_and_its_end_is_the_end(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("lines");
        fs::write(&path, "from a file\n").unwrap();
        let chat = Glowplug::start(backend, CHAT);
        let mut ben = member(&chat, "ben");
        let from_file = format!("exec \"$0\" \"$@\" < {}", path.display());
        for (script, text) in [
            (&from_file[..], Some("from a file")),
            ("exec \"$0\" \"$@\" < /dev/null", None),
            ("exec \"$0\" \"$@\" <&-", None),
            ("echo piped | \"$0\" \"$@\"", Some("piped")),
        ] {
            let ended = Glowplug::spawn(shell(backend, script, &join_words(&chat))).end();
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{script}: {}", ended.stderr);
            assert_eq!(ben.line(), "(Connected: New client (2) from ann@127.0.0.1)", "{script}");
            if let Some(text) = text {
                assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{text}"));
            }
            assert_eq!(ben.line(), "(Now hung up: Client from ann@127.0.0.1)", "{script}");
        }
    }

    fn a_large_file_arrives_whole_and_in_order(backend: Backend) {
        const LINES: usize = 100_000;
        let scratch = Scratch::new();
        let path = scratch.join("lines");
        fs::write(&path, (0..LINES).map(|number| format!("line {number}\n")).collect::<String>()).unwrap();
        // The reader is slower than a file.
        let chat = Glowplug::start(backend, &format!("{CHAT} "));
        let mut ben = member(&chat, "ben");
        let mut command = command(backend, &join_words(&chat));
        command.stdin(File::open(&path).unwrap());
        let ann = Glowplug::spawn(command);
        ben.line();
        for number in 0..LINES {
            assert_eq!(ben.line(), format!("#ann@127.0.0.1>>line {number}"));
        }
        assert_eq!(ann.end().code, Some(0));
    }

    fn a_line_that_is_too_long_is_left_out_and_told(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ben = member(&chat, "ben");
        let mut command = command(backend, &join_words(&chat));
        command.stdin(Stdio::piped());
        let mut ann = Glowplug::spawn(command);
        let longest = "x".repeat(65_536);
        let mut typed = ann.stdin();
        let writer = {
            let text = format!("{longest}\n{longest}y\nafter\n");
            thread::spawn(move || typed.write_all(text.as_bytes()).unwrap())
        };
        ben.line();
        assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{longest}"));
        assert_eq!(ben.line(), "#ann@127.0.0.1>>after");
        writer.join().unwrap();
        let ended = ann.end();
        assert_eq!(ended.code, Some(1), "something was not sent");
        assert!(ended.stderr.contains("line longer than 65536 bytes: not sent"), "{}", ended.stderr);
    }

    fn who_has_read_enough_ends_it_quietly(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut script = shell(backend, "yes /who | \"$0\" \"$@\" | head -1", &join_words(&chat));
        script.stdin(Stdio::null());
        let ended = Glowplug::spawn(script).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "(1 here: ann@127.0.0.1)\n"));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }

    fn messages_that_cannot_be_written_are_an_error_that_names_the_cause(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let ended = Glowplug::spawn(shell(backend, "echo /who | \"$0\" \"$@\" >/dev/full", &join_words(&chat))).end();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let error = "error: cannot write to standard output: No space left on device";
        assert!(ended.stderr.lines().any(|line| line.starts_with(error)), "{}", ended.stderr);
    }

    fn a_flood_of_input_is_sent_no_faster_than_the_server_takes_it(backend: Backend) {
        let server = Fake::new();
        let mut ann = Glowplug::spawn(shell(backend, "yes | exec \"$0\" \"$@\"", &server.words()));
        let mut stream = server.accept("127.0.0.1");
        // Reads some bytes, then nothing until the client pauses.
        let mut some = [0; 5000];
        stream.read_exact(&mut some).unwrap();
        assert!(some.chunks(5).all(|piece| piece == b"\0\0\0\x01y"));
        let waiting = || {
            let mut bytes = vec![0; 16 << 20];
            rustix::net::recv(&stream, &mut bytes[..], rustix::net::RecvFlags::PEEK).unwrap().0
        };
        let mut before = 0;
        eventually("the kernel's buffers to be full", || {
            thread::sleep(std::time::Duration::from_millis(50));
            let now = waiting();
            (now == std::mem::replace(&mut before, now)).then_some(())
        });
        let mut rest = BufReader::new(stream);
        let mut piece = [0; 5];
        for _ in 0..100_000 {
            rest.read_exact(&mut piece).unwrap();
            assert_eq!(piece, *b"\0\0\0\x01y");
        }
        ann.told("Now connected");
        ann.signal(Signal::TERM);
        drop(rest);
        ann.end();
    }

    fn a_slow_reader_holds_the_server_up_and_gets_everything(backend: Backend) {
        const MESSAGES: usize = 20_000;
        let server = Fake::new();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = command(backend, &server.words());
        command.stdin(Stdio::piped()).stdout(writer.try_clone().unwrap());
        let mut ann = Glowplug::spawn(command);
        let typed = ann.stdin();
        let mut stream = server.accept("127.0.0.1");
        let text = "x".repeat(1000);
        let said = thread::spawn({
            let text = text.clone();
            move || {
                for number in 0..MESSAGES {
                    stream.write_all(&frame(format!("{number} {text}"))).unwrap();
                }
            }
        });
        // Only a growing queue could hold 20 MB.
        let mut first = [0; 2];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"0 ");
        assert!(is_blocking(&writer) && is_blocking(&typed), "nobody else's descriptors change");
        drop(writer);
        let mut rows = BufReader::new(reader).lines();
        assert_eq!(rows.next().unwrap().unwrap(), text);
        let mut most = 0;
        for number in 1..MESSAGES {
            if number % 1000 == 0 {
                most = most.max(resident_kilobytes(ann.pid()));
            }
            assert_eq!(rows.next().unwrap().unwrap(), format!("{number} {text}"));
        }
        assert!(most < 16 * 1024, "{most} KiB");
        said.join().unwrap();
        drop(typed);
        assert_eq!(ann.end().code, Some(0));
    }

    fn errors_that_end_it_are_on_standard_error_with_a_failure(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let _ann = member(&chat, "ann");
        let ended = Glowplug::spawn(command(backend, &join_words(&chat))).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        assert_eq!(ended.stderr.lines().nth(1), Some("ERROR: the name is taken"));
        let (_held, port) = refusing();
        let ended = crate::support::command::run(backend, &format!("chat join --name ann --port {port} --reconnect"));
        let start = format!("Failed to connect to chat server @ port {port}: ");
        assert!(ended.code == Some(1) && ended.stderr.starts_with(&start), "{}", ended.stderr);
        assert_eq!((ended.stderr.lines().count(), ended.stdout.as_str()), (1, ""));
        let ended = crate::support::command::run(backend, "chat join --name ann --host nowhere.invalid");
        assert!(ended.stderr.starts_with("Failed to connect to chat server @ port 8801: "), "{}", ended.stderr);
        assert_eq!(ended.code, Some(1));
    }

    fn over_a_unix_socket_the_path_is_its_name(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("chat");
        let words = format!("--unix {}", path.display());
        let ended = crate::support::command::run(backend, &format!("chat join --name ann {words}"));
        let failed = format!("Failed to connect to chat server @ unix://{}: ", path.display());
        assert!(ended.code == Some(1) && ended.stderr.starts_with(&failed), "{}", ended.stderr);
        let _chat = Glowplug::start(backend, &format!("chat serve {words}"));
        let mut ann = at_terminal(backend, &format!("chat join --name ann {words}"));
        ann.terminal.ends_with("[ann@unix]> ");
        let rows = ann.terminal.rows().concat();
        assert!(rows.starts_with(&format!("Now connected to chat server@ unix://{}", path.display())), "{rows}");
    }

    fn each_address_of_a_name_is_tried(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let ended = crate::support::command::run(backend, &format!("{} --host localhost", join_words(&chat)));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }

    fn in_a_pipe_nothing_is_read_while_nobody_is_connected(backend: Backend) {
        let (chat, words) = at_own_host(backend);
        let port = chat.tcp().port();
        let mut command = command(backend, &words);
        command.stdin(Stdio::piped());
        let mut ann = Glowplug::spawn(command);
        let mut typed = ann.stdin();
        typed.write_all(b"/who\n").unwrap();
        assert_eq!(ann.line().as_deref(), Some("(1 here: ann@127.0.0.1)"));
        chat.signal(Signal::KILL);
        chat.end();
        ann.told("Lost the chat server");
        typed.write_all(b"/dance\n").unwrap();
        drop(typed);
        let _again = again_at(backend, port);
        let ended = ann.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stdout.contains("\nERROR: unknown command"), "{}", ended.stdout);
    }
}
