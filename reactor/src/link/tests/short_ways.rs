//! The short ways of a plain answer: each condition by itself.

use super::*;

/// A write to the output in a test.
type Put = fn(&mut Output);

/// A link in its plain state: driver and timer are up to date, and no flag is set.
fn plain() -> Bench {
    let mut bench = Bench::open();
    bench.rests();
    assert!(bench.link.has_plain_answer_only());
    bench
}

impl Bench {
    /// Settles interest and deadlines, as the loop does when a link rests.
    fn rests(&mut self) {
        self.link.take_interest_change();
        self.anchored(0);
    }
}

#[test]
fn only_a_link_with_which_nothing_is_the_matter_goes_the_short_way() {
    let matters: [(&str, Change); 17] = [
        ("the peer has ended", |bench| bench.link.end_of_input()),
        ("paused", |bench| bench.link.pause()),
        ("held", |bench| bench.link.hold()),
        ("kept bytes are to be offered", |bench| {
            bench.link.pause();
            bench.link.resume();
        }),
        ("waiting for its output", |bench| {
            bench.write(1);
            bench.link.wait_for_output(bench.turn);
        }),
        ("blocked", |bench| {
            bench.write(2);
            bench.blocked(1);
        }),
        ("full", |bench| {
            bench.write(bench.limits.output_high + 1);
            bench.step();
        }),
        ("drained, and not told so", |bench| {
            bench.write(bench.limits.output_high + 1);
            bench.step();
            bench.sent(bench.limits.output_high + 1);
        }),
        ("sending has failed", |bench| {
            bench.write(1);
            bench.failed();
        }),
        ("finishing", |bench| bench.link.finish()),
        ("finished", |bench| {
            bench.link.finish();
            bench.finished();
        }),
        ("left out of a part of what is handed out", |bench| bench.link.set_excepted(true)),
        ("too slow", |bench| {
            bench.write(1);
            bench.blocked(0);
            bench.limits.member_queue = 0;
            let message = Messages { bytes: b"message", shared: None, lengths: &[7] };
            bench.link.deliver(message, &bench.limits, &mut bench.pool, &mut 0);
            bench.sent(1);
        }),
        ("its deadline has changed", |bench| bench.link.set_deadline(Some(Duration::from_secs(1)))),
        ("the application stops", |bench| bench.link.stop()),
        ("closing", |bench| bench.close()),
        ("over, and nobody has been told", |bench| bench.link.over(CloseReason::Reset)),
    ];
    for (what, matter) in matters {
        let mut bench = plain();
        matter(&mut bench);
        if !what.contains("changed") && !what.contains("nobody") {
            bench.rests();
        }
        assert!(!bench.link.has_plain_answer_only(), "{what}");
    }
}

#[test]
fn a_link_whose_driver_knows_it_otherwise_goes_the_long_way_until_the_driver_is_told() {
    // The driver was never told.
    let mut bench = Bench::open();
    bench.anchored(0);
    assert!(!bench.link.has_plain_answer_only());
    // The driver was told that the link does not read, and no other flag is set.
    let mut bench = plain();
    bench.link.hold();
    bench.rests();
    bench.link.release_hold();
    assert!(!bench.link.has_plain_answer_only());
    assert!(bench.link.take_interest_change(), "the driver is told that it reads again");
    assert!(bench.link.has_plain_answer_only());
}

#[test]
fn an_answer_in_one_piece_goes_the_short_way_and_no_other_output() {
    let mut bench = plain();
    assert_eq!(bench.link.answer(), None, "nothing is queued");
    bench.write(bench.limits.output_high);
    assert_eq!(bench.link.answer().map(<[u8]>::len), Some(bench.limits.output_high));
    bench.write(1);
    assert_eq!(bench.link.answer(), None, "more than the mark");
    let cases: [(&str, Put); 4] = [
        ("nothing was put", |_| {}),
        ("a shared piece", |output| output.put_shared(Bytes::from(vec![0; 5000]))),
        ("a message behind an answer", |output| {
            output.put(b"answer");
            output.put_messages(Messages { bytes: b"m", shared: None, lengths: &[1] }, Box::default);
        }),
        ("a gap", |output| {
            output.put(&[0; 10]);
            output.begin_write_above(0);
            output.set_max(0);
            output.put(b"x");
        }),
    ];
    for (what, put) in cases {
        let mut bench = plain();
        put(bench.link.writable_output(&mut bench.pool, &bench.limits).expect("it is open"));
        assert_eq!(bench.link.answer(), None, "{what}");
    }
}

#[test]
fn what_is_published_goes_to_the_driver_at_once_only_where_nothing_comes_before_it() {
    let bench = plain();
    let high = bench.limits.output_high;
    assert!(bench.link.takes_at_once(high, &bench.limits));
    assert!(!bench.link.takes_at_once(high + 1, &bench.limits), "more than the mark");
    let cases: [(&str, Change); 6] = [
        ("something is queued", |bench| {
            bench.write(1);
        }),
        ("something else was done to it in this turn", |bench| bench.link.dirty = true),
        ("sending has failed", |bench| {
            bench.write(1);
            bench.failed();
        }),
        ("finishing", |bench| bench.link.finish()),
        ("left out of a part of it", |bench| bench.link.set_excepted(true)),
        ("closing", |bench| bench.close()),
    ];
    for (what, matter) in cases {
        let mut bench = plain();
        matter(&mut bench);
        assert!(!bench.link.takes_at_once(1, &bench.limits), "{what}");
    }
    assert!(!Bench::with(Origin::Outbound).link.takes_at_once(1, &Limits::default()), "connecting");
}
