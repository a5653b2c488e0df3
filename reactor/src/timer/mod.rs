//! Who wants to be called when: a hierarchical timing wheel. Below: nothing, time is an argument. Above: the loop,
//! which waits until `next_deadline` and then takes what is due out of `expire`.
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
//! A timer lives at the highest digit in which its tick differs from the current one, in the list of that digit. Eight
//! levels hold every tick that a [`Time`] can have, so no deadline overflows. All that is on a lower level is due
//! before all that is on a higher one, and nothing wraps around: the next timer is in the first list of the lowest
//! level in use.
//!
//! Each list remembers its earliest deadline, exact until that timer is cancelled and too early from then on. So the
//! wait goes straight to a deadline, however far, and moving timers down a level happens on the way and wakes nobody
//! up.

use std::num::NonZeroU32;

use crate::time::Time;

/// A tick is 2^20 ns, 1.05 ms: a shift instead of a division, and as fine as `epoll_wait` can tell.
const TICK_BITS: u32 = 20;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = 8;
const _: () = assert!(LEVELS as u32 * DIGIT_BITS + TICK_BITS >= u64::BITS);

/// The list of what the running sweep has found due, behind those of the levels.
const DUE: usize = LEVELS * SLOTS;
/// Marks an entry of the arena that is in no list.
const FREE: u16 = u16::MAX;
const NIL: u32 = u32::MAX;

/// Timers, each with a payload. Holds 8 KB of lists, and 32 bytes for each timer of the busiest moment so far when the
/// payload has 8: what is cancelled or expired is used again.
pub(crate) struct Wheel<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    /// The tick up to which everything has been collected. Lags behind the clock between two sweeps, which is harmless.
    current: u64,
    /// Which lists of a level have timers.
    occupied: [u64; LEVELS],
    lists: Box<[List]>,
    /// Between the first `expire` that finds something and the one that says `None`.
    sweeping: bool,
    #[cfg(test)]
    visits: u64,
}

/// Names a timer that was inserted and has neither been cancelled nor come out of `expire`: its index in the arena, and one
/// more, so that an optional key takes no more room than a key.
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

    /// O(1). A deadline that has passed is fine: it is due in the next sweep.
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

    /// O(1), and frees the entry. Also for a timer that the running sweep has found due and not yet handed out.
    ///
    /// The owner of a key cancels at most once, and never after the timer came out of `expire`: the key may have a new
    /// owner by then. Panics when it has none.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> T {
        assert!(self.entries[key.index() as usize].list != FREE, "cancelled a timer that is gone");
        self.remove(key.index())
    }

    /// When the loop has to wake up next. O(1): looks into no list, so asking on every turn is free.
    ///
    /// Exact for the earliest timer. If that one was cancelled, possibly too early, for one wait: the sweep after it
    /// finds nothing and learns the exact deadline. Cheaper than a search after each cancel, since most deadlines are
    /// cancelled or moved long before they come.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        if self.is_empty() {
            return None;
        }
        let waiting = self.first().map_or(Time::NEVER, |(level, slot)| self.lists[list_at(level, slot)].earliest);
        Some(waiting.min(self.lists[DUE].earliest))
    }

    /// Takes one timer that is due at `now`, never early; `None` when the sweep is over. By ticks, and inside a tick in
    /// the order of insertion.
    ///
    /// The calls up to and including the one that says `None` are one sweep, and the first of them settles what belongs
    /// to it. A timer inserted meanwhile waits for the next sweep, even when it is due already: periodic work that is
    /// behind, or re-arms itself for now, gets one call in a sweep and can't keep the loop from its connections. Who
    /// stops before `None` goes on with the same sweep later; `next_deadline` is in the past as long as something is
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

    /// Moves the current tick to `now` and what is due by then to the list `DUE`. Costs nothing for the ticks between;
    /// a timer goes down at most once from each level.
    fn collect(&mut self, now: Time) {
        let target = tick(now).max(self.current);
        while let Some((level, slot)) = self.first() {
            let start = self.start(level, slot);
            let list = list_at(level, slot);
            // On level 0 the second half is about the tick that is running: it has begun, its timers may not be due.
            if start > target || level == 0 && self.lists[list].earliest > now {
                break;
            }
            // Before dealing: the places of the timers count from here.
            self.current = start;
            self.deal(list, level, now);
        }
        // Every list left starts later than this (or is that of this very tick), so all digits above its level agree.
        self.current = target;
    }

    /// Empties a list whose time has begun: from level 0 what is due goes to `DUE`, all else to the place that it has
    /// now. This is also where a list that lost its earliest timer gets an exact `earliest` again. What is not yet due
    /// in the running tick stays there, and is looked at again by each sweep that finds something in that tick.
    fn deal(&mut self, list: usize, level: usize, now: Time) {
        let mut index = self.lists[list].head;
        self.clear(list);
        while index != NIL {
            #[cfg(test)]
            {
                self.visits += 1;
            }
            let Entry { deadline, next, .. } = self.entries[index as usize];
            // Not from higher levels, although it would be quicker: the order of ticks would be lost.
            let due = level == 0 && deadline <= now;
            self.link(index, if due { DUE } else { self.place(deadline) });
            index = next;
        }
    }

    /// The list for a deadline, counted from the current tick. What is past goes to the current tick.
    fn place(&self, deadline: Time) -> usize {
        let tick = tick(deadline).max(self.current);
        // `| 1` gives equal ticks level 0, and changes no other: the bit is in the lowest digit.
        let highest = ((tick ^ self.current) | 1).ilog2();
        let level = highest / DIGIT_BITS;
        list_at(level as usize, (tick >> (level * DIGIT_BITS)) as usize % SLOTS)
    }

    /// The list in which the next timer is, as its level and slot.
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

    /// Appends, so that timers of one tick keep their order through all levels.
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
    /// The next of the same list, or the next free entry.
    next: u32,
    list: u16,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    /// No timer of the list is due before this. `NEVER` for an empty one.
    earliest: Time,
}

impl List {
    const EMPTY: List = List { head: NIL, tail: NIL, earliest: Time::NEVER };
}

/// Rounded down, which makes no timer early: the last word in a tick has the exact deadline.
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
