//! A link as a member of topics: publications are put into its output, and a policy bounds a member that does not read.
//! [`Published`](crate::published) collects the publications of a turn; the `Backlog` drops messages.

use super::flags::*;
use super::{Link, Lost, Phase};
use crate::buffer::{Messages, Offered, Pool};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Time;

impl Link {
    /// Puts published messages into the output. Returns the number taken; `missed` counts messages dropped to make room.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        messages: Messages<'_>,
        limits: &Limits,
        pool: &mut Pool,
        missed: &mut u64,
    ) -> usize {
        if self.phase == Phase::Open && !self.flags.has(HINDERED) {
            let output = self.output.get_or_insert_with(|| pool.take_output(limits));
            if output.put_messages(messages, || pool.take_backlog()) {
                return messages.lengths.len();
            }
        }
        self.deliver_late(messages, limits, pool, missed)
    }

    /// Puts published messages into the output one by one, for a peer that does not take its output.
    #[cold]
    fn deliver_late(&mut self, messages: Messages<'_>, limits: &Limits, pool: &mut Pool, missed: &mut u64) -> usize {
        if !self.takes_writes() {
            return 0;
        }
        let output = self.output.get_or_insert_with(|| pool.take_output(limits));
        let mut taken = 0;
        for message in messages.each() {
            if self.flags.has(TOO_SLOW) {
                *missed += 1;
                continue;
            }
            match output.offer(message, limits, missed) {
                Offered::Taken => taken += 1,
                Offered::Dropped => {}
                Offered::TooSlow => self.flags.set(TOO_SLOW),
            }
        }
        // Dropped messages may have brought the queue down to the mark.
        self.unchoke(self.queued(), limits);
        taken
    }

    /// Whether publications may go to the driver at once, without passing through the output.
    #[inline]
    pub(crate) fn takes_at_once(&self, count: usize, limits: &Limits) -> bool {
        self.output.is_none()
            && self.phase == Phase::Open
            && !self.flags.has(HINDERED)
            && !self.dirty
            && count <= limits.output_high
    }

    #[cfg(feature = "sim")]
    pub(crate) fn is_too_slow(&self) -> bool {
        self.flags.has(TOO_SLOW)
    }

    /// Whether the link is left out of a part of the publications being delivered.
    pub(crate) fn is_excepted(&self) -> bool {
        self.flags.has(EXCEPTED)
    }

    pub(crate) fn set_excepted(&mut self, is: bool) {
        self.flags.put(EXCEPTED, is);
    }

    /// Applies the policy for slow members to the publications of this turn that the kernel has not taken.
    pub(super) fn trim(&mut self, limits: &Limits) -> Lost {
        let mut lost = Lost::default();
        if let Some(output) = &mut self.output
            && output.has_fresh_messages()
        {
            // A closing connection gets everything that was queued.
            if self.phase != Phase::Open {
                output.keep_messages();
            } else if output.trim(limits, &mut lost.messages) == Offered::TooSlow {
                self.flags.set(TOO_SLOW);
            }
        }
        self.unchoke(self.queued(), limits);
        lost
    }

    /// Takes the number of messages missed at the front, for `on_missed`. Writes until `notice_done` take their place.
    pub(crate) fn take_missed(&mut self) -> u64 {
        self.flags.set(WRITING_NOTICE);
        self.output.as_mut().map_or(0, |output| output.take_missed())
    }

    pub(crate) fn notice_done(&mut self) {
        self.flags.clear(WRITING_NOTICE);
        if let Some(output) = &mut self.output {
            output.notice_done();
        }
    }

    /// Closes after `on_too_slow`.
    pub(crate) fn close_slow(&mut self, now: Time) {
        if self.flags.has(OUT_OF_MEMORY) {
            return self.close_for_memory(now);
        }
        self.close_because(CloseReason::OutputOverflow { queued: self.queued() }, now);
    }

    /// Whether earlier publications must be in the output before other bytes. Not while a notice is written: the missed
    /// messages were published before.
    #[inline]
    pub(crate) fn is_in_order(&self) -> bool {
        self.flags.has(MEMBER) && !self.flags.has(WRITING_NOTICE)
    }

    /// Notes whether the link is a member of any topic.
    pub(crate) fn set_member(&mut self, is: bool, limits: &Limits) {
        if is {
            self.flags.set(USEFUL);
        }
        self.flags.put(MEMBER, is);
        self.flags.put(KEPT_AS_MEMBER, is && limits.slow_members.keeps());
        self.flags.set(DEADLINE_CHANGED);
    }
}
