//! Memberships in topics, and publications to members.

use bytes::Bytes;

use super::{ConnectionRef, Context, Core};
use crate::token::ConnectionId;
use crate::topics::Topic;

impl ConnectionRef<'_> {
    /// Makes the connection a member of the topic. Whether it was none before.
    pub fn subscribe(&mut self, topic: &Topic) -> bool {
        // A new member does not get what was published before.
        self.core.hand_out();
        let id = self.id;
        let Core { links, topics, terms, dirty, .. } = &mut *self.core;
        let Some(link) = links.get_mut(id).filter(|link| link.takes_writes()) else { return false };
        link.set_member(true, &terms[link.service as usize].limits);
        if !std::mem::replace(&mut link.dirty, true) {
            dirty.push(id);
        }
        let begun = topics.subscribe(topic, id);
        if let Some(outgoing) = &self.core.outgoing {
            outgoing.note_topics(self.core.topics.bits());
        }
        begun
    }

    /// Ends the membership. Whether there was one. A connection that ends leaves all its topics by itself.
    pub fn unsubscribe(&mut self, topic: &Topic) -> bool {
        let (core, id) = (&mut *self.core, self.id);
        core.put_in_order(id);
        let was = core.topics.unsubscribe(topic, id);
        if was
            && !core.topics.is_subscribed_anywhere(id)
            && let Some(link) = core.links.get_mut(id)
        {
            link.set_member(false, &core.terms[link.service as usize].limits);
            core.mark_dirty(id);
        }
        was
    }
}

impl<C, M> Context<'_, C, M> {
    /// Makes this connection a member of the topic. Whether it was none before.
    pub fn subscribe(&mut self, topic: &Topic) -> bool {
        self.own().subscribe(topic)
    }

    /// Ends this connection's membership. Whether there was one.
    pub fn unsubscribe(&mut self, topic: &Topic) -> bool {
        self.own().unsubscribe(topic)
    }

    /// How many members the topic has on this loop.
    pub fn members(&self, topic: &Topic) -> usize {
        self.core.topics.count(topic)
    }

    /// Queues `bytes`, one message, for every member of the topic. How many they are. What a turn brings is gathered
    /// once for all of them, and leaves at its end in one send a member, however many messages it is: copied if it
    /// is short (under 4 KiB in all), shared if it is longer. Each member gets it before anything else that is
    /// done to it after this, although [`ConnectionRef::queued`] does not count it yet.
    ///
    /// A member that does not read and is owed more than [`Limits::member_queue`](crate::Limits::member_queue) is dealt
    /// with as [`Limits::slow_members`](crate::Limits::slow_members) says. While another loop has no room for what this
    /// connection publishes, nothing is read from it. What callbacks without a connection publish waits for room, too, up to
    /// 65,536 messages or 16 MiB for each loop: then the loop takes no messages ([`on_message`](crate::Handler::on_message)),
    /// and what periodic work publishes all the same does not reach the members on the loop that is behind; the log tells how
    /// many messages those were.
    pub fn publish(&mut self, topic: &Topic, bytes: impl AsRef<[u8]>) -> usize {
        self.core.publish(topic, bytes.as_ref(), None, self.id, ConnectionId::NONE)
    }

    /// Queues `bytes`, one message, for every member but this connection: see [`publish`](Self::publish).
    pub fn publish_to_others(&mut self, topic: &Topic, bytes: impl AsRef<[u8]>) -> usize {
        self.core.publish(topic, bytes.as_ref(), None, self.id, self.id)
    }

    /// Queues `bytes`, one message, for every member but `except`: see [`publish`](Self::publish). For a handler that announces
    /// later what concerns a connection of this loop.
    ///
    /// ```
    /// use reactor::{ConnectionId, Context, Topic};
    /// fn announce(newcomers: &[ConnectionId], room: &Topic, cx: &mut Context<'_>) {
    ///     for &newcomer in newcomers {
    ///         cx.publish_except(room, "somebody has come\n", newcomer);
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

    /// Delivers to the members on this loop what another process has published.
    pub(crate) fn deliver(&mut self, topic: &Topic, bytes: &Bytes) {
        self.core.deliver(topic, bytes, Some(bytes), ConnectionId::NONE);
    }

    /// Delivers what loop number `from` has published to the members on all other loops.
    pub(crate) fn relay(&mut self, topic: &Topic, bytes: &Bytes, from: u32) {
        self.core.relay(topic, bytes, self.id, from);
    }
}
