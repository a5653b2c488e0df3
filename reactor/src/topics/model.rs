//! Topics beside a set of pairs. For property tests and for the fuzz target `topics`.

use std::collections::BTreeSet;

use super::*;
use crate::operations::Operations;

const MEMBERS: u64 = 20;
const TOPICS: u64 = 7;

/// | | |
/// | --- | --- |
/// | `t` | of what topic is spoken from here on |
/// | `s` `u` | this connection subscribes to it; unsubscribes |
/// | `l` | this connection leaves everything |
#[cfg(test)]
const LETTERS: &[u8] = b"ttsssuul";

/// Does what the text says, and panics where the topics are not right.
pub fn check(text: &[u8]) {
    let names: Vec<Topic> = (0..TOPICS).map(|topic| Topic::from(topic.to_string())).collect();
    let id = |member: u64| ConnectionId::new(0, member as usize, 1);
    let (mut topics, mut model, mut topic) = (Topics::default(), BTreeSet::new(), 0);
    for (letter, number) in Operations::of(text) {
        let member = id(number % MEMBERS);
        let name = &names[topic as usize];
        match letter {
            b't' => topic = number % TOPICS,
            b's' => assert_eq!(topics.subscribe(name, member), model.insert((topic, member))),
            b'u' => assert_eq!(topics.unsubscribe(name, member), model.remove(&(topic, member))),
            b'l' => {
                topics.leave_all(member);
                model.retain(|&(_, other)| other != member);
            }
            _ => {}
        }
        topics.check();
        for (topic, name) in (0..).zip(&names) {
            let expected: Vec<_> = model.range((topic, id(0))..(topic + 1, id(0))).map(|&(_, id)| id).collect();
            let mut members = topics.members(name).to_vec();
            members.sort_unstable();
            assert_eq!(members, expected, "members of {name}");
            assert_eq!(topics.count(name), expected.len());
        }
    }
}

impl Topics {
    /// Every membership is noted on both sides, in the same place, and nothing is kept for nobody.
    pub(super) fn check(&self) {
        let noted: usize = self.places.values().map(HashMap::len).sum();
        assert_eq!(noted, self.members.values().map(Vec::len).sum::<usize>());
        for (topic, members) in &self.members {
            assert!(!members.is_empty());
            for (place, member) in members.iter().enumerate() {
                assert_eq!(self.places[member][topic], place);
            }
        }
        assert!(self.places.values().all(|topics| !topics.is_empty()));
        assert_eq!(self.overlap(), noted > self.places.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::testing::{operations, seeds};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn any_operations_do_what_they_do_to_a_set_of_pairs(text in operations(LETTERS, 2, 100, &[0, 1])) {
            check(text.as_bytes());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("topics").iter().for_each(|seed| check(seed));
    }
}
