//! One turn: wait, move bytes, callbacks, settle, flush, deadlines. The order is what the promises rest on:
//!
//! 1. wait for the driver; read the clock, once; handlers that asked for this turn have it;
//! 2. for each completion: the link learns of it, its handler is called, and its own answer leaves at once;
//! 3. what was put off in the last turn; messages and signals;
//! 4. settle: whatever callbacks asked of *other* connections happens now, never inside a callback, and what they wrote
//!    to them leaves in one send each (earlier only if somebody is owed more than the high-water mark);
//! 5. deadlines, after the writes, so that a reply just queued is not counted as idle; settle again.

mod doors;
mod input;
mod report;
mod stopping;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::context::{Context, Core, Errand, Terms, Timer};
use crate::driver::{Completion, Driver};
use crate::error::{Errno, Error};
use crate::handle::{Handle, Inbox};
use crate::limits::Deadlines;
use crate::link::{Due, Link, NO_STATE, Origin, Sent, Step};
use crate::mailbox::LoopsThread;
use crate::neighbours::Neighbours;
use crate::reason::Deadline;
use crate::recorder::{Recorder, What};
use crate::service::{Bound, Host, guarded};
use crate::stats::Counters;
use crate::sys::EVENTS_PER_WAIT;
use crate::sys::signal::Signals;
use crate::time::Time;
use crate::timer::Wheel;
use crate::token::ConnectionId;
use doors::Door;
use stopping::Stopping;

/// The one receive buffer of a loop, and with it the most that one connection gets to say in one turn. Allocated once
/// and never cleared: clearing 64 KiB for every read costs half as much again as the read.
const SCRATCH: usize = 64 * 1024;
/// Messages published from other threads, or by other loops, that are delivered in one turn.
const PUBLISHED_PER_TURN: usize = 1024;
/// Connections accepted for this loop that are taken on in one turn: as many as a listener gives.
const NEWCOMERS_PER_TURN: usize = 64;

/// A wait that ends so much later than it should have was a stall, not a busy machine.
const STALL: Duration = Duration::from_millis(50);

/// What every loop of an application is told when it is made, and never asks about again.
#[derive(Clone)]
pub(crate) struct Settings {
    /// `None`: wait for ever.
    pub(crate) drain_timeout: Option<Duration>,
    /// Connections of all services at once; one more is refused.
    pub(crate) connections: Option<usize>,
    /// Descriptors that connections may take; one more has to wait in the backlog.
    pub(crate) descriptors: usize,
    /// A callback that holds the loop for longer is named in the log.
    pub(crate) slow_callback: Duration,
    pub(crate) on_report: Reports,
}

/// What the process is asked by signals, and the first loop answers.
pub(crate) struct Orders {
    pub(crate) signals: Option<Arc<Signals>>,
    pub(crate) on_reopen: Box<dyn FnMut() + Send>,
}

/// Where reports go, of whichever loop.
pub(crate) type Reports = Arc<Mutex<dyn FnMut(&str) + Send>>;

/// Stands for no service: periodic work, and what the operator asks for.
const NO_SERVICE: u16 = u16::MAX;

/// Work that is done again and again.
pub(crate) struct Periodic {
    pub(crate) period: Duration,
    pub(crate) work: Box<dyn FnMut(&mut Context<'_>) + Send>,
    /// When it is due. Kept to the schedule it began with, however late the loop was.
    pub(crate) at: Time,
}

/// One loop: a driver, the links, the handlers, and the order in which they get their turn.
pub(crate) struct EventLoop<D> {
    driver: D,
    core: Core,
    hosts: Vec<Served>,
    doors: Vec<Door>,
    periodic: Vec<Option<Periodic>>,
    handle: Handle,
    inbox: Inbox,
    event_loop: usize,
    config: Settings,
    orders: Option<Orders>,
    /// Turns in a row in which no deadline was looked at, because not everybody had been heard.
    postponed: usize,
    /// Links with something left to do in the next turn; and, in that turn, those still to be seen to.
    again: Vec<ConnectionId>,
    put_off: Vec<ConnectionId>,
    /// There may be something in a mailbox.
    mail: bool,
    /// At the cap that comes from the descriptor limit: nobody is accepted.
    full: bool,
    full_said: Option<Time>,
    /// The second in which histories were last told, and how many in it.
    told: (u64, usize),
    stopping: Option<Stopping>,
}

/// A handler with its number of connections.
struct Served {
    host: Box<dyn Host>,
    /// Connections that were let in and have not ended, on all loops.
    open: Arc<AtomicUsize>,
    refused: usize,
}

impl<D: Driver> EventLoop<D> {
    pub(crate) fn new(mut driver: D, event_loop: usize, handle: Handle, inbox: Inbox, config: Settings) -> Self {
        let mut core = Core::new(event_loop as u8, driver.now(), handle.desk(event_loop).counters.clone());
        if handle.desks().len() > 1 {
            core.neighbours = Some(Box::new(Neighbours::new(handle.clone(), event_loop)));
        }
        EventLoop {
            driver,
            core,
            hosts: Vec::new(),
            doors: Vec::new(),
            periodic: Vec::new(),
            handle,
            inbox,
            event_loop,
            config,
            orders: None,
            postponed: 0,
            again: Vec::new(),
            put_off: Vec::new(),
            mail: true,
            full: false,
            full_said: None,
            told: (0, 0),
            stopping: None,
        }
    }

    pub(crate) fn add_service(&mut self, bound: Bound, host: Box<dyn Host>) {
        let service = self.hosts.len() as u16;
        for listening in bound.listeners {
            if let Some(listening) = &listening {
                let name = format!("{} at {}", bound.terms.name, listening.address());
                let door = self.driver.listen(listening.fd(), &name);
                debug_assert_eq!(door, self.doors.len(), "the driver numbers listeners as they come");
            }
            self.doors.push(Door {
                service,
                listening,
                refusal: bound.refusal.clone(),
                reads_first: bound.reads_first,
                // What was in the queue when the stop began, and no connect storm after it.
                rounds: bound.terms.limits.backlog / 64 + 2,
                busy: true,
            });
        }
        self.core.terms.push(bound.terms);
        self.hosts.push(Served { host, open: bound.open, refused: 0 });
    }

    pub(crate) fn take_orders(&mut self, orders: Orders) {
        self.orders = Some(orders);
    }

    pub(crate) fn add_periodic(&mut self, mut periodic: Periodic) {
        periodic.at = self.core.now + periodic.period;
        self.core.wheel.insert(periodic.at, Timer::Periodic(self.periodic.len() as u32));
        self.periodic.push(Some(periodic));
    }

    /// Turns until it is told to stop and every connection has ended, or the drain time is over.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let _here = LoopsThread::enter();
        let mut scratch = vec![0; SCRATCH].into_boxed_slice();
        for index in 0..self.hosts.len() {
            self.hosts[index].host.start(&mut self.core);
            self.called(ConnectionId::NONE);
        }
        self.settle();
        while !self.is_done() {
            self.turn(&mut scratch)
                .map_err(|errno| Error::System { what: "waiting for events", cause: errno.into() })?;
        }
        self.end();
        Ok(())
    }

    fn turn(&mut self, scratch: &mut [u8]) -> Result<(), Errno> {
        self.core.turn = self.core.turn.wrapping_add(1).max(1);
        let timeout = self.timeout();
        let planned = timeout.map_or(Time::NEVER, |timeout| self.core.now + timeout);
        self.driver.wait(&self.core.links, timeout, self.core.now)?;
        let heard = self.driver.now();
        self.core.now = heard;
        for service in std::mem::take(&mut self.core.called_upon) {
            self.hosts[service as usize].host.turn(&mut self.core);
            self.called(ConnectionId::NONE);
        }
        while let Some(completion) = self.driver.next(&self.core.links, scratch) {
            self.dispatch(completion);
            if std::mem::take(&mut self.core.crowded) {
                self.settle();
            }
        }
        std::mem::swap(&mut self.again, &mut self.put_off);
        while let Some(id) = self.put_off.pop() {
            self.told(id, |link| link.put_off = false);
        }
        if std::mem::take(&mut self.mail) {
            self.read_mail();
        }
        self.settle();
        if self.has_heard_all(heard, planned) {
            self.expire(heard);
            self.settle();
        }
        self.keep_stopping();
        self.tell_others();
        self.count_turn(heard);
        Ok(())
    }

    /// What is due at the time at which everybody was last heard; not what has become due since, in a slow callback.
    fn expire(&mut self, heard: Time) {
        while let Some(timer) = self.core.wheel.expire(heard) {
            match timer {
                Timer::Link(id) => self.deadline(id, heard),
                Timer::Periodic(index) => self.work(index as usize),
            }
        }
    }

    /// Whether deadlines may be looked at. After a stall (the process was stopped, the machine slept) they all have
    /// passed, and so may the bytes have come that they are about: those are read first. A turn more does for that, or
    /// as many as it takes to hear all connections once.
    fn has_heard_all(&mut self, heard: Time, planned: Time) -> bool {
        let stalled = heard.since(planned) > STALL && self.postponed == 0;
        let all = !stalled && !self.driver.is_batch_full() || self.postponed > self.core.links.len() / EVENTS_PER_WAIT;
        self.postponed = if all { 0 } else { self.postponed + 1 };
        all
    }

    /// How long nothing has to be done unless something happens.
    fn timeout(&self) -> Option<Duration> {
        let left_over = !self.again.is_empty() || !self.core.called_upon.is_empty();
        if self.mail || self.core.halting != self.stopping.is_some() || left_over {
            return Some(Duration::ZERO);
        }
        let drain = self.stopping.as_ref().and_then(|stopping| stopping.until);
        let next = [self.core.wheel.next_deadline(), drain].into_iter().flatten().min()?;
        (next != Time::NEVER).then(|| next.since(self.core.now))
    }

    // ---- what the driver reports -----------------------------------------------------------------------------------

    #[inline]
    fn dispatch(&mut self, completion: Completion<'_>) {
        match completion {
            Completion::Received { id, bytes } => self.received(id, bytes),
            Completion::Sent { id, outcome } => self.sent(id, outcome),
            Completion::Accepted { listener, socket, peer } => self.accepted(listener, socket, peer),
            Completion::Connected { id } => self.connected(id),
            Completion::Ended { id } => {
                self.core.recorder.note(id, What::Ended, self.core.now);
                self.told(id, Link::end_of_input);
            }
            Completion::Nothing { id } => self.told(id, Link::nothing_arrived),
            Completion::Failed { id, errno } => {
                let now = self.core.now;
                self.core.recorder.note(id, What::Failed(errno), now);
                self.told(id, |link| link.failed(errno, now));
            }
            Completion::Woken => self.mail = true,
        }
    }

    fn told(&mut self, id: ConnectionId, tell: impl FnOnce(&mut Link)) {
        if let Some(link) = self.core.links.get_mut(id) {
            tell(link);
            self.attend(id);
        }
    }

    fn connected(&mut self, id: ConnectionId) {
        let Some(link) = self.core.links.get_mut(id) else { return };
        link.connected(self.core.now);
        self.core.recorder.note(id, What::Connected, self.core.now);
        let (service, key, open) = (link.service as usize, link.state, link.is_open());
        self.core.counters.connected.add(1);
        if open {
            self.hosts[service].host.connected(&mut self.core, id, key);
            self.called(id);
        }
        self.attend(id);
    }

    /// Output of a blocked link has left, or cannot.
    fn sent(&mut self, id: ConnectionId, outcome: Sent) {
        if let Some(link) = self.core.links.get_mut(id) {
            let limits = &self.core.terms[link.service as usize].limits;
            note_sent(&self.core.counters, &mut self.core.recorder, id, outcome, self.core.now);
            let (driver, lengths) = (&mut self.driver, &self.core.published.lengths);
            let lost =
                link.sent(outcome, self.core.now, limits, lengths, &mut self.core.pool, || driver.unacknowledged(id));
            self.core.counters.unsent.add(lost.bytes as u64);
            self.core.counters.missed.add(lost.messages);
            self.attend(id);
        }
    }

    // ---- what there is to do ---------------------------------------------------------------------------------------

    /// Does for one link all there is to do, until it rests.
    #[inline]
    fn attend(&mut self, id: ConnectionId) {
        while let Some(step) = self.advance(id) {
            self.call(id, step);
        }
    }

    /// Does all that takes no handler. The step that does, or none when the link rests.
    #[inline]
    fn advance(&mut self, id: ConnectionId) -> Option<Step> {
        let Core { links, terms, published, pool, counters, recorder, wheel, now, turn, .. } = &mut self.core;
        let link = links.get_mut(id)?;
        let Terms { limits, deadlines, .. } = &terms[link.service as usize];
        loop {
            match link.step(*turn, limits) {
                Step::Rest => break,
                Step::Send => {
                    let outcome = self.driver.send(link);
                    note_sent(counters, recorder, id, outcome, *now);
                    let driver = &mut self.driver;
                    let lost = link.sent(outcome, *now, limits, &published.lengths, pool, || driver.unacknowledged(id));
                    counters.unsent.add(lost.bytes as u64);
                    counters.missed.add(lost.messages);
                }
                Step::Finish => {
                    let driver = &mut self.driver;
                    link.finished(*now, || driver.unacknowledged(id));
                    recorder.note(id, What::Finished, *now);
                    self.driver.finish(id);
                }
                Step::Probe => self.driver.probe(id),
                Step::NextTurn => {
                    if !std::mem::replace(&mut link.put_off, true) {
                        self.again.push(id);
                    }
                    break;
                }
                step => return Some(step),
            }
        }
        if link.take_interest_change() {
            self.driver.changed(id);
        }
        let driver = &mut self.driver;
        if link.take_deadline_change(*now, || driver.unacknowledged(id)) {
            arm(link, deadlines, wheel);
        }
        None
    }

    /// Does what takes a handler.
    fn call(&mut self, id: ConnectionId, step: Step) {
        self.calling();
        let Some(link) = self.core.links.get_mut(id) else { return };
        let (service, key) = (link.service as usize, link.state);
        let host = &mut self.hosts[service].host;
        match step {
            Step::Close => return self.close(id),
            Step::Deliver => {
                if let Some(kept) = link.kept.take() {
                    self.lend_kept(id, kept, |host, core, key, input| host.data(core, id, key, input));
                }
                return;
            }
            Step::EndOfInput => {
                let kept = link.kept.take().unwrap_or_else(|| self.core.pool.take_kept());
                return self.lend_kept(id, kept, |host, core, key, input| host.end_of_input(core, id, key, input));
            }
            Step::Drained => host.drained(&mut self.core, id, key),
            Step::Missed => {
                let count = link.take_missed();
                host.missed(&mut self.core, id, key, count);
                if let Some(link) = self.core.links.get_mut(id) {
                    link.placed();
                }
            }
            Step::TooSlow => {
                host.too_slow(&mut self.core, id, key);
                if let Some(link) = self.core.links.get_mut(id) {
                    link.close_slow(self.core.now);
                }
            }
            Step::Stopping => host.stopping(&mut self.core, id, key),
            Step::Rest | Step::Send | Step::Finish | Step::Probe | Step::NextTurn => {}
        }
        self.called(id);
    }

    /// The link's timer went off: a deadline has passed, or it has moved away since and the timer follows.
    fn deadline(&mut self, id: ConnectionId, heard: Time) {
        let Some(link) = self.core.links.get_mut(id) else { return };
        link.set_timer(None);
        let service = link.service as usize;
        match link.next_due(&self.core.terms[service].deadlines) {
            Some((at, due)) if at <= heard => {
                let on_progress = matches!(due, Due::Loop(Deadline::WriteProgress | Deadline::Linger | Deadline::Idle));
                let unacknowledged = if on_progress { self.driver.unacknowledged(id) } else { 0 };
                let key = link.state;
                link.set_deadline_changed();
                self.core.recorder.note(id, What::Overdue, heard);
                if link.due(due, self.core.now, unacknowledged) == Some(Due::Handler) {
                    self.calling();
                    self.hosts[service].host.deadline(&mut self.core, id, key);
                    self.called(id);
                }
                self.attend(id);
            }
            _ => arm(link, &self.core.terms[service].deadlines, &mut self.core.wheel),
        }
    }

    /// The end of a link, the only place where `on_close` is called.
    fn close(&mut self, id: ConnectionId) {
        let Some(link) = self.core.links.get(id) else { return };
        let (service, key, origin, reason) = (link.service as usize, link.state, link.origin, link.reason());
        let name = &self.core.terms[service].name;
        log::debug!(
            "{name}: connection {id} from {} ended: {reason} (received {}, sent {}, unsent {} bytes)",
            link.peer,
            link.received,
            link.sent,
            link.queued()
        );
        if let Some((timer, _)) = link.timer() {
            self.core.wheel.cancel(timer);
        }
        self.driver.release(id, link.resets());
        self.core.topics.leave_all(id);
        if reason.is_fault() {
            self.tell_history(id);
        }
        if key != NO_STATE {
            self.calling();
            self.core.barred |= self.core.stopping;
            self.hosts[service].host.close(&mut self.core, id, key, reason);
            self.called(id);
            self.core.barred = self.has_given_up();
        }
        if let Some(mut link) = self.core.links.remove(id) {
            let (unread, unsent) = link.release(&mut self.core.pool);
            self.core.counters.unread.add(unread as u64);
            self.core.counters.unsent.add(unsent as u64);
        }
        match origin {
            // It was counted as refused, and never was open.
            Origin::Refused => return self.hosts[service].refused -= 1,
            Origin::Accepted => {
                self.hosts[service].open.fetch_sub(1, Ordering::Relaxed);
                self.handle.desk(self.event_loop).load_less();
            }
            Origin::Outbound | Origin::Watched => {}
        }
        self.core.counters.count_closed(reason);
    }

    /// Does what callbacks asked for. A callback that this calls may ask for more; it comes at the end of the list, so
    /// the stack stays flat.
    fn settle(&mut self) {
        if self.core.touched.is_empty() && self.core.published.is_empty() && self.core.wishes.is_empty() && !self.full {
            return;
        }
        let mut next = 0;
        loop {
            if next == self.core.touched.len() && !self.core.published.is_empty() {
                let driver = &mut self.driver;
                self.core.send_out(|id, bytes| Some(driver.send_bytes(id, bytes)));
            }
            for wish in std::mem::take(&mut self.core.wishes) {
                let Some(link) = self.core.links.get_mut(wish.id) else { continue };
                link.state = self.hosts[link.service as usize].host.adopt(wish.state);
                self.core.recorder.note(wish.id, What::Asked, self.core.now);
                match wish.errand {
                    Errand::Connect(to) => self.driver.connect(wish.id, &to),
                    Errand::Watch(descriptor) => self.driver.watch(wish.id, descriptor),
                    Errand::Nothing => {}
                }
                // Not told that the application is stopping: who asked for it now knows, and telling could make it ask
                // again.
                self.core.touch(wish.id);
            }
            let Some(&id) = self.core.touched.get(next) else { break };
            next += 1;
            if let Some(link) = self.core.links.get_mut(id) {
                link.touched = false;
                self.attend(id);
            }
        }
        self.core.touched.clear();
        self.core.published.forget_lengths();
        if self.full {
            self.mind_the_cap();
        }
    }

    /// Before a callback that others' sends may have come before: the time that they took is not its own.
    fn calling(&mut self) {
        self.core.now = self.core.now.max(self.driver.coarse_now());
    }

    /// After each callback: the rough clock names one that held the loop, and no deadline set by it counts from before.
    #[inline]
    fn called(&mut self, id: ConnectionId) {
        let now = self.driver.coarse_now();
        if now > self.core.now {
            let held = now.since(self.core.now);
            self.core.now = now;
            if held >= self.config.slow_callback {
                self.slow(id, held);
            }
        }
    }

    #[cold]
    fn slow(&mut self, id: ConnectionId, held: Duration) {
        self.core.counters.slow_callbacks.add(1);
        let held = held.as_millis();
        match self.core.links.get(id) {
            Some(link) => {
                let name = &self.core.terms[link.service as usize].name;
                log::warn!("{name}: a callback of connection {id} from {} held the loop for {held} ms", link.peer);
            }
            None => log::warn!("a callback outside any connection held the loop for {held} ms"),
        }
    }

    // ---- from elsewhere --------------------------------------------------------------------------------------------

    fn read_mail(&mut self) {
        self.core.halting |= self.handle.desk(self.event_loop).is_halting();
        self.read_published();
        self.take_on_newcomers();
        for index in 0..self.hosts.len() {
            self.mail |= self.hosts[index].host.collect();
            while self.hosts[index].host.message(&mut self.core) {
                self.called(ConnectionId::NONE);
            }
        }
        let signalled =
            self.orders.as_ref().and_then(|orders| Some(orders.signals.as_ref()?.take())).unwrap_or_default();
        if let Some(signal) = signalled.stop {
            log::info!("signal {signal}: stopping");
            self.handle.halt();
            self.core.halting = true;
        }
        if signalled.report {
            self.handle.ask_for_reports();
        }
        if signalled.report || self.handle.desk(self.event_loop).take_reporting() {
            let (report, on_report) = (self.report(), self.config.on_report.clone());
            guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |_| {
                on_report.lock().unwrap_or_else(PoisonError::into_inner)(&report);
            });
        }
        if let Some(orders) = self.orders.as_mut().filter(|_| signalled.reopen) {
            guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |_| (orders.on_reopen)());
        }
    }

    /// What was published from other threads, for all loops, and by other loops, for this one.
    fn read_published(&mut self) {
        let mut published = Vec::new();
        // Those who wait for room at another loop come first, so that this one's queue is not a way round it.
        let is_behind = self.core.neighbours.as_ref().is_some_and(|neighbours| neighbours.is_behind());
        if let Some(receiver) = self.inbox.published.as_ref().filter(|_| !is_behind) {
            self.mail |= receiver.take(&mut published, PUBLISHED_PER_TURN);
            for (topic, bytes) in published.drain(..) {
                self.core.publish(&topic, &bytes, Some(&bytes), ConnectionId::NONE, ConnectionId::NONE);
            }
        }
        self.mail |= self.inbox.passed_on.take(&mut published, PUBLISHED_PER_TURN);
        for (topic, bytes) in published {
            self.core.deliver(&topic, &bytes, Some(&bytes), ConnectionId::NONE);
        }
        if self.handle.desk(self.event_loop).take_crowded() {
            self.handle.desks().iter().for_each(|desk| desk.waker.wake());
        }
    }

    /// At the end of a turn: what it has published goes on to the other loops, and the one that accepts hears of
    /// descriptors that have become free.
    fn tell_others(&mut self) {
        let Some(neighbours) = &mut self.core.neighbours else { return };
        neighbours.note_topics(self.core.topics.bits());
        let was_behind = neighbours.is_behind();
        let released = neighbours.flush();
        // Those go on in the next turn, at once, and so do messages of other threads that were left in their mailbox.
        self.mail |= was_behind && !neighbours.is_behind();
        for id in released {
            if let Some(link) = self.core.links.get_mut(id) {
                link.release_hold();
                self.core.touch(id);
            }
        }
        self.handle.note_descriptors(self.event_loop, self.driver.descriptors());
    }

    /// Periodic work: next due by the schedule that it began with, ticks that were missed left out.
    fn work(&mut self, index: usize) {
        let Some(mut periodic) = self.periodic[index].take() else { return };
        self.core.loop_ended = false;
        guarded(&mut self.core, ConnectionId::NONE, NO_SERVICE, |cx| (periodic.work)(cx));
        self.called(ConnectionId::NONE);
        if self.core.loop_ended {
            return;
        }
        let missed = self.core.now.since(periodic.at).as_nanos() / periodic.period.as_nanos().max(1);
        let ticks = u32::try_from(missed + 1).unwrap_or(u32::MAX);
        periodic.at = periodic.at + periodic.period.saturating_mul(ticks);
        self.core.wheel.insert(periodic.at, Timer::Periodic(index as u32));
        self.periodic[index] = Some(periodic);
    }
}

/// Sees to it that a timer stands for the link's next deadline. Moved only to be earlier: see `Link::timer`.
fn arm(link: &mut Link, deadlines: &Deadlines, wheel: &mut Wheel<Timer>) {
    let Some((at, _)) = link.next_due(deadlines) else { return };
    let timer = link.timer();
    if timer.is_none_or(|(_, armed)| at < armed) {
        if let Some((key, _)) = timer {
            wheel.cancel(key);
        }
        link.set_timer(Some((wheel.insert(at, Timer::Link(link.id)), at)));
    }
}

#[inline]
fn note_sent(counters: &Counters, recorder: &mut Recorder, id: ConnectionId, outcome: Sent, now: Time) {
    let what = match outcome {
        Sent::Bytes(count) => What::Sent(count as u32),
        Sent::Blocked(count) => What::Blocked(count as u32),
        Sent::Failed(errno) => What::SendFailed(errno),
        Sent::ShortFile => What::ShortFile,
    };
    recorder.note(id, what, now);
    if let Sent::Bytes(count) | Sent::Blocked(count) = outcome {
        counters.sent.add(count as u64);
    }
}
