//! Memberships in topics, and publications to members.

use bytes::Bytes;

use super::{ConnectionRef, Context, Core};
use crate::buffer::{Messages, SHARE_MIN};
use crate::link::{Link, Sent};
use crate::published::Message;
use crate::recorder::What;
use crate::token::ConnectionId;
use crate::topics::Topic;

impl ConnectionRef<'_> {
    /// Makes the connection a member of the topic. Returns whether the connection was no member before.
    pub fn subscribe(&mut self, topic: &Topic) -> bool {
        // A new member does not get earlier publications.
        self.core.hand_out();
        let id = self.id;
        let Core { links, topics, bounds, dirty, .. } = &mut *self.core;
        let Some(link) = links.get_mut(id).filter(|link| link.takes_writes()) else { return false };
        link.set_member(true, &bounds[link.bounds].limits);
        if !std::mem::replace(&mut link.dirty, true) {
            dirty.push(id);
        }
        let begun = topics.subscribe(topic, id);
        if let Some(outgoing) = &self.core.outgoing {
            outgoing.note_topics(self.core.topics.bits());
        }
        begun
    }

    /// Ends the membership. Returns whether the connection was a member. A connection that ends leaves all its topics by
    /// itself.
    pub fn unsubscribe(&mut self, topic: &Topic) -> bool {
        let (core, id) = (&mut *self.core, self.id);
        core.put_in_order(id);
        let was = core.topics.unsubscribe(topic, id);
        if was
            && !core.topics.is_subscribed_anywhere(id)
            && let Some(link) = core.links.get_mut(id)
        {
            link.set_member(false, &core.bounds[link.bounds].limits);
            core.mark_dirty(id);
        }
        was
    }
}

impl<C, M> Context<'_, C, M> {
    /// Makes this connection a member of the topic. Returns whether the connection was no member before.
    pub fn subscribe(&mut self, topic: &Topic) -> bool {
        self.own().subscribe(topic)
    }

    /// Ends this connection's membership. Returns whether the connection was a member.
    pub fn unsubscribe(&mut self, topic: &Topic) -> bool {
        self.own().unsubscribe(topic)
    }

    /// The number of the topic's members on this loop.
    pub fn members(&self, topic: &Topic) -> usize {
        self.core.topics.count(topic)
    }

    /// Queues `bytes`, one message, for every member of the topic on every loop. Returns the number of members on this loop,
    /// including this connection if it is a member. Members on other loops get the message, but are not counted. A slow member
    /// may still miss the message; missed messages are counted.
    ///
    /// The publications of a turn are gathered once for all members, and leave at the end of the turn in one send for each
    /// member, however many they are. Less than 4 KiB in all is copied, longer publications are shared. Each member gets the
    /// message before the effect of any later request for that member, although [`ConnectionRef::queued`] does not count the
    /// message yet.
    ///
    /// A member that does not read and is owed more than [`Limits::member_queue`](crate::Limits::member_queue) is treated as
    /// [`Limits::slow_members`](crate::Limits::slow_members) says. While another loop has no room for this connection's
    /// publications, the connection is not read. Publications of callbacks without a connection wait for room, too, up to
    /// 65,536 messages or 16 MiB for each loop. Beyond that the loop takes no messages
    /// ([`on_message`](crate::Handler::on_message)), and further publications of periodic work do not reach the members on the
    /// slow loop; the log gives their number.
    pub fn publish(&mut self, topic: &Topic, bytes: impl AsRef<[u8]>) -> usize {
        self.core.publish(topic, bytes.as_ref(), None, self.id, ConnectionId::NONE)
    }

    /// Queues `bytes`, one message, for every member but this connection, which is not counted: see [`publish`](Self::publish).
    pub fn publish_to_others(&mut self, topic: &Topic, bytes: impl AsRef<[u8]>) -> usize {
        self.core.publish(topic, bytes.as_ref(), None, self.id, self.id)
    }

    /// Queues `bytes`, one message, for every member but `except`: see [`publish`](Self::publish). For a handler that announces
    /// news of a connection of this loop later.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context, Topic};
    /// fn announce(joined: &[ConnectionId], room: &Topic, cx: &mut Context<'_>) {
    ///     for &member in joined {
    ///         cx.publish_except(room, "somebody has joined\n", member);
    ///     }
    /// }
    /// ```
    pub fn publish_except(&mut self, topic: &Topic, bytes: impl AsRef<[u8]>, except: ConnectionId) -> usize {
        self.core.publish(topic, bytes.as_ref(), None, self.id, except)
    }

    /// Like [`Context::publish`], for bytes that are shared already.
    pub fn publish_shared(&mut self, topic: &Topic, bytes: &Bytes) -> usize {
        self.core.publish(topic, bytes, Some(bytes), self.id, ConnectionId::NONE)
    }

    /// Delivers a publication of another process to the members on this loop.
    pub(crate) fn deliver(&mut self, topic: &Topic, bytes: &Bytes) {
        self.core.deliver(topic, bytes, Some(bytes), ConnectionId::NONE);
    }

    /// Delivers a publication of loop number `from` to the members on all other loops.
    pub(crate) fn relay(&mut self, topic: &Topic, bytes: &Bytes, from: u32) {
        self.core.relay(topic, bytes, self.id, from);
    }
}

/// Listening is for handlers: [`NoHandler`](crate::NoHandler) is not [`Send`].
impl<C, M: Send + 'static> Context<'_, C, M> {
    /// Makes the handler, on this loop, a listener of the topic: [`Handler::on_publication`](crate::Handler::on_publication) is called
    /// in the next turn with each message that anybody publishes to the topic from now on, on any loop, this handler included. Returns
    /// whether the handler was no listener before. Listeners are no members, and are not counted.
    ///
    /// At most [`Limits::member_queue`](crate::Limits::member_queue) bytes wait for the handler. Further messages of the turn are
    /// counted ([`on_publications_missed`](crate::Handler::on_publications_missed)).
    ///
    /// ```
    /// use reactor::{Bytes, Context, Handler, Input, Topic};
    ///
    /// /// Counts the votes of all loops, and shows them to whoever asks.
    /// struct Votes {
    ///     topic: Topic,
    ///     count: u64,
    /// }
    ///
    /// impl Handler for Votes {
    ///     type Connection = ();
    ///     fn on_start(&mut self, cx: &mut Context<'_>) {
    ///         cx.listen(&self.topic);
    ///     }
    ///     fn on_publication(&mut self, _: &Topic, _: &Bytes, _: &mut Context<'_>) {
    ///         self.count += 1;
    ///     }
    ///     fn on_open(&mut self, cx: &mut Context<'_>) {
    ///         cx.write(format!("{} votes\n", self.count));
    ///     }
    ///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
    ///         while let Some(line) = input.until_eol() {
    ///             cx.publish(&self.topic, line);
    ///         }
    ///     }
    /// }
    /// # let mut handler = Votes { topic: Topic::new("votes"), count: 0 };
    /// # reactor::Service::tcp("127.0.0.1:0", || Votes { topic: Topic::new("votes"), count: 0 });
    /// ```
    pub fn listen(&mut self, topic: &Topic) -> bool {
        let begun = self.core.topics.listen(topic, self.service);
        if let Some(outgoing) = &self.core.outgoing {
            outgoing.note_topics(self.core.topics.bits());
        }
        begun
    }

    /// Ends the listening. Returns whether the handler was a listener. Messages that wait for the handler are still heard.
    pub fn unlisten(&mut self, topic: &Topic) -> bool {
        self.core.topics.unlisten(topic, self.service)
    }
}

// ---- fan-out, the loop's side ---------------------------------------------------------------------------------------

impl Core {
    /// Publishes to the members on this loop, and once to each other loop with members. Connection `by` is not read while a
    /// loop with members has no room. Returns the number of members on this loop.
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

    /// Passes a publication of loop number `from`, in another process, on to all other loops.
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

    /// Gathers a message for the members on this loop. Long messages are copied once for all members; short ones cost less to
    /// copy than to count. Returns the number of members.
    pub(crate) fn deliver(
        &mut self,
        topic: &Topic,
        bytes: &[u8],
        shared: Option<&Bytes>,
        except: ConnectionId,
    ) -> usize {
        if self.topics.has_listeners() {
            self.hear(topic, bytes, shared);
        }
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

    /// Keeps a message for the handlers that listen to the topic, which hear it in the next turn.
    #[cold]
    fn hear(&mut self, topic: &Topic, bytes: &[u8], shared: Option<&Bytes>) {
        let listeners = self.topics.listeners(topic);
        if listeners.is_empty() || bytes.is_empty() {
            return;
        }
        let message = shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(bytes));
        for &service in listeners {
            self.heard.push(service, topic, &message, self.terms[service as usize].limits.member_queue);
            if !self.turn_requested.contains(&service) {
                self.turn_requested.push(service);
            }
        }
    }

    /// Hands publications out before any other request to a member, so that requests take effect in their order.
    #[inline]
    pub(super) fn put_in_order(&mut self, id: ConnectionId) {
        if !self.published.is_empty() && self.links.get(id).is_some_and(Link::is_in_order) {
            self.hand_out();
        }
    }

    /// Puts the gathered publications into the members' outputs, all messages of a topic at once.
    pub(crate) fn hand_out(&mut self) {
        self.send_out(|_, _| None);
    }

    /// Hands the gathered publications out. For a member whose output is empty, the usual case, `send` sends them without a
    /// copy.
    pub(crate) fn send_out(&mut self, mut send: impl FnMut(&Link, &[u8]) -> Option<Sent>) {
        let Core { links, topics, bounds, pool, counters, recorder, dirty, published, now, .. } = self;
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
                let limits = &bounds[link.bounds].limits;
                let outcome = if link.takes_at_once(bytes.len(), limits) { send(link, bytes) } else { None };
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
                        // The link's own send finds out again that the kernel takes no more.
                        let (outcome, what) = match outcome {
                            // A layer has taken all, and the kernel has not.
                            Sent::Blocked(all) if all == bytes.len() => {
                                sent += all;
                                (outcome, What::Blocked(all as u32))
                            }
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
