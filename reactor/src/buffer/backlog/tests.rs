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

/// Messages of these lengths, published together.
fn publish(output: &mut Output, lengths: &[u32]) {
    let bytes = vec![b'm'; lengths.iter().sum::<u32>() as usize];
    assert!(output.put_messages(Messages { bytes: &bytes, shared: None, lengths }, Box::default));
}

/// Offers a message of `length` bytes to a peer that does not take its output.
fn offer(output: &mut Output, length: usize, limits: &Limits, missed: &mut u64) -> Offered {
    output.offer(Messages { bytes: &vec![b'm'; length], shared: None, lengths: &[length as u32] }, limits, missed)
}

fn a_queue_of(member_queue: usize, slow_members: SlowPolicy) -> Limits {
    Limits { member_queue, slow_members, ..Limits::default() }
}

#[test]
fn writes_behind_messages_stand_in_one_item_and_shared_ones_in_their_own() {
    let mut output = Output::default();
    publish(&mut output, &[10]);
    output.put(b"first ");
    output.put(b"second");
    assert_eq!(output.behind().unwrap().cost(), 10 + 12 + 2 * ITEM_COST);
    output.put_shared(Bytes::from(vec![0; 5000]));
    output.put_shared(Bytes::from(vec![0; 6000]));
    assert_eq!(output.behind().unwrap().cost(), 11_022 + 4 * ITEM_COST);
    assert_eq!(output.queued(), 11_022);
}

#[test]
fn queued_bytes_are_those_that_have_not_left_whatever_they_are() {
    let mut output = Output::default();
    publish(&mut output, &[10, 20, 30]);
    output.put_shared(Bytes::from(vec![0; 5000]));
    output.put_file(Arc::new(nameless_file()), 0..700);
    publish(&mut output, &[40]);
    let mut queued = 10 + 20 + 30 + 5000 + 700 + 40;
    // Two messages and half of the third, the rest of the third, two parts of the payload, two parts of the file.
    for count in [45, 15, 4000, 1000, 600, 100, 39] {
        output.advance(count);
        queued -= count;
        assert_eq!(output.queued(), queued);
    }
    assert_eq!(output.waiting(), (0, 0), "a message that has begun to leave waits no more");
    output.advance(1);
    assert!(output.is_done());
}

#[test]
fn messages_in_one_piece_leave_in_one_piece() {
    let mut output = Output::default();
    publish(&mut output, &[1, 2]);
    assert_eq!(output.single(), Some(&b"mmm"[..]));
    output.put_shared(Bytes::from(vec![0; 5000]));
    assert_eq!(output.single(), None);
}

#[test]
fn messages_are_fresh_until_the_limit_was_applied() {
    let (mut output, mut missed) = (Output::default(), 0);
    publish(&mut output, &[10]);
    assert!(output.has_fresh_messages());
    assert_eq!(output.trim(&a_queue_of(1000, SlowPolicy::DropOldest), &mut missed), Offered::Taken);
    assert_eq!((output.is_behind(), output.has_fresh_messages(), missed), (true, false, 0));
}

#[test]
fn kept_messages_are_writes_that_no_policy_drops() {
    let mut output = Output::default();
    let shared = Bytes::from(vec![b'm'; 5000]);
    publish(&mut output, &[10]);
    assert!(output.put_messages(Messages { bytes: &shared, shared: Some(&shared), lengths: &[5000] }, Box::default));
    assert_eq!(output.waiting().1, 2);
    output.keep_messages();
    assert_eq!((output.waiting(), output.has_fresh_messages()), ((0, 0), false));
    assert_eq!((output.drop_messages(), output.queued()), (0, 5010));
}

#[test]
fn a_waiting_message_stays_shared_from_64_kib_on_and_a_shorter_one_is_copied() {
    const MIN: usize = 64 * 1024;
    for (length, is_shared) in [(MIN - 1, false), (MIN, true)] {
        let (mut output, mut missed) = (Output::default(), 0);
        let payload = Bytes::from(vec![0; length]);
        let message = Messages { bytes: &payload, shared: Some(&payload), lengths: &[length as u32] };
        assert!(output.put_messages(message, Box::default));
        output.trim(&a_queue_of(usize::MAX, SlowPolicy::DropOldest), &mut missed);
        assert_eq!(output.own_memory() < length, is_shared, "{length}");
        assert_eq!(output.queued(), length);
    }
}

#[test]
fn a_backlog_s_memory_is_that_of_its_items_and_copied_bytes() {
    let mut output = Output::default();
    publish(&mut output, &[1; 100]);
    let behind = output.behind().unwrap();
    let items = behind.rest.items.capacity();
    assert!(items >= 100);
    assert_eq!(behind.capacity(), items * size_of::<Item>() + behind.rest.copied.capacity());
}

#[test]
fn dropped_messages_give_back_the_memory_of_their_items() {
    let mut output = Output::default();
    publish(&mut output, &[100; 1000]);
    output.put(b"an answer");
    assert!(output.own_memory() > 100_000);
    assert_eq!(output.drop_messages(), 1000);
    assert_eq!(output.to_vec(), b"an answer");
    assert!(output.own_memory() < 1000, "{}", output.own_memory());
}

#[test]
fn an_empty_message_is_never_missed_and_any_message_is_taken_when_nothing_waits() {
    let limits = a_queue_of(100, SlowPolicy::DropNewest);
    let (mut output, mut missed) = (Output::default(), 0);
    assert_eq!(offer(&mut output, 1000, &limits, &mut missed), Offered::Taken);
    assert_eq!(offer(&mut output, 0, &limits, &mut missed), Offered::Taken);
    assert_eq!((output.queued(), missed), (1000, 0));
    assert_eq!(offer(&mut output, 1, &limits, &mut missed), Offered::Dropped);
    assert_eq!(missed, 1);
}

#[test]
fn as_few_of_the_oldest_go_as_the_newest_needs_and_none_if_all_would_not_do() {
    // Two messages of ten bytes wait. The notice of a dropped one takes the place of an item, too.
    for (room, missed_in_all) in [(2 * 10 + 3 * ITEM_COST, 1), (2 * 10 + 3 * ITEM_COST - 1, 2)] {
        let limits = a_queue_of(room, SlowPolicy::DropOldest);
        let (mut output, mut missed) = (Output::default(), 0);
        for _ in 0..3 {
            assert_eq!(offer(&mut output, 10, &limits, &mut missed), Offered::Taken);
        }
        assert_eq!((output.queued(), missed), (10 * (3 - missed_in_all), missed_in_all as u64));
    }

    // Beside a write of 50 bytes and the notice, a message of 10 bytes fits exactly into the rest.
    for (more, offered, expected) in [(0, Offered::Taken, (60, 1)), (1, Offered::Dropped, (60, 1))] {
        let limits = a_queue_of(50 + ITEM_COST + 10 + ITEM_COST, SlowPolicy::DropOldest);
        let (mut output, mut missed) = (Output::default(), 0);
        publish(&mut output, &[10]);
        output.trim(&limits, &mut missed);
        output.put(&[0; 50]);
        assert_eq!(offer(&mut output, 10 + more, &limits, &mut missed), offered, "{more}");
        assert_eq!((output.queued(), missed), expected, "{more}");
        assert_eq!(
            output.is_missing(),
            offered == Offered::Taken,
            "the oldest message stays if its drop gains nothing"
        );
    }
}

#[test]
fn payloads_are_counted_wherever_a_drop_has_moved_them() {
    let budget = Arc::new(Budget::new(usize::MAX, None));
    let mut output = Output::default();
    publish(&mut output, &[10]);
    output.put_shared(Bytes::from(vec![0; 10_000]));
    publish(&mut output, &[10]);
    assert_eq!(output.drop_messages(), 2);
    output.count_payloads(&budget);
    assert_eq!(budget.held(), 10_000);
    drop(output);

    let mut output = Output::default();
    publish(&mut output, &[10]);
    output.put_shared(Bytes::from(vec![0; 20_000]));
    output.count_payloads(&budget);
    assert_eq!(budget.held(), 20_000, "the first is gone with its output");
}

/// One send visits 1,024 items. Later items belong to the next send.
#[test]
fn a_send_of_very_many_short_writes_leaves_none_of_them_out() {
    let mut output = Output::default();
    let mut expected = Vec::new();
    for at in 0..1100u32 {
        publish(&mut output, &[1]);
        output.put(&[at as u8]);
        expected.push(at as u8);
    }
    assert_eq!(output.drop_messages(), 1100);
    publish(&mut output, &[3]);
    expected.extend_from_slice(b"mmm");
    let mut sent = Vec::new();
    while !output.is_done() {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = output.gather(&mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        output.advance(bytes.len());
        sent.extend(bytes);
    }
    assert_eq!(sent, expected);
}
