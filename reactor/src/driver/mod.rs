//! The seam between the loop and the kernel. The loop handles received and sent bytes, and never readiness, a descriptor's flags
//! or EAGAIN. A driver makes completions of a backend that reports readiness (`readiness`), or could pass on the completions of
//! a backend that reports them.
//!
//! The contract of every driver:
//! - Bytes of [`Completion::Received`] stay in the scratch buffer until the next call.
//! - A connection gets at most one completion of each kind in a turn, with at most one scratch buffer of bytes. Further bytes
//!   come in the next turn, so no connection starves.
//! - Bytes that arrived before an end or a failure are reported before the end or failure, unless the link does not read.
//! - After [`Driver::release`] nothing is reported for the id, and the descriptor's number is not used again in this turn.

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

/// A completed operation, or an event, of one connection, one listener or the loop.
#[derive(Debug)]
pub(crate) enum Completion {
    /// An accepted connection, which the loop gives to [`Driver::adopt`] or to [`Acceptor::close_accepted`].
    Accepted { listener: usize, socket: Socket, peer: Peer },
    /// An outbound connection is established, or the layer of a connection is ready.
    Connected { id: ConnectionId },
    /// `count` bytes were received, into the beginning of the scratch buffer.
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
    /// Another thread or a signal has woken the loop: mailboxes and signals are to be read.
    Woken,
}

/// The descriptor of a connection that no driver has adopted yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Socket(Fd);

impl Socket {
    /// Takes an open non-blocking stream.
    pub(crate) fn owned(descriptor: OwnedFd) -> Socket {
        Socket(Fd(descriptor.into_raw_fd()))
    }

    /// The number of the descriptor.
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
    /// Resumes or stops accepting. Meanwhile new connections wait in the backlog.
    fn set_accepting(&mut self, listener: usize, accepting: bool);
    /// Stops watching the listener for good.
    fn forget_listener(&mut self, listener: usize);
    /// Stops accepting for a while, or until a descriptor is freed: the last accepted connection found no descriptor or memory.
    fn suspend(&mut self, listener: usize, errno: Errno);
    /// Whether accepting is stopped for lack of descriptors or memory.
    fn is_suspended(&self, listener: usize) -> bool;
    /// Tries to accept in the next turn without an event of the listener; for a suspended listener, after the suspension.
    fn probe_listener(&mut self, listener: usize);
    /// Closes an accepted connection that has no link.
    fn close_accepted(&mut self, socket: Socket);
    /// Counts an accepted connection out, which goes to another loop's driver and is counted there.
    fn count_out(&mut self);
    /// Counts a connection that another loop's driver has accepted.
    fn count_in(&mut self);
}

/// The interface of every backend, in terms of completions. Connections are named by id, and each [`Link`] knows its interest.
pub(crate) trait Driver: Clock + Acceptor {
    /// Ends the batch (descriptors released in it are closed now), brings every changed interest up to date, and waits
    /// at most `timeout`, counted from `now`, for something to report.
    fn wait(&mut self, links: &Links, timeout: Option<Duration>, now: Time) -> Result<(), Errno>;
    /// The number of events in this batch, if the batch is full: further events may wait for the next batch.
    fn full_batch(&self) -> Option<usize>;
    /// The short way for [`Completion::Received`], nearly every completion: returns the link and the number of bytes. `None`: the
    /// caller goes on with `next`.
    fn next_received<'l>(&mut self, links: &'l mut Links, scratch: &mut [u8]) -> Option<(&'l mut Link, usize)>;
    /// The next completion of this batch.
    fn next(&mut self, links: &Links, scratch: &mut [u8]) -> Option<Completion>;

    /// Adds an accepted connection. `reads_first`: the client has probably sent bytes, so the driver reads in this batch, before
    /// it registers the connection with the poller.
    fn adopt(&mut self, id: ConnectionId, socket: Socket, reads_first: bool);
    /// Puts a layer between an unused connection and the wire: `Connected` follows when the layer is ready.
    fn put_layer(&mut self, id: ConnectionId, layer: Box<dyn Layer>);
    /// The agreement of the connection's layer with the peer: see [`Layer::agreed`].
    fn agreed(&mut self, id: ConnectionId) -> Option<Box<dyn Any>>;
    /// Starts an outbound connection, tuned as with [`Acceptor::listen`]. `Connected` or `Failed` always follows, in a later call.
    fn connect(&mut self, id: ConnectionId, to: &Address, tuning: &Tuning) -> Fd;
    /// Closes the socket of a connection that the system has not connected, and returns the layer; the id may be connected again.
    /// `None`: the socket is connected.
    fn disconnect(&mut self, id: ConnectionId) -> Option<Option<Box<dyn Layer>>>;
    /// Adds a descriptor that is no socket, for reading.
    fn watch(&mut self, id: ConnectionId, descriptor: OwnedFd);

    /// Sends as much of the link's output as the kernel takes.
    fn send(&mut self, link: &Link) -> Sent;
    /// Sends `bytes`, which are the whole output of the link, or belong to no output. Bytes that do not leave stay the caller's.
    fn send_bytes(&mut self, link: &Link, bytes: &[u8]) -> Sent;
    /// Notes that the link's interest may have changed.
    fn changed(&mut self, id: ConnectionId);
    /// Tries to read in the next batch, without an event: `Received`, `Ended`, `Failed` or `Nothing` follows.
    fn probe(&mut self, id: ConnectionId);
    /// Sends the layer's last bytes, such as TLS's `close_notify`. After `Blocked`, `Sent` follows.
    fn say_goodbye(&mut self, id: ConnectionId) -> Sent;
    /// Ends our half: FIN follows the sent bytes.
    fn finish(&mut self, id: ConnectionId);
    /// Removes the connection, and closes its descriptor after the batch, with a reset if `reset` is set.
    fn release(&mut self, id: ConnectionId, reset: bool);
    /// The calls that callbacks may make about sockets.
    fn sockets(&self) -> Sockets;
    /// Bytes sent that the peer's system has not acknowledged yet.
    fn unacknowledged(&mut self, id: ConnectionId) -> usize;

    /// Every descriptor of the driver and of the listeners, which a child process must close.
    fn held(&self) -> Vec<Fd>;
    /// Number of connections' descriptors, without the released descriptors that are closed after the batch.
    fn descriptors(&self) -> usize;
}
