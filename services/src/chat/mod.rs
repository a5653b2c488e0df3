//! The chat service: one room for lines, frames and, from a browser, WebSocket.
//!
//! ```no_run
//! use reactor::{Application, Service};
//! use services::chat::{Chat, Room, deadlines, limits};
//!
//! let mut app = Application::new()?;
//! let room = Room::default();
//! let chat = Service::tcp("127.0.0.1:8801", move || Chat::new(room.clone()));
//! app.add_service(chat.limits(limits()).deadlines(deadlines(None)))?;
//! app.run()?;
//! # Ok::<(), reactor::Error>(())
//! ```
//!
//! ```text
//!   bytes ──codec::{lines, frames, websocket}──▶ text ──said──▶ a message ──▶ three topics, one for each way to speak
//!     └───web: an HTTP request ──▶ the page, a handshake        └────▶ a command ──▶ room, an answer to the asker alone
//! ```
//!
//! A message is encoded once for each protocol, for any number of members, and without a lock. The [`Room`] knows the
//! members, and is asked when a member joins, leaves or asks for the list.

mod budget;
mod client;
mod console;
mod encoded;
mod guest;
mod history;
mod joining;
mod likeness;
mod limits;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
mod name;
mod news;
mod nodes;
mod refusal;
mod room;
mod said;
mod socket;
mod web;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use reactor::{CloseReason, ConnectionId, Handler, Input, Written};

use crate::codec::text::append_clean;
use crate::codec::websocket::handshake::{self, Refusal};
use crate::codec::websocket::{self, Kind, Pongs};

pub use client::{Client, Ending, Line, Note, Order, Screen, limits as client_limits};
pub use console::Console;
pub use guest::Guest;
pub use history::{HISTORY_BYTES, HISTORY_MAX};
pub use limits::{MEMBER_QUEUE, deadlines, limits, limits_for};
pub use nodes::{FromChat, FromNode, NodeParticipant, NodeProbe, Nodes, NotAName};
pub use refusal::{REFUSAL_PATIENCE, refusal};
pub use room::Room;

#[cfg(feature = "fuzzing")]
pub(crate) use nodes::check as check_nodes;

use budget::Budget;
use encoded::Encoded;
use guest::{Heard, Speech};
use joining::Waiting;
use news::News;
use nodes::{Asked, NodeRequest};
use room::Seat;
use said::{End, Said, UNKNOWN_COMMAND, Way};
use socket::{Decoders, SILENCE, Silence, Socket};
use web::Answer;

/// The context of the chat's callbacks.
type Context<'a> = reactor::Context<'a, Guest, Command>;

/// Time limit for a name: enough for a person at a keyboard, and short enough that silent guests give their descriptors
/// back.
const NAME_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to an empty line in place of a name.
const PROMPT: &str = "(Type your name)";

/// Members of the answer to `/who` that cost as much as one delivery.
const WHO_SHARE: usize = 4;

const HELP: &str = "(/who tells who is here, /quit leaves, /help tells this; // at the start of a message sends one /)";

/// Orders for the chat, by [`ServiceHandle::post`](reactor::ServiceHandle::post).
///
/// ```
/// use reactor::{ConnectionId, PostError, ServiceHandle};
/// use services::chat::Command;
/// fn send_away(chat: &ServiceHandle<Command>, member: ConnectionId) -> Result<(), PostError<Command>> {
///     chat.post(member, Command::Kick)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sends the member at this connection `ERROR: kicked`, and ends the connection.
    Kick,
    /// News of a room's other nodes: see [`Nodes`].
    Node(FromNode),
}

/// The handler of the chat room.
///
/// With several loops, each loop has a handler. All handlers share the [`Room`], so names are unique over all loops.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::chat;
///
/// let mut app = Application::new()?;
/// let room = chat::Room::default();
/// let service = Service::tcp("127.0.0.1:8801", move || chat::Chat::new(room.clone()));
/// let service = service.refusal_by(chat::REFUSAL_PATIENCE, chat::refusal);
/// app.add_service(service.limits(chat::limits()).deadlines(chat::deadlines(None)))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Debug)]
pub struct Chat {
    room: Room,
    /// The text being sent; between callbacks only the capacity matters.
    encoded: Encoded,
    budget: Budget,
    /// Arrivals and departures that are not announced yet, in order. The next turns announce them at their beginning,
    /// as many as the budget allows.
    news: VecDeque<News>,
    /// Number of news announced so far.
    announced: u64,
    /// The last turn in which news was announced at once.
    announced_in: u32,
    /// Guests that have given a name and wait for their turn. They are not read.
    waiting: VecDeque<Waiting>,
    /// Decoders for the messages of members that speak WebSocket.
    decoders: Decoders,
    /// Members that are sent away, until their deadline ends them.
    sent_away: Vec<(ConnectionId, End)>,
    /// Guests that have asked the other nodes for their names.
    asked: HashMap<ConnectionId, Asked>,
    /// Wishes for the node that its loop had no room for, in order.
    node_requests: VecDeque<NodeRequest>,
    /// Members that are not read, because too much waits for the engine of the nodes.
    paused: Vec<ConnectionId>,
}

impl Chat {
    /// Makes the handler of one loop. The handlers of all loops are made with clones of one `room`.
    pub fn new(room: Room) -> Self {
        Chat {
            room,
            encoded: Encoded::default(),
            budget: Budget::default(),
            news: VecDeque::new(),
            announced: 0,
            announced_in: 0,
            waiting: VecDeque::new(),
            decoders: Decoders::default(),
            sent_away: Vec::new(),
            asked: HashMap::new(),
            node_requests: VecDeque::new(),
            paused: Vec::new(),
        }
    }
}

impl Handler<Command> for Chat {
    type Connection = Guest;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Guest {
        cx.set_deadline(NAME_TIMEOUT);
        Guest::default()
    }

    fn on_data(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        let before = guest.speech.memory();
        self.read(guest, input, cx);
        let memory = guest.speech.memory();
        if memory != before {
            cx.set_state_bytes(memory);
        }
    }

    fn on_end_of_input(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.budget.look(cx);
        if matches!(guest.speech, Speech::Http) {
            return web::refuse(Refusal::BadRequest, cx);
        }
        let rest = guest.speech.rest(input);
        let heard = match (rest, &guest.seat) {
            // The member's arrival is announced first.
            (Ok(Some(_)), Some(_)) if guest.news > self.announced => {
                guest.has_ended = true;
                return cx.set_deadline(Duration::ZERO);
            }
            (Ok(Some(text)), Some(seat)) => self.hear(text.way, seat, text.bytes, cx).map(drop),
            (Ok(Some(_)), None) => return self.join_at_the_end(guest, cx),
            (Ok(None), _) => Ok(()),
            (Err(end), _) => Err(end),
        };
        match heard {
            Ok(()) => {
                self.leave(&mut guest.seat, cx);
                cx.close();
            }
            Err(end) => self.end(guest, end, cx),
        }
    }

    /// The notice stands in the place of the missed messages.
    fn on_missed(&mut self, guest: &mut Guest, count: u64, cx: &mut Context<'_>) {
        self.tell(guest.speech.way(), &format!("(Missed: {count} messages)"), cx);
    }

    fn on_too_slow(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        let id = cx.id();
        match (&guest.speech, cx.at(id).is_out_of_memory()) {
            (Speech::Http, _) => web::refuse(Refusal::ServiceUnavailable, cx),
            (_, true) => self.end(guest, End::OutOfMemory, cx),
            (_, false) => self.end(guest, End::TooSlow, cx),
        }
    }

    /// Announces arrivals and departures, in one send to each member, and calls waiting guests.
    fn on_turn(&mut self, cx: &mut Context<'_>) {
        self.budget.look(cx);
        while self.budget.takes_change(self.room.count())
            && let Some(news) = self.news.pop_front()
        {
            self.announce(&news, cx);
        }
        while self.budget.takes_change(self.room.count())
            && let Some(Waiting { id, by_deadline }) = self.waiting.pop_front()
        {
            if cx.at(id).peer().is_none() {
                continue;
            }
            self.budget.spend_change(self.cost_of_joining());
            match by_deadline {
                true => cx.at(id).set_deadline(Duration::ZERO),
                false => cx.at(id).resume_reading(),
            }
        }
        if !(self.news.is_empty() && self.waiting.is_empty()) {
            cx.request_turn();
        }
    }

    /// A member has a deadline if it is kicked, if its last words wait, or for the silence of WebSocket. A waiting
    /// guest has a deadline if it is called.
    fn on_deadline(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        self.budget.look(cx);
        let sent_away = self.sent_away.iter().find(|(id, _)| *id == cx.id()).map(|(_, end)| *end);
        let outcome = match (&guest.seat, &mut guest.speech) {
            (Some(_), _) if guest.has_ended => return self.on_end_of_input(guest, &mut Input::of(b""), cx),
            (Some(_), Speech::WebSocket(socket)) if sent_away.is_none() => look_for(socket, cx),
            (Some(_), _) => Err(sent_away.unwrap_or(End::Kicked)),
            (None, Speech::WebSocket(_)) if guest.waits => self.meet_called(guest, cx),
            (None, _) if guest.waits && guest.has_ended => return self.join_at_the_end(guest, cx),
            (None, _) if guest.waits => return cx.resume_reading(),
            (None, Speech::Http) => return web::refuse(Refusal::RequestTimeout, cx),
            (None, _) => Err(End::NoName(NAME_TIMEOUT)),
        };
        if let Err(end) = outcome {
            self.end(guest, end, cx);
        }
    }

    /// Wishes for the node wait for room.
    fn on_timer(&mut self, _: u64, cx: &mut Context<'_>) {
        self.post_node_requests(cx);
    }

    /// Ends a member in its own callback, after the input that has arrived.
    fn on_message(&mut self, to: ConnectionId, guest: Option<&mut Guest>, command: Command, cx: &mut Context<'_>) {
        match command {
            Command::Kick => self.send_away(to, End::Kicked, cx),
            Command::Node(FromNode(news)) => self.hear_node(to, guest, news, cx),
        }
    }

    /// All members leave now, so no departure is announced.
    fn on_stopping(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        if let Some(seat) = guest.seat.take() {
            self.free(&seat, cx);
            self.withdraw(cx);
        }
        self.end(guest, End::Stopped, cx);
    }

    /// Removes the member, whatever ended the connection, unless it was removed before.
    fn on_close(&mut self, guest: Guest, _: CloseReason, cx: &mut Context<'_>) {
        self.sent_away.retain(|(id, _)| *id != cx.id());
        self.forget_asked(cx.id(), cx);
        if let Some(seat) = guest.seat {
            // The loop has removed the connection from all topics.
            self.put_out(News::Gone(seat), cx);
        }
    }
}

impl Chat {
    /// Sends a member away, for the reason `end`.
    fn send_away(&mut self, id: ConnectionId, end: End, cx: &mut Context<'_>) {
        if cx.at(id).exists() && self.sent_away.iter().all(|(other, _)| *other != id) {
            self.sent_away.push((id, end));
            cx.at(id).set_deadline(Duration::ZERO);
        }
    }

    /// Reads what has come of a guest.
    fn read(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.budget.look(cx);
        guest.speech.listen(input);
        if matches!(guest.speech, Speech::Http) && !self.serve(guest, input, cx) {
            return;
        }
        let mut pongs = Pongs::default();
        let heard = self.hear_all(guest, input, &mut pongs, cx);
        if pongs.is_unfinished() {
            cx.encode(|output| pongs.finish(output));
        }
        if let Speech::WebSocket(socket) = &mut guest.speech {
            socket.is_heard(cx.now());
            self.decoders.take_back(socket);
        }
        if let Err(end) = heard {
            self.end(guest, end, cx);
        }
    }

    /// Hears the input of a guest, as much as the turn allows.
    fn hear_all(
        &mut self,
        guest: &mut Guest,
        input: &mut Input<'_>,
        pongs: &mut Pongs,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let is_done = guest.is_done_refusing(cx.turn());
        if !is_done && guest.seat.is_none() && !self.meet(guest, input, pongs, cx)? {
            return Ok(());
        }
        if is_done || guest.news > self.announced || !self.budget.hears(&mut guest.heard) {
            cx.offer_again();
            return Ok(());
        }
        while let Some(seat) = &guest.seat {
            let written = match guest.speech.next(input, &mut self.decoders)? {
                Some(Heard::Text(text)) => self.hear(text.way, seat, text.bytes, cx)?,
                Some(Heard::Refusal(refusal)) => {
                    let written = cx.write(refusal);
                    if guest.has_refused(cx.turn()) {
                        cx.offer_again();
                        return Ok(());
                    }
                    written
                }
                Some(Heard::Ping(payload)) => cx.encode(|output| pongs.answer(payload, output)),
                Some(Heard::Pong) => Written::Queued,
                None => return Ok(()),
            };
            if self.budget.is_spent() {
                cx.offer_again();
                return Ok(());
            }
            match written {
                // The rest is offered again when the peer has read.
                Written::AboveHighWater => return Ok(()),
                // And here when the other nodes have more room.
                _ if self.paused.last() == Some(&cx.id()) => return Ok(()),
                // Refused: the member has gone, but its earlier input is heard.
                Written::Queued | Written::Refused => {}
            }
        }
        Ok(())
    }

    /// Answers an HTTP request, when its head is complete. Returns whether the guest speaks WebSocket now.
    fn serve(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) -> bool {
        // By the first bytes, since a malformed head has no method.
        let is_head = input.as_slice().starts_with(b"HEAD ");
        let answer = match handshake::next(input) {
            Ok(None) => return false,
            Ok(Some(head)) => web::answer(&head, self.room.origins(), web::local(cx)),
            Err(refusal) => Answer::Refused(refusal),
        };
        if let Answer::Accepted(accepted) = answer {
            cx.write(accepted.answer());
            // A person has as much time for the name as on a line.
            cx.set_deadline(NAME_TIMEOUT);
            guest.speech = Speech::WebSocket(Socket::new(cx.now()));
            return true;
        }
        web::tell(&answer, is_head, cx);
        false
    }

    /// Handles one line, frame or message of a member. Returns the outcome of the answer.
    fn hear(&mut self, way: Way, member: &Seat, text: &[u8], cx: &mut Context<'_>) -> Result<Written, End> {
        let text = std::str::from_utf8(text).map_err(|_| End::NotUtf8)?;
        match said::said(text) {
            Said::Nothing => Ok(Written::Queued),
            Said::Message(text) => {
                self.encoded.encode(|bytes| {
                    bytes.extend_from_slice(member.prefix().as_bytes());
                    append_clean(text, bytes);
                });
                self.room.remember(self.encoded.text());
                let deliveries = self.publish_except(cx.id(), cx);
                self.budget.spend(deliveries, self.encoded.of(Way::Lines).len());
                if self.room.nodes().is_some() {
                    self.tell_nodes(member, cx);
                }
                Ok(Written::Queued)
            }
            Said::Who => {
                self.budget.spend(self.room.count_everywhere() / WHO_SHARE, 0);
                Ok(self.tell(way, &self.room.who(), cx))
            }
            Said::Help => Ok(self.tell(way, HELP, cx)),
            Said::Unknown => Ok(self.tell(way, UNKNOWN_COMMAND, cx)),
            Said::Quit => Err(End::Goodbye),
        }
    }

    /// Passes the encoded message of a member on to the other nodes. While too much waits for the engine, the member is not read.
    #[cold]
    fn tell_nodes(&mut self, member: &Seat, cx: &mut Context<'_>) {
        let is_full = self.room.nodes().is_some_and(Nodes::is_full);
        let text = self.encoded.text().get(member.prefix().len()..).and_then(|text| std::str::from_utf8(text).ok());
        if let Some(text) = text {
            self.ask_node(NodeRequest::Say { number: member.number(), text: text.into() }, cx);
        }
        if is_full || !self.node_requests.is_empty() {
            self.paused.push(cx.id());
            cx.pause_reading();
        }
    }

    /// Sends the guest the reason of the end, and announces the departure soon, since the connection may linger.
    fn end(&mut self, guest: &mut Guest, end: End, cx: &mut Context<'_>) {
        let way = guest.speech.way();
        if let Some(text) = end.text() {
            self.tell(way, &text, cx);
        }
        if way == Way::WebSocket {
            let (code, reason) = end.close();
            cx.encode(|output| websocket::put_close(code, reason, output));
            if let (End::Broken(_) | End::Binary | End::Silent, Some(peer)) = (end, cx.peer()) {
                log::debug!("{}: closing {peer}: {}: {reason}", cx.service(), code.number());
            }
        }
        // While the connection lingers, its memory would count with the budget, and a shortage would reset it before the last
        // words are read.
        guest.speech.give_back();
        cx.set_state_bytes(0);
        self.forget_asked(cx.id(), cx);
        self.leave(&mut guest.seat, cx);
        cx.close();
    }

    /// Sends a text to this peer alone.
    fn tell(&mut self, way: Way, text: &str, cx: &mut Context<'_>) -> Written {
        self.encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
        cx.write(self.encoded.of(way))
    }
}

/// Checks whether a member that speaks WebSocket is still there.
fn look_for(socket: &mut Socket, cx: &mut Context<'_>) -> Result<(), End> {
    match socket.look(cx.now()) {
        Silence::NotYet(left) => cx.set_deadline(left),
        Silence::Ping => {
            cx.encode(|output| websocket::put(Kind::Ping, b"", output));
            cx.set_deadline(SILENCE);
        }
        Silence::Gone => return Err(End::Silent),
    }
    Ok(())
}

#[cfg(all(test, feature = "sim"))]
mod tests;
