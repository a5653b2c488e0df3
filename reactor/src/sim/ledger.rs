//! The history of each connection, as its handler was told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::reason::CloseReason;
use crate::token::ConnectionId;

/// A handler's knowledge of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Bytes of the peer that the handler has consumed.
    pub(super) consumed: usize,
    pub(super) end_told: bool,
    /// `on_open` was called.
    pub(super) opened: bool,
    /// Reading was paused or stopped at some time, so some bytes may have stayed unread.
    pub(super) hindered: bool,
    /// Reading was stopped for a while: kept bytes must be offered again.
    pub(super) offer_owed: bool,
    /// Reading was stopped by the high-water mark: `on_drained` must be called.
    pub(super) drained_owed: bool,
    /// The driver has found no input, or its end, since the last input, and the connection was read.
    pub(super) quiet: bool,
    /// The output has drained since the latest input: the handler may stream by itself.
    pub(super) streams: bool,
    /// Reports of missed messages: the number of bytes before the report, and the number of messages.
    pub(super) missed: Vec<(usize, u64)>,
    /// `on_too_slow` was called. A connection that is closing already gets no call.
    pub(super) too_slow: bool,
    /// At the last wait, fewer bytes were kept than the handler had requested.
    pub(super) too_short: bool,
    pub(super) closed: Option<CloseReason>,
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) entries: BTreeMap<ConnectionId, Entry>,
    /// Handler states that were made, and states that were given back.
    pub(super) opened: u64,
    pub(super) closed: u64,
    /// A connection whose receive has failed while kept input was to be offered: the next callback comes before its close.
    pub(super) offer_before_close: Option<ConnectionId>,
}

pub(super) type Books = Rc<RefCell<Ledger>>;

impl Ledger {
    pub(super) fn end_was_told(&self, id: ConnectionId) -> bool {
        self.entries.get(&id).is_none_or(|entry| entry.end_told)
    }
}
