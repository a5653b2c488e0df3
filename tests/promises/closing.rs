//! Rules 13 and 14: a close sends the queued bytes, lingers within bounds, and loses no byte without need; a broken pipe ends one
//! connection.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use reactor::{CloseReason, Deadline, Deadlines, Limits, Topic, Written};

use crate::stage::{Plan, QUIET, Seen, Stage, at_pace, pattern, read_all, read_exactly, reset, round_trip, same};
use crate::support::{GUARD, on_every_backend};

/// Bytes beyond a mark that one connection may queue: the answer to one receive.
const SCRATCH: usize = 64 * 1024;

fn limits() -> Limits {
    Limits::default()
}

/// Deadlines that do not end a slow client during a test.
fn patient() -> Deadlines {
    Deadlines { write_progress: None, linger: GUARD, ..Deadlines::default() }
}

/// Echoes everything, and closes after bytes with a full stop.
fn echo_until_full_stop() -> Plan {
    Plan::new().data(|input, cx| {
        let bytes = input.take_all();
        cx.write(bytes);
        if bytes.contains(&b'.') {
            cx.close();
        }
    })
}

on_every_backend! {
    // Rule 13.
    fn an_early_answer_reaches_a_client_that_is_still_uploading(transport: Transport) {
        let stage = Stage::new(transport, Plan::new().data(|input, cx| {
            input.take_all();
            cx.write(b"413 too large");
            cx.close();
        }));
        let (mut client, id) = stage.open();
        client.write_all(&vec![b'x'; 32 << 20]).unwrap();
        assert_eq!(read_all(&mut client), b"413 too large");
        drop(client);
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
        let stats = stage.stats();
        assert_eq!(stats.received, 32 << 20);
        assert!(stats.unread > 31 << 20, "{}", stats.unread);
    }

    // Rule 13.
    fn what_is_drained_while_closing_is_bounded_in_bytes(transport: Transport) {
        let bounded = Limits { linger_bytes: 1 << 20, ..limits() };
        let stage = Stage::tuned(
            transport,
            Plan::new().open(|cx| cx.close()),
            |service| service.limits(bounded).deadlines(patient()),
            |_| {},
        );
        let (client, id) = stage.open();
        let uploading = thread::spawn(move || while { &client }.write(&[b'x'; 1 << 16]).is_ok() {});
        assert_eq!(stage.closed(id).0, CloseReason::Closed);
        uploading.join().unwrap();
        let unread = stage.stats().unread;
        assert!(unread <= (1 << 20) + SCRATCH as u64, "{unread}");
    }

    // Rule 13.
    fn while_closing_the_linger_deadline_alone_runs(transport: Transport) {
        let linger = Duration::from_millis(400);
        let short = Some(Duration::from_millis(40));
        let deadlines =
            Deadlines { first_request: short, idle: short, write_progress: short, linger, ..Deadlines::default() };
        let times = Arc::new(Mutex::new(Vec::new()));
        let (began, ended) = (times.clone(), times.clone());
        let plan = Plan::new()
            .open(move |cx| {
                began.lock().expect("nobody panics").push(cx.now());
                cx.set_deadline(Duration::from_millis(20));
                cx.close();
            })
            .closed(move |cx| ended.lock().expect("nobody panics").push(cx.now()));
        let stage = Stage::tuned(transport, plan, move |service| service.deadlines(deadlines), |_| {});
        let (mut client, id) = stage.open();
        assert_eq!(read_all(&mut client), b"", "the FIN comes at once");
        assert_eq!(stage.next(), Seen::Closed(id, CloseReason::Closed, 0), "and no other callback");
        stage.ask(|_| {});
        let times = times.lock().unwrap();
        assert!(times[1] - times[0] >= linger, "{times:?}");
    }

    // Rule 13.
    fn a_closing_peer_that_reads_slowly_but_steadily_gets_everything(transport: Transport) {
        let short = Duration::from_millis(600);
        at_pace(short / 2, |pace| {
            let deadlines = Deadlines { linger: short, ..patient() };
            let plan = Plan::new().open(|cx| {
                cx.write_shared(pattern(8 << 20).into());
            });
            let stage = Stage::tuned(transport, plan, |service| service.deadlines(deadlines), |_| {});
            let mut client = stage.client_with(64 << 10);
            let id = stage.next().id();
            // Waits until the kernel's buffers are full, so that their content does not count as taken by the peer.
            let mut before = usize::MAX;
            stage.wait_until("it is blocked", move |cx| cx.at(id).queued() < 8 << 20);
            while before > stage.ask(move |cx| cx.at(id).queued()) {
                before = stage.ask(move |cx| cx.at(id).queued());
                thread::sleep(Duration::from_millis(20));
            }
            pace.restart();
            stage.ask(move |cx| {
                cx.at(id).change_deadlines(|deadlines| deadlines.write_progress = Some(short));
                cx.at(id).close();
            });
            let mut received = Vec::new();
            let start = std::time::Instant::now();
            let mut some = vec![0; 64 * 1024];
            loop {
                match client.read(&mut some) {
                    Ok(0) => break,
                    Ok(count) => received.extend_from_slice(&some[..count]),
                    Err(error) => return Err(format!("after {} bytes: {error}", received.len())),
                }
                pace.step();
                // 4 MB/s: within one linger time the peer takes less than the kernel's buffers hold, and further bytes stay
                // queued.
                let due = start + Duration::from_nanos(received.len() as u64 * 250);
                thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
            }
            same(&received, &pattern(8 << 20));
            drop(client);
            assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
            Ok(())
        });
    }

    // Rule 13.
    fn who_does_not_take_what_it_is_owed_is_reset_at_the_linger_deadline_and_the_rest_is_reported(transport: Transport) {
        let short = Duration::from_millis(150);
        let deadlines = Deadlines { linger: short, write_progress: Some(short), ..Deadlines::default() };
        let plan = Plan::new().open(|cx| {
            cx.write_shared(vec![b'x'; 32 << 20].into());
            cx.close();
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(deadlines), |_| {});
        let (mut client, id) = stage.open();
        let (reason, owed) = stage.closed(id);
        assert_eq!(reason, CloseReason::TimedOut(Deadline::Linger));
        let stats = stage.stats();
        assert_eq!((stats.sent as usize + owed, stats.unsent as usize), (32 << 20, owed));
        assert!(owed > 0);
        let error = client.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    // Rule 13.
    fn an_abort_is_a_reset_at_once(transport: Transport) {
        let stage = Stage::new(transport, Plan::new().data(|_, cx| {
            cx.write(b"never sent");
            cx.abort();
        }));
        let (mut client, id) = stage.open();
        client.write_all(b"x").unwrap();
        assert_eq!(stage.closed(id), (CloseReason::Aborted, 10));
        assert_eq!(client.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(stage.stats().unsent, 10);
    }

    // Rule 13.
    fn closing_after_the_peer_has_ended_waits_for_nothing(transport: Transport) {
        let stage = Stage::tuned(transport, Plan::echo(), |service| service.deadlines(patient()), |_| {});
        let (mut client, id) = stage.open();
        client.write_all(b"bye").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), b"bye");
        // The client still holds its descriptor.
        assert_eq!(stage.closed(id), (CloseReason::PeerEnded, 0));
    }

    // Rule 14.
    fn a_peer_that_goes_away_while_it_is_sent_to_ends_alone(transport: Transport) {
        let stage = Stage::new(transport, Plan::echo());
        let (mut other, _) = stage.open();
        for _ in 0..20 {
            let (client, id) = stage.open();
            stage.order(move |cx| {
                cx.at(id).write_shared(vec![b'x'; 16 << 20].into());
            });
            reset(client);
            assert_eq!(stage.closed(id).0, CloseReason::Reset);
        }
        // Written to before the loop knows of the end: EPIPE, and no signal.
        for _ in 0..20 {
            let (client, id) = stage.open();
            let frozen = stage.freeze();
            reset(client);
            stage.order(move |cx| {
                cx.at(id).write(b"into the void");
            });
            drop(frozen);
            assert_eq!(stage.closed(id).0, CloseReason::Reset);
        }
        round_trip(&mut other, b"alive");
    }

    // Rule 14.
    fn a_write_after_close_is_refused_and_never_sent(transport: Transport) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let stage = Stage::new(transport, Plan::new().data(move |input, cx| {
            input.take_all();
            let mut told = tell.lock().expect("nobody panics");
            told.push(cx.write(b"before"));
            cx.close();
            told.push(cx.write(b"after"));
            told.push(cx.write_shared(vec![b'!'; 10_000].into()));
            assert!(cx.output().is_none());
            told.push(cx.encode(|_| unreachable!("there is nobody to encode for")));
            assert!(!cx.subscribe(&Topic::new("late")));
        }));
        let (mut client, id) = stage.open();
        client.write_all(b"x").unwrap();
        assert_eq!(read_all(&mut client), b"before");
        assert_eq!(*told.lock().unwrap(), [Written::Queued, Written::Refused, Written::Refused, Written::Refused]);
        assert_eq!(stage.ask(move |cx| cx.at(id).write(b"much later")), Written::Refused);
        drop(client);
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
        assert_eq!(stage.ask(move |cx| cx.at(id).write(b"to nobody")), Written::Refused);
    }

    // Rule 14.
    fn past_the_maximum_a_write_is_refused_and_the_connection_ends(transport: Transport) {
        let bounded = Limits { output_high: 1000, output_low: 100, output_max: 40 << 20, ..limits() };
        let stage = Stage::tuned(transport, Plan::new(), |service| service.limits(bounded).deadlines(patient()), |_| {});
        let (mut client, id) = stage.open();
        let told = stage.ask(move |cx| {
            let mut write = |count| cx.at(id).write(vec![b'x'; count]);
            [write(39 << 20), write(1 << 20), write(1), write(1)]
        });
        assert_eq!(told, [Written::AboveHighWater, Written::AboveHighWater, Written::Refused, Written::Refused]);
        assert_eq!(read_all(&mut client).len(), 40 << 20, "what was accepted is sent");
        drop(client);
        assert_eq!(stage.closed(id), (CloseReason::OutputOverflow { queued: 40 << 20 }, 0));
    }

    // Rule 13: a request before the close, and one after the close in the same segment.
    fn what_was_owed_at_the_close_arrives_and_what_is_asked_after_it_does_not(transport: Transport) {
        let stage = Stage::new(transport, echo_until_full_stop());
        let (mut client, id) = stage.open();
        client.write_all(b"one").unwrap();
        assert_eq!(&read_exactly::<3>(&mut client), b"one");
        client.write_all(b"close.").unwrap();
        client.write_all(b"two").unwrap();
        let rest = read_all(&mut client);
        assert!(rest.starts_with(b"close.") && b"close.two".starts_with(&rest), "{rest:?}");
        client.set_read_timeout(Some(QUIET)).unwrap();
        drop(client);
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
    }
}
