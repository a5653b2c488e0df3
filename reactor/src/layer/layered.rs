//! The driver's side of a layered connection: the outcome of each receive and send.

use std::any::Any;
use std::fmt;
use std::io::IoSlice;

use super::progress::Progress;
use super::{Follows, Layer, Shared};
use crate::buffer::{FilePart, Output};
use crate::error::Errno;
use crate::link::{LayerEvent, Link, Sent};
use crate::sys::{Fd, Interest, Moved, Sys};
use crate::token::ConnectionId;

/// Plaintext sealed at once. With the protocol's overhead a step stays below 64 KiB, and nothing more is sealed before the
/// kernel has taken the whole step.
const SEALED_AT_ONCE: usize = 63 * 1024;
/// Pieces of an output that are sealed together.
const PIECES: usize = 64;
/// Receives in a row that bring no plaintext: parts of a record, or records without content.
const RECEIVES: usize = 16;
/// Capacity that a buffer of the loop keeps.
const KEPT_CAPACITY: usize = 128 * 1024;

/// The outcome of a receive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Nothing.
    Nothing,
    /// The handshake is done.
    Ready,
    /// Plaintext has arrived: its length in bytes, at the beginning of the scratch buffer.
    Plain(usize),
    /// The peer has ended its half, and the protocol confirms that.
    Ended,
    /// An event that plain connections do not have.
    Event(LayerEvent),
    /// The socket has failed.
    Broken(Errno),
}

/// A part of a file for the output.
#[derive(Debug, Default)]
pub(crate) enum Ahead {
    #[default]
    Nothing,
    /// The reader thread has been asked for the part.
    Asked,
    /// Where the part begins, and its bytes.
    Read(u64, Result<Vec<u8>, Errno>),
}

/// A layer, and the bytes that the layer owes to the wire.
pub(crate) struct Layered {
    id: ConnectionId,
    layer: Box<dyn Layer>,
    ready: bool,
    /// The report that follows the last one.
    follows: Follows,
    /// The end or the failure in `follows` has been reported.
    reported: bool,
    /// Sealed bytes that the kernel did not take; the first `sent` bytes have left since. Empty, and without memory, when all
    /// have left.
    rest: Vec<u8>,
    sent: usize,
    /// FIN as soon as nothing is owed any more.
    fin_due: bool,
    /// Nothing but our own end is owed, and the peer has ended. A peer that has closed answers our end by a reset, which takes
    /// nothing from anybody.
    goodbye_alone: bool,
    /// The peer's end, which came while our own end was still owed. Reported when our own end has left: the report may close
    /// the connection.
    end: Option<Arrived>,
    progress: Progress,
    ahead: Ahead,
    /// Memory as last reported, in KiB; and whether a report is due.
    reported_kib: usize,
    report_due: bool,
}

impl Layered {
    pub(crate) fn new(id: ConnectionId, layer: Box<dyn Layer>) -> Self {
        Layered {
            id,
            ready: false,
            layer,
            follows: Follows::Wire,
            reported: false,
            rest: Vec::new(),
            sent: 0,
            fin_due: false,
            goodbye_alone: false,
            end: None,
            progress: Progress::default(),
            ahead: Ahead::Nothing,
            reported_kib: 0,
            report_due: false,
        }
    }

    /// Heap bytes of the layer, of sealed bytes that wait for the kernel, and of parts of files that were read.
    fn memory(&self) -> usize {
        let ahead = if let Ahead::Read(_, Ok(bytes)) = &self.ahead { bytes.capacity() } else { 0 };
        self.layer.memory() + self.rest.capacity() + ahead
    }

    /// After each use: lists the connection if its memory differs from the last report by a KiB or more.
    pub(crate) fn note_memory(&mut self, shared: &mut Shared) {
        if !self.report_due && self.memory() / 1024 != self.reported_kib {
            self.report_due = true;
            shared.weigh_later(self.id);
        }
    }

    /// The memory for a report.
    pub(crate) fn take_memory(&mut self) -> usize {
        let memory = self.memory();
        (self.report_due, self.reported_kib) = (false, memory / 1024);
        memory
    }

    /// Whether the handshake has been reported as done.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The layer itself, before bytes have moved.
    pub(crate) fn into_layer(self) -> Box<dyn Layer> {
        self.layer
    }

    pub(crate) fn agreed(&mut self) -> Option<Box<dyn Any>> {
        self.layer.agreed()
    }

    /// Whether bytes are owed to the wire.
    pub(crate) fn owes(&self) -> bool {
        self.sent < self.rest.len() || self.layer.owes()
    }

    /// Whether there is something to report without a receive.
    pub(crate) fn has_more(&self) -> bool {
        let has_end = self.end.is_some() && !self.owes();
        has_end || (self.follows != Follows::Wire && !self.reported)
    }

    /// The interest of the connection at the poller.
    pub(crate) fn interest(&self, link: &Link) -> Interest {
        if !self.ready && !self.is_failed() {
            return Interest { read: true, write: self.owes(), edges: false };
        }
        let waits_for_a_file = matches!(self.ahead, Ahead::Asked);
        let waits_with_the_end = self.end.is_some() && self.owes();
        Interest {
            read: link.reads() && !waits_with_the_end,
            write: (link.writes() && !waits_for_a_file) || self.owes(),
            edges: false,
        }
    }

    fn is_failed(&self) -> bool {
        self.follows == Follows::Failure
    }

    // ---- receiving -------------------------------------------------------------------------------------------------

    /// Receives until there is something to report, or nothing more has arrived. The wire's bytes go to the end of the scratch
    /// buffer, the plaintext to its beginning.
    pub(crate) fn receive<S: Sys>(&mut self, sys: &mut S, fd: Fd, scratch: &mut [u8], shared: &mut Shared) -> Arrived {
        let arrived = match self.end.take() {
            Some(end) => end,
            None => self.receive_more(sys, fd, scratch, shared),
        };
        if matches!(arrived, Arrived::Ended | Arrived::Event(LayerEvent::Truncated)) && self.fin_due && self.owes() {
            self.end = Some(arrived);
            return Arrived::Nothing;
        }
        arrived
    }

    fn receive_more<S: Sys>(&mut self, sys: &mut S, fd: Fd, scratch: &mut [u8], shared: &mut Shared) -> Arrived {
        let at = scratch.len() / 8 * 5;
        let (plain, wire) = scratch.split_at_mut(at);
        if self.follows != Follows::Wire && !(self.is_failed() && self.reported) {
            return self.open(&[], plain, shared).unwrap_or(Arrived::Nothing);
        }
        for _ in 0..RECEIVES {
            let count = match sys.recv(fd, wire) {
                Moved::Bytes(count) => count,
                Moved::Blocked => return Arrived::Nothing,
                // A peer whose bytes made no sense may end its half in any way.
                Moved::Ended if self.is_failed() => return Arrived::Ended,
                Moved::Ended => return Arrived::Event(LayerEvent::Truncated),
                Moved::Failed(errno) => return Arrived::Broken(errno),
            };
            if self.is_failed() {
                continue;
            }
            if !self.ready {
                return self.shake_hands(sys, fd, &wire[..count], shared);
            }
            if let Some(arrived) = self.open(&wire[..count], plain, shared) {
                return arrived;
            }
        }
        Arrived::Event(LayerEvent::Something)
    }

    /// One step of the handshake. Early plaintext stays in the layer.
    fn shake_hands<S: Sys>(&mut self, sys: &mut S, fd: Fd, wire: &[u8], shared: &mut Shared) -> Arrived {
        let from = sys.now();
        self.follows = self.layer.open(wire, &mut []).follows;
        shared.shook_hands(from, sys.now());
        if self.layer.is_ready() && !self.is_failed() {
            self.ready = true;
            // The layer's bytes leave together with the first answer.
            shared.flush_later(self.id);
            return Arrived::Ready;
        }
        self.fin_due |= self.is_failed();
        self.flush_quietly(sys, fd, shared);
        match self.follows {
            Follows::Failure => {
                self.reported = true;
                Arrived::Event(LayerEvent::Failed)
            }
            Follows::End => {
                self.reported = true;
                Arrived::Event(LayerEvent::Truncated)
            }
            Follows::Wire | Follows::Plain => Arrived::Event(LayerEvent::Something),
        }
    }

    /// `None`: nothing to report.
    fn open(&mut self, wire: &[u8], plain: &mut [u8], shared: &mut Shared) -> Option<Arrived> {
        if !matches!(self.follows, Follows::End | Follows::Failure) {
            let opened = self.layer.open(wire, plain);
            self.follows = opened.follows;
            self.fin_due |= self.is_failed();
            if self.layer.owes() || self.fin_due {
                shared.flush_later(self.id);
            }
            if opened.plain > 0 {
                return Some(Arrived::Plain(opened.plain));
            }
        }
        match self.follows {
            Follows::Wire => None,
            // A layer that reports plaintext has some.
            Follows::Plain => Some(Arrived::Event(LayerEvent::Something)),
            Follows::End | Follows::Failure if std::mem::replace(&mut self.reported, true) => None,
            Follows::End => Some(Arrived::Ended),
            Follows::Failure => Some(Arrived::Event(LayerEvent::Failed)),
        }
    }

    // ---- sending ---------------------------------------------------------------------------------------------------

    /// Sends what is owed to the wire, and the caller reports the outcome: `Bytes` when nothing is owed any more.
    pub(crate) fn flush<S: Sys>(&mut self, sys: &mut S, fd: Fd, shared: &mut Shared) -> Sent {
        let outcome = self.flush_quietly(sys, fd, shared);
        self.reported(outcome)
    }

    /// Sends what is owed to the wire. After a failure the debt stays, so that the socket's interest in writing brings the report.
    fn flush_quietly<S: Sys>(&mut self, sys: &mut S, fd: Fd, shared: &mut Shared) -> Sent {
        match self.flush_owed(sys, fd, shared) {
            Sent::Failed(_) if self.goodbye_alone => {
                self.forget_debt();
                Sent::Bytes(0)
            }
            outcome => outcome,
        }
    }

    /// A reported failure ends the debt. A broken socket is writable at once, again and again.
    fn reported(&mut self, outcome: Sent) -> Sent {
        if matches!(outcome, Sent::Failed(_)) {
            self.forget_debt();
        }
        outcome
    }

    fn forget_debt(&mut self) {
        (self.rest, self.sent, self.fin_due) = (Vec::new(), 0, false);
    }

    fn flush_owed<S: Sys>(&mut self, sys: &mut S, fd: Fd, shared: &mut Shared) -> Sent {
        while self.sent < self.rest.len() {
            match sys.send(fd, &self.rest[self.sent..], false) {
                Moved::Bytes(count) => self.sent += count,
                Moved::Blocked | Moved::Ended => return Sent::Blocked(0),
                Moved::Failed(errno) => return Sent::Failed(errno),
            }
            if self.sent < self.rest.len() {
                return Sent::Blocked(0);
            }
        }
        if self.sent > 0 {
            (self.rest, self.sent) = (Vec::new(), 0);
        }
        if self.layer.owes() {
            let wire = &mut shared.wire;
            self.layer.owed(wire);
            self.progress.put(wire.len());
            let moved = sys.send(fd, wire, false);
            let taken = match moved {
                Moved::Bytes(count) => count,
                _ => 0,
            };
            if taken < wire.len() {
                self.rest = wire[taken..].to_vec();
                shared.counters.partial_sends.add(1);
            }
            wire.clear();
            wire.shrink_to(KEPT_CAPACITY);
            if let Moved::Failed(errno) = moved {
                return Sent::Failed(errno);
            }
            if !self.rest.is_empty() {
                return Sent::Blocked(0);
            }
        }
        if std::mem::take(&mut self.fin_due) {
            sys.finish(fd);
        }
        Sent::Bytes(0)
    }

    /// Seals `bytes` and sends the result. Bytes that the layer has taken count as sent.
    pub(crate) fn send_bytes<S: Sys>(&mut self, sys: &mut S, fd: Fd, bytes: &[u8], shared: &mut Shared) -> Sent {
        let outcome = match self.make_room(sys, fd, shared) {
            Sent::Bytes(_) => {
                let step = bytes.len().min(SEALED_AT_ONCE);
                self.layer.seal(&bytes[..step]);
                self.sealed(sys, fd, step, step < bytes.len(), shared)
            }
            outcome => outcome,
        };
        self.reported(outcome)
    }

    /// Seals the next bytes of the output and sends the result.
    pub(crate) fn send<S: Sys>(&mut self, sys: &mut S, fd: Fd, output: &Output, shared: &mut Shared) -> Sent {
        match self.make_room(sys, fd, shared) {
            Sent::Bytes(_) => {}
            outcome => return self.reported(outcome),
        }
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let filled = output.gather(&mut pieces);
        let mut plain = std::mem::take(&mut shared.plain);
        let mut cut = filled == PIECES;
        for piece in &pieces[..filled] {
            let room = SEALED_AT_ONCE - plain.len();
            plain.extend_from_slice(&piece[..piece.len().min(room)]);
            cut |= piece.len() > room;
        }
        let before = plain.len();
        let mut outcome = Sent::Bytes(0);
        if !cut && let Some(part) = if filled == 0 { output.file() } else { output.file_behind() } {
            outcome = self.read(sys, part, &mut plain, shared);
            cut = plain.len() - before < part.length();
        }
        let count = plain.len();
        if count > 0 {
            self.layer.seal(&plain);
            outcome = self.sealed(sys, fd, count, cut, shared);
        }
        plain.clear();
        shared.plain = plain;
        self.reported(outcome)
    }

    /// The socket is writable: what is owed leaves, then more of the output. `None`: there is nothing to report.
    pub(crate) fn writable<S: Sys>(&mut self, sys: &mut S, fd: Fd, link: &Link, shared: &mut Shared) -> Option<Sent> {
        match (self.flush(sys, fd, shared), link.output()) {
            (Sent::Bytes(_), Some(output)) if link.writes() => Some(self.send(sys, fd, output, shared)),
            (Sent::Blocked(_), _) => None,
            (Sent::Bytes(_), _) if !self.ready => None,
            (outcome, _) => Some(outcome),
        }
    }

    /// Appends the beginning of a part of a file to `plain`. The returned outcome counts only if `plain` stays empty.
    fn read<S: Sys>(&mut self, sys: &mut S, part: &FilePart, plain: &mut Vec<u8>, shared: &mut Shared) -> Sent {
        let (before, length) = (plain.len(), part.length().min(SEALED_AT_ONCE - plain.len()));
        match std::mem::take(&mut self.ahead) {
            Ahead::Asked => {
                self.ahead = Ahead::Asked;
                return Sent::Blocked(0);
            }
            Ahead::Read(at, Ok(bytes)) if at == part.at() => {
                plain.extend_from_slice(&bytes[..bytes.len().min(length)]);
                return if bytes.is_empty() { Sent::ShortFile } else { Sent::Blocked(0) };
            }
            Ahead::Read(at, Err(errno)) if at == part.at() => return Sent::Failed(errno),
            Ahead::Read(..) | Ahead::Nothing => {}
        }
        if length == 0 {
            return Sent::Blocked(0);
        }
        plain.resize(before + length, 0);
        let moved = sys.read_file(part.file(), part.at(), &mut plain[before..]);
        plain.truncate(before + if let Moved::Bytes(count) = moved { count } else { 0 });
        match moved {
            Moved::Bytes(_) => Sent::Blocked(0),
            Moved::Ended => Sent::ShortFile,
            Moved::Failed(errno) => Sent::Failed(errno),
            Moved::Blocked => {
                self.ahead = Ahead::Asked;
                shared.read_later(sys, self.id, part.shared_file(), part.at(), length);
                Sent::Blocked(0)
            }
        }
    }

    /// The reader has read a part of a file.
    pub(crate) fn was_read(&mut self, ahead: Ahead) {
        self.ahead = ahead;
    }

    /// Sends what is left of earlier sealed bytes: nothing is sealed before the kernel has taken all of them.
    fn make_room<S: Sys>(&mut self, sys: &mut S, fd: Fd, shared: &mut Shared) -> Sent {
        if !self.ready {
            return Sent::Blocked(0);
        }
        if self.sent < self.rest.len() { self.flush_quietly(sys, fd, shared) } else { Sent::Bytes(0) }
    }

    /// `count` bytes of plaintext were sealed. `cut`: the rest of the output leaves when the socket is writable, so that other
    /// connections have their turn.
    fn sealed<S: Sys>(&mut self, sys: &mut S, fd: Fd, count: usize, cut: bool, shared: &mut Shared) -> Sent {
        let outcome = self.flush_quietly(sys, fd, shared);
        self.progress.sealed(count);
        match outcome {
            Sent::Bytes(_) if !cut => Sent::Bytes(count),
            Sent::Bytes(_) | Sent::Blocked(_) => Sent::Blocked(count),
            outcome => outcome,
        }
    }

    /// Lets the layer queue its last words, and sends what the kernel takes. An alert was the last word already.
    pub(crate) fn say_goodbye<S: Sys>(&mut self, sys: &mut S, fd: Fd, shared: &mut Shared) -> Sent {
        if !self.is_failed() {
            self.goodbye_alone |= self.follows == Follows::End && !self.owes();
            self.layer.finish();
        }
        self.flush(sys, fd, shared)
    }

    /// Ends our half: FIN after all owed bytes.
    pub(crate) fn finish<S: Sys>(&mut self, sys: &mut S, fd: Fd, shared: &mut Shared) -> Sent {
        self.fin_due = true;
        self.flush_quietly(sys, fd, shared)
    }

    /// Plaintext that the peer's system has not acknowledged, when `in_kernel` bytes of the wire are not acknowledged. A FIN,
    /// or the layer's own last words, count as one byte.
    pub(crate) fn unacknowledged(&self, in_kernel: usize) -> usize {
        let left = self.progress.unacknowledged(in_kernel + self.rest.len() - self.sent);
        left.max(usize::from(in_kernel > 0))
    }
}

impl fmt::Debug for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").field("id", &self.id).field("ready", &self.ready).finish_non_exhaustive()
    }
}
