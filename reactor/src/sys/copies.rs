//! The copies of this process that end with it at once when it is asked to stop a second time: what is stuck in one of them
//! would not notice otherwise. A signal handler reads the list, so it neither grows nor has a lock.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use libc::pid_t;

/// As many as a system has numbers for, unless it was told otherwise. Whoever has no place ends with its line.
const PLACES: usize = 32 * 1024;

/// Their numbers; 0 where there is none. Pages that nobody has written to cost nothing.
static COPIES: [AtomicI32; PLACES] = [const { AtomicI32::new(0) }; PLACES];
/// Places from here on have never been taken.
static END: AtomicUsize = AtomicUsize::new(0);

/// A place in the list.
#[derive(Debug)]
pub(super) struct Place(usize);

/// Puts it on the list, if there is room. Linear in those that are there, which is little beside fork(2).
pub(super) fn enter(copy: pid_t) -> Option<Place> {
    let place = COPIES.iter().position(|place| place.compare_exchange(0, copy, SeqCst, SeqCst).is_ok())?;
    END.fetch_max(place + 1, SeqCst);
    Some(Place(place))
}

/// Takes it off. Before it is reaped: afterwards its number may be another's.
pub(super) fn leave(place: &Place, copy: pid_t) {
    let _ = COPIES[place.0].compare_exchange(copy, 0, SeqCst, SeqCst);
}

/// SIGKILL for all. Safe in a signal handler: atomics and kill(2), nothing else.
pub(super) fn kill() {
    for copy in COPIES.iter().take(END.load(SeqCst)).map(|place| place.load(SeqCst)).filter(|&copy| copy > 0) {
        // SAFETY: takes no pointer. The number is that of a child which has not been reaped, so nobody else has it.
        unsafe { libc::kill(copy, libc::SIGKILL) };
    }
}
