//! What one handler has seen lately, by the names that it was asked for, so that it need not read them as paths, nor ask
//! the store, whose lock is everybody's. It keeps nothing: what the store forgets is gone, and its descriptor and its
//! memory with it. A file of several names (`/a`, `/%61`) has an entry for each.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::document::Document;
use super::resolve::Root;

/// Names that one handler remembers. Those that are asked for are back at once when all have been forgotten, for a look
/// into the store each.
const NAMES_MAX: usize = 1024;

/// Bytes of a name that is remembered. Longer ones are looked up in the store each time.
const NAME_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Names(HashMap<Box<[u8]>, Seen, RandomState>);

#[derive(Debug)]
struct Seen {
    document: Weak<Document>,
    /// Until when it is taken for complete, and when it was last seen to be as it is, by the loop's clock.
    complete_until: Duration,
    at: Duration,
}

/// Before everything: not seen yet.
const NEVER: Duration = Duration::MAX;

impl Names {
    pub(super) fn new(chance: RandomState) -> Self {
        Names(HashMap::with_hasher(chance))
    }

    /// What is called `name`, if it may be sent: it was seen to be as it is in this turn, or less than `unseen_for` ago, or
    /// is seen now.
    #[inline]
    pub(super) fn fresh(
        &mut self,
        name: &[u8],
        now: Duration,
        unseen_for: Duration,
        root: &Root,
    ) -> Option<Arc<Document>> {
        let seen = self.0.get_mut(name)?;
        let document = seen.document.upgrade()?;
        if !seen.is_fresh(&document, now, unseen_for, root) {
            return None;
        }
        document.note();
        Some(document)
    }

    /// Takes over what another handler has looked at, if it still is as it was.
    pub(super) fn adopt(
        &mut self,
        name: &[u8],
        document: &Arc<Document>,
        complete_for: Duration,
        now: Duration,
        root: &Root,
    ) -> bool {
        let mut seen = Seen { document: Arc::downgrade(document), complete_until: now + complete_for, at: NEVER };
        let is_fresh = seen.is_fresh(document, now, Duration::ZERO, root);
        if is_fresh {
            self.put(name, seen);
        }
        is_fresh
    }

    /// It has been looked at just now.
    pub(super) fn insert(&mut self, name: &[u8], document: &Arc<Document>, complete_for: Duration, now: Duration) {
        self.put(name, Seen { document: Arc::downgrade(document), complete_until: now + complete_for, at: now });
    }

    fn put(&mut self, name: &[u8], seen: Seen) {
        if let Some(known) = self.0.get_mut(name) {
            *known = seen;
            return;
        }
        if name.len() > NAME_MAX {
            return;
        }
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        self.0.insert(name.into(), seen);
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        self.0.remove(name);
    }
}

impl Seen {
    #[inline]
    fn is_fresh(&mut self, document: &Document, now: Duration, unseen_for: Duration, root: &Root) -> bool {
        if self.at == now {
            return true;
        }
        if now >= self.complete_until || !document.settled {
            return false;
        }
        if now.checked_sub(self.at).is_none_or(|since| since >= unseen_for) {
            if !document.renditions().all(|rendition| root.is_still(&rendition.path, &rendition.stamp)) {
                return false;
            }
            self.at = now;
        }
        true
    }
}
