//! The latest messages of a room, for later members.

use std::collections::VecDeque;

/// Largest number of kept messages. A person does not read more, and each new member gets all of them.
pub const HISTORY_MAX: usize = 10_000;

/// Largest number of kept bytes: as much as a new member takes before it has to read.
pub const HISTORY_BYTES: usize = 256 * 1024;

/// The latest messages, bounded by number and bytes: the oldest are dropped first.
#[derive(Debug, Default)]
pub(super) struct History {
    messages: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl History {
    pub(super) fn push(&mut self, text: &[u8], messages_max: usize, bytes_max: usize) {
        self.messages.push_back(text.into());
        self.bytes += text.len();
        while self.messages.len() > messages_max || self.bytes > bytes_max {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// The number of kept messages.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The messages, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().map(|text| &**text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(history: &History) -> Vec<&[u8]> {
        history.iter().collect()
    }

    #[test]
    fn the_latest_are_kept_as_many_as_may_be_and_as_their_bytes_allow() {
        let mut history = History::default();
        for text in ["one", "two", "three", "four"] {
            history.push(text.as_bytes(), 3, 100);
        }
        assert_eq!(kept(&history), [&b"two"[..], b"three", b"four"]);
        history.push(b"12345", 3, 10);
        assert_eq!(kept(&history), [&b"four"[..], b"12345"]);
        history.push(&[b'x'; 11], 3, 10);
        assert!(kept(&history).is_empty() && history.bytes == 0, "one that is too long leaves nothing before it");
        history.push(b"again", 3, 10);
        assert_eq!(kept(&history), [b"again"]);
    }
}
