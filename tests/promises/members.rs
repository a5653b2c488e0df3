//! Rule 12: members of a topic that do not read. Their queues are bounded by a policy, and the other members miss nothing.

use std::io::{Read, Write};

use reactor::SlowPolicy::{DropNewest, DropOldest};
use reactor::{CloseReason, ConnectionId, Deadline, Deadlines, Limits, Topic, Written};

use crate::stage::{Client, Plan, QUIET, Seen, Stage, read_all, read_exactly};
use crate::support::{GUARD, on_every_backend, unless_chaos};

fn limits() -> Limits {
    Limits::default()
}

/// Deadlines that do not end a slow client during a test.
fn patient() -> Deadlines {
    Deadlines { write_progress: None, linger: GUARD, ..Deadlines::default() }
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
}
