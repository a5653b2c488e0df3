//! State of one connection between its requests and their answers. This module finds the requests and decides the kind
//! of each answer; writing and deadlines are the handler's. A request stays in the input until it is answered, since
//! the answer may wait for a file.

use std::time::Duration;

use reactor::Input;

use super::addresses::Admission;
use crate::codec::chunked::Chunked;
use crate::codec::request::{self, Body, HEAD_MAX, Head, Method, Status};

/// Empty lines before a request that are overlooked (RFC 9112 section 2.2): some clients send one after a body.
const EMPTY_LINES_MAX: u8 = 8;

/// The service's state of one connection: the request that is being read or answered. Only [`Http`](super::Http) uses the fields.
///
/// ```
/// use reactor::testing::Recorded;
/// use reactor::{Handler, Input};
/// use services::http::{BODY, Exchange, Fetched, Http};
///
/// let (mut http, mut recorded) = (Http::new(BODY, None), Recorded::<Exchange, Fetched>::new());
/// let peer = recorded.connection();
/// let mut exchange: Exchange = http.on_open(&mut recorded.context(peer));
/// let mut input = Input::of(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n");
/// http.on_data(&mut exchange, &mut input, &mut recorded.context(peer));
/// assert!(recorded.written(peer).starts_with(b"HTTP/1.1 200 OK\r\n"));
/// ```
#[derive(Debug)]
pub struct Exchange {
    /// Set in the middle of a body. Boxed, because few requests have a body and every connection has this field.
    unread: Option<Box<Unread>>,
    /// Time of the last input, by the loop's clock.
    pub(super) active: Duration,
    /// The deadline limits the request that is arriving. True from the beginning, for the first request.
    pub(super) timed: bool,
    /// A complete request waits for its file.
    pub(super) waiting: bool,
    /// The request is a `HEAD`, as far as an incomplete or waiting request shows.
    pub(super) bodiless: bool,
    /// How the connection was counted for its address.
    pub(super) admission: Admission,
    /// The application is stopping: the answer to the arriving request is the last.
    pub(super) stopping: bool,
    /// `tried`: received bytes of the head at the last parse, 0 before the first. `searched`: received bytes at the
    /// last search for the end of the head.
    tried: usize,
    searched: usize,
    empty_lines: u8,
}

/// A body that is not complete.
#[derive(Debug)]
struct Unread {
    rest: Rest,
    /// The request's answer. The answer leaves after the body, or before: see `is_answered`.
    owed: Owed,
    head: Box<[u8]>,
    /// The answer has left; the rest of the body is discarded, and the next request follows.
    is_answered: bool,
    /// `skipped`: bytes of the body received so far. `mark`: `skipped` at the last deadline.
    skipped: u64,
    mark: u64,
}

/// The part of a body that is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Length(u64),
    Chunked(Chunked),
}

/// The answer that a request is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) kind: Kind,
    /// The request is a `HEAD`: only the head of the answer is sent.
    pub(super) bodiless: bool,
    pub(super) persistence: Persistence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The page, or the file that the target names.
    Page,
    /// The list of methods.
    Options,
    Refusal(Status),
}

/// Whether the connection goes on after an answer, and how the answer says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// The connection goes on: the default of HTTP/1.1, without a field.
    Implied,
    /// The connection goes on, and a field tells the HTTP/1.0 client.
    Stated,
    /// The connection ends.
    Ended,
}

impl Owed {
    /// A refusal without a readable request: with a body, and the connection ends.
    pub(super) fn refusal(status: Status) -> Self {
        Owed { kind: Kind::Refusal(status), bodiless: false, persistence: Persistence::Ended }
    }

    /// Refuses this request, and ends the connection.
    pub(super) fn refused(self, status: Status) -> Self {
        Owed { bodiless: self.bodiless, ..Owed::refusal(status) }
    }
}

impl Exchange {
    pub(super) fn new(now: Duration) -> Self {
        Exchange {
            unread: None,
            active: now,
            timed: true,
            waiting: false,
            bodiless: false,
            admission: Admission::Admitted,
            stopping: false,
            tried: 0,
            searched: 0,
            empty_lines: 0,
        }
    }

    /// Whether part of a request has come.
    #[inline]
    pub(super) fn has_begun(&self) -> bool {
        self.tried > 0 || self.is_in_body() || self.waiting
    }

    /// Whether the next bytes belong to a body.
    #[inline]
    pub(super) fn is_in_body(&self) -> bool {
        self.unread.is_some()
    }

    /// Whether part of a request has come without an answer yet.
    pub(super) fn owes_answer(&self) -> bool {
        self.has_begun() && !self.discards_body()
    }

    /// Whether the request is answered and the rest of its body is still to come.
    pub(super) fn discards_body(&self) -> bool {
        self.unread.as_ref().is_some_and(|unread| unread.is_answered)
    }

    /// Whether part of a request has come and no deadline is set for the rest.
    #[inline]
    pub(super) fn is_untimed(&self) -> bool {
        !self.timed && self.has_begun()
    }

    /// Whether at least `bytes` of a body have come since the previous call. False for an incomplete head: a head has
    /// no second period.
    pub(super) fn has_progressed(&mut self, bytes: u64) -> bool {
        let Some(unread) = &mut self.unread else { return false };
        let since = unread.skipped - unread.mark;
        unread.mark = unread.skipped;
        since >= bytes
    }

    /// Returns the head of the next request if the head is complete. The input is not consumed.
    ///
    /// The first attempt parses at once, since nearly all heads come in one piece. After a failed attempt only the end
    /// of the head is searched, from the place where the last search stopped. The next parse happens at that end, or
    /// when the length has doubled, so errors are reported early. So each byte is examined a bounded number of times,
    /// however few bytes come at once.
    #[inline]
    pub(super) fn next_head<'i>(&mut self, input: &mut Input<'i>) -> Result<Option<Head<'i>>, Status> {
        if (self.tried > 0 || matches!(input.as_slice(), [b'\r' | b'\n', ..])) && !self.is_due(input)? {
            return Ok(None);
        }
        let unread = input.as_slice();
        let Some((head, _)) = Head::parse(unread)? else {
            (self.tried, self.searched) = (unread.len(), unread.len());
            self.bodiless = asks_for_head(unread);
            return Ok(None);
        };
        // If the head is offered again, the head is known to be complete.
        self.tried = 0;
        Ok(Some(head))
    }

    /// Whether to parse now: for a head after empty lines, or a head that came in several pieces.
    #[cold]
    fn is_due(&mut self, input: &mut Input<'_>) -> Result<bool, Status> {
        if self.tried == 0 {
            return self.overlook_empty_lines(input);
        }
        let unread = input.as_slice();
        let has_ended = request::end_of_head(unread, self.searched).is_some();
        self.searched = unread.len();
        Ok(has_ended || unread.len() >= 2 * self.tried || unread.len() > HEAD_MAX)
    }

    /// Skips empty lines where a request should begin. Returns whether other bytes follow.
    fn overlook_empty_lines(&mut self, input: &mut Input<'_>) -> Result<bool, Status> {
        loop {
            let length = match input.as_slice() {
                b"\r" | b"" => return Ok(false),
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                [b'\r', ..] => return Err(Status::BadRequest),
                _ => return Ok(true),
            };
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(Status::BadRequest);
            }
            input.consume(length);
        }
    }

    /// The answer that a request is to get, without regard to its body.
    #[inline]
    pub(super) fn owed(&self, head: &Head<'_>) -> Owed {
        let kind = match head.method {
            Method::Get | Method::Head => Kind::Page,
            Method::Options => Kind::Options,
            Method::Connect | Method::Other => Kind::Refusal(Status::MethodNotAllowed),
            Method::Unknown => Kind::Refusal(Status::NotImplemented),
        };
        // A client that asks for a tunnel may have begun to use the tunnel (RFC 9110 section 9.3.6): the next bytes are
        // no request.
        let persistent = head.persistent && !self.stopping && head.method != Method::Connect;
        let persistence = match (persistent, head.is_1_0) {
            (false, _) => Persistence::Ended,
            (true, false) => Persistence::Implied,
            (true, true) => Persistence::Stated,
        };
        Owed { kind, bodiless: head.method == Method::Head, persistence }
    }

    /// Refuses the incomplete request instead of its answer.
    pub(super) fn refusal(&self, status: Status) -> Owed {
        let bodiless = self.unread.as_ref().map_or(self.bodiless, |unread| unread.owed.bodiless);
        Owed { bodiless, ..Owed::refusal(status) }
    }

    /// Starts to receive a body of at most `max` bytes; the answer to `head` follows the body.
    pub(super) fn expect(&mut self, head: &Head<'_>, max: u64, owed: Owed) {
        let rest = match head.body {
            Body::None => Rest::Length(0),
            Body::Length(length) => Rest::Length(length),
            Body::Chunked => Rest::Chunked(Chunked::new(max)),
        };
        self.unread =
            Some(Box::new(Unread { rest, owed, head: head.raw.into(), is_answered: false, skipped: 0, mark: 0 }));
        // A body has a time limit of its own.
        self.timed = false;
    }

    /// Discards the received part of the body. The last piece stays in the input until the request is answered: returns
    /// its length once the body is complete.
    pub(super) fn skip_body(&mut self, input: &mut Input<'_>) -> Result<Option<usize>, Status> {
        let Some(unread) = &mut self.unread else { return Ok(None) };
        let bytes = input.as_slice();
        let mut rest = unread.rest;
        let (skipped, is_done) = match &mut rest {
            Rest::Length(left) => {
                let step = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= step as u64;
                (step, *left == 0)
            }
            Rest::Chunked(chunked) => (chunked.skip(bytes)?, chunked.is_done()),
        };
        if is_done {
            return Ok(Some(skipped));
        }
        unread.rest = rest;
        unread.skipped += skipped as u64;
        input.consume(skipped);
        Ok(None)
    }

    /// The stored head of the request whose body is arriving.
    pub(super) fn head(&self) -> Option<&[u8]> {
        self.unread.as_ref().map(|unread| &*unread.head)
    }

    /// The stored head, and the answer that the request is to get.
    pub(super) fn asked(&self) -> Option<(Box<[u8]>, Owed)> {
        let unread = self.unread.as_ref()?;
        let persistence = if self.stopping { Persistence::Ended } else { unread.owed.persistence };
        Some((unread.head.clone(), Owed { persistence, ..unread.owed }))
    }

    /// Whether the request is refused and its body is incomplete: the answer does not depend on the rest.
    pub(super) fn is_refused_early(&self) -> bool {
        self.unread.as_ref().is_some_and(|unread| !unread.is_answered && matches!(unread.owed.kind, Kind::Refusal(_)))
    }

    /// Notes that the answer has left before the end of the body.
    pub(super) fn note_answer(&mut self) {
        if let Some(unread) = &mut self.unread {
            unread.is_answered = true;
        }
    }

    /// Ends the request: the next bytes belong to the next request.
    #[inline]
    pub(super) fn finish(&mut self) {
        self.unread = None;
        (self.timed, self.waiting, self.bodiless) = (false, false, false);
        (self.tried, self.empty_lines) = (0, 0);
    }
}

/// Whether a request that begins with these bytes is answered without a body, whatever else is wrong with the request.
pub(super) fn asks_for_head(request: &[u8]) -> bool {
    request.starts_with(b"HEAD ")
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
