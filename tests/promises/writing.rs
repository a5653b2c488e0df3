//! Rules 10 to 15: queued bytes are sent once, in order; the queue is bounded; and a close loses no byte without need.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use reactor::SlowPolicy::{DropNewest, DropOldest};
use reactor::{CloseReason, ConnectionId, Deadline, Deadlines, Limits, Topic, Written};

use crate::child::{Child, LINES, counters};
use crate::stage::{
    Client, Plan, QUIET, Seen, Stage, pattern, read_all, read_exactly, reset, round_trip, same, send_until_stuck,
};
use crate::support::{GUARD, on_every_backend, under_chaos, unless_chaos};

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

/// Every connection is a member.
fn member_of(topic: &Topic) -> Plan {
    let topic = topic.clone();
    Plan::new().open(move |cx| {
        cx.subscribe(&topic);
    })
}

/// Numbered messages of equal size.
struct News {
    topic: Topic,
    size: usize,
    published: u32,
}

impl News {
    fn new(topic: Topic, size: usize) -> Self {
        News { topic, size, published: 0 }
    }

    /// Publishes `count` messages in one turn, and checks that a reading member gets them. Returns the bytes queued for
    /// the slow member.
    fn publish(&mut self, stage: &Stage, good: &mut Client, count: u32, slow: ConnectionId) -> usize {
        let (first, size, topic) = (self.published, self.size, self.topic.clone());
        stage.ask(move |cx| {
            for number in first..first + count {
                let mut message = vec![b'.'; size];
                message[..4].copy_from_slice(&number.to_be_bytes());
                cx.publish(&topic, &message);
            }
        });
        for _ in 0..count {
            let mut message = vec![0; size];
            good.read_exact(&mut message).unwrap();
            assert_eq!(message[..4], self.published.to_be_bytes());
            self.published += 1;
        }
        stage.ask(move |cx| cx.at(slow).queued())
    }
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
        let sent = send_until_stuck(&client, &bytes, 128 << 20);
        assert!(sent < 64 << 20, "{sent} bytes were taken");
        let owed = stage.ask(move |cx| cx.at(id).queued());
        // Output that a layer seals in steps may go on leaving until it is below the upper mark, where reading still rests.
        let least = if transport.layered { limits().output_low } else { limits().output_high };
        assert!(owed > least, "{owed} bytes");
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
            match stage.seen.recv_timeout(QUIET) {
                Err(_) => break,
                Ok(seen) => {
                    let may_drain = under_chaos() || transport.layered;
                    assert!(may_drain, "{seen:?}: an answer that the kernel takes at once drains nothing");
                }
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

    // Rule 12.
    fn a_member_that_does_not_read_is_told_and_let_go_at_its_limit_and_the_others_miss_nothing(transport: Transport) {
        let (topic, queue) = (Topic::new("news"), 512 << 10);
        let bounded = Limits { output_high: 128 << 10, output_low: 32 << 10, member_queue: queue, ..limits() };
        let plan = member_of(&topic).too_slow(|cx| {
            cx.write(b"too slow");
        });
        let stage = Stage::tuned(transport, plan, |service| service.limits(bounded).deadlines(patient()), |_| {});
        let mut slow = stage.narrow_client();
        let slow_id = stage.next().id();
        let (mut good, good_id) = stage.open();
        let mut news = News::new(topic.clone(), 5000);
        'all: loop {
            let most = news.publish(&stage, &mut good, 16, slow_id);
            assert!(most <= queue, "{most} bytes are owed to it");
            for seen in stage.left_over() {
                match seen {
                    Seen::TooSlow(id) => break 'all assert_eq!(id, slow_id),
                    other => assert_ne!(other.id(), good_id, "{other:?}: the others don't notice"),
                }
            }
            assert!(news.published < 10_000, "it is not bounded");
        }
        let heard = read_all(&mut slow);
        let (messages, word) = heard.split_at(heard.len() - b"too slow".len());
        assert_eq!(word, b"too slow", "and then the end");
        assert_eq!(messages.len() % 5000, 0, "what had begun was finished");
        for (number, message) in messages.chunks(5000).enumerate() {
            assert_eq!(message[..4], (number as u32).to_be_bytes());
        }
        drop(slow);
        let (CloseReason::OutputOverflow { queued }, 0) = stage.closed(slow_id) else { panic!("another reason") };
        assert!(queued < 5000 + 8, "what waited was dropped, and what had begun is left: {queued}");
        let topic_ = topic.clone();
        assert_eq!(stage.ask(move |cx| cx.publish(&topic_, b"still here")), 1);
        assert_eq!(&read_exactly::<10>(&mut good), b"still here");
    }

    // Rule 12.
    fn where_messages_were_dropped_a_member_reads_how_many_and_all_others_are_whole(transport: Transport) {
        unless_chaos!("whose kernel refuses a turn's messages, though it has room, is a slow member too");
        for (policy, size) in [(DropOldest, 100), (DropOldest, 5000), (DropNewest, 100), (DropNewest, 5000)] {
            let (topic, queue) = (Topic::new("news"), 64 << 10);
            let bounded = Limits { member_queue: queue, slow_members: policy, ..limits() };
            let plan = member_of(&topic).missed(move |count, cx| {
                let mut notice = vec![b'!'; size];
                notice[4..12].copy_from_slice(&count.to_be_bytes());
                cx.write(&notice[..5]);
                cx.write(&notice[5..]);
            });
            let stage = Stage::tuned(transport, plan, |service| service.limits(bounded).deadlines(patient()), |_| {});
            let mut slow = stage.narrow_client();
            let slow_id = stage.next().id();
            let (mut good, good_id) = stage.open();
            let mut news = News::new(topic, size);
            // Twice the number at the first drop, so that messages are dropped repeatedly.
            let mut dropped = None;
            while dropped.is_none_or(|at| news.published < 2 * at) {
                let most = news.publish(&stage, &mut good, 16, slow_id);
                assert!(most <= queue, "{most} bytes are owed to it");
                dropped = dropped.or((stage.stats().missed > 0).then_some(news.published));
                assert!(news.published < 1_000_000, "it is not bounded");
            }
            // The member's own answer follows all messages, and is not dropped.
            stage.ask(move |cx| cx.at(slow_id).write(vec![b'?'; size]));
            let (mut next, mut missed, mut notices) = (0, 0, 0);
            loop {
                let mut message = vec![0; size];
                slow.read_exact(&mut message).unwrap();
                if message[..4] == *b"!!!!" {
                    let count = u64::from_be_bytes(message[4..12].try_into().unwrap());
                    (next, missed, notices) = (next + count as u32, missed + count, notices + 1);
                } else if message[..4] == *b"????" {
                    break;
                } else {
                    assert_eq!(message[..4], next.to_be_bytes(), "{policy:?}");
                    next += 1;
                }
            }
            assert_eq!(next, news.published, "{policy:?}: all are there, or counted");
            assert!(notices > 0, "{policy:?}: nothing was missed");
            assert_eq!(stage.stats().missed, missed);
            news.publish(&stage, &mut good, 1, slow_id);
            let mut message = vec![0; size];
            slow.read_exact(&mut message).unwrap();
            assert_eq!(message[..4], next.to_be_bytes(), "it goes on");
            assert!(stage.left_over().iter().all(|seen| seen.id() != good_id), "the others don't notice");
        }
    }

    // Rules 12 and 21.
    fn a_member_that_is_kept_need_not_make_progress_and_others_must(transport: Transport) {
        let topic = Topic::new("news");
        let impatient = Deadlines { write_progress: Some(QUIET), ..patient() };
        let keeping = Limits { member_queue: 1 << 20, slow_members: DropOldest, ..limits() };
        let joins = topic.clone();
        let plan = Plan::new().data(move |input, cx| {
            input.take_all();
            cx.subscribe(&joins);
        });
        let stage = Stage::tuned(transport, plan, |service| service.limits(keeping).deadlines(impatient), |_| {});
        let (mut member, other) = (stage.narrow_client(), stage.narrow_client());
        let [member_id, other_id] = [stage.next().id(), stage.next().id()];
        member.write_all(b"join").unwrap();
        let (member_id, other_id) = match stage.until(|seen| matches!(seen, Seen::Data(..))).id() {
            id if id == member_id => (member_id, other_id),
            id => (id, member_id),
        };
        // First the member cannot be sent to, then the other connection, whose deadline is therefore later.
        stage.ask(move |cx| cx.at(member_id).write(vec![b'x'; 8 << 20]));
        stage.wait_until("the member is stuck", move |cx| cx.at(member_id).queued() > 0);
        stage.ask(move |cx| cx.at(other_id).write(vec![b'x'; 8 << 20]));
        assert_eq!(stage.closed(other_id).0, CloseReason::TimedOut(Deadline::WriteProgress));
        assert!(stage.ask(move |cx| cx.at(member_id).queued() > 0), "and the member is still there");
        // Without its membership, the connection loses the exception.
        stage.ask(move |cx| cx.at(member_id).unsubscribe(&topic));
        assert_eq!(stage.closed(member_id).0, CloseReason::TimedOut(Deadline::WriteProgress));
        drop((member, other));
    }

    // Rules 12 and 14.
    fn what_is_missed_is_told_although_the_connection_is_closing(transport: Transport) {
        let topic = Topic::new("news");
        let keeping = Limits { member_queue: 4000, slow_members: DropNewest, ..limits() };
        let plan = member_of(&topic).missed(|count, cx| {
            let written = cx.write(format!("({count} missed)"));
            assert_ne!(written, Written::Refused);
        });
        let stage = Stage::tuned(transport, plan, |service| service.limits(keeping).deadlines(patient()), |_| {});
        let mut slow = stage.narrow_client();
        let id = stage.next().id();
        stage.ask(move |cx| cx.at(id).write(vec![b'x'; 4 << 20]));
        stage.wait_until("it is stuck", move |cx| cx.at(id).queued() > 4000);
        stage.ask(move |cx| {
            for _ in 0..7 {
                assert_eq!(cx.publish(&topic, b"news"), 1);
            }
            cx.at(id).write(b"bye");
            cx.at(id).close();
        });
        let heard = read_all(&mut slow);
        assert_eq!(heard.len(), (4 << 20) + b"(7 missed)bye".len());
        assert!(heard.ends_with(b"x(7 missed)bye"));
        drop(slow);
        assert_eq!(stage.closed(id).0, CloseReason::Closed);
    }

    // Rule 12, from other threads.
    fn what_another_thread_publishes_reaches_every_member_in_order(transport: Transport) {
        let topic = Topic::new("news");
        let news = topic.clone();
        let stage = Stage::new(transport, Plan::new().open(move |cx| {
            cx.subscribe(&news);
        }));
        let mut members: Vec<Client> = (0..5).map(|_| stage.open().0).collect();
        let handle = stage.running.handle.clone();
        for number in 0..3000u32 {
            handle.publish(&topic, number.to_be_bytes().to_vec()).unwrap();
        }
        for member in &mut members {
            for number in 0..3000u32 {
                assert_eq!(read_exactly::<4>(member), number.to_be_bytes());
            }
        }
    }

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
        let deadlines = Deadlines { linger: short, write_progress: Some(short), ..Deadlines::default() };
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
        stage.order(move |cx| cx.at(id).close());
        let mut received = Vec::new();
        let start = std::time::Instant::now();
        let mut some = vec![0; 64 * 1024];
        loop {
            match client.read(&mut some).unwrap() {
                0 => break,
                count => received.extend_from_slice(&some[..count]),
            }
            // 4 MB/s: within one linger time the peer takes less than the kernel's buffers hold, and further bytes stay
            // queued.
            let due = start + Duration::from_nanos(received.len() as u64 * 250);
            thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
        }
        same(&received, &pattern(8 << 20));
        drop(client);
        assert_eq!(stage.closed(id), (CloseReason::Closed, 0));
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
