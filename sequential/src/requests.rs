//! Carries out the requests that tasks have recorded while they were polled.

use std::rc::Rc;
use std::time::Duration;

use reactor::{ConnectionId, Topic, Written};

use crate::peer::Peer;
use crate::slot::{HIGH, PAUSED, Slot};
use crate::station::{Boxed, Command, Destination, TaskKey};
use crate::subscription::Inbox;
use crate::tasks::{Connection, Context, Kind, Task, Tasks, free_large};

impl<S: AsyncFn(&mut Peer) + 'static> Tasks<S> {
    /// Carries out requests that were recorded outside a poll, by dropped futures for example. While the application stops, drops
    /// the forked tasks once no task serves a connection.
    pub(crate) fn finish(&mut self, cx: &mut Context<'_>) {
        if cx.is_stopping() && self.serving == 0 {
            for key in self.tasks.keys().collect::<Vec<_>>() {
                self.remove(key);
            }
        }
        self.pass_on(TaskKey::NONE, cx);
        cx.hold_end(self.orphans > 0);
    }

    /// Carries out the requests of task `key` in order, and schedules a poll of each woken task.
    pub(crate) fn pass_on(&mut self, key: TaskKey, cx: &mut Context<'_>) {
        let station = self.station.clone();
        station.has_requests.set(false);
        self.pass_on_all(key, cx);
        let woken = station.ready.borrow().len();
        for at in 0..woken {
            let key = station.ready.borrow()[at];
            self.have_polled(key, cx);
        }
        station.ready.borrow_mut().drain(..woken);
    }

    /// Writes `bytes` to the connection that task `key` serves.
    fn write(&mut self, key: TaskKey, bytes: &[u8], cx: &mut Context<'_>) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.write(bytes, cx);
        }
    }

    fn pass_on_all(&mut self, key: TaskKey, cx: &mut Context<'_>) {
        let station = self.station.clone();
        let mut output = std::mem::take(&mut *station.output.borrow_mut());
        let mut commands = std::mem::take(&mut self.commands);
        let mut at = 0;
        // A dropped request may drop a client, which records a request for its end.
        while !station.commands.borrow().is_empty() {
            std::mem::swap(&mut commands, &mut *station.commands.borrow_mut());
            for command in commands.drain(..) {
                if let Command::Own(end) = command {
                    self.write(key, &output[at..end], cx);
                    at = end;
                } else {
                    self.carry_out(command, cx);
                }
            }
        }
        self.write(key, &output[at..], cx);
        output.clear();
        free_large(&mut output);
        *station.output.borrow_mut() = output;
        self.commands = commands;
    }

    fn carry_out(&mut self, command: Command, cx: &mut Context<'_>) {
        match command {
            Command::Own(_) => {}
            Command::Send(slot, bytes) => {
                slot.pending.set(0);
                if cx.at(slot.id.get()).write(&*bytes) == Written::AboveHighWater {
                    slot.raise(HIGH);
                }
                self.station.give_buffer(bytes);
            }
            Command::Hangup(slot) => cx.at(slot.id.get()).close(),
            Command::Finish(id) => cx.at(id).finish(),
            Command::Abort(id) => cx.at(id).abort(),
            Command::ReadOn(slot) => cx.at(slot.id.get()).read_on(),
            Command::Offer(slot) => offer(&slot, cx),
            Command::Subscribe(id, topic) => {
                cx.at(id).subscribe(&topic);
            }
            Command::Unsubscribe(id, topic) => {
                cx.at(id).unsubscribe(&topic);
            }
            Command::Publish(topic, bytes, ConnectionId::NONE) => {
                cx.publish_shared(&topic, &bytes);
            }
            Command::Publish(topic, bytes, except) => {
                cx.publish_except(&topic, bytes, except);
            }
            Command::Arm(timer, span) => cx.timers().set(timer.key.of_sleep(), span),
            Command::Disarm(key) => {
                cx.timers().cancel(key.of_sleep());
            }
            Command::Listen(topic, inbox) => self.listen(topic, inbox, cx),
            Command::Unlisten(topic, inbox) => self.unlisten(&topic, &inbox, cx),
            Command::Connect(to, slot) => self.connect(to, slot, cx),
            Command::Spawn(future) => self.spawn(future, cx),
        }
    }

    /// Connects for a task. While the application stops, the loop opens no connection in `on_close`: the request waits for the next
    /// turn, and is dropped when the drain time is over.
    pub(crate) fn connect(&mut self, to: Destination, slot: Rc<Slot>, cx: &mut Context<'_>) {
        let state = Connection(Kind::Client(slot.clone()));
        slot.id.set(match to.clone() {
            Destination::Address(address) => cx.connect(address, state),
            Destination::Name(name) => cx.connect_to(name, state),
        });
        if slot.id.get() == ConnectionId::NONE {
            self.postponed.push((to, slot));
            cx.request_turn();
        }
    }

    /// Begins a subscription. The handler listens to each topic once, for all its tasks.
    fn listen(&mut self, topic: Topic, inbox: Rc<Inbox>, cx: &mut Context<'_>) {
        if cx.is_stopping() {
            inbox.end();
        }
        let inboxes = self.inboxes.entry(topic).or_insert_with_key(|topic| {
            cx.listen(topic);
            Vec::new()
        });
        inboxes.push(inbox);
    }

    fn unlisten(&mut self, topic: &Topic, inbox: &Rc<Inbox>, cx: &mut Context<'_>) {
        let Some(inboxes) = self.inboxes.get_mut(topic) else { return };
        inboxes.retain(|other| !Rc::ptr_eq(other, inbox));
        if inboxes.is_empty() {
            self.inboxes.remove(topic);
            cx.unlisten(topic);
        }
    }

    /// Gives `inboxes` of a topic something, and schedules a poll of each task that was woken.
    pub(crate) fn each_inbox(&mut self, topic: &Topic, give: impl Fn(&Inbox), cx: &mut Context<'_>) {
        let station = self.station.clone();
        let _entered = station.enter();
        self.inboxes.get(topic).into_iter().flatten().for_each(|inbox| give(inbox));
        self.pass_on(TaskKey::NONE, cx);
    }

    /// Begins a task without a connection.
    pub(crate) fn spawn(&mut self, future: Boxed, cx: &mut Context<'_>) {
        let key = self.tasks.reserve();
        self.fill(key, future, None, ConnectionId::NONE, cx);
        self.have_polled(key, cx);
    }

    /// Schedules a poll of the task: in a callback of its home, so that panics and slow callbacks are attributed to the right
    /// connection, or else in a timer of the handler.
    pub(crate) fn have_polled(&mut self, key: TaskKey, cx: &mut Context<'_>) {
        match self.tasks.get_mut(key) {
            Some(Task { home: ConnectionId::NONE, .. }) => cx.timers().set(key.0, Duration::ZERO),
            Some(task) => cx.at(task.home).set_deadline(Duration::ZERO),
            None => {}
        }
    }
}

/// Makes the loop offer the connection's unread bytes again. The loop does so when reading resumes, so reading is paused first.
pub(crate) fn offer(slot: &Slot, cx: &mut Context<'_>) {
    let id = slot.id.get();
    if !slot.is(PAUSED) {
        cx.at(id).pause_reading();
    }
    slot.lower(PAUSED);
    cx.at(id).resume_reading();
}
