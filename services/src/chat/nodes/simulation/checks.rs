//! The promises that hold at every moment, or after a healing.

use super::*;

impl World {
    /// Checks the names whenever a member has come, and for some time after the healing at every step.
    pub(super) fn hold_true(&mut self) {
        let (is_healthy, agreed) = (!self.had_faults, FAULTY + 30_000 + RECONNECT + AGREED);
        let has_agreed = !self.faults && (agreed..agreed + 100).contains(&self.now);
        let is_new = std::mem::replace(&mut self.checked, self.granted) != self.granted;
        if has_agreed || is_new && (is_healthy || self.now >= agreed) {
            self.names_are_unique();
        }
    }

    pub(super) fn names_are_unique(&self) {
        let mut names = HashMap::new();
        for (place, server) in self.servers.iter().enumerate().filter(|(_, server)| !server.is_dead) {
            for (number, (name, _)) in server.members.iter().filter(|(_, (_, member))| *member == Member::Here) {
                for key in keys_of(name) {
                    let other = names.insert(key, (place, *number));
                    assert!(
                        other.is_none_or(|other| other == (place, *number)),
                        "{name} at n{place} ({number}) and {other:?} at {}:\n{}",
                        self.now,
                        self.log.iter().map(|line| format!("{line}\n")).collect::<String>()
                    );
                }
            }
        }
    }

    /// Every message was heard at most once, in order, and at least once where nothing was broken.
    pub(super) fn messages_were_heard(&self) {
        let whose: HashMap<&str, usize> = self.said.iter().map(|(_, place, text)| (text.as_str(), *place)).collect();
        for (place, server) in self.servers.iter().enumerate() {
            let heard: Vec<u64> =
                server.heard.iter().map(|text| text.rsplit_once(">>").unwrap().1.parse().unwrap()).collect();
            let mut latest = BTreeMap::new();
            for number in &heard {
                let from = whose[number.to_string().as_str()];
                let before = latest.insert(from, *number);
                assert!(
                    before.is_none_or(|before| before < *number),
                    "n{place} hears {number} after {before:?} of n{from}"
                );
            }
            let heard: BTreeSet<u64> = heard.into_iter().collect();
            for (time, from, text) in &self.said {
                let is_whole = |place: usize| {
                    self.servers[place].troubles.iter().all(|(begin, end)| *end <= *time || *begin > *time + WAY)
                };
                let was_deaf = self
                    .deaf
                    .iter()
                    .any(|(pair, begin, end)| *pair == (*from, place) && *begin <= *time + WAY && *time < *end);
                if *from != place && is_whole(*from) && is_whole(place) && !was_deaf && *time + WAY < self.now {
                    assert!(
                        heard.contains(&text.parse().unwrap()),
                        "n{place} has missed {text} of n{from} at {time}; {:?} {:?}",
                        self.servers[*from].troubles,
                        server.troubles
                    );
                }
            }
        }
    }

    pub(super) fn presence_is_right(&self) {
        for (place, server) in self.servers.iter().enumerate().filter(|(_, server)| !server.is_dead) {
            let mut expected = BTreeMap::new();
            for (other, from) in self.servers.iter().enumerate().filter(|(_, server)| !server.is_dead) {
                let here = from.members.iter().filter(|(_, (_, member))| *member == Member::Here);
                for (number, (name, _)) in here.filter(|_| other != place) {
                    expected.insert((from.node.id.clone(), *number), format!("{name}@10.0.0.{other}").into_boxed_str());
                }
            }
            assert_eq!(server.others, expected, "n{place} at {}", self.now);
            assert_eq!(server.node.remote_members(), expected.len());
        }
    }
}
