//! Rules 10, 11, 15, 30 and 31: queued bytes are sent once, in order; the queue is bounded, and accepted bytes are sent.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use reactor::{CloseReason, Deadlines, Limits, Written};

use crate::child::{Child, LINES, counters};
use crate::stage::{
    Plan, QUIET, Seen, Stage, pattern, read_all, read_exactly, round_trip, same, send_on_until_stuck, send_until_stuck,
};
use crate::support::{GUARD, on_every_backend, unless_chaos};

/// Bytes beyond a mark that one connection may queue: the answer to one receive.
const SCRATCH: usize = 64 * 1024;

fn limits() -> Limits {
    Limits::default()
}

/// Deadlines that do not end a slow client during a test.
fn patient() -> Deadlines {
    Deadlines { write_progress: None, linger: GUARD, ..Deadlines::default() }
}

on_every_backend! {
    // Rule 10.
    fn a_thousand_small_echoes_change_no_interest_and_take_a_turn_each(transport: Transport) {
        let stage = Stage::new(transport, Plan::echo());
        let (mut client, _) = stage.open();
        round_trip(&mut client, b"warm");
        let before = stage.stats();
        for _ in 0..1000 {
            round_trip(&mut client, b"small");
        }
        unless_chaos!("counts turns and changes of interest");
        let after = stage.stats();
        assert_eq!(after.interest_changes, before.interest_changes);
        assert_eq!(after.partial_sends, before.partial_sends);
        let turns = after.turns - before.turns;
        assert!((1000..=1010).contains(&turns), "{turns} turns");
    }

    // Rule 10.
    fn a_big_answer_changes_interest_once_to_arm_and_once_to_disarm(transport: Transport) {
        // The mark is never reached, so reading goes on all the time.
        let wide = Limits { output_high: 64 << 20, output_max: 128 << 20, ..limits() };
        let stage = Stage::tuned(transport, Plan::new(), |service| service.limits(wide), |_| {});
        let (mut client, id) = stage.open();
        let before = stage.stats();
        stage.order(move |cx| {
            cx.at(id).write_shared(pattern(32 << 20).into());
        });
        let mut received = vec![0; 32 << 20];
        client.read_exact(&mut received).unwrap();
        same(&received, &pattern(32 << 20));
        stage.wait_until("all has left", move |cx| cx.at(id).queued() == 0);
        stage.ask(|_| {});
        let after = stage.stats();
        // A layer seals the next bytes when the socket is writable, and so its sends are never cut short.
        let is_cut = after.partial_sends > before.partial_sends;
        assert!(is_cut || transport.layered, "the kernel took it all at once");
        assert_eq!(after.interest_changes - before.interest_changes, 2);
    }

    // Rule 11.
    fn a_peer_that_never_reads_its_echo_costs_a_bounded_amount_and_gets_it_all_once_it_reads(transport: Transport) {
        let stage = Stage::tuned(transport, Plan::echo(), |service| service.deadlines(patient()), |_| {});
        let (mut client, id) = stage.open();
        let bytes = pattern(1 << 20);
        // Output that a layer seals in steps may go on leaving until it is below the upper mark, where reading still rests.
        let least = if transport.layered { limits().output_low } else { limits().output_high };
        // A loop that was only held up for a while owes less, and takes more.
        let (mut sent, mut owed) = (0, 0);
        while owed <= least {
            sent = send_on_until_stuck(&client, &bytes, sent, 128 << 20);
            assert!(sent < 64 << 20, "{sent} bytes were taken");
            owed = stage.ask(move |cx| cx.at(id).queued());
        }
        assert!(owed <= limits().output_high + SCRATCH, "{owed} bytes");
        stage.is_quiet();
        // No byte was lost.
        client.shutdown(Shutdown::Write).unwrap();
        let received = read_all(&mut client);
        assert_eq!(received.len(), sent);
        assert!(received.iter().enumerate().all(|(at, byte)| *byte == bytes[at % bytes.len()]));
        let seen = stage.end();
        assert!(seen.contains(&Seen::Drained(id)));
        assert!(matches!(seen.last(), Some(Seen::Closed(_, CloseReason::PeerEnded, 0))));
    }

    // Rule 11, measured in memory, and not only by the loop's counters.
    fn a_peer_that_never_reads_costs_the_process_under_four_megabytes(transport: Transport) {
        let child = Child::start("echo", transport);
        let mut other = child.client();
        counters(&mut other);
        let before = child.resident();
        let flooder = child.client();
        let sent = send_until_stuck(&flooder, &LINES, 2 << 30);
        assert!(sent < 64 << 20, "{sent} bytes were taken");
        counters(&mut other);
        let grown = child.resident().saturating_sub(before);
        assert!(grown < 4 << 20, "{grown} bytes for {sent} that were sent");
        drop(flooder);
        assert_eq!(child.terminate(), Some(0));
    }

    // Rule 11.
    fn above_the_mark_is_told_reading_rests_and_below_the_low_mark_it_goes_on_and_drained_is_called(transport: Transport) {
        let marks = Limits { output_high: 100_000, output_low: 10_000, ..limits() };
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let plan = Plan::new().data(move |input, cx| {
            input.take_all();
            let mut told = tell.lock().expect("nobody panics");
            while cx.queued() <= 100_000 {
                told.push(cx.write([b'x'; 40_000]));
            }
        });
        let stage = Stage::tuned(transport, plan, |service| service.limits(marks).deadlines(patient()), |_| {});
        let mut client = stage.narrow_client();
        let id = stage.next().id();
        // Each byte is answered by 120 kB, until the kernel takes no more. Through a layer an answer leaves in steps, each of which
        // may be the last that the kernel takes; reading rests already when one step has left.
        let read_below = if transport.layered { 10_000 } else { 100_000 };
        let mut asked = 0;
        loop {
            while stage.ask(move |cx| cx.at(id).queued()) <= read_below {
                client.write_all(b"?").unwrap();
                asked += 1;
                assert_eq!(stage.data(id, 1), b"?");
                assert!(asked < 1000, "the kernel takes it all");
            }
            // The kernel may take an answer a little later, and then it drains.
            if stage.seen.recv_timeout(QUIET).is_err() {
                break;
            }
        }
        let told = std::mem::take(&mut *told.lock().unwrap());
        let each = [Written::Queued, Written::Queued, Written::AboveHighWater];
        assert!(told.chunks(3).all(|three| three == each), "{told:?}");
        client.write_all(b"!").unwrap();
        stage.sees_nothing();
        let mut received = vec![0; asked * 120_000];
        client.read_exact(&mut received).unwrap();
        assert_eq!(stage.next(), Seen::Drained(id));
        assert_eq!(stage.data(id, 1), b"!", "reading goes on");
    }

    // Rule 11. The marks are apart, so that a peer that reads in small steps is not read after each step.
    fn between_the_marks_reading_rests_once_the_upper_one_was_passed(transport: Transport) {
        let marks = Limits { output_high: 8 << 20, output_low: 1 << 20, output_max: 64 << 20, ..limits() };
        let plan = Plan::new().data(|input, cx| {
            if input.take_all() == b"?" {
                cx.write(vec![b'x'; 32 << 20]);
            }
        });
        let stage = Stage::tuned(transport, plan, |service| service.limits(marks).deadlines(patient()), |_| {});
        let mut client = stage.client_with(64 * 1024);
        let id = stage.next().id();
        client.write_all(b"?").unwrap();
        assert_eq!(stage.data(id, 1), b"?");
        client.write_all(b"!").unwrap();
        // Read until the queue is below the upper mark, and then no more for a while.
        let (mut owed, mut received) = (usize::MAX, 0);
        while owed > 6 << 20 {
            let mut piece = vec![0; 64 * 1024];
            received += client.read(&mut piece).unwrap();
            owed = stage.ask(move |cx| cx.at(id).queued());
        }
        assert!(owed > 1 << 20, "the kernel has taken {owed} at once");
        stage.sees_nothing();
        let mut rest = vec![0; (32 << 20) - received];
        client.read_exact(&mut rest).unwrap();
        assert_eq!(stage.next(), Seen::Drained(id));
        assert_eq!(stage.data(id, 1), b"!");
    }

    // Rule 11. Two connections may raise and lower one queue within one batch.
    fn drained_is_called_even_if_the_mark_was_passed_and_left_in_one_batch(transport: Transport) {
        if transport.layered {
            unless_chaos!("sealed bytes that the kernel refuses count as sent, and a stopped loop keeps them from the peer");
        }
        let target = Arc::new(Mutex::new(None));
        let to = target.clone();
        let outcome = Arc::new(Mutex::new(Vec::new()));
        let told = outcome.clone();
        let plan = Plan::new().data(move |input, cx| {
            let bytes = input.take_all();
            if let Some(id) = *to.lock().expect("nobody panics")
                && id != cx.id()
            {
                told.lock().expect("nobody panics").push(cx.at(id).write(bytes));
            }
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(patient()), |_| {});
        let (mut source, _) = stage.open();
        let (mut reader, id) = stage.open();
        // The reader's queue is just below the mark, and blocked.
        let below_the_mark = limits().output_high - 1;
        let mut owed = 0;
        loop {
            owed += below_the_mark;
            let queued = stage.ask(move |cx| {
                let queued = cx.at(id).queued();
                cx.at(id).write(vec![b'x'; below_the_mark - queued]);
                cx.at(id).queued()
            });
            let left = stage.ask(move |cx| cx.at(id).queued());
            owed -= below_the_mark - queued;
            if left == queued && left == below_the_mark {
                break;
            }
            assert!(owed < 256 << 20, "the kernel takes it all");
        }
        *target.lock().unwrap() = Some(id);
        stage.left_over();
        let owed_all = stage.ask(move |cx| cx.stats().sent as usize + cx.at(id).queued());
        let frozen = stage.freeze();
        // In one batch, the source's bytes raise the queue above the mark, and the reader makes room for everything.
        source.write_all(b"more").unwrap();
        let mut received = vec![0; owed_all - below_the_mark];
        reader.read_exact(&mut received).unwrap();
        drop(frozen);
        let mut rest = vec![0; below_the_mark + 4];
        reader.read_exact(&mut rest).unwrap();
        assert!(rest.ends_with(b"more"));
        stage.wait_until("all has left", move |cx| cx.at(id).queued() == 0);
        let above = outcome.lock().unwrap().iter().filter(|told| **told == Written::AboveHighWater).count();
        let drained = stage.left_over().iter().filter(|seen| matches!(seen, Seen::Drained(_))).count();
        assert_eq!(drained > 0, above > 0, "whoever was told to wait is told to go on");
        unless_chaos!("counts the pieces in which a word comes");
        assert_eq!(drained, above);
    }

    // Rule 30.
    fn an_answer_larger_than_the_maximum_is_taken_while_little_is_queued(transport: Transport) {
        const BIG: usize = 9 << 20;
        assert!(BIG > limits().output_max);
        let plan = Plan::new().data(|input, cx| {
            while let Some(line) = input.until_eol() {
                let written = match line {
                    b"small\n" => cx.write(line),
                    b"big\n" => cx.write(vec![b'b'; BIG]),
                    b"shared\n" => cx.write_shared(vec![b'b'; BIG].into()),
                    b"lent\n" => {
                        let mut writer = cx.output().expect("it is open");
                        (0..9).for_each(|_| writer.put(&[b'b'; BIG / 9]));
                        Written::AboveHighWater
                    }
                    _ => cx.encode(|writer| (0..9).for_each(|_| writer.put(&[b'b'; BIG / 9]))),
                };
                assert_ne!(written, Written::Refused);
            }
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(patient()), |_| {});
        for how in ["big", "shared", "lent", "encoded"] {
            let (mut client, id) = stage.open();
            client.write_all(format!("small\n{how}\n").as_bytes()).unwrap();
            assert_eq!(&read_exactly::<6>(&mut client), b"small\n");
            let mut answer = vec![0; BIG];
            client.read_exact(&mut answer).unwrap();
            assert!(answer.iter().all(|byte| *byte == b'b'));
            round_trip(&mut client, b"small\n");
            drop(client);
            stage.closed(id);
        }
    }

    // Rule 30.
    fn answers_from_before_an_item_that_is_too_long_are_sent(transport: Transport) {
        const ANSWER: usize = 200_000;
        let plan = Plan::new().data(|input, cx| {
            while let Some(line) = input.until_eol() {
                assert_eq!(line, b"ask\n");
                cx.write(vec![b'a'; ANSWER]);
            }
        });
        let tight = Limits { input: 1000, ..limits() };
        let stage = Stage::tuned(transport, plan, |service| service.limits(tight).deadlines(patient()), |_| {});
        let (mut client, id) = stage.open();
        client.write_all(b"ask\n").unwrap();
        client.write_all(&[b'x'; 2000]).unwrap();
        assert_eq!(read_all(&mut client).len(), ANSWER);
        drop(client);
        assert_eq!(stage.closed(id), (CloseReason::InputOverflow { limit: 1000 }, 0));
    }

    // Rule 30.
    fn a_handler_that_waits_for_its_output_is_asked_once_for_each_answer_and_never_in_between(transport: Transport) {
        const BIG: usize = 9 << 20;
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let plan = Plan::new().data(move |input, cx| {
            counted.fetch_add(1, SeqCst);
            while !input.is_empty() {
                if cx.queued() > 0 {
                    return cx.wait_for_output();
                }
                let Some(_) = input.until_eol() else { return };
                cx.write(vec![b'b'; BIG]);
            }
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(patient()), |_| {});
        let (mut client, id) = stage.open();
        client.write_all(b"1\n2\n3\n").unwrap();
        // The first answer has begun to leave.
        read_exactly::<1>(&mut client);
        // It leaves until the kernel has no more room.
        stage.is_quiet();
        let before = (stage.stats().turns, asked.load(SeqCst));
        thread::sleep(QUIET);
        let after = (stage.stats().turns, asked.load(SeqCst));
        let mut rest = vec![0; 3 * BIG - 1];
        client.read_exact(&mut rest).unwrap();
        assert!(stage.ask(move |cx| cx.at(id).queued()) == 0);
        assert_eq!(before.1, after.1, "it is asked again only when all has left");
        unless_chaos!("counts turns and callbacks");
        assert!(after.0 - before.0 <= 5, "{} turns", after.0 - before.0);
        assert_eq!(asked.load(SeqCst), 3);
    }

    // Rule 31.
    fn who_reads_on_is_heard_although_its_own_peer_is_owed_more_than_the_mark(transport: Transport) {
        let stage = Stage::tuned(transport, Plan::new(), |service| service.deadlines(patient()), |_| {});
        let (mut client, id) = stage.open();
        stage.ask(move |cx| cx.at(id).write(vec![b'x'; 32 << 20]));
        client.write_all(b"held back").unwrap();
        stage.sees_nothing();
        stage.ask(move |cx| cx.at(id).read_on());
        assert_eq!(stage.data(id, 9), b"held back");
        client.write_all(b"and more").unwrap();
        assert_eq!(stage.data(id, 8), b"and more");
        // A pause holds nevertheless: so a relay bounds its memory.
        stage.ask(move |cx| cx.at(id).pause_reading());
        client.write_all(b"in the pause").unwrap();
        stage.sees_nothing();
        stage.ask(move |cx| cx.at(id).resume_reading());
        assert_eq!(stage.data(id, 12), b"in the pause");
        let mut read = vec![0; 32 << 20];
        client.read_exact(&mut read).unwrap();
        assert_eq!(stage.next(), Seen::Drained(id));
    }

    // Rule 15.
    fn drained_that_writes_again_runs_once_a_turn_with_a_flat_stack(transport: Transport) {
        const TIMES: usize = 500;
        let times = Arc::new(AtomicUsize::new(0));
        let (turns, depths) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (count, turn, depth) = (times.clone(), turns.clone(), depths.clone());
        let small = Limits { output_high: 1000, output_low: 100, ..limits() };
        let plan = Plan::new()
            .data(|input, cx| {
                input.take_all();
                cx.write([b'x'; 2000]);
            })
            .drained(move |cx| {
                let here = 0u8;
                depth.lock().expect("nobody panics").push(&raw const here as usize);
                turn.lock().expect("nobody panics").push(cx.stats().turns);
                if count.fetch_add(1, SeqCst) + 1 < TIMES {
                    assert_eq!(cx.write([b'x'; 2000]), Written::AboveHighWater);
                }
            });
        let stage = Stage::tuned(transport, plan, |service| service.limits(small), |_| {});
        let (mut client, _) = stage.open();
        client.write_all(b"g").unwrap();
        let mut all = vec![0; TIMES * 2000];
        client.read_exact(&mut all).unwrap();
        stage.wait_until("it was the last time", move |_| times.load(SeqCst) == TIMES);
        let turns = turns.lock().unwrap();
        assert!(turns.windows(2).all(|pair| pair[0] < pair[1]), "twice in one turn");
        let depths = depths.lock().unwrap();
        let spread = depths.iter().max().unwrap() - depths.iter().min().unwrap();
        assert!(spread < 16 * 1024, "the stack is {spread} bytes deeper at times");
    }

    // Rule 15: other connections get their turn in between.
    fn drained_that_writes_for_ever_keeps_nobody_waiting(transport: Transport) {
        let small = Limits { output_high: 1000, output_low: 100, ..limits() };
        let plan = Plan::new()
            .data(|input, cx| {
                match input.take_all() {
                b"g" => cx.write([b'x'; 2000]),
                bytes => cx.write(bytes),
            };
        })
            .drained(|cx| {
                cx.write([b'x'; 2000]);
            });
        let stage = Stage::tuned(transport, plan, |service| service.limits(small), |_| {});
        let (mut greedy, id) = stage.open();
        let (mut other, _) = stage.open();
        greedy.write_all(b"g").unwrap();
        let reading = thread::spawn(move || {
            let mut some = vec![0; 1 << 16];
            while greedy.read(&mut some).is_ok_and(|count| count > 0) {}
        });
        for _ in 0..100 {
            round_trip(&mut other, b"here");
        }
        stage.order(move |cx| cx.at(id).abort());
        reading.join().unwrap();
    }
}
