//! The part of a room that all loops share when the room is on several nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use reactor::{ConnectionId, PostError, ServiceHandle};

use super::super::Command;
use super::participant::{FromChat, NodeParticipant};
use super::probe::NodeProbe;
use crate::nats::Posted;

/// Longest name of a room or node in bytes.
const NAME_MAX: usize = 64;

/// A room on several nodes, for [`Room::with_nodes`](super::super::Room::with_nodes). A clone is a handle of one room.
///
/// First a [`probe`](Nodes::probe) looks whether NATS is there and has all that a room needs. Then comes the chat's service, and the
/// client of NATS with the [`participant`](Nodes::participant) that joins the two. Without NATS the participant begins alone, so
/// a program that is content with that leaves the probe out.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::chat::{self, Chat, Nodes, Room};
/// use services::nats::{self, Client};
///
/// let nodes = Nodes::new("lobby", "host1")?;
/// let url = "nats://127.0.0.1:4222".parse::<nats::Url>()?;
/// let (of_probe, at) = (nodes.clone(), url.clone());
/// let client = move || Client::new([at.clone()], of_probe.probe()).echo(false);
/// let mut app = Application::new()?;
/// app.add_service(Service::outbound(client).limits(nats::limits()).deadlines(nats::deadlines()))?;
/// app.run()?; // until the probe is over
/// if let Some(why) = nodes.failure() {
///     return Err(why.into());
/// }
///
/// let room = Room::default().with_nodes(nodes.clone());
/// let mut app = Application::new()?;
/// let in_room = room.clone();
/// let service = Service::tcp("127.0.0.1:8801", move || Chat::new(in_room.clone()));
/// let chat = app.add_service(service.limits(chat::limits()).deadlines(chat::deadlines(None)))?;
/// let of_node = nodes.clone();
/// let client = move || Client::new([url.clone()], of_node.participant(&chat)).echo(false);
/// let client = app.add_service(Service::outbound(client).limits(nats::limits()).deadlines(nats::deadlines()))?;
/// nodes.attach(client);
/// app.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Nodes(pub(super) Arc<Shared>);

/// `<name>@<address>` of each announced member of other nodes, by node and number.
type Others = BTreeMap<(Box<str>, u64), Box<str>>;

pub(super) struct Shared {
    pub(super) room: String,
    /// The node's name, and a random suffix for this start.
    pub(super) id: String,
    client: OnceLock<ServiceHandle<Posted<FromChat>>>,
    /// The members of this node were told last that the engine is away.
    is_alone: AtomicBool,
    /// So much waits for the engine that members who talk are not read.
    pub(super) is_full: AtomicBool,
    /// The reason for which the probe has failed.
    pub(super) failure: OnceLock<String>,
    others: Mutex<Others>,
    /// The state for reports.
    pub(super) state: Mutex<String>,
    /// Messages of members that were not sent: the link was down, or the queue was full.
    pub(super) unsent: AtomicU64,
    /// Messages of other nodes that were missed.
    pub(super) missed: AtomicU64,
}

/// The reason for which a text is no name of a room or a node.
///
/// ```
/// assert!(services::chat::Nodes::new("my room", "host").is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAName;

impl fmt::Display for NotAName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "names of rooms and nodes have 1 to {NAME_MAX} letters, digits, _ and -")
    }
}

impl std::error::Error for NotAName {}

impl Nodes {
    /// Makes a node called `node` of the room called `room`.
    ///
    /// # Errors
    /// [`NotAName`] unless each has 1 to 64 letters, digits, `_` and `-`.
    pub fn new(room: &str, node: &str) -> Result<Self, NotAName> {
        if ![room, node].into_iter().all(is_name) {
            return Err(NotAName);
        }
        // Each start makes a new node, so that no other node takes the node for the node that has just died.
        let suffix = RandomState::new().hash_one(std::process::id()) as u32;
        let shared = Shared {
            room: room.to_owned(),
            id: format!("{node}-{suffix:08x}"),
            client: OnceLock::new(),
            is_alone: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            failure: OnceLock::new(),
            others: Mutex::default(),
            state: Mutex::new("not connected yet".to_owned()),
            unsent: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        };
        Ok(Nodes(Arc::new(shared)))
    }

    /// The user of a client of NATS that looks whether a room can begin: NATS is reached, lets this node in, has JetStream, and
    /// permits the room's subjects and its bucket, which the probe creates. Then, or at the first failure, the application
    /// stops; [`failure`](Self::failure) has the outcome. The probe takes some milliseconds, at most 1 s and a pause for each server
    /// that is not reached, and 10 s for an answer that does not come.
    pub fn probe(&self) -> NodeProbe {
        NodeProbe::new(self.clone())
    }

    /// The user of the client of NATS. `chat` is the handle of the chat's service.
    pub fn participant(&self, chat: &ServiceHandle<Command>) -> NodeParticipant {
        NodeParticipant::new(self.clone(), chat.clone())
    }

    /// Sets the handle of the client's service. Call before the application runs.
    pub fn attach(&self, client: ServiceHandle<Posted<FromChat>>) {
        let _ = self.0.client.set(client);
    }

    /// The reason for which the [`probe`](Self::probe) has failed: NATS was not reached, has refused, or has no JetStream.
    pub fn failure(&self) -> Option<&str> {
        self.0.failure.get().map(String::as_str)
    }

    /// A line for an operator: the link's state, the queue, and losses.
    pub fn report(&self) -> String {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = if self.0.is_full.load(Relaxed) { ", queue full" } else { "" };
        let (unsent, missed) = (self.0.unsent.load(Relaxed), self.0.missed.load(Relaxed));
        format!("node {} of room {}: {state}{queue}, {unsent} messages unsent, {missed} missed", self.0.id, self.0.room)
    }

    // ---- for the chat ------------------------------------------------------------------------------------------------

    /// Posts to the client. Gives the message back while too many messages wait for the client's loop.
    pub(in super::super) fn post(&self, message: FromChat) -> Result<(), FromChat> {
        match self.0.client.get().map(|client| client.post(ConnectionId::NONE, Posted::new(message))) {
            Some(Err(PostError::Full(posted))) => posted.into_message().map_or(Ok(()), Err),
            // Closed: the application ends.
            _ => Ok(()),
        }
    }

    /// Whether the members of this node were told last that the engine is away.
    pub(in super::super) fn is_alone(&self) -> bool {
        self.0.is_alone.load(Relaxed)
    }

    /// The members of this node are told next whether the engine is away.
    pub(in super::super) fn set_alone(&self, is_alone: bool) {
        self.0.is_alone.store(is_alone, Relaxed);
    }

    /// Whether so much waits for the engine that members who talk are not read.
    pub(in super::super) fn is_full(&self) -> bool {
        self.0.is_full.load(Relaxed)
    }

    /// Adds an announced member of another node.
    pub(in super::super) fn came(&self, node: &str, number: u64, who: &str) {
        self.others().insert((node.into(), number), who.into());
    }

    /// Removes a member of another node.
    pub(in super::super) fn went(&self, node: &str, number: u64) {
        self.others().remove(&(node.into(), number));
    }

    /// Number of announced members of other nodes.
    pub(in super::super) fn count(&self) -> usize {
        self.others().len()
    }

    /// Calls `each` with `<name>@<address>` of each member of another node.
    pub(in super::super) fn each(&self, each: impl FnMut(&str)) {
        self.others().values().map(|who| &**who).for_each(each);
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("room", &self.0.room).field("id", &self.0.id).finish_non_exhaustive()
    }
}
