//! A guest becomes a member: the first line with the name, the wait for a turn, the welcome.

use std::time::Duration;

use reactor::{ConnectionId, Input};

use super::guest::{FIRST_MAX, Guest, Heard, Speech};
use super::news::News;
use super::nodes::{ALONE, Granted, Nodes};
use super::room::{Joining, Seat};
use super::said::{self, End, Way};
use super::socket::SILENCE;
use super::{Chat, Context, PROMPT};
use crate::codec::TooLong;
use crate::codec::websocket::Pongs;

/// Name of a guest's input in the error for too much of it: the first line or frame, and all bytes with it.
const UNREAD: &str = "input before the name is accepted";

/// When a guest with a name may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    /// When this loop has announced the guests before: the guest is called.
    InLine,
    /// After this time, on a per-connection loop.
    After(Duration),
    /// When the other nodes have been asked for the name: the guest is called.
    Asked,
}

/// A guest that has given a name and waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) id: ConnectionId,
    /// The guest's input has ended, or its name has been read already, so a deadline calls it.
    pub(super) by_deadline: bool,
}

impl Chat {
    /// Hears a guest without a seat, up to its name. Returns whether the guest has a seat now.
    pub(super) fn meet(
        &mut self,
        guest: &mut Guest,
        input: &mut Input<'_>,
        pongs: &mut Pongs,
        cx: &mut Context<'_>,
    ) -> Result<bool, End> {
        loop {
            let text = match guest.speech.first(input, &mut self.decoders)? {
                Some(Heard::Text(text)) => text,
                Some(Heard::Refusal(refusal)) => {
                    cx.write(refusal);
                    if guest.has_refused(cx.turn()) {
                        cx.offer_again();
                        return Ok(false);
                    }
                    continue;
                }
                Some(Heard::Ping(payload)) => {
                    cx.encode(|output| pongs.answer(payload, output));
                    continue;
                }
                Some(Heard::Pong) => continue,
                None => return Ok(false),
            };
            let way = text.way;
            let joined = match text.bytes {
                [] if way != Way::Lines || std::mem::replace(&mut guest.prompted, true) => None,
                [] => {
                    self.tell(way, PROMPT, cx);
                    None
                }
                name if self.must_ask(cx.id()) => {
                    let turn = self.ask(way, name, cx)?;
                    return self.line_up(guest, turn, input.len(), cx).map(|()| false);
                }
                name => match self.turn_of(guest.waits, cx) {
                    Turn::Now => Some(self.join(way, name, cx)?),
                    later => return self.line_up(guest, later, input.len(), cx).map(|()| false),
                },
            };
            match joined {
                None => {}
                Some(Some(seat)) => guest.seat = Some(seat),
                Some(None) => return self.line_up(guest, Turn::InLine, input.len(), cx).map(|()| false),
            }
            // The item was shown before and is complete, so this cannot fail.
            let _ = guest.speech.next(input, &mut self.decoders);
            if guest.seat.is_some() {
                guest.waits = false;
                guest.news = self.announced + self.news.len() as u64;
                return Ok(true);
            }
        }
    }

    /// Joins a called guest. A deadline calls the guest if its name has been read.
    pub(super) fn meet_called(&mut self, guest: &mut Guest, cx: &mut Context<'_>) -> Result<(), End> {
        let mut nothing = Input::of(b"");
        if self.meet(guest, &mut nothing, &mut Pongs::default(), cx)? {
            // Input kept meanwhile is offered now.
            cx.resume_reading();
        }
        Ok(())
    }

    /// Joins a guest whose input ended with its name: the guest comes, and goes.
    pub(super) fn join_at_the_end(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        // A called guest joins only if this turn has room: it may have been called some turns ago.
        let is_called = guest.waits && (cx.serves_alone() || self.budget.takes_change(self.room.count()));
        guest.has_ended = true;
        if self.must_ask(cx.id()) {
            let Ok(Some(text)) = guest.speech.rest(&mut Input::of(b"")) else { return cx.close() };
            return match self.ask(text.way, text.bytes, cx) {
                Ok(turn) => self.wait(guest, turn, cx),
                Err(end) => self.end(guest, end, cx),
            };
        }
        let turn = self.turn_of(is_called, cx);
        if turn != Turn::Now {
            return self.wait(guest, turn, cx);
        }
        let Ok(Some(text)) = guest.speech.rest(&mut Input::of(b"")) else { return cx.close() };
        match self.join(text.way, text.bytes, cx) {
            Ok(Some(seat)) => {
                self.leave(&mut Some(seat), cx);
                cx.close();
            }
            Ok(None) => self.wait(guest, Turn::InLine, cx),
            Err(end) => self.end(guest, end, cx),
        }
    }

    /// When a guest with a name may join. `called`: its turn has come, and is paid for.
    fn turn_of(&mut self, called: bool, cx: &Context<'_>) -> Turn {
        if called {
            return Turn::Now;
        }
        if cx.serves_alone() {
            return match self.room.pay(self.cost_of_joining(), cx.now()) {
                Duration::ZERO => Turn::Now,
                wait => Turn::After(wait),
            };
        }
        if !self.waiting.is_empty() || !self.budget.takes_change(self.room.count()) {
            return Turn::InLine;
        }
        self.budget.spend_change(self.cost_of_joining());
        Turn::Now
    }

    /// The cost of a join in deliveries: the announcement to each member, and the history for the new member.
    pub(super) fn cost_of_joining(&self) -> usize {
        self.room.count() + self.room.recalled()
    }

    /// Makes the guest wait for its turn, unless more than [`FIRST_MAX`] bytes of input would wait, too.
    fn line_up(&mut self, guest: &mut Guest, turn: Turn, unread: usize, cx: &mut Context<'_>) -> Result<(), End> {
        let shown = match &guest.speech {
            Speech::WebSocket(socket) => socket.shown(),
            _ => 0,
        };
        if shown + unread > FIRST_MAX {
            return Err(End::TooLong(TooLong { what: UNREAD, limit: FIRST_MAX }));
        }
        self.wait(guest, turn, cx);
        Ok(())
    }

    /// Makes the guest wait. Until its turn, the guest is not read, and its time limit for a name does not run.
    fn wait(&mut self, guest: &mut Guest, turn: Turn, cx: &mut Context<'_>) {
        guest.waits = true;
        cx.pause_reading();
        if let Turn::After(wait) = turn {
            return cx.set_deadline(wait);
        }
        if turn == Turn::Asked {
            return cx.clear_deadline();
        }
        let by_deadline = guest.has_ended || matches!(guest.speech, Speech::WebSocket(_));
        self.waiting.push_back(Waiting { id: cx.id(), by_deadline });
        cx.clear_deadline();
        cx.request_turn();
    }

    /// Takes a seat for a guest with this name. Returns `None` if the name belongs to a member that has gone but is not
    /// announced yet.
    fn join(&mut self, way: Way, name: &[u8], cx: &mut Context<'_>) -> Result<Option<Seat>, End> {
        let name = std::str::from_utf8(name).map_err(|_| End::NotUtf8)?;
        let name = said::name(name, way)?;
        let address = cx.peer().map_or_else(String::new, |peer| peer.host());
        let asked = self.asked.get(&cx.id()).copied();
        if asked.is_some_and(|asked| asked.answer == Some(Granted::No)) {
            return Err(End::Taken);
        }
        let seat = match self.room.join(name, &address, way, cx.id(), asked.map(|asked| asked.number)) {
            Joining::Seated(seat) => seat,
            Joining::Soon => return Ok(None),
            Joining::Taken => return Err(End::Taken),
        };
        // From here on the seat is responsible for the name.
        self.asked.remove(&cx.id());
        match way {
            Way::WebSocket => cx.set_deadline(SILENCE),
            Way::Lines | Way::Frames => cx.clear_deadline(),
        }
        self.tell(way, &format!("CLIENT: {address}"), cx);
        let Chat { room, encoded, .. } = self;
        room.recall(|text| {
            encoded.encode(|bytes| bytes.extend_from_slice(text));
            cx.write(encoded.of(way));
        });
        cx.subscribe(self.room.topic(way));
        // The state of the latest announcement. The new member hears the next announcement like everybody.
        if self.room.nodes().is_some_and(Nodes::is_alone) {
            self.tell(way, ALONE, cx);
        }
        self.put_out(News::Came { number: seat.number(), who: seat.who().to_owned(), id: cx.id() }, cx);
        Ok(Some(seat))
    }
}
