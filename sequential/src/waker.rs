//! Wakes a task: from the loop's thread through the station, from other threads through the service's mailbox.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use reactor::{ConnectionId, PostError, ServiceHandle};

use crate::station::{Station, TaskKey};

/// The message that wakes a task from a foreign thread: the message type of [`Tasks`](crate::Tasks).
#[derive(Debug)]
pub struct Wake(pub(crate) u64);

impl Wake {
    pub(crate) fn key(&self) -> TaskKey {
        TaskKey { place: self.0 as u32, generation: (self.0 >> 32) as u32 }
    }
}

/// The waker of a task. At most a single wake-up of a task is under way.
pub(crate) struct TaskWaker {
    handle: Arc<OnceLock<ServiceHandle<Wake>>>,
    key: TaskKey,
    /// A connection of the task's loop, by which a message finds the loop. The connection may have ended.
    route: ConnectionId,
    is_woken: AtomicBool,
}

impl TaskWaker {
    pub(crate) fn new(handle: Arc<OnceLock<ServiceHandle<Wake>>>, key: TaskKey, route: ConnectionId) -> Self {
        TaskWaker { handle, key, route, is_woken: AtomicBool::new(false) }
    }

    /// Marks the beginning of a poll: a later wake-up causes a further poll.
    #[inline]
    pub(crate) fn runs(&self) {
        // With a plain store, the poll's reads may be reordered before the store, and the wake-up of a thread in between is lost.
        if self.is_woken.load(Ordering::Relaxed) {
            self.is_woken.swap(false, Ordering::AcqRel);
        }
    }
}

impl std::task::Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_woken.swap(true, Ordering::AcqRel) {
            return;
        }
        let is_own = |station: &std::rc::Rc<Station>| {
            let own = Arc::ptr_eq(&station.handle, &self.handle);
            if own {
                station.ready.borrow_mut().push(self.key);
                station.has_requests.set(true);
            }
            own
        };
        if Station::try_current(is_own) == Some(true) {
            return;
        }
        let Some(handle) = self.handle.get() else { return };
        let wake = Wake(u64::from(self.key.generation) << 32 | u64::from(self.key.place));
        // A wake-up must not be lost, so the thread waits while the mailbox is full. A loop that has ended has no task to wake.
        if let Err(PostError::Full(wake)) = handle.post(self.route, wake) {
            let _ = handle.post_wait(self.route, wake);
        }
    }
}
