//! The connections that a callback opens: to an address, to a descriptor.

use std::os::fd::{AsRawFd, OwnedFd};

use super::{Context, OpenKind, Pending, PendingOpen};
use crate::address::{Address, Peer};
use crate::error::Error;
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
        self.open(Origin::Outbound, Peer::of(&to), connection, OpenKind::Connect(to, None))
    }

    /// Connects to `to` as [`Context::connect`] does, with `layer` between the connection and the wire.
    /// [`Handler::on_connected`](crate::Handler::on_connected) comes when the layer is ready. A handshake that fails ends the
    /// connection with [`CloseReason::Handshake`](crate::CloseReason::Handshake);
    /// [`Deadlines::connect`](crate::Deadlines::connect) counts for both.
    pub fn connect_layered(&mut self, to: impl Into<Address>, layer: Box<dyn Layer>, connection: C) -> ConnectionId {
        let to = to.into();
        self.open(Origin::Outbound, Peer::of(&to), connection, OpenKind::Connect(to, Some(layer)))
    }

    /// Connects to `name`, `host:port`, and looks the host up without blocking the loop: a helper thread asks the resolver of the
    /// system (getaddrinfo(3)). Each address is tried in the resolver's order (RFC 6724) until one answers. The id is valid at once,
    /// and output is sent once the connection is established; everything else is as with [`Context::connect`].
    ///
    /// - [`Deadlines::connect`](crate::Deadlines::connect) counts for look-up and all addresses together. While further addresses
    ///   are left, an address gets an equal part of the time that is left. So a silent address does not take all of it.
    /// - A failed look-up ends the connection with [`CloseReason::LookUpFailed`](crate::CloseReason::LookUpFailed). If no address
    ///   answers, the reason is that of the last address. In `on_close`,
    ///   [`connect_error`](super::ConnectionRef::connect_error) names the host and the cause. A malformed `name` fails likewise, and
    ///   so does an unknown host.
    /// - Numeric addresses (`1.2.3.4:80`, `[::1]:80`) and `unix:PATH` are not looked up, and start no thread.
    /// - At most 8 look-ups of an application run at one time; further ones wait in order. A thread ends when no look-up waits. A
    ///   look-up that hangs when the application ends leaves its thread behind, until the resolver answers.
    /// - Under [`Runner::processes`](crate::Runner::processes) the process that accepts looks no name up, since it must have a single
    ///   thread: there, names fail with `LookUpFailed`. The process of a connection has no such limit.
    ///
    /// Absent: RFC 8305 (Happy Eyeballs) would ask for both families at the same time, start the next address after 250 ms, and keep
    /// the first that answers. Here the next address begins when the one before has failed, or its part of the time is over. No
    /// answer is cached, besides what the system caches.
    ///
    /// ```
    /// use reactor::{CloseReason, Context, Handler, Input};
    ///
    /// struct Client;
    ///
    /// impl Handler for Client {
    ///     type Connection = ();
    ///     fn on_start(&mut self, cx: &mut Context<'_>) {
    ///         let id = cx.connect_to("example.org:80", ());
    ///         cx.at(id).write("GET / HTTP/1.0\r\nHost: example.org\r\n\r\n");
    ///     }
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
    ///         input.take_all();
    ///     }
    ///     fn on_close(&mut self, _: (), _: CloseReason, cx: &mut Context<'_>) {
    ///         let id = cx.id();
    ///         if let Some(error) = cx.at(id).connect_error() {
    ///             eprintln!("{error}"); // example.org:80: failed to lookup address information: …
    ///         }
    ///     }
    /// }
    /// ```
    pub fn connect_to(&mut self, name: impl Into<String>, connection: C) -> ConnectionId {
        self.open(Origin::Outbound, Peer::Unresolved, connection, OpenKind::Dial(name.into(), None))
    }

    /// Connects to a name as [`Context::connect_to`] does, with `layer` between the connection and the wire, as
    /// [`Context::connect_layered`] does. An address whose handshake fails ends the connection: no further address is tried.
    pub fn connect_layered_to(
        &mut self,
        name: impl Into<String>,
        layer: Box<dyn Layer>,
        connection: C,
    ) -> ConnectionId {
        self.open(Origin::Outbound, Peer::Unresolved, connection, OpenKind::Dial(name.into(), Some(layer)))
    }

    /// The result of the layer's handshake with the peer ([`Layer::agreed`]), such as the name that a TLS
    /// client asked for. `None` outside [`Handler::on_open`](crate::Handler::on_open) and
    /// [`Handler::on_connected`](crate::Handler::on_connected), without a layer, and for another type.
    pub fn agreed<T: 'static>(&self) -> Option<&T> {
        self.core.agreed.as_ref()?.downcast_ref()
    }

    /// Takes over an open stream socket: one end of a socketpair(2), a connection that another process has handed over
    /// (SCM_RIGHTS, unix(7)), the socket that inetd starts a program with. From now on it is a connection like an accepted one: with the
    /// service's limits, counters and deadlines ([`Deadlines::first_request`](crate::Deadlines::first_request), too), with the
    /// peer's and its own address, in reports, and in [`Limits::connections`](crate::Limits::connections). It is open at once, so
    /// neither [`Handler::on_open`](crate::Handler::on_open) nor `on_connected` is called; input that waits in the socket comes
    /// first. For a peer that may be silent from the beginning, such as a helper process:
    /// [`change_deadlines`](super::ConnectionRef::change_deadlines).
    ///
    /// The socket becomes non-blocking and close-on-exec, and gets the service's
    /// [`SocketOptions`](crate::SocketOptions). All copies of the descriptor share the non-blocking mode. While another copy is
    /// open, in this process or another, [`close`](super::ConnectionRef::close) still ends the stream for the peer, but an abort
    /// does not.
    ///
    /// Returns [`ConnectionId::NONE`], and closes the descriptor, where [`Context::connect`] does so.
    ///
    /// # Errors
    /// [`Error::Adopted`] for a descriptor that is not a connected TCP or Unix stream: a file, a pipe, a datagram socket, a
    /// listener, a connection that its peer has reset. Also at the limit of connections. The descriptor is closed, `connection` is
    /// dropped, and nothing else changes.
    ///
    /// ```
    /// use reactor::{Application, CloseReason, Context, Handler, Input, Service};
    /// use std::os::unix::net::UnixStream;
    ///
    /// /// Serves one end of a pair of sockets.
    /// struct Pair(Option<UnixStream>);
    ///
    /// impl Handler for Pair {
    ///     type Connection = ();
    ///     fn on_start(&mut self, cx: &mut Context<'_>) {
    ///         if let Some(stream) = self.0.take() {
    ///             let id = cx.adopt(stream.into(), ()).expect("it is a stream");
    ///             cx.at(id).write("hello\n");
    ///         }
    ///     }
    ///     fn on_open(&mut self, _: &mut Context<'_>) {}
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///         cx.write(input.take_all());
    ///     }
    ///     fn on_close(&mut self, _: (), _: CloseReason, cx: &mut Context<'_>) {
    ///         cx.halt();
    ///     }
    /// }
    ///
    /// let (ours, theirs) = UnixStream::pair()?;
    /// let ours = std::sync::Mutex::new(Some(ours));
    /// let mut app = Application::new()?;
    /// app.add_service(Service::outbound(move || Pair(ours.lock().unwrap().take())))?;
    /// let peer = std::thread::spawn(move || -> std::io::Result<String> {
    ///     use std::io::{Read, Write};
    ///     (&theirs).write_all(b"and back\n")?;
    ///     theirs.shutdown(std::net::Shutdown::Write)?;
    ///     let mut heard = String::new();
    ///     (&theirs).read_to_string(&mut heard)?;
    ///     Ok(heard)
    /// });
    /// app.run()?;
    /// assert_eq!(peer.join().unwrap()?, "hello\nand back\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn adopt(&mut self, descriptor: OwnedFd, connection: C) -> Result<ConnectionId, Error> {
        self.take_in(descriptor, None, connection)
    }

    /// Takes over an open stream as [`Context::adopt`] does, with `layer` between the connection and the wire.
    /// [`Handler::on_connected`](crate::Handler::on_connected) comes when the layer is ready, within
    /// [`Deadlines::handshake`](crate::Deadlines::handshake).
    ///
    /// # Errors
    /// As [`Context::adopt`].
    pub fn adopt_layered(
        &mut self,
        descriptor: OwnedFd,
        layer: Box<dyn Layer>,
        connection: C,
    ) -> Result<ConnectionId, Error> {
        self.take_in(descriptor, Some(layer), connection)
    }

    fn take_in(
        &mut self,
        descriptor: OwnedFd,
        layer: Option<Box<dyn Layer>>,
        connection: C,
    ) -> Result<ConnectionId, Error> {
        let number = descriptor.as_raw_fd();
        let failed = |why| Error::Adopted { descriptor: number, why };
        if self.core.opens_refused || self.core.links.is_full() {
            return Ok(ConnectionId::NONE);
        }
        let terms = &self.core.terms[self.service as usize];
        let peer = self.core.sockets.prepare(&descriptor, &terms.tuning()).map_err(failed)?;
        if let Some(limit) = self.core.limit_reached(self.service) {
            return Err(failed(format!("at the limit of {limit} connections")));
        }
        let id = self.open(Origin::Adopted, peer, connection, OpenKind::Adopt(descriptor, layer));
        self.core.terms[self.service as usize].counts.come();
        Ok(id)
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
