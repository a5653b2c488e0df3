//! State shared by the layered connections of one loop: buffers, the budget of handshakes, the reader of files.

use std::sync::Arc;
use std::time::Duration;

use super::reader::{Part, Reader};
use crate::stats::Counters;
use crate::sys::Sys;
use crate::time::Time;
use crate::token::ConnectionId;

/// Limits of handshake steps in one turn: their number, and the time after which no further step is taken. A full handshake
/// takes 0.2 ms with ECDSA, 1 ms and more with RSA, and established peers wait for all steps of a turn.
const STEPS_PER_TURN: u32 = 16;
const TIME_PER_TURN: Duration = Duration::from_millis(3);

pub(crate) struct Shared {
    pub(super) counters: Arc<Counters>,
    /// Bytes on their way to the wire. Empty between calls, kept for its capacity.
    pub(super) wire: Vec<u8>,
    /// Plaintext of several pieces, put together to be sealed at once. Empty between calls.
    pub(super) plain: Vec<u8>,
    /// Connections whose layer may owe bytes that leave at the end of the batch, unless an answer takes them along.
    unflushed: Vec<ConnectionId>,
    /// Connections whose layer holds more or less memory than was reported.
    unweighed: Vec<ConnectionId>,
    reader: Reader,
    steps: u32,
    spent: Duration,
}

impl Shared {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Shared {
            counters,
            wire: Vec::new(),
            plain: Vec::new(),
            unflushed: Vec::new(),
            unweighed: Vec::new(),
            reader: Reader::default(),
            steps: 0,
            spent: Duration::ZERO,
        }
    }

    /// A batch begins.
    pub(crate) fn new_batch(&mut self) {
        (self.steps, self.spent) = (0, Duration::ZERO);
    }

    /// Whether this turn has a budget left for a step of a handshake.
    pub(crate) fn may_shake_hands(&self) -> bool {
        self.steps < STEPS_PER_TURN && self.spent < TIME_PER_TURN
    }

    pub(super) fn shook_hands(&mut self, from: Time, to: Time) {
        self.steps += 1;
        self.spent += to.since(from);
    }

    pub(super) fn flush_later(&mut self, id: ConnectionId) {
        self.unflushed.push(id);
    }

    /// The next connection to be flushed at the end of the batch.
    pub(crate) fn next_unflushed(&mut self) -> Option<ConnectionId> {
        self.unflushed.pop()
    }

    pub(super) fn weigh_later(&mut self, id: ConnectionId) {
        self.unweighed.push(id);
    }

    /// The next connection whose memory is to be reported.
    pub(crate) fn next_unweighed(&mut self) -> Option<ConnectionId> {
        self.unweighed.pop()
    }

    /// Whether memory is to be reported.
    pub(crate) fn is_to_report(&self) -> bool {
        !self.unweighed.is_empty()
    }

    pub(super) fn read_later<S: Sys>(
        &mut self,
        sys: &S,
        id: ConnectionId,
        file: &Arc<std::fs::File>,
        at: u64,
        length: usize,
    ) {
        self.reader.ask(sys.waker(), id, file, at, length);
    }

    /// Parts of files that the reader has read, each with its connection.
    pub(crate) fn parts_read(&mut self) -> impl Iterator<Item = (ConnectionId, super::layered::Ahead)> + use<> {
        self.reader.take().into_iter().map(|Part { id, at, bytes }| (id, super::layered::Ahead::Read(at, bytes)))
    }
}
