//! Every state of a link, reached without a socket or a clock.

use std::time::Duration;

use super::*;
use crate::buffer::Messages;
use crate::limits::Deadlines;
use crate::reason::Deadline;

const SECOND: u64 = 1_000_000_000;

/// A link on a desk: what the loop would do for it, done by hand.
struct LoopHandle {
    link: Link,
    pool: Pool,
    limits: Limits,
    deadlines: Deadlines,
    now: Time,
    turn: u32,
}

impl LoopHandle {
    fn with(origin: Origin) -> Self {
        LoopHandle {
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

    /// As the loop does after each callback.
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

    /// Lets time pass until then; at each look that is due meanwhile the peer has so much left to acknowledge.
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
    let mut desk = LoopHandle::open();
    assert_eq!(desk.step(), Step::Rest);
    assert!(desk.link.reads() && !desk.link.writes());
}

#[test]
fn what_is_written_is_sent_and_then_the_buffer_is_given_back() {
    let mut desk = LoopHandle::open();
    desk.write(10);
    assert_eq!(desk.step(), Step::Send);
    desk.sent(10);
    assert_eq!(desk.step(), Step::Rest);
    assert!(desk.link.output().is_none(), "an idle link owns no buffer");
}

#[test]
fn a_short_send_waits_for_the_driver_and_reading_goes_on() {
    let mut desk = LoopHandle::open();
    desk.write(10);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(4);
    assert_eq!(desk.step(), Step::Rest);
    assert!(desk.link.writes() && desk.link.reads());
    desk.sent(6);
    assert!(!desk.link.writes());
}

#[test]
fn above_the_high_water_mark_reading_stops_until_the_low_one_and_then_the_handler_is_told_once() {
    let mut desk = LoopHandle::open();
    let owed = desk.limits.output_high + 1;
    desk.write(owed);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(0);
    assert!(!desk.link.reads());
    desk.blocked(owed - desk.limits.output_low - 1);
    assert_eq!(desk.step(), Step::Rest);
    assert!(!desk.link.reads(), "between the marks it stays as it was");
    desk.blocked(1);
    assert_eq!(desk.step(), Step::Drained);
    assert_eq!(desk.step(), Step::Rest);
    assert!(desk.link.reads());
}

#[test]
fn on_drained_that_fills_up_again_comes_once_a_turn() {
    let mut desk = LoopHandle::open();
    for turn in 1..5 {
        desk.turn = turn;
        for _ in 0..2 {
            desk.write(desk.limits.output_high + 1);
            assert_eq!(desk.step(), Step::Send);
            let owed = desk.link.queued();
            desk.sent(owed);
            if desk.step() == Step::NextTurn {
                break;
            }
        }
        assert_eq!(desk.step(), Step::NextTurn);
    }
}

#[test]
fn what_had_drained_and_filled_up_again_before_anybody_was_told_is_not_told_drained() {
    let mut desk = LoopHandle::open();
    let owed = desk.limits.output_high + 1;
    for step in [Step::Drained, Step::NextTurn] {
        desk.write(owed);
        assert_eq!(desk.step(), Step::Send);
        desk.sent(owed);
        assert_eq!(desk.step(), step);
    }
    desk.write(owed);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(0);
    desk.turn += 1;
    assert_eq!(desk.step(), Step::Rest);
    desk.sent(owed);
    assert_eq!(desk.step(), Step::Drained);
}

#[test]
fn kept_input_is_offered_again_after_the_output_drained_and_before_the_end() {
    let mut desk = LoopHandle::open();
    let owed = desk.limits.output_high + 1;
    desk.write(owed);
    desk.keep(b"next request");
    desk.link.end_of_input();
    assert_eq!(desk.step(), Step::Send);
    desk.sent(owed);
    assert_eq!(desk.step(), Step::Drained);
    assert_eq!(desk.step(), Step::Deliver);
    desk.link.kept = None;
    assert_eq!(desk.step(), Step::EndOfInput);
    assert_eq!(desk.step(), Step::Rest, "the end is told once");
}

#[test]
fn a_pause_holds_back_the_end_too_and_resuming_offers_what_was_kept_first() {
    let mut desk = LoopHandle::open();
    desk.keep(b"bytes");
    desk.link.pause();
    desk.link.end_of_input();
    assert_eq!(desk.step(), Step::Rest);
    assert!(!desk.link.reads());
    desk.link.resume();
    assert_eq!(desk.step(), Step::Deliver);
    desk.link.kept = None;
    assert_eq!(desk.step(), Step::EndOfInput);
}

#[test]
fn resuming_what_was_not_paused_offers_nothing() {
    let mut desk = LoopHandle::open();
    desk.keep(b"half a line");
    desk.link.resume();
    assert_eq!(desk.step(), Step::Rest);
}

#[test]
fn closing_sends_what_is_owed_then_ends_its_half_and_waits_for_the_peers() {
    let mut desk = LoopHandle::open();
    desk.write(10);
    desk.close();
    assert!(!desk.write(1), "a write after close is refused");
    assert_eq!(desk.step(), Step::Send);
    desk.sent(10);
    desk.finished();
    assert_eq!(desk.step(), Step::Rest);
    assert!(desk.link.reads(), "what the peer still sends is thrown away");
    assert!(!desk.received(100));
    desk.link.end_of_input();
    assert_eq!(desk.closes(), CloseReason::Closed);
}

#[test]
fn a_peer_that_has_ended_is_not_lingered_for() {
    let mut desk = LoopHandle::open();
    desk.link.end_of_input();
    assert_eq!(desk.step(), Step::EndOfInput);
    desk.close();
    desk.finished();
    assert_eq!(desk.closes(), CloseReason::PeerEnded);
}

#[test]
fn lingering_has_a_limit_in_bytes() {
    let mut desk = LoopHandle::open();
    desk.limits.linger_bytes = 1000;
    desk.close();
    desk.finished();
    desk.received(1000);
    assert_eq!(desk.step(), Step::Rest);
    desk.received(1);
    assert_eq!(desk.closes(), CloseReason::Closed);
}

#[test]
fn who_sends_without_end_while_it_is_still_owed_is_no_longer_heard_and_still_sent_to() {
    let mut desk = LoopHandle::open();
    desk.limits.linger_bytes = 1000;
    desk.write(500);
    desk.close();
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(100);
    desk.received(1001);
    assert!(!desk.link.reads() && desk.link.writes());
    desk.sent(400);
    desk.finished();
    assert_eq!(desk.closes(), CloseReason::Closed);
}

#[test]
fn what_was_written_before_the_connection_stood_leaves_before_a_close_that_was_asked_for_then() {
    let mut desk = LoopHandle::with(Origin::Outbound);
    desk.write(10);
    desk.close();
    assert!(!desk.write(1));
    assert_eq!(desk.step(), Step::Rest);
    desk.link.connected(desk.now);
    assert_eq!(desk.step(), Step::Send);
    desk.sent(10);
    desk.finished();
}

#[test]
fn who_closes_before_the_connection_stands_hears_no_more_of_it() {
    let mut desk = LoopHandle::with(Origin::Outbound);
    desk.link.set_deadline(Some(Duration::from_secs(2)));
    desk.write(10);
    desk.close();
    desk.link.set_deadline(Some(Duration::from_secs(3)));
    desk.anchored(0);
    assert_eq!(desk.next_due(), Some((1 + 30, Due::Loop(Deadline::Connect))));
    desk.link.stop();
    assert_eq!(desk.step(), Step::Rest);
}

#[test]
fn our_half_can_end_while_reading_goes_on_and_both_ended_is_the_end() {
    let mut desk = LoopHandle::open();
    desk.write(5);
    desk.link.finish();
    assert!(!desk.write(1));
    assert_eq!(desk.step(), Step::Send);
    desk.sent(5);
    desk.finished();
    assert_eq!(desk.step(), Step::Rest);
    assert!(desk.received(3), "the handler gets it");
    desk.link.end_of_input();
    assert_eq!(desk.step(), Step::EndOfInput);
    assert_eq!(desk.closes(), CloseReason::PeerEnded);
}

#[test]
fn a_failed_send_loses_what_is_owed_and_not_what_has_arrived() {
    let mut desk = LoopHandle::open();
    desk.write(10);
    assert_eq!(desk.step(), Step::Send);
    assert_eq!(desk.failed(), 10);
    assert!(desk.link.reads() && !desk.write(1));
    assert!(desk.received(7), "delivered");
    assert_eq!(desk.next_due(), Some((1 + 5, Due::Loop(Deadline::Linger))));
    desk.link.end_of_input();
    assert_eq!(desk.closes(), CloseReason::Reset);
}

#[test]
fn what_was_read_before_a_reset_and_waits_for_its_turn_is_still_delivered() {
    let mut desk = LoopHandle::open();
    desk.keep(b"the rest");
    desk.link.offer_next_turn(desk.turn);
    desk.write(1);
    desk.link.failed(Errno(104), desk.now);
    assert_eq!(desk.step(), Step::Send);
    desk.failed();
    assert_eq!(desk.step(), Step::NextTurn);
    desk.turn += 1;
    assert_eq!(desk.step(), Step::Deliver);
    desk.link.kept = None;
    assert_eq!(desk.closes(), CloseReason::Reset);
}

#[test]
fn a_reset_that_sending_told_first_does_not_move_the_deadline() {
    let mut desk = LoopHandle::open();
    desk.keep(b"the rest");
    desk.link.offer_next_turn(desk.turn);
    desk.write(1);
    desk.failed();
    desk.now = desk.now + Duration::from_secs(4);
    desk.link.failed(Errno(104), desk.now);
    assert_eq!(desk.next_due(), Some((1 + 5, Due::Loop(Deadline::Linger))));
}

#[test]
fn an_overflow_is_not_forgotten_when_what_was_queued_has_left_since() {
    let mut desk = LoopHandle::open();
    (desk.limits.output_high, desk.limits.output_max) = (50, 100);
    desk.write(100);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(0);
    desk.write(1);
    desk.sent(100);
    desk.finished();
    desk.link.end_of_input();
    assert_eq!(desk.closes(), CloseReason::OutputOverflow { queued: 100 });
}

#[test]
fn a_failed_send_ends_a_paused_link_at_once() {
    let mut desk = LoopHandle::open();
    desk.link.pause();
    desk.write(10);
    desk.failed();
    assert_eq!(desk.closes(), CloseReason::Reset);
}

#[test]
fn what_was_accepted_before_a_refused_write_leaves_before_the_end() {
    let mut desk = LoopHandle::open();
    (desk.limits.output_high, desk.limits.output_max) = (50, 100);
    desk.write(50);
    desk.write(200);
    assert_eq!(desk.step(), Step::Send, "at the mark a write is taken whatever its size");
    desk.blocked(0);
    desk.write(1);
    assert_eq!(desk.step(), Step::Overflowed);
    desk.link.close(desk.now);
    assert_eq!(desk.step(), Step::Rest, "what was accepted waits for the kernel");
    desk.sent(250);
    desk.finished();
    desk.link.end_of_input();
    assert_eq!(desk.closes(), CloseReason::OutputOverflow { queued: 250 });
    assert!(!desk.link.resets());
}

#[test]
fn who_waits_for_its_output_is_not_read_until_all_has_left_and_is_offered_the_rest() {
    let mut desk = LoopHandle::open();
    desk.write(10);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(2);
    desk.keep(b"the rest");
    desk.link.wait_for_output(desk.turn);
    assert!(!desk.link.reads() && desk.link.take_interest_change());
    assert_eq!((desk.step(), desk.link.describe()), (Step::Rest, "waiting"));
    desk.blocked(7);
    assert!(!desk.link.reads(), "one byte is queued still");
    desk.sent(1);
    assert_eq!(desk.step(), Step::Deliver);
    assert!(desk.link.reads());
}

#[test]
fn who_waits_for_its_output_although_nothing_is_queued_is_offered_the_rest_in_the_next_turn() {
    let mut desk = LoopHandle::open();
    desk.keep(b"the rest");
    desk.link.wait_for_output(desk.turn);
    assert_eq!(desk.step(), Step::NextTurn);
    desk.turn += 1;
    assert_eq!(desk.step(), Step::Deliver);
}

#[test]
fn who_waits_for_its_output_is_offered_the_rest_when_nothing_can_be_sent_any_more() {
    let mut desk = LoopHandle::open();
    desk.write(10);
    desk.keep(b"the rest");
    desk.link.wait_for_output(desk.turn);
    assert_eq!(desk.step(), Step::Send);
    desk.failed();
    assert_eq!(desk.step(), Step::Deliver);
}

#[test]
fn a_relay_is_read_although_more_is_queued_than_the_mark() {
    let mut desk = LoopHandle::open();
    desk.limits.output_high = 50;
    desk.write(100);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(0);
    assert_eq!((desk.step(), desk.link.reads()), (Step::Rest, false));
    assert!(desk.link.take_interest_change());
    desk.keep(b"what came before");
    desk.link.read_on();
    assert_eq!(desk.step(), Step::Deliver, "what was kept meanwhile comes first");
    assert!(desk.link.reads() && desk.link.take_interest_change(), "the driver is told");
    desk.link.pause();
    assert_eq!((desk.step(), desk.link.reads()), (Step::Rest, false), "a pause holds all the same");
    desk.link.resume();
    desk.sent(100);
    assert_eq!(desk.step(), Step::Drained, "that it has drained is told as ever");
}

#[test]
fn a_close_after_an_overflow_does_not_pass_for_the_end_of_all_that_was_written() {
    for origin in [Origin::Accepted, Origin::Outbound] {
        let mut desk = LoopHandle::with(origin);
        (desk.limits.output_high, desk.limits.output_max) = (50, 100);
        desk.write(60);
        desk.write(60);
        desk.close();
        desk.link.connected(desk.now);
        assert_eq!(desk.step(), Step::Send);
        desk.sent(60);
        desk.finished();
        desk.link.end_of_input();
        assert_eq!(desk.closes(), CloseReason::OutputOverflow { queued: 60 });
    }
}

#[test]
fn a_refused_newcomer_is_told_and_lingered_for_only_if_there_are_few() {
    for lingers in [true, false] {
        let mut desk = LoopHandle::with(Origin::Refused);
        desk.link.refuse(&Bytes::from_static(b"full"), lingers, desk.now, &mut desk.pool);
        assert_eq!(desk.step(), Step::Send);
        desk.sent(4);
        if lingers {
            desk.finished();
        }
        assert_eq!(desk.step(), if lingers { Step::Rest } else { Step::Close });
    }
}

#[test]
fn who_is_closed_briefly_gets_all_it_is_owed_and_is_not_listened_to() {
    let mut desk = LoopHandle::open();
    assert!(desk.write(4));
    desk.link.close_briefly(desk.now);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(1);
    assert_eq!(desk.step(), Step::Rest);
    desk.sent(3);
    assert_eq!((desk.step(), desk.link.reason(), desk.link.resets()), (Step::Close, CloseReason::Closed, false));
}

#[test]
fn an_outbound_link_sends_nothing_before_it_is_connected() {
    let mut desk = LoopHandle::with(Origin::Outbound);
    assert!(desk.write(4));
    assert_eq!(desk.step(), Step::Rest);
    assert!(desk.link.writes() && !desk.link.reads());
    desk.link.connected(desk.now);
    assert_eq!(desk.step(), Step::Send);
}

#[test]
fn a_refused_connect_tells_why() {
    let mut desk = LoopHandle::with(Origin::Outbound);
    desk.link.failed(Errno(111), desk.now);
    assert_eq!(desk.closes(), CloseReason::ConnectFailed(Errno(111)));
}

#[test]
fn stopping_reads_what_has_arrived_before_the_handler_is_told() {
    let mut desk = LoopHandle::open();
    desk.link.stop();
    assert_eq!(desk.step(), Step::Probe);
    assert_eq!(desk.step(), Step::Rest, "until the driver has looked");
    assert!(desk.received(10));
    assert_eq!(desk.step(), Step::Probe, "there may be more");
    desk.link.nothing_arrived();
    assert_eq!(desk.step(), Step::Stopping);
    desk.close();
    desk.finished();
    assert_eq!(desk.step(), Step::Rest, "it was answered, so it is lingered for");
}

#[test]
fn stopping_is_told_to_a_handler_that_goes_on_after_the_end_of_the_input_which_the_driver_found_when_it_looked() {
    let mut desk = LoopHandle::open();
    desk.link.stop();
    assert_eq!(desk.step(), Step::Probe);
    desk.link.end_of_input();
    assert_eq!((desk.step(), desk.step()), (Step::EndOfInput, Step::Stopping));
}

#[test]
fn stopping_tells_a_stream_that_fills_up_by_itself_instead_of_waiting_for_its_end() {
    let mut desk = LoopHandle::open();
    let mut told = false;
    desk.link.stop();
    for turn in 1..4 {
        desk.turn = turn;
        desk.write(desk.limits.output_high + 1);
        assert_eq!(desk.step(), Step::Send);
        let owed = desk.link.queued();
        desk.sent(owed);
        told |= desk.step() == Step::Stopping;
    }
    assert!(told);
}

#[test]
fn stopping_answers_kept_requests_however_often_the_output_fills_up() {
    let mut desk = LoopHandle::open();
    desk.link.stop();
    for turn in 1..10 {
        desk.turn = turn;
        desk.keep(b"another request");
        desk.write(desk.limits.output_high + 1);
        assert_eq!(desk.step(), Step::Send);
        let owed = desk.link.queued();
        desk.sent(owed);
        assert_eq!((desk.step(), desk.step()), (Step::Drained, Step::Deliver));
    }
}

#[test]
fn stopping_closes_at_once_who_is_owed_nothing() {
    let mut desk = LoopHandle::open();
    desk.link.stop();
    assert_eq!(desk.step(), Step::Probe);
    desk.link.nothing_arrived();
    assert_eq!(desk.step(), Step::Stopping);
    desk.close();
    desk.finished();
    assert_eq!(desk.closes(), CloseReason::Stopped);
}

#[test]
fn stopping_lingers_for_who_has_not_taken_what_the_kernel_has() {
    let mut desk = LoopHandle::open();
    desk.link.stop();
    assert_eq!(desk.step(), Step::Probe);
    desk.link.nothing_arrived();
    assert_eq!(desk.step(), Step::Stopping);
    desk.close();
    assert_eq!(desk.step(), Step::Finish);
    desk.link.finished(desk.now, || 1000);
    assert_eq!(desk.step(), Step::Rest);
    // It is over soon after the peer has acknowledged all but the FIN, as soon as that is seen.
    desk.pass(3, 1000);
    assert_eq!(desk.step(), Step::Rest);
    let acknowledged = desk.now;
    desk.pass(4, 1);
    assert!(desk.now.since(acknowledged) <= Duration::from_millis(100));
    assert_eq!(desk.closes(), CloseReason::Stopped);
}

#[test]
fn stopping_lingers_to_the_deadline_for_who_speaks_meanwhile() {
    let mut desk = LoopHandle::open();
    desk.link.stop();
    assert_eq!(desk.step(), Step::Probe);
    desk.link.nothing_arrived();
    assert_eq!(desk.step(), Step::Stopping);
    desk.close();
    assert_eq!(desk.step(), Step::Finish);
    desk.link.finished(desk.now, || 1000);
    desk.received(10);
    desk.pass(3600, 0);
    assert_eq!(desk.now, Time(6 * SECOND));
}

#[test]
fn the_first_request_deadline_ends_with_the_first_use() {
    let mut desk = LoopHandle::open();
    assert_eq!(desk.next_due(), Some((1 + 30, Due::Loop(Deadline::FirstRequest))));
    desk.write(1);
    assert_eq!(desk.next_due(), None);
}

#[test]
fn a_dribbling_reader_does_not_defeat_the_write_progress_deadline() {
    let mut desk = LoopHandle::open();
    desk.write(1 << 20);
    assert_eq!(desk.step(), Step::Send);
    desk.outcome(Sent::Blocked(100_000), 100_000);
    assert_eq!(desk.next_due(), Some((1 + 30, Due::Loop(Deadline::WriteProgress))));
    // Half a minute later the peer's system has acknowledged ten thousand bytes: that is progress.
    desk.now = desk.now + Duration::from_secs(30);
    let due = Due::Loop(Deadline::WriteProgress);
    assert_eq!(desk.link.due(due, desk.now, 90_000), None);
    assert_eq!(desk.next_due(), Some((31 + 30, due)));
    // Another half, and it is one byte more.
    desk.now = desk.now + Duration::from_secs(30);
    assert_eq!(desk.link.due(due, desk.now, 89_999), Some(due));
    assert_eq!(desk.closes(), CloseReason::TimedOut(Deadline::WriteProgress));
    assert!(desk.link.resets());
}

#[test]
fn a_peer_whose_system_takes_a_lot_at_first_and_that_reads_nothing_ends_after_the_deadline_and_not_after_two() {
    for closing in [false, true] {
        let mut desk = LoopHandle::open();
        desk.write(8 << 20);
        assert_eq!(desk.step(), Step::Send);
        desk.outcome(Sent::Blocked(3 << 20), 3 << 20);
        if closing {
            desk.close();
        }
        // Within a second its buffers are full.
        desk.pass(3600, 1 << 20);
        assert_eq!(
            desk.link.reason(),
            CloseReason::TimedOut(if closing { Deadline::Linger } else { Deadline::WriteProgress })
        );
        let after = desk.now.0 / SECOND - 1;
        assert!((30..=35).contains(&after), "after {after} s");
    }
}

#[test]
fn a_close_does_not_give_a_peer_that_takes_nothing_its_deadline_anew() {
    let mut desk = LoopHandle::open();
    desk.write(8 << 20);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(100_000);
    desk.pass(25, 0);
    desk.close();
    assert_eq!(desk.next_due(), Some((1 + 30, Due::Loop(Deadline::Linger))));
}

#[test]
fn a_peer_that_takes_little_by_little_and_enough_in_all_goes_on() {
    let mut desk = LoopHandle::open();
    desk.write(8 << 20);
    assert_eq!(desk.step(), Step::Send);
    desk.outcome(Sent::Blocked(3 << 20), 3 << 20);
    // 200 bytes a second.
    for second in 1..3600 {
        desk.pass(second, (3 << 20) - 200 * second as usize);
    }
    assert_eq!(desk.step(), Step::Rest);
}

#[test]
fn lingering_ends_a_second_or_less_after_the_deadline_for_a_peer_that_took_something_at_first_or_said_something() {
    let mut desk = LoopHandle::open();
    desk.write(100_000);
    assert_eq!(desk.step(), Step::Send);
    desk.sent(100_000);
    desk.link.close(desk.now);
    desk.anchored(90_000);
    desk.finished();
    desk.received(5000);
    desk.pass(3600, 50_000);
    assert!(desk.now <= Time(7 * SECOND), "{:?}", desk.now);
}

#[test]
fn a_peer_that_is_still_taking_what_the_kernel_has_is_not_idle() {
    let mut desk = LoopHandle::open();
    desk.deadlines = Deadlines { idle: Some(Duration::from_secs(60)), first_request: None, ..Deadlines::default() };
    desk.write(200_000);
    assert_eq!(desk.step(), Step::Send);
    desk.sent(200_000);
    let due = Due::Loop(Deadline::Idle);
    assert_eq!(desk.next_due(), Some((61, due)));
    desk.now = Time(61 * SECOND);
    assert_eq!(desk.link.due(due, desk.now, 100_000), None);
    assert_eq!(desk.next_due(), Some((66, due)), "it is looked at again soon");
    assert_eq!(desk.link.due(due, Time(66 * SECOND), 99_999), Some(due), "one byte is none");
}

#[test]
fn once_nothing_waits_to_be_sent_the_idle_deadline_is_not_as_late_as_that_for_progress_was() {
    let mut desk = LoopHandle::open();
    desk.deadlines.idle = Some(Duration::from_secs(10));
    desk.write(10);
    desk.anchored(0);
    desk.step();
    desk.blocked(0);
    assert!(desk.link.take_deadline_change(desk.now, || 0));
    assert_eq!(desk.next_due(), Some((1 + 30, Due::Loop(Deadline::WriteProgress))));
    desk.sent(10);
    assert!(desk.link.take_deadline_change(desk.now, || 0), "the timer has to move");
    assert_eq!(desk.next_due(), Some((1 + 10, Due::Loop(Deadline::Idle))));
}

#[test]
fn while_closing_the_linger_deadline_alone_runs() {
    let mut desk = LoopHandle::open();
    desk.deadlines.idle = Some(Duration::from_secs(1));
    desk.link.set_deadline(Some(Duration::from_secs(1)));
    desk.anchored(0);
    assert_eq!(desk.next_due(), Some((2, Due::Handler)), "of two at once the handler's comes first");
    desk.close();
    assert_eq!(desk.next_due(), Some((1 + 30, Due::Loop(Deadline::Linger))));
    desk.finished();
    assert_eq!(desk.next_due(), Some((1 + 5, Due::Loop(Deadline::Linger))));
    // Nothing is owed: the end is what was asked for.
    assert!(desk.link.due(Due::Loop(Deadline::Linger), Time(6 * SECOND), 0).is_some());
    assert_eq!(desk.closes(), CloseReason::Closed);
}

#[test]
fn lingering_goes_on_while_the_peer_takes_what_the_kernel_still_has_for_it() {
    let mut desk = LoopHandle::open();
    desk.write(100_000);
    assert_eq!(desk.step(), Step::Send);
    desk.sent(100_000);
    desk.link.close(desk.now);
    desk.anchored(90_000);
    desk.finished();
    let due = Due::Loop(Deadline::Linger);
    assert_eq!(desk.link.due(due, Time(6 * SECOND), 85_904), None, "4096 bytes more");
    assert_eq!(desk.next_due(), Some((6 + 5, due)));
    assert_eq!(desk.link.due(due, Time(11 * SECOND), 85_904), Some(due));
}

#[test]
fn lingering_is_not_prolonged_by_what_left_before_all_of_it_was_taken() {
    let mut desk = LoopHandle::open();
    desk.write(100_000);
    desk.link.close(desk.now);
    desk.anchored(0);
    assert_eq!(desk.step(), Step::Send);
    desk.sent(100_000);
    desk.finished();
    assert!(desk.link.due(Due::Loop(Deadline::Linger), Time(6 * SECOND), 1).is_some());
    assert_eq!(desk.closes(), CloseReason::Closed);
}

#[test]
fn a_deadline_counts_from_the_end_of_the_callback_that_set_it() {
    let mut desk = LoopHandle::open();
    desk.write(1);
    desk.link.set_deadline(Some(Duration::from_secs(2)));
    desk.now = Time(4 * SECOND);
    desk.anchored(0);
    assert_eq!(desk.next_due(), Some((6, Due::Handler)));
}

#[test]
fn output_that_went_above_the_mark_and_left_within_one_batch_is_told_drained() {
    let mut desk = LoopHandle::open();
    desk.write(10);
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(0);
    desk.write(desk.limits.output_high);
    let owed = desk.link.queued();
    desk.sent(owed);
    assert_eq!(desk.step(), Step::Drained);
}

#[test]
fn who_is_still_uploading_is_heard_out_for_a_while_and_no_longer() {
    let mut desk = LoopHandle::open();
    desk.close();
    desk.finished();
    let due = Due::Loop(Deadline::Linger);
    for round in 1..=5 {
        desk.received(5000);
        assert_eq!(desk.link.due(due, Time(round * SECOND), 0), None);
    }
    desk.received(5000);
    assert_eq!(desk.link.due(due, Time(6 * SECOND), 0), Some(due));
    assert_eq!(desk.closes(), CloseReason::Closed);
}

#[test]
fn closing_leaves_a_peer_as_long_to_take_what_is_owed_as_it_had_before() {
    let mut desk = LoopHandle::open();
    desk.write(1000);
    desk.close();
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(0);
    assert_eq!(desk.next_due(), Some((1 + 30, Due::Loop(Deadline::Linger))));
    desk.sent(1000);
    desk.finished();
    assert_eq!(desk.next_due(), Some((1 + 5, Due::Loop(Deadline::Linger))));
}

#[test]
fn a_linger_deadline_that_costs_bytes_says_so() {
    let mut desk = LoopHandle::open();
    desk.write(1000);
    desk.close();
    assert_eq!(desk.step(), Step::Send);
    desk.blocked(0);
    assert!(desk.link.due(Due::Loop(Deadline::Linger), Time(6 * SECOND), 0).is_some());
    assert_eq!(desk.closes(), CloseReason::TimedOut(Deadline::Linger));
    assert_eq!(desk.link.release(&mut desk.pool), (0, 1000));
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

// ---- the short ways: each condition of them by itself ------------------------------------------------------------------

/// One that the driver and the timer know as it is, and that nothing is the matter with.
fn at_ease() -> LoopHandle {
    let mut desk = LoopHandle::open();
    desk.rests();
    assert!(desk.link.has_plain_answer_only());
    desk
}

impl LoopHandle {
    /// As the loop does once a link rests.
    fn rests(&mut self) {
        self.link.take_interest_change();
        self.anchored(0);
    }
}

#[test]
fn only_a_link_with_which_nothing_is_the_matter_goes_the_short_way() {
    let matters: [(&str, fn(&mut LoopHandle)); 17] = [
        ("the peer has ended", |desk| desk.link.end_of_input()),
        ("paused", |desk| desk.link.pause()),
        ("held", |desk| desk.link.hold()),
        ("kept bytes are to be offered", |desk| {
            desk.link.pause();
            desk.link.resume();
        }),
        ("waiting for its output", |desk| {
            desk.write(1);
            desk.link.wait_for_output(desk.turn);
        }),
        ("blocked", |desk| {
            desk.write(2);
            desk.blocked(1);
        }),
        ("full", |desk| {
            desk.write(desk.limits.output_high + 1);
            desk.step();
        }),
        ("drained, and not told so", |desk| {
            desk.write(desk.limits.output_high + 1);
            desk.step();
            desk.sent(desk.limits.output_high + 1);
        }),
        ("sending has failed", |desk| {
            desk.write(1);
            desk.failed();
        }),
        ("finishing", |desk| desk.link.finish()),
        ("finished", |desk| {
            desk.link.finish();
            desk.finished();
        }),
        ("left out of a part of what is handed out", |desk| desk.link.set_excepted(true)),
        ("too slow", |desk| {
            desk.write(1);
            desk.blocked(0);
            desk.limits.member_queue = 0;
            let message = Messages { bytes: b"message", shared: None, lengths: &[7] };
            desk.link.deliver(message, &desk.limits, &mut desk.pool, &mut 0);
            desk.sent(1);
        }),
        ("its deadline has changed", |desk| desk.link.set_deadline(Some(Duration::from_secs(1)))),
        ("the application stops", |desk| desk.link.stop()),
        ("closing", |desk| desk.close()),
        ("over, and nobody has been told", |desk| desk.link.over(CloseReason::Reset)),
    ];
    for (what, matter) in matters {
        let mut desk = at_ease();
        matter(&mut desk);
        if !what.contains("changed") && !what.contains("nobody") {
            desk.rests();
        }
        assert!(!desk.link.has_plain_answer_only(), "{what}");
    }
}

#[test]
fn a_link_whose_driver_knows_it_otherwise_goes_the_long_way_until_the_driver_is_told() {
    // Never told anything.
    let mut desk = LoopHandle::open();
    desk.anchored(0);
    assert!(!desk.link.has_plain_answer_only());
    // Told that it does not read, and nothing else is the matter any more.
    let mut desk = at_ease();
    desk.link.hold();
    desk.rests();
    desk.link.release_hold();
    assert!(!desk.link.has_plain_answer_only());
    assert!(desk.link.take_interest_change(), "the driver is told that it reads again");
    assert!(desk.link.has_plain_answer_only());
}

#[test]
fn an_answer_in_one_piece_goes_the_short_way_and_no_other_output() {
    let mut desk = at_ease();
    assert_eq!(desk.link.answer(&desk.limits), None, "nothing is queued");
    desk.write(desk.limits.output_high);
    assert_eq!(desk.link.answer(&desk.limits).map(<[u8]>::len), Some(desk.limits.output_high));
    desk.write(1);
    assert_eq!(desk.link.answer(&desk.limits), None, "more than the mark");
    let cases: [(&str, fn(&mut Output)); 4] = [
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
        let mut desk = at_ease();
        put(desk.link.writable_output(&mut desk.pool, &desk.limits).expect("it is open"));
        assert_eq!(desk.link.answer(&desk.limits), None, "{what}");
    }
}

#[test]
fn what_is_published_goes_to_the_driver_at_once_only_where_nothing_comes_before_it() {
    let desk = at_ease();
    let high = desk.limits.output_high;
    assert!(desk.link.takes_at_once(high, &desk.limits));
    assert!(!desk.link.takes_at_once(high + 1, &desk.limits), "more than the mark");
    let cases: [(&str, fn(&mut LoopHandle)); 6] = [
        ("something is queued", |desk| {
            desk.write(1);
        }),
        ("something else was done to it in this turn", |desk| desk.link.dirty = true),
        ("sending has failed", |desk| {
            desk.write(1);
            desk.failed();
        }),
        ("finishing", |desk| desk.link.finish()),
        ("left out of a part of it", |desk| desk.link.set_excepted(true)),
        ("closing", |desk| desk.close()),
    ];
    for (what, matter) in cases {
        let mut desk = at_ease();
        matter(&mut desk);
        assert!(!desk.link.takes_at_once(1, &desk.limits), "{what}");
    }
    assert!(!LoopHandle::with(Origin::Outbound).link.takes_at_once(1, &Limits::default()), "connecting");
}
