//! The path of a client to its server: direct, or through a layer such as TLS.

use reactor::{Address, CloseReason, ConnectionId, Context, Layer};

use super::retry::cause_of;
use super::{Client, Order, Typed};

/// The client's state of one connection: to the server, or to the keyboard. Only [`Client`] uses the value.
///
/// ```
/// /// The context of the client's callbacks.
/// type Context<'a> = reactor::Context<'a, services::chat::Line, services::chat::Order>;
/// ```
#[derive(Debug)]
pub struct Line(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    Server(Address),
    Keyboard(Typed),
}

/// Makes the layer of each connection, and reports the cause of the latest failure.
pub(super) struct Way {
    layer: Box<dyn FnMut() -> Box<dyn Layer>>,
    cause: Box<dyn FnMut() -> Option<String>>,
}

impl<S> Client<S> {
    /// Sends every connection to the server through a layer made by `layer`. `cause` returns the reason of the latest
    /// failed handshake, if the layer knows the reason.
    pub fn layered(
        mut self,
        layer: impl FnMut() -> Box<dyn Layer> + 'static,
        cause: impl FnMut() -> Option<String> + 'static,
    ) -> Self {
        self.way = Some(Way { layer: Box::new(layer), cause: Box::new(cause) });
        self
    }

    pub(super) fn connect(&mut self, address: Address, cx: &mut Context<'_, Line, Order>) -> ConnectionId {
        let line = Line(Kind::Server(address.clone()));
        match &mut self.way {
            Some(way) => cx.connect_layered(address, (way.layer)(), line),
            None => cx.connect(address, line),
        }
    }

    /// The cause for the user.
    pub(super) fn cause_of(&mut self, reason: CloseReason) -> String {
        let known = self.way.as_mut().filter(|_| reason == CloseReason::Handshake).and_then(|way| (way.cause)());
        known.unwrap_or_else(|| cause_of(reason))
    }
}
