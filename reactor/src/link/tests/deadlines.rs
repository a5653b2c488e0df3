//! Deadlines, and looks at acknowledgements.

use super::*;
use crate::link::deadlines::UNMARKED;
use crate::timer::Wheel;

#[test]
fn a_reset_that_sending_told_first_does_not_move_the_deadline() {
    let mut bench = Bench::open();
    bench.keep(b"the rest");
    bench.link.offer_next_turn(bench.turn);
    bench.write(1);
    bench.failed();
    bench.now = bench.now + Duration::from_secs(4);
    bench.link.failed(Errno(104), bench.now);
    assert_eq!(bench.next_due(), Some((1 + 5, Due::Loop(Deadline::Linger))));
}

#[test]
fn the_first_request_deadline_ends_with_the_first_use() {
    let mut bench = Bench::open();
    assert_eq!(bench.next_due(), Some((1 + 30, Due::Loop(Deadline::FirstRequest))));
    bench.write(1);
    assert_eq!(bench.next_due(), None);
}

#[test]
fn a_dribbling_reader_does_not_defeat_the_write_progress_deadline() {
    let mut bench = Bench::open();
    bench.write(1 << 20);
    assert_eq!(bench.step(), Step::Send);
    bench.outcome(Sent::Blocked(100_000), 100_000);
    assert_eq!(bench.next_due(), Some((1 + 30, Due::Loop(Deadline::WriteProgress))));
    // Half a minute later the peer has acknowledged ten thousand bytes: progress.
    bench.now = bench.now + Duration::from_secs(30);
    let due = Due::Loop(Deadline::WriteProgress);
    assert_eq!(bench.link.due(due, bench.now, 90_000), None);
    assert_eq!(bench.next_due(), Some((31 + 30, due)));
    // After another half minute only one further byte is acknowledged.
    bench.now = bench.now + Duration::from_secs(30);
    assert_eq!(bench.link.due(due, bench.now, 89_999), Some(due));
    assert_eq!(bench.closes(), CloseReason::TimedOut(Deadline::WriteProgress));
    assert!(bench.link.resets());
}

#[test]
fn a_peer_whose_system_takes_a_lot_at_first_and_that_reads_nothing_ends_after_the_deadline_and_not_after_two() {
    for closing in [false, true] {
        let mut bench = Bench::open();
        bench.write(8 << 20);
        assert_eq!(bench.step(), Step::Send);
        bench.outcome(Sent::Blocked(3 << 20), 3 << 20);
        if closing {
            bench.close();
        }
        // Within a second the peer's buffers are full.
        bench.pass(3600, 1 << 20);
        assert_eq!(
            bench.link.reason(),
            CloseReason::TimedOut(if closing { Deadline::Linger } else { Deadline::WriteProgress })
        );
        let after = bench.now.0 / SECOND - 1;
        assert!((30..=35).contains(&after), "after {after} s");
    }
}

#[test]
fn a_close_does_not_give_a_peer_that_takes_nothing_its_deadline_anew() {
    let mut bench = Bench::open();
    bench.write(8 << 20);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(100_000);
    bench.pass(25, 0);
    bench.close();
    assert_eq!(bench.next_due(), Some((1 + 30, Due::Loop(Deadline::Linger))));
}

#[test]
fn a_peer_that_takes_little_by_little_and_enough_in_all_goes_on() {
    let mut bench = Bench::open();
    bench.write(8 << 20);
    assert_eq!(bench.step(), Step::Send);
    bench.outcome(Sent::Blocked(3 << 20), 3 << 20);
    // Acknowledges 200 bytes a second.
    for second in 1..3600 {
        bench.pass(second, (3 << 20) - 200 * second as usize);
    }
    assert_eq!(bench.step(), Step::Rest);
}

#[test]
fn lingering_ends_a_second_or_less_after_the_deadline_for_a_peer_that_took_something_at_first_or_said_something() {
    let mut bench = Bench::open();
    bench.write(100_000);
    assert_eq!(bench.step(), Step::Send);
    bench.sent(100_000);
    bench.link.close(bench.now);
    bench.anchored(90_000);
    bench.finished();
    bench.received(5000);
    bench.pass(3600, 50_000);
    assert!(bench.now <= Time(7 * SECOND), "{:?}", bench.now);
}

#[test]
fn a_peer_that_is_still_taking_what_the_kernel_has_is_not_idle() {
    let mut bench = Bench::open();
    bench.deadlines = Deadlines { idle: Some(Duration::from_secs(60)), first_request: None, ..Deadlines::default() };
    bench.write(200_000);
    assert_eq!(bench.step(), Step::Send);
    bench.sent(200_000);
    let due = Due::Loop(Deadline::Idle);
    assert_eq!(bench.next_due(), Some((61, due)));
    bench.now = Time(61 * SECOND);
    assert_eq!(bench.link.due(due, bench.now, 100_000), None);
    assert_eq!(bench.next_due(), Some((66, due)), "it is looked at again soon");
    assert_eq!(bench.link.due(due, Time(66 * SECOND), 99_999), Some(due), "one byte is none");
}

#[test]
fn once_nothing_waits_to_be_sent_the_idle_deadline_is_not_as_late_as_that_for_progress_was() {
    let mut bench = Bench::open();
    bench.deadlines.idle = Some(Duration::from_secs(10));
    bench.write(10);
    bench.anchored(0);
    bench.step();
    bench.blocked(0);
    assert!(bench.link.take_deadline_change(bench.now, || 0));
    assert_eq!(bench.next_due(), Some((1 + 30, Due::Loop(Deadline::WriteProgress))));
    bench.sent(10);
    assert!(bench.link.take_deadline_change(bench.now, || 0), "the timer has to move");
    assert_eq!(bench.next_due(), Some((1 + 10, Due::Loop(Deadline::Idle))));
}

#[test]
fn while_closing_the_linger_deadline_alone_runs() {
    let mut bench = Bench::open();
    bench.deadlines.idle = Some(Duration::from_secs(1));
    bench.link.set_deadline(Some(Duration::from_secs(1)));
    bench.anchored(0);
    assert_eq!(bench.next_due(), Some((2, Due::Handler)), "of two at once the handler's comes first");
    bench.close();
    assert_eq!(bench.next_due(), Some((1 + 30, Due::Loop(Deadline::Linger))));
    bench.finished();
    assert_eq!(bench.next_due(), Some((1 + 5, Due::Loop(Deadline::Linger))));
    // The output is empty, so the end has the requested reason.
    assert!(bench.link.due(Due::Loop(Deadline::Linger), Time(6 * SECOND), 0).is_some());
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn lingering_goes_on_while_the_peer_takes_what_the_kernel_still_has_for_it() {
    let mut bench = Bench::open();
    bench.write(100_000);
    assert_eq!(bench.step(), Step::Send);
    bench.sent(100_000);
    bench.link.close(bench.now);
    bench.anchored(90_000);
    bench.finished();
    let due = Due::Loop(Deadline::Linger);
    assert_eq!(bench.link.due(due, Time(6 * SECOND), 85_904), None, "4096 bytes more");
    assert_eq!(bench.next_due(), Some((6 + 5, due)));
    assert_eq!(bench.link.due(due, Time(11 * SECOND), 85_904), Some(due));
}

#[test]
fn lingering_is_not_prolonged_by_what_left_before_all_of_it_was_taken() {
    let mut bench = Bench::open();
    bench.write(100_000);
    bench.link.close(bench.now);
    bench.anchored(0);
    assert_eq!(bench.step(), Step::Send);
    bench.sent(100_000);
    bench.finished();
    assert!(bench.link.due(Due::Loop(Deadline::Linger), Time(6 * SECOND), 1).is_some());
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn a_deadline_counts_from_the_end_of_the_callback_that_set_it() {
    let mut bench = Bench::open();
    bench.write(1);
    bench.link.set_deadline(Some(Duration::from_secs(2)));
    bench.now = Time(4 * SECOND);
    bench.anchored(0);
    assert_eq!(bench.next_due(), Some((6, Due::Handler)));
}

#[test]
fn who_is_still_uploading_is_heard_out_for_a_while_and_no_longer() {
    let mut bench = Bench::open();
    bench.close();
    bench.finished();
    let due = Due::Loop(Deadline::Linger);
    for round in 1..=5 {
        bench.received(5000);
        assert_eq!(bench.link.due(due, Time(round * SECOND), 0), None);
    }
    bench.received(5000);
    assert_eq!(bench.link.due(due, Time(6 * SECOND), 0), Some(due));
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn closing_leaves_a_peer_as_long_to_take_what_is_owed_as_it_had_before() {
    let mut bench = Bench::open();
    bench.write(1000);
    bench.close();
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(0);
    assert_eq!(bench.next_due(), Some((1 + 30, Due::Loop(Deadline::Linger))));
    bench.sent(1000);
    bench.finished();
    assert_eq!(bench.next_due(), Some((1 + 5, Due::Loop(Deadline::Linger))));
}

#[test]
fn a_linger_deadline_that_costs_bytes_says_so() {
    let mut bench = Bench::open();
    bench.write(1000);
    bench.close();
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(0);
    assert!(bench.link.due(Due::Loop(Deadline::Linger), Time(6 * SECOND), 0).is_some());
    assert_eq!(bench.closes(), CloseReason::TimedOut(Deadline::Linger));
    assert_eq!(bench.link.release(&mut bench.pool), (0, 1000));
}

/// The next due times, at each of which the peer has `unacknowledged` bytes left, in milliseconds.
fn looks(bench: &mut Bench, unacknowledged: usize) -> Vec<(u64, Due)> {
    let mut all = Vec::new();
    while let Some((at, due)) = bench.link.next_due(&bench.deadlines) {
        all.push((at.0 / 1_000_000, due));
        if bench.link.due(due, at, unacknowledged).is_some() {
            break;
        }
    }
    all
}

#[test]
fn within_a_deadline_for_progress_there_are_five_looks_apart_by_five_seconds_at_most() {
    for (seconds, expected) in
        [(6, vec![2000, 3000, 4000, 5000, 6000, 7000]), (30, vec![6000, 11_000, 16_000, 21_000, 26_000, 31_000])]
    {
        let mut bench = Bench::open();
        bench.deadlines.write_progress = Some(Duration::from_secs(seconds));
        bench.write(100);
        bench.step();
        bench.blocked(0);
        let looks = looks(&mut bench, 0);
        let times: Vec<u64> = looks.iter().map(|(at, _)| *at).collect();
        assert_eq!(times[..5], expected[..5], "{looks:?}");
        assert_eq!(looks.last(), Some(&(1000 + seconds * 1000, Due::Loop(Deadline::WriteProgress))));
    }
}

#[test]
fn nobody_looks_at_the_acknowledgements_of_a_peer_that_is_owed_nothing() {
    let mut bench = Bench::open();
    assert_eq!(bench.link.next_due(&bench.deadlines).map(|(_, due)| due), Some(Due::Loop(Deadline::FirstRequest)));
    // Our FIN counts as a byte.
    for (unacknowledged, looks) in [(0, false), (1, false), (2, true)] {
        bench = Bench::open();
        bench.write(100);
        bench.step();
        bench.sent(100);
        bench.link.close(bench.now);
        bench.anchored(unacknowledged);
        bench.finished();
        let due = bench.link.next_due(&bench.deadlines).map(|(_, due)| due);
        assert_eq!(due, Some(if looks { Due::Look } else { Due::Loop(Deadline::Linger) }), "{unacknowledged}");
    }
    // Without a mark nothing is known.
    bench = Bench::open();
    bench.close();
    bench.link.mark = UNMARKED;
    bench.finished();
    assert_eq!(bench.link.next_due(&bench.deadlines).map(|(_, due)| due), Some(Due::Loop(Deadline::Linger)));
}

#[test]
fn progress_is_asked_for_where_the_peer_may_have_made_some() {
    for (due, asks) in [
        (Due::Look, true),
        (Due::Loop(Deadline::WriteProgress), true),
        (Due::Loop(Deadline::Linger), true),
        (Due::Loop(Deadline::Idle), true),
        (Due::Loop(Deadline::FirstRequest), false),
        (Due::Loop(Deadline::Connect), false),
        (Due::Loop(Deadline::Handshake), false),
        (Due::Handler, false),
    ] {
        assert_eq!(due.asks_for_progress(), asks, "{due:?}");
    }
}

#[test]
fn a_peer_that_has_acknowledged_everything_is_idle_however_much_it_has_taken() {
    let mut bench = Bench::open();
    bench.link.sent_at_once(1 << 20, bench.now);
    let due = Due::Loop(Deadline::Idle);
    assert_eq!(bench.link.due(due, bench.now, 0), Some(due));
    assert_eq!(bench.closes(), CloseReason::TimedOut(Deadline::Idle));
}

#[test]
fn an_overflow_stays_the_reason_when_its_output_does_not_leave_in_time() {
    for reason in [CloseReason::InputOverflow { limit: 7 }, CloseReason::OutputOverflow { queued: 7 }] {
        let mut bench = Bench::open();
        bench.write(1000);
        bench.link.close_because(reason, bench.now);
        assert!(bench.link.due(Due::Loop(Deadline::Linger), Time(60 * SECOND), 0).is_some());
        assert!(bench.link.resets());
        assert_eq!(bench.closes(), reason);
    }
}

#[test]
fn a_lingering_peer_that_has_taken_much_has_more_time_only_while_it_has_more_to_take() {
    for (unacknowledged, progresses) in [(0, false), (1, false), (2, true)] {
        let mut bench = Bench::open();
        bench.write(100_000);
        bench.step();
        bench.sent(100_000);
        bench.link.close(bench.now);
        bench.anchored(90_000);
        bench.finished();
        let due = bench.link.due(Due::Loop(Deadline::Linger), Time(6 * SECOND), unacknowledged);
        assert_eq!(due.is_none(), progresses, "{unacknowledged}");
    }
}

#[test]
fn a_timer_that_stands_for_the_deadline_keeps_its_place() {
    let (mut bench, mut wheel) = (Bench::open(), Wheel::new(Time(SECOND)));
    bench.link.arm(&bench.deadlines, &mut wheel, "link");
    let (at, _) = bench.link.next_due(&bench.deadlines).unwrap();
    wheel.insert(at, "other");
    bench.link.arm(&bench.deadlines, &mut wheel, "link");
    assert_eq!(wheel.len(), 2);
    assert_eq!((wheel.expire(at), wheel.expire(at)), (Some("link"), Some("other")));
}

#[test]
fn a_peer_that_has_taken_all_that_the_kernel_had_makes_progress_while_more_is_queued() {
    let mut bench = Bench::open();
    bench.write(200_000);
    assert_eq!(bench.step(), Step::Send);
    bench.outcome(Sent::Blocked(100_000), 100_000);
    assert_eq!(bench.link.due(Due::Loop(Deadline::WriteProgress), Time(31 * SECOND), 0), None);
    assert_eq!(bench.next_due(), Some((31 + 30, Due::Loop(Deadline::WriteProgress))));
}

#[test]
fn a_link_that_owes_nothing_at_the_linger_deadline_ends_in_order() {
    let due = Due::Loop(Deadline::Linger);
    // Before its FIN, and after.
    for finishes in [false, true] {
        let mut bench = Bench::open();
        bench.close();
        if finishes {
            bench.finished();
        }
        assert_eq!(bench.link.due(due, Time(60 * SECOND), 0), Some(due));
        assert_eq!(bench.closes(), CloseReason::Closed, "{finishes}");
        assert!(!bench.link.resets(), "{finishes}");
    }
}

#[test]
fn a_link_whose_send_has_failed_ends_as_reset_at_the_linger_deadline() {
    let mut bench = Bench::open();
    bench.keep(b"the rest");
    bench.link.offer_next_turn(bench.turn);
    bench.write(1);
    bench.failed();
    let due = Due::Loop(Deadline::Linger);
    assert_eq!(bench.link.due(due, Time(60 * SECOND), 0), Some(due));
    assert_eq!(bench.closes(), CloseReason::Reset);
}
