//! The handler that polls tasks. Each callback finds the item that its connection's task waits for, polls the task, and carries out
//! the requests that the task has made meanwhile.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Polling, Poll, Waker};
use std::thread;

use reactor::{Address, CloseReason, ConnectionId, Handler, Input, Written};

use crate::arena::Arena;
use crate::peer::Peer;
use crate::requests::offer;
use crate::slot::{Slot, Want};
use crate::station::{Boxed, Command, Station, TaskKey};
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
    /// An empty list, kept for its capacity.
    pub(crate) commands: Vec<Command>,
    /// Connections that `on_close` cannot open while the application stops, kept for the next turn.
    pub(crate) postponed: Vec<(Address, Rc<Slot>)>,
    /// Panics of tasks that were polled in a foreign connection's callback. Each panic is resumed in a callback of the task's home,
    /// so that the loop ends the right connection.
    pub(crate) panics: Vec<(TaskKey, Box<dyn Any + Send>)>,
}

impl<S> fmt::Debug for Tasks<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("serving", &self.serving).finish_non_exhaustive()
    }
}

pub(crate) struct Task {
    /// `None` after a panic.
    pub(crate) future: Option<Boxed>,
    /// The connection that the task serves; `None` for a forked task.
    pub(crate) slot: Option<Rc<Slot>>,
    wakes: Arc<TaskWaker>,
    waker: Waker,
    /// The connection that the task serves, in whose callbacks the task is polled. [`ConnectionId::NONE`] for a forked task, and after
    /// the connection's end: then a timer of the handler polls the task.
    pub(crate) home: ConnectionId,
}

impl Task {
    /// Writes the bytes that the task has sent to the task's own connection.
    #[inline]
    fn send_own(&self, station: &Station, cx: &mut Context<'_>) {
        let mut output = station.output.borrow_mut();
        if !output.is_empty() {
            self.write(&output, cx);
            output.clear();
            if output.capacity() > OUTPUT_KEPT {
                *output = Vec::new();
            }
        }
    }

    #[inline]
    pub(crate) fn write(&self, bytes: &[u8], cx: &mut Context<'_>) {
        let Some(slot) = &self.slot else { return };
        let written = if self.home == cx.id() { cx.write(bytes) } else { cx.at(self.home).write(bytes) };
        if written == Written::AboveHighWater {
            slot.is_high.set(true);
        }
    }
}

impl<S> Drop for Tasks<S> {
    fn drop(&mut self) {
        {
            let _entered = self.station.enter();
            self.tasks = Arena::default();
        }
        self.station.leave_thread();
    }
}

/// The loop's state of each connection of [`Tasks`].
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
            commands: Vec::new(),
            postponed: Vec::new(),
            panics: Vec::new(),
        }
    }

    /// Runs `task` when the loop begins: for work beside the connections, such as a clock. The rules of [forked](crate::fork) tasks
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
        self.tasks.fill(key, Task { future: Some(future), slot, waker: Waker::from(wakes.clone()), wakes, home });
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
            let Some(future) = &mut task.future else { return };
            task.wakes.runs();
            self.station.running.set(key);
            let outcome = {
                let _entered = self.station.enter();
                let mut polling = Polling::from_waker(&task.waker);
                catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut polling)))
            };
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
    fn take_outcome(&mut self, key: TaskKey, outcome: thread::Result<Poll<()>>, cx: &mut Context<'_>) -> bool {
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
                    task.future = None;
                }
                self.panics.push((key, panic));
                self.have_polled(key, cx);
            }
        }
        true
    }

    /// Answers the waiting read from the input and polls the reading task, item by item.
    fn deliver(&mut self, slot: &Rc<Slot>, input: &mut Input<'_>, cx: &mut Context<'_>) {
        slot.has_unread.set(false);
        slot.is_paused.set(false);
        // Above the high-water mark, the loop offers the remaining input once the output has drained.
        while slot.is_read.get() && !slot.is_local.get() && (!slot.is_high.get() || slot.reads_on.get()) {
            let (before, want) = (input.as_slice(), slot.want.get());
            match slot.find(want, input) {
                Some(answer) => {
                    slot.answer.set(Some(answer));
                    self.run(slot.reader.get(), cx);
                    if slot.answer.take().is_some() {
                        // The task has cancelled the read in this poll, so the item goes back to the input.
                        slot.station.item.borrow_mut().clear();
                        // A decoder keeps its value for the next read, so its bytes stay taken.
                        if want != Want::Decoded {
                            *input = Input::of(before);
                        }
                    }
                }
                None if slot.has_ended.get() => {
                    slot.keep_unread(input.take_all());
                    self.run(slot.reader.get(), cx);
                }
                None => break,
            }
        }
        if slot.is_local.get() {
            input.take_all();
        } else if !input.is_empty() {
            slot.has_unread.set(true);
            if !slot.is_read.get() {
                slot.is_paused.set(true);
                cx.pause_reading();
            }
        }
    }

    /// Ends the reads of a connection because the application is stopping. All received bytes were delivered before, apart from
    /// unread bytes, which the loop offers once more.
    fn stop(&mut self, slot: &Rc<Slot>, cx: &mut Context<'_>) {
        slot.is_stopping.set(true);
        slot.has_ended.set(true);
        if slot.has_unread.get() {
            offer(slot, cx);
        } else if slot.is_read.get() {
            slot.is_local.set(true);
            self.run(slot.reader.get(), cx);
        }
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
            slot.is_connected.set(true);
            slot.wake_waiting();
            self.pass_on(TaskKey::NONE, cx);
        }
    }

    fn on_data(&mut self, connection: &mut Connection, input: &mut Input<'_>, cx: &mut Context<'_>) {
        match &connection.0 {
            Kind::Home(key) => {
                let Some(Task { slot: Some(slot), .. }) = self.tasks.get_mut(*key) else { return };
                let slot = slot.clone();
                self.deliver(&slot, input, cx);
            }
            Kind::Client(slot) => self.deliver(slot, input, cx),
        }
    }

    fn on_end_of_input(&mut self, connection: &mut Connection, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if let Some(slot) = self.slot_of(connection) {
            slot.has_ended.set(true);
            self.deliver(&slot, input, cx);
        }
    }

    fn on_drained(&mut self, connection: &mut Connection, cx: &mut Context<'_>) {
        if let Some(slot) = self.slot_of(connection) {
            let station = self.station.clone();
            let _entered = station.enter();
            slot.is_high.set(false);
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
                let key = TaskKey::from_u64(number);
                if self.tasks.get_mut(key).is_some_and(|task| task.future.is_none()) {
                    self.remove(key);
                    self.finish(cx);
                }
                self.resume_panic(key);
                self.run(key, cx);
            }
        }
    }

    fn on_stopping(&mut self, connection: &mut Connection, cx: &mut Context<'_>) {
        if let Kind::Home(_) = connection.0
            && let Some(slot) = self.slot_of(connection)
            && !slot.is_gone.get()
        {
            self.stop(&slot, cx);
        }
        self.finish(cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) {
        for (to, slot) in std::mem::take(&mut self.postponed) {
            // A second refusal means that the drain time is over: all tasks are dropped in this turn.
            self.connect(to, slot, cx);
        }
        self.finish(cx);
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut Connection>, wake: Wake, cx: &mut Context<'_>) {
        self.have_polled(wake.key(), cx);
    }

    fn on_close(&mut self, connection: Connection, reason: CloseReason, cx: &mut Context<'_>) {
        match connection.0 {
            Kind::Home(key) => self.lose_home(key, reason, cx),
            Kind::Client(slot) => {
                let station = self.station.clone();
                let _entered = station.enter();
                slot.over(reason, cx.unread());
                slot.wake_waiting();
                if slot.is_read.get() {
                    self.run(slot.reader.get(), cx);
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
        if matches!(reason, CloseReason::Panicked | CloseReason::DrainExpired) || task.future.is_none() {
            return self.remove(key);
        }
        {
            let _entered = self.station.enter();
            slot.wake_waiting();
        }
        self.run(key, cx);
        if let Some(task) = self.tasks.get_mut(key) {
            task.home = ConnectionId::NONE;
            self.orphans += 1;
            self.have_polled(key, cx);
        }
    }
}
