//! The fields of a head that decide the end of the request and the future of the connection.

use super::host::is_host;
use super::{Body, Head, Method, Selector, Selectors, Status};

/// The facts in the fields about the end of the request and the connection. Facts are bits, so one comparison
/// recognizes the usual head.
#[derive(Clone, Copy, Default)]
pub(super) struct Fields {
    facts: u8,
    selectors: u8,
    /// The first fault; set together with the bit `FAULTY`.
    fault: Option<Status>,
    /// The value of `Content-Length`.
    length: u64,
}

const HOST: u8 = 1;
const KEEP_ALIVE: u8 = 1 << 1;
const CLOSE: u8 = 1 << 2;
const LENGTH: u8 = 1 << 3;
const CHUNKED: u8 = 1 << 4;
const EXPECTS_CONTINUE: u8 = 1 << 5;
const EXPECTS_OTHER: u8 = 1 << 6;
const FAULTY: u8 = 1 << 7;

impl Fields {
    /// Adds the facts of one field. A fault counts when the head is complete, because a fault of the syntax comes first.
    #[inline(always)]
    pub(super) fn add(&mut self, name: &[u8], value: &[u8]) {
        // The lengths differ, so each name is compared with few others.
        match name.len() {
            4 if is_named(name, "Host") => {
                self.once(HOST);
                if !is_host(value) {
                    self.refuse(Status::BadRequest);
                }
            }
            6 if is_named(name, "Expect") => self.facts |= expectation(value),
            10 if is_named(name, "Connection") => self.facts |= connection(value),
            14 if is_named(name, "Content-Length") => {
                self.once(LENGTH);
                match content_length(value) {
                    Some(length) => self.length = length,
                    None => self.refuse(Status::BadRequest),
                }
            }
            17 if is_named(name, "Transfer-Encoding") => {
                self.once(CHUNKED);
                if let Err(status) = check_coding(value) {
                    self.refuse(status);
                }
            }
            5 => self.select(name, Selector::Range),
            8 => {
                self.select(name, Selector::IfMatch);
                self.select(name, Selector::IfRange);
            }
            13 => self.select(name, Selector::IfNoneMatch),
            15 => self.select(name, Selector::AcceptEncoding),
            17 => self.select(name, Selector::IfModifiedSince),
            19 => self.select(name, Selector::IfUnmodifiedSince),
            _ => {}
        }
    }

    #[inline]
    fn select(&mut self, name: &[u8], selector: Selector) {
        if is_named(name, selector.name()) {
            self.selectors |= selector as u8;
        }
    }

    /// Adds a fact that may appear once. An equal repetition is refused too: no client sends one on purpose.
    #[inline]
    fn once(&mut self, fact: u8) {
        if self.facts & fact != 0 {
            self.refuse(Status::BadRequest);
        }
        self.facts |= fact;
    }

    #[cold]
    fn refuse(&mut self, status: Status) {
        self.facts |= FAULTY;
        self.fault.get_or_insert(status);
    }

    /// Combines the facts with the request line.
    ///
    /// # Errors
    /// The first fault of the fields, or of their combination.
    #[inline]
    pub(super) fn head<'a>(
        self,
        method: Method,
        target: &'a str,
        is_1_0: bool,
        raw: &'a [u8],
    ) -> Result<Head<'a>, Status> {
        // The usual head has only `Host` and perhaps `keep-alive`.
        let is_plain = self.facts & !KEEP_ALIVE == HOST && !is_1_0;
        let selectors = Selectors(self.selectors);
        let (mut body, persistent, expects_continue) =
            if is_plain { (Body::None, true, false) } else { self.weighed(is_1_0)? };
        if method == Method::Connect {
            // A `CONNECT` has no body: the following bytes belong to the other end of the tunnel (RFC 9110 section
            // 9.3.6).
            body = Body::None;
        }
        Ok(Head { method, target, is_1_0, persistent, body, expects_continue, selectors, raw })
    }

    /// Returns the body, whether the connection goes on, and whether the client waits for `100 Continue`.
    fn weighed(self, is_1_0: bool) -> Result<(Body, bool, bool), Status> {
        if let Some(status) = self.fault {
            return Err(status);
        }
        let has = |fact| self.facts & fact != 0;
        let body = match (has(CHUNKED), has(LENGTH)) {
            // HTTP/1.0 has no chunks, so a chunked request in HTTP/1.0 has no agreed meaning (RFC 9112 section 6.1).
            (true, true) => return Err(Status::BadRequest),
            (true, false) if is_1_0 => return Err(Status::BadRequest),
            (true, false) => Body::Chunked,
            (false, true) if self.length > 0 => Body::Length(self.length),
            (false, _) => Body::None,
        };
        if !has(HOST) && !is_1_0 {
            return Err(Status::BadRequest);
        }
        if has(EXPECTS_OTHER) && !is_1_0 {
            return Err(Status::ExpectationFailed);
        }
        Ok((body, !has(CLOSE) && (!is_1_0 || has(KEEP_ALIVE)), has(EXPECTS_CONTINUE) && !is_1_0))
    }
}

/// Whether a field has the name `usual`, in any case. The usual spelling comes first: a single comparison of words.
#[inline]
fn is_named(name: &[u8], usual: &str) -> bool {
    name == usual.as_bytes() || name.eq_ignore_ascii_case(usual.as_bytes())
}

fn expectation(value: &[u8]) -> u8 {
    members(value).fold(0, |facts, expectation| match expectation {
        _ if expectation.eq_ignore_ascii_case(b"100-continue") => facts | EXPECTS_CONTINUE,
        // A list may have empty places (RFC 9110 section 5.6.1).
        b"" => facts,
        _ => facts | EXPECTS_OTHER,
    })
}

fn connection(value: &[u8]) -> u8 {
    members(value).fold(0, |facts, option| match option {
        _ if option.eq_ignore_ascii_case(b"keep-alive") => facts | KEEP_ALIVE,
        _ if option.eq_ignore_ascii_case(b"close") => facts | CLOSE,
        _ => facts,
    })
}

/// The elements of a comma-separated list.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Reads a length in digits.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |length: u64, digit: &u8| length.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(value.iter().fold(0, add))
}

/// Accepts `chunked` alone. Other codings before `chunked` are legal, and unknown here.
fn check_coding(value: &[u8]) -> Result<(), Status> {
    let mut codings = value.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    if !codings.next().unwrap_or_default().eq_ignore_ascii_case(b"chunked") {
        return Err(Status::BadRequest);
    }
    match codings.next() {
        None => Ok(()),
        Some(coding) if coding.is_empty() || coding.eq_ignore_ascii_case(b"chunked") => Err(Status::BadRequest),
        Some(_) => Err(Status::NotImplemented),
    }
}
