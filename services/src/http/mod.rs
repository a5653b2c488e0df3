//! The HTTP service: one fixed answer to every `GET`, over connections that are kept (RFC 9110, RFC 9112).
//!
//! ```text
//!   bytes ──codec::request──▶ head ──(codec::chunked: a body, thrown away)──▶ reply ──answers──▶ bytes
//!                                └──────────── most requests have none ────────┘
//! ```
//!
//! An answer is made ready once a second, for its date, and copied once for each request. Requests that arrive
//! together are answered together: the loop sends what one callback has written at once.

mod answers;
mod exchange;

use std::ops::ControlFlow;
use std::time::Duration;

use reactor::{Context, Deadlines, Handler, Input, Limits, Written};

use crate::codec::request::{Body, Status};

pub use exchange::Exchange;
#[cfg(feature = "fuzzing")]
pub(crate) use exchange::model;

use answers::Answers;
use exchange::{Kind, Persistence, Reply};

/// The body of the fixed answer, unless another is asked for.
pub const BODY: &str = "Hello from Epoll Server!";

/// Time between two requests, unless another is asked for: longer than a person takes to click, short enough that the
/// descriptors of those who have left come back.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for the head of a request, from its first byte; for the first request from the connection. Typing one takes
/// less.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a request's body that are thrown away to reach the next request. Whoever sends more gets 413 and a closed
/// connection: a new one costs less.
const BODY_MAX: u64 = 1024 * 1024;

/// Bytes of a body that have to come in each [`REQUEST_TIMEOUT`]: what the slowest modem sends, and more than a
/// dribble.
const BODY_PROGRESS: u64 = 4096;

/// What a newcomer over the limit of connections is told, for [`Service::refusal`](reactor::Service::refusal).
pub const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: glowplug\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 24\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    503 Service Unavailable\n";

/// The handler that gives every `GET` the same answer.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::http;
///
/// let mut app = Application::new()?;
/// let service = Service::tcp("127.0.0.1:8802", || http::Http::new(http::BODY, Some(http::IDLE_TIMEOUT)));
/// app.add_service(service.limits(http::limits()).deadlines(http::deadlines()).refusal(http::REFUSAL))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Debug)]
pub struct Http {
    answers: Answers,
    request: Duration,
    idle: Option<Duration>,
}

impl Http {
    /// Answers with `body`, and closes a connection that is `idle` for so long between two requests; `None` is for
    /// ever. A request may take no longer than that, nor than 30 seconds.
    pub fn new(body: impl AsRef<[u8]>, idle: Option<Duration>) -> Self {
        let request = idle.map_or(REQUEST_TIMEOUT, |idle| idle.min(REQUEST_TIMEOUT));
        Http { answers: Answers::new(body.as_ref()), request, idle }
    }
}

/// How much HTTP takes and keeps: the reactor's defaults, whose input has room for the longest head.
pub fn limits() -> Limits {
    Limits::default()
}

/// How long HTTP leaves it to the loop to wait: only for a peer that doesn't read. The handler times requests and the
/// silence between them itself, since a request that does not come gets an answer, and a next one that does not come
/// gets none.
pub fn deadlines() -> Deadlines {
    Deadlines { first_request: None, idle: None, ..Deadlines::default() }
}

/// Whether to go on with the input, or to leave it: nothing more can be done with it now, or at all.
type Flow = ControlFlow<()>;

impl Handler for Http {
    type Connection = Exchange;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Exchange {
        cx.set_deadline(self.request);
        Exchange::new(cx.now())
    }

    #[inline]
    fn on_data(&mut self, exchange: &mut Exchange, input: &mut Input<'_>, cx: &mut Context<'_>) {
        let now = cx.now();
        self.answers.refresh(now);
        exchange.active = now;
        while !input.is_empty() {
            let flow =
                if exchange.is_in_body() { self.body(exchange, input, cx) } else { self.head(exchange, input, cx) };
            if flow.is_break() {
                break;
            }
        }
        if exchange.is_untimed() {
            cx.set_deadline(self.request);
            exchange.timed = true;
        }
    }

    /// Whoever leaves in the middle of a request may still read what was wrong with it.
    fn on_end_of_input(&mut self, exchange: &mut Exchange, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if !input.is_empty() || exchange.has_begun() {
            return self.refuse(Reply::refusal(Status::BadRequest), cx);
        }
        cx.close();
    }

    /// One deadline stands for two. While a request is coming in, for that. Otherwise it is the time to look how long
    /// nothing has: requests that come in one piece, which is nearly all, never move it.
    fn on_deadline(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) {
        self.answers.refresh(cx.now());
        if exchange.timed {
            if !exchange.has_progressed(BODY_PROGRESS) {
                return self.refuse(Reply::refusal(Status::RequestTimeout), cx);
            }
            return cx.set_deadline(self.request);
        }
        let Some(idle) = self.idle else { return };
        if cx.queued() > 0 {
            exchange.active = cx.now();
        }
        match (exchange.active + idle).checked_sub(cx.now()) {
            None | Some(Duration::ZERO) => cx.close(),
            Some(left) => cx.set_deadline(left),
        }
    }

    fn on_stopping(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) {
        exchange.stopping = true;
        if !exchange.has_begun() {
            cx.close();
        }
    }
}

impl Http {
    #[inline]
    fn head(&mut self, exchange: &mut Exchange, input: &mut Input<'_>, cx: &mut Context<'_>) -> Flow {
        match exchange.next_head(input) {
            Ok(Some(head)) => {
                let reply = exchange.reply(&head);
                if head.body == Body::None {
                    return self.answer(exchange, reply, cx);
                }
                let is_waiting = head.expects_continue && input.is_empty();
                self.expect_body(exchange, head.body, is_waiting, reply, cx)
            }
            Ok(None) => Flow::Break(()),
            Err(status) => {
                // The answer to `HEAD` has no body, whatever else is wrong with it.
                let bodiless = input.as_slice().starts_with(b"HEAD ");
                self.refuse(Reply { bodiless, ..Reply::refusal(status) }, cx);
                Flow::Break(())
            }
        }
    }

    /// A body comes before the answer. Whoever waits for a word before sending one that is not wanted gets the answer
    /// at once, and then the connection ends: there is no telling whether the body is still going to be sent.
    #[cold]
    fn expect_body(
        &mut self,
        exchange: &mut Exchange,
        body: Body,
        is_waiting: bool,
        reply: Reply,
        cx: &mut Context<'_>,
    ) -> Flow {
        if matches!(body, Body::Length(length) if length > BODY_MAX) {
            return self.answer(exchange, reply.refused(Status::ContentTooLarge), cx);
        }
        if is_waiting {
            if let Kind::Refusal(status) = reply.kind {
                return self.answer(exchange, reply.refused(status), cx);
            }
            cx.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        exchange.expect(body, BODY_MAX, reply);
        Flow::Continue(())
    }

    #[cold]
    fn body(&mut self, exchange: &mut Exchange, input: &mut Input<'_>, cx: &mut Context<'_>) -> Flow {
        match exchange.skip_body(input) {
            Ok(Some(reply)) => self.answer(exchange, reply, cx),
            Ok(None) => Flow::Break(()),
            Err(status) => {
                self.refuse(Reply::refusal(status), cx);
                Flow::Break(())
            }
        }
    }

    #[inline]
    fn answer(&mut self, exchange: &mut Exchange, reply: Reply, cx: &mut Context<'_>) -> Flow {
        exchange.finish();
        let written = match reply.kind {
            Kind::Page => cx.write(self.answers.page(reply)),
            _ => cx.write(self.answers.other(reply)),
        };
        if reply.persistence == Persistence::Ended {
            cx.close();
            return Flow::Break(());
        }
        // Then the rest is offered again once the peer has read.
        if written == Written::AboveHighWater { Flow::Break(()) } else { Flow::Continue(()) }
    }

    /// Says what is wrong where a next request cannot be found, and closes.
    #[cold]
    fn refuse(&mut self, reply: Reply, cx: &mut Context<'_>) {
        cx.write(self.answers.other(reply));
        cx.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_a_whole_answer() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(!head.contains("\n "));
    }

    #[test]
    fn the_input_has_room_for_the_longest_head_and_for_what_comes_with_its_end() {
        assert!(limits().input >= 2 * crate::codec::request::HEAD_MAX);
    }
}
