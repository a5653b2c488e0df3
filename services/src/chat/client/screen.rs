//! The client's interface to its user: the screen that it writes to, and the orders that it receives.

use std::sync::mpsc::Sender;
use std::time::Duration;

use reactor::Address;

use crate::codec::TooLong;

/// The display of a member: a terminal, a pipe, a test. No text that the screen receives can control a terminal.
pub trait Screen: 'static {
    /// The client has connected. The name is sent next.
    fn connected(&mut self, to: &Address);
    /// The name is accepted. `address` is the member's address as the server sees it.
    fn welcomed(&mut self, address: &str);
    /// Shows a message, a notice or an answer. Returns whether the screen has room for more; if not, no text follows
    /// until [`Order::GoOn`].
    fn hear(&mut self, text: &str) -> bool;
    /// Shows a message of the client itself.
    fn note(&mut self, note: &Note);
    /// The last call. The application stops.
    fn ended(&mut self, ending: Ending);
}

/// A message of the client itself, while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A line was too long, and was not sent.
    TooLong(TooLong),
    /// The client is not connected: a line was not sent.
    NotSent,
    /// The connection is lost, or an attempt to reconnect has failed.
    Lost {
        /// The cause.
        cause: String,
        /// Time until the next try.
        again: Duration,
    },
}

/// The way in which the client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By request: `/quit`, or the end of the input.
    Left,
    /// The server has closed.
    Closed,
    /// The server sent `ERROR: …`, and closed.
    Refused(String),
    /// No connection was made; the cause of the last failure.
    Unreachable(String),
    /// The connection broke.
    Lost(String),
}

/// Orders for the client, by [`ServiceHandle::post`](reactor::ServiceHandle::post).
#[derive(Debug)]
pub enum Order {
    /// A member has typed one line, or pasted several. The sender is dropped when the lines have been sent, and more
    /// may follow.
    Say(String, Sender<()>),
    /// The input has ended.
    Leave,
    /// The screen has room again.
    GoOn,
    /// The result of a look-up.
    Found(Result<Vec<Address>, String>),
}
