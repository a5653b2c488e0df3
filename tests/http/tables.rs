//! The tables: `*.txt` beside this file. Each case runs on every backend, with either resolver of paths.
//!
//! ```text
//! == RFC 9110 14.2 a range has its first and its last byte     a case: its section, and what it shows
//! > GET /letters HTTP/1.1                                      a line that is sent, with its CR and LF;
//! > Host: a                                                    after the last of these lines comes the empty one
//! | \r\nbare\0 bytes                                           bytes that are sent as they are, after that
//! < 206                                                        the status of an answer
//! < Content-Range: bytes 2-3/26                                a field that it has, and with which value
//! < !ETag                                                      a field that it does not have
//! < = cd                                                       its whole body
//! < ~ text                                                     what stands somewhere in its body
//! < close                                                      and then the connection ends; otherwise it goes on
//! ```
//!
//! The answers must come in this order, and no others. After each case that does not close, one more request is
//! answered.

use std::fmt::Write as _;

use reactor::{Backend, Service};
use services::http::{Files, Http, Resolver, deadlines, limits};

use super::site::Site;
use super::support::application::{Running, serve_with};
use super::support::client::{Client, Response};

struct Case {
    /// File and line of the case.
    at: String,
    title: String,
    request: Vec<u8>,
    answers: Vec<Answer>,
    closes: bool,
}

#[derive(Default)]
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    absent: Vec<String>,
    body: Option<Vec<u8>>,
    contained: Vec<String>,
}

fn cases(file: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut in_head = false;
    for (number, line) in text.lines().enumerate() {
        let at = format!("{file}:{}", number + 1);
        let (mark, rest) = line.split_at(line.find(' ').map_or(line.len(), |blank| blank + 1));
        if mark.trim() == "==" {
            assert!(rest.starts_with("RFC ") || rest.starts_with("ours"), "{at}: no section");
            let new = Case { at, title: rest.to_owned(), request: vec![], answers: vec![], closes: false };
            cases.push(new);
            in_head = false;
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("{at}: before the first case"));
        if in_head && mark.trim() != ">" {
            case.request.extend_from_slice(b"\r\n");
            in_head = false;
        }
        match mark.trim() {
            ">" => {
                case.request.extend(unescaped(rest, &at));
                case.request.extend_from_slice(b"\r\n");
                in_head = true;
            }
            "|" => case.request.extend(unescaped(rest, &at)),
            "<" => expect(case, rest, &at),
            _ => panic!("{at}: {line:?} means nothing"),
        }
    }
    for case in &cases {
        assert!(!case.request.is_empty() && (case.closes || !case.answers.is_empty()), "{}: incomplete", case.at);
    }
    cases
}

fn expect(case: &mut Case, rest: &str, at: &str) {
    if rest == "close" {
        case.closes = true;
    } else if let Ok(status) = rest.parse() {
        case.answers.push(Answer { status, ..Answer::default() });
    } else {
        let answer = case.answers.last_mut().unwrap_or_else(|| panic!("{at}: no status before it"));
        match rest.split_once(' ').unwrap_or((rest, "")) {
            ("=", body) => answer.body = Some(unescaped(body, at)),
            ("~", part) => answer.contained.push(part.to_owned()),
            (name, "") if name.starts_with('!') => answer.absent.push(name[1..].to_ascii_lowercase()),
            (name, value) if name.ends_with(':') => {
                answer.fields.push((name.trim_end_matches(':').to_ascii_lowercase(), value.to_owned()));
            }
            _ => panic!("{at}: {rest:?} means nothing"),
        }
    }
}

/// Decodes `\r`, `\n`, `\t`, `\0`, `\\`, `\xHH`, and `\{1000 x}`: a thousand times the text `x`.
fn unescaped(text: &str, at: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let mut length = 1;
        match after.as_bytes()[0] {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'0' => bytes.push(0),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                bytes.push(u8::from_str_radix(&after[1..3], 16).unwrap_or_else(|_| panic!("{at}: no such byte")));
                length = 3;
            }
            b'{' => {
                let (repeated, _) = after[1..].split_once('}').unwrap_or_else(|| panic!("{at}: no end"));
                let (count, what) = repeated.split_once(' ').unwrap_or_else(|| panic!("{at}: what?"));
                let what = unescaped(what, at);
                bytes.extend(what.repeat(count.parse().unwrap_or_else(|_| panic!("{at}: how many?"))));
                length = repeated.len() + 2;
            }
            _ => panic!("{at}: no such escape"),
        }
        rest = &after[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn serve(backend: Backend, resolver: Resolver, site: &Site) -> Running<services::http::Fetched> {
    let files = Files::resolved_by(resolver, site.root(), false).expect("it is there");
    let files = files.listing().cache_control("max-age=60");
    let make = move || {
        let factory = move || Http::with_files(files.clone(), None);
        Service::tcp("127.0.0.1:0", factory).limits(limits()).deadlines(deadlines())
    };
    serve_with(backend, make, |_| {})
}

const LAST: &str = "GET /letters HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n";

/// Runs the case. Returns a description of the first difference.
fn failure(case: &Case, client: &mut Client, by_bytes: bool) -> Option<String> {
    let mut request = case.request.clone();
    if !case.closes {
        request.extend_from_slice(LAST.as_bytes());
    }
    if by_bytes {
        // After an early refusal the server may have closed.
        request.chunks(1).try_for_each(|byte| client.try_send(byte)).ok();
    } else {
        client.try_send(&request).ok();
    }
    if case.closes {
        // So it may after a request that was to be the last; the answer is checked all the same.
        client.try_half_close().ok();
    }
    let heads: Vec<bool> = methods(&case.request);
    for (index, expected) in case.answers.iter().enumerate() {
        let is_bodiless = heads.get(index).copied().unwrap_or(false) || matches!(expected.status, 100..200 | 204 | 304);
        let Some(mut response) = client.try_response(is_bodiless) else {
            return Some(format!("no answer where {} should be", expected.status));
        };
        // A body that comes with its head makes `100 Continue` unnecessary. Byte by byte, the server may send it.
        if by_bytes && response.status == 100 && expected.status != 100 {
            let Some(next) = client.try_response(is_bodiless) else {
                return Some(format!("nothing after 100 where {} should be", expected.status));
            };
            response = next;
        }
        if let Some(why) = differs(expected, &response) {
            return Some(format!("{why}\n{}\n{:?}", response.status_line, response.headers));
        }
    }
    if !case.closes {
        let last = client.try_response(false);
        if last.as_ref().is_none_or(|last| last.status != 200 || last.body != "abcdefghijklmnopqrstuvwxyz") {
            return Some(format!("it does not go on: {:?}", last.map(|last| (last.status_line, last.headers))));
        }
    }
    let rest = client.rest_however_it_ends();
    (!rest.is_empty()).then(|| format!("and then comes {:?}", String::from_utf8_lossy(&rest)))
}

/// For each answer whether its request is a HEAD, as far as the text shows.
fn methods(request: &[u8]) -> Vec<bool> {
    let text = String::from_utf8_lossy(request);
    let lines = text.split('\n').filter(|line| line.contains(" HTTP/"));
    lines.map(|line| line.trim_start().starts_with("HEAD ")).collect()
}

fn differs(expected: &Answer, response: &Response) -> Option<String> {
    if response.status != expected.status {
        return Some(format!("not {}", expected.status));
    }
    for (name, value) in &expected.fields {
        let found = response.header(name);
        if found != Some(value) {
            return Some(format!("{name} is {found:?} and not {value:?}"));
        }
    }
    if let Some(name) = expected.absent.iter().find(|name| response.header(name).is_some()) {
        return Some(format!("{name} is there"));
    }
    if expected.status != 100 {
        for (name, value) in [("server", Some("glowplug")), ("date", response.header("date"))] {
            if value.is_none() || response.header(name) != value {
                return Some(format!("{name} is missing"));
            }
        }
    }
    let body = response.body.as_bytes();
    if expected.body.as_ref().is_some_and(|expected| expected != body) {
        return Some(format!("the body is {:?}", response.body));
    }
    let missing = expected.contained.iter().find(|part| !response.body.contains(part.as_str()));
    missing.map(|part| format!("{part:?} is not in {:?}", response.body))
}

fn run(backend: Backend, resolver: Resolver, by_bytes: bool) {
    let site = Site::new();
    let server = serve(backend, resolver, &site);
    let (mut failures, mut count) = (String::new(), 0);
    for (file, text) in TABLES {
        for case in cases(file, text) {
            count += 1;
            // Byte by byte, a long case would take as many segments.
            if by_bytes && case.request.len() > 2000 {
                continue;
            }
            let mut client = Client::connect(server.service.address().expect("it listens"));
            if let Some(why) = failure(&case, &mut client, by_bytes) {
                let _ = writeln!(failures, "{} {}\n  {}", case.at, case.title, why.replace('\n', "\n  "));
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(count >= 400, "{count} cases");
}

const TABLES: [(&str, &str); 6] = [
    ("messages.txt", include_str!("messages.txt")),
    ("refusals.txt", include_str!("refusals.txt")),
    ("paths.txt", include_str!("paths.txt")),
    ("representations.txt", include_str!("representations.txt")),
    ("conditions.txt", include_str!("conditions.txt")),
    ("ranges.txt", include_str!("ranges.txt")),
];

mod every_case_is_answered_as_its_section_says {
    use super::*;

    #[test]
    fn epoll() {
        run(Backend::Epoll, Resolver::Kernel, false);
    }

    #[test]
    fn select() {
        run(Backend::Select, Resolver::Kernel, false);
    }

    #[test]
    fn epoll_walking() {
        run(Backend::Epoll, Resolver::Walk, false);
    }

    #[test]
    fn select_walking() {
        run(Backend::Select, Resolver::Walk, false);
    }

    #[test]
    fn byte_by_byte() {
        run(Backend::Epoll, Resolver::Kernel, true);
    }
}
