//! Rules 5 to 9: every byte that arrived is delivered, once, in order, and only when the handler wants it.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use reactor::{CloseReason, Deadlines, Framed, Limits, Service};

use crate::stage::{
    Client, Plan, QUIET, Seen, Stage, at_pace, has_arrived, pattern, read_all, reset, round_trip, same, socket_path,
};
use crate::support::{GUARD, on_every_backend, unless_chaos};

/// Takes three bytes and pauses.
fn three_and_pause() -> Plan {
    Plan::new().data(|input, cx| {
        if input.take(3).is_some() {
            cx.pause_reading();
        }
    })
}

/// Pauses from the beginning.
fn paused() -> Plan {
    Plan::new().open(|cx| cx.pause_reading())
}

on_every_backend! {
    // Rule 5.
    fn what_came_before_a_reset_is_delivered_before_it_on_tcp(transport: Transport) {
        let stage = Stage::new(transport, Plan::new());
        let (mut client, id) = stage.open();
        // More than one receive takes.
        let bytes = pattern(80_000);
        let frozen = stage.freeze();
        client.write_all(&bytes).unwrap();
        has_arrived(&client, bytes.len());
        reset(client);
        drop(frozen);
        same(&stage.data(id, bytes.len()), &bytes);
        assert_eq!(stage.closed(id).0, CloseReason::Reset);
    }

    // Rule 5. The answer to the first bytes fails, which is no reason to lose the rest.
    fn what_came_before_a_reset_is_delivered_although_answers_fail(transport: Transport) {
        let stage = Stage::new(transport, Plan::echo());
        let (mut client, id) = stage.open();
        let bytes = pattern(80_000);
        let frozen = stage.freeze();
        client.write_all(&bytes).unwrap();
        has_arrived(&client, bytes.len());
        reset(client);
        drop(frozen);
        same(&stage.data(id, bytes.len()), &bytes);
        assert_eq!(stage.closed(id).0, CloseReason::Reset);
    }

    // Rule 5. Closing a Unix socket with unread bytes resets the connection.
    fn what_came_before_a_reset_is_delivered_before_it_on_a_unix_socket(backend: Backend) {
        let path = socket_path("reset", backend);
        let at = path.clone();
        let stage = Stage::at(
            backend,
            Plan::new().open(|cx| { cx.write(b"never read"); }),
            move |factory| Service::unix(at, factory),
            |service| service,
            |_| {},
        );
        let mut client = UnixStream::connect(&path).unwrap();
        let id = stage.next().id();
        // The answer to an order shows that the bytes written in `on_open` have left.
        stage.ask(|_| {});
        let bytes = pattern(100_000);
        let frozen = stage.freeze();
        client.write_all(&bytes).unwrap();
        drop(client);
        drop(frozen);
        same(&stage.data(id, bytes.len()), &bytes);
        assert_eq!(stage.closed(id).0, CloseReason::Reset);
        drop(stage);
        assert!(!path.exists(), "the file goes with the service");
    }

    // Rule 5.
    fn what_came_before_the_end_is_delivered_before_it(transport: Transport) {
        let stage = Stage::new(transport, Plan::new());
        let (mut client, id) = stage.open();
        let bytes = pattern(100_000);
        let frozen = stage.freeze();
        client.write_all(&bytes).unwrap();
        drop(client);
        drop(frozen);
        same(&stage.data(id, bytes.len()), &bytes);
        assert_eq!(stage.next(), Seen::End(id, 0));
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
    }

    // Rule 6.
    fn who_half_closes_gets_four_megabytes_however_slowly_it_reads(transport: Transport) {
        // The answer takes several times as long as the longest allowed silence.
        let silence = Duration::from_millis(600);
        at_pace(silence / 2, |pace| {
            let deadlines = Deadlines { linger: silence, write_progress: Some(silence), ..Deadlines::default() };
            let plan = Plan::new().data(|input, cx| {
                if input.until_eol().is_some() {
                    cx.write_shared(pattern(4 << 20).into());
                }
            });
            let stage = Stage::tuned(transport, plan, |service| service.deadlines(deadlines), |_| {});
            let mut client = stage.client_with(64 << 10);
            client.write_all(b"all of it\n").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let (mut received, mut some, start) = (Vec::new(), vec![0; 32 * 1024], Instant::now());
            loop {
                match std::io::Read::read(&mut client, &mut some) {
                    Ok(0) => break,
                    Ok(count) => received.extend_from_slice(&some[..count]),
                    Err(error) => return Err(format!("after {} bytes: {error}", received.len())),
                }
                pace.step();
                // 4 MB/s.
                let due = start + Duration::from_nanos(received.len() as u64 * 250);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            same(&received, &pattern(4 << 20));
            let id = stage.next().id();
            assert_eq!(stage.closed(id), (CloseReason::PeerEnded, 0));
            Ok(())
        });
    }

    // Rule 6.
    fn the_end_of_input_is_no_close(transport: Transport) {
        let stage = Stage::new(transport, Plan::echo().end(|_, _| {}));
        let (mut client, id) = stage.open();
        client.write_all(b"asked").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        stage.until(|seen| *seen == Seen::End(id, 0));
        stage.is_quiet();
        stage.order(move |cx| {
            cx.at(id).write(b" answered later");
            cx.at(id).close();
        });
        assert_eq!(read_all(&mut client), b"asked answered later");
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
    }

    // Rule 6, in the other direction: our half ends first.
    fn who_finishes_its_own_half_goes_on_reading(transport: Transport) {
        let stage = Stage::new(transport, Plan::new().open(|cx| {
            cx.write(b"that is all");
            cx.finish();
            assert_eq!(cx.write(b"!"), reactor::Written::Refused);
        }));
        let (mut client, id) = stage.open();
        assert_eq!(read_all(&mut client), b"that is all");
        client.write_all(b"but I have more").unwrap();
        assert_eq!(stage.data(id, 15), b"but I have more");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stage.next(), Seen::End(id, 0));
        assert_eq!(stage.closed(id), (CloseReason::PeerEnded, 0));
    }

    // Rule 7.
    fn two_lines_and_a_close_in_one_segment_are_both_delivered(transport: Transport) {
        let stage = Stage::new(transport, Plan::lines());
        let (mut client, id) = stage.open();
        let frozen = stage.freeze();
        client.write_all(b"one\ntwo\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        drop(frozen);
        assert_eq!(read_all(&mut client), b"one\ntwo\n");
        assert_eq!(stage.data(id, 8), b"one\ntwo\n");
        assert_eq!(stage.next(), Seen::End(id, 0));
    }

    // Rule 7.
    fn what_has_no_ending_is_offered_with_the_end_of_input(transport: Transport) {
        let stage = Stage::new(transport, Plan::lines().end(|input, cx| {
            cx.write(input.take_all());
            cx.close();
        }));
        let (mut client, id) = stage.open();
        client.write_all(b"one\ntw").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), b"one\ntw");
        stage.until(|seen| *seen == Seen::End(id, 2));
    }

    // Rule 8.
    fn a_pause_is_a_pause_and_what_was_kept_comes_first_without_waiting_for_the_socket(transport: Transport) {
        let stage = Stage::new(transport, three_and_pause());
        let (mut client, id) = stage.open();
        client.write_all(b"onetwo").unwrap();
        assert_eq!(stage.data(id, 3), b"one");
        stage.sees_nothing();
        // No new bytes arrive: the kept bytes are offered without an event, and reading pauses again.
        stage.order(move |cx| cx.at(id).resume_reading());
        assert_eq!(stage.data(id, 3), b"two");
        client.write_all(b"threes").unwrap();
        stage.sees_nothing();
        for word in [b"thr", b"ees"] {
            stage.order(move |cx| cx.at(id).resume_reading());
            assert_eq!(stage.data(id, 3), word);
        }
        stage.sees_nothing();
    }

    // Rule 8: a pause also holds back offers that are due in the next turn or after a resumption.
    fn a_pause_holds_back_what_was_already_on_its_way_to_the_handler(transport: Transport) {
        let stage = Stage::new(
            transport,
            Plan::new().data(|input, cx| {
                if input.take(3).is_some() {
                    cx.offer_again();
                    cx.pause_reading();
                }
            }),
        );
        let (mut client, id) = stage.open();
        client.write_all(b"onetwo").unwrap();
        assert_eq!(stage.data(id, 3), b"one");
        stage.sees_nothing();
        stage.order(move |cx| {
            cx.at(id).resume_reading();
            cx.at(id).pause_reading();
        });
        stage.sees_nothing();
        stage.order(move |cx| cx.at(id).resume_reading());
        assert_eq!(stage.data(id, 3), b"two");
    }

    // Rule 8.
    fn a_pause_by_another_holds_as_well(transport: Transport) {
        let stage = Stage::new(transport, Plan::new());
        let (mut client, id) = stage.open();
        stage.ask(move |cx| cx.at(id).pause_reading());
        client.write_all(b"not now").unwrap();
        stage.sees_nothing();
        stage.order(move |cx| cx.at(id).resume_reading());
        assert_eq!(stage.data(id, 7), b"not now");
    }

    // Rule 8: no byte is lost while the kernel's buffers fill and empty.
    fn a_paused_peer_waits_and_loses_nothing(transport: Transport) {
        let stage = Stage::new(transport, paused());
        let (client, id) = stage.open();
        let bytes = pattern(24 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                (&client).write_all(&bytes).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            stage.sees_nothing();
            assert_eq!(stage.stats().received, 0);
            stage.order(move |cx| cx.at(id).resume_reading());
            same(&stage.data(id, bytes.len()), &bytes);
        });
        assert_eq!(stage.next(), Seen::End(id, 0));
    }

    // Rule 8.
    fn a_reset_ends_a_pause_within_a_second(transport: Transport) {
        let stage = Stage::new(transport, three_and_pause());
        let (mut client, id) = stage.open();
        let (mut other, _) = stage.open();
        client.write_all(b"onetwo").unwrap();
        assert_eq!(stage.data(id, 3), b"one");
        stage.sees_nothing();
        reset(client);
        assert_eq!(stage.closed(id).0, CloseReason::Reset);
        let stats = stage.stats();
        assert_eq!(stats.received, 3 + stats.unread, "what the handler never got is counted");
        round_trip_unanswered(&mut other);
        stage.is_quiet();
        unless_chaos!("counts what one receive brings");
        assert_eq!(stats.unread, 3);
    }

    // Rule 8.
    fn the_end_of_a_paused_peer_waits_for_its_bytes_and_does_not_spin(transport: Transport) {
        let stage = Stage::new(transport, paused());
        let (mut client, id) = stage.open();
        client.write_all(b"last words").unwrap();
        drop(client);
        stage.sees_nothing();
        stage.is_quiet();
        stage.order(move |cx| cx.at(id).resume_reading());
        assert_eq!(stage.data(id, 10), b"last words");
        assert_eq!(stage.next(), Seen::End(id, 0));
        stage.closed(id);
    }

    // Rule 8. Both halves have ended and nothing is read: epoll reports this state again and again, without being
    // asked.
    fn a_hang_up_of_a_paused_peer_never_spins(transport: Transport) {
        let stage = Stage::new(transport, paused());
        let (mut client, id) = stage.open();
        stage.order(move |cx| cx.at(id).finish());
        assert_eq!(read_all(&mut client), b"");
        client.write_all(b"last words").unwrap();
        drop(client);
        stage.is_quiet();
        stage.order(move |cx| cx.at(id).resume_reading());
        assert_eq!(stage.data(id, 10), b"last words");
        assert_eq!(stage.next(), Seen::End(id, 0));
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
    }

    // Rule 8.
    fn a_hang_up_of_a_paused_peer_never_spins_on_a_unix_socket(backend: Backend) {
        let path = socket_path("hangup", backend);
        let at = path.clone();
        let stage =
            Stage::at(backend, paused(), move |factory| Service::unix(at, factory), |service| service, |_| {});
        let mut client = UnixStream::connect(&path).unwrap();
        let id = stage.next().id();
        client.write_all(b"last words").unwrap();
        drop(client);
        stage.is_quiet();
        stage.order(move |cx| cx.at(id).resume_reading());
        assert_eq!(stage.data(id, 10), b"last words");
        assert_eq!(stage.next(), Seen::End(id, 0));
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
    }

    // Rule 8.
    fn bytes_that_were_kept_when_a_connection_is_closed_are_counted_as_unread(transport: Transport) {
        let stage = Stage::new(transport, three_and_pause());
        let (mut client, id) = stage.open();
        client.write_all(b"onetwo").unwrap();
        assert_eq!(stage.data(id, 3), b"one");
        stage.wait_until("some has arrived", |cx| (3..=6).contains(&cx.stats().received));
        stage.order(move |cx| cx.at(id).close());
        drop(client);
        stage.closed(id);
        let stats = stage.stats();
        assert_eq!(stats.received, 3 + stats.unread);
    }

    // Rule 8.
    fn resuming_in_the_very_callback_that_paused_offers_the_rest_at_once(transport: Transport) {
        let plan = Plan::new().data(|input, cx| {
            input.take(1);
            cx.pause_reading();
            cx.resume_reading();
        });
        let stage = Stage::new(transport, plan);
        let (mut client, id) = stage.open();
        client.write_all(b"abcde").unwrap();
        assert_eq!(stage.data(id, 5), b"abcde");
    }

    // Rule 16.
    fn what_is_left_for_the_next_turn_comes_then_without_another_byte(transport: Transport) {
        let plan = Plan::new().data(|input, cx| {
            input.take(1);
            cx.offer_again();
        });
        let stage = Stage::new(transport, plan);
        let (mut client, id) = stage.open();
        let before = stage.stats().turns;
        client.write_all(b"abcde").unwrap();
        assert_eq!(stage.data(id, 5), b"abcde");
        assert!(stage.stats().turns >= before + 5, "a turn each");
    }

    // Rule 8. Three events of one batch: a pause of the second connection, its end, and its resumption.
    fn who_hangs_up_between_a_pause_and_a_resumption_is_still_heard_to_the_end(backend: Backend) {
        let target = Arc::new(Mutex::new(None));
        let aim = target.clone();
        let orders = Arc::new(AtomicUsize::new(0));
        let count = orders.clone();
        let plan = Plan::new().data(move |input, cx| {
            let Some(target) = *aim.lock().unwrap() else { return };
            match input.take_all()[0] {
                b'P' => cx.at(target).pause_reading(),
                b'R' => cx.at(target).resume_reading(),
                _ => return,
            }
            count.fetch_add(1, SeqCst);
        });
        let path = socket_path("between", backend);
        let listen = path.clone();
        let stage = Stage::at(backend, plan, move |factory| Service::unix(listen, factory), |service| service, |_| {});
        let open = || (UnixStream::connect(&path).unwrap(), stage.next().id());
        let ((mut first, _), (mut second, id), (mut third, _)) = (open(), open(), open());
        *target.lock().unwrap() = Some(id);
        let frozen = stage.freeze();
        first.write_all(b"P").unwrap();
        second.write_all(b"last words").unwrap();
        drop(second);
        third.write_all(b"R").unwrap();
        drop(frozen);
        // The system chooses the order within a batch. If the pause came last, this byte ends the pause; otherwise
        // there is none.
        stage.wait_until("both orders were heard", move |_| orders.load(SeqCst) == 2);
        third.write_all(b"R").unwrap();
        assert_eq!(stage.data(id, 10), b"last words");
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
    }

    // Files that epoll refuses to watch are always ready: they are read to their end, and then cause no more turns.
    fn a_regular_file_and_the_null_device_are_read_to_their_end(backend: Backend) {
        let path = std::env::temp_dir().join(format!("glowplug-promise-{}-{backend}", std::process::id()));
        let content = pattern(300_000);
        std::fs::write(&path, &content).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let plan = Plan::new().data(|input, _| {
            input.take_all();
        });
        let stage = Stage::new(backend, plan);
        let id = stage.ask(move |cx| cx.watch(file.into(), ()));
        same(&stage.data(id, content.len()), &content);
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
        let null = std::fs::File::open("/dev/null").unwrap();
        let id = stage.ask(move |cx| cx.watch(null.into(), ()));
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
        stage.is_quiet();
    }

    // Rule 9.
    fn a_byte_at_a_time_costs_a_search_of_each_byte_and_not_of_all_for_each(transport: Transport) {
        const LENGTH: usize = 2_000;
        let searched = Arc::new(AtomicUsize::new(0));
        let count = searched.clone();
        let plan = Plan::new().data(move |input, _| {
            input.scan(1 << 20, |bytes, from| {
                count.fetch_add(bytes.len() - from, SeqCst);
                bytes[from..].iter().position(|byte| *byte == b';').map(|at| from + at + 1)
            });
        });
        let stage = Stage::new(transport, plan);
        let (mut client, id) = stage.open();
        for _ in 0..LENGTH {
            client.write_all(b"x").unwrap();
        }
        client.write_all(b";").unwrap();
        assert_eq!(stage.data(id, LENGTH + 1).len(), LENGTH + 1);
        assert_eq!(searched.load(SeqCst), LENGTH + 1);
    }

    // Rule 9.
    fn an_item_that_never_ends_closes_the_connection_with_a_reason(transport: Transport) {
        let limits = Limits { input: 10_000, ..Limits::default() };
        let stage = Stage::tuned(transport, Plan::lines(), |service| service.limits(limits), |_| {});
        let (mut other, _) = stage.open();
        let (mut client, id) = stage.open();
        // The connection may be cut off in the middle.
        let _ = client.write_all(&[b'x'; 200_000]);
        assert_eq!(stage.closed(id).0, CloseReason::InputOverflow { limit: 10_000 });
        round_trip(&mut other, b"a line\n");
    }

    // Rule 9.
    fn a_framer_tells_when_an_item_is_too_long_and_then_it_is_up_to_the_handler(transport: Transport) {
        let stage = Stage::new(transport, Plan::new().data(|input, cx| loop {
            match input.until_eol_within(8) {
                Framed::Item(line) => drop(line.to_vec()),
                Framed::Incomplete => return,
                Framed::TooLong => {
                    cx.write(b"too long\n");
                    return cx.close();
                }
            }
        }));
        let (mut client, id) = stage.open();
        client.write_all(b"in bound\r\nout of bounds").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), b"too long\n");
        assert_eq!(stage.data(id, 10), b"in bound\r\n");
        assert_eq!(stage.closed(id).0, CloseReason::Closed);
    }
}

/// A service that says nothing is alive if it takes what it is sent and does not end.
fn round_trip_unanswered(client: &mut Client) {
    client.write_all(b"abc").unwrap();
    client.set_read_timeout(Some(QUIET)).unwrap();
    let error = std::io::Read::read(client, &mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    client.set_read_timeout(Some(GUARD)).unwrap();
}
