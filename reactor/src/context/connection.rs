//! A connection as a value: the verbs of one connection of this loop, the callback's own or any other connection.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Context, Core, Written};
use crate::address::{Address, Peer};
use crate::buffer::{Output, Writer};
use crate::link::{Link, Origin};
use crate::reason::CloseReason;
use crate::sys::Fd;
use crate::token::ConnectionId;

/// Any connection of the loop, by its id: writes, closes, pauses, limits, addresses, counters. Lent by [`Context::at`].
///
/// A value is lent for every id. Where the id is stale, of another loop, or [`ConnectionId::NONE`], no connection exists:
/// requests do nothing, writes are [refused](Written::Refused), and questions are answered by `None`, 0 or `false`. No method
/// blocks. Requests take effect after the callback, and in their order.
///
/// The context has short forms for the callback's own connection: `cx.close()` is `cx.at(cx.id()).close()`.
///
/// ```
/// use reactor::{ConnectionId, Context, Handler, Input};
///
/// /// Each line is the id of a connection of this loop, as an integer. That connection is closed.
/// struct Kill;
///
/// impl Handler for Kill {
///     type Connection = ();
///     fn on_open(&mut self, cx: &mut Context<'_>) {
///         cx.write(format!("you are {}\n", cx.id()));
///     }
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
///         while let Some(line) = input.until_eol() {
///             let id = std::str::from_utf8(line).ok().and_then(|line| line.trim().parse().ok()).map(ConnectionId::from_u64);
///             let mut other = cx.at(id.unwrap_or_default());
///             let answer = match other.peer() {
///                 Some(peer) => format!("{peer} was here for {:?}\n", other.age()),
///                 None => "there is no such connection\n".to_owned(),
///             };
///             other.close();
///             cx.write(answer);
///         }
///     }
/// }
/// ```
pub struct ConnectionRef<'a> {
    pub(super) core: &'a mut Core,
    pub(super) id: ConnectionId,
}

impl<C, M> Context<'_, C, M> {
    /// Connection `id` of this loop, as a value with all verbs.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context};
    /// fn dismiss(guest: ConnectionId, cx: &mut Context<'_>) {
    ///     let mut guest = cx.at(guest);
    ///     guest.write("we are closing\n");
    ///     guest.close();
    /// }
    /// ```
    #[inline]
    pub fn at(&mut self, id: ConnectionId) -> ConnectionRef<'_> {
        ConnectionRef { core: self.core, id }
    }

    /// The handler's connections on this loop that have not ended, in no order: accepted, outbound and watched connections,
    /// including the callback's own. Empty outside a handler.
    ///
    /// Costs time and memory in proportion to all connections of the loop. Where there may be many thousands, and each costs
    /// something, a part is done in each turn ([`Context::request_turn`]): the list stays good, since ids go stale by themselves.
    ///
    /// ```
    /// use reactor::Context;
    /// fn say_to_all<C, M>(text: &str, cx: &mut Context<'_, C, M>) {
    ///     for id in cx.connections() {
    ///         cx.at(id).write(text);
    ///     }
    /// }
    /// ```
    pub fn connections(&self) -> Vec<ConnectionId> {
        let is_one = |link: &Link| link.origin != Origin::Refused && !link.is_over();
        let own = |link: &&Link| link.service == self.service && is_one(link);
        self.core.links.iter().filter(own).map(|link| link.id).collect()
    }

    /// The callback's own connection.
    #[inline]
    pub(super) fn own(&mut self) -> ConnectionRef<'_> {
        ConnectionRef { core: self.core, id: self.id }
    }
}

impl ConnectionRef<'_> {
    fn link(&self) -> Option<&Link> {
        self.core.links.get(self.id)
    }

    /// Lets `change` change the link. The link takes its next steps in this turn.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.core.links.get_mut(self.id) {
            change(link);
            self.core.mark_dirty(self.id);
        }
    }

    // ---- questions ---------------------------------------------------------------------------------------------------

    /// The id that the value was made with.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether the connection exists on this loop. A closing connection exists until its
    /// [`Handler::on_close`](crate::Handler::on_close) has returned.
    pub fn exists(&self) -> bool {
        self.link().is_some()
    }

    /// Address of the peer, without a system call; `None` if the connection does not exist on this loop.
    pub fn peer(&self) -> Option<Peer> {
        self.link().map(|link| link.peer)
    }

    /// The connection's own address: for an accepted connection the address that the peer has connected to, for an outbound
    /// connection the address that the system chose. One system call (getsockname(2)). `None` also before an outbound
    /// connection has a socket, for a [watched](Context::watch) descriptor, and for a Unix socket that is bound to no path.
    ///
    /// ```
    /// use reactor::Context;
    /// fn is_local(cx: &mut Context<'_>) -> bool {
    ///     let id = cx.id();
    ///     cx.at(id).local_address().is_some_and(|address| address.to_string().starts_with("tcp://127.0.0.1:"))
    /// }
    /// ```
    pub fn local_address(&self) -> Option<Address> {
        let descriptor = self.link()?.descriptor;
        if descriptor == Fd::NONE { None } else { self.core.sockets.local_address(descriptor) }
    }

    /// The connection's socket, for what has no method here: the credentials of a Unix peer (SO_PEERCRED), TCP_INFO, options
    /// that [`SocketOptions`](crate::SocketOptions) does not have. The loop reads, writes and closes the socket: a callback that
    /// does so, or makes the socket blocking, breaks the connection. `None` before an outbound connection has a socket, for a
    /// [watched](Context::watch) descriptor, and in a simulation.
    ///
    /// ```
    /// use reactor::Context;
    /// use std::os::fd::AsRawFd;
    /// fn number(cx: &mut Context<'_>) -> Option<i32> {
    ///     let id = cx.id();
    ///     cx.at(id).descriptor().map(|descriptor| descriptor.as_raw_fd())
    /// }
    /// ```
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.core.sockets.lend(self.link()?.descriptor)
    }

    /// Number of bytes received since the connection was opened, including bytes that the handler has left unread. 0 for a connection
    /// that does not exist.
    pub fn received(&self) -> u64 {
        self.link().map_or(0, |link| link.received)
    }

    /// Bytes that the kernel has taken for the peer since the connection was opened. The peer may not have read them yet.
    pub fn sent(&self) -> u64 {
        self.link().map_or(0, |link| link.sent)
    }

    /// Bytes queued for the peer that the kernel has not taken. Publications of the current turn are not counted yet.
    pub fn queued(&self) -> usize {
        self.link().map_or(0, Link::queued)
    }

    /// The time since the connection was opened, as of the current turn. Zero where no connection exists.
    pub fn age(&self) -> Duration {
        self.link().map_or(Duration::ZERO, |link| self.core.now.since(link.opened()))
    }

    /// Whether the connection ends because all connections together hold more than the application's memory budget
    /// ([`CloseReason::Memory`]). [`Handler::on_too_slow`](crate::Handler::on_too_slow) is called for that reason, too.
    ///
    /// ```
    /// use reactor::Context;
    /// /// For a handler's `on_too_slow`.
    /// fn last_words(cx: &mut Context<'_>) {
    ///     let id = cx.id();
    ///     let words = if cx.at(id).is_out_of_memory() { "come again later\n" } else { "too slow\n" };
    ///     cx.write(words);
    /// }
    /// ```
    pub fn is_out_of_memory(&self) -> bool {
        self.link().is_some_and(|link| link.reason() == CloseReason::Memory)
    }

    /// The time since a byte was last received or sent, as of the current turn. Zero where no connection exists.
    pub fn idle(&self) -> Duration {
        self.link().map_or(Duration::ZERO, |link| self.core.now.since(link.idle_since()))
    }

    // ---- writing ---------------------------------------------------------------------------------------------------

    /// Queues a copy of `bytes`. The copy leaves at the end of the turn, together with all other bytes written to the
    /// connection in this turn, in one send.
    #[inline]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> Written {
        self.put(|output| output.put(bytes.as_ref()))
    }

    /// Queues all of `bytes`, and leaves `bytes` empty: see [`Context::write_vec`](crate::Context::write_vec).
    pub fn write_vec(&mut self, bytes: &mut Vec<u8>) -> Written {
        let written = self.put(|output| output.put_vec(bytes));
        bytes.clear();
        written
    }

    /// Queues `bytes`: shared without a copy from 4 KiB on, copied if shorter.
    pub fn write_shared(&mut self, bytes: Bytes) -> Written {
        self.put(|output| output.put_shared(bytes))
    }

    /// Queues a range of a file: see [`Output::put_file`].
    pub fn write_file(&mut self, file: Arc<File>, range: Range<u64>) -> Written {
        self.put(|output| output.put_file(file, range))
    }

    /// Queues all bytes that `encode` puts into the [`Writer`], at the price of one write. Where a write would be refused,
    /// `encode` is not called.
    #[inline]
    pub fn encode(&mut self, encode: impl FnOnce(&mut Writer<'_>)) -> Written {
        self.put(|output| encode(&mut Writer::new(output)))
    }

    /// Lends a [`Writer`] that appends to the output, for encoders; `None` where a write would be refused.
    /// [`ConnectionRef::encode`] says in addition how much is queued then.
    pub fn output(&mut self) -> Option<Writer<'_>> {
        self.core.mark_dirty(self.id);
        self.core.output(self.id).map(Writer::new)
    }

    /// Lets `put` write to the connection. Returns the outcome.
    #[inline]
    pub(crate) fn put(&mut self, put: impl FnOnce(&mut Output)) -> Written {
        self.core.mark_dirty(self.id);
        self.core.put(self.id, put)
    }

    // ---- ending ----------------------------------------------------------------------------------------------------

    /// Closes the connection: sends queued output, ends our half, discards further input until the peer ends its half (within
    /// [`Deadlines::linger`](crate::Deadlines::linger) and [`Limits::linger_bytes`](crate::Limits::linger_bytes)), closes. No
    /// more input is delivered, and writes are refused.
    pub fn close(&mut self) {
        self.core.put_in_order(self.id);
        let now = self.core.now;
        self.change(|link| link.close(now));
    }

    /// Closes the connection without waiting for the peer to end its half: for a protocol in which the peer sends nothing more,
    /// such as HTTP after `Connection: close`. Saves four of nine system calls of a short connection. If the peer sends further
    /// bytes nevertheless, the close becomes a reset. The queued output has left before, but a system other than Linux may drop
    /// the bytes that its program has not read yet.
    pub fn close_briefly(&mut self) {
        self.core.put_in_order(self.id);
        let now = self.core.now;
        self.change(|link| link.close_briefly(now));
    }

    /// Ends our half (FIN) once all queued output has been sent, and goes on reading: the peer learns that no more output
    /// comes, and may still send. Writes are refused from now on. When the peer has ended its half too, the connection is over.
    pub fn finish(&mut self) {
        self.core.put_in_order(self.id);
        self.change(Link::finish);
    }

    /// Ends the connection at once with a reset: queued output is lost.
    pub fn abort(&mut self) {
        self.change(|link| link.abort(CloseReason::Aborted));
    }

    // ---- memory ----------------------------------------------------------------------------------------------------

    /// Tells the memory budget ([`Application::memory`](crate::Application::memory)) how many heap bytes the connection's state
    /// holds for its peer, such as the unfinished message of a decoder that consumes input in pieces. These bytes count like
    /// the connection's buffers, until another number is set or the connection ends: while memory is short, the connection is
    /// not read, or ends. A handler that gives the bytes back in [`Handler::on_too_slow`](crate::Handler::on_too_slow), and sets 0,
    /// keeps its last words: a closing connection that still holds much is reset. Counted in whole KiB, up to 64 MiB. The loop itself counts input that the handler leaves unread.
    ///
    /// ```
    /// use reactor::{Context, Input};
    /// fn on_data(unfinished: &mut Vec<u8>, input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///     unfinished.extend_from_slice(input.take_all());
    ///     cx.set_state_bytes(unfinished.capacity());
    /// }
    /// ```
    pub fn set_state_bytes(&mut self, bytes: usize) {
        if let Some(link) = self.core.links.get_mut(self.id)
            && link.set_state_bytes(bytes)
        {
            self.core.mark_dirty(self.id);
        }
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    /// Calls [`Handler::on_deadline`](crate::Handler::on_deadline) after the time `after`, counted from the end of the
    /// callback, and never before. Each connection has one such deadline; a further call replaces the deadline.
    pub fn set_deadline(&mut self, after: Duration) {
        self.change(|link| link.set_deadline(Some(after)));
    }

    /// Cancels the deadline that [`set_deadline`](Self::set_deadline) has set. Without one, does nothing.
    pub fn clear_deadline(&mut self) {
        self.change(|link| link.set_deadline(None));
    }
}

impl fmt::Debug for ConnectionRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionRef").field("id", &self.id).field("peer", &self.peer()).finish_non_exhaustive()
    }
}
