//! The memory budget is enforced at the end of each turn in which what connections hold has changed: near the budget the
//! largest holders are not read, above it they are closed.

use std::cmp::Reverse;
use std::time::Duration;

use super::EventLoop;
use crate::budget::Level;
use crate::buffer::Pool;
use crate::context::Core;
use crate::driver::Driver;
use crate::link::Link;
use crate::sys::memory;
use crate::time::Time;
use crate::token::ConnectionId;

/// How often a shortage is logged at most.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// What a loop has done about the memory budget.
pub(super) struct Pressure {
    /// Connections that are not read; some may have ended since.
    suspended: Vec<ConnectionId>,
    /// What all connections held when the largest holders were last looked for, or the least since.
    looked_at: usize,
    said: Option<Time>,
    /// When the loop compares with the budget though nothing has happened; never, if there is no need.
    pub(super) next_look: Time,
}

impl Default for Pressure {
    fn default() -> Self {
        Pressure { suspended: Vec::new(), looked_at: 0, said: None, next_look: Time::NEVER }
    }
}

/// How often a loop that holds something looks at its share of the budget, and gives memory back a little at a time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl<D: Driver> EventLoop<D> {
    /// At the end of a turn, before the other loops are told of it. Costs two comparisons while nothing is held.
    #[inline]
    pub(super) fn mind_memory(&mut self) {
        if self.core.holdings.take_changed() || self.pressure.next_look <= self.core.now {
            self.compare_with_budget();
            self.plan_next_look();
        }
    }

    /// When to compare with the budget although nothing happens: processes that come and go change the share of this one, and
    /// tell nobody; and memory is given back when there has been no need of it for a while.
    fn plan_next_look(&mut self) {
        let holdings = &self.core.holdings;
        let holds = holdings.is_any() || !self.pressure.suspended.is_empty();
        let looks = holdings.is_to_give_back() || holds && holdings.budget.is_shared();
        self.pressure.next_look = match self.pressure.next_look {
            _ if !looks => Time::NEVER,
            Time::NEVER => self.core.now + LOOK_AGAIN,
            planned => planned,
        };
    }

    /// After a wake-up: another loop may be short of memory, or no longer.
    pub(super) fn hear_of_memory(&mut self) {
        if self.core.holdings.budget.is_pressed() || !self.pressure.suspended.is_empty() {
            self.core.holdings.set_changed();
        }
    }

    #[inline(never)]
    fn compare_with_budget(&mut self) {
        let is_due = self.pressure.next_look <= self.core.now;
        if is_due {
            self.pressure.next_look = Time::NEVER;
        }
        if self.core.holdings.take_shrunk(is_due) {
            // Buffers between those that are free would pin them.
            self.core.pool = Pool::default();
            memory::give_back();
        }
        self.core.holdings.report();
        let budget = self.core.holdings.budget.clone();
        match budget.level() {
            Level::Free => return self.release_suspended(),
            Level::Near => return,
            Level::High => {}
            Level::Over => {
                // Last words take memory, too, and so may what handlers tell others.
                while budget.level() == Level::Over && self.close_largest() {
                    self.settle();
                    self.core.holdings.report();
                }
            }
        }
        let held = budget.held();
        self.pressure.looked_at = self.pressure.looked_at.min(held);
        // Looking is linear in the connections. A stop has everybody's last request read.
        if held - self.pressure.looked_at >= budget.step() && budget.level() != Level::Free && self.stopping.is_none() {
            self.pressure.looked_at = held;
            self.suspend_largest();
        }
        if budget.set_pressed(true) {
            // Each looks for its own largest holders.
            self.exchange.cluster.wake_others(self.exchange.loop_handle.number);
        }
    }

    /// Stops reading from the largest holders. Not from those that hold nothing but their own input: only by being read on do
    /// they get to the end of what they send, and give it back.
    fn suspend_largest(&mut self) {
        let Some(class) = self.core.holdings.budget.upper_half() else { return };
        let holders = self.core.links.iter().filter(|link| link.holding().class >= class);
        let largest: Vec<_> = holders.filter(|link| link.is_open() && link.queued() > 0).map(|link| link.id).collect();
        let mut count = 0;
        for id in largest {
            let Some(link) = self.core.links.get_mut(id) else { continue };
            if link.set_suspended(true) {
                count += 1;
                self.pressure.suspended.push(id);
                self.core.mark_dirty(id);
            }
        }
        if count > 0 {
            self.core.counters.suspended.add(count);
            self.say(&format!("{count} connections are not read until it is less than 70 %"));
            self.settle();
        }
    }

    /// Goes on reading from all of them.
    pub(super) fn release_suspended(&mut self) {
        if self.core.holdings.budget.set_pressed(false) {
            self.exchange.cluster.wake_others(self.exchange.loop_handle.number);
        }
        self.pressure.looked_at = 0;
        if self.pressure.suspended.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pressure.suspended) {
            if let Some(link) = self.core.links.get_mut(id)
                && link.set_suspended(false)
            {
                self.core.mark_dirty(id);
            }
        }
        self.settle();
    }

    /// Within a turn: one message can be copied for many members.
    #[cold]
    pub(super) fn relieve(&mut self) {
        self.core.holdings.report();
        if self.core.holdings.budget.level() == Level::Over {
            self.close_largest();
        }
    }

    /// Takes from the largest holders of all loops, as far as they are on this one, until enough is given back. They give it
    /// at once; that they have their last words and end, the loop sees to when it settles. `false`: there were none.
    fn close_largest(&mut self) -> bool {
        let (budget, mut closed) = (self.core.holdings.budget.clone(), 0);
        let mut to_come_back: usize = self.core.links.iter().map(Link::to_come_back).sum();
        while budget.held().saturating_sub(to_come_back) > budget.target()
            && let Some(class) = budget.top_class()
        {
            let of_class = self.core.links.iter().filter(|link| link.holding().class == class);
            let (given, left): (Vec<_>, Vec<_>) = of_class.partition(|link| link.is_giving_back());
            if given.is_empty() && left.is_empty() {
                // They are on another loop, which may be asleep.
                self.exchange.cluster.wake_others(self.exchange.loop_handle.number);
            }
            let mut largest: Vec<_> = left.iter().map(|link| (Reverse(link.holding().own()), link.id)).collect();
            if largest.is_empty() {
                break;
            }
            largest.sort_unstable();
            for (_, id) in largest {
                if budget.held().saturating_sub(to_come_back) <= budget.target() {
                    break;
                }
                to_come_back += self.close_for_memory(id);
                closed += 1;
            }
        }
        if closed > 0 {
            self.say(&format!("the {closed} connections that held most are closed"));
        }
        closed > 0
    }

    /// The bytes that come back later.
    fn close_for_memory(&mut self, id: ConnectionId) -> usize {
        let Core { links, terms, pool, holdings, counters, .. } = &mut self.core;
        let Some(link) = links.get_mut(id) else { return 0 };
        let (missed, unread) = link.run_out_of_memory(&terms[link.service as usize].limits, pool);
        counters.missed.add(missed);
        counters.unread.add(unread as u64);
        link.weigh(holdings);
        holdings.report();
        let to_come_back = link.to_come_back();
        self.core.mark_dirty(id);
        to_come_back
    }

    fn say(&mut self, what: &str) {
        let (now, budget) = (self.core.now, &self.core.holdings.budget);
        if self.pressure.said.is_none_or(|at| now.since(at) >= LOG_PERIOD) {
            self.pressure.said = Some(now);
            log::warn!("memory: connections hold {} of {} bytes: {what}", budget.held(), budget.limit());
        }
    }

    /// For the report.
    pub(super) fn describe_memory(&self) -> String {
        let budget = &self.core.holdings.budget;
        let suspended = self.core.links.iter().filter(|link| link.is_suspended()).count();
        let limit = match budget.limit() {
            usize::MAX => "no limit".to_owned(),
            limit => format!("{limit}"),
        };
        format!("memory: connections hold {} bytes of {limit}, {suspended} are not read for that", budget.held())
    }
}
