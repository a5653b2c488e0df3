//! The participant's verbs.

use std::fmt;
use std::time::Duration;

use reactor::{ServiceHandle, Written};

use super::participant::{Cause, Posted};
use super::session::{PARTICIPANT, Phase, REQUEST, Session, Subscription};
use super::{Context, QUEUE_MAX, REQUESTS_MAX, SUBSCRIPTIONS_MAX};
use crate::codec::nats::{EncodeError, Info, Publish, Unsubscribe};

/// The client's connection to NATS, lent to each callback of a [`Participant`](super::Participant). No method blocks.
///
/// ```
/// use services::nats::{Link, NotSent, Publish, Sent};
/// /// Says a text. Returns whether the speaker may go on at once.
/// fn say(text: &str, link: &mut Link<'_, '_, ()>) -> bool {
///     let Ok(message) = Publish::new("room.lobby", text.as_bytes()) else { unreachable!() };
///     match link.publish(&message) {
///         Ok(Sent::Queued) => true,
///         Ok(Sent::AboveHighWater) => false, // go on in `drained`
///         Err(NotSent::Away) => true,        // the room goes on alone
///         Err(_) => false,
///     }
/// }
/// ```
pub struct Link<'a, 'c, M> {
    pub(super) session: &'a mut Session,
    pub(super) cx: &'a mut Context<'c, M>,
}

/// The outcome of a message that was taken.
///
/// ```
/// assert_ne!(services::nats::Sent::Queued, services::nats::Sent::AboveHighWater);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The message waits for the server.
    Queued,
    /// The message waits for the server, behind many others: time to pause until
    /// [`Participant::drained`](super::Participant::drained).
    AboveHighWater,
}

/// The reason for which a message was not taken.
///
/// ```
/// use services::nats::NotSent;
/// assert_eq!(NotSent::TooLong { limit: 1024 }.to_string(), "message longer than the server's limit of 1024 bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotSent {
    /// The client is not connected.
    Away,
    /// [`QUEUE_MAX`] bytes wait for the server, [`REQUESTS_MAX`] requests for an answer, or there are [`SUBSCRIPTIONS_MAX`]
    /// subscriptions.
    Full,
    /// The headers and the payload are longer than the server accepts.
    TooLong {
        /// The server's limit in bytes.
        limit: usize,
    },
    /// The message has headers, and the server does not know headers.
    NoHeaders,
    /// The operation cannot be written.
    Invalid(EncodeError),
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotSent::Away => f.write_str("NATS is away"),
            NotSent::Full => f.write_str("too much waits for NATS"),
            NotSent::TooLong { limit } => write!(f, "message longer than the server's limit of {limit} bytes"),
            NotSent::NoHeaders => f.write_str("the server does not know headers"),
            NotSent::Invalid(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotSent {}

impl From<EncodeError> for NotSent {
    fn from(error: EncodeError) -> Self {
        NotSent::Invalid(error)
    }
}

impl<M: Send + 'static> Link<'_, '_, M> {
    // ---- questions ---------------------------------------------------------------------------------------------------

    /// Whether the client is connected and the server has answered its first PING.
    pub fn is_up(&self) -> bool {
        self.session.phase == Phase::Up
    }

    /// The latest INFO of the server, or of the last one.
    pub fn info(&self) -> &Info {
        &self.session.info
    }

    /// The URL of the server that is, or was, tried or connected last. Has no secret.
    pub fn server(&mut self) -> String {
        self.session.server_name()
    }

    /// The number of known servers: the given servers, and further servers of their cluster.
    pub fn servers(&self) -> usize {
        self.session.servers.count()
    }

    /// The number of attempts in which every known address of every server is tried once: a name may have several addresses.
    pub fn round(&self) -> usize {
        self.session.servers.round()
    }

    /// Failed attempts since the client was connected last, or since the start.
    pub fn failures(&self) -> u64 {
        self.session.retry.failures
    }

    /// Number of bytes that are queued for the server and that the kernel has not taken.
    pub fn queued(&mut self) -> usize {
        self.cx.at(self.session.wire).queued()
    }

    /// Messages that were ignored: for subscriptions that have ended, and late answers to requests.
    pub fn ignored(&self) -> u64 {
        self.session.ignored
    }

    /// The monotonic clock: see [`Context::now`](reactor::Context::now).
    pub fn now(&self) -> Duration {
        self.cx.now()
    }

    /// Whether the application is stopping, so that the participant should finish its work.
    pub fn is_stopping(&self) -> bool {
        self.cx.is_stopping()
    }

    /// The client's own handle, by which threads and handlers post messages to the participant.
    pub fn service_handle(&self) -> ServiceHandle<Posted<M>> {
        self.cx.service_handle()
    }

    // ---- messages ----------------------------------------------------------------------------------------------------

    /// Queues a message. Messages of one client arrive in order.
    ///
    /// # Errors
    /// [`NotSent`]; then no byte was queued.
    pub fn publish(&mut self, message: &Publish<'_>) -> Result<Sent, NotSent> {
        if !self.is_up() {
            return Err(NotSent::Away);
        }
        let (limit, length) = (self.session.info.max_payload, message.length());
        if length > limit {
            return Err(NotSent::TooLong { limit });
        }
        if message.has_headers() && !self.session.info.headers {
            return Err(NotSent::NoHeaders);
        }
        let mut wire = self.cx.at(self.session.wire);
        if wire.queued() + message.encoded() > QUEUE_MAX {
            return Err(NotSent::Full);
        }
        match wire.encode(|writer| message.put(writer)) {
            Written::Queued => Ok(Sent::Queued),
            Written::AboveHighWater => Ok(Sent::AboveHighWater),
            // The connection is closing.
            Written::Refused => Err(NotSent::Away),
        }
    }

    /// Publishes a message with a subject for the answer. The outcome goes to
    /// [`Participant::answered`](super::Participant::answered) with `key`, once, at the latest after the time `within`. Of
    /// several answers the first counts. Keys need not be unique.
    ///
    /// # Errors
    /// [`NotSent`]; then `answered` is not called.
    pub fn request(&mut self, message: &Publish<'_>, within: Duration, key: u64) -> Result<Sent, NotSent> {
        if self.session.requests.len() >= REQUESTS_MAX {
            return Err(NotSent::Full);
        }
        let number = self.session.last_request + 1;
        let reply = format!("{}{number}", self.session.inbox);
        let sent = self.publish(&message.reply(&reply)?)?;
        self.session.last_request = number;
        self.session.requests.insert(number, key);
        self.cx.timers().set(REQUEST | number, within);
        Ok(sent)
    }

    // ---- subscriptions -----------------------------------------------------------------------------------------------

    /// Subscribes to a subject, which may have wildcards. Returns the number that the messages carry. The subscription holds
    /// until [`unsubscribe`](Self::unsubscribe), over all connections; while the client is away, it begins with the next one.
    ///
    /// # Errors
    /// [`NotSent::Invalid`] and [`NotSent::Full`].
    pub fn subscribe(&mut self, subject: impl AsRef<[u8]>) -> Result<u64, NotSent> {
        self.add(Subscription { subject: subject.as_ref().to_vec(), queue: None, left: None })
    }

    /// Subscribes as a member of the queue group `queue`: each message goes to a single member of the group.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_in(&mut self, subject: impl AsRef<[u8]>, queue: impl AsRef<[u8]>) -> Result<u64, NotSent> {
        let queue = Some(queue.as_ref().to_vec());
        self.add(Subscription { subject: subject.as_ref().to_vec(), queue, left: None })
    }

    fn add(&mut self, subscription: Subscription) -> Result<u64, NotSent> {
        if self.session.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(NotSent::Full);
        }
        let sid = self.session.last_sid + 1;
        let subscribe = subscription.subscribe(sid)?;
        if self.session.phase == Phase::Up {
            self.cx.at(self.session.wire).encode(|writer| subscribe.put(writer));
        }
        self.session.last_sid = sid;
        self.session.subscriptions.insert(sid, subscription);
        Ok(sid)
    }

    /// Ends a subscription. Messages under way to the client are ignored.
    pub fn unsubscribe(&mut self, sid: u64) {
        if self.session.subscriptions.remove(&sid).is_some() && self.session.phase == Phase::Up {
            self.cx.at(self.session.wire).encode(|writer| Unsubscribe { sid, after: None }.put(writer));
        }
    }

    /// A subject that nobody else knows, for a subscription of the participant's own, such as the deliveries of a JetStream
    /// consumer. Answers to requests need none.
    pub fn new_inbox(&mut self) -> String {
        self.session.new_inbox()
    }

    // ---- time and ends -----------------------------------------------------------------------------------------------

    /// Calls [`Participant::timer`](super::Participant::timer) with `key` after the time `after`. A later call with the same key
    /// replaces the timer. The highest bit of a key is ignored.
    pub fn set_timer(&mut self, key: u64, after: Duration) {
        self.cx.timers().set(key | PARTICIPANT, after);
    }

    /// Calls the timer `key` off. Returns whether the timer was set.
    pub fn cancel_timer(&mut self, key: u64) -> bool {
        self.cx.timers().cancel(key | PARTICIPANT)
    }

    /// Gives the connection up, without waiting for queued bytes. The next attempt follows.
    pub fn reconnect(&mut self) {
        self.session.give_up(Cause::Requested, self.cx);
    }

    /// Stops the whole application in order, as SIGTERM does: see [`Context::halt`](reactor::Context::halt).
    pub fn halt(&mut self) {
        self.cx.halt();
    }
}

impl<M> fmt::Debug for Link<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("phase", &self.session.phase).finish_non_exhaustive()
    }
}
