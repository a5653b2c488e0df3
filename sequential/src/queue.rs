//! A bounded queue between tasks of a loop.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Polling, Poll, Waker};

/// A bounded queue between tasks of a loop, in order of arrival. Cloning is cheap, and all clones share a single queue. Each value
/// comes out once. A cancelled wait loses no value.
///
/// ```
/// use sequential::{Peer, Queue, fork};
///
/// /// Answers by a second task, which is at most eight lines behind.
/// async fn by_a_worker(peer: &mut Peer) {
///     let (lines, sender) = (Queue::new(8), peer.sender());
///     let work = lines.clone();
///     fork(async move {
///         while let Some(line) = work.take().await {
///             sender.send(&line);
///         }
///     });
///     while let Some(line) = peer.until_eol().await {
///         if lines.put(line).await.is_err() {
///             return;
///         }
///     }
///     lines.close();
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(by_a_worker));
/// ```
pub struct Queue<T>(Rc<RefCell<State<T>>>);

struct State<T> {
    values: VecDeque<T>,
    capacity: usize,
    is_closed: bool,
    takers: Waiting,
    putters: Waiting,
}

/// The error of a `put` into a closed queue, with the value.
///
/// ```
/// use sequential::{Closed, Queue};
/// let queue = Queue::new(1);
/// queue.close();
/// assert_eq!(queue.try_put(7), Err(7));
/// assert_eq!(Closed(7).to_string(), "the queue is closed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed<T>(pub T);

impl<T> fmt::Display for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue is closed")
    }
}

impl<T: fmt::Debug> std::error::Error for Closed<T> {}

/// Waiting tasks, the longest wait first. A task leaves the line by its number when its wait is cancelled.
#[derive(Default)]
struct Waiting {
    line: VecDeque<(u64, Waker)>,
    next: u64,
}

impl Waiting {
    /// Joins the line, or renews the waker of a task in the line.
    fn join(&mut self, ticket: &mut Option<u64>, waker: &Waker) {
        if let Some(place) = self.line.iter_mut().find(|(number, _)| Some(*number) == *ticket) {
            place.1.clone_from(waker);
            return;
        }
        self.next += 1;
        *ticket = Some(self.next);
        self.line.push_back((self.next, waker.clone()));
    }

    fn wake_one(&mut self) {
        if let Some((_, waker)) = self.line.pop_front() {
            waker.wake();
        }
    }

    fn wake_all(&mut self) {
        self.line.drain(..).for_each(|(_, waker)| waker.wake());
    }

    /// Leaves the line. Returns whether the task had been woken already; the caller then has to wake the next task in its place.
    fn leave(&mut self, ticket: Option<u64>) -> bool {
        let Some(ticket) = ticket else { return false };
        match self.line.iter().position(|(number, _)| *number == ticket) {
            Some(place) => {
                self.line.remove(place);
                false
            }
            None => true,
        }
    }
}

impl<T> Queue<T> {
    /// Makes a queue of at most `capacity` values.
    ///
    /// # Panics
    /// When `capacity` is 0.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a queue has room for one value at least");
        Queue(Rc::new(RefCell::new(State {
            values: VecDeque::new(),
            capacity,
            is_closed: false,
            takers: Waiting::default(),
            putters: Waiting::default(),
        })))
    }

    /// Puts a value at the end, and waits while the queue is full.
    ///
    /// # Errors
    /// Gives the value back when the queue is closed.
    pub fn put(&self, value: T) -> Put<'_, T> {
        Put { queue: self, value: Some(value), ticket: None }
    }

    /// Puts a value at the end, unless the queue is full.
    ///
    /// # Errors
    /// Gives the value back when the queue is full or closed.
    pub fn try_put(&self, value: T) -> Result<(), T> {
        let state = &mut *self.0.borrow_mut();
        if state.is_closed || state.values.len() >= state.capacity {
            return Err(value);
        }
        state.values.push_back(value);
        state.takers.wake_one();
        Ok(())
    }

    /// Takes the first value, and waits while the queue is empty. Yields `None` when the queue is closed and empty.
    pub fn take(&self) -> Take<'_, T> {
        Take { queue: self, ticket: None }
    }

    /// Takes the first value; `None` when the queue is empty.
    pub fn try_take(&self) -> Option<T> {
        let state = &mut *self.0.borrow_mut();
        let value = state.values.pop_front()?;
        state.putters.wake_one();
        Some(value)
    }

    /// Closes the queue: `put` fails, and `take` yields the remaining values and then `None`.
    pub fn close(&self) {
        let state = &mut *self.0.borrow_mut();
        state.is_closed = true;
        state.takers.wake_all();
        state.putters.wake_all();
    }

    /// Number of values that wait in the queue, at most its capacity.
    pub fn len(&self) -> usize {
        self.0.borrow().values.len()
    }

    /// Whether no value waits in the queue: `take` would wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The future of [`Queue::put`]. Yields an error with the value when the queue is closed.
///
/// ```
/// use sequential::{Peer, Put, Queue};
///
/// async fn collect(lines: &Queue<Vec<u8>>, peer: &mut Peer) {
///     while let Some(line) = peer.until_eol().await {
///         let room: Put<'_, Vec<u8>> = lines.put(line.into_vec());
///         if room.await.is_err() {
///             return; // the queue is closed
///         }
///     }
/// }
/// ```
#[must_use = "nothing is put until the future is awaited"]
pub struct Put<'q, T> {
    queue: &'q Queue<T>,
    value: Option<T>,
    ticket: Option<u64>,
}

// No part of a `Put` is pinned: the value is moved into the queue.
impl<T> Unpin for Put<'_, T> {}

impl<T> Future for Put<'_, T> {
    type Output = Result<(), Closed<T>>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(value) = this.value.take() else { return Poll::Pending };
        let state = &mut *this.queue.0.borrow_mut();
        if state.is_closed {
            return Poll::Ready(Err(Closed(value)));
        }
        if state.values.len() < state.capacity {
            state.values.push_back(value);
            state.putters.leave(this.ticket.take());
            state.takers.wake_one();
            return Poll::Ready(Ok(()));
        }
        this.value = Some(value);
        state.putters.join(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl<T> Drop for Put<'_, T> {
    fn drop(&mut self) {
        let state = &mut *self.queue.0.borrow_mut();
        if state.putters.leave(self.ticket) && state.values.len() < state.capacity {
            state.putters.wake_one();
        }
    }
}

/// The future of [`Queue::take`]: the first value. Yields `None` when the queue is closed and empty.
///
/// ```
/// use sequential::{Elapsed, Queue, Take, within};
/// use std::time::Duration;
///
/// async fn next_line(lines: &Queue<String>) -> Result<Option<String>, Elapsed> {
///     let wait: Take<'_, String> = lines.take();
///     within(Duration::from_secs(5), wait).await
/// }
/// ```
#[must_use = "nothing is taken until the future is awaited"]
pub struct Take<'q, T> {
    queue: &'q Queue<T>,
    ticket: Option<u64>,
}

impl<T> Future for Take<'_, T> {
    type Output = Option<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        let state = &mut *this.queue.0.borrow_mut();
        if let Some(value) = state.values.pop_front() {
            state.takers.leave(this.ticket.take());
            state.putters.wake_one();
            return Poll::Ready(Some(value));
        }
        if state.is_closed {
            this.ticket = None;
            return Poll::Ready(None);
        }
        state.takers.join(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl<T> Drop for Take<'_, T> {
    fn drop(&mut self) {
        let state = &mut *self.queue.0.borrow_mut();
        if state.takers.leave(self.ticket) && !state.values.is_empty() {
            state.takers.wake_one();
        }
    }
}
