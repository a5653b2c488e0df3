//! The remote end of a connection, as a task sees it: reads wait, sends return at once.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Polling, Poll};

use reactor::{Bytes, CloseReason, ConnectionId, Topic};

use crate::decode::{Decode, Decoder};
use crate::read::{Read, ReadWithin};
use crate::slot::{GONE, HIGH, READS_ON, STOPPING, Slot, Want};
use crate::station::{Buffer, Command, Station};

/// Bytes that the running task may send before [`Peer::send_wait`] has the handler write them to the connection. The number of
/// queued bytes is known only after the write.
const SENT_AT_ONCE: usize = 64 * 1024;

/// The remote end of a connection, lent to the task that serves the connection.
///
/// A read takes the peer as `&mut`, so two reads of one peer cannot wait at once, and the peer cannot outlive its task:
///
/// ```compile_fail
/// async fn two_reads(peer: &mut sequential::Peer) {
///     sequential::first(peer.until_eol(), peer.receive(4)).await;
/// }
/// ```
/// ```compile_fail
/// async fn kept(peer: &mut sequential::Peer) {
///     sequential::fork(async move { peer.until_eol().await; });
/// }
/// ```
///
/// Nor does a peer, or a [`Client`](crate::Client), go to another thread:
///
/// ```compile_fail
/// async fn elsewhere(peer: &mut sequential::Peer) {
///     sequential::in_thread(move || peer.send("from a thread")).await.ok();
/// }
/// ```
///
/// A read by a task of another service, or of a served peer by another task, panics: the task would wait for ever. Such reads are
/// possible when a program swaps peers, or passes a client on through a thread-local variable. Sends work from any task.
///
/// Unread bytes stay in the reactor. While no read waits, the peer is not read, and [`Limits`](reactor::Limits),
/// [`Deadlines`](reactor::Deadlines) and backpressure hold as for callbacks.
///
/// # Ends
/// When the peer has ended its half, reads yield the complete items, and then `None`. Sends still work, and [`Peer::rest`] returns
/// the incomplete last item. When the connection is over, [`Peer::reason`] returns the cause; reads yield items received before the
/// end, and then `None` at once. When the application stops, reads yield received items, and then `None`. When the task returns,
/// the connection closes as by [`Context::close`](reactor::Context::close).
///
/// ```
/// use sequential::Peer;
///
/// /// Answers each line, also a last line without an ending.
/// async fn echo(peer: &mut Peer) {
///     while let Some(line) = peer.until_eol().await {
///         peer.send(b"You said: ");
///         peer.send(&line);
///     }
///     let rest = peer.rest();
///     if !rest.is_empty() {
///         peer.send(b"You said: ");
///         peer.send(&rest);
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(echo));
/// ```
pub struct Peer {
    pub(crate) slot: Rc<Slot>,
    pub(crate) address: Option<reactor::Peer>,
    /// Whether the task has opened the connection, and does not serve it.
    pub(crate) is_outbound: bool,
}

/// Bytes of the input, taken by a read. Later reads use the buffer again when the item is dropped.
///
/// ```
/// async fn first_word(peer: &mut sequential::Peer) {
///     if let Some(word) = peer.until(b' ').await {
///         assert_eq!(word.last(), Some(&b' '));
///         peer.send(word.to_ascii_uppercase());
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(first_word));
/// ```
pub struct Item(pub(crate) Buffer);

impl Item {
    /// Returns the bytes as a vector, copied unless they are many.
    pub fn into_vec(self) -> Vec<u8> {
        Rc::unwrap_or_clone(self.0)
    }
}

impl Deref for Item {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Item {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Item({})", self.0.escape_ascii())
    }
}

/// The item is longer than the read allows. Nothing was consumed.
///
/// ```
/// async fn short_lines(peer: &mut sequential::Peer) {
///     while let Ok(Some(line)) = peer.until_eol_within(80).await {
///         peer.send(&line);
///     } // ends the conversation at a longer line
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(short_lines));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the item is longer than allowed")
    }
}

impl std::error::Error for TooLong {}

impl Peer {
    // ---- reading ---------------------------------------------------------------------------------------------------

    /// Reads the next line with its `\n`. Yields `None` when no line comes any more: see [Ends](Self#ends). A line longer than
    /// [`Limits::input`](reactor::Limits::input) closes the connection.
    pub fn until_eol(&mut self) -> Read<'_> {
        Read::new(&self.slot, Want::Line(usize::MAX))
    }

    /// Reads the next line with its ending, `\n` or `\r\n`, of at most `max` bytes without the ending.
    ///
    /// # Errors
    /// [`TooLong`] when the line is, or is going to be, longer.
    pub fn until_eol_within(&mut self, max: usize) -> ReadWithin<'_> {
        ReadWithin(Read::new(&self.slot, Want::Line(max)))
    }

    /// Reads up to and with the next `byte`. Yields `None` as [`until_eol`](Self::until_eol) does.
    pub fn until(&mut self, byte: u8) -> Read<'_> {
        Read::new(&self.slot, Want::Until(byte, usize::MAX))
    }

    /// Reads up to and with the next `byte`, at most `max` bytes in all.
    ///
    /// # Errors
    /// [`TooLong`] when the item is, or is going to be, longer.
    pub fn until_within(&mut self, byte: u8, max: usize) -> ReadWithin<'_> {
        ReadWithin(Read::new(&self.slot, Want::Until(byte, max)))
    }

    /// Reads exactly `count` bytes. Yields `None` when fewer come. `count` is at most [`Limits::input`](reactor::Limits::input).
    pub fn receive(&mut self, count: usize) -> Read<'_> {
        Read::new(&self.slot, Want::Exactly(count))
    }

    /// Reads all received bytes, and waits for the first. Yields `None` when no byte comes any more.
    pub fn some(&mut self) -> Read<'_> {
        Read::new(&self.slot, Want::Some)
    }

    /// Reads the next value of a decoder of the callback face. Yields `None` as [`until_eol`](Self::until_eol) does.
    pub fn decode<'p, T: 'static>(&'p mut self, decoder: &'p mut Decoder<T>) -> Decode<'p, T> {
        Decode::new(&self.slot, decoder)
    }

    /// Takes the bytes that no read has taken, after a read has yielded `None`: a last line without its ending, for example. Empty
    /// before the first `None`. Later reads get nothing.
    pub fn rest(&self) -> Item {
        Item(Rc::new(self.slot.take_unread()))
    }

    // ---- sending ---------------------------------------------------------------------------------------------------

    /// Sends `bytes` after all earlier bytes, and returns at once. The bytes leave when the task waits next, in a single send with
    /// all other bytes since its last wait. Does nothing when the connection is over.
    ///
    /// While more than [`Limits::output_high`](reactor::Limits::output_high) bytes are queued, the peer is not read. A task that
    /// sends without reading, or sends a lot for each request, uses [`Peer::send_wait`].
    ///
    /// # Panics
    /// Outside a task of [`Tasks`](crate::Tasks), where a program can get with a peer in a thread-local variable.
    #[inline]
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        if self.is_outbound || !self.slot.is_of_running() {
            self.send_apart(bytes.as_ref());
        } else {
            self.slot.station.output.borrow_mut().extend_from_slice(bytes.as_ref());
        }
    }

    /// Sends to another connection than that which the running task serves.
    #[inline(never)]
    fn send_apart(&self, bytes: &[u8]) {
        Station::current("Peer::send").send_to(&self.slot, bytes);
    }

    /// Sends the pieces one after the other, at the price of one [`send`](Self::send).
    ///
    /// ```
    /// use sequential::Peer;
    ///
    /// async fn echo(peer: &mut Peer) {
    ///     while let Some(line) = peer.until_eol().await {
    ///         peer.send_all([b"You said: ", &*line]);
    ///     }
    /// }
    /// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(echo));
    /// ```
    #[inline(always)]
    pub fn send_all<const N: usize>(&self, pieces: [&[u8]; N]) {
        if self.is_outbound || !self.slot.is_of_running() {
            pieces.into_iter().for_each(|piece| self.send_apart(piece));
        } else {
            let mut output = self.slot.station.output.borrow_mut();
            pieces.into_iter().for_each(|piece| output.extend_from_slice(piece));
        }
    }

    /// Waits until at most [`Limits::output_high`](reactor::Limits::output_high) bytes are queued, and sends `bytes`. Returns
    /// `false` when the connection is over.
    ///
    /// ```
    /// use sequential::Peer;
    ///
    /// /// A megabyte for each line, and never more than the high-water mark and a piece in memory.
    /// async fn megabytes(peer: &mut Peer) {
    ///     while let Some(_line) = peer.until_eol().await {
    ///         for _ in 0..64 {
    ///             if !peer.send_wait(&[b'x'; 16 * 1024]).await {
    ///                 return;
    ///             }
    ///         }
    ///     }
    /// }
    /// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(megabytes));
    /// ```
    pub async fn send_wait(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        Room(&self.slot).await;
        self.send(bytes);
        !self.slot.is(GONE)
    }

    /// Returns a sender to the peer, for any task of the loop.
    pub fn sender(&self) -> Sender {
        Sender(self.slot.clone())
    }

    /// Ends our half of the connection after the queued bytes, and goes on reading: see
    /// [`Context::finish`](reactor::Context::finish).
    pub fn finish(&mut self) {
        self.ask(Command::Finish(self.slot.id.get()));
    }

    /// Ends the connection at once with a reset: see [`Context::abort`](reactor::Context::abort).
    pub fn abort(&mut self) {
        self.ask(Command::Abort(self.slot.id.get()));
    }

    /// Reads on even while many bytes are queued for the peer, for relays: see [`Context::read_on`](reactor::Context::read_on).
    pub fn read_on(&mut self) {
        self.slot.raise(READS_ON);
        self.ask(Command::ReadOn(self.slot.clone()));
    }

    // ---- topics ----------------------------------------------------------------------------------------------------

    /// Makes the peer a member of the topic: publications go to the peer without a task in between.
    pub fn subscribe(&mut self, topic: &Topic) {
        self.ask(Command::Subscribe(self.slot.id.get(), topic.clone()));
    }

    /// Ends the peer's membership of the topic.
    pub fn unsubscribe(&mut self, topic: &Topic) {
        self.ask(Command::Unsubscribe(self.slot.id.get(), topic.clone()));
    }

    /// Publishes to every member of the topic except the peer, on every loop.
    pub fn publish_to_others(&mut self, topic: &Topic, bytes: impl Into<Bytes>) {
        self.ask(Command::Publish(topic.clone(), bytes.into(), self.slot.id.get()));
    }

    // ---- the connection --------------------------------------------------------------------------------------------

    /// The id of the connection, which never names a later connection.
    pub fn id(&self) -> ConnectionId {
        self.slot.id.get()
    }

    /// The peer's address at the time the connection opened.
    pub fn address(&self) -> Option<reactor::Peer> {
        self.address
    }

    /// The reason for the connection's end; `None` while the connection is open.
    pub fn reason(&self) -> Option<CloseReason> {
        self.slot.reason()
    }

    /// Whether the application is stopping. The task may finish within the drain time.
    pub fn is_stopping(&self) -> bool {
        self.slot.is(STOPPING)
    }

    fn ask(&self, command: Command) {
        self.slot.station.ask(command);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.id()).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Sends to a peer from any task of the peer's loop. Not [`Send`]: topics reach the peers of all loops.
///
/// ```
/// use sequential::{Peer, fork, sleep};
/// use std::time::Duration;
///
/// /// Answers each line after a second, and reads on meanwhile.
/// async fn later(peer: &mut Peer) {
///     while let Some(line) = peer.until_eol().await {
///         let sender = peer.sender();
///         fork(async move {
///             sleep(Duration::from_secs(1)).await;
///             sender.send(&line);
///         });
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(later));
/// ```
#[derive(Clone)]
pub struct Sender(Rc<Slot>);

impl Sender {
    /// Sends `bytes`: see [`Peer::send`]. Returns `false` and sends nothing when the connection is over.
    ///
    /// # Panics
    /// Outside a task.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> bool {
        Station::current("Sender::send").send_to(&self.0, bytes.as_ref());
        !self.0.is(GONE)
    }

    /// Ends our half of the connection after the queued bytes: see [`Peer::finish`].
    ///
    /// # Panics
    /// Outside a task.
    pub fn finish(&self) {
        Station::current("Sender::finish").ask(Command::Finish(self.0.id.get()));
    }

    /// Waits for room, and sends `bytes`: see [`Peer::send_wait`].
    pub async fn send_wait(&self, bytes: impl AsRef<[u8]>) -> bool {
        Room(&self.0).await;
        self.send(bytes)
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.0.id.get()).finish()
    }
}

/// Waits until the queued bytes are at most the high-water mark.
struct Room<'p>(&'p Rc<Slot>);

impl Future for Room<'_> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<()> {
        let slot = self.0;
        if slot.is(GONE) {
            return Poll::Ready(());
        }
        if slot.is(HIGH) {
            slot.with_rest(|rest| {
                if !rest.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    rest.waiting.push(cx.waker().clone());
                }
            });
            return Poll::Pending;
        }
        if slot.station.output.borrow().len() > SENT_AT_ONCE || slot.pending.get() > SENT_AT_ONCE {
            // The handler writes the bytes to the connection, learns the number of queued bytes, and polls the task again.
            slot.station.again.set(true);
            slot.station.has_requests.set(true);
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}
