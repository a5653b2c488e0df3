//! The WebSocket echo: each message back as it came, for test suites.

use std::time::Duration;

use bytes::Bytes;
use reactor::{Handler, Input, Limits, Written};

use crate::codec::websocket::handshake::{self, Refusal};
use crate::codec::websocket::{self, Buffers, CloseCode, Decoder, Event, FrameHead, Kind, Pongs};

type Context<'a> = reactor::Context<'a, Client>;

/// Longest message in bytes: as long as the Autobahn test suite sends.
pub const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Time for the head of the handshake's request to arrive as a whole.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Messages of this length and longer become the answer without being copied, and then belong to the output.
const MOVED_MIN: usize = 64 * 1024;

/// The answer to a connection over the limit of connections, for [`Service::refusal`](reactor::Service::refusal).
pub const WEBSOCKET_REFUSAL: &str = Refusal::ServiceUnavailable.answer();

/// Accepts WebSocket handshakes on every path and from every origin, and answers each message, text or binary, with the
/// same message in one frame; a ping with a pong; a close with the client's own code.
///
/// A message has at most [`MESSAGE_MAX`] bytes. Memory of one connection: an unfinished message, twice its bytes while it
/// grows, and an unread answer; a peer that does not read its answers is not read from.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::echo;
///
/// let mut app = Application::new()?;
/// let service = Service::tcp("127.0.0.1:8800", echo::WebSocketEcho::default);
/// let service = service.limits(echo::websocket_limits()).deadlines(echo::deadlines(None));
/// app.add_service(service.refusal(echo::WEBSOCKET_REFUSAL))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct WebSocketEcho {
    buffers: Buffers,
}

/// Limits of the WebSocket echo: the reactor's defaults, and an output with room for one message of [`MESSAGE_MAX`]
/// bytes besides the answers below [`Limits::output_high`].
pub fn websocket_limits() -> Limits {
    Limits { output_max: MESSAGE_MAX + 1024 * 1024, ..Limits::default() }
}

/// The state of one connection of [`WebSocketEcho`]: the handshake, then the decoder of the client's frames.
///
/// ```
/// use reactor::testing::Recorded;
/// use reactor::{Handler, Input};
/// use services::echo::{Client, WebSocketEcho};
///
/// let (mut echo, mut recorded) = (WebSocketEcho::default(), Recorded::<Client>::new());
/// let peer = recorded.connection();
/// let mut client: Client = echo.on_open(&mut recorded.context(peer));
/// echo.on_data(&mut client, &mut Input::of(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"), &mut recorded.context(peer));
/// assert!(recorded.written(peer).starts_with(b"HTTP/1.1 426 "));
/// ```
#[derive(Debug)]
pub struct Client {
    /// Set by the handshake.
    decoder: Option<Decoder>,
}

impl Handler for WebSocketEcho {
    type Connection = Client;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Client {
        cx.set_deadline(HANDSHAKE_TIMEOUT);
        Client { decoder: None }
    }

    fn on_data(&mut self, client: &mut Client, input: &mut Input<'_>, cx: &mut Context<'_>) {
        let decoder = match &mut client.decoder {
            Some(decoder) => decoder,
            None => match handshake::next(input) {
                Ok(None) => return,
                Ok(Some(head)) => match handshake::accept(&head) {
                    Ok(accepted) => {
                        cx.write(accepted.answer());
                        cx.clear_deadline();
                        client.decoder.insert(Decoder::new(MESSAGE_MAX))
                    }
                    Err(refusal) => return refuse(refusal.answer_to(head.method), cx),
                },
                Err(refusal) => return refuse(refusal.answer(), cx),
            },
        };
        let (memory, mut pongs) = (decoder.memory(), Pongs::default());
        loop {
            let written = match decoder.next(input, &mut self.buffers) {
                Ok(None) => break,
                Ok(Some(Event::Text(text))) if text.len() < MOVED_MIN => {
                    cx.encode(|output| websocket::put(Kind::Text, text.as_bytes(), output))
                }
                Ok(Some(Event::Text(_))) => send_back(Kind::Text, decoder.take_message(), cx),
                Ok(Some(Event::Binary(bytes))) if bytes.len() < MOVED_MIN => {
                    cx.encode(|output| websocket::put(Kind::Binary, bytes, output))
                }
                Ok(Some(Event::Binary(_))) => send_back(Kind::Binary, decoder.take_message(), cx),
                Ok(Some(Event::Ping(payload))) => cx.encode(|output| pongs.answer(payload, output)),
                Ok(Some(Event::Pong(_))) => continue,
                Ok(Some(Event::Close(code, _))) => {
                    finish(&mut pongs, cx);
                    return close(code, "", cx);
                }
                Err(error) => {
                    if let Some(peer) = cx.peer() {
                        log::debug!("{}: closing {peer}: {error}", cx.service());
                    }
                    finish(&mut pongs, cx);
                    return close(error.code, error.reason, cx);
                }
            };
            match written {
                Written::Queued => {}
                // The rest waits until the peer has read.
                Written::AboveHighWater => break,
                // An answer that is lost would go unnoticed.
                Written::Refused => return close(CloseCode::INTERNAL_ERROR, "an answer was lost", cx),
            }
        }
        finish(&mut pongs, cx);
        if decoder.memory() != memory {
            cx.set_state_bytes(decoder.memory());
        }
    }

    /// The application is out of memory, and this connection is among the largest.
    fn on_too_slow(&mut self, client: &mut Client, cx: &mut Context<'_>) {
        match client.decoder.take() {
            Some(_) => {
                // The unfinished message does not count any more while the connection lingers.
                cx.set_state_bytes(0);
                close(CloseCode::TRY_AGAIN_LATER, "the server is out of memory", cx);
            }
            None => refuse(Refusal::ServiceUnavailable.answer(), cx),
        }
    }

    /// A client that ends its half in the middle of the request may still read the answer.
    fn on_end_of_input(&mut self, client: &mut Client, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if client.decoder.is_none() && !input.is_empty() {
            return refuse(Refusal::BadRequest.answer(), cx);
        }
        cx.close();
    }

    fn on_deadline(&mut self, _: &mut Client, cx: &mut Context<'_>) {
        refuse(Refusal::RequestTimeout.answer(), cx);
    }

    fn on_stopping(&mut self, client: &mut Client, cx: &mut Context<'_>) {
        match client.decoder {
            Some(_) => close(CloseCode::GOING_AWAY, "the server stops", cx),
            None => cx.close(),
        }
    }
}

/// Answers with a message without copying it.
fn send_back(kind: Kind, message: Vec<u8>, cx: &mut Context<'_>) -> Written {
    cx.encode(|output| {
        output.put(FrameHead::new(kind, message.len()).as_ref());
        output.put_shared(Bytes::from(message));
    })
}

fn finish(pongs: &mut Pongs, cx: &mut Context<'_>) {
    if pongs.is_unfinished() {
        cx.encode(|output| pongs.finish(output));
    }
}

/// Sends a close frame and closes. The client's own close frame, if it is still to come, is read and thrown away.
fn close(code: CloseCode, reason: &str, cx: &mut Context<'_>) {
    cx.encode(|output| websocket::put_close(code, reason, output));
    cx.close();
}

fn refuse(answer: &str, cx: &mut Context<'_>) {
    cx.write(answer);
    cx.close();
}

#[cfg(all(test, feature = "sim"))]
mod tests;
