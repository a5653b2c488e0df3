//! Where one connection stands between its requests and their answers. Writes nothing and sets no deadline: it finds
//! the requests and knows what they are owed. A request stays in the input until it is answered, since it may have to
//! wait for its file.

use std::time::Duration;

use reactor::Input;

use super::addresses::Admission;
use crate::codec::chunked::Chunked;
use crate::codec::request::{self, Body, HEAD_MAX, Head, Method, Status};

/// Empty lines before a request that are overlooked (RFC 9112 section 2.2): some clients send one after a body.
const EMPTY_LINES_MAX: u8 = 8;

/// The service's half of one connection. Nothing of it is for anyone but [`Http`](super::Http).
#[derive(Debug)]
pub struct Exchange {
    /// In the middle of a body. Boxed: few requests have one, and every connection has this.
    unread: Option<Box<Unread>>,
    /// When something last came.
    pub(super) active: Duration,
    /// The deadline that is set is for the request that is coming in; from the beginning it is for the first.
    pub(super) timed: bool,
    /// A request is there as a whole, and waits for its file.
    pub(super) waiting: bool,
    /// What is asked for is a head, as far as that is to be seen of a request that has not come as a whole, or waits.
    pub(super) bodiless: bool,
    /// How it is counted among those of its address.
    pub(super) admission: Admission,
    /// The application is stopping: the answer to the request that is coming in is the last.
    pub(super) stopping: bool,
    /// Bytes of the head that had come when it was last parsed, 0 before any have; and when its end was last looked
    /// for.
    tried: usize,
    searched: usize,
    empty_lines: u8,
}

/// A body that has not come as a whole.
#[derive(Debug)]
struct Unread {
    rest: Rest,
    /// What was asked, and the answer's kind. The answer comes after the body, or before it: see `is_answered`.
    owed: Owed,
    head: Box<[u8]>,
    /// The answer has left; the rest of the body is discarded, and the next request follows.
    is_answered: bool,
    /// Bytes of it that have come, and how many had when its deadline was last met.
    skipped: u64,
    mark: u64,
}

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Length(u64),
    Chunked(Chunked),
}

/// What a request is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) kind: Kind,
    /// To `HEAD`: the head of the answer alone.
    pub(super) bodiless: bool,
    pub(super) persistence: Persistence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The page, or the file, that is asked for.
    Page,
    /// Which methods there are.
    Options,
    Refusal(Status),
}

/// What becomes of the connection, and what an answer says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It goes on, which in HTTP/1.1 goes without saying.
    Implied,
    /// It goes on, which HTTP/1.0 has to be told.
    Stated,
    /// It ends.
    Ended,
}

impl Owed {
    /// To something of which no more is known than what is wrong with it.
    pub(super) fn refusal(status: Status) -> Self {
        Owed { kind: Kind::Refusal(status), bodiless: false, persistence: Persistence::Ended }
    }

    /// The same request, refused, and the end of the connection.
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

    /// Whether what comes next belongs to a body.
    #[inline]
    pub(super) fn is_in_body(&self) -> bool {
        self.unread.is_some()
    }

    /// Whether part of a request has come that has no answer yet.
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

    /// Whether at least `bytes` of a body have come since this was last asked. A head has to be there as a whole.
    pub(super) fn has_progressed(&mut self, bytes: u64) -> bool {
        let Some(unread) = &mut self.unread else { return false };
        let since = unread.skipped - unread.mark;
        unread.mark = unread.skipped;
        since >= bytes
    }

    /// The head of the next request, if it is there as a whole. It is not consumed.
    ///
    /// At first it is parsed at once: nearly all come in one piece. After that only its end is looked for, where the
    /// search was left; it is parsed when that has come, and each time its length has doubled, so that what is wrong
    /// is told early. So each byte is looked at a bounded number of times, however few come at once.
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
        // Should it be offered again, it is known to be whole.
        self.tried = 0;
        Ok(Some(head))
    }

    /// Whether a head that did not come in one piece, or not after another, is to be parsed now.
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

    /// Overlooks some empty lines where a request should begin. Whether anything comes after them.
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

    /// What a request is owed, but for its body.
    #[inline]
    pub(super) fn owed(&self, head: &Head<'_>) -> Owed {
        let kind = match head.method {
            Method::Get | Method::Head => Kind::Page,
            Method::Options => Kind::Options,
            Method::Connect | Method::Other => Kind::Refusal(Status::MethodNotAllowed),
            Method::Unknown => Kind::Refusal(Status::NotImplemented),
        };
        // Whoever asks for a tunnel may have begun to use it (RFC 9110 section 9.3.6): what comes next is no request.
        let persistent = head.persistent && !self.stopping && head.method != Method::Connect;
        let persistence = match (persistent, head.is_1_0) {
            (false, _) => Persistence::Ended,
            (true, false) => Persistence::Implied,
            (true, true) => Persistence::Stated,
        };
        Owed { kind, bodiless: head.method == Method::Head, persistence }
    }

    /// What the request that has not come as a whole is owed instead.
    pub(super) fn refusal(&self, status: Status) -> Owed {
        let bodiless = self.unread.as_ref().map_or(self.bodiless, |unread| unread.owed.bodiless);
        Owed { bodiless, ..Owed::refusal(status) }
    }

    /// A body of at most `max` bytes comes before the answer to `head`.
    pub(super) fn expect(&mut self, head: &Head<'_>, max: u64, owed: Owed) {
        let rest = match head.body {
            Body::None => Rest::Length(0),
            Body::Length(length) => Rest::Length(length),
            Body::Chunked => Rest::Chunked(Chunked::new(max)),
        };
        self.unread =
            Some(Box::new(Unread { rest, owed, head: head.raw.into(), is_answered: false, skipped: 0, mark: 0 }));
        // A body has its own time.
        self.timed = false;
    }

    /// Throws away what has come of the body, but for its last piece: that stays until the request is answered. How
    /// long that piece is, once it is there.
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

    /// The head that came before the body.
    pub(super) fn head(&self) -> Option<&[u8]> {
        self.unread.as_ref().map(|unread| &*unread.head)
    }

    /// The same, and what it is owed.
    pub(super) fn asked(&self) -> Option<(Box<[u8]>, Owed)> {
        let unread = self.unread.as_ref()?;
        let persistence = if self.stopping { Persistence::Ended } else { unread.owed.persistence };
        Some((unread.head.clone(), Owed { persistence, ..unread.owed }))
    }

    /// The request is refused and its body has not come as a whole: its answer does not depend on the rest.
    pub(super) fn is_refused_early(&self) -> bool {
        self.unread.as_ref().is_some_and(|unread| !unread.is_answered && matches!(unread.owed.kind, Kind::Refusal(_)))
    }

    /// The answer has left before the end of the body.
    pub(super) fn note_answer(&mut self) {
        if let Some(unread) = &mut self.unread {
            unread.is_answered = true;
        }
    }

    /// The request is answered: what comes next is another.
    #[inline]
    pub(super) fn finish(&mut self) {
        self.unread = None;
        (self.timed, self.waiting, self.bodiless) = (false, false, false);
        (self.tried, self.empty_lines) = (0, 0);
    }
}

/// Whether a request that begins like this is answered without a body, whatever else is wrong with it.
pub(super) fn asks_for_head(request: &[u8]) -> bool {
    request.starts_with(b"HEAD ")
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
