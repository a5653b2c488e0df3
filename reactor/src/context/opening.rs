//! The connections that a callback opens: to an address, to a descriptor.

use std::os::fd::OwnedFd;

use super::{Context, OpenKind, Pending, PendingOpen};
use crate::address::{Address, Peer};
use crate::layer::Layer;
use crate::link::{Link, NO_STATE, Origin};
use crate::token::ConnectionId;

impl<C: 'static, M> Context<'_, C, M> {
    /// Connects to `to`. The new connection belongs to the handler like any other: `connection` is its state. The id is valid
    /// at once: output is sent once the connection is established. The outcome is
    /// [`Handler::on_connected`](crate::Handler::on_connected), or [`Handler::on_close`](crate::Handler::on_close) with
    /// [`CloseReason::ConnectFailed`](crate::CloseReason::ConnectFailed) or
    /// [`CloseReason::TimedOut`](crate::CloseReason::TimedOut).
    ///
    /// Returns [`ConnectionId::NONE`], and does nothing, in a [`Handler::on_close`](crate::Handler::on_close) while the
    /// application is stopping, so that a handler that always connects again can end; and when the loop has 2^23 connections.
    pub fn connect(&mut self, to: impl Into<Address>, connection: C) -> ConnectionId {
        let to = to.into();
        let peer = match &to {
            Address::Tcp(address) => Peer::tcp(*address),
            Address::Unix(_) => Peer::Unix,
        };
        self.open(Origin::Outbound, peer, connection, OpenKind::Connect(to, None))
    }

    /// Connects to `to` as [`Context::connect`] does, with `layer` between the connection and the wire.
    /// [`Handler::on_connected`](crate::Handler::on_connected) comes when the layer is ready. A handshake that fails ends the
    /// connection with [`CloseReason::Handshake`](crate::CloseReason::Handshake);
    /// [`Deadlines::connect`](crate::Deadlines::connect) counts for both.
    pub fn connect_layered(&mut self, to: impl Into<Address>, layer: Box<dyn Layer>, connection: C) -> ConnectionId {
        let to = to.into();
        let peer = match &to {
            Address::Tcp(address) => Peer::tcp(*address),
            Address::Unix(_) => Peer::Unix,
        };
        self.open(Origin::Outbound, peer, connection, OpenKind::Connect(to, Some(layer)))
    }

    /// The result of the layer's handshake with the peer ([`Layer::agreed`](crate::Layer::agreed)), such as the name that a TLS
    /// client asked for. `None` outside [`Handler::on_open`](crate::Handler::on_open) and
    /// [`Handler::on_connected`](crate::Handler::on_connected), without a layer, and for another type.
    pub fn agreed<T: 'static>(&self) -> Option<&T> {
        self.core.agreed.as_ref()?.downcast_ref()
    }

    /// Reads `descriptor`, which is no socket: a pipe, a terminal, a file; standard input through
    /// `std::io::stdin().as_fd().try_clone_to_owned()`. Input goes to [`Handler::on_data`](crate::Handler::on_data) like a
    /// peer's bytes, with [`Peer::Descriptor`]; writes are refused, and only the handler's own deadline applies.
    ///
    /// The descriptor is never made non-blocking, since other processes that have it open would notice. The loop reads the
    /// descriptor only when it is ready, so the loop blocks only if another process takes the bytes first. A regular file is
    /// always ready. A terminal is read only while it belongs to this job (`glowplug &` runs on, and takes no input typed for
    /// other jobs).
    pub fn watch(&mut self, descriptor: OwnedFd, connection: C) -> ConnectionId {
        self.open(Origin::Watched, Peer::Descriptor, connection, OpenKind::Watch(descriptor))
    }

    fn open(&mut self, origin: Origin, peer: Peer, connection: C, kind: OpenKind) -> ConnectionId {
        let core = &mut *self.core;
        if core.opens_refused || core.links.is_full() {
            return ConnectionId::NONE;
        }
        let id = core.links.insert(Link::new(origin, peer, self.service, NO_STATE, core.now));
        core.opening.push(Pending::Open(PendingOpen { id, state: Box::new(connection), kind }));
        id
    }
}
