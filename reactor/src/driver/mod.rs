//! The seam. Above it bytes have arrived and bytes have left; nobody there sees readiness, a descriptor's flags or
//! EAGAIN. Below it is a backend that reports readiness (`readiness`), or one day one that reports completions by
//! itself.
//!
//! The contract, which every driver keeps:
//! - Bytes of [`Completion::Received`] stay in the scratch buffer until the next call.
//! - One completion of each kind for each connection and turn at most, of at most one scratch buffer of bytes: what is
//!   left comes in the next turn, so nobody starves.
//! - Bytes that arrived before an end or a failure are reported before it, unless the link does not read.
//! - After [`Driver::release`] nothing is reported for that id, and its descriptor's number is not used again before
//!   the turn is over.

mod readiness;

use std::any::Any;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::time::Duration;

use crate::address::{Address, Peer};
use crate::error::Errno;
use crate::layer::Layer;
use crate::link::{LayerEvent, Link, Links, Sent};
use crate::socket_options::Tuning;
use crate::sys::{Clock, Fd, Sockets};
use crate::time::Time;
use crate::token::ConnectionId;

pub(crate) use readiness::Readiness;

/// What has happened.
#[derive(Debug)]
pub(crate) enum Completion {
    /// An accepted connection. [`Driver::adopt`] or [`Acceptor::close_accepted`] it.
    Accepted { listener: usize, socket: Socket, peer: Peer },
    /// An outbound connection has come about.
    Connected { id: ConnectionId },
    /// So many bytes arrived, and begin the scratch buffer.
    Received { id: ConnectionId, count: usize },
    /// The answer to [`Driver::probe`]: nothing had arrived.
    Nothing { id: ConnectionId },
    /// The peer has ended its half.
    Ended { id: ConnectionId },
    /// Output of a blocked link has left.
    Sent { id: ConnectionId, outcome: Sent },
    /// Connecting or receiving has failed; the connection is over.
    Failed { id: ConnectionId, errno: Errno },
    /// The layer of a connection reports something that plain connections do not know.
    Layer { id: ConnectionId, event: LayerEvent },
    /// Somebody called: look into the mailboxes and at the signals.
    Woken,
}

/// An accepted connection that nobody has adopted yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Socket(Fd);

impl Socket {
    /// An open stream that does not block.
    pub(crate) fn owned(descriptor: OwnedFd) -> Socket {
        Socket(Fd(descriptor.into_raw_fd()))
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> Fd {
        self.0
    }

    /// Copies the number, for a caller that may need the socket again. The copy is the same descriptor.
    pub(crate) fn number(&self) -> Socket {
        Socket(self.0)
    }
}

/// The listeners of a backend, each under the number that [`Acceptor::listen`] returned, and accepted connections until they are
/// adopted.
pub(crate) trait Acceptor {
    /// Begins to accept from this listener, and returns its number in [`Completion::Accepted`]. `tuning` is applied to each accepted
    /// socket. The caller closes the listener.
    fn listen(&mut self, listener: Fd, name: &str, tuning: &Tuning) -> usize;
    /// Goes on with, or leaves off, accepting: new connections wait in the backlog.
    fn set_accepting(&mut self, listener: usize, accepting: bool);
    /// Stops watching the listener for good.
    fn forget_listener(&mut self, listener: usize);
    /// Leaves off accepting for a while, or until a descriptor is freed: whoever was accepted last found none, or no memory.
    fn suspend(&mut self, listener: usize, errno: Errno);
    /// Whether the listener rests for want of descriptors or memory.
    fn is_suspended(&self, listener: usize) -> bool;
    /// Accepts from this listener in the next turn, whether or not it is reported, or once the listener rests no more.
    fn probe_listener(&mut self, listener: usize);
    /// Closes an accepted connection that no link has.
    fn close_accepted(&mut self, socket: Socket);
    /// Another loop's driver gets the accepted connection, which counts there, and here no longer.
    fn count_out(&mut self);
    /// Counts a connection that another loop's driver has accepted.
    fn count_in(&mut self);
}

/// A backend, completion-shaped. The driver names connections by id, and asks each [`Link`] for its interest.
pub(crate) trait Driver: Clock + Acceptor {
    /// Ends the batch (descriptors released in it are closed now), brings every changed interest up to date, and waits
    /// at most `timeout`, counted from `now`, for something to report.
    fn wait(&mut self, links: &Links, timeout: Option<Duration>, now: Time) -> Result<(), Errno>;
    /// The number of events in this batch, if it has as many as one can have: others may have to wait for the next.
    fn full_batch(&self) -> Option<usize>;
    /// The short way of nearly every completion, [`Completion::Received`]: the connection, and the number of bytes. `None`: call
    /// `next`.
    fn next_received(&mut self, links: &Links, scratch: &mut [u8]) -> Option<(ConnectionId, usize)>;
    /// The next completion of this batch.
    fn next(&mut self, links: &Links, scratch: &mut [u8]) -> Option<Completion>;

    /// Takes an accepted connection on. `reads_first`: it has probably sent something, so look in this very batch, before the
    /// poller is told of it.
    fn adopt(&mut self, id: ConnectionId, socket: Socket, reads_first: bool);
    /// Puts a layer between an unused connection and the wire: `Connected` follows when the layer is ready.
    fn put_layer(&mut self, id: ConnectionId, layer: Box<dyn Layer>);
    /// The agreement of the connection's layer with the peer: see [`Layer::agreed`].
    fn agreed(&mut self, id: ConnectionId) -> Option<Box<dyn Any>>;
    /// Starts an outbound connection, tuned as with [`Acceptor::listen`]: `Connected` or `Failed` follows, later, always.
    fn connect(&mut self, id: ConnectionId, to: &Address, tuning: &Tuning);
    /// Lets the socket of a connection go that the system has not connected, and returns its layer; the id may be connected again.
    /// `None`: the socket is connected.
    fn disconnect(&mut self, id: ConnectionId) -> Option<Option<Box<dyn Layer>>>;
    /// Takes on a descriptor that is no socket, for reading.
    fn watch(&mut self, id: ConnectionId, descriptor: OwnedFd);

    /// Sends as much of the link's output as goes.
    fn send(&mut self, link: &Link) -> Sent;
    /// Sends bytes that stand in no output, for a link with an empty output. Bytes that do not leave stay the caller's.
    fn send_bytes(&mut self, id: ConnectionId, bytes: &[u8]) -> Sent;
    /// The link's interest may have changed.
    fn changed(&mut self, id: ConnectionId);
    /// Look whether something has arrived: `Received`, `Ended` or `Failed` follows, or `Nothing`.
    fn probe(&mut self, id: ConnectionId);
    /// Has the layer say its last words. After `Blocked`, `Sent` follows.
    fn say_goodbye(&mut self, id: ConnectionId) -> Sent;
    /// Ends our half: FIN after what was sent.
    fn finish(&mut self, id: ConnectionId);
    /// Lets the connection go, with a reset if asked to.
    fn release(&mut self, id: ConnectionId, reset: bool);
    /// The connection's descriptor; [`Fd::NONE`] when it has none.
    fn descriptor(&self, id: ConnectionId) -> Fd;
    /// The calls that callbacks may make about sockets.
    fn sockets(&self) -> Sockets;
    /// Bytes sent that the peer's system has not acknowledged yet.
    fn unacknowledged(&mut self, id: ConnectionId) -> usize;

    /// Every descriptor of the driver and of the listeners, which a child process must close.
    fn held(&self) -> Vec<Fd>;
    /// Descriptors of connections, those not counted that are closed once the batch is over.
    fn descriptors(&self) -> usize;
}
