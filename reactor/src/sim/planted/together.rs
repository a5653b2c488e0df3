//! Sends that leave together have the planted bugs of a single send.

use super::Bug::SendsHalf;
use super::Flawed;
use crate::driver::{Driver, together};
use crate::error::Errno;
use crate::link::Sent;
use crate::sys::batch::{self, BatchSends};
use crate::sys::simulated::Simulated;
use crate::sys::{Fd, Moved, Sys};
use crate::token::ConnectionId;

impl batch::SendsTogether for Flawed<Simulated> {
    fn start_batches(&mut self, choice: BatchSends) -> Result<(), (&'static str, Errno)> {
        self.inner.start_batches(choice)
    }

    fn least_batch(&self) -> usize {
        self.inner.least_batch()
    }

    fn send_together<'a>(&mut self, sends: impl Iterator<Item = (Fd, &'a [u8])>, outcomes: &mut Vec<Moved>) {
        outcomes.extend(sends.map(|(fd, bytes)| self.send(fd, bytes)));
    }
}

impl<D: Driver> together::SendsTogether for Flawed<D> {
    fn least_batch(&self) -> usize {
        self.inner.least_batch()
    }

    fn send_together<'a>(&mut self, sends: impl Iterator<Item = (ConnectionId, &'a [u8])>) {
        let halves = self.bug == SendsHalf;
        let part = |bytes: &'a [u8]| if halves { &bytes[..bytes.len().div_ceil(2)] } else { bytes };
        self.inner.send_together(sends.map(|(id, bytes)| (id, part(bytes))));
    }

    fn next_sent_together(&mut self) -> Option<(ConnectionId, Sent)> {
        self.inner.next_sent_together()
    }

    fn sent_together(&mut self, id: ConnectionId) -> Option<Sent> {
        self.inner.sent_together(id)
    }
}
