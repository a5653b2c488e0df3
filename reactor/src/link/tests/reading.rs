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

#[test]
fn input_that_a_callback_leaves_is_kept_while_the_link_is_open_and_its_length_bounded() {
    let cases: [(&str, Change, usize, &str); 7] = [
        ("at the limit", |_| {}, 100, "open"),
        ("over the limit, with nothing sent", |_| {}, 101, "over"),
        ("over the limit, with an answer queued", |bench| _ = bench.write(1), 101, "flushing"),
        ("over the limit, with an answer sent", |bench| bench.link.sent_at_once(1, bench.now), 101, "flushing"),
        ("over the limit, and paused", |bench| bench.link.pause(), 101, "paused"),
        (
            "over the limit, with `output_high` queued",
            |bench| _ = bench.write(bench.limits.output_high),
            101,
            "flushing",
        ),
        ("over the limit, with more queued", |bench| _ = bench.write(bench.limits.output_high + 1), 101, "open"),
    ];
    for (name, change, length, state) in cases {
        let mut bench = Bench::open();
        bench.limits.input = 100;
        change(&mut bench);
        bench.link.flags.clear(USEFUL);
        let mut kept = bench.pool.take_kept();
        kept.append(&vec![0; length]);
        assert!(bench.link.keep(Some(kept), false, &bench.limits, bench.now).is_none(), "{name}");
        assert_eq!(bench.link.describe(), state, "{name}");
        assert!(bench.link.kept.is_some() && bench.link.flags.has(UNWEIGHED) && !bench.link.is_useful(), "{name}");
        if state == "flushing" {
            assert_eq!(bench.link.reason(), CloseReason::InputOverflow { limit: 100 });
        }
    }
    // A relay reads on for any length of its output, so its input is bounded again.
    let mut relay = Bench::open();
    relay.limits.input = 100;
    relay.link.read_on();
    relay.write(relay.limits.output_high + 1);
    let mut kept = relay.pool.take_kept();
    kept.append(&[0; 101]);
    assert!(relay.link.keep(Some(kept), true, &relay.limits, relay.now).is_none());
    assert_eq!(relay.link.describe(), "flushing");
}

#[test]
fn input_of_a_closing_link_goes_back_and_consumed_input_makes_useful() {
    let mut bench = Bench::open();
    assert!(bench.link.keep(None, true, &bench.limits, bench.now).is_none());
    assert!(bench.link.is_useful() && !bench.link.flags.has(UNWEIGHED));
    bench.link.set_state_bytes(1024);
    bench.link.weigh(&mut Holdings::new(Arc::new(Budget::new(usize::MAX, None))));
    assert!(bench.link.keep(None, true, &bench.limits, bench.now).is_none());
    assert!(bench.link.flags.has(UNWEIGHED), "what was kept before is counted no more");
    bench.close();
    let kept = bench.pool.take_kept();
    assert!(bench.link.keep(Some(kept), false, &bench.limits, bench.now).is_some());
}

#[test]
fn a_link_is_plainly_read_while_it_is_open_and_nothing_else_is_awaited() {
    let states: [(bool, Change); 4] = [
        (true, |_| {}),
        (false, |bench| bench.link.pause()),
        (false, |bench| bench.close()),
        (false, |bench| bench.link.begin_handshake()),
    ];
    for (plainly, change) in states {
        let mut bench = Bench::open();
        change(&mut bench);
        assert_eq!(bench.link.is_plainly_read(), plainly);
    }
    let mut bench = Bench::open();
    assert!(!bench.link.is_to_be_held_back(&bench.limits));
    bench.link.pause();
    #[cfg(feature = "sim")]
    assert!(bench.link.is_paused());
    assert!(bench.link.is_to_be_held_back(&bench.limits));
    bench.link.resume();
    #[cfg(feature = "sim")]
    assert!(!bench.link.is_paused());
}

#[test]
fn an_error_after_our_fin_keeps_the_reason_of_the_close() {
    let mut bench = Bench::open();
    bench.close();
    bench.finished();
    bench.link.failed(Errno(104), bench.now);
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn reading_on_offers_kept_input_only_once_and_only_if_the_output_had_stopped_the_reading() {
    let mut bench = Bench::open();
    bench.link.read_on();
    assert_eq!(bench.step(), Step::Rest);
    bench.link.flags.choke();
    bench.link.read_on();
    assert_eq!(bench.step(), Step::Rest, "it has read on before");
}

#[test]
fn what_a_handler_has_asked_for_is_read_from_the_link() {
    let mut bench = Bench::open();
    assert_eq!(bench.link.requests(), Requests::default());
    bench.link.set_deadline(Some(Duration::from_secs(5)));
    assert_eq!(bench.link.requests().deadline, Some(Duration::from_secs(5)));
    bench.write(1);
    bench.close();
    assert!(bench.link.requests().closing && !bench.link.requests().resets);
    bench.link.abort(CloseReason::Closed);
    assert!(bench.link.requests().closing && bench.link.requests().resets);
}
