//! The memory budget of an application: how much all connections hold together, which hold most, and how much may be held.
//! Below: nothing. Above: links, which report their bytes whenever they rest, and loops, which enforce the budget.
//!
//! Only bytes that outlive a callback are counted: kept input, output that has not left, waiting messages. A request that is
//! answered at once is never counted, so counting costs nothing there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Size classes: a connection that holds n bytes is of class log2(n) + 1, an empty connection of class 0.
const CLASSES: usize = usize::BITS as usize + 1;
/// The least class whose connections the budget pauses and closes: 4 KiB. Smaller holders have hardly anything to give.
const CLASS_MIN: u8 = 13;

/// Freed bytes from which on memory is given back to the system: the call takes some milliseconds, and memory taken anew has to
/// be faulted in.
const GIVE_BACK_MIN: usize = 8 * 1024 * 1024;

/// Freed bytes from which on memory is given back when nothing more is freed for a while. Less than above: the loop is at rest.
const AT_REST_MIN: usize = 1024 * 1024;

/// The bytes that all connections of an application hold, over all loops.
#[derive(Debug)]
pub(crate) struct Budget {
    /// In bytes.
    limit: usize,
    /// Number of processes that share `limit` equally, in memory that all of them can read.
    sharers: Option<&'static AtomicUsize>,
    /// Bytes that belong to one connection alone, over all connections.
    own: AtomicUsize,
    /// Bytes of payloads, each counted once however many connections hold it.
    shared: AtomicUsize,
    /// Connections of each class.
    classes: [AtomicUsize; CLASSES],
    payloads: Mutex<HashMap<usize, Payload>>,
    /// Connections are not read for want of memory, on some loop.
    is_pressed: AtomicBool,
}

/// A payload that several connections may hold.
#[derive(Debug)]
struct Payload {
    holders: usize,
    bytes: usize,
}

/// The held bytes, compared with the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Under 70 %: every connection is read.
    Free,
    /// From 70 to 80 %: suspended connections stay suspended, and no more are added.
    Near,
    /// From 80 % on: the largest holders are not read.
    High,
    /// Over the budget: the largest holders are closed.
    Over,
}

impl Budget {
    /// A budget of `limit` bytes, divided by `sharers`, if any.
    pub(crate) fn new(limit: usize, sharers: Option<&'static AtomicUsize>) -> Self {
        Budget {
            limit,
            sharers,
            own: AtomicUsize::new(0),
            shared: AtomicUsize::new(0),
            classes: [const { AtomicUsize::new(0) }; CLASSES],
            payloads: Mutex::default(),
            is_pressed: AtomicBool::new(false),
        }
    }

    /// The number of bytes that connections of this process may hold now.
    pub(crate) fn limit(&self) -> usize {
        self.sharers.map_or(self.limit, |sharers| self.limit / sharers.load(Relaxed).max(1))
    }

    /// Whether other processes can change the limit, with no event in this process.
    pub(crate) fn is_shared(&self) -> bool {
        self.sharers.is_some()
    }

    /// Sets the number of processes that share the budget.
    pub(crate) fn set_sharers(&self, count: usize) {
        if let Some(sharers) = self.sharers
            && sharers.load(Relaxed) != count
        {
            sharers.store(count, Relaxed);
        }
    }

    /// Bytes that connections hold.
    pub(crate) fn held(&self) -> usize {
        self.own.load(Relaxed) + self.shared.load(Relaxed)
    }

    pub(crate) fn level(&self) -> Level {
        let (held, limit) = (self.held(), self.limit());
        match held {
            _ if held > limit => Level::Over,
            _ if held >= limit / 10 * 8 => Level::High,
            _ if held >= limit / 10 * 7 => Level::Near,
            _ => Level::Free,
        }
    }

    /// Bytes that remain once enough connections have been closed: a thirty-second below the limit, so that the next message
    /// does not close another connection.
    pub(crate) fn target(&self) -> usize {
        self.limit() - self.limit() / 32
    }

    /// By how much more has to be held before the largest holders are looked for again.
    pub(crate) fn step(&self) -> usize {
        self.limit() / 32
    }

    /// The class of the largest holders, on whichever loop.
    pub(crate) fn top_class(&self) -> Option<u8> {
        (CLASS_MIN..CLASSES as u8).rev().find(|&class| self.classes[class as usize].load(Relaxed) > 0)
    }

    /// The class from which on the largest holders, on whichever loop, hold half of all bytes. Estimated from the number of
    /// connections in each class.
    pub(crate) fn upper_half(&self) -> Option<u8> {
        let of_class = |class: u8| self.classes[class as usize].load(Relaxed).saturating_mul(1 << (class - 1));
        let all: usize = (1..CLASSES as u8).map(of_class).sum();
        let mut sum = 0;
        let half = (CLASS_MIN..CLASSES as u8).rev().find(|&class| {
            sum += of_class(class);
            sum > 0 && sum >= all / 2
        });
        // The other holders are small, and many.
        half.or_else(|| self.top_class().map(|_| CLASS_MIN))
    }

    /// Notes whether some connections are not read. Returns whether that is a change, which the other loops have to know.
    pub(crate) fn set_pressed(&self, is: bool) -> bool {
        self.is_pressed.load(Relaxed) != is && self.is_pressed.swap(is, Relaxed) != is
    }

    pub(crate) fn is_pressed(&self) -> bool {
        self.is_pressed.load(Relaxed)
    }

    fn payloads(&self) -> MutexGuard<'_, HashMap<usize, Payload>> {
        self.payloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a holder of a payload, whose bytes count once in all. A payload is identified by its end in memory, which stays
    /// when a part of the payload has been sent.
    pub(crate) fn hold(self: &Arc<Self>, bytes: &[u8]) -> Ticket {
        let end = bytes.as_ptr_range().end as usize;
        let mut payloads = self.payloads();
        let payload = payloads.entry(end).or_insert(Payload { holders: 0, bytes: 0 });
        payload.holders += 1;
        let more = bytes.len().saturating_sub(payload.bytes);
        payload.bytes += more;
        self.shared.fetch_add(more, Relaxed);
        Ticket { budget: self.clone(), end }
    }
}

/// A holder's part in a counted payload. Dropped before the payload itself.
#[derive(Debug)]
pub(crate) struct Ticket {
    budget: Arc<Budget>,
    end: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut payloads = self.budget.payloads();
        let Entry::Occupied(mut payload) = payloads.entry(self.end) else { return };
        payload.get_mut().holders -= 1;
        if payload.get().holders == 0 {
            self.budget.shared.fetch_sub(payload.remove().bytes, Relaxed);
        }
    }
}

/// The bytes last counted for a connection. Packed, because it fills gaps in the link, which stays at 192 bytes.
#[repr(Rust, packed)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// The connection's own bytes, 4 GiB at most: an idle connection pays eight bytes for all four fields.
    own: u32,
    pub(crate) class: u8,
    /// Heap bytes of the connection's state, as the handler has told. A part of `own` once counted.
    pub(crate) state: StateBytes,
    /// Heap bytes of the connection's layer. A part of `own` once counted.
    pub(crate) layer: LayerBytes,
}

/// A number of bytes in whole KiB, up to 64 MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateBytes(u16);

/// A number of bytes in whole KiB, up to 255 KiB: a layer holds at most 64 KiB for each direction, and 64 KiB of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LayerBytes(u8);

impl LayerBytes {
    pub(crate) fn of(bytes: usize) -> Self {
        LayerBytes(u8::try_from(bytes / StateBytes::UNIT).unwrap_or(u8::MAX))
    }

    fn bytes(self) -> usize {
        usize::from(self.0) * StateBytes::UNIT
    }
}

impl StateBytes {
    const UNIT: usize = 1024;

    pub(crate) fn of(bytes: usize) -> Self {
        StateBytes(u16::try_from(bytes / StateBytes::UNIT).unwrap_or(u16::MAX))
    }

    fn bytes(self) -> usize {
        usize::from(self.0) * StateBytes::UNIT
    }
}

impl Holding {
    /// The heap bytes of state and layer, `own` bytes of buffers, and `all` with the shared ones.
    pub(crate) fn of(own: usize, all: usize, state: StateBytes, layer: LayerBytes) -> Self {
        let (own, all) = (state.bytes() + layer.bytes() + own, state.bytes() + layer.bytes() + all);
        let own = u32::try_from(own).unwrap_or(u32::MAX);
        Holding { own, class: (usize::BITS - all.leading_zeros()) as u8, state, layer }
    }

    /// Whether the layer holds more than half of the connection's own bytes.
    pub(crate) fn is_mostly_of_layer(self) -> bool {
        self.layer.bytes() > self.own() / 2
    }

    pub(crate) fn own(self) -> usize {
        self.own as usize
    }
}

/// A loop's part of the budget: changes are gathered here and reported once a turn.
#[derive(Debug)]
pub(crate) struct Holdings {
    pub(crate) budget: Arc<Budget>,
    own: usize,
    reported: usize,
    /// Bytes that this loop may hold until the whole budget is exceeded, as of the last report.
    ceiling: usize,
    /// The most bytes held since memory was last given back to the system.
    peak: usize,
    /// Bytes held when memory was last given back.
    left: usize,
    /// Memory was given back during a decrease that may go on: memory is given back once more at the next due time.
    once_more: bool,
    /// Bytes that connections have freed since memory was last given back, and this sum at the last due time. Connections that
    /// fill and empty their buffers one after the other never hold much together, but may leave a hole each in the heap.
    freed: usize,
    freed_before: usize,
    /// Something has changed since the loop last compared with the budget.
    changed: bool,
}

impl Holdings {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Holdings {
            budget,
            own: 0,
            reported: 0,
            ceiling: usize::MAX,
            peak: 0,
            left: 0,
            once_more: false,
            freed: 0,
            freed_before: 0,
            changed: false,
        }
    }

    /// A connection holds `now`, and was counted for `before`.
    pub(crate) fn change(&mut self, before: Holding, now: Holding) {
        self.own = self.own - before.own() + now.own();
        self.peak = self.peak.max(self.own);
        self.freed = self.freed.saturating_add(before.own().saturating_sub(now.own()));
        self.changed = true;
        if before.class != now.class {
            let classes = &self.budget.classes;
            if before.class > 0 {
                classes[before.class as usize].fetch_sub(1, Relaxed);
            }
            if now.class > 0 {
                classes[now.class as usize].fetch_add(1, Relaxed);
            }
        }
    }

    /// Has the loop compare with the budget at the end of the turn, though nothing has changed here.
    pub(crate) fn set_changed(&mut self) {
        self.changed = true;
    }

    /// Whether the loop has to compare with the budget.
    #[inline]
    pub(crate) fn has_changed(&self) -> bool {
        self.changed
    }

    #[inline]
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether the allocator should give freed memory back. At once when half of the peak has gone, so that calls stay few
    /// during a decrease; otherwise when `is_due`: after a decrease, or when nothing was freed since the last due time, and much
    /// before. After `true` the peak and the freed bytes are counted anew.
    pub(crate) fn take_shrunk(&mut self, is_due: bool) -> bool {
        let has_halved = self.peak - self.own >= GIVE_BACK_MIN && self.own <= self.peak / 2;
        let has_shrunk = has_halved || is_due && (self.has_decreased() || self.has_come_to_rest());
        if has_shrunk {
            // A decrease may go on in small steps: its rest is given back at the next due time, however small. Buffers freed
            // later may be the larger part of the memory, and are no longer counted.
            self.once_more = !is_due || self.own < self.left;
            (self.peak, self.left, self.freed) = (self.own, self.own, 0);
        }
        if is_due {
            self.freed_before = self.freed;
        }
        has_shrunk
    }

    /// Whether there is memory to give back, now or later.
    #[inline]
    pub(crate) fn is_to_give_back(&self) -> bool {
        self.has_decreased() || self.freed >= AT_REST_MIN
    }

    #[inline]
    fn has_decreased(&self) -> bool {
        self.once_more || self.peak - self.own >= GIVE_BACK_MIN
    }

    /// Whether much was freed, and nothing since the last due time: traffic that goes on would take the memory anew at once.
    fn has_come_to_rest(&self) -> bool {
        self.freed >= AT_REST_MIN && self.freed == self.freed_before
    }

    /// Whether anything is held.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        self.own > 0
    }

    /// Brings the application's sum up to date with this loop.
    pub(crate) fn report(&mut self) {
        // Wraps where the loop holds less than before, and so does the sum.
        self.budget.own.fetch_add(self.own.wrapping_sub(self.reported), Relaxed);
        self.reported = self.own;
        self.ceiling = self.own.saturating_add(self.budget.limit().saturating_sub(self.budget.held()));
    }

    /// Whether so many bytes have come since the last report that the budget is exceeded.
    #[inline]
    pub(crate) fn is_beyond(&self) -> bool {
        self.own > self.ceiling
    }
}

impl Drop for Holdings {
    /// An ended loop holds nothing any more, however it ended.
    fn drop(&mut self) {
        self.own = 0;
        self.report();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_payload_is_counted_once_however_many_hold_it_and_whatever_has_been_sent() {
        let budget = Arc::new(Budget::new(1000, None));
        let payload = Bytes::from(vec![0; 500]);
        let first = budget.hold(&payload);
        let second = budget.hold(&payload.slice(100..));
        let other = budget.hold(&[0; 30]);
        assert_eq!(budget.held(), 530);
        drop(first);
        assert_eq!(budget.held(), 530);
        drop(second);
        assert_eq!(budget.held(), 30);
        drop(other);
        assert_eq!((budget.held(), budget.payloads().len()), (0, 0));
    }

    #[test]
    fn levels_are_parts_of_the_limit_and_the_limit_is_shared_equally() {
        static SHARERS: AtomicUsize = AtomicUsize::new(0);
        let budget = Arc::new(Budget::new(1000, Some(&SHARERS)));
        let mut holdings = Holdings::new(budget.clone());
        let mut before = Holding::default();
        for (held, level) in [(699, Level::Free), (700, Level::Near), (800, Level::High), (1001, Level::Over)] {
            let now = Holding::of(held, held, StateBytes::default(), LayerBytes::default());
            holdings.change(before, now);
            holdings.report();
            before = now;
            assert_eq!(budget.level(), level, "{held}");
        }
        budget.set_sharers(4);
        assert_eq!(budget.limit(), 250);
        holdings.change(before, Holding::of(200, 200, StateBytes::default(), LayerBytes::default()));
        holdings.report();
        assert_eq!((budget.held(), budget.level()), (200, Level::High));
        drop(holdings);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn memory_is_given_back_once_after_connections_that_have_held_little_one_after_the_other() {
        let mut holdings = Holdings::new(Arc::new(Budget::new(usize::MAX, None)));
        let full = Holding::of(16 << 10, 16 << 10, StateBytes::default(), LayerBytes::default());
        let take_turns = |holdings: &mut Holdings, count: usize| {
            for _ in 0..count {
                holdings.change(Holding::default(), full);
                holdings.change(full, Holding::default());
            }
        };
        let enough = AT_REST_MIN / full.own();
        take_turns(&mut holdings, enough - 1);
        assert!(!holdings.is_to_give_back());
        take_turns(&mut holdings, 1);
        assert!(holdings.is_to_give_back());
        assert!(!holdings.take_shrunk(false) && !holdings.take_shrunk(true), "traffic may go on");
        take_turns(&mut holdings, enough);
        assert!(!holdings.take_shrunk(true), "traffic has gone on");
        assert!(holdings.take_shrunk(true));
        assert!(!holdings.is_to_give_back() && !holdings.take_shrunk(true));
    }

    #[test]
    fn the_largest_class_is_known_and_small_holders_are_left_alone() {
        let budget = Arc::new(Budget::new(1000, None));
        let mut holdings = Holdings::new(budget.clone());
        let (small, large) = (
            Holding::of(4000, 4000, StateBytes::default(), LayerBytes::default()),
            Holding::of(10, 4096, StateBytes::default(), LayerBytes::default()),
        );
        holdings.change(Holding::default(), small);
        assert_eq!(budget.top_class(), None);
        holdings.change(Holding::default(), large);
        assert_eq!(budget.top_class(), Some(large.class));
        assert_eq!(budget.upper_half(), Some(large.class));
        // As many bytes in smaller holders: now the half is among them.
        let middle = Holding::of(2048 + 4096, 2048 + 4096, StateBytes::default(), LayerBytes::default());
        (0..9).for_each(|_| holdings.change(Holding::default(), middle));
        assert_eq!(budget.upper_half(), Some(middle.class));
        holdings
            .change(Holding::default(), Holding::of(1 << 20, 1 << 20, StateBytes::default(), LayerBytes::default()));
        assert_eq!(budget.upper_half(), Some(21));
        (0..9).for_each(|_| holdings.change(middle, Holding::default()));
        holdings
            .change(Holding::of(1 << 20, 1 << 20, StateBytes::default(), LayerBytes::default()), Holding::default());
        holdings.change(large, Holding::default());
        assert_eq!((budget.top_class(), budget.upper_half()), (None, None));
    }
}
