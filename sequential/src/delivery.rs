//! Lends the input of a connection to the read that waits, and polls the task with the item.

use std::rc::Rc;
use std::task::Poll;
use std::thread;

use reactor::{Framed, Input, Written};

use crate::peer::Peer;
use crate::requests::offer;
use crate::slot::*;
use crate::station::{Station, TaskKey};
use crate::tasks::{Context, Task, Tasks, empty, poll};

impl<S: AsyncFn(&mut Peer) + 'static> Tasks<S> {
    /// Answers the reads of a task from the input of its own connection, and polls the task, item by item. Leaves whatever is unusual
    /// to [`deliver`](Self::deliver).
    #[inline]
    pub(crate) fn deliver_own(&mut self, key: TaskKey, input: &mut Input<'_>, cx: &mut Context<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let Task { future: Some(future), slot: Some(slot), waker, .. } = task else { return };
        let (rc, slot) = (&*slot, &**slot);
        let station = &*self.station;
        let mut before = input.as_slice();
        let outcome = loop {
            let flags = slot.flags.get();
            if flags & (READ | FOUND | TOO_LONG | CANCELLED | UNUSUAL) != READ {
                break Ok(Poll::Pending);
            }
            // A task mostly waits for a further item when nothing is left.
            if input.is_empty() {
                return slot.flags.set(flags & !(UNREAD | PAUSED));
            }
            before = input.as_slice();
            // The searches stand here, and not in a function, so that the compiler makes no call of them.
            let framed = match slot.want.get() {
                Want::Until(byte, max) => input.until(byte, max),
                Want::Line(max) => input.until_eol_within(max),
                _ => slot.find_other(input),
            };
            let answer = match framed {
                Framed::Item(bytes) => {
                    station.put_item(bytes);
                    FOUND
                }
                Framed::TooLong => TOO_LONG,
                Framed::Incomplete => return slot.flags.set(flags & !PAUSED | UNREAD),
            };
            slot.flags.set(flags & !(UNREAD | PAUSED) | answer);
            // A wake-up that is under way stays so: the task is polled once more.
            match poll(future, waker, key, &self.station) {
                Ok(Poll::Pending) => {}
                outcome => break outcome,
            }
            if station.has_requests.get() {
                break Ok(Poll::Pending);
            }
            let mut output = station.output.borrow_mut();
            if !output.is_empty() {
                if cx.write(&*output) == Written::AboveHighWater {
                    slot.raise(HIGH);
                }
                empty(&mut output);
            }
        };
        let slot = rc.clone();
        self.deliver_rest(&slot, before, outcome, input, cx);
    }

    /// Goes on after the poll of a task that did something unusual.
    #[cold]
    #[inline(never)]
    fn deliver_rest<'i>(
        &mut self,
        slot: &Rc<Slot>,
        before: &'i [u8],
        outcome: thread::Result<Poll<()>>,
        input: &mut Input<'i>,
        cx: &mut Context<'_>,
    ) {
        let key = slot.reader.get();
        if !self.take_outcome(key, outcome, cx) {
            self.run(key, cx);
        }
        put_back(slot, before, input);
        self.deliver(slot, input, cx);
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
            match slot.find(input, Station::put_item) {
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
    if !slot.is(FOUND | TOO_LONG | CANCELLED) {
        return;
    }
    if slot.is(READ) && !slot.is(CANCELLED) {
        slot.raise(IGNORED);
    }
    slot.lower(FOUND | TOO_LONG | CANCELLED);
    *input = Input::of(before);
}
