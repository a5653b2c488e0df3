//! A link as a member of topics: what was published is put into its output, and one that does not take it is bounded by
//! a policy. See [`Published`](crate::published) for how it comes here, and the `Backlog` for what is dropped.

use super::flags::*;
use super::{Link, Lost, Phase};
use crate::buffer::{Messages, Offered, Pool};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::Time;

impl Link {
    /// Puts published messages into the output. How many were taken; `missed` counts those that are dropped because of
    /// them.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        messages: Messages<'_>,
        limits: &Limits,
        pool: &mut Pool,
        missed: &mut u64,
    ) -> usize {
        if self.phase == Phase::Open && !self.flags.has(HINDERED) {
            let output = self.output.get_or_insert_with(|| pool.take_output(limits.output_max));
            if output.put_messages(messages, || pool.take_backlog()) {
                return messages.lengths.len();
            }
        }
        self.deliver_late(messages, limits, pool, missed)
    }

    /// The same one by one to a peer that does not take what it is owed.
    #[cold]
    fn deliver_late(&mut self, messages: Messages<'_>, limits: &Limits, pool: &mut Pool, missed: &mut u64) -> usize {
        if !self.takes_writes() {
            return 0;
        }
        let output = self.output.get_or_insert_with(|| pool.take_output(limits.output_max));
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
        // Dropping makes it less, too.
        self.unchoke(self.queued(), limits);
        taken
    }

    /// Whether what is handed out may go to the driver at once, without ever being in the output.
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

    /// Whether it is to be left out of a part of what is being handed out.
    pub(crate) fn is_excepted(&self) -> bool {
        self.flags.has(EXCEPTED)
    }

    pub(crate) fn set_excepted(&mut self, is: bool) {
        self.flags.put(EXCEPTED, is);
    }

    /// Applies the policy for slow members to what was published in this turn, now that the kernel has not taken it.
    pub(super) fn trim(&mut self, limits: &Limits) -> Lost {
        let mut lost = Lost::default();
        if let Some(output) = &mut self.output
            && output.has_fresh_messages()
        {
            // A connection that is closing gets what it is owed.
            if self.phase != Phase::Open {
                output.keep_messages();
            } else if output.trim(limits, &mut lost.messages) == Offered::TooSlow {
                self.flags.set(TOO_SLOW);
            }
        }
        self.unchoke(self.queued(), limits);
        lost
    }

    /// The handler is told next how many messages were missed here: so many. What it writes until `notice_done` is put in
    /// their place.
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

    /// The handler has said what it had to say to one that is too slow.
    pub(crate) fn close_slow(&mut self, now: Time) {
        if self.flags.has(OUT_OF_MEMORY) {
            return self.close_for_memory(now);
        }
        self.close_because(CloseReason::OutputOverflow { queued: self.queued() }, now);
    }

    /// Whether what was published before has to be in its output first. Not where messages were missed: they were
    /// published before that.
    #[inline]
    pub(crate) fn is_in_order(&self) -> bool {
        self.flags.has(MEMBER) && !self.flags.has(WRITING_NOTICE)
    }

    /// It has become a member of a topic, or is none any more.
    pub(crate) fn set_member(&mut self, is: bool, limits: &Limits) {
        if is {
            self.flags.set(USEFUL);
        }
        self.flags.put(MEMBER, is);
        self.flags.put(KEPT_AS_MEMBER, is && limits.slow_members.keeps());
        self.flags.set(DEADLINE_CHANGED);
    }
}
