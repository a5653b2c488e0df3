//! One text in the encoding of each protocol.

use super::said::Way;
use crate::codec::frames::LENGTH_BYTES;
use crate::codec::websocket::{FrameHead, Kind};

/// Bytes before the text: the longest head of any protocol.
const ROOM: usize = 10;

/// A text between room for a head and a newline, so each encoding is a part of one buffer and no encoding copies the
/// text. The buffer is reused for the next text.
#[derive(Debug)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
}

impl Default for Encoded {
    fn default() -> Self {
        Encoded { bytes: [&[0; ROOM][..], b"\n"].concat() }
    }
}

impl Encoded {
    /// Encodes the text that `append` appends. The former text is dropped.
    #[inline]
    pub(super) fn encode(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.truncate(ROOM);
        append(&mut self.bytes);
        self.bytes.push(b'\n');
    }

    /// The text alone.
    #[inline]
    pub(super) fn text(&self) -> &[u8] {
        &self.bytes[ROOM..self.bytes.len() - 1]
    }

    /// The text in the encoding of `way`. The head is written before the text, over the previous head.
    #[inline]
    pub(super) fn of(&mut self, way: Way) -> &[u8] {
        let end = self.bytes.len() - 1;
        let length = end - ROOM;
        match way {
            Way::Lines => &self.bytes[ROOM..],
            Way::Frames => {
                let start = ROOM - LENGTH_BYTES;
                self.bytes[start..ROOM].copy_from_slice(&(length as u32).to_be_bytes());
                &self.bytes[start..end]
            }
            Way::WebSocket => {
                let head = FrameHead::new(Kind::Text, length);
                let start = ROOM - head.as_ref().len();
                self.bytes[start..ROOM].copy_from_slice(head.as_ref());
                &self.bytes[start..end]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_its_head_and_the_text_is_the_same_in_any_order() {
        let mut encoded = Encoded::default();
        assert_eq!(encoded.of(Way::Lines), b"\n");
        for text in
            ["a longer one first".to_owned(), "hi".to_owned(), "x".repeat(125), "x".repeat(126), "x".repeat(70_000)]
        {
            encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
            let head = FrameHead::new(Kind::Text, text.len());
            let websocket = [head.as_ref(), text.as_bytes()].concat();
            let frame = [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
            for way in [Way::WebSocket, Way::Frames, Way::Lines, Way::Frames, Way::WebSocket] {
                let expected = match way {
                    Way::Lines => format!("{text}\n").into_bytes(),
                    Way::Frames => frame.clone(),
                    Way::WebSocket => websocket.clone(),
                };
                assert!(encoded.of(way) == expected, "{way:?}, {} bytes", text.len());
            }
            assert_eq!(encoded.text(), text.as_bytes());
        }
    }
}
