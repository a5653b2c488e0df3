//! Where each loop of an application is reached by the others, and what all of them have in common. Below: mailboxes.
//! Above: [`handle`](crate::handle), for other threads; [`neighbours`](crate::neighbours), for the loops themselves.
//!
//! Some loops stand as long as the application does. Others, the *guests*, come and go with one connection each
//! (`Runner::threads`), so who wants to reach all keeps a [`Roll`] and looks whether it is still true.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use crate::address::Peer;
use crate::driver::Socket;
use crate::mailbox::{Crowd, Mailbox, PostError, Receiver};
use crate::protocols::{Changes, Mask, Room, Version};
use crate::stats::{Counters, Stats};
use crate::sys::affinity::Cores;
use crate::sys::wake::Waker;
use crate::time::Time;
use crate::token::{GUESTS_MAX, LOOPS_MAX};
use crate::topics::Topic;

/// Bytes that wait, published from other threads or passed on by another loop, before whoever publishes has to wait:
/// a burst to a room, and no more memory than one slow member may cost several times over.
pub(crate) const PUBLISHED_BYTES: usize = 16 * 1024 * 1024;

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
    pub(crate) number: u32,
    pub(crate) counters: Arc<Counters>,
    /// None once a guest has left: others may keep its desk for a while, and a waker holds a descriptor.
    waker: RwLock<Option<Waker>>,
    passed_on: Arc<Mailbox<Publication>>,
    newcomers: Arc<Mailbox<Newcomer>>,
    reporting: AtomicBool,
    reopening: AtomicBool,
    /// Another loop found a mailbox of this one full, and waits to hear that there is room.
    crowd: Crowd,
    /// Connections that it has or is about to get.
    load: AtomicUsize,
    /// Descriptors of its connections, and a guest's own.
    descriptors: AtomicUsize,
    /// Topics that it has members of.
    topics: Mask,
}

/// All of them.
pub(crate) struct Desks {
    standing: Box<[Arc<Desk>]>,
    guests: Mutex<Guests>,
    /// Tells that the last guest has gone.
    gone: Condvar,
    /// How often guests have come or gone.
    changes: Changes,
    /// What the loop that accepts waits for.
    room: Room,
    /// What other threads publish. The first loop takes it and passes it on, so that all see it in one order.
    published: Arc<Mailbox<Publication>>,
    /// Set by the first loop that stops with the application: the end of the drain time.
    drain_until: OnceLock<Option<Time>>,
    /// The loop that gets what is for no connection.
    first: AtomicU32,
    /// Where loops are pinned: all the cores that they are pinned to one of.
    cores: OnceLock<Cores>,
}

#[derive(Default)]
struct Guests {
    here: HashMap<u32, Arc<Desk>>,
    /// How many ever came.
    came: u64,
    /// What those who are gone have counted.
    counted: Stats,
    /// Everybody, if somebody has asked since the last change.
    roll: Option<Arc<[Arc<Desk>]>>,
}

/// All desks as they were at one time.
pub(crate) struct Roll {
    version: Version,
    pub(crate) desks: Arc<[Arc<Desk>]>,
}

impl Roll {
    /// That of nobody, which is never true.
    pub(crate) fn blank() -> Self {
        Roll { version: Version::NONE, desks: Arc::new([]) }
    }
}

impl Desks {
    pub(crate) fn new(wakers: impl IntoIterator<Item = Waker>) -> Self {
        Desks {
            standing: (0..).zip(wakers).map(|(number, waker)| Arc::new(Desk::new(number, waker, 0))).collect(),
            guests: Mutex::default(),
            gone: Condvar::new(),
            changes: Changes::new(),
            room: Room::new(),
            published: Arc::new(mailbox_of_published()),
            drain_until: OnceLock::new(),
            first: AtomicU32::new(0),
            cores: OnceLock::new(),
        }
    }

    /// Those that stand.
    pub(crate) fn standing(&self) -> &[Arc<Desk>] {
        &self.standing
    }

    /// The loop that gets what is for no connection.
    pub(crate) fn first(&self) -> u32 {
        self.first.load(Ordering::Acquire)
    }

    /// The end of this loop of all that others send it. There is one loop for each desk.
    pub(crate) fn inbox(&self, desk: &Desk) -> Inbox {
        Inbox {
            published: (desk.number == self.first()).then(|| Receiver::new(self.published.clone())),
            passed_on: Receiver::new(desk.passed_on.clone()),
            newcomers: Receiver::new(desk.newcomers.clone()),
        }
    }

    /// Queues what is published from outside, and wakes the first loop.
    pub(crate) fn publish(&self, publication: Publication) -> Result<(), PostError<Publication>> {
        self.published.post(publication)?;
        self.wake(self.first());
        Ok(())
    }

    /// Wakes this loop, if it is still there.
    pub(crate) fn wake(&self, number: u32) {
        match self.standing.get(number as usize) {
            Some(desk) => desk.wake(),
            None => self.guests().here.get(&number).into_iter().for_each(|desk| desk.wake()),
        }
    }

    pub(crate) fn wake_all(&self) {
        self.standing.iter().for_each(|desk| desk.wake());
        self.guests().here.values().for_each(|desk| desk.wake());
    }

    /// Wakes all loops but this one.
    pub(crate) fn wake_others(&self, number: u32) {
        self.standing.iter().filter(|desk| desk.number != number).for_each(|desk| desk.wake());
        self.guests().here.values().filter(|desk| desk.number != number).for_each(|desk| desk.wake());
    }

    pub(crate) fn halt(&self) {
        if self.room.halt() {
            self.wake_all();
        }
    }

    /// From now on loops are pinned, each to one of these.
    pub(crate) fn set_cores(&self, cores: Cores) {
        // An application runs once.
        let _ = self.cores.set(cores);
    }

    /// Where loops are pinned: all the cores that they are pinned to one of.
    pub(crate) fn cores(&self) -> Option<&Cores> {
        self.cores.get()
    }

    /// When the drain time of the application is over, for every loop: as the first loop to stop has it.
    pub(crate) fn drain_until(&self, own: Option<Time>) -> Option<Time> {
        *self.drain_until.get_or_init(|| own)
    }

    pub(crate) fn is_halting(&self) -> bool {
        self.room.is_halting()
    }

    /// Nobody is accepted any more.
    pub(crate) fn close_doors(&self) {
        if self.room.close_doors() {
            self.standing.iter().for_each(|desk| desk.wake());
        }
    }

    /// Nobody is accepted any more, and this queue of newcomers is empty.
    pub(crate) fn nobody_comes(&self, newcomers: &Receiver<Newcomer>) -> bool {
        self.room.nobody_comes(|| newcomers.is_empty())
    }

    /// Nobody is accepted any more.
    pub(crate) fn are_doors_closed(&self) -> bool {
        self.room.nobody_comes(|| true)
    }

    /// Asks each other loop for its report; of the guests, so many.
    pub(crate) fn ask_for_reports(&self, guests: usize) {
        let others = self.standing.iter().skip(1).cloned();
        let all: Vec<Arc<Desk>> = others.chain(self.guests().here.values().take(guests).cloned()).collect();
        all.iter().for_each(|desk| desk.ask_for_report());
    }

    /// Asks each guest in another process to open its log files anew.
    pub(crate) fn ask_to_reopen(&self) {
        let guests: Vec<Arc<Desk>> = self.guests().here.values().cloned().collect();
        for desk in guests {
            desk.reopening.store(true, Ordering::Release);
            desk.wake();
        }
    }

    /// What all have counted, those who are gone included.
    pub(crate) fn stats(&self) -> Stats {
        let guests = self.guests();
        let mut all = guests.counted.clone();
        for desk in self.standing.iter().chain(guests.here.values()) {
            all += &desk.counters.read();
        }
        all
    }

    // ---- guests ----------------------------------------------------------------------------------------------------

    /// A loop comes, that has so many descriptors of its own. Its desk, and the first generation that its connections may
    /// have so that none has the name of an earlier one.
    pub(crate) fn enter(&self, waker: Waker, descriptors: usize) -> (Arc<Desk>, u32) {
        let mut guests = self.guests();
        let (number, generation) = loop {
            let (round, place) = (guests.came / GUESTS_MAX as u64, guests.came % GUESTS_MAX as u64);
            guests.came += 1;
            let number = LOOPS_MAX + place as u32;
            if !guests.here.contains_key(&number) {
                break (number, (round as u32) << 16 | 1);
            }
        };
        let desk = Arc::new(Desk::new(number, waker, descriptors));
        self.room.add_descriptors(descriptors);
        guests.here.insert(number, desk.clone());
        self.changed(&mut guests);
        (desk, generation)
    }

    /// A guest has ended. What it has counted stays.
    pub(crate) fn leave(&self, desk: &Desk) {
        let mut guests = self.guests();
        guests.here.remove(&desk.number);
        desk.counters.open.set(0);
        guests.counted += &desk.counters.read();
        self.changed(&mut guests);
        drop(guests);
        *desk.waker.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.set_descriptors(desk, 0);
        // It waits for room, or for everybody to have gone.
        if self.room.is_waited_for_by_a_stop() {
            self.wake(self.first());
        }
        self.gone.notify_all();
    }

    fn changed(&self, guests: &mut Guests) {
        guests.roll = None;
        self.room.set_guests(guests.here.len());
        self.changes.count();
    }

    /// How many there are.
    pub(crate) fn guest_count(&self) -> usize {
        self.room.guests()
    }

    /// While the application stops: whether all have gone. If not, the last wakes the loop that accepts.
    pub(crate) fn have_guests_gone(&self) -> bool {
        self.room.have_guests_gone()
    }

    /// Blocks until all have gone.
    pub(crate) fn wait_for_guests(&self) {
        let mut guests = self.guests();
        while !guests.here.is_empty() {
            guests = self.gone.wait(guests).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn roll(&self) -> Roll {
        let mut guests = self.guests();
        let version = self.changes.version();
        let everybody = || self.standing.iter().chain(guests.here.values()).cloned().collect();
        let desks = guests.roll.clone().unwrap_or_else(everybody);
        guests.roll = Some(desks.clone());
        Roll { version, desks }
    }

    /// Whether everybody who is here now is on it.
    #[inline]
    pub(crate) fn is_true(&self, roll: &Roll) -> bool {
        self.changes.version() == roll.version
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the copy of a process that was made for this guest: it is alone here, and the first. What it passes on to the loop
    /// that was the first is for the process that it came from.
    pub(crate) fn move_out(&self, guest: &Arc<Desk>, waker: Waker) {
        self.first.store(guest.number, Ordering::Release);
        let mut guests = self.guests();
        // The others are forgotten as they lie: to touch each would have the kernel copy the memory that they are in.
        std::mem::forget(std::mem::take(&mut guests.here));
        std::mem::forget(guests.roll.take());
        guests.here.insert(guest.number, guest.clone());
        guests.counted = Stats::default();
        self.changed(&mut guests);
        self.room.forget_cap();
        self.published.clear();
        for desk in &self.standing {
            desk.counters.all().for_each(|counter| counter.set(0));
            desk.passed_on.clear();
            desk.set_waker(waker.clone());
            desk.set_topics(u64::MAX);
        }
        guest.set_waker(waker);
    }

    // ---- room ------------------------------------------------------------------------------------------------------

    /// Descriptors of the connections of all loops.
    pub(crate) fn descriptors(&self) -> usize {
        self.room.descriptors()
    }

    /// By the loop that accepts: whether newcomers have to wait, as `is_full` finds by the counts of descriptors and guests. If
    /// so, whoever makes one of them smaller wakes it.
    pub(crate) fn look_for_room(&self, is_full: impl Fn() -> bool) -> bool {
        self.room.look(is_full)
    }

    /// So many descriptors of connections a loop has now, a guest's own among them. The one that accepts hears of each that
    /// is freed while newcomers wait for it.
    pub(crate) fn note_descriptors(&self, desk: &Desk, descriptors: usize) {
        let before = self.set_descriptors(desk, descriptors);
        if descriptors < before && desk.number != self.first() && self.room.is_waited_for() {
            self.wake(self.first());
        }
    }

    fn set_descriptors(&self, desk: &Desk, descriptors: usize) -> usize {
        // Only its own loop changes it. Most turns don't, and then nothing shared is touched.
        if desk.descriptors() == descriptors {
            return descriptors;
        }
        let before = desk.descriptors.swap(descriptors, Ordering::AcqRel);
        self.room.add_descriptors(descriptors.wrapping_sub(before));
        before
    }

    /// Hands a connection over, without waking the loop.
    pub(crate) fn hand(&self, desk: &Desk, newcomer: Newcomer) -> Result<(), PostError<Newcomer>> {
        self.count_handed();
        desk.newcomers.post(newcomer).inspect_err(|_| self.has_counted())
    }

    /// One is on its way to a loop, which has not counted its descriptor yet.
    pub(crate) fn count_handed(&self) {
        self.room.add_descriptors(1);
    }

    /// One that was handed to a loop is among its descriptors now.
    pub(crate) fn has_counted(&self) {
        self.room.add_descriptors(usize::MAX);
    }

    /// The standing loop with the fewest connections; of several, the first after `last`.
    pub(crate) fn least_loaded(&self, last: usize) -> usize {
        let count = self.standing.len();
        (1..=count).map(|step| (last + step) % count).min_by_key(|&one| self.standing[one].load()).unwrap_or(0)
    }
}

impl Desk {
    fn new(number: u32, waker: Waker, descriptors: usize) -> Self {
        Desk {
            number,
            waker: RwLock::new(Some(waker)),
            counters: Arc::default(),
            passed_on: Arc::new(mailbox_of_published()),
            newcomers: Arc::new(Mailbox::new()),
            reporting: AtomicBool::new(false),
            reopening: AtomicBool::new(false),
            crowd: Crowd::new(),
            load: AtomicUsize::new(0),
            descriptors: AtomicUsize::new(descriptors),
            topics: Mask::new(),
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.read().unwrap_or_else(PoisonError::into_inner) {
            waker.wake();
        }
    }

    /// The waker itself, while the loop is there.
    pub(crate) fn waker(&self) -> Option<Waker> {
        self.waker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes something on, without waking the loop.
    pub(crate) fn pass_on(&self, publication: Publication) -> Result<(), PostError<Publication>> {
        self.post(&self.passed_on, publication)
    }

    /// Posts to a mailbox of this loop, without waking it. Where there is no room, this loop wakes all others once it has made
    /// some.
    pub(crate) fn post<M>(&self, mailbox: &Mailbox<M>, message: M) -> Result<(), PostError<M>> {
        self.crowd.post(mailbox, message)
    }

    /// Whether all that was passed on to this loop has been taken.
    pub(crate) fn is_read_out(&self) -> bool {
        self.passed_on.is_empty()
    }

    /// Whether another loop waits for room in a mailbox of this one.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowd.is_waiting()
    }

    /// The same, once: who takes it wakes the others.
    pub(crate) fn take_crowded(&self) -> bool {
        self.crowd.take()
    }

    pub(crate) fn take_reporting(&self) -> bool {
        self.reporting.swap(false, Ordering::AcqRel)
    }

    /// Asks it for its report.
    pub(crate) fn ask_for_report(&self) {
        self.reporting.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn take_reopening(&self) -> bool {
        self.reopening.swap(false, Ordering::AcqRel)
    }

    /// From now on this wakes it.
    fn set_waker(&self, waker: Waker) {
        *self.waker.write().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors.load(Ordering::Acquire)
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
        self.topics.set(bits);
    }

    pub(crate) fn has_topics(&self, bits: u64) -> bool {
        self.topics.has(bits)
    }
}

fn mailbox_of_published() -> Mailbox<Publication> {
    Mailbox::weighed(PUBLISHED_BYTES, |(_, bytes): &Publication| bytes.len())
}
