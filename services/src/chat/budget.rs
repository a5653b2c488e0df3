//! What the room may cost in one turn of the loop, so that others are served in between, and whose turn it is.

use reactor::Context;

/// Messages put into one member's output each, in one turn, of the whole room: a few milliseconds. Two bytes in can be
/// a hundred out for each of thousands, and a thousand who go at once are as many notices to each who stays.
pub(super) const DELIVERIES_PER_TURN: usize = 50_000;

/// Bytes to each member in one turn: what leaves in one send.
const PUBLISHED_PER_TURN: usize = 32 * 1024;

/// Guests are heard in rounds: in each, everybody who has something to say is heard once, in as many turns as that
/// takes. So who talks without end is heard no more often than the others.
#[derive(Debug, Default)]
pub(super) struct Budget {
    turn: u32,
    deliveries: usize,
    published: usize,
    round: u64,
    /// Somebody could not be heard in this turn.
    put_off: bool,
}

impl Budget {
    /// To be called first in each callback that may publish.
    pub(super) fn look(&mut self, cx: &Context<'_>) {
        self.at_turn(cx.turn());
    }

    fn at_turn(&mut self, turn: u32) {
        if turn != self.turn {
            self.round += u64::from(!self.put_off);
            *self = Budget { turn, round: self.round, ..Budget::default() };
        }
    }

    /// Whether nothing more is to be published in this turn.
    pub(super) fn is_spent(&self) -> bool {
        self.deliveries > DELIVERIES_PER_TURN || self.published > PUBLISHED_PER_TURN
    }

    pub(super) fn spend(&mut self, deliveries: usize, bytes: usize) {
        self.deliveries += deliveries;
        self.published += bytes;
    }

    /// Whether a guest who was last heard in round `heard` is heard now; if not, it asks again in the next turn.
    pub(super) fn hears(&mut self, heard: &mut u64, others_first: bool) -> bool {
        if *heard == self.round {
            return false;
        }
        if others_first || self.is_spent() {
            self.put_off = true;
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
            // The loop always comes to them in the same order, and three use up what there is.
            for guest in 0..10 {
                if budget.hears(&mut heard[guest], false) {
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
    fn alone_a_guest_is_heard_in_each_turn_and_never_before_what_comes_first() {
        let (mut budget, mut heard) = (Budget::default(), 0);
        for turn in 1..=10 {
            budget.at_turn(2 * turn);
            assert!(!budget.hears(&mut heard, true));
            budget.at_turn(2 * turn + 1);
            assert!(budget.hears(&mut heard, false));
            budget.spend(1, PUBLISHED_PER_TURN + 1);
            assert!(budget.is_spent() && !budget.hears(&mut heard, false));
        }
    }
}
