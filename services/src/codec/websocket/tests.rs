use reactor::{Input, Output};

use super::model::{Heard, MAX, Said, hear, masked, read};
use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn whole(frames: &[Vec<u8>]) -> Vec<Said> {
    let stream = frames.concat();
    let heard = hear([&stream[..]]);
    for size in [1, 2, 3, 5, 7] {
        assert_eq!(hear(stream.chunks(size)), heard, "in pieces of {size}");
    }
    for cut in 0..stream.len().min(600) {
        assert_eq!(hear([&stream[..cut], &stream[cut..]]), heard, "cut at {cut}");
    }
    assert_eq!(read(&stream), heard, "the model");
    heard.0
}

fn text(text: &str) -> Said {
    Said::Text(text.into())
}

#[test]
fn rfc_6455s_examples_are_read_and_written() {
    let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec();
    assert_eq!(whole(&[hello]), [text("Hello")]);
    let ping = b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec();
    assert_eq!(whole(&[ping]), [Said::Ping(b"Hello".to_vec())]);
    assert_eq!(shared(Kind::Text, b"Hello"), &b"\x81\x05Hello"[..]);
    assert_eq!(shared(Kind::Pong, b"Hello"), &b"\x8a\x05Hello"[..]);
    assert_eq!(shared(Kind::Binary, &[7; 256])[..5], *b"\x82\x7e\x01\x00\x07");
    assert_eq!(shared(Kind::Binary, &[7; 65_536])[..11], *b"\x82\x7f\0\0\0\0\0\x01\0\0\x07");
}

#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn each_way_to_write_a_length_is_read_and_none_but_the_shortest() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let payload = vec![b'x'; length];
        let stream = masked(0x82, MASK, &payload);
        assert_eq!(hear([&stream[..]]).0, [Said::Binary(payload.clone())], "{length}");
        assert_eq!(hear(stream.chunks(4096)).0, [Said::Binary(payload)], "{length}, in pieces");
        let mut bytes = Vec::new();
        append(Kind::Binary, &vec![b'x'; length], &mut bytes);
        assert_eq!(
            bytes.len() - length,
            if length < 126 {
                2
            } else if length < 65_536 {
                4
            } else {
                10
            }
        );
        let mut output = Output::default();
        put(Kind::Binary, &vec![b'x'; length], &mut output.writer());
        assert_eq!(output.queued(), bytes.len());
    }
    for head in [&b"\x82\xfe\0\x7d"[..], b"\x82\xff\0\0\0\0\0\0\xff\xff", b"\x82\xff\x80\0\0\0\0\0\0\0"] {
        assert_eq!(whole(&[head.to_vec()]), [Said::Error(1002)], "{}", head.escape_ascii());
    }
}

#[test]
fn control_frames_may_come_between_fragments_and_nothing_else() {
    let fragments = [
        masked(0x01, MASK, "gr".as_bytes()),
        masked(0x89, MASK, b"1"),
        masked(0x00, MASK, b"\xc3"),
        masked(0x8a, MASK, &[0xff; 125]),
        masked(0x00, MASK, b""),
        masked(0x80, MASK, b"\xbc\xc3\x9f"),
        masked(0x82, MASK, b"\xff"),
    ];
    let pong = Said::Pong(vec![0xff; 125]);
    assert_eq!(whole(&fragments), [Said::Ping(b"1".to_vec()), pong, text("grüß"), Said::Binary(vec![0xff])]);
    for frames in [
        [masked(0x01, MASK, b"a"), masked(0x81, MASK, b"b")],
        [masked(0x01, MASK, b"a"), masked(0x02, MASK, b"b")],
        [masked(0x80, MASK, b"a"), vec![]],
        [masked(0x00, MASK, b"a"), vec![]],
        [masked(0x09, MASK, b"a"), vec![]],
        [masked(0x89, MASK, &[0; 126]), vec![]],
    ] {
        assert_eq!(whole(&frames), [Said::Error(1002)]);
    }
}

#[test]
fn frames_that_the_protocol_does_not_know_are_refused_at_their_first_byte_and_unmasked_ones_at_their_second() {
    for first in 0..=255u8 {
        let known = matches!(first, 0x01 | 0x02 | 0x81 | 0x82 | 0x88 | 0x89 | 0x8a);
        let expected = if known { vec![] } else { vec![Said::Error(1002)] };
        assert_eq!(whole(&[vec![first]]), expected, "{first:#x}");
        assert_eq!(whole(&[vec![first, 5]]), [Said::Error(1002)], "{first:#x}, not masked");
    }
}

#[test]
fn a_message_over_its_limit_is_refused_before_its_payload() {
    let head = |first: u8, length: u64| [&[first, 0xff][..], &length.to_be_bytes()].concat();
    assert_eq!(whole(&[head(0x81, MAX as u64 + 1)]), [Said::Error(1009)]);
    assert_eq!(whole(&[head(0x82, i64::MAX as u64)]), [Said::Error(1009)]);
    assert_eq!(hear([&[masked(0x01, MASK, b"a"), head(0x80, MAX as u64)].concat()[..]]).0, [Said::Error(1009)]);
    // A limit of the decoder's own, to the byte.
    let mut buffers = Buffers::default();
    for (length, expected) in [(5, Ok(Some(Event::Binary(&[7; 5][..])))), (6, Err(CloseCode::TOO_BIG))] {
        let frame = masked(0x82, MASK, &vec![7; length]);
        let (mut decoder, mut input) = (Decoder::new(5), Input::of(&frame));
        assert_eq!(decoder.next(&mut input, &mut buffers).map_err(|error| error.code), expected);
    }
}

#[test]
fn a_text_that_is_not_utf_8_is_refused_at_its_first_wrong_byte() {
    for (good, wrong) in
        [(&b""[..], 0xff), (b"a", 0x80), (b"\xc3", b'('), (b"\xed", 0xa0), (b"\xf0", 0x80), (b"\xf4", 0x90)]
    {
        // The frame and the message go on after the wrong byte, which is the last that has arrived.
        let payload = [b"fine ", good, &[wrong], b" never sent"].concat();
        let frame = masked(0x01, MASK, &payload);
        let end = frame.len() - " never sent".len();
        assert_eq!(hear([&frame[..end - 1]]).0, []);
        assert_eq!(hear([&frame[..end]]).0, [Said::Error(1007)], "{}", payload.escape_ascii());
        assert_eq!(whole(&[frame]), [Said::Error(1007)]);
    }
    let cut = [masked(0x01, MASK, b"\xe2\x82"), masked(0x80, MASK, b"\xac")];
    assert_eq!(whole(&cut), [text("€")]);
    assert_eq!(whole(&[masked(0x81, MASK, b"\xe2\x82")]), [Said::Error(1007)], "unfinished at the end");
    assert_eq!(whole(&[masked(0x82, MASK, b"\xe2\x82")]), [Said::Binary(b"\xe2\x82".to_vec())]);
}

#[test]
fn a_close_frame_has_a_valid_code_and_a_reason_in_utf_8_or_nothing() {
    let close = |payload: &[u8]| whole(&[masked(0x88, MASK, payload), masked(0x81, MASK, b"after")]);
    assert_eq!(close(b""), [Said::Close(1005, vec![])]);
    assert_eq!(close(b"\x03\xe8bye \xe2\x82\xac"), [Said::Close(1000, "bye €".into())]);
    assert_eq!(close(b"\x03"), [Said::Error(1002)]);
    assert_eq!(close(b"\x03\xe8\xff"), [Said::Error(1007)]);
    let valid: Vec<u16> = (0..=u16::MAX).filter(|&code| CloseCode::new(code).is_some()).collect();
    let ranges = (1000..=1003).chain(1007..=1014).chain(3000..=4999);
    assert_eq!(valid, ranges.collect::<Vec<_>>());
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_eq!(close(&u16::to_be_bytes(code)), [Said::Error(1002)], "{code}");
    }
}

#[test]
fn a_close_reason_is_cut_at_a_character_so_that_it_fits() {
    let payload = ControlPayload::close(CloseCode::POLICY, &"é".repeat(100));
    assert_eq!(payload.as_ref(), [b"\x03\xf0", "é".repeat(61).as_bytes()].concat());
    assert_eq!(ControlPayload::close(CloseCode::GOING_AWAY, "").as_ref(), b"\x03\xe9");
}

#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn the_longest_message_in_one_byte_fragments_is_held_once() {
    let mut stream = masked(0x01, MASK, b"x");
    (0..MAX - 2).for_each(|_| stream.extend(masked(0x00, MASK, b"x")));
    stream.extend(masked(0x80, MASK, b"x"));
    let expected = Heard(vec![text(&"x".repeat(MAX))]);
    // `hear` checks at every piece that at most twice the bytes are held.
    assert!(hear(stream.chunks(701)) == expected);
    assert!(hear([&stream[..]]) == expected);
}

#[test]
fn a_buffer_never_has_more_bytes_than_its_message_is_going_to_have() {
    let frame = masked(0x82, MASK, &vec![1; 50_001]);
    let (mut decoder, mut buffers) = (Decoder::new(MAX), Buffers::default());
    for piece in frame.chunks(4000) {
        let mut input = Input::of(piece);
        if decoder.next(&mut input, &mut buffers).unwrap().is_some() {
            assert_eq!(decoder.take_message(), vec![1; 50_001]);
        }
        assert!(decoder.held() <= 50_001, "{}", decoder.held());
    }
    assert_eq!(decoder.held(), 0, "it was taken out");
}

#[test]
fn a_decoder_without_an_unfinished_message_takes_96_bytes_at_most_and_holds_no_buffer() {
    assert!(size_of::<Decoder>() <= 96, "{}", size_of::<Decoder>());
    let frames = [masked(0x81, MASK, &[b'x'; 5000]), masked(0x89, MASK, b"?")].concat();
    let (mut decoder, mut buffers) = (Decoder::new(MAX), Buffers::default());
    let mut input = Input::of(&frames);
    while decoder.next(&mut input, &mut buffers).unwrap().is_some() {}
    assert_eq!(decoder.held(), 0);
}

#[test]
fn a_flood_of_pings_is_answered_by_few_pongs_of_which_the_last_is_for_the_newest() {
    let (mut pongs, mut output) = (Pongs::default(), Output::default());
    for number in 0..1000u16 {
        pongs.answer(&number.to_be_bytes(), &mut output.writer());
    }
    assert!(pongs.is_unfinished());
    let before = output.queued();
    pongs.finish(&mut output.writer());
    assert_eq!((before, output.queued() - before), (Pongs::EACH as usize * 4, 4));
    assert_eq!(ControlPayload::of(&[1; 200]).as_ref(), [1; CONTROL_MAX]);
    pongs.finish(&mut output.writer());
    assert_eq!(output.queued() - before, 4, "once");
}
