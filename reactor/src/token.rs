//! The id of one connection: loop, slot, and generation of the slot. Eight bytes, `Copy`, and safe to keep for ever:
//! after the end of the connection the id finds nothing, even if its slot has a new connection.

use std::fmt;

/// Fixed loops have numbers below this limit; per-connection loops have numbers from this limit on.
pub(crate) const LOOPS_MAX: u32 = 1 << 8;
/// Largest number of per-connection loops at one time.
pub(crate) const PER_CONNECTION_MAX: u32 = 1 << 20;

// Layout of an id. A fixed loop has many connections; a per-connection loop has its accepted connection, and
// connections that its handler opens.
//
//   0 | 8 bits of the loop   | 23 bits of the slot | 32 bits of the generation
//   1 | 20 bits of the loop  | 11 bits of the slot | 32 bits of the generation
const GUEST: u64 = 1 << 63;
const SLOT_BITS: u32 = 23;
const GUEST_SLOT_BITS: u32 = 11;

/// Largest number of connections of a loop: 2^23, and 2^11 for a per-connection loop.
pub(crate) fn slots_max(event_loop: u32) -> usize {
    1 << if event_loop < LOOPS_MAX { SLOT_BITS } else { GUEST_SLOT_BITS }
}

/// Identifies one connection of a running application.
///
/// A slot is reused after its connection has ended, with the next generation. An id of an earlier generation is
/// *stale*: every method that takes an id treats a stale one as "no such connection".
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
    /// Identifies no connection, now or ever. [`Context::id`](crate::Context::id) in callbacks without a connection.
    pub const NONE: ConnectionId = ConnectionId(0);

    /// `generation` 0 is reserved for other things than connections: listeners, the wake-up, periodic work.
    pub(crate) fn new(event_loop: u32, slot: usize, generation: u32) -> Self {
        debug_assert!(slot < slots_max(event_loop));
        let upper = match event_loop.checked_sub(LOOPS_MAX) {
            None => (event_loop as u64) << SLOT_BITS,
            Some(per_connection_loop) => GUEST >> 32 | (per_connection_loop as u64) << GUEST_SLOT_BITS,
        };
        ConnectionId((upper | slot as u64) << 32 | generation as u64)
    }

    pub(crate) fn event_loop(self) -> u32 {
        let upper = (self.0 & !GUEST) >> 32;
        match self.0 & GUEST {
            0 => (upper >> SLOT_BITS) as u32,
            _ => (upper >> GUEST_SLOT_BITS) as u32 + LOOPS_MAX,
        }
    }

    /// The slot, where `home` is the common part of all ids of the loop: its first slot without a generation. An id of
    /// another loop gives a number beyond every slot of a loop. Each callback calls this several times.
    #[inline]
    pub(crate) fn slot_at(self, home: ConnectionId) -> usize {
        ((self.0 ^ home.0) >> 32) as usize
    }

    pub(crate) fn slot(self) -> usize {
        let bits = if self.0 & GUEST == 0 { SLOT_BITS } else { GUEST_SLOT_BITS };
        (self.0 >> 32) as usize & ((1 << bits) - 1)
    }

    pub(crate) fn generation(self) -> u32 {
        self.0 as u32
    }

    /// The id as an integer, for protocols and logs that number connections. Different connections of a running
    /// application have different integers, and [`ConnectionId::NONE`] is 0. [`ConnectionId::from_u64`] reverses the
    /// conversion.
    ///
    /// The upper half contains loop and slot, the lower half the generation of the slot; on the first loop the integer
    /// is `slot << 32 | generation`. The integer may exceed 2^53, so send it as a string to a peer that reads numbers
    /// as doubles (JSON in JavaScript).
    ///
    /// ```
    /// use reactor::ConnectionId;
    /// assert_eq!(ConnectionId::NONE.to_u64(), 0);
    /// ```
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// Reverses [`ConnectionId::to_u64`]. Any other integer gives an id that identifies no connection, like a stale id,
    /// so an integer from a peer needs no check.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context};
    /// fn kill(number: u64, cx: &mut Context<'_>) -> bool {
    ///     let mut connection = cx.at(ConnectionId::from_u64(number));
    ///     let exists = connection.exists();
    ///     connection.close();
    ///     exists
    /// }
    /// ```
    pub fn from_u64(integer: u64) -> Self {
        ConnectionId(integer)
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
        for event_loop in [0, 7, LOOPS_MAX - 1, LOOPS_MAX, LOOPS_MAX + PER_CONNECTION_MAX - 1] {
            for slot in [0, slots_max(event_loop) - 1] {
                let id = ConnectionId::new(event_loop, slot, u32::MAX);
                assert_eq!((id.event_loop(), id.slot(), id.generation()), (event_loop, slot, u32::MAX));
                assert_eq!(ConnectionId::from_u64(id.to_u64()), id);
            }
        }
    }

    #[test]
    fn at_home_an_id_comes_to_its_slot_and_elsewhere_to_none() {
        let loops = [0, 1, LOOPS_MAX - 1, LOOPS_MAX, LOOPS_MAX + 1, LOOPS_MAX + PER_CONNECTION_MAX - 1];
        for event_loop in loops {
            for slot in [0, 1, slots_max(event_loop) - 1] {
                let id = ConnectionId::new(event_loop, slot, 7);
                for other in loops {
                    let at = id.slot_at(ConnectionId::new(other, 0, 0));
                    assert!(if other == event_loop { at == slot } else { at >= slots_max(other) }, "{id} at {other}");
                }
            }
        }
    }

    #[test]
    fn the_same_slot_in_another_generation_is_another_connection() {
        assert_ne!(ConnectionId::new(0, 3, 1), ConnectionId::new(0, 3, 2));
    }
}
