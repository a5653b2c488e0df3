//! How many connections each address has, where that is limited. One count for all loops, touched when a connection
//! begins and when it ends.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use reactor::Peer;

/// Newcomers of one address over its limit that are told so, and lingered for, at once. The others are dropped: being
/// refused must not be a way to hold descriptors.
const TOLD: u32 = 4;

/// Counts connections by the address that they come from. Clones count together.
///
/// ```
/// use services::http::{Addresses, BODY, Http};
/// let addresses = Addresses::at_most(100.try_into().unwrap());
/// let handler = Http::new(BODY, None).addresses(addresses);
/// ```
#[derive(Clone, Debug)]
pub struct Addresses {
    most: u32,
    counts: Arc<Mutex<HashMap<IpAddr, Count>>>,
}

#[derive(Debug, Default)]
struct Count {
    admitted: u32,
    told: u32,
}

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// One too many, and is to be told so.
    Told,
    Dropped,
}

impl Addresses {
    /// At most so many for each.
    pub fn at_most(most: NonZeroU32) -> Self {
        Addresses { most: most.get(), counts: Arc::default() }
    }

    /// Counts a newcomer. Who has no address is not limited.
    pub(super) fn enter(&self, peer: Peer) -> Admission {
        let Some(address) = whose(peer) else { return Admission::Admitted };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        match count {
            Count { admitted, .. } if *admitted < self.most => {
                *admitted += 1;
                Admission::Admitted
            }
            Count { told, .. } if *told < TOLD => {
                *told += 1;
                Admission::Told
            }
            _ => Admission::Dropped,
        }
    }

    /// The end of one that was counted.
    pub(super) fn leave(&self, peer: Peer, admission: Admission) {
        let Some(address) = whose(peer) else { return };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = counts.entry(address) {
            let count = entry.get_mut();
            match admission {
                Admission::Admitted => count.admitted -= 1,
                Admission::Told => count.told -= 1,
                Admission::Dropped => {}
            }
            if count.admitted + count.told == 0 {
                entry.remove();
            }
        }
    }
}

/// Who is behind an address: of IPv6, a subscriber has at least 64 bits to choose from (RFC 6177).
fn whose(peer: Peer) -> Option<IpAddr> {
    let Peer::Tcp(address) = peer else { return None };
    Some(match address.ip() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_leaves_nothing_behind() {
        use Admission::*;
        let addresses = Addresses::at_most(2.try_into().unwrap());
        let peer = |text: &str| Peer::tcp(text.parse().unwrap());
        let mut inside = Vec::new();
        let mut enter = |text: &str| {
            let admission = addresses.enter(peer(text));
            inside.push((peer(text), admission));
            admission
        };
        assert_eq!([enter("10.0.0.1:1"), enter("10.0.0.1:2"), enter("10.0.0.1:3")], [Admitted, Admitted, Told]);
        assert_eq!(enter("10.0.0.2:1"), Admitted);
        // One subscriber of IPv6, and another.
        assert_eq!([enter("[2001:db8::1]:1"), enter("[2001:db8::2]:1")], [Admitted; 2]);
        assert_eq!([enter("[2001:db8::3]:1"), enter("[2001:db8:0:1::1]:1")], [Told, Admitted]);
        // A flood is not told.
        assert_eq!((4..10).map(|port| enter(&format!("10.0.0.1:{port}"))).filter(|a| *a == Told).count(), 3);
        assert_eq!(addresses.enter(Peer::Unix), Admitted);
        addresses.leave(Peer::Unix, Admitted);
        for (peer, admission) in inside {
            addresses.leave(peer, admission);
        }
        assert!(addresses.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn a_panic_while_the_counts_are_locked_costs_nobody_else() {
        let addresses = Addresses::at_most(1.try_into().unwrap());
        let other = addresses.clone();
        let holder = std::thread::spawn(move || {
            let _held = other.counts.lock().unwrap();
            panic!("as the test has it");
        });
        assert!(holder.join().is_err() && addresses.counts.is_poisoned());
        let peer = Peer::tcp("10.0.0.1:1".parse().unwrap());
        assert_eq!([addresses.enter(peer), addresses.enter(peer)], [Admission::Admitted, Admission::Told]);
        addresses.leave(peer, Admission::Admitted);
        assert_eq!(addresses.enter(peer), Admission::Admitted);
    }
}
