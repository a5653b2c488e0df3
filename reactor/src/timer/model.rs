//! Compares the wheel with the plainest correct structure: a sorted map. After each operation both must agree. For
//! property tests and for the fuzz target `timing_wheel`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::operations::Operations;

/// | | |
/// | --- | --- |
/// | `o` | the wheel begins at this time; first of all |
/// | `i` `p` | inserts a timer for so many nanoseconds from now, or ago |
/// | `c` | cancels the timer of this number, by deadlines |
/// | `t` `n` | sweeps after so many nanoseconds; at the next deadline |
/// | `e` | takes so many timers and leaves the sweep there |
/// | `b` | sweeps by a clock that is so far behind |
/// | `I` `P` `C` | inside a sweep: the same as `i` `p` `c` |
#[cfg(test)]
const LETTERS: &[u8] = b"iiipctnnebIPC";

/// Runs the operations of the text, and panics if the wheel is wrong.
pub fn check(text: &[u8]) {
    let mut operations = Operations::of(text);
    let start = Time(operations.next_of(b"o").map_or(0, |(_, start)| start));
    let mut pair = Pair {
        wheel: Wheel::new(start),
        now: start,
        timers: BTreeMap::new(),
        inserted: 0,
        ghosts: BTreeSet::new(),
        sweep: None,
        reached: tick(start),
        in_order: true,
    };
    while let Some((letter, number)) = operations.next() {
        match letter {
            b'i' | b'p' | b'c' => pair.change(letter, number),
            b't' => {
                pair.now = pair.now + Duration::from_nanos(number);
                pair.sweep(pair.now, usize::MAX, &mut operations);
            }
            b'n' => {
                pair.now = pair.now.max(pair.wheel.next_deadline().unwrap_or_default());
                pair.sweep(pair.now, usize::MAX, &mut operations);
            }
            b'e' => pair.sweep(pair.now, number as usize, &mut operations),
            b'b' => {
                pair.in_order = false;
                pair.sweep(Time(pair.now.0.saturating_sub(number)), usize::MAX, &mut operations);
            }
            _ => {}
        }
        pair.compare();
    }
    pair.finish();
}

struct Pair {
    wheel: Wheel<u64>,
    now: Time,
    /// By deadline and number of insertion: the key, and the tick in which the timer is due.
    timers: BTreeMap<(Time, u64), (TimerKey, u64)>,
    inserted: u64,
    /// Deadlines of cancelled timers, for which the wheel may still wake up once.
    ghosts: BTreeSet<Time>,
    sweep: Option<Sweep>,
    /// The tick up to which the wheel was swept.
    reached: u64,
    /// The clock has never stepped back, so the order of timers is known.
    in_order: bool,
}

/// A sweep under way.
struct Sweep {
    at: Time,
    /// Timers that the sweep must still return.
    due: BTreeSet<(Time, u64)>,
    /// The tick and the number of the last returned timer.
    last: (u64, u64),
    /// Deadlines of timers cancelled since the sweep began: the next sweep learns of these.
    ghosts: Vec<Time>,
}

impl Pair {
    fn change(&mut self, letter: u8, number: u64) {
        match letter.to_ascii_lowercase() {
            b'i' => self.insert(self.now + Duration::from_nanos(number)),
            b'p' => self.insert(Time(self.now.0.saturating_sub(number))),
            _ => self.cancel(number),
        }
    }

    fn insert(&mut self, deadline: Time) {
        self.inserted += 1;
        let key = self.wheel.insert(deadline, self.inserted);
        self.timers.insert((deadline, self.inserted), (key, tick(deadline).max(self.reached)));
    }

    fn cancel(&mut self, number: u64) {
        let chosen = number as usize % self.timers.len().max(1);
        let Some((&(deadline, payload), &(key, _))) = self.timers.iter().nth(chosen) else { return };
        assert_eq!(self.wheel.cancel(key), payload, "another timer was cancelled");
        self.timers.remove(&(deadline, payload));
        match &mut self.sweep {
            Some(sweep) => {
                sweep.due.remove(&(deadline, payload));
                sweep.ghosts.push(deadline);
            }
            None => drop(self.ghosts.insert(deadline)),
        }
    }

    /// Takes at most `most` timers, and inserts and cancels others in between.
    fn sweep(&mut self, now: Time, most: usize, operations: &mut Operations<'_>) {
        for _ in 0..most {
            if self.sweep.is_none() {
                let due = self.timers.range(..=(now, u64::MAX)).map(|(&timer, _)| timer).collect();
                self.sweep = Some(Sweep { at: now, due, last: (0, 0), ghosts: Vec::new() });
                self.reached = self.reached.max(tick(now));
            }
            let Some(sweep) = &mut self.sweep else { return };
            let Some(payload) = self.wheel.expire(now) else {
                assert!(sweep.due.is_empty(), "late: {:?} at {now:?}", sweep.due);
                self.ghosts.retain(|&ghost| ghost > sweep.at);
                self.ghosts.extend(sweep.ghosts.iter());
                self.sweep = None;
                // Visits all lists, so this is not done after quick operations.
                return self.wheel.check();
            };
            let timer = sweep.due.iter().find(|(_, number)| *number == payload).copied();
            let timer = timer.expect("it is early, too new for this sweep, or here again");
            sweep.due.remove(&timer);
            let (_, tick) = self.timers.remove(&timer).expect("it is waiting");
            assert!(!self.in_order || sweep.last < (tick, payload), "{payload} comes out after {:?}", sweep.last);
            sweep.last = (tick, payload);
            while let Some((letter, number)) = operations.next_of(b"IPC") {
                self.change(letter, number);
            }
        }
    }

    fn compare(&self) {
        let exact = self.timers.first_key_value().map(|(&(deadline, _), _)| deadline);
        let reported = self.wheel.next_deadline();
        let newer = self.sweep.iter().flat_map(|sweep| &sweep.ghosts);
        let is_ghost = self.ghosts.iter().chain(newer).any(|&ghost| reported == Some(ghost));
        // In the middle of a sweep any time in the past will do.
        let is_past = self.sweep.as_ref().is_some_and(|sweep| !sweep.due.is_empty() && reported <= Some(sweep.at));
        assert!(
            reported == exact || reported.is_some() && reported < exact && (is_ghost || is_past),
            "the next deadline is {exact:?}, not {reported:?}"
        );
        assert_eq!((self.wheel.len(), self.wheel.is_empty()), (self.timers.len(), self.timers.is_empty()));
    }

    /// Wakes up for the remaining timers: once for each deadline, and at most once more for each cancelled timer.
    fn finish(&mut self) {
        if self.sweep.is_some() {
            self.sweep(self.now, usize::MAX, &mut Operations::of(b""));
        }
        let mut deadlines: BTreeSet<Time> = self.timers.keys().map(|&(deadline, _)| deadline.max(self.now)).collect();
        deadlines.extend(self.ghosts.iter().map(|&ghost| ghost.max(self.now)));
        let mut waits = 0;
        while let Some(next) = self.wheel.next_deadline() {
            self.now = self.now.max(next);
            self.sweep(self.now, usize::MAX, &mut Operations::of(b""));
            self.compare();
            waits += 1;
            assert!(waits <= deadlines.len(), "it wakes up for nothing");
        }
        assert!(self.timers.is_empty(), "lost: {:?}", self.timers);
    }
}

impl<T: Copy> Wheel<T> {
    /// Visits all entries and compares them with the comments' promises.
    pub(super) fn check(&self) {
        let mut linked = 0;
        for (number, list) in self.lists.iter().enumerate() {
            let mut prev = NIL;
            let mut index = list.head;
            while index != NIL {
                let entry = &self.entries[index as usize];
                assert_eq!((entry.prev, entry.list as usize), (prev, number));
                assert!(number == DUE || self.place(entry.deadline) == number, "in the wrong list");
                assert!(list.earliest <= entry.deadline);
                (prev, index) = (index, entry.next);
                linked += 1;
            }
            assert_eq!(list.tail, prev);
            if number != DUE {
                let occupied = self.occupied[number / SLOTS] >> (number % SLOTS) & 1 == 1;
                assert_eq!(occupied, list.head != NIL);
            }
        }
        let (mut free, mut index) = (0, self.free);
        while index != NIL {
            assert_eq!(self.entries[index as usize].list, FREE);
            (free, index) = (free + 1, self.entries[index as usize].next);
        }
        assert_eq!((linked, free), (self.len, self.entries.len() - self.len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::testing::{operations, seeds};
    use proptest::prelude::*;

    /// The ends of ticks, and the ends of the lists of the first two levels.
    const MARKS: [u64; 6] = [TICK - 1, TICK, TICK + 1, SLOTS as u64 * TICK, (SLOTS * SLOTS) as u64 * TICK, u64::MAX];
    const TICK: u64 = 1 << TICK_BITS;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_operations_do_what_they_do_to_a_sorted_map(start in 0..u64::MAX >> 3, text in operations(LETTERS, 17, 120, &MARKS)) {
            check(format!("o{start} {text}").as_bytes());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("timing_wheel").iter().for_each(|seed| check(seed));
    }
}
