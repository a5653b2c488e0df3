//! Timers in a hierarchical timing wheel. Time is an argument. The loop waits until `next_deadline`, and then takes due
//! timers from `expire`.
//!
//! ```text
//!  the tick of a deadline, in digits of 6 bits:   [level 7] … [level 2] [level 1] [level 0]
//!
//!  level 0   64 lists, one for each tick of the running 67 ms
//!  level 1   64 lists, one for each 67 ms of the running 4.3 s
//!  level 2   64 lists, one for each 4.3 s of the running 4.6 min
//!  level 7   64 lists, one for each 146 years
//! ```
//!
//! A timer is in the list of the highest digit in which its tick differs from the current tick. Eight levels hold every
//! tick of a [`Time`], so no deadline overflows. All timers of a lower level are due before all timers of a higher
//! level, and nothing wraps around: the next timer is in the first list of the lowest level in use.
//!
//! Each list remembers its earliest deadline. The deadline is exact until that timer is cancelled, and too early from
//! then on. So the loop waits directly for a deadline, however far, and moving timers down a level causes no wake-up.

use std::num::NonZeroU32;

use crate::time::Time;

/// A tick is 2^20 ns, 1.05 ms: a shift instead of a division, and as fine as `epoll_wait` can tell.
const TICK_BITS: u32 = 20;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = 8;
const _: () = assert!(LEVELS as u32 * DIGIT_BITS + TICK_BITS >= u64::BITS);

/// The list of timers that the running sweep has found due, behind the lists of the levels.
const DUE: usize = LEVELS * SLOTS;
/// Marks an entry of the arena outside all lists.
const FREE: u16 = u16::MAX;
const NIL: u32 = u32::MAX;

/// Timers with payloads. Takes 8 KB for lists, and 32 bytes for each timer of the busiest moment so far (with a payload
/// of 8 bytes): entries of cancelled and expired timers are reused.
pub(crate) struct Wheel<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    /// The tick up to which due timers have been collected. Lags behind the clock between two sweeps, which is
    /// harmless.
    current: u64,
    /// A bit for each list of a level that has timers.
    occupied: [u64; LEVELS],
    lists: Box<[List]>,
    /// True from the first `expire` that finds a timer until `expire` returns `None`.
    sweeping: bool,
    #[cfg(test)]
    visits: u64,
}

/// Identifies a timer that was inserted, and neither cancelled nor returned by `expire`: its index in the arena plus
/// one, so an optional key takes no more room than a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey(NonZeroU32);

impl TimerKey {
    fn of(index: u32) -> Self {
        TimerKey(NonZeroU32::MIN.saturating_add(index))
    }

    fn index(self) -> u32 {
        self.0.get() - 1
    }
}

impl<T: Copy> Wheel<T> {
    pub(crate) fn new(now: Time) -> Self {
        Wheel {
            entries: Vec::new(),
            free: NIL,
            len: 0,
            current: tick(now),
            occupied: [0; LEVELS],
            lists: vec![List::EMPTY; DUE + 1].into_boxed_slice(),
            sweeping: false,
            #[cfg(test)]
            visits: 0,
        }
    }

    /// Inserts a timer in O(1). A deadline in the past is due in the next sweep.
    pub(crate) fn insert(&mut self, deadline: Time, payload: T) -> TimerKey {
        let entry = Entry { deadline, payload, prev: NIL, next: NIL, list: FREE };
        let index = self.free;
        let index = if index == NIL {
            debug_assert!(self.entries.len() < NIL as usize);
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            self.free = self.entries[index as usize].next;
            self.entries[index as usize] = entry;
            index
        };
        self.len += 1;
        self.link(index, self.place(deadline));
        TimerKey::of(index)
    }

    /// Cancels a timer in O(1), and frees its entry. Also for a timer that the running sweep has found due and not
    /// returned yet.
    ///
    /// The owner of a key cancels at most once, and never after `expire` has returned the timer: the key may have a new
    /// owner by then. Panics if the key has no owner.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> T {
        assert!(self.entries[key.index() as usize].list != FREE, "cancelled a timer that is gone");
        self.remove(key.index())
    }

    /// Returns the time of the next wake-up. O(1): visits no list, so asking on every turn is free.
    ///
    /// Exact for the earliest timer. If that timer was cancelled, the result may be too early for one wait; the sweep
    /// after that wait finds nothing and learns the exact deadline. This costs less than a search after each cancel,
    /// since most deadlines are cancelled or moved long before they come.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        if self.is_empty() {
            return None;
        }
        let waiting = self.first().map_or(Time::NEVER, |(level, slot)| self.lists[list_at(level, slot)].earliest);
        Some(waiting.min(self.lists[DUE].earliest))
    }

    /// Takes one timer that is due at `now`, never early. Returns `None` when the sweep is over. The order is by ticks,
    /// and by insertion within a tick.
    ///
    /// A sweep consists of the calls up to and including the one that returns `None`, and the first call fixes the
    /// timers of the sweep. A timer inserted meanwhile waits for the next sweep, even if it is due already: periodic
    /// work that is late, or re-armed for now, gets one call in a sweep and cannot keep the loop from its connections.
    /// A caller that stops before `None` continues the sweep later; `next_deadline` is in the past while a timer is
    /// due.
    pub(crate) fn expire(&mut self, now: Time) -> Option<T> {
        if !self.sweeping {
            self.collect(now);
        }
        let index = self.lists[DUE].head;
        self.sweeping = index != NIL;
        self.sweeping.then(|| self.remove(index))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves the current tick to `now`, and due timers to the list `DUE`. Ticks in between cost nothing; a timer moves
    /// down at most once from each level.
    fn collect(&mut self, now: Time) {
        let target = tick(now).max(self.current);
        while let Some((level, slot)) = self.first() {
            let start = self.start(level, slot);
            let list = list_at(level, slot);
            // On level 0 the second condition is about the running tick: the tick has begun, but its timers may not be
            // due.
            if start > target || level == 0 && self.lists[list].earliest > now {
                break;
            }
            // Before `deal`: the places of timers count from here.
            self.current = start;
            self.deal(list, level, now);
        }
        // Every remaining list starts later than this tick, or is the list of this tick, so all digits above its level
        // agree.
        self.current = target;
    }

    /// Empties a list whose time has begun: due timers of level 0 go to `DUE`, all others to their present places. Here
    /// a list that has lost its earliest timer gets an exact `earliest` again. Timers of the running tick that are not
    /// due stay there, and are visited again by each sweep that finds a due timer in the tick.
    fn deal(&mut self, list: usize, level: usize, now: Time) {
        let mut index = self.lists[list].head;
        self.clear(list);
        while index != NIL {
            #[cfg(test)]
            {
                self.visits += 1;
            }
            let Entry { deadline, next, .. } = self.entries[index as usize];
            // Only from level 0: a direct move from higher levels would be quicker, but would lose the order of ticks.
            let due = level == 0 && deadline <= now;
            self.link(index, if due { DUE } else { self.place(deadline) });
            index = next;
        }
    }

    /// The list for a deadline, counted from the current tick. A past deadline goes to the current tick.
    fn place(&self, deadline: Time) -> usize {
        let tick = tick(deadline).max(self.current);
        // `| 1` gives equal ticks level 0, and changes no other level: the bit is in the lowest digit.
        let highest = ((tick ^ self.current) | 1).ilog2();
        let level = highest / DIGIT_BITS;
        list_at(level as usize, (tick >> (level * DIGIT_BITS)) as usize % SLOTS)
    }

    /// The list of the next timer, as its level and slot.
    fn first(&self) -> Option<(usize, usize)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    /// The tick at which the time of an occupied list begins.
    fn start(&self, level: usize, slot: usize) -> u64 {
        let below = level as u32 * DIGIT_BITS;
        let above = below + DIGIT_BITS;
        self.current >> above << above | (slot as u64) << below
    }

    /// Appends an entry, so timers of one tick keep their order through all levels.
    fn link(&mut self, index: u32, list: usize) {
        let to = &mut self.lists[list];
        let tail = to.tail;
        let entry = &mut self.entries[index as usize];
        to.earliest = to.earliest.min(entry.deadline);
        to.tail = index;
        entry.list = list as u16;
        entry.prev = tail;
        entry.next = NIL;
        if tail == NIL {
            to.head = index;
        } else {
            self.entries[tail as usize].next = index;
        }
        if list != DUE {
            self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
        }
    }

    fn remove(&mut self, index: u32) -> T {
        let Entry { prev, next, list, payload, .. } = self.entries[index as usize];
        let list = list as usize;
        match prev {
            NIL => self.lists[list].head = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NIL => self.lists[list].tail = prev,
            next => self.entries[next as usize].prev = prev,
        }
        if self.lists[list].head == NIL {
            self.clear(list);
        }
        let entry = &mut self.entries[index as usize];
        entry.list = FREE;
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
        payload
    }

    fn clear(&mut self, list: usize) {
        self.lists[list] = List::EMPTY;
        if list != DUE {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }
}

#[derive(Clone, Copy)]
struct Entry<T> {
    deadline: Time,
    payload: T,
    prev: u32,
    /// The next entry of the list, or the next free entry.
    next: u32,
    list: u16,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    /// A lower bound of the deadlines in the list. `NEVER` for an empty list.
    earliest: Time,
}

impl List {
    const EMPTY: List = List { head: NIL, tail: NIL, earliest: Time::NEVER };
}

/// Rounds down, which makes no timer early: within a tick the exact deadline decides.
fn tick(time: Time) -> u64 {
    time.0 >> TICK_BITS
}

fn list_at(level: usize, slot: usize) -> usize {
    level * SLOTS + slot
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
