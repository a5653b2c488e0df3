//! Every state of a link, reached without a socket or a clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::budget::{Budget, Holdings};
use crate::buffer::{Messages, Pool};
use crate::error::Errno;
use crate::limits::{Deadlines, Limits};
use crate::reason::Deadline;

const SECOND: u64 = 1_000_000_000;

/// A link with its surroundings: the test does by hand what the loop would do.
struct Bench {
    link: Link,
    pool: Pool,
    limits: Limits,
    deadlines: Deadlines,
    now: Time,
    turn: u32,
}

/// A write to the output in a test.
type Put = fn(&mut Output);

/// An event for the link of a bench.
type Change = fn(&mut Bench);

impl Bench {
    fn with(origin: Origin) -> Self {
        Bench {
            link: Link::new(origin, Peer::Unix, 0, 0, Time(SECOND)),
            pool: Pool::default(),
            limits: Limits::default(),
            deadlines: Deadlines::default(),
            now: Time(SECOND),
            turn: 1,
        }
    }

    fn open() -> Self {
        Self::with(Origin::Accepted)
    }

    fn write(&mut self, count: usize) -> bool {
        let output = self.link.writable_output(&mut self.pool, &self.limits);
        output.map(|output| output.put(&vec![b'x'; count])).is_some()
    }

    fn step(&mut self) -> Step {
        self.link.step(self.turn, &self.limits)
    }

    fn closes(&mut self) -> CloseReason {
        assert_eq!(self.step(), Step::Close);
        self.link.reason()
    }

    fn outcome(&mut self, outcome: Sent, unacknowledged: usize) -> usize {
        self.link.sent(outcome, self.now, &self.limits, &mut self.pool, || unacknowledged).bytes
    }

    fn sent(&mut self, count: usize) {
        self.outcome(Sent::Bytes(count), 0);
    }

    fn blocked(&mut self, count: usize) {
        self.outcome(Sent::Blocked(count), 0);
    }

    fn failed(&mut self) -> usize {
        self.outcome(Sent::Failed(Errno(32)), 0)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let mut kept = self.pool.take_kept();
        kept.append(bytes);
        self.link.kept = Some(kept);
    }

    fn received(&mut self, count: usize) -> bool {
        let delivered = self.link.received(count, self.now);
        if !delivered {
            self.link.discard(count, &self.limits);
        }
        delivered
    }

    fn close(&mut self) {
        self.link.close(self.now);
        self.anchored(0);
    }

    /// Anchors deadlines, as the loop does after each callback.
    fn anchored(&mut self, unacknowledged: usize) {
        self.link.take_deadline_change(self.now, || unacknowledged);
    }

    fn finished(&mut self) {
        assert_eq!(self.step(), Step::Finish);
        self.link.finished(self.now, || 0);
    }

    fn next_due(&self) -> Option<(u64, Due)> {
        self.link.next_deadline(&self.deadlines).map(|(at, due)| (at.0 / SECOND, due))
    }

    /// Lets time pass until then. At each due look the peer has `unacknowledged` bytes left.
    fn pass(&mut self, until: u64, unacknowledged: usize) {
        while let Some((at, due)) = self.link.next_due(&self.deadlines).filter(|(at, _)| *at <= Time(until * SECOND)) {
            self.now = at;
            if self.link.due(due, at, unacknowledged).is_some() {
                return;
            }
        }
        self.now = Time(until * SECOND);
    }
}

#[test]
fn a_link_that_nothing_happens_to_rests_and_reads() {
    let mut bench = Bench::open();
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.link.reads() && !bench.link.writes());
}

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
fn closing_sends_what_is_owed_then_ends_its_half_and_waits_for_the_peers() {
    let mut bench = Bench::open();
    bench.write(10);
    bench.close();
    assert!(!bench.write(1), "a write after close is refused");
    assert_eq!(bench.step(), Step::Send);
    bench.sent(10);
    bench.finished();
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.link.reads(), "what the peer still sends is thrown away");
    assert!(!bench.received(100));
    bench.link.end_of_input();
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn a_peer_that_has_ended_is_not_lingered_for() {
    let mut bench = Bench::open();
    bench.link.end_of_input();
    assert_eq!(bench.step(), Step::EndOfInput);
    bench.close();
    bench.finished();
    assert_eq!(bench.closes(), CloseReason::PeerEnded);
}

#[test]
fn lingering_has_a_limit_in_bytes() {
    let mut bench = Bench::open();
    bench.limits.linger_bytes = 1000;
    bench.close();
    bench.finished();
    bench.received(1000);
    assert_eq!(bench.step(), Step::Rest);
    bench.received(1);
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn who_sends_without_end_while_it_is_still_owed_is_no_longer_heard_and_still_sent_to() {
    let mut bench = Bench::open();
    bench.limits.linger_bytes = 1000;
    bench.write(500);
    bench.close();
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(100);
    bench.received(1001);
    assert!(!bench.link.reads() && bench.link.writes());
    bench.sent(400);
    bench.finished();
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn what_was_written_before_the_connection_stood_leaves_before_a_close_that_was_asked_for_then() {
    let mut bench = Bench::with(Origin::Outbound);
    bench.write(10);
    bench.close();
    assert!(!bench.write(1));
    assert_eq!(bench.step(), Step::Rest);
    bench.link.connected(bench.now);
    assert_eq!(bench.step(), Step::Send);
    bench.sent(10);
    bench.finished();
}

#[test]
fn who_closes_before_the_connection_stands_hears_no_more_of_it() {
    let mut bench = Bench::with(Origin::Outbound);
    bench.link.set_deadline(Some(Duration::from_secs(2)));
    bench.write(10);
    bench.close();
    bench.link.set_deadline(Some(Duration::from_secs(3)));
    bench.anchored(0);
    assert_eq!(bench.next_due(), Some((1 + 30, Due::Loop(Deadline::Connect))));
    bench.link.stop();
    assert_eq!(bench.step(), Step::Rest);
}

#[test]
fn our_half_can_end_while_reading_goes_on_and_both_ended_is_the_end() {
    let mut bench = Bench::open();
    bench.write(5);
    bench.link.finish();
    assert!(!bench.write(1));
    assert_eq!(bench.step(), Step::Send);
    bench.sent(5);
    bench.finished();
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.received(3), "the handler gets it");
    bench.link.end_of_input();
    assert_eq!(bench.step(), Step::EndOfInput);
    assert_eq!(bench.closes(), CloseReason::PeerEnded);
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
fn a_failed_send_ends_a_paused_link_at_once() {
    let mut bench = Bench::open();
    bench.link.pause();
    bench.write(10);
    bench.failed();
    assert_eq!(bench.closes(), CloseReason::Reset);
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
fn a_refused_newcomer_is_told_and_lingered_for_only_if_there_are_few() {
    for lingers in [true, false] {
        let mut bench = Bench::with(Origin::Refused);
        bench.link.refuse(&Bytes::from_static(b"full"), lingers, bench.now, &mut bench.pool);
        assert_eq!(bench.step(), Step::Send);
        bench.sent(4);
        if lingers {
            bench.finished();
        }
        assert_eq!(bench.step(), if lingers { Step::Rest } else { Step::Close });
    }
}

#[test]
fn who_is_closed_briefly_gets_all_it_is_owed_and_is_not_listened_to() {
    let mut bench = Bench::open();
    assert!(bench.write(4));
    bench.link.close_briefly(bench.now);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(1);
    assert_eq!(bench.step(), Step::Rest);
    bench.sent(3);
    assert_eq!((bench.step(), bench.link.reason(), bench.link.resets()), (Step::Close, CloseReason::Closed, false));
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
fn a_refused_connect_tells_why() {
    let mut bench = Bench::with(Origin::Outbound);
    bench.link.failed(Errno(111), bench.now);
    assert_eq!(bench.closes(), CloseReason::ConnectFailed(Errno(111)));
}

#[test]
fn stopping_reads_what_has_arrived_before_the_handler_is_told() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    assert_eq!(bench.step(), Step::Rest, "until the driver has looked");
    assert!(bench.received(10));
    assert_eq!(bench.step(), Step::Probe, "there may be more");
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.close();
    bench.finished();
    assert_eq!(bench.step(), Step::Rest, "it was answered, so it is lingered for");
}

#[test]
fn stopping_is_told_to_a_handler_that_goes_on_after_the_end_of_the_input_which_the_driver_found_when_it_looked() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.link.end_of_input();
    assert_eq!((bench.step(), bench.step()), (Step::EndOfInput, Step::Stopping));
}

#[test]
fn stopping_tells_a_stream_that_fills_up_by_itself_instead_of_waiting_for_its_end() {
    let mut bench = Bench::open();
    let mut told = false;
    bench.link.stop();
    for turn in 1..4 {
        bench.turn = turn;
        bench.write(bench.limits.output_high + 1);
        assert_eq!(bench.step(), Step::Send);
        let owed = bench.link.queued();
        bench.sent(owed);
        told |= bench.step() == Step::Stopping;
    }
    assert!(told);
}

#[test]
fn stopping_answers_kept_requests_however_often_the_output_fills_up() {
    let mut bench = Bench::open();
    bench.link.stop();
    for turn in 1..10 {
        bench.turn = turn;
        bench.keep(b"another request");
        bench.write(bench.limits.output_high + 1);
        assert_eq!(bench.step(), Step::Send);
        let owed = bench.link.queued();
        bench.sent(owed);
        assert_eq!((bench.step(), bench.step()), (Step::Drained, Step::Deliver));
    }
}

#[test]
fn stopping_closes_at_once_who_is_owed_nothing() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.close();
    bench.finished();
    assert_eq!(bench.closes(), CloseReason::Stopped);
}

#[test]
fn stopping_lingers_for_who_has_not_taken_what_the_kernel_has() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.close();
    assert_eq!(bench.step(), Step::Finish);
    bench.link.finished(bench.now, || 1000);
    assert_eq!(bench.step(), Step::Rest);
    // The link is over when a look finds all but the FIN acknowledged.
    bench.pass(3, 1000);
    assert_eq!(bench.step(), Step::Rest);
    let acknowledged = bench.now;
    bench.pass(4, 1);
    assert!(bench.now.since(acknowledged) <= Duration::from_millis(100));
    assert_eq!(bench.closes(), CloseReason::Stopped);
}

#[test]
fn stopping_lingers_to_the_deadline_for_who_speaks_meanwhile() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.close();
    assert_eq!(bench.step(), Step::Finish);
    bench.link.finished(bench.now, || 1000);
    bench.received(10);
    bench.pass(3600, 0);
    assert_eq!(bench.now, Time(6 * SECOND));
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

#[test]
fn a_slot_with_a_new_tenant_answers_to_the_new_name_alone() {
    let mut links = Links::new(0, 1);
    let first = links.insert(Link::new(Origin::Accepted, Peer::Unix, 0, 0, Time(0)));
    links.remove(first);
    let second = links.insert(Link::new(Origin::Accepted, Peer::Unix, 0, 0, Time(0)));
    assert_eq!(first.slot(), second.slot());
    assert!(links.get(first).is_none() && links.remove(first).is_none());
    assert!(links.get(second).is_some());
}

#[test]
fn an_idle_link_stays_small() {
    assert!(std::mem::size_of::<Link>() <= 192, "{} bytes", std::mem::size_of::<Link>());
}

#[test]
fn heap_bytes_of_a_state_count_with_the_buffers_until_another_number_is_told() {
    let budget = Arc::new(Budget::new(usize::MAX, None));
    let mut holdings = Holdings::new(budget);
    let mut link = Link::new(Origin::Accepted, Peer::Unix, 0, 0, Time(0));
    for (told, counted) in [(1025, 1024), (1 << 20, 1 << 20), (1023, 0), (usize::MAX, 0xffff << 10), (0, 0)] {
        assert!(link.set_state_bytes(told) && !link.set_state_bytes(told));
        link.weigh(&mut holdings);
        assert_eq!(link.holding().own(), counted, "{told}");
    }
}

// ---- the short ways: each condition of them by itself ------------------------------------------------------------------

/// A link in its plain state: driver and timer are up to date, and no flag is set.
fn at_ease() -> Bench {
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
        let mut bench = at_ease();
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
    let mut bench = at_ease();
    bench.link.hold();
    bench.rests();
    bench.link.release_hold();
    assert!(!bench.link.has_plain_answer_only());
    assert!(bench.link.take_interest_change(), "the driver is told that it reads again");
    assert!(bench.link.has_plain_answer_only());
}

#[test]
fn an_answer_in_one_piece_goes_the_short_way_and_no_other_output() {
    let mut bench = at_ease();
    assert_eq!(bench.link.answer(&bench.limits), None, "nothing is queued");
    bench.write(bench.limits.output_high);
    assert_eq!(bench.link.answer(&bench.limits).map(<[u8]>::len), Some(bench.limits.output_high));
    bench.write(1);
    assert_eq!(bench.link.answer(&bench.limits), None, "more than the mark");
    let cases: [(&str, Put); 4] = [
        ("nothing was put", |_| {}),
        ("a shared piece", |output| output.put_shared(Bytes::from(vec![0; 5000]))),
        ("a message behind an answer", |output| {
            output.put(b"answer");
            output.put_messages(Messages { bytes: b"m", shared: None, lengths: &[1] }, Box::default);
        }),
        ("a gap", |output| {
            output.put(&[0; 10]);
            output.begin_write(0);
            output.set_max(0);
            output.put(b"x");
        }),
    ];
    for (what, put) in cases {
        let mut bench = at_ease();
        put(bench.link.writable_output(&mut bench.pool, &bench.limits).expect("it is open"));
        assert_eq!(bench.link.answer(&bench.limits), None, "{what}");
    }
}

#[test]
fn what_is_published_goes_to_the_driver_at_once_only_where_nothing_comes_before_it() {
    let bench = at_ease();
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
        let mut bench = at_ease();
        matter(&mut bench);
        assert!(!bench.link.takes_at_once(1, &bench.limits), "{what}");
    }
    assert!(!Bench::with(Origin::Outbound).link.takes_at_once(1, &Limits::default()), "connecting");
}
