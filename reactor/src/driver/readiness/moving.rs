//! One receive or one send for a connection, and the meaning of the outcome.

use std::io::IoSlice;

use super::super::{Completion, Driver};
use super::Readiness;
use crate::buffer::{FilePart, Output};
use crate::link::Sent;
use crate::sys::{Fd, Moved, Sys};
use crate::token::ConnectionId;

/// Pieces gathered in one send: beyond some dozens, the kernel copies no faster.
const PIECES_PER_SEND: usize = 64;
/// Bytes of a file that one connection is sent in one turn: some hundred microseconds, for which all other connections wait.
const FILE_BYTES_PER_TURN: usize = 1024 * 1024;

impl<S: Sys> Readiness<S> {
    /// Receives once. Returns the completion, or `None` when no byte has arrived.
    #[inline]
    pub(super) fn receive(&mut self, id: ConnectionId, fd: Fd, socket: bool, scratch: &mut [u8]) -> Option<Completion> {
        if self.slot(id).is_some_and(|slot| slot.layer.is_some()) {
            return self.receive_layered(id, scratch);
        }
        let moved = if socket { self.sys.recv(fd, scratch) } else { self.sys.read(fd, scratch) };
        self.heard(id, moved, scratch.len())
    }

    /// Makes the completion of a receive's outcome. After a full buffer (`room`) more may be in the socket: the next batch reads on.
    pub(super) fn heard(&mut self, id: ConnectionId, moved: Moved, room: usize) -> Option<Completion> {
        match moved {
            Moved::Bytes(count) => {
                if count == room || self.slot(id).is_some_and(|slot| slot.behind) {
                    self.probe(id);
                }
                Some(Completion::Received { id, count })
            }
            Moved::Blocked => {
                self.slot_mut(id).into_iter().for_each(|slot| slot.read_in = 0);
                None
            }
            Moved::Ended => Some(Completion::Ended { id }),
            Moved::Failed(errno) => Some(Completion::Failed { id, errno }),
        }
    }

    /// Sends once: after a short send, a second send would nearly always return EAGAIN. `ends`: FIN follows, in one packet with the rest.
    #[inline]
    pub(super) fn transmit(&mut self, fd: Fd, output: &Output, ends: bool) -> Sent {
        if output.is_empty() {
            return Sent::Bytes(0);
        }
        let (moved, offered) = match (output.single(), output.before_file()) {
            (Some(bytes), _) => (self.sys.send(fd, bytes, ends), bytes.len()),
            (None, Some(bytes)) => (self.sys.send(fd, bytes, true), bytes.len()),
            (None, None) => {
                let mut pieces = [IoSlice::new(&[]); PIECES_PER_SEND];
                let filled = output.gather(&mut pieces);
                if let Some(part) = output.file().filter(|_| filled == 0) {
                    return self.transmit_file(fd, part);
                }
                if filled == 0 {
                    // The next item of the output is a notice of missed messages, which has no bytes yet.
                    return Sent::Bytes(0);
                }
                let offered = pieces[..filled].iter().map(|piece| piece.len()).sum();
                (self.sys.send_vectored(fd, &pieces[..filled], ends || output.has_file()), offered)
            }
        };
        self.transmitted(moved, offered)
    }

    #[inline]
    pub(super) fn transmit_bytes(&mut self, fd: Fd, bytes: &[u8]) -> Sent {
        let moved = self.sys.send(fd, bytes, false);
        self.transmitted(moved, bytes.len())
    }

    /// Sends a part of a file, at most [`FILE_BYTES_PER_TURN`]. The rest waits until the socket is writable, possibly at once.
    pub(super) fn transmit_file(&mut self, fd: Fd, part: &FilePart) -> Sent {
        let offered = part.length().min(FILE_BYTES_PER_TURN);
        match self.sys.send_file(fd, part.file(), part.at(), offered) {
            Moved::Ended => Sent::ShortFile,
            Moved::Bytes(count) if count == offered && offered < part.length() => Sent::Blocked(count),
            moved => self.transmitted(moved, offered),
        }
    }

    #[inline]
    pub(super) fn transmitted(&mut self, moved: Moved, offered: usize) -> Sent {
        match moved {
            Moved::Bytes(count) if count == offered => Sent::Bytes(count),
            Moved::Bytes(count) => {
                self.counters.partial_sends.add(1);
                Sent::Blocked(count)
            }
            Moved::Blocked | Moved::Ended => Sent::Blocked(0),
            Moved::Failed(errno) => Sent::Failed(errno),
        }
    }
}
