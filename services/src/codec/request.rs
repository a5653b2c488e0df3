//! The head of an HTTP request (RFC 9112): from bytes to what an answer depends on, and which status says what is wrong
//! with it.
//!
//! `httparse` reads the syntax. This file adds what it leaves open: limits, which body belongs to the request, which
//! `Host` it is for, and whether the connection goes on. Where two parsers could differ about the end of a request, the
//! request is refused.

mod fields;
mod host;
mod version;

use std::mem::MaybeUninit;

use httparse::{Error, Header};

use fields::Fields;
use host::is_host;
use version::Version;

/// Bytes of the request line, its ending not counted: the 8000 that RFC 9112 section 3 asks for, rounded up.
pub const LINE_MAX: usize = 8 * 1024;

/// Bytes of the request line and the header: more than any browser sends with all its cookies.
pub const HEAD_MAX: usize = 32 * 1024;

/// Lines of the header.
pub const FIELDS_MAX: usize = 100;

/// What an answer depends on.
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
    /// What is to be done.
    pub method: Method,
    /// To what: a path, a whole URI, or `*`.
    pub target: &'a str,
    /// HTTP/1.0, whose connections end after an answer unless both sides say otherwise.
    pub is_1_0: bool,
    /// Whether the client wants the connection to go on.
    pub persistent: bool,
    /// What follows the head.
    pub body: Body,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Which fields there are that choose among the answers to a `GET`.
    pub selectors: Selectors,
    /// All of it as it came.
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
    /// The field's name.
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

/// A set of [`Selector`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selectors(u8);

impl Selectors {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The methods of RFC 9110, as far as they are told apart. Their names are case-sensitive.
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
    /// CONNECT, whose target is unlike all others
    Connect,
    /// POST, PUT, DELETE, TRACE and PATCH (RFC 5789)
    Other,
    /// Any other token.
    Unknown,
}

/// What follows a head.
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

/// A status that says why a request is not answered as it was meant to be.
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
    /// Its number.
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

    /// Its words.
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
    /// The method of this name.
    #[inline]
    pub fn named(name: &str) -> Self {
        // Nearly all are.
        if name == "GET" { Method::Get } else { Method::named_otherwise(name) }
    }

    fn named_otherwise(name: &str) -> Self {
        match name {
            "HEAD" => Method::Head,
            "OPTIONS" => Method::Options,
            "CONNECT" => Method::Connect,
            "POST" | "PUT" | "DELETE" | "TRACE" | "PATCH" => Method::Other,
            _ => Method::Unknown,
        }
    }
}

impl<'a> Head<'a> {
    /// The head at the beginning of `bytes`, and its length; `None` while its end, an empty line, is not there. Lines
    /// end with `\r\n`, or with `\n` as people type them. There is no empty line before it.
    ///
    /// # Errors
    /// What is wrong with it, as early as that is certain. What follows such a head has no meaning.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Option<(Head<'a>, usize)>, Status> {
        let mut fields = [const { MaybeUninit::<Header<'a>>::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return within_limits(bytes).map(|()| None),
            Err(error) => return fault(error, bytes),
        };
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(Status::BadRequest);
        };
        let head = Head::weighed(method, target, version == 0, request.headers, &bytes[..length])?;
        Ok(Some((head, length)))
    }

    /// What its parts, whose syntax is right, come to.
    #[inline]
    fn weighed(
        method: &str,
        target: &'a str,
        is_1_0: bool,
        fields: &[Header<'_>],
        raw: &'a [u8],
    ) -> Result<Self, Status> {
        // Both limits are at least this, so that one comparison does for nearly all.
        if raw.len() > LINE_MAX {
            within_limits(raw)?;
        }
        let method = Method::named(method);
        check_target(method, target)?;
        Fields::read(fields)?.head(method, target, is_1_0, raw)
    }

    /// Whether there is such a field, once or more often.
    #[inline]
    pub fn has(&self, selector: Selector) -> bool {
        self.selectors.0 & selector as u8 != 0
    }

    /// The values of all fields of this name, in their order, blanks around them taken off.
    ///
    /// ```
    /// use services::codec::request::Head;
    /// let (head, _) = Head::parse(b"GET / HTTP/1.1\r\nHost: here\r\nA: 1\r\nB: 2\r\na:3\r\n\r\n").unwrap().unwrap();
    /// assert_eq!(head.values("A").collect::<Vec<_>>(), [&b"1"[..], b"3"]);
    /// ```
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        // What httparse has let through: each line is a name, a colon and a value.
        let raw = self.raw;
        memchr::memchr_iter(b'\n', raw).filter_map(move |end| {
            let line = raw.get(end + 1..)?;
            let value = line.get(name.len()..)?.strip_prefix(b":")?;
            let is_meant = line[..name.len()].eq_ignore_ascii_case(name.as_bytes());
            is_meant.then(|| value[..memchr::memchr(b'\n', value).unwrap_or(value.len())].trim_ascii())
        })
    }

    /// The value of the field of this name, if there is exactly one.
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }
}

/// The length of the head at the beginning of `bytes`, by its empty line alone; `None` while that is not there. The
/// first `searched` bytes have been searched already.
pub fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    // `\n\r\n` may have begun in what was searched.
    let start = searched.saturating_sub(2);
    memchr::memchr_iter(b'\n', &bytes[start..]).map(|at| start + at + 1).find_map(|after| match bytes[after..] {
        [b'\n', ..] => Some(after + 1),
        [b'\r', b'\n', ..] => Some(after + 2),
        _ => None,
    })
}

/// Whether a head whose end is not there has kept to the limits so far.
///
/// # Errors
/// 414 for the line, 431 for the whole.
#[cold]
pub fn within_limits(bytes: &[u8]) -> Result<(), Status> {
    let line = &bytes[..bytes.len().min(LINE_MAX + 2)];
    let line = memchr::memchr(b'\n', line).map_or(line, |end| &line[..end]);
    if line.strip_suffix(b"\r").unwrap_or(line).len() > LINE_MAX {
        return Err(Status::UriTooLong);
    }
    if bytes.len() > HEAD_MAX { Err(Status::HeaderFieldsTooLarge) } else { Ok(()) }
}

/// What to say about a head that `httparse` does not take.
#[cold]
fn fault(error: Error, bytes: &[u8]) -> Result<Option<(Head<'_>, usize)>, Status> {
    match error {
        Error::TooManyHeaders => Err(Status::HeaderFieldsTooLarge),
        // What is too long is that first of all, wherever it goes wrong.
        _ if within_limits(bytes) == Err(Status::UriTooLong) => Err(Status::UriTooLong),
        // How the version goes on decides whether it is another one or none at all.
        Error::Version => match memchr::memchr(b'\n', bytes) {
            None => within_limits(bytes).map(|()| None),
            Some(end) => match version::of_line(&bytes[..end]) {
                Version::LaterMinor => version::read(bytes, end),
                Version::Other => Err(Status::VersionNotSupported),
                Version::None => Err(Status::BadRequest),
            },
        },
        _ => Err(Status::BadRequest),
    }
}

/// RFC 9112 section 3.2: a path, or a whole URI as for a proxy, or `*` for `OPTIONS`, or for `CONNECT` whatever that
/// wants.
#[inline]
fn check_target(method: Method, target: &str) -> Result<(), Status> {
    match (method, target.as_bytes()) {
        // What is asked for most.
        (_, b"/") => Ok(()),
        // A fragment is never sent (section 3.2); some servers end the path there, others don't.
        (_, uri) if memchr::memchr(b'#', uri).is_some() => Err(Status::BadRequest),
        (Method::Connect, _) | (_, [b'/', ..]) | (Method::Options, b"*") => Ok(()),
        (_, uri) if authority_of(uri).is_some_and(|authority| !authority.is_empty() && is_host(authority)) => Ok(()),
        _ => Err(Status::BadRequest),
    }
}

/// What stands between `http://` or `https://` and the path.
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
