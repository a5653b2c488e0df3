//! Every state of a link, reached without a socket or a clock.

mod closing;
mod deadlines;
mod reading;
mod short_ways;
mod stopping;
mod writing;

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
