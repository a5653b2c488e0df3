//! The backlog: the drops and notices of each policy, and a comparison with a plain queue.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::*;
use crate::buffer::Messages;
use crate::buffer::file::nameless_file;

/// A published message, an answer or a notice: a letter, a number, and a filling up to the length.
fn item(kind: u8, number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(number.to_be_bytes());
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend((0..length).map(|at| (number as usize + at) as u8));
    bytes
}

/// The items that the peer reads, each complete.
fn items(mut stream: &[u8]) -> Vec<(u8, u64)> {
    let mut items = Vec::new();
    while let Some((&kind, rest)) = stream.split_first() {
        let number = u64::from_be_bytes(rest[..8].try_into().unwrap());
        let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        assert_eq!(stream[..13 + length], item(kind, number, length), "item {number}");
        stream = &stream[13 + length..];
        items.push((kind, number));
    }
    items
}

/// A fault to plant in a backlog, for the test of this test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// The rest of an item that has begun to leave is dropped.
    DropsTheBegun,
    /// The number of dropped messages is wrong.
    Miscounts,
    /// An answer is dropped with the messages.
    DropsAnswers,
    /// The limit is not applied.
    NeverDrops,
    /// A dropped message is counted without a notice.
    HidesTheMissed,
}

/// An output, a peer that takes some of it, and all items that were put.
struct Wire {
    output: Output,
    limits: Limits,
    /// Whether the peer took less than was offered.
    held: bool,
    read: Vec<u8>,
    /// Answers and messages in the order of their writes.
    put: Vec<(u8, u64)>,
    missed: u64,
    too_slow: bool,
    /// The source of some answers.
    file: Arc<File>,
    flaw: Option<Flaw>,
}

impl Wire {
    fn new(member_queue: usize, slow_members: SlowPolicy) -> Self {
        let limits = Limits { member_queue, slow_members, ..Limits::default() };
        let (output, read, put) = (Output::default(), Vec::new(), Vec::new());
        let file = Arc::new(nameless_file());
        Wire { output, limits, held: false, read, put, missed: 0, too_slow: false, file, flaw: None }
    }

    fn answer(&mut self, length: usize) {
        let number = self.put.len() as u64;
        let bytes = item(b'A', number, length);
        if self.flaw == Some(Flaw::DropsAnswers) && self.missed > 0 {
            return self.put.push((b'A', number));
        }
        match number % 3 {
            0 => self.output.put_shared(Bytes::from(bytes)),
            1 => self.output.put(&bytes),
            _ => {
                let start = self.file.metadata().unwrap().len();
                self.file.write_all_at(&bytes, start).unwrap();
                self.output.put_file(self.file.clone(), start..start + bytes.len() as u64);
            }
        }
        self.put.push((b'A', number));
    }

    fn message(&mut self, length: usize) {
        if self.too_slow {
            return;
        }
        let number = self.put.len() as u64;
        let bytes = Bytes::from(item(b'M', number, length));
        let shared = (bytes.len() >= crate::buffer::SHARE_MIN).then_some(&bytes);
        self.put.push((b'M', number));
        let message = Messages { bytes: &bytes, shared, lengths: &[bytes.len() as u32] };
        if self.held || !self.output.put_messages(message, Box::default) {
            let offered = self.output.offer(message, &self.applied_limits(), &mut self.missed);
            self.too_slow = offered == Offered::TooSlow;
            self.check_bound();
        }
    }

    fn applied_limits(&self) -> Limits {
        let member_queue = if self.flaw == Some(Flaw::NeverDrops) { usize::MAX } else { self.limits.member_queue };
        Limits { member_queue, ..self.limits.clone() }
    }

    /// Answers are unlimited; messages stay within the limit.
    fn check_bound(&self) {
        let (cost, messages) = self.output.waiting();
        assert!(cost <= self.limits.member_queue || messages <= 1, "{cost} with {messages} messages");
    }

    /// One send, of which the peer takes at most `most` bytes.
    fn send(&mut self, most: usize) {
        while self.output.is_missing() {
            let mut count = self.output.take_missed();
            match self.flaw {
                Some(Flaw::Miscounts) => count += 1,
                Some(Flaw::HidesTheMissed) => {
                    self.output.notice_done();
                    continue;
                }
                _ => {}
            }
            self.output.put(&item(b'N', count, 0)[..5]);
            self.output.put(&item(b'N', count, 0)[5..]);
            self.output.notice_done();
        }
        let mut offered = Vec::new();
        if let Some(bytes) = self.output.single() {
            offered.extend_from_slice(bytes);
        } else {
            let mut slices = [IoSlice::new(&[]); 7];
            let filled = self.output.gather(&mut slices);
            slices[..filled].iter().for_each(|slice| offered.extend_from_slice(slice));
            if let Some(part) = self.output.file().filter(|_| filled == 0) {
                offered.resize(part.length(), 0);
                part.file().read_exact_at(&mut offered, part.at()).unwrap();
            }
        }
        assert_eq!(offered.is_empty(), self.output.is_done());
        let taken = most.min(offered.len());
        self.held = taken < offered.len();
        self.output.advance(taken);
        self.read.extend_from_slice(&offered[..taken]);
        if self.flaw == Some(Flaw::DropsTheBegun) && self.held {
            let begun = self.output.single().map_or(0, |bytes| bytes.len().min(3));
            self.output.advance(begun);
        }
        if self.held && self.output.has_fresh_messages() {
            self.too_slow |= self.output.trim(&self.applied_limits(), &mut self.missed) == Offered::TooSlow;
            self.check_bound();
        }
    }

    /// Checks that all answers are there, that notices count missing messages in their place, and that the rest is in
    /// order.
    fn check(&mut self) {
        while !self.output.is_done() {
            self.send(usize::MAX);
        }
        let (mut at, mut noted, mut noted_in_all) = (0, 0, 0);
        for (kind, number) in items(&self.read) {
            if kind == b'N' {
                noted += number;
                noted_in_all += number;
                continue;
            }
            let skipped = self.put[at..].iter().position(|put| *put == (kind, number)).expect("it is in order");
            let passed = &self.put[at..at + skipped];
            assert!(passed.iter().all(|(kind, _)| *kind == b'M'), "an answer is lost");
            if !self.too_slow {
                assert_eq!(passed.len() as u64, noted, "before {number}");
            }
            (at, noted) = (at + skipped + 1, 0);
        }
        let rest = &self.put[at..];
        assert!(rest.iter().all(|(kind, _)| *kind == b'M'), "an answer is lost");
        match self.too_slow {
            false => assert_eq!((rest.len() as u64, noted_in_all), (noted, self.missed)),
            true => assert_eq!(noted_in_all, 0),
        }
    }
}

/// Writes, publishes and sends at random, and compares the bytes that the peer has read with the items put.
fn try_seed(seed: u64, flaw: Option<Flaw>) {
    let mut state = seed;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as usize
    };
    let policy = [SlowPolicy::Disconnect, SlowPolicy::DropOldest, SlowPolicy::DropNewest][below(3)];
    let mut wire = Wire::new([1, 100, 2000, 30_000][below(4)], policy);
    wire.flaw = flaw;
    for _ in 0..below(200) {
        let length = if below(10) == 0 { 4000 + below(300) } else { below(60) };
        match below(10) {
            0 => wire.answer(length),
            1..8 => wire.message(length),
            8 => wire.send(below(300)),
            _ => wire.send(below(20_000)),
        }
    }
    wire.check();
}

#[test]
fn whatever_happens_answers_arrive_and_messages_whole_or_counted_in_their_place() {
    (1..=3000).for_each(|seed| try_seed(seed, None));
}

#[test]
fn every_flaw_that_a_backlog_could_have_is_found() {
    use Flaw::*;
    for flaw in [DropsTheBegun, Miscounts, DropsAnswers, NeverDrops, HidesTheMissed] {
        let fails = |seed: &u64| std::panic::catch_unwind(|| try_seed(*seed, Some(flaw))).is_err();
        assert!((1..=300).any(|seed| fails(&seed)), "{flaw:?}");
    }
}

#[test]
fn the_oldest_go_and_the_answers_between_them_stay_where_they_were() {
    let mut wire = Wire::new(300, SlowPolicy::DropOldest);
    wire.message(50);
    wire.send(10);
    for _ in 0..20 {
        wire.message(20);
        wire.answer(1);
    }
    wire.check();
    let heard = items(&wire.read);
    assert_eq!(heard[..4], [(b'M', 0), (b'N', 1), (b'A', 2), (b'N', 1)], "{heard:?}");
    assert_eq!(heard.iter().filter(|(kind, _)| *kind == b'A').count(), 20);
}

#[test]
fn the_newest_go_and_the_first_that_fits_again_stands_after_the_notice() {
    let mut wire = Wire::new(200, SlowPolicy::DropNewest);
    wire.message(20);
    wire.send(1);
    (0..10).for_each(|_| wire.message(20));
    assert_eq!(wire.missed, 8);
    wire.send(usize::MAX);
    wire.message(20);
    wire.check();
    let expected = [(b'M', 0), (b'M', 1), (b'M', 2), (b'N', 8), (b'M', 11)];
    assert_eq!(items(&wire.read), expected);
}

#[test]
fn who_is_too_slow_gets_what_has_begun_and_its_answers() {
    let mut wire = Wire::new(200, SlowPolicy::Disconnect);
    wire.message(20);
    wire.send(1);
    wire.message(20);
    wire.answer(5);
    (0..10).for_each(|_| wire.message(20));
    assert!(wire.too_slow);
    wire.answer(6);
    wire.check();
    assert_eq!(items(&wire.read).iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), b"MAA");
}

#[test]
fn one_message_is_taken_whatever_its_size_when_nothing_is_owed() {
    for policy in [SlowPolicy::Disconnect, SlowPolicy::DropOldest, SlowPolicy::DropNewest] {
        let mut wire = Wire::new(10, policy);
        wire.message(9000);
        wire.send(3);
        assert!(!wire.too_slow && wire.missed == 0);
        wire.check();
        assert_eq!(items(&wire.read), [(b'M', 0)]);
    }
}

/// A kernel that took only complete messages leaves no item that has begun.
#[test]
fn a_turns_messages_beyond_the_limit_are_dropped_once_the_kernel_has_not_taken_them() {
    for (policy, expected) in [
        (SlowPolicy::DropOldest, [(b'M', 0), (b'N', 7), (b'M', 8), (b'M', 9)]),
        (SlowPolicy::DropNewest, [(b'M', 0), (b'M', 1), (b'M', 2), (b'N', 7)]),
    ] {
        let mut wire = Wire::new(170, policy);
        (0..10).for_each(|_| wire.message(20));
        wire.send(33);
        wire.check();
        assert_eq!(items(&wire.read), expected);
    }
}

#[test]
fn a_flood_of_the_shortest_messages_costs_memory_in_bounds() {
    let mut wire = Wire::new(1 << 20, SlowPolicy::DropOldest);
    wire.message(2000);
    wire.send(1);
    for _ in 0..1_000_000 {
        let message = Messages { bytes: b"x", shared: None, lengths: &[1] };
        wire.output.offer(message, &wire.limits, &mut wire.missed);
    }
    let behind = wire.output.behind().unwrap();
    let queues = [&behind.fixed, &behind.rest];
    let memory: usize =
        queues.iter().map(|queue| queue.items.capacity() * size_of::<Item>() + queue.copied.capacity()).sum();
    assert!(memory <= 2 << 20, "{memory}");
    assert!(size_of::<Item>() <= ITEM_COST / 2);
}
