//! The links of one loop, by slot and generation.

use slab::Slab;

use super::Link;
use crate::token::{ConnectionId, slots_max};

/// All links of one loop. A slot is reused with another generation, so the id of a former connection finds nothing.
pub(crate) struct Links {
    slots: Slab<Link>,
    /// The common part of all ids.
    home: ConnectionId,
    next_generation: u32,
}

impl Links {
    /// `generation` is that of the first connection: if the loop's number was used before, a generation not used then.
    pub(crate) fn new(event_loop: u32, generation: u32) -> Self {
        let home = ConnectionId::new(event_loop, 0, 0);
        Links { slots: Slab::new(), home, next_generation: generation }
    }

    /// The number of the loop.
    pub(crate) fn event_loop(&self) -> u32 {
        self.home.event_loop()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= slots_max(self.home.event_loop())
    }

    pub(crate) fn insert(&mut self, mut link: Link) -> ConnectionId {
        let slot = self.slots.vacant_entry();
        let id = ConnectionId::new(self.home.event_loop(), slot.key(), self.next_generation);
        // 0 stands for no connection. After four thousand million connections an old id could come back.
        self.next_generation = self.next_generation.checked_add(1).unwrap_or(1);
        link.id = id;
        slot.insert(link);
        id
    }

    #[inline]
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Link> {
        self.slots.get(id.slot_at(self.home)).filter(|link| link.id == id)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Link> {
        self.slots.get_mut(id.slot_at(self.home)).filter(|link| link.id == id)
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Link> {
        self.get(id)?;
        Some(self.slots.remove(id.slot_at(self.home)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.slots.iter().map(|(_, link)| link)
    }

    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        self.iter().map(|link| link.id).collect()
    }
}
