//! All loops of an application: the handle of each loop, and the state that the loops share. Below: mailboxes. Above:
//! [`handle`](crate::handle), for other threads; [`outgoing`](crate::outgoing), for the loops themselves.
//!
//! *Fixed* loops live as long as the application does. *Per-connection* loops come and go with one connection each
//! (`Runner::threads`). So a loop that wants to reach all loops keeps a [`Snapshot`], and checks whether it is current.

mod loop_handle;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::address::Peer;
use crate::driver::Socket;
use crate::lookup::LookUps;
use crate::mailbox::{Mailbox, PostError, Receiver};
use crate::protocols::{Changes, Room, Version};
use crate::shared::Shared;
use crate::stats::Stats;
use crate::sys::affinity::Cores;
use crate::sys::wake::Waker;
use crate::time::Time;
use crate::token::{LOOPS_MAX, PER_CONNECTION_MAX};
use crate::topics::Topic;
pub(crate) use loop_handle::LoopHandle;
use loop_handle::mailbox_of_published;

/// Limit of the bytes that wait in a mailbox of publications; beyond the limit a publisher has to wait. Large enough for a
/// burst to a room, and no more memory than one slow member may cost several times over.
pub(crate) const PUBLISHED_BYTES: usize = 16 * 1024 * 1024;

/// How long a loop lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoopKind {
    /// As long as the application.
    Fixed,
    /// As long as one connection.
    PerConnection {
        /// First generation of the ids of the loop's connections, so that no id repeats one of an earlier loop.
        generation: u32,
    },
}

/// A message published to a topic, on its way to another loop.
pub(crate) type Publication = (Topic, Shared);

/// A connection that one loop has accepted and another serves.
pub(crate) struct Accepted {
    pub(crate) listener: usize,
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
}

/// Receivers of one loop: publications and accepted connections.
pub(crate) struct Inbox {
    /// Publications of other threads; only the first loop has this receiver.
    pub(crate) published: Option<Receiver<Publication>>,
    /// Publications of other loops.
    pub(crate) passed_on: Receiver<Publication>,
    /// Connections that the accepting loop has handed to this loop.
    pub(crate) accepted: Receiver<Accepted>,
}

/// All loops of an application.
pub(crate) struct Cluster {
    fixed: Box<[Arc<LoopHandle>]>,
    per_connection: Mutex<PerConnectionLoops>,
    /// Notified when a per-connection loop ends.
    gone: Condvar,
    /// Counts the per-connection loops that have come or gone.
    changes: Changes,
    /// Counts and flags that the accepting loop waits for.
    room: Room,
    /// Publications of other threads. The first loop takes them and passes them on, so all loops see one order.
    published: Arc<Mailbox<Publication>>,
    /// Set by the first loop that stops with the application: the end of the drain time.
    drain_until: OnceLock<Option<Time>>,
    /// Number of the first loop, which takes publications of other threads. In a child process: its only loop.
    first: AtomicU32,
    /// The processor cores that loops are pinned to, one core each.
    cores: OnceLock<Cores>,
    /// Look-ups of names, for all loops.
    pub(crate) look_ups: Arc<LookUps>,
}

#[derive(Default)]
struct PerConnectionLoops {
    here: HashMap<u32, Arc<LoopHandle>>,
    /// Number of per-connection loops that ever came.
    came: u64,
    /// The counters of ended per-connection loops, added up.
    counted: Stats,
    /// The handles of all loops, if a loop has asked since the last change.
    snapshot: Option<Arc<[Arc<LoopHandle>]>>,
}

/// The handles of all loops at a point in time.
pub(crate) struct Snapshot {
    version: Version,
    pub(crate) cluster: Arc<[Arc<LoopHandle>]>,
}

impl Snapshot {
    /// The handles of no loop; never current.
    pub(crate) fn empty() -> Self {
        Snapshot { version: Version::NONE, cluster: Arc::new([]) }
    }
}

impl Cluster {
    pub(crate) fn new(wakers: impl IntoIterator<Item = Waker>) -> Self {
        Cluster {
            fixed: (0..)
                .zip(wakers)
                .map(|(number, waker)| Arc::new(LoopHandle::new(number, LoopKind::Fixed, waker, 0)))
                .collect(),
            per_connection: Mutex::default(),
            gone: Condvar::new(),
            changes: Changes::new(),
            room: Room::new(),
            published: Arc::new(mailbox_of_published()),
            drain_until: OnceLock::new(),
            first: AtomicU32::new(0),
            cores: OnceLock::new(),
            look_ups: Arc::default(),
        }
    }

    /// The fixed loops.
    pub(crate) fn fixed(&self) -> &[Arc<LoopHandle>] {
        &self.fixed
    }

    /// Number of the first loop, which takes publications of other threads.
    pub(crate) fn first(&self) -> u32 {
        self.first.load(Ordering::Acquire)
    }

    /// Makes the receivers of a loop. Each mailbox has one receiver, so call once for each loop.
    pub(crate) fn inbox(&self, loop_handle: &LoopHandle) -> Inbox {
        Inbox {
            published: (loop_handle.number == self.first()).then(|| Receiver::new(self.published.clone())),
            passed_on: Receiver::new(loop_handle.passed_on.clone()),
            accepted: Receiver::new(loop_handle.accepted.clone()),
        }
    }

    /// Queues a publication of another thread, and wakes the first loop.
    pub(crate) fn publish(&self, publication: Publication) -> Result<(), PostError<Publication>> {
        self.published.post(publication)?;
        self.wake(self.first());
        Ok(())
    }

    /// Wakes loop `number`, if the loop has not ended.
    pub(crate) fn wake(&self, number: u32) {
        match self.fixed.get(number as usize) {
            Some(loop_handle) => loop_handle.wake(),
            None => self.per_connection().here.get(&number).into_iter().for_each(|loop_handle| loop_handle.wake()),
        }
    }

    pub(crate) fn wake_all(&self) {
        self.fixed.iter().for_each(|loop_handle| loop_handle.wake());
        self.per_connection().here.values().for_each(|loop_handle| loop_handle.wake());
    }

    /// Wakes all loops but loop `number`.
    pub(crate) fn wake_others(&self, number: u32) {
        self.fixed.iter().filter(|loop_handle| loop_handle.number != number).for_each(|loop_handle| loop_handle.wake());
        self.per_connection()
            .here
            .values()
            .filter(|loop_handle| loop_handle.number != number)
            .for_each(|loop_handle| loop_handle.wake());
    }

    pub(crate) fn halt(&self) {
        if self.room.halt() {
            self.wake_all();
        }
    }

    /// Sets the cores: from now on each loop is pinned to one core.
    pub(crate) fn set_cores(&self, cores: Cores) {
        // An application runs only once, so the cores are not set yet.
        let _ = self.cores.set(cores);
    }

    /// The processor cores that loops are pinned to, one core each.
    pub(crate) fn cores(&self) -> Option<&Cores> {
        self.cores.get()
    }

    /// The end of the application's drain time, for every loop: the first loop that stops decides.
    pub(crate) fn drain_until(&self, own: Option<Time>) -> Option<Time> {
        *self.drain_until.get_or_init(|| own)
    }

    pub(crate) fn is_halting(&self) -> bool {
        self.room.is_halting()
    }

    /// Notes that accepting has ended, and wakes the fixed loops.
    pub(crate) fn close_listeners(&self) {
        if self.room.close_listeners() {
            self.fixed.iter().for_each(|loop_handle| loop_handle.wake());
        }
    }

    /// Whether accepting has ended, and a loop's queue of accepted connections is empty.
    pub(crate) fn nobody_comes(&self, accepted: &Receiver<Accepted>) -> bool {
        self.room.nobody_comes(|| accepted.is_empty())
    }

    /// Whether accepting has ended.
    pub(crate) fn are_listeners_closed(&self) -> bool {
        self.room.nobody_comes(|| true)
    }

    /// Asks every fixed loop but the first for its report, and at most `per_connection` per-connection loops.
    pub(crate) fn ask_for_reports(&self, per_connection: usize) {
        let others = self.fixed.iter().skip(1).cloned();
        let all: Vec<Arc<LoopHandle>> =
            others.chain(self.per_connection().here.values().take(per_connection).cloned()).collect();
        all.iter().for_each(|loop_handle| loop_handle.ask_for_report());
    }

    /// Asks each per-connection loop, which may be another process, to open its log files anew.
    pub(crate) fn ask_to_reopen(&self) {
        let per_connection: Vec<Arc<LoopHandle>> = self.per_connection().here.values().cloned().collect();
        for loop_handle in per_connection {
            loop_handle.reopening.store(true, Ordering::Release);
            loop_handle.wake();
        }
    }

    /// The counters of all loops, including ended loops.
    pub(crate) fn stats(&self) -> Stats {
        let per_connection = self.per_connection();
        let mut all = per_connection.counted.clone();
        for loop_handle in self.fixed.iter().chain(per_connection.here.values()) {
            all += &loop_handle.counters.read();
        }
        all
    }

    // ---- per-connection loops --------------------------------------------------------------------------------------

    /// Registers a per-connection loop that uses `descriptors` descriptors.
    pub(crate) fn enter(&self, waker: Waker, descriptors: usize) -> Arc<LoopHandle> {
        let mut per_connection = self.per_connection();
        let (number, generation) = loop {
            let (round, place) =
                (per_connection.came / PER_CONNECTION_MAX as u64, per_connection.came % PER_CONNECTION_MAX as u64);
            per_connection.came += 1;
            let number = LOOPS_MAX + place as u32;
            if !per_connection.here.contains_key(&number) {
                break (number, ((round as u32) << 16) + 1);
            }
        };
        let kind = LoopKind::PerConnection { generation };
        let loop_handle = Arc::new(LoopHandle::new(number, kind, waker, descriptors));
        self.room.add_descriptors(descriptors);
        per_connection.here.insert(number, loop_handle.clone());
        self.changed(&mut per_connection);
        loop_handle
    }

    /// Removes a per-connection loop that has ended, and keeps its counters.
    pub(crate) fn leave(&self, loop_handle: &LoopHandle) {
        let mut per_connection = self.per_connection();
        per_connection.here.remove(&loop_handle.number);
        loop_handle.counters.open.set(0);
        per_connection.counted += &loop_handle.counters.read();
        self.changed(&mut per_connection);
        drop(per_connection);
        *loop_handle.waker.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.set_descriptors(loop_handle, 0);
        // The accepting loop waits for room, or for the end of all per-connection loops.
        if self.room.is_waited_for_by_a_stop() {
            self.wake(self.first());
        }
        self.gone.notify_all();
    }

    fn changed(&self, per_connection: &mut PerConnectionLoops) {
        per_connection.snapshot = None;
        self.room.set_per_connection(per_connection.here.len());
        self.changes.count();
    }

    /// Number of per-connection loops that have not ended.
    pub(crate) fn per_connection_count(&self) -> usize {
        self.room.per_connection()
    }

    /// While the application stops: whether all per-connection loops have ended. If not, the last wakes the accepting loop.
    pub(crate) fn have_per_connection_ended(&self) -> bool {
        self.room.have_per_connection_ended()
    }

    /// Blocks until all per-connection loops have ended, at most `patience` (`None`: no limit). Returns the number left.
    pub(crate) fn wait_for_per_connection(&self, patience: Option<Duration>) -> usize {
        let (per_connection, patience) = (self.per_connection(), patience.unwrap_or(Duration::MAX));
        let is_waiting = |per_connection: &mut PerConnectionLoops| !per_connection.here.is_empty();
        let waited = self.gone.wait_timeout_while(per_connection, patience, is_waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.here.len()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut per_connection = self.per_connection();
        let version = self.changes.version();
        let everybody = || self.fixed.iter().chain(per_connection.here.values()).cloned().collect();
        let cluster = per_connection.snapshot.clone().unwrap_or_else(everybody);
        per_connection.snapshot = Some(cluster.clone());
        Snapshot { version, cluster }
    }

    /// Whether no per-connection loop has come or gone since the snapshot.
    #[inline]
    pub(crate) fn is_current(&self, snapshot: &Snapshot) -> bool {
        self.changes.version() == snapshot.version
    }

    fn per_connection(&self) -> MutexGuard<'_, PerConnectionLoops> {
        self.per_connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a child process, made for this per-connection loop: the loop is alone here, and the first. Publications that the loop
    /// passes on to the former first loop are for the parent process.
    pub(crate) fn become_child(&self, per_connection_loop: &Arc<LoopHandle>, waker: Waker) {
        self.first.store(per_connection_loop.number, Ordering::Release);
        self.look_ups.set_single(false);
        let mut per_connection = self.per_connection();
        // The other handles are leaked: a drop would write to memory, and the kernel would copy each page for it.
        std::mem::forget(std::mem::take(&mut per_connection.here));
        std::mem::forget(per_connection.snapshot.take());
        per_connection.here.insert(per_connection_loop.number, per_connection_loop.clone());
        per_connection.counted = Stats::default();
        self.changed(&mut per_connection);
        self.room.forget_cap();
        self.published.clear();
        for loop_handle in &self.fixed {
            loop_handle.counters.all().for_each(|counter| counter.set(0));
            loop_handle.passed_on.clear();
            loop_handle.set_waker(waker.clone());
            loop_handle.set_topics(u64::MAX);
        }
        per_connection_loop.set_waker(waker);
    }

    // ---- room ------------------------------------------------------------------------------------------------------

    /// Descriptors of the connections of all loops.
    pub(crate) fn descriptors(&self) -> usize {
        self.room.descriptors()
    }

    /// For the accepting loop: whether further connections have to wait, as `is_full` decides by the counts of descriptors and
    /// per-connection loops. If so, any thread that lowers either count wakes the accepting loop.
    pub(crate) fn look_for_room(&self, is_full: impl Fn() -> bool) -> bool {
        self.room.look(is_full)
    }

    /// Sets the number of descriptors that a loop uses for connections, including a per-connection loop's own. Wakes the
    /// accepting loop if the number has fallen while further connections wait for room.
    pub(crate) fn note_descriptors(&self, loop_handle: &LoopHandle, descriptors: usize) {
        let before = self.set_descriptors(loop_handle, descriptors);
        if descriptors < before && loop_handle.number != self.first() && self.room.is_waited_for() {
            self.wake(self.first());
        }
    }

    fn set_descriptors(&self, loop_handle: &LoopHandle, descriptors: usize) -> usize {
        // Only the loop itself changes the number. In most turns nothing has changed, and nothing shared is written.
        if loop_handle.descriptors() == descriptors {
            return descriptors;
        }
        let before = loop_handle.descriptors.swap(descriptors, Ordering::AcqRel);
        self.room.add_descriptors(descriptors.wrapping_sub(before));
        before
    }

    /// Hands a connection over, without waking the loop.
    pub(crate) fn hand(&self, loop_handle: &LoopHandle, accepted: Accepted) -> Result<(), PostError<Accepted>> {
        self.count_handed();
        loop_handle.accepted.post(accepted).inspect_err(|_| self.has_counted())
    }

    /// Counts the descriptor of a connection on its way to a loop, until the loop counts the descriptor itself.
    pub(crate) fn count_handed(&self) {
        self.room.add_descriptors(1);
    }

    /// Counts the handed-over descriptor out: the loop has counted the descriptor itself.
    pub(crate) fn has_counted(&self) {
        self.room.add_descriptors(usize::MAX);
        if self.room.is_waited_for() {
            self.wake(self.first());
        }
    }

    /// The fixed loop with the fewest connections; among equals, the first after `last`.
    pub(crate) fn least_loaded(&self, last: usize) -> usize {
        let count = self.fixed.len();
        (1..=count).map(|step| (last + step) % count).min_by_key(|&one| self.fixed[one].load()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
