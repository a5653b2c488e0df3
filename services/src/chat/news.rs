//! The news of the room: arrivals and departures, and the time of their announcement.

use reactor::ConnectionId;

use super::nodes::{ALONE, NodeRequest, TOGETHER};
use super::room::Seat;
use super::said::Way;
use super::{Chat, Context};

/// An arrival or departure to announce.
#[derive(Debug)]
pub(super) enum News {
    /// `<name>@<address>` has arrived at connection `id`, and is heard when the arrival has been announced.
    Came { number: u64, who: String, id: ConnectionId },
    /// A member has gone. The name stays taken until the departure has been announced.
    Gone(Seat),
    /// A member of another node has arrived.
    CameElsewhere { node: Box<str>, number: u64, who: Box<str> },
    /// A member of another node has gone.
    WentElsewhere { node: Box<str>, number: u64, who: Box<str> },
    /// A text of another node.
    Text(Vec<u8>),
    /// The number of messages of other nodes that this node has not heard.
    Missed(u64),
    /// The link to the other nodes is down, or up again.
    Link { is_alone: bool },
}

impl Chat {
    /// Removes a member.
    pub(super) fn leave(&mut self, seat: &mut Option<Seat>, cx: &mut Context<'_>) {
        if let Some(seat) = seat.take() {
            self.withdraw(cx);
            self.put_out(News::Gone(seat), cx);
        }
    }

    /// Announces the first change of a turn at once, so that members who join later, on any loop, do not hear of it.
    /// Further changes of the turn are announced together in the next turn, at the cost of one send for each member. A
    /// loop with a single connection may have no next turn.
    pub(super) fn put_out(&mut self, news: News, cx: &mut Context<'_>) {
        let is_first = self.news.is_empty() && self.announced_in != cx.turn();
        if is_first || cx.serves_alone() {
            // On such a loop a guest has paid before its arrival.
            if cx.serves_alone() && matches!(news, News::Gone(_)) {
                self.room.pay(self.room.count(), cx.now());
            }
            self.announced_in = cx.turn();
            return self.announce(&news, cx);
        }
        if let News::Gone(seat) = &news {
            self.room.will_leave(seat);
        }
        self.news.push_back(news);
        cx.request_turn();
    }

    /// Gives up a seat, and its name on all nodes.
    pub(super) fn free(&mut self, seat: &Seat, cx: &mut Context<'_>) {
        self.room.leave(seat);
        if self.room.nodes().is_some() {
            self.ask_node(NodeRequest::Withdraw { number: seat.number() }, cx);
        }
    }

    pub(super) fn announce(&mut self, news: &News, cx: &mut Context<'_>) {
        self.announced += 1;
        let (text, except) = match news {
            News::Came { number, who, id } => {
                let count = self.room.announce_join(*number);
                (format!("(Connected: New client ({count}) from {who})"), *id)
            }
            News::CameElsewhere { node, number, who } => {
                let count = self.room.came_elsewhere(node, *number, who);
                (format!("(Connected: New client ({count}) from {who})"), ConnectionId::NONE)
            }
            News::WentElsewhere { node, number, who } => {
                self.room.went_elsewhere(node, *number);
                (format!("(Now hung up: Client from {who})"), ConnectionId::NONE)
            }
            News::Link { is_alone } => {
                // Before the announcement: a member that joins on another loop meanwhile may hear of it twice, and not never.
                if let Some(nodes) = self.room.nodes() {
                    nodes.set_alone(*is_alone);
                }
                (if *is_alone { ALONE } else { TOGETHER }.to_owned(), ConnectionId::NONE)
            }
            News::Text(text) => (String::from_utf8_lossy(text).into_owned(), ConnectionId::NONE),
            News::Missed(count) => (format!("(Missed: {count} messages)"), ConnectionId::NONE),
            News::Gone(seat) => {
                self.free(seat, cx);
                (format!("(Now hung up: Client from {})", seat.who()), ConnectionId::NONE)
            }
        };
        self.encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
        let deliveries = self.publish_except(except, cx);
        self.budget.spend_change(deliveries);
    }

    /// Unsubscribes a member that has left from all topics.
    pub(super) fn withdraw(&mut self, cx: &mut Context<'_>) {
        for way in Way::ALL {
            cx.unsubscribe(self.room.topic(way));
        }
    }

    /// Publishes to all members but one, encoded once for each protocol. Returns the number of members of this loop
    /// that hear the text.
    pub(super) fn publish_except(&mut self, except: ConnectionId, cx: &mut Context<'_>) -> usize {
        let mut deliveries = 0;
        for way in Way::ALL {
            if self.room.is_spoken(way) {
                deliveries += cx.publish_except(self.room.topic(way), self.encoded.of(way), except);
            }
        }
        deliveries
    }
}
