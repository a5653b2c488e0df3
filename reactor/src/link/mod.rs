//! One connection as a state machine. Below: whoever moves bytes. Above: one handler. Never touches a socket or a
//! clock, so every state can be reached from a unit test.
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

mod deadlines;
mod flags;
mod links;
mod member;
mod memory;
mod step;

use std::time::Duration;

use bytes::Bytes;

use crate::address::Peer;
use crate::budget::Holding;
use crate::buffer::{Kept, Output, Pool};
use crate::error::Errno;
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Time;
use crate::timer::TimerKey;
use crate::token::ConnectionId;
use deadlines::UNMARKED;
use flags::*;

pub(crate) use deadlines::Due;
pub(crate) use links::Links;
pub(crate) use step::Step;

/// The handler keeps no state for this link: a refused newcomer, or one whose state has been given back.
pub(crate) const NO_STATE: u32 = u32::MAX;

/// Where a link comes from, which decides what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Came out of a listener.
    Accepted,
    /// Came out of a listener that has as many as it may; told so, and closed.
    Refused,
    /// `Context::connect`.
    Outbound,
    /// One end of a line between a process and its copy.
    Channel,
    /// `Context::watch`: read only, no socket. `Context::timer`: not even that.
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
    /// The same, but the output has drained and nothing was read since: the handler fills it up by itself.
    Streaming,
    /// The driver is asked whether anything has.
    Probing,
    /// Nothing has. The handler has to be told.
    Quiet,
    Told,
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
    /// A file that was owed is shorter than it was when that was promised.
    ShortFile,
}

/// What is lost by a send: all bytes when it failed, messages of one that is slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) bytes: usize,
    pub(crate) messages: u64,
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
    flags: Flags,
    /// What of it decided what the driver was last told.
    reported_interest: (Phase, Flags),
    /// In the loop's list of links to attend to.
    pub(crate) dirty: bool,
    /// In its list for the next turn.
    pub(crate) deferred: bool,
    drained_turn: u32,
    offered_turn: u32,
    pub(crate) kept: Option<Box<Kept>>,
    output: Option<Box<Output>>,
    /// What the memory budget has counted it for.
    holding: Holding,
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
    /// Of these, those that had come when the linger deadline was last due; and how often it was moved because of them.
    heard: u64,
    prolonged: u8,
    /// How often the peer's acknowledgements were looked at since `since`, without progress.
    looks: u8,
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
            flags: if origin == Origin::Accepted { DEADLINE_CHANGED } else { DEADLINE_CHANGED.and(USEFUL) },
            reported_interest: (Phase::Over, Flags::default()),
            dirty: false,
            deferred: false,
            drained_turn: 0,
            offered_turn: 0,
            kept: None,
            output: None,
            holding: Holding::default(),
            active: now,
            since: now,
            mark: 0,
            deadline: Time::NEVER,
            timer: None,
            timer_at: Time::NEVER,
            received: 0,
            sent: 0,
            discarded: 0,
            heard: 0,
            prolonged: 0,
            looks: 0,
            reason: None,
        }
    }

    // ---- what the driver asks --------------------------------------------------------------------------------------

    /// Whether bytes are wanted from the peer. While closing they are, to be thrown away.
    #[inline]
    pub(crate) fn reads(&self) -> bool {
        if self.phase == Phase::Open {
            return !self.flags.has(ENDED.and(OFFER_DUE).and(SUSPENDED)) && !self.is_held_back();
        }
        let closing = matches!(self.phase, Phase::Flushing | Phase::Lingering);
        closing && !self.flags.has(ENDED.and(DEAF)) && self.origin != Origin::Watched
    }

    /// Whether the driver is to say when the kernel takes bytes, or when the connection has come about.
    #[inline]
    pub(crate) fn writes(&self) -> bool {
        self.flags.has(BLOCKED) || self.phase == Phase::Connecting
    }

    /// Whether anything has changed that `reads` and `writes` depend on.
    #[inline]
    pub(crate) fn take_interest_change(&mut self) -> bool {
        let mut flags = self.flags.only(INTEREST);
        if self.flags.has(RELAYED) {
            flags.clear(CHOKED);
        }
        let decisive = (self.phase, flags);
        std::mem::replace(&mut self.reported_interest, decisive) != decisive
    }

    /// Whether there is nothing to do for it but to send what it owes. One branch: the answer is nearly always yes.
    #[inline]
    pub(crate) fn has_plain_answer_only(&self) -> bool {
        let (phase, flags) = self.reported_interest;
        (self.phase == Phase::Open)
            & !self.flags.has(NEEDS_STEPS)
            & (self.stopping == Stopping::No)
            & (phase == Phase::Open)
            & (flags == Flags::default())
    }

    /// What one that is at ease owes, if it goes to the driver as it stands: in one piece, not above the high-water mark.
    #[inline]
    pub(crate) fn answer(&self, limits: &Limits) -> Option<&[u8]> {
        self.output.as_ref()?.plain().filter(|bytes| bytes.len() <= limits.output_high)
    }

    /// What is to be sent.
    #[inline]
    pub(crate) fn output(&self) -> Option<&Output> {
        self.output.as_deref()
    }

    // ---- what happened ---------------------------------------------------------------------------------------------

    /// `count` bytes arrived. Whether the handler gets them; otherwise they are thrown away, by `discard`.
    #[inline]
    pub(crate) fn received(&mut self, count: usize, now: Time) -> bool {
        self.received += count as u64;
        self.active = now;
        if self.stopping != Stopping::No {
            self.flags.set(ANSWERED);
            if matches!(self.stopping, Stopping::Probing | Stopping::Streaming) {
                self.stopping = Stopping::Asked;
            }
        }
        self.phase == Phase::Open
    }

    /// These bytes are thrown away, as long as they are not too many.
    pub(crate) fn discard(&mut self, count: usize, limits: &Limits) {
        self.discarded += count as u64;
        if self.discarded > limits.linger_bytes {
            // What is owed still leaves, or the deadline says that it does not.
            self.flags.set(DEAF);
            if self.phase == Phase::Lingering {
                self.over(self.reason());
            }
        }
    }

    /// The peer has ended its half.
    pub(crate) fn end_of_input(&mut self) {
        self.flags.set(ENDED);
        if self.stopping == Stopping::Probing {
            // That was the answer, and no other follows.
            self.stopping = Stopping::Asked;
        }
        if self.flags.has(BROKEN) && !self.flags.has(OFFER_DUE) {
            self.over(CloseReason::Reset);
        }
    }

    /// The driver looked and nothing has arrived.
    pub(crate) fn nothing_arrived(&mut self) {
        if self.stopping == Stopping::Probing {
            // One that has come to be choked meanwhile was not looked at.
            self.stopping = if self.reads() || self.flags.has(ENDED) { Stopping::Quiet } else { Stopping::Asked };
        }
    }

    /// What became of the output when it was sent. What is lost by it.
    #[inline]
    pub(crate) fn sent(
        &mut self,
        outcome: Sent,
        now: Time,
        limits: &Limits,
        pool: &mut Pool,
        unacknowledged: impl FnOnce() -> usize,
    ) -> Lost {
        match outcome {
            Sent::Bytes(count) => {
                if self.flags.take(BLOCKED) {
                    // The idle deadline runs again, which may be earlier than that for progress.
                    self.flags.set(DEADLINE_CHANGED);
                }
                self.left(count, now, limits, pool);
                Lost::default()
            }
            Sent::Blocked(count) => {
                self.left(count, now, limits, pool);
                if !self.flags.has(BLOCKED) {
                    self.flags.set(BLOCKED);
                    self.flags.set(DEADLINE_CHANGED);
                    if self.phase == Phase::Open {
                        self.progressed(now);
                        self.mark = self.sent.saturating_sub(unacknowledged() as u64);
                    }
                }
                self.trim(limits)
            }
            Sent::Failed(errno) => Lost { bytes: self.send_failed(errno, now, pool), messages: 0 },
            Sent::ShortFile => {
                self.abort(CloseReason::ShortFile);
                Lost::default()
            }
        }
    }

    /// The short way: all of an `answer` left, and there is nothing more to do.
    #[inline]
    pub(crate) fn answered(&mut self, count: usize, now: Time, pool: &mut Pool) {
        self.sent_at_once(count, now);
        if let Some(mut output) = self.output.take() {
            output.plain_left();
            pool.give_empty(output);
        }
    }

    fn left(&mut self, count: usize, now: Time, limits: &Limits, pool: &mut Pool) {
        let Some(output) = &mut self.output else { return };
        // Whoever was told that this is above the mark waits to hear when it is not.
        if output.queued() > limits.output_high && self.phase == Phase::Open {
            self.flags.choke();
        }
        output.advance(count);
        self.sent += count as u64;
        self.active = now;
        let queued = output.queued();
        if output.is_done()
            && let Some(output) = self.output.take()
        {
            if self.phase == Phase::Open {
                if self.flags.take(WAITING) && self.kept.is_some() {
                    self.flags.set(OFFER_DUE);
                }
                // Something was refused since the loop last looked: nothing may leave after that gap.
                if output.overflowed() {
                    self.close_because(CloseReason::OutputOverflow { queued: count }, now);
                }
            }
            pool.give_output(output);
        }
        self.unchoke(queued, limits);
    }

    /// Reading goes on where little enough is owed.
    #[inline]
    fn unchoke(&mut self, queued: usize, limits: &Limits) {
        if self.flags.has(CHOKED) && queued <= limits.output_low {
            self.flags.clear(CHOKED);
            self.flags.set(DRAINED_DUE);
            // Never cleared here: a callback may have asked for the offer itself.
            if self.kept.is_some() {
                self.flags.set(OFFER_DUE);
            }
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
        self.flags.clear(BLOCKED);
        self.flags.set(BROKEN);
        if (self.flags.take(CHOKED) | self.flags.take(WAITING)) && self.kept.is_some() {
            self.flags.set(OFFER_DUE);
        }
        if self.phase != Phase::Open || self.flags.has(PAUSED) || !self.has_more_to_say() {
            self.over(reason_of(errno));
            return lost;
        }
        self.progressed(now);
        self.flags.set(DEADLINE_CHANGED);
        lost
    }

    /// Whether the handler may still get something to hear: more may come, or what came waits for its turn.
    fn has_more_to_say(&self) -> bool {
        !self.flags.has(ENDED) || self.flags.has(OFFER_DUE)
    }

    /// Receiving failed for good.
    pub(crate) fn failed(&mut self, errno: Errno, now: Time) {
        let reason = match self.phase {
            Phase::Connecting => CloseReason::ConnectFailed(errno),
            // Nothing was owed any more, so the connection ended as it was meant to.
            Phase::Lingering => self.reason.unwrap_or(reason_of(errno)),
            // What was read before is still to be delivered, unless the handler wants none.
            Phase::Open if self.flags.has(OFFER_DUE) && !self.flags.has(PAUSED) => {
                // Sending may have told already: there is one deadline for what is left.
                if !self.flags.has(BROKEN) {
                    self.progressed(now);
                }
                self.flags.set(ENDED.and(BROKEN).and(DEADLINE_CHANGED));
                return;
            }
            _ => reason_of(errno),
        };
        self.over(reason);
    }

    pub(crate) fn connected(&mut self, now: Time) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::Open;
            self.active = now;
            self.progressed(now);
            self.flags.set(DEADLINE_CHANGED);
            if self.flags.has(CLOSE_DUE) {
                self.close(now);
            }
        }
    }

    /// Our FIN leaves next. Lingering costs time, so a stop does without it where nobody can lose anything by that.
    pub(crate) fn finished(&mut self, now: Time, unacknowledged: impl FnOnce() -> usize) {
        if self.phase == Phase::Open {
            self.flags.set(HALF_FINISHED);
            return;
        }
        self.phase = Phase::Lingering;
        self.progressed(now);
        self.flags.set(DEADLINE_CHANGED);
        if self.flags.has(ENDED.and(DEAF)) || self.origin == Origin::Watched {
            self.phase = Phase::Over;
        } else if self.stopping != Stopping::No && !self.flags.has(ANSWERED) {
            match unacknowledged() {
                0 => self.phase = Phase::Over,
                // It may be on its way: an acknowledgement is looked for until it is there.
                _ => self.await_acknowledgement(now),
            }
        }
    }

    /// The application is stopping.
    pub(crate) fn stop(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
            self.flags.put(ANSWERED, self.queued() > 0 || self.kept.is_some() || self.phase == Phase::Flushing);
        }
    }

    // ---- what the handler asked for --------------------------------------------------------------------------------

    /// Where to write to; nothing once the connection is closing or cannot be written to.
    #[inline]
    pub(crate) fn writable_output(&mut self, pool: &mut Pool, limits: &Limits) -> Option<&mut Output> {
        if !self.takes_writes() {
            return None;
        }
        self.flags.set(USEFUL);
        match &mut self.output {
            Some(output) => output.begin_write(limits.output_high),
            None => self.output = Some(pool.take_output(limits.output_max)),
        }
        self.output.as_deref_mut()
    }

    /// Whether a write would be taken.
    #[inline]
    pub(crate) fn takes_writes(&self) -> bool {
        let usual = matches!(self.phase, Phase::Open | Phase::Connecting)
            & !self.flags.has(BROKEN.and(FINISHING).and(CLOSE_DUE))
            & (self.origin != Origin::Watched);
        usual || (self.flags.has(WRITING_NOTICE) && self.phase != Phase::Over)
    }

    /// Tells a newcomer why it is refused, and closes. Only a few are lingered for, the others may be reset while they
    /// still read that.
    pub(crate) fn refuse(&mut self, refusal: &Bytes, lingers: bool, now: Time, pool: &mut Pool) {
        let mut output = pool.take_output(usize::MAX);
        output.put_shared(refusal.clone());
        self.output = Some(output);
        self.flags.put(BRIEF, !lingers);
        self.close(now);
    }

    /// Bytes owed to the peer.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.queued())
    }

    /// Whether the connection is not read for a reason of its own, so that what is kept of its input does not grow.
    #[inline]
    pub(crate) fn is_held_back(&self) -> bool {
        self.flags.has(HOLDS_BACK) || (self.flags.has(CHOKED) && !self.flags.has(RELAYED))
    }

    /// Whether it is, or is going to be once its output has been looked at: more is queued than the high-water mark.
    pub(crate) fn is_to_be_held_back(&self, limits: &Limits) -> bool {
        self.is_held_back() || (self.queued() > limits.output_high && !self.flags.has(RELAYED))
    }

    /// Whether it has been of use, so that the first-request deadline is off.
    #[inline]
    pub(crate) fn is_useful(&self) -> bool {
        self.flags.has(USEFUL)
    }

    pub(crate) fn set_useful(&mut self) {
        self.flags.set(USEFUL);
    }

    pub(crate) fn pause(&mut self) {
        self.flags.set(PAUSED);
    }

    /// What was kept comes first, before the socket is read again. Whether anything was is seen then: during a callback
    /// the loop has it.
    pub(crate) fn resume(&mut self) {
        if self.flags.take(PAUSED) {
            self.flags.set(OFFER_DUE);
        }
    }

    /// What it published cannot go on yet.
    pub(crate) fn hold(&mut self) {
        self.flags.set(HELD);
    }

    /// It has gone on.
    pub(crate) fn release_hold(&mut self) {
        if self.flags.take(HELD) && self.kept.is_some() {
            self.flags.set(OFFER_DUE);
        }
    }

    /// Enough for this turn: what the handler leaves is offered again in the next.
    pub(crate) fn offer_next_turn(&mut self, turn: u32) {
        if self.is_open() {
            self.flags.set(OFFER_DUE);
            self.offered_turn = turn;
        }
    }

    /// From now on it is read however much its peer is owed. What was kept because of that is offered.
    pub(crate) fn read_on(&mut self) {
        let begins = !self.flags.has(RELAYED);
        self.flags.set(RELAYED);
        if begins && self.flags.has(CHOKED) {
            self.flags.set(OFFER_DUE);
        }
    }

    /// Nothing is read, and nothing kept is offered, until all that is queued has left. Where nothing is queued, what is
    /// kept is offered in the next turn.
    pub(crate) fn wait_for_output(&mut self, turn: u32) {
        if self.queued() == 0 {
            self.offer_next_turn(turn);
        } else if self.is_open() {
            self.flags.set(WAITING);
        }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn is_paused(&self) -> bool {
        self.flags.has(PAUSED)
    }

    pub(crate) fn set_deadline(&mut self, after: Option<Duration>) {
        if self.is_open() {
            self.deadline = after.map_or(Time::NEVER, |after| Time::default() + after);
            self.flags.put(DEADLINE_FRESH, after.is_some());
            self.flags.set(DEADLINE_CHANGED);
        }
    }

    /// Flush, FIN, and go on reading.
    pub(crate) fn finish(&mut self) {
        self.flags.set(FINISHING);
    }

    /// Flush, FIN, drain what the peer still sends, close.
    pub(crate) fn close(&mut self, now: Time) {
        let reason = match self.stopping {
            _ if self.flags.has(ENDED) => CloseReason::PeerEnded,
            Stopping::No => CloseReason::Closed,
            _ => CloseReason::Stopped,
        };
        match self.phase {
            Phase::Connecting if self.queued() > 0 => {
                self.flags.set(CLOSE_DUE);
                self.deadline = Time::NEVER;
                self.flags.clear(DEADLINE_FRESH);
            }
            Phase::Connecting => self.over(reason),
            Phase::Open if self.flags.has(BROKEN) => self.over(CloseReason::Reset),
            Phase::Open => {
                self.phase = Phase::Flushing;
                let has_gap = self.output.as_ref().is_some_and(|output| output.overflowed());
                let overflow = CloseReason::OutputOverflow { queued: self.queued() };
                self.reason = Some(if has_gap { overflow } else { reason });
                self.deadline = Time::NEVER;
                self.flags.clear(DEADLINE_FRESH);
                self.flags.set(DEADLINE_CHANGED);
                // A peer that has not taken anything for a while does not begin anew.
                if !self.must_progress() {
                    self.progressed(now);
                    self.mark = UNMARKED;
                }
                self.flags.clear(OFFER_DUE);
            }
            Phase::Flushing | Phase::Lingering | Phase::Over => {}
        }
    }

    /// Closes because a limit was reached: what was accepted before is still sent.
    pub(crate) fn close_because(&mut self, reason: CloseReason, now: Time) {
        let is_new = matches!(self.phase, Phase::Open | Phase::Connecting);
        self.close(now);
        if is_new && self.phase != Phase::Over {
            self.reason = Some(reason);
        }
    }

    /// More input is kept than the limit. Answers from before are still sent; a peer that was sent nothing has nothing to
    /// lose by an end at once.
    pub(crate) fn input_overflowed(&mut self, limit: usize, now: Time) {
        let reason = CloseReason::InputOverflow { limit };
        if self.sent == 0 && self.queued() == 0 {
            self.over(reason);
        } else {
            self.close_because(reason, now);
        }
    }

    /// Flush and close: nothing more comes from the peer.
    pub(crate) fn close_briefly(&mut self, now: Time) {
        if matches!(self.phase, Phase::Open | Phase::Connecting) {
            self.flags.set(BRIEF);
        }
        self.close(now);
    }

    /// Ends now, with a reset.
    pub(crate) fn abort(&mut self, reason: CloseReason) {
        self.flags.set(RESET);
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

    /// Whether sending would do nothing now.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        self.flags.has(BLOCKED)
    }

    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether the handler is (still) called for what happens here.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Connecting) && !self.flags.has(CLOSE_DUE)
    }

    pub(crate) fn resets(&self) -> bool {
        self.flags.has(RESET)
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

    // ---- for the operator ------------------------------------------------------------------------------------------

    /// The state as one word, for the table of connections.
    pub(crate) fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Connecting => "connecting",
            Phase::Open if self.flags.has(PAUSED) => "paused",
            Phase::Open if self.flags.has(WAITING) => "waiting",
            Phase::Open if self.flags.has(SUSPENDED) => "suspended",
            Phase::Open if self.flags.has(CHOKED) && !self.flags.has(RELAYED) => "choked",
            Phase::Open if self.flags.has(ENDED) => "half-closed",
            Phase::Open => "open",
            Phase::Flushing => "flushing",
            Phase::Lingering => "lingering",
            Phase::Over => "over",
        }
    }

    /// Whether its bytes are a peer's, and not what processes of this application say to one another.
    #[inline]
    pub(crate) fn is_counted(&self) -> bool {
        self.origin != Origin::Channel
    }

    pub(crate) fn idle_since(&self) -> Time {
        self.active
    }
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

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
