//! The client's interface to the user: the screen for texts, and the orders for the client.

use std::sync::mpsc::Sender;
use std::time::Duration;

use reactor::Address;

use crate::codec::TooLong;

/// The display of a member: a terminal, a pipe, a test. No text that the screen receives can control a terminal.
///
/// All calls come from the client's loop, so a screen must not block. [`Client`](super::Client) has an example.
///
/// ```
/// use services::chat::{Ending, Note, Screen};
///
/// /// Collects all texts.
/// #[derive(Default)]
/// struct Collected(Vec<String>);
///
/// impl Screen for Collected {
///     fn connected(&mut self, _: &reactor::Address) {}
///     fn welcomed(&mut self, address: &str) {
///         self.0.push(format!("you are {address}"));
///     }
///     fn hear(&mut self, text: &str) -> bool {
///         self.0.push(text.to_owned());
///         true
///     }
///     fn note(&mut self, note: &Note) {
///         self.0.push(format!("{note:?}"));
///     }
///     fn ended(&mut self, _: Ending) {}
/// }
///
/// let mut screen = Collected::default();
/// assert!(screen.hear("#ann@127.0.0.1>>hello"));
/// ```
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

/// A message of the client itself for its user, after which the client goes on.
///
/// ```
/// use services::chat::Note;
/// use std::time::Duration;
///
/// fn text(note: &Note) -> String {
///     match note {
///         Note::Lost { cause, again } => format!("{cause}; connecting again in {again:?}"),
///         Note::NotSent => "not connected: the line was not sent".to_owned(),
///         Note::TooLong(limit) => limit.to_string(),
///     }
/// }
/// let lost = Note::Lost { cause: "Connection refused".to_owned(), again: Duration::from_secs(2) };
/// assert_eq!(text(&lost), "Connection refused; connecting again in 2s");
/// ```
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

/// The reason for which the client ended: the argument of [`Screen::ended`].
///
/// ```
/// use services::chat::Ending;
///
/// /// The exit status of a program.
/// fn status(ending: &Ending) -> u8 {
///     u8::from(!matches!(ending, Ending::Left | Ending::Closed))
/// }
/// assert_eq!(status(&Ending::Refused("ERROR: the name is taken".to_owned())), 1);
/// ```
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

/// A message to the client, posted by [`ServiceHandle::post`](reactor::ServiceHandle::post): a typed line, the end of the
/// input, the result of a look-up.
///
/// ```
/// use reactor::{ConnectionId, ServiceHandle};
/// use services::chat::Order;
/// use std::sync::mpsc::channel;
///
/// /// For the thread of a line editor. Returns when the line has been sent.
/// fn say(line: String, client: &ServiceHandle<Order>) {
///     let (sent, wait) = channel();
///     if client.post(ConnectionId::NONE, Order::Say(line, sent)).is_ok() {
///         let _ = wait.recv(); // an error: the client has dropped the sender
///     }
/// }
/// ```
#[derive(Debug)]
pub enum Order {
    /// Lines that the member has typed or pasted. The client drops the sender when it has sent the lines: the time for
    /// further lines.
    Say(String, Sender<()>),
    /// The input has ended.
    Leave,
    /// The screen has room again.
    GoOn,
    /// The result of a look-up.
    Found(Result<Vec<Address>, String>),
}
