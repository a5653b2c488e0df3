//! The loop's state behind a [`Context`](super::Context), and what callbacks have asked for and the loop has yet to do.

use std::any::{Any, TypeId};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::Written;
use crate::address::{Address, Peer};
use crate::budget::Holdings;
use crate::buffer::{Messages, Output, Pool, SHARE_MIN};
use crate::driver::Socket;
use crate::limits::{Deadlines, Limits};
use crate::link::{Link, Links, NO_STATE, Origin, Sent};
use crate::outbox::Outbox;
use crate::outgoing::Outgoing;
use crate::published::{Message, Published};
use crate::recorder::{Recorder, What};
use crate::stats::Counters;
use crate::time::Time;
use crate::timer::Wheel;
use crate::token::ConnectionId;
use crate::topics::{Topic, Topics};

/// Everything of a loop that a callback can reach: its links, and no descriptor and no handler.
pub(crate) struct Core {
    pub(crate) links: Links,
    pub(crate) topics: Topics,
    pub(crate) published: Published,
    pub(crate) wheel: Wheel<Timer>,
    pub(crate) pool: Pool,
    /// What the connections of this loop hold, and the budget that they hold it of.
    pub(crate) holdings: Holdings,
    /// Counted by this loop alone, read by anyone.
    pub(crate) counters: Arc<Counters>,
    /// What happened lately, for those who end badly.
    pub(crate) recorder: Recorder,
    /// What callbacks have posted and a full mailbox has no room for yet.
    pub(crate) outbox: Rc<Outbox>,
    /// The other loops; none where there is one alone.
    pub(crate) outgoing: Option<Box<Outgoing>>,
    /// It came with one connection, and ends with it.
    pub(crate) alone: bool,
    /// What each service has agreed to, by its number.
    pub(crate) terms: Vec<Terms>,
    /// When this turn began; after a slow callback, a few milliseconds rough, when that ended.
    pub(crate) now: Time,
    /// Counts turns, never 0: what a link does once a turn is marked with it.
    pub(crate) turn: u32,
    /// One of those touched is owed more than its high-water mark: it is sent to before anybody else is heard, so that
    /// who reads is not taken for one that doesn't.
    pub(crate) flush_now: bool,
    /// Services whose handlers want to be called in the next turn.
    pub(crate) turn_requested: Vec<u16>,
    /// Links that something was done to since the loop last looked at them.
    pub(crate) dirty: Vec<ConnectionId>,
    pub(crate) opening: Vec<PendingOpen>,
    pub(crate) halting: bool,
    /// The application is stopping; and no new connection is begun any more.
    pub(crate) stopping: bool,
    pub(crate) opens_refused: bool,
    pub(crate) loop_ended: bool,
}

/// What a timer stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Link(ConnectionId),
    Periodic(u32),
}

/// What a service has agreed to; each loop has its own copy.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) name: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) deadlines: Deadlines,
    pub(crate) connection_type: TypeId,
    /// It is a service of the crate itself.
    pub(crate) internal: bool,
    /// Its `ServiceHandle<M>`.
    pub(crate) handle: Arc<dyn Any + Send + Sync>,
}

impl Terms {
    /// Whether it is a service of the crate itself, which no operator knows.
    pub(crate) fn is_internal(&self) -> bool {
        self.internal
    }

    /// Of a service that the crate itself has; nobody posts to it.
    pub(crate) fn internal<State: 'static>(name: &str, limits: Limits, deadlines: Deadlines) -> Self {
        Terms {
            name: name.into(),
            limits,
            deadlines,
            connection_type: TypeId::of::<State>(),
            internal: true,
            handle: Arc::new(()),
        }
    }
}

/// A connection that a callback asked for; its link is there already.
pub(crate) struct PendingOpen {
    pub(crate) id: ConnectionId,
    pub(crate) state: Box<dyn Any>,
    pub(crate) kind: OpenKind,
}

pub(crate) enum OpenKind {
    Connect(Address),
    Watch(OwnedFd),
    /// Take it on as it is.
    Adopt(Socket),
    /// It has a deadline, and that is all.
    Nothing,
}

impl Core {
    pub(crate) fn new(
        links: Links,
        recorder: Recorder,
        now: Time,
        counters: Arc<Counters>,
        outbox: Rc<Outbox>,
        holdings: Holdings,
    ) -> Self {
        Core {
            links,
            topics: Topics::default(),
            published: Published::default(),
            wheel: Wheel::new(now),
            pool: Pool::default(),
            holdings,
            counters,
            recorder,
            outbox,
            outgoing: None,
            alone: false,
            terms: Vec::new(),
            now,
            turn: 0,
            flush_now: false,
            turn_requested: Vec::new(),
            dirty: Vec::new(),
            opening: Vec::new(),
            halting: false,
            stopping: false,
            opens_refused: false,
            loop_ended: false,
        }
    }

    /// Puts a link on the list of those to look at.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(link) = self.links.get_mut(id)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(id);
        }
    }

    #[inline]
    pub(super) fn output(&mut self, id: ConnectionId) -> Option<&mut Output> {
        self.put_in_order(id);
        let link = self.links.get_mut(id)?;
        let limits = &self.terms[link.service as usize].limits;
        link.writable_output(&mut self.pool, limits)
    }

    #[inline]
    pub(super) fn put(&mut self, id: ConnectionId, put: impl FnOnce(&mut Output)) -> Written {
        self.put_in_order(id);
        let Some(link) = self.links.get_mut(id) else { return Written::Refused };
        let limits = &self.terms[link.service as usize].limits;
        let Some(output) = link.writable_output(&mut self.pool, limits) else { return Written::Refused };
        put(output);
        match output {
            output if output.overflowed() => Written::Refused,
            output if output.queued() > limits.output_high => {
                self.flush_now |= !link.is_blocked();
                Written::AboveHighWater
            }
            _ => Written::Queued,
        }
    }

    /// A line to another process, whose state its handler adopts.
    pub(crate) fn adopt(&mut self, service: u16, socket: Socket, peer: Peer, state: Box<dyn Any>) -> ConnectionId {
        let id = self.links.insert(Link::new(Origin::Channel, peer, service, NO_STATE, self.now));
        self.opening.push(PendingOpen { id, state, kind: OpenKind::Adopt(socket) });
        id
    }

    /// To the members on this loop, and once to each other loop that has any. `by` is held while one of those has no
    /// room for more.
    pub(crate) fn publish(
        &mut self,
        topic: &Topic,
        bytes: &[u8],
        shared: Option<&Bytes>,
        by: ConnectionId,
        except: ConnectionId,
    ) -> usize {
        let reached = self.deliver(topic, bytes, shared, except);
        self.pass_on(topic, || shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(bytes)), by, None);
        reached
    }

    /// What a loop in another process has published, to all but that one.
    pub(crate) fn relay(&mut self, topic: &Topic, bytes: &Bytes, by: ConnectionId, from: u32) {
        self.deliver(topic, bytes, Some(bytes), ConnectionId::NONE);
        self.pass_on(topic, || bytes.clone(), by, Some(from));
    }

    fn pass_on(&mut self, topic: &Topic, bytes: impl FnOnce() -> Bytes, by: ConnectionId, except: Option<u32>) {
        if let Some(outgoing) = &mut self.outgoing
            && !outgoing.publish(topic, bytes, by, except)
            && let Some(link) = self.links.get_mut(by)
        {
            link.hold();
            outgoing.hold(by);
            self.mark_dirty(by);
        }
    }

    /// One copy of long messages for any number of members; short ones cost less to copy than to count.
    pub(crate) fn deliver(
        &mut self,
        topic: &Topic,
        bytes: &[u8],
        shared: Option<&Bytes>,
        except: ConnectionId,
    ) -> usize {
        let members = self.topics.count(topic);
        let excepted = except != ConnectionId::NONE && self.topics.is_member(topic, except);
        let members = members - usize::from(excepted);
        if members == 0 || bytes.is_empty() {
            return members;
        }
        if !self.published.gather(topic, bytes, shared, except, self.topics.overlap()) {
            // Memory is bounded by sending, not only by the end of the turn.
            self.flush_now |= self.published.is_much();
            self.hand_out();
            self.published.gather(topic, bytes, shared, except, true);
        }
        members
    }

    /// Before something else happens to this link: what was published before that comes first.
    #[inline]
    pub(super) fn put_in_order(&mut self, id: ConnectionId) {
        if !self.published.is_empty() && self.links.get(id).is_some_and(Link::is_in_order) {
            self.hand_out();
        }
    }

    /// Puts what was published into the outputs of the members, all messages of a topic at once.
    pub(crate) fn hand_out(&mut self) {
        self.send_out(|_, _| None);
    }

    /// The same, but to whom `send` sends it, and whose output is empty, it goes without being copied: that is nearly
    /// everybody, nearly always.
    pub(crate) fn send_out(&mut self, mut send: impl FnMut(ConnectionId, &[u8]) -> Option<Sent>) {
        let Core { links, topics, terms, pool, counters, recorder, dirty, published, now, .. } = self;
        let mut missed = 0;
        let (batches, lengths) = published.parts();
        for batch in batches {
            lengths.clear();
            lengths.extend(batch.messages.iter().map(|message| message.length));
            batch.share(SHARE_MIN);
            let (bytes, shared, count) = (batch.bytes(), batch.shared(), batch.messages.len());
            let messages = Messages { bytes, shared, lengths };
            let excepted = || batch.messages.iter().map(|message| message.except);
            excepted().for_each(|id| links.get_mut(id).into_iter().for_each(|link| link.set_excepted(true)));
            let (mut taken, mut sent) = (0, 0);
            for &id in topics.members(&batch.topic) {
                let Some(link) = links.get_mut(id) else { continue };
                let limits = &terms[link.service as usize].limits;
                let outcome = if link.takes_at_once(bytes.len(), limits) { send(id, bytes) } else { None };
                match outcome {
                    Some(Sent::Bytes(all)) if all == bytes.len() => {
                        link.sent_at_once(all, *now);
                        recorder.note(id, What::Sent(all as u32), *now);
                        (taken, sent) = (taken + count, sent + all);
                        continue;
                    }
                    None if link.is_excepted() => {
                        link.set_excepted(false);
                        for (message, Message { except, .. }) in messages.each().zip(&batch.messages) {
                            if *except != id {
                                taken += link.deliver(message, limits, pool, &mut missed);
                            }
                        }
                    }
                    None => taken += link.deliver(messages, limits, pool, &mut missed),
                    Some(outcome) => {
                        taken += link.deliver(messages, limits, pool, &mut missed);
                        // That the kernel takes no more now is found out once more, by who sees to the rest.
                        let (outcome, what) = match outcome {
                            Sent::Bytes(part) | Sent::Blocked(part) => {
                                sent += part;
                                (Sent::Bytes(part), What::Blocked(part as u32))
                            }
                            Sent::Failed(errno) => (outcome, What::SendFailed(errno)),
                            Sent::ShortFile => (outcome, What::ShortFile),
                        };
                        recorder.note(id, what, *now);
                        counters.unsent.add(link.sent(outcome, *now, limits, pool, || 0).bytes as u64);
                    }
                }
                if !link.dirty {
                    link.dirty = true;
                    dirty.push(id);
                }
            }
            excepted().for_each(|id| links.get_mut(id).into_iter().for_each(|link| link.set_excepted(false)));
            counters.deliveries.add(taken as u64);
            counters.sent.add(sent as u64);
        }
        counters.missed.add(missed);
        published.clear();
    }
}
