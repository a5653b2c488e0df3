//! The user of the client of NATS: carries out the actions of a [`Node`], and passes events on to the chat.

use std::collections::{HashMap, VecDeque};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reactor::{ConnectionId, PostError, ServiceHandle};

use super::super::Command;
use super::bucket::{EXPECTED, Kind, Outcome, outcome};
use super::complaints::Complaints;
use super::creation::{Creation, Next, has_failed};
use super::shared::Nodes;
use super::{Action, Answer, Event, Node, Request, TICK};
use crate::nats::{Cause, Info, Link, Message, NoAnswer, NotSent, Participant, Publish, Sent};

/// Time for an answer of the bucket.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Pause before news are posted again to a loop that had no room.
const POST_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The complaint about a bucket that was deleted, or whose stream takes other subjects now.
const NO_BUCKET: &str =
    "nothing takes the names of this room's members: the bucket is gone, or its subjects were changed";
/// The keys of the participant's timers.
const TICKS: u64 = 0;
const POST_AGAIN: u64 = 1;

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
pub struct FromChat(pub(in super::super) NodeRequest);

#[derive(Debug)]
pub(in super::super) enum NodeRequest {
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
    Granted,
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
    /// News for the chat that its loops had no room for, in order. At most the answers to guests, and the arrivals and departures of
    /// known members: while a message waits for room, the connection to NATS is not read.
    unposted: VecDeque<(To, News)>,
    /// Members who talk are still to be told that they are read again.
    owes_resume: bool,
    creation: Creation,
    complaints: Complaints,
    /// The log says that names are checked on this node alone.
    is_without: bool,
    /// The bucket was there once, or the room has begun alone.
    has_started: bool,
    /// When the latest dropped message was logged.
    warned_at: Option<Duration>,
    /// Subjects of this room begin with this text.
    prefix: String,
}

/// The addressee of news for the chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// The guest or member at this connection.
    Guest(ConnectionId),
    /// The first loop, which announces.
    Room,
}

type ThisLink<'a, 'c> = Link<'a, 'c, FromChat>;

impl NodeParticipant {
    pub(super) fn new(nodes: Nodes, chat: ServiceHandle<Command>) -> Self {
        let (node, prefix) = (Node::new(&nodes.0.id), format!("glowplug.{}.", nodes.0.room));
        NodeParticipant {
            nodes,
            chat,
            node,
            connections: HashMap::new(),
            kinds: HashMap::new(),
            unposted: VecDeque::new(),
            owes_resume: false,
            creation: Creation::default(),
            complaints: Complaints::default(),
            is_without: false,
            has_started: false,
            warned_at: None,
            prefix,
        }
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
                Action::Event(event) => self.event(event, link),
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
        let is_sent = send(request, self.creation.replicas, &self.nodes, id, link).is_ok();
        if is_sent {
            self.kinds.insert(id, request.kind());
        }
        is_sent
    }

    fn event(&mut self, event: Event, link: &mut ThisLink<'_, '_>) {
        match event {
            Event::Granted { number, .. } => self.answer(number, News::Granted, link),
            Event::Close { number } => self.answer(number, News::Close, link),
            Event::Refused { number } => {
                self.answer(number, News::Refused, link);
                self.connections.remove(&number);
            }
            // Not by a post: a guest whose name is granted next counts these members.
            Event::IsThere { node, number, who } => self.nodes.came(&node, number, &who),
            event => {
                match &event {
                    Event::Missed(count) => {
                        self.nodes.0.missed.fetch_add(*count, Relaxed);
                    }
                    Event::Alone => log::warn!("NATS is away: this server's room goes on alone"),
                    Event::Together => log::info!("NATS is back: the room is whole again"),
                    _ => {}
                }
                self.post(To::Room, News::Room(event), link);
            }
        }
    }

    fn answer(&mut self, number: u64, news: News, link: &mut ThisLink<'_, '_>) {
        if let Some(&id) = self.connections.get(&number) {
            self.post(To::Guest(id), news, link);
        }
    }

    /// Posts news to the chat, behind all earlier news. A loop that has no room gets them later: a guest waits for its answer, and a
    /// departure that is lost would leave a member in the list for good.
    fn post(&mut self, to: To, news: News, link: &mut ThisLink<'_, '_>) {
        self.unposted.push_back((to, news));
        if self.unposted.len() == 1 {
            self.post_all(link);
        }
    }

    /// Posts the news that wait, as long as there is room.
    fn post_all(&mut self, link: &mut ThisLink<'_, '_>) {
        while let Some((to, news)) = self.unposted.pop_front() {
            let command = Command::Node(FromNode(news));
            let posted = match to {
                To::Guest(id) => self.chat.post(id, command),
                To::Room => self.chat.post_to_loop(0, command),
            };
            // Closed: the loop has ended, and its connections with it.
            if let Err(PostError::Full(Command::Node(FromNode(news)))) = posted {
                self.unposted.push_front((to, news));
                return link.set_timer(POST_AGAIN, POST_AGAIN_AFTER);
            }
        }
    }

    /// Tells the operator once that JetStream has gone, and once that it is back.
    fn tell_of_bucket(&mut self) {
        let is_without = self.node.is_without();
        if is_without == std::mem::replace(&mut self.is_without, is_without) {
            return;
        }
        match is_without {
            true => log::warn!("NATS: JetStream does not answer: names are checked on this server alone"),
            false => {
                self.complaints = Complaints::default();
                log::info!("NATS: JetStream is back: names are checked on all servers");
            }
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
    fn resume(&mut self, link: &mut ThisLink<'_, '_>) {
        self.owes_resume |= self.nodes.0.is_full.swap(false, Relaxed);
        if std::mem::take(&mut self.owes_resume)
            && let Err(missed) = self.chat.post_to_all(Command::Node(FromNode(News::Resume)))
            && missed.iter().any(|(_, error)| matches!(error, PostError::Full(_)))
        {
            self.owes_resume = true;
            link.set_timer(POST_AGAIN, POST_AGAIN_AFTER);
        }
    }
}

impl Participant for NodeParticipant {
    type Message = FromChat;

    fn started(&mut self, link: &mut ThisLink<'_, '_>) {
        subscribe(&self.nodes, link);
        link.set_timer(TICKS, TICK);
    }

    fn connected(&mut self, info: &Info, link: &mut ThisLink<'_, '_>) {
        self.node.set_payload_max(info.max_payload);
        // Another server may have others around it.
        self.creation = Creation::default();
        self.node.connected(link.now());
        self.act(link);
        self.set_state(link);
    }

    fn lost(&mut self, _: &Cause, link: &mut ThisLink<'_, '_>) {
        self.kinds.clear();
        self.node.lost();
        self.act(link);
        self.resume(link);
        self.set_state(link);
    }

    fn failed(&mut self, cause: &Cause, link: &mut ThisLink<'_, '_>) {
        if !self.has_started && has_failed(cause, link) {
            log::warn!("NATS at {}: {cause}", link.server());
            self.has_started = true;
            self.node.start_alone();
            self.act(link);
        }
        self.set_state(link);
    }

    fn refused(&mut self, text: &str, link: &mut ThisLink<'_, '_>) {
        log::warn!("NATS: {} says: {text}", link.server());
    }

    fn message(&mut self, _: u64, message: &Message<'_>, link: &mut ThisLink<'_, '_>) {
        let rest = message.subject.strip_prefix(self.prefix.as_bytes()).unwrap_or_default();
        let from = rest.split(|byte| *byte == b'.').next().and_then(|from| std::str::from_utf8(from).ok());
        self.node.heard(from.unwrap_or_default(), message.payload, link.now());
        self.act(link);
    }

    fn answered(&mut self, id: u64, answer: Result<&Message<'_>, NoAnswer>, link: &mut ThisLink<'_, '_>) {
        let Some(kind) = self.kinds.remove(&id) else { return };
        let now = link.now();
        let outcome = match (kind, outcome_of(kind, answer)) {
            (Kind::Create, outcome) => match self.creation.next(outcome, now) {
                Next::Take(outcome) => outcome,
                Next::AskAtOnce if self.request(id, &Request::Create, link) => return,
                // The node asks again.
                Next::AskAtOnce | Next::AskLater => Outcome::Plain(Answer::Failed),
            },
            (_, outcome) => outcome,
        };
        match outcome {
            Outcome::Plain(answer) => {
                self.has_started |= kind == Kind::Create && answer == Answer::Done;
                if answer == Answer::NoBucket && kind != Kind::Create && self.complaints.is_due(NO_BUCKET, now) {
                    log::warn!("NATS at {}: {NO_BUCKET}", link.server());
                }
                self.node.answered(id, answer, now);
            }
            Outcome::Found { revision, value } => {
                self.node.answered(id, Answer::Found { revision, value: &value }, now);
            }
            Outcome::Error(text) | Outcome::TooFewServers(text) => {
                if self.complaints.is_due(&text, now) {
                    log::warn!("NATS at {}: {text}", link.server());
                }
                self.has_started |= kind == Kind::Create;
                let answer = if kind == Kind::Create { Answer::NoBucket } else { Answer::Failed };
                self.node.answered(id, answer, now);
            }
        }
        self.act(link);
    }

    fn drained(&mut self, link: &mut ThisLink<'_, '_>) {
        self.resume(link);
    }

    fn timer(&mut self, key: u64, link: &mut ThisLink<'_, '_>) {
        if key == POST_AGAIN {
            self.post_all(link);
            return self.resume(link);
        }
        link.set_timer(TICKS, TICK);
        self.node.tick(link.now());
        self.act(link);
        if link.is_up() {
            self.tell_of_bucket();
        }
        self.set_state(link);
    }

    fn posted(&mut self, FromChat(node_request): FromChat, link: &mut ThisLink<'_, '_>) {
        let now = link.now();
        match node_request {
            NodeRequest::Ask { number, who, id } => {
                self.connections.insert(number, id);
                let joined = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
                self.node.ask(number, &who, joined, now);
            }
            NodeRequest::Say { number, text } => {
                if !link.is_up() {
                    self.nodes.0.unsent.fetch_add(1, Relaxed);
                }
                self.node.say(number, &text);
            }
            NodeRequest::Withdraw { number } => {
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

/// Subscribes to the subjects of all nodes, and to those for this node alone.
pub(super) fn subscribe<M: Send + 'static>(nodes: &Nodes, link: &mut Link<'_, '_, M>) {
    let (room, id) = (&nodes.0.room, &nodes.0.id);
    for subject in [format!("glowplug.{room}.*"), format!("glowplug.{room}.*.{id}")] {
        if let Err(error) = link.subscribe(subject) {
            log::error!("NATS: not subscribed: {error}");
        }
    }
}

/// Sends a request to the room's bucket, which is made with `replicas` replicas.
pub(super) fn send<M: Send + 'static>(
    request: &Request,
    replicas: u64,
    nodes: &Nodes,
    id: u64,
    link: &mut Link<'_, '_, M>,
) -> Result<Sent, NotSent> {
    let message = request.message(&nodes.0.room, replicas);
    let field = message.expected.as_deref().map(|expected| (EXPECTED, expected));
    let publish = Publish::new(&message.subject, message.payload.as_bytes())?;
    let publish = match &field {
        Some(field) => publish.headers(std::slice::from_ref(field))?,
        None => publish,
    };
    link.request(&publish, ANSWER_WITHIN, id)
}

/// Reads the answer to a request of this kind.
pub(super) fn outcome_of(kind: Kind, answer: Result<&Message<'_>, NoAnswer>) -> Outcome {
    match answer {
        Ok(message) => outcome(kind, message.payload),
        Err(NoAnswer::NoResponders) if kind == Kind::Create => {
            Outcome::Error("no JetStream (nats-server needs -js)".to_owned())
        }
        Err(NoAnswer::NoResponders) => Outcome::Plain(Answer::NoBucket),
        Err(_) => Outcome::Plain(Answer::Failed),
    }
}

impl std::fmt::Debug for NodeParticipant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeParticipant").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}
