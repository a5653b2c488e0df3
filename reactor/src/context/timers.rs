//! Timers with keys, of a handler or of a connection. Each timer is an entry of an arena; the wheel holds the place in the
//! arena.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::time::Duration;

use slab::Slab;

use super::core::Timer;
use super::{ConnectionRef, Context, Core, Pending};
use crate::time::Time;
use crate::timer::{TimerKey, Wheel};
use crate::token::ConnectionId;

/// The shortest period: a shorter one would be a busy loop.
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// The owner of timers with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// The handler of a service.
    Handler(u16),
    /// The periodic work of a service; the key is the work's place in the order of [`Service::every`](crate::Service::every).
    Work(u16),
    Connection(ConnectionId),
}

impl Owner {
    /// The connection, or [`ConnectionId::NONE`].
    pub(crate) fn connection(self) -> ConnectionId {
        match self {
            Owner::Connection(id) => id,
            Owner::Handler(_) | Owner::Work(_) => ConnectionId::NONE,
        }
    }
}

/// A timer with a key.
struct Keyed {
    owner: Owner,
    key: u64,
    /// The time from the end of the callback that sets the timer, or the period.
    span: Duration,
    repeats: bool,
    /// When the timer is due. [`Time::NEVER`] until the end of the callback, from which on the timer counts.
    at: Time,
    /// `None` while the timer does not count yet.
    armed: Option<TimerKey>,
}

/// Places by their keys.
type Places = HashMap<u64, u32>;

/// Number of empty [`Places`] that are kept for later connections with timers.
const SPARES: usize = 64;

/// All timers with keys of one loop. Setting and cancelling allocate nothing once the tables have grown.
#[derive(Default)]
pub(crate) struct KeyedTimers {
    entries: Slab<Keyed>,
    /// Timers of handlers and of periodic work. An owner without timers stays in the map.
    of_handlers: HashMap<Owner, Places>,
    /// Timers of connections. Only connections with a timer are in the map.
    of_connections: HashMap<ConnectionId, Places>,
    spares: Vec<Places>,
}

impl KeyedTimers {
    fn places(&self, owner: Owner) -> Option<&Places> {
        match owner {
            Owner::Connection(id) => self.of_connections.get(&id),
            Owner::Handler(_) | Owner::Work(_) => self.of_handlers.get(&owner),
        }
    }

    fn place(&self, owner: Owner, key: u64) -> Option<u32> {
        self.places(owner)?.get(&key).copied()
    }

    fn insert(&mut self, timer: Keyed) -> u32 {
        let (owner, key) = (timer.owner, timer.key);
        let place = self.entries.insert(timer) as u32;
        let KeyedTimers { of_handlers, of_connections, spares, .. } = self;
        let places = match owner {
            Owner::Connection(id) => of_connections.entry(id).or_insert_with(|| spares.pop().unwrap_or_default()),
            Owner::Handler(_) | Owner::Work(_) => of_handlers.entry(owner).or_default(),
        };
        places.insert(key, place);
        place
    }

    /// Removes the timer at `place`, which the wheel has given up already.
    fn remove(&mut self, place: u32) {
        let Keyed { owner, key, .. } = self.entries.remove(place as usize);
        match owner {
            Owner::Connection(id) => {
                if let Entry::Occupied(mut places) = self.of_connections.entry(id) {
                    places.get_mut().remove(&key);
                    if places.get().is_empty() {
                        keep(places.remove(), &mut self.spares);
                    }
                }
            }
            Owner::Handler(_) | Owner::Work(_) => {
                if let Some(places) = self.of_handlers.get_mut(&owner) {
                    places.remove(&key);
                }
            }
        }
    }
}

/// Keeps an empty table for a later connection, unless the table is large or many tables are kept.
fn keep(places: Places, spares: &mut Vec<Places>) {
    if spares.len() < SPARES && places.capacity() <= SPARES {
        spares.push(places);
    }
}

impl Core {
    pub(crate) fn set_timer(&mut self, owner: Owner, key: u64, span: Duration, repeats: bool) {
        if let Owner::Connection(id) = owner
            && !self.links.get(id).is_some_and(|link| link.is_open())
        {
            return;
        }
        let span = if repeats { span.max(PERIOD_MIN) } else { span };
        let timer = Keyed { owner, key, span, repeats, at: Time::NEVER, armed: None };
        let place = match self.timers.place(owner, key) {
            Some(place) => {
                let before = std::mem::replace(&mut self.timers.entries[place as usize], timer);
                // A timer that does not count yet waits for the end of the callback already.
                let Some(armed) = before.armed else { return };
                self.wheel.cancel(armed);
                place
            }
            None => self.timers.insert(timer),
        };
        self.opening.push(Pending::Timer(place));
    }

    /// Cancels the owner's timer `key`. Returns whether the timer was set.
    pub(crate) fn cancel_timer(&mut self, owner: Owner, key: u64) -> bool {
        let Some(place) = self.timers.place(owner, key) else { return false };
        if let Some(armed) = self.timers.entries[place as usize].armed {
            self.wheel.cancel(armed);
        }
        self.timers.remove(place);
        true
    }

    /// Cancels all timers of one connection. Costs a comparison where no connection has a timer.
    #[inline]
    pub(crate) fn cancel_timers_of(&mut self, id: ConnectionId) {
        if !self.timers.of_connections.is_empty() {
            self.cancel_timers(Owner::Connection(id));
        }
    }

    fn cancel_timers(&mut self, owner: Owner) {
        let places = match owner {
            Owner::Connection(id) => self.timers.of_connections.remove(&id),
            Owner::Handler(_) | Owner::Work(_) => self.timers.of_handlers.remove(&owner),
        };
        let Some(mut places) = places else { return };
        for (_, place) in places.drain() {
            if let Some(armed) = self.timers.entries.remove(place as usize).armed {
                self.wheel.cancel(armed);
            }
        }
        keep(places, &mut self.timers.spares);
    }

    /// Cancels the timers of all owners: the loop ends.
    pub(crate) fn cancel_all_timers(&mut self) {
        for timer in std::mem::take(&mut self.timers).entries.drain() {
            if let Some(armed) = timer.armed {
                self.wheel.cancel(armed);
            }
        }
    }

    /// Connection, key, span and repetition of the timer at `place`, if the timer does not count yet.
    pub(crate) fn new_timer(&self, place: u32) -> Option<(ConnectionId, u64, Duration, bool)> {
        let timer = self.timers.entries.get(place as usize).filter(|timer| timer.armed.is_none())?;
        Some((timer.owner.connection(), timer.key, timer.span, timer.repeats))
    }

    /// Starts the timer at `place`, if it does not count yet. The place may be empty by now, or belong to another timer.
    pub(crate) fn arm_timer(&mut self, place: u32) {
        let (now, wheel) = (self.now, &mut self.wheel);
        if let Some(timer) = self.timers.entries.get_mut(place as usize).filter(|timer| timer.armed.is_none()) {
            timer.arm(now + timer.span, place, wheel);
        }
    }

    /// Returns the service, the owner and the key of the timer at `place`, which is due. A repeating timer counts on, on its first
    /// schedule, and missed ticks are left out; any other timer is removed. `None`: the timer's connection is closing.
    pub(crate) fn timer_is_due(&mut self, place: u32) -> Option<(u16, Owner, u64)> {
        let (now, wheel) = (self.now, &mut self.wheel);
        let timer = self.timers.entries.get_mut(place as usize)?;
        let (owner, key) = (timer.owner, timer.key);
        timer.armed = None;
        let service = match owner {
            Owner::Handler(service) | Owner::Work(service) => Some(service),
            Owner::Connection(id) => self.links.get(id).filter(|link| link.is_open()).map(|link| link.service),
        };
        if timer.repeats && service.is_some() {
            let missed = now.since(timer.at).as_nanos() / timer.span.as_nanos().max(1);
            let ticks = u32::try_from(missed + 1).unwrap_or(u32::MAX);
            timer.arm(timer.at + timer.span.saturating_mul(ticks), place, wheel);
        } else {
            self.timers.remove(place);
        }
        service.map(|service| (service, owner, key))
    }
}

impl Keyed {
    fn arm(&mut self, at: Time, place: u32, wheel: &mut Wheel<Timer>) {
        self.at = at;
        self.armed = Some(wheel.insert(at, Timer::Keyed(place)));
    }
}

/// The timers of a handler ([`Context::timers`]) or of one connection ([`ConnectionRef::timers`]): any number, each with a key of
/// the owner's choice. Setting and cancelling are O(1).
///
/// A timer of the handler calls [`Handler::on_timer`](crate::Handler::on_timer), a timer of a connection calls
/// [`Handler::on_connection_timer`](crate::Handler::on_connection_timer). Each loop's handler has its own timers. Timers of a
/// connection end when the connection closes. Timers of the handler go on while the application is stopping, do not hold up its
/// end, and end with it. A timer takes some 100 bytes.
///
/// ```
/// use reactor::{Address, Application, CloseReason, Context, Handler, Input, Service};
/// use std::time::Duration;
///
/// /// Connects to a server, and connects again a second after each end. Reports once a minute.
/// struct Client {
///     server: Address,
/// }
///
/// const CONNECT: u64 = 0;
/// const REPORT: u64 = 1;
///
/// impl Handler for Client {
///     type Connection = ();
///
///     fn on_start(&mut self, cx: &mut Context<'_>) {
///         cx.timers().set(CONNECT, Duration::ZERO);
///         cx.timers().every(REPORT, Duration::from_secs(60));
///     }
///
///     fn on_timer(&mut self, key: u64, cx: &mut Context<'_>) {
///         match key {
///             CONNECT => drop(cx.connect(self.server.clone(), ())),
///             _ => println!("{} connections", cx.connections().len()),
///         }
///     }
///
///     fn on_open(&mut self, _: &mut Context<'_>) {}
///
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
///         input.take_all();
///     }
///
///     fn on_close(&mut self, _: (), _: CloseReason, cx: &mut Context<'_>) {
///         cx.timers().set(CONNECT, Duration::from_secs(1));
/// #       cx.halt();
///     }
/// }
///
/// let mut app = Application::new()?;
/// let server = "127.0.0.1:1".parse::<Address>().expect("it is an address");
/// app.add_service(Service::outbound(move || Client { server: server.clone() }))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
pub struct Timers<'a> {
    core: &'a mut Core,
    owner: Owner,
}

impl Timers<'_> {
    /// Sets the timer `key` to go off once, `after` the end of the callback, and never before. Replaces a timer with the same
    /// key. Does nothing where the connection does not exist, or is closing.
    pub fn set(&mut self, key: u64, after: Duration) {
        self.core.set_timer(self.owner, key, after, false);
    }

    /// Sets the timer `key` to go off every `period` (at least a millisecond), first a period after the end of the callback.
    /// The schedule is kept: when the loop was held up, missed ticks are left out. Replaces a timer with the same key.
    pub fn every(&mut self, key: u64, period: Duration) {
        self.core.set_timer(self.owner, key, period, true);
    }

    /// Cancels the timer `key`, even if the timer is due in this turn. Returns whether the timer was set.
    pub fn cancel(&mut self, key: u64) -> bool {
        self.core.cancel_timer(self.owner, key)
    }

    /// Whether the timer `key` has yet to go off.
    pub fn is_set(&self, key: u64) -> bool {
        self.core.timers.place(self.owner, key).is_some()
    }

    /// Cancels all timers of this owner, the handler or the connection, even timers that are due in this turn.
    pub fn cancel_all(&mut self) {
        self.core.cancel_timers(self.owner);
    }
}

impl fmt::Debug for Timers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.core.timers.places(self.owner).map_or(0, HashMap::len);
        f.debug_struct("Timers").field("owner", &self.owner).field("count", &count).finish()
    }
}

impl<C, M: Send + 'static> Context<'_, C, M> {
    /// The timers of the handler, on this loop: see [`Timers`]. For the timers of a connection: [`ConnectionRef::timers`].
    pub fn timers(&mut self) -> Timers<'_> {
        Timers { owner: Owner::Handler(self.service), core: self.core }
    }
}

impl ConnectionRef<'_> {
    /// The timers of the connection: see [`Timers`].
    ///
    /// ```
    /// use reactor::{Context, Handler, Input};
    /// use std::time::Duration;
    ///
    /// const PING: u64 = 0;
    /// const QUIT: u64 = 1;
    ///
    /// /// Pings each peer every 30 seconds, and hangs up when nothing has come back for 10.
    /// struct Alive;
    ///
    /// impl Handler for Alive {
    ///     type Connection = ();
    ///     fn on_open(&mut self, cx: &mut Context<'_>) {
    ///         cx.at(cx.id()).timers().every(PING, Duration::from_secs(30));
    ///     }
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///         input.take_all();
    ///         cx.at(cx.id()).timers().cancel(QUIT);
    ///     }
    ///     fn on_connection_timer(&mut self, _: &mut (), key: u64, cx: &mut Context<'_>) {
    ///         if key == QUIT {
    ///             return cx.close();
    ///         }
    ///         cx.write("ping\n");
    ///         cx.at(cx.id()).timers().set(QUIT, Duration::from_secs(10));
    ///     }
    /// }
    /// ```
    pub fn timers(&mut self) -> Timers<'_> {
        Timers { owner: Owner::Connection(self.id), core: self.core }
    }
}
