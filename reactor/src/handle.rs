//! Access from any thread to a running application (`Handle`) and to a single service (`ServiceHandle`).

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

/// Stops a running application, publishes and reads counters, from any thread.
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

    /// Queues `bytes` for every member of the topic, on all loops. Never blocks. For threads: in a callback
    /// [`Context::publish`](crate::Context::publish) waits for room instead of giving the bytes back.
    ///
    /// # Errors
    /// Gives the bytes back if 65,536 messages or 16 MiB are waiting already, or if the first loop has ended.
    pub fn publish(&self, topic: &Topic, bytes: impl Into<Bytes>) -> Result<(), PostError<Bytes>> {
        self.0
            .publish((topic.clone(), Shared::new(bytes.into())))
            .map_err(|error| error.map(|(_, bytes)| bytes.into_bytes()))
    }

    /// The present counters of all loops together, also while a callback holds a loop, and after the loops have ended.
    /// Never blocks, and does not involve the loops.
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

    /// The number of loops that live as long as the application: see [`Context::loops`](crate::Context::loops). A thread posts to each
    /// of them by its number.
    ///
    /// ```
    /// use reactor::{PostError, ServiceHandle};
    /// /// Spreads work over the handlers of all loops.
    /// fn spread(service: &ServiceHandle<u64>, work: u64) -> Result<(), PostError<u64>> {
    ///     service.post_to_loop(work as usize % service.handle().loops(), work)
    /// }
    /// ```
    pub fn loops(&self) -> usize {
        self.0.fixed().len()
    }

    /// Lets a thread that a handler has started run on every core of the loops. With pinned loops
    /// ([`Runner::pinned`](crate::Runner::pinned)) the thread would otherwise stay on the core of its loop, and take
    /// turns with the loop. Does nothing without pinning, and on a loop's own thread.
    ///
    /// ```
    /// # use reactor::Application;
    /// # let app = Application::new()?;
    /// let handle = app.handle(); // in a handler: of the `ServiceHandle`
    /// std::thread::spawn(move || {
    ///     handle.leave_core();
    ///     // Long computations.
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

/// Reaches a service of a running application from any thread: the service's addresses, and its handlers' mailboxes.
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
    /// Number of addresses without a layer, which come first.
    plain: usize,
}

/// The mailboxes of a service's handlers on all loops.
struct Mailboxes<M> {
    fixed: Box<[Arc<Mailbox<Addressed<M>>>]>,
    per_connection: RwLock<HashMap<u32, PerConnectionLoop<M>>>,
}

struct PerConnectionLoop<M> {
    loop_handle: Arc<LoopHandle>,
    mailbox: Arc<Mailbox<Addressed<M>>>,
}

/// The receiving end of a per-connection loop's mailbox. A drop removes the mailbox.
pub(crate) struct PerConnectionReceiver<M: Send + 'static> {
    receiver: Receiver<Addressed<M>>,
    number: u32,
    mailboxes: Arc<Mailboxes<M>>,
}

/// The source of a handler's messages.
pub(crate) trait Mail<M> {
    /// Moves up to `most` messages into `into`. Returns whether more remain.
    fn take(&mut self, into: &mut VecDeque<Addressed<M>>, most: usize) -> bool;
}

impl<M> Mail<M> for Receiver<Addressed<M>> {
    fn take(&mut self, into: &mut VecDeque<Addressed<M>>, most: usize) -> bool {
        Receiver::take(self, into, most)
    }
}

impl<M: Send + 'static> Mail<M> for PerConnectionReceiver<M> {
    fn take(&mut self, into: &mut VecDeque<Addressed<M>>, most: usize) -> bool {
        self.receiver.take(into, most)
    }
}

impl<M: Send + 'static> Drop for PerConnectionReceiver<M> {
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

    /// The receivers of the fixed loops, in order. Call once.
    pub(crate) fn receivers(&self) -> impl Iterator<Item = Receiver<Addressed<M>>> {
        self.mailboxes.fixed.iter().cloned().map(Receiver::new)
    }

    /// The receiver of a new per-connection loop.
    pub(crate) fn per_connection_receiver(&self, loop_handle: &Arc<LoopHandle>) -> PerConnectionReceiver<M> {
        let mailbox = Arc::new(Mailbox::new());
        let (number, receiver) = (loop_handle.number, Receiver::new(mailbox.clone()));
        let per_connection_loop = PerConnectionLoop { loop_handle: loop_handle.clone(), mailbox };
        self.mailboxes
            .per_connection
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, per_connection_loop);
        PerConnectionReceiver { receiver, number, mailboxes: self.mailboxes.clone() }
    }

    /// The address of the service, with the actual port in place of port 0; the first address if a name has several.
    /// `None` for a service without a listener.
    pub fn address(&self) -> Option<&Address> {
        self.addresses.first()
    }

    /// All addresses of the service; addresses with a layer come last.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The addresses whose connections have a layer: see [`Service::layered`](crate::Service::layered).
    pub fn layered_addresses(&self) -> &[Address] {
        &self.addresses[self.plain..]
    }

    /// Sends `message` to the handler that serves `to`, on the connection's loop; for [`ConnectionId::NONE`], to the
    /// handler on the first loop. Never blocks. Messages of one sender arrive in order.
    ///
    /// In a callback of this application a full mailbox (65,536 messages) is no error: the message waits at the posting
    /// loop, in order, and reading pauses for the callback's connection until all waiting messages have gone on. So a
    /// callback of a connection may post any number. A turn that begins with 65,536 waiting messages or more gives
    /// messages back to callbacks without a connection (periodic work, [`on_message`](crate::Handler::on_message),
    /// [`on_turn`](crate::Handler::on_turn)), and to connections whose reading is paused already. In such a turn the
    /// loop takes no messages itself, unless another loop waits for room in its mailboxes. So a chain of loops runs at
    /// the pace of the last loop, and a circle in which each message causes further ones ends in errors, never in a
    /// standstill.
    ///
    /// # Errors
    /// Gives the message back if the loop has ended; if the mailbox is full, for a thread outside the
    /// application's loops; and in a callback as above. The log reports messages given back in callbacks, at most once a
    /// second.
    pub fn post(&self, to: ConnectionId, message: M) -> Result<(), PostError<M>> {
        self.put(to, message, false)
    }

    /// As [`ServiceHandle::post`], but **blocks** while the mailbox is full. In a callback, equals `post` and does
    /// not block.
    ///
    /// # Errors
    /// Gives the message back if the loop has ended; in a callback, as [`ServiceHandle::post`] does.
    pub fn post_wait(&self, to: ConnectionId, message: M) -> Result<(), PostError<M>> {
        self.put(to, message, true)
    }

    /// Hands `message` to the handler on loop `number`, with [`ConnectionId::NONE`] as the addressee. The loops of an application
    /// are numbered from 0 on ([`Context::loops`](crate::Context::loops), [`Context::loop_number`](crate::Context::loop_number)).
    /// Never blocks, and waits for room in callbacks as [`ServiceHandle::post`] does.
    ///
    /// # Errors
    /// Gives the message back as [`ServiceHandle::post`] does, and where there is no such loop: [`PostError::Closed`].
    pub fn post_to_loop(&self, number: usize, message: M) -> Result<(), PostError<M>> {
        self.put_to_loop(number, message, false)
    }

    /// As [`ServiceHandle::post_to_loop`], but **blocks** while the mailbox is full. In a callback, equals `post_to_loop` and does
    /// not block.
    ///
    /// # Errors
    /// Gives the message back if the loop has ended, and where there is no such loop; in a callback, as [`ServiceHandle::post`]
    /// does.
    pub fn post_to_loop_wait(&self, number: usize, message: M) -> Result<(), PostError<M>> {
        self.put_to_loop(number, message, true)
    }

    fn put_to_loop(&self, number: usize, message: M, may_wait: bool) -> Result<(), PostError<M>> {
        match u32::try_from(number) {
            Ok(number) => self.put_on(number, ConnectionId::NONE, message, may_wait),
            Err(_) => Err(PostError::Closed(message)),
        }
    }

    /// Hands a copy of `message` to the handler on each loop of the application, with [`ConnectionId::NONE`] as the addressee,
    /// the caller's own loop among them. Never blocks, and waits for room in callbacks as [`ServiceHandle::post`] does.
    ///
    /// With [`Runner::threads`](crate::Runner::threads) the loops of all connections are reached, too, which may take a while
    /// with thousands of them; with [`Runner::processes`](crate::Runner::processes) the loops of this process alone.
    ///
    /// # Errors
    /// Each loop that the message did not reach, with the reason. All other loops have the message; for a listed loop,
    /// [`ServiceHandle::post_to_loop`] tries again.
    ///
    /// ```
    /// use reactor::{Application, Backend, ConnectionId, Context, Handler, Input, Runner, Service};
    ///
    /// /// Counts down to the end on each loop.
    /// struct Last;
    ///
    /// impl Handler<&'static str> for Last {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_, (), &'static str>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_, (), &'static str>) {
    ///         input.take_all();
    ///     }
    ///     fn on_message(
    ///         &mut self,
    ///         _: ConnectionId,
    ///         _: Option<&mut ()>,
    ///         message: &'static str,
    ///         cx: &mut Context<'_, (), &'static str>,
    ///     ) {
    ///         println!("loop {} of {}: {message}", cx.loop_number(), cx.loops());
    ///         cx.halt();
    ///     }
    /// }
    ///
    /// let mut app = Application::with(Backend::Auto, Runner::loops(2)?)?;
    /// let last = app.add_service(Service::outbound(|| Last))?;
    /// last.post_to_all("goodbye").expect("there is room");
    /// app.run()?;
    /// # Ok::<(), reactor::Error>(())
    /// ```
    pub fn post_to_all(&self, message: M) -> Result<(), Vec<(usize, PostError<M>)>>
    where
        M: Clone,
    {
        let per_connection = self.mailboxes.per_connection.read().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<u32> = per_connection.keys().copied().collect();
        // The lock is not held while posting, because a loop that ends locks the list to remove its mailbox.
        drop(per_connection);
        let fixed = 0..self.mailboxes.fixed.len() as u32;
        let missed = |number| {
            let outcome = self.put_on(number, ConnectionId::NONE, message.clone(), false);
            Some((number as usize, outcome.err()?))
        };
        let missed: Vec<_> = fixed.chain(others).filter_map(missed).collect();
        if missed.is_empty() { Ok(()) } else { Err(missed) }
    }

    fn put(&self, to: ConnectionId, message: M, may_wait: bool) -> Result<(), PostError<M>> {
        let number = if to == ConnectionId::NONE { self.handle.0.first() } else { to.event_loop() };
        self.put_on(number, to, message, may_wait)
    }

    fn put_on(&self, number: u32, to: ConnectionId, message: M, may_wait: bool) -> Result<(), PostError<M>> {
        let cluster = &self.handle.0;
        let here = |error: PostError<Addressed<M>>| error.map(|(_, message)| message);
        if let Some(mailbox) = self.mailboxes.fixed.get(number as usize) {
            let loop_handle = &cluster.fixed()[number as usize];
            return outbox::post(cluster, loop_handle, mailbox, (to, message), may_wait).map_err(here);
        }
        let per_connection = self.mailboxes.per_connection.read().unwrap_or_else(PoisonError::into_inner);
        let per_connection_loop = per_connection
            .get(&number)
            .map(|per_connection_loop| (per_connection_loop.mailbox.clone(), per_connection_loop.loop_handle.clone()));
        // The lock is not held while waiting, because a per-connection loop that ends locks the list to remove its mailbox.
        drop(per_connection);
        let Some((mailbox, loop_handle)) = per_connection_loop else { return Err(PostError::Closed(message)) };
        outbox::post(cluster, &loop_handle, &mailbox, (to, message), may_wait).map_err(here)
    }

    /// The handle of the application that the service belongs to: to publish, to halt, to read counters.
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
