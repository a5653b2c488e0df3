//! Messages that callbacks of a loop post to a full mailbox. Such messages wait here, in order, until the mailbox has room, so
//! a post from a callback is never lost and never blocks the loop. Used by [`handle`](crate::handle), which posts; uses the
//! cluster.
//!
//! Two bounds hold. The connection whose callback posted a waiting message is not read until all messages have gone on. And a
//! turn that begins with [`WAITING_MAX`] waiting messages or more gives further messages back ([`PostError::Full`]): to
//! callbacks without a connection (periodic work, `on_message`, `on_turn`, `on_start`), and to held connections. In such a turn
//! the loop takes no messages out of its own mailboxes, unless another loop waits for room there.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use crate::cluster::{Cluster, LoopHandle};
use crate::mailbox::{Addressed, MAILBOX_MESSAGES, Mailbox, PostError};
use crate::shared::each_dropped;
use crate::token::ConnectionId;

/// A turn that begins with so many waiting messages refuses further messages: the capacity of a mailbox.
const WAITING_MAX: usize = MAILBOX_MESSAGES;

/// Messages of a loop's callbacks that wait for room.
pub(crate) struct Outbox {
    cluster: Arc<Cluster>,
    /// The connection of the current or last callback; [`ConnectionId::NONE`] for a callback without a connection.
    caller: Cell<ConnectionId>,
    /// One queue for each full mailbox, by the mailbox's address.
    queues: RefCell<HashMap<usize, Box<dyn Queue>>>,
    /// Messages in all queues.
    count: Cell<usize>,
    /// [`WAITING_MAX`] messages or more waited when this turn began.
    is_full: Cell<bool>,
    /// Connections whose callbacks posted waiting messages in this turn, and are read until its end.
    posted: RefCell<Vec<ConnectionId>>,
    /// Connections that are not read until all messages have gone on.
    held: RefCell<HashSet<ConnectionId>>,
    /// Messages given back since the last [`Outbox::take_refused`].
    refused: Cell<u64>,
}

/// The waiting messages for one mailbox, without their type.
trait Queue {
    /// Moves messages into the mailbox while there is room, and wakes its loop. Returns whether the mailbox is closed.
    fn flush(&mut self) -> bool;
    fn len(&self) -> usize;
    /// Drops all messages.
    fn discard(&mut self);
    fn as_any(&mut self) -> &mut dyn Any;
}

struct Waiting<M> {
    loop_handle: Arc<LoopHandle>,
    mailbox: Arc<Mailbox<Addressed<M>>>,
    messages: VecDeque<Addressed<M>>,
}

impl<M: Send + 'static> Queue for Waiting<M> {
    fn flush(&mut self) -> bool {
        let is_closed = loop {
            let Some(message) = self.messages.pop_front() else { break false };
            let (error, is_closed) = match self.loop_handle.post(&self.mailbox, message) {
                Ok(()) => continue,
                Err(error @ PostError::Full(_)) => (error, false),
                Err(error @ PostError::Closed(_)) => (error, true),
            };
            self.messages.push_front(error.into_message());
            break is_closed;
        };
        // Wakes the loop also if no message fitted: a loop with too many waiting messages takes none itself until it
        // sees that another loop waits.
        self.loop_handle.wake();
        is_closed
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn discard(&mut self) {
        each_dropped(self.messages.drain(..));
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Outbox {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Outbox {
            cluster,
            caller: Cell::new(ConnectionId::NONE),
            queues: RefCell::default(),
            count: Cell::new(0),
            is_full: Cell::new(false),
            posted: RefCell::default(),
            held: RefCell::default(),
            refused: Cell::new(0),
        }
    }

    /// Sets the connection of the callback that begins.
    #[inline]
    pub(crate) fn set_caller(&self, id: ConnectionId) {
        self.caller.set(id);
    }

    /// The number of fixed loops of the application.
    pub(crate) fn loops(&self) -> usize {
        self.cluster.fixed().len()
    }

    /// Whether any message waits for room.
    pub(crate) fn is_behind(&self) -> bool {
        self.count.get() > 0
    }

    /// Whether callbacks without a connection get their messages back: too many messages waited at the beginning of the turn.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.get()
    }

    /// Takes the number of messages that were given back since the last call.
    pub(crate) fn take_refused(&self) -> u64 {
        self.refused.take()
    }

    /// Whether messages were given back since [`Outbox::take_refused`].
    pub(crate) fn has_refused(&self) -> bool {
        self.refused.get() > 0
    }

    /// Connections whose callbacks have posted waiting messages since the last call: not to be read until [`Outbox::flush`]
    /// releases them.
    pub(crate) fn take_posted(&self) -> Vec<ConnectionId> {
        let posted = self.posted.take();
        self.held.borrow_mut().extend(&posted);
        posted
    }

    fn post<M: Send + 'static>(
        &self,
        loop_handle: &Arc<LoopHandle>,
        mailbox: &Arc<Mailbox<Addressed<M>>>,
        message: Addressed<M>,
    ) -> Result<(), PostError<Addressed<M>>> {
        let key = Arc::as_ptr(mailbox) as usize;
        let message = if self.is_behind() && self.queues.borrow().contains_key(&key) {
            // An earlier message is waiting already.
            message
        } else {
            match loop_handle.post(mailbox, message) {
                Ok(()) => {
                    loop_handle.wake();
                    return Ok(());
                }
                Err(PostError::Full(message)) => message,
                closed => return closed,
            }
        };
        let caller = self.caller.get();
        if self.is_full.get() && (caller == ConnectionId::NONE || self.held.borrow().contains(&caller)) {
            self.refused.set(self.refused.get() + 1);
            return Err(PostError::Full(message));
        }
        let mut queues = self.queues.borrow_mut();
        let queue = queues.entry(key).or_insert_with(|| {
            Box::new(Waiting { loop_handle: loop_handle.clone(), mailbox: mailbox.clone(), messages: VecDeque::new() })
        });
        let waiting =
            queue.as_any().downcast_mut::<Waiting<M>>().expect("the queue holds its mailbox, so no other is there");
        waiting.messages.push_back(message);
        self.count.set(self.count.get() + 1);
        let mut posted = self.posted.borrow_mut();
        if caller != ConnectionId::NONE && posted.last() != Some(&caller) {
            posted.push(caller);
        }
        Ok(())
    }

    /// At the end of a turn: posts the messages that have room now. Returns the connections that may be read again: all
    /// held connections, when no message waits.
    pub(crate) fn flush(&self) -> Vec<ConnectionId> {
        // Taken out meanwhile, because the drop of a message may post another one.
        let mut queues = self.queues.take();
        let mut closed = Vec::new();
        queues.retain(|_, queue| {
            let is_closed = queue.flush();
            if is_closed {
                closed.push(std::mem::replace(queue, Box::new(Gone)));
            }
            !is_closed && queue.len() > 0
        });
        self.count.set(queues.values().map(|queue| queue.len()).sum());
        self.is_full.set(self.count.get() >= WAITING_MAX);
        *self.queues.borrow_mut() = queues;
        let lost: usize = closed.iter().map(|queue| queue.len()).sum();
        if lost > 0 {
            log::debug!("{lost} messages were for a loop that has ended");
        }
        closed.into_iter().for_each(|mut queue| queue.discard());
        if self.is_behind() { Vec::new() } else { self.held.take().into_iter().collect() }
    }

    /// Adds connections held by another queue, to be released together with this queue's connections.
    pub(crate) fn hold(&self, ids: Vec<ConnectionId>) {
        self.held.borrow_mut().extend(ids);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.queues.take().into_values().for_each(|mut queue| queue.discard());
    }
}

/// Replaces a queue whose mailbox is closed.
struct Gone;

impl Queue for Gone {
    fn flush(&mut self) -> bool {
        true
    }

    fn len(&self) -> usize {
        0
    }

    fn discard(&mut self) {}

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

thread_local! {
    static HERE: RefCell<Option<Rc<Outbox>>> = const { RefCell::new(None) };
}

/// Marks this thread as a loop's thread until the drop.
pub(crate) struct LoopsThread {
    before: Option<Rc<Outbox>>,
}

impl LoopsThread {
    pub(crate) fn enter(outbox: Rc<Outbox>) -> Self {
        LoopsThread { before: HERE.replace(Some(outbox)) }
    }
}

impl Drop for LoopsThread {
    fn drop(&mut self) {
        HERE.replace(self.before.take());
    }
}

fn here() -> Option<Rc<Outbox>> {
    HERE.try_with(|here| here.borrow().clone()).ok().flatten()
}

pub(crate) fn on_a_loops_thread() -> bool {
    here().is_some()
}

/// Posts from a callback of a loop of this application: without room, the message waits. On other threads, and from a
/// loop of another application, a full mailbox is an error, or blocks the thread if it `may_wait`.
pub(crate) fn post<M: Send + 'static>(
    cluster: &Arc<Cluster>,
    loop_handle: &Arc<LoopHandle>,
    mailbox: &Arc<Mailbox<Addressed<M>>>,
    message: Addressed<M>,
    may_wait: bool,
) -> Result<(), PostError<Addressed<M>>> {
    match here() {
        Some(outbox) if Arc::ptr_eq(&outbox.cluster, cluster) => outbox.post(loop_handle, mailbox, message),
        // Waiting would delay the thread's own loop.
        Some(_) => mailbox.post(message).map(|()| loop_handle.wake()),
        None => mailbox.post_wait(message, may_wait).map(|()| loop_handle.wake()),
    }
}
