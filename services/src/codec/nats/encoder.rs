//! A client's operations, checked first and then written.

use std::fmt;

use reactor::Writer;
use serde_json::{Map, Value};

use super::CONTROL_LINE_MAX;

/// The line by which a client asks whether the server is alive.
pub const PING: &[u8] = b"PING\r\n";
/// The line by which a client answers the PING of a server.
pub const PONG: &[u8] = b"PONG\r\n";

/// The rule for the subject of a message.
pub const PUBLISH_SUBJECTS: &str =
    "a subject has tokens between dots, none of them empty, without spaces, control characters and wildcards";
/// The rule for the subject of a subscription.
pub const SUBSCRIBE_SUBJECTS: &str = "the subject of a subscription has tokens between dots, none of them empty, without spaces and control \
     characters; `*` stands for a token, and `>` for all that follow";

/// The reason for which an operation cannot be written.
///
/// ```
/// use services::codec::nats::{EncodeError, PUBLISH_SUBJECTS, Publish};
/// assert_eq!(Publish::new("a b", b"").unwrap_err(), EncodeError::Invalid(PUBLISH_SUBJECTS));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The broken rule.
    Invalid(&'static str),
    /// The operation's line would be longer than servers accept: [`CONTROL_LINE_MAX`] bytes.
    LineTooLong,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::Invalid(rule) => f.write_str(rule),
            EncodeError::LineTooLong => write!(f, "control line longer than {CONTROL_LINE_MAX} bytes"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// The identity of a client, as CONNECT has it. `Debug` shows no secret.
///
/// ```
/// use services::codec::nats::Login;
/// let login = Login::User { name: "ann".into(), password: "s3cret".into() };
/// assert_eq!(format!("{login:?}"), r#"User { name: "ann", password: … }"#);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Login {
    /// No identity.
    #[default]
    Nobody,
    /// A name and a password.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Login::Nobody => f.write_str("Nobody"),
            Login::User { name, .. } => write!(f, "User {{ name: {name:?}, password: … }}"),
            Login::Token(_) => f.write_str("Token(…)"),
        }
    }
}

/// CONNECT: the client's first operation.
///
/// ```
/// use reactor::Output;
/// use services::codec::nats::{Connect, Login};
/// let mut output = Output::default();
/// let login = Login::Token("t0ken".into());
/// Connect { name: "node", echo: false, login: &login, tls: false }.put(&mut output.writer());
/// let text = String::from_utf8(output.to_vec())?;
/// assert!(text.starts_with("CONNECT {") && text.ends_with("}\r\n"));
/// assert!(text.contains(r#""auth_token":"t0ken""#) && text.contains(r#""echo":false"#));
/// # Ok::<(), std::string::FromUtf8Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// The client's name in the server's reports.
    pub name: &'a str,
    /// Whether the client gets its own messages back for its own subscriptions.
    pub echo: bool,
    /// The client's identity: a user and a password, a token, or none.
    pub login: &'a Login,
    /// Whether the connection speaks TLS, which the server compares with its own rule.
    pub tls: bool,
}

impl Connect<'_> {
    /// Writes the operation. Servers accept headers, answer requests without a recipient (status 503), send later INFO, and do
    /// not confirm each operation.
    pub fn put(&self, writer: &mut Writer<'_>) {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        set("verbose", false.into());
        set("pedantic", false.into());
        set("tls_required", self.tls.into());
        set("name", self.name.into());
        set("lang", "rust".into());
        set("version", env!("CARGO_PKG_VERSION").into());
        set("protocol", 1.into());
        set("echo", self.echo.into());
        set("headers", true.into());
        set("no_responders", true.into());
        match self.login {
            Login::Nobody => {}
            Login::User { name, password } => {
                set("user", name.as_str().into());
                set("pass", password.as_str().into());
            }
            Login::Token(token) => {
                set("auth_token", token.as_str().into());
            }
        }
        writer.put(b"CONNECT ");
        writer.put(Value::Object(fields).to_string().as_bytes());
        writer.put(b"\r\n");
    }
}

/// PUB or HPUB: a message.
///
/// ```
/// use reactor::Output;
/// use services::codec::nats::Publish;
/// let mut output = Output::default();
/// let message = Publish::new("a.b", b"hi")?.reply("_INBOX.1")?.headers(&[("Nats-Expected-Last-Subject-Sequence", "0")])?;
/// message.put(&mut output.writer());
/// let text = "HPUB a.b _INBOX.1 52 54\r\nNATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 0\r\n\r\nhi\r\n";
/// assert_eq!(output.to_vec(), text.as_bytes());
/// assert_eq!((message.length(), message.encoded()), (54, text.len()));
/// # Ok::<(), services::codec::nats::EncodeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    subject: &'a [u8],
    reply: Option<&'a [u8]>,
    headers: &'a [(&'a str, &'a str)],
    payload: &'a [u8],
}

const HEAD: &[u8] = b"NATS/1.0\r\n";
/// `HPUB`, the lengths, spaces and the ending.
const LINE_REST: usize = 4 + 1 + 1 + 1 + 20 + 1 + 20 + 2;

impl<'a> Publish<'a> {
    /// A message of `payload` to `subject`. The payload's limit is the server's: [`Info::max_payload`](super::Info::max_payload).
    ///
    /// # Errors
    /// For a subject that breaks [`PUBLISH_SUBJECTS`], and for a subject that does not fit into a line.
    pub fn new(subject: &'a (impl AsRef<[u8]> + ?Sized), payload: &'a [u8]) -> Result<Self, EncodeError> {
        let publish = Publish { subject: subject.as_ref(), reply: None, headers: &[], payload };
        publish.subject_checked(publish.subject)
    }

    /// Sets the subject for answers.
    ///
    /// # Errors
    /// As [`Publish::new`].
    pub fn reply(mut self, reply: &'a (impl AsRef<[u8]> + ?Sized)) -> Result<Self, EncodeError> {
        self.reply = Some(reply.as_ref());
        self.subject_checked(reply.as_ref())
    }

    /// Sets the header fields. Readers see values without spaces at their ends.
    ///
    /// # Errors
    /// For a name that is empty or has other characters than ASCII's visible ones, or a colon; for a value with control characters.
    pub fn headers(mut self, headers: &'a [(&'a str, &'a str)]) -> Result<Self, EncodeError> {
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !headers.iter().all(|(name, _)| is_name(name)) {
            return Err(EncodeError::Invalid("a header's name has visible characters of ASCII, and no colon"));
        }
        if headers.iter().any(|(_, value)| value.chars().any(|c| c.is_control() && c != '\t')) {
            return Err(EncodeError::Invalid("a header's value has no control characters"));
        }
        self.headers = headers;
        Ok(self)
    }

    fn subject_checked(self, subject: &[u8]) -> Result<Self, EncodeError> {
        if !is_subject(subject, false) {
            return Err(EncodeError::Invalid(PUBLISH_SUBJECTS));
        }
        let line = self.subject.len() + self.reply.map_or(0, <[u8]>::len) + LINE_REST;
        if line > CONTROL_LINE_MAX { Err(EncodeError::LineTooLong) } else { Ok(self) }
    }

    /// Bytes of headers and payload together, to be compared with [`Info::max_payload`](super::Info::max_payload).
    pub fn length(&self) -> usize {
        self.block() + self.payload.len()
    }

    /// Whether the message has header fields, and is sent as HPUB. A server without [`Info::headers`](super::Info::headers) refuses it.
    pub fn has_headers(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Number of bytes that [`put`](Self::put) writes, with the line before the payload and the ending behind.
    pub fn encoded(&self) -> usize {
        let digits = |number: usize| number.checked_ilog10().map_or(1, |log| log as usize + 1);
        let words = self.subject.len() + 1 + self.reply.map_or(0, |reply| reply.len() + 1);
        let lengths = if self.headers.is_empty() { 0 } else { 2 + digits(self.block()) } + digits(self.length());
        4 + words + lengths + 2 + self.length() + 2
    }

    /// Bytes of the header block.
    fn block(&self) -> usize {
        let fields = self.headers.iter().map(|(name, value)| name.len() + 2 + value.len() + 2).sum::<usize>();
        if self.headers.is_empty() { 0 } else { HEAD.len() + fields + 2 }
    }

    /// Writes the operation with its payload to the output. Allocates nothing besides the output.
    pub fn put(&self, writer: &mut Writer<'_>) {
        writer.put(if self.headers.is_empty() { b"PUB " } else { b"HPUB " });
        writer.put(self.subject);
        writer.put(b" ");
        if let Some(reply) = self.reply {
            writer.put(reply);
            writer.put(b" ");
        }
        if !self.headers.is_empty() {
            writer.put_decimal(self.block() as u64);
            writer.put(b" ");
        }
        writer.put_decimal(self.length() as u64);
        writer.put(b"\r\n");
        if !self.headers.is_empty() {
            writer.put(HEAD);
            for (name, value) in self.headers {
                writer.put(name.as_bytes());
                writer.put(b": ");
                writer.put(value.as_bytes());
                writer.put(b"\r\n");
            }
            writer.put(b"\r\n");
        }
        writer.put(self.payload);
        writer.put(b"\r\n");
    }
}

/// SUB: a subscription.
///
/// ```
/// use reactor::Output;
/// use services::codec::nats::Subscribe;
/// let mut output = Output::default();
/// Subscribe::new("room.>", 1)?.put(&mut output.writer());
/// Subscribe::new("jobs", 2)?.queue("workers")?.put(&mut output.writer());
/// assert_eq!(output.to_vec(), b"SUB room.> 1\r\nSUB jobs workers 2\r\n");
/// assert!(Subscribe::new("room.>.x", 3).is_err());
/// # Ok::<(), services::codec::nats::EncodeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Subscribe<'a> {
    subject: &'a [u8],
    queue: Option<&'a [u8]>,
    sid: u64,
}

impl<'a> Subscribe<'a> {
    /// A subscription to `subject`, which may have wildcards. `sid` is the number that its messages carry, chosen by the client.
    ///
    /// # Errors
    /// For a subject that breaks [`SUBSCRIBE_SUBJECTS`], and for a subject that does not fit into a line.
    pub fn new(subject: &'a (impl AsRef<[u8]> + ?Sized), sid: u64) -> Result<Self, EncodeError> {
        let subscribe = Subscribe { subject: subject.as_ref(), queue: None, sid };
        subscribe.checked(is_subject(subscribe.subject, true), SUBSCRIBE_SUBJECTS)
    }

    /// Joins the queue group `queue`: each message goes to a single member of the group.
    ///
    /// # Errors
    /// For an empty name, and a name with spaces or control characters.
    pub fn queue(mut self, queue: &'a (impl AsRef<[u8]> + ?Sized)) -> Result<Self, EncodeError> {
        let queue = queue.as_ref();
        self.queue = Some(queue);
        self.checked(is_word(queue), "the name of a queue group has no spaces and no control characters")
    }

    fn checked(self, is_valid: bool, rule: &'static str) -> Result<Self, EncodeError> {
        let line = self.subject.len() + self.queue.map_or(0, <[u8]>::len) + LINE_REST;
        match is_valid {
            false => Err(EncodeError::Invalid(rule)),
            true if line > CONTROL_LINE_MAX => Err(EncodeError::LineTooLong),
            true => Ok(self),
        }
    }

    /// Writes the operation, a line of SUB, to the output.
    pub fn put(&self, writer: &mut Writer<'_>) {
        writer.put(b"SUB ");
        writer.put(self.subject);
        writer.put(b" ");
        if let Some(queue) = self.queue {
            writer.put(queue);
            writer.put(b" ");
        }
        writer.put_decimal(self.sid);
        writer.put(b"\r\n");
    }
}

/// UNSUB: the end of a subscription, at once or after a number of messages.
///
/// ```
/// use reactor::Output;
/// use services::codec::nats::Unsubscribe;
/// let mut output = Output::default();
/// Unsubscribe { sid: 1, after: None }.put(&mut output.writer());
/// Unsubscribe { sid: 2, after: Some(5) }.put(&mut output.writer());
/// assert_eq!(output.to_vec(), b"UNSUB 1\r\nUNSUB 2 5\r\n");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Unsubscribe {
    /// The number of the subscription, as in its [`Subscribe`].
    pub sid: u64,
    /// The number of messages, counted from the subscription's beginning, after which the server ends the subscription.
    pub after: Option<u64>,
}

impl Unsubscribe {
    /// Writes the operation, a line of UNSUB, to the output.
    pub fn put(&self, writer: &mut Writer<'_>) {
        writer.put(b"UNSUB ");
        writer.put_decimal(self.sid);
        if let Some(after) = self.after {
            writer.put(b" ");
            writer.put_decimal(after);
        }
        writer.put(b"\r\n");
    }
}

/// Whether bytes are a subject: see [`PUBLISH_SUBJECTS`] and [`SUBSCRIBE_SUBJECTS`]. Servers require no UTF-8.
fn is_subject(subject: &[u8], with_wildcards: bool) -> bool {
    let mut tokens = subject.split(|&byte| byte == b'.').peekable();
    while let Some(token) = tokens.next() {
        let is_valid = match token {
            b"" => false,
            b"*" => with_wildcards,
            b">" => with_wildcards && tokens.peek().is_none(),
            _ => true,
        };
        if !is_valid {
            return false;
        }
    }
    is_word(subject)
}

/// Whether bytes are not empty, and have no spaces and control characters.
fn is_word(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| byte > b' ' && byte != 0x7f)
}
