//! What bytes mean, and nothing else: no connection, no clock, no handler, so that every split of every input can be
//! tried in a unit test.
//!
//! Chat speaks [`lines`] or [`frames`], says what [`text`] lets through and takes what is [`typed`]; HTTP reads a
//! [`request`] and skips what is [`chunked`]; echo speaks [`websocket`] too.

pub mod chunked;
pub mod frames;
pub mod lines;
pub mod request;
pub mod text;
pub mod typed;
pub mod websocket;

use std::fmt;

/// An item is longer than its protocol allows.
///
/// ```
/// use services::codec::TooLong;
/// assert_eq!(TooLong { what: "line", limit: 65_536 }.to_string(), "line longer than 65536 bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// What kind of item.
    pub what: &'static str,
    /// How many bytes it may have.
    pub limit: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} longer than {} bytes", self.what, self.limit)
    }
}

impl std::error::Error for TooLong {}
