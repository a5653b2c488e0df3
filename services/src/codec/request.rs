//! The head of an HTTP request (RFC 9112): from bytes to the facts that an answer depends on, or to the status of a
//! malformed head.
//!
//! `syntax` reads the bytes. This file adds limits, the body that belongs to the request, the check of `Host`, and
//! whether the connection goes on. A request is refused if two parsers could differ about its end.
//!
//! [`Head`] has an example.

mod fields;
mod host;
#[cfg(test)]
mod reference;
pub(crate) mod syntax;

use fields::Fields;
use host::is_host;
use syntax::Stop;

/// Longest request line in bytes, its ending not counted: the 8000 that RFC 9112 section 3 asks for, rounded up.
pub const LINE_MAX: usize = 8 * 1024;

/// Longest request line and header together, in bytes: more than any browser sends with all its cookies.
pub const HEAD_MAX: usize = 32 * 1024;

/// Largest number of header lines in a request; with more the request gets 431.
pub const FIELDS_MAX: usize = 100;

/// The parsed head of a request: request line and header. All texts are borrowed from the input.
///
/// ```
/// use services::codec::request::{Body, Head, Method};
/// let bytes = b"GET /who HTTP/1.1\r\nHost: here\r\n\r\nGET /next";
/// let (head, length) = Head::parse(bytes).unwrap().unwrap();
/// assert_eq!((head.method, head.target, length), (Method::Get, "/who", 33));
/// assert_eq!((head.body, head.persistent), (Body::None, true));
/// assert_eq!(Head::parse(&bytes[..32]), Ok(None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method of the request line; [`Method::Unknown`] for all other names.
    pub method: Method,
    /// The target: a path, a whole URI, or `*`.
    pub target: &'a str,
    /// Whether the version is HTTP/1.0, whose connections end after an answer unless both sides say otherwise.
    pub is_1_0: bool,
    /// Whether the client wants the connection to go on.
    pub persistent: bool,
    /// The kind of body that follows the head.
    pub body: Body,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The fields, as far as present, that choose among the answers to a `GET`.
    pub selectors: Selectors,
    /// The bytes of the head as received, with the empty line at its end.
    pub raw: &'a [u8],
}

/// A field that chooses among the answers to a `GET`: a condition, a range, an encoding.
///
/// ```
/// use services::codec::request::{Head, Selector};
/// let (head, _) = Head::parse(b"GET / HTTP/1.1\r\nHost: here\r\nRange: bytes=0-\r\n\r\n").unwrap().unwrap();
/// assert!(head.has(Selector::Range) && !head.has(Selector::IfRange));
/// assert_eq!(head.value(Selector::Range.name()), Some(&b"bytes=0-"[..]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `Range`
    Range = 1,
    /// `If-Range`
    IfRange = 1 << 1,
    /// `If-Match`
    IfMatch = 1 << 2,
    /// `If-None-Match`
    IfNoneMatch = 1 << 3,
    /// `If-Modified-Since`
    IfModifiedSince = 1 << 4,
    /// `If-Unmodified-Since`
    IfUnmodifiedSince = 1 << 5,
    /// `Accept-Encoding`
    AcceptEncoding = 1 << 6,
}

impl Selector {
    /// The name of the header field, as RFC 9110 spells it.
    pub fn name(self) -> &'static str {
        match self {
            Selector::Range => "Range",
            Selector::IfRange => "If-Range",
            Selector::IfMatch => "If-Match",
            Selector::IfNoneMatch => "If-None-Match",
            Selector::IfModifiedSince => "If-Modified-Since",
            Selector::IfUnmodifiedSince => "If-Unmodified-Since",
            Selector::AcceptEncoding => "Accept-Encoding",
        }
    }
}

/// The set of the [`Selector`]s that a request has: see [`Head::has`].
///
/// ```
/// use services::codec::request::{Head, Selector};
/// let (head, _) = Head::parse(b"GET / HTTP/1.1\r\nHost: here\r\nRange: bytes=0-4\r\n\r\n").unwrap().unwrap();
/// assert!(!head.selectors.is_empty() && head.has(Selector::Range));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selectors(u8);

impl Selectors {
    /// Whether the request has none of the selectors, so that a `GET` gets the whole representation.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The methods of RFC 9110, as far as the service distinguishes them. Names of methods are case-sensitive.
///
/// ```
/// use services::codec::request::Method;
/// assert_eq!(Method::named("GET"), Method::Get);
/// assert_eq!(Method::named("get"), Method::Unknown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// OPTIONS
    Options,
    /// CONNECT, whose target has a form of its own
    Connect,
    /// POST, PUT, DELETE, TRACE and PATCH (RFC 5789)
    Other,
    /// Any other token.
    Unknown,
}

/// The kind of body that follows a head.
///
/// ```
/// use services::codec::request::{Body, Head};
/// let (head, _) = Head::parse(b"PUT / HTTP/1.0\r\nContent-Length: 5\r\n\r\n").unwrap().unwrap();
/// assert_eq!(head.body, Body::Length(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// The status of an answer that refuses a request: 4xx or 5xx.
///
/// ```
/// use services::codec::request::{Head, Status};
/// let error = Head::parse(b"GET / HTTP/3.0\r\n\r\n").unwrap_err();
/// assert_eq!((error, error.code(), error.reason()), (Status::VersionNotSupported, 505, "HTTP Version Not Supported"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 400
    BadRequest,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 408
    RequestTimeout,
    /// 412
    PreconditionFailed,
    /// 413
    ContentTooLarge,
    /// 414
    UriTooLong,
    /// 416
    RangeNotSatisfiable,
    /// 417
    ExpectationFailed,
    /// 431
    HeaderFieldsTooLarge,
    /// 500
    InternalServerError,
    /// 501
    NotImplemented,
    /// 503
    ServiceUnavailable,
    /// 505
    VersionNotSupported,
}

impl Status {
    /// The number of the status line, such as 404.
    pub fn code(self) -> u16 {
        match self {
            Status::BadRequest => 400,
            Status::Forbidden => 403,
            Status::NotFound => 404,
            Status::MethodNotAllowed => 405,
            Status::RequestTimeout => 408,
            Status::PreconditionFailed => 412,
            Status::ContentTooLarge => 413,
            Status::UriTooLong => 414,
            Status::RangeNotSatisfiable => 416,
            Status::ExpectationFailed => 417,
            Status::HeaderFieldsTooLarge => 431,
            Status::InternalServerError => 500,
            Status::NotImplemented => 501,
            Status::ServiceUnavailable => 503,
            Status::VersionNotSupported => 505,
        }
    }

    /// The text behind the number of the status line, such as `Not Found`.
    pub fn reason(self) -> &'static str {
        match self {
            Status::BadRequest => "Bad Request",
            Status::Forbidden => "Forbidden",
            Status::NotFound => "Not Found",
            Status::MethodNotAllowed => "Method Not Allowed",
            Status::RequestTimeout => "Request Timeout",
            Status::PreconditionFailed => "Precondition Failed",
            Status::ContentTooLarge => "Content Too Large",
            Status::UriTooLong => "URI Too Long",
            Status::RangeNotSatisfiable => "Range Not Satisfiable",
            Status::ExpectationFailed => "Expectation Failed",
            Status::HeaderFieldsTooLarge => "Request Header Fields Too Large",
            Status::InternalServerError => "Internal Server Error",
            Status::NotImplemented => "Not Implemented",
            Status::ServiceUnavailable => "Service Unavailable",
            Status::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}

impl Method {
    /// Returns the method of this name, compared with case; [`Method::Unknown`] for any other name.
    pub fn named(name: &str) -> Self {
        Method::of(name.as_bytes())
    }

    fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"OPTIONS" => Method::Options,
            b"CONNECT" => Method::Connect,
            b"POST" | b"PUT" | b"DELETE" | b"TRACE" | b"PATCH" => Method::Other,
            _ => Method::Unknown,
        }
    }
}

impl<'a> Head<'a> {
    /// Parses the head at the beginning of `bytes`. Returns the head and its length, or `None` while the empty line at
    /// its end is missing. Lines end with `\r\n`, or with `\n` as people type them. No empty line may precede the head.
    ///
    /// # Errors
    /// The status of a malformed head, as early as the error is certain. The bytes after such a head have no meaning.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Head<'a>, usize)>, Status> {
        let mut fields = Fields::default();
        let (line, length) = match syntax::read(bytes, |name, value| fields.add(name, value)) {
            Ok(read) => read,
            Err(stop) => return stopped(stop, bytes).map(|()| None),
        };
        // Both limits are at least this large, so one comparison suffices for nearly all heads.
        if length > LINE_MAX {
            within_limits(&bytes[..length])?;
        }
        check_target(line.method, line.target)?;
        let head = fields.head(line.method, line.target, line.is_1_0, &bytes[..length])?;
        Ok(Some((head, length)))
    }

    /// Whether the request has the field, once or more often.
    #[inline]
    pub fn has(&self, selector: Selector) -> bool {
        self.selectors.0 & selector as u8 != 0
    }

    /// The values of all fields called `name`, in order and trimmed.
    ///
    /// ```
    /// use services::codec::request::Head;
    /// let (head, _) = Head::parse(b"GET / HTTP/1.1\r\nHost: here\r\nA: 1\r\nB: 2\r\na:3\r\n\r\n").unwrap().unwrap();
    /// assert_eq!(head.values("A").collect::<Vec<_>>(), [&b"1"[..], b"3"]);
    /// ```
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        // The syntax of the lines is known to be right: each has a name, a colon and a value.
        let raw = self.raw;
        memchr::memchr_iter(b'\n', raw).filter_map(move |end| {
            let line = raw.get(end + 1..)?;
            let value = line.get(name.len()..)?.strip_prefix(b":")?;
            let is_meant = line[..name.len()].eq_ignore_ascii_case(name.as_bytes());
            is_meant.then(|| value[..memchr::memchr(b'\n', value).unwrap_or(value.len())].trim_ascii())
        })
    }

    /// The value of the field called `name`, if the request has exactly one.
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }
}

/// Returns the length of the head at the beginning of `bytes`, found by its empty line alone; `None` while the empty line is
/// missing. The first `searched` bytes were searched earlier.
pub fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    // `\n\r\n` may have begun in the searched part.
    let start = searched.saturating_sub(2);
    memchr::memchr_iter(b'\n', &bytes[start..]).map(|at| start + at + 1).find_map(|after| match bytes[after..] {
        [b'\n', ..] => Some(after + 1),
        [b'\r', b'\n', ..] => Some(after + 2),
        _ => None,
    })
}

/// Checks the limits of a head whose end is still missing.
///
/// # Errors
/// 414 for the request line, 431 for the whole head.
#[cold]
pub fn within_limits(bytes: &[u8]) -> Result<(), Status> {
    let line = &bytes[..bytes.len().min(LINE_MAX + 2)];
    let line = memchr::memchr(b'\n', line).map_or(line, |end| &line[..end]);
    if line.strip_suffix(b"\r").unwrap_or(line).len() > LINE_MAX {
        return Err(Status::UriTooLong);
    }
    if bytes.len() > HEAD_MAX { Err(Status::HeaderFieldsTooLarge) } else { Ok(()) }
}

/// Returns `Ok` for an incomplete head within the limits, otherwise the status of the refusal.
#[cold]
fn stopped(stop: Stop, bytes: &[u8]) -> Result<(), Status> {
    match stop {
        Stop::Incomplete => within_limits(bytes),
        Stop::TooManyFields => Err(Status::HeaderFieldsTooLarge),
        // A line over the limit is refused for its length, wherever the line goes wrong.
        Stop::Malformed | Stop::Version if within_limits(bytes) == Err(Status::UriTooLong) => Err(Status::UriTooLong),
        Stop::Malformed => Err(Status::BadRequest),
        Stop::Version => Err(Status::VersionNotSupported),
    }
}

/// Checks the target (RFC 9112 section 3.2): a path, or a whole URI as for a proxy, or `*` for `OPTIONS`. `CONNECT` may
/// have any target.
#[inline]
fn check_target(method: Method, target: &str) -> Result<(), Status> {
    match (method, target.as_bytes()) {
        // The most frequent target.
        (_, b"/") => Ok(()),
        // A client never sends a fragment (section 3.2). Some servers end the path at a fragment, others do not.
        (_, uri) if memchr::memchr(b'#', uri).is_some() => Err(Status::BadRequest),
        (Method::Connect, _) | (_, [b'/', ..]) | (Method::Options, b"*") => Ok(()),
        (_, uri) if authority_of(uri).is_some_and(|authority| !authority.is_empty() && is_host(authority)) => Ok(()),
        _ => Err(Status::BadRequest),
    }
}

/// The authority: the part between `http://` or `https://` and the path.
fn authority_of(uri: &[u8]) -> Option<&[u8]> {
    let scheme = memchr::memmem::find(uri, b"://")?;
    if !matches!(uri[..scheme].to_ascii_lowercase().as_slice(), b"http" | b"https") {
        return None;
    }
    let rest = &uri[scheme + 3..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(&rest[..end])
}

#[cfg(test)]
mod tests;
