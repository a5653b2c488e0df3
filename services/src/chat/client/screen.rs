//! The client's face outwards: the screen that it tells things, and the orders that it is given.

use std::sync::mpsc::Sender;
use std::time::Duration;

use reactor::Address;

use crate::codec::TooLong;

/// Where a member reads: a terminal, a pipe, a test. No text that it is given can drive a terminal.
pub trait Screen: 'static {
    /// A connection stands. The name goes out next.
    fn connected(&mut self, to: &Address);
    /// The name is accepted; the server knows the member by this address.
    fn welcomed(&mut self, address: &str);
    /// A message, a notice or an answer. Whether there is room for more: if not, nothing more comes until
    /// [`Order::GoOn`].
    fn hear(&mut self, text: &str) -> bool;
    /// Something that the client has to say itself.
    fn note(&mut self, note: &Note);
    /// The last thing that is told. The application stops.
    fn ended(&mut self, ending: Ending);
}

/// What the client has to say, while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A line was too long, and was not sent.
    TooLong(TooLong),
    /// Nobody is connected: a line was not sent.
    NotSent,
    /// The connection is lost, or could not be made again.
    Lost {
        /// Why.
        cause: String,
        /// Time until the next try.
        again: Duration,
    },
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it was asked to, by `/quit` or the end of the input.
    Left,
    /// The server has hung up.
    Closed,
    /// The server said why it hung up: `ERROR: …`.
    Refused(String),
    /// No connection came about, and why the last try failed.
    Unreachable(String),
    /// The connection broke.
    Lost(String),
}

/// What the client is told from elsewhere, by [`ServiceHandle::post`](reactor::ServiceHandle::post).
#[derive(Debug)]
pub enum Order {
    /// A member has typed one line, or pasted several. The sender is dropped once they have been said, and it is time
    /// for more.
    Say(String, Sender<()>),
    /// Nothing more will be typed.
    Leave,
    /// The screen has room again.
    GoOn,
    /// What has come of a look-up.
    Found(Result<Vec<Address>, String>),
}
