//! Published messages in an output: appended to its backlog with their boundaries, and dropped by the policy for slow
//! members.

use bytes::Bytes;

use super::{Output, SHARE_MIN};
use crate::buffer::backlog::Backlog;
use crate::limits::Limits;

/// From this size on, a message that waits for a slow peer stays shared, in bytes. A shorter message may be a small
/// part of a large allocation, and must not keep the whole.
const KEEP_SHARED_MIN: usize = 64 * 1024;

/// Published messages of one topic that are delivered together.
#[derive(Clone, Copy)]
pub(crate) struct Messages<'a> {
    pub(crate) bytes: &'a [u8],
    /// The allocation of `bytes`, if it is worth sharing.
    pub(crate) shared: Option<&'a Bytes>,
    /// The length of each message, in bytes.
    pub(crate) lengths: &'a [u32],
}

impl<'a> Messages<'a> {
    /// Splits the run into its messages.
    pub(crate) fn each(self) -> impl Iterator<Item = Messages<'a>> {
        let mut at = 0;
        self.lengths.iter().map(move |length| {
            let from = at;
            at += *length as usize;
            Messages { bytes: &self.bytes[from..at], lengths: std::slice::from_ref(length), ..self }
        })
    }

    /// Shares the bytes if they are in a shared allocation and at least `min` long.
    fn share(&self, min: usize) -> Option<Bytes> {
        self.shared.filter(|_| self.bytes.len() >= min).map(|shared| shared.slice_ref(self.bytes))
    }
}

/// The outcome of a message to a peer that does not take its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Taken,
    /// The message was dropped; `on_missed` will report it.
    Dropped,
    /// The policy ends the connection. All waiting messages were dropped.
    TooSlow,
}

impl Output {
    /// Appends published messages with their boundaries, so that the policy for slow members can drop some if the
    /// kernel does not take them in this turn. Returns `false` if they do not fit below `output_max`; then each message
    /// must be offered. `backlog` makes an empty backlog if needed.
    pub(crate) fn put_messages(&mut self, messages: Messages<'_>, backlog: impl FnOnce() -> Box<Backlog>) -> bool {
        if messages.bytes.is_empty() {
            return true;
        }
        let queued = self.of_head() - self.filed + self.behind.as_ref().map_or(0, |behind| behind.in_memory());
        if self.overflowed || (queued > 0 && queued.saturating_add(messages.bytes.len()) > self.max) {
            return false;
        }
        let spare = &mut self.spare;
        let behind = self.behind.get_or_insert_with(|| spare.take().unwrap_or_else(backlog));
        for message in messages.each().filter(|message| !message.bytes.is_empty()) {
            behind.push_message(message.bytes, message.share(SHARE_MIN).as_ref());
        }
        behind.set_fresh();
        true
    }

    /// Appends one published message for a peer that does not take its output, within the policy for slow members. Adds
    /// the number of dropped messages to `missed`.
    pub(crate) fn offer(&mut self, message: Messages<'_>, limits: &Limits, missed: &mut u64) -> Offered {
        if self.trim(limits, missed) == Offered::TooSlow {
            *missed += 1;
            return Offered::TooSlow;
        }
        let head = self.of_head();
        let spare = &mut self.spare;
        let behind = self.behind.get_or_insert_with(|| spare.take().unwrap_or_default());
        let offered = behind.offer(head, message.bytes, message.share(KEEP_SHARED_MIN).as_ref(), limits, missed);
        self.put_empty_backlog_away();
        offered
    }

    /// Whether some messages have not been offered to the kernel yet.
    #[inline]
    pub(crate) fn has_fresh_messages(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| behind.is_fresh())
    }

    /// Makes every waiting message an ordinary write, which no policy drops.
    pub(crate) fn keep_messages(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.keep_messages();
        }
    }

    /// Applies the policy to the messages of a turn that the kernel has not taken.
    pub(crate) fn trim(&mut self, limits: &Limits, missed: &mut u64) -> Offered {
        let head = self.of_head();
        let Some(behind) = &mut self.behind else { return Offered::Taken };
        let worst = behind.offer_anew(head, KEEP_SHARED_MIN, limits, missed);
        self.put_empty_backlog_away();
        worst
    }

    pub(super) fn put_empty_backlog_away(&mut self) {
        if let Some(empty) = self.behind.take_if(|behind| behind.is_empty()) {
            self.spare = Some(empty);
        }
    }

    /// Takes an emptied backlog, for the pool.
    #[inline]
    pub(crate) fn take_spare(&mut self) -> Option<Box<Backlog>> {
        self.spare.take()
    }

    /// Bytes of waiting messages that count against the limit for members, and the number of these messages.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.behind.as_ref().map_or((0, 0), |behind| behind.waiting())
    }

    #[inline]
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Whether a notice of missed messages is next, so that `on_missed` must be called.
    pub(crate) fn is_missing(&self) -> bool {
        self.of_head() == 0 && self.behind.as_ref().is_some_and(|behind| behind.missed().is_some())
    }

    /// Takes the number of messages missed at this place. Writes before `notice_done` form the notice.
    pub(crate) fn take_missed(&mut self) -> u64 {
        let missed = self.behind.as_mut().and_then(|behind| behind.take_missed());
        self.put_empty_backlog_away();
        self.writing_notice = true;
        missed.unwrap_or_default()
    }

    /// Ends the notice of missed messages: later writes go to the end again.
    pub(crate) fn notice_done(&mut self) {
        self.writing_notice = false;
    }
}
