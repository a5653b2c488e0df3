//! The meaning of a guest's text, and the texts for the end of a connection.

use std::fmt;
use std::time::Duration;

use super::name::fault;
use crate::codec::TooLong;
use crate::codec::websocket::{CloseCode, ProtocolError};

/// The prefix of a name, optional on lines.
const NAME_PREFIX: &str = "NAME:";

/// The only error that does not end the connection.
pub(super) const UNKNOWN_COMMAND: &str = "ERROR: unknown command, /help tells which there are";

/// The protocol of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Lines,
    Frames,
    WebSocket,
}

impl Way {
    pub(super) const ALL: [Way; 3] = [Way::Lines, Way::Frames, Way::WebSocket];
}

/// The meaning of a member's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// An empty message, which is ignored.
    Nothing,
    Message(&'a str),
    Who,
    Quit,
    Help,
    /// Begins like a command without being one.
    Unknown,
}

/// The meaning of `text`. Only the first word of a command counts.
pub(super) fn said(text: &str) -> Said<'_> {
    let Some(command) = text.strip_prefix('/') else {
        return if text.is_empty() { Said::Nothing } else { Said::Message(text) };
    };
    if command.starts_with('/') {
        return Said::Message(command);
    }
    match command.split([' ', '\t']).next() {
        Some("who") => Said::Who,
        Some("quit") => Said::Quit,
        Some("help") => Said::Help,
        _ => Said::Unknown,
    }
}

/// Reads the name that a guest gives itself.
///
/// A blank or an `@` would end the name, and `/`, `(` and `#` begin other texts of members and server. [`fault`] has
/// the other rules for names.
pub(super) fn name(text: &str, way: Way) -> Result<&str, End> {
    let name = match text.strip_prefix(NAME_PREFIX) {
        Some(name) => name.strip_prefix(' ').unwrap_or(name),
        None => match way {
            Way::Lines => text,
            Way::Frames => return Err(End::BadName("the first frame is NAME: and a name")),
            Way::WebSocket => return Err(End::BadName("the first message is NAME: and a name")),
        },
    };
    fault(name).map_or(Ok(name), |why| Err(End::BadName(why)))
}

/// Why a connection ends, with the text for its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Goodbye,
    Kicked,
    NoName(Duration),
    BadName(&'static str),
    Taken,
    TooLong(TooLong),
    HalfFrame,
    NotUtf8,
    TooSlow,
    /// All connections together hold too much memory, and this one is among the largest.
    OutOfMemory,
    /// The server stops.
    Stopped,
    /// A WebSocket client closes.
    Closed(CloseCode),
    /// A WebSocket client breaks the protocol.
    Broken(ProtocolError),
    /// A WebSocket client sends a binary message.
    Binary,
    /// A WebSocket client has been silent, and has not answered a ping.
    Silent,
}

impl End {
    /// The last text, for all protocols. For ends of WebSocket alone, the close frame is the only notice.
    pub(super) fn text(&self) -> Option<String> {
        let is_told = !matches!(self, End::Stopped | End::Closed(_) | End::Broken(_) | End::Binary | End::Silent);
        is_told.then(|| self.to_string())
    }

    /// Code and reason of the close frame. After an `ERROR:` the text has the reason. Close code 1011, for a fault of
    /// the server, is never used: a callback that panics ends the connection without a close frame.
    pub(super) fn close(&self) -> (CloseCode, &'static str) {
        match self {
            End::Goodbye => (CloseCode::NORMAL, ""),
            End::Closed(code) => (*code, ""),
            End::Stopped => (CloseCode::GOING_AWAY, "the server stops"),
            End::Broken(error) => (error.code, error.reason),
            End::Binary => (CloseCode::UNSUPPORTED_DATA, "texts only"),
            End::OutOfMemory => (CloseCode::TRY_AGAIN_LATER, "the server is out of memory"),
            End::Silent => (CloseCode::POLICY, "no answer to a ping"),
            End::Kicked
            | End::NoName(_)
            | End::BadName(_)
            | End::Taken
            | End::TooLong(_)
            | End::HalfFrame
            | End::NotUtf8
            | End::TooSlow => (CloseCode::POLICY, ""),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Goodbye => f.write_str("(Goodbye)"),
            End::Kicked => f.write_str("ERROR: kicked"),
            End::NoName(waited) => {
                let waited = waited.as_secs();
                write!(f, "ERROR: no name within {waited} seconds: to join, send NAME: and a name as the first line")
            }
            End::BadName(why) => write!(f, "ERROR: bad name: {why}"),
            End::Taken => f.write_str("ERROR: the name is taken"),
            End::TooLong(error) => write!(f, "ERROR: {error}"),
            End::HalfFrame => f.write_str("ERROR: the last frame is not whole"),
            End::NotUtf8 => f.write_str("ERROR: not UTF-8"),
            End::TooSlow | End::OutOfMemory => f.write_str("ERROR: too slow"),
            End::Stopped | End::Closed(_) | End::Binary | End::Silent => f.write_str(self.close().1),
            End::Broken(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_message_unless_it_begins_with_one_slash() {
        let table = [
            ("", Said::Nothing),
            (" ", Said::Message(" ")),
            ("hi /who", Said::Message("hi /who")),
            ("//", Said::Message("/")),
            ("//who", Said::Message("/who")),
            ("///", Said::Message("//")),
            ("/who", Said::Who),
            ("/who ", Said::Who),
            ("/quit bye", Said::Quit),
            ("/help", Said::Help),
            ("/", Said::Unknown),
            ("/ who", Said::Unknown),
            ("/WHO", Said::Unknown),
            ("/whoever", Said::Unknown),
        ];
        for (text, expected) in table {
            assert_eq!(said(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_name_is_taken_as_it_is_or_refused() {
        let long = ["ü".repeat(32), "ü".repeat(33)];
        for (text, expected) in
            [("NAME: ann", "ann"), ("NAME:ann", "ann"), ("ann", "ann"), (&long[0], &long[0]), ("a#(/", "a#(/")]
        {
            assert_eq!(name(text, Way::Lines), Ok(expected));
        }
        let bad = [
            "NAME: ",
            "NAME:",
            "NAME:  ann",
            "a b",
            "a@b",
            "/a",
            "(a",
            "#a",
            "a\tb",
            "a\0",
            "a\u{202e}b",
            "a\u{2028}",
            " ",
            "\u{200b}\u{200d}",
            &long[1],
        ];
        for text in bad {
            assert!(matches!(name(text, Way::Lines), Err(End::BadName(_))), "{text:?}");
        }
    }

    #[test]
    fn in_frames_and_messages_a_name_has_its_prefix() {
        assert_eq!(name("NAME: ann", Way::Frames), Ok("ann"));
        assert_eq!(name("NAME: ann", Way::WebSocket), Ok("ann"));
        for way in [Way::Frames, Way::WebSocket] {
            assert!(matches!(name("ann", way), Err(End::BadName(_))));
        }
    }
}
