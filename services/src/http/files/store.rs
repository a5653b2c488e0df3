//! The kept files, one store for the process: every handler that serves a directory looks here before opening a file,
//! so a file read by one handler serves all. The lock is held only during a lookup or a change of the table.

use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::COMPLETE_FOR;
use super::cache::{Bounds, Cache, Kept};
use super::document::Document;
use super::names::Names;

/// Limits of the store for all handlers together: names enough for a large site, bytes few enough for a small machine,
/// and descriptors for files too large for memory.
const KEPT: Bounds = Bounds { entries: 4096, bytes: 64 * 1024 * 1024, descriptors: 1024 };

/// The share of the process's descriptors that is for files, one in this number; the rest is for connections.
const DESCRIPTORS_SHARE: u64 = 8;

#[derive(Debug)]
pub(super) struct Store {
    cache: Mutex<Cache<Loaded>>,
    /// One hash key for the tables of all handlers: a new key on each thread would cost a system call.
    chance: RandomState,
}

#[derive(Debug)]
struct Loaded {
    document: Arc<Document>,
    /// Time of the last look at the whole document. A loop's clock would not do, since several loops share the store.
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
    /// Makes the table of names for a new handler.
    pub(super) fn names(&self) -> Names {
        Names::new(self.chance.clone())
    }

    /// Returns the kept document of `path`, and how long the document still counts as complete.
    pub(super) fn get(&self, path: &[u8]) -> Option<(Arc<Document>, Duration)> {
        let mut cache = self.lock();
        let at = cache.find(path)?;
        let Loaded { document, at } = cache.at(at);
        Some((document.clone(), COMPLETE_FOR.saturating_sub(at.elapsed())))
    }

    /// Keeps `document`, unless it exceeds the limits by itself. Returns how long the document counts as complete. For
    /// a document that is kept already the time goes on, because its siblings were not looked at again.
    pub(super) fn put(&self, path: &[u8], document: Arc<Document>) -> Duration {
        let cost = document.cost();
        // Files are closed and memory is given back after the lock was released.
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

    /// Forgets all documents.
    pub(super) fn clear(&self) {
        let mut cache = self.lock();
        let gone = cache.clear();
        drop(cache);
        drop(gone);
    }

    /// Forgets every document that holds a descriptor. Returns whether any did.
    pub(super) fn drop_descriptors(&self) -> bool {
        let mut gone = Vec::new();
        self.lock().drop_descriptors(&mut gone);
        !gone.is_empty()
    }

    /// Locks the table. A poisoned lock is used on: no call inside can panic half-way through a change.
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
