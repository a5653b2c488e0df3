//! Limits of the room's work in one turn of the loop, so that other connections are served in between, and the choice
//! of the member to hear next.
//!
//! Members who talk, and guests who come or go, have separate shares. A storm of joins and leaves uses up its own share
//! and waits; the members are heard meanwhile.

use super::Context;

/// Messages in one turn, each into one member's output, for the whole room: a few milliseconds. Two bytes of input can
/// become a hundred bytes for each of thousands of members.
pub(super) const DELIVERIES_PER_TURN: usize = 50_000;

/// Bytes to each member in one turn: as much as leaves in one send.
const PUBLISHED_PER_TURN: usize = 32 * 1024;

/// Bytes to all members together in one turn. Members that do not read keep copies, and the loop compares their memory
/// with the memory budget between the messages.
const DELIVERED_PER_TURN: usize = 16 * 1024 * 1024;

/// Deliveries of announcements in one turn, for the whole room, and of joins, which are announced in the next turn. All
/// announcements of a turn leave in one send to each member, so each announcement costs little more than its bytes.
pub(super) const CHANGES_PER_TURN: usize = 40_000;

/// Joins and announcements that one turn takes in a room of any size: the sends cost the most, and their number stays
/// equal.
pub(super) const CHANGES_AT_LEAST: usize = 8;

/// Hears members in rounds. In each round every member with input is heard once, in as many turns as the round takes,
/// so a member that talks without end is heard no more often than the others.
#[derive(Debug, Default)]
pub(super) struct Budget {
    turn: u32,
    deliveries: usize,
    published: usize,
    delivered: usize,
    /// Deliveries of announcements in this turn.
    changes: usize,
    round: u64,
    /// Whether a member with input was not heard in this turn.
    deferred: bool,
}

impl Budget {
    /// Starts the turn's counts. Call first in each callback that may publish.
    pub(super) fn look(&mut self, cx: &Context<'_>) {
        self.at_turn(cx.turn());
    }

    fn at_turn(&mut self, turn: u32) {
        if turn != self.turn {
            self.round += u64::from(!self.deferred);
            *self = Budget { turn, round: self.round, ..Budget::default() };
        }
    }

    /// Whether the turn's messages are used up.
    pub(super) fn is_spent(&self) -> bool {
        self.deliveries > DELIVERIES_PER_TURN
            || self.published > PUBLISHED_PER_TURN
            || self.delivered > DELIVERED_PER_TURN
    }

    pub(super) fn spend(&mut self, deliveries: usize, bytes: usize) {
        self.deliveries += deliveries;
        self.published += bytes;
        self.delivered += deliveries * bytes;
    }

    /// Whether another guest may come or go in this turn, in a room of `members` members.
    pub(super) fn takes_change(&self, members: usize) -> bool {
        self.changes < CHANGES_PER_TURN.max(CHANGES_AT_LEAST * members)
    }

    /// Counts an arrival or departure that costs `cost` deliveries.
    pub(super) fn spend_change(&mut self, cost: usize) {
        self.changes += cost.max(1);
    }

    /// Whether a member is heard now whose last round was `heard`. If not, the member asks again in the next turn.
    pub(super) fn hears(&mut self, heard: &mut u64) -> bool {
        if *heard == self.round {
            return false;
        }
        if self.is_spent() {
            self.deferred = true;
            return false;
        }
        *heard = self.round;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_heard_once_before_anybody_is_heard_twice() {
        let (mut budget, mut heard, mut times) = (Budget::default(), [0; 10], [0; 10]);
        for turn in 1..=100 {
            budget.at_turn(turn);
            // The loop always visits the guests in one order, and three of them use up the turn.
            for guest in 0..10 {
                if budget.hears(&mut heard[guest]) {
                    budget.spend(DELIVERIES_PER_TURN / 3 + 1, 1);
                    times[guest] += 1;
                }
            }
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            assert!(most - least <= 1, "{times:?}");
        }
        assert!(times[0] >= 20, "{times:?}");
    }

    #[test]
    fn alone_a_guest_is_heard_in_each_turn_and_once() {
        let (mut budget, mut heard) = (Budget::default(), 0);
        for turn in 1..=10 {
            budget.at_turn(turn);
            assert!(budget.hears(&mut heard));
            budget.spend(1, PUBLISHED_PER_TURN + 1);
            assert!(budget.is_spent() && !budget.hears(&mut heard));
        }
    }

    #[test]
    fn those_who_come_and_go_take_nothing_from_those_who_talk_nor_the_other_way_round() {
        let (mut budget, mut heard) = (Budget::default(), 0);
        for turn in 1..=10 {
            budget.at_turn(turn);
            let mut changes = 0;
            while budget.takes_change(500) {
                budget.spend_change(500);
                changes += 1;
            }
            assert_eq!(changes, CHANGES_PER_TURN / 500);
            assert!(budget.hears(&mut heard), "turn {turn}");
            budget.spend(DELIVERIES_PER_TURN + 1, 1);
            assert!(budget.is_spent() && !budget.takes_change(500));
        }
        budget.at_turn(11);
        budget.spend(DELIVERIES_PER_TURN + 1, 1);
        assert!(budget.takes_change(500), "however much was said");
    }

    #[test]
    fn in_the_largest_room_and_in_an_empty_one_a_turn_takes_somebody() {
        for (members, expected) in [(0, CHANGES_PER_TURN), (1_000_000, CHANGES_AT_LEAST)] {
            let (mut budget, mut changes) = (Budget::default(), 0);
            budget.at_turn(1);
            while budget.takes_change(members) {
                budget.spend_change(members);
                changes += 1;
            }
            assert_eq!(changes, expected);
        }
    }
}
