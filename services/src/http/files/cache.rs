//! A table bounded by entries, by bytes and by descriptors, which forgets entries that were not used lately.
//!
//! The table uses second chance: a hand goes round, and an entry that was used since the last visit of the hand stays
//! for one more round. A hit sets one flag in the value itself, so a user that has the value at hand need not come
//! here. A flood of names that are requested once pushes out few other entries.

use std::collections::HashMap;

/// The table's limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) descriptors: usize,
}

/// The cost of one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) bytes: usize,
    pub(super) descriptors: usize,
}

/// A value that remembers whether it was used.
pub(super) trait Kept {
    fn note(&self);
    /// Whether [`note`](Self::note) was called since the last call.
    fn take_note(&self) -> bool;
}

#[derive(Debug)]
pub(super) struct Cache<V> {
    bounds: Bounds,
    places: HashMap<Box<[u8]>, usize>,
    slots: Vec<Slot<V>>,
    hand: usize,
    held: Cost,
}

#[derive(Debug)]
struct Slot<V> {
    key: Box<[u8]>,
    value: V,
    cost: Cost,
}

impl<V: Kept> Cache<V> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Cache { bounds, places: HashMap::new(), slots: Vec::new(), hand: 0, held: Cost::default() }
    }

    /// Returns the index of the key's value. The index is valid until the next insert or remove.
    pub(super) fn find(&mut self, key: &[u8]) -> Option<usize> {
        let at = *self.places.get(key)?;
        self.slots[at].value.note();
        Some(at)
    }

    pub(super) fn at(&mut self, at: usize) -> &mut V {
        &mut self.slots[at].value
    }

    /// Inserts a value, replacing an entry with an equal key. Evicted values are put into `gone`. A value over the
    /// limits by itself comes back.
    pub(super) fn insert(&mut self, key: &[u8], value: V, cost: Cost, gone: &mut Vec<V>) -> Result<(), V> {
        gone.extend(self.remove(key));
        let Bounds { entries, bytes, descriptors } = self.bounds;
        let cost = Cost { bytes: cost.bytes + key.len(), ..cost };
        if entries == 0 || cost.bytes > bytes || cost.descriptors > descriptors {
            return Err(value);
        }
        while self.slots.len() >= entries || self.held.bytes + cost.bytes > bytes {
            gone.push(self.evict(|_| true));
        }
        while self.held.descriptors + cost.descriptors > descriptors {
            gone.push(self.evict(|held| held.descriptors > 0));
        }
        self.held.bytes += cost.bytes;
        self.held.descriptors += cost.descriptors;
        self.places.insert(key.into(), self.slots.len());
        self.slots.push(Slot { key: key.into(), value, cost });
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<V> {
        let at = *self.places.get(key)?;
        Some(self.take(at))
    }

    /// Empties the table. The caller drops the returned contents.
    pub(super) fn clear(&mut self) -> Self {
        std::mem::replace(self, Cache::new(self.bounds))
    }

    /// Evicts every entry that holds a descriptor.
    pub(super) fn drop_descriptors(&mut self, gone: &mut Vec<V>) {
        while self.held.descriptors > 0 {
            gone.push(self.evict(|held| held.descriptors > 0));
        }
    }

    /// Evicts one entry for which `may_go` holds. At least one such entry must exist.
    fn evict(&mut self, may_go: impl Fn(Cost) -> bool) -> V {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = &self.slots[self.hand];
            if may_go(slot.cost) && !slot.value.take_note() {
                return self.take(self.hand);
            }
            self.hand += 1;
        }
    }

    /// Removes an entry. The last entry moves into the gap.
    fn take(&mut self, at: usize) -> V {
        let slot = self.slots.swap_remove(at);
        self.places.remove(&slot.key);
        if let Some(moved) = self.slots.get(at) {
            *self.places.get_mut(&moved.key).expect("each slot has its place") = at;
        }
        self.held.bytes -= slot.cost.bytes;
        self.held.descriptors -= slot.cost.descriptors;
        slot.value
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::chance::Chance;

    /// A number, and whether it was asked for.
    #[derive(Debug, Default)]
    struct Number(u32, Cell<bool>);

    impl Kept for Number {
        fn note(&self) {
            self.1.set(true);
        }

        fn take_note(&self) -> bool {
            self.1.take()
        }
    }

    impl Cache<Number> {
        fn get(&mut self, key: &[u8]) -> Option<u32> {
            self.find(key).map(|at| self.at(at).0)
        }

        /// Whether it was taken.
        fn put(&mut self, key: &[u8], number: u32, cost: Cost) -> bool {
            self.insert(key, Number(number, Cell::default()), cost, &mut Vec::new()).is_ok()
        }
    }

    const BOUNDS: Bounds = Bounds { entries: 4, bytes: 100, descriptors: 2 };

    fn bytes(bytes: usize) -> Cost {
        Cost { bytes, descriptors: 0 }
    }

    #[test]
    fn what_was_asked_for_stays_and_what_was_not_goes() {
        let mut cache = Cache::new(BOUNDS);
        for (number, key) in (0..).zip([b"a", b"b", b"c", b"d"]) {
            assert!(cache.put(key, number, bytes(1)));
        }
        assert_eq!(cache.get(b"a"), Some(0));
        assert!(cache.put(b"e", 4, bytes(1)));
        assert_eq!((cache.get(b"a"), cache.get(b"b")), (Some(0), None));
        // A flood of names that are never asked for again.
        for number in 0..100u8 {
            cache.get(b"a");
            assert!(cache.put(&[b'x', number], 5, bytes(1)));
        }
        assert!(cache.get(b"a").is_some());
    }

    #[test]
    fn one_that_is_too_large_comes_back_and_pushes_nothing_out() {
        let mut cache = Cache::new(BOUNDS);
        assert!(cache.put(b"a", 1, bytes(10)));
        assert!(!cache.put(b"b", 2, bytes(100)));
        assert!(!cache.put(b"b", 3, Cost { bytes: 1, descriptors: 3 }));
        assert!(cache.get(b"a").is_some());
    }

    #[test]
    fn descriptors_are_given_back_without_the_rest() {
        let mut cache = Cache::new(BOUNDS);
        assert!(cache.put(b"a", 1, bytes(10)) && cache.put(b"b", 2, Cost { bytes: 1, descriptors: 1 }));
        cache.get(b"b");
        let mut gone = Vec::new();
        cache.drop_descriptors(&mut gone);
        cache.drop_descriptors(&mut gone);
        assert_eq!(gone.iter().map(|gone| gone.0).collect::<Vec<_>>(), [2]);
        assert_eq!((cache.get(b"a"), cache.get(b"b")), (Some(1), None));
    }

    /// Against a plain list: what is found is what was put in last, and no bound is ever passed.
    #[test]
    #[cfg_attr(miri, ignore = "thousands of rounds")]
    fn it_holds_its_bounds_and_never_answers_with_anything_else() {
        let mut chance = Chance::new(13);
        let (mut cache, mut last) = (Cache::new(BOUNDS), HashMap::new());
        for number in 0..100_000 {
            let key = [chance.below(12) as u8];
            match chance.below(8) {
                0 => drop(cache.remove(&key)),
                1 | 2 => {
                    let cost = Cost { bytes: chance.below(120), descriptors: chance.below(4) };
                    last.insert(key, number);
                    let fits = cost.bytes < BOUNDS.bytes && cost.descriptors <= BOUNDS.descriptors;
                    assert_eq!(cache.put(&key, number, cost), fits);
                }
                3 if chance.below(50) == 0 => cache.drop_descriptors(&mut Vec::new()),
                _ => assert!(cache.get(&key).is_none_or(|value| value == last[&key])),
            }
            let sum = cache.slots.iter().fold(Cost::default(), |sum, slot| Cost {
                bytes: sum.bytes + slot.cost.bytes,
                descriptors: sum.descriptors + slot.cost.descriptors,
            });
            assert_eq!((sum, cache.slots.len()), (cache.held, cache.places.len()));
            assert!(cache.slots.len() <= BOUNDS.entries && sum.bytes <= BOUNDS.bytes);
            assert!(sum.descriptors <= BOUNDS.descriptors);
        }
    }
}
