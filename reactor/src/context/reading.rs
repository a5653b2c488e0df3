//! When a connection is read, and when what was left unread is offered again.

use super::Context;
use crate::token::ConnectionId;

impl Context<'_> {
    /// Delivers no more input of this connection, not even bytes that were read already, until it is resumed. A peer
    /// that goes on sending fills the kernel's buffers, and then waits.
    pub fn pause_reading(&mut self) {
        self.pause_reading_id(self.id);
    }

    /// Pauses connection `id` of this loop: see [`pause_reading`](Self::pause_reading).
    pub fn pause_reading_id(&mut self, id: ConnectionId) {
        if let Some(link) = self.core.links.get_mut(id) {
            link.pause();
            self.core.mark_dirty(id);
        }
    }

    /// Goes on after a pause. What was kept comes first, without waiting for the peer.
    pub fn resume_reading(&mut self) {
        self.resume_reading_id(self.id);
    }

    /// Resumes connection `id` of this loop: see [`resume_reading`](Self::resume_reading).
    pub fn resume_reading_id(&mut self, id: ConnectionId) {
        if let Some(link) = self.core.links.get_mut(id) {
            link.resume();
            self.core.mark_dirty(id);
        }
    }

    /// Enough for now: offers what this callback leaves unread again in the next turn, after everybody else had theirs,
    /// and reads nothing more from the peer until then. For input that is small and costs much, such as a line that
    /// goes to thousands.
    pub fn offer_again(&mut self) {
        let turn = self.core.turn;
        if let Some(link) = self.core.links.get_mut(self.id) {
            link.offer_next_turn(turn);
            self.core.mark_dirty(self.id);
        }
    }

    /// Leaves input unread until all that is queued for this connection's peer has left. Until then nothing is read, and
    /// nothing kept is offered; then what this callback leaves unread comes again. For a handler whose next answer is
    /// large: it waits without a turn in between, and no byte of the peer's is needed to go on.
    ///
    /// Where nothing is queued there is nothing to wait for, and what is left unread is offered in the next turn, as by
    /// [`Context::offer_again`].
    ///
    /// ```
    /// use reactor::{Context, Handler, Input};
    ///
    /// /// Answers each line with 9 MiB, one answer at a time.
    /// struct Big;
    ///
    /// impl Handler for Big {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///         while !input.is_empty() {
    ///             if cx.queued() > 0 {
    ///                 return cx.wait_for_output();
    ///             }
    ///             let Some(_line) = input.until_eol() else { return };
    ///             cx.write(vec![b'x'; 9 << 20]);
    ///         }
    ///     }
    /// }
    /// ```
    pub fn wait_for_output(&mut self) {
        self.wait_for_output_id(self.id);
    }

    /// Leaves the input of connection `id` of this loop unread until its output has left: see
    /// [`wait_for_output`](Self::wait_for_output).
    pub fn wait_for_output_id(&mut self, id: ConnectionId) {
        self.core.put_in_order(id);
        let turn = self.core.turn;
        if let Some(link) = self.core.links.get_mut(id) {
            link.wait_for_output(turn);
            self.core.mark_dirty(id);
        }
    }

    /// Reads on from this connection however much its own peer is owed, for as long as it lives. For relays, whose input
    /// is written to another connection: without it two ends that both wait to be read wait for each other for ever.
    ///
    /// Memory is then bounded by the handler alone. It pauses the connection when the *other* side is above its high-water
    /// mark ([`Written::AboveHighWater`](crate::Written::AboveHighWater)), and resumes it in the other side's
    /// [`Handler::on_drained`](crate::Handler::on_drained): so each direction holds at most
    /// [`Limits::output_high`](crate::Limits::output_high) and one receive buffer (64 KiB). The example `proxy` does so.
    /// A handler that answers on the same connection must not use it.
    pub fn read_on(&mut self) {
        self.read_on_id(self.id);
    }

    /// Reads on from connection `id` of this loop however much its peer is owed: see [`read_on`](Self::read_on).
    pub fn read_on_id(&mut self, id: ConnectionId) {
        if let Some(link) = self.core.links.get_mut(id) {
            link.read_on();
            self.core.mark_dirty(id);
        }
    }
}
