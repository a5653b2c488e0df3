//! Wakes a task: from the loop's thread through the station, from other threads through the service's mailbox.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use reactor::{PostError, ServiceHandle};

use crate::station::{Station, TaskKey};

/// The message that wakes a task from another thread: the message type of [`Tasks`](crate::Tasks). Only wakers post it.
///
/// ```
/// use reactor::{Application, Service, ServiceHandle};
/// use sequential::{Peer, Tasks, Wake};
///
/// let mut app = Application::new()?;
/// let silent = Service::tcp("127.0.0.1:0", || Tasks::new(async |peer: &mut Peer| while peer.some().await.is_some() {}));
/// let handle: ServiceHandle<Wake> = app.add_service(silent)?;
/// println!("listening at {}", handle.address().unwrap());
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Debug)]
pub struct Wake(pub(crate) TaskKey);

/// The waker of a task. At most a single wake-up of a task is under way.
pub(crate) struct TaskWaker {
    handle: Arc<OnceLock<ServiceHandle<Wake>>>,
    key: TaskKey,
    /// The number of the task's loop.
    route: usize,
    is_woken: AtomicBool,
}

impl TaskWaker {
    pub(crate) fn new(handle: Arc<OnceLock<ServiceHandle<Wake>>>, key: TaskKey, route: usize) -> Self {
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
        // A wake-up must not be lost, so the thread waits while the mailbox is full. A loop that has ended has no task to wake.
        if let Err(PostError::Full(wake)) = handle.post_to_loop(self.route, Wake(self.key)) {
            let _ = handle.post_to_loop_wait(self.route, wake);
        }
    }
}
