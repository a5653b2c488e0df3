//! The name of one connection: which loop, which slot, which generation of the slot. Eight bytes, `Copy`, and safe to
//! keep for ever: once the connection is gone the name finds nothing, even when its slot has a new tenant.

use std::fmt;

/// The most connections one loop can name: 2^24 slots.
pub(crate) const SLOTS_MAX: usize = 1 << 24;

/// Names one connection of one application for as long as that runs.
///
/// A slot is used again after its connection has ended, with the next generation. An id whose generation has passed is
/// *stale*: everything that takes an id treats a stale one as "no such connection".
///
/// ```
/// use reactor::ConnectionId;
/// assert_eq!(ConnectionId::NONE.to_string(), "-");
/// assert_eq!(std::mem::size_of::<ConnectionId>(), 8);
/// ```
/// The default is [`ConnectionId::NONE`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Names no connection, now or ever. What callbacks outside any connection see as
    /// [`Context::id`](crate::Context::id).
    pub const NONE: ConnectionId = ConnectionId(0);

    /// `generation` 0 is kept for what is not a connection: listeners, the wake-up, periodic work.
    pub(crate) fn new(event_loop: u8, slot: usize, generation: u32) -> Self {
        debug_assert!(slot < SLOTS_MAX);
        ConnectionId((event_loop as u64) << 56 | (slot as u64) << 32 | generation as u64)
    }

    pub(crate) fn event_loop(self) -> usize {
        (self.0 >> 56) as usize
    }

    pub(crate) fn slot(self) -> usize {
        (self.0 >> 32) as usize & (SLOTS_MAX - 1)
    }

    pub(crate) fn generation(self) -> u32 {
        self.0 as u32
    }

    /// The id as the kernel carries it beside a registered descriptor.
    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        ConnectionId(bits)
    }
}

impl fmt::Display for ConnectionId {
    /// `loop.slot.generation`, or `-` for [`ConnectionId::NONE`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == ConnectionId::NONE {
            return f.write_str("-");
        }
        write!(f, "{}.{}.{}", self.event_loop(), self.slot(), self.generation())
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_gives_back_what_it_was_made_of() {
        let id = ConnectionId::new(7, SLOTS_MAX - 1, u32::MAX);
        assert_eq!((id.event_loop(), id.slot(), id.generation()), (7, SLOTS_MAX - 1, u32::MAX));
        assert_eq!(ConnectionId::from_bits(id.to_bits()), id);
    }

    #[test]
    fn the_same_slot_in_another_generation_is_another_connection() {
        assert_ne!(ConnectionId::new(0, 3, 1), ConnectionId::new(0, 3, 2));
    }
}
