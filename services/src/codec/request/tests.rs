//! Tables of raw heads and their outcomes, whole and cut at every place.

use proptest::prelude::*;

use super::*;
use crate::chance::Chance;
use crate::pieces::seeds;

fn status(head: &[u8]) -> u16 {
    match Head::parse(head) {
        Ok(Some((_, length))) => {
            assert_eq!(length, head.len(), "{}", head.escape_ascii());
            200
        }
        Ok(None) => 0,
        Err(status) => status.code(),
    }
}

#[track_caller]
fn parsed(head: &str) -> Head<'_> {
    Head::parse(head.as_bytes()).unwrap().unwrap().0
}

/// Header fields after `GET / HTTP/1.1` and a `Host` line.
const FIELDS: &[(&str, u16)] = &[
    ("\r\n", 200),
    ("\n", 200),
    ("A: b\nC:d\r\nE:\r\n\r\n", 200),
    ("A: b\u{fc}\r\n\r\n", 200),
    ("hOST: b\r\n\r\n", 400),
    ("Host: a\r\n\r\n", 400),
    ("A : b\r\n\r\n", 400),
    (" A: b\r\n\r\n", 400),
    ("A: b\r\n c\r\n\r\n", 400),
    ("A: b\r\n\tc\r\n\r\n", 400),
    ("A: b\rc\r\n\r\n", 400),
    ("A: b\r\r\n\r\n", 400),
    ("A: b\0\r\n\r\n", 400),
    ("A: b\r\n\r\r\n", 400),
    ("A\r\n\r\n", 400),
    (": b\r\n\r\n", 400),
    ("A(: b\r\n\r\n", 400),
    ("Content-Length: 5\r\n\r\n", 200),
    ("Content-Length: 0\r\n\r\n", 200),
    ("Content-Length: 99999999999999999999999\r\n\r\n", 200),
    ("Content-Length: \r\n\r\n", 400),
    ("Content-Length: 5x\r\n\r\n", 400),
    ("Content-Length: +5\r\n\r\n", 400),
    ("Content-Length: -5\r\n\r\n", 400),
    ("Content-Length: 0x5\r\n\r\n", 400),
    ("Content-Length: 5, 5\r\n\r\n", 400),
    ("Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    ("Content-Length: 5\r\ncontent-length: 5\r\n\r\n", 400),
    ("Transfer-Encoding: chunked\r\n\r\n", 200),
    ("transfer-encoding: CHUNKED\r\n\r\n", 200),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    ("Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    ("Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("Transfer-Encoding: identity\r\n\r\n", 400),
    ("Transfer-Encoding: xchunked\r\n\r\n", 400),
    ("Transfer-Encoding: \"chunked\"\r\n\r\n", 400),
    ("Transfer-Encoding: , chunked\r\n\r\n", 400),
    ("Transfer-Encoding:\r\n\r\n", 400),
    ("Transfer-Encoding : chunked\r\n\r\n", 400),
    ("Transfer-Encoding: \u{b}chunked\r\n\r\n", 400),
    ("Expect: 100-continue\r\n\r\n", 200),
    ("Expect: 100-Continue\r\n\r\n", 200),
    ("Expect: a-pony\r\n\r\n", 417),
    ("Expect: 100-continue, a-pony\r\n\r\n", 417),
    ("Expect: 100-continue,, 100-continue\r\n\r\n", 200),
    ("Expect:\r\n\r\n", 200),
];

/// Request lines, to be followed by a `Host` line and an empty line.
const LINES: &[(&str, u16)] = &[
    ("GET / HTTP/1.1\r\n", 200),
    ("GET / HTTP/1.1\n", 200),
    ("get / HTTP/1.1\r\n", 200),
    ("BREW /pot HTTP/1.1\r\n", 200),
    ("GET /a?b=c&d=%20 HTTP/1.0\r\n", 200),
    ("GET /\u{fc} HTTP/1.1\r\n", 200),
    ("GET http://a/b HTTP/1.1\r\n", 200),
    ("GET HTTP://a:80 HTTP/1.1\r\n", 200),
    ("GET http://[::1]:80?q HTTP/1.1\r\n", 200),
    ("GET http:///b HTTP/1.1\r\n", 400),
    ("GET http://u@a/ HTTP/1.1\r\n", 400),
    ("GET ftp://a/b HTTP/1.1\r\n", 400),
    ("OPTIONS * HTTP/1.1\r\n", 200),
    ("GET * HTTP/1.1\r\n", 400),
    ("CONNECT a:80 HTTP/1.1\r\n", 200),
    ("GET a:80 HTTP/1.1\r\n", 400),
    ("GET a HTTP/1.1\r\n", 400),
    ("GET / HTTP/2.0\r\n", 505),
    ("GET / HTTP/1.2\r\n", 200),
    ("GET / HTTP/1.9\n", 200),
    ("GET  / HTTP/1.2\r\n", 400),
    ("GET /  HTTP/1.2\r\n", 400),
    ("GET /\u{7f} HTTP/1.2\r\n", 400),
    ("G@T / HTTP/1.2\r\n", 400),
    ("GET a HTTP/1.2\r\n", 400),
    ("GET / HTTP/1.2 \r\n", 400),
    ("GET / HTTP/1.22\r\n", 400),
    ("GET / HTTP/1\r\n", 400),
    ("GET / HTTP/0.9\r\n", 505),
    ("GET / HTTP/3\r\n", 505),
    ("GET / HTTP/10.1\r\n", 505),
    ("PRI * HTTP/2.0\r\n", 505),
    ("GET / HTTP/1.1x\r\n", 400),
    ("GET / HTTP/1.\r\n", 400),
    ("GET / HTTP/.1\r\n", 400),
    ("GET / HTTP/1.1.1\r\n", 400),
    ("GET / http/1.1\r\n", 400),
    ("GET / HTTP 1.1\r\n", 400),
    ("GET / HTTPS/1.1\r\n", 400),
    ("GET /\r\n", 400),
    ("GET\r\n", 400),
    ("GET  / HTTP/1.1\r\n", 400),
    ("GET /  HTTP/1.1\r\n", 400),
    ("GET / HTTP/1.1 \r\n", 400),
    (" GET / HTTP/1.1\r\n", 400),
    ("GET /a b HTTP/1.1\r\n", 400),
    ("GET\t/ HTTP/1.1\r\n", 400),
    ("GET / HTTP/1.1\r\r\n", 400),
    ("GET /\0 HTTP/1.1\r\n", 400),
    ("G@T / HTTP/1.1\r\n", 400),
    ("\u{16}\u{3}\u{1}\r\n", 400),
];

const HOSTS: &[(&str, u16)] = &[
    ("a", 200),
    ("", 200),
    ("a.example:8080", 200),
    ("127.0.0.1:80", 200),
    ("[::1]", 200),
    ("[::1]:80", 200),
    ("a:", 200),
    ("a:65535", 200),
    ("a:00080", 200),
    ("%41", 200),
    ("a%4a%4Ab:80", 200),
    ("under_score", 200),
    ("a b", 400),
    ("a, b", 400),
    ("a/b", 400),
    ("http://a", 400),
    ("u@a", 400),
    ("a:b", 400),
    ("a:80:80", 400),
    ("a:123456", 400),
    ("a:65536", 400),
    ("a:99999", 400),
    ("a%", 400),
    ("a%4", 400),
    ("a%4x", 400),
    ("a%41 ", 200),
    ("%41%", 400),
    ("%41:x", 400),
    (":80", 400),
    ("[::1", 400),
    ("[]", 400),
    ("[a.b]", 400),
    ("[::1]x", 400),
    ("::1", 400),
    ("a\u{fc}", 400),
    ("a?b", 400),
    ("a\\b", 400),
];

fn table() -> Vec<(String, u16)> {
    let fields = FIELDS.iter().map(|(fields, code)| (format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}"), *code));
    let lines = LINES.iter().map(|(line, code)| (format!("{line}Host: a\r\n\r\n"), *code));
    let hosts = HOSTS.iter().map(|(host, code)| (format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), *code));
    fields.chain(lines).chain(hosts).collect()
}

/// Bytes after a head, a body or more requests, do not change the outcome.
#[test]
fn what_follows_a_faulty_head_does_not_change_what_is_wrong_with_it() {
    let upload = vec![b'x'; 2 * HEAD_MAX];
    for (head, code) in table().into_iter().filter(|(_, code)| *code != 200) {
        assert_eq!(status(&[head.as_bytes(), &upload].concat()), code, "{}", head.escape_debug());
    }
}

#[test]
fn each_head_comes_to_its_status() {
    for (head, code) in table() {
        assert_eq!(status(head.as_bytes()), code, "{}", head.escape_debug());
    }
}

#[test]
fn the_beginning_of_a_head_is_incomplete_or_has_the_same_fault() {
    for (head, code) in table() {
        for cut in 0..head.len() {
            let early = status(&head.as_bytes()[..cut]);
            assert!(early == 0 || early == code, "{early} of the first {cut} bytes of {}", head.escape_debug());
        }
    }
}

#[test]
fn http_1_1_needs_a_host_and_http_1_0_does_not() {
    assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status(b"GET http://a/ HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status(b"GET / HTTP/1.0\r\n\r\n"), 200);
    assert_eq!(status(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn http_1_0_has_neither_chunks_nor_expectations() {
    assert_eq!(status(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    assert!(!parsed("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").expects_continue);
    assert!(parsed("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").expects_continue);
}

#[test]
fn a_connection_goes_on_by_default_in_http_1_1_and_on_demand_in_http_1_0() {
    for (version, connection, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "connection: Close\r\n", false),
        ("1.1", "Connection: keep-alive, foo\r\n", true),
        ("1.1", "Connection: foo ,\tCLOSE\r\n", false),
        ("1.1", "Connection: foo\r\nConnection: close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: foo, keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        assert_eq!(parsed(&head).persistent, expected, "{}", head.escape_debug());
    }
}

#[test]
fn the_request_line_and_the_whole_head_have_limits_whose_ends_are_exact() {
    let with_line = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 14));
    assert_eq!(status(with_line(LINE_MAX).as_bytes()), 200);
    assert_eq!(status(with_line(LINE_MAX + 1).as_bytes()), 414);
    assert_eq!(status(&with_line(LINE_MAX * 2).as_bytes()[..LINE_MAX + 2]), 414, "before its end has come");
    let endless = format!("GET / {}", "x".repeat(LINE_MAX));
    assert_eq!(status(endless.as_bytes()), 414, "nor does it matter in which word");

    let with_head = |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(length - 32));
    assert_eq!(with_head(100).len(), 100);
    assert_eq!(status(with_head(HEAD_MAX).as_bytes()), 200);
    assert_eq!(status(with_head(HEAD_MAX + 1).as_bytes()), 431);
    assert_eq!(status(&with_head(HEAD_MAX * 2).as_bytes()[..HEAD_MAX + 1]), 431, "before its end has come");

    let with_fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count - 1));
    assert_eq!(status(with_fields(FIELDS_MAX).as_bytes()), 200);
    assert_eq!(status(with_fields(FIELDS_MAX + 1).as_bytes()), 431);
}

#[test]
fn the_end_of_a_head_is_found_wherever_the_search_was_left() {
    for head in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "a\n\r\n",
    ] {
        let stream = [head, "GET / HTTP/1.1\r\n\r\n"].concat();
        for cut in 0..head.len() {
            assert_eq!(end_of_head(&stream.as_bytes()[..cut], 0), None);
            assert_eq!(end_of_head(stream.as_bytes(), cut), Some(head.len()), "{} at {cut}", head.escape_debug());
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn random_heads_never_panic_and_end_where_their_empty_line_is() {
    let mut chance = Chance::new(3);
    for _ in 0..20_000 {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        head.extend(chance.bytes(60, b"\r\n\n: ,aContent-LengthTransfer-Encodingchunked059"));
        if chance.below(4) == 0 {
            let at = chance.below(head.len());
            head[at] = chance.below(256) as u8;
        }
        match Head::parse(&head) {
            Ok(Some((_, length))) => assert_eq!(end_of_head(&head, 0), Some(length), "{}", head.escape_ascii()),
            Ok(None) => assert_eq!(end_of_head(&head, 0), None, "{}", head.escape_ascii()),
            Err(_) => {}
        }
    }
}

#[test]
fn each_head_of_the_tables_has_the_syntax_that_another_parser_sees() {
    for (head, _) in table() {
        reference::compare(head.as_bytes(), syntax::parts);
    }
    for seed in seeds("http_request") {
        reference::compare(&seed, syntax::parts);
    }
    let many = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    for count in [FIELDS_MAX - 1, FIELDS_MAX, FIELDS_MAX + 1] {
        reference::compare(many(count).as_bytes(), syntax::parts);
    }
}

/// Each byte at each place: one table of the bytes that a part may have, for every part.
#[test]
#[cfg_attr(miri, ignore = "too many rounds to be interpreted")]
fn each_byte_at_each_place_is_judged_as_by_another_parser() {
    let head = b"\r\nGET /a HTTP/1.1\r\nHost: a.example\r\nLong-Name:\t \tsome words\t \r\nB:\n\r\n";
    for at in 0..head.len() {
        for byte in 0..=255 {
            let mut head = *head;
            head[at] = byte;
            reference::compare(&head, syntax::parts);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_head_has_the_syntax_that_another_parser_sees(
        line in "(\r\n|\n|\r)?([A-Z]{1,4}|[!-~]{0,3}) [!-~\u{e9}]{0,20}( |  )?HTTP/[0-3]\\.[0-9]{1,2}(\r|\r\r| )?\n",
        fields in "((Host|[A-Za-z-]{1,20}|[!-~]{0,5})[ \t]?:[ -~\t\u{7f}\u{e9}]{0,40}(\r|\r\r|\0)?\n[ \t]?){0,6}",
        cut in "(\r\n|\n|\r)?(GET / HTTP/1.1)?",
        slip in prop::option::of((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..3))),
    ) {
        let mut head = [line, fields, cut].concat().into_bytes();
        if let Some((at, bytes)) = slip {
            let at = at.index(head.len());
            head.splice(at..=at, bytes);
        }
        reference::compare(&head, syntax::parts);
    }
}
