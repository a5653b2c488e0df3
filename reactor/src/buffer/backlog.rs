//! The backlog of a peer that does not take its output: complete messages with their boundaries, so that a policy can
//! drop some, and between them the handler's own writes, which are never dropped.
//!
//! ```text
//!   head of the Output ──▶ fixed ──▶ rest ◀── put, offered
//!   (what has begun)       │         └ messages, own bytes, places where messages were missed
//!                          └ own bytes, and places: all that stands before the oldest message
//! ```
//!
//! Dropping the oldest message moves the items before the message from `rest` to `fixed`, each item once, so a drop
//! takes O(1) on average.

mod queue;

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;

use super::file::FilePart;
use super::payload::Payload;
use super::{Offered, Output};
use crate::budget::Budget;
use crate::limits::{Limits, SlowPolicy};
use queue::{Item, Queue};

/// Bytes of memory for an item without its content: a place in the queue, counted twice because queues grow by doubling.
/// The number bounds a flood of empty messages.
const ITEM_COST: usize = 32;

/// The part of an output behind its head. See the picture of this file.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    fixed: Queue,
    rest: Queue,
    /// Messages in both queues: the items that a policy can drop.
    messages: usize,
    /// Bytes of these messages.
    message_bytes: usize,
    /// Some messages were appended without regard to the limit, because the kernel may still take them in this turn.
    /// Cleared when the limit has been applied to them.
    fresh: bool,
}

impl Backlog {
    /// Queued bytes.
    pub(crate) fn length(&self) -> usize {
        self.fixed.length + self.rest.length
    }

    /// Bytes in memory that cannot be dropped.
    pub(crate) fn kept_length(&self) -> usize {
        self.in_memory() - self.message_bytes
    }

    /// Bytes in memory.
    pub(crate) fn in_memory(&self) -> usize {
        self.length() - self.fixed.filed - self.rest.filed
    }

    /// Bytes that count against the limit: bytes in memory, and `ITEM_COST` for each item.
    pub(crate) fn cost(&self) -> usize {
        self.in_memory() + (self.fixed.items.len() + self.rest.items.len()) * ITEM_COST
    }

    /// Bytes of messages that count against the limit, and the number of messages.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.cost() - self.kept_cost(), self.messages)
    }

    fn kept_cost(&self) -> usize {
        self.cost() - self.message_bytes - self.messages * ITEM_COST
    }

    /// Whether no byte is queued, and no notice of missed messages is due.
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
        self.rest.items.push_back(Item::Shared { message: false, bytes: Box::new(Payload::new(bytes)) });
        self.rest.uncounted += 1;
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
            Some(shared) => {
                self.rest.uncounted += 1;
                Item::Shared { message: true, bytes: Box::new(Payload::new(shared.clone())) }
            }
            None => {
                self.rest.copied.extend(bytes);
                Item::Copied { message: true, length: bytes.len() }
            }
        };
        self.rest.items.push_back(item);
    }

    /// Appends a copy of all bytes to `all`.
    pub(super) fn copy_into(&self, all: &mut Vec<u8>) -> io::Result<()> {
        self.fixed.copy_into(all)?;
        self.rest.copy_into(all)
    }

    /// Notes messages that were appended without regard to the limit.
    pub(crate) fn set_fresh(&mut self) {
        self.fresh = true;
    }

    /// Whether the limit must still be applied to some messages.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Turns every message into an ordinary write, which no policy drops: a closing connection gets all earlier
    /// publications.
    pub(crate) fn keep_messages(&mut self) {
        for item in &mut self.rest.items {
            if let Item::Copied { message, .. } | Item::Shared { message, .. } = item {
                *message = false;
            }
        }
        (self.messages, self.message_bytes, self.fresh) = (0, 0, false);
    }

    /// Applies the limit to fresh messages: offers every item again, in order. Shared bytes shorter than `share_min`
    /// are copied, because they may be a part of a much longer buffer. The cost is one copy of the waiting bytes, each
    /// time that the kernel takes less than a turn's messages.
    pub(crate) fn offer_anew(&mut self, head: usize, share_min: usize, limits: &Limits, missed: &mut u64) -> Offered {
        if !std::mem::take(&mut self.fresh) {
            return Offered::Taken;
        }
        let mut old = std::mem::take(&mut self.rest);
        (self.messages, self.message_bytes) = (0, 0);
        let mut worst = Offered::Taken;
        let mut copied = Vec::new();
        while let Some(item) = old.items.pop_front() {
            copied.clear();
            old.hand_over(&item, |bytes| copied.extend_from_slice(bytes));
            let is_message = item.is_message();
            let shared = match item {
                Item::Copied { .. } => None,
                Item::Shared { bytes, .. } => Some(bytes),
                Item::File(part) => {
                    self.push_own_file(*part);
                    continue;
                }
                Item::Missed(count) => {
                    self.rest.miss(count);
                    continue;
                }
            };
            let bytes = shared.as_ref().map_or(&copied[..], |shared| shared);
            let kept = shared.as_ref().map(|shared| shared.bytes()).filter(|shared| shared.len() >= share_min);
            match (is_message, kept) {
                (false, None) => self.push_own(bytes),
                (false, Some(shared)) => self.push_own_shared(shared.clone()),
                // `on_too_slow` is called once. Later messages are lost with the earlier ones.
                (true, _) if worst == Offered::TooSlow => *missed += 1,
                (true, kept) => {
                    if self.offer(head, bytes, kept, limits, missed) == Offered::TooSlow {
                        worst = Offered::TooSlow;
                    }
                }
            }
        }
        worst
    }

    /// Bytes of memory of the backlog itself, without shared payloads: the pool counts them.
    pub(crate) fn capacity(&self) -> usize {
        [&self.fixed, &self.rest]
            .map(|queue| queue.items.capacity() * size_of::<Item>() + queue.copied.capacity())
            .iter()
            .sum()
    }

    /// Counts the shared payloads added since the last call. Each payload is visited once.
    pub(crate) fn count_payloads(&mut self, budget: &Arc<Budget>) {
        for queue in [&mut self.fixed, &mut self.rest] {
            if queue.uncounted == 0 {
                continue;
            }
            let shared = queue.items.iter_mut().rev().filter_map(|item| match item {
                Item::Shared { bytes, .. } => Some(bytes),
                Item::Copied { .. } | Item::File(_) | Item::Missed(_) => None,
            });
            shared.take(std::mem::take(&mut queue.uncounted)).for_each(|payload| payload.count(budget));
        }
    }

    /// The end address and the length of each shared payload.
    #[cfg(feature = "sim")]
    pub(crate) fn payloads(&self) -> Vec<(usize, usize)> {
        let items = self.fixed.items.iter().chain(&self.rest.items);
        let shared = items.filter_map(|item| match item {
            Item::Shared { bytes, .. } => Some(bytes.name()),
            Item::Copied { .. } | Item::File(_) | Item::Missed(_) => None,
        });
        shared.collect()
    }

    /// Gives back the memory that the queued items do not need.
    pub(crate) fn shrink(&mut self) {
        for queue in [&mut self.fixed, &mut self.rest] {
            queue.items.shrink_to_fit();
            queue.copied.shrink_to_fit();
        }
    }

    /// Removes all items, and keeps the memory for reuse.
    pub(crate) fn clear(&mut self) {
        for queue in [&mut self.fixed, &mut self.rest] {
            queue.items.clear();
            queue.copied.clear();
            (queue.length, queue.filed, queue.uncounted) = (0, 0, 0);
        }
        (self.messages, self.message_bytes, self.fresh) = (0, 0, false);
    }

    /// Appends a message, or applies the policy. `head` bytes are queued before the backlog. Adds dropped messages to
    /// `missed`.
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
        let fits = bytes.is_empty() || alone || self.cost().saturating_add(cost) <= max;
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

    /// Drops the oldest messages until `more` fits below `max`. Returns `false`, and drops none, if dropping all
    /// messages would not suffice.
    fn make_room(&mut self, more: usize, max: usize, missed: &mut u64) -> bool {
        if self.kept_cost().saturating_add(more) > max {
            return false;
        }
        while self.cost() + more > max && self.drop_oldest() {
            *missed += 1;
        }
        true
    }

    /// Drops every message, without notices of missed messages. Returns the number of dropped messages.
    pub(crate) fn drop_messages(&mut self) -> u64 {
        let dropped = self.messages as u64;
        while self.drop_oldest() {}
        self.fixed.items.retain(|item| !matches!(item, Item::Missed(_)));
        dropped
    }

    fn drop_oldest(&mut self) -> bool {
        while let Some(item) = self.rest.items.pop_front() {
            if item.is_message() {
                self.messages -= 1;
                self.message_bytes -= item.length();
                self.rest.forget(&item);
                self.fixed.miss(1);
                return true;
            }
            if let Item::Missed(count) = item {
                self.fixed.miss(count);
                continue;
            }
            self.rest.hand_over(&item, |bytes| self.fixed.copied.extend(bytes));
            self.fixed.length += item.length();
            self.fixed.filed += if let Item::File(part) = &item { part.length() } else { 0 };
            // The payload may be counted already; counting visits the payload once more.
            self.fixed.uncounted += usize::from(matches!(item, Item::Shared { .. }));
            self.fixed.items.push_back(item);
        }
        false
    }

    /// The number of messages missed at the front, before any queued byte.
    pub(crate) fn missed(&self) -> Option<u64> {
        match self.first().items.front() {
            Some(Item::Missed(count)) => Some(*count),
            _ => None,
        }
    }

    /// Takes the number of messages missed at the front.
    pub(crate) fn take_missed(&mut self) -> Option<u64> {
        let missed = self.missed()?;
        let queue = if self.fixed.items.is_empty() { &mut self.rest } else { &mut self.fixed };
        queue.items.pop_front();
        Some(missed)
    }

    /// Fills `slices` with the next bytes to send, up to a notice of missed messages. Returns the number of filled
    /// slices.
    pub(crate) fn gather<'s>(&'s self, slices: &mut [IoSlice<'s>]) -> usize {
        let (filled, whole) = self.fixed.gather(slices);
        if !whole || filled == slices.len() {
            return filled;
        }
        filled + self.rest.gather(&mut slices[filled..]).0
    }

    /// Returns all queued bytes if they are in one piece, the usual case of a turn's short messages.
    pub(crate) fn single(&self) -> Option<&[u8]> {
        let is_copied = self.fixed.items.is_empty() && self.rest.length == self.rest.copied.len();
        let all = is_copied && self.rest.items.iter().all(|item| matches!(item, Item::Copied { .. }));
        if all { self.rest.copied.single() } else { None }
    }

    /// Notes that the first `count` bytes have left. The rest of an item that has begun to leave moves into the head,
    /// where no policy drops it.
    pub(crate) fn advance(&mut self, mut count: usize, head: &mut Output) {
        if count == self.length() && !matches!(self.rest.items.back(), Some(Item::Missed(_))) {
            return self.clear();
        }
        loop {
            let queue = if self.fixed.items.is_empty() { &mut self.rest } else { &mut self.fixed };
            // Completely sent items are removed from the bytes together.
            let mut whole = 0;
            while let Some(Item::Copied { message, length }) = queue.items.front()
                && whole + length <= count
            {
                whole += length;
                self.messages -= usize::from(*message);
                self.message_bytes -= if *message { *length } else { 0 };
                queue.items.pop_front();
            }
            queue.copied.take(whole, |_| {});
            queue.length -= whole;
            count -= whole;
            if count == 0 {
                return;
            }
            let Some(item) = queue.items.pop_front() else {
                // This queue is empty: the remaining bytes belong to the other queue.
                assert!(!self.is_empty(), "more has left than is owed");
                continue;
            };
            if item.is_message() {
                self.messages -= 1;
                self.message_bytes -= item.length();
            }
            let left = count.min(item.length());
            count -= left;
            match item {
                Item::Copied { message, length } => {
                    queue.forget(&Item::Copied { message, length: left });
                    queue.hand_over(&Item::Copied { message, length: length - left }, |bytes| head.append(bytes));
                }
                Item::Shared { bytes, .. } => {
                    queue.length -= bytes.len();
                    if left < bytes.len() {
                        head.append_shared(bytes.bytes().slice(left..));
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

    /// Returns the next item if it is a part of a file.
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

#[cfg(test)]
mod tests;
