//! The server's console from outside: commands typed at a server, with every kind of standard input.

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use reactor::{Address, Backend};
use rustix::process::{Pid, Signal, kill_process};
use support::client::Client;
use support::command::{Glowplug, Scratch, command};
use support::on_every_backend;
use support::terminal::Terminal;

const CHAT: &str = "chat serve --port 0 --log-level off";
const HELP: &str = "(/who tells who is here, /kick NAME sends one away, /quit stops the server)";

fn member(address: &Address, name: &str) -> Client {
    let mut client = Client::connect(address);
    assert_eq!(client.ask(name), "CLIENT: 127.0.0.1");
    client
}

/// A server with a pipe for its console.
fn piped(backend: Backend, words: &str) -> (Glowplug, std::process::ChildStdin) {
    let mut command = command(backend, words);
    command.stdin(Stdio::piped());
    let mut chat = Glowplug::spawn(command);
    chat.listens();
    let console = chat.stdin();
    (chat, console)
}

/// A server started by a shell: if the test fails, the drop ends the server.
struct Background(Pid);

impl Drop for Background {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = kill_process(self.0, Signal::KILL);
        }
    }
}

on_every_backend! {
    fn it_tells_who_is_here_and_sends_members_away(backend: Backend) {
        let (mut chat, mut console) = piped(backend, CHAT);
        console.write_all(b"/who\n").unwrap();
        chat.told("(0 here)\n");
        let mut ann = member(chat.address(), "ann");
        let mut framed = chat.connect();
        framed.send_frame("NAME: Ben");
        assert_eq!(framed.frame(), "CLIENT: 127.0.0.1");
        assert_eq!(ann.line(), "(Connected: New client (2) from Ben@127.0.0.1)");
        console.write_all(b"/who\r\n").unwrap();
        chat.told("(2 here: ann@127.0.0.1, Ben@127.0.0.1)\n");
        console.write_all(b"/kick cat\n/kick\x1b[31m\n/kick c\x1b[31mat\n").unwrap();
        chat.told("(Nobody here is called cat)\n");
        chat.told(HELP);
        chat.told("(Nobody here is called c\u{fffd}[31mat)\n");
        // A name is unique in any case, and the command finds a name in any case.
        console.write_all(b"/kick bEN\n").unwrap();
        chat.told("(Kicked: Ben@127.0.0.1)\n");
        assert_eq!(framed.frame(), "ERROR: kicked");
        assert_eq!(framed.rest(), b"");
        assert_eq!(ann.line(), "(Now hung up: Client from Ben@127.0.0.1)");
        assert_eq!(ann.ask("/who"), "(1 here: ann@127.0.0.1)");
        // The name is free, and may be used again.
        let mut ben = member(chat.address(), "ben");
        assert_eq!(ann.line(), "(Connected: New client (2) from ben@127.0.0.1)");
        ben.send("here again\n");
        assert_eq!(ann.line(), "#ben@127.0.0.1>>here again");
    }

    fn one_that_does_not_read_is_sent_away_as_well(backend: Backend) {
        let (mut chat, mut console) = piped(backend, CHAT);
        let mut ann = member(chat.address(), "ann");
        let mut deaf = member(chat.address(), "deaf");
        ann.line();
        // More than the kernel buffers for a client that does not read, and less than the limit of its queue.
        let text = "x".repeat(60_000);
        ann.send(format!("{text}\n").repeat(12));
        assert_eq!(ann.ask("/who"), "(2 here: ann@127.0.0.1, deaf@127.0.0.1)");
        console.write_all(b"/kick deaf\n").unwrap();
        assert_eq!(ann.line(), "(Now hung up: Client from deaf@127.0.0.1)");
        chat.told("(Kicked: deaf@127.0.0.1)");
        for _ in 0..12 {
            assert_eq!(deaf.line(), format!("#ann@127.0.0.1>>{text}"));
        }
        assert_eq!((deaf.line().as_str(), deaf.rest().len()), ("ERROR: kicked", 0));
    }

    fn what_it_does_not_know_it_explains_and_nothing_hurts_it(backend: Backend) {
        let (mut chat, mut console) = piped(backend, CHAT);
        for nonsense in ["hello\n", "/dance\n", "/kick a b\n", "/\n", "\u{202e}\n"] {
            console.write_all(nonsense.as_bytes()).unwrap();
        }
        console.write_all(b"\n \t\n\xff\xfe\n").unwrap();
        console.write_all(&[b'x'; 300_000]).unwrap();
        console.write_all(b"\n/who\n").unwrap();
        chat.told("(0 here)\n");
        drop(console);
        let ended = chat.stop();
        assert_eq!(ended.stderr.matches(HELP).count(), 6, "{}", ended.stderr);
        assert!(ended.stderr.contains("(line longer than 65536 bytes)\n"), "{}", ended.stderr);
        assert_eq!(ended.stdout.lines().count(), 1, "standard output has the listening line alone");
    }

    fn the_end_of_its_input_is_not_the_end_of_the_server(backend: Backend) {
        let (mut chat, mut console) = piped(backend, CHAT);
        console.write_all(b"/who").unwrap();
        drop(console);
        chat.told("(0 here)");
        assert_eq!(member(chat.address(), "ann").ask("/who"), "(1 here: ann@127.0.0.1)");
        chat.stop();
        let scratch = Scratch::new();
        let path = scratch.join("commands");
        fs::write(&path, "/who\n").unwrap();
        let mut command = command(backend, CHAT);
        command.stdin(fs::File::open(&path).unwrap());
        let mut chat = Glowplug::spawn(command);
        chat.listens();
        chat.told("(0 here)\n");
        assert_eq!(member(chat.address(), "ann").ask("/who"), "(1 here: ann@127.0.0.1)");
        chat.stop();
    }

    fn quit_lets_everybody_finish_like_a_signal(backend: Backend) {
        let (chat, mut console) = piped(backend, CHAT);
        let mut ann = member(chat.address(), "ann");
        console.write_all(b"/quit\n").unwrap();
        assert_eq!(ann.rest(), b"");
        assert_eq!(chat.end().code, Some(0));
    }

    fn all_three_services_have_it_too_and_without_a_chat_there_is_none(backend: Backend) {
        let (mut all, mut console) =
            piped(backend, "serve --echo off --http 127.0.0.1:0 --chat 127.0.0.1:0 --log-level off");
        console.write_all(b"/who\n").unwrap();
        all.told("(0 here)\n");
        console.write_all(b"/quit\n").unwrap();
        assert_eq!(all.end().code, Some(0));
        let (none, mut console) = piped(backend, "serve --echo off --http 127.0.0.1:0 --chat off --log-level off");
        console.write_all(b"/quit\n").unwrap();
        drop(console);
        assert_eq!(none.stop().stderr, "", "it was the signal that stopped it");
    }

    fn in_the_background_it_leaves_the_terminal_to_others_and_runs_on(backend: Backend) {
        let scratch = Scratch::new();
        let gates = ["first", "second"].map(|name| scratch.join(name));
        for gate in &gates {
            assert!(Command::new("mkfifo").arg(gate).status().unwrap().success());
        }
        // A shell with job control. While the shell waits at a gate, it owns the terminal and does not read.
        let script = format!(
            "\"$0\" \"$@\" & echo \"process $!\"; read go <{0}; read line; echo \"the shell has $line\"; fg; \
             bg; echo \"in the background\"; read go <{1}; read line; echo \"the shell has $line\"; fg; \
             echo \"it ended with $?\"",
            gates[0].display(),
            gates[1].display()
        );
        let mut terminal = Terminal::new();
        let mut shell = Command::new("setsid");
        shell.args(["--ctty", "--wait", "sh", "-m", "-c", &script, env!("CARGO_BIN_EXE_glowplug")]);
        shell.args(CHAT.split(' ')).env("REACTOR_BACKEND", backend.to_string());
        let session = Glowplug::spawn(terminal.dress(shell));
        terminal.has("process ");
        let number = terminal.rows().iter().find_map(|row| row.strip_prefix("process ")?.parse().ok()).unwrap();
        let _background = Background(Pid::from_raw(number).unwrap());
        terminal.has("listening chat ");
        let rows = terminal.rows();
        let address = rows.iter().find_map(|row| row.strip_prefix("listening chat ")).unwrap().parse().unwrap();
        let mut ann = member(&address, "ann");
        for gate in &gates {
            terminal.types("a line for the shell\n");
            // However often the server looks at its terminal.
            for _ in 0..100 {
                assert_eq!(ann.ask("/who"), "(1 here: ann@127.0.0.1)");
            }
            fs::write(gate, "go\n").unwrap();
            let taken = |terminal: &Terminal| {
                terminal.rows().iter().filter(|row| *row == "the shell has a line for the shell").count()
            };
            let before = taken(&terminal);
            terminal.until("the shell to have its line", |terminal| taken(terminal) > before);
            // In the foreground the terminal belongs to the server.
            terminal.types("/who\n");
            let answers = |terminal: &Terminal| {
                terminal.rows().iter().filter(|row| *row == "(1 here: ann@127.0.0.1)").count()
            };
            let before = answers(&terminal);
            terminal.until("an answer", |terminal| answers(terminal) > before);
            if gate == &gates[0] {
                terminal.types("\x1a");
                terminal.shows("in the background");
            }
        }
        terminal.types("/quit\n");
        terminal.shows("it ended with 0");
        assert_eq!(session.end().code, Some(0));
    }
}
