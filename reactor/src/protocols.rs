//! Protocols between loops and threads over single variables, each a small type. So `loom` runs the shipping code
//! through every order in which two threads can meet (`orders.rs`, `.ci/run loom`).
//!
//! If one side stores *a* and then reads *b*, and the other stores *b* and then reads *a*, Release and Acquire allow
//! both to read the old value, and a wake-up is lost. So a fence of the strongest kind stands between the two steps on
//! both sides. (Fences, not `SeqCst` accesses, because `loom` treats those as weaker than they are.)

use sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// The standard library's types, or loom's.
pub(crate) mod sync {
    #[cfg(all(test, loom))]
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    #[cfg(all(test, loom))]
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    #[cfg(not(all(test, loom)))]
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    #[cfg(not(all(test, loom)))]
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
}

/// Whether a wake-up is unanswered: until the loop answers, any number of wake-ups cost one write.
///
/// The message is stored before [`Alarm::ring`]. [`Alarm::answer`] comes after the descriptor was read and before the
/// messages are read.
pub(crate) struct Alarm(AtomicBool);

impl Alarm {
    pub(crate) fn new() -> Self {
        Alarm(AtomicBool::new(false))
    }

    /// Sets the alarm. Returns whether the caller must wake the loop by a write: the alarm was not set since the last
    /// answer.
    #[must_use]
    pub(crate) fn ring(&self) -> bool {
        // AcqRel, so that the loop sees everything stored before this swap after its own swap, whichever call made the
        // write.
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Clears the alarm: the loop is awake, and reads its mailboxes next.
    pub(crate) fn answer(&self) {
        // A swap and not a store: only a read of the flag is ordered after the writes of the other side.
        self.0.swap(false, Ordering::AcqRel);
    }

    /// Whether the alarm is unanswered.
    #[cfg(feature = "sim")]
    pub(crate) fn is_ringing(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The state that the accepting loop waits for, and others change: room for a connection, and the end of all
/// per-connection loops.
pub(crate) struct Room {
    /// Accepting waits for room: whoever makes room wakes the accepting loop.
    at_cap: AtomicBool,
    /// Descriptors of the connections of all loops, including connections handed to a loop that has not counted them
    /// yet.
    descriptors: AtomicUsize,
    /// Number of per-connection loops that have not ended.
    per_connection: AtomicUsize,
    halting: AtomicBool,
    /// Accepting has ended, and all accepted connections have been handed out.
    listeners_closed: AtomicBool,
}

impl Room {
    pub(crate) fn new() -> Self {
        Room {
            at_cap: AtomicBool::new(false),
            descriptors: AtomicUsize::new(0),
            per_connection: AtomicUsize::new(0),
            halting: AtomicBool::new(false),
            listeners_closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors.load(Ordering::Acquire)
    }

    pub(crate) fn per_connection(&self) -> usize {
        self.per_connection.load(Ordering::Acquire)
    }

    /// For the accepting loop: whether further connections must wait, as `is_full` decides by the two counts above. If
    /// so, sets `at_cap` and reads the counts once more: room made in between was reported to nobody.
    pub(crate) fn look(&self, is_full: impl Fn() -> bool) -> bool {
        let was_told = self.at_cap.load(Ordering::Relaxed);
        if !is_full() {
            if was_told {
                self.at_cap.store(false, Ordering::Release);
            }
            return false;
        }
        if !was_told {
            self.at_cap.store(true, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        is_full()
    }

    /// In a child process, which does not accept.
    pub(crate) fn forget_cap(&self) {
        self.at_cap.store(false, Ordering::Release);
    }

    /// Adds `more` descriptors, wrapping, so a negative number subtracts.
    pub(crate) fn add_descriptors(&self, more: usize) {
        self.descriptors.fetch_add(more, Ordering::AcqRel);
    }

    /// Sets the number of per-connection loops.
    pub(crate) fn set_per_connection(&self, count: usize) {
        self.per_connection.store(count, Ordering::Release);
    }

    /// For a thread that has lowered either count, after that: whether the accepting loop waits and must be woken.
    #[must_use]
    pub(crate) fn is_waited_for(&self) -> bool {
        fence(Ordering::SeqCst);
        self.at_cap.load(Ordering::Acquire)
    }

    /// For a per-connection loop that has ended, after it was counted out: whether the accepting loop waits for room,
    /// or for the end of all.
    #[must_use]
    pub(crate) fn is_waited_for_by_a_stop(&self) -> bool {
        fence(Ordering::SeqCst);
        self.at_cap.load(Ordering::Acquire) || self.halting.load(Ordering::Acquire)
    }

    /// Begins the stop. Returns whether it was not begun before.
    pub(crate) fn halt(&self) -> bool {
        let is_news = !self.halting.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        is_news
    }

    pub(crate) fn is_halting(&self) -> bool {
        self.halting.load(Ordering::Acquire)
    }

    /// For the accepting loop during a stop: whether all per-connection loops have ended. If not, the last loop will wake
    /// the accepting loop.
    pub(crate) fn have_per_connection_ended(&self) -> bool {
        fence(Ordering::SeqCst);
        self.per_connection() == 0
    }

    /// Notes that accepting has ended and all accepted connections have been handed out. Returns whether this was not
    /// noted before.
    pub(crate) fn close_listeners(&self) -> bool {
        !self.listeners_closed.swap(true, Ordering::AcqRel)
    }

    /// Whether no further connection comes to a loop; `is_empty` checks its queue of accepted connections. In this
    /// order, because a connection may be handed out until the listeners are closed.
    pub(crate) fn nobody_comes(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.listeners_closed.load(Ordering::Acquire) && is_empty()
    }
}

/// Counts the changes of a list behind a lock, so that one comparison tells whether a copy is current.
pub(crate) struct Changes(AtomicU64);

/// The count at which a copy of the list was made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version(u64);

impl Version {
    /// The version of no copy.
    pub(crate) const NONE: Version = Version(u64::MAX);
}

impl Changes {
    pub(crate) fn new() -> Self {
        Changes(AtomicU64::new(0))
    }

    /// Counts a change. Call while the lock is held.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// The version of the list. Call while the lock is held, to make a copy.
    #[inline]
    pub(crate) fn version(&self) -> Version {
        Version(self.0.load(Ordering::Acquire))
    }
}

/// The topics that have members on a loop, one bit each (several topics may share a bit): a publisher skips loops
/// without members.
pub(crate) struct Mask(AtomicU64);

impl Mask {
    pub(crate) fn new() -> Self {
        Mask(AtomicU64::new(0))
    }

    /// Set by the loop itself, before any other loop can learn of the membership.
    pub(crate) fn set(&self, bits: u64) {
        self.0.store(bits, Ordering::Release);
    }

    pub(crate) fn has(&self, bits: u64) -> bool {
        self.0.load(Ordering::Acquire) & bits != 0
    }
}
