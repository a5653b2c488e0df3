//! Memory that peers can hold, in this process and in the kernel.

mod support;

use std::path::Path;

use reactor::{Address, Backend};
use socket2::{Domain, SockAddr, Socket, Type};
use support::client::Client;
use support::command::{Glowplug, Scratch};
use support::{GUARD, on_every_backend, unless_chaos};

/// A client whose kernel keeps little of what the client does not read.
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
}
