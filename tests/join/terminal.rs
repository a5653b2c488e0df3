//! At a terminal: the line that is being typed, colours, ends, and the way back.

use std::io::Write;
use std::process::{Command, Stdio};

use reactor::Backend;
use rustix::process::Signal;
use rustix::termios::Termios;

use crate::support::client::frame;
use crate::support::command::{Glowplug, command, eventually};
use crate::support::on_every_backend;
use crate::support::terminal::Terminal;
use crate::{CHAT, Fake, again_at, at_own_host, is_blocking, join_words, member, refusing};

const PROMPT: &str = "[ann@127.0.0.1]> ";

/// `ann`, at a terminal.
pub struct AtTerminal {
    pub terminal: Terminal,
    before: String,
    pub process: Glowplug,
}

fn all_of(termios: &Termios) -> String {
    format!("{termios:?}")
}

pub fn at_terminal(backend: Backend, words: &str) -> AtTerminal {
    at_terminal_with(&[], backend, words)
}

/// As [`at_terminal`], with additional variables in the environment.
fn at_terminal_with(variables: &[(&str, &str)], backend: Backend, words: &str) -> AtTerminal {
    let terminal = Terminal::new();
    let before = all_of(&terminal.attributes());
    let mut command = terminal.dress(command(backend, words));
    command.envs(variables.iter().copied());
    let process = Glowplug::spawn(command);
    AtTerminal { terminal, before, process }
}

impl AtTerminal {
    /// Ann has joined, and the prompt is on the screen.
    fn joined(backend: Backend, chat: &Glowplug) -> Self {
        let mut ann = at_terminal(backend, &join_words(chat));
        ann.terminal.ends_with(PROMPT);
        assert_ne!(all_of(&ann.terminal.attributes()), ann.before, "the editor has it");
        assert!(is_blocking(ann.terminal.line()), "it is the shell's, too");
        ann
    }

    /// Waits for the end, and checks that the terminal has its former settings.
    fn ends(mut self, how: &str) -> (Option<i32>, Terminal) {
        let code = self.process.end().code;
        assert_eq!(all_of(&self.terminal.attributes()), self.before, "after {how}");
        // The last output is still on its way.
        self.terminal.types("\n");
        let raw = |terminal: &Terminal| String::from_utf8_lossy(terminal.raw()).into_owned();
        self.terminal.until("marks of pasted text to be off", |terminal| {
            let raw = raw(terminal);
            raw.matches("\x1b[?2004h").count() == raw.matches("\x1b[?2004l").count()
        });
        (code, self.terminal)
    }
}

on_every_backend! {
    fn the_line_being_typed_survives_messages_each_on_a_line_of_its_own(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = AtTerminal::joined(backend, &chat);
        let port = chat.tcp().port();
        assert_eq!(ann.terminal.rows()[0], format!("Now connected to chat server@ port {port}"));
        ann.terminal.types("half a li");
        ann.terminal.ends_with("[ann@127.0.0.1]> half a li");
        let mut ben = member(&chat, "ben");
        ben.send("one\ntwo\n");
        ann.terminal.shows("#ben@127.0.0.1>>two");
        ann.terminal.ends_with("[ann@127.0.0.1]> half a li");
        assert_eq!(
            ann.terminal.rows()[1..],
            [
                "(Connected: New client (2) from ben@127.0.0.1)",
                "#ben@127.0.0.1>>one",
                "#ben@127.0.0.1>>two",
                "[ann@127.0.0.1]> half a li"
            ]
        );
        assert_eq!(ann.terminal.cursor().1, 26, "behind it");
        // Moves back into the word, where a message finds the cursor.
        ann.terminal.types("\x1b[D\x1b[D");
        ben.send("three\n");
        ann.terminal.shows("#ben@127.0.0.1>>three");
        ann.terminal.ends_with("[ann@127.0.0.1]> half a li");
        ann.terminal.types("long \x05ne\r");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>half a long line");
        ann.terminal.types("/quit\r");
        let (code, mut terminal) = ann.ends("/quit");
        assert_eq!(code, Some(0));
        terminal.ends_with("(Goodbye)");
    }

    fn a_line_longer_than_the_screen_is_wide_survives_as_well(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = AtTerminal::joined(backend, &chat);
        let text = "0123456789".repeat(15);
        ann.terminal.types(&text);
        let mut ben = member(&chat, "ben");
        ben.send("hello\n");
        let shown = format!("{PROMPT}{text}");
        ann.terminal.shows("#ben@127.0.0.1>>hello");
        ann.terminal.until("the whole line", |terminal| terminal.rows()[1..].concat().ends_with(&shown));
        assert_eq!(ann.terminal.rows().len(), 6);
        ann.terminal.types("\r");
        assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{text}"));
    }

    fn a_flood_of_messages_is_printed_whole_and_in_order_above_the_line(backend: Backend) {
        const MESSAGES: usize = 3000;
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = AtTerminal::joined(backend, &chat);
        ann.terminal.types("I am typ");
        let mut ben = member(&chat, "ben");
        ben.send((0..MESSAGES).map(|number| format!("message {number}\n")).collect::<String>());
        ann.terminal.types("ing");
        ann.terminal.shows(&format!("#ben@127.0.0.1>>message {}", MESSAGES - 1));
        ann.terminal.ends_with("[ann@127.0.0.1]> I am typing");
        let rows = ann.terminal.all_rows();
        let messages: Vec<_> = rows.iter().filter(|row| row.starts_with("#ben")).collect();
        for (number, row) in messages.iter().enumerate() {
            assert_eq!(**row, format!("#ben@127.0.0.1>>message {number}"));
        }
        assert_eq!((messages.len(), rows.len()), (MESSAGES, MESSAGES + 3), "and nothing else");
        ann.terminal.types("\r");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>I am typing");
    }

    fn typing_and_hearing_at_once_mixes_no_two_lines(backend: Backend) {
        const LINES: usize = 300;
        const MESSAGES: usize = 10;
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = AtTerminal::joined(backend, &chat);
        let mut ben = member(&chat, "ben");
        ann.terminal.shows("(Connected: New client (2) from ben@127.0.0.1)");
        for number in 0..LINES {
            ann.terminal.types(format!("line {number}\r"));
            let messages = (0..MESSAGES).map(|part| format!("message {}\n", number * MESSAGES + part));
            messages.for_each(|message| ben.send(message));
            assert_eq!(ben.line(), format!("#ann@127.0.0.1>>line {number}"));
        }
        ben.send("the end\n");
        ann.terminal.until("all of it", |terminal| {
            let rows = terminal.rows();
            rows.iter().any(|row| row == "#ben@127.0.0.1>>the end") && rows.last().unwrap() == PROMPT.trim_end()
        });
        let rows = ann.terminal.all_rows();
        let (mut messages, mut lines) = (0, 0);
        for row in &rows[2..rows.len() - 2] {
            if *row == format!("#ben@127.0.0.1>>message {messages}") {
                messages += 1;
            } else {
                assert_eq!(*row, format!("{PROMPT}line {lines}"), "after {messages} messages");
                lines += 1;
            }
        }
        assert_eq!((messages, lines), (LINES * MESSAGES, LINES));
    }

    fn what_is_typed_ahead_or_pasted_is_sent_line_by_line(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ben = member(&chat, "ben");
        let mut ann = AtTerminal::joined(backend, &chat);
        assert_eq!(ben.line(), "(Connected: New client (2) from ann@127.0.0.1)");
        ann.terminal.types("one\rtwo\rthr");
        ann.terminal.ends_with("[ann@127.0.0.1]> thr");
        ann.terminal.types("ee\r\x1b[200~four\nfive\n\nsix\x1b[201~\r\r//seven\r");
        for text in ["one", "two", "three", "four", "five", "six", "/seven"] {
            assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{text}"));
        }
    }

    fn lines_can_be_had_back_and_edited(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = AtTerminal::joined(backend, &chat);
        let mut ben = member(&chat, "ben");
        ann.terminal.types("hello\r");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>hello");
        // Up, to the beginning, and a word before the old line.
        ann.terminal.types("\x1b[A\x01oh, \r");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>oh, hello");
    }

    fn the_terminal_is_left_as_it_was_whatever_ends_it(backend: Backend) {
        type End = fn(&mut AtTerminal, &mut Option<Glowplug>);
        let ends: [(&str, End, i32); 13] = [
            ("/quit", |ann, _| ann.terminal.types("/quit\r"), 0),
            ("Ctrl-D", |ann, _| ann.terminal.types("\x04"), 0),
            ("Ctrl-C", |ann, _| ann.terminal.types("some words\x03"), 0),
            ("SIGINT", |ann, _| ann.process.signal(Signal::INT), 0),
            ("SIGTERM", |ann, _| ann.process.signal(Signal::TERM), 0),
            ("SIGQUIT", |ann, _| ann.process.signal(Signal::QUIT), 0),
            ("SIGHUP", |ann, _| ann.process.signal(Signal::HUP), 0),
            ("SIGABRT", |ann, _| ann.process.signal(Signal::ABORT), 0),
            ("SIGALRM", |ann, _| ann.process.signal(Signal::ALARM), 0),
            ("SIGUSR2", |ann, _| ann.process.signal(Signal::USR2), 0),
            ("a server that stops", |_, chat| drop(chat.take().unwrap().stop()), 0),
            ("a server that stops while a line is typed", |ann, chat| {
                ann.terminal.types("some words");
                ann.terminal.ends_with("[ann@127.0.0.1]> some words");
                chat.take().unwrap().stop();
            }, 0),
            ("a server that stops in the middle of a search", |ann, chat| {
                ann.terminal.types("hello\r\x12x");
                ann.terminal.has("reverse-i-search");
                chat.take().unwrap().stop();
            }, 0),
        ];
        for (how, end, expected) in ends {
            let mut chat = Some(Glowplug::start(backend, CHAT));
            let mut ann = AtTerminal::joined(backend, chat.as_ref().unwrap());
            let port = chat.as_ref().unwrap().tcp().port();
            end(&mut ann, &mut chat);
            let (code, mut terminal) = ann.ends(how);
            assert_eq!(code, Some(expected), "{how}");
            if chat.is_none() {
                terminal.shows(&format!("The chat server @ port {port} has hung up"));
            }
        }
    }

    fn after_a_stop_the_line_goes_on_whatever_the_shell_did_to_the_terminal(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut terminal = Terminal::new();
        let mut shell = Command::new("setsid");
        let script = "\"$0\" \"$@\"; stty sane; echo \"stopped\"; fg; echo \"it ended with $?\"";
        shell.args(["--ctty", "--wait", "sh", "-m", "-c", script, env!("CARGO_BIN_EXE_glowplug")]);
        shell.args(join_words(&chat).split(' ')).env("REACTOR_BACKEND", backend.to_string());
        let session = Glowplug::spawn(terminal.dress(shell));
        terminal.ends_with(PROMPT);
        let mut ben = member(&chat, "ben");
        terminal.types("before");
        terminal.ends_with("[ann@127.0.0.1]> before");
        terminal.types("\x1a");
        // The shell's output stands above the line.
        terminal.until("the line after the stop", |terminal| {
            let rows = terminal.rows();
            let stopped = rows.iter().position(|row| row.contains("stopped"));
            stopped.is_some_and(|at| rows[at..].iter().any(|row| row == "[ann@127.0.0.1]> before"))
        });
        // Keys, and not lines: the cursor goes back to the beginning.
        terminal.types(" and after\x01it is \r");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>it is before and after");
        terminal.types("/quit\r");
        terminal.shows("it ended with 0");
        assert_eq!(session.end().code, Some(0));
    }

    fn a_terminal_that_nobody_looks_at_keeps_nobody(backend: Backend) {
        let server = Fake::new();
        let terminal = Terminal::unread();
        let before = all_of(&terminal.attributes());
        let ann = Glowplug::spawn(terminal.dress(command(backend, &server.words())));
        let mut stream = server.accept("127.0.0.1");
        eventually("the editor", || (all_of(&terminal.attributes()) != before).then_some(()));
        // More than a terminal buffers, and no more than the client queues.
        stream.write_all(&frame("x".repeat(60_000)).repeat(3)).unwrap();
        stream.write_all(&frame("ERROR: kicked")).unwrap();
        drop(stream);
        assert_eq!(ann.end().code, Some(1));
        assert_eq!(all_of(&terminal.attributes()), before);
    }

    fn who_is_refused_or_sent_away_is_told_why_and_fails(backend: Backend) {
        let mut command = command(backend, CHAT);
        command.stdin(Stdio::piped());
        let mut chat = Glowplug::spawn(command);
        chat.listens();
        let mut console = chat.stdin();
        let mut first = AtTerminal::joined(backend, &chat);
        first.terminal.types("half");
        let mut second = at_terminal(backend, &join_words(&chat));
        second.terminal.shows("ERROR: the name is taken");
        assert_eq!(second.ends("a refusal").0, Some(1));
        console.write_all(b"/kick ann\n").unwrap();
        first.terminal.shows("ERROR: kicked");
        let (code, mut terminal) = first.ends("a kick");
        assert_eq!(code, Some(1));
        terminal.ends_with("ERROR: kicked");
    }

    fn who_cannot_connect_is_told_why_on_the_first_line_and_fails(backend: Backend) {
        let (_held, port) = refusing();
        let mut ann = at_terminal(backend, &format!("chat join --name ann --port {port}"));
        let why = format!("Failed to connect to chat server @ port {port}: Connection refused (os error 111)");
        ann.terminal.shows(&why);
        assert_eq!(ann.terminal.rows()[0], why);
        let (code, terminal) = ann.ends("a refused connection");
        assert_eq!(code, Some(1));
        assert!(!terminal.raw().contains(&0x1b), "no line was ever edited");
    }

    fn names_are_in_colour_unless_the_environment_says_otherwise(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        for (name, colours, variables) in [
            ("a", true, &[("TERM", "xterm")][..]),
            ("b", true, &[("NO_COLOR", "")]),
            ("c", false, &[("NO_COLOR", "1")]),
        ] {
            let mut at = at_terminal_with(variables, backend, &join_words(&chat).replace("ann", name));
            at.terminal.ends_with(&format!("[{name}@127.0.0.1]> "));
            let mut ben = member(&chat, &format!("ben{name}"));
            ben.send("hi\n");
            at.terminal.shows(&format!("#ben{name}@127.0.0.1>>hi"));
            let raw = String::from_utf8_lossy(at.terminal.raw()).into_owned();
            let plain = raw.contains(&format!("#ben{name}@"));
            let coloured = raw.contains("m#") || raw.contains(&format!("mben{name}\x1b[0m@"));
            assert_eq!((plain, coloured), (!colours, colours), "{raw:?}");
        }
    }

    fn a_dumb_terminal_gets_lines_and_nothing_else(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let mut ann = at_terminal_with(&[("TERM", "dumb")], backend, &join_words(&chat));
        ann.terminal.types("/who\n");
        ann.terminal.shows("(1 here: ann@127.0.0.1)");
        let mut ben = member(&chat, "ben");
        ann.terminal.has("from ben@127.0.0.1");
        ann.terminal.types("hello\n");
        assert_eq!(ben.line(), "#ann@127.0.0.1>>hello");
        assert!(!ann.terminal.raw().contains(&b'\x1b'));
        // The end of input as the terminal itself produces it.
        ann.terminal.types("\x04");
        assert_eq!(ann.ends("Ctrl-D").0, Some(0));
    }

    fn what_a_hostile_server_says_never_reaches_the_terminal_raw(backend: Backend) {
        let server = Fake::new();
        let mut ann = at_terminal(backend, &server.words());
        let mut stream = server.accept("\x1b]0;evil\x07\x1b[5m");
        stream.write_all(&frame("#b\x1b[31men@x>>\x1b[2J\x1b]52;c;ZXZpbA==\x07\u{9b}5n\u{202e}a\nb\rc")).unwrap();
        stream.write_all(&frame("(\x1bP+q544e\x1b\\)")).unwrap();
        ann.terminal.has("nabc");
        stream.write_all(&frame("ERROR: \x1b[3J")).unwrap();
        drop(stream);
        ann.terminal.has("ERROR: [3J");
        let (code, terminal) = ann.ends("an error");
        let raw = String::from_utf8_lossy(terminal.raw()).into_owned();
        assert_eq!(code, Some(1));
        assert!(raw.contains("n\u{fffd}a\u{fffd}b\u{fffd}c"), "{raw:?}");
        for evil in ["\x1b]", "\x07", "\x1b[2J", "\x1b[5m", "\x1bP", "\x1b[3J", "\u{9b}", "\u{202e}"] {
            assert!(!raw.contains(evil), "{evil:?} is in {raw:?}");
        }
    }

    fn it_comes_back_when_the_server_does_and_the_line_is_still_there(backend: Backend) {
        let (chat, words) = at_own_host(backend);
        let port = chat.tcp().port();
        let mut ann = at_terminal(backend, &words);
        ann.terminal.ends_with(PROMPT);
        ann.terminal.types("still he");
        chat.signal(Signal::KILL);
        chat.end();
        ann.terminal.has("Lost the chat server @ port");
        ann.terminal.ends_with("[ann@127.0.0.1]> still he");
        let again = again_at(backend, port);
        let connected = format!("Now connected to chat server@ port {port}");
        ann.terminal.until("a second connection", |terminal| {
            terminal.rows().iter().filter(|row| **row == connected).count() == 2
        });
        let mut ben = eventually("ann's return", || {
            let mut ben = again.connect();
            ben.ask("ben");
            if ben.ask("/who").starts_with("(2 here: ") { Some(ben) } else { None }
        });
        ann.terminal.types("re\r");
        let mut line = ben.line();
        while line.starts_with('(') {
            line = ben.line();
        }
        assert_eq!(line, "#ann@127.0.0.1>>still here");
        // The server stays down, and a member that leaves does not wait for it.
        again.signal(Signal::KILL);
        again.end();
        ann.terminal.until("a second loss", |terminal| {
            terminal.rows().iter().filter(|row| row.contains("Lost the chat server")).count() >= 2
        });
        ann.terminal.types("words for nobody\r");
        ann.terminal.shows("Not connected: not sent");
        ann.terminal.types("/quit\r");
        assert_eq!(ann.ends("/quit").0, Some(0));
    }
}
