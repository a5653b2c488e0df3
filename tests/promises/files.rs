//! Ranges of files in a connection's output: in order, complete, without a cost in memory, and never with a wrong byte.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use reactor::{CloseReason, Deadlines, Written};

use crate::child::{Child, counters};
use crate::stage::{Plan, Stage, pattern, read_all, round_trip, same};
use crate::support::on_every_backend;

fn file_of(bytes: &[u8]) -> Arc<File> {
    let path = std::env::temp_dir().join(format!("promises-{}-{:?}", std::process::id(), std::thread::current().id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("there is room for it");
    std::fs::remove_file(path).expect("it is ours");
    file.write_all_at(bytes, 0).expect("there is room for it");
    Arc::new(file)
}

fn patient() -> Deadlines {
    Deadlines { first_request: None, write_progress: None, ..Deadlines::default() }
}

on_every_backend! {
    fn a_file_leaves_between_the_bytes_that_were_written_before_and_after_it(transport: Transport) {
        let bytes = pattern(3 << 20);
        let file = file_of(&bytes);
        let stage = Stage::new(transport, Plan::new().data(move |input, cx| {
            input.take_all();
            cx.write("head ");
            assert_eq!(cx.write_file(file.clone(), 5..3_000_000), Written::AboveHighWater);
            cx.write(" between ");
            cx.write_file(file.clone(), 7..8);
            cx.write_file(file.clone(), 8..8);
            cx.write(" tail");
            cx.close();
        }));
        let (mut client, id) = stage.open();
        client.write_all(b"?").unwrap();
        let expected = [&b"head "[..], &bytes[5..3_000_000], b" between ", &bytes[7..8], b" tail"].concat();
        same(&read_all(&mut client), &expected);
        drop(client);
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
    }

    fn a_file_that_a_slow_peer_reads_takes_up_where_the_kernel_left_off(transport: Transport) {
        let bytes = pattern(8 << 20);
        let file = file_of(&bytes);
        let plan = Plan::new().open(move |cx| {
            cx.write_file(file.clone(), 0..8 << 20);
            cx.close();
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(patient()), |_| {});
        let mut client = stage.narrow_client();
        same(&read_all(&mut client), &bytes);
    }

    fn while_one_peer_is_sent_a_long_file_the_others_get_their_turns(transport: Transport) {
        // The tests copy what a layer carries several times, without optimisation.
        let long: u64 = if transport.layered { 128 << 20 } else { 1 << 30 };
        let file = file_of(b"");
        file.set_len(long).unwrap();
        let stage = Stage::new(transport, Plan::new().data(move |input, cx| {
            match input.take_all() {
                // A single byte, which no receive can split.
                b"!" => cx.write_file(file.clone(), 0..long),
                other => cx.write(other),
            };
        }));
        let (mut greedy, id) = stage.open();
        let (mut other, _) = stage.open();
        greedy.write_all(b"!").unwrap();
        let reading = std::thread::spawn(move || {
            let (mut buffer, mut left) = (vec![0; 1 << 20], long);
            while left > 0 {
                let count = greedy.read(&mut buffer).unwrap() as u64;
                assert!(count > 0);
                left -= count;
            }
        });
        // This client reads as fast as it can, so only the budget of a turn lets the other client in.
        let mut between = 0;
        while !reading.is_finished() {
            let before = stage.ask(move |cx| cx.at(id).queued());
            round_trip(&mut other, b"ping");
            between += usize::from(before > 0 && stage.ask(move |cx| cx.at(id).queued()) > 0);
        }
        reading.join().unwrap();
        assert!(between >= 10, "only {between} pings were answered while the file was sent");
    }

    fn a_file_that_became_shorter_ends_its_connection_and_sends_nothing_wrong(transport: Transport) {
        let bytes = pattern(1 << 20);
        let file = file_of(&bytes);
        let (cut, promised) = (file.clone(), 2 << 20);
        let stage = Stage::new(transport, Plan::new().data(move |input, cx| {
            input.take_all();
            cx.write_file(file.clone(), 0..promised);
            cx.write("what comes after it");
        }));
        let (mut client, id) = stage.open();
        let (mut other, _) = stage.open();
        client.write_all(b"?").unwrap();
        let mut read = Vec::new();
        // Ends with a reset: the peer must not take the bytes for the whole file.
        client.read_to_end(&mut read).expect_err("this was not all");
        assert!(bytes.starts_with(&read), "{} bytes", read.len());
        assert_eq!(stage.closed(id).0, CloseReason::ShortFile);
        cut.set_len(0).unwrap();
        other.write_all(b"?").unwrap();
        other.read_to_end(&mut read).expect_err("nor this");
        assert_eq!(stage.stats().closed(CloseReason::ShortFile), 2);
    }

    fn who_goes_away_while_a_file_is_sent_ends_one_connection_and_no_process(transport: Transport) {
        let child = Child::start("files", transport);
        let mut other = child.client();
        counters(&mut other);
        for _ in 0..5 {
            let mut client = child.client();
            client.write_all(b"file\n").unwrap();
            client.read_exact(&mut [0; 1000]).unwrap();
            drop(client);
        }
        counters(&mut other);
        drop(other);
        assert_eq!(child.terminate(), Some(0));
    }

    fn a_file_that_nobody_reads_costs_no_memory(transport: Transport) {
        let child = Child::start("files", transport);
        let mut other = child.client();
        counters(&mut other);
        let before = child.resident();
        let clients: Vec<_> = (0..10)
            .map(|_| {
                let mut client = child.client();
                client.write_all(b"file\n").unwrap();
                client.read_exact(&mut [0; 1000]).unwrap();
                client
            })
            .collect();
        counters(&mut other);
        let grown = child.resident().saturating_sub(before);
        assert!(grown < 1 << 20, "{grown} bytes for ten files of 1 GiB");
        drop((clients, other));
        assert_eq!(child.terminate(), Some(0));
    }
}
