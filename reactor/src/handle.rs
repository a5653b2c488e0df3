//! What other threads have of a running application: the whole of it, and one service of it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::address::Address;
use crate::cluster::{Cluster, LoopHandle};
use crate::mailbox::{Addressed, Mailbox, PostError, Receiver};
use crate::outbox::{self, on_a_loops_thread};
use crate::shared::Shared;
use crate::stats::Stats;
use crate::sys::affinity::Cores;
use crate::token::ConnectionId;
use crate::topics::Topic;

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
pub struct Handle(pub(crate) Arc<Cluster>);

impl Handle {
    /// Stops the application, as SIGTERM would: it stops listening, lets every connection finish within the drain time,
    /// and returns from [`Application::run`](crate::Application::run). Never blocks.
    pub fn halt(&self) {
        self.0.halt();
    }

    /// Queues `bytes` for every member of the topic, whoever serves it. Never blocks. For threads: in a callback
    /// [`Context::publish`](crate::Context::publish) waits for room instead of giving the bytes back.
    ///
    /// # Errors
    /// Gives the bytes back when so much waits already (65,536 messages, or 16 MiB) or the first loop has ended.
    pub fn publish(&self, topic: &Topic, bytes: impl Into<Bytes>) -> Result<(), PostError<Bytes>> {
        self.0
            .publish((topic.clone(), Shared::new(bytes.into())))
            .map_err(|error| error.map(|(_, bytes)| bytes.into_bytes()))
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
        self.0.stats()
    }

    /// For a thread that a handler has started: lets it run on every core that the loops are spread over. Where they are
    /// pinned ([`Runner::pinned`](crate::Runner::pinned)) it would otherwise stay on the core of the loop that started it
    /// and take turns with that. Does nothing where they are not, nor on a loop's own thread.
    ///
    /// ```
    /// # use reactor::Application;
    /// # let app = Application::new()?;
    /// let handle = app.handle(); // in a handler: of the `ServiceHandle`
    /// std::thread::spawn(move || {
    ///     handle.leave_core();
    ///     // What takes long.
    /// });
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn leave_core(&self) {
        if on_a_loops_thread() {
            return;
        }
        if let Some(Err(error)) = self.0.cores().map(Cores::keep_to) {
            log::warn!("a thread stays on the core of the loop that started it: {error}");
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("loops", &self.0.fixed().len()).finish()
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
///     fn on_open(&mut self, _: &mut Context<'_, (), String>) {}
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_, (), String>) {
///         input.take_all();
///     }
///     fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, message: String, cx: &mut Context<'_, (), String>) {
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
    mailboxes: Arc<Mailboxes<M>>,
    addresses: Arc<[Address]>,
    /// Addresses before this one have no layer.
    plain: usize,
}

/// The mailboxes of one service's handlers, one on each loop.
struct Mailboxes<M> {
    fixed: Box<[Arc<Mailbox<Addressed<M>>>]>,
    per_connection: RwLock<HashMap<u32, PerConnectionLoop<M>>>,
}

struct PerConnectionLoop<M> {
    loop_handle: Arc<LoopHandle>,
    mailbox: Arc<Mailbox<Addressed<M>>>,
}

/// A guest's end of its mailbox. Dropped, nobody reaches it any more.
pub(crate) struct GuestReceiver<M: Send + 'static> {
    receiver: Receiver<Addressed<M>>,
    number: u32,
    mailboxes: Arc<Mailboxes<M>>,
}

/// Where a handler's messages come from.
pub(crate) trait Mail<M> {
    /// Moves up to `most` messages into `into`. Whether there are more.
    fn take(&mut self, into: &mut VecDeque<Addressed<M>>, most: usize) -> bool;
}

impl<M> Mail<M> for Receiver<Addressed<M>> {
    fn take(&mut self, into: &mut VecDeque<Addressed<M>>, most: usize) -> bool {
        Receiver::take(self, into, most)
    }
}

impl<M: Send + 'static> Mail<M> for GuestReceiver<M> {
    fn take(&mut self, into: &mut VecDeque<Addressed<M>>, most: usize) -> bool {
        self.receiver.take(into, most)
    }
}

impl<M: Send + 'static> Drop for GuestReceiver<M> {
    fn drop(&mut self) {
        self.mailboxes.per_connection.write().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl<M: Send + 'static> ServiceHandle<M> {
    pub(crate) fn new(handle: Handle, addresses: Vec<Address>, plain: usize) -> Self {
        let fixed = handle.0.fixed().iter().map(|_| Arc::new(Mailbox::new())).collect();
        let mailboxes = Mailboxes { fixed, per_connection: RwLock::default() };
        ServiceHandle { handle, mailboxes: Arc::new(mailboxes), addresses: addresses.into(), plain }
    }

    /// The end of each standing loop. There is one for each.
    pub(crate) fn receivers(&self) -> impl Iterator<Item = Receiver<Addressed<M>>> {
        self.mailboxes.fixed.iter().cloned().map(Receiver::new)
    }

    /// That of a loop that has come.
    pub(crate) fn receiver_of_guest(&self, loop_handle: &Arc<LoopHandle>) -> GuestReceiver<M> {
        let mailbox = Arc::new(Mailbox::new());
        let (number, receiver) = (loop_handle.number, Receiver::new(mailbox.clone()));
        let per_connection_loop = PerConnectionLoop { loop_handle: loop_handle.clone(), mailbox };
        self.mailboxes
            .per_connection
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, per_connection_loop);
        GuestReceiver { receiver, number, mailboxes: self.mailboxes.clone() }
    }

    /// Where the service listens, port 0 replaced by the real one; the first of them if a name had several. `None` for
    /// a service that doesn't listen.
    pub fn address(&self) -> Option<&Address> {
        self.addresses.first()
    }

    /// Everywhere the service listens, the addresses whose connections have a layer last.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Those whose connections have a layer: see [`Service::layered`](crate::Service::layered).
    pub fn layered_addresses(&self) -> &[Address] {
        &self.addresses[self.plain..]
    }

    /// Hands `message` to the handler that serves `to`, on that connection's loop; for [`ConnectionId::NONE`], to the
    /// handler on the first loop. Never blocks. Messages of one sender arrive in order.
    ///
    /// In a callback of the same application a full mailbox (65,536 messages) is no error: the message waits at the posting
    /// loop, in order, and nothing is read from the connection that the callback is for until all waiting messages have gone
    /// on. So a callback of a connection may post any number. A turn that begins with 65,536 waiting messages or more gives
    /// back what callbacks without a connection post (periodic work,
    /// [`on_message`](crate::Handler::on_message), [`on_turn`](crate::Handler::on_turn)), and what connections post that are
    /// held already; in such a turn the loop takes no messages itself, unless another loop waits for room in its mailboxes. So
    /// a chain of loops slows down to the pace of the last, and a circle in which each message causes more than one ends in
    /// errors, never in a standstill.
    ///
    /// # Errors
    /// Gives the message back when the loop has ended; when the mailbox is full, for a thread that is no loop of this
    /// application; and in a callback as above. Of messages given back in callbacks the log tells, once a second at most.
    pub fn post(&self, to: ConnectionId, message: M) -> Result<(), PostError<M>> {
        self.put(to, message, false)
    }

    /// Like [`ServiceHandle::post`], but **blocks** while the mailbox is full. In a callback it is the same as that, and does
    /// not block.
    ///
    /// # Errors
    /// Gives the message back when the loop has ended; in a callback, as [`ServiceHandle::post`] does.
    pub fn post_wait(&self, to: ConnectionId, message: M) -> Result<(), PostError<M>> {
        self.put(to, message, true)
    }

    fn put(&self, to: ConnectionId, message: M, may_wait: bool) -> Result<(), PostError<M>> {
        let cluster = &self.handle.0;
        let number = if to == ConnectionId::NONE { cluster.first() } else { to.event_loop() };
        let here = |error: PostError<Addressed<M>>| error.map(|(_, message)| message);
        if let Some(mailbox) = self.mailboxes.fixed.get(number as usize) {
            let loop_handle = &cluster.fixed()[number as usize];
            return outbox::post(cluster, loop_handle, mailbox, (to, message), may_wait).map_err(here);
        }
        let per_connection = self.mailboxes.per_connection.read().unwrap_or_else(PoisonError::into_inner);
        let per_connection_loop = per_connection
            .get(&number)
            .map(|per_connection_loop| (per_connection_loop.mailbox.clone(), per_connection_loop.loop_handle.clone()));
        // Not held while waiting: a guest that leaves takes its own out.
        drop(per_connection);
        let Some((mailbox, loop_handle)) = per_connection_loop else { return Err(PostError::Closed(message)) };
        outbox::post(cluster, &loop_handle, &mailbox, (to, message), may_wait).map_err(here)
    }

    /// The whole application's handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl<M> Clone for ServiceHandle<M> {
    fn clone(&self) -> Self {
        ServiceHandle {
            handle: self.handle.clone(),
            mailboxes: self.mailboxes.clone(),
            addresses: self.addresses.clone(),
            plain: self.plain,
        }
    }
}

impl<M> fmt::Debug for ServiceHandle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHandle").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
