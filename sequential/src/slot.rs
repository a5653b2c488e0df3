//! The state of one connection that its handler and its [`Peer`](crate::Peer) share: the read that waits, and the end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use reactor::{CloseReason, ConnectionId, Framed, Input};

use crate::station::{Station, TaskKey};

/// The item that a read waits for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Want {
    /// Everything up to and with this byte, of at most `max` bytes in all.
    Until(u8, usize),
    /// A line of at most `max` bytes, its ending not counted.
    Line(usize),
    /// Exactly so many bytes.
    Exactly(usize),
    /// All bytes that are there, at least one.
    Some,
    /// A value of the decoder in [`Rest::decoding`]. The decoder keeps the value.
    Decoded,
}

/// Takes a value out of the input, and puts it where the decoder finds it. Returns whether there was one.
pub(crate) type Decoding = Box<dyn FnMut(&mut Input<'_>) -> bool>;

/// The outcome of a search for an item.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The item is in [`Station::item`], or in the decoder.
    Found,
    /// The item is longer than allowed.
    TooLong,
    /// The input has ended before the item.
    Ended,
}

impl Want {
    /// Searches `input`, and copies an item into `item`. `None` while the item is not complete.
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

/// The state of one connection. An idle connection owns this and nothing else beside its future, so rare parts are boxed.
pub(crate) struct Slot {
    /// The connection; [`ConnectionId::NONE`] before an outbound one is asked for.
    pub(crate) id: Cell<ConnectionId>,
    pub(crate) station: Rc<Station>,
    /// The item that a read waits for, and the task that reads.
    pub(crate) want: Cell<Want>,
    pub(crate) is_read: Cell<bool>,
    pub(crate) reader: Cell<TaskKey>,
    /// Bytes that tasks have sent since the handler last passed bytes on, but for those of the connection's own task.
    pub(crate) pending: Cell<usize>,
    /// The answer to a read that has not looked yet.
    pub(crate) answer: Cell<Option<Answer>>,
    /// More than the high-water mark is queued.
    pub(crate) is_high: Cell<bool>,
    /// The connection is read however much is queued.
    pub(crate) reads_on: Cell<bool>,
    /// The reactor keeps bytes that the last callback has left unread, and offers them when it is asked to.
    pub(crate) has_unread: Cell<bool>,
    /// Bytes arrived while no read waited, so the connection is not read.
    pub(crate) is_paused: Cell<bool>,
    /// No more input is going to arrive: the peer has ended its half, or the application is stopping.
    pub(crate) has_ended: Cell<bool>,
    /// Reads are answered from `Rest::unread`.
    pub(crate) is_local: Cell<bool>,
    /// The connection is over.
    pub(crate) is_gone: Cell<bool>,
    /// An outbound connection stands.
    pub(crate) is_connected: Cell<bool>,
    /// The application is stopping.
    pub(crate) is_stopping: Cell<bool>,
    pub(crate) rest: RefCell<Option<Box<Rest>>>,
}

/// The rare part of a [`Slot`].
#[derive(Default)]
pub(crate) struct Rest {
    /// Bytes that were unread when the input ended; those before `at` have been read since.
    unread: Vec<u8>,
    at: usize,
    pub(crate) reason: Option<CloseReason>,
    /// The decoder of the read that waits.
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

    /// Searches `input` for the item that the read waits for.
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

    /// From now on reads are answered from `unread`.
    pub(crate) fn keep_unread(&self, unread: &[u8]) {
        if !unread.is_empty() {
            self.with_rest(|rest| rest.unread.extend_from_slice(unread));
        }
        self.has_unread.set(false);
        self.is_local.set(true);
    }

    /// Answers a read from what was unread when the input ended.
    pub(crate) fn find_locally(&self, want: Want) -> Answer {
        let mut rest = self.rest.borrow_mut();
        let Some(Rest { unread, at, decoding, .. }) = rest.as_deref_mut() else { return Answer::Ended };
        let mut input = Input::of(&unread[*at..]);
        let answer = want.find(&mut input, &mut self.station.item.borrow_mut(), decoding.as_mut());
        *at = unread.len() - input.len();
        answer.unwrap_or(Answer::Ended)
    }

    /// Takes all that was unread when the input ended.
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

    /// The connection is over.
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
