//! The output of a connection: copied bytes, large shared ones, and ranges of files, in order. `messages` adds
//! published messages, `sending` sends to the kernel, `memory` counts the memory, `lending`
//! lends room to encoders.

mod lending;
mod memory;
mod messages;
mod sending;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::backlog::Backlog;
use super::file::FilePart;
use super::payload::Payload;
use super::writer::Writer;
use crate::limits::Limits;

pub(crate) use messages::{Messages, Offered};

/// From this many bytes on, sharing costs less than copying: at 2 KiB a fan-out to a thousand costs the same either
/// way, at 4 KiB sharing saves 8 %, at 64 KiB two thirds (benches/README.md).
pub(crate) const SHARE_MIN: usize = 4096;

/// The queue of bytes for a peer. Small pieces are copied together, large ones shared.
///
/// The loop owns the output of each connection, and lends encoders a [`Writer`] that appends. A separate output serves
/// to test an encoder without a connection; such an output has no limit.
///
/// ```
/// use reactor::{Output, Writer};
/// use std::io::Write;
/// fn encode(number: u32, writer: &mut Writer<'_>) {
///     write!(writer, "{number}\r\n").unwrap();
/// }
/// let mut output = Output::default();
/// encode(7, &mut output.writer());
/// assert_eq!(output.to_vec(), b"7\r\n");
/// ```
#[derive(Debug)]
pub struct Output {
    /// All copied bytes, in order.
    copied: Vec<u8>,
    /// Bytes at the beginning of `copied` that have left.
    sent: usize,
    /// Pieces before the last run of copied bytes. Empty while all bytes are copied, the usual case.
    pieces: VecDeque<Piece>,
    /// Bytes in `pieces`.
    ahead: usize,
    /// Bytes in `pieces` that belong to files, and take no memory.
    filed: usize,
    /// Where the last run of copied bytes begins in `copied`.
    run: usize,
    /// `Limits::output_max` and `Limits::output_high`, in bytes.
    max: usize,
    high: usize,
    /// More than the high-water mark was queued when the current write began, so `max` limits the write. Below the mark
    /// a write of any size is accepted.
    bounded: bool,
    /// A write was refused. After such a gap no later write is accepted.
    overflowed: bool,
    /// Number of shared pieces at the end of `pieces` that the memory budget has not counted; some may have left since.
    uncounted: usize,
    /// `on_missed` is running: writes take the place of the dropped messages, before the backlog.
    writing_notice: bool,
    /// Published messages that could not leave at once, and all later writes. Never empty.
    behind: Option<Box<Backlog>>,
    /// An emptied backlog, kept for reuse. Goes back to the pool with the output.
    spare: Option<Box<Backlog>>,
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
            high: usize::MAX,
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
    /// Lends a [`Writer`], which encoders take: in a handler [`Context::encode`](crate::Context::encode) lends it.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer::new(self)
    }

    /// Appends a copy of `bytes` behind everything that is queued.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        if self.behind.is_none() && self.fits(bytes.len()) {
            self.copied.extend_from_slice(bytes);
        } else {
            self.put_aside(bytes, None);
        }
    }

    /// Appends all of `bytes`, and leaves `bytes` empty. When nothing is queued, exchanges the buffers and copies nothing.
    #[inline]
    pub(crate) fn put_vec(&mut self, bytes: &mut Vec<u8>) {
        // Without copied bytes, `sent` and `run` are 0.
        if self.copied.is_empty() && self.behind.is_none() && self.fits(bytes.len()) {
            std::mem::swap(&mut self.copied, bytes);
        } else {
            self.put_vec_after(bytes);
        }
    }

    #[cold]
    #[inline(never)]
    fn put_vec_after(&mut self, bytes: &mut Vec<u8>) {
        self.put(bytes);
        bytes.clear();
    }

    /// Appends `bytes` without copying them if they are large enough (4 KiB) for sharing to pay.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_MIN {
            self.put(&bytes);
        } else if self.behind.is_none() && self.fits(bytes.len()) {
            self.append_shared(bytes);
        } else {
            self.put_aside(&bytes, Some(&bytes));
        }
    }

    /// Appends a range of a file. The range leaves by sendfile(2), without a copy in this process, and counts as queued
    /// but not against [`Limits::output_max`](crate::Limits::output_max). Reading the file may block on its disk. A
    /// file shorter than the range ends the connection with [`CloseReason::ShortFile`](crate::CloseReason::ShortFile),
    /// because the peer has been promised more.
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

    /// A copy of all bytes that have not left, those in files included: for a test of an encoder.
    ///
    /// # Panics
    /// When a file cannot be read, or is shorter than was promised.
    ///
    /// ```
    /// let mut output = reactor::Output::default();
    /// output.put(b"+OK\r\n");
    /// assert_eq!(output.to_vec(), b"+OK\r\n");
    /// ```
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::new();
        self.copy_into(&mut all).expect("the files of an output can be read");
        all
    }

    /// Appends bytes behind a backlog, or refuses bytes over the limit.
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

    /// Appends a copy before the backlog, regardless of the limit.
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

    /// Turns the last run of copied bytes into a piece, if the run is not empty.
    fn end_run(&mut self) {
        let run = self.copied.len() - self.run;
        if run > 0 {
            self.pieces.push_back(Piece::Copied(run));
            self.run = self.copied.len();
            self.ahead += run;
        }
    }

    /// Number of queued bytes that have not left yet, with the parts of files.
    #[inline]
    pub fn queued(&self) -> usize {
        self.of_head() + self.behind.as_ref().map_or(0, |behind| behind.length())
    }

    /// Queued bytes before the backlog.
    #[inline]
    fn of_head(&self) -> usize {
        self.ahead + self.copied.len() - self.run
    }

    /// Whether no byte is queued: everything that was written has left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queued() == 0
    }

    /// Whether no byte is queued, and no missed message is still to be reported.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.of_head() == 0 && self.behind.is_none()
    }

    /// Begins a write: one call of a handler, with any number of pieces. The write is accepted in full unless more bytes
    /// than the high-water mark are queued already.
    #[inline]
    pub(crate) fn begin_write(&mut self) {
        self.bounded = self.is_above_high();
    }

    /// Whether more bytes than the high-water mark are queued.
    #[inline]
    pub(crate) fn is_above_high(&self) -> bool {
        self.queued() > self.high
    }

    #[inline]
    fn fits(&self, more: usize) -> bool {
        !self.overflowed && (!self.bounded || (self.of_head() - self.filed).saturating_add(more) <= self.max)
    }

    /// Whether `more` bytes written by the handler are accepted. After the first refusal every write is refused, and
    /// the connection closes when the accepted bytes have left. Messages do not count: they have a limit of their own.
    fn admits(&mut self, more: usize) -> bool {
        let queued = self.of_head() - self.filed + self.behind.as_ref().map_or(0, |behind| behind.kept_length());
        if self.overflowed || (self.bounded && queued.saturating_add(more) > self.max) {
            self.overflowed = true;
            return false;
        }
        true
    }

    /// Sets the limits of the connection that has this output.
    #[inline]
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        (self.max, self.high) = (limits.output_max, limits.output_high);
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Forgets all queued bytes.
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

#[cfg(any(test, feature = "fuzzing"))]
impl Output {
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Begins a write under this high-water mark.
    pub(crate) fn begin_write_above(&mut self, high: usize) {
        self.high = high;
        self.begin_write();
    }
}

#[cfg(test)]
impl Output {
    pub(super) fn behind(&self) -> Option<&Backlog> {
        self.behind.as_deref()
    }
}

#[cfg(test)]
mod tests;
