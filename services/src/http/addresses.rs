//! The limit on connections for each address. All loops share one count, updated when a connection begins and when it
//! ends. The log and the report name the limit while connections are refused.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reactor::Peer;

/// Connections over the limit of one address that get an answer and a linger at the same time. Further connections are
/// dropped: a refused connection must not be a way to hold descriptors.
const ANSWERED_MAX: u32 = 4;

/// Shortest time between two log lines about refusals.
const LOGGED_EVERY: Duration = Duration::from_secs(1);

/// Counts connections by the address of the peer. Clones share the count.
///
/// ```
/// use services::http::{Addresses, BODY, Http};
/// let addresses = Addresses::at_most(100.try_into().unwrap());
/// let handler = Http::new(BODY, None).addresses(addresses);
/// ```
#[derive(Clone, Debug)]
pub struct Addresses {
    most: u32,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    addresses: HashMap<IpAddr, Count>,
    /// `refused`: connections refused since the last log line. `logged`: time of that line.
    refused: u64,
    logged: Option<Instant>,
}

#[derive(Debug, Default)]
struct Count {
    admitted: u32,
    answered: u32,
}

/// The decision about a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// Over the limit, and gets an answer.
    Answered,
    Dropped,
}

impl Addresses {
    /// Allows at most `most` connections for each address.
    pub fn at_most(most: NonZeroU32) -> Self {
        Addresses { most: most.get(), counts: Arc::default() }
    }

    /// Counts a new connection. A peer without an address is not limited.
    pub(super) fn enter(&self, peer: Peer) -> Admission {
        let Some(address) = whose(peer) else { return Admission::Admitted };
        let mut counts = self.lock();
        let count = counts.addresses.entry(address).or_default();
        match count {
            Count { admitted, .. } if *admitted < self.most => {
                *admitted += 1;
                Admission::Admitted
            }
            Count { answered, .. } if *answered < ANSWERED_MAX => {
                *answered += 1;
                Admission::Answered
            }
            _ => Admission::Dropped,
        }
    }

    /// Ends the count of a connection that [`enter`](Self::enter) counted.
    pub(super) fn leave(&self, peer: Peer, admission: Admission) {
        let Some(address) = whose(peer) else { return };
        if let Entry::Occupied(mut entry) = self.lock().addresses.entry(address) {
            let count = entry.get_mut();
            match admission {
                Admission::Admitted => count.admitted -= 1,
                Admission::Answered => count.answered -= 1,
                Admission::Dropped => {}
            }
            if count.admitted + count.answered == 0 {
                entry.remove();
            }
        }
    }
}

impl Addresses {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a refused connection. Returns a line for the log, at most once in [`LOGGED_EVERY`].
    pub(super) fn note_refused(&self, peer: Peer, now: Instant) -> Option<String> {
        let mut counts = self.lock();
        counts.refused += 1;
        if counts.logged.is_some_and(|logged| now.saturating_duration_since(logged) < LOGGED_EVERY) {
            return None;
        }
        counts.logged = Some(now);
        let refused = counted(std::mem::take(&mut counts.refused), "connection", "connections");
        let most = counted(self.most.into(), "connection", "connections");
        Some(format!("refused {refused}, the last from {peer}, at the limit of {most} for each address"))
    }

    /// The addresses that are at the limit now, for the report.
    pub(super) fn turned_away(&self) -> Option<String> {
        let at_limit = self.lock().addresses.values().filter(|count| count.admitted >= self.most).count();
        if at_limit == 0 {
            return None;
        }
        let addresses = counted(at_limit as u64, "address", "addresses");
        let most = counted(self.most.into(), "connection", "connections");
        Some(format!("none from {addresses} at the limit of {most} for each address"))
    }
}

fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// The subscriber behind an address. In IPv6 a subscriber has at least 64 bits to choose from (RFC 6177).
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
        assert_eq!([enter("10.0.0.1:1"), enter("10.0.0.1:2"), enter("10.0.0.1:3")], [Admitted, Admitted, Answered]);
        assert_eq!(enter("10.0.0.2:1"), Admitted);
        // Two addresses of one IPv6 subscriber, and another subscriber.
        assert_eq!([enter("[2001:db8::1]:1"), enter("[2001:db8::2]:1")], [Admitted; 2]);
        assert_eq!([enter("[2001:db8::3]:1"), enter("[2001:db8:0:1::1]:1")], [Answered, Admitted]);
        // Most connections of a flood are dropped without an answer.
        assert_eq!((4..10).map(|port| enter(&format!("10.0.0.1:{port}"))).filter(|a| *a == Answered).count(), 3);
        assert_eq!(addresses.enter(Peer::Unix), Admitted);
        addresses.leave(Peer::Unix, Admitted);
        for (peer, admission) in inside {
            addresses.leave(peer, admission);
        }
        assert!(addresses.counts.lock().unwrap().addresses.is_empty());
    }

    #[test]
    fn the_log_and_the_report_name_the_limit() {
        let addresses = Addresses::at_most(1.try_into().unwrap());
        let [one, other] = ["10.0.0.1:1", "10.0.0.2:1"].map(|text| Peer::tcp(text.parse().unwrap()));
        assert_eq!(addresses.turned_away(), None);
        addresses.enter(one);
        let report = "none from 1 address at the limit of 1 connection for each address";
        assert_eq!(addresses.turned_away().as_deref(), Some(report));
        addresses.enter(other);
        assert!(addresses.turned_away().unwrap().starts_with("none from 2 addresses at "));
        let begin = Instant::now();
        let line = "refused 1 connection, the last from 10.0.0.1:1, at the limit of 1 connection for each address";
        assert_eq!(addresses.note_refused(one, begin).as_deref(), Some(line));
        assert_eq!(addresses.note_refused(one, begin + LOGGED_EVERY / 2), None);
        let line = addresses.note_refused(other, begin + LOGGED_EVERY).unwrap();
        assert!(line.starts_with("refused 2 connections, the last from 10.0.0.2:1, "), "{line}");
        addresses.leave(one, Admission::Admitted);
        addresses.leave(other, Admission::Admitted);
        assert_eq!(addresses.turned_away(), None);
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
        assert_eq!([addresses.enter(peer), addresses.enter(peer)], [Admission::Admitted, Admission::Answered]);
        addresses.leave(peer, Admission::Admitted);
        assert_eq!(addresses.enter(peer), Admission::Admitted);
    }
}
