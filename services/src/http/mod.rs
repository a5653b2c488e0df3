//! The HTTP service: one fixed answer to every `GET`, or the files below a directory, over persistent connections (RFC
//! 9110, RFC 9112).
//!
//! ```text
//!   bytes ──codec::request──▶ head ──(codec::chunked: a body, thrown away)──▶ what is owed ──▶ answer ──▶ bytes
//!                                └──────────── most requests have none ───────┘                │
//!                             exchange                                      answers, a page ◀──┴──▶ files/
//! ```
//!
//! ```no_run
//! use reactor::{Application, Service};
//! use services::http::{Files, Http, IDLE_TIMEOUT, REFUSAL, deadlines, limits};
//!
//! let files = Files::at("public").expect("the directory exists").listing();
//! let http = Service::tcp("127.0.0.1:8802", move || Http::with_files(files.clone(), Some(IDLE_TIMEOUT)));
//! let mut app = Application::new()?;
//! app.add_service(http.limits(limits()).deadlines(deadlines()).refusal(REFUSAL))?;
//! app.run()?;
//! # Ok::<(), reactor::Error>(())
//! ```
//!
//! A frequent answer is kept ready: its date changes once a second, and each request costs one copy. Requests that
//! arrive together are answered together: the loop sends everything that one callback has written at once.

mod access_log;
mod addresses;
mod answers;
mod clock;
mod conditional;
mod exchange;
mod files;
mod ranges;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use reactor::{Bytes, CloseReason, ConnectionId, Deadlines, Handler, Input, Limits, Peer, Written};

use crate::codec::request::{Body, Head, LINE_MAX, Status};

/// The context of the service's callbacks.
type Context<'a> = reactor::Context<'a, Exchange, Fetched>;

pub use access_log::AccessLog;
pub use addresses::Addresses;
pub use exchange::Exchange;
#[cfg(feature = "fuzzing")]
pub(crate) use exchange::model;
pub use files::{Fetched, Files, Resolver};

use access_log::Asked;
use addresses::Admission;
use answers::Page;
use clock::Clock;
use exchange::{Kind, Owed, Persistence, asks_for_head};
use files::{Answered, Library, Lookahead, Response};

/// The body of the fixed answer, unless the program gives another one.
pub const BODY: &str = "Hello from Epoll Server!";

/// Default time between two requests: longer than a person takes to click, and short enough that idle connections give
/// their descriptors back.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time limit for the head of a request, from its first byte. For the first request the time starts with the
/// connection. A person who types a request takes less.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a request's body that are discarded to reach the next request. A longer body gets 413 and a closed
/// connection: a new connection costs less than reading the rest.
const BODY_MAX: u64 = 1024 * 1024;

/// Bytes of a body that must arrive in each [`REQUEST_TIMEOUT`]: the slowest modem sends as many.
const BODY_PROGRESS: u64 = 4096;

/// Bytes of an answer that leave in the first flight (RFC 6928), before the client can send anything. After a longer
/// answer, the connection is closed only when the client has read the answer.
const BRIEF_MAX: u64 = 14_600;

/// Answer to a connection over the limit, for [`Service::refusal`](reactor::Service::refusal).
pub const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: glowplug\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 24\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    503 Service Unavailable\n";
/// The body of [`REFUSAL`].
const REFUSED_BYTES: u64 = 24;

/// The handler of HTTP: every `GET` gets the fixed answer, or the file that the target names.
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
    site: Site,
    clock: Clock,
    request: Duration,
    idle: Option<Duration>,
    addresses: Option<Addresses>,
    log: Option<AccessLog>,
}

/// The content of the service.
#[derive(Debug)]
enum Site {
    Page(Page),
    Files(Box<Library>),
}

impl Http {
    /// Answers with `body`. A connection is closed when no request comes for `idle`; with `None` it stays open. A
    /// request may take no longer than `idle`, and at most 30 seconds.
    pub fn new(body: impl Into<Bytes>, idle: Option<Duration>) -> Self {
        Http::of(Site::Page(Page::new(body.into())), idle)
    }

    /// Answers with the files of a directory. `idle` is that of [`Http::new`]. Handlers of several loops get clones of one `files`.
    pub fn with_files(files: Files, idle: Option<Duration>) -> Self {
        Http::of(Site::Files(Box::new(Library::new(files))), idle)
    }

    fn of(site: Site, idle: Option<Duration>) -> Self {
        let request = idle.map_or(REQUEST_TIMEOUT, |idle| idle.min(REQUEST_TIMEOUT));
        Http { site, clock: Clock::new(), request, idle, addresses: None, log: None }
    }

    /// Limits the number of connections of each address.
    pub fn addresses(mut self, addresses: Addresses) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// Writes a line in the combined log format to `log` for each answer.
    pub fn access_log(mut self, log: AccessLog) -> Self {
        self.log = Some(log);
        self
    }
}

/// Bytes that one answer may have in memory: the listing of a directory with ten thousand long names. Files do not
/// count. The next answer waits while the output is above [`Limits::output_high`].
const ANSWER_MAX: usize = 32 * 1024 * 1024;

/// Limits for HTTP: the reactor's defaults, whose input has room for the longest head.
pub fn limits() -> Limits {
    Limits { output_max: ANSWER_MAX, ..Limits::default() }
}

/// Deadlines for HTTP: the loop times only a peer that does not read. The handler times requests and the silence
/// between requests itself, because a late request gets an answer, and silence gets a closed connection.
pub fn deadlines() -> Deadlines {
    Deadlines { first_request: None, idle: None, ..Deadlines::default() }
}

/// Whether to go on with the input. `Break` leaves the input: nothing more can be done with the bytes now, or at all.
type Flow = ControlFlow<()>;

impl Handler<Fetched> for Http {
    type Connection = Exchange;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Exchange {
        let mut exchange = Exchange::new(cx.now());
        if let (Some(addresses), Some(peer)) = (&self.addresses, cx.peer()) {
            exchange.admission = addresses.enter(peer);
        }
        match exchange.admission {
            Admission::Admitted => cx.set_deadline(self.request),
            Admission::Answered => {
                cx.write(REFUSAL);
                cx.close();
                self.note_over_limit(REFUSED_BYTES, cx);
            }
            Admission::Dropped => {
                cx.abort();
                self.note_over_limit(0, cx);
            }
        }
        exchange
    }

    fn on_refused(&mut self, peer: Peer, cx: &mut Context<'_>) {
        self.note_refused(Some(peer), REFUSED_BYTES, cx);
    }

    fn turns_away(&self) -> Option<String> {
        self.addresses.as_ref()?.turned_away()
    }

    #[inline]
    fn on_data(&mut self, exchange: &mut Exchange, input: &mut Input<'_>, cx: &mut Context<'_>) {
        let now = cx.now();
        self.clock.refresh(now);
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
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// A client that ends its input in the middle of a request may still read the refusal.
    fn on_end_of_input(&mut self, exchange: &mut Exchange, input: &mut Input<'_>, cx: &mut Context<'_>) {
        self.clock.refresh(cx.now());
        if !exchange.discards_body() && (!input.is_empty() || exchange.has_begun()) {
            return self.refuse(exchange, Status::BadRequest, first_line(input), cx);
        }
        cx.close();
    }

    /// One deadline serves two purposes. While a request is incomplete, the deadline limits the request. Otherwise the
    /// callback checks how long the connection has been silent, so a request in one piece, the usual case, never moves
    /// the deadline.
    fn on_deadline(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) {
        self.clock.refresh(cx.now());
        if exchange.waiting {
            // The disk and the helper have had as long as a request may take.
            return self.refuse(exchange, Status::ServiceUnavailable, b"", cx);
        }
        if exchange.timed {
            if !exchange.has_progressed(BODY_PROGRESS) {
                if exchange.discards_body() {
                    return cx.close();
                }
                return self.refuse(exchange, Status::RequestTimeout, b"", cx);
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
        if !exchange.owes_answer() {
            cx.close();
        }
    }

    /// A helper has finished. The waiting request is still in the input, and is offered to the handler again.
    fn on_message(
        &mut self,
        to: ConnectionId,
        exchange: Option<&mut Exchange>,
        fetched: Fetched,
        cx: &mut Context<'_>,
    ) {
        if let Site::Files(library) = &mut self.site
            && exchange.is_some()
        {
            library.arrive(to, fetched);
            cx.at(to).resume_reading();
        }
    }

    fn on_close(&mut self, exchange: Exchange, _: CloseReason, cx: &mut Context<'_>) {
        if let (Some(addresses), Some(peer)) = (&self.addresses, cx.peer()) {
            addresses.leave(peer, exchange.admission);
        }
        if let Site::Files(library) = &mut self.site {
            library.forget(cx.id());
        }
    }
}

impl Http {
    #[inline(always)]
    fn head(&mut self, exchange: &mut Exchange, input: &mut Input<'_>, cx: &mut Context<'_>) -> Flow {
        match exchange.next_head(input) {
            Ok(Some(head)) => {
                let owed = exchange.owed(&head);
                if head.body == Body::None {
                    let more = input.len() > head.raw.len();
                    let flow = self.answer(exchange, &head, owed, more, cx);
                    if !exchange.waiting {
                        input.consume(head.raw.len());
                    }
                    return flow;
                }
                self.expect_body(exchange, &head, owed, input, cx)
            }
            Ok(None) => Flow::Break(()),
            Err(status) => {
                exchange.bodiless = asks_for_head(input.as_slice());
                self.refuse(exchange, status, first_line(input), cx);
                Flow::Break(())
            }
        }
    }

    /// Handles a request with a body. A refusal does not depend on the body, so the refusal leaves at once if the body
    /// is incomplete: the client may wait for the answer before sending more. Any other answer follows the body.
    ///
    /// A client that waits for `100 Continue` and is refused gets the refusal, and the connection ends: the server
    /// cannot know whether the body will still be sent.
    #[cold]
    fn expect_body(
        &mut self,
        exchange: &mut Exchange,
        head: &Head<'_>,
        mut owed: Owed,
        input: &mut Input<'_>,
        cx: &mut Context<'_>,
    ) -> Flow {
        let is_too_long = matches!(head.body, Body::Length(length) if length > BODY_MAX);
        if let (Kind::Page, Site::Files(library), false) = (owed.kind, &mut self.site, is_too_long) {
            match library.refusal(head, cx) {
                Lookahead::Served => {}
                Lookahead::Refused(status) => owed.kind = Kind::Refusal(status),
                Lookahead::Waiting => return Self::wait(exchange, owed, cx),
            }
            exchange.waiting = false;
        }
        input.consume(head.raw.len());
        if is_too_long {
            return self.answer(exchange, head, owed.refused(Status::ContentTooLarge), true, cx);
        }
        if head.expects_continue && input.is_empty() {
            if let Kind::Refusal(status) = owed.kind {
                return self.answer(exchange, head, owed.refused(status), true, cx);
            }
            cx.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        exchange.expect(head, BODY_MAX, owed);
        self.body(exchange, input, cx)
    }

    #[cold]
    fn body(&mut self, exchange: &mut Exchange, input: &mut Input<'_>, cx: &mut Context<'_>) -> Flow {
        let last = match exchange.skip_body(input) {
            Ok(last) => last,
            // The end of the request cannot be found, and the answer has left already.
            Err(_) if exchange.discards_body() => {
                cx.close();
                return Flow::Break(());
            }
            Err(status) => {
                self.refuse(exchange, status, b"", cx);
                return Flow::Break(());
            }
        };
        match last {
            Some(last) if exchange.discards_body() => {
                exchange.finish();
                input.consume(last);
                return Flow::Continue(());
            }
            None if !exchange.is_refused_early() => return Flow::Break(()),
            _ => {}
        }
        let Some((head, owed)) = exchange.asked() else { return Flow::Break(()) };
        // The head was complete when the exchange stored it.
        let Ok(Some((head, _))) = Head::parse(&head) else { return Flow::Break(()) };
        let Some(last) = last else { return self.answer_early(exchange, &head, owed, cx) };
        let flow = self.answer(exchange, &head, owed, input.len() > last, cx);
        if !exchange.waiting {
            input.consume(last);
        }
        flow
    }

    /// Refuses a request whose body has not come as a whole. The rest is discarded if the connection goes on.
    #[cold]
    fn answer_early(&mut self, exchange: &mut Exchange, head: &Head<'_>, owed: Owed, cx: &mut Context<'_>) -> Flow {
        let (answer, status, bytes) = answers::other(owed, &self.clock);
        cx.write(answer);
        if let Some(log) = &mut self.log {
            log.note(cx.peer(), Asked::of(head), status, bytes, &self.clock);
        }
        exchange.note_answer();
        if owed.persistence == Persistence::Ended {
            cx.close();
        }
        Flow::Break(())
    }

    /// Leaves the request in the input until a helper has looked for its file.
    #[cold]
    fn wait(exchange: &mut Exchange, owed: Owed, cx: &mut Context<'_>) -> Flow {
        (exchange.waiting, exchange.bodiless) = (true, owed.bodiless);
        cx.pause_reading();
        Flow::Break(())
    }

    /// Answers a request. `more`: further bytes have arrived after the request, or will arrive.
    #[inline]
    fn answer(
        &mut self,
        exchange: &mut Exchange,
        head: &Head<'_>,
        owed: Owed,
        more: bool,
        cx: &mut Context<'_>,
    ) -> Flow {
        let Some(answered) = self.say(head, owed, cx) else { return Self::wait(exchange, owed, cx) };
        exchange.finish();
        if let Some(log) = &mut self.log {
            log.note(cx.peer(), Asked::of(head), answered.status, answered.bytes, &self.clock);
        }
        if owed.persistence == Persistence::Ended {
            // The client has said that this request is its last (RFC 9112 section 9.6). If more came nevertheless, the
            // kernel would reset the connection and a long answer would be lost.
            if !head.persistent && !more && answered.bytes <= BRIEF_MAX {
                cx.close_briefly()
            } else {
                cx.close()
            }
            return Flow::Break(());
        }
        // On `Break`, the rest is offered again when the peer has read.
        if answered.written == Written::AboveHighWater { Flow::Break(()) } else { Flow::Continue(()) }
    }

    /// Writes the answer to the request. Returns `None` if the request must wait for a helper.
    #[inline]
    fn say(&mut self, head: &Head<'_>, owed: Owed, cx: &mut Context<'_>) -> Option<Answered> {
        let (written, status, bytes) = match (owed.kind, &mut self.site) {
            (Kind::Page, Site::Page(page)) => {
                let (answer, rest) = page.at(&self.clock, owed);
                let mut written = cx.write(answer);
                if let Some(rest) = rest {
                    written = cx.write_shared(rest.clone());
                }
                (written, 200, page.bytes(owed))
            }
            (Kind::Page, Site::Files(library)) => {
                return library.answer(head, Response { cx, clock: &self.clock, owed });
            }
            _ => {
                let (answer, status, bytes) = answers::other(owed, &self.clock);
                (cx.write(answer), status, bytes)
            }
        };
        Some(Answered { written, status, bytes })
    }

    /// Logs a connection over the limit of its address.
    #[cold]
    fn note_over_limit(&mut self, bytes: u64, cx: &Context<'_>) {
        let line = self.addresses.as_ref().zip(cx.peer()).and_then(|(to, peer)| to.note_refused(peer, Instant::now()));
        if let Some(line) = line {
            log::warn!("{}: {line}", cx.service());
        }
        self.note_refused(cx.peer(), bytes, cx);
    }

    /// Logs a connection that was refused before its request was read.
    #[cold]
    fn note_refused(&mut self, peer: Option<Peer>, bytes: u64, cx: &Context<'_>) {
        self.clock.refresh(cx.now());
        if let Some(log) = &mut self.log {
            log.note(peer, Asked::default(), Status::ServiceUnavailable.code(), bytes, &self.clock);
            log.flush();
        }
    }

    /// Refuses a request and closes, because the next request cannot be found. `line` is the received part of the
    /// request line, for the log; a complete head takes its place.
    #[cold]
    fn refuse(&mut self, exchange: &Exchange, status: Status, line: &[u8], cx: &mut Context<'_>) {
        let (answer, status, bytes) = answers::other(exchange.refusal(status), &self.clock);
        cx.write(answer);
        cx.close();
        if let Some(log) = &mut self.log {
            let head = exchange.head().and_then(|head| Head::parse(head).ok().flatten());
            let asked = head.map_or(Asked { line, ..Asked::default() }, |(head, _)| Asked::of(&head));
            log.note(cx.peer(), asked, status, bytes, &self.clock);
            log.flush();
        }
    }
}

/// The first line of a request, as far as received.
fn first_line<'i>(input: &Input<'i>) -> &'i [u8] {
    let bytes = input.as_slice();
    let line = &bytes[..memchr::memchr(b'\n', bytes).unwrap_or(bytes.len()).min(LINE_MAX)];
    line.strip_suffix(b"\r").unwrap_or(line)
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
