//! Memory of sessions: silent ones, after traffic of each kind, and in the budget of all connections.

use std::fs;
use std::io::{Read, Write};

use reactor::Backend;

use crate::support::command::{Glowplug, Scratch, eventually};
use crate::support::{on_every_backend, unless_chaos};
use crate::{Stream, client_config, connect_as, line, localhost, start};

on_every_backend! {
    // Rule 34.
    fn what_sessions_hold_counts_with_the_memory_of_all_connections(backend: Backend) {
        const COUNT: usize = 100;
        let (server, address) = start(backend, &format!("echo --memory 1M --port 0 {}", localhost()));
        let config = client_config();
        let mut streams: Vec<_> = (0..COUNT).map(|_| connect_as(address, "localhost", &config)).collect();
        for stream in &mut streams {
            // The budget may have closed this connection already.
            if stream.write_all(b"x\n").is_err() || stream.read_exact(&mut [0; 12]).is_err() {
                continue;
            }
            // A record of 16 KiB without its last byte: the session holds it, and no handler sees a byte.
            stream.conn.writer().write_all(&[b'.'; 16_000]).unwrap();
            let mut record = Vec::new();
            stream.conn.write_tls(&mut record).unwrap();
            let _ = stream.sock.write_all(&record[..record.len() - 1]);
        }
        // With 16 KiB and more for each session, 1 MiB is enough for 64 at most.
        let has_ended = |stream: &Stream| match stream.sock.set_nonblocking(true).and_then(|()| stream.sock.peek(&mut [0])) {
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            Ok(_) => true,
        };
        eventually("the budget to close the rest", || {
            (streams.iter().filter(|stream| has_ended(stream)).count() >= COUNT - 64).then_some(())
        });
        assert!(streams.iter().any(|stream| !has_ended(stream)), "all are closed");
        drop(streams);
        assert_eq!(server.stop().code, Some(0));
    }

    fn many_idle_sessions_hold_little_memory(backend: Backend) {
        unless_chaos!("faults leave some handshakes for later");
        if backend == Backend::Select {
            // More descriptors than select(2) handles well; the memory is equal on both backends.
            return;
        }
        const COUNT: usize = 200;
        let (server, address) = start(backend, &format!("echo --port 0 {}", localhost()));
        let config = client_config();
        let mut warm = connect_as(address, "localhost", &config);
        warm.write_all(b"x\n").unwrap();
        line(&mut warm);
        let resident = || resident(&server);
        let before = resident();
        let mut streams: Vec<_> = (0..COUNT).map(|_| connect_as(address, "localhost", &config)).collect();
        for stream in &mut streams {
            stream.write_all(b"x\n").unwrap();
            assert_eq!(line(stream), "You said: x\n");
        }
        let each = (resident().saturating_sub(before)) as f64 / COUNT as f64;
        assert!(each <= 10.0, "{each} KiB for each idle session");
        let long = [vec![b'y'; 60_000], b"\n".to_vec()].concat();
        let echo = |stream: &mut Stream, bytes: &[u8]| {
            stream.write_all(bytes).unwrap();
            let mut answer = vec![0; "You said: ".len() + bytes.len()];
            stream.read_exact(&mut answer).unwrap();
            assert!(answer.ends_with(bytes));
        };
        let patterns: [Pattern<'_>; 4] = [
            ("many small records", &|stream| {
                // Each write is a record; all leave together, so that one receive brings many.
                (0..200).for_each(|_| stream.conn.writer().write_all(b"s\n").unwrap());
                stream.read_exact(&mut [0; 200 * "You said: s\n".len()]).unwrap();
            }),
            ("a long line", &|stream| {
                echo(stream, &long);
            }),
            ("a megabyte each way", &|stream| {
                (0..(1 << 20) / long.len()).for_each(|_| echo(stream, &long));
            }),
            ("a record in two parts", &|stream| {
                stream.conn.writer().write_all(&long[long.len() - 16_000..]).unwrap();
                let mut record = Vec::new();
                stream.conn.write_tls(&mut record).unwrap();
                let (first, second) = record.split_at(record.len() / 2);
                stream.sock.write_all(first).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(2));
                stream.sock.write_all(second).unwrap();
                stream.read_exact(&mut [0; 16_010]).unwrap();
            }),
        ];
        for (what, pattern) in patterns {
            // Buffers that all sessions share grow once.
            let before = before + {
                let so_far = resident();
                pattern(&mut warm);
                resident().saturating_sub(so_far)
            };
            streams.iter_mut().for_each(pattern);
            let each = (resident().saturating_sub(before)) as f64 / COUNT as f64;
            assert!(each <= 16.0, "{each} KiB for each session after {what}");
        }
    }

    fn sessions_give_back_the_memory_of_a_download(backend: Backend) {
        unless_chaos!("faults leave some handshakes for later");
        if backend == Backend::Select {
            return;
        }
        const COUNT: usize = 60;
        let scratch = Scratch::new();
        fs::write(scratch.join("large"), vec![b'x'; 1 << 20]).unwrap();
        let (server, address) =
            start(backend, &format!("http --port 0 --root {} {}", scratch.path().display(), localhost()));
        let config = client_config();
        let get = |stream: &mut Stream| {
            stream.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            while line(stream) != "\r\n" {}
            let mut body = vec![0; 1 << 20];
            stream.read_exact(&mut body).unwrap();
            assert!(body.iter().all(|&byte| byte == b'x'));
        };
        get(&mut connect_as(address, "localhost", &config));
        let before = resident(&server);
        let mut streams: Vec<_> = (0..COUNT).map(|_| connect_as(address, "localhost", &config)).collect();
        streams.iter_mut().for_each(get);
        let each = (resident(&server).saturating_sub(before)) as f64 / COUNT as f64;
        assert!(each <= 16.0, "{each} KiB for each session after a download");
    }

    fn sessions_give_back_the_memory_of_an_upload_when_they_come_to_rest(backend: Backend) {
        unless_chaos!("faults leave some handshakes for later");
        if backend == Backend::Select {
            return;
        }
        const COUNT: usize = 60;
        let (server, address) = start(backend, &format!("http --port 0 {}", localhost()));
        let config = client_config();
        let post = |stream: &mut Stream, size: usize| {
            write!(stream, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n").unwrap();
            stream.write_all(&vec![b'x'; size]).unwrap();
            while line(stream) != "\r\n" {}
        };
        post(&mut connect_as(address, "localhost", &config), 1 << 20);
        let before = resident(&server);
        let mut streams: Vec<_> = (0..COUNT).map(|_| connect_as(address, "localhost", &config)).collect();
        for size in [100_000, 300_000, 1 << 20] {
            streams.iter_mut().for_each(|stream| post(stream, size));
            eventually("the memory of the uploads to be given back", || {
                (resident(&server).saturating_sub(before) <= 16 * COUNT).then_some(())
            });
        }
    }
}

/// The name and the traffic of a session.
type Pattern<'a> = (&'a str, &'a dyn Fn(&mut Stream));

/// Anonymous memory of a server, in KiB.
fn resident(server: &Glowplug) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
