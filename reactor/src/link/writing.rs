//! The writing side of a link: the queued output, and the results of the driver's sends.

use super::closing::reason_of;
use super::flags::*;
use super::{Link, Origin, Phase};
use crate::buffer::{Output, Pool};
use crate::error::Errno;
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Time;

/// The driver's report after it was asked to send a link's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// This many bytes left, and the kernel may take more at once.
    Bytes(usize),
    /// This many bytes left, and the driver reports when the kernel takes more.
    Blocked(usize),
    /// Sending has failed for good. Input is still reported.
    Failed(Errno),
    /// A queued file is shorter than the range that was promised to the peer.
    ShortFile,
}

/// The loss of a send: all queued bytes if the send failed, and messages of a slow member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) bytes: usize,
    pub(crate) messages: u64,
}

impl Link {
    /// Whether a write would be accepted.
    #[inline]
    pub(crate) fn takes_writes(&self) -> bool {
        let usual = matches!(self.phase, Phase::Open | Phase::Connecting)
            & !self.flags.has(BROKEN.and(FINISHING).and(CLOSE_DUE))
            & (self.origin != Origin::Watched);
        usual || (self.flags.has(WRITING_NOTICE) && self.phase != Phase::Over)
    }

    /// The output to write to; `None` once the connection is closing or cannot be written to.
    #[inline]
    pub(crate) fn writable_output(&mut self, pool: &mut Pool, limits: &Limits) -> Option<&mut Output> {
        if !self.takes_writes() {
            return None;
        }
        self.flags.set(USEFUL);
        match &mut self.output {
            Some(output) => output.begin_write(),
            None => self.output = Some(pool.take_output(limits)),
        }
        self.output.as_deref_mut()
    }

    /// Other limits apply from now on.
    pub(crate) fn limits_changed(&mut self, limits: &Limits) {
        if let Some(output) = &mut self.output {
            output.set_limits(limits);
        }
        self.unchoke(self.queued(), limits);
        self.set_member(self.flags.has(MEMBER), limits);
    }

    /// Bytes queued for the peer.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.queued())
    }

    /// The output to send.
    #[inline]
    pub(crate) fn output(&self) -> Option<&Output> {
        self.output.as_deref()
    }

    /// The output of a link that `has_plain_answer_only`, if it can go to the driver unchanged: in one piece, and at
    /// most the high-water mark.
    #[inline]
    pub(crate) fn answer(&self) -> Option<&[u8]> {
        self.output.as_ref()?.answer()
    }

    /// Notes that all bytes of an `answer` have left: the short way, after which the link rests.
    #[inline]
    pub(crate) fn answered(&mut self, count: usize, now: Time, pool: &mut Pool) {
        self.sent_at_once(count, now);
        if let Some(mut output) = self.output.take() {
            output.plain_left();
            pool.give_empty(output);
        }
    }

    /// Notes the outcome of a send. Returns the loss.
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
                    // The idle deadline runs again, and may be earlier than the write-progress deadline.
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

    /// Notes that `count` bytes have left without passing through the output: an `answer`, or publications.
    #[inline]
    pub(crate) fn sent_at_once(&mut self, count: usize, now: Time) {
        self.sent += count as u64;
        self.active = now;
    }

    /// Notes that the first `count` bytes of the output have left.
    fn left(&mut self, count: usize, now: Time, limits: &Limits, pool: &mut Pool) {
        let Some(output) = &mut self.output else { return };
        // A handler that was told `AboveHighWater` waits for `on_drained`.
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
                // A write was refused since the last step: no byte may leave after that gap.
                if output.overflowed() {
                    self.close_because(CloseReason::OutputOverflow { queued: count }, now);
                }
            }
            pool.give_output(output);
        }
        self.unchoke(queued, limits);
    }

    /// Resumes reading if at most `output_low` bytes are queued.
    #[inline]
    pub(super) fn unchoke(&mut self, queued: usize, limits: &Limits) {
        if self.flags.has(CHOKED) && queued <= limits.output_low {
            self.flags.clear(CHOKED);
            self.flags.set(DRAINED_DUE);
            // Set here and never cleared: a callback may have requested the offer itself.
            if self.kept.is_some() {
                self.flags.set(OFFER_DUE);
            }
        }
    }

    /// Sending has failed for good: queued output is lost. Input that arrived before is still delivered, so an open
    /// link goes on reading to the end; the linger deadline bounds the reading. Returns the number of lost bytes.
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

    /// Whether a layer stands between the link and its socket, or the descriptor is no socket.
    #[inline]
    pub(crate) fn is_indirect(&self) -> bool {
        self.flags.has(INDIRECT)
    }

    /// Whether the driver must report when the kernel takes bytes, or when the connection is established.
    #[inline]
    pub(crate) fn writes(&self) -> bool {
        self.flags.has(BLOCKED) || self.phase == Phase::Connecting
    }

    /// Whether a send would find no room in the kernel now.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        self.flags.has(BLOCKED)
    }
}
