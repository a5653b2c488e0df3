//! The members of this node and their claims: from the question for a name to its release.
//!
//! ```text
//!   ask ─▶ Waiting (the name's last holder is leaving) ─▶ Asking ──every key is had──▶ Seated ─▶ Leaving ─▶ released, told
//!                                                           └──a key belongs to a living node──▶ refused
//! ```
//!
//! A key whose revision is not the expected one is read. If its holder's lease is gone, the claim is taken over. A seated member
//! without a claim was seated while the engine was away. When the engine is back, the member claims its name like a
//! guest, with one difference: of two such members the one that joined earlier has the name, whoever claims first.

use std::time::Duration;

use super::lease::lease_key;
use super::members::{Claim, Entry, Purpose, State, name_key};
use super::wire::{Content, Person};
use super::{ASK_MAX, Action, Answer, Event, Key, Node, Phase, REQUESTS_MAX, RETRY, Request};

/// Ticks for which a guest waits for the departure of a member of another node that has the guest's name.
const LOOKS: u8 = 2;

impl Node {
    // ---- asking ------------------------------------------------------------------------------------------------------

    /// Looks whether the name is free as far as this node knows, and begins to claim the name.
    pub(super) fn consider(&mut self, number: u64) {
        let Some(entry) = self.claims.entries.get(&number) else { return };
        let holders = || entry.keys.iter().filter_map(|key| self.claims.keys.get(key));
        let is_leaving =
            |holder| self.claims.entries.get(holder).is_some_and(|entry: &Entry| entry.state == State::Leaving);
        let is_elsewhere = entry.keys.iter().any(|key| self.peers.has_name(key));
        if !holders().all(is_leaving) || (is_elsewhere && entry.looks == LOOKS) {
            self.claims.forget(number);
            return self.event(Event::Refused { number });
        }
        if is_elsewhere {
            return self.postpone(number);
        }
        if holders().next().is_some() {
            return self.claims.waiting.push(number);
        }
        let keys = entry.keys.iter().map(|key| (*key, number)).collect::<Vec<_>>();
        self.claims.keys.extend(keys);
        self.set_state(number, State::Asking);
        match self.phase {
            Phase::Away => self.seat(number, true),
            Phase::Up if self.is_without && self.knows_others => self.seat(number, false),
            Phase::Starting | Phase::Up => self.line_up(number),
        }
    }

    /// Looks again at the next tick. A member that has just left may have read the end of its connection before the other nodes hear
    /// of the departure, and may join again on any of them at once.
    fn postpone(&mut self, number: u64) {
        if let Some(entry) = self.claims.entries.get_mut(&number) {
            entry.looks += 1;
            self.claims.postponed.push(number);
        }
    }

    /// Looks again for the guests whose name a member of another node had.
    pub(super) fn consider_postponed(&mut self) {
        for number in std::mem::take(&mut self.claims.postponed) {
            self.consider(number);
        }
    }

    fn set_state(&mut self, number: u64, state: State) {
        if let Some(entry) = self.claims.entries.get_mut(&number) {
            entry.state = state;
        }
    }

    fn line_up(&mut self, number: u64) {
        if let Some(entry) = self.claims.entries.get_mut(&number) {
            entry.is_busy = true;
            self.claims.queue.push_back(number);
        }
    }

    /// Begins claims, as long as requests may wait for answers and the lease holds.
    pub(super) fn advance(&mut self, now: Duration) {
        if self.phase != Phase::Up || !self.has_bucket || !self.lease.is_held(now) {
            return;
        }
        while self.requests.len() < REQUESTS_MAX
            && let Some(number) = self.claims.queue.pop_front()
        {
            let Some(entry) = self.claims.entries.get_mut(&number) else { continue };
            entry.is_busy = false;
            match entry.state {
                State::Asking | State::Seated if !entry.is_claimed => {
                    let expected = entry.revisions[0];
                    self.put(number, 0, expected);
                }
                _ => {}
            }
        }
        while self.requests.len() < REQUESTS_MAX
            && let Some((key, number)) = self.claims.orphans.pop()
        {
            self.request(Request::Get { key: name_key(&key) }, Purpose::Orphan { key, number });
        }
    }

    fn put(&mut self, number: u64, index: usize, expected: u64) {
        let Some(entry) = self.claims.entries.get_mut(&number) else { return };
        entry.is_busy = true;
        let claim = Claim {
            node: self.id.clone(),
            term: self.lease.term,
            number,
            joined: entry.joined,
            is_granted: entry.is_granted || entry.state == State::Asking,
        };
        let request = Request::Put { key: name_key(&entry.keys[index]), value: claim.text(), expected };
        self.request(request, Purpose::Claim { number, index });
    }

    // ---- answers -----------------------------------------------------------------------------------------------------

    pub(super) fn claim_answered(&mut self, purpose: Purpose, answer: Answer<'_>, now: Duration) {
        match purpose {
            Purpose::Claim { number, index } => self.put_answered(number, index, answer, now),
            Purpose::Read { number, index } => self.read_answered(number, index, answer),
            Purpose::Holder { number, index, revision, claim } => match answer {
                Answer::Found { value, .. } if value == claim.term.to_string().as_bytes() => {
                    self.contend(number, index, revision, &claim, now);
                }
                // The holder's lease is gone, or is one of a later term.
                Answer::Found { .. } | Answer::Missing => self.put_unless_leaving(number, index, revision),
                _ => self.pause(number),
            },
            Purpose::Release { number, index } => self.released(number, index, answer),
            Purpose::Orphan { key, number } => self.orphan_answered(key, number, answer),
            _ => {}
        }
    }

    fn put_answered(&mut self, number: u64, index: usize, answer: Answer<'_>, now: Duration) {
        let Some(entry) = self.claims.entries.get_mut(&number) else { return };
        match answer {
            Answer::Stored(revision) => {
                entry.revisions[index] = revision;
                if index + 1 < entry.keys.len() {
                    let expected = entry.revisions[index + 1];
                    return self.put_unless_leaving(number, index + 1, expected);
                }
                self.claimed(number, now);
            }
            Answer::Conflict => {
                entry.revisions[index] = 0;
                let key = name_key(&entry.keys[index]);
                self.request(Request::Get { key }, Purpose::Read { number, index });
            }
            _ => {
                entry.is_unsure = true;
                self.pause(number);
            }
        }
    }

    fn read_answered(&mut self, number: u64, index: usize, answer: Answer<'_>) {
        match answer {
            Answer::Missing => self.put_unless_leaving(number, index, 0),
            Answer::Found { revision, value } => match Claim::read(value) {
                // Without an answer for an earlier request of this node, or of a member of this node that has gone.
                Some(claim) if claim.node == self.id => self.put_unless_leaving(number, index, revision),
                Some(claim) => {
                    let key = lease_key(&claim.node);
                    self.request(Request::Get { key }, Purpose::Holder { number, index, revision, claim });
                }
                None => self.put_unless_leaving(number, index, revision),
            },
            _ => self.pause(number),
        }
    }

    /// A node with a lease holds the key.
    fn contend(&mut self, number: u64, index: usize, revision: u64, claim: &Claim, now: Duration) {
        let Some(entry) = self.claims.entries.get(&number) else { return };
        let (state, is_earlier) = (entry.state, (entry.joined, &self.id) < (claim.joined, &claim.node));
        if state == State::Seated && !claim.is_granted && is_earlier {
            return self.put(number, index, revision);
        }
        if self.peers.is_silent(&claim.node, now) {
            self.suspect(&claim.node);
        }
        match state {
            State::Asking => self.refuse(number),
            State::Seated => {
                self.event(Event::Close { number });
                self.set_state(number, State::Lost);
                self.pause(number);
            }
            _ => self.pause(number),
        }
    }

    fn refuse(&mut self, number: u64) {
        self.event(Event::Refused { number });
        self.set_state(number, State::Leaving);
        self.release(number);
    }

    fn put_unless_leaving(&mut self, number: u64, index: usize, expected: u64) {
        match self.claims.entries.get(&number) {
            Some(entry) if entry.state == State::Leaving => self.pause(number),
            _ => self.put(number, index, expected),
        }
    }

    /// All keys of the member are had.
    fn claimed(&mut self, number: u64, now: Duration) {
        let is_held = self.lease.is_held(now);
        let Some(entry) = self.claims.entries.get_mut(&number) else { return };
        (entry.is_busy, entry.is_claimed, entry.is_unsure) = (false, is_held, false);
        match entry.state {
            State::Leaving => self.release(number),
            State::Asking if is_held => {
                entry.is_granted = true;
                if self.knows_others {
                    self.seat(number, false);
                }
            }
            _ => {}
        }
    }

    /// The claim stops here, and begins anew within [`RETRY`] and a tick, unless the member leaves.
    fn pause(&mut self, number: u64) {
        let Some(entry) = self.claims.entries.get_mut(&number) else { return };
        (entry.is_busy, entry.has_failed) = (false, true);
        if entry.state == State::Leaving {
            self.release(number);
        }
    }

    /// Seats the member, and announces the arrival to the other nodes.
    fn seat(&mut self, number: u64, is_alone: bool) {
        let Some(entry) = self.claims.entries.get_mut(&number) else { return };
        (entry.state, entry.is_announced) = (State::Seated, true);
        let who = entry.who.clone();
        self.event(Event::Granted { number, is_alone });
        self.changes += 1;
        self.tell(None, Content::Came(Person { number, who: &who }));
    }

    // ---- leaving -----------------------------------------------------------------------------------------------------

    pub(super) fn leave(&mut self, number: u64) {
        let Some(entry) = self.claims.entries.get_mut(&number) else { return };
        let before = entry.state;
        let is_in_queue = entry.is_busy && self.claims.queue.contains(&number);
        match before {
            State::Leaving => {}
            State::Waiting => drop(self.claims.forget(number)),
            State::Asking | State::Seated | State::Lost => {
                entry.state = State::Leaving;
                // An answer that is under way tells what is to be released.
                if !entry.is_busy || is_in_queue {
                    entry.is_busy = false;
                    self.release(number);
                }
            }
        }
    }

    /// Releases the keys of a member that leaves. The others hear of the departure afterwards: who then asks for the name
    /// finds it free.
    fn release(&mut self, number: u64) {
        let Some(entry) = self.claims.entries.get_mut(&number) else { return };
        if self.phase == Phase::Up && self.lease.is_known && !entry.is_unsure {
            for (index, revision) in entry.revisions.into_iter().enumerate().filter(|(_, revision)| *revision > 0) {
                entry.releases += 1;
                self.last_request += 1;
                self.requests.insert(self.last_request, Purpose::Release { number, index });
                let action = Action::Request { id: self.last_request, request: Request::Delete { revision } };
                self.actions.push_back(action);
            }
        } else {
            self.claims.orphan(number);
        }
        if self.claims.entries.get(&number).is_some_and(|entry| entry.releases == 0) {
            self.finish(number);
        }
    }

    fn released(&mut self, number: u64, index: usize, answer: Answer<'_>) {
        let Some(entry) = self.claims.entries.get_mut(&number) else { return };
        entry.releases -= 1;
        if matches!(answer, Answer::Done | Answer::Missing) {
            entry.revisions[index] = 0;
        }
        if entry.releases == 0 {
            self.claims.orphan(number);
            self.finish(number);
        }
    }

    /// The member is gone, and its name is free.
    fn finish(&mut self, number: u64) {
        if self.claims.forget(number).is_some_and(|entry| entry.is_announced) {
            self.changes += 1;
            self.tell(None, Content::Went { number });
        }
        for waiting in std::mem::take(&mut self.claims.waiting) {
            self.consider(waiting);
        }
    }

    fn orphan_answered(&mut self, key: Key, number: u64, answer: Answer<'_>) {
        match answer {
            Answer::Found { revision, value } => {
                let is_own = |claim: &Claim| claim.node == self.id && claim.number == number;
                if Claim::read(value).as_ref().is_some_and(is_own) {
                    self.request(Request::Delete { revision }, Purpose::Orphan { key, number });
                }
            }
            Answer::Done | Answer::Missing => {}
            // Not at once: a request that cannot be sent fails at once, too.
            _ => self.claims.failed_orphans.push((key, number)),
        }
    }

    // ---- the link, the lease, time -----------------------------------------------------------------------------------

    /// The link is down: no request has an answer.
    pub(super) fn claims_are_lost(&mut self) {
        self.claims.queue.clear();
        for entry in self.claims.entries.values_mut() {
            entry.is_unsure |= entry.is_busy;
            (entry.is_busy, entry.releases) = (false, 0);
        }
        self.finish_leaving();
        self.grant_all(true);
    }

    /// Seats all guests that ask, without the engine.
    pub(super) fn grant_all(&mut self, is_alone: bool) {
        for number in self.claims.in_state(State::Asking) {
            self.seat(number, is_alone);
        }
    }

    /// Seats the guests that had to wait for the other nodes' lists of members alone.
    pub(super) fn grant_ready(&mut self) {
        for number in self.claims.in_state(State::Asking) {
            let Some(entry) = self.claims.entries.get(&number) else { continue };
            if entry.is_claimed {
                self.seat(number, false);
            } else if self.is_without {
                match entry.keys.iter().any(|key| self.peers.has_name(key)) {
                    true => self.refuse(number),
                    false => self.seat(number, false),
                }
            }
        }
    }

    /// The lease is lost: no claim counts, and none has to be released.
    pub(super) fn claims_are_void(&mut self) {
        self.claims.queue.clear();
        self.claims.orphans.clear();
        self.claims.failed_orphans.clear();
        for entry in self.claims.entries.values_mut() {
            (entry.is_busy, entry.is_claimed, entry.is_granted, entry.releases) = (false, false, false, 0);
            // The claims may be those of an earlier bucket.
            entry.is_unsure |= entry.revisions != [0; 2];
            if entry.state == State::Leaving {
                (entry.revisions, entry.is_unsure) = ([0; 2], false);
            }
        }
        self.finish_leaving();
    }

    fn finish_leaving(&mut self) {
        for number in self.claims.in_state(State::Leaving) {
            self.claims.orphan(number);
            self.finish(number);
        }
    }

    /// Claims what is not claimed, and claims anew what another node seems to have, too.
    pub(super) fn verify(&mut self, now: Duration) {
        if now >= self.claims.verified_at + RETRY {
            self.claims.verified_at = now;
            self.claims.retry();
            for number in self.claims.contested.iter().copied().collect::<Vec<_>>() {
                let Some(entry) = self.claims.entries.get_mut(&number) else { continue };
                if entry.keys.iter().any(|key| self.peers.has_name(key)) {
                    entry.is_claimed &= entry.is_busy;
                } else {
                    self.claims.contested.remove(&number);
                }
            }
        }
        let is_due = |entry: &Entry| {
            matches!(entry.state, State::Asking | State::Seated)
                && !(entry.is_claimed || entry.is_busy || entry.has_failed)
        };
        let due = self.claims.entries.iter().filter(|(_, entry)| is_due(entry)).map(|(number, _)| *number);
        for number in due.collect::<Vec<_>>() {
            self.line_up(number);
        }
    }

    /// Seats guests for which the engine has had no answer for too long. Their names are claimed later.
    pub(super) fn grant_overdue(&mut self, now: Duration) {
        for number in self.claims.in_state(State::Asking) {
            if self.claims.entries.get(&number).is_some_and(|entry| now >= entry.since + ASK_MAX) {
                self.seat(number, self.phase != Phase::Up);
            }
        }
    }
}
