//! Awaiting the messages of a topic.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Polling, Poll, Waker};

use reactor::{Bytes, Topic};

use crate::station::{Command, Station};

/// Subscribes the task to a topic: [`Subscription::message`] awaits each message that anybody publishes from now on, on any loop, in any
/// thread or process of the application, this task included. For a peer to which the messages go without a task in between, see
/// [`Peer::subscribe`](crate::Peer::subscribe).
///
/// ```
/// use reactor::{Service, Topic};
/// use sequential::{First, Peer, Tasks, first, publish, subscribe};
///
/// /// Says to everybody what anybody says, in capitals.
/// async fn shouting(peer: &mut Peer) {
///     let room = Topic::new("room");
///     let mut said = subscribe(&room);
///     loop {
///         match first(peer.until_eol(), said.message()).await {
///             First::One(Some(line)) => publish(&room, line.to_vec()),
///             First::Other(Some(message)) => peer.send(message.to_ascii_uppercase()),
///             First::One(None) | First::Other(None) => return,
///         }
///         if said.missed() > 0 {
///             peer.send("* you read too slowly\n");
///         }
///     }
/// }
/// # Service::tcp("127.0.0.1:0", || Tasks::new(shouting));
/// ```
///
/// # Panics
/// Outside a task.
pub fn subscribe(topic: &Topic) -> Subscription {
    let station = Station::current("subscribe");
    let inbox = Rc::<Inbox>::default();
    station.ask(Command::Listen(topic.clone(), inbox.clone()));
    Subscription { topic: topic.clone(), inbox, station }
}

/// The subscription of a task to a topic: see [`subscribe`]. Ends when dropped.
///
/// Messages wait until the task takes them, at most [`Subscription::MESSAGES`] of them and [`Subscription::BYTES`] bytes. A message more
/// displaces the oldest, and is counted ([`Subscription::missed`]): a task that is slow holds up nobody.
///
/// ```
/// use reactor::Topic;
/// use sequential::{Peer, subscribe};
///
/// async fn news(peer: &mut Peer) {
///     let mut news = subscribe(&Topic::new("news"));
///     while let Some(message) = news.message().await {
///         if !peer.send_wait(message).await {
///             return;
///         }
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(news));
/// ```
pub struct Subscription {
    topic: Topic,
    inbox: Rc<Inbox>,
    station: Rc<Station>,
}

/// The waiting messages of a subscription.
#[derive(Default)]
pub(crate) struct Inbox {
    waiting: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    missed: Cell<u64>,
    /// The application is stopping.
    is_over: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Inbox {
    /// Keeps a message, which displaces the oldest messages where there is no room.
    pub(crate) fn put(&self, message: &Bytes) {
        let mut waiting = self.waiting.borrow_mut();
        let is_full = |waiting: &VecDeque<Bytes>| {
            waiting.len() >= Subscription::MESSAGES
                || !waiting.is_empty() && self.bytes.get() + message.len() > Subscription::BYTES
        };
        while is_full(&waiting) {
            self.taken(waiting.pop_front());
            self.miss(1);
        }
        self.bytes.set(self.bytes.get() + message.len());
        waiting.push_back(message.clone());
        drop(waiting);
        self.wake();
    }

    pub(crate) fn miss(&self, count: u64) {
        self.missed.set(self.missed.get() + count);
    }

    /// Ends the subscription after the messages that wait.
    pub(crate) fn end(&self) {
        self.is_over.set(true);
        self.wake();
    }

    fn taken(&self, message: Option<Bytes>) -> Option<Bytes> {
        self.bytes.set(self.bytes.get() - message.as_ref().map_or(0, |message| message.len()));
        message
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Subscription {
    /// Number of messages that wait for a task, at most.
    pub const MESSAGES: usize = 1024;
    /// Bytes of the messages that wait for a task, at most. A message that is longer waits alone.
    pub const BYTES: usize = 1024 * 1024;

    /// Awaits the next message. Yields `None` when the application is stopping, after the messages that wait. A cancelled wait loses no
    /// message.
    pub fn message(&mut self) -> NextMessage<'_> {
        NextMessage(&self.inbox)
    }

    /// Takes the next message; `None` when none waits.
    pub fn try_message(&mut self) -> Option<Bytes> {
        let message = self.inbox.waiting.borrow_mut().pop_front();
        self.inbox.taken(message)
    }

    /// The number of messages that were dropped since the last call, because the task has not taken the messages before them.
    pub fn missed(&mut self) -> u64 {
        self.inbox.missed.take()
    }

    /// The topic whose messages the subscription receives.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.station.ask(Command::Unlisten(self.topic.clone(), self.inbox.clone()));
    }
}

/// The future of [`Subscription::message`]: the next message of a topic. `None` when the application is stopping.
///
/// ```
/// use reactor::Topic;
/// use sequential::{NextMessage, Peer, subscribe, within};
/// use std::time::Duration;
///
/// async fn one_message(peer: &mut Peer) {
///     let mut news = subscribe(&Topic::new("news"));
///     let next: NextMessage<'_> = news.message();
///     match within(Duration::from_secs(60), next).await {
///         Ok(Some(message)) => peer.send(&message),
///         _ => peer.send("no news\n"),
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(one_message));
/// ```
#[must_use = "no message is taken until the future is awaited"]
pub struct NextMessage<'s>(&'s Inbox);

impl Future for NextMessage<'_> {
    type Output = Option<Bytes>;
    fn poll(self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Option<Bytes>> {
        let inbox = self.0;
        let message = inbox.waiting.borrow_mut().pop_front();
        match inbox.taken(message) {
            Some(message) => Poll::Ready(Some(message)),
            None if inbox.is_over.get() => Poll::Ready(None),
            None => {
                inbox.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_messages_give_way_and_are_counted() {
        let inbox = Inbox::default();
        let next = || inbox.taken(inbox.waiting.borrow_mut().pop_front());
        for number in 0..Subscription::MESSAGES + 3 {
            inbox.put(&Bytes::from(number.to_string()));
        }
        assert_eq!((inbox.missed.take(), next()), (3, Some(Bytes::from("3"))));
        let half = Bytes::from(vec![0; Subscription::BYTES / 2]);
        (0..3).for_each(|_| inbox.put(&half));
        assert_eq!(inbox.waiting.borrow().len(), 2);
        assert_eq!(inbox.missed.take(), Subscription::MESSAGES as u64 - 1 + 1);
        inbox.put(&Bytes::from(vec![0; 2 * Subscription::BYTES]));
        assert_eq!(inbox.waiting.borrow().len(), 1, "a long message waits alone");
        assert_eq!((next().map(|message| message.len()), inbox.bytes.get()), (Some(2 * Subscription::BYTES), 0));
    }
}
