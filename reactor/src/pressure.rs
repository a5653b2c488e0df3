//! A loop near the memory budget: near the limit the largest holders are not read, above the limit they are closed. Below: the
//! budget, which counts, and the links, which hold. Above: the loop, which compares at the end of each turn in which something
//! has changed, and settles the links marked dirty here.

use std::cmp::Reverse;
use std::time::Duration;

use crate::budget::Level;
use crate::buffer::Pool;
use crate::context::Core;
use crate::link::Link;
use crate::sys::memory;
use crate::time::{LogLimit, Time};
use crate::token::ConnectionId;

/// How often a loop with held bytes looks at its share of the budget, and gives memory back a little at a time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The measures that a loop has taken against too much memory.
pub(crate) struct Pressure {
    /// Connections that are not read; some may have ended since.
    suspended: Vec<ConnectionId>,
    /// Held bytes of all connections when the largest holders were last looked for, or the least since.
    looked_at: usize,
    shortage_log: LogLimit,
    /// When the loop compares with the budget without any event; never, if no comparison is needed.
    next_look: Time,
}

impl Default for Pressure {
    fn default() -> Self {
        Pressure { suspended: Vec::new(), looked_at: 0, shortage_log: LogLimit::default(), next_look: Time::NEVER }
    }
}

impl Pressure {
    /// When the loop compares with the budget though nothing has happened.
    pub(crate) fn next_look(&self) -> Time {
        self.next_look
    }

    /// Whether to compare with the budget now: held bytes have changed, or the next look is due. Costs two comparisons while
    /// nothing is held.
    #[inline]
    pub(crate) fn is_to_compare(&self, core: &mut Core) -> bool {
        core.holdings.take_changed() || self.next_look <= core.now
    }

    /// After a wake-up: another loop may be short of memory, or no longer.
    pub(crate) fn hear_of_others(&self, core: &mut Core) {
        if core.holdings.budget.is_pressed() || !self.suspended.is_empty() {
            core.holdings.set_changed();
        }
    }

    /// Begins to compare: memory that is free goes back to the system.
    pub(crate) fn give_back(&mut self, core: &mut Core) {
        let is_due = self.next_look <= core.now;
        if is_due {
            self.next_look = Time::NEVER;
        }
        if core.holdings.take_shrunk(is_due) {
            // Buffers of the pool between freed memory would pin the pages.
            core.pool = Pool::default();
            memory::give_back();
        }
    }

    /// Ends the comparison, and plans the next one without an event. Processes that come and go change this process's share and
    /// tell nobody; and memory is given back after a while without need.
    pub(crate) fn plan_next_look(&mut self, core: &Core) {
        let holdings = &core.holdings;
        let holds = holdings.is_any() || !self.suspended.is_empty();
        let looks = holdings.is_to_give_back() || holds && holdings.budget.is_shared();
        self.next_look = match self.next_look {
            _ if !looks => Time::NEVER,
            Time::NEVER => core.now + LOOK_AGAIN,
            planned => planned,
        };
    }

    /// Stops reading from the largest holders at 80 % of the budget, if a good deal more is held than at the last search: a
    /// search is linear in the connections. Goes on reading from all connections under 70 %.
    pub(crate) fn suspend_or_resume(&mut self, core: &mut Core, is_stopping: bool) {
        let budget = core.holdings.budget.clone();
        match budget.level() {
            Level::Free => return self.resume(core),
            Level::Near => return,
            Level::High | Level::Over => {}
        }
        let held = budget.held();
        self.looked_at = self.looked_at.min(held);
        // A stop has everybody's last request read.
        if held - self.looked_at >= budget.step() && !is_stopping {
            self.looked_at = held;
            self.suspend_largest(core);
        }
        if budget.set_pressed(true) {
            // Each loop searches its own largest holders.
            wake_others(core);
        }
    }

    /// Suspends the largest holders of this loop, except connections that hold only their own input: only further input
    /// completes their requests and frees the bytes.
    fn suspend_largest(&mut self, core: &mut Core) {
        let Some(class) = core.holdings.budget.upper_half() else { return };
        let holders = core.links.iter().filter(|link| link.holding().class >= class);
        let largest: Vec<_> = holders.filter(|link| link.is_open() && link.queued() > 0).map(|link| link.id).collect();
        let mut count = 0;
        for id in largest {
            let Some(link) = core.links.get_mut(id) else { continue };
            if link.set_suspended(true) {
                count += 1;
                self.suspended.push(id);
                core.mark_dirty(id);
            }
        }
        if count > 0 {
            core.counters.suspended.add(count);
            self.log(core, &format!("{count} connections are not read until it is less than 70 %"));
        }
    }

    /// Goes on reading from all connections that were suspended.
    pub(crate) fn resume(&mut self, core: &mut Core) {
        if core.holdings.budget.set_pressed(false) {
            wake_others(core);
        }
        self.looked_at = 0;
        for id in self.suspended.drain(..) {
            if core.links.get_mut(id).is_some_and(|link| link.set_suspended(false)) {
                core.mark_dirty(id);
            }
        }
    }

    /// Above the budget: takes from the largest holders of all loops, as far as they are on this loop, until enough bytes are
    /// given back. The bytes come back at once; last words and the end follow when the loop settles. `false`: nothing was
    /// taken.
    pub(crate) fn close_largest(&mut self, core: &mut Core) -> bool {
        core.holdings.report();
        let (budget, mut closed) = (core.holdings.budget.clone(), 0);
        if budget.level() != Level::Over {
            return false;
        }
        let mut to_come_back: usize = core.links.iter().map(Link::to_come_back).sum();
        while budget.held().saturating_sub(to_come_back) > budget.target()
            && let Some(class) = budget.top_class()
        {
            let of_class = core.links.iter().filter(|link| link.holding().class == class);
            let (given, left): (Vec<_>, Vec<_>) = of_class.partition(|link| link.is_giving_back());
            if given.is_empty() && left.is_empty() {
                // The largest holders are on another loop, which may be asleep.
                wake_others(core);
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
                to_come_back += take_from(core, id);
                closed += 1;
            }
        }
        if closed > 0 {
            self.log(core, &format!("the {closed} connections that held most are closed"));
        }
        closed > 0
    }

    fn log(&mut self, core: &Core, what: &str) {
        let budget = &core.holdings.budget;
        if self.shortage_log.passes(core.now) {
            log::warn!("memory: connections hold {} of {} bytes: {what}", budget.held(), budget.limit());
        }
    }
}

/// Takes the bytes that connection `id` can give at once. Returns the number of bytes that come back later.
fn take_from(core: &mut Core, id: ConnectionId) -> usize {
    let Core { links, bounds, pool, holdings, counters, .. } = core;
    let Some(link) = links.get_mut(id) else { return 0 };
    let (missed, unread) = link.run_out_of_memory(&bounds[link.bounds].limits, pool);
    counters.missed.add(missed);
    counters.unread.add(unread as u64);
    link.weigh(holdings);
    holdings.report();
    let to_come_back = link.to_come_back();
    core.mark_dirty(id);
    to_come_back
}

fn wake_others(core: &Core) {
    core.outgoing.iter().for_each(|outgoing| outgoing.wake_others());
}
