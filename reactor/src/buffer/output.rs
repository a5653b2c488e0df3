//! What a connection still owes its peer: bytes that were copied, large ones that are shared, and ranges of files, in
//! order.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::backlog::Backlog;
use super::file::FilePart;
use super::payload::Payload;
use super::writer::Writer;
use crate::budget::Budget;
use crate::limits::Limits;

/// From this many bytes on, sharing beats copying: at 2 KiB a fan-out to a thousand costs the same either way, at 4 KiB
/// sharing saves 8 %, at 64 KiB two thirds (benches/README.md).
pub(crate) const SHARE_MIN: usize = 4096;
/// From this many bytes on what waits for a peer that is behind stays shared. What is shorter may be a part of what
/// was published with it, and must not keep all of that.
const KEEP_SHARED_MIN: usize = 64 * 1024;
/// Sent bytes that are not worth moving the others for.
const RECLAIM_MIN: usize = 64 * 1024;

/// The queue of bytes that a connection owes its peer. Small pieces are copied together, large ones shared.
///
/// The loop keeps the output of each connection to itself and lends encoders a [`Writer`] that appends to it. An output of
/// one's own is for trying an encoder without a connection; it has no limit.
///
/// ```
/// use reactor::{Output, Writer};
/// use std::io::Write;
/// fn encode(number: u32, writer: &mut Writer<'_>) {
///     write!(writer, "{number}\r\n").unwrap();
/// }
/// let mut output = Output::default();
/// encode(7, &mut output.writer());
/// assert_eq!(output.queued(), 3);
/// ```
#[derive(Debug)]
pub struct Output {
    /// All copied bytes, in order; those before `sent` have left.
    copied: Vec<u8>,
    sent: usize,
    /// What comes before the last run of copied bytes, and how many bytes that is. Nothing while nothing is shared,
    /// which is nearly always.
    pieces: VecDeque<Piece>,
    ahead: usize,
    /// How many of those are in files, which take no memory.
    filed: usize,
    /// Where the last run begins in `copied`.
    run: usize,
    max: usize,
    /// More than the high-water mark was queued when the current write began, so `max` holds for that write. Below the
    /// mark a write is taken whatever its size.
    bounded: bool,
    /// Something was refused. Nothing is taken after that gap.
    overflowed: bool,
    /// Shared pieces at the end of `pieces` that the memory budget has not counted; some may have left since.
    uncounted: usize,
    /// What is written now goes before the backlog: it stands for what was dropped there.
    writing_notice: bool,
    /// What comes after all this: published messages that could not leave at once, and what was written behind them.
    /// Never empty.
    behind: Option<Box<Backlog>>,
    /// The backlog before, emptied. Goes back to the pool with the output.
    spare: Option<Box<Backlog>>,
}

/// Messages that are handed out together.
#[derive(Clone, Copy)]
pub(crate) struct Messages<'a> {
    pub(crate) bytes: &'a [u8],
    /// The same, where they are worth sharing.
    pub(crate) shared: Option<&'a Bytes>,
    /// The length of each.
    pub(crate) lengths: &'a [u32],
}

impl<'a> Messages<'a> {
    /// One after the other.
    pub(crate) fn each(self) -> impl Iterator<Item = Messages<'a>> {
        let mut at = 0;
        self.lengths.iter().map(move |length| {
            let from = at;
            at += *length as usize;
            Messages { bytes: &self.bytes[from..at], lengths: std::slice::from_ref(length), ..self }
        })
    }

    /// The bytes as shared ones, if these are and it is worth it from so many on.
    fn share(&self, min: usize) -> Option<Bytes> {
        self.shared.filter(|_| self.bytes.len() >= min).map(|shared| shared.slice_ref(self.bytes))
    }
}

/// What became of a message for a peer that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Taken,
    /// It was dropped. Where it was, that will be told.
    Dropped,
    /// The policy is to end the connection. No message waits any more.
    TooSlow,
}

#[derive(Debug)]
enum Piece {
    /// This many of the copied bytes.
    Copied(usize),
    Shared(Payload),
    File(FilePart),
}

impl Default for Output {
    fn default() -> Self {
        Output {
            copied: Vec::new(),
            sent: 0,
            pieces: VecDeque::new(),
            ahead: 0,
            filed: 0,
            run: 0,
            max: usize::MAX,
            bounded: false,
            overflowed: false,
            uncounted: 0,
            writing_notice: false,
            behind: None,
            spare: None,
        }
    }
}

impl Output {
    /// Lends what encoders write to.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer::new(self)
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        if self.behind.is_none() && self.fits(bytes.len()) {
            self.copied.extend_from_slice(bytes);
        } else {
            self.put_aside(bytes, None);
        }
    }

    /// Appends `bytes` without copying them, if they are many enough (4 KiB) for that to pay.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_MIN {
            self.put(&bytes);
        } else if self.behind.is_none() && self.fits(bytes.len()) {
            self.append_shared(bytes);
        } else {
            self.put_aside(&bytes, Some(&bytes));
        }
    }

    /// Appends a range of a file. It leaves without passing through this process's memory (sendfile(2)), and counts as owed
    /// but not against [`Limits::output_max`](crate::Limits::output_max). Reading it may block on its disk. A file that
    /// turns out to be shorter ends the connection with [`CloseReason::ShortFile`](crate::CloseReason::ShortFile): its
    /// peer has been promised more.
    ///
    /// ```
    /// use reactor::Output;
    /// use std::fs::File;
    /// use std::sync::Arc;
    /// let file = Arc::new(File::open("Cargo.toml")?);
    /// let mut output = Output::default();
    /// output.put(b"the first line begins with ");
    /// output.put_file(file, 0..9);
    /// assert_eq!(output.queued(), 36);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn put_file(&mut self, file: Arc<File>, range: Range<u64>) {
        let Some(part) = FilePart::new(file, range).filter(|_| !self.overflowed) else { return };
        match &mut self.behind {
            Some(behind) if !self.writing_notice => behind.push_own_file(part),
            _ => self.append_file(part),
        }
    }

    /// Where it is not simply the end of the queue, or over the limit.
    #[cold]
    fn put_aside(&mut self, bytes: &[u8], shared: Option<&Bytes>) {
        if !self.admits(bytes.len()) {
            return;
        }
        match (&mut self.behind, shared) {
            (Some(_), _) if bytes.is_empty() => {}
            (Some(behind), None) if !self.writing_notice => behind.push_own(bytes),
            (Some(behind), Some(shared)) if !self.writing_notice => behind.push_own_shared(shared.clone()),
            (_, None) => self.append(bytes),
            (_, Some(shared)) => self.append_shared(shared.clone()),
        }
    }

    /// Appends to what leaves next, whatever the limit.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    pub(super) fn append_shared(&mut self, bytes: Bytes) {
        self.end_run();
        self.ahead += bytes.len();
        self.pieces.push_back(Piece::Shared(Payload::new(bytes)));
        self.uncounted += 1;
    }

    pub(super) fn append_file(&mut self, part: FilePart) {
        self.end_run();
        self.ahead += part.length();
        self.filed += part.length();
        self.pieces.push_back(Piece::File(part));
    }

    /// The last run of copied bytes becomes a piece, if there is one.
    fn end_run(&mut self) {
        let run = self.copied.len() - self.run;
        if run > 0 {
            self.pieces.push_back(Piece::Copied(run));
            self.run = self.copied.len();
            self.ahead += run;
        }
    }

    /// Bytes that have not left yet.
    #[inline]
    pub fn queued(&self) -> usize {
        self.of_head() + self.behind.as_ref().map_or(0, |behind| behind.length())
    }

    #[inline]
    fn of_head(&self) -> usize {
        self.ahead + self.copied.len() - self.run
    }

    /// Whether nothing is owed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queued() == 0
    }

    /// The same, and nothing was missed that has not been told.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.of_head() == 0 && self.behind.is_none()
    }

    /// A write begins: one call of a handler, however many pieces it puts. It is taken in full unless more than `high`
    /// bytes are queued already.
    #[inline]
    pub(crate) fn begin_write(&mut self, high: usize) {
        self.bounded = self.queued() > high;
    }

    #[inline]
    fn fits(&self, more: usize) -> bool {
        !self.overflowed && (!self.bounded || (self.of_head() - self.filed).saturating_add(more) <= self.max)
    }

    /// Past the limit nothing is taken, and the connection closes once what was taken has left. Messages don't count: they
    /// have a limit of their own.
    fn admits(&mut self, more: usize) -> bool {
        let queued = self.of_head() - self.filed + self.behind.as_ref().map_or(0, |behind| behind.kept_length());
        if self.overflowed || (self.bounded && queued.saturating_add(more) > self.max) {
            self.overflowed = true;
            return false;
        }
        true
    }

    // ---- messages --------------------------------------------------------------------------------------------------

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

    /// Appends one published message for a peer that does not take what it is owed, or does as the policy says. `missed`
    /// counts what is dropped, this message or others.
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

    /// Whether there are messages of which it is not yet known how much of them the kernel takes.
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

    fn put_empty_backlog_away(&mut self) {
        if let Some(empty) = self.behind.take_if(|behind| behind.is_empty()) {
            self.spare = Some(empty);
        }
    }

    /// An emptied backlog, for the pool.
    #[inline]
    pub(crate) fn take_spare(&mut self) -> Option<Box<Backlog>> {
        self.spare.take()
    }

    /// What messages that wait take of the limit for members, and how many they are.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.behind.as_ref().map_or((0, 0), |behind| behind.waiting())
    }

    #[inline]
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Whether the next thing for the peer is to learn that messages were missed.
    pub(crate) fn is_missing(&self) -> bool {
        self.of_head() == 0 && self.behind.as_ref().is_some_and(|behind| behind.missed().is_some())
    }

    /// How many they are. What is put until `placed` comes in their place.
    pub(crate) fn take_missed(&mut self) -> u64 {
        let missed = self.behind.as_mut().and_then(|behind| behind.take_missed());
        self.put_empty_backlog_away();
        self.writing_notice = true;
        missed.unwrap_or_default()
    }

    pub(crate) fn notice_done(&mut self) {
        self.writing_notice = false;
    }

    // ---- sending ---------------------------------------------------------------------------------------------------

    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    pub(crate) fn capacity(&self) -> usize {
        self.copied.capacity() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Bytes of memory that are taken for this output alone. Room that copied bytes have never taken is no memory yet: the
    /// system gives it when it is written to.
    pub(crate) fn own_memory(&self) -> usize {
        let backlogs = [&self.behind, &self.spare];
        self.copied.len()
            + self.pieces.capacity() * size_of::<Piece>()
            + backlogs.into_iter().flatten().map(|backlog| backlog.capacity()).sum::<usize>()
    }

    /// The same with shared payloads: what it would give back if nobody else held those.
    pub(crate) fn all_memory(&self) -> usize {
        let queued = self.of_head() - self.filed + self.behind.as_ref().map_or(0, |behind| behind.in_memory());
        self.own_memory().max(queued)
    }

    /// Counts the shared payloads that have been put since the last call. Each is looked at once.
    #[inline]
    pub(crate) fn count_payloads(&mut self, budget: &Arc<Budget>) {
        if self.uncounted > 0 {
            let shared = self.pieces.iter_mut().rev().filter_map(|piece| match piece {
                Piece::Shared(payload) => Some(payload),
                Piece::Copied(_) | Piece::File(_) => None,
            });
            shared.take(std::mem::take(&mut self.uncounted)).for_each(|payload| payload.count(budget));
        }
        if let Some(behind) = &mut self.behind {
            behind.count_payloads(budget);
        }
    }

    /// Where each shared payload ends in memory, and its length.
    #[cfg(feature = "sim")]
    pub(crate) fn payloads(&self) -> Vec<(usize, usize)> {
        let of_head = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Shared(payload) => Some(payload.name()),
            Piece::Copied(_) | Piece::File(_) => None,
        });
        of_head.chain(self.behind.iter().flat_map(|behind| behind.payloads())).collect()
    }

    /// Drops the published messages that wait, and gives back the memory that is not needed for the rest. How many.
    pub(crate) fn drop_messages(&mut self) -> u64 {
        let dropped = self.behind.as_mut().map_or(0, |behind| behind.drop_messages());
        self.put_empty_backlog_away();
        self.spare = None;
        if let Some(behind) = &mut self.behind {
            behind.shrink();
        }
        self.pieces.shrink_to_fit();
        if self.sent > 0 {
            self.copied.drain(..self.sent);
            self.run -= self.sent;
            self.sent = 0;
        }
        self.copied.shrink_to_fit();
        dropped
    }

    /// All that is owed, if it is copied bytes and nothing else: what nearly every answer is.
    #[inline]
    pub(crate) fn plain(&self) -> Option<&[u8]> {
        let bytes = self.copied.get(self.run..)?;
        ((self.ahead == 0) & self.behind.is_none() & !self.overflowed & !bytes.is_empty()).then_some(bytes)
    }

    /// Notes that all of that has left.
    #[inline]
    pub(crate) fn plain_left(&mut self) {
        self.copied.clear();
        (self.sent, self.run, self.bounded) = (0, 0, false);
    }

    /// The bytes to send next, when they stand in one piece.
    #[inline]
    pub(crate) fn single(&self) -> Option<&[u8]> {
        if let Some(behind) = &self.behind {
            return if self.of_head() == 0 { behind.single() } else { None };
        }
        match self.pieces.front() {
            None => Some(&self.copied[self.sent..]),
            Some(Piece::Shared(bytes)) if self.ahead == bytes.len() && self.run == self.copied.len() => Some(bytes),
            Some(_) => None,
        }
    }

    /// The bytes to send next, when they stand in one piece and a part of a file comes after it.
    #[inline]
    pub(crate) fn before_file(&self) -> Option<&[u8]> {
        match (self.pieces.front(), self.pieces.get(1)) {
            (Some(Piece::Copied(length)), Some(Piece::File(_))) => Some(&self.copied[self.sent..][..*length]),
            _ => None,
        }
    }

    /// The bytes to send next, as far as `slices` go and up to where messages were missed; how many slices were filled.
    pub(crate) fn gather<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> usize {
        let (mut filled, mut at) = (0, self.sent);
        let room = slices.len();
        let pieces = self.pieces.iter().map(Some).chain(std::iter::once(None));
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            let bytes = match piece {
                Some(Piece::File(_)) => return filled,
                Some(Piece::Shared(bytes)) => &bytes[..],
                Some(Piece::Copied(length)) => {
                    at += length;
                    &self.copied[at - length..at]
                }
                None => &self.copied[self.run..],
            };
            *slot = IoSlice::new(bytes);
            filled += usize::from(!bytes.is_empty());
        }
        debug_assert!(filled <= room);
        match &self.behind {
            Some(behind) if filled < room => filled + behind.gather(&mut slices[filled..]),
            _ => filled,
        }
    }

    /// What to send next, when that is a part of a file.
    pub(crate) fn file(&self) -> Option<&FilePart> {
        match self.pieces.front() {
            Some(Piece::File(part)) => Some(part),
            Some(_) => None,
            None if self.copied.len() > self.run => None,
            None => self.behind.as_ref()?.file(),
        }
    }

    /// Whether a part of a file is owed, so that bytes that are sent are better not sent alone.
    pub(crate) fn has_file(&self) -> bool {
        self.filed > 0
    }

    /// Notes that the first `count` bytes have left.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.queued());
        if self.ahead > 0 || self.behind.is_some() {
            return self.advance_past(count);
        }
        self.run += count;
        self.sent = self.run;
        self.reclaim();
    }

    fn advance_past(&mut self, count: usize) {
        let of_head = count.min(self.of_head());
        self.advance_pieces(of_head);
        if let Some(mut behind) = self.behind.take() {
            behind.advance(count - of_head, self);
            self.behind = Some(behind);
            self.put_empty_backlog_away();
        }
    }

    fn advance_pieces(&mut self, mut left: usize) {
        while left > 0 {
            let step = match self.pieces.front_mut() {
                None => {
                    self.run += left;
                    self.sent = self.run;
                    break;
                }
                Some(Piece::Copied(length)) => {
                    let step = left.min(*length);
                    *length -= step;
                    self.sent += step;
                    if *length == 0 {
                        self.pieces.pop_front();
                    }
                    step
                }
                Some(Piece::Shared(bytes)) => {
                    let step = left.min(bytes.len());
                    bytes.advance(step);
                    if bytes.is_empty() {
                        self.pieces.pop_front();
                    }
                    step
                }
                Some(Piece::File(part)) => {
                    let step = left.min(part.length());
                    part.advance(step);
                    self.filed -= step;
                    if part.length() == 0 {
                        self.pieces.pop_front();
                    }
                    step
                }
            };
            left -= step;
            self.ahead -= step;
        }
        self.reclaim();
    }

    /// Uses the room of what has left again.
    #[inline]
    fn reclaim(&mut self) {
        if self.sent == self.copied.len() {
            self.copied.clear();
            (self.sent, self.run) = (0, 0);
        } else if self.sent > RECLAIM_MIN && self.sent > self.copied.len() / 2 {
            // A peer that never quite catches up would otherwise make the sent part grow for ever. Amortised O(1).
            self.copied.drain(..self.sent);
            self.run -= self.sent;
            self.sent = 0;
            // What was a long queue once must not take more memory than is counted for a short one.
            if self.copied.capacity() / 4 > self.copied.len() {
                self.copied.shrink_to(2 * self.copied.len());
            }
        }
    }

    /// Forgets what is owed.
    pub(crate) fn clear(&mut self) {
        self.copied.clear();
        self.pieces.clear();
        if let Some(mut behind) = self.behind.take() {
            behind.clear();
            self.spare = Some(behind);
        }
        (self.sent, self.run, self.ahead, self.filed) = (0, 0, 0, 0);
        (self.bounded, self.overflowed, self.writing_notice, self.uncounted) = (false, false, false, 0);
    }
}

impl io::Write for Output {
    /// Takes all of `bytes`, like [`Output::put`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod model;

#[cfg(test)]
impl Output {
    pub(super) fn behind(&self) -> Option<&Backlog> {
        self.behind.as_deref()
    }
}

#[cfg(test)]
mod tests;
