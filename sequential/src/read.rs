//! Reads: futures of the next item of a connection's input.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Polling, Poll};

use crate::peer::{Item, TooLong};
use crate::slot::*;
use crate::station::Command;

/// The future of a read, such as [`Peer::until_eol`](crate::Peer::until_eol). A read dropped before its item is ready has taken no
/// byte.
///
/// ```
/// use sequential::{Peer, Read, within};
/// use std::time::Duration;
///
/// async fn impatient(peer: &mut Peer) {
///     let line: Read<'_> = peer.until_eol();
///     match within(Duration::from_secs(5), line).await {
///         Ok(Some(line)) => peer.send(&line),
///         Ok(None) => {} // the peer has ended
///         Err(_) => peer.send("too slow\n"),
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(impatient));
/// ```
#[must_use = "a read does nothing until it is awaited"]
pub struct Read<'p> {
    // A peer has a single read at a time, so the slot keeps what the read wants.
    slot: &'p Rc<Slot>,
    is_waiting: bool,
}

impl<'p> Read<'p> {
    #[inline]
    pub(crate) fn new(slot: &'p Rc<Slot>, want: Want) -> Self {
        slot.want.set(want);
        if want == Want::Exactly(0) {
            // A read of no bytes waits for none.
            slot.raise(DETOUR);
        }
        Read { slot, is_waiting: false }
    }

    #[inline(always)]
    pub(crate) fn poll_answer(&mut self, cx: &Polling<'_>) -> Poll<Answer> {
        let slot = &**self.slot;
        let flags = slot.flags.get();
        if self.is_waiting {
            if flags & (FOUND | TOO_LONG) != 0 {
                self.is_waiting = false;
                slot.flags.set(flags & !(READ | FOUND | TOO_LONG | DETOUR));
                return Poll::Ready(if flags & FOUND != 0 { Answer::Found } else { Answer::TooLong });
            }
        } else if flags & (ENDED | LOCAL | UNREAD | DETOUR) == 0 && slot.waker.get() == cx.waker().data() {
            self.is_waiting = true;
            slot.flags.set(flags | READ);
            return Poll::Pending;
        }
        self.poll_late(cx)
    }

    /// Polls a read that waits, a read of a connection that has unread bytes, a read of a connection whose input is over, or a read
    /// with another waker than that of the task which serves the connection.
    #[cold]
    fn poll_late(&mut self, cx: &Polling<'_>) -> Poll<Answer> {
        let slot = self.slot;
        let is_new = !self.is_waiting;
        slot.check_reader();
        if is_new && slot.is(ENDED) && !slot.is(UNREAD | LENT) {
            slot.raise(LOCAL);
        }
        if slot.is(LOCAL) {
            self.stop_waiting();
            return Poll::Ready(slot.find_locally());
        }
        if slot.want.get() == Want::Exactly(0) {
            self.stop_waiting();
            return Poll::Ready(Answer::Found);
        }
        self.is_waiting = true;
        slot.raise(READ);
        // The handler does not search the unread bytes by itself: no read has waited, or the task has not polled the waiting read.
        if slot.is(UNREAD) && (is_new || slot.is(PAUSED)) {
            slot.station.ask(Command::Offer(slot.clone()));
        }
        if slot.waker.get() != cx.waker().data() {
            if slot.waker.get().is_null() {
                slot.reader.set(slot.station.running.get());
            }
            slot.raise(DETOUR);
            slot.with_rest(|rest| match &mut rest.reader {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            });
        }
        Poll::Pending
    }

    /// Ends the wait of a finished or dropped read. The handler puts an item that the read has not seen back into the input.
    fn stop_waiting(&mut self) {
        self.is_waiting = false;
        if self.slot.is(FOUND | TOO_LONG) {
            self.slot.raise(CANCELLED);
            self.slot.item.set(None);
        }
        self.slot.lower(READ | FOUND | TOO_LONG | DETOUR);
    }
}

impl Future for Read<'_> {
    type Output = Option<Item>;
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Option<Item>> {
        match self.poll_answer(cx) {
            Poll::Ready(Answer::Found) => Poll::Ready(Some(Item(self.slot.take_item()))),
            Poll::Ready(Answer::Ended | Answer::TooLong) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Read<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_waiting {
            self.stop_waiting();
        }
    }
}

/// The future of a read of limited length, such as [`Peer::until_eol_within`](crate::Peer::until_eol_within). Otherwise as [`Read`].
///
/// ```
/// use sequential::{Peer, ReadWithin, TooLong};
///
/// async fn name(peer: &mut Peer) {
///     let name: ReadWithin<'_> = peer.until_eol_within(32);
///     match name.await {
///         Ok(Some(name)) => peer.send_all([b"hello ", &*name]),
///         Ok(None) => {}
///         Err(TooLong) => peer.send("the name is too long\n"),
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(name));
/// ```
#[must_use = "a read does nothing until it is awaited"]
pub struct ReadWithin<'p>(pub(crate) Read<'p>);

impl Future for ReadWithin<'_> {
    type Output = Result<Option<Item>, TooLong>;
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Self::Output> {
        match self.0.poll_answer(cx) {
            Poll::Ready(Answer::Found) => Poll::Ready(Ok(Some(Item(self.0.slot.take_item())))),
            Poll::Ready(Answer::Ended) => Poll::Ready(Ok(None)),
            Poll::Ready(Answer::TooLong) => Poll::Ready(Err(TooLong)),
            Poll::Pending => Poll::Pending,
        }
    }
}
