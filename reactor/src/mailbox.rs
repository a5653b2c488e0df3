//! Bounded queues from any thread to one loop. [`handle`](crate::handle) uses them, and wakes the loop.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, PoisonError};

use crate::protocols::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering};
use crate::shared::each_dropped;
use crate::token::ConnectionId;

/// Capacity of a mailbox, in messages: enough to smooth a burst, and few enough that senders notice a loop that cannot
/// keep up.
pub(crate) const MAILBOX_MESSAGES: usize = if cfg!(loom) {
    1
} else if cfg!(miri) {
    64
} else {
    64 * 1024
};

/// Why a message was not accepted. The error contains the message, for another attempt.
///
/// ```
/// use reactor::PostError;
/// assert_eq!(PostError::Full("hello").into_message(), "hello");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError<M> {
    /// The mailbox is full at present.
    Full(M),
    /// The loop has ended, or will never run.
    Closed(M),
}

impl<M> PostError<M> {
    /// Returns the message that was not posted, so the caller can try again.
    pub fn into_message(self) -> M {
        match self {
            PostError::Full(message) | PostError::Closed(message) => message,
        }
    }

    pub(crate) fn map<N>(self, change: impl FnOnce(M) -> N) -> PostError<N> {
        match self {
            PostError::Full(message) => PostError::Full(change(message)),
            PostError::Closed(message) => PostError::Closed(change(message)),
        }
    }
}

impl<M> fmt::Display for PostError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "the mailbox is full",
            PostError::Closed(_) => "the loop has ended",
        })
    }
}

impl<M: fmt::Debug> std::error::Error for PostError<M> {}

/// A bounded queue from any number of senders to one loop. Posting and taking take O(1) under a lock that is never held
/// for longer.
pub(crate) struct Mailbox<M> {
    inside: Mutex<Inside<M>>,
    room: Condvar,
    weight_max: usize,
    weigh: fn(&M) -> usize,
}

/// The loop's end of a mailbox. A drop, because the loop has ended or will never run, closes the mailbox: no more
/// messages are accepted, and waiting senders return.
pub(crate) struct Receiver<M>(Arc<Mailbox<M>>);

impl<M> Receiver<M> {
    pub(crate) fn new(mailbox: Arc<Mailbox<M>>) -> Self {
        Receiver(mailbox)
    }

    /// Moves up to `most` messages into `into`. Returns whether more remain.
    pub(crate) fn take(&self, into: &mut impl Extend<M>, most: usize) -> bool {
        self.0.take(into, most)
    }

    /// Takes all messages, and closes the mailbox in the same step: later messages are given back to their senders.
    pub(crate) fn take_last(&self) -> VecDeque<M> {
        self.0.take_last()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<M> Drop for Receiver<M> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Inside<M> {
    queue: VecDeque<M>,
    /// Total weight of the queued messages.
    weight: usize,
    /// Number of threads that wait for room.
    waiting: usize,
    closed: bool,
}

/// A message with the connection that it is for.
pub(crate) type Addressed<M> = (ConnectionId, M);

impl<M> Mailbox<M> {
    /// Makes a mailbox for [`MAILBOX_MESSAGES`] messages of any size.
    pub(crate) fn new() -> Self {
        Self::weighed(usize::MAX, |_| 0)
    }

    /// Makes a mailbox that is also bounded by the total weight of its messages; a single message may exceed the bound.
    pub(crate) fn weighed(weight_max: usize, weigh: fn(&M) -> usize) -> Self {
        let inside = Inside { queue: VecDeque::new(), weight: 0, waiting: 0, closed: false };
        Mailbox { inside: Mutex::new(inside), room: Condvar::new(), weight_max, weigh }
    }

    pub(crate) fn post(&self, message: M) -> Result<(), PostError<M>> {
        self.post_wait(message, false)
    }

    pub(crate) fn post_wait(&self, message: M, may_wait: bool) -> Result<(), PostError<M>> {
        let weight = (self.weigh)(&message);
        let mut inside = self.lock();
        loop {
            if inside.closed {
                return Err(PostError::Closed(message));
            }
            let fits = inside.weight == 0 || inside.weight.saturating_add(weight) <= self.weight_max;
            if fits && inside.queue.len() < MAILBOX_MESSAGES {
                inside.weight += weight;
                inside.queue.push_back(message);
                return Ok(());
            }
            if !may_wait {
                return Err(PostError::Full(message));
            }
            inside.waiting += 1;
            inside = self.room.wait(inside).unwrap_or_else(PoisonError::into_inner);
            inside.waiting -= 1;
        }
    }

    /// Moves up to `most` messages into `into`. Returns whether more remain.
    pub(crate) fn take(&self, into: &mut impl Extend<M>, most: usize) -> bool {
        let mut guard = self.lock();
        let inside = &mut *guard;
        let count = inside.queue.len().min(most);
        let lighter: usize = inside.queue.iter().take(count).map(self.weigh).sum();
        inside.weight -= lighter;
        into.extend(inside.queue.drain(..count));
        if inside.waiting > 0 {
            self.room.notify_all();
        }
        !inside.queue.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// Drops all queued messages.
    pub(crate) fn clear(&self) {
        let mut inside = self.lock();
        inside.queue.clear();
        inside.weight = 0;
    }

    /// Closes the mailbox. Waiting senders return.
    fn close(&self) {
        // The loop does not take these messages any more.
        each_dropped(self.take_last());
    }

    /// Closes the mailbox. Returns the messages that are left.
    fn take_last(&self) -> VecDeque<M> {
        let mut inside = self.lock();
        inside.closed = true;
        let (left, _) = (std::mem::take(&mut inside.queue), std::mem::take(&mut inside.weight));
        drop(inside);
        self.room.notify_all();
        left
    }

    /// Locks the queue. A sender that panicked with the lock held cannot have left the queue half changed.
    fn lock(&self) -> MutexGuard<'_, Inside<M>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether other loops have found a mailbox of one loop full, and wait for room.
pub(crate) struct Crowd(AtomicBool);

impl Crowd {
    pub(crate) fn new() -> Self {
        Crowd(AtomicBool::new(false))
    }

    /// Posts, without waking the loop. If the mailbox is full, the loop that makes room finds the waiting sender.
    pub(crate) fn post<M>(&self, mailbox: &Mailbox<M>, message: M) -> Result<(), PostError<M>> {
        match mailbox.post(message) {
            Err(PostError::Full(message)) => {
                // Set before the second attempt: either the attempt finds room, or the next holder of the lock finds
                // the flag.
                self.0.store(true, Ordering::SeqCst);
                mailbox.post(message)
            }
            outcome => outcome,
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// For the loop, after it has taken messages or closed its mailboxes: returns once whether a sender waits.
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::SeqCst) && self.0.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(any(loom, miri)))]
    fn a_mailbox_takes_as_many_messages_as_the_documentation_of_post_says() {
        assert_eq!(MAILBOX_MESSAGES, 65_536);
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back_and_has_room_once_some_are_taken() {
        let mailbox = Mailbox::new();
        for number in 0..MAILBOX_MESSAGES {
            mailbox.post(number).unwrap();
        }
        assert_eq!(mailbox.post(7), Err(PostError::Full(7)));
        let mut taken = Vec::new();
        assert!(mailbox.take(&mut taken, 3));
        assert_eq!(taken, [0, 1, 2]);
        mailbox.post(7).unwrap();
    }

    #[test]
    fn a_weighed_mailbox_is_full_by_weight_and_takes_a_single_message_whatever_it_weighs() {
        let mailbox = Mailbox::weighed(10, |message: &&[u8]| message.len());
        mailbox.post(&[0; 100]).unwrap();
        assert!(matches!(mailbox.post(&[0; 1]), Err(PostError::Full(_))));
        assert!(!mailbox.take(&mut Vec::new(), 1));
        mailbox.post(&[0; 6]).unwrap();
        mailbox.post(&[0; 4]).unwrap();
        assert!(matches!(mailbox.post(&[0; 1]), Err(PostError::Full(_))));
        assert!(mailbox.take(&mut Vec::new(), 1));
        mailbox.post(&[0; 6]).unwrap();
    }

    #[test]
    fn who_waits_for_room_gets_it_and_is_told_when_the_loop_ends() {
        let mailbox = Arc::new(Mailbox::new());
        for number in 0..MAILBOX_MESSAGES {
            mailbox.post(number).unwrap();
        }
        let waiting = |message| {
            let mailbox = mailbox.clone();
            let sender = std::thread::spawn({
                let mailbox = mailbox.clone();
                move || mailbox.post_wait(message, true)
            });
            // So that the sender finds no room, and needs the wake-up.
            while mailbox.lock().waiting == 0 {
                std::thread::yield_now();
            }
            sender
        };
        let first = waiting(1);
        assert!(mailbox.take(&mut Vec::new(), 1));
        assert_eq!(first.join().unwrap(), Ok(()));
        assert_eq!(mailbox.lock().waiting, 0);
        let second = waiting(2);
        drop(Receiver::new(mailbox));
        assert_eq!(second.join().unwrap(), Err(PostError::Closed(2)));
    }

    #[test]
    fn the_last_messages_are_taken_in_the_step_that_closes_the_mailbox() {
        let mailbox = Arc::new(Mailbox::weighed(10, |&message| message));
        let receiver = Receiver::new(mailbox.clone());
        assert!(receiver.is_empty() && mailbox.is_empty());
        mailbox.post(1).unwrap();
        mailbox.post(2).unwrap();
        let mut taken = Vec::new();
        assert!(receiver.take(&mut taken, 1), "one remains");
        assert!(!receiver.take(&mut taken, 1));
        assert_eq!(taken, [1, 2]);
        mailbox.post(9).unwrap();
        assert!(!receiver.is_empty() && !mailbox.is_empty());
        assert_eq!(receiver.take_last(), [9]);
        assert_eq!(mailbox.post(3), Err(PostError::Closed(3)));
    }

    #[test]
    fn a_cleared_mailbox_has_room_for_as_much_as_a_new_one() {
        let mailbox = Mailbox::weighed(10, |&message| message);
        mailbox.post(10).unwrap();
        mailbox.clear();
        assert!(mailbox.is_empty());
        mailbox.post(4).unwrap();
        mailbox.post(6).unwrap();
    }

    #[test]
    fn a_sender_that_finds_a_full_mailbox_is_noted_until_the_loop_has_made_room_once() {
        let (crowd, mailbox) = (Crowd::new(), Mailbox::weighed(10, |&message| message));
        crowd.post(&mailbox, 10).unwrap();
        assert!(!crowd.is_waiting() && !crowd.take());
        assert_eq!(crowd.post(&mailbox, 1), Err(PostError::Full(1)));
        assert!(crowd.is_waiting());
        let mut taken = Vec::new();
        assert!(!mailbox.take(&mut taken, 9));
        assert_eq!(taken, [10]);
        assert!(crowd.take());
        assert!(!crowd.is_waiting() && !crowd.take());
    }

    #[test]
    fn a_refused_message_says_why() {
        assert_eq!(PostError::Full(1).to_string(), "the mailbox is full");
        assert_eq!(PostError::Closed(1).to_string(), "the loop has ended");
    }
}
