//! When a connection is read, and when unread input is offered again.

use super::{ConnectionRef, Context, Core};
use crate::token::ConnectionId;

impl ConnectionRef<'_> {
    /// Delivers no more input of the connection, not even bytes that the loop has already read, until the connection is
    /// resumed. A peer that goes on sending fills the kernel's buffers, and then waits.
    pub fn pause_reading(&mut self) {
        self.change(|link| link.pause());
    }

    /// Goes on after a pause. Kept input comes first, without waiting for the peer.
    pub fn resume_reading(&mut self) {
        self.change(|link| link.resume());
    }

    /// Offers the connection's unread input again in the next turn, after all other connections had their turn, and reads
    /// nothing more from the peer until then. For input that is small and costs much, such as a line that goes to thousands.
    /// For another connection: also for input left unread because of a missing piece that has come now.
    pub fn offer_again(&mut self) {
        let turn = self.core.turn;
        self.change(|link| link.offer_next_turn(turn));
    }

    /// Leaves input unread until all output queued for the connection's peer has left. Until then nothing is read, and no kept
    /// input is offered; then the unread input comes again. For a handler whose next answer is large: the handler waits without
    /// a turn in between, and needs no further byte of the peer to go on.
    ///
    /// Without queued output, the unread input is offered in the next turn, as by [`offer_again`](Self::offer_again).
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
        self.core.put_in_order(self.id);
        let turn = self.core.turn;
        self.change(|link| link.wait_for_output(turn));
    }

    /// Keeps reading from the connection however much its own peer is owed, for as long as the connection lives. For relays,
    /// which write a connection's input to another connection: otherwise two ends that both wait to be read would wait for each
    /// other for ever.
    ///
    /// Memory is then bounded by the handler alone. The handler pauses the connection when the *other* side is above its
    /// high-water mark ([`Written::AboveHighWater`](crate::Written::AboveHighWater)), and resumes the connection in the other
    /// side's [`Handler::on_drained`](crate::Handler::on_drained). So each direction holds at most
    /// [`Limits::output_high`](crate::Limits::output_high) and one receive buffer (64 KiB). The example `proxy` does so. A
    /// handler that answers on the same connection must not call `read_on`.
    pub fn read_on(&mut self) {
        self.change(|link| link.read_on());
    }

    /// The input that the connection's handler has left unread, without consuming any; empty while the input is lent.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context};
    /// /// Whether the peer has begun a request that is incomplete.
    /// fn is_in_a_request<C, M>(id: ConnectionId, cx: &mut Context<'_, C, M>) -> bool {
    ///     !cx.at(id).unread().is_empty()
    /// }
    /// ```
    pub fn unread(&self) -> &[u8] {
        self.core.unread(self.id)
    }
}

impl<C, M> Context<'_, C, M> {
    /// Delivers no more input of the connection until it is resumed: see [`ConnectionRef::pause_reading`].
    pub fn pause_reading(&mut self) {
        self.own().pause_reading();
    }

    /// Ends a pause; kept bytes are delivered first: see [`ConnectionRef::resume_reading`].
    pub fn resume_reading(&mut self) {
        self.own().resume_reading();
    }

    /// Offers the callback's unread input again in the next turn: see [`ConnectionRef::offer_again`].
    pub fn offer_again(&mut self) {
        self.own().offer_again();
    }

    /// Leaves input unread until all output queued for the connection's peer has left: see [`ConnectionRef::wait_for_output`].
    pub fn wait_for_output(&mut self) {
        self.own().wait_for_output();
    }

    /// Keeps reading from the connection however much its own peer is owed, for relays: see [`ConnectionRef::read_on`].
    pub fn read_on(&mut self) {
        self.own().read_on();
    }

    /// The connection's unread input, in a callback that is not lent the input: in
    /// [`Handler::on_close`](crate::Handler::on_close) for the last time, and in
    /// [`Handler::on_deadline`](crate::Handler::on_deadline), for example, without consuming any. Empty while the input is
    /// lent.
    ///
    /// ```
    /// use reactor::{CloseReason, Context, Handler, Input};
    ///
    /// /// Takes whole lines, and logs a line that was cut off.
    /// struct Lines;
    ///
    /// impl Handler for Lines {
    ///     type Connection = ();
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
    ///         while let Some(_line) = input.until_eol() {}
    ///     }
    ///     fn on_close(&mut self, _: (), reason: CloseReason, cx: &mut Context<'_>) {
    ///         eprintln!("{reason}, after {:?}", String::from_utf8_lossy(cx.unread()));
    ///     }
    /// }
    /// ```
    pub fn unread(&self) -> &[u8] {
        self.core.unread(self.id)
    }
}

impl Core {
    fn unread(&self, id: ConnectionId) -> &[u8] {
        let kept = self.links.get(id).and_then(|link| link.kept.as_ref());
        kept.map_or(&[], |kept| kept.lend().as_slice())
    }
}
