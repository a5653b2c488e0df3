//! The user of the client of NATS: carries out the actions of a [`Node`], and passes events on to the chat.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reactor::{ConnectionId, ServiceHandle};

use super::super::Command;
use super::bucket::{EXPECTED, Kind, Outcome, outcome};
use super::shared::Nodes;
use super::{Action, Answer, Event, Node, Request, TICK};
use crate::nats::{Cause, Info, Link, Message, NoAnswer, NotSent, Participant, Publish, Sent};

/// Time for an answer of the bucket.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The key of the participant's timer.
const TICKS: u64 = 0;

/// A message from the chat to the node. Only the chat makes them.
///
/// ```
/// use reactor::ServiceHandle;
/// use services::chat::{FromChat, Nodes};
/// use services::nats::Posted;
/// fn join(nodes: &Nodes, client: ServiceHandle<Posted<FromChat>>) {
///     nodes.attach(client);
/// }
/// ```
#[derive(Debug)]
pub struct FromChat(pub(in super::super) Wish);

#[derive(Debug)]
pub(in super::super) enum Wish {
    /// A guest asks for a name.
    Ask { number: u64, who: Box<str>, id: ConnectionId },
    /// A member has said a text, which is clean.
    Say { number: u64, text: Box<str> },
    /// A member has gone, or a guest that has asked.
    Withdraw { number: u64 },
}

/// A message from the node to the chat. Only the node makes them.
///
/// ```
/// use services::chat::Command;
/// fn is_an_operators(command: &Command) -> bool {
///     !matches!(command, Command::Node(_))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromNode(pub(in super::super) News);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum News {
    /// For one guest: the name is the guest's.
    Granted { is_alone: bool },
    /// For one guest: the name is taken.
    Refused,
    /// For one member: another node's member has the name.
    Close,
    /// For each loop: members who talk are read again.
    Resume,
    /// For the room.
    Room(Event),
}

/// The participant that joins a room to the room's other nodes: see [`Nodes::participant`].
///
/// ```
/// use reactor::ServiceHandle;
/// use services::chat::{Command, NodeParticipant, Nodes};
/// use services::nats::Client;
/// fn client(nodes: &Nodes, chat: &ServiceHandle<Command>) -> Client<NodeParticipant> {
///     Client::new(["nats://127.0.0.1:4222".parse().unwrap()], nodes.participant(chat)).echo(false)
/// }
/// ```
pub struct NodeParticipant {
    nodes: Nodes,
    chat: ServiceHandle<Command>,
    node: Node,
    /// The connections of guests that ask and of members.
    connections: HashMap<u64, ConnectionId>,
    /// Requests without an answer.
    kinds: HashMap<u64, Kind>,
    /// The bucket was there once, or the room has begun alone.
    has_started: bool,
    /// When the latest dropped message was logged.
    warned_at: Option<Duration>,
    /// Subjects of this room begin with this text.
    prefix: String,
}

type ThisLink<'a, 'c> = Link<'a, 'c, FromChat>;

impl NodeParticipant {
    pub(super) fn new(nodes: Nodes, chat: ServiceHandle<Command>) -> Self {
        let (node, prefix) = (Node::new(&nodes.0.id), format!("glowplug.{}.", nodes.0.room));
        let (connections, kinds) = (HashMap::new(), HashMap::new());
        NodeParticipant { nodes, chat, node, connections, kinds, has_started: false, warned_at: None, prefix }
    }

    /// Carries out what the node has decided.
    fn act(&mut self, link: &mut ThisLink<'_, '_>) {
        while let Some(action) = self.node.take() {
            match action {
                Action::Publish { to, payload } => self.publish(to.as_deref(), &payload, link),
                Action::Request { id, request } => {
                    if !self.request(id, &request, link) {
                        self.node.answered(id, Answer::Failed, link.now());
                    }
                }
                Action::Event(event) => self.event(event),
            }
        }
    }

    fn publish(&mut self, to: Option<&str>, payload: &[u8], link: &mut ThisLink<'_, '_>) {
        let subject = match to {
            None => format!("{}{}", self.prefix, self.nodes.0.id),
            Some(to) => format!("{}{}.{to}", self.prefix, self.nodes.0.id),
        };
        let sent = Publish::new(&subject, payload).map_err(NotSent::from).and_then(|message| link.publish(&message));
        match sent {
            Ok(Sent::Queued) => {}
            Ok(Sent::AboveHighWater) => self.nodes.0.is_full.store(true, Relaxed),
            Err(error) => {
                self.nodes.0.unsent.fetch_add(1, Relaxed);
                // At most once a second: members decide how many messages there are.
                if error != NotSent::Away && self.warned_at.is_none_or(|at| link.now() >= at + Duration::from_secs(1)) {
                    self.warned_at = Some(link.now());
                    log::warn!("NATS: a message of this room is dropped: {error}");
                }
            }
        }
    }

    /// Sends a request. Returns whether an answer will come.
    fn request(&mut self, id: u64, request: &Request, link: &mut ThisLink<'_, '_>) -> bool {
        let message = request.message(&self.nodes.0.room);
        let field = message.expected.as_deref().map(|expected| (EXPECTED, expected));
        let sent = Publish::new(&message.subject, message.payload.as_bytes()).and_then(|publish| match &field {
            Some(field) => publish.headers(std::slice::from_ref(field)),
            None => Ok(publish),
        });
        let sent = sent.map_err(NotSent::from).and_then(|publish| link.request(&publish, ANSWER_WITHIN, id));
        if sent.is_ok() {
            self.kinds.insert(id, request.kind());
        }
        sent.is_ok()
    }

    fn event(&mut self, event: Event) {
        // A post fails when its loop has ended, and its connection with it.
        match event {
            Event::Granted { number, is_alone } => self.post(number, News::Granted { is_alone }),
            Event::Close { number } => self.post(number, News::Close),
            Event::Refused { number } => {
                self.post(number, News::Refused);
                self.connections.remove(&number);
            }
            event => {
                match &event {
                    Event::Missed(count) => {
                        self.nodes.0.missed.fetch_add(*count, Relaxed);
                    }
                    Event::Alone => log::warn!("NATS is away: this server's room goes on alone"),
                    Event::Together => log::info!("NATS is back: the room is whole again"),
                    _ => {}
                }
                let _ = self.chat.post_to_loop(0, Command::Node(FromNode(News::Room(event))));
            }
        }
    }

    fn post(&self, number: u64, news: News) {
        if let Some(&id) = self.connections.get(&number) {
            let _ = self.chat.post(id, Command::Node(FromNode(news)));
        }
    }

    /// Stops the application, for want of NATS at the start.
    fn fail(&mut self, why: String, link: &mut ThisLink<'_, '_>) {
        let _ = self.nodes.0.failure.set(why);
        link.halt();
    }

    fn start_alone(&mut self, why: &str, link: &mut ThisLink<'_, '_>) {
        log::warn!("{why}");
        self.has_started = true;
        self.node.start_alone();
        self.act(link);
    }

    /// Handles the lack of a working engine at the start.
    fn cannot_start(&mut self, why: String, link: &mut ThisLink<'_, '_>) {
        match self.nodes.0.is_optional.load(Relaxed) {
            true => self.start_alone(&why, link),
            false => self.fail(why, link),
        }
    }

    fn set_state(&self, link: &mut ThisLink<'_, '_>) {
        let (nodes, members, ignored) = (self.node.nodes(), self.node.remote_members(), self.node.ignored());
        let state = match link.is_up() {
            true => format!("connected to {}, {} bytes queued", link.server(), link.queued()),
            false => format!("NATS is away, {} failed attempts", link.failures()),
        };
        let state = format!("{state}, {nodes} other nodes with {members} members, {ignored} messages ignored");
        *self.nodes.0.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Members who talk are read again.
    fn resume(&mut self) {
        if self.nodes.0.is_full.swap(false, Relaxed) {
            let _ = self.chat.post_to_all(Command::Node(FromNode(News::Resume)));
        }
    }
}

impl Participant for NodeParticipant {
    type Message = FromChat;

    fn started(&mut self, link: &mut ThisLink<'_, '_>) {
        let (prefix, id) = (&self.prefix, &self.nodes.0.id);
        for subject in [format!("{prefix}*"), format!("{prefix}*.{id}")] {
            if let Err(error) = link.subscribe(subject) {
                log::error!("NATS: not subscribed: {error}");
            }
        }
        link.set_timer(TICKS, TICK);
    }

    fn connected(&mut self, _: &Info, link: &mut ThisLink<'_, '_>) {
        self.node.connected(link.now());
        self.act(link);
        self.set_state(link);
    }

    fn lost(&mut self, _: &Cause, link: &mut ThisLink<'_, '_>) {
        self.kinds.clear();
        self.node.lost();
        self.act(link);
        self.resume();
        self.set_state(link);
    }

    fn failed(&mut self, cause: &Cause, link: &mut ThisLink<'_, '_>) {
        if !self.has_started && link.failures() >= link.servers() as u64 {
            let why = format!("NATS at {}: {cause}", link.server());
            self.cannot_start(why, link);
        }
        self.set_state(link);
    }

    fn refused(&mut self, text: &str, link: &mut ThisLink<'_, '_>) {
        log::warn!("NATS: {} says: {text}", link.server());
        if !self.has_started && !self.nodes.0.is_optional.load(Relaxed) {
            let why = format!("NATS at {}: the server says: {text}", link.server());
            self.fail(why, link);
        }
    }

    fn message(&mut self, _: u64, message: &Message<'_>, link: &mut ThisLink<'_, '_>) {
        let rest = message.subject.strip_prefix(self.prefix.as_bytes()).unwrap_or_default();
        let from = rest.split(|byte| *byte == b'.').next().and_then(|from| std::str::from_utf8(from).ok());
        self.node.heard(from.unwrap_or_default(), message.payload, link.now());
        self.act(link);
    }

    fn answered(&mut self, id: u64, answer: Result<&Message<'_>, NoAnswer>, link: &mut ThisLink<'_, '_>) {
        let Some(kind) = self.kinds.remove(&id) else { return };
        let outcome = match answer {
            Ok(message) => outcome(kind, message.payload),
            Err(NoAnswer::NoResponders) if kind == Kind::Create => {
                Outcome::Error("no JetStream (nats-server needs -js)".to_owned())
            }
            Err(NoAnswer::NoResponders) => Outcome::Plain(Answer::NoBucket),
            Err(_) => Outcome::Plain(Answer::Failed),
        };
        let now = link.now();
        match outcome {
            Outcome::Plain(answer) => {
                self.has_started |= kind == Kind::Create && answer == Answer::Done;
                self.node.answered(id, answer, now);
            }
            Outcome::Found { revision, value } => {
                self.node.answered(id, Answer::Found { revision, value: &value }, now);
            }
            Outcome::Error(text) => {
                let why = format!("NATS at {}: {text}", link.server());
                if kind == Kind::Create && !self.has_started {
                    self.cannot_start(why, link);
                } else {
                    log::warn!("{why}");
                }
                self.node.answered(id, Answer::Failed, now);
            }
        }
        self.act(link);
    }

    fn drained(&mut self, _: &mut ThisLink<'_, '_>) {
        self.resume();
    }

    fn timer(&mut self, _: u64, link: &mut ThisLink<'_, '_>) {
        link.set_timer(TICKS, TICK);
        self.node.tick(link.now());
        self.act(link);
        self.set_state(link);
    }

    fn posted(&mut self, FromChat(wish): FromChat, link: &mut ThisLink<'_, '_>) {
        let now = link.now();
        match wish {
            Wish::Ask { number, who, id } => {
                self.connections.insert(number, id);
                let joined = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
                self.node.ask(number, &who, joined, now);
            }
            Wish::Say { number, text } => {
                if !link.is_up() {
                    self.nodes.0.unsent.fetch_add(1, Relaxed);
                }
                self.node.say(number, &text);
            }
            Wish::Withdraw { number } => {
                self.connections.remove(&number);
                self.node.withdraw(number, now);
            }
        }
        self.act(link);
    }

    fn stopping(&mut self, link: &mut ThisLink<'_, '_>) {
        self.node.stop();
        self.act(link);
    }
}

impl std::fmt::Debug for NodeParticipant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeParticipant").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}
