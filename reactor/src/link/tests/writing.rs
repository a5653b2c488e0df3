//! The writing side: output, marks, a failed send, and refused writes.

use super::*;

#[test]
fn what_is_written_is_sent_and_then_the_buffer_is_given_back() {
    let mut bench = Bench::open();
    bench.write(10);
    assert_eq!(bench.step(), Step::Send);
    bench.sent(10);
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.link.output().is_none(), "an idle link owns no buffer");
}

#[test]
fn a_short_send_waits_for_the_driver_and_reading_goes_on() {
    let mut bench = Bench::open();
    bench.write(10);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(4);
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.link.writes() && bench.link.reads());
    bench.sent(6);
    assert!(!bench.link.writes());
}

#[test]
fn above_the_high_water_mark_reading_stops_until_the_low_one_and_then_the_handler_is_told_once() {
    let mut bench = Bench::open();
    let owed = bench.limits.output_high + 1;
    bench.write(owed);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(0);
    assert!(!bench.link.reads());
    bench.blocked(owed - bench.limits.output_low - 1);
    assert_eq!(bench.step(), Step::Rest);
    assert!(!bench.link.reads(), "between the marks it stays as it was");
    bench.blocked(1);
    assert_eq!(bench.step(), Step::Drained);
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.link.reads());
}

#[test]
fn on_drained_that_fills_up_again_comes_once_a_turn() {
    let mut bench = Bench::open();
    for turn in 1..5 {
        bench.turn = turn;
        for _ in 0..2 {
            bench.write(bench.limits.output_high + 1);
            assert_eq!(bench.step(), Step::Send);
            let owed = bench.link.queued();
            bench.sent(owed);
            if bench.step() == Step::NextTurn {
                break;
            }
        }
        assert_eq!(bench.step(), Step::NextTurn);
    }
}

#[test]
fn what_had_drained_and_filled_up_again_before_anybody_was_told_is_not_told_drained() {
    let mut bench = Bench::open();
    let owed = bench.limits.output_high + 1;
    for step in [Step::Drained, Step::NextTurn] {
        bench.write(owed);
        assert_eq!(bench.step(), Step::Send);
        bench.sent(owed);
        assert_eq!(bench.step(), step);
    }
    bench.write(owed);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(0);
    bench.turn += 1;
    assert_eq!(bench.step(), Step::Rest);
    bench.sent(owed);
    assert_eq!(bench.step(), Step::Drained);
}

#[test]
fn a_failed_send_loses_what_is_owed_and_not_what_has_arrived() {
    let mut bench = Bench::open();
    bench.write(10);
    assert_eq!(bench.step(), Step::Send);
    assert_eq!(bench.failed(), 10);
    assert!(bench.link.reads() && !bench.write(1));
    assert!(bench.received(7), "delivered");
    assert_eq!(bench.next_due(), Some((1 + 5, Due::Loop(Deadline::Linger))));
    bench.link.end_of_input();
    assert_eq!(bench.closes(), CloseReason::Reset);
}

#[test]
fn an_overflow_is_not_forgotten_when_what_was_queued_has_left_since() {
    let mut bench = Bench::open();
    (bench.limits.output_high, bench.limits.output_max) = (50, 100);
    bench.write(100);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(0);
    bench.write(1);
    bench.sent(100);
    bench.finished();
    bench.link.end_of_input();
    assert_eq!(bench.closes(), CloseReason::OutputOverflow { queued: 100 });
}

#[test]
fn what_was_accepted_before_a_refused_write_leaves_before_the_end() {
    let mut bench = Bench::open();
    (bench.limits.output_high, bench.limits.output_max) = (50, 100);
    bench.write(50);
    bench.write(200);
    assert_eq!(bench.step(), Step::Send, "at the mark a write is taken whatever its size");
    bench.blocked(0);
    bench.write(1);
    assert_eq!(bench.step(), Step::Overflowed);
    bench.link.close(bench.now);
    assert_eq!(bench.step(), Step::Rest, "what was accepted waits for the kernel");
    bench.sent(250);
    bench.finished();
    bench.link.end_of_input();
    assert_eq!(bench.closes(), CloseReason::OutputOverflow { queued: 250 });
    assert!(!bench.link.resets());
}

#[test]
fn a_close_after_an_overflow_does_not_pass_for_the_end_of_all_that_was_written() {
    for origin in [Origin::Accepted, Origin::Outbound] {
        let mut bench = Bench::with(origin);
        (bench.limits.output_high, bench.limits.output_max) = (50, 100);
        bench.write(60);
        bench.write(60);
        bench.close();
        bench.link.connected(bench.now);
        assert_eq!(bench.step(), Step::Send);
        bench.sent(60);
        bench.finished();
        bench.link.end_of_input();
        assert_eq!(bench.closes(), CloseReason::OutputOverflow { queued: 60 });
    }
}

#[test]
fn an_outbound_link_sends_nothing_before_it_is_connected() {
    let mut bench = Bench::with(Origin::Outbound);
    assert!(bench.write(4));
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.link.writes() && !bench.link.reads());
    bench.link.connected(bench.now);
    assert_eq!(bench.step(), Step::Send);
}

#[test]
fn output_that_went_above_the_mark_and_left_within_one_batch_is_told_drained() {
    let mut bench = Bench::open();
    bench.write(10);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(0);
    bench.write(bench.limits.output_high);
    let owed = bench.link.queued();
    bench.sent(owed);
    assert_eq!(bench.step(), Step::Drained);
}

#[test]
fn other_limits_bound_the_output_that_is_queued_already() {
    let mut bench = Bench::open();
    bench.write(bench.limits.output_high + 1);
    bench.limits.output_max = bench.limits.output_high + 10;
    bench.link.limits_changed(&bench.limits);
    bench.write(100);
    assert_eq!(bench.step(), Step::Overflowed);
}

#[test]
fn after_a_failed_send_kept_input_is_offered_if_the_output_had_held_it_back_for_whatever_reasons() {
    let cases: [(Step, Change); 4] = [
        (Step::Rest, |_| {}),
        (Step::Deliver, |bench| bench.link.wait_for_output(1)),
        (Step::Deliver, |bench| bench.link.flags.choke()),
        (Step::Deliver, |bench| {
            bench.link.wait_for_output(1);
            bench.link.flags.choke();
        }),
    ];
    for (step, change) in cases {
        let mut bench = Bench::open();
        bench.write(1);
        bench.blocked(0);
        assert!(bench.link.is_blocked());
        bench.keep(b"x");
        change(&mut bench);
        assert_eq!(bench.failed(), 1);
        assert!(!bench.link.is_blocked());
        assert_eq!(bench.step(), step);
    }
    let mut bench = Bench::open();
    bench.write(1);
    bench.link.wait_for_output(1);
    bench.failed();
    assert_eq!(bench.step(), Step::Rest, "nothing is kept");
}

#[test]
fn output_that_has_left_ends_the_wait_and_offers_only_what_is_kept() {
    for (kept, step) in [(false, Step::Rest), (true, Step::Deliver)] {
        let mut bench = Bench::open();
        bench.write(1);
        bench.link.wait_for_output(1);
        if kept {
            bench.keep(b"x");
        }
        bench.sent(1);
        assert_eq!(bench.step(), step);
    }
}

#[test]
fn a_failed_send_ends_a_link_whose_input_has_ended_too() {
    let mut bench = Bench::open();
    bench.link.end_of_input();
    assert_eq!(bench.step(), Step::EndOfInput);
    bench.write(1);
    bench.failed();
    assert!(bench.link.is_over());
    assert_eq!(bench.closes(), CloseReason::Reset);
}
