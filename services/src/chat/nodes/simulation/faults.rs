//! What members and the world do to the nodes: joins, words, leaves; cuts, deaths, frozen nodes, restarts of the engine; and the end of
//! all faults.

use super::*;

impl World {
    pub(super) fn alive(&mut self) -> Option<usize> {
        let now = self.now;
        let alive: Vec<usize> = (0..self.servers.len())
            .filter(|&place| !self.servers[place].is_dead && self.servers[place].frozen_until <= now)
            .collect();
        (!alive.is_empty()).then(|| alive[self.chance.below(alive.len())])
    }

    pub(super) fn member(&mut self) {
        let next = self.below(60);
        self.schedule(next, Happens::Member);
        let Some(place) = self.alive() else { return };
        let here: Vec<u64> = self.servers[place].members.keys().copied().collect();
        match self.chance.below(10) {
            0 | 1 => {
                let name = format!("{}{}", ["ann", "Ann", "аnn", "IVI", "ivi"][self.chance.below(5)], self.below(6));
                self.ask(place, &name);
            }
            2 if !here.is_empty() => {
                let number = here[self.chance.below(here.len())];
                self.servers[place].members.remove(&number);
                self.servers[place].node.withdraw(number, at(self.now));
                self.act(place);
            }
            _ if !here.is_empty() => {
                let number = here[self.chance.below(here.len())];
                if self.servers[place].members[&number].1 == Member::Here {
                    let text = self.said.len().to_string();
                    self.servers[place].node.say(number, &text);
                    self.said.push((self.now, place, text));
                    self.act(place);
                }
            }
            _ => {}
        }
    }

    pub(super) fn ask(&mut self, place: usize, name: &str) -> u64 {
        self.members += 1;
        let (number, who) = (self.members, format!("{name}@10.0.0.{place}"));
        self.servers[place].members.insert(number, (name.to_owned(), Member::Asks));
        // Clocks of different machines differ.
        let joined = 1_000_000 + self.now + place as u64 * 700;
        self.servers[place].node.ask(number, &who, joined, at(self.now));
        self.act(place);
        number
    }

    // ---- faults ------------------------------------------------------------------------------------------------------

    /// The link of a node is cut. The node notices the cut later. All bytes under way are lost.
    pub(super) fn cut(&mut self, place: usize, notices: u64, refused_for: u64) {
        let (now, server) = (self.now, &mut self.servers[place]);
        if server.is_dead {
            return;
        }
        server.refused_until = server.refused_until.max(now + refused_for);
        if std::mem::replace(&mut server.is_linked, false) {
            server.troubles.push((now, u64::MAX));
            let epoch = server.epoch;
            self.schedule(notices, Happens::LinkLost(place, epoch));
        }
    }

    pub(super) fn fault(&mut self) {
        if self.now > FAULTY {
            return;
        }
        let next = self.below(6_000);
        self.schedule(next, Happens::Fault);
        let Some(place) = self.alive() else { return };
        if !self.faults {
            return;
        }
        let kind = self.chance.below(8);
        self.note(format!("fault {kind} at n{place}"));
        match kind {
            0 | 1 => {
                let (notices, refused_for) = (self.below(8_000), self.below(20_000));
                self.cut(place, notices, refused_for);
            }
            2 if self.servers.len() < 7 => {
                self.kill(place);
                self.start();
            }
            3 => {
                let span = self.below(25_000);
                let server = &mut self.servers[place];
                server.frozen_until = self.now + span;
                server.troubles.push((self.now, self.now + span + WAY));
                if self.chance.below(2) == 0 {
                    self.cut(place, 0, 0);
                }
            }
            4 | 5 => {
                self.engine_down_until = self.now + self.below(15_000);
                let is_frozen = self.chance.below(2) == 0;
                for place in 0..self.servers.len() {
                    let notices = if is_frozen { 8_000 } else { self.below(50) };
                    self.cut(place, notices, 0);
                }
                match self.chance.below(3) {
                    0 => self.bucket.forget_all(),
                    1 => {
                        let count = self.chance.below(20);
                        self.bucket.forget_latest(count);
                    }
                    _ => {}
                }
            }
            _ => {
                let (other, span) = (self.chance.below(self.servers.len()), self.below(20_000));
                self.deaf.push(((place, other), self.now, self.now + span));
            }
        }
    }

    pub(super) fn kill(&mut self, place: usize) {
        let server = &mut self.servers[place];
        (server.is_dead, server.is_linked) = (true, false);
        server.troubles.push((self.now, u64::MAX));
        server.members.clear();
    }

    /// All that was broken is whole again.
    pub(super) fn heal(&mut self) {
        assert!(self.deaf.iter().all(|deaf| deaf.2 <= self.now));
        self.engine_down_until = self.engine_down_until.min(self.now);
        self.faults = false;
        for server in &mut self.servers {
            server.refused_until = server.refused_until.min(self.now);
            // What waits for the end of the freeze is scheduled for that time.
            assert!(server.frozen_until <= self.now);
        }
        self.note("healed".to_owned());
    }

    // ---- invariants --------------------------------------------------------------------------------------------------
}
