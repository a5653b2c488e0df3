//! The header block of a message: a status line, fields, an empty line.

use std::fmt;
use std::str::from_utf8;

const VERSION: &str = "NATS/1.0";

/// The header fields of a message, and the status that servers set in answers of their own. Borrowed, and checked as a whole.
///
/// Names are compared to the letter, as NATS does. Values have no spaces at their ends.
///
/// ```
/// use services::codec::nats::Headers;
/// let headers = Headers::parse(b"NATS/1.0 404 No Messages\r\nNats-Sequence: 7\r\n\r\n")?;
/// assert_eq!((headers.status(), headers.description()), (Some(404), "No Messages"));
/// assert_eq!(headers.get("Nats-Sequence"), Some("7"));
/// assert_eq!(headers.fields().count(), 1);
/// # Ok::<(), services::codec::nats::BadHeaders>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'i> {
    status: Option<u16>,
    description: &'i str,
    /// The fields' lines with their endings, without the empty line.
    lines: &'i str,
}

/// The reason for which a header block cannot be read.
///
/// ```
/// use services::codec::nats::Headers;
/// let error = Headers::parse(b"HTTP/1.1\r\n\r\n").unwrap_err();
/// assert_eq!(error.to_string(), "unreadable headers: the first line does not begin with NATS/1.0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeaders(pub &'static str);

impl fmt::Display for BadHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreadable headers: {}", self.0)
    }
}

impl std::error::Error for BadHeaders {}

impl<'i> Headers<'i> {
    /// Reads a header block with its empty line.
    ///
    /// # Errors
    /// [`BadHeaders`] names the broken rule.
    pub fn parse(block: &'i [u8]) -> Result<Self, BadHeaders> {
        let block = from_utf8(block).map_err(|_| BadHeaders("the block is not UTF-8"))?;
        let block = block.strip_suffix("\r\n").ok_or(BadHeaders("the block does not end with an empty line"))?;
        let (first, lines) = block.split_once("\r\n").ok_or(BadHeaders("the first line has no end"))?;
        if first.contains(['\r', '\n']) {
            return Err(BadHeaders("a line has a CR or an LF in its middle"));
        }
        let status = first.strip_prefix(VERSION).ok_or(BadHeaders("the first line does not begin with NATS/1.0"))?;
        let (status, description) = match status.trim_ascii() {
            "" => (None, ""),
            // Servers write three digits after a space. The description follows after a further space, or is absent.
            text if status.starts_with(' ') => {
                let (digits, rest) = text.split_at_checked(3).unwrap_or((text, ""));
                let is_whole = rest.is_empty() || rest.starts_with(' ');
                let number = super::decimal(digits.as_bytes()).and_then(|number| u16::try_from(number).ok());
                let number = number.filter(|_| digits.len() == 3 && is_whole);
                (Some(number.ok_or(BadHeaders("the status is not a number of three digits"))?), rest.trim_ascii())
            }
            _ => return Err(BadHeaders("the first line does not begin with NATS/1.0")),
        };
        let mut rest = lines;
        while !rest.is_empty() {
            let (line, after) = rest.split_once("\r\n").ok_or(BadHeaders("a line does not end with CR LF"))?;
            let (name, value) = line.split_once(':').ok_or(BadHeaders("a field has no colon"))?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(BadHeaders("a field's name is empty or has other characters than ASCII's visible ones"));
            }
            if value.contains(['\r', '\n']) {
                return Err(BadHeaders("a line has a CR or an LF in its middle"));
            }
            rest = after;
        }
        Ok(Headers { status, description, lines })
    }

    /// The status of a server's own answer, such as 404 and 503. `None` in a client's message.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The text after the status, such as `No Messages`.
    pub fn description(&self) -> &'i str {
        self.description
    }

    /// The value of the first field called `name`.
    pub fn get(&self, name: &str) -> Option<&'i str> {
        self.fields().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// All fields in their order: names and values.
    pub fn fields(&self) -> Fields<'i> {
        Fields(self.lines)
    }
}

/// The fields of a header block, in their order: see [`Headers::fields`].
///
/// ```
/// use services::codec::nats::Headers;
/// let headers = Headers::parse(b"NATS/1.0\r\na: 1\r\na:2\r\n\r\n")?;
/// assert_eq!(headers.fields().collect::<Vec<_>>(), [("a", "1"), ("a", "2")]);
/// # Ok::<(), services::codec::nats::BadHeaders>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fields<'i>(&'i str);

impl<'i> Iterator for Fields<'i> {
    type Item = (&'i str, &'i str);

    fn next(&mut self) -> Option<Self::Item> {
        // Checked by `parse`.
        let (line, rest) = self.0.split_once("\r\n")?;
        self.0 = rest;
        line.split_once(':').map(|(name, value)| (name, value.trim_ascii()))
    }
}
