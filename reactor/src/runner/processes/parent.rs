//! The parent's ends of the channels: passes a child's publications to all other children, passes on the orders of
//! signals, and reaps each child that ends.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::channel::{Frame, Nonsense};
use super::child::write;
use crate::address::Peer;
use crate::buffer::Input;
use crate::cluster::{Cluster, Inbox, LoopHandle};
use crate::context::{self, Written};
use crate::handle::Mail;
use crate::handler::Handler;
use crate::mailbox::Addressed;
use crate::reason::CloseReason;
use crate::stats::Counts;
use crate::sys::fork::{Ended, Pid};
use crate::token::ConnectionId;

/// Time between the end of a channel and the first attempt to reap the child, which may end a moment later; then twice
/// as long each time.
const REAP_SOON: Duration = Duration::from_millis(1);
/// Time after the end of the channel until the child is killed: a child without its channel serves nobody.
const REAP_PATIENCE: Duration = Duration::from_secs(1);

/// All channels.
pub(super) struct Parent {
    cluster: Arc<Cluster>,
    queues: ChildQueues,
}

/// One child.
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) loop_handle: Arc<LoopHandle>,
    /// The service of its connection, the peer, and the service's count of connections.
    pub(super) service: Arc<str>,
    pub(super) peer: Peer,
    pub(super) counts: Arc<Counts>,
    /// The child has sent its last frame.
    pub(super) has_parted: bool,
    /// How long the parent has tried to reap the child since the end of the channel.
    pub(super) waited: Duration,
    pub(super) is_reaped: bool,
}

/// The mailboxes of all children, by their channels.
pub(super) type ChildQueues = Rc<RefCell<HashMap<ConnectionId, ChildQueue>>>;

/// Messages of other loops on their way to a child process.
pub(super) struct ChildQueue {
    pub(super) loop_handle: Arc<LoopHandle>,
    pub(super) inbox: Inbox,
    /// The channel has so many unsent bytes that the mailbox pauses.
    pub(super) full: bool,
}

impl Parent {
    pub(super) fn new(cluster: Arc<Cluster>, queues: ChildQueues) -> Self {
        Parent { cluster, queues }
    }

    fn say(&mut self, line: ConnectionId, frame: &Frame, cx: &mut Context<'_>) {
        if write(line, frame, cx) == Written::AboveHighWater
            && let Some(queue) = self.queues.borrow_mut().get_mut(&line)
        {
            queue.full = true;
        }
    }

    fn hear(&mut self, child: &mut Child, frame: Frame, cx: &mut Context<'_>) {
        match frame {
            Frame::Publish(topic, bytes) => cx.relay(&topic, &bytes, child.loop_handle.number),
            Frame::Halt => cx.halt(),
            Frame::Counted(numbers) => {
                child.has_parted = true;
                let counters = &child.loop_handle.counters;
                counters.all().zip(numbers).for_each(|(counter, number)| counter.set(number));
                // The parent has counted the connection itself.
                counters.accepted.set(counters.accepted.get().saturating_sub(1));
                cx.counters().open.add(u64::MAX);
            }
            Frame::Stop | Frame::Reopen | Frame::Report => {
                log::error!("a child process sent a frame that only the parent sends")
            }
        }
    }

    /// Reaps the child and closes the channel, if the child has ended.
    fn look_for(&mut self, child: &mut Child, cx: &mut Context<'_>) {
        if let Some(ended) = child.pid.reap() {
            self.has_ended(child, ended, cx);
            return cx.close_briefly();
        }
        if child.waited >= REAP_PATIENCE {
            log::error!("{}: process {} has closed its channel and still runs: killed", child.service, child.pid);
            child.pid.kill();
        }
        let next = child.waited.max(REAP_SOON);
        child.waited += next;
        cx.set_deadline(next);
    }

    fn has_ended(&mut self, child: &mut Child, ended: Ended, cx: &mut Context<'_>) {
        let Child { pid, loop_handle, service, peer, .. } = child;
        match ended {
            Ended::Exit(0) => log::debug!("{service}: process {pid} for {peer} has ended"),
            // While SIGCHLD is ignored, the system reaps children.
            Ended::Unknown if child.has_parted => {}
            ended => log::error!("{service}: process {pid} for {peer} {ended}"),
        }
        if !child.has_parted {
            let reason = match ended {
                _ if cx.has_given_up() => CloseReason::DrainExpired,
                // The child's drain time was over, and no time was left to send the counters. A panic exits with 1.
                Ended::Exit(0) if cx.is_stopping() => CloseReason::DrainExpired,
                Ended::Signal(_) => CloseReason::Killed,
                Ended::Exit(_) | Ended::Unknown => CloseReason::Panicked,
            };
            cx.counters().count_closed(reason);
        }
        child.is_reaped = true;
        child.counts.go();
        self.queues.borrow_mut().remove(&cx.id());
        self.cluster.leave(loop_handle);
    }
}

type Context<'a> = context::Context<'a, Child, Frame>;

impl Handler<Frame> for Parent {
    type Connection = Child;

    fn on_open(&mut self, _: &mut Context<'_>) -> Child {
        unreachable!("a channel is adopted with its child, never accepted")
    }

    fn on_data(&mut self, child: &mut Child, input: &mut Input<'_>, cx: &mut Context<'_>) {
        loop {
            match Frame::read(input) {
                Ok(Some(frame)) => self.hear(child, frame, cx),
                Ok(None) => return,
                Err(Nonsense) => {
                    log::error!("{}: process {} sent a malformed frame: closing its channel", child.service, child.pid);
                    return cx.abort();
                }
            }
        }
    }

    fn on_end_of_input(&mut self, child: &mut Child, input: &mut Input<'_>, cx: &mut Context<'_>) {
        input.take_all();
        self.look_for(child, cx);
    }

    fn on_deadline(&mut self, child: &mut Child, cx: &mut Context<'_>) {
        self.look_for(child, cx);
    }

    fn on_drained(&mut self, child: &mut Child, cx: &mut Context<'_>) {
        if let Some(queue) = self.queues.borrow_mut().get_mut(&cx.id()) {
            queue.full = false;
        }
        // Reads the mailbox again.
        child.loop_handle.wake();
    }

    fn on_message(&mut self, line: ConnectionId, _: Option<&mut Child>, frame: Frame, cx: &mut Context<'_>) {
        if self.queues.borrow().contains_key(&line) {
            self.say(line, &frame, cx);
        }
    }

    /// The child finishes by itself, and ends the channel.
    fn on_stopping(&mut self, _: &mut Child, cx: &mut Context<'_>) {
        self.say(cx.id(), &Frame::Stop, cx);
    }

    fn on_close(&mut self, mut child: Child, _: CloseReason, cx: &mut Context<'_>) {
        if child.is_reaped {
            return;
        }
        if !child.has_parted {
            child.pid.kill();
        }
        // The child has been killed, or is about to end.
        let ended = child.pid.wait();
        self.has_ended(&mut child, ended, cx);
    }
}

/// The messages for all children.
pub(super) struct ForChildren(pub(super) ChildQueues);

impl Mail<Frame> for ForChildren {
    fn take(&mut self, into: &mut VecDeque<Addressed<Frame>>, most: usize) -> bool {
        let mut queues = self.0.borrow_mut();
        // An equal share for each child, so that a busy one does not delay the others.
        let share = most.div_ceil(queues.len().max(1));
        let mut more = false;
        let mut taken = Vec::new();
        for (line, ChildQueue { loop_handle, inbox, full }) in queues.iter_mut() {
            if loop_handle.take_reopening() {
                into.push_back((*line, Frame::Reopen));
            }
            if loop_handle.take_reporting() {
                into.push_back((*line, Frame::Report));
            }
            if *full {
                continue;
            }
            more |= inbox.passed_on.take(&mut taken, share);
            into.extend(taken.drain(..).map(|(topic, bytes)| (*line, Frame::Publish(topic, bytes.into_bytes()))));
            if loop_handle.take_sender_waits() {
                loop_handle.wake();
            }
        }
        more
    }
}
