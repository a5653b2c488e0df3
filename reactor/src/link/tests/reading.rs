//! The reading side: kept input, pauses, waits for the output, and failures.

use super::*;

#[test]
fn kept_input_is_offered_again_after_the_output_drained_and_before_the_end() {
    let mut bench = Bench::open();
    let owed = bench.limits.output_high + 1;
    bench.write(owed);
    bench.keep(b"next request");
    bench.link.end_of_input();
    assert_eq!(bench.step(), Step::Send);
    bench.sent(owed);
    assert_eq!(bench.step(), Step::Drained);
    assert_eq!(bench.step(), Step::Deliver);
    bench.link.kept = None;
    assert_eq!(bench.step(), Step::EndOfInput);
    assert_eq!(bench.step(), Step::Rest, "the end is told once");
}

#[test]
fn a_pause_holds_back_the_end_too_and_resuming_offers_what_was_kept_first() {
    let mut bench = Bench::open();
    bench.keep(b"bytes");
    bench.link.pause();
    bench.link.end_of_input();
    assert_eq!(bench.step(), Step::Rest);
    assert!(!bench.link.reads());
    bench.link.resume();
    assert_eq!(bench.step(), Step::Deliver);
    bench.link.kept = None;
    assert_eq!(bench.step(), Step::EndOfInput);
}

#[test]
fn resuming_what_was_not_paused_offers_nothing() {
    let mut bench = Bench::open();
    bench.keep(b"half a line");
    bench.link.resume();
    assert_eq!(bench.step(), Step::Rest);
}

#[test]
fn what_was_read_before_a_reset_and_waits_for_its_turn_is_still_delivered() {
    let mut bench = Bench::open();
    bench.keep(b"the rest");
    bench.link.offer_next_turn(bench.turn);
    bench.write(1);
    bench.link.failed(Errno(104), bench.now);
    assert_eq!(bench.step(), Step::Send);
    bench.failed();
    assert_eq!(bench.step(), Step::NextTurn);
    bench.turn += 1;
    assert_eq!(bench.step(), Step::Deliver);
    bench.link.kept = None;
    assert_eq!(bench.closes(), CloseReason::Reset);
}

#[test]
fn a_failure_ends_a_link_at_once_with_its_own_reason_when_no_offer_is_due_or_the_handler_pauses() {
    let cases: [(&str, Change); 3] = [
        ("nothing is kept", |_| {}),
        ("kept bytes wait for more", |bench| bench.keep(b"half a line")),
        ("an offer is due, in a pause", |bench| {
            bench.keep(b"the rest");
            bench.link.offer_next_turn(bench.turn);
            bench.link.pause();
        }),
    ];
    for (what, case) in cases {
        let mut bench = Bench::open();
        case(&mut bench);
        bench.link.failed(Errno(110), bench.now);
        assert_eq!(bench.closes(), CloseReason::Failed(Errno(110)), "{what}");
    }
}

#[test]
fn a_pause_after_a_failure_ends_the_link_at_once() {
    let mut bench = Bench::open();
    bench.write(1);
    bench.failed();
    assert_eq!(bench.step(), Step::Rest);
    bench.link.pause();
    assert_eq!(bench.closes(), CloseReason::Reset);

    let mut bench = Bench::open();
    bench.keep(b"the rest");
    bench.link.offer_next_turn(bench.turn);
    bench.link.failed(Errno(104), bench.now);
    bench.turn += 1;
    assert_eq!(bench.step(), Step::Deliver);
    bench.link.pause();
    assert_eq!(bench.closes(), CloseReason::Reset);
}

#[test]
fn a_failed_send_ends_a_paused_link_at_once() {
    let mut bench = Bench::open();
    bench.link.pause();
    bench.write(10);
    bench.failed();
    assert_eq!(bench.closes(), CloseReason::Reset);
}

#[test]
fn who_waits_for_its_output_is_not_read_until_all_has_left_and_is_offered_the_rest() {
    let mut bench = Bench::open();
    bench.write(10);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(2);
    bench.keep(b"the rest");
    bench.link.wait_for_output(bench.turn);
    assert!(!bench.link.reads() && bench.link.take_interest_change());
    assert_eq!((bench.step(), bench.link.describe()), (Step::Rest, "waiting"));
    bench.blocked(7);
    assert!(!bench.link.reads(), "one byte is queued still");
    bench.sent(1);
    assert_eq!(bench.step(), Step::Deliver);
    assert!(bench.link.reads());
}

#[test]
fn who_waits_for_its_output_although_nothing_is_queued_is_offered_the_rest_in_the_next_turn() {
    let mut bench = Bench::open();
    bench.keep(b"the rest");
    bench.link.wait_for_output(bench.turn);
    assert_eq!(bench.step(), Step::NextTurn);
    bench.turn += 1;
    assert_eq!(bench.step(), Step::Deliver);
}

#[test]
fn who_waits_for_its_output_is_offered_the_rest_when_nothing_can_be_sent_any_more() {
    let mut bench = Bench::open();
    bench.write(10);
    bench.keep(b"the rest");
    bench.link.wait_for_output(bench.turn);
    assert_eq!(bench.step(), Step::Send);
    bench.failed();
    assert_eq!(bench.step(), Step::Deliver);
}

#[test]
fn a_relay_is_read_although_more_is_queued_than_the_mark() {
    let mut bench = Bench::open();
    bench.limits.output_high = 50;
    bench.write(100);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(0);
    assert_eq!((bench.step(), bench.link.reads()), (Step::Rest, false));
    assert!(bench.link.take_interest_change());
    bench.keep(b"what came before");
    bench.link.read_on();
    assert_eq!(bench.step(), Step::Deliver, "what was kept meanwhile comes first");
    assert!(bench.link.reads() && bench.link.take_interest_change(), "the driver is told");
    bench.link.pause();
    assert_eq!((bench.step(), bench.link.reads()), (Step::Rest, false), "a pause holds all the same");
    bench.link.resume();
    bench.sent(100);
    assert_eq!(bench.step(), Step::Drained, "that it has drained is told as ever");
}
