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
/// What is put in a callback leaves after it, in one send. [`Context::write`](crate::Context::write) is the short way;
/// this is for encoders, which put many pieces: it is an [`io::Write`] that never fails, so `write!` works on it.
///
/// ```
/// use reactor::Output;
/// use std::io::Write;
/// fn encode(number: u32, output: &mut Output) {
///     write!(output, "{number}\r\n").unwrap();
/// }
/// let mut output = Output::default();
/// encode(7, &mut output);
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
    overflowed: bool,
    /// What is written now goes before the backlog: it stands for what was dropped there.
    placing: bool,
    /// Where published messages lie, counted from when the output was last empty, and how much has left since. From a
    /// hand-out to the next send; looked at only if that does not take all.
    messages: Vec<Mark>,
    done: usize,
    /// What comes after all this, while the peer is behind.
    behind: Option<Box<Backlog>>,
}

/// Messages one after the other; their lengths are in the loop's list for the turn, `count` of them from `first` on.
#[derive(Clone, Copy, Debug)]
struct Mark {
    start: u32,
    first: u32,
    count: u32,
}

/// Messages that are handed out together.
#[derive(Clone, Copy)]
pub(crate) struct Messages<'a> {
    pub(crate) bytes: &'a [u8],
    /// The same, where they are worth sharing.
    pub(crate) shared: Option<&'a Bytes>,
    /// Of all that were handed out in this turn, the length of each; and which of these they are.
    pub(crate) lengths: &'a [u32],
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl<'a> Messages<'a> {
    /// One after the other.
    pub(crate) fn each(self) -> impl Iterator<Item = Messages<'a>> {
        let mut at = 0;
        (self.first..self.first + self.count).map(move |first| {
            let from = at;
            at += self.lengths[first] as usize;
            self.part(first, 1, from..at)
        })
    }

    /// Some of them.
    pub(crate) fn part(self, first: usize, count: usize, range: std::ops::Range<usize>) -> Messages<'a> {
        Messages { bytes: &self.bytes[range], first, count, ..self }
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
    Shared(Bytes),
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
            overflowed: false,
            placing: false,
            messages: Vec::new(),
            done: 0,
            behind: None,
        }
    }
}

impl Output {
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
            Some(behind) if !self.placing => behind.push_own_file(part),
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
            (Some(behind), None) if !self.placing => behind.push_own(bytes),
            (Some(behind), Some(shared)) if !self.placing => behind.push_own_shared(shared.clone()),
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
        self.pieces.push_back(Piece::Shared(bytes));
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

    /// One item is always taken when nothing is owed.
    #[inline]
    fn fits(&self, more: usize) -> bool {
        let queued = self.of_head() - self.filed;
        !self.overflowed && (queued == 0 || queued.saturating_add(more) <= self.max)
    }

    /// Past the limit nothing is taken, and the connection is going to end. Messages don't count: they have a limit of
    /// their own.
    fn admits(&mut self, more: usize) -> bool {
        let queued = self.of_head() - self.filed + self.behind.as_ref().map_or(0, |behind| behind.kept_length());
        if self.overflowed || (queued > 0 && queued.saturating_add(more) > self.max) {
            self.overflowed = true;
            return false;
        }
        true
    }

    // ---- messages --------------------------------------------------------------------------------------------------

    /// Appends published messages. Not taken where they have to be offered one by one: while the peer is behind, and
    /// past the limit.
    #[inline]
    pub(crate) fn put_messages(&mut self, messages: Messages<'_>) -> bool {
        if self.behind.is_some() || !self.fits(messages.bytes.len()) {
            return false;
        }
        // Beyond 4 GiB they count as begun.
        if let Ok(start) = u32::try_from(self.done + self.of_head()) {
            self.messages.push(Mark { start, first: messages.first as u32, count: messages.count as u32 });
        }
        match messages.share(SHARE_MIN) {
            None => self.copied.extend_from_slice(messages.bytes),
            Some(shared) => self.append_shared(shared),
        }
        true
    }

    /// A published message for a peer that does not take what it is owed. `missed` counts what is dropped, this or
    /// others.
    pub(crate) fn offer(&mut self, message: Messages<'_>, limits: &Limits, missed: &mut u64) -> Offered {
        if self.trim(message.lengths, limits, missed) == Offered::TooSlow {
            *missed += 1;
            return Offered::TooSlow;
        }
        let head = self.of_head();
        let behind = self.behind.get_or_insert_default();
        let offered = behind.offer(head, message.bytes, message.share(KEEP_SHARED_MIN).as_ref(), limits, missed);
        self.behind.take_if(|behind| behind.is_empty());
        offered
    }

    /// Whether there are messages of which it is not yet known how much of them the kernel takes.
    #[inline]
    pub(crate) fn has_fresh_messages(&self) -> bool {
        !self.messages.is_empty()
    }

    /// The kernel has not taken all of a turn's messages: those that have not begun are offered one by one.
    pub(crate) fn trim(&mut self, lengths: &[u32], limits: &Limits, missed: &mut u64) -> Offered {
        let mut worst = Offered::Taken;
        self.part_with_messages(lengths, |output, part| match part {
            Part::Own(piece) => output.put_behind(piece),
            Part::Message(_) if worst == Offered::TooSlow => *missed += 1,
            Part::Message(piece) => {
                let (head, (bytes, shared)) = (output.of_head(), piece.parts());
                let shared = shared.filter(|shared| shared.len() >= KEEP_SHARED_MIN);
                let behind = output.behind.get_or_insert_default();
                if behind.offer(head, bytes, shared, limits, missed) == Offered::TooSlow {
                    worst = Offered::TooSlow;
                }
            }
        });
        self.behind.take_if(|behind| behind.is_empty());
        worst
    }

    /// Before the first message that waits, bytes just stay where they leave next.
    fn put_behind(&mut self, piece: Chunk<'_>) {
        match (&mut self.behind, piece) {
            (None, Chunk::Copied(bytes)) => self.append(bytes),
            (None, Chunk::Shared(bytes)) if bytes.len() < KEEP_SHARED_MIN => self.append(&bytes),
            (None, Chunk::Shared(bytes)) => self.append_shared(bytes),
            (Some(behind), Chunk::Copied(bytes)) => behind.push_own(bytes),
            (Some(behind), Chunk::Shared(bytes)) => behind.push_own_shared(bytes),
        }
    }

    /// Takes the queue apart at the messages that were put into it, and hands each part over, in order, with an output
    /// that has none of them. Linear, and done once each time a peer falls behind.
    fn part_with_messages(&mut self, lengths: &[u32], mut each: impl FnMut(&mut Output, Part<'_>)) {
        if self.messages.is_empty() {
            return;
        }
        if self.filed > 0 {
            // Among files, messages count as begun: bounded as they are by the limit of what is written.
            return self.messages.clear();
        }
        let Output { max, overflowed, placing, .. } = *self;
        let mut whole = std::mem::replace(self, Output { max, overflowed, placing, ..Output::default() });
        debug_assert!(whole.behind.is_none(), "messages are not put there while the peer is behind");
        let marks = std::mem::take(&mut whole.messages);
        let mut at = whole.done;
        let mut hand_over = |whole: &mut Output, mut length: usize, is_message: bool| {
            while length > 0 {
                let piece = whole.first(length);
                length -= piece.len();
                let taken = piece.len();
                each(self, if is_message { Part::Message(piece) } else { Part::Own(piece) });
                whole.advance_pieces(taken);
            }
        };
        for mark in marks.iter().copied() {
            let (mut start, first) = (mark.start as usize, mark.first as usize);
            for length in lengths[first..first + mark.count as usize].iter().map(|length| *length as usize) {
                // What has begun to leave is not a message any more.
                if start >= at {
                    hand_over(&mut whole, start - at, false);
                    hand_over(&mut whole, length, true);
                    at = start + length;
                }
                start += length;
            }
        }
        let rest = whole.of_head();
        hand_over(&mut whole, rest, false);
        self.messages = marks;
        self.messages.clear();
    }

    /// The first bytes that are owed, so many at most, as far as they stand in one piece.
    fn first(&self, most: usize) -> Chunk<'_> {
        match self.pieces.front() {
            Some(Piece::Shared(bytes)) => Chunk::Shared(bytes.slice(..most.min(bytes.len()))),
            Some(Piece::Copied(length)) => Chunk::Copied(&self.copied[self.sent..][..most.min(*length)]),
            Some(Piece::File(_)) => unreachable!("a queue with files is not taken apart"),
            None => {
                let run = &self.copied[self.run..];
                Chunk::Copied(&run[..most.min(run.len())])
            }
        }
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
        self.behind.take_if(|behind| behind.is_empty());
        self.placing = true;
        missed.unwrap_or_default()
    }

    pub(crate) fn placed(&mut self) {
        self.placing = false;
    }

    // ---- sending ---------------------------------------------------------------------------------------------------

    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    pub(crate) fn capacity(&self) -> usize {
        self.copied.capacity()
            + self.pieces.capacity() * size_of::<Piece>()
            + self.messages.capacity() * size_of::<Mark>()
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
        self.messages.clear();
        (self.sent, self.run, self.done) = (0, 0, 0);
    }

    /// The bytes to send next, when they stand in one piece.
    #[inline]
    pub(crate) fn single(&self) -> Option<&[u8]> {
        match self.pieces.front() {
            _ if self.behind.is_some() => None,
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
        self.done += count;
        self.reclaim();
    }

    fn advance_past(&mut self, count: usize) {
        let of_head = count.min(self.of_head());
        self.done += of_head;
        self.advance_pieces(of_head);
        if let Some(mut behind) = self.behind.take() {
            behind.advance(count - of_head, self);
            self.behind = (!behind.is_empty()).then_some(behind);
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
                    bytes::Buf::advance(bytes, step);
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
            if self.ahead == 0 {
                self.messages.clear();
                self.done = 0;
            }
        } else if self.sent > RECLAIM_MIN && self.sent > self.copied.len() / 2 {
            // A peer that never quite catches up would otherwise make the sent part grow for ever. Amortised O(1).
            self.copied.drain(..self.sent);
            self.run -= self.sent;
            self.sent = 0;
        }
    }

    /// Forgets what is owed.
    pub(crate) fn clear(&mut self) {
        self.copied.clear();
        self.pieces.clear();
        self.messages.clear();
        self.behind = None;
        (self.sent, self.run, self.ahead, self.filed, self.done) = (0, 0, 0, 0, 0);
        (self.overflowed, self.placing) = (false, false);
    }
}

/// Bytes that stand in one piece.
enum Chunk<'a> {
    Copied(&'a [u8]),
    Shared(Bytes),
}

/// Of a queue that is taken apart.
enum Part<'a> {
    Own(Chunk<'a>),
    Message(Chunk<'a>),
}

impl Chunk<'_> {
    fn len(&self) -> usize {
        self.parts().0.len()
    }

    fn parts(&self) -> (&[u8], Option<&Bytes>) {
        match self {
            Chunk::Copied(bytes) => (bytes, None),
            Chunk::Shared(bytes) => (bytes, Some(bytes)),
        }
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
