//! Every state of a link, reached without a socket or a clock.

mod closing;
mod deadlines;
mod layered;
mod members;
mod memory;
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
fn the_links_of_a_loop_are_counted_found_by_id_and_bounded() {
    // The smallest loop: one of a single connection.
    let number = crate::token::LOOPS_MAX;
    let mut links = Links::new(number, 1);
    assert_eq!(links.event_loop(), number);
    let insert = |links: &mut Links| links.insert(Link::new(Origin::Accepted, Peer::Unix, 0, 0, Time(0)));
    let ids: Vec<_> = (0..crate::token::slots_max(number))
        .map(|count| {
            assert!(!links.is_full());
            assert_eq!(links.len(), count);
            insert(&mut links)
        })
        .collect();
    assert!(links.is_full());
    assert_eq!(links.ids(), ids);
    assert_eq!(links.get_mut(ids[5]).map(|link| link.id), Some(ids[5]));
    links.remove(ids[5]);
    assert!(!links.is_full() && links.get_mut(ids[5]).is_none());
    let new = insert(&mut links);
    assert_eq!(new.slot(), ids[5].slot());
    assert!(links.get_mut(ids[5]).is_none() && links.get_mut(new).is_some());
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

#[test]
fn the_table_of_connections_names_each_state() {
    type State = (&'static str, Origin, Change);
    let states: [State; 13] = [
        ("connecting", Origin::Outbound, |_| {}),
        ("handshake", Origin::Accepted, |bench| bench.link.begin(Fd(9), true)),
        ("open", Origin::Accepted, |bench| bench.link.begin(Fd(9), false)),
        ("paused", Origin::Accepted, |bench| bench.link.pause()),
        ("waiting", Origin::Accepted, |bench| {
            bench.write(1);
            bench.link.wait_for_output(bench.turn);
        }),
        ("suspended", Origin::Accepted, |bench| _ = bench.link.set_suspended(true)),
        ("reading paused", Origin::Accepted, |bench| bench.link.flags.choke()),
        // A relay goes on reading.
        ("open", Origin::Accepted, |bench| {
            bench.link.read_on();
            bench.link.flags.choke();
        }),
        ("half-closed", Origin::Accepted, |bench| bench.link.end_of_input()),
        ("half-closed", Origin::Accepted, |bench| {
            bench.link.read_on();
            bench.link.flags.choke();
            bench.link.end_of_input();
        }),
        ("flushing", Origin::Accepted, |bench| {
            bench.write(1);
            bench.close();
        }),
        ("lingering", Origin::Accepted, |bench| {
            bench.close();
            bench.finished();
        }),
        ("over", Origin::Accepted, |bench| bench.link.abort(CloseReason::Closed)),
    ];
    for (name, origin, change) in states {
        let mut bench = Bench::with(origin);
        change(&mut bench);
        assert_eq!(bench.link.describe(), name);
        assert_eq!(bench.link.is_over(), name == "over", "{name}");
    }
}

#[test]
fn a_link_knows_its_descriptor_since_when_it_is_open_and_when_it_last_moved_a_byte() {
    let mut bench = Bench::open();
    bench.link.begin(Fd(9), false);
    assert_eq!(bench.link.descriptor, Fd(9));
    bench.now = Time(3 * SECOND);
    bench.received(1);
    assert_eq!(bench.link.opened(), Time(SECOND));
    assert_eq!(bench.link.idle_since(), Time(3 * SECOND));
}

#[test]
fn only_a_client_has_to_prove_useful_and_only_a_peers_bytes_are_counted() {
    for (origin, proves, counts) in [
        (Origin::Accepted, true, true),
        (Origin::Adopted, true, true),
        (Origin::Refused, false, true),
        (Origin::Outbound, false, true),
        (Origin::Channel, false, false),
        (Origin::Watched, false, true),
    ] {
        let mut link = Bench::with(origin).link;
        assert_eq!((!link.is_useful(), link.is_counted()), (proves, counts), "{origin:?}");
        link.set_useful();
        assert!(link.is_useful());
    }
}

#[test]
fn a_link_is_deferred_once_in_a_turn() {
    let mut link = Bench::open().link;
    assert!(link.defer());
    assert!(!link.defer());
    link.no_longer_deferred();
    assert!(link.defer());
}
