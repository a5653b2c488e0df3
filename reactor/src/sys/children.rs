//! The children that end at once with this process at a second stop signal, because a stuck child would not notice
//! otherwise. A signal handler reads the list, so the list neither grows nor has a lock.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use libc::pid_t;

/// Size of the list: the usual limit on process numbers. A child without a place ends when its channel ends.
const PLACES: usize = 32 * 1024;

/// Process numbers; 0 in a free place. Unwritten pages cost no memory.
static CHILDREN: [AtomicI32; PLACES] = [const { AtomicI32::new(0) }; PLACES];
/// Places from this index on have never been used.
static END: AtomicUsize = AtomicUsize::new(0);

/// A place in the list.
#[derive(Debug)]
pub(super) struct Slot(usize);

/// Adds a child to the list, if a place is free. Linear in the number of children, which is little beside fork(2).
pub(super) fn enter(child: pid_t) -> Option<Slot> {
    let slot = CHILDREN.iter().position(|slot| slot.compare_exchange(0, child, SeqCst, SeqCst).is_ok())?;
    END.fetch_max(slot + 1, SeqCst);
    Some(Slot(slot))
}

/// Removes a child from the list. Call before the child is reaped: afterwards another process may have its number.
pub(super) fn leave(slot: &Slot, child: pid_t) {
    let _ = CHILDREN[slot.0].compare_exchange(child, 0, SeqCst, SeqCst);
}

/// Sends SIGKILL to all children. Safe in a signal handler: only atomics and kill(2).
pub(super) fn kill() {
    for child in CHILDREN.iter().take(END.load(SeqCst)).map(|slot| slot.load(SeqCst)).filter(|&child| child > 0) {
        // SAFETY: takes no pointer. The child has not been reaped, so no other process has its number.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
}
