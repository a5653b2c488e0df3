//! Writes the answer about a document to the connection: the whole, one range, several ranges, or a refusal.

use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use reactor::Written;

use super::document::{Content, Document, Rendition};
use super::encodings::{Accepted, Encoding};
use super::path;
use crate::codec::request::{Head, Selector, Status};
use crate::http::Context;
use crate::http::answers::{self, INLINE_MAX, Line};
use crate::http::clock::Clock;
use crate::http::conditional::{Verdict, evaluate};
use crate::http::exchange::{Owed, Persistence};
use crate::http::ranges::{self, Wanted};

/// Summary of an answer, for the log.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Answered {
    pub(in crate::http) written: Written,
    pub(in crate::http) status: u16,
    /// Bytes after the head.
    pub(in crate::http) bytes: u64,
}

/// The most frequent answer, without its first two lines, which contain the date. The rest never changes, so all
/// handlers share it.
#[derive(Debug)]
pub(super) struct Ready {
    /// The rest of the head, and the content if it is short.
    bytes: Box<[u8]>,
    head: usize,
}

/// The context of one answer.
pub(in crate::http) struct Response<'r, 'a> {
    pub(in crate::http) cx: &'r mut Context<'a>,
    pub(in crate::http) clock: &'r Clock,
    pub(in crate::http) owed: Owed,
}

impl Response<'_, '_> {
    /// Answers a request for a document. `room` is memory for the head.
    #[inline]
    pub(super) fn document(
        &mut self,
        head: &Head<'_>,
        document: &Document,
        cache_control: Option<&str>,
        room: &mut Vec<u8>,
    ) -> Answered {
        let mut encoding = Encoding::Identity;
        if !head.selectors.is_empty() {
            encoding = chosen(head, document);
        }
        let Some(rendition) = document.rendition(encoding) else { return self.refuse(Status::NotFound) };
        let mut part = Part { rendition, varies: document.varies(), cache_control, room };
        if !head.selectors.is_empty() {
            match evaluate(head, rendition.validators(), self.clock.second()) {
                Verdict::PreconditionFailed => return self.refuse(Status::PreconditionFailed),
                Verdict::NotModified => return self.not_modified(&mut part),
                // A range of `HEAD` has no meaning (RFC 9110 section 14.2).
                Verdict::Proceed { by_range: true } if head.has(Selector::Range) && !self.owed.bodiless => {
                    // Two `Range` fields count as none.
                    match head.value(Selector::Range.name()).map(|value| ranges::read(value, rendition.size())) {
                        None | Some(Wanted::Whole) => {}
                        // Parts would be encoded, while the text between the parts would not; no field can say so.
                        Some(Wanted::Several(_)) if encoding != Encoding::Identity => {}
                        Some(Wanted::One(range)) => return self.one_range(&mut part, range),
                        Some(Wanted::Several(ranges)) => return self.several_ranges(&mut part, &ranges),
                        Some(Wanted::Unsatisfiable) => return self.unsatisfiable(rendition.size()),
                    }
                }
                Verdict::Proceed { .. } => {}
            }
        }
        let ready = document.ready(encoding, || Ready::new(&mut part));
        self.whole(ready, rendition)
    }

    #[inline]
    fn whole(&mut self, ready: &Ready, rendition: &Rendition) -> Answered {
        let sent = if self.owed.bodiless { 0 } else { rendition.size() };
        let inline = if self.owed.bodiless { &ready.bytes[..ready.head] } else { &ready.bytes[..] };
        let (clock, persistence) = (self.clock, self.owed.persistence);
        let written = self.cx.encode(|output| {
            output.put(clock.ok());
            if persistence == Persistence::Implied {
                output.put(inline);
            } else {
                // The `Connection` field goes before the empty line.
                output.put(&ready.bytes[..ready.head - 2]);
                output.put(answers::connection(persistence).as_bytes());
                output.put(&inline[ready.head - 2..]);
            }
            if inline.len() as u64 != ready.head as u64 + sent {
                rendition.put(0..sent, output);
            }
        });
        Answered { written, status: 200, bytes: sent }
    }

    fn not_modified(&mut self, part: &mut Part<'_>) -> Answered {
        part.begin(answers::NOT_MODIFIED, self.clock);
        part.write_validators();
        Answered { written: self.end(part.room), status: 304, bytes: 0 }
    }

    fn one_range(&mut self, part: &mut Part<'_>, range: Range<u64>) -> Answered {
        let Range { start, end } = range;
        part.begin(answers::PARTIAL_CONTENT, self.clock);
        part.write_content(part.rendition.content_type.as_str(), end - start);
        let _ = write!(part.room, "Content-Range: bytes {start}-{}/{}\r\n", end - 1, part.rendition.size());
        part.write_validators();
        self.end(part.room);
        Answered { written: self.content(part.rendition, range), status: 206, bytes: end - start }
    }

    /// Answers with several ranges (RFC 9110 section 14.6). Each part has a head of its own.
    fn several_ranges(&mut self, part: &mut Part<'_>, ranges: &[Range<u64>]) -> Answered {
        let (boundary, rendition) = (boundary(), part.rendition);
        let head_of = |(index, range): (usize, &Range<u64>)| {
            let before = if index == 0 { "" } else { "\r\n" };
            let (first, last, size) = (range.start, range.end - 1, rendition.size());
            let content_type = &rendition.content_type;
            format!(
                "{before}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n"
            )
        };
        let heads: Vec<String> = ranges.iter().enumerate().map(head_of).collect();
        let end = format!("\r\n--{boundary}--\r\n");
        let bytes = heads.iter().map(|head| head.len() as u64).sum::<u64>()
            + ranges.iter().map(|range| range.end - range.start).sum::<u64>()
            + end.len() as u64;
        part.begin(answers::PARTIAL_CONTENT, self.clock);
        part.write_content(&format!("multipart/byteranges; boundary={boundary}"), bytes);
        part.write_validators();
        self.end(part.room);
        for (head, range) in heads.iter().zip(ranges) {
            self.cx.write(head);
            self.content(rendition, range.clone());
        }
        Answered { written: self.cx.write(end), status: 206, bytes }
    }

    fn unsatisfiable(&mut self, size: u64) -> Answered {
        self.refuse_with(Status::RangeNotSatisfiable, &format!("Content-Range: bytes */{size}\r\n"))
    }

    /// Redirects to the directory's name with a slash at the end, where relative links of its index begin. The location
    /// begins with a single slash, so it cannot name another host.
    pub(super) fn redirect(&mut self, path: &[u8], query: &str) -> Answered {
        let mut location = b"/".to_vec();
        path::encode(path, &mut location);
        location.push(b'/');
        for &byte in query.as_bytes() {
            if byte.is_ascii_graphic() { location.push(byte) } else { path::encode(&[byte], &mut location) }
        }
        let fields = format!("Location: {}\r\n", String::from_utf8_lossy(&location));
        self.say(Line { code: 301, reason: "Moved Permanently" }, &fields)
    }

    pub(super) fn listing(&mut self, page: Bytes) -> Answered {
        let mut room = Vec::new();
        answers::begin(&mut room, answers::OK, self.clock);
        let _ = write!(room, "Content-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n", page.len());
        let (mut written, mut bytes) = (self.end(&mut room), 0);
        if !self.owed.bodiless {
            bytes = page.len() as u64;
            written = self.cx.write_shared(page);
        }
        Answered { written, status: 200, bytes }
    }

    pub(in crate::http) fn refuse(&mut self, status: Status) -> Answered {
        self.refuse_with(status, answers::retry_after(status.code()))
    }

    fn refuse_with(&mut self, status: Status, fields: &str) -> Answered {
        self.say(status.into(), fields)
    }

    /// Answers with a status, `fields` and a short body.
    fn say(&mut self, line: Line, fields: &str) -> Answered {
        let (answer, bytes) = answers::short(line, fields, self.owed, self.clock);
        Answered { written: self.cx.write(answer), status: line.code, bytes }
    }

    /// Ends a head and writes it.
    fn end(&mut self, room: &mut Vec<u8>) -> Written {
        room.extend_from_slice(answers::connection(self.owed.persistence).as_bytes());
        room.extend_from_slice(b"\r\n");
        self.cx.write(room)
    }

    fn content(&mut self, rendition: &Rendition, range: Range<u64>) -> Written {
        self.cx.encode(|output| rendition.put(range, output))
    }
}

/// Chooses the rendition for this client.
fn chosen(head: &Head<'_>, document: &Document) -> Encoding {
    if !document.varies() || !head.has(Selector::AcceptEncoding) {
        return Encoding::Identity;
    }
    let accepted = Accepted::read(head.values(Selector::AcceptEncoding.name()));
    accepted.choose(|encoding| document.rendition(encoding).is_some())
}

/// The common part of the heads of answers with a rendition.
struct Part<'p> {
    rendition: &'p Rendition,
    varies: bool,
    cache_control: Option<&'p str>,
    room: &'p mut Vec<u8>,
}

/// A random boundary of 128 bits, which no file contains by chance and no client can foretell.
fn boundary() -> String {
    use std::hash::{BuildHasher, RandomState};
    let word = || RandomState::new().hash_one(());
    format!("{:016x}{:016x}", word(), word())
}

impl Part<'_> {
    fn begin(&mut self, line: Line, clock: &Clock) {
        self.room.clear();
        answers::begin(self.room, line, clock);
    }

    fn write_content(&mut self, content_type: &str, length: u64) {
        // Writing to memory never fails.
        let _ =
            write!(self.room, "Content-Type: {content_type}\r\nContent-Length: {length}\r\nAccept-Ranges: bytes\r\n");
        if self.rendition.encoding != Encoding::Identity {
            let _ = write!(self.room, "Content-Encoding: {}\r\n", self.rendition.encoding.name());
        }
    }

    fn write_validators(&mut self) {
        self.rendition.write_validators(self.room);
        if self.varies {
            self.room.extend_from_slice(b"Vary: Accept-Encoding\r\n");
        }
        if let Some(value) = self.cache_control {
            let _ = write!(self.room, "Cache-Control: {value}\r\n");
        }
    }
}

impl Ready {
    fn new(part: &mut Part<'_>) -> Self {
        part.room.clear();
        part.room.extend_from_slice(answers::SERVER.as_bytes());
        part.write_content(part.rendition.content_type.as_str(), part.rendition.size());
        part.write_validators();
        part.room.extend_from_slice(b"\r\n");
        let head = part.room.len();
        match &part.rendition.content {
            Content::Held(content) if content.len() <= INLINE_MAX => part.room.extend_from_slice(content),
            _ => {}
        }
        Ready { bytes: part.room.as_slice().into(), head }
    }
}
