//! The output, sent in steps of every length: the arriving bytes, their order, and the limit.

use std::io::IoSlice;

use super::*;

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
    output.begin_write(4);
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
    output.begin_write(20);
    // One write in several pieces, which began at the mark and not above.
    (0..3).for_each(|_| output.put(&[0; 90]));
    output.put_shared(Bytes::from(vec![0; 2 * SHARE_MIN]));
    assert_eq!((output.queued(), output.overflowed()), (20 + 270 + 2 * SHARE_MIN, false));
    output.begin_write(20);
    output.put(b"x");
    assert_eq!((output.queued(), output.overflowed()), (20 + 270 + 2 * SHARE_MIN, true));
    // No write follows a gap, not even one that would fit.
    output.advance(output.queued() - 10);
    output.begin_write(20);
    output.put(b"x");
    assert_eq!(output.queued(), 10);
}

#[test]
fn above_the_mark_writes_are_taken_up_to_the_limit() {
    let mut output = Output::default();
    output.set_max(100);
    output.put(&[0; 60]);
    for (length, queued) in [(30, 90), (10, 100)] {
        output.begin_write(20);
        output.put(&vec![0; length]);
        assert_eq!((output.queued(), output.overflowed()), (queued, false));
    }
    output.begin_write(20);
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
    output.begin_write(0);
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
