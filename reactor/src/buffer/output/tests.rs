//! The output, sent in steps of every length: the arriving bytes, their order, and the limit.

use std::io::IoSlice;

use super::*;
use crate::budget::Budget;
use crate::buffer::{Messages, Offered};
use crate::limits::{Limits, SlowPolicy};

/// Sends everything in steps of at most `step` bytes, as a kernel would take them, and returns the arriving bytes.
fn drain(output: &mut Output, step: usize) -> Vec<u8> {
    let mut arrived = Vec::new();
    while !output.is_empty() {
        let mut taken = Vec::new();
        if let Some(bytes) = output.single() {
            taken.extend_from_slice(bytes);
        } else {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = output.gather(&mut slices);
            slices[..filled].iter().for_each(|slice| taken.extend_from_slice(slice));
        }
        taken.truncate(step);
        assert!(!taken.is_empty());
        output.advance(taken.len());
        arrived.extend(taken);
    }
    arrived
}

#[test]
fn copied_and_shared_bytes_leave_in_order_whatever_the_kernel_takes() {
    // Single bytes would take minutes under Miri.
    for step in [1, 7, 4096, 5000, usize::MAX].into_iter().skip(if cfg!(miri) { 2 } else { 0 }) {
        let mut output = Output::default();
        let mut expected = Vec::new();
        for round in 0..6u8 {
            let small = vec![round; 5 + round as usize];
            let large = Bytes::from(vec![100 + round; SHARE_MIN + round as usize]);
            expected.extend_from_slice(&small);
            expected.extend_from_slice(&large);
            output.put(&small);
            output.put_shared(large.clone());
            if round % 2 == 0 {
                output.put_shared(large.clone());
                expected.extend_from_slice(&large);
            }
        }
        output.put(b"end");
        expected.extend_from_slice(b"end");
        assert_eq!(output.queued(), expected.len());
        assert_eq!(drain(&mut output, step), expected, "step {step}");
        assert_eq!((output.queued(), output.ahead, output.run, output.sent), (0, 0, 0, 0));
    }
}

#[test]
fn a_handler_s_buffer_is_exchanged_when_nothing_is_queued_and_copied_behind_queued_bytes() {
    let mut output = Output::default();
    let mut buffer = b"first ".to_vec();
    let memory = buffer.as_ptr();
    output.put_vec(&mut buffer);
    assert_eq!((output.copied.as_ptr(), buffer.len()), (memory, 0));

    buffer.extend_from_slice(b"second ");
    output.put_vec(&mut buffer);
    assert!(buffer.is_empty());
    output.put_shared(Bytes::from(vec![b's'; SHARE_MIN]));
    let expected = [&b"first second "[..], &[b's'; SHARE_MIN]].concat();
    assert_eq!(drain(&mut output, 7), expected);

    // A shared piece is queued, and no copied byte.
    output.put_shared(Bytes::from(vec![b's'; SHARE_MIN]));
    buffer.extend_from_slice(b"third");
    output.put_vec(&mut buffer);
    assert!(buffer.is_empty());
    assert_eq!(drain(&mut output, 7), [&[b's'; SHARE_MIN], &b"third"[..]].concat());
}

#[test]
fn a_handler_s_buffer_over_the_limit_is_refused() {
    let mut output = Output::default();
    output.set_max(10);
    output.put(b"12345678");
    output.begin_write_above(4);
    let mut buffer = b"abc".to_vec();
    output.put_vec(&mut buffer);
    assert!(output.overflowed() && buffer.is_empty());
    assert_eq!(output.to_vec(), b"12345678");
}

#[test]
fn small_shared_bytes_are_copied_together_into_one_piece() {
    let mut output = Output::default();
    output.put_shared(Bytes::from_static(b"a"));
    output.put(b"b");
    assert_eq!(output.single(), Some(&b"ab"[..]));
}

#[test]
fn below_the_mark_one_write_is_taken_whatever_its_size_and_above_it_none_past_the_limit() {
    let mut output = Output::default();
    output.set_max(100);
    output.put(&[0; 20]);
    output.begin_write_above(20);
    // One write in several pieces, which began at the mark and not above.
    (0..3).for_each(|_| output.put(&[0; 90]));
    output.put_shared(Bytes::from(vec![0; 2 * SHARE_MIN]));
    assert_eq!((output.queued(), output.overflowed()), (20 + 270 + 2 * SHARE_MIN, false));
    output.begin_write_above(20);
    output.put(b"x");
    assert_eq!((output.queued(), output.overflowed()), (20 + 270 + 2 * SHARE_MIN, true));
    // No write follows a gap, not even one that would fit.
    output.advance(output.queued() - 10);
    output.begin_write_above(20);
    output.put(b"x");
    assert_eq!(output.queued(), 10);
}

#[test]
fn above_the_mark_writes_are_taken_up_to_the_limit() {
    let mut output = Output::default();
    output.set_max(100);
    output.put(&[0; 60]);
    for (length, queued) in [(30, 90), (10, 100)] {
        output.begin_write_above(20);
        output.put(&vec![0; length]);
        assert_eq!((output.queued(), output.overflowed()), (queued, false));
    }
    output.begin_write_above(20);
    output.put(b"x");
    assert!(output.overflowed());
}

#[test]
fn a_peer_that_never_catches_up_does_not_make_the_sent_part_grow() {
    let mut output = Output::default();
    output.put(&[1; 1000]);
    for _ in 0..10_000 {
        output.put(&[2; 1000]);
        output.advance(1000);
    }
    assert_eq!(output.queued(), 1000);
    assert!(output.capacity() < 512 * 1024, "{}", output.capacity());
}

#[test]
fn files_stand_in_their_place_and_count_as_owed_but_not_against_the_limit() {
    use std::os::unix::fs::FileExt;
    let file = Arc::new(crate::buffer::file::nameless_file());
    file.write_all_at(b"0123456789", 0).unwrap();
    let mut output = Output::default();
    output.set_max(20);
    output.put(b"head ");
    output.put_file(file.clone(), 2..5);
    output.put_file(file.clone(), 7..7);
    output.put(b" between ");
    output.put_file(file.clone(), 0..1_000_000);
    assert_eq!(output.queued(), 5 + 3 + 9 + 1_000_000);
    assert!(!output.overflowed() && output.has_file() && output.single().is_none() && output.file().is_none());

    let gathered = |output: &Output| {
        let mut slices = [IoSlice::new(&[]); 3];
        let filled = output.gather(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>()
    };
    assert_eq!(gathered(&output), b"head ");
    output.advance(1);
    assert_eq!(output.before_file(), Some(&b"ead "[..]));
    output.advance(4);
    assert_eq!(output.before_file(), None);
    let part = output.file().expect("it is next");
    assert_eq!((part.at(), part.length()), (2, 3));
    output.advance(1);
    assert_eq!(output.file().map(|part| (part.at(), part.length())), Some((3, 2)));
    output.advance(2);
    assert!(output.file().is_none());
    assert_eq!(gathered(&output), b" between ");
    assert_eq!(output.before_file(), Some(&b" between "[..]));
    output.advance(9);
    output.advance(999_999);
    assert_eq!(output.file().map(|part| (part.at(), part.length())), Some((999_999, 1)));
    output.put(b"tail");
    output.advance(1);
    assert_eq!(output.single(), Some(&b"tail"[..]));
    assert!(!output.has_file());
    output.clear();
    assert!(output.is_empty() && output.file().is_none());
}

#[test]
fn an_encoder_writes_into_lent_room_and_the_rest_of_it_is_cut_off() {
    let mut output = Output::default();
    output.put(b"[");
    assert_eq!(
        output.writer().put_with(100, |room| {
            assert_eq!(room, [0; 100]);
            room[..3].copy_from_slice(b"abc");
            3
        }),
        3
    );
    output.put(b"]");
    assert_eq!(output.to_vec(), b"[abc]");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| output.writer().put_with(2, |_| 3)));
    assert!(panic.is_err());
    assert_eq!(output.to_vec(), b"[abc]");
}

#[test]
fn lent_room_counts_by_what_was_written_and_not_by_its_length() {
    let mut output = Output::default();
    output.set_max(20);
    output.put(b"0123456789");
    output.begin_write_above(0);
    assert_eq!(
        output.writer().put_with(1000, |room| {
            room[..5].fill(b'x');
            5
        }),
        5
    );
    assert_eq!((output.queued(), output.overflowed()), (15, false));
    output.writer().put_with(1000, |room| room.len());
    assert_eq!((output.queued(), output.overflowed()), (15, true));
}

#[test]
fn what_an_encoder_has_put_can_be_read_back_whatever_it_consists_of() {
    use std::io::Write;
    let mut file = crate::buffer::file::nameless_file();
    file.write_all(b"0123456789").unwrap();
    let mut output = Output::default();
    let mut writer = output.writer();
    writer.put(b"copied ");
    writer.put_shared(Bytes::from(vec![b's'; SHARE_MIN]));
    writer.put_file(Arc::new(file), 2..5);
    writer.put_u16_le(0x4142);
    let expected = [&b"copied "[..], &[b's'; SHARE_MIN], b"234BA"].concat();
    assert_eq!(output.to_vec(), expected);
    output.advance(3);
    assert_eq!(output.to_vec(), expected[3..]);
}

/// The first action of a test on an output.
type Change = fn(&mut Output);

/// A run of messages of these lengths.
fn messages<'a>(bytes: &'a [u8], shared: Option<&'a Bytes>, lengths: &'a [u32]) -> Messages<'a> {
    Messages { bytes, shared, lengths }
}

/// Publishes one message of `length` bytes. Returns whether it was taken.
fn publish(output: &mut Output, length: usize) -> bool {
    output.put_messages(messages(&vec![0; length], None, &[length as u32]), Box::default)
}

fn a_file() -> Arc<File> {
    Arc::new(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap())
}

#[test]
fn a_writer_writes_to_its_output_and_knows_what_is_queued() {
    let mut output = Output::default();
    let mut writer = output.writer();
    assert!(writer.is_empty());
    writer.put_decimal(-17);
    assert_eq!((writer.queued(), writer.is_empty()), (3, false));
    assert_eq!(io::Write::write(&mut writer, b"four").unwrap(), 4);
    assert_eq!(format!("{writer:?}"), "Writer { queued: 7, .. }");
    assert_eq!(output.to_vec(), b"-17four");
}

#[test]
fn an_output_holds_its_copied_bytes_and_its_lists_and_all_that_is_queued_in_memory() {
    let mut output = Output::default();
    assert_eq!((output.own_memory(), output.all_memory(), output.capacity()), (0, 0, 0));
    output.put(&[0; 1000]);
    assert_eq!((output.own_memory(), output.all_memory()), (1000, 1000));
    assert_eq!(output.capacity(), output.copied.capacity());
    output.put_shared(Bytes::from(vec![0; 100_000]));
    let list = output.pieces.capacity() * size_of::<Piece>();
    assert!(list > 0);
    assert_eq!(output.own_memory(), 1000 + list);
    assert_eq!(output.capacity(), output.copied.capacity() + list);
    assert_eq!(output.all_memory(), 101_000);
    output.put_file(a_file(), 0..10);
    let list = output.pieces.capacity() * size_of::<Piece>();
    assert_eq!(output.all_memory(), 101_000, "the file is on its disk");
    assert!(publish(&mut output, 2000));
    let behind = output.behind().unwrap().capacity();
    assert!(behind > 2000, "{behind}");
    assert_eq!(output.own_memory(), 1000 + list + behind);
    assert_eq!(output.all_memory(), 103_000);
}

#[test]
fn shared_payloads_are_counted_once_and_given_back() {
    let budget = Arc::new(Budget::new(usize::MAX, None));
    let mut output = Output::default();
    let mut expected = 0;
    for length in [10_000, 20_000] {
        output.put_shared(Bytes::from(vec![0; length]));
        expected += length;
        for _ in 0..2 {
            output.count_payloads(&budget);
            assert_eq!(budget.held(), expected);
        }
    }
    let published = Bytes::from(vec![0; 30_000]);
    output.put_messages(messages(&published, Some(&published), &[30_000]), Box::default);
    output.count_payloads(&budget);
    assert_eq!(budget.held(), 60_000);
    #[cfg(feature = "sim")]
    {
        let lengths: Vec<usize> = output.payloads().iter().map(|(_, length)| *length).collect();
        assert_eq!(lengths, [10_000, 20_000, 30_000]);
        let end = published.as_ptr_range().end as usize;
        assert_eq!(output.payloads().last(), Some(&(end, 30_000)));
    }
    drop((output, published));
    assert_eq!(budget.held(), 0);
}

#[test]
fn a_published_payload_is_shared_from_a_length_on_and_shorter_ones_are_copied() {
    for (length, is_shared) in [(SHARE_MIN - 1, false), (SHARE_MIN, true)] {
        let mut output = Output::default();
        let payload = Bytes::from(vec![0; length]);
        output.put_messages(messages(&payload, Some(&payload), &[length as u32]), Box::default);
        assert_eq!(output.own_memory() < length, is_shared, "{length}");
    }
}

#[test]
fn dropped_messages_leave_what_has_begun_and_give_memory_back() {
    let mut output = Output::default();
    output.put(&[1; 10_000]);
    output.advance(4000);
    (0..3).for_each(|_| assert!(publish(&mut output, 100)));
    assert_eq!(output.drop_messages(), 3);
    assert_eq!((output.queued(), output.copied.len(), output.copied.capacity()), (6000, 6000, 6000));
    assert_eq!(output.own_memory(), 6000);
    assert_eq!(output.to_vec(), [1; 6000]);
    assert_eq!(output.drop_messages(), 0);
    output.advance(6000);
    assert!(output.is_done());
}

#[test]
fn published_messages_are_bounded_with_the_output_before_them_unless_nothing_is_queued() {
    let cases: [(&str, Change, usize, bool); 8] = [
        ("nothing", |_| {}, 1000, true),
        ("half", |output| output.put(&[0; 50]), 50, true),
        ("half", |output| output.put(&[0; 50]), 51, false),
        ("messages", |output| _ = publish(output, 50), 50, true),
        ("messages", |output| _ = publish(output, 50), 51, false),
        (
            "both",
            |output| {
                output.put(&[0; 30]);
                publish(output, 30);
            },
            41,
            false,
        ),
        ("a file", |output| output.put_file(a_file(), 0..100), 100, true),
        (
            "a gap",
            |output| {
                output.put(&[0; 50]);
                output.begin_write_above(0);
                output.put(&[0; 51]);
                output.advance(50);
            },
            1,
            false,
        ),
    ];
    for (name, fill, length, taken) in cases {
        let mut output = Output::default();
        output.set_max(100);
        fill(&mut output);
        assert_eq!(publish(&mut output, length), taken, "{name} {length}");
    }
}

#[test]
fn only_copied_bytes_without_anything_behind_them_are_plain() {
    let cases: [(bool, Change); 5] = [
        (true, |_| {}),
        (false, |output| output.advance(3)),
        (false, |output| output.put_shared(Bytes::from(vec![0; SHARE_MIN]))),
        (false, |output| _ = publish(output, 1)),
        (false, |output| {
            output.set_max(0);
            output.begin_write_above(0);
            output.put(b"more");
        }),
    ];
    for (plain, change) in cases {
        let mut output = Output::default();
        output.put(b"abc");
        change(&mut output);
        assert_eq!(output.plain(), plain.then_some(&b"abc"[..]));
    }
}

#[test]
fn shared_bytes_are_a_single_piece_only_by_themselves() {
    let large = Bytes::from(vec![1; SHARE_MIN]);
    let mut output = Output::default();
    output.put_shared(large.clone());
    assert_eq!(output.single(), Some(&large[..]));
    output.put(b"x");
    assert_eq!(output.single(), None);
    let mut output = Output::default();
    output.put_shared(large.clone());
    output.put_shared(large.clone());
    assert_eq!(output.single(), None);
    output.advance(large.len());
    assert_eq!(output.single(), Some(&large[..]));
}

#[test]
fn a_file_is_next_once_the_bytes_before_it_have_left() {
    let mut output = Output::default();
    output.put(b"head");
    publish(&mut output, 10);
    output.put_file(a_file(), 0..9);
    output.drop_messages();
    assert!(output.file().is_none());
    output.advance(4);
    assert_eq!(output.file().map(|part| part.length()), Some(9));

    let mut output = Output::default();
    output.put(b"head");
    assert!(output.file_behind().is_none());
    output.put_file(a_file(), 0..9);
    assert!(output.file().is_none());
    assert_eq!(output.file_behind().map(|part| part.length()), Some(9));
}

#[test]
fn the_memory_of_sent_bytes_is_reused_once_they_are_many_and_more_than_half() {
    let after = |put: usize, sent: usize| {
        let mut output = Output::default();
        output.put(&vec![0; put]);
        let capacity = output.copied.capacity();
        output.advance(sent);
        assert_eq!(output.queued(), put - sent);
        (output.copied.len(), output.copied.capacity() < capacity)
    };
    // Few, more than half, and many.
    assert_eq!(after(100_000, 65_536), (100_000, false));
    assert_eq!(after(200_000, 65_537), (200_000, false));
    assert_eq!(after(200_000, 100_000), (200_000, false));
    assert_eq!(after(200_000, 100_001), (99_999, false));
    // A quarter of the capacity is not short yet.
    assert_eq!(after(400_000, 300_000), (100_000, false));
    assert_eq!(after(400_000, 300_001), (99_999, true));
    let mut output = Output::default();
    output.put(&[0; 400_000]);
    output.advance(390_000);
    assert_eq!(output.copied.capacity(), 20_000);
}

#[test]
fn a_message_after_too_many_of_its_turn_is_missed_with_them() {
    let limits = Limits { member_queue: 1000, slow_members: SlowPolicy::Disconnect, ..Limits::default() };
    let (mut output, mut missed) = (Output::default(), 0);
    assert!(!output.has_fresh_messages());
    let (bytes, lengths) = ([0; 2000], [100; 20]);
    assert!(output.put_messages(messages(&bytes, None, &lengths), Box::default));
    assert!(output.has_fresh_messages() && output.is_behind());
    assert_eq!(output.offer(messages(&[0; 100], None, &[100]), &limits, &mut missed), Offered::TooSlow);
    assert_eq!(missed, 21);
    assert!(!output.is_behind());
}

#[test]
fn behind_messages_the_limit_counts_own_bytes_alone_and_neither_messages_nor_files() {
    let mut output = Output::default();
    output.set_max(100);
    output.put_file(a_file(), 0..500);
    assert!(publish(&mut output, 10));
    output.begin_write_above(20);
    output.put(&[0; 100]);
    assert_eq!((output.queued(), output.overflowed()), (610, false));
    output.put(b"");
    assert_eq!(output.behind().unwrap().kept_length(), 100);
    output.put(b"x");
    assert_eq!((output.queued(), output.overflowed()), (610, true));

    let mut output = Output::default();
    output.set_max(100);
    assert!(publish(&mut output, 10));
    output.begin_write_above(20);
    output.put(&[0; 1000]);
    assert!(!output.overflowed(), "one write is taken in full");
}

#[test]
fn an_empty_write_behind_messages_costs_nothing() {
    let mut output = Output::default();
    assert!(publish(&mut output, 10));
    let cost = output.behind().unwrap().cost();
    output.put(b"");
    assert_eq!(output.behind().unwrap().cost(), cost);
}

#[test]
fn files_behind_messages_take_no_memory_before_and_after_a_drop() {
    let limits = Limits { member_queue: 200, slow_members: SlowPolicy::DropOldest, ..Limits::default() };
    let (mut output, mut missed) = (Output::default(), 0);
    assert!(publish(&mut output, 10));
    output.put_file(a_file(), 0..500);
    assert_eq!(output.behind().unwrap().in_memory(), 10);
    for _ in 0..9 {
        output.offer(messages(&[0; 10], None, &[10]), &limits, &mut missed);
    }
    assert!(missed > 0);
    let kept = 10 - missed as usize;
    assert_eq!(output.behind().unwrap().in_memory(), 10 * kept);
    assert_eq!(output.queued(), 500 + 10 * kept);
}

#[test]
fn a_notice_of_files_and_shared_bytes_stands_before_the_messages() {
    let mut output = Output::default();
    assert!(publish(&mut output, 10));
    assert_eq!(output.take_missed(), 0);
    let large = Bytes::from(vec![1; SHARE_MIN]);
    output.put_shared(large.clone());
    output.put_file(a_file(), 0..9);
    output.notice_done();
    output.advance(large.len());
    assert_eq!(output.file().map(|part| part.length()), Some(9), "and not the message");
}
