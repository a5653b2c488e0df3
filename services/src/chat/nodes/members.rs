//! The members of this node, their keys in the bucket, and the texts of claims.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use super::super::likeness::likenesses;
use super::Key;

/// Claims of members that have gone, without an answer of the engine so far, at most. Further ones end with the lease.
const ORPHANS_MAX: usize = 100_000;

/// The members of this node.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) entries: BTreeMap<u64, Entry>,
    /// The member that has a key, or asks for it, or is leaving.
    pub(super) keys: HashMap<Key, u64>,
    /// Members that are going to claim their names.
    pub(super) queue: VecDeque<u64>,
    /// Guests whose name belongs to a member that is leaving.
    pub(super) waiting: Vec<u64>,
    /// Guests whose name belongs to a member of another node, until the next tick.
    pub(super) postponed: Vec<u64>,
    /// Members with a name that a member of another node has, too, as far as this node knows.
    pub(super) contested: BTreeSet<u64>,
    pub(super) verified_at: Duration,
    /// Keys of members that have gone, which the bucket may still have.
    pub(super) orphans: Vec<(Key, u64)>,
    /// Such keys whose latest request has failed.
    pub(super) failed_orphans: Vec<(Key, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Asking,
    Seated,
    /// Another node's member has the name. This member is asked to go.
    Lost,
    Leaving,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) who: Box<str>,
    pub(super) keys: Box<[Key]>,
    /// The time of the arrival in milliseconds since 1970.
    pub(super) joined: u64,
    /// When the name was asked for.
    pub(super) since: Duration,
    /// Number of times that the guest was found to have the name of a member of another node.
    pub(super) looks: u8,
    pub(super) state: State,
    /// The others were told of the arrival.
    pub(super) is_announced: bool,
    /// The engine has granted the name, in this term of the lease.
    pub(super) is_granted: bool,
    /// All keys are had.
    pub(super) is_claimed: bool,
    /// A request is not answered yet, or the member is in the queue.
    pub(super) is_busy: bool,
    /// The latest request has failed. The next one follows after [`RETRY`](super::RETRY).
    pub(super) has_failed: bool,
    /// The outcome of a request is unknown.
    pub(super) is_unsure: bool,
    /// The revisions of the keys, 0 for unknown.
    pub(super) revisions: [u64; 2],
    /// Releases without an answer.
    pub(super) releases: u8,
}

/// The purpose of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The outcome does not matter.
    Nothing,
    Create,
    Renew {
        sent: Duration,
    },
    ReadLease,
    Watch {
        node: Box<str>,
    },
    Fence {
        node: Box<str>,
    },
    /// Take the key `index` of a member.
    Claim {
        number: u64,
        index: usize,
    },
    /// Read a key that has another revision.
    Read {
        number: u64,
        index: usize,
    },
    /// Read the lease of the key's holder.
    Holder {
        number: u64,
        index: usize,
        revision: u64,
        claim: Claim,
    },
    Release {
        number: u64,
        index: usize,
    },
    /// Find and release a key of a member that has gone.
    Orphan {
        key: Key,
        number: u64,
    },
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) node: Box<str>,
    pub(super) term: u64,
    pub(super) number: u64,
    pub(super) joined: u64,
    pub(super) is_granted: bool,
}

impl Purpose {
    /// Whether the request depends on the term of the lease.
    pub(super) fn is_of_a_claim(&self) -> bool {
        match self {
            Purpose::Claim { .. } | Purpose::Read { .. } | Purpose::Holder { .. } => true,
            Purpose::Release { .. } | Purpose::Orphan { .. } => true,
            Purpose::Nothing | Purpose::Create | Purpose::Renew { .. } | Purpose::ReadLease => false,
            Purpose::Watch { .. } | Purpose::Fence { .. } => false,
        }
    }
}

impl Claim {
    /// Longest text of a claim in bytes.
    const MAX: usize = 256;

    pub(super) fn text(&self) -> String {
        let Claim { node, term, number, joined, is_granted } = self;
        format!("{node} {term} {number} {joined} {}", u8::from(*is_granted))
    }

    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= Self::MAX)?;
        let mut fields = text.split(' ');
        let node = fields.next().filter(|node| is_node(node))?.into();
        let mut number = || fields.next()?.parse::<u64>().ok();
        let claim = Claim { node, term: number()?, number: number()?, joined: number()?, is_granted: number()? == 1 };
        fields.next().is_none().then_some(claim)
    }
}

/// Longest name of a node in bytes, with its suffix.
const NODE_MAX: usize = 80;

/// Whether the text can be the name of a node.
pub(super) fn is_node(text: &str) -> bool {
    text.len() <= NODE_MAX && is_token(text)
}

/// Whether the text can be part of a subject.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

pub(super) fn name_key(key: &Key) -> String {
    let mut text = String::from("name.");
    for byte in key {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Claims {
    pub(super) fn enter(&mut self, number: u64, who: &str, joined: u64, now: Duration) {
        let entry = Entry {
            who: who.into(),
            keys: keys_of(who).into(),
            joined,
            since: now,
            looks: 0,
            state: State::Waiting,
            is_announced: false,
            is_granted: false,
            is_claimed: false,
            is_busy: false,
            has_failed: false,
            is_unsure: false,
            revisions: [0; 2],
            releases: 0,
        };
        self.entries.insert(number, entry);
    }

    /// `<name>@<address>` of a member.
    pub(super) fn who(&self, number: u64) -> Option<&str> {
        self.entries.get(&number).map(|entry| &*entry.who)
    }

    /// The members that the others know, or are going to hear of.
    pub(super) fn announced(&self) -> impl Iterator<Item = (u64, &str)> {
        self.entries.iter().filter(|(_, entry)| entry.is_announced).map(|(number, entry)| (*number, &*entry.who))
    }

    /// The revisions of all claims.
    pub(super) fn revisions(&self) -> impl Iterator<Item = u64> {
        let sure = self.entries.values().filter(|entry| !entry.is_unsure);
        sure.flat_map(|entry| entry.revisions).filter(|revision| *revision > 0)
    }

    /// Members of other nodes have come, with names of these keys.
    pub(super) fn contest(&mut self, came: &[Key]) {
        self.contested.extend(came.iter().filter_map(|key| self.keys.get(key)));
    }

    pub(super) fn forget(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        for key in &entry.keys {
            if self.keys.get(key) == Some(&number) {
                self.keys.remove(key);
            }
        }
        self.contested.remove(&number);
        Some(entry)
    }

    pub(super) fn orphan(&mut self, number: u64) {
        if let Some(entry) = self.entries.get(&number)
            && (entry.is_unsure || entry.revisions != [0; 2])
            && self.orphans.len() + self.failed_orphans.len() < ORPHANS_MAX
        {
            self.orphans.extend(entry.keys.iter().map(|key| (*key, number)));
        }
    }

    /// Requests that have failed are repeated at the next tick.
    pub(super) fn retry(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.has_failed = false);
        self.orphans.append(&mut self.failed_orphans);
    }

    pub(super) fn in_state(&self, state: State) -> Vec<u64> {
        self.entries.iter().filter(|(_, entry)| entry.state == state).map(|(number, _)| *number).collect()
    }
}

/// The one or two keys of the name in `who`, which is a name, or a name and an address after `@`.
pub(super) fn keys_of(who: &str) -> Vec<Key> {
    let name = who.split_once('@').map_or(who, |(name, _)| name);
    let mut keys = likenesses(name).map(|likeness| key_of(&likeness)).to_vec();
    // In one order for all nodes: of several nodes that take two keys each, one gets on.
    keys.sort_unstable();
    keys.dedup();
    keys
}

pub(super) fn key_of(likeness: &str) -> Key {
    let hash = hmac_sha256::Hash::hash(likeness.as_bytes());
    let mut key = Key::default();
    key.copy_from_slice(&hash[..16]);
    key
}
