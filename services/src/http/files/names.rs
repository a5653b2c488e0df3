//! Documents that one handler has sent lately, by the name in the request, so that a hit needs neither path parsing nor
//! the store's shared lock. The table keeps only weak references: a document that the store forgets is gone, with its
//! descriptor and its memory. A file requested by several names (`/a`, `/%61`) has an entry for each.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::document::Document;
use super::resolve::Reach;
use super::root::{Anchor, Root};

/// Names in one handler's table. A full table is emptied, and each name in use comes back after one lookup in the
/// store.
const NAMES_MAX: usize = 1024;

/// Longest name in the table, in bytes. Longer names are looked up in the store each time.
const NAME_MAX: usize = 256;

/// How long a handler trusts the last check of the root's name. Together with the checks that a busy loop puts off,
/// less than a second.
const ROOT_FOR: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Names {
    names: HashMap<Box<[u8]>, Seen, RandomState>,
    /// The served directory. It is trusted until `anchored_until`, by the loop's clock.
    anchor: Option<Arc<Anchor>>,
    anchored_until: Duration,
}

#[derive(Debug)]
struct Seen {
    document: Weak<Document>,
    /// `complete_until`: until then the document counts as complete. `at`: time of the last check. Both by the loop's
    /// clock.
    complete_until: Duration,
    at: Duration,
}

/// Stands for "not checked yet".
const NEVER: Duration = Duration::MAX;

impl Names {
    pub(super) fn new(chance: RandomState) -> Self {
        Names { names: HashMap::with_hasher(chance), anchor: None, anchored_until: Duration::ZERO }
    }

    /// Whether the root's name must be checked.
    #[inline]
    pub(super) fn is_adrift(&self, now: Duration) -> bool {
        now >= self.anchored_until
    }

    /// Notes that the root's name was checked now.
    pub(super) fn anchor_at(&mut self, root: &Root, now: Duration) {
        (self.anchor, self.anchored_until) = (root.anchor(), now + ROOT_FOR);
    }

    /// Returns the document called `name` if it may be sent: it was checked in this turn, or less than `unseen_for`
    /// ago, or passes a check now.
    #[inline]
    pub(super) fn fresh(
        &mut self,
        name: &[u8],
        now: Duration,
        unseen_for: Duration,
        reach: Reach,
    ) -> Option<Arc<Document>> {
        if self.is_adrift(now) {
            return None;
        }
        let seen = self.names.get_mut(name)?;
        let document = seen.document.upgrade()?;
        if !seen.is_fresh(&document, now, unseen_for, self.anchor.as_deref(), reach) {
            return None;
        }
        document.note();
        Some(document)
    }

    /// Takes over a document that another handler has loaded, if the document is unchanged.
    pub(super) fn adopt(
        &mut self,
        name: &[u8],
        document: &Arc<Document>,
        complete_for: Duration,
        now: Duration,
        reach: Reach,
    ) -> bool {
        let mut seen = Seen { document: Arc::downgrade(document), complete_until: now + complete_for, at: NEVER };
        let is_fresh = seen.is_fresh(document, now, Duration::ZERO, self.anchor.as_deref(), reach);
        if is_fresh {
            self.put(name, seen);
        }
        is_fresh
    }

    /// Inserts a document that was loaded or checked now.
    pub(super) fn insert(&mut self, name: &[u8], document: &Arc<Document>, complete_for: Duration, now: Duration) {
        self.put(name, Seen { document: Arc::downgrade(document), complete_until: now + complete_for, at: now });
    }

    fn put(&mut self, name: &[u8], seen: Seen) {
        if let Some(known) = self.names.get_mut(name) {
            *known = seen;
            return;
        }
        if name.len() > NAME_MAX {
            return;
        }
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(name.into(), seen);
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        self.names.remove(name);
    }
}

impl Seen {
    #[inline]
    fn is_fresh(
        &mut self,
        document: &Document,
        now: Duration,
        unseen_for: Duration,
        anchor: Option<&Anchor>,
        reach: Reach,
    ) -> bool {
        if self.at == now {
            return true;
        }
        if now >= self.complete_until || !document.settled {
            return false;
        }
        if now.checked_sub(self.at).is_none_or(|since| since >= unseen_for) {
            if !anchor.is_some_and(|anchor| anchor.has_still(document, reach)) {
                return false;
            }
            self.at = now;
        }
        true
    }
}
