//! What one handler has seen lately, by the names that it was asked for, so that it need not read them as paths, nor ask
//! the store, whose lock is everybody's. It keeps nothing: what the store forgets is gone, and its descriptor and its
//! memory with it. A file of several names (`/a`, `/%61`) has an entry for each.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::document::Document;
use super::resolve::Patience;
use super::root::{Anchor, Root};

/// Names that one handler remembers. Those that are asked for are back at once when all have been forgotten, for a look
/// into the store each.
const NAMES_MAX: usize = 1024;

/// Bytes of a name that is remembered. Longer ones are looked up in the store each time.
const NAME_MAX: usize = 256;

/// For how long a handler takes the root's name to lead where it led. With the looks at files that are put off while the
/// loop is busy, less than a second.
const ROOT_FOR: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Names {
    names: HashMap<Box<[u8]>, Seen, RandomState>,
    /// The directory that is served, and until when, by the loop's clock, it is taken to be that.
    anchor: Option<Arc<Anchor>>,
    anchored_until: Duration,
}

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
        Names { names: HashMap::with_hasher(chance), anchor: None, anchored_until: Duration::ZERO }
    }

    /// Whether the root's name has to be looked at.
    #[inline]
    pub(super) fn is_adrift(&self, now: Duration) -> bool {
        now >= self.anchored_until
    }

    /// The root's name has been looked at just now.
    pub(super) fn anchor_at(&mut self, root: &Root, now: Duration) {
        (self.anchor, self.anchored_until) = (root.anchor(), now + ROOT_FOR);
    }

    /// What is called `name`, if it may be sent: it was seen to be as it is in this turn, or less than `unseen_for` ago, or
    /// is seen now.
    #[inline]
    pub(super) fn fresh(
        &mut self,
        name: &[u8],
        now: Duration,
        unseen_for: Duration,
        patience: Patience,
    ) -> Option<Arc<Document>> {
        if self.is_adrift(now) {
            return None;
        }
        let seen = self.names.get_mut(name)?;
        let document = seen.document.upgrade()?;
        if !seen.is_fresh(&document, now, unseen_for, self.anchor.as_deref(), patience) {
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
        patience: Patience,
    ) -> bool {
        let mut seen = Seen { document: Arc::downgrade(document), complete_until: now + complete_for, at: NEVER };
        let is_fresh = seen.is_fresh(document, now, Duration::ZERO, self.anchor.as_deref(), patience);
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
        patience: Patience,
    ) -> bool {
        if self.at == now {
            return true;
        }
        if now >= self.complete_until || !document.settled {
            return false;
        }
        if now.checked_sub(self.at).is_none_or(|since| since >= unseen_for) {
            if !anchor.is_some_and(|anchor| anchor.has_still(document, patience)) {
                return false;
            }
            self.at = now;
        }
        true
    }
}
