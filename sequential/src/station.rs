//! The part of a handler that tasks reach while they are polled. A task records requests. The handler carries the requests out
//! after the poll, because a future cannot borrow the `Context`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reactor::{Address, Bytes, ConnectionId, ServiceHandle, Topic};

use crate::arena::Arena;
use crate::slot::{GONE, Slot};
use crate::subscription::Inbox;
use crate::time::Timer;
use crate::waker::{TaskWaker, Wake};

/// The place of a task or of a timer in its [`Arena`] (the lower half), and the generation of the place. As a number, the key stands for
/// the task in wake-ups, and for the timer in whose callback a task without a connection is polled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskKey(pub(crate) u64);

impl TaskKey {
    /// The key of no task.
    pub(crate) const NONE: TaskKey = TaskKey(0);

    /// The bit that tells the loop's timers of sleeps from the timers that poll a task. No generation has it.
    const OF_SLEEP: u64 = 1 << 63;

    pub(crate) fn new(place: usize, generation: u32) -> Self {
        TaskKey(u64::from(generation) << 32 | place as u64)
    }

    #[inline]
    pub(crate) fn place(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The key of a sleep's timer, for the loop.
    pub(crate) fn of_sleep(self) -> u64 {
        self.0 | Self::OF_SLEEP
    }

    /// Returns the sleep of timer `number`; `None` for the timer of a task.
    pub(crate) fn sleep_of(number: u64) -> Option<TaskKey> {
        (number & Self::OF_SLEEP != 0).then_some(TaskKey(number & !Self::OF_SLEEP))
    }
}

/// The bytes of an [`Item`](crate::Item). The station or the handler keeps a share of the buffer, and fills it again when the item is
/// dropped.
pub(crate) type Buffer = Rc<Vec<u8>>;

pub(crate) type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// Number of item buffers that are kept for later items.
const BUFFERS: usize = 64;
/// Capacity in bytes above which an item buffer is freed after use.
const BUFFER_MAX: usize = 4096;
/// Largest item in bytes whose buffer the handler keeps for the next item. The handler keeps a single buffer.
const ITEM_MAX: usize = 64 * 1024;
/// Number of timers that are kept for later sleeps.
const TIMERS: usize = 64;

/// The server of an outbound connection.
#[derive(Clone)]
pub(crate) enum Destination {
    Address(Address),
    /// `host:port`, to be looked up.
    Name(String),
}

/// A request of a task.
pub(crate) enum Command {
    /// Writes `Station::output` up to the given length to the running task's own connection, before the requests that follow.
    Own(usize),
    /// Sends bytes of a [`Sender`](crate::Sender), or to an outbound connection.
    Send(Rc<Slot>, Buffer),
    /// Closes an outbound connection, which may have no id yet.
    Hangup(Rc<Slot>),
    Finish(ConnectionId),
    Abort(ConnectionId),
    ReadOn(Rc<Slot>),
    /// Offers the input that the connection has left unread.
    Offer(Rc<Slot>),
    Connect(Destination, Rc<Slot>),
    Arm(Rc<Timer>, Duration),
    /// Cancels the timer of a sleep.
    Disarm(TaskKey),
    Spawn(Boxed),
    Subscribe(ConnectionId, Topic),
    Unsubscribe(ConnectionId, Topic),
    Publish(Topic, Bytes, ConnectionId),
    /// Begins and ends a [`Subscription`](crate::Subscription).
    Listen(Topic, Rc<Inbox>),
    Unlisten(Topic, Rc<Inbox>),
}

/// The requests of a handler's tasks, and their shared buffers. Each service has a station on each loop.
pub(crate) struct Station {
    /// The service's mailbox, through which wakers post from other threads.
    pub(crate) handle: Arc<OnceLock<ServiceHandle<Wake>>>,
    /// Bytes that the running task sends to its own connection.
    pub(crate) output: RefCell<Vec<u8>>,
    pub(crate) commands: RefCell<Vec<Command>>,
    /// Buffers of items that tasks may still have, in the order of their use.
    buffers: RefCell<VecDeque<Buffer>>,
    /// The timers of all sleeps, and the kept timers.
    sleeps: RefCell<Arena<Rc<Timer>>>,
    timers: RefCell<Vec<Rc<Timer>>>,
    /// Tasks that were woken while another task ran. The handler empties the list after the poll.
    pub(crate) ready: RefCell<Vec<TaskKey>>,
    /// The running task.
    pub(crate) running: Cell<TaskKey>,
    /// The running task has recorded commands, woken tasks, or set `again`.
    pub(crate) has_requests: Cell<bool>,
    /// [`CURRENT`] is the station.
    is_current: Cell<bool>,
    /// A task of the station runs.
    is_entered: Cell<bool>,
    /// The handler polls the running task again as soon as the task's requests are carried out.
    pub(crate) again: Cell<bool>,
}

thread_local! {
    /// The station of the last task that ran on the thread. A task of the station runs now if `is_entered` is set.
    static CURRENT: RefCell<Option<Rc<Station>>> = const { RefCell::new(None) };
}

/// A guard: tasks of the station may run until the guard is dropped.
pub(crate) struct Entered<'s> {
    station: &'s Station,
    before: bool,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.station.is_entered.set(self.before);
    }
}

impl Station {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Station {
            handle: Arc::default(),
            output: RefCell::default(),
            commands: RefCell::default(),
            buffers: RefCell::default(),
            sleeps: RefCell::default(),
            timers: RefCell::default(),
            ready: RefCell::default(),
            running: Cell::default(),
            has_requests: Cell::new(false),
            is_current: Cell::new(false),
            is_entered: Cell::new(false),
            again: Cell::new(false),
        })
    }

    /// Makes the station current until the guard is dropped. The thread keeps the station in [`CURRENT`] afterwards, because the
    /// next task to run most likely has the same station.
    #[inline]
    pub(crate) fn enter(self: &Rc<Self>) -> Entered<'_> {
        if !self.is_current.get() {
            self.take_thread();
        }
        Entered { station: self, before: self.is_entered.replace(true) }
    }

    /// Makes the station, which is also `shared`, current until [`leave_poll`](Self::leave_poll).
    #[inline]
    pub(crate) fn enter_poll(&self, shared: &Rc<Self>) {
        if !self.is_current.get() {
            shared.take_thread();
        }
        self.is_entered.set(true);
    }

    #[inline]
    pub(crate) fn leave_poll(&self) {
        self.is_entered.set(false);
    }

    /// Whether a task of the station runs.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.is_entered.get()
    }

    #[cold]
    fn take_thread(self: &Rc<Self>) {
        let before = CURRENT.try_with(|current| current.replace(Some(self.clone()))).ok().flatten();
        if let Some(before) = before {
            before.is_current.set(false);
        }
        self.is_current.set(true);
    }

    /// Drops all requests, because the handler ends. A request may hold the station itself.
    pub(crate) fn drop_requests(&self) {
        while !self.commands.borrow().is_empty() {
            let commands = self.commands.take();
            drop(commands);
        }
    }

    /// Removes the station from [`CURRENT`].
    pub(crate) fn leave_thread(&self) {
        if self.is_current.replace(false) {
            let _ = CURRENT.try_with(|current| current.take());
        }
    }

    /// Calls `read` with the station of the task that runs on the thread; `None` outside a task.
    pub(crate) fn try_current<R>(read: impl FnOnce(&Rc<Station>) -> R) -> Option<R> {
        let read = |current: &RefCell<Option<Rc<Station>>>| {
            current.borrow().as_ref().filter(|station| station.is_entered.get()).map(read)
        };
        CURRENT.try_with(read).ok().flatten()
    }

    /// Returns the station of the task that runs on the thread. `what` names the caller in the panic's text.
    ///
    /// # Panics
    /// Outside a task.
    pub(crate) fn current(what: &str) -> Rc<Station> {
        Self::try_current(Rc::clone).unwrap_or_else(|| panic!("{what} outside a task of `sequential::Tasks`"))
    }

    /// Records a request, in order after the bytes that the running task has sent to its own connection.
    pub(crate) fn ask(&self, command: Command) {
        let sent = self.output.borrow().len();
        let mut commands = self.commands.borrow_mut();
        if sent > 0 && !matches!(commands.last(), Some(Command::Own(before)) if *before == sent) {
            commands.push(Command::Own(sent));
        }
        commands.push(command);
        self.has_requests.set(true);
    }

    /// Records bytes of a [`Sender`](crate::Sender), or for an outbound connection.
    pub(crate) fn send_to(&self, slot: &Rc<Slot>, bytes: &[u8]) {
        if !slot.is(GONE) && !bytes.is_empty() {
            let copy = self.copy_of(bytes);
            slot.pending.set(slot.pending.get() + bytes.len());
            self.ask(Command::Send(slot.clone(), copy));
        }
    }

    /// Returns a copy of `bytes`, and puts a share of its buffer in the place of `kept`, whose buffer is too small or in use.
    #[cold]
    #[inline(never)]
    pub(crate) fn other_item(&self, kept: &mut Buffer, bytes: &[u8]) -> Buffer {
        let buffer = self.copy_of(bytes);
        if bytes.len() <= ITEM_MAX {
            self.give_buffer(std::mem::replace(kept, buffer.clone()));
        }
        buffer
    }

    /// Returns a copy of `bytes` in a buffer of which the station keeps a share for later items.
    pub(crate) fn share_of(&self, bytes: &[u8]) -> Buffer {
        let buffer = self.copy_of(bytes);
        self.give_buffer(buffer.clone());
        buffer
    }

    /// Returns a copy of `bytes`, in a buffer that was used before if there is one.
    pub(crate) fn copy_of(&self, bytes: &[u8]) -> Buffer {
        let mut buffers = self.buffers.borrow_mut();
        // The first buffers were used the longest time ago. Few are tried, so that a task which keeps many items costs little.
        for _ in 0..buffers.len().min(4) {
            let Some(mut buffer) = buffers.pop_front() else { break };
            if let Some(free) = Rc::get_mut(&mut buffer) {
                free.clear();
                free.extend_from_slice(bytes);
                return buffer;
            }
            buffers.push_back(buffer);
        }
        Rc::new(bytes.to_vec())
    }

    /// Keeps a share of the buffer for later items.
    pub(crate) fn give_buffer(&self, buffer: Buffer) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS && (1..=BUFFER_MAX).contains(&buffer.capacity()) {
            buffers.push_back(buffer);
        }
    }

    pub(crate) fn take_timer(&self) -> Rc<Timer> {
        let kept = self.timers.borrow_mut().pop();
        kept.unwrap_or_else(|| {
            let mut sleeps = self.sleeps.borrow_mut();
            let key = sleeps.reserve();
            let timer = Rc::new(Timer::new(key));
            sleeps.fill(key, timer.clone());
            timer
        })
    }

    /// Keeps the timer for a later sleep, which sets the timer anew. When [`TIMERS`] are kept, cancels the timer.
    pub(crate) fn give_timer(&self, timer: Rc<Timer>) {
        let mut timers = self.timers.borrow_mut();
        if timers.len() < TIMERS {
            timers.push(timer);
        } else {
            self.sleeps.borrow_mut().remove(timer.key);
            self.ask(Command::Disarm(timer.key));
        }
    }

    /// The timer with this key, which has gone off. `None` if the sleep has ended meanwhile.
    pub(crate) fn timer(&self, key: TaskKey) -> Option<Rc<Timer>> {
        self.sleeps.borrow_mut().get_mut(key).cloned()
    }

    /// The waker of task `key`, on loop number `route`.
    pub(crate) fn waker(&self, key: TaskKey, route: usize) -> Arc<TaskWaker> {
        Arc::new(TaskWaker::new(self.handle.clone(), key, route))
    }
}
