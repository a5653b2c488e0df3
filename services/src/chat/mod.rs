//! The chat service: one room, spoken to in lines or in frames.
//!
//! ```text
//!   bytes ──codec::{lines, frames}──▶ text ──said──▶ a message ──▶ two topics, one for each way to speak
//!                                             └────▶ a command ──▶ room, an answer to the asker alone
//! ```
//!
//! A message is encoded once, whatever the number of members and however they speak, and no lock is on its way: the
//! [`Room`] knows who is here, and is asked when somebody joins, leaves or wants to know.

mod budget;
mod client;
mod console;
mod guest;
mod history;
mod likeness;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
mod room;
mod said;

use std::collections::VecDeque;
use std::time::Duration;

use reactor::{CloseReason, ConnectionId, Context, Deadlines, Handler, Input, Limits, SlowPolicy, Written};

use crate::codec::frames::Encoded;
use crate::codec::text::append_clean;

pub use client::{Client, Ending, Line, Note, Order, Screen, limits as client_limits};
pub use console::Console;
pub use guest::Guest;
pub use history::{HISTORY_BYTES, HISTORY_MAX};
pub use room::Room;

use budget::Budget;
use room::Seat;
use said::{End, Said, UNKNOWN_COMMAND, Way};

/// Time to give a name: somebody at a keyboard can, and who never does holds no descriptor for long.
const NAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that a member may be owed, unless told otherwise: minutes of talk, and a thousand members who don't read cost
/// no more than a gigabyte.
pub const MEMBER_QUEUE: usize = 1024 * 1024;

/// Bytes that the kernel keeps unsent for a member: an answer at once, and little of old messages before a member that
/// missed some is told so.
const UNSENT: usize = 16 * 1024;

/// Bytes of input that may wait: the longest frame or line, and what one read brings beside it.
const INPUT_MAX: usize = 192 * 1024;

const HELP: &str = "(/who tells who is here, /quit leaves, /help tells this; // at the start of a message sends one /)";

/// What others ask of the chat, by [`ServiceHandle::post`](reactor::ServiceHandle::post).
///
/// ```
/// use reactor::{ConnectionId, PostError, ServiceHandle};
/// use services::chat::Command;
/// fn send_away(chat: &ServiceHandle<Command>, member: ConnectionId) -> Result<(), PostError<Command>> {
///     chat.post(member, Command::Kick)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The member at this connection is told `ERROR: kicked`, and its connection ends.
    Kick,
}

/// The handler of the chat room.
///
/// With several loops each has its own, and they share the [`Room`], so that names are unique over all of them.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::chat;
///
/// let mut app = Application::new()?;
/// let room = chat::Room::default();
/// let service = Service::tcp("127.0.0.1:8801", move || chat::Chat::new(room.clone()));
/// app.add_service(service.limits(chat::limits()).deadlines(chat::deadlines(None)))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Debug)]
pub struct Chat {
    room: Room,
    /// The text on its way out; empty in meaning between callbacks, kept for its capacity.
    encoded: Encoded,
    budget: Budget,
    /// What those who have gone leave to be told, once there is room for it. Until then nobody else is heard, so that
    /// the order in which things happened stays.
    untold: VecDeque<Box<[u8]>>,
}

impl Chat {
    /// A handler for this room.
    pub fn new(room: Room) -> Self {
        Chat { room, encoded: Encoded::default(), budget: Budget::default(), untold: VecDeque::new() }
    }
}

/// How much chat takes and keeps. A member that doesn't read is owed at most 1 MiB, and then disconnected.
pub fn limits() -> Limits {
    limits_for(MEMBER_QUEUE, SlowPolicy::Disconnect)
}

/// The same with another bound on what a member may be owed, and another policy.
pub fn limits_for(member_queue: usize, slow_members: SlowPolicy) -> Limits {
    let usual = Limits::default();
    // Answers come on top of the messages that wait, so a member is heard no more long before these are at their limit.
    let output_high = usual.output_high.min(member_queue / 2);
    let output_low = usual.output_low.min(output_high / 4);
    Limits { input: INPUT_MAX, output_high, output_low, member_queue, slow_members, unsent: UNSENT, ..usual }
}

/// How long chat waits. The handler itself waits 30 seconds for a name, and says so when none has come; members may
/// be silent for ever, unless `idle` says for how long.
pub fn deadlines(idle: Option<Duration>) -> Deadlines {
    Deadlines { first_request: None, idle, ..Deadlines::default() }
}

impl Handler<Command> for Chat {
    type Connection = Guest;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Guest {
        cx.set_deadline(NAME_TIMEOUT);
        Guest::default()
    }

    fn on_data(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.budget.look(cx);
        if !self.budget.hears(&mut guest.heard, !self.untold.is_empty()) {
            return cx.offer_again();
        }
        let Guest { speech, seat, .. } = guest;
        loop {
            let heard = match speech.next(input) {
                Ok(Some(text)) => self.hear(text.way, seat, text.bytes, cx),
                Ok(None) => return,
                Err(error) => Err(End::TooLong(error)),
            };
            match heard {
                Ok(_) if self.budget.is_spent() => return cx.offer_again(),
                // Then the rest is offered again once the peer has read.
                Ok(Written::AboveHighWater) => return,
                // Refused: it is gone, but what it said before it went is heard.
                Ok(Written::Queued | Written::Refused) => {}
                Err(end) => return self.end(guest, end, cx),
            }
        }
    }

    fn on_end_of_input(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        let Guest { speech, seat, .. } = guest;
        let heard = match speech.rest(input) {
            Ok(Some(text)) => self.hear(text.way, seat, text.bytes, cx),
            Ok(None) => Ok(Written::Queued),
            Err(end) => Err(end),
        };
        match heard {
            Ok(_) => {
                self.leave(seat, cx);
                cx.close();
            }
            Err(end) => self.end(guest, end, cx),
        }
    }

    /// Its place in what it reads is where the messages were.
    fn on_missed(&mut self, guest: &mut Guest, count: u64, cx: &mut Context<'_>) {
        self.tell(guest.speech.way(), &format!("(Missed: {count} messages)"), cx);
    }

    fn on_too_slow(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        self.end(guest, End::TooSlow, cx);
    }

    /// What was left to be told.
    fn on_turn(&mut self, cx: &mut Context<'_>) {
        self.budget.look(cx);
        while !self.budget.is_spent()
            && let Some(text) = self.untold.pop_front()
        {
            self.encoded.encode(|bytes| bytes.extend_from_slice(&text));
            self.deliver(cx);
        }
        if !self.untold.is_empty() {
            cx.ask_for_turn();
        }
    }

    /// A member has no deadline unless it is kicked.
    fn on_deadline(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        let end = if guest.seat.is_some() { End::Kicked } else { End::NoName(NAME_TIMEOUT) };
        self.end(guest, end, cx);
    }

    /// The member's own callback does it, since what is remembered of it is not at hand here.
    fn on_message(&mut self, to: ConnectionId, Command::Kick: Command, cx: &mut Context<'_>) {
        cx.set_deadline_id(to, Duration::ZERO);
    }

    /// All members leave now, so none is told about another.
    fn on_stopping(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        if let Some(seat) = guest.seat.take() {
            self.vacate(&seat, cx);
        }
        cx.close();
    }

    /// Whatever ended the connection, if nothing has said so yet.
    fn on_close(&mut self, mut guest: Guest, _: CloseReason, cx: &mut Context<'_>) {
        self.leave(&mut guest.seat, cx);
    }
}

impl Chat {
    /// One line or frame: a name from a guest without a seat, or what a member says. What became of the answer.
    fn hear(&mut self, way: Way, seat: &mut Option<Seat>, text: &[u8], cx: &mut Context<'_>) -> Result<Written, End> {
        let text = std::str::from_utf8(text).map_err(|_| End::NotUtf8)?;
        let Some(member) = seat.as_ref() else {
            return match said::name(text, way)? {
                Some(name) => self.join(way, seat, name, cx),
                None => Ok(Written::Queued),
            };
        };
        match said::said(text) {
            Said::Nothing => Ok(Written::Queued),
            Said::Message(text) => {
                self.encoded.encode(|bytes| {
                    bytes.extend_from_slice(member.prefix().as_bytes());
                    append_clean(text, bytes);
                });
                self.room.remember(self.encoded.text());
                self.publish_to_others(cx);
                Ok(Written::Queued)
            }
            Said::Who => Ok(self.tell(way, &self.room.who(), cx)),
            Said::Help => Ok(self.tell(way, HELP, cx)),
            Said::Unknown => Ok(self.tell(way, UNKNOWN_COMMAND, cx)),
            Said::Quit => Err(End::Goodbye),
        }
    }

    fn join(&mut self, way: Way, seat: &mut Option<Seat>, name: &str, cx: &mut Context<'_>) -> Result<Written, End> {
        let address = cx.peer().map_or_else(String::new, |peer| peer.host());
        let (taken, count) = self.room.join(name, &address, cx.id()).ok_or(End::Taken)?;
        cx.clear_deadline();
        let mut written = self.tell(way, &format!("CLIENT: {address}"), cx);
        let Chat { room, encoded, .. } = self;
        room.recall(|text| {
            encoded.encode(|bytes| bytes.extend_from_slice(text));
            written = cx.write(encoded.of(way));
        });
        cx.subscribe(match way {
            Way::Lines => self.room.lines(),
            Way::Frames => self.room.frames(),
        });
        self.announce(&format!("(Connected: New client ({count}) from {})", taken.who()), cx);
        *seat = Some(taken);
        Ok(written)
    }

    /// Tells the guest why this is the end, and the others that it is, now: the connection may linger for a while.
    fn end(&mut self, guest: &mut Guest, end: End, cx: &mut Context<'_>) {
        self.tell(guest.speech.way(), &end.to_string(), cx);
        self.leave(&mut guest.seat, cx);
        cx.close();
    }

    fn leave(&mut self, seat: &mut Option<Seat>, cx: &mut Context<'_>) {
        if let Some(seat) = seat.take() {
            self.vacate(&seat, cx);
            self.announce(&format!("(Now hung up: Client from {})", seat.who()), cx);
        }
    }

    /// Frees the name. A member that has left hears nothing more.
    fn vacate(&mut self, seat: &Seat, cx: &mut Context<'_>) {
        self.room.leave(seat);
        cx.unsubscribe(self.room.lines());
        cx.unsubscribe(self.room.frames());
    }

    /// To the peer alone.
    fn tell(&mut self, way: Way, text: &str, cx: &mut Context<'_>) -> Written {
        self.encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
        cx.write(self.encoded.of(way))
    }

    /// To all others.
    fn announce(&mut self, text: &str, cx: &mut Context<'_>) {
        self.encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
        self.publish_to_others(cx);
    }

    /// In this turn, or as soon as one has room for it: that is so only for what is said of, and by, one that goes.
    fn publish_to_others(&mut self, cx: &mut Context<'_>) {
        self.budget.look(cx);
        if self.untold.is_empty() && !self.budget.is_spent() {
            return self.deliver(cx);
        }
        self.untold.push_back(self.encoded.text().into());
        cx.ask_for_turn();
    }

    fn deliver(&mut self, cx: &mut Context<'_>) {
        let on_lines = cx.publish_to_others(self.room.lines(), self.encoded.line());
        let in_frames = cx.publish_to_others(self.room.frames(), self.encoded.frame());
        self.budget.spend(on_lines + in_frames, self.encoded.line().len());
    }
}

impl Encoded {
    fn of(&self, way: Way) -> &[u8] {
        match way {
            Way::Lines => self.line(),
            Way::Frames => self.frame(),
        }
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
