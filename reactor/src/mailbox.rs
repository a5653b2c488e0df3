//! From other threads to a loop: bounded queues, one wake-up for however many messages, nothing lost and nothing waited
//! for by a loop.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::address::Address;
use crate::stats::{Counters, Stats};
use crate::sys::wake::Waker;
use crate::token::ConnectionId;
use crate::topics::Topic;

/// Messages that one mailbox holds: enough to smooth a burst, few enough that a loop which cannot keep up is
/// noticed by those who post.
const MAILBOX_MESSAGES: usize = if cfg!(miri) { 64 } else { 64 * 1024 };

/// Reaches a running application from any thread.
///
/// ```
/// use reactor::Application;
/// let app = Application::new()?;
/// let handle = app.handle();
/// std::thread::spawn(move || handle.halt());
/// app.run()?; // returns once the thread has asked it to
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Clone)]
pub struct Handle {
    desks: Arc<[Desk]>,
}

/// What another thread publishes.
pub(crate) type Published = (Topic, Bytes);

/// Where one loop can be reached.
pub(crate) struct Desk {
    pub(crate) waker: Waker,
    published: Arc<Mailbox<Published>>,
    halting: AtomicBool,
    pub(crate) counters: Arc<Counters>,
}

impl Handle {
    pub(crate) fn new(wakers: impl IntoIterator<Item = Waker>) -> Self {
        let desk = |waker| Desk {
            waker,
            published: Arc::new(Mailbox::new()),
            halting: AtomicBool::new(false),
            counters: Arc::default(),
        };
        Handle { desks: wakers.into_iter().map(desk).collect() }
    }

    /// Stops the application, as SIGTERM would: it stops listening, lets every connection finish within the drain time,
    /// and returns from [`Application::run`](crate::Application::run). Never blocks.
    pub fn halt(&self) {
        for desk in self.desks.iter() {
            desk.halting.store(true, Ordering::Release);
            desk.waker.wake();
        }
    }

    /// Queues `bytes` for every member of the topic. Never blocks.
    ///
    /// # Errors
    /// Gives the bytes back when the loop has too many to deal with already, or has ended.
    pub fn publish(&self, topic: &Topic, bytes: impl Into<Bytes>) -> Result<(), PostError<Bytes>> {
        let bytes = bytes.into();
        for desk in self.desks.iter() {
            desk.published.post((topic.clone(), bytes.clone())).map_err(|error| error.map(|(_, bytes)| bytes))?;
            desk.waker.wake();
        }
        Ok(())
    }

    /// The counters of all loops together, as they stand: also while a callback holds one, and after they have ended.
    /// Never blocks, and asks nothing of the loops.
    ///
    /// ```
    /// use reactor::Application;
    /// use std::time::Duration;
    ///
    /// let mut app = Application::new()?;
    /// app.add_loop(Duration::from_millis(1), |cx| cx.halt());
    /// let handle = app.handle();
    /// app.run()?;
    /// assert!(handle.stats().turns >= 1 && handle.stats().lag.longest() > Duration::ZERO);
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn stats(&self) -> Stats {
        let mut all = Stats::default();
        for desk in self.desks.iter() {
            all += &desk.counters.read();
        }
        all
    }

    pub(crate) fn desk(&self, event_loop: usize) -> &Desk {
        &self.desks[event_loop]
    }
}

impl Desk {
    /// The loop's end of what is published. There is one loop for each desk.
    pub(crate) fn receiver(&self) -> Receiver<Published> {
        Receiver::new(self.published.clone())
    }

    pub(crate) fn is_halting(&self) -> bool {
        self.halting.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("loops", &self.desks.len()).finish()
    }
}

/// Reaches one service of a running application from any thread: where it listens, and its handler's mailbox.
///
/// ```
/// use reactor::{Application, ConnectionId, Context, Handler, Input, Service};
///
/// struct Printer;
///
/// impl Handler<String> for Printer {
///     type Connection = ();
///     fn on_open(&mut self, _: &mut Context<'_>) {}
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
///         input.take_all();
///     }
///     fn on_message(&mut self, _: ConnectionId, message: String, cx: &mut Context<'_>) {
///         assert_eq!(message, "done");
///         cx.halt();
///     }
/// }
///
/// let mut app = Application::new()?;
/// let printer = app.add_service(Service::tcp("127.0.0.1:0", || Printer))?;
/// assert_ne!(printer.address().unwrap().port(), Some(0));
/// std::thread::spawn(move || printer.post(ConnectionId::NONE, "done".to_owned()));
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
pub struct ServiceHandle<M = ()> {
    handle: Handle,
    mailboxes: Arc<[Arc<Mailbox<Addressed<M>>>]>,
    addresses: Arc<[Address]>,
}

impl<M: Send + 'static> ServiceHandle<M> {
    pub(crate) fn new(handle: Handle, mailboxes: Vec<Arc<Mailbox<Addressed<M>>>>, addresses: Vec<Address>) -> Self {
        ServiceHandle { handle, mailboxes: mailboxes.into(), addresses: addresses.into() }
    }

    /// Where the service listens, port 0 replaced by the real one; the first of them if a name had several. `None` for
    /// a service that doesn't listen.
    pub fn address(&self) -> Option<&Address> {
        self.addresses.first()
    }

    /// Everywhere the service listens.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Hands `message` to the handler that serves `to`, on that connection's loop; for [`ConnectionId::NONE`], to the
    /// handler on the first loop. Never blocks. Messages of one sender arrive in order.
    ///
    /// # Errors
    /// Gives the message back when the mailbox is full (65,536 messages), or when the loop has ended.
    pub fn post(&self, to: ConnectionId, message: M) -> Result<(), PostError<M>> {
        let event_loop = self.event_loop_of(to);
        self.mailboxes[event_loop].post((to, message)).map_err(|error| error.map(|(_, message)| message))?;
        self.handle.desk(event_loop).waker.wake();
        Ok(())
    }

    /// Like [`ServiceHandle::post`], but **blocks** while the mailbox is full.
    ///
    /// # Errors
    /// Gives the message back when the loop has ended, and when called on a loop's own thread with the mailbox full: it
    /// would wait for itself.
    pub fn post_wait(&self, to: ConnectionId, message: M) -> Result<(), PostError<M>> {
        let event_loop = self.event_loop_of(to);
        let may_wait = !on_a_loops_thread();
        self.mailboxes[event_loop]
            .post_wait((to, message), may_wait)
            .map_err(|error| error.map(|(_, message)| message))?;
        self.handle.desk(event_loop).waker.wake();
        Ok(())
    }

    /// The whole application's handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    fn event_loop_of(&self, to: ConnectionId) -> usize {
        to.event_loop().min(self.mailboxes.len() - 1)
    }
}

impl<M> Clone for ServiceHandle<M> {
    fn clone(&self) -> Self {
        ServiceHandle {
            handle: self.handle.clone(),
            mailboxes: self.mailboxes.clone(),
            addresses: self.addresses.clone(),
        }
    }
}

impl<M> fmt::Debug for ServiceHandle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHandle").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Why a message was not taken. It has the message, for another try.
///
/// ```
/// use reactor::PostError;
/// assert_eq!(PostError::Full("hello").into_message(), "hello");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError<M> {
    /// The mailbox is full for now.
    Full(M),
    /// The loop has ended, or never will run.
    Closed(M),
}

impl<M> PostError<M> {
    /// The message.
    pub fn into_message(self) -> M {
        match self {
            PostError::Full(message) | PostError::Closed(message) => message,
        }
    }

    fn map<N>(self, change: impl FnOnce(M) -> N) -> PostError<N> {
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

/// A bounded queue of any number of senders and one loop. Putting and taking are O(1) under a lock that nobody holds
/// for longer.
pub(crate) struct Mailbox<M> {
    inside: Mutex<Inside<M>>,
    room: Condvar,
}

/// The loop's end of a mailbox. Once it is dropped, because the loop has ended or never will run, nothing more is
/// taken, and whoever waits for room is told.
pub(crate) struct Receiver<M>(Arc<Mailbox<M>>);

impl<M> Receiver<M> {
    pub(crate) fn new(mailbox: Arc<Mailbox<M>>) -> Self {
        Receiver(mailbox)
    }

    /// Moves up to `most` messages into `into`. Whether there are more.
    pub(crate) fn take(&self, into: &mut impl Extend<M>, most: usize) -> bool {
        self.0.take(into, most)
    }
}

impl<M> Drop for Receiver<M> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Inside<M> {
    queue: VecDeque<M>,
    closed: bool,
}

/// A message and the connection that it is for.
pub(crate) type Addressed<M> = (ConnectionId, M);

impl<M> Mailbox<M> {
    pub(crate) fn new() -> Self {
        Mailbox { inside: Mutex::new(Inside { queue: VecDeque::new(), closed: false }), room: Condvar::new() }
    }

    fn post(&self, message: M) -> Result<(), PostError<M>> {
        self.post_wait(message, false)
    }

    fn post_wait(&self, message: M, may_wait: bool) -> Result<(), PostError<M>> {
        let mut inside = self.lock();
        loop {
            match &mut *inside {
                Inside { closed: true, .. } => return Err(PostError::Closed(message)),
                Inside { queue, .. } if queue.len() < MAILBOX_MESSAGES => {
                    queue.push_back(message);
                    return Ok(());
                }
                _ if !may_wait => return Err(PostError::Full(message)),
                _ => inside = self.room.wait(inside).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Moves up to `most` messages into `into`. Whether there are more.
    fn take(&self, into: &mut impl Extend<M>, most: usize) -> bool {
        let mut inside = self.lock();
        let was_full = inside.queue.len() >= MAILBOX_MESSAGES;
        let count = inside.queue.len().min(most);
        into.extend(inside.queue.drain(..count));
        if was_full {
            self.room.notify_all();
        }
        !inside.queue.is_empty()
    }

    /// Takes no more. Whoever waits for room is told.
    fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    /// A sender that panicked while it held the lock cannot have left the queue half changed.
    fn lock(&self) -> MutexGuard<'_, Inside<M>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static ON_A_LOOP: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as a loop's for as long as the guard lives.
pub(crate) struct LoopsThread(());

impl LoopsThread {
    pub(crate) fn enter() -> Self {
        ON_A_LOOP.set(true);
        LoopsThread(())
    }
}

impl Drop for LoopsThread {
    fn drop(&mut self) {
        ON_A_LOOP.set(false);
    }
}

fn on_a_loops_thread() -> bool {
    ON_A_LOOP.get()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn who_waits_for_room_gets_it_and_is_told_when_the_loop_ends() {
        let mailbox = Arc::new(Mailbox::new());
        for number in 0..MAILBOX_MESSAGES {
            mailbox.post(number).unwrap();
        }
        let waiting = |message| {
            let mailbox = mailbox.clone();
            std::thread::spawn(move || mailbox.post_wait(message, true))
        };
        let first = waiting(1);
        assert!(mailbox.take(&mut Vec::new(), 1));
        assert_eq!(first.join().unwrap(), Ok(()));
        let second = waiting(2);
        drop(Receiver::new(mailbox));
        assert_eq!(second.join().unwrap(), Err(PostError::Closed(2)));
    }
}
