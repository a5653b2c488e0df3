//! Tasks that serve no connection, and results from threads.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Polling, Poll, Waker};
use std::thread;

use crate::station::{Command, Station};

/// Runs `task` beside the loop's other tasks, from the next turn on. Dropping the [`Forked`] leaves the task running; awaiting the
/// [`Forked`] waits for the task's value.
///
/// A forked task has no connection. A panic ends the forked task alone. When the application stops, forked tasks go on while a task
/// of their service serves a connection on the loop, and are dropped afterwards. Where each connection has a loop of its own
/// ([`Runner::threads`](reactor::Runner::threads), [`Runner::processes`](reactor::Runner::processes)), forked tasks are dropped
/// when the connection ends.
///
/// ```
/// use sequential::{Peer, fork, sleep};
/// use std::time::Duration;
///
/// async fn both_halves(peer: &mut Peer) {
///     let other = fork(async {
///         sleep(Duration::from_millis(10)).await;
///         20
///     });
///     let sum = 22 + other.await.unwrap_or(0);
///     peer.send(format!("{sum}\n"));
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(both_halves));
/// ```
///
/// # Panics
/// Outside a task.
pub fn fork<T: 'static>(task: impl Future<Output = T> + 'static) -> Forked<T> {
    let station = Station::current("fork");
    let state = Rc::<Ending<T>>::default();
    let over = Over(state.clone());
    station.ask(Command::Spawn(Box::pin(async move {
        let value = task.await;
        over.0.value.set(Some(value));
    })));
    Forked(state)
}

/// The state that a forked task and its [`Forked`] share.
struct Ending<T> {
    value: Cell<Option<T>>,
    is_over: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl<T> Default for Ending<T> {
    fn default() -> Self {
        Ending { value: Cell::new(None), is_over: Cell::new(false), waker: Cell::new(None) }
    }
}

/// Marks the task as over when dropped with the task's future: after the task's value, after a panic, and with the service.
struct Over<T>(Rc<Ending<T>>);

impl<T> Drop for Over<T> {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

/// The future of [`fork`]: the value of the forked task. `None` when the task has panicked or was dropped.
///
/// ```
/// use sequential::{Forked, Peer, fork, sleep};
/// use std::time::Duration;
///
/// async fn answer_in_a_second(peer: &mut Peer) {
///     let slow: Forked<u32> = fork(async {
///         sleep(Duration::from_secs(1)).await;
///         42
///     });
///     peer.send("wait\n");
///     if let Some(answer) = slow.await {
///         peer.send(format!("{answer}\n"));
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(answer_in_a_second));
/// ```
pub struct Forked<T>(Rc<Ending<T>>);

impl<T> Forked<T> {
    /// Whether the task has returned, has panicked or was dropped.
    pub fn is_over(&self) -> bool {
        self.0.is_over.get()
    }
}

impl<T> fmt::Debug for Forked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forked").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}

impl<T> Future for Forked<T> {
    type Output = Option<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Option<T>> {
        if self.0.is_over.get() {
            return Poll::Ready(self.0.value.take());
        }
        self.0.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// Runs `work` on a thread of its own, and waits for the result. For work that blocks or computes for long. Cancelling the wait
/// leaves the thread running. A panic of `work` continues in the task.
///
/// ```
/// use sequential::{Peer, in_thread};
///
/// async fn sizes(peer: &mut Peer) {
///     while let Some(line) = peer.until_eol().await {
///         let path = String::from_utf8_lossy(&line).trim_end().to_owned();
///         let size = in_thread(move || std::fs::metadata(path).map_or(0, |file| file.len())).await;
///         peer.send(format!("{}\n", size.unwrap_or(0)));
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(sizes));
/// ```
///
/// # Errors
/// When the system cannot start a thread.
///
/// # Panics
/// Outside a task, and when `work` panics.
pub async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let station = Station::current("in_thread");
    let service = station.handle.get().cloned();
    drop(station);
    let shared = Arc::new(Mutex::new((None, None::<Waker>)));
    let theirs = shared.clone();
    thread::Builder::new().name("in_thread".to_owned()).spawn(move || {
        if let Some(service) = service {
            service.handle().leave_core();
        }
        let result = catch_unwind(AssertUnwindSafe(work));
        let waker = {
            let mut shared = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            shared.0 = Some(result);
            shared.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    })?;
    let result = poll_fn(|cx| {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.0.take() {
            Some(result) => Poll::Ready(result),
            None => {
                shared.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await;
    Ok(result.unwrap_or_else(|panic| resume_unwind(panic)))
}
