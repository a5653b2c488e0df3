//! One connection as a state machine. Below: whoever moves bytes. Above: one handler. Never touches a socket or a clock, so
//! every state can be reached from a unit test.
//!
//! ```text
//!   accept ─▶ Open ──close()──▶ Flushing ──all left, FIN──▶ Lingering ──peer's FIN, or deadline──▶ Over
//!               ▲                   │                                                               ▲
//!   connect ─▶ Connecting           └── peer's FIN was there already ───────────────────────────────┤
//!                   └── refused, timed out ─── reset, abort(), overflow, panic, deadline: from anywhere ┘
//! ```
//!
//! Nobody asks a link which state it is in. The loop tells it what happened and then asks, until it answers
//! [`Step::Rest`], for the next thing to do; the driver asks whether it reads and writes.

use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

use crate::address::Peer;
use crate::buffer::{Kept, Output, Pool};
use crate::error::Errno;
use crate::limits::{Deadlines, Limits, PROGRESS_MIN};
use crate::reason::{CloseReason, Deadline};
use crate::time::Time;
use crate::timer::TimerKey;
use crate::token::{ConnectionId, SLOTS_MAX};

/// The handler keeps no state for this link: a refused newcomer, or one whose state has been given back.
pub(crate) const NO_STATE: u32 = u32::MAX;

/// Where `Link::mark` has not been looked up.
const UNMARKED: u64 = u64::MAX;

/// Where a link comes from, which decides what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Came out of a listener.
    Accepted,
    /// Came out of a listener that has as many as it may; told so, and closed.
    Refused,
    /// `Context::connect`.
    Outbound,
    /// `Context::watch`: read only, no socket.
    Watched,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// Closing: what is owed is leaving; what arrives is thrown away.
    Flushing,
    /// Our FIN has left. Waiting for the peer's, so that closing does not reset what it has not read yet.
    Lingering,
    /// Nothing more can happen but `on_close`.
    Over,
}

/// How far an application that stops has got with one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// What has arrived has to be read and answered first.
    Asked,
    /// The driver is asked whether anything has.
    Probing,
    /// Nothing has. The handler has to be told.
    Quiet,
    Told,
}

/// What the loop does next for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Hand the output to the driver.
    Send,
    /// Call `on_drained`.
    Drained,
    /// Call `on_data` with the bytes that were kept.
    Deliver,
    /// Call `on_end_of_input`.
    EndOfInput,
    /// Ask the driver whether more has arrived, readiness or not.
    Probe,
    /// Call `on_stopping`.
    Stopping,
    /// End our half.
    Finish,
    /// Give everything back and call `on_close`.
    Close,
    /// Something is left to do that was done once in this turn already: in the next turn.
    NextTurn,
    /// Nothing until something happens.
    Rest,
}

/// What is true of a link, a bit each, so that the usual case (nothing special is) takes one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts(u16);

/// The peer has ended its half; and the handler has been told.
const ENDED: Facts = Facts(1);
const END_TOLD: Facts = Facts(1 << 1);
/// The handler wants no input.
const PAUSED: Facts = Facts(1 << 2);
/// More is owed than the high-water mark; until it is less than the low one, nothing is read.
const CHOKED: Facts = Facts(1 << 3);
/// The kernel did not take all; the driver says when it takes more.
const BLOCKED: Facts = Facts(1 << 4);
/// `on_drained` is to be called.
const DRAINED_DUE: Facts = Facts(1 << 5);
/// Kept bytes are to be offered again although nothing new arrived.
const OFFER_DUE: Facts = Facts(1 << 6);
/// The connection has been of use: the first-request deadline is off.
const USEFUL: Facts = Facts(1 << 7);
/// Something was received or owed since the application began to stop: worth lingering for.
const ANSWERED: Facts = Facts(1 << 8);
/// Our half ends once what is owed has left, and reading goes on; and it has.
const FINISHING: Facts = Facts(1 << 9);
const HALF_FINISHED: Facts = Facts(1 << 10);
/// Sending has failed. What has arrived before is still delivered.
const BROKEN: Facts = Facts(1 << 11);
/// Close with a reset.
const RESET: Facts = Facts(1 << 12);
/// The next deadline may be earlier than the timer.
const DEADLINE_CHANGED: Facts = Facts(1 << 13);
/// The handler's deadline is relative still: it counts from the end of the callback that set it.
const DEADLINE_FRESH: Facts = Facts(1 << 14);

/// What `reads` and `writes` depend on.
const INTEREST: Facts = ENDED.and(PAUSED).and(CHOKED).and(OFFER_DUE).and(BLOCKED);
/// What gives an open link something to do besides sending.
const ATTENTION: Facts = ENDED.and(PAUSED).and(CHOKED).and(OFFER_DUE).and(DRAINED_DUE).and(FINISHING);

impl Facts {
    const fn and(self, other: Facts) -> Facts {
        Facts(self.0 | other.0)
    }

    /// Whether any of these is true.
    #[inline]
    fn has(self, any: Facts) -> bool {
        self.0 & any.0 != 0
    }

    #[inline]
    fn only(self, these: Facts) -> Facts {
        Facts(self.0 & these.0)
    }

    #[inline]
    fn set(&mut self, fact: Facts) {
        self.0 |= fact.0;
    }

    #[inline]
    fn clear(&mut self, fact: Facts) {
        self.0 &= !fact.0;
    }

    #[inline]
    fn put(&mut self, fact: Facts, is: bool) {
        if is { self.set(fact) } else { self.clear(fact) }
    }

    /// Whether it was true. It no longer is.
    #[inline]
    fn take(&mut self, fact: Facts) -> bool {
        let was = self.has(fact);
        self.clear(fact);
        was
    }
}

/// What became of a link's output when the driver was asked to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// This many bytes left, and the kernel may take more at once.
    Bytes(usize),
    /// This many bytes left, and the driver will say what becomes of the rest once the kernel takes more.
    Blocked(usize),
    /// Nothing can be sent any more. What arrives is reported still.
    Failed(Errno),
}

/// The deadline that a link lives under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Loop(Deadline),
    /// The handler's own: `on_deadline`.
    Handler,
}

/// The loop's half of one connection. See the module's picture.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    pub(crate) peer: Peer,
    /// Which service's handler.
    pub(crate) service: u16,
    /// Where that handler keeps its half, or `NO_STATE`.
    pub(crate) state: u32,
    pub(crate) origin: Origin,
    phase: Phase,
    stopping: Stopping,
    facts: Facts,
    /// What of it decided what the driver was last told.
    told: (Phase, Facts),
    /// In the loop's list of links to attend to.
    pub(crate) touched: bool,
    /// In its list for the next turn.
    pub(crate) put_off: bool,
    drained_turn: u32,
    offered_turn: u32,
    pub(crate) kept: Option<Box<Kept>>,
    output: Option<Box<Output>>,
    /// When a byte last moved.
    active: Time,
    /// When it was opened; once output is blocked or the link is closing, when it last made progress.
    since: Time,
    /// Bytes that the peer had acknowledged at `since`; `UNMARKED` until the driver has been asked.
    mark: u64,
    /// The handler's own deadline.
    deadline: Time,
    /// The one timer of this link; it may be earlier than the deadline it stands for, never later.
    timer: Option<TimerKey>,
    timer_at: Time,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    discarded: u64,
    /// Why it is closing.
    reason: Option<CloseReason>,
}

impl Link {
    pub(crate) fn new(origin: Origin, peer: Peer, service: u16, state: u32, now: Time) -> Self {
        Link {
            id: ConnectionId::NONE,
            peer,
            service,
            state,
            origin,
            phase: if origin == Origin::Outbound { Phase::Connecting } else { Phase::Open },
            stopping: Stopping::No,
            facts: if origin == Origin::Accepted { DEADLINE_CHANGED } else { DEADLINE_CHANGED.and(USEFUL) },
            told: (Phase::Over, Facts::default()),
            touched: false,
            put_off: false,
            drained_turn: 0,
            offered_turn: 0,
            kept: None,
            output: None,
            active: now,
            since: now,
            mark: 0,
            deadline: Time::NEVER,
            timer: None,
            timer_at: Time::NEVER,
            received: 0,
            sent: 0,
            discarded: 0,
            reason: None,
        }
    }

    // ---- what the driver asks -------------------------------------------------------------------------------------

    /// Whether bytes are wanted from the peer. While closing they are, to be thrown away.
    #[inline]
    pub(crate) fn reads(&self) -> bool {
        match self.phase {
            Phase::Open => !self.facts.has(ENDED.and(PAUSED).and(CHOKED).and(OFFER_DUE)),
            Phase::Flushing | Phase::Lingering => !self.facts.has(ENDED) && self.origin != Origin::Watched,
            Phase::Connecting | Phase::Over => false,
        }
    }

    /// Whether the driver is to say when the kernel takes bytes, or when the connection has come about.
    #[inline]
    pub(crate) fn writes(&self) -> bool {
        self.facts.has(BLOCKED) || self.phase == Phase::Connecting
    }

    /// Whether anything has changed that `reads` and `writes` depend on.
    #[inline]
    pub(crate) fn take_interest_change(&mut self) -> bool {
        let decisive = (self.phase, self.facts.only(INTEREST));
        std::mem::replace(&mut self.told, decisive) != decisive
    }

    /// What is to be sent.
    #[inline]
    pub(crate) fn output(&self) -> Option<&Output> {
        self.output.as_deref()
    }

    // ---- what happened -----------------------------------------------------------------------------------------------

    /// `count` bytes arrived. Whether the handler gets them; otherwise they are thrown away.
    #[inline]
    pub(crate) fn received(&mut self, count: usize, now: Time, limits: &Limits) -> bool {
        self.received += count as u64;
        self.active = now;
        if self.stopping != Stopping::No {
            self.facts.set(ANSWERED);
            if self.stopping == Stopping::Probing {
                self.stopping = Stopping::Asked;
            }
        }
        if self.phase == Phase::Open {
            return true;
        }
        self.discarded += count as u64;
        if self.discarded > limits.linger_bytes {
            self.over(self.reason());
        }
        false
    }

    /// The peer has ended its half.
    pub(crate) fn end_of_input(&mut self) {
        self.facts.set(ENDED);
        if self.facts.has(BROKEN) {
            self.over(CloseReason::Reset);
        }
    }

    /// The driver looked and nothing has arrived.
    pub(crate) fn nothing_arrived(&mut self) {
        if self.stopping == Stopping::Probing {
            self.stopping = Stopping::Quiet;
        }
    }

    /// What became of the output when it was sent. Bytes that are lost by it.
    #[inline]
    pub(crate) fn sent(
        &mut self,
        outcome: Sent,
        now: Time,
        limits: &Limits,
        pool: &mut Pool,
        unacknowledged: impl FnOnce() -> usize,
    ) -> usize {
        match outcome {
            Sent::Bytes(count) => {
                self.facts.clear(BLOCKED);
                self.left(count, now, limits, pool);
                0
            }
            Sent::Blocked(count) => {
                self.left(count, now, limits, pool);
                if !self.facts.has(BLOCKED) {
                    self.facts.set(BLOCKED);
                    self.facts.set(DEADLINE_CHANGED);
                    if self.phase == Phase::Open {
                        self.since = now;
                        self.mark = self.sent.saturating_sub(unacknowledged() as u64);
                    }
                }
                0
            }
            Sent::Failed(errno) => self.send_failed(errno, now, pool),
        }
    }

    #[inline]
    fn left(&mut self, count: usize, now: Time, limits: &Limits, pool: &mut Pool) {
        let Some(output) = &mut self.output else { return };
        // Whoever was told that this is above the mark waits to hear when it is not.
        if output.queued() > limits.output_high && self.phase == Phase::Open {
            self.facts.set(CHOKED);
        }
        output.advance(count);
        self.sent += count as u64;
        self.active = now;
        let queued = output.queued();
        if queued == 0
            && let Some(output) = self.output.take()
        {
            pool.give_output(output);
        }
        if self.facts.has(CHOKED) && queued <= limits.output_low {
            self.facts.clear(CHOKED);
            self.facts.set(DRAINED_DUE);
            self.facts.put(OFFER_DUE, self.kept.is_some());
        }
    }

    /// Sending failed for good: what is owed is lost. What arrived before the peer went is still to be
    /// delivered, so an open link goes on reading until it has it all; the linger deadline bounds that.
    #[cold]
    fn send_failed(&mut self, errno: Errno, now: Time, pool: &mut Pool) -> usize {
        let lost = self.queued();
        if let Some(output) = self.output.take() {
            pool.give_output(output);
        }
        self.facts.clear(BLOCKED);
        self.facts.set(BROKEN);
        if self.phase != Phase::Open || self.facts.has(ENDED) || self.facts.has(PAUSED) {
            self.over(reason_of(errno));
            return lost;
        }
        if self.facts.has(CHOKED) {
            self.facts.clear(CHOKED);
            self.facts.put(OFFER_DUE, self.kept.is_some());
        }
        self.since = now;
        self.facts.set(DEADLINE_CHANGED);
        lost
    }

    /// Receiving failed for good.
    pub(crate) fn failed(&mut self, errno: Errno) {
        let reason = match self.phase {
            Phase::Connecting => CloseReason::ConnectFailed(errno),
            // Nothing was owed any more, so the connection ended as it was meant to.
            Phase::Lingering => self.reason.unwrap_or(reason_of(errno)),
            _ => reason_of(errno),
        };
        self.over(reason);
    }

    pub(crate) fn connected(&mut self, now: Time) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::Open;
            (self.active, self.since) = (now, now);
            self.facts.set(DEADLINE_CHANGED);
        }
    }

    /// Our FIN has left.
    pub(crate) fn finished(&mut self, now: Time) {
        if self.phase == Phase::Open {
            self.facts.set(HALF_FINISHED);
            return;
        }
        self.phase = Phase::Lingering;
        self.since = now;
        self.facts.set(DEADLINE_CHANGED);
        let nothing_at_stake = self.stopping != Stopping::No && !self.facts.has(ANSWERED);
        if self.facts.has(ENDED) || self.origin == Origin::Watched || nothing_at_stake {
            self.phase = Phase::Over;
        }
    }

    /// The application is stopping.
    pub(crate) fn stop(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
            self.facts.put(ANSWERED, self.queued() > 0 || self.kept.is_some() || self.phase == Phase::Flushing);
        }
    }

    /// A deadline passed at `now`. What to do about it, or `None` when the link has been busy since.
    pub(crate) fn due(&mut self, due: Due, now: Time, unacknowledged: usize) -> Option<Due> {
        match due {
            Due::Handler => {
                self.deadline = Time::NEVER;
                return Some(due);
            }
            Due::Loop(Deadline::WriteProgress | Deadline::Linger) => {
                let acknowledged = self.sent.saturating_sub(unacknowledged as u64);
                // With everything acknowledged but our FIN, which counts as one, there is nothing left to progress with.
                let under_way = self.queued() > 0 || unacknowledged > 1;
                if under_way && acknowledged >= self.mark + PROGRESS_MIN && !self.facts.has(BROKEN) {
                    (self.since, self.mark) = (now, acknowledged);
                    return None;
                }
            }
            // The kernel may be hours from having delivered what it took at once: as long as the peer goes on taking that,
            // the connection is not idle.
            Due::Loop(Deadline::Idle) if unacknowledged > 0 => {
                let acknowledged = self.sent.saturating_sub(unacknowledged as u64);
                if acknowledged >= self.mark + PROGRESS_MIN {
                    (self.active, self.mark) = (now, acknowledged);
                    return None;
                }
            }
            Due::Loop(_) => {}
        }
        let Due::Loop(deadline) = due else { return None };
        let reason = match (deadline, self.reason) {
            (Deadline::Linger, _) if self.facts.has(BROKEN) => CloseReason::Reset,
            (Deadline::Linger, Some(reason)) if self.queued() == 0 => reason,
            _ => CloseReason::TimedOut(deadline),
        };
        self.facts
            .put(RESET, deadline == Deadline::WriteProgress || (deadline == Deadline::Linger && self.queued() > 0));
        self.over(reason);
        Some(due)
    }

    // ---- what the handler asked for ---------------------------------------------------------------------------------

    /// Where to write to; nothing once the connection is closing or cannot be written to.
    #[inline]
    pub(crate) fn writable_output(&mut self, pool: &mut Pool, limits: &Limits) -> Option<&mut Output> {
        if !self.takes_writes() {
            return None;
        }
        self.facts.set(USEFUL);
        Some(self.output.get_or_insert_with(|| pool.take_output(limits.output_max)))
    }

    /// Whether a write would be taken.
    pub(crate) fn takes_writes(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Connecting)
            && !self.facts.has(BROKEN)
            && !self.facts.has(FINISHING)
            && self.origin != Origin::Watched
    }

    /// Owes `bytes` from the start: what a refused newcomer is told.
    pub(crate) fn owe(&mut self, bytes: &Bytes, pool: &mut Pool) {
        let mut output = pool.take_output(usize::MAX);
        output.put_shared(bytes.clone());
        self.output = Some(output);
    }

    /// Bytes owed to the peer.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.queued())
    }

    pub(crate) fn is_choked(&self, limits: &Limits) -> bool {
        self.facts.has(CHOKED) || self.queued() > limits.output_high
    }

    pub(crate) fn set_useful(&mut self) {
        self.facts.set(USEFUL);
    }

    pub(crate) fn pause(&mut self) {
        self.facts.set(PAUSED);
    }

    /// What was kept comes first, before the socket is read again.
    pub(crate) fn resume(&mut self) {
        if self.facts.take(PAUSED) {
            self.facts.put(OFFER_DUE, self.kept.is_some());
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.facts.has(PAUSED)
    }

    pub(crate) fn set_deadline(&mut self, after: Option<Duration>) {
        if self.is_open() {
            self.deadline = after.map_or(Time::NEVER, |after| Time::default() + after);
            self.facts.put(DEADLINE_FRESH, after.is_some());
            self.facts.set(DEADLINE_CHANGED);
        }
    }

    /// Flush, FIN, and go on reading.
    pub(crate) fn finish(&mut self) {
        self.facts.set(FINISHING);
    }

    /// Flush, FIN, drain what the peer still sends, close.
    pub(crate) fn close(&mut self, now: Time) {
        let reason = match self.stopping {
            _ if self.facts.has(ENDED) => CloseReason::PeerEnded,
            Stopping::No => CloseReason::Closed,
            _ => CloseReason::Stopped,
        };
        match self.phase {
            Phase::Connecting => self.over(CloseReason::Closed),
            Phase::Open if self.facts.has(BROKEN) => self.over(CloseReason::Reset),
            Phase::Open => {
                self.phase = Phase::Flushing;
                self.reason = Some(reason);
                self.deadline = Time::NEVER;
                self.facts.clear(DEADLINE_FRESH);
                self.facts.set(DEADLINE_CHANGED);
                (self.since, self.mark) = (now, UNMARKED);
                self.facts.clear(OFFER_DUE);
            }
            Phase::Flushing | Phase::Lingering | Phase::Over => {}
        }
    }

    /// Ends now, with a reset.
    pub(crate) fn abort(&mut self, reason: CloseReason) {
        self.facts.set(RESET);
        self.over(reason);
    }

    /// Ends now, as the kernel ends it.
    pub(crate) fn over(&mut self, reason: CloseReason) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            self.reason = Some(reason);
        }
    }

    /// Why it is closing or over.
    pub(crate) fn reason(&self) -> CloseReason {
        self.reason.unwrap_or(CloseReason::Closed)
    }

    /// Whether the handler is (still) called for what happens here.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Connecting)
    }

    pub(crate) fn resets(&self) -> bool {
        self.facts.has(RESET)
    }

    /// Gives its buffers back. Bytes of input never delivered, and of output never sent.
    pub(crate) fn release(&mut self, pool: &mut Pool) -> (usize, usize) {
        let lost = (self.kept.as_ref().map_or(0, |kept| kept.len()), self.queued());
        if let Some(kept) = self.kept.take() {
            pool.give_kept(kept);
        }
        if let Some(output) = self.output.take() {
            pool.give_output(output);
        }
        lost
    }

    // ---- what to do about it --------------------------------------------------------------------------------------------

    /// The next thing to do. Sending comes first, so that a close finds nothing owed; kept input before the end of input,
    /// so that the end is the last thing a handler hears; each callback that can call for itself, once a turn.
    #[inline]
    pub(crate) fn step(&mut self, turn: u32, limits: &Limits) -> Step {
        match self.phase {
            Phase::Open => match &self.output {
                None => self.open_step(turn),
                Some(output) if output.overflowed() => {
                    let reason = CloseReason::OutputOverflow { queued: output.queued() };
                    self.abort(reason);
                    Step::Close
                }
                Some(output) => {
                    if output.queued() > limits.output_high {
                        self.facts.set(CHOKED);
                    }
                    if self.facts.has(BLOCKED) { self.open_step(turn) } else { Step::Send }
                }
            },
            Phase::Connecting if self.stopping == Stopping::Asked => self.tell_stopping(),
            Phase::Connecting => Step::Rest,
            Phase::Flushing if self.output.is_none() => Step::Finish,
            Phase::Flushing => {
                if self.facts.has(BLOCKED) {
                    Step::Rest
                } else {
                    Step::Send
                }
            }
            Phase::Lingering if self.facts.has(ENDED) => {
                self.phase = Phase::Over;
                self.step(turn, limits)
            }
            Phase::Lingering => Step::Rest,
            Phase::Over => Step::Close,
        }
    }

    #[inline]
    fn open_step(&mut self, turn: u32) -> Step {
        if !self.facts.has(ATTENTION) && self.stopping == Stopping::No {
            return Step::Rest;
        }
        if self.facts.has(FINISHING) && !self.facts.has(HALF_FINISHED) && self.output.is_none() {
            return Step::Finish;
        }
        if self.facts.has(DRAINED_DUE) {
            if self.drained_turn == turn {
                return Step::NextTurn;
            }
            self.facts.clear(DRAINED_DUE);
            self.drained_turn = turn;
            return Step::Drained;
        }
        if self.facts.has(PAUSED) || self.facts.has(CHOKED) {
            // A handler's own pause has its reason, which only the handler knows; so it is asked at once.
            let ask = self.facts.has(PAUSED) && matches!(self.stopping, Stopping::Asked | Stopping::Quiet);
            return if ask { self.tell_stopping() } else { Step::Rest };
        }
        if self.facts.has(OFFER_DUE) {
            if self.offered_turn == turn {
                return Step::NextTurn;
            }
            self.facts.clear(OFFER_DUE);
            self.offered_turn = turn;
            return Step::Deliver;
        }
        if self.facts.has(ENDED) && !self.facts.has(END_TOLD) {
            self.facts.set(END_TOLD);
            return Step::EndOfInput;
        }
        if self.facts.has(ENDED) && self.facts.has(HALF_FINISHED) {
            // Both halves have ended, and nobody needs to say so.
            self.over(CloseReason::PeerEnded);
            return Step::Close;
        }
        match self.stopping {
            Stopping::Asked if self.facts.has(ENDED) => self.tell_stopping(),
            Stopping::Asked => {
                self.stopping = Stopping::Probing;
                Step::Probe
            }
            Stopping::Quiet => self.tell_stopping(),
            Stopping::No | Stopping::Probing | Stopping::Told => Step::Rest,
        }
    }

    fn tell_stopping(&mut self) -> Step {
        self.stopping = Stopping::Told;
        Step::Stopping
    }

    // ---- time ------------------------------------------------------------------------------------------------------------

    /// When the next deadline is, and which.
    pub(crate) fn next_due(&self, deadlines: &Deadlines) -> Option<(Time, Due)> {
        let at = |from: Time, span: Option<Duration>, deadline| span.map(|span| (from + span, Due::Loop(deadline)));
        match self.phase {
            Phase::Connecting => earliest([self.handlers_due(), at(self.since, deadlines.connect, Deadline::Connect)]),
            Phase::Open if self.facts.has(BROKEN) => at(self.since, Some(deadlines.linger), Deadline::Linger),
            // Of two at the same time the handler's comes first: it can say something.
            Phase::Open => earliest([
                self.handlers_due(),
                if self.facts.has(USEFUL) {
                    None
                } else {
                    at(self.since, deadlines.first_request, Deadline::FirstRequest)
                },
                if self.facts.has(BLOCKED) {
                    at(self.since, deadlines.write_progress, Deadline::WriteProgress)
                } else {
                    None
                },
                // While output waits, the progress deadline says it better: a large answer may take its time.
                if self.facts.has(BLOCKED) || self.origin == Origin::Watched {
                    None
                } else {
                    at(self.active, deadlines.idle, Deadline::Idle)
                },
            ]),
            Phase::Flushing | Phase::Lingering => at(self.since, Some(deadlines.linger), Deadline::Linger),
            Phase::Over => None,
        }
    }

    fn handlers_due(&self) -> Option<(Time, Due)> {
        (self.deadline != Time::NEVER).then_some((self.deadline, Due::Handler))
    }

    /// Whether the next deadline may have become earlier. Bytes that move only ever make it later.
    #[inline]
    pub(crate) fn take_deadline_change(&mut self, now: Time, unacknowledged: impl FnOnce() -> usize) -> bool {
        let changed = self.facts.take(DEADLINE_CHANGED);
        if changed {
            if self.facts.take(DEADLINE_FRESH) {
                self.deadline = now + self.deadline.since(Time::default());
            }
            if self.mark == UNMARKED {
                self.mark = self.sent.saturating_sub(unacknowledged() as u64);
            }
        }
        changed
    }

    pub(crate) fn set_deadline_changed(&mut self) {
        self.facts.set(DEADLINE_CHANGED);
    }

    /// The timer that stands for the next deadline, and when it goes off. It is moved only to be earlier: a deadline that
    /// moves away with every byte costs one look when the timer goes off, and nothing per byte.
    pub(crate) fn timer(&self) -> Option<(TimerKey, Time)> {
        self.timer.map(|key| (key, self.timer_at))
    }

    pub(crate) fn set_timer(&mut self, timer: Option<(TimerKey, Time)>) {
        self.timer = timer.map(|(key, _)| key);
        self.timer_at = timer.map_or(Time::NEVER, |(_, at)| at);
    }

    // ---- for the operator -----------------------------------------------------------------------------------------------

    /// The state as one word, for the table of connections.
    pub(crate) fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Connecting => "connecting",
            Phase::Open if self.facts.has(PAUSED) => "paused",
            Phase::Open if self.facts.has(CHOKED) => "choked",
            Phase::Open if self.facts.has(ENDED) => "half-closed",
            Phase::Open => "open",
            Phase::Flushing => "flushing",
            Phase::Lingering => "lingering",
            Phase::Over => "over",
        }
    }

    pub(crate) fn idle_since(&self) -> Time {
        self.active
    }
}

fn earliest<const N: usize>(dues: [Option<(Time, Due)>; N]) -> Option<(Time, Due)> {
    dues.into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// What the kernel says when the other side is simply gone is a reset; the rest is told as it is.
fn reason_of(errno: Errno) -> CloseReason {
    match errno.to_io().kind() {
        std::io::ErrorKind::ConnectionReset
        | std::io::ErrorKind::BrokenPipe
        | std::io::ErrorKind::ConnectionAborted
        | std::io::ErrorKind::NotConnected => CloseReason::Reset,
        _ => CloseReason::Failed(errno),
    }
}

/// All links of one loop. A slot is used again with another generation, so an id of the former tenant finds nothing.
pub(crate) struct Links {
    slots: Slab<Link>,
    event_loop: u8,
    next_generation: u32,
}

impl Links {
    pub(crate) fn new(event_loop: u8) -> Self {
        Links { slots: Slab::new(), event_loop, next_generation: 1 }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= SLOTS_MAX
    }

    pub(crate) fn insert(&mut self, mut link: Link) -> ConnectionId {
        let slot = self.slots.vacant_entry();
        let id = ConnectionId::new(self.event_loop, slot.key(), self.next_generation);
        // 0 names what is no connection. After four thousand million connections a slot's old name could come back.
        self.next_generation = self.next_generation.checked_add(1).unwrap_or(1);
        link.id = id;
        slot.insert(link);
        id
    }

    #[inline]
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Link> {
        self.slots.get(id.slot()).filter(|link| link.id == id)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Link> {
        self.slots.get_mut(id.slot()).filter(|link| link.id == id)
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Link> {
        self.get(id)?;
        Some(self.slots.remove(id.slot()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.slots.iter().map(|(_, link)| link)
    }

    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        self.iter().map(|link| link.id).collect()
    }
}

#[cfg(test)]
mod tests;
