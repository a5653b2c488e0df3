//! Sleeping, and a deadline on any wait.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as Polling, Poll, Waker};
use std::time::Duration;

use crate::station::{Command, Station, TaskKey};

/// A timer of the handler that wakes a task. Kept for a later sleep: see [`Station::give_timer`].
pub(crate) struct Timer {
    /// The timer's place in the station, and its key at the loop: see [`TaskKey::of_sleep`].
    pub(crate) key: TaskKey,
    pub(crate) is_armed: Cell<bool>,
    has_fired: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Timer {
    pub(crate) fn new(key: TaskKey) -> Self {
        Timer { key, is_armed: Cell::new(false), has_fired: Cell::new(false), waker: Cell::new(None) }
    }

    /// Wakes the sleeping task, because the deadline has passed.
    pub(crate) fn fire(&self) {
        if self.is_armed.replace(false) {
            self.has_fired.set(true);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

/// Waits for the time `span`, and never shorter. The loop's other tasks run meanwhile. No timer of the operating system is used,
/// and a sleeping task costs nothing until its deadline.
///
/// ```
/// use sequential::{Peer, sleep};
/// use std::time::Duration;
///
/// async fn slowly(peer: &mut Peer) {
///     while let Some(line) = peer.until_eol().await {
///         sleep(Duration::from_millis(100)).await;
///         peer.send(&line);
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(slowly));
/// ```
///
/// # Panics
/// When the future is polled outside a task of [`Tasks`](crate::Tasks).
pub fn sleep(span: Duration) -> Sleep {
    Sleep { span, armed: None }
}

/// The future of [`sleep`], ready when the time has passed. The time counts from the first poll.
///
/// ```
/// use sequential::{Peer, Sleep, first, sleep};
/// use std::time::Duration;
///
/// async fn line_or_nothing(peer: &mut Peer) {
///     let patience: Sleep = sleep(Duration::from_secs(5));
///     first(peer.until_eol(), patience).await;
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(line_or_nothing));
/// ```
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    span: Duration,
    armed: Option<(Rc<Station>, Rc<Timer>)>,
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("span", &self.span).finish_non_exhaustive()
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<()> {
        if self.armed.is_none() {
            let station = Station::current("sleep");
            let timer = station.take_timer();
            timer.is_armed.set(true);
            timer.has_fired.set(false);
            station.ask(Command::Arm(timer.clone(), self.span));
            self.armed = Some((station, timer));
        }
        let Some((_, timer)) = &self.armed else { return Poll::Pending };
        if timer.has_fired.get() {
            return Poll::Ready(());
        }
        match timer.waker.take() {
            Some(waker) if waker.will_wake(cx.waker()) => timer.waker.set(Some(waker)),
            _ => timer.waker.set(Some(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((station, timer)) = self.armed.take() {
            timer.is_armed.set(false);
            timer.waker.set(None);
            station.give_timer(timer);
        }
    }
}

/// The error of [`within`] when the time has passed. The wait was cancelled.
///
/// ```
/// assert_eq!(sequential::Elapsed.to_string(), "the time has passed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time has passed")
    }
}

impl std::error::Error for Elapsed {}

/// Waits for `wait`, for the time `span` at most. A cancelled read has taken no byte.
///
/// ```
/// use sequential::{Peer, within};
/// use std::time::Duration;
///
/// async fn impatient(peer: &mut Peer) {
///     match within(Duration::from_secs(5), peer.until_eol()).await {
///         Ok(Some(line)) => peer.send(&line),
///         Ok(None) => {}
///         Err(_) => peer.send("too late\n"),
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(impatient));
/// ```
///
/// # Errors
/// [`Elapsed`] when the time has passed before `wait` was ready. A wait that is ready at once never fails, even with a time of 0.
///
/// # Panics
/// Outside a task of [`Tasks`](crate::Tasks).
pub async fn within<W: IntoFuture>(span: Duration, wait: W) -> Result<W::Output, Elapsed> {
    let (mut wait, mut sleep) = (pin!(wait.into_future()), pin!(sleep(span)));
    poll_fn(|cx| match wait.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}
