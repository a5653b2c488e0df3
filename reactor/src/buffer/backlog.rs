//! What waits for a peer that is behind: whole messages with their boundaries, so that some can be left out, and
//! between them what is never left out.
//!
//! ```text
//!   head of the Output ──▶ fixed ──▶ rest ◀── put, offered
//!   (what has begun)       │         └ messages, own bytes, places where messages were missed
//!                          └ own bytes, and places: all that stands before the oldest message
//! ```
//!
//! Dropping the oldest moves what cannot be dropped from `rest` to `fixed`, each item once, so that it costs O(1)
//! however much stands in between.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use super::file::FilePart;
use super::{Offered, Output};
use crate::limits::{Limits, SlowPolicy};

/// What an item costs beside its bytes: its place in the queue, twice because queues grow by doubling. A flood of
/// empty messages is bounded by it.
const ITEM_COST: usize = 32;

/// Items that are looked at for one send: short ones come to a send's worth long before, and sending stays linear.
const GATHERED_MAX: usize = 1024;

/// Everything that is owed after the head of an output.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    fixed: Queue,
    rest: Queue,
    /// Of all that, what can be dropped: messages, and their bytes.
    messages: usize,
    message_bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Of all items that are not shared.
    copied: VecDeque<u8>,
    length: usize,
    /// How much of that is in files, which take no memory.
    filed: usize,
}

/// Whether an item of bytes is a message; the others were written by the handler to this peer alone.
#[derive(Debug)]
enum Item {
    Copied {
        message: bool,
        length: usize,
    },
    /// Boxed, because nearly all items are not this and should stay small.
    Shared {
        message: bool,
        bytes: Box<Bytes>,
    },
    /// Never a message.
    File(Box<FilePart>),
    /// So many messages were dropped here.
    Missed(u64),
}

impl Item {
    fn length(&self) -> usize {
        match self {
            Item::Copied { length, .. } => *length,
            Item::Shared { bytes, .. } => bytes.len(),
            Item::File(part) => part.length(),
            Item::Missed(_) => 0,
        }
    }

    fn is_message(&self) -> bool {
        matches!(self, Item::Copied { message: true, .. } | Item::Shared { message: true, .. })
    }
}

impl Backlog {
    /// Bytes owed.
    pub(crate) fn length(&self) -> usize {
        self.fixed.length + self.rest.length
    }

    /// Bytes in memory that cannot be dropped.
    pub(crate) fn kept_length(&self) -> usize {
        self.in_memory() - self.message_bytes
    }

    fn in_memory(&self) -> usize {
        self.length() - self.fixed.filed - self.rest.filed
    }

    /// What it takes of the limit: its bytes, and what it costs to keep them apart.
    pub(crate) fn cost(&self) -> usize {
        self.in_memory() + (self.fixed.items.len() + self.rest.items.len()) * ITEM_COST
    }

    /// What messages take of the limit, and how many they are.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.cost() - self.kept_cost(), self.messages)
    }

    fn kept_cost(&self) -> usize {
        self.cost() - self.message_bytes - self.messages * ITEM_COST
    }

    /// Nothing is owed, and nothing was missed that has not been told.
    pub(crate) fn is_empty(&self) -> bool {
        self.fixed.items.is_empty() && self.rest.items.is_empty()
    }

    pub(crate) fn push_own(&mut self, bytes: &[u8]) {
        self.rest.copied.extend(bytes);
        self.rest.length += bytes.len();
        match self.rest.items.back_mut() {
            Some(Item::Copied { message: false, length }) => *length += bytes.len(),
            _ => self.rest.items.push_back(Item::Copied { message: false, length: bytes.len() }),
        }
    }

    pub(crate) fn push_own_shared(&mut self, bytes: Bytes) {
        self.rest.length += bytes.len();
        self.rest.items.push_back(Item::Shared { message: false, bytes: Box::new(bytes) });
    }

    pub(crate) fn push_own_file(&mut self, part: FilePart) {
        self.rest.length += part.length();
        self.rest.filed += part.length();
        self.rest.items.push_back(Item::File(Box::new(part)));
    }

    pub(crate) fn push_message(&mut self, bytes: &[u8], shared: Option<&Bytes>) {
        self.messages += 1;
        self.message_bytes += bytes.len();
        self.rest.length += bytes.len();
        let item = match shared {
            Some(shared) => Item::Shared { message: true, bytes: Box::new(shared.clone()) },
            None => {
                self.rest.copied.extend(bytes);
                Item::Copied { message: true, length: bytes.len() }
            }
        };
        self.rest.items.push_back(item);
    }

    /// Takes a message, or does as the policy says. `head` bytes are owed before all this; `missed` counts what is
    /// dropped.
    pub(crate) fn offer(
        &mut self,
        head: usize,
        bytes: &[u8],
        shared: Option<&Bytes>,
        limits: &Limits,
        missed: &mut u64,
    ) -> Offered {
        let (max, cost) = (limits.member_queue.saturating_sub(head), bytes.len() + ITEM_COST);
        let alone = head == 0 && self.is_empty();
        let fits = bytes.is_empty() || alone || self.cost().saturating_add(cost) <= max || planted(Flaw::NeverDrops);
        match limits.slow_members {
            SlowPolicy::DropOldest if !fits && self.make_room(cost, max, missed) => {}
            _ if fits => {}
            SlowPolicy::DropOldest | SlowPolicy::DropNewest => {
                *missed += 1;
                self.rest.miss(1);
                return Offered::Dropped;
            }
            SlowPolicy::Disconnect => {
                *missed += 1 + self.drop_messages();
                return Offered::TooSlow;
            }
        }
        if !bytes.is_empty() {
            self.push_message(bytes, shared);
        }
        Offered::Taken
    }

    /// Drops the oldest messages until `more` fits below `max` beside what stands before all this. `false`, and none is
    /// dropped, if that would not do.
    fn make_room(&mut self, more: usize, max: usize, missed: &mut u64) -> bool {
        if self.kept_cost().saturating_add(more) > max {
            return false;
        }
        while self.cost() + more > max && self.drop_oldest() {
            *missed += 1;
        }
        true
    }

    /// Drops every message, and leaves no note of it.
    pub(crate) fn drop_messages(&mut self) -> u64 {
        let dropped = self.messages as u64;
        while self.drop_oldest() {}
        self.fixed.items.retain(|item| !matches!(item, Item::Missed(_)));
        dropped
    }

    fn drop_oldest(&mut self) -> bool {
        while let Some(item) = self.rest.items.pop_front() {
            if item.is_message() || (planted(Flaw::DropsAnswers) && item.length() > 0) {
                self.messages -= usize::from(item.is_message());
                self.message_bytes -= if item.is_message() { item.length() } else { 0 };
                self.rest.forget(&item);
                self.fixed.miss(if planted(Flaw::Miscounts) { 2 } else { 1 });
                return true;
            }
            if let Item::Missed(count) = item {
                self.fixed.miss(count);
                continue;
            }
            self.rest.hand_over(&item, |bytes| self.fixed.copied.extend(bytes));
            self.fixed.length += item.length();
            self.fixed.filed += if let Item::File(part) = &item { part.length() } else { 0 };
            self.fixed.items.push_back(item);
        }
        false
    }

    /// How many messages were missed right here, before anything else that is owed.
    pub(crate) fn missed(&self) -> Option<u64> {
        match self.first().items.front() {
            Some(Item::Missed(count)) => Some(*count),
            _ => None,
        }
    }

    /// The same, and it has been told.
    pub(crate) fn take_missed(&mut self) -> Option<u64> {
        let missed = self.missed()?;
        let queue = if self.fixed.items.is_empty() { &mut self.rest } else { &mut self.fixed };
        queue.items.pop_front();
        Some(missed)
    }

    /// The bytes to send next, up to where something was missed, as far as `slices` go; how many slices were filled.
    pub(crate) fn gather<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> usize {
        let (filled, whole) = self.fixed.gather(slices);
        if !whole || filled == slices.len() {
            return filled;
        }
        filled + self.rest.gather(&mut slices[filled..]).0
    }

    /// The first `count` bytes have left. What has begun to leave goes into the head, and cannot be dropped any more.
    pub(crate) fn advance(&mut self, mut count: usize, head: &mut Output) {
        while count > 0 {
            let queue = if self.fixed.items.is_empty() { &mut self.rest } else { &mut self.fixed };
            let Some(item) = queue.items.pop_front() else { return debug_assert!(false, "more has left than is owed") };
            if item.is_message() {
                self.messages -= 1;
                self.message_bytes -= item.length();
            }
            let left = count.min(item.length());
            count -= left;
            match item {
                Item::Copied { message, length } => {
                    queue.forget(&Item::Copied { message, length: left });
                    if planted(Flaw::DropsTheBegun) && message && left < length {
                        queue.forget(&Item::Copied { message, length: length - left });
                        continue;
                    }
                    queue.hand_over(&Item::Copied { message, length: length - left }, |bytes| head.append(bytes));
                }
                Item::Shared { bytes, .. } => {
                    queue.length -= bytes.len();
                    if left < bytes.len() {
                        head.append_shared(bytes.slice(left..));
                    }
                }
                Item::File(mut part) => {
                    queue.length -= part.length();
                    queue.filed -= part.length();
                    part.advance(left);
                    if part.length() > 0 {
                        head.append_file(*part);
                    }
                }
                Item::Missed(_) => debug_assert!(false, "bytes have left from behind what was missed"),
            }
        }
    }

    /// What to send next, when that is a part of a file.
    pub(crate) fn file(&self) -> Option<&FilePart> {
        match self.first().items.front() {
            Some(Item::File(part)) => Some(part),
            _ => None,
        }
    }

    fn first(&self) -> &Queue {
        if self.fixed.items.is_empty() { &self.rest } else { &self.fixed }
    }
}

/// What could be wrong here, for tests of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// What has begun to leave is dropped.
    DropsTheBegun,
    /// What was dropped is counted wrongly.
    Miscounts,
    /// What was written to the member itself is dropped.
    DropsAnswers,
    /// The limit is none.
    NeverDrops,
}

#[cfg(all(test, feature = "sim"))]
thread_local! {
    /// The one that is planted on this thread.
    pub(crate) static PLANTED: std::cell::Cell<Option<Flaw>> = const { std::cell::Cell::new(None) };
}

#[cfg(all(test, feature = "sim"))]
fn planted(flaw: Flaw) -> bool {
    PLANTED.get() == Some(flaw)
}

/// Nothing is, outside the tests of the tests.
#[cfg(not(all(test, feature = "sim")))]
#[inline]
fn planted(_: Flaw) -> bool {
    false
}

impl Queue {
    fn miss(&mut self, count: u64) {
        match self.items.back_mut() {
            Some(Item::Missed(before)) => *before += count,
            _ => self.items.push_back(Item::Missed(count)),
        }
    }

    /// The bytes of an item that was taken from the front go too.
    fn forget(&mut self, item: &Item) {
        self.hand_over(item, |_| {});
    }

    /// The same, to somewhere else if they are copied.
    fn hand_over(&mut self, item: &Item, mut to: impl FnMut(&[u8])) {
        self.length -= item.length();
        if let Item::File(part) = item {
            self.filed -= part.length();
        }
        if let Item::Copied { length, .. } = *item {
            let (front, back) = self.copied.as_slices();
            let (front, back) = (&front[..length.min(front.len())], &back[..length.saturating_sub(front.len())]);
            [front, back].into_iter().filter(|bytes| !bytes.is_empty()).for_each(&mut to);
            self.copied.drain(..length);
        }
    }

    /// How many slices were filled, and whether that was all of it.
    fn gather<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> (usize, bool) {
        let (front, back) = self.copied.as_slices();
        let (mut filled, mut at, mut run) = (0, 0, 0);
        // A run of copied bytes is one slice, or two where the ring begins anew.
        let flush = |slices: &mut [IoSlice<'s>], filled: &mut usize, at: &mut usize, run: &mut usize| {
            while *run > 0 && *filled < slices.len() {
                let bytes = if *at < front.len() { &front[*at..] } else { &back[*at - front.len()..] };
                let bytes = &bytes[..bytes.len().min(*run)];
                slices[*filled] = IoSlice::new(bytes);
                (*filled, *at, *run) = (*filled + 1, *at + bytes.len(), *run - bytes.len());
            }
            *run == 0
        };
        for item in self.items.iter().take(GATHERED_MAX) {
            match item {
                Item::Copied { length, .. } => run += length,
                Item::Shared { bytes, .. } => {
                    if !flush(slices, &mut filled, &mut at, &mut run) || filled == slices.len() {
                        return (filled, false);
                    }
                    slices[filled] = IoSlice::new(bytes);
                    filled += 1;
                }
                Item::File(_) | Item::Missed(_) => {
                    flush(slices, &mut filled, &mut at, &mut run);
                    return (filled, false);
                }
            }
        }
        let whole = flush(slices, &mut filled, &mut at, &mut run);
        (filled, whole && self.items.len() <= GATHERED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use super::*;
    use crate::buffer::Messages;
    use crate::buffer::file::nameless_file;

    /// A published message, an answer, a notice: a letter, a number, and as many bytes as it says.
    fn item(kind: u8, number: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(number.to_be_bytes());
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend((0..length).map(|at| (number as usize + at) as u8));
        bytes
    }

    /// What the peer reads: all of it whole.
    fn items(mut stream: &[u8]) -> Vec<(u8, u64)> {
        let mut items = Vec::new();
        while let Some((&kind, rest)) = stream.split_first() {
            let number = u64::from_be_bytes(rest[..8].try_into().unwrap());
            let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
            assert_eq!(stream[..13 + length], item(kind, number, length), "item {number}");
            stream = &stream[13 + length..];
            items.push((kind, number));
        }
        items
    }

    /// An output, a peer that takes what it likes, and all that was put.
    struct Wire {
        output: Output,
        limits: Limits,
        /// Whether the peer took less than it was offered.
        held: bool,
        read: Vec<u8>,
        /// Answers and messages in the order in which they were put.
        put: Vec<(u8, u64)>,
        lengths: Vec<u32>,
        missed: u64,
        too_slow: bool,
        /// Where some answers come from.
        file: Arc<File>,
    }

    impl Wire {
        fn new(member_queue: usize, slow_members: SlowPolicy) -> Self {
            let limits = Limits { member_queue, slow_members, ..Limits::default() };
            let (output, read, put, lengths) = (Output::default(), Vec::new(), Vec::new(), Vec::new());
            let file = Arc::new(nameless_file());
            Wire { output, limits, held: false, read, put, lengths, missed: 0, too_slow: false, file }
        }

        fn answer(&mut self, length: usize) {
            let number = self.put.len() as u64;
            let bytes = item(b'A', number, length);
            match number % 3 {
                0 => self.output.put_shared(Bytes::from(bytes)),
                1 => self.output.put(&bytes),
                _ => {
                    let start = self.file.metadata().unwrap().len();
                    self.file.write_all_at(&bytes, start).unwrap();
                    self.output.put_file(self.file.clone(), start..start + bytes.len() as u64);
                }
            }
            self.put.push((b'A', number));
        }

        fn message(&mut self, length: usize) {
            if self.too_slow {
                return;
            }
            let number = self.put.len() as u64;
            let bytes = Bytes::from(item(b'M', number, length));
            let shared = (bytes.len() >= crate::buffer::SHARE_MIN).then_some(&bytes);
            self.put.push((b'M', number));
            self.lengths.push(bytes.len() as u32);
            let (first, lengths) = (self.lengths.len() - 1, &self.lengths[..]);
            let message = Messages { bytes: &bytes, shared, lengths, first, count: 1 };
            if self.held || !self.output.put_messages(message) {
                let offered = self.output.offer(message, &self.limits, &mut self.missed);
                self.too_slow = offered == Offered::TooSlow;
                self.check_bound();
            }
        }

        /// Answers come as they come; messages do not pile up beyond the limit.
        fn check_bound(&self) {
            let (cost, messages) = self.output.waiting();
            assert!(cost <= self.limits.member_queue || messages <= 1, "{cost} with {messages} messages");
        }

        /// One send, of which the peer takes at most so many bytes.
        fn send(&mut self, most: usize) {
            while self.output.is_missing() {
                let count = self.output.take_missed();
                self.output.put(&item(b'N', count, 0)[..5]);
                self.output.put(&item(b'N', count, 0)[5..]);
                self.output.placed();
            }
            let mut offered = Vec::new();
            if let Some(bytes) = self.output.single() {
                offered.extend_from_slice(bytes);
            } else {
                let mut slices = [IoSlice::new(&[]); 7];
                let filled = self.output.gather(&mut slices);
                slices[..filled].iter().for_each(|slice| offered.extend_from_slice(slice));
                if let Some(part) = self.output.file().filter(|_| filled == 0) {
                    offered.resize(part.length(), 0);
                    part.file().read_exact_at(&mut offered, part.at()).unwrap();
                }
            }
            assert_eq!(offered.is_empty(), self.output.is_done());
            let taken = most.min(offered.len());
            self.held = taken < offered.len();
            self.output.advance(taken);
            self.read.extend_from_slice(&offered[..taken]);
            if self.held && self.output.has_fresh_messages() {
                self.too_slow |= self.output.trim(&self.lengths, &self.limits, &mut self.missed) == Offered::TooSlow;
                self.check_bound();
            }
        }

        /// Answers are all there, what is missing is told in its place and counted, and the rest is in order.
        fn check(&mut self) {
            while !self.output.is_done() {
                self.send(usize::MAX);
            }
            let (mut at, mut noted, mut noted_in_all) = (0, 0, 0);
            for (kind, number) in items(&self.read) {
                if kind == b'N' {
                    noted += number;
                    noted_in_all += number;
                    continue;
                }
                let skipped = self.put[at..].iter().position(|put| *put == (kind, number)).expect("it is in order");
                let passed = &self.put[at..at + skipped];
                assert!(passed.iter().all(|(kind, _)| *kind == b'M'), "an answer is lost");
                if !self.too_slow {
                    assert_eq!(passed.len() as u64, noted, "before {number}");
                }
                (at, noted) = (at + skipped + 1, 0);
            }
            let rest = &self.put[at..];
            assert!(rest.iter().all(|(kind, _)| *kind == b'M'), "an answer is lost");
            match self.too_slow {
                false => assert_eq!((rest.len() as u64, noted_in_all), (noted, self.missed)),
                true => assert_eq!(noted_in_all, 0),
            }
        }
    }

    #[test]
    fn whatever_happens_answers_arrive_and_messages_whole_or_counted_in_their_place() {
        for seed in 1..=3000u64 {
            let mut state = seed;
            let mut below = |limit: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % limit as u64) as usize
            };
            let policy = [SlowPolicy::Disconnect, SlowPolicy::DropOldest, SlowPolicy::DropNewest][below(3)];
            let mut wire = Wire::new([1, 100, 2000, 30_000][below(4)], policy);
            for _ in 0..below(200) {
                let length = if below(10) == 0 { 4000 + below(300) } else { below(60) };
                match below(10) {
                    0 => wire.answer(length),
                    1..8 => wire.message(length),
                    8 => wire.send(below(300)),
                    _ => wire.send(below(20_000)),
                }
            }
            wire.check();
        }
    }

    #[test]
    fn the_oldest_go_and_the_answers_between_them_stay_where_they_were() {
        let mut wire = Wire::new(300, SlowPolicy::DropOldest);
        wire.message(50);
        wire.send(10);
        for _ in 0..20 {
            wire.message(20);
            wire.answer(1);
        }
        wire.check();
        let heard = items(&wire.read);
        assert_eq!(heard[..4], [(b'M', 0), (b'N', 1), (b'A', 2), (b'N', 1)], "{heard:?}");
        assert_eq!(heard.iter().filter(|(kind, _)| *kind == b'A').count(), 20);
    }

    #[test]
    fn the_newest_go_and_the_first_that_fits_again_stands_after_the_notice() {
        let mut wire = Wire::new(200, SlowPolicy::DropNewest);
        wire.message(20);
        wire.send(1);
        (0..10).for_each(|_| wire.message(20));
        assert_eq!(wire.missed, 8);
        wire.send(usize::MAX);
        wire.message(20);
        wire.check();
        let expected = [(b'M', 0), (b'M', 1), (b'M', 2), (b'N', 8), (b'M', 11)];
        assert_eq!(items(&wire.read), expected);
    }

    #[test]
    fn who_is_too_slow_gets_what_has_begun_and_its_answers() {
        let mut wire = Wire::new(200, SlowPolicy::Disconnect);
        wire.message(20);
        wire.send(1);
        wire.message(20);
        wire.answer(5);
        (0..10).for_each(|_| wire.message(20));
        assert!(wire.too_slow);
        wire.answer(6);
        wire.check();
        assert_eq!(items(&wire.read).iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), b"MAA");
    }

    #[test]
    fn one_message_is_taken_whatever_its_size_when_nothing_is_owed() {
        for policy in [SlowPolicy::Disconnect, SlowPolicy::DropOldest, SlowPolicy::DropNewest] {
            let mut wire = Wire::new(10, policy);
            wire.message(9000);
            wire.send(3);
            assert!(!wire.too_slow && wire.missed == 0);
            wire.check();
            assert_eq!(items(&wire.read), [(b'M', 0)]);
        }
    }

    /// A kernel that took exactly whole messages leaves nothing that has begun.
    #[test]
    fn a_turns_messages_beyond_the_limit_are_dropped_once_the_kernel_has_not_taken_them() {
        for (policy, expected) in [
            (SlowPolicy::DropOldest, [(b'M', 0), (b'N', 7), (b'M', 8), (b'M', 9)]),
            (SlowPolicy::DropNewest, [(b'M', 0), (b'M', 1), (b'M', 2), (b'N', 7)]),
        ] {
            let mut wire = Wire::new(170, policy);
            (0..10).for_each(|_| wire.message(20));
            wire.send(33);
            wire.check();
            assert_eq!(items(&wire.read), expected);
        }
    }

    #[test]
    fn a_flood_of_the_shortest_messages_costs_memory_in_bounds() {
        let mut wire = Wire::new(1 << 20, SlowPolicy::DropOldest);
        wire.message(2000);
        wire.send(1);
        for _ in 0..1_000_000 {
            let message = Messages { bytes: b"x", shared: None, lengths: &[1], first: 0, count: 1 };
            wire.output.offer(message, &wire.limits, &mut wire.missed);
        }
        let behind = wire.output.behind().unwrap();
        let queues = [&behind.fixed, &behind.rest];
        let memory: usize =
            queues.iter().map(|queue| queue.items.capacity() * size_of::<Item>() + queue.copied.capacity()).sum();
        assert!(memory <= 2 << 20, "{memory}");
        assert!(size_of::<Item>() <= ITEM_COST / 2);
    }
}
