//! The engine of the simulation: a bucket of keys that can lose its latest changes.

use super::*;

/// The bucket: every change, so that an engine can lose the latest ones.
#[derive(Default)]
pub(in super::super) struct Bucket {
    exists: bool,
    changes: Vec<(u64, String, Option<String>)>,
    values: BTreeMap<String, (u64, String)>,
    last: u64,
}

pub(in super::super) enum Reply {
    Plain(Answer<'static>),
    Found(u64, String),
}

impl Bucket {
    pub(in super::super) fn carry_out(&mut self, request: &Request) -> Reply {
        if let Request::Create = request {
            self.exists = true;
            return Reply::Plain(Answer::Done);
        }
        if !self.exists {
            return Reply::Plain(Answer::NoBucket);
        }
        match request {
            Request::Put { key, value, expected } => {
                if self.values.get(key).map_or(0, |value| value.0) != *expected {
                    return Reply::Plain(Answer::Conflict);
                }
                self.last += 1;
                self.changes.push((self.last, key.clone(), Some(value.clone())));
                self.values.insert(key.clone(), (self.last, value.clone()));
                Reply::Plain(Answer::Stored(self.last))
            }
            Request::Get { key } => match self.values.get(key) {
                Some((revision, value)) => Reply::Found(*revision, value.clone()),
                None => Reply::Plain(Answer::Missing),
            },
            Request::Delete { revision } => {
                let key = self.values.iter().find(|(_, value)| value.0 == *revision).map(|(key, _)| key.clone());
                let Some(key) = key else { return Reply::Plain(Answer::Missing) };
                self.values.remove(&key);
                self.changes.push((self.last, key, None));
                Reply::Plain(Answer::Done)
            }
            Request::Create => unreachable!(),
        }
    }

    /// Number of keys.
    pub(in super::super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn forget_all(&mut self) {
        *self = Bucket::default();
    }

    pub(in super::super) fn forget_latest(&mut self, count: usize) {
        self.changes.truncate(self.changes.len().saturating_sub(count));
        self.values.clear();
        for (revision, key, value) in &self.changes {
            match value {
                Some(value) => self.values.insert(key.clone(), (*revision, value.clone())),
                None => self.values.remove(key),
            };
        }
        self.last = self.changes.iter().map(|change| change.0).max().unwrap_or(0);
    }
}
