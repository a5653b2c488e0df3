//! The handler that polls tasks. Each callback finds the item that its connection's task waits for, polls the task, and carries out
//! the requests that the task has made meanwhile.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Polling, Poll, Waker};
use std::thread;

use reactor::{Bytes, CloseReason, ConnectionId, Handler, Input, Topic, Written};

use crate::arena::Arena;
use crate::peer::Peer;
use crate::slot::{CONNECTED, ENDED, GONE, HIGH, READ, Slot};
use crate::station::{Boxed, Buffer, Command, Destination, Station, TaskKey};
use crate::subscription::Inbox;
use crate::waker::{TaskWaker, Wake};

/// The loop's side of the callbacks of [`Tasks`].
pub(crate) type Context<'a> = reactor::Context<'a, Connection, Wake>;

/// Capacity in bytes above which the buffer for sent bytes is freed after use.
pub(crate) const OUTPUT_KEPT: usize = 256 * 1024;

/// A handler that serves each connection by a task: an `async fn` that is called with the [`Peer`].
///
/// The future of a task is polled in the callbacks of its connection, on the loop's thread. So nothing needs to be [`Send`], and a
/// task that computes for long is reported as a slow callback. A panic in a task ends its connection alone. The function captures
/// state that the tasks of a loop share, in an [`Rc`] for example.
///
/// ```
/// use reactor::{Application, Service};
/// use sequential::{Peer, Tasks};
/// use std::{cell::Cell, rc::Rc};
///
/// let mut app = Application::new()?;
/// app.add_service(Service::tcp("127.0.0.1:0", || {
///     let visitors = Rc::new(Cell::new(0));
///     Tasks::new(async move |peer: &mut Peer| {
///         visitors.set(visitors.get() + 1);
///         peer.send(format!("you are number {}\n", visitors.get()));
///     })
/// }))?;
/// # Ok::<(), reactor::Error>(())
/// ```
pub struct Tasks<S> {
    pub(crate) serve: Rc<S>,
    pub(crate) station: Rc<Station>,
    pub(crate) tasks: Arena<Task>,
    /// The task that runs when the loop begins; `None` afterwards.
    pub(crate) beginning: Option<Boxed>,
    /// Number of tasks that serve a connection, or did until the connection ended.
    pub(crate) serving: usize,
    /// Number of the tasks that have served a connection which has ended. While there are any, the loop does not end.
    pub(crate) orphans: usize,
    /// The messages that wait for the subscriptions of each topic to which the handler listens.
    pub(crate) inboxes: HashMap<Topic, Vec<Rc<Inbox>>>,
    /// The buffer of the last item that went the short way. Filled again when the task has dropped the item.
    pub(crate) item: Buffer,
    /// An empty list, kept for its capacity.
    pub(crate) commands: Vec<Command>,
    /// Connections that `on_close` cannot open while the application stops, kept for the next turn.
    pub(crate) postponed: Vec<(Destination, Rc<Slot>)>,
    /// Panics of tasks that were polled in a foreign connection's callback. Each panic is resumed in a callback of the task's home,
    /// so that the loop ends the right connection.
    pub(crate) panics: Vec<(TaskKey, Box<dyn Any + Send>)>,
    /// The tasks know that the application is stopping.
    is_stopping: bool,
}

impl<S> fmt::Debug for Tasks<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("serving", &self.serving).finish_non_exhaustive()
    }
}

pub(crate) struct Task {
    pub(crate) future: Boxed,
    /// The task has panicked. Its future was dropped, and `future` is never ready.
    pub(crate) has_panicked: bool,
    /// The connection that the task serves; `None` for a forked task.
    pub(crate) slot: Option<Rc<Slot>>,
    wakes: Arc<TaskWaker>,
    pub(crate) waker: Waker,
    /// The connection that the task serves, in whose callbacks the task is polled. [`ConnectionId::NONE`] for a forked task, and after
    /// the connection's end: then a timer of the handler polls the task.
    pub(crate) home: ConnectionId,
}

impl Task {
    /// Polls the future. Returns `None` if the task has panicked before.
    #[inline(always)]
    fn poll(&mut self, key: TaskKey, station: &Rc<Station>) -> Option<thread::Result<Poll<()>>> {
        if self.has_panicked {
            return None;
        }
        self.wakes.runs();
        Some(poll(&mut self.future, &self.waker, key, station, station))
    }

    /// Writes the bytes that the task has sent to the task's own connection.
    fn send_own(&self, station: &Station, cx: &mut Context<'_>) {
        let output = &mut *station.output.borrow_mut();
        if let Some(slot) = self.slot.as_ref().filter(|_| !output.is_empty()) {
            let is_own = self.home == cx.id();
            let written = if is_own { cx.write_vec(output) } else { cx.at(self.home).write_vec(output) };
            if written == Written::AboveHighWater {
                slot.raise(HIGH);
            }
        }
        output.clear();
        free_large(output);
    }

    pub(crate) fn write(&self, bytes: &[u8], cx: &mut Context<'_>) {
        let Some(slot) = self.slot.as_ref().filter(|_| !bytes.is_empty()) else { return };
        if cx.at(self.home).write(bytes) == Written::AboveHighWater {
            slot.raise(HIGH);
        }
    }
}

/// Frees the empty buffer for sent bytes if it is large.
#[inline]
pub(crate) fn free_large(output: &mut Vec<u8>) {
    if output.capacity() > OUTPUT_KEPT {
        *output = Vec::new();
    }
}

/// Polls the future of task `key`. `shared` is the `station`, which stays in a register during the poll.
#[inline(always)]
pub(crate) fn poll(
    future: &mut Boxed,
    waker: &Waker,
    key: TaskKey,
    station: &Station,
    shared: &Rc<Station>,
) -> thread::Result<Poll<()>> {
    station.running.set(key);
    station.enter_poll(shared);
    let mut polling = Polling::from_waker(waker);
    let outcome = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut polling)));
    station.leave_poll();
    outcome
}

impl<S> Drop for Tasks<S> {
    fn drop(&mut self) {
        {
            let _entered = self.station.enter();
            self.tasks = Arena::default();
        }
        self.station.drop_requests();
        self.station.leave_thread();
    }
}

/// The state of each connection of [`Tasks`], of which the loop is the owner. Has no public content.
///
/// ```
/// /// The context of the callbacks of [`sequential::Tasks`].
/// type Context<'a> = reactor::Context<'a, sequential::Connection, sequential::Wake>;
/// ```
pub struct Connection(pub(crate) Kind);

pub(crate) enum Kind {
    /// The home of a task: see [`Task::home`].
    Home(TaskKey),
    Client(Rc<Slot>),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Home(_) => "Home",
            Kind::Client(_) => "Client",
        })
    }
}

impl<S: AsyncFn(&mut Peer) + 'static> Tasks<S> {
    /// Serves each connection by a call of `serve`. The connection closes when the future of `serve` is ready.
    pub fn new(serve: S) -> Self {
        Tasks {
            serve: Rc::new(serve),
            station: Station::new(),
            tasks: Arena::default(),
            beginning: None,
            serving: 0,
            orphans: 0,
            inboxes: HashMap::new(),
            item: Buffer::default(),
            commands: Vec::new(),
            postponed: Vec::new(),
            panics: Vec::new(),
            is_stopping: false,
        }
    }

    /// Runs `task` when the loop begins: for work beside the connections, such as a clock. The rules of [forked](crate::fork()) tasks
    /// apply. Where each connection has a loop of its own, each loop runs the task.
    ///
    /// ```
    /// use reactor::{Service, Topic};
    /// use sequential::{Peer, Tasks, publish, sleep};
    /// use std::time::Duration;
    ///
    /// let clock = || {
    ///     let seconds = Topic::new("seconds");
    ///     let members = seconds.clone();
    ///     Tasks::new(async move |peer: &mut Peer| {
    ///         peer.subscribe(&members);
    ///         while peer.some().await.is_some() {}
    ///     })
    ///     .beginning_with(async move {
    ///         for second in 0u64.. {
    ///             publish(&seconds, format!("{second}\n"));
    ///             sleep(Duration::from_secs(1)).await;
    ///         }
    ///     })
    /// };
    /// # Service::tcp("127.0.0.1:0", clock);
    /// ```
    pub fn beginning_with(mut self, task: impl Future<Output = ()> + 'static) -> Self {
        self.beginning = Some(Box::pin(task));
        self
    }

    /// Puts a task at its reserved place, without polling the task.
    pub(crate) fn fill(
        &mut self,
        key: TaskKey,
        future: Boxed,
        slot: Option<Rc<Slot>>,
        home: ConnectionId,
        cx: &Context<'_>,
    ) {
        self.serving += usize::from(slot.is_some());
        let wakes = self.station.waker(key, cx.loop_number());
        let waker = Waker::from(wakes.clone());
        if let Some(slot) = &slot {
            slot.reader.set(key);
            slot.waker.set(waker.data());
        }
        self.tasks.fill(key, Task { future, has_panicked: false, slot, waker, wakes, home });
    }

    pub(crate) fn remove(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.remove(key) else { return };
        self.serving -= usize::from(task.slot.is_some());
        self.orphans -= usize::from(task.slot.is_some() && task.home == ConnectionId::NONE);
        let _entered = self.station.enter();
        drop(task);
    }

    /// Polls the task, and carries out its requests.
    pub(crate) fn run(&mut self, key: TaskKey, cx: &mut Context<'_>) {
        loop {
            let Some(task) = self.tasks.get_mut(key) else { return };
            let Some(outcome) = task.poll(key, &self.station) else { return };
            // The usual case: the task has sent to its own connection, and waits.
            if let Ok(Poll::Pending) = outcome
                && !self.station.has_requests.get()
            {
                return task.send_own(&self.station, cx);
            }
            if self.take_outcome(key, outcome, cx) {
                return;
            }
        }
    }

    /// Carries out the task's requests, and ends a task that is ready or has panicked. Returns `false` if the task must be polled
    /// again at once.
    #[cold]
    pub(crate) fn take_outcome(
        &mut self,
        key: TaskKey,
        outcome: thread::Result<Poll<()>>,
        cx: &mut Context<'_>,
    ) -> bool {
        self.pass_on(key, cx);
        let home = self.tasks.get_mut(key).map_or(ConnectionId::NONE, |task| task.home);
        match outcome {
            Ok(Poll::Pending) => return !self.station.again.take(),
            Ok(Poll::Ready(())) => {
                self.remove(key);
                cx.at(home).close();
                self.finish(cx);
            }
            Err(panic) if home == cx.id() => {
                self.remove(key);
                self.finish(cx);
                resume_unwind(panic)
            }
            Err(panic) => {
                if let Some(task) = self.tasks.get_mut(key) {
                    task.future = Box::pin(std::future::pending());
                    task.has_panicked = true;
                }
                self.panics.push((key, panic));
                self.have_polled(key, cx);
            }
        }
        true
    }
}

impl<S: AsyncFn(&mut Peer) + 'static> Handler<Wake> for Tasks<S> {
    type Connection = Connection;

    fn on_start(&mut self, cx: &mut Context<'_>) {
        let _ = self.station.handle.set(cx.service_handle());
        if let Some(task) = self.beginning.take() {
            self.spawn(task, cx);
        }
    }

    fn on_open(&mut self, cx: &mut Context<'_>) -> Connection {
        let slot = Slot::new(self.station.clone(), cx.id());
        let (serve, address) = (self.serve.clone(), cx.peer());
        let mut peer = Peer { slot: slot.clone(), address, is_outbound: false };
        let key = self.tasks.reserve();
        self.fill(key, Box::pin(async move { serve(&mut peer).await }), Some(slot), cx.id(), cx);
        self.run(key, cx);
        Connection(Kind::Home(key))
    }

    fn on_connected(&mut self, connection: &mut Connection, cx: &mut Context<'_>) {
        if let Kind::Client(slot) = &connection.0 {
            let station = self.station.clone();
            let _entered = station.enter();
            slot.raise(CONNECTED);
            slot.with_rest(|rest| rest.address = cx.peer());
            slot.wake_waiting();
            self.pass_on(TaskKey::NONE, cx);
        }
    }

    fn on_data(&mut self, connection: &mut Connection, input: &mut Input<'_>, cx: &mut Context<'_>) {
        match &connection.0 {
            Kind::Home(key) => self.deliver_own(*key, input, cx),
            Kind::Client(slot) => self.deliver(slot, input, cx),
        }
    }

    fn on_end_of_input(&mut self, connection: &mut Connection, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if let Some(slot) = self.slot_of(connection) {
            slot.raise(ENDED);
            self.deliver(&slot, input, cx);
        }
    }

    fn on_drained(&mut self, connection: &mut Connection, cx: &mut Context<'_>) {
        if let Some(slot) = self.slot_of(connection) {
            let station = self.station.clone();
            let _entered = station.enter();
            slot.lower(HIGH);
            slot.wake_waiting();
            self.pass_on(TaskKey::NONE, cx);
        }
    }

    fn on_deadline(&mut self, connection: &mut Connection, cx: &mut Context<'_>) {
        if let Kind::Home(key) = &connection.0 {
            self.resume_panic(*key);
            self.run(*key, cx);
        }
    }

    fn on_timer(&mut self, number: u64, cx: &mut Context<'_>) {
        match TaskKey::sleep_of(number) {
            Some(key) => {
                let station = self.station.clone();
                let _entered = station.enter();
                if let Some(timer) = station.timer(key) {
                    timer.fire();
                }
                self.pass_on(TaskKey::NONE, cx);
            }
            None => {
                let key = TaskKey(number);
                if self.tasks.get_mut(key).is_some_and(|task| task.has_panicked) {
                    self.remove(key);
                    self.finish(cx);
                }
                self.resume_panic(key);
                self.run(key, cx);
            }
        }
    }

    fn on_stopping(&mut self, connection: &mut Connection, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.is_stopping, true) {
            let station = self.station.clone();
            let _entered = station.enter();
            self.inboxes.values().flatten().for_each(|inbox| inbox.end());
        }
        if let Kind::Home(_) = connection.0
            && let Some(slot) = self.slot_of(connection)
            && !slot.is(GONE)
        {
            self.stop(&slot, cx);
        }
        self.finish(cx);
    }

    fn on_publication(&mut self, topic: &Topic, message: &Bytes, cx: &mut Context<'_>) {
        self.each_inbox(topic, |inbox| inbox.put(message), cx);
    }

    fn on_publications_missed(&mut self, topic: &Topic, count: u64, cx: &mut Context<'_>) {
        self.each_inbox(topic, |inbox| inbox.miss(count), cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) {
        for (to, slot) in std::mem::take(&mut self.postponed) {
            // A second refusal means that the drain time is over: all tasks are dropped in this turn.
            self.connect(to, slot, cx);
        }
        self.finish(cx);
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut Connection>, wake: Wake, cx: &mut Context<'_>) {
        self.have_polled(wake.0, cx);
    }

    fn on_close(&mut self, connection: Connection, reason: CloseReason, cx: &mut Context<'_>) {
        match connection.0 {
            Kind::Home(key) => self.lose_home(key, reason, cx),
            Kind::Client(slot) => {
                let station = self.station.clone();
                let _entered = station.enter();
                slot.over(reason, cx.unread());
                let id = cx.id();
                slot.with_rest(|rest| rest.connect_error = cx.at(id).connect_error());
                slot.wake_waiting();
                if slot.is(READ) {
                    self.run_reader(&slot, cx);
                }
            }
        }
        self.finish(cx);
    }
}

impl<S: AsyncFn(&mut Peer) + 'static> Tasks<S> {
    /// Resumes the panic of task `key` in a foreign connection's callback, if there was one.
    fn resume_panic(&mut self, key: TaskKey) {
        if let Some(at) = self.panics.iter().position(|(panicked, _)| *panicked == key) {
            resume_unwind(self.panics.swap_remove(at).1);
        }
    }

    fn slot_of(&mut self, connection: &Connection) -> Option<Rc<Slot>> {
        match &connection.0 {
            Kind::Home(key) => self.tasks.get_mut(*key)?.slot.clone(),
            Kind::Client(slot) => Some(slot.clone()),
        }
    }

    /// Handles the end of a task's home. Reads of a serving task yield `None` from now on, and the task goes on. A forked task, or
    /// a task that has panicked, is dropped.
    fn lose_home(&mut self, key: TaskKey, reason: CloseReason, cx: &mut Context<'_>) {
        self.panics.retain(|(panicked, _)| *panicked != key);
        let Some(task) = self.tasks.get_mut(key) else { return };
        let slot = task.slot.clone().filter(|slot| slot.id.get() == cx.id());
        let Some(slot) = slot else { return self.remove(key) };
        slot.over(reason, cx.unread());
        if matches!(reason, CloseReason::Panicked | CloseReason::DrainExpired) || task.has_panicked {
            return self.remove(key);
        }
        {
            let _entered = self.station.enter();
            slot.wake_waiting();
        }
        self.run_reader(&slot, cx);
        if let Some(task) = self.tasks.get_mut(key) {
            task.home = ConnectionId::NONE;
            self.orphans += 1;
            self.have_polled(key, cx);
        }
    }
}
