//! A context made by hand, for unit tests of handlers: no loop, no socket, no thread.
//!
//! A [`Recorded`] lends a [`Context`] for each callback that a test calls, and returns the written bytes and the requests
//! afterwards. Context and limits are real, so a write after a close is refused. No request is carried out: the test decides which
//! callback comes next. For whole services, with a loop, use the simulator (feature `sim`).
//!
//! ```
//! use reactor::testing::{Recorded, Request};
//! use reactor::{Context, Handler, Input};
//!
//! /// Echoes lines until `quit`.
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Connection = u32;
//!     fn on_open(&mut self, _: &mut Context<'_, u32>) -> u32 {
//!         0
//!     }
//!     fn on_data(&mut self, lines: &mut u32, input: &mut Input<'_>, cx: &mut Context<'_, u32>) {
//!         while let Some(line) = input.until_eol() {
//!             *lines += 1;
//!             match line {
//!                 b"quit\n" => return cx.close(),
//!                 line => cx.write(line),
//!             };
//!         }
//!     }
//! }
//!
//! let mut recorded = Recorded::new();
//! let peer = recorded.connection();
//! let mut lines = Echo.on_open(&mut recorded.context(peer));
//! let mut input = Input::of(b"one\nquit\nrest");
//! Echo.on_data(&mut lines, &mut input, &mut recorded.context(peer));
//! assert_eq!(recorded.written(peer), b"one\n");
//! assert_eq!(recorded.requests(), [Request::Close(peer)]);
//! assert_eq!((lines, input.as_slice()), (2, &b"rest"[..]));
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::address::{Address, Peer};
use crate::budget::Budget;
use crate::cluster::Cluster;
use crate::context::{Context, Core, OpenKind, Pending, Refusal, Terms};
use crate::handle::{Handle, ServiceHandle};
use crate::limits::{Deadlines, Limits};
use crate::link::{Link, NO_STATE, Origin, Requests, Sent};
use crate::mailbox::{Addressed, Receiver};
use crate::socket_options::SocketOptions;
use crate::sys::sockets::NoSockets;
use crate::sys::wake::Waker;
use crate::time::Time;
use crate::token::ConnectionId;

/// A request of a handler to the loop: each variant names the method that makes the request.
///
/// ```
/// use reactor::testing::{Recorded, Request};
/// use std::time::Duration;
///
/// let mut recorded = Recorded::<()>::new();
/// let peer = recorded.connection();
/// recorded.context(peer).set_deadline(Duration::from_secs(5));
/// recorded.context(peer).pause_reading();
/// let requests = recorded.requests();
/// assert!(requests.contains(&Request::SetDeadline(peer, Duration::from_secs(5))));
/// assert!(requests.contains(&Request::PauseReading(peer)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// [`Context::close`], [`Context::close_briefly`], or a write over [`Limits::output_max`].
    Close(ConnectionId),
    /// [`Context::abort`].
    Abort(ConnectionId),
    /// [`Context::finish`].
    Finish(ConnectionId),
    /// [`Context::pause_reading`].
    PauseReading(ConnectionId),
    /// [`Context::resume_reading`] after a pause.
    ResumeReading(ConnectionId),
    /// [`Context::offer_again`].
    OfferAgain(ConnectionId),
    /// [`Context::wait_for_output`].
    WaitForOutput(ConnectionId),
    /// [`Context::read_on`].
    ReadOn(ConnectionId),
    /// [`Context::set_deadline`].
    SetDeadline(ConnectionId, Duration),
    /// [`Context::clear_deadline`].
    ClearDeadline(ConnectionId),
    /// A connection to this address.
    Connect(ConnectionId, Address),
    /// [`Context::connect_to`].
    ConnectTo(ConnectionId, String),
    /// [`Context::watch`].
    Watch(ConnectionId),
    /// [`Context::adopt`]. The descriptor stays open until [`Recorded::requests`] is called.
    Adopt(ConnectionId),
    /// [`Timers::set`](crate::Timers::set), with the key, of this connection; [`ConnectionId::NONE`]: of the handler.
    SetTimer(ConnectionId, u64, Duration),
    /// [`Timers::every`](crate::Timers::every), likewise.
    RepeatTimer(ConnectionId, u64, Duration),
    /// [`Context::request_turn`].
    Turn,
    /// [`Context::hold_end`], if the argument differs from the last call's.
    HoldEnd(bool),
    /// [`Context::halt`].
    Halt,
}

/// A loop that lends contexts, records requests, and carries none out. `C` and `M` are the types of the
/// handler's connection states and messages. The [module](self) has an example with a handler.
///
/// ```
/// use reactor::testing::Recorded;
///
/// let mut recorded = Recorded::<()>::new();
/// let (ann, bob) = (recorded.connection(), recorded.connection());
/// recorded.context(ann).at(bob).write("hello\n");
/// assert_eq!((recorded.written(ann), recorded.written(bob)), (b"".to_vec(), b"hello\n".to_vec()));
/// ```
pub struct Recorded<C = (), M: Send + 'static = ()> {
    core: Core,
    handle: ServiceHandle<M>,
    mailbox: Receiver<Addressed<M>>,
    /// The requests of each connection at the last look.
    before: BTreeMap<u64, Requests>,
    peers: u16,
    /// The handler held up the end at the last look.
    held: bool,
    states: std::marker::PhantomData<fn(C)>,
}

impl<C: 'static, M: Send + 'static> Recorded<C, M> {
    /// With the default limits.
    ///
    /// # Panics
    /// When the process has no descriptor left: [`ServiceHandle`] needs one.
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    /// With these limits of the service.
    ///
    /// # Panics
    /// As [`Recorded::new`].
    pub fn with(limits: Limits) -> Self {
        let cluster = Arc::new(Cluster::new([Waker::new().expect("a descriptor for wake-ups")]));
        let loop_handle = cluster.fixed()[0].clone();
        let handle = ServiceHandle::new(Handle(cluster.clone()), Vec::new(), 0);
        let mailbox = handle.receivers().next().expect("there is one loop");
        let now = Time::default() + Duration::from_secs(1);
        let budget = Arc::new(Budget::new(usize::MAX, None));
        let mut core = Core::new(now, &cluster, &loop_handle, budget, Box::new(NoSockets));
        core.turn = 1;
        core.add_service(Terms {
            name: "recorded".into(),
            limits,
            deadlines: Deadlines::default(),
            refusal: Refusal::default(),
            sockets: SocketOptions::default(),
            counts: Arc::default(),
            internal: false,
            handle: Arc::new(handle.clone()),
        });
        Recorded {
            core,
            handle,
            mailbox,
            before: BTreeMap::new(),
            peers: 0,
            held: false,
            states: std::marker::PhantomData,
        }
    }

    /// A connection that a peer has opened. Each has another port.
    pub fn connection(&mut self) -> ConnectionId {
        self.peers += 1;
        let peer = Peer::Tcp(([127, 0, 0, 1], 50_000 + self.peers).into());
        let id = self.core.links.insert(Link::new(Origin::Accepted, peer, 0, NO_STATE, self.core.now));
        self.before.insert(id.to_u64(), self.core.links.get(id).expect("it has come").requests());
        id
    }

    /// The context for a callback of this connection; with [`ConnectionId::NONE`], for a callback outside any connection.
    pub fn context(&mut self, id: ConnectionId) -> Context<'_, C, M> {
        Context::new(&mut self.core, id, 0)
    }

    /// Takes all that was written to this connection, or published to it, since the last call. Its output is empty afterwards, as if
    /// the peer had read everything.
    pub fn written(&mut self, id: ConnectionId) -> Vec<u8> {
        self.core.hand_out();
        let Core { links, pool, bounds, now, .. } = &mut self.core;
        let Some(link) = links.get_mut(id) else { return Vec::new() };
        let written = link.output().map(|output| output.to_vec()).unwrap_or_default();
        if !written.is_empty() {
            link.sent(Sent::Bytes(written.len()), *now, &bounds[link.bounds].limits, pool, || 0);
        }
        written
    }

    /// Takes what was asked for since the last call: new connections, then the requests of each connection, then those of the loop. A request that was
    /// cancelled, such as an ended pause, is left out; of several deadlines the last counts.
    pub fn requests(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        for pending in std::mem::take(&mut self.core.opening) {
            let open = match pending {
                Pending::Open(open) => open,
                Pending::Timer(place) => {
                    requests.extend(self.core.new_timer(place).map(|(owner, key, span, repeats)| match repeats {
                        true => Request::RepeatTimer(owner, key, span),
                        false => Request::SetTimer(owner, key, span),
                    }));
                    self.core.arm_timer(place);
                    continue;
                }
            };
            self.before.insert(open.id.to_u64(), Requests::default());
            requests.push(match open.kind {
                OpenKind::Connect(to, _) => Request::Connect(open.id, to),
                OpenKind::Dial(name, _) => Request::ConnectTo(open.id, name),
                OpenKind::Watch(_) => Request::Watch(open.id),
                OpenKind::Adopt(..) => Request::Adopt(open.id),
            });
        }
        for link in self.core.links.iter() {
            let id = link.id;
            let (before, now) = (self.before.insert(id.to_u64(), link.requests()).unwrap_or_default(), link.requests());
            let begun = |was: bool, is: bool| !was && is;
            let asked = [
                (begun(before.finishing, now.finishing), Request::Finish(id)),
                (begun(before.paused, now.paused), Request::PauseReading(id)),
                (begun(now.paused, before.paused), Request::ResumeReading(id)),
                (begun(before.offers_again, now.offers_again) && !before.paused, Request::OfferAgain(id)),
                (begun(before.waits_for_output, now.waits_for_output), Request::WaitForOutput(id)),
                (begun(before.reads_on, now.reads_on), Request::ReadOn(id)),
            ];
            requests.extend(asked.into_iter().filter_map(|(is, request)| is.then_some(request)));
            if before.deadline != now.deadline {
                requests.push(now.deadline.map_or(Request::ClearDeadline(id), |span| Request::SetDeadline(id, span)));
            }
            if begun(before.closing, now.closing) {
                requests.push(if now.resets { Request::Abort(id) } else { Request::Close(id) });
            }
        }
        if !std::mem::take(&mut self.core.turn_requested).is_empty() {
            requests.push(Request::Turn);
        }
        let held = !self.core.end_held.is_empty();
        if std::mem::replace(&mut self.held, held) != held {
            requests.push(Request::HoldEnd(held));
        }
        if std::mem::take(&mut self.core.halting) {
            requests.push(Request::Halt);
        }
        requests
    }

    /// The handle that [`Context::service_handle`] returns in the callbacks, for messages from other threads of the test.
    pub fn handle(&self) -> ServiceHandle<M> {
        self.handle.clone()
    }

    /// Takes the messages that were posted to the handler since the last call, with their addressees.
    pub fn posted(&mut self) -> Vec<(ConnectionId, M)> {
        let mut posted = Vec::new();
        while self.mailbox.take(&mut posted, usize::MAX) {}
        posted
    }

    /// Moves [`Context::now`] on by this time, into the next turn.
    pub fn advance(&mut self, time: Duration) {
        self.core.now = self.core.now + time;
        self.core.turn += 1;
    }
}

impl<C: 'static, M: Send + 'static> Default for Recorded<C, M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C, M: Send + 'static> fmt::Debug for Recorded<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("connections", &self.core.links.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Written;
    use crate::topics::Topic;

    #[test]
    fn timers_are_told_with_their_owner_and_key() {
        let mut recorded: Recorded = Recorded::new();
        let one = recorded.connection();
        let mut cx = recorded.context(one);
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
        cx.timers().set(7, short);
        cx.timers().every(8, long);
        cx.at(one).timers().set(7, long);
        cx.timers().set(9, short);
        cx.timers().cancel(9);
        let none = ConnectionId::NONE;
        let asked =
            [Request::SetTimer(none, 7, short), Request::RepeatTimer(none, 8, long), Request::SetTimer(one, 7, long)];
        assert_eq!(recorded.requests(), asked);
        assert_eq!(recorded.requests(), []);
    }

    #[test]
    fn a_report_has_a_row_for_each_connection_and_none_for_a_timer() {
        let mut recorded: Recorded = Recorded::new();
        let one = recorded.connection();
        let mut cx = recorded.context(one);
        (0..1000).for_each(|key| cx.timers().set(key, Duration::from_secs(60)));
        cx.at(one).timers().every(7, Duration::from_secs(60));
        assert_eq!(cx.connections(), [one]);
        recorded.requests();
        let report = recorded.core.report(0, None, &[]);
        let rows: Vec<&str> = report.lines().skip_while(|line| !line.starts_with("connections: ")).collect();
        assert!(rows.len() == 4 && rows[0] == "connections: 1" && rows[2].contains("127.0.0.1"), "{report}");
    }

    #[test]
    fn a_hundred_thousand_timers_are_set_again_and_cancelled_and_leave_nothing() {
        let mut recorded: Recorded = Recorded::new();
        let one = recorded.connection();
        for round in 0..2 {
            for key in 0..50_000 {
                recorded.context(one).timers().set(key, Duration::from_secs(60));
                recorded.context(one).at(one).timers().every(key, Duration::from_secs(60));
            }
            assert_eq!(recorded.requests().len(), 100_000, "round {round}");
        }
        assert_eq!(recorded.core.wheel.len(), 100_000);
        let mut cx = recorded.context(one);
        assert!((0..50_000).all(|key| cx.timers().cancel(key) && !cx.timers().cancel(key)));
        cx.at(one).timers().cancel_all();
        assert!(!cx.at(one).timers().is_set(0));
        assert_eq!((recorded.core.wheel.len(), recorded.requests()), (0, vec![]));
    }

    #[test]
    fn what_a_handler_asks_for_is_told_once_in_order() {
        let mut recorded: Recorded = Recorded::new();
        let (one, other) = (recorded.connection(), recorded.connection());
        assert_eq!(recorded.requests(), []);
        let mut cx = recorded.context(one);
        cx.set_deadline(Duration::from_secs(3));
        cx.pause_reading();
        cx.at(other).abort();
        cx.request_turn();
        let deadline = Request::SetDeadline(one, Duration::from_secs(3));
        let asked = [Request::PauseReading(one), deadline, Request::Abort(other), Request::Turn];
        assert_eq!(recorded.requests(), asked);
        assert_eq!(recorded.requests(), []);
        let mut cx = recorded.context(one);
        cx.resume_reading();
        cx.clear_deadline();
        cx.finish();
        let asked = [Request::Finish(one), Request::ResumeReading(one), Request::ClearDeadline(one)];
        assert_eq!(recorded.requests(), asked);
    }

    #[test]
    fn an_end_that_is_held_up_is_told_when_that_changes() {
        let mut recorded: Recorded = Recorded::new();
        recorded.context(ConnectionId::NONE).hold_end(true);
        recorded.context(ConnectionId::NONE).hold_end(true);
        assert_eq!(recorded.requests(), [Request::HoldEnd(true)]);
        recorded.context(ConnectionId::NONE).hold_end(true);
        assert_eq!(recorded.requests(), []);
        recorded.context(ConnectionId::NONE).hold_end(false);
        assert_eq!(recorded.requests(), [Request::HoldEnd(false)]);
    }

    #[test]
    fn what_was_written_and_published_is_told_to_each_and_limits_hold() {
        let limits = Limits { output_high: 10, output_low: 5, output_max: 20, ..Limits::default() };
        let mut recorded: Recorded = Recorded::with(limits);
        let (one, other) = (recorded.connection(), recorded.connection());
        let topic = Topic::from("all");
        recorded.context(other).subscribe(&topic);
        let mut cx = recorded.context(one);
        assert_eq!(cx.write(b"12345678901"), Written::AboveHighWater);
        assert_eq!(cx.publish(&topic, b"to all"), 1);
        assert_eq!(recorded.written(one), b"12345678901");
        assert_eq!(recorded.written(one), b"");
        assert_eq!(recorded.written(other), b"to all");
        let mut cx = recorded.context(one);
        cx.close();
        assert_eq!(cx.write(b"late"), Written::Refused);
        assert_eq!(recorded.requests(), [Request::Close(one)]);
    }

    #[test]
    fn connections_and_messages_that_a_handler_makes_are_told() {
        let mut recorded = Recorded::<u8, String>::new();
        let mut cx = recorded.context(ConnectionId::NONE);
        let to: Address = "127.0.0.1:9".parse().unwrap();
        let id = cx.connect(to.clone(), 7);
        cx.at(id).write(b"hello");
        cx.service_handle().post(id, "done".to_owned()).unwrap();
        assert_eq!(recorded.requests(), [Request::Connect(id, to)]);
        assert_eq!(recorded.written(id), b"hello");
        assert_eq!(recorded.posted(), [(id, "done".to_owned())]);
    }

    #[test]
    fn the_clock_stands_still_until_it_is_moved() {
        let mut recorded: Recorded = Recorded::new();
        let before = recorded.context(ConnectionId::NONE).now();
        recorded.advance(Duration::from_millis(5));
        assert_eq!(recorded.context(ConnectionId::NONE).now() - before, Duration::from_millis(5));
    }
}
