//! What has become of each connection, as its handler was told it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::reason::CloseReason;
use crate::token::ConnectionId;

/// What a handler knows of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Bytes of the peer that the handler has consumed.
    pub(super) consumed: usize,
    pub(super) end_told: bool,
    /// Was paused or choked at some time, so that not all that arrived need have been read.
    pub(super) hindered: bool,
    /// Was not read for a while: what is kept has to be offered again.
    pub(super) offer_owed: bool,
    /// Was choked: that its output has drained has to be told.
    pub(super) drained_owed: bool,
    /// Where it was told that messages were missed: after so many bytes, and how many.
    pub(super) missed: Vec<(usize, u64)>,
    /// It was found too slow. One that is closing by itself by then is not told.
    pub(super) too_slow: bool,
    pub(super) closed: Option<CloseReason>,
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) entries: BTreeMap<ConnectionId, Entry>,
    /// States that came into being, and that were given back.
    pub(super) opened: u64,
    pub(super) closed: u64,
}

pub(super) type Books = Rc<RefCell<Ledger>>;

impl Ledger {
    pub(super) fn end_was_told(&self, id: ConnectionId) -> bool {
        self.entries.get(&id).is_none_or(|entry| entry.end_told)
    }
}
