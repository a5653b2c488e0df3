//! Lends received bytes to the handler: the scratch buffer itself, or kept input with the new bytes appended.

use super::EventLoop;
use crate::buffer::{Input, Kept};
use crate::context::Core;
use crate::driver::Driver;
use crate::host::Host;
use crate::link::{Link, Links};
use crate::recorder::What;
use crate::token::ConnectionId;

impl<D: Driver> EventLoop<D> {
    /// Handles the bytes of the connection that `next` finds, if any. Inlined by force, since this has two callers: the short way,
    /// and the way of all other completions.
    #[inline(always)]
    pub(super) fn received(
        &mut self,
        scratch: &mut [u8],
        next: impl for<'l> FnOnce(&mut D, &'l mut Links, &mut [u8]) -> Option<(&'l mut Link, usize)>,
    ) -> bool {
        let Some((link, count)) = next(&mut self.driver, &mut self.core.links, scratch) else { return false };
        let (id, bytes) = (link.id, &scratch[..count]);
        if link.is_counted() {
            self.core.counters.received.add(bytes.len() as u64);
        }
        self.core.recorder.note(id, What::Received(bytes.len() as u32), self.core.now);
        if !link.received(bytes.len(), self.core.now) {
            link.discard(bytes.len(), &self.core.bounds[link.bounds].limits);
            self.core.counters.unread.add(bytes.len() as u64);
            self.advance_link(id);
        } else if let Some(kept) = link.kept.take() {
            self.received_more(id, kept, bytes);
        } else {
            let (service, key, useful) = (link.service as usize, link.state, link.is_useful());
            let mut input = Input::of(bytes);
            self.hosts[service].host.data(&mut self.core, id, key, &mut input);
            self.after_callback(id);
            if !(input.is_idle() && useful) {
                self.keep_rest(id, &input);
            }
            self.advance_answered(id);
        }
        true
    }

    /// Appends new bytes to kept input, and lends both.
    #[inline(never)]
    fn received_more(&mut self, id: ConnectionId, mut kept: Box<Kept>, bytes: &[u8]) {
        kept.append(bytes);
        if kept.is_too_short() {
            self.keep(id, Some(kept), false);
        } else {
            self.lend_kept(id, kept, |host, core, key, input| host.data(core, id, key, input));
        }
        self.advance_link(id);
    }

    /// Copies the bytes that the handler left unread out of the scratch buffer.
    #[inline(never)]
    fn keep_rest(&mut self, id: ConnectionId, input: &Input<'_>) {
        let kept = (!input.is_idle()).then(|| {
            // A request for more bytes alone needs no buffer.
            let mut kept = if input.is_empty() { Box::default() } else { self.core.pool.take_kept() };
            kept.keep(input);
            kept
        });
        self.keep(id, kept, input.has_consumed());
    }

    /// Lends kept input, with new bytes appended to it.
    pub(super) fn lend_kept(
        &mut self,
        id: ConnectionId,
        mut kept: Box<Kept>,
        callback: impl FnOnce(&mut dyn Host, &mut Core, u32, &mut Input<'_>),
    ) {
        let Some(link) = self.core.links.get(id) else { return };
        let (service, key) = (link.service as usize, link.state);
        let mut input = kept.lend();
        let before = input.len();
        callback(&mut *self.hosts[service].host, &mut self.core, key, &mut input);
        let (left, consumed) = (input.left(), input.len() < before);
        match kept.replacement(&input) {
            None => kept.settle(left),
            Some(bytes) => kept.replace(&bytes),
        }
        self.after_callback(id);
        if kept.is_idle() {
            self.core.pool.give_kept(kept);
            self.keep(id, None, consumed);
        } else {
            self.keep(id, Some(kept), consumed);
        }
    }

    /// Gives the bytes that the handler left unread back to the link.
    fn keep(&mut self, id: ConnectionId, kept: Option<Box<Kept>>, consumed: bool) {
        let Core { links, bounds, pool, counters, now, .. } = &mut self.core;
        let Some(link) = links.get_mut(id) else { return };
        if let Some(unread) = link.keep(kept, consumed, &bounds[link.bounds].limits, *now) {
            counters.unread.add(unread.len() as u64);
            pool.give_kept(unread);
        }
    }
}
