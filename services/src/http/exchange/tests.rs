//! Streams of requests and their replies, whole and in pieces, without a connection.

use super::model::{next, outcome};
use super::*;

/// Returns the replies to a stream that arrives in pieces, the error that ended the stream, and the number of unread
/// bytes.
fn replies<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Owed>, Option<Status>, usize) {
    let outcome = outcome(pieces);
    (outcome.replies, outcome.status, outcome.left.len())
}

fn kinds(stream: &[u8]) -> Vec<Kind> {
    let (replies, status, left) = replies([stream]);
    assert_eq!((status, left), (None, 0), "{}", stream.escape_ascii());
    replies.iter().map(|reply| reply.kind).collect()
}

const STREAM: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\
    \r\nHEAD / HTTP/1.1\nHost: a\n\n\
    POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nGET / H\
    \r\n\nPUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhi\r\n0\r\nA: b\r\n\r\n\
    OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\
    BREW / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn requests_with_and_without_bodies_stay_in_step() {
    let (replies, status, left) = replies([STREAM]);
    assert_eq!((status, left), (None, 0));
    let not_allowed = Kind::Refusal(Status::MethodNotAllowed);
    let not_implemented = Kind::Refusal(Status::NotImplemented);
    let expected = [Kind::Page, Kind::Page, not_allowed, not_allowed, Kind::Options, not_implemented];
    assert_eq!(replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(), expected);
    assert_eq!(
        replies.iter().map(|reply| reply.bodiless).collect::<Vec<_>>(),
        [false, true, false, false, false, false]
    );
    let persistence: Vec<_> = replies.iter().map(|reply| reply.persistence).collect();
    assert_eq!(persistence[3..], [Persistence::Implied, Persistence::Stated, Persistence::Ended]);
}

#[test]
#[cfg_attr(miri, ignore = "too many splits to be interpreted")]
fn every_split_gives_the_same_replies() {
    let whole = replies([STREAM]);
    for first in 0..=STREAM.len() {
        assert_eq!(replies([&STREAM[..first], &STREAM[first..]]), whole, "split at {first}");
        let second = (first + 3).min(STREAM.len());
        assert_eq!(replies([&STREAM[..first], &STREAM[first..second], &STREAM[second..]]), whole, "split at {first}");
    }
    assert_eq!(replies(STREAM.chunks(1)), whole);
}

#[test]
fn a_few_empty_lines_before_a_request_are_overlooked() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let after = |count: usize| [&b"\r\n".repeat(count)[..], request].concat();
    assert_eq!(kinds(&after(EMPTY_LINES_MAX as usize)), [Kind::Page]);
    assert_eq!(replies([&after(EMPTY_LINES_MAX as usize + 1)[..]]).1, Some(Status::BadRequest));
    assert_eq!(kinds(&after(EMPTY_LINES_MAX as usize).repeat(3)), [Kind::Page; 3], "counted for each request");
    assert_eq!(replies([&b"\r"[..], b"\n"]), (vec![], None, 0));
    assert_eq!(replies([&b"\rGET"[..]]).1, Some(Status::BadRequest));
    let mut exchange = Exchange::new(Duration::ZERO);
    exchange.next_head(&mut Input::of(b"\r\n")).unwrap();
    assert!(!exchange.has_begun());
}

#[test]
fn what_is_wrong_is_told_before_the_end_of_a_head_that_dribbles() {
    let head = [b"GET / HTTP/1.1\r\nHost : a\r\n".to_vec(), b"A: b\r\n".repeat(90)].concat();
    let (_, status, _) = replies(head.chunks(1).take(64));
    assert_eq!(status, Some(Status::BadRequest));
    let long = [b"GET /".to_vec(), vec![b'x'; 2 * request::LINE_MAX]].concat();
    assert_eq!(replies(long.chunks(100)).1, Some(Status::UriTooLong));
    let large = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'x'; HEAD_MAX]].concat();
    assert_eq!(replies(large.chunks(100)).1, Some(Status::HeaderFieldsTooLarge));
}

#[test]
fn the_last_request_of_an_application_that_stops_ends_the_connection() {
    let mut exchange = Exchange::new(Duration::ZERO);
    exchange.stopping = true;
    let mut input = Input::of(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(next(&mut exchange, &mut input, &mut 0).unwrap().unwrap().persistence, Persistence::Ended);
}

#[test]
fn a_body_progresses_by_bytes_and_a_head_only_as_a_whole() {
    let mut exchange = Exchange::new(Duration::ZERO);
    assert!(!exchange.has_progressed(0));
    let (head, _) = Head::parse(b"PUT / HTTP/1.0\r\nContent-Length: 100\r\n\r\n").unwrap().unwrap();
    exchange.expect(&head, 100, Owed::refusal(Status::BadRequest));
    exchange.skip_body(&mut Input::of(&[0; 10])).unwrap();
    assert!(exchange.has_progressed(10));
    exchange.skip_body(&mut Input::of(&[0; 9])).unwrap();
    assert!(!exchange.has_progressed(10));
}

#[test]
fn whoever_asks_for_a_tunnel_is_told_at_once_and_heard_no_more() {
    let stream = b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (replies, status, _) = replies([&stream[..]]);
    let expected = Owed::refusal(Status::MethodNotAllowed);
    assert_eq!((replies, status), (vec![expected], None));
}

#[test]
fn what_is_refused_in_the_middle_of_a_request_to_head_has_no_body() {
    for (begun, bodiless) in [
        ("HEAD / HT", true),
        ("GET / HT", false),
        ("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nHEAD ", false),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET", false),
    ] {
        let mut exchange = Exchange::new(Duration::ZERO);
        let (mut input, mut examined) = (Input::of(begun.as_bytes()), 0);
        while let Ok(Some(_)) = next(&mut exchange, &mut input, &mut examined) {}
        assert_eq!(exchange.refusal(Status::RequestTimeout).bodiless, bodiless, "{begun}");
    }
}
