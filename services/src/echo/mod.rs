//! The echo service: returns each line with `You said: ` before the line, or every byte unchanged (RFC 862), or each
//! WebSocket message.
//!
//! The service keeps no state of a peer, and allocates nothing for a request: a line is copied once, from the loop's
//! input to the loop's output.
//!
//! ```no_run
//! use reactor::{Application, Service};
//! use services::echo::{Echo, deadlines, limits};
//!
//! let mut app = Application::new()?;
//! app.add_service(Service::tcp("127.0.0.1:8800", || Echo).limits(limits()).deadlines(deadlines(None)))?;
//! app.run()?;
//! # Ok::<(), reactor::Error>(())
//! ```

mod websocket;

use std::time::Duration;

use reactor::{Context, Deadlines, Framed, Handler, Input, Limits, Written};

pub use websocket::{Client, MESSAGE_MAX, WEBSOCKET_REFUSAL, WebSocketEcho, websocket_limits};

/// Longest line in bytes, its ending not counted: more than people type, and little enough for the input of many peers.
pub const LINE_MAX: usize = 64 * 1024;

/// The bytes before the line in each answer of the line mode.
pub const SAID: &[u8] = b"You said: ";
/// The answer to a line of more than [`LINE_MAX`] bytes.
pub const TOO_LONG: &[u8] = b"ERROR: line longer than 65536 bytes\n";

/// Answers each complete line with `You said: ` and the line as received, ending included.
///
/// A last line without an ending is answered when the peer has ended its half. A line of more than [`LINE_MAX`] bytes
/// gets an error, and the connection ends.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::echo;
///
/// let mut app = Application::new()?;
/// let service = Service::tcp("127.0.0.1:8800", || echo::Echo);
/// app.add_service(service.limits(echo::limits()).deadlines(echo::deadlines(None)))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

/// [`Echo`] with a text before each answer, such as the name of the server.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::echo;
///
/// let mut app = Application::new()?;
/// let service = Service::tcp("127.0.0.1:8800", || echo::IdentifiedEcho::new("[here] "));
/// app.add_service(service.limits(echo::limits()).deadlines(echo::deadlines(None)))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct IdentifiedEcho {
    before: Vec<u8>,
}

impl IdentifiedEcho {
    /// An echo that puts `before` in front of each answer.
    pub fn new(before: impl Into<Vec<u8>>) -> Self {
        IdentifiedEcho { before: before.into() }
    }
}

/// Sends every byte back unchanged, in order.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::echo;
///
/// let mut app = Application::new()?;
/// let service = Service::tcp("127.0.0.1:8800", || echo::RawEcho);
/// app.add_service(service.limits(echo::limits()).deadlines(echo::deadlines(None)))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RawEcho;

/// Limits for echo: the reactor's defaults, whose input has room for a line of [`LINE_MAX`] bytes.
pub fn limits() -> Limits {
    Limits::default()
}

/// Deadlines for echo. A peer need not send a first request soon, because a person with `nc` thinks before typing.
/// `idle` ends connections on which no byte has moved for that time.
pub fn deadlines(idle: Option<Duration>) -> Deadlines {
    Deadlines { first_request: None, idle, ..Deadlines::default() }
}

impl Handler for Echo {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    #[inline]
    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        answer(b"", input, cx);
    }

    fn on_end_of_input(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        answer_rest(b"", input, cx);
    }
}

impl Handler for IdentifiedEcho {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    #[inline]
    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        answer(&self.before, input, cx);
    }

    fn on_end_of_input(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        answer_rest(&self.before, input, cx);
    }
}

/// Answers each complete line.
#[inline]
fn answer(before: &[u8], input: &mut Input<'_>, cx: &mut Context<'_>) {
    loop {
        match input.until_eol_within(LINE_MAX) {
            // The rest waits: the loop offers it again when the peer has read.
            Framed::Item(line) if say(before, line, cx) == Written::AboveHighWater => return,
            Framed::Item(_) => {}
            Framed::Incomplete => return,
            Framed::TooLong => return refuse(cx),
        }
    }
}

/// Answers an unended last line. All complete lines are answered, because the end of input comes after them.
fn answer_rest(before: &[u8], input: &mut Input<'_>, cx: &mut Context<'_>) {
    let rest = input.take_all();
    if rest.len() > LINE_MAX {
        return refuse(cx);
    }
    if !rest.is_empty() {
        say(before, rest, cx);
    }
    cx.close();
}

#[inline]
fn say(before: &[u8], line: &[u8], cx: &mut Context<'_>) -> Written {
    cx.encode(|answer| {
        answer.put(before);
        answer.put(SAID);
        answer.put(line);
    })
}

fn refuse(cx: &mut Context<'_>) {
    cx.write(TOO_LONG);
    cx.close();
}

impl Handler for RawEcho {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    #[inline]
    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        // Above the high-water mark the loop pauses reading, so at most one further receive is queued.
        cx.write(input.take_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_limit_and_the_input_has_room_for_the_longest_line() {
        assert_eq!(TOO_LONG, format!("ERROR: line longer than {LINE_MAX} bytes\n").as_bytes());
        assert!(limits().input >= LINE_MAX + b"\r\n".len());
    }
}
