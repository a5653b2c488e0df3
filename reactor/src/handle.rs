//! Where a running application is reached: the whole of it, one service of it, and, among its loops, each by the others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;

use crate::address::{Address, Peer};
use crate::driver::Socket;
use crate::mailbox::{Addressed, Mailbox, PostError, Receiver, on_a_loops_thread};
use crate::stats::{Counters, Stats};
use crate::sys::wake::Waker;
use crate::token::ConnectionId;
use crate::topics::Topic;

/// Bytes that wait, published from other threads or passed on by another loop, before whoever publishes has to wait:
/// a burst to a room, and no more memory than one slow member may cost several times over.
const PUBLISHED_BYTES: usize = 16 * 1024 * 1024;

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
pub struct Handle(Arc<Shared>);

/// What the loops of an application have in common.
struct Shared {
    desks: Box<[Desk]>,
    /// What other threads publish. The first loop takes it and passes it on, so that all see it in one order.
    published: Arc<Mailbox<Publication>>,
    /// Nobody is accepted any more, so whoever was has been handed out.
    doors_closed: AtomicBool,
    /// Newcomers wait for a descriptor: whoever frees one says so.
    full: AtomicBool,
}

/// What is published elsewhere.
pub(crate) type Publication = (Topic, Bytes);

/// A connection that one loop has accepted and another serves.
pub(crate) struct Newcomer {
    pub(crate) door: usize,
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
}

/// One loop's end of all that others send it.
pub(crate) struct Inbox {
    /// Of the first loop: what other threads publish.
    pub(crate) published: Option<Receiver<Publication>>,
    /// What other loops publish.
    pub(crate) passed_on: Receiver<Publication>,
    /// Connections that were accepted for it.
    pub(crate) newcomers: Receiver<Newcomer>,
}

/// Where one loop can be reached, and what others may know of it.
pub(crate) struct Desk {
    pub(crate) waker: Waker,
    pub(crate) counters: Arc<Counters>,
    passed_on: Arc<Mailbox<Publication>>,
    newcomers: Arc<Mailbox<Newcomer>>,
    halting: AtomicBool,
    reporting: AtomicBool,
    /// Somebody had no room for what was passed on to this loop, and waits to hear that there is some.
    crowded: AtomicBool,
    /// Connections that it has or is about to get.
    load: AtomicUsize,
    /// Descriptors of its connections; and of those that were handed to it and that it has not counted yet.
    descriptors: AtomicUsize,
    in_flight: AtomicUsize,
    /// Topics that it has members of, a bit for each (several may share one).
    topics: AtomicU64,
}

impl Handle {
    pub(crate) fn new(wakers: impl IntoIterator<Item = Waker>) -> Self {
        let published = || Arc::new(Mailbox::weighed(PUBLISHED_BYTES, |(_, bytes): &Publication| bytes.len()));
        let desk = |waker| Desk {
            waker,
            counters: Arc::default(),
            passed_on: published(),
            newcomers: Arc::new(Mailbox::new()),
            halting: AtomicBool::new(false),
            reporting: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            load: AtomicUsize::new(0),
            descriptors: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            topics: AtomicU64::new(0),
        };
        Handle(Arc::new(Shared {
            desks: wakers.into_iter().map(desk).collect(),
            published: published(),
            doors_closed: AtomicBool::new(false),
            full: AtomicBool::new(false),
        }))
    }

    /// Stops the application, as SIGTERM would: it stops listening, lets every connection finish within the drain time,
    /// and returns from [`Application::run`](crate::Application::run). Never blocks.
    pub fn halt(&self) {
        for desk in self.desks() {
            desk.halting.store(true, Ordering::Release);
            desk.waker.wake();
        }
    }

    /// Queues `bytes` for every member of the topic, on whichever loop. Never blocks.
    ///
    /// # Errors
    /// Gives the bytes back when so much waits already (65,536 messages, or 16 MiB) or the first loop has ended.
    pub fn publish(&self, topic: &Topic, bytes: impl Into<Bytes>) -> Result<(), PostError<Bytes>> {
        let posted = self.0.published.post((topic.clone(), bytes.into()));
        posted.map_err(|error| error.map(|(_, bytes)| bytes))?;
        self.desk(0).waker.wake();
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
        for desk in self.desks() {
            all += &desk.counters.read();
        }
        all
    }

    pub(crate) fn desks(&self) -> &[Desk] {
        &self.0.desks
    }

    pub(crate) fn desk(&self, event_loop: usize) -> &Desk {
        &self.0.desks[event_loop]
    }

    /// The end of this loop of all that others send it. There is one loop for each desk.
    pub(crate) fn inbox(&self, event_loop: usize) -> Inbox {
        let desk = self.desk(event_loop);
        Inbox {
            published: (event_loop == 0).then(|| Receiver::new(self.0.published.clone())),
            passed_on: Receiver::new(desk.passed_on.clone()),
            newcomers: Receiver::new(desk.newcomers.clone()),
        }
    }

    // ---- among loops -----------------------------------------------------------------------------------------------

    /// Nobody is accepted any more.
    pub(crate) fn close_doors(&self) {
        if !self.0.doors_closed.swap(true, Ordering::AcqRel) {
            self.desks().iter().skip(1).for_each(|desk| desk.waker.wake());
        }
    }

    pub(crate) fn are_doors_closed(&self) -> bool {
        self.0.doors_closed.load(Ordering::Acquire)
    }

    /// Asks each other loop for its report.
    pub(crate) fn ask_for_reports(&self) {
        for desk in self.desks().iter().skip(1) {
            desk.reporting.store(true, Ordering::Release);
            desk.waker.wake();
        }
    }

    /// Descriptors of the connections of all loops.
    pub(crate) fn descriptors(&self) -> usize {
        let of = |desk: &Desk| desk.descriptors.load(Ordering::Acquire) + desk.in_flight.load(Ordering::Acquire);
        self.desks().iter().map(of).sum()
    }

    /// Newcomers wait for a descriptor, or no longer do.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.full.store(full, Ordering::Release);
    }

    /// So many descriptors of connections one loop has now. The one that accepts hears of each that is freed while
    /// newcomers wait for it.
    pub(crate) fn note_descriptors(&self, event_loop: usize, descriptors: usize) {
        let before = self.desk(event_loop).descriptors.swap(descriptors, Ordering::AcqRel);
        if descriptors < before && event_loop != 0 && self.0.full.load(Ordering::Acquire) {
            self.desk(0).waker.wake();
        }
    }

    /// The loop with the fewest connections; of several, the first after `last`.
    pub(crate) fn least_loaded(&self, last: usize) -> usize {
        let count = self.desks().len();
        (1..=count).map(|step| (last + step) % count).min_by_key(|&one| self.desk(one).load()).unwrap_or(0)
    }
}

impl Desk {
    /// Passes something on, without waking the loop.
    pub(crate) fn pass_on(&self, published: Publication) -> Result<(), PostError<Publication>> {
        match self.passed_on.post(published) {
            Err(PostError::Full(published)) => {
                // Said before the second try: either that finds room, or whoever makes room finds this.
                self.crowded.store(true, Ordering::SeqCst);
                self.passed_on.post(published)
            }
            outcome => outcome,
        }
    }

    /// Whether somebody waits to pass something on to this loop.
    pub(crate) fn take_crowded(&self) -> bool {
        self.crowded.swap(false, Ordering::SeqCst)
    }

    /// Hands a connection over, without waking the loop.
    pub(crate) fn hand(&self, newcomer: Newcomer) -> Result<(), PostError<Newcomer>> {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.newcomers.post(newcomer).inspect_err(|_| self.has_counted())
    }

    /// One that was handed to the loop is among its descriptors now.
    pub(crate) fn has_counted(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn is_halting(&self) -> bool {
        self.halting.load(Ordering::Acquire)
    }

    pub(crate) fn take_reporting(&self) -> bool {
        self.reporting.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// It is going to have one connection more.
    pub(crate) fn load_more(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    /// One of its connections has ended.
    pub(crate) fn load_less(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Topics that the loop has members of, a bit for each.
    pub(crate) fn set_topics(&self, bits: u64) {
        self.topics.store(bits, Ordering::Release);
    }

    pub(crate) fn has_topics(&self, bits: u64) -> bool {
        self.topics.load(Ordering::Acquire) & bits != 0
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("loops", &self.desks().len()).finish()
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
