//! Codecs from bytes to items: without connection, clock or handler, so a unit test can try every split of every input.
//!
//! The chat speaks [`lines`] or [`frames`], cleans messages with [`text`], and reads a keyboard with [`typed`]. HTTP
//! reads a [`request`] and skips a [`chunked`] body. Echo also speaks [`websocket`]. The client of NATS
//! speaks [`nats`].

pub mod chunked;
pub mod frames;
pub mod lines;
pub mod nats;
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
    /// The name of the item in error texts, such as `line` or `frame`.
    pub what: &'static str,
    /// The largest number of bytes that an item may have.
    pub limit: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} longer than {} bytes", self.what, self.limit)
    }
}

impl std::error::Error for TooLong {}
