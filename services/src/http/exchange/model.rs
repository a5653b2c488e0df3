//! Compares whole exchanges, cut into pieces, with a reading of each head that takes nothing for granted. For property
//! tests and for the fuzz target `http_request`.
//!
//! Two parsers that read a stream differently can be made to disagree about the end of a request. So each accepted head
//! must also pass the plainest and strictest reading of RFC 9112, and must mean the same to both parsers.

use super::*;
use crate::codec::request::{FIELDS_MAX, LINE_MAX};
use crate::pieces::Stream;

/// Largest body in the model, in bytes of data.
const BODY_MAX: u64 = 500;

/// Panics if the outcome depends on the pieces, if an ambiguous head is accepted, if a correct head is refused, or if a
/// byte is examined too often.
pub fn check(text: &[u8]) {
    let stream = Stream::of(text);
    let whole = outcome([&stream.bytes[..]]);
    stream.in_pieces(|pieces| {
        let cut = outcome(pieces.iter().copied());
        // A refusal that left before a malformed body, whose error had not arrived yet.
        let early = usize::from(cut.is_early && whole.status.is_some());
        assert_eq!(cut.replies[..cut.replies.len() - early], whole.replies, "in pieces");
        let is_same = match (whole.status, cut.status) {
            // The received bytes decide which of several errors is reported, as long as one of the errors is a limit.
            (Some(one), Some(other)) => one == other || is_limit(one) || is_limit(other),
            // An incomplete head is not parsed after each byte.
            (Some(_), None) if early > 0 => true,
            (Some(_), None) => !cut.left.is_empty() && request::end_of_head(&cut.left, 0).is_none(),
            (None, Some(_)) => false,
            (None, None) => cut.left == whole.left,
        };
        assert!(is_same, "{:?} as a whole, {:?} in pieces", whole.status, cut.status);
    });
}

fn is_limit(status: Status) -> bool {
    matches!(status, Status::UriTooLong | Status::HeaderFieldsTooLarge)
}

/// The outcome of a stream.
pub(super) struct Outcome {
    pub(super) replies: Vec<Owed>,
    /// The error that ended the stream.
    pub(super) status: Option<Status>,
    /// The last reply left before the end of its body; the rest of the body is missing or malformed.
    pub(super) is_early: bool,
    /// Bytes that are still to be read.
    pub(super) left: Vec<u8>,
}

/// Reads a stream that arrives in pieces. Unread bytes are kept between the pieces.
pub(super) fn outcome<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Outcome {
    let mut exchange = Exchange::new(Duration::ZERO);
    let mut outcome = Outcome { replies: Vec::new(), status: None, is_early: false, left: Vec::new() };
    let (mut arrived, mut examined) = (0, 0);
    for piece in pieces {
        arrived += piece.len();
        outcome.left.extend_from_slice(piece);
        let unread = std::mem::take(&mut outcome.left);
        let mut input = Input::of(&unread);
        while !input.is_empty() {
            let discarded = exchange.discards_body();
            let next = next(&mut exchange, &mut input, &mut examined);
            outcome.is_early = exchange.discards_body();
            match next {
                Ok(Some(reply)) => outcome.replies.push(reply),
                // The body of a request with an early answer has ended.
                Ok(None) if discarded && !exchange.discards_body() => {}
                Ok(None) => break,
                Err(status) => {
                    outcome.status = Some(status);
                    return outcome;
                }
            }
            if outcome.replies.last().is_some_and(|reply| reply.persistence == Persistence::Ended) {
                return outcome;
            }
        }
        outcome.left = input.as_slice().to_vec();
        assert!(!exchange.is_in_body() || outcome.left.is_empty(), "a body keeps nothing");
        assert!(outcome.left.len() <= HEAD_MAX, "more is kept than a head may have");
        assert_eq!(exchange.has_begun(), exchange.is_in_body() || exchange.tried > 0);
    }
    // Parses at doubled lengths examine each byte twice in all; the final parse examines each byte once more.
    assert!(examined <= 3 * arrived, "{examined} bytes parsed of {arrived}");
    outcome
}

/// Reads one request in the way of the service.
pub(super) fn next(
    exchange: &mut Exchange,
    input: &mut Input<'_>,
    examined: &mut usize,
) -> Result<Option<Owed>, Status> {
    if !exchange.is_in_body() {
        let (before, tried) = (input.as_slice(), exchange.tried);
        let Some(head) = exchange.next_head(input)? else {
            *examined += if exchange.tried == tried { 0 } else { exchange.tried };
            return Ok(None);
        };
        let length = head.raw.len();
        let (bytes, owed) = (&before[..before.len() - input.len() + length], exchange.owed(&head));
        *examined += bytes.len();
        compare(bytes, &head);
        input.consume(length);
        if matches!(head.body, Body::Length(length) if length > BODY_MAX) {
            exchange.finish();
            return Ok(Some(owed.refused(Status::ContentTooLarge)));
        }
        exchange.expect(&head, BODY_MAX, owed);
    }
    let Some(last) = exchange.skip_body(input)? else {
        if !exchange.is_refused_early() {
            return Ok(None);
        }
        exchange.note_answer();
        return Ok(exchange.asked().map(|(_, owed)| owed));
    };
    // A second call stands for a wait for the file.
    assert_eq!(exchange.skip_body(input), Ok(Some(last)));
    let (head, owed) = exchange.asked().expect("it is in the middle of one");
    assert!(Head::parse(&head).is_ok_and(|head| head.is_some()), "what was put aside is a head");
    input.consume(last);
    let is_answered = exchange.discards_body();
    exchange.finish();
    Ok((!is_answered).then_some(owed))
}

/// Compares an accepted head with the strict reading of its bytes.
fn compare(bytes: &[u8], head: &Head<'_>) {
    let begins = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).expect("it is not empty");
    let strict = Strict::read(&bytes[begins..]).unwrap_or_else(|| panic!("taken: {}", bytes.escape_ascii()));
    let line: usize = strict.words.iter().map(|word| word.len()).sum();
    assert!(line + 2 <= LINE_MAX && bytes.len() - begins <= HEAD_MAX && strict.fields.len() <= FIELDS_MAX, "too long");
    let name = strict.words[0];
    let method = Method::named(std::str::from_utf8(name).expect("a method is a token"));
    assert_eq!((head.method, head.target.as_bytes()), (method, strict.words[1]));
    assert_eq!((head.is_1_0, head.persistent, head.body), (strict.is_1_0, strict.persists(), strict.body()));
}

/// A head as the strictest reader understands the bytes.
struct Strict<'h> {
    words: [&'h [u8]; 3],
    fields: Vec<(Vec<u8>, &'h [u8])>,
    is_1_0: bool,
}

impl<'h> Strict<'h> {
    /// Returns `None` for anything that another parser could read differently.
    fn read(bytes: &'h [u8]) -> Option<Self> {
        let mut lines: Vec<&[u8]> = bytes.strip_suffix(b"\n")?.split(|&byte| byte == b'\n').collect();
        lines.iter_mut().for_each(|line| *line = line.strip_suffix(b"\r").unwrap_or(line));
        let is_plain = |&byte: &u8| byte == b'\t' || !byte.is_ascii_control();
        if lines.pop()? != b"" || !lines.iter().all(|line| !line.is_empty() && line.iter().all(is_plain)) {
            return None;
        }
        let words: Vec<&[u8]> = lines[0].split(|&byte| byte == b' ').collect();
        let words: [&[u8]; 3] = words.try_into().ok()?;
        let is_token = |word: &[u8]| {
            !word.is_empty()
                && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
        };
        if !is_token(words[0]) || words[1].is_empty() || words[1].iter().any(|byte| b"\t#".contains(byte)) {
            return None;
        }
        let is_1_0 = words[2] == b"HTTP/1.0";
        // A later minor version is read as the latest known version (RFC 9110 section 2.5).
        if !is_1_0 && !matches!(words[2], [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9']) {
            return None;
        }
        let mut fields = Vec::new();
        for line in &lines[1..] {
            let colon = line.iter().position(|&byte| byte == b':')?;
            if !is_token(&line[..colon]) {
                return None;
            }
            fields.push((line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii()));
        }
        let head = Strict { words, fields, is_1_0 };
        head.is_unambiguous().then_some(head)
    }

    fn values(&self, name: &str) -> Vec<&'h [u8]> {
        let named = self.fields.iter().filter(|(field, _)| field == name.as_bytes());
        named.map(|(_, value)| *value).collect()
    }

    /// Whether the head has one host, and one way to find the end of the body.
    fn is_unambiguous(&self) -> bool {
        let (lengths, codings) = (self.values("content-length"), self.values("transfer-encoding"));
        let hosts = self.values("host").len();
        let is_number = |value: &&[u8]| !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        (hosts == 1 || hosts == 0 && self.is_1_0)
            && lengths.len() + codings.len() <= 1
            && lengths.iter().all(is_number)
            && codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked") && !self.is_1_0)
    }

    fn body(&self) -> Body {
        // The following bytes belong to the other end of the tunnel.
        if self.words[0] == b"CONNECT" {
            return Body::None;
        }
        if !self.values("transfer-encoding").is_empty() {
            return Body::Chunked;
        }
        let lengths = self.values("content-length");
        let number = lengths.first().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or("0");
        match number.parse().unwrap_or(u64::MAX) {
            0 => Body::None,
            length => Body::Length(length),
        }
    }

    fn persists(&self) -> bool {
        let values = self.values("connection").join(&b","[..]).to_ascii_lowercase();
        let says = |option: &[u8]| values.split(|&byte| byte == b',').any(|word| word.trim_ascii() == option);
        !says(b"close") && (!self.is_1_0 || says(b"keep-alive"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pieces::seeds;
    use proptest::prelude::*;

    const FRAMING: &[&str] = &[
        "Content-Length: 5\r\n",
        "content-length:5\n",
        "Content-Length: 6\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 5\r\n 0\r\n",
        "Content-Length: 5, 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding:Chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding:\rchunked\r\n",
        "Host: again\r\n",
    ];

    /// One request, nearly always a correct one.
    fn request() -> impl Strategy<Value = String> {
        let body = prop_oneof![
            4 => Just(String::from("\r\n")),
            2 => "[a-z\r\n]{0,30}".prop_map(|body| format!("Content-Length: {}\r\n\r\n{body}", body.len())),
            2 => "[a-z]{1,30}".prop_map(|body| {
                format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
            }),
            1 => "(Content-Length: ?[0-9+,x ]{0,3}\r\n|Transfer-Encoding: ?[a-z, ]{0,9}\r\n|[ -~\r]{0,9}\n){0,3}\r\n",
            // Requests of a smuggler: several statements about the end of the body.
            2 => prop::collection::vec(prop::sample::select(FRAMING), 1..4).prop_map(|fields| fields.concat() + "\r\n"),
        ];
        let line =
            "(GET|HEAD|POST|OPTIONS|CONNECT|[A-Z]{1,4}) (/[!-~]{0,8}|\\*|http://[a-z.:@]{0,8}/) HTTP/1\\.[012]\r?\n";
        let host = prop_oneof![4 => Just("Host: a\r\n"), 1 => Just(""), 1 => Just("Host: [::1]:80\n")];
        let fields = "([A-Z][a-z-]{0,5}: ?[ -~]{0,8}\r?\n){0,3}\
            (Connection: (close|keep-alive|[a-z, ]{0,9})\r\n)?";
        (line, host, fields, body).prop_map(|(line, host, fields, body)| format!("{line}{host}{fields}{body}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn requests_mean_the_same_in_all_pieces_and_to_a_stricter_reader(
            requests in prop::collection::vec(request(), 1..4),
            slip in prop::option::of((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..2))),
            filler in prop::option::of((0..80usize, prop_oneof![0..300usize, 8_100..8_300usize, 32_600..33_000usize])),
        ) {
            let mut stream = requests.concat().into_bytes();
            if let Some((at, bytes)) = slip {
                let at = at.index(stream.len());
                stream.splice(at..=at, bytes);
            }
            let heading = filler.map(|(at, count)| format!("#a{at} x{count}\n")).unwrap_or_default();
            check(&[heading.as_bytes(), &stream].concat());
        }

        /// The reverse direction: a correct head is accepted.
        #[test]
        fn what_has_nothing_wrong_is_taken(
            method in "([A-Z]{1,7}|CONNECT)", target in "/[!\"$-~]{0,20}", minor in "[1-9]",
            host in "[a-z0-9.-]{1,9}(:[0-9]{1,4})?",
            fields in prop::collection::vec(("[A-Za-z-]{1,3}", "[ -~\t]{0,12}"), 0..6), eol in "\r?\n",
            body in prop::option::of(0..BODY_MAX),
        ) {
            let mut head = format!("{method} {target} HTTP/1.{minor}{eol}Host: {host}{eol}");
            fields.iter().for_each(|(name, value)| head += &format!("X{name}: {value}{eol}"));
            if let Some(length) = body {
                head += &format!("Content-Length: {length}{eol}");
            }
            head += &eol;
            let (taken, length) = Head::parse(head.as_bytes()).unwrap().unwrap();
            compare(head.as_bytes(), &taken);
            assert_eq!(length, head.len());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("http_request").iter().for_each(|seed| check(seed));
    }
}
