//! Lends the input of a connection to the read that waits, and polls the task with the item.

use std::rc::Rc;
use std::task::Poll;
use std::thread;

use reactor::{Framed, Input, Written};

use crate::peer::Peer;
use crate::requests::offer;
use crate::slot::*;
use crate::station::TaskKey;
use crate::tasks::{Context, Task, Tasks, free_large, poll};

impl<S: AsyncFn(&mut Peer) + 'static> Tasks<S> {
    /// Answers the reads of a task from the input of its own connection, and polls the task, item by item.
    #[inline]
    pub(crate) fn deliver_own(&mut self, key: TaskKey, input: &mut Input<'_>, cx: &mut Context<'_>) {
        // Without a loop here, the compiler keeps the usual case, a single item, in registers.
        if self.deliver_item(key, input, cx) {
            self.deliver_items(key, input, cx);
        }
    }

    #[inline(never)]
    fn deliver_items(&mut self, key: TaskKey, input: &mut Input<'_>, cx: &mut Context<'_>) {
        while self.deliver_item(key, input, cx) {}
    }

    /// Answers the waiting read of a task from the input of its own connection, and polls the task. Returns whether the task waits for
    /// the next item, and there is further input. Leaves whatever is unusual to [`deliver`](Self::deliver).
    #[inline(always)]
    fn deliver_item(&mut self, key: TaskKey, input: &mut Input<'_>, cx: &mut Context<'_>) -> bool {
        let Some(task) = self.tasks.get_mut(key) else { return false };
        let Task { future, slot: Some(slot), waker, .. } = task else { return false };
        let station = &*self.station;
        let before = input.as_slice();
        let flags = slot.flags.get();
        if flags & (READ | ANSWERED | UNUSUAL) != READ {
            return self.deliver_other(key, before, input, cx);
        }
        let bytes = match slot.want.get() {
            // The search stands here, and not in a function, so that the compiler makes no call of it.
            Want::Line(max) => match input.until(b'\n', usize::MAX) {
                // Short enough even with its ending.
                Framed::Item(bytes) if bytes.len() <= max => bytes,
                _ => return self.deliver_other(key, before, input, cx),
            },
            _ => match slot.find_other(input) {
                Framed::Item(bytes) => bytes,
                _ => return self.deliver_other(key, before, input, cx),
            },
        };
        let item = match Rc::get_mut(&mut self.item) {
            // The usual case: the task has dropped the last item.
            Some(buffer) if buffer.capacity() >= bytes.len() => {
                buffer.clear();
                buffer.extend_from_slice(bytes);
                self.item.clone()
            }
            _ => station.other_item(&mut self.item, bytes),
        };
        slot.item.set(Some(item));
        slot.flags.set(flags & !(UNREAD | PAUSED) | FOUND);
        // A wake-up that is under way stays so: the task is polled once more.
        let outcome = poll(future, waker, key, station, &self.station);
        if !matches!(outcome, Ok(Poll::Pending)) || station.has_requests.get() {
            return self.deliver_rest(key, before, outcome, input, cx);
        }
        let mut output = station.output.borrow_mut();
        if !output.is_empty() {
            if cx.write_vec(&mut output) == Written::AboveHighWater {
                slot.raise(HIGH);
            }
            free_large(&mut output);
        }
        drop(output);
        if slot.flags.get() & (READ | ANSWERED | UNUSUAL) != READ {
            return self.deliver_rest(key, before, Ok(Poll::Pending), input, cx);
        }
        // A task mostly waits for a further item when nothing is left.
        !input.is_empty()
    }

    /// Delivers an input in which no item was found the short way. The input was `before`. Returns `false`.
    #[cold]
    #[inline(never)]
    fn deliver_other<'i>(
        &mut self,
        key: TaskKey,
        before: &'i [u8],
        input: &mut Input<'i>,
        cx: &mut Context<'_>,
    ) -> bool {
        if input.len() != before.len() {
            // The found item is too long.
            *input = Input::of(before);
        }
        if let Some(slot) = self.tasks.get_mut(key).and_then(|task| task.slot.clone()) {
            self.deliver(&slot, input, cx);
        }
        false
    }

    /// Goes on after the poll of a task that did something unusual. Returns `false`.
    #[cold]
    #[inline(never)]
    fn deliver_rest<'i>(
        &mut self,
        key: TaskKey,
        before: &'i [u8],
        outcome: thread::Result<Poll<()>>,
        input: &mut Input<'i>,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(slot) = self.tasks.get_mut(key).and_then(|task| task.slot.clone()) else { return false };
        if !self.take_outcome(key, outcome, cx) {
            self.run(key, cx);
        }
        put_back(&slot, before, input);
        self.deliver(&slot, input, cx);
        false
    }

    /// Answers the waiting read from the input and polls the reading task, item by item.
    #[cold]
    pub(crate) fn deliver(&mut self, slot: &Rc<Slot>, input: &mut Input<'_>, cx: &mut Context<'_>) {
        slot.lower(UNREAD | PAUSED);
        slot.raise(LENT);
        // Above the high-water mark, the loop offers the remaining input once the output has drained.
        while slot.is(READ) && !slot.is(LOCAL | IGNORED) && (!slot.is(HIGH) || slot.is(READS_ON)) {
            let mut before = input.as_slice();
            let is_decoded = slot.want.get() == Want::Decoded;
            match slot.find(input) {
                Some(answer) => {
                    if is_decoded {
                        // A decoder keeps its value for the next read, so its bytes stay taken.
                        before = input.as_slice();
                    }
                    slot.raise(if answer == Answer::Found { FOUND } else { TOO_LONG });
                    self.run_reader(slot, cx);
                    put_back(slot, before, input);
                }
                None if slot.is(ENDED) => {
                    slot.keep_unread(input.take_all());
                    self.run_reader(slot, cx);
                }
                None => break,
            }
        }
        let is_awaited = slot.is(READ) && !slot.is(IGNORED);
        slot.lower(IGNORED | LENT);
        if slot.is(LOCAL) {
            input.take_all();
        } else if !input.is_empty() {
            slot.raise(UNREAD);
            if !is_awaited {
                slot.raise(PAUSED);
                cx.pause_reading();
            }
        }
    }

    /// Polls the task whose read waits.
    pub(crate) fn run_reader(&mut self, slot: &Slot, cx: &mut Context<'_>) {
        let key = slot.reader.get();
        if slot.is(DETOUR)
            && let Some(task) = self.tasks.get_mut(key)
        {
            slot.wake_reader(&task.waker);
        }
        self.run(key, cx);
    }

    /// Ends the reads of a connection because the application is stopping. All received bytes were delivered before, apart from
    /// unread bytes, which the loop offers once more.
    pub(crate) fn stop(&mut self, slot: &Rc<Slot>, cx: &mut Context<'_>) {
        slot.raise(STOPPING);
        slot.raise(ENDED);
        if slot.is(UNREAD) {
            offer(slot, cx);
        } else if slot.is(READ) {
            slot.raise(LOCAL);
            self.run_reader(slot, cx);
        }
    }
}

/// Puts the item back into the input, which was `before` when the item was found, if the task's poll has not taken the item. Either the
/// task has dropped the read, or it keeps the read and waits for something else.
fn put_back<'i>(slot: &Slot, before: &'i [u8], input: &mut Input<'i>) {
    if !slot.is(ANSWERED) {
        return;
    }
    if slot.is(READ) && !slot.is(CANCELLED) {
        slot.raise(IGNORED);
    }
    slot.lower(ANSWERED);
    slot.item.set(None);
    *input = Input::of(before);
}
