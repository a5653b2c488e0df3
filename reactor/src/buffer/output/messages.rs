//! Published messages in an output: appended to its backlog with their boundaries, dropped by the policy for slow members.

use bytes::Bytes;

use super::{Output, SHARE_MIN};
use crate::buffer::backlog::Backlog;
use crate::limits::Limits;

/// From this many bytes on, a message that waits for a slow peer stays shared. A shorter one may be a small part of a large
/// allocation, and must not keep all of it.
const KEEP_SHARED_MIN: usize = 64 * 1024;

/// Published messages of one topic that are handed out together.
#[derive(Clone, Copy)]
pub(crate) struct Messages<'a> {
    pub(crate) bytes: &'a [u8],
    /// The allocation that `bytes` are in, if it is worth sharing.
    pub(crate) shared: Option<&'a Bytes>,
    /// The length of each message, in bytes.
    pub(crate) lengths: &'a [u32],
}

impl<'a> Messages<'a> {
    /// The messages, one by one.
    pub(crate) fn each(self) -> impl Iterator<Item = Messages<'a>> {
        let mut at = 0;
        self.lengths.iter().map(move |length| {
            let from = at;
            at += *length as usize;
            Messages { bytes: &self.bytes[from..at], lengths: std::slice::from_ref(length), ..self }
        })
    }

    /// The bytes shared, if they are in a shared allocation and at least `min`.
    fn share(&self, min: usize) -> Option<Bytes> {
        self.shared.filter(|_| self.bytes.len() >= min).map(|shared| shared.slice_ref(self.bytes))
    }
}

/// The outcome of a message for a peer that does not take its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Taken,
    /// The message was dropped, and its place is reported by `on_missed`.
    Dropped,
    /// The policy is to end the connection. No message waits any more.
    TooSlow,
}

impl Output {
    /// Appends published messages, each with its boundaries, so that the policy for slow members can drop some if the
    /// kernel does not take them in this turn. `false`: they do not fit below `output_max`, and each has to be offered.
    /// `backlog` makes an empty one where there is none.
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

    /// Appends one published message for a peer that does not take its output, within the policy for slow members. `missed`
    /// counts the dropped messages, this one or others.
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

    /// Whether there are messages that the kernel has not been offered yet.
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

    /// Applies the policy to a turn's messages of which the kernel has not taken all.
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

    /// An emptied backlog, for the pool.
    #[inline]
    pub(crate) fn take_spare(&mut self) -> Option<Box<Backlog>> {
        self.spare.take()
    }

    /// Waiting messages: their share of the limit for members in bytes, and their number.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.behind.as_ref().map_or((0, 0), |behind| behind.waiting())
    }

    #[inline]
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Whether the place of missed messages is reached, so that `on_missed` comes next.
    pub(crate) fn is_missing(&self) -> bool {
        self.of_head() == 0 && self.behind.as_ref().is_some_and(|behind| behind.missed().is_some())
    }

    /// Takes the number of messages missed at this place. Writes until `notice_done` take their place.
    pub(crate) fn take_missed(&mut self) -> u64 {
        let missed = self.behind.as_mut().and_then(|behind| behind.take_missed());
        self.put_empty_backlog_away();
        self.writing_notice = true;
        missed.unwrap_or_default()
    }

    /// Ends the notice of missed messages: writes go to the end again.
    pub(crate) fn notice_done(&mut self) {
        self.writing_notice = false;
    }
}
