//! Places with generations: the key of a removed value finds nothing, also when a new value has the place.

use crate::station::TaskKey;

/// Values by their keys. A freed place is used again, with the next generation.
pub(crate) struct Arena<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<usize>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Arena<T> {
    /// Reserves a place, and returns the key with which [`fill`](Self::fill) puts a value there.
    pub(crate) fn reserve(&mut self) -> TaskKey {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((1, None));
            self.places.len() - 1
        });
        TaskKey::new(place, self.places[place].0)
    }

    /// Puts a value at its reserved place.
    pub(crate) fn fill(&mut self, key: TaskKey, value: T) {
        self.places[key.place()].1 = Some(value);
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: TaskKey) -> Option<&mut T> {
        match self.places.get_mut(key.place()) {
            Some((generation, value)) if *generation == key.generation() => value.as_mut(),
            _ => None,
        }
    }

    /// Takes the value out, or frees a reserved place that has no value yet.
    pub(crate) fn remove(&mut self, key: TaskKey) -> Option<T> {
        let (generation, value) = self.places.get_mut(key.place())?;
        if *generation != key.generation() {
            return None;
        }
        // No value has generation 0, which belongs to `TaskKey::NONE`.
        // The highest bit is free for `TaskKey::of_sleep`.
        *generation = ((*generation + 1) & (u32::MAX >> 1)).max(1);
        self.free.push(key.place());
        value.take()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = TaskKey> {
        let places = self.places.iter().enumerate();
        places
            .filter(|(_, (_, value))| value.is_some())
            .map(|(place, (generation, _))| TaskKey::new(place, *generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_value_that_is_gone_finds_nothing_when_its_place_is_used_again() {
        let mut arena = Arena::default();
        let old = arena.reserve();
        arena.fill(old, 'a');
        assert_eq!(arena.remove(old), Some('a'));
        let new = arena.reserve();
        arena.fill(new, 'b');
        assert_eq!(new.place(), old.place());
        assert_eq!(arena.get_mut(old), None);
        assert_eq!(arena.remove(old), None);
        assert_eq!(arena.get_mut(new), Some(&mut 'b'));
        assert_eq!(arena.keys().count(), 1);
    }
}
