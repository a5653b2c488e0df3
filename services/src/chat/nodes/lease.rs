//! The lease of this node, and the leases of nodes that seem to have died.

use std::time::Duration;

use super::members::Purpose;
use super::peers::NODES_MAX;
use super::{Answer, LEASE, LEASE_OVER, Node, Phase, RENEW, RETRY, Request};

/// Leases of other nodes that are read in a tick at most, so that names of many nodes that never existed leave room for guests.
const WATCHED: usize = 64;

/// The lease of this node. Its value is the term, a number that grows when the lease was lost, so that claims of an earlier term
/// do not count.
#[derive(Debug, Default)]
pub(super) struct Lease {
    pub(super) term: u64,
    /// The revision of the lease, as far as this node knows.
    revision: Option<u64>,
    /// When the latest successful renewal was sent.
    renewed_at: Option<Duration>,
    next_at: Duration,
    is_busy: bool,
    /// The bucket is the one in which this node has stored its claims: a renewal has succeeded since the link came up. Another bucket
    /// counts its revisions anew, so a revision of the earlier one may be that of another node's claim.
    pub(super) is_known: bool,
}

/// A node whose lease is watched.
#[derive(Debug, Default)]
pub(super) struct Suspect {
    /// The revision of the suspect's lease, and the time at which this node learned the revision.
    revision: Option<(u64, Duration)>,
    next_at: Duration,
    /// A request is not answered yet.
    pub(super) is_busy: bool,
}

impl Lease {
    /// Whether no other node can have deleted the lease. Both sides count from an event of their own: this node from the sending of
    /// its renewal, the other one, for longer, from a later event.
    pub(super) fn is_held(&self, now: Duration) -> bool {
        self.renewed_at.is_some_and(|at| now < at + LEASE)
    }

    /// The revision of the lease, if it is a revision of the present bucket.
    pub(super) fn revision(&self) -> Option<u64> {
        self.revision.filter(|_| self.is_known)
    }

    /// The link is down: the request in flight has no answer, and the next renewal is due at once.
    pub(super) fn is_lost(&mut self) {
        (self.is_busy, self.next_at, self.is_known) = (false, Duration::ZERO, false);
    }
}

/// The key of a node's lease.
pub(super) fn lease_key(node: &str) -> String {
    format!("lease.{node}")
}

impl Node {
    /// Renews the lease, if it is time.
    pub(super) fn renew(&mut self, now: Duration) {
        let lease = &mut self.lease;
        if self.phase != Phase::Up || !self.has_bucket || lease.is_busy || now < lease.next_at {
            return;
        }
        lease.is_busy = true;
        let (value, expected) = (lease.term.to_string(), lease.revision.unwrap_or(0));
        let request = Request::Put { key: lease_key(&self.id), value, expected };
        self.request(request, Purpose::Renew { sent: now });
    }

    pub(super) fn lease_answered(&mut self, purpose: &Purpose, answer: Answer<'_>, now: Duration) {
        self.lease.is_busy = false;
        match (purpose, answer) {
            (&Purpose::Renew { sent }, Answer::Stored(revision)) => {
                self.lease.revision = Some(revision);
                self.lease.renewed_at = Some(sent);
                self.lease.next_at = sent + RENEW;
                self.lease.is_known = true;
            }
            (Purpose::Renew { .. }, Answer::Conflict) => {
                self.lease.is_busy = true;
                self.request(Request::Get { key: lease_key(&self.id) }, Purpose::ReadLease);
            }
            (Purpose::ReadLease, Answer::Missing) => self.begin_term(None),
            (Purpose::ReadLease, Answer::Found { revision, value }) => {
                let is_own = value == self.lease.term.to_string().as_bytes();
                // A later revision is a renewal whose answer was lost. An earlier one comes from an engine that has lost its
                // latest changes, perhaps claims among them.
                if is_own && revision > self.lease.revision.unwrap_or(0) {
                    (self.lease.revision, self.lease.next_at) = (Some(revision), Duration::ZERO);
                } else {
                    self.begin_term(Some(revision));
                }
            }
            _ => self.lease.next_at = now + RETRY,
        }
    }

    /// The lease was lost, and with it every claim: all names are claimed anew.
    fn begin_term(&mut self, revision: Option<u64>) {
        let term = self.lease.term + 1;
        self.lease = Lease { term, revision, ..Lease::default() };
        self.requests.retain(|_, purpose| !purpose.is_of_a_claim());
        self.claims_are_void();
    }

    /// The next bucket may be another one, whose revisions have other meanings.
    pub(super) fn bucket_is_lost(&mut self) {
        self.lease.is_known = false;
        self.suspects.clear();
    }

    // ---- other nodes -------------------------------------------------------------------------------------------------

    /// Watches the lease of a node that may be dead.
    pub(super) fn suspect(&mut self, node: &str) {
        if self.suspects.len() < NODES_MAX && !self.suspects.contains_key(node) {
            self.suspects.insert(node.into(), Suspect::default());
        }
    }

    /// Reads the leases of silent nodes, and deletes those that have not changed for too long.
    pub(super) fn watch(&mut self, silent: Vec<Box<str>>, now: Duration) {
        for node in silent {
            self.suspect(&node);
        }
        if !self.has_bucket {
            return;
        }
        let mut requests = Vec::new();
        for (node, suspect) in &mut self.suspects {
            if suspect.is_busy || now < suspect.next_at {
                continue;
            }
            if requests.len() == WATCHED {
                break;
            }
            let node = node.clone();
            let request = match suspect.revision {
                None => (Request::Get { key: lease_key(&node) }, Purpose::Watch { node }),
                Some((revision, since)) if now >= since + LEASE_OVER => {
                    (Request::Delete { revision }, Purpose::Fence { node })
                }
                Some(_) => continue,
            };
            suspect.is_busy = true;
            requests.push(request);
        }
        for (request, purpose) in requests {
            self.request(request, purpose);
        }
    }

    /// The lease of a suspect was read.
    pub(super) fn watched(&mut self, node: &str, answer: Answer<'_>, now: Duration) {
        let Some(suspect) = self.suspects.get_mut(node) else { return };
        suspect.is_busy = false;
        match answer {
            Answer::Found { revision, .. } => suspect.revision = Some((revision, now)),
            Answer::Missing if !self.peers.knows(node) => drop(self.suspects.remove(node)),
            _ => suspect.next_at = now + RETRY,
        }
    }

    /// The lease of a suspect was deleted, or was renewed meanwhile.
    pub(super) fn fenced(&mut self, node: &str, answer: Answer<'_>, now: Duration) {
        match answer {
            // Still silent, a node is suspected again by the next tick.
            Answer::Done | Answer::Missing => drop(self.suspects.remove(node)),
            _ => {
                if let Some(suspect) = self.suspects.get_mut(node) {
                    (suspect.is_busy, suspect.next_at) = (false, now + RETRY);
                }
            }
        }
    }
}
