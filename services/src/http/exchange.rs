//! Where one connection stands between its requests and their answers. Writes nothing and sets no deadline: it finds
//! the requests and knows what they are owed.

use std::time::Duration;

use reactor::Input;

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
    /// What comes after it.
    reply: Reply,
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
pub(super) struct Reply {
    pub(super) kind: Kind,
    /// To `HEAD`: the head of the answer alone.
    pub(super) bodiless: bool,
    pub(super) persistence: Persistence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The fixed answer.
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

impl Reply {
    /// To something of which no more is known than what is wrong with it.
    pub(super) fn refusal(status: Status) -> Self {
        Reply { kind: Kind::Refusal(status), bodiless: false, persistence: Persistence::Ended }
    }

    /// The same request, refused, and the end of the connection.
    pub(super) fn refused(self, status: Status) -> Self {
        Reply { bodiless: self.bodiless, ..Reply::refusal(status) }
    }
}

impl Exchange {
    pub(super) fn new(now: Duration) -> Self {
        Exchange { unread: None, active: now, timed: true, stopping: false, tried: 0, searched: 0, empty_lines: 0 }
    }

    /// Whether part of a request has come.
    #[inline]
    pub(super) fn has_begun(&self) -> bool {
        self.tried > 0 || self.is_in_body()
    }

    /// Whether what comes next belongs to a body.
    #[inline]
    pub(super) fn is_in_body(&self) -> bool {
        self.unread.is_some()
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

    /// Takes the head of the next request, if it is there as a whole.
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
        let Some((head, length)) = Head::parse(unread)? else {
            (self.tried, self.searched) = (unread.len(), unread.len());
            return Ok(None);
        };
        input.consume(length);
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
    pub(super) fn reply(&self, head: &Head<'_>) -> Reply {
        let kind = match head.method {
            Method::Get | Method::Head => Kind::Page,
            Method::Options => Kind::Options,
            Method::Connect | Method::Other => Kind::Refusal(Status::MethodNotAllowed),
            Method::Unknown => Kind::Refusal(Status::NotImplemented),
        };
        let persistence = match (head.persistent && !self.stopping, head.is_1_0) {
            (false, _) => Persistence::Ended,
            (true, false) => Persistence::Implied,
            (true, true) => Persistence::Stated,
        };
        Reply { kind, bodiless: head.method == Method::Head, persistence }
    }

    /// A body of at most `max` bytes comes before the reply.
    pub(super) fn expect(&mut self, body: Body, max: u64, reply: Reply) {
        let rest = match body {
            Body::None => Rest::Length(0),
            Body::Length(length) => Rest::Length(length),
            Body::Chunked => Rest::Chunked(Chunked::new(max)),
        };
        self.unread = Some(Box::new(Unread { rest, reply, skipped: 0, mark: 0 }));
        // A body has its own time.
        self.timed = false;
    }

    /// Throws away what has come of the body. The reply when that was the rest of it.
    pub(super) fn skip_body(&mut self, input: &mut Input<'_>) -> Result<Option<Reply>, Status> {
        let Some(unread) = &mut self.unread else { return Ok(None) };
        let bytes = input.as_slice();
        let (skipped, is_done) = match &mut unread.rest {
            Rest::Length(left) => {
                let step = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= step as u64;
                (step, *left == 0)
            }
            Rest::Chunked(chunked) => (chunked.skip(bytes)?, chunked.is_done()),
        };
        input.consume(skipped);
        unread.skipped += skipped as u64;
        if self.stopping {
            unread.reply.persistence = Persistence::Ended;
        }
        Ok(is_done.then_some(unread.reply))
    }

    /// The request is answered: what comes next is another.
    #[inline]
    pub(super) fn finish(&mut self) {
        self.unread = None;
        (self.timed, self.tried, self.empty_lines) = (false, 0, 0);
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
