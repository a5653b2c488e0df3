//! Publications that are not in any member's output yet. The loop delivers them before any other action on a member,
//! and at the end of the turn.
//!
//! Messages of one topic are gathered in one piece for all members. So a member costs as much for sixteen messages of a
//! turn as for one, and the piece is copied or shared as a whole.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::shared::Shared;
use crate::token::ConnectionId;
use crate::topics::Topic;

/// Bytes gathered for one topic before they are delivered.
const GATHERED_MAX: usize = 256 * 1024;
/// A message of at least this size is delivered by itself: another copy is not worth its cost.
const ALONE_MIN: usize = 64 * 1024;
/// Number of topics gathered at one time; each message searches them.
const TOPICS_MAX: usize = 8;

/// The publications of one turn.
#[derive(Default)]
pub(crate) struct Published {
    /// The first `gathered` batches are in use; the others are kept for their capacity.
    batches: Vec<Batch>,
    gathered: usize,
    /// The lengths of one batch's messages during its delivery. Kept for its capacity.
    lengths: Vec<u32>,
}

/// Successive messages of one topic.
pub(crate) struct Batch {
    pub(crate) topic: Topic,
    bytes: BytesMut,
    /// A single long message, in place of `bytes`.
    alone: Option<Shared>,
    pub(crate) messages: Vec<Message>,
}

pub(crate) struct Message {
    pub(crate) length: u32,
    /// A member that does not get the message.
    pub(crate) except: ConnectionId,
}

impl Published {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered == 0
    }

    /// Adds one message. Returns `false` if the gathered messages must be delivered first. `in_order`: some connection
    /// is a member of several topics, so the order of publications to two topics matters.
    pub(crate) fn gather(
        &mut self,
        topic: &Topic,
        bytes: &[u8],
        shared: Option<&Bytes>,
        except: ConnectionId,
        in_order: bool,
    ) -> bool {
        let Ok(length) = u32::try_from(bytes.len()) else { return true };
        let message = Message { length, except };
        let found = self.batches[..self.gathered].iter().position(|batch| batch.topic == *topic);
        let is_alone = bytes.len() >= ALONE_MIN;
        match found {
            Some(at) => {
                let batch = &mut self.batches[at];
                if is_alone || batch.alone.is_some() || batch.bytes.len() + bytes.len() > GATHERED_MAX {
                    return false;
                }
                batch.bytes.extend_from_slice(bytes);
                batch.messages.push(message);
            }
            None if self.gathered == TOPICS_MAX || (in_order && self.gathered > 0) => return false,
            None => {
                if self.batches.len() == self.gathered {
                    self.batches.push(Batch::new(topic));
                }
                let batch = &mut self.batches[self.gathered];
                if batch.topic != *topic {
                    batch.topic = topic.clone();
                }
                if is_alone {
                    batch.alone = Some(Shared::new(shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(bytes))));
                } else {
                    batch.bytes.extend_from_slice(bytes);
                }
                batch.messages.push(message);
                self.gathered += 1;
            }
        }
        true
    }

    /// Whether the gathered bytes should be delivered before further input is read.
    pub(crate) fn is_much(&self) -> bool {
        self.batches[..self.gathered].iter().any(|batch| batch.bytes().len() > GATHERED_MAX / 2)
    }

    /// All batches, one for each topic, and a buffer for the lengths of one batch. Call `clear` afterwards.
    pub(crate) fn parts(&mut self) -> (&mut [Batch], &mut Vec<u32>) {
        (&mut self.batches[..self.gathered], &mut self.lengths)
    }

    pub(crate) fn clear(&mut self) {
        self.batches[..self.gathered].iter_mut().for_each(Batch::clear);
        self.gathered = 0;
        // Peers may choose the names of topics, so at most one turn's topics are kept.
        self.batches.truncate(TOPICS_MAX);
    }
}

impl Batch {
    fn new(topic: &Topic) -> Self {
        Batch { topic: topic.clone(), bytes: BytesMut::new(), alone: None, messages: Vec::new() }
    }

    /// Makes the bytes shared if there are at least `share_min`.
    pub(crate) fn share(&mut self, share_min: usize) {
        if self.alone.is_none() && self.bytes.len() >= share_min {
            self.alone = Some(Shared::new(self.bytes.split().freeze()));
        }
    }

    pub(crate) fn shared(&self) -> Option<&Bytes> {
        self.alone.as_deref()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.alone.as_deref().map_or(&self.bytes, |alone| alone)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.alone = None;
        self.messages.clear();
    }
}

/// Publications that wait for the callbacks of listening handlers, by the number of their service.
#[derive(Default)]
pub(crate) struct Heard {
    listeners: HashMap<u16, Listener>,
    /// Number of publications that wait, for all services.
    count: usize,
}

#[derive(Default)]
struct Listener {
    waiting: VecDeque<(Topic, Heed)>,
    /// Bytes of the messages in `waiting`.
    bytes: usize,
}

/// A callback of a listening handler.
#[derive(Debug, PartialEq)]
pub(crate) enum Heed {
    Message(Bytes),
    /// The number of messages of the topic that were dropped at this place.
    Missed(u64),
}

impl Heard {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keeps a message for a service, or counts a missed message if more than `max` bytes would wait for the service. A message that
    /// is longer waits alone.
    pub(crate) fn push(&mut self, service: u16, topic: &Topic, message: &Bytes, max: usize) {
        let Listener { waiting, bytes } = self.listeners.entry(service).or_default();
        if *bytes == 0 || *bytes + message.len() <= max {
            *bytes += message.len();
            self.count += 1;
            return waiting.push_back((topic.clone(), Heed::Message(message.clone())));
        }
        // One count for each topic, so that counts are bounded, too.
        for (of, heed) in waiting.iter_mut().rev() {
            match heed {
                Heed::Missed(count) if of == topic => {
                    *count += 1;
                    return;
                }
                Heed::Missed(_) => {}
                Heed::Message(_) => break,
            }
        }
        self.count += 1;
        waiting.push_back((topic.clone(), Heed::Missed(1)));
    }

    /// The number of publications that wait for a service.
    pub(crate) fn waiting(&self, service: u16) -> usize {
        self.listeners.get(&service).map_or(0, |listener| listener.waiting.len())
    }

    /// Takes the first publication that waits for a service.
    pub(crate) fn take(&mut self, service: u16) -> Option<(Topic, Heed)> {
        let listener = self.listeners.get_mut(&service)?;
        let (topic, heed) = listener.waiting.pop_front()?;
        self.count -= 1;
        if let Heed::Message(message) = &heed {
            listener.bytes -= message.len();
        }
        Some((topic, heed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(published: &mut Published) -> Vec<(String, Vec<u8>, Vec<u32>)> {
        let (batches, _) = published.parts();
        let shown = |batch: &Batch| {
            let lengths = batch.messages.iter().map(|message| message.length).collect();
            (batch.topic.to_string(), batch.bytes().to_vec(), lengths)
        };
        batches.iter().map(shown).collect()
    }

    #[test]
    fn publications_wait_for_each_listener_up_to_its_limit_and_the_rest_is_counted() {
        let (mut heard, [news, sports]) = (Heard::default(), ["news", "sports"].map(Topic::from));
        let message = |text: &'static str| Bytes::from_static(text.as_bytes());
        for text in ["one", "two", "three", "seven", "!"] {
            heard.push(1, &news, &message(text), 10);
            heard.push(2, &news, &message(text), 100);
        }
        heard.push(1, &sports, &message("goal"), 10);
        let of = |topic: &Topic, texts: &[&'static str]| -> Vec<(Topic, Heed)> {
            texts.iter().map(|text| (topic.clone(), Heed::Message(message(text)))).collect()
        };
        let mut expected = of(&news, &["one", "two"]);
        expected.push((news.clone(), Heed::Missed(2)));
        expected.extend(of(&news, &["!"]));
        expected.push((sports.clone(), Heed::Missed(1)));
        let all = |heard: &mut Heard, service| -> Vec<_> { std::iter::from_fn(|| heard.take(service)).collect() };
        assert_eq!((heard.waiting(1), heard.waiting(2)), (5, 5));
        assert_eq!(all(&mut heard, 1), expected);
        assert_eq!(all(&mut heard, 2), of(&news, &["one", "two", "three", "seven", "!"]));
        assert!(heard.is_empty());
        heard.push(1, &news, &message("longer than the limit"), 10);
        assert_eq!(all(&mut heard, 1), of(&news, &["longer than the limit"]));
    }

    #[test]
    fn messages_of_a_topic_are_gathered_in_one_piece() {
        let mut published = Published::default();
        let [news, sports] = ["news", "sports"].map(Topic::from);
        for (topic, text) in [(&news, "one"), (&sports, "goal"), (&news, "two!")] {
            assert!(published.gather(topic, text.as_bytes(), None, ConnectionId::NONE, false));
        }
        let expected =
            [("news".to_owned(), b"onetwo!".to_vec(), vec![3, 4]), ("sports".to_owned(), b"goal".to_vec(), vec![4])];
        assert_eq!(gathered(&mut published), expected);
        published.clear();
        assert!(published.is_empty() && gathered(&mut published).is_empty());
        assert!(published.gather(&sports, b"again", None, ConnectionId::NONE, false));
        assert_eq!(gathered(&mut published), [("sports".to_owned(), b"again".to_vec(), vec![5])]);
    }

    #[test]
    fn where_the_order_of_topics_matters_one_waits_for_the_other() {
        let mut published = Published::default();
        let [news, sports] = ["news", "sports"].map(Topic::from);
        assert!(published.gather(&news, b"1", None, ConnectionId::NONE, true));
        assert!(published.gather(&news, b"2", None, ConnectionId::NONE, true));
        assert!(!published.gather(&sports, b"3", None, ConnectionId::NONE, true));
    }

    #[test]
    fn a_long_message_is_alone_and_what_is_much_is_not_gathered_further() {
        let (mut published, news) = (Published::default(), Topic::new("news"));
        let long = Bytes::from(vec![7; ALONE_MIN]);
        assert!(published.gather(&news, b"short", None, ConnectionId::NONE, false));
        assert!(!published.gather(&news, &long, Some(&long), ConnectionId::NONE, false));
        published.clear();
        assert!(published.gather(&news, &long, Some(&long), ConnectionId::NONE, false));
        assert!(!published.gather(&news, b"short", None, ConnectionId::NONE, false));
        let (batches, _) = published.parts();
        assert_eq!(batches[0].shared().unwrap().as_ptr(), long.as_ptr(), "not copied");
        published.clear();
        let piece = vec![0; ALONE_MIN - 1];
        let taken = (0..100).take_while(|_| published.gather(&news, &piece, None, ConnectionId::NONE, false)).count();
        assert_eq!(taken, GATHERED_MAX / piece.len());
    }

    #[test]
    fn topics_are_not_looked_through_for_long() {
        let mut published = Published::default();
        let gathered = (0..100)
            .take_while(|n| published.gather(&Topic::new(n.to_string()), b"x", None, ConnectionId::NONE, false));
        assert_eq!(gathered.count(), TOPICS_MAX);
    }

    #[test]
    fn what_is_shared_uses_its_room_again_once_nobody_has_it_any_more() {
        let (mut published, news) = (Published::default(), Topic::new("news"));
        let mut places = std::collections::HashSet::new();
        for _ in 0..1000 {
            for _ in 0..16 {
                assert!(published.gather(&news, &[1; 1000], None, ConnectionId::NONE, false));
            }
            let (batches, _) = published.parts();
            batches[0].share(4096);
            places.insert(batches[0].shared().unwrap().as_ptr() as usize);
            published.clear();
        }
        assert!(places.len() < 20, "{} places", places.len());
    }
}
