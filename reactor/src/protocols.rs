//! What loops and threads tell each other through single variables, each protocol a small type: so that `loom` runs the code
//! that ships through every order in which two threads can meet (`orders.rs`, `.ci/run loom`).
//!
//! Where one side stores *a* and then looks at *b*, and the other stores *b* and then looks at *a*, Release and Acquire allow both
//! to see the old value, and a wake-up is lost. A fence of the strongest kind stands between the two steps on both sides. (Fences, and
//! not `SeqCst` accesses, because `loom` takes those for weaker than they are.)

use sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// The standard library's, or loom's.
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

/// Whether a wake-up is under way that the loop has not answered yet: any number of wake-ups cost one write until then.
///
/// The message goes in before [`Alarm::ring`], and [`Alarm::answer`] comes after the descriptor was read and before the messages
/// are looked at.
pub(crate) struct Alarm(AtomicBool);

impl Alarm {
    pub(crate) fn new() -> Self {
        Alarm(AtomicBool::new(false))
    }

    /// Whether the loop has to be woken by a write: nobody has rung since it answered last.
    #[must_use]
    pub(crate) fn ring(&self) -> bool {
        // AcqRel, so that whatever was stored before this is seen by the loop after its own swap, whether it is this call or an
        // earlier one that wrote.
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The loop is awake, and looks at its mailboxes next.
    pub(crate) fn answer(&self) {
        // A swap and not a store: only what reads the flag is ordered after those who set it.
        self.0.swap(false, Ordering::AcqRel);
    }

    /// Whether somebody has rung and was not answered yet.
    #[cfg(feature = "sim")]
    pub(crate) fn is_ringing(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What the loop that accepts waits for, and others change: room for one more connection, the end of all guests.
pub(crate) struct Room {
    /// Newcomers wait for room: whoever makes some says so.
    at_cap: AtomicBool,
    /// Descriptors of the connections of all loops, and those handed to a loop that has not counted them yet.
    descriptors: AtomicUsize,
    /// Loops that came with one connection and have not ended.
    per_connection: AtomicUsize,
    halting: AtomicBool,
    /// Nobody is accepted any more, so all that were have been handed out.
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

    /// By the loop that accepts: whether newcomers have to wait, as `is_full` finds by the two counts above. If so, everybody is
    /// told, and the counts are looked at once more: what became free in between was told to nobody.
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

    /// In the child process, where nobody is accepted.
    pub(crate) fn forget_cap(&self) {
        self.at_cap.store(false, Ordering::Release);
    }

    /// So many descriptors more, in the manner of `wrapping_add`; fewer, where `more` is negative in that sense.
    pub(crate) fn add_descriptors(&self, more: usize) {
        self.descriptors.fetch_add(more, Ordering::AcqRel);
    }

    /// How many guests there are now.
    pub(crate) fn set_guests(&self, count: usize) {
        self.per_connection.store(count, Ordering::Release);
    }

    /// By whoever has made either count smaller, after that: whether the loop that accepts waits for it, and is to be woken.
    #[must_use]
    pub(crate) fn is_waited_for(&self) -> bool {
        fence(Ordering::SeqCst);
        self.at_cap.load(Ordering::Acquire)
    }

    /// By a guest that has gone, after it was counted out: whether the loop that accepts waits for room, or for all to have gone.
    #[must_use]
    pub(crate) fn is_waited_for_by_a_stop(&self) -> bool {
        fence(Ordering::SeqCst);
        self.at_cap.load(Ordering::Acquire) || self.halting.load(Ordering::Acquire)
    }

    /// The application is to stop. Whether that is news.
    pub(crate) fn halt(&self) -> bool {
        let is_news = !self.halting.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        is_news
    }

    pub(crate) fn is_halting(&self) -> bool {
        self.halting.load(Ordering::Acquire)
    }

    /// By the loop that accepts, while the application stops: whether all guests have gone. One that has not will wake it.
    pub(crate) fn have_guests_gone(&self) -> bool {
        fence(Ordering::SeqCst);
        self.per_connection() == 0
    }

    /// Nobody is accepted any more, and all that were have been handed out. Whether that is news.
    pub(crate) fn close_listeners(&self) -> bool {
        !self.listeners_closed.swap(true, Ordering::AcqRel)
    }

    /// Whether no connection comes to a loop any more, whose queue of newcomers `is_empty` looks at. In this order: one may be handed
    /// out up to the moment at which the doors are closed.
    pub(crate) fn nobody_comes(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.listeners_closed.load(Ordering::Acquire) && is_empty()
    }
}

/// Counts the changes of a list behind a lock, so that whoever has a copy finds by one comparison whether it is still the list.
pub(crate) struct Changes(AtomicU64);

/// The count that a copy of the list was made at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version(u64);

impl Version {
    /// That of no copy.
    pub(crate) const NONE: Version = Version(u64::MAX);
}

impl Changes {
    pub(crate) fn new() -> Self {
        Changes(AtomicU64::new(0))
    }

    /// The list has changed. While its lock is held.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// The version of the list. While its lock is held, to make a copy.
    #[inline]
    pub(crate) fn version(&self) -> Version {
        Version(self.0.load(Ordering::Acquire))
    }
}

/// Topics that a loop has members of, a bit for each (several topics may share one): who publishes leaves out loops without any.
pub(crate) struct Mask(AtomicU64);

impl Mask {
    pub(crate) fn new() -> Self {
        Mask(AtomicU64::new(0))
    }

    /// By the loop itself, before anybody can hear of the membership.
    pub(crate) fn set(&self, bits: u64) {
        self.0.store(bits, Ordering::Release);
    }

    pub(crate) fn has(&self, bits: u64) -> bool {
        self.0.load(Ordering::Acquire) & bits != 0
    }
}
