//! What is kept of files, once for the process: every handler that serves a directory looks here before it opens
//! anything, and what one has read the others have. Held only for as long as it takes to look something up.

use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::COMPLETE_FOR;
use super::cache::{Bounds, Cache, Kept};
use super::document::Document;
use super::names::Names;

/// What is kept ready, by all handlers together: names enough for a large site, bytes few enough for a small machine,
/// and descriptors for files that are too large to keep.
const KEPT: Bounds = Bounds { entries: 4096, bytes: 64 * 1024 * 1024, descriptors: 1024 };

/// Of the descriptors that the process may have, one in so many is for files: the others are for connections.
const DESCRIPTORS_SHARE: u64 = 8;

#[derive(Debug)]
pub(super) struct Store {
    cache: Mutex<Cache<Loaded>>,
    /// One for the tables of all handlers: asking the system for chance takes a call on each new thread.
    chance: RandomState,
}

#[derive(Debug)]
struct Loaded {
    document: Arc<Document>,
    /// When all of it was looked at. Not by a loop's clock: there are several.
    at: Instant,
}

impl Kept for Loaded {
    fn note(&self) {
        self.document.note();
    }

    fn take_note(&self) -> bool {
        self.document.take_note()
    }
}

impl Default for Store {
    fn default() -> Self {
        let share = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / DESCRIPTORS_SHARE;
        let descriptors = KEPT.descriptors.min(usize::try_from(share).unwrap_or(usize::MAX));
        Store { cache: Mutex::new(Cache::new(Bounds { descriptors, ..KEPT })), chance: RandomState::new() }
    }
}

impl Store {
    /// For a new handler.
    pub(super) fn names(&self) -> Names {
        Names::new(self.chance.clone())
    }

    /// What is kept of `path`, and for how long it is still taken for complete.
    pub(super) fn get(&self, path: &[u8]) -> Option<(Arc<Document>, Duration)> {
        let mut cache = self.lock();
        let at = cache.find(path)?;
        let Loaded { document, at } = cache.at(at);
        Some((document.clone(), COMPLETE_FOR.saturating_sub(at.elapsed())))
    }

    /// Keeps it, unless it costs too much by itself. For how long it is taken for complete: one that is kept already was
    /// looked at again, and what lies beside it was not.
    pub(super) fn put(&self, path: &[u8], document: Arc<Document>) -> Duration {
        let cost = document.cost();
        // Files are closed and memory is given back when the lock is released.
        let mut gone = Vec::new();
        let mut cache = self.lock();
        if let Some(at) = cache.find(path) {
            let Loaded { document: kept, at } = cache.at(at);
            if Arc::ptr_eq(kept, &document) {
                return COMPLETE_FOR.saturating_sub(at.elapsed());
            }
        }
        let value = Loaded { document, at: Instant::now() };
        let too_large = cache.insert(path, value, cost, &mut gone);
        drop(cache);
        drop((too_large, gone));
        COMPLETE_FOR
    }

    pub(super) fn remove(&self, path: &[u8]) {
        let _gone = self.lock().remove(path);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut cache = self.lock();
        let gone = cache.clear();
        drop(cache);
        drop(gone);
    }

    /// Forgets everything that holds a descriptor. Whether there was anything.
    pub(super) fn drop_descriptors(&self) -> bool {
        let mut gone = Vec::new();
        self.lock().drop_descriptors(&mut gone);
        !gone.is_empty()
    }

    /// Nothing in it calls anything that could panic half-way.
    fn lock(&self) -> MutexGuard<'_, Cache<Loaded>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_the_cache_is_locked_leaves_a_store() {
        let store = Store::default();
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _cache = store.cache.lock().unwrap();
            panic!("as the test has it");
        }));
        assert!(held.is_err() && store.cache.is_poisoned());
        store.names();
        drop(store.lock());
    }
}
