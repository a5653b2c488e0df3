//! A link as a member of topics: what a slow member costs, the notice of missed messages, and the order of its bytes.

use super::*;
use crate::limits::SlowPolicy;

/// Bytes of a message of these tests.
const EACH: usize = 100;

impl Bench {
    /// A member whose messages are bounded: seven of `EACH` bytes fit, each with the cost of its place.
    fn member(policy: SlowPolicy) -> Self {
        let mut bench = Bench::open();
        (bench.limits.slow_members, bench.limits.member_queue) = (policy, 1000);
        bench.link.set_member(true, &bench.limits);
        bench
    }

    /// A member whose peer has taken 4 of 10 bytes, and no more.
    fn blocked_member(policy: SlowPolicy) -> Self {
        let mut bench = Bench::member(policy);
        bench.write(10);
        assert_eq!(bench.step(), Step::Send);
        bench.blocked(4);
        bench
    }

    /// Publishes `count` messages. Returns the numbers of taken and of missed messages.
    fn publish(&mut self, count: usize) -> (usize, u64) {
        let (bytes, lengths, mut missed) = (vec![b'm'; EACH * count], vec![EACH as u32; count], 0);
        let messages = Messages { bytes: &bytes, shared: None, lengths: &lengths };
        let taken = self.link.deliver(messages, &self.limits, &mut self.pool, &mut missed);
        (taken, missed)
    }

    fn trimmed(&mut self, outcome: Sent) -> Lost {
        self.link.sent(outcome, self.now, &self.limits, &mut self.pool, || 0)
    }
}

#[test]
fn a_blocked_member_is_too_slow_once_its_queue_is_full_and_all_messages_are_missed() {
    let mut bench = Bench::blocked_member(SlowPolicy::Disconnect);
    assert_eq!(bench.publish(20), (7, 20));
    #[cfg(feature = "sim")]
    assert!(bench.link.is_too_slow());
    assert_eq!(bench.publish(2), (0, 2));
    assert_eq!(bench.step(), Step::TooSlow);
    assert_ne!(bench.step(), Step::TooSlow, "reported once");
    bench.link.close_slow(bench.now);
    assert_eq!(bench.link.reason(), CloseReason::OutputOverflow { queued: 6 });
    assert_eq!(bench.link.describe(), "flushing");
}

#[test]
fn messages_of_a_turn_are_bounded_only_once_the_kernel_has_not_taken_them() {
    let mut bench = Bench::member(SlowPolicy::Disconnect);
    assert_eq!(bench.publish(20), (20, 0));
    assert_eq!(bench.step(), Step::Send);
    assert_eq!(bench.trimmed(Sent::Blocked(0)).messages, 20);
    assert_eq!(bench.step(), Step::TooSlow);

    let mut bench = Bench::member(SlowPolicy::Disconnect);
    bench.publish(20);
    assert_eq!(bench.trimmed(Sent::Bytes(20 * EACH)), Lost::default());
    assert_eq!(bench.step(), Step::Rest);
    #[cfg(feature = "sim")]
    assert!(!bench.link.is_too_slow());
}

#[test]
fn a_closing_member_gets_all_that_was_published_before() {
    let mut bench = Bench::member(SlowPolicy::Disconnect);
    bench.publish(20);
    bench.close();
    assert_eq!(bench.step(), Step::Send);
    assert_eq!(bench.trimmed(Sent::Blocked(0)), Lost::default());
    assert_eq!(bench.link.queued(), 20 * EACH);
    assert_eq!(bench.publish(1), (0, 0), "and nothing published later");
}

#[test]
fn the_notice_of_missed_messages_comes_in_their_place_once_the_kernel_takes_bytes() {
    let mut bench = Bench::blocked_member(SlowPolicy::DropOldest);
    assert_eq!(bench.publish(20), (20, 13));
    bench.blocked(6);
    assert_eq!(bench.step(), Step::Rest, "nothing can leave yet");
    bench.sent(0);
    assert_eq!(bench.step(), Step::Missed);
    assert!(bench.link.is_in_order());
    assert_eq!(bench.link.take_missed(), 13);
    assert!(!bench.link.is_in_order(), "the notice stands before later publications");
    assert!(bench.write(5));
    bench.link.notice_done();
    assert!(bench.link.is_in_order());
    assert_eq!(bench.link.queued(), 5 + 7 * EACH);
    assert_eq!(bench.step(), Step::Send);
}

#[test]
fn messages_behind_what_has_left_are_sent_without_a_notice() {
    let mut bench = Bench::blocked_member(SlowPolicy::DropOldest);
    assert_eq!(bench.publish(1), (1, 0));
    bench.sent(6);
    assert_eq!(bench.step(), Step::Send);
}

#[test]
fn a_closing_member_still_gets_its_notice_and_its_writes_end_with_it() {
    let mut bench = Bench::blocked_member(SlowPolicy::DropOldest);
    bench.publish(20);
    bench.close();
    bench.sent(6);
    assert_eq!(bench.step(), Step::Missed);
    assert!(!bench.write(1));
    assert_eq!(bench.link.take_missed(), 13);
    assert!(bench.write(1), "the notice itself");
    bench.link.notice_done();
    assert!(!bench.write(1));
    assert_eq!(bench.step(), Step::Send);
    bench.link.abort(CloseReason::Closed);
    bench.link.take_missed();
    assert!(!bench.write(1), "nothing is written to a connection that is over");
}

#[test]
fn messages_that_are_dropped_let_reading_go_on() {
    let mut bench = Bench::member(SlowPolicy::Disconnect);
    (bench.limits.output_high, bench.limits.output_low) = (500, 100);
    bench.write(10);
    bench.step();
    bench.blocked(4);
    assert_eq!(bench.publish(7), (7, 0));
    bench.step();
    assert!(!bench.link.reads());
    assert_eq!(bench.publish(1), (0, 8));
    assert!(bench.link.reads(), "6 bytes are left");
}

#[test]
fn membership_makes_useful_and_exempts_from_progress_only_where_messages_are_dropped() {
    for (policy, keeps) in
        [(SlowPolicy::Disconnect, false), (SlowPolicy::DropOldest, true), (SlowPolicy::DropNewest, true)]
    {
        let mut bench = Bench::open();
        bench.anchored(0);
        bench.limits.slow_members = policy;
        assert!(!bench.link.is_in_order());
        bench.link.set_member(true, &bench.limits);
        assert!(bench.link.is_useful() && bench.link.is_in_order());
        assert!(bench.link.take_deadline_change(bench.now, || 0));
        bench.link.flags.set(BLOCKED);
        assert_eq!(bench.link.must_progress(), !keeps, "{policy:?}");
        bench.link.set_member(false, &bench.limits);
        assert!(!bench.link.is_in_order() && bench.link.must_progress());
    }
}
