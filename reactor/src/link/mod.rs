//! One connection as a state machine between the driver, which moves bytes, and one handler. A link touches no socket
//! and no clock, so every state can be reached from a unit test.
//!
//! ```text
//!   accept ─▶ Open ──close()──▶ Flushing ──all left, FIN──▶ Lingering ──peer's FIN, or deadline──▶ Over
//!               ▲                   │                                                               ▲
//!   connect ─▶ Connecting           └── peer's FIN was there already ───────────────────────────────┤
//!                   └── refused, timed out ─── reset, abort(), overflow, panic, deadline: from anywhere ┘
//! ```
//!
//! The phase is private. The loop reports events to the link, and then asks for the next [`Step`] until the answer is
//! [`Step::Rest`]; the driver asks whether the link reads and writes.
//!
//! The methods are grouped by side: `reading`, `writing`, `closing`. `step` and `deadlines` are common to all sides.
//! `member` is the link as a member of topics, `memory` as a holder of memory. `flags` declares each flag with its
//! masks.

mod closing;
mod deadlines;
mod flags;
mod links;
mod member;
mod memory;
mod reading;
mod requests;
mod step;
mod writing;

use crate::address::Peer;
use crate::budget::Holding;
use crate::buffer::{Kept, Output};
use crate::reason::CloseReason;
use crate::sys::Fd;
use crate::time::Time;
use crate::timer::TimerKey;
use crate::token::ConnectionId;
use flags::*;

pub(crate) use deadlines::Due;
pub(crate) use links::Links;
pub(crate) use reading::LayerEvent;
pub(crate) use requests::Requests;
pub(crate) use step::Step;
pub(crate) use writing::{Lost, Sent};

/// The handler keeps no state for this link: the connection was refused, or its state has been given back.
pub(crate) const NO_STATE: u32 = u32::MAX;

/// The origin of a link, which decides what the connection can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Accepted by a listener.
    Accepted,
    /// Accepted by a listener of a service at its limit of connections: gets a refusal, and is closed.
    Refused,
    /// Begun by `Context::connect`.
    Outbound,
    /// An open stream, given to the loop by `Context::adopt`.
    Adopted,
    /// The channel between a process and its child.
    Channel,
    /// No socket: a descriptor of `Context::watch`, read only.
    Watched,
}

impl Origin {
    /// Whether the connection is one of those that `Limits::connections` limits, and whose client has to prove useful.
    pub(crate) fn is_counted_in(self) -> bool {
        matches!(self, Origin::Accepted | Origin::Adopted)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The system is connecting. Writes are queued.
    Connecting,
    Open,
    /// Closing: queued output leaves, and input is discarded.
    Flushing,
    /// Our FIN has left. The peer's is awaited, because a close before it can reset bytes that the peer has not read yet.
    Lingering,
    /// `on_close` is all that can follow.
    Over,
}

/// Progress of the application's stop for one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    /// The application is not stopping.
    No,
    /// Input that has arrived is read and answered first.
    Asked,
    /// `Asked`, and the output has drained without new input: the handler streams by itself.
    Streaming,
    /// The driver is asked whether further input has arrived.
    Probing,
    /// No input has arrived: `on_stopping` comes next.
    Quiet,
    /// `on_stopping` has been called.
    Reported,
}

/// Three facts in one byte. `Flags` has no bit left for them, and no mask needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks(u8);

/// The link is in the loop's list for the next turn.
const DEFERRED: u8 = 1;
/// The connection has a layer, which has not said its last words yet: they leave before FIN.
const GOODBYE_DUE: u8 = 2;
/// The peer has sent bytes of its handshake.
const GREETED: u8 = 4;

impl Marks {
    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    fn set(&mut self, mark: u8) {
        self.0 |= mark;
    }

    fn clear(&mut self, mark: u8) {
        self.0 &= !mark;
    }
}

/// The loop's half of one connection. See the module's picture.
#[derive(Debug)]
pub(crate) struct Link {
    /// Slot and generation in `Links`, set when the link is put there.
    pub(crate) id: ConnectionId,
    pub(crate) peer: Peer,
    /// Index of the service whose handler serves the connection.
    pub(crate) service: u16,
    /// The number of the link's limits and deadlines: its service's, unless a callback has changed them for this link alone.
    pub(crate) bounds: u32,
    /// Index of the connection's state in that service's `Host`, or `NO_STATE`.
    pub(crate) state: u32,
    pub(crate) origin: Origin,
    phase: Phase,
    stopping: Stopping,
    marks: Marks,
    flags: Flags,
    /// Phase and interest flags at the last `driver.changed`; a difference means that the driver must be told again.
    /// Two fields, since a pair would take four bytes more.
    reported_phase: Phase,
    reported_flags: Flags,
    /// The link is in the loop's list `dirty`, whose links are advanced in this turn.
    pub(crate) dirty: bool,
    /// The low bits of the turn in which `on_drained` was last called. A turn long ago with equal bits puts a callback off by one
    /// turn.
    drained_turn: u16,
    /// Likewise for the last offer of kept input.
    offered_turn: u16,
    /// Input that the handler left unread. `None` while there is none, and while a callback has it.
    pub(crate) kept: Option<Box<Kept>>,
    /// Bytes for the peer. `None` while nothing is queued, and nothing was missed.
    output: Option<Box<Output>>,
    /// The memory that the budget has counted for this link, as of its last rest.
    holding: Holding,
    /// The number of the socket, or `Fd::NONE`, for the short ways and for questions about it. The driver owns the descriptor.
    pub(crate) descriptor: Fd,
    /// When the link was made.
    opened: Time,
    /// When a byte last moved.
    active: Time,
    /// When the link was opened; once output is blocked or the link is closing, when it last made progress.
    since: Time,
    /// Bytes that the peer had acknowledged at `since`; `UNMARKED` until the driver has been asked.
    mark: u64,
    /// The handler's own deadline, or `Time::NEVER`. A span, counted from zero, while `DEADLINE_FRESH`. While the last
    /// acknowledgement is awaited, the time of the next look.
    deadline: Time,
    /// The timer of all deadlines of this link. May go off before the next deadline, never after it.
    timer: Option<TimerKey>,
    /// When `timer` goes off.
    timer_at: Time,
    /// Bytes received since the link was opened, discarded ones included.
    pub(crate) received: u64,
    /// Bytes that the kernel has taken since the link was opened.
    pub(crate) sent: u64,
    /// Bytes received while closing, and discarded.
    discarded: u64,
    /// The part of `discarded` since the last linger deadline, up to the maximum of the counter.
    discarded_lately: u16,
    /// How often the linger deadline was extended because the peer was still sending.
    linger_extensions: u8,
    /// How often the peer's acknowledgements were looked at since `since`, without progress.
    looks: u8,
    /// Why the link is closing. `None` while it is not.
    reason: Option<CloseReason>,
}

impl Link {
    pub(crate) fn new(origin: Origin, peer: Peer, service: u16, state: u32, now: Time) -> Self {
        Link {
            id: ConnectionId::NONE,
            peer,
            service,
            bounds: u32::from(service),
            state,
            origin,
            phase: if origin == Origin::Outbound { Phase::Connecting } else { Phase::Open },
            stopping: Stopping::No,
            marks: Marks::default(),
            flags: match origin {
                Origin::Accepted | Origin::Adopted => DEADLINE_CHANGED,
                Origin::Watched => DEADLINE_CHANGED.and(USEFUL).and(INDIRECT),
                Origin::Refused | Origin::Outbound | Origin::Channel => DEADLINE_CHANGED.and(USEFUL),
            },
            reported_phase: Phase::Over,
            reported_flags: Flags::default(),
            dirty: false,
            drained_turn: 0,
            offered_turn: 0,
            kept: None,
            output: None,
            holding: Holding::default(),
            descriptor: Fd::NONE,
            opened: now,
            active: now,
            since: now,
            mark: 0,
            deadline: Time::NEVER,
            timer: None,
            timer_at: Time::NEVER,
            received: 0,
            sent: 0,
            discarded: 0,
            discarded_lately: 0,
            linger_extensions: 0,
            looks: 0,
            reason: None,
        }
    }

    /// Whether any condition of `reads` and `writes` has changed since the last call.
    #[inline]
    pub(crate) fn take_interest_change(&mut self) -> bool {
        let mut flags = self.flags.only(INTEREST);
        if self.flags.has(RELAYED) {
            flags.clear(CHOKED);
        }
        let changed = (self.reported_phase, self.reported_flags) != (self.phase, flags);
        (self.reported_phase, self.reported_flags) = (self.phase, flags);
        changed
    }

    /// Whether sending the output is the only action due for the link. One branch: nearly always true.
    #[inline]
    pub(crate) fn has_plain_answer_only(&self) -> bool {
        let (phase, flags) = (self.reported_phase, self.reported_flags);
        (self.phase == Phase::Open)
            & !self.flags.has(NEEDS_STEPS)
            & (self.stopping == Stopping::No)
            & (phase == Phase::Open)
            & (flags == Flags::default())
    }

    /// The connection has its socket. `layered`: the handler hears of the connection when its layer is ready.
    pub(crate) fn begin(&mut self, descriptor: Fd, layered: bool) {
        self.descriptor = descriptor;
        if layered {
            self.begin_handshake();
        }
    }

    /// An accepted connection has a layer: the handler hears of the connection when the layer is ready.
    pub(crate) fn begin_handshake(&mut self) {
        self.phase = Phase::Connecting;
        self.marks.set(GOODBYE_DUE);
        self.flags.set(INDIRECT);
    }

    /// Puts the link into the loop's list for the next turn. Returns `false` if the link is there already.
    pub(crate) fn defer(&mut self) -> bool {
        let is_new = !self.marks.has(DEFERRED);
        self.marks.set(DEFERRED);
        is_new
    }

    /// The next turn has come.
    pub(crate) fn no_longer_deferred(&mut self) {
        self.marks.clear(DEFERRED);
    }

    /// Notes that the connection is established.
    pub(crate) fn connected(&mut self, now: Time) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::Open;
            // No receive was attempted since the handshake ended.
            if matches!(self.stopping, Stopping::Probing | Stopping::Quiet) {
                self.stopping = Stopping::Asked;
            }
            self.active = now;
            self.progressed(now);
            self.flags.set(DEADLINE_CHANGED);
            if self.flags.has(CLOSE_DUE) {
                self.close(now);
            }
        }
    }

    /// Whether the connection was useful, so that the first-request deadline is off.
    #[inline]
    pub(crate) fn is_useful(&self) -> bool {
        self.flags.has(USEFUL)
    }

    pub(crate) fn set_useful(&mut self) {
        self.flags.set(USEFUL);
    }

    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether the handler is still called for events of this connection.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Connecting) && !self.flags.has(CLOSE_DUE)
    }

    /// The state in a word or two, for the table of connections.
    pub(crate) fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Connecting if self.origin.is_counted_in() => "handshake",
            Phase::Connecting => "connecting",
            Phase::Open if self.flags.has(PAUSED) => "paused",
            Phase::Open if self.flags.has(WAITING) => "waiting",
            Phase::Open if self.flags.has(SUSPENDED) => "suspended",
            Phase::Open if self.flags.has(CHOKED) && !self.flags.has(RELAYED) => "reading paused",
            Phase::Open if self.flags.has(ENDED) => "half-closed",
            Phase::Open => "open",
            Phase::Flushing => "flushing",
            Phase::Lingering => "lingering",
            Phase::Over => "over",
        }
    }

    /// Whether the bytes come from a peer. Channel traffic is counted by the process at the other end.
    #[inline]
    pub(crate) fn is_counted(&self) -> bool {
        self.origin != Origin::Channel
    }

    pub(crate) fn opened(&self) -> Time {
        self.opened
    }

    pub(crate) fn idle_since(&self) -> Time {
        self.active
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
