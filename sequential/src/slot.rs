//! The state that a connection's handler and its [`Peer`](crate::Peer) share: the waiting read, and the connection's end.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::rc::Rc;
use std::task::Waker;

use reactor::{AddressError, CloseReason, ConnectionId, Framed, Input, Peer};

use crate::station::{Buffer, Station, TaskKey};

/// The item that a read waits for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Want {
    /// All bytes up to and with the given byte, at most the given number in all.
    Until(u8, usize),
    /// A line of at most the given number of bytes, without its ending.
    Line(usize),
    /// Exactly the given number of bytes.
    Exactly(usize),
    /// All received bytes; the read waits while the input is empty.
    Some,
    /// A value of the decoder in [`Rest::decoding`]. The decoder keeps the value.
    Decoded,
}

impl Want {
    /// Takes the item out of `input`. A decoder's value is [`Framed::Incomplete`]: see [`Slot::find`].
    pub(crate) fn find<'i>(self, input: &mut Input<'i>) -> Framed<'i> {
        match self {
            Want::Until(byte, max) => input.until(byte, max),
            Want::Line(max) => input.until_eol_within(max),
            Want::Exactly(count) => input.take(count).map_or(Framed::Incomplete, Framed::Item),
            Want::Some if !input.is_empty() => Framed::Item(input.take_all()),
            Want::Some | Want::Decoded => Framed::Incomplete,
        }
    }
}

/// Takes a value out of the input, and stores the value for the decoder. Returns whether the input had a complete value.
pub(crate) type Decoding = Box<dyn FnMut(&mut Input<'_>) -> bool>;

/// The outcome of a search for an item.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The item is in the decoder, or in [`Slot::item`].
    Found,
    /// The item is longer than the read allows.
    TooLong,
    /// The input has ended before the item.
    Ended,
}

// The facts about a connection are bits of one number, because the path of a line tests and changes several at a time.

/// A read waits.
pub(crate) const READ: u32 = 1 << 0;
/// The waiting read is answered by an item, and has not been polled since.
pub(crate) const FOUND: u32 = 1 << 1;
/// The waiting read is answered by [`Answer::TooLong`], and has not been polled since.
pub(crate) const TOO_LONG: u32 = 1 << 2;
/// The read was dropped between its answer and its poll: the handler puts the item back into the input.
pub(crate) const CANCELLED: u32 = 1 << 3;
/// The queued bytes are above the high-water mark.
pub(crate) const HIGH: u32 = 1 << 4;
/// The connection is read even while the queued bytes are above the high-water mark.
pub(crate) const READS_ON: u32 = 1 << 5;
/// The last callback has left bytes unread. The reactor keeps the bytes, and offers them again after
/// [`offer`](crate::requests::offer).
pub(crate) const UNREAD: u32 = 1 << 6;
/// Reading is paused, because bytes arrived while no read waited.
pub(crate) const PAUSED: u32 = 1 << 7;
/// No more input is going to arrive: the peer has ended its half, or the application is stopping.
pub(crate) const ENDED: u32 = 1 << 8;
/// The input is over, so reads are answered from [`Rest::unread`].
pub(crate) const LOCAL: u32 = 1 << 9;
/// The connection is over.
pub(crate) const GONE: u32 = 1 << 10;
/// An outbound connection is established.
pub(crate) const CONNECTED: u32 = 1 << 11;
/// The application is stopping.
pub(crate) const STOPPING: u32 = 1 << 12;

/// The task has kept the answered read, and waits for something else: the item stays in the input until the read is polled again.
pub(crate) const IGNORED: u32 = 1 << 13;
/// The waiting read is not answered by the short way: it was polled with another waker than that of the task which serves the
/// connection ([`Rest::reader`]), or it reads by a decoder.
pub(crate) const DETOUR: u32 = 1 << 14;
/// The handler lends the input at the moment: the input may have bytes although [`UNREAD`] is not set.
pub(crate) const LENT: u32 = 1 << 15;
/// A read was answered. After the poll of its task, each of these means that the item goes back into the input.
pub(crate) const ANSWERED: u32 = FOUND | TOO_LONG | CANCELLED;
/// Each of these takes a read off the short way.
pub(crate) const UNUSUAL: u32 = HIGH | ENDED | LOCAL | DETOUR;

/// The state of a connection. An idle connection owns its slot and its future and nothing more, so rare parts are boxed.
pub(crate) struct Slot {
    /// The connection; [`ConnectionId::NONE`] until the handler has requested an outbound connection.
    pub(crate) id: Cell<ConnectionId>,
    pub(crate) station: Rc<Station>,
    /// The item that the last read wants.
    pub(crate) want: Cell<Want>,
    /// The item of an answered read, which has not been polled since. `None` for a decoder's value and for no bytes.
    pub(crate) item: Cell<Option<Buffer>>,
    /// The task whose read waits. The task that serves the connection, unless the connection is outbound.
    pub(crate) reader: Cell<TaskKey>,
    /// The data of the waker of the task that serves the connection. Null for an outbound connection.
    pub(crate) waker: Cell<*const ()>,
    /// Bytes in requests that wait for the handler ([`Command::Send`](crate::station::Command::Send)). Bytes of the connection's
    /// own task are in [`Station::output`] and not counted.
    pub(crate) pending: Cell<usize>,
    /// [`READ`] and the bits after it.
    pub(crate) flags: Cell<u32>,
    pub(crate) rest: RefCell<Option<Box<Rest>>>,
}

/// The rare part of a [`Slot`].
#[derive(Default)]
pub(crate) struct Rest {
    /// Bytes that were unread when the input ended.
    unread: Vec<u8>,
    /// Bytes of `unread` that later reads have taken.
    at: usize,
    /// The peer's address, once an outbound connection is established.
    pub(crate) address: Option<Peer>,
    /// The error for which an outbound connection by name was not established.
    pub(crate) connect_error: Option<AddressError>,
    /// The reason for the connection's end.
    pub(crate) reason: Option<CloseReason>,
    /// The decoder of the waiting read.
    pub(crate) decoding: Option<Decoding>,
    /// The waker of the waiting read ([`DETOUR`]). Not the task's own inside a set of futures that polls only those that were woken.
    pub(crate) reader: Option<Waker>,
    /// Tasks that wait for room in the output, or for an outbound connection.
    pub(crate) waiting: Vec<Waker>,
}

impl Slot {
    pub(crate) fn new(station: Rc<Station>, id: ConnectionId) -> Rc<Self> {
        Rc::new(Slot {
            id: Cell::new(id),
            station,
            want: Cell::new(Want::Some),
            item: Cell::new(None),
            reader: Cell::default(),
            waker: Cell::new(ptr::null()),
            pending: Cell::new(0),
            flags: Cell::new(0),
            rest: RefCell::new(None),
        })
    }

    /// Whether any of the bits is set.
    #[inline]
    pub(crate) fn is(&self, bits: u32) -> bool {
        self.flags.get() & bits != 0
    }

    #[inline]
    pub(crate) fn raise(&self, bits: u32) {
        self.flags.set(self.flags.get() | bits);
    }

    #[inline]
    pub(crate) fn lower(&self, bits: u32) {
        self.flags.set(self.flags.get() & !bits);
    }

    /// Searches `input` for the item that a read wants. Returns `None` while the item is incomplete.
    pub(crate) fn find(&self, input: &mut Input<'_>) -> Option<Answer> {
        let want = self.want.get();
        if want == Want::Decoded {
            return self.decode(input).then_some(Answer::Found);
        }
        match want.find(input) {
            Framed::Item(bytes) => {
                self.item.set(Some(self.station.share_of(bytes)));
                Some(Answer::Found)
            }
            Framed::Incomplete => None,
            Framed::TooLong => Some(Answer::TooLong),
        }
    }

    /// Whether the running task is the task that serves the connection.
    #[inline]
    pub(crate) fn is_of_running(&self) -> bool {
        self.station.is_running() && self.reader.get() == self.station.running.get()
    }

    /// # Panics
    /// When no task of the slot's service runs, or when the running task is not the task that serves the connection: nobody would wake
    /// the read. Tasks pass on outbound connections.
    pub(crate) fn check_reader(&self) {
        assert!(self.station.is_running(), "a peer is read outside the tasks of its service");
        let is_outbound = self.waker.get().is_null();
        assert!(is_outbound || self.is_of_running(), "a peer is read by another task than its own");
    }

    /// Takes the item of the answered read.
    #[inline]
    pub(crate) fn take_item(&self) -> Buffer {
        self.item.take().unwrap_or_default()
    }

    /// Takes the item that the waiting read wants out of `input`, if it is no line.
    #[inline(never)]
    pub(crate) fn find_other<'i>(&self, input: &mut Input<'i>) -> Framed<'i> {
        self.want.get().find(input)
    }

    /// Lets the decoder of the waiting read take a value out of `input`. The decoder may run a user's code, so nothing is borrowed
    /// meanwhile.
    fn decode(&self, input: &mut Input<'_>) -> bool {
        let mut decoding = self.take_decoding();
        let is_found = decoding.as_mut().is_some_and(|decode| decode(input));
        self.with_rest(|rest| rest.decoding = decoding);
        is_found
    }

    pub(crate) fn take_decoding(&self) -> Option<Decoding> {
        self.rest.borrow_mut().as_mut().and_then(|rest| rest.decoding.take())
    }

    pub(crate) fn with_rest<R>(&self, change: impl FnOnce(&mut Rest) -> R) -> R {
        change(self.rest.borrow_mut().get_or_insert_default())
    }

    /// Keeps the unread bytes of an input that is over: later reads are answered from this copy.
    pub(crate) fn keep_unread(&self, unread: &[u8]) {
        if !unread.is_empty() {
            self.with_rest(|rest| rest.unread.extend_from_slice(unread));
        }
        self.lower(UNREAD);
        self.raise(LOCAL);
    }

    /// Answers a read from the bytes that were unread when the input ended.
    pub(crate) fn find_locally(&self) -> Answer {
        let Some(unread) = self.rest.borrow_mut().as_mut().map(|rest| std::mem::take(&mut rest.unread)) else {
            return Answer::Ended;
        };
        let at = self.with_rest(|rest| rest.at);
        let mut input = Input::of(&unread[at..]);
        let answer = self.find(&mut input).unwrap_or(Answer::Ended);
        let at = unread.len() - input.len();
        self.with_rest(|rest| (rest.unread, rest.at) = (unread, at));
        answer
    }

    /// Takes the bytes that were unread when the input ended, without the bytes read since.
    pub(crate) fn take_unread(&self) -> Vec<u8> {
        let mut rest = self.rest.borrow_mut();
        let Some(Rest { unread, at, .. }) = rest.as_deref_mut() else { return Vec::new() };
        unread.drain(..std::mem::take(at));
        std::mem::take(unread)
    }

    /// Wakes the waiting read, if its waker is not that of its task, which is polled in any case.
    pub(crate) fn wake_reader(&self, own: &Waker) {
        self.lower(DETOUR);
        let waker = self
            .rest
            .borrow()
            .as_ref()
            .and_then(|rest| rest.reader.as_ref().filter(|waker| !waker.will_wake(own)).cloned());
        if let Some(waker) = waker {
            let _entered = self.station.enter();
            waker.wake();
        }
    }

    /// Wakes the tasks that wait for room or for the connection.
    pub(crate) fn wake_waiting(&self) {
        if let Some(rest) = &mut *self.rest.borrow_mut() {
            rest.waiting.drain(..).for_each(Waker::wake);
        }
    }

    /// Records the end of the connection, its reason and its unread bytes.
    pub(crate) fn over(&self, reason: CloseReason, unread: &[u8]) {
        if !self.is(LOCAL) {
            self.keep_unread(unread);
        }
        self.with_rest(|rest| rest.reason = rest.reason.or(Some(reason)));
        self.raise(ENDED);
        self.raise(GONE);
        self.lower(HIGH);
        self.lower(PAUSED);
    }

    pub(crate) fn reason(&self) -> Option<CloseReason> {
        self.rest.borrow().as_ref().and_then(|rest| rest.reason)
    }
}
