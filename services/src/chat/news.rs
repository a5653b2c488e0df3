//! The news of the room: who has come and who has gone, and when the others are told.

use reactor::ConnectionId;

use super::room::Seat;
use super::said::Way;
use super::{Chat, Context};

/// What the others are told of a member.
#[derive(Debug)]
pub(super) enum News {
    /// `<name>@<address>` has come, at this connection, and is not heard before this is told.
    Came { number: u64, who: String, id: ConnectionId },
    /// Has gone, and the name is taken until this is told.
    Gone(Seat),
}

impl Chat {
    /// A member goes.
    pub(super) fn leave(&mut self, seat: &mut Option<Seat>, cx: &mut Context<'_>) {
        if let Some(seat) = seat.take() {
            self.withdraw(cx);
            self.put_out(News::Gone(seat), cx);
        }
    }

    /// The first change of a turn is announced at once, so that nobody who joins later, on whichever loop, hears of it.
    /// Further changes of the turn are announced together in the next one, which costs one send for each member. A loop that
    /// serves one connection may have no next turn.
    pub(super) fn put_out(&mut self, news: News, cx: &mut Context<'_>) {
        let is_first = self.news.is_empty() && self.told_in != cx.turn();
        if is_first || cx.serves_alone() {
            // Who comes there has paid before.
            if cx.serves_alone() && matches!(news, News::Gone(_)) {
                self.room.pay(self.room.count(), cx.now());
            }
            self.told_in = cx.turn();
            return self.announce(&news, cx);
        }
        if let News::Gone(seat) = &news {
            self.room.will_leave(seat);
        }
        self.news.push_back(news);
        cx.request_turn();
    }

    pub(super) fn announce(&mut self, news: &News, cx: &mut Context<'_>) {
        self.told += 1;
        let (text, except) = match news {
            News::Came { number, who, id } => {
                let count = self.room.announce_join(*number);
                (format!("(Connected: New client ({count}) from {who})"), *id)
            }
            News::Gone(seat) => {
                self.room.leave(seat);
                (format!("(Now hung up: Client from {})", seat.who()), ConnectionId::NONE)
            }
        };
        self.encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
        let deliveries = self.publish_except(except, cx);
        self.budget.spend_change(deliveries);
    }

    /// A member that has left hears nothing more.
    pub(super) fn withdraw(&mut self, cx: &mut Context<'_>) {
        for way in Way::ALL {
            cx.unsubscribe(self.room.topic(way));
        }
    }

    /// To all members but one, encoded once for each way to speak. Returns the number of members of this loop that hear it.
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
