//! The copies of this process that end with it at once when it is asked to stop a second time: what is stuck in one of them
//! would not notice otherwise. A signal handler reads the list, so it neither grows nor has a lock.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use libc::pid_t;

/// As many as a system has numbers for, unless it was told otherwise. Whoever has no place ends with its line.
const PLACES: usize = 32 * 1024;

/// Their numbers; 0 where there is none. Pages that nobody has written to cost nothing.
static CHILDREN: [AtomicI32; PLACES] = [const { AtomicI32::new(0) }; PLACES];
/// Places from here on have never been taken.
static END: AtomicUsize = AtomicUsize::new(0);

/// A place in the list.
#[derive(Debug)]
pub(super) struct Slot(usize);

/// Puts it on the list, if there is room. Linear in those that are there, which is little beside fork(2).
pub(super) fn enter(child: pid_t) -> Option<Slot> {
    let slot = CHILDREN.iter().position(|slot| slot.compare_exchange(0, child, SeqCst, SeqCst).is_ok())?;
    END.fetch_max(slot + 1, SeqCst);
    Some(Slot(slot))
}

/// Takes it off. Before it is reaped: afterwards its number may be another's.
pub(super) fn leave(slot: &Slot, child: pid_t) {
    let _ = CHILDREN[slot.0].compare_exchange(child, 0, SeqCst, SeqCst);
}

/// SIGKILL for all. Safe in a signal handler: atomics and kill(2), nothing else.
pub(super) fn kill() {
    for child in CHILDREN.iter().take(END.load(SeqCst)).map(|slot| slot.load(SeqCst)).filter(|&child| child > 0) {
        // SAFETY: takes no pointer. The number is that of a child which has not been reaped, so nobody else has it.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
}
