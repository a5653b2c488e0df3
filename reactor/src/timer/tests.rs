//! The wheel under virtual time. Against a naive model: `model.rs`.

use super::*;
use std::time::Duration;

const TICK: u64 = 1 << TICK_BITS;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const DAY: u64 = 86_400 * SECOND;
const YEAR: u64 = 365 * DAY;
/// A clock does not start at 0, and a wheel should also be tested where not all digits are 0.
const START: Time = Time(123_456_789_012_345);

fn after(nanos: u64) -> Time {
    START + Duration::from_nanos(nanos)
}

fn sweep<T: Copy>(wheel: &mut Wheel<T>, now: Time) -> Vec<T> {
    std::iter::from_fn(|| wheel.expire(now)).collect()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Random spans up to 2^`bits` ns: every magnitude is equally likely, with many zeros and many whole ticks.
    fn span(&mut self, bits: u64) -> u64 {
        let magnitude = self.below(bits + 1);
        let span = self.next() & ((1 << magnitude) - 1);
        match self.below(8) {
            0 => 0,
            1 => span & !(TICK - 1),
            _ => span,
        }
    }
}

#[test]
fn a_timer_comes_out_at_its_deadline_and_not_a_nanosecond_before() {
    for span in [1, 999, TICK - 1, TICK, TICK + 1, 63 * TICK, 64 * TICK, 65 * TICK, SECOND, DAY, 30 * DAY, YEAR] {
        let mut wheel = Wheel::new(START);
        wheel.insert(after(span), 'a');
        assert_eq!(wheel.next_deadline(), Some(after(span)));
        assert_eq!(wheel.expire(after(span - 1)), None, "{span}");
        assert_eq!(wheel.next_deadline(), Some(after(span)), "{span}");
        assert_eq!(wheel.expire(after(span)), Some('a'), "{span}");
        assert_eq!((wheel.expire(after(span)), wheel.next_deadline()), (None, None));
    }
}

#[test]
fn a_deadline_in_the_past_is_due_at_once() {
    let mut wheel = Wheel::new(START);
    wheel.insert(Time(0), 'a');
    wheel.insert(START, 'b');
    assert_eq!(wheel.next_deadline(), Some(Time(0)));
    assert_eq!(sweep(&mut wheel, START), ['a', 'b']);
}

#[test]
fn the_end_of_time_is_a_deadline_like_any_other_and_comes_after_all_of_them() {
    let mut wheel = Wheel::new(START);
    wheel.insert(Time::NEVER, 'z');
    wheel.insert(START + Duration::MAX, 'z');
    wheel.insert(after(100 * YEAR), 'c');
    assert_eq!(wheel.next_deadline(), Some(after(100 * YEAR)));
    assert_eq!(sweep(&mut wheel, after(500 * YEAR)), ['c']);
    assert_eq!(wheel.next_deadline(), Some(Time::NEVER));
    assert_eq!(sweep(&mut wheel, Time(u64::MAX - 1)), []);
    assert_eq!(wheel.len(), 2);
    wheel.check();
}

#[test]
fn what_is_due_together_comes_out_by_ticks_and_in_the_order_of_insertion() {
    let mut wheel = Wheel::new(START);
    wheel.insert(after(DAY), 5);
    wheel.insert(after(3 * SECOND), 3);
    wheel.insert(after(5 * TICK), 1);
    wheel.insert(after(3 * SECOND), 4);
    assert_eq!(sweep(&mut wheel, after(2 * SECOND)), [1]);
    wheel.insert(after(2500 * MS), 2);
    wheel.insert(after(DAY), 6);
    assert_eq!(sweep(&mut wheel, after(YEAR)), [2, 3, 4, 5, 6]);
}

#[test]
fn timers_of_the_running_tick_come_out_one_by_one_as_they_fall_due() {
    let start = Time(START.0 & !(TICK - 1));
    let mut wheel = Wheel::new(start);
    for nanos in [300, 100, 200] {
        wheel.insert(Time(start.0 + nanos), nanos);
    }
    for nanos in [100, 200, 300] {
        assert_eq!(wheel.next_deadline(), Some(Time(start.0 + nanos)));
        assert_eq!(sweep(&mut wheel, Time(start.0 + nanos)), [nanos]);
    }
}

#[test]
fn a_timer_armed_for_now_during_a_sweep_waits_for_the_next_one() {
    let mut wheel = Wheel::new(START);
    wheel.insert(START, "periodic");
    wheel.insert(START, "other");
    for _ in 0..1_000 {
        let mut calls = 0;
        while let Some(payload) = wheel.expire(START) {
            wheel.insert(START, payload);
            calls += 1;
        }
        assert_eq!(calls, 2, "each of them once in a sweep");
        assert_eq!(wheel.next_deadline(), Some(START), "so the next wait is none");
    }
    wheel.check();
}

#[test]
fn a_timer_that_is_due_in_the_running_sweep_can_still_be_cancelled() {
    let mut wheel = Wheel::new(START);
    let keys = ['a', 'b', 'c', 'd'].map(|name| wheel.insert(after(MS), name));
    assert_eq!(wheel.expire(after(MS)), Some('a'));
    assert_eq!((wheel.cancel(keys[1]), wheel.cancel(keys[3])), ('b', 'd'));
    wheel.check();
    assert_eq!((wheel.expire(after(MS)), wheel.expire(after(MS))), (Some('c'), None));
    assert!(wheel.is_empty());
}

#[test]
fn a_sweep_that_was_left_early_goes_on_and_the_loop_does_not_sleep_meanwhile() {
    let mut wheel = Wheel::new(START);
    wheel.insert(after(MS), 'a');
    wheel.insert(after(MS), 'b');
    wheel.insert(after(DAY), 'c');
    assert_eq!(wheel.expire(after(MS)), Some('a'));
    assert_eq!(wheel.next_deadline(), Some(after(MS)));
    assert_eq!(sweep(&mut wheel, after(2 * MS)), ['b']);
    assert_eq!(wheel.next_deadline(), Some(after(DAY)));
}

#[test]
#[should_panic(expected = "gone")]
fn cancelling_a_timer_that_is_gone_is_told_at_once() {
    let mut wheel = Wheel::new(START);
    let key = wheel.insert(START, ());
    wheel.cancel(key);
    wheel.cancel(key);
}

#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn a_cancelled_timer_leaves_nothing_behind() {
    let mut wheel = Wheel::new(START);
    for round in 0..100_000 {
        let key = wheel.insert(after(round * 7 * MS), round);
        assert_eq!(wheel.cancel(key), round);
        assert_eq!((wheel.len(), wheel.next_deadline()), (0, None));
    }
    assert_eq!(wheel.entries.len(), 1, "one entry, used again and again");
    assert!(size_of::<Entry<u64>>() <= 32);
    wheel.check();
}

#[test]
fn a_cancel_costs_at_most_one_wait_too_early() {
    let mut wheel = Wheel::new(START);
    for nanos in [300 * MS, DAY, 30 * DAY] {
        let first = wheel.insert(after(nanos), 'a');
        wheel.insert(after(nanos + MS / 2), 'b');
        wheel.cancel(first);
        assert_eq!(wheel.next_deadline(), Some(after(nanos)), "the deadline of the one that is gone");
        assert_eq!(sweep(&mut wheel, after(nanos)), []);
        assert_eq!(wheel.next_deadline(), Some(after(nanos + MS / 2)));
        assert_eq!(sweep(&mut wheel, after(nanos + MS / 2)), ['b']);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn one_wait_is_enough_for_a_timer_however_long_it_is() {
    let mut random = Random(19);
    let mut wheel = Wheel::new(START);
    let mut deadlines: Vec<Time> = (0..2_000).map(|_| after(random.span(63))).collect();
    deadlines.extend([after(30 * DAY), after(YEAR), after(100 * YEAR)]);
    for &deadline in &deadlines {
        wheel.insert(deadline, deadline);
    }
    deadlines.sort_unstable();
    deadlines.dedup();
    let mut waits = 0;
    while let Some(now) = wheel.next_deadline() {
        waits += 1;
        let taken = sweep(&mut wheel, now);
        assert!(!taken.is_empty() && taken.iter().all(|&deadline| deadline == now), "a wait for nothing");
    }
    assert_eq!(waits, deadlines.len());
}

#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn asking_for_the_next_deadline_a_million_times_looks_at_no_timer() {
    let mut wheel = Wheel::new(START);
    let keys: Vec<_> = (0..15_000).map(|n| wheel.insert(after(60 * SECOND + n * 37_123), n)).collect();
    for turn in 0..1_000_000 {
        assert_eq!(wheel.next_deadline(), Some(after(60 * SECOND)));
        assert_eq!(wheel.expire(after(turn)), None);
    }
    wheel.cancel(keys[0]);
    assert!(wheel.next_deadline().is_some());
    assert_eq!(wheel.visits, 0);
}

#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn deadlines_that_move_on_before_they_come_are_hardly_ever_looked_at() {
    let mut wheel = Wheel::new(START);
    let mut keys: Vec<_> = (0..15_000).map(|n| wheel.insert(after(60 * SECOND + n * 37_123), n)).collect();
    for turn in 0..1_000_000 {
        let now = after(turn * 50_000);
        // In each turn one connection was active; each connection is active every 0.75 s.
        let n = turn as usize % keys.len();
        let payload = wheel.cancel(keys[n]);
        keys[n] = wheel.insert(now + Duration::from_secs(60), payload);
        assert_eq!(wheel.expire(now), None);
        assert!(wheel.next_deadline() > Some(now));
    }
    assert!(wheel.visits <= 15_000, "{} visits in 50 s", wheel.visits);
    assert_eq!(wheel.entries.len(), 15_000);
    wheel.check();
}

#[test]
fn a_wheel_keeps_up_with_the_clock_while_nothing_is_due() {
    let mut wheel = Wheel::new(Time(0));
    wheel.insert(Time::NEVER, 'z');
    let now = Time(DAY & !(64 * TICK - 1));
    assert_eq!(wheel.expire(now), None);
    wheel.insert(now + Duration::from_millis(20), 'a');
    assert_eq!(wheel.expire(now + Duration::from_millis(20)), Some('a'));
    assert_eq!(wheel.visits, 1, "a day later 20 ms are still a matter of the lowest level");
}

#[test]
fn a_clock_that_steps_back_makes_nothing_early_and_loses_nothing() {
    let mut wheel = Wheel::new(START);
    assert_eq!(wheel.expire(after(SECOND)), None);
    wheel.insert(after(DAY), 'b');
    wheel.insert(after(SECOND / 2), 'a');
    assert_eq!(wheel.expire(START), None);
    wheel.check();
    assert_eq!(sweep(&mut wheel, after(SECOND)), ['a']);
    assert_eq!(sweep(&mut wheel, after(DAY)), ['b']);
}

#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn a_timer_goes_down_each_level_at_most_once_on_its_way() {
    let mut random = Random(7);
    let mut wheel = Wheel::new(START);
    for n in 0..15_000 {
        wheel.insert(after(random.below(YEAR)), n);
    }
    let mut taken = 0;
    while let Some(now) = wheel.next_deadline() {
        taken += sweep(&mut wheel, now).len();
    }
    assert_eq!(taken, 15_000);
    assert!(wheel.visits <= 15_000 * LEVELS as u64, "{}", wheel.visits);
}
