//! The state that a connection's handler and its [`Peer`](crate::Peer) share: the waiting read, and the connection's end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use reactor::{CloseReason, ConnectionId, Framed, Input};

use crate::station::{Station, TaskKey};

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

/// Takes a value out of the input, and stores the value for the decoder. Returns whether the input had a complete value.
pub(crate) type Decoding = Box<dyn FnMut(&mut Input<'_>) -> bool>;

/// The outcome of a search for an item.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The item is in [`Station::item`], or in the decoder.
    Found,
    /// The item is longer than the read allows.
    TooLong,
    /// The input has ended before the item.
    Ended,
}

impl Want {
    /// Searches `input` for the item, and copies the item into `item`. Returns `None` while the item is incomplete.
    #[inline]
    fn find(self, input: &mut Input<'_>, item: &mut Vec<u8>, decoding: Option<&mut Decoding>) -> Option<Answer> {
        let framed = match self {
            Want::Until(byte, max) => input.until(byte, max),
            Want::Line(max) => input.until_eol_within(max),
            Want::Exactly(count) => input.take(count).map_or(Framed::Incomplete, Framed::Item),
            Want::Some if input.is_empty() => Framed::Incomplete,
            Want::Some => Framed::Item(input.take_all()),
            Want::Decoded => return decoding.and_then(|decode| decode(input).then_some(Answer::Found)),
        };
        match framed {
            Framed::Item(bytes) => {
                item.extend_from_slice(bytes);
                Some(Answer::Found)
            }
            Framed::Incomplete => None,
            Framed::TooLong => Some(Answer::TooLong),
        }
    }
}

/// The state of a connection. An idle connection owns its slot and its future and nothing more, so rare parts are boxed.
pub(crate) struct Slot {
    /// The connection; [`ConnectionId::NONE`] until the handler has requested an outbound connection.
    pub(crate) id: Cell<ConnectionId>,
    pub(crate) station: Rc<Station>,
    /// The item that the waiting read wants.
    pub(crate) want: Cell<Want>,
    /// A read waits.
    pub(crate) is_read: Cell<bool>,
    /// The task whose read waits.
    pub(crate) reader: Cell<TaskKey>,
    /// Bytes in requests that wait for the handler ([`Command::Send`](crate::station::Command::Send)). Bytes of the connection's
    /// own task are in [`Station::output`] and not counted.
    pub(crate) pending: Cell<usize>,
    /// The answer to the waiting read, until the read is polled.
    pub(crate) answer: Cell<Option<Answer>>,
    /// The queued bytes are above the high-water mark.
    pub(crate) is_high: Cell<bool>,
    /// The connection is read even while the queued bytes are above the high-water mark.
    pub(crate) reads_on: Cell<bool>,
    /// The last callback has left bytes unread. The reactor keeps the bytes, and offers them again after
    /// [`offer`](crate::requests::offer).
    pub(crate) has_unread: Cell<bool>,
    /// Reading is paused, because bytes arrived while no read waited.
    pub(crate) is_paused: Cell<bool>,
    /// No more input is going to arrive: the peer has ended its half, or the application is stopping.
    pub(crate) has_ended: Cell<bool>,
    /// The input is over, so reads are answered from [`Rest::unread`].
    pub(crate) is_local: Cell<bool>,
    /// The connection is over.
    pub(crate) is_gone: Cell<bool>,
    /// An outbound connection is established.
    pub(crate) is_connected: Cell<bool>,
    /// The application is stopping.
    pub(crate) is_stopping: Cell<bool>,
    pub(crate) rest: RefCell<Option<Box<Rest>>>,
}

/// The rare part of a [`Slot`].
#[derive(Default)]
pub(crate) struct Rest {
    /// Bytes that were unread when the input ended.
    unread: Vec<u8>,
    /// Bytes of `unread` that later reads have taken.
    at: usize,
    /// The reason for the connection's end.
    pub(crate) reason: Option<CloseReason>,
    /// The decoder of the waiting read.
    pub(crate) decoding: Option<Decoding>,
    /// Tasks that wait for room in the output, or for an outbound connection.
    pub(crate) waiting: Vec<Waker>,
}

impl Slot {
    pub(crate) fn new(station: Rc<Station>, id: ConnectionId) -> Rc<Self> {
        Rc::new(Slot {
            id: Cell::new(id),
            station,
            want: Cell::new(Want::Some),
            is_read: Cell::new(false),
            reader: Cell::default(),
            pending: Cell::new(0),
            answer: Cell::new(None),
            is_high: Cell::new(false),
            reads_on: Cell::new(false),
            has_unread: Cell::new(false),
            is_paused: Cell::new(false),
            has_ended: Cell::new(false),
            is_local: Cell::new(false),
            is_gone: Cell::new(false),
            is_connected: Cell::new(false),
            is_stopping: Cell::new(false),
            rest: RefCell::new(None),
        })
    }

    /// Searches `input` for the item that the waiting read wants.
    #[inline]
    pub(crate) fn find(&self, want: Want, input: &mut Input<'_>) -> Option<Answer> {
        let item = &mut *self.station.item.borrow_mut();
        if want == Want::Decoded {
            let mut decoding = self.take_decoding();
            let answer = want.find(input, item, decoding.as_mut());
            self.with_rest(|rest| rest.decoding = decoding);
            return answer;
        }
        want.find(input, item, None)
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
        self.has_unread.set(false);
        self.is_local.set(true);
    }

    /// Answers a read from the bytes that were unread when the input ended.
    pub(crate) fn find_locally(&self, want: Want) -> Answer {
        let mut rest = self.rest.borrow_mut();
        let Some(Rest { unread, at, decoding, .. }) = rest.as_deref_mut() else { return Answer::Ended };
        let mut input = Input::of(&unread[*at..]);
        let answer = want.find(&mut input, &mut self.station.item.borrow_mut(), decoding.as_mut());
        *at = unread.len() - input.len();
        answer.unwrap_or(Answer::Ended)
    }

    /// Appends the bytes that were unread when the input ended to `item`, without the bytes read since.
    pub(crate) fn take_unread(&self, item: &mut Vec<u8>) {
        if let Some(rest) = &mut *self.rest.borrow_mut() {
            item.extend_from_slice(&rest.unread[rest.at..]);
            rest.unread = Vec::new();
            rest.at = 0;
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
        if !self.is_local.get() {
            self.keep_unread(unread);
        }
        self.with_rest(|rest| rest.reason = rest.reason.or(Some(reason)));
        self.has_ended.set(true);
        self.is_gone.set(true);
        self.is_high.set(false);
        self.is_paused.set(false);
    }

    pub(crate) fn reason(&self) -> Option<CloseReason> {
        self.rest.borrow().as_ref().and_then(|rest| rest.reason)
    }
}
