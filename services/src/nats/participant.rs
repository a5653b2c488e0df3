//! The client's interface to its user: the callbacks, the causes of ends, and posted messages.

use std::fmt;

use reactor::{Address, CloseReason};

use super::Link;
use crate::codec::nats::{Info, Message, ProtocolError};

/// The callbacks of a [`Client`](super::Client)'s user, called on the client's loop. They must not block.
///
/// ```
/// use services::nats::{Cause, Info, Link, Message, Participant};
///
/// /// Prints the news of a subject.
/// struct News;
///
/// impl Participant for News {
///     type Message = ();
///     fn started(&mut self, link: &mut Link<'_, '_, ()>) {
///         link.subscribe("news.>").expect("the subject is valid");
///     }
///     fn connected(&mut self, info: &Info, _: &mut Link<'_, '_, ()>) {
///         println!("connected to {}", info.server_name);
///     }
///     fn message(&mut self, _sid: u64, message: &Message<'_>, _: &mut Link<'_, '_, ()>) {
///         println!("{}", String::from_utf8_lossy(message.payload));
///     }
///     fn lost(&mut self, cause: &Cause, _: &mut Link<'_, '_, ()>) {
///         println!("{cause}");
///     }
/// }
/// # services::nats::Client::new(["nats://127.0.0.1:4222".parse().unwrap()], News);
/// ```
pub trait Participant: 'static {
    /// The type of messages for the participant, which any thread and handler may post: see [`Posted`].
    type Message: Send + 'static;

    /// The client starts, and connects next: time for subscriptions and timers. Does nothing by default.
    fn started(&mut self, link: &mut Link<'_, '_, Self::Message>) {
        let _ = link;
    }

    /// The client is connected, and the subscriptions are made anew.
    fn connected(&mut self, info: &Info, link: &mut Link<'_, '_, Self::Message>);

    /// The connection is lost. The client connects again by itself.
    fn lost(&mut self, cause: &Cause, link: &mut Link<'_, '_, Self::Message>);

    /// A message has arrived for subscription `sid`.
    fn message(&mut self, sid: u64, message: &Message<'_>, link: &mut Link<'_, '_, Self::Message>);

    /// An attempt to connect has failed; [`Link::failures`] counts them. The next attempt follows. Does nothing by default.
    fn failed(&mut self, cause: &Cause, link: &mut Link<'_, '_, Self::Message>) {
        let _ = (cause, link);
    }

    /// The server has refused something, such as a subject without permission. The text is the server's, in visible characters.
    /// Some refusals end the connection, and are then the cause of the loss, too. Does nothing by default.
    fn refused(&mut self, text: &str, link: &mut Link<'_, '_, Self::Message>) {
        let _ = (text, link);
    }

    /// The outcome of the request with this key: see [`Link::request`]. Does nothing by default.
    fn answered(&mut self, key: u64, answer: Result<&Message<'_>, NoAnswer>, link: &mut Link<'_, '_, Self::Message>) {
        let _ = (key, answer, link);
    }

    /// After [`Sent::AboveHighWater`](super::Sent::AboveHighWater): most of the waiting bytes have left. Does nothing by default.
    fn drained(&mut self, link: &mut Link<'_, '_, Self::Message>) {
        let _ = link;
    }

    /// The timer `key` went off: see [`Link::set_timer`]. Does nothing by default.
    fn timer(&mut self, key: u64, link: &mut Link<'_, '_, Self::Message>) {
        let _ = (key, link);
    }

    /// A message was posted. Does nothing by default.
    fn posted(&mut self, message: Self::Message, link: &mut Link<'_, '_, Self::Message>) {
        let _ = (message, link);
    }

    /// The application stops, and the connection closes when all waiting bytes have left: time for last messages. Called only
    /// while the client is connected. Does nothing by default.
    fn stopping(&mut self, link: &mut Link<'_, '_, Self::Message>) {
        let _ = link;
    }
}

/// A message for the participant, posted by [`ServiceHandle::post`](reactor::ServiceHandle::post) to
/// [`ConnectionId::NONE`](reactor::ConnectionId::NONE).
///
/// ```
/// use reactor::{ConnectionId, ServiceHandle};
/// use services::nats::Posted;
/// fn say(text: String, client: &ServiceHandle<Posted<String>>) {
///     let _ = client.post(ConnectionId::NONE, Posted::new(text)); // fails if the client's mailbox is full
/// }
/// ```
pub struct Posted<M>(pub(super) Content<M>);

/// The content of a posted message: the user's, or the result of the look-up of a host and a port.
pub(super) enum Content<M> {
    Message(M),
    Found((String, u16), Result<Vec<Address>, String>),
}

impl<M> Posted<M> {
    /// Wraps a message for the participant, as threads and other handlers post it.
    pub fn new(message: M) -> Self {
        Posted(Content::Message(message))
    }

    /// The message, in the hands of the sender that could not post it.
    pub(crate) fn into_message(self) -> Option<M> {
        match self.0 {
            Content::Message(message) => Some(message),
            Content::Found(..) => None,
        }
    }
}

impl<M> fmt::Debug for Posted<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Posted").finish_non_exhaustive()
    }
}

/// The cause of a failed attempt or of a lost connection. Has no secret.
///
/// ```
/// use services::nats::Cause;
/// assert_eq!(Cause::Refused("Authorization Violation".into()).to_string(), "the server says: Authorization Violation");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The server's last text, such as `Authorization Violation`.
    Refused(String),
    /// The connection was not established, has ended, or was reset.
    Ended(CloseReason),
    /// No byte of the server for [`AWAY_AFTER`](super::AWAY_AFTER).
    Silent,
    /// The attempt was not successful within [`ATTEMPT_MAX`](super::ATTEMPT_MAX).
    TooSlow,
    /// The server's bytes are not the protocol, or pass a limit.
    Protocol(ProtocolError),
    /// The TLS handshake failed, or only one side speaks TLS.
    Tls(String),
    /// The host's name was not found.
    Unresolved(String),
    /// The server is going to stop, and has asked its clients to leave.
    LameDuck,
    /// The participant has called [`Link::reconnect`](super::Link::reconnect).
    Requested,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Refused(text) => write!(f, "the server says: {text}"),
            Cause::Ended(CloseReason::PeerEnded) => f.write_str("the server has hung up"),
            Cause::Ended(CloseReason::ConnectFailed(errno) | CloseReason::Failed(errno)) => errno.fmt(f),
            Cause::Ended(reason) => reason.fmt(f),
            Cause::Silent => write!(f, "no sign of the server for {} seconds", super::AWAY_AFTER.as_secs()),
            Cause::TooSlow => write!(f, "not connected within {} ms", super::ATTEMPT_MAX.as_millis()),
            Cause::Protocol(error) => error.fmt(f),
            Cause::Tls(text) => write!(f, "TLS: {text}"),
            Cause::Unresolved(text) => write!(f, "the host's name was not found: {text}"),
            Cause::LameDuck => f.write_str("the server is going to stop"),
            Cause::Requested => f.write_str("the client was asked to connect again"),
        }
    }
}

/// The reason for which a request has no answer.
///
/// ```
/// use services::nats::NoAnswer;
/// assert_eq!(NoAnswer::NoResponders.to_string(), "nobody answers on this subject");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoAnswer {
    /// Nobody has subscribed to the subject (status 503). JetStream's subjects answer so where the cluster has no JetStream.
    NoResponders,
    /// The request's time is over. The request may have been carried out.
    TimedOut,
    /// The connection was lost. The request may have been carried out.
    Lost,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoAnswer::NoResponders => "nobody answers on this subject",
            NoAnswer::TimedOut => "no answer in time",
            NoAnswer::Lost => "the connection was lost before an answer",
        })
    }
}

impl std::error::Error for NoAnswer {}
