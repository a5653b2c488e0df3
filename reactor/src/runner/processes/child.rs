//! A child's end of the channel: sends its publications to the parent, and carries out the parent's orders.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};

use super::channel::{Frame, Nonsense, TooLong};
use crate::buffer::Input;
use crate::cluster::{Cluster, Inbox, LoopHandle};
use crate::context::{self, Written};
use crate::handle::Mail;
use crate::handler::Handler;
use crate::mailbox::Addressed;
use crate::reason::CloseReason;
use crate::settings::Reopen;
use crate::token::ConnectionId;

/// The channel to the parent.
pub(super) struct ChildChannel {
    cluster: Arc<Cluster>,
    loop_handle: Arc<LoopHandle>,
    on_reopen: Reopen,
    state: Rc<State>,
}

/// State shared by the channel and the mailbox behind it.
#[derive(Default)]
pub(super) struct State {
    id: Cell<ConnectionId>,
    /// The channel has so many unsent bytes that the mailbox pauses.
    full: Cell<bool>,
    /// The parent knows that the application is to halt.
    halting: Cell<bool>,
}

/// The mailbox for the parent: publications of this process's loop, and an order to halt.
pub(super) struct ForParent {
    cluster: Arc<Cluster>,
    inbox: Inbox,
    state: Rc<State>,
}

impl ChildChannel {
    /// Makes the channel and its mailbox.
    pub(super) fn new(
        cluster: &Arc<Cluster>,
        loop_handle: &Arc<LoopHandle>,
        on_reopen: Reopen,
    ) -> (Self, ForParent, Rc<State>) {
        // If the connection came while the application was stopping, the parent knows of the stop.
        let state = Rc::new(State { halting: Cell::new(cluster.is_halting()), ..State::default() });
        // The channel takes the place of the parent's first loop.
        let inbox = cluster.inbox(&cluster.fixed()[0]);
        let mail = ForParent { cluster: cluster.clone(), inbox, state: state.clone() };
        (
            ChildChannel {
                cluster: cluster.clone(),
                loop_handle: loop_handle.clone(),
                on_reopen,
                state: state.clone(),
            },
            mail,
            state,
        )
    }

    fn say(&self, frame: &Frame, cx: &mut Context<'_>) {
        if write(self.state.id.get(), frame, cx) == Written::AboveHighWater {
            self.state.full.set(true);
        }
    }

    fn hear(&mut self, frame: Frame, cx: &mut Context<'_>) {
        match frame {
            Frame::Publish(topic, bytes) => cx.deliver(&topic, &bytes),
            Frame::Stop => {
                self.state.halting.set(true);
                self.cluster.halt();
            }
            Frame::Reopen => self.on_reopen.lock().unwrap_or_else(PoisonError::into_inner)(),
            Frame::Report => self.loop_handle.ask_for_report(),
            Frame::Halt | Frame::Counted(_) => log::error!("the parent process sent a frame that only a child sends"),
        }
    }
}

impl State {
    pub(super) fn is_at(&self, id: ConnectionId) {
        self.id.set(id);
    }
}

impl Handler<Frame> for ChildChannel {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        loop {
            match Frame::read(input) {
                Ok(Some(frame)) => self.hear(frame, cx),
                Ok(None) => return,
                Err(Nonsense) => return cx.abort(),
            }
        }
    }

    fn on_drained(&mut self, _: &mut (), _: &mut Context<'_>) {
        self.state.full.set(false);
        // Reads the mailbox again.
        self.loop_handle.wake();
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, frame: Frame, cx: &mut Context<'_>) {
        self.say(&frame, cx);
    }

    /// The connection of this process has ended: the process ends with its channel.
    fn on_stopping(&mut self, _: &mut (), cx: &mut Context<'_>) {
        let counted = cx.counters().all().map(|counter| counter.get()).collect();
        self.say(&Frame::Counted(counted), cx);
        cx.close_briefly();
    }

    fn on_close(&mut self, _: (), reason: CloseReason, _: &mut Context<'_>) {
        if !self.cluster.is_halting() && reason != CloseReason::Stopped {
            log::warn!("the parent process has ended: stopping");
        }
        self.state.halting.set(true);
        self.cluster.halt();
    }
}

impl Mail<Frame> for ForParent {
    fn take(&mut self, into: &mut VecDeque<Addressed<Frame>>, most: usize) -> bool {
        if self.cluster.is_halting() && !self.state.halting.replace(true) {
            into.push_back((ConnectionId::NONE, Frame::Halt));
        }
        if self.state.full.get() {
            return false;
        }
        let mut taken = Vec::new();
        let more = self.inbox.passed_on.take(&mut taken, most);
        into.extend(
            taken.into_iter().map(|(topic, bytes)| (ConnectionId::NONE, Frame::Publish(topic, bytes.into_bytes()))),
        );
        if self.cluster.fixed()[0].take_sender_waits() {
            self.cluster.wake_all();
        }
        more
    }
}

type Context<'a> = context::Context<'a, (), Frame>;

/// Writes a frame. A frame that is too long is dropped, and the log says so.
pub(super) fn write<C>(to: ConnectionId, frame: &Frame, cx: &mut context::Context<'_, C, Frame>) -> Written {
    cx.at(to).put(|output| {
        if let Err(TooLong(length)) = frame.write(output) {
            log::error!("a publication of {length} bytes is too long for other processes: dropped");
        }
    })
}
