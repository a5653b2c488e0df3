//! Whether an answer is wanted, and whether a part of it will do: preconditions in their order (RFC 9110 section
//! 13.2.2). Pure: fields and validators in, a verdict out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::codec::request::{Head, Selector};

/// Validators of the selected representation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validators<'a> {
    /// The entity tag with its quotes, and without the mark of a weak one.
    pub(super) etag: &'a [u8],
    /// Two states of the file may share this tag, so the tag matches only in a weak comparison (RFC 9110 section
    /// 8.8.3.2).
    pub(super) is_weak: bool,
    /// Whole seconds since 1970. `None` if the file has no time.
    pub(super) modified: Option<u64>,
    /// The second of the file's last change, if its content and its status changed in the same second. Only such a date
    /// proves as much as a strong tag.
    pub(super) settled: Option<u64>,
}

/// The outcome of the preconditions for a `GET` or `HEAD` of an existing representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The request is answered. `by_range`: a range of the content may be sent.
    Proceed {
        by_range: bool,
    },
    NotModified,
    PreconditionFailed,
}

/// Steps 1 to 5 of section 13.2.2. `now` is the calendar time, in seconds since 1970.
pub(super) fn evaluate(head: &Head<'_>, known: Validators<'_>, now: u64) -> Verdict {
    if head.has(Selector::IfMatch) {
        if !any(head, Selector::IfMatch, |tag| !tag.weak && !known.is_weak && tag.opaque == known.etag) {
            return Verdict::PreconditionFailed;
        }
    } else if is_modified(head, Selector::IfUnmodifiedSince, known) == Some(true) {
        return Verdict::PreconditionFailed;
    }
    if head.has(Selector::IfNoneMatch) {
        if any(head, Selector::IfNoneMatch, |tag| tag.opaque == known.etag) {
            return Verdict::NotModified;
        }
    } else if is_modified(head, Selector::IfModifiedSince, known) == Some(false) {
        return Verdict::NotModified;
    }
    Verdict::Proceed { by_range: if_range(head, known, now) }
}

/// Whether the representation was modified after the date in `field`. `None` if the request or the file has no date:
/// then the field is ignored (sections 13.1.3 and 13.1.4).
fn is_modified(head: &Head<'_>, field: Selector, known: Validators<'_>) -> Option<bool> {
    Some(known.modified? > date(head, field)?)
}

/// Section 13.1.5: whether the client's partial content belongs to the current representation. A tag has to be strong.
/// A date has to equal ours, of content and status, and be at least a second old: a later change has another date
/// (section 8.8.2.2).
fn if_range(head: &Head<'_>, known: Validators<'_>, now: u64) -> bool {
    if !head.has(Selector::IfRange) {
        return true;
    }
    let mut values = head.values(Selector::IfRange.name());
    match (values.next(), values.next()) {
        (Some(value), None) if value.starts_with(b"\"") => !known.is_weak && value == known.etag,
        (Some(value), None) => seconds(value).is_some_and(|date| Some(date) == known.settled && date < now),
        _ => false,
    }
}

/// The date in `field`. `None` if the field appears twice or is not a date; then the field is ignored.
fn date(head: &Head<'_>, field: Selector) -> Option<u64> {
    if head.has(field) { head.value(field.name()).and_then(seconds) } else { None }
}

fn seconds(value: &[u8]) -> Option<u64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// `seconds` in the format of a field.
pub(super) fn http_date(seconds: u64) -> httpdate::HttpDate {
    httpdate::HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// One entity tag of a list, its quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// Whether one tag in `field` matches; `*` does. A list is read up to the first element that is not a tag.
fn any(head: &Head<'_>, field: Selector, matches: impl Fn(Tag<'_>) -> bool) -> bool {
    head.values(field.name()).any(|value| value == b"*" || Tags(value).any(&matches))
}

/// The tags of a list (section 8.8.3), up to the first element that is not a tag. A tag may contain commas.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let start = self.0.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        let rest = &self.0[start..];
        let (weak, quoted) = rest.strip_prefix(b"W/").map_or((false, rest), |quoted| (true, quoted));
        let opaque = quoted.strip_prefix(b"\"")?;
        let length = memchr::memchr(b'"', opaque)? + 2;
        self.0 = &quoted[length..];
        Some(Tag { weak, opaque: &quoted[..length] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    const OURS: Validators<'_> =
        Validators { etag: b"\"a\"", is_weak: false, modified: Some(784_111_777), settled: Some(784_111_777) };
    const NOW: u64 = 1_700_000_000;
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn verdict_of(fields: &str, known: Validators<'_>, now: u64) -> Verdict {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        evaluate(&Head::parse(request.as_bytes()).unwrap().unwrap().0, known, now)
    }

    fn verdict_at(fields: &str, now: u64) -> Verdict {
        verdict_of(fields, OURS, now)
    }

    fn verdict(fields: &str) -> Verdict {
        verdict_at(fields, NOW)
    }

    const WHOLE: Verdict = Verdict::Proceed { by_range: false };
    const PROCEED: Verdict = Verdict::Proceed { by_range: true };

    #[test]
    fn each_field_alone() {
        use Verdict::*;
        let table = [
            ("".to_owned(), PROCEED),
            ("If-Match: \"a\"\r\n".into(), PROCEED),
            ("If-Match: *\r\n".into(), PROCEED),
            ("If-Match: \"b\"\r\n".into(), PreconditionFailed),
            ("If-Match: \"b\", \"a\"\r\n".into(), PROCEED),
            ("If-Match: \"b,\",\"a\"\r\n".into(), PROCEED),
            ("If-Match: \"b\"\r\nIf-Match: \"a\"\r\n".into(), PROCEED),
            ("If-Match: W/\"a\"\r\n".into(), PreconditionFailed),
            ("If-Match: a\r\n".into(), PreconditionFailed),
            ("If-Match: \"a\r\n".into(), PreconditionFailed),
            ("If-Match:\r\n".into(), PreconditionFailed),
            ("If-None-Match: \"a\"\r\n".into(), NotModified),
            ("If-None-Match: W/\"a\"\r\n".into(), NotModified),
            ("If-None-Match: w/\"a\"\r\n".into(), PROCEED),
            ("If-None-Match: *\r\n".into(), NotModified),
            ("If-None-Match: \"b\" , , \"a\"\r\n".into(), NotModified),
            ("If-None-Match: \"b\"\r\n".into(), PROCEED),
            ("If-None-Match: \"A\"\r\n".into(), PROCEED),
            ("If-None-Match: a\r\n".into(), PROCEED),
            (format!("If-Modified-Since: {SAME}\r\n"), NotModified),
            (format!("If-Modified-Since: {AFTER}\r\n"), NotModified),
            (format!("If-Modified-Since: {BEFORE}\r\n"), PROCEED),
            ("If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT\r\n".into(), NotModified),
            ("If-Modified-Since: Sun Nov  6 08:49:37 1994\r\n".into(), NotModified),
            ("If-Modified-Since: yesterday\r\n".into(), PROCEED),
            (format!("If-Modified-Since: {SAME}\r\nIf-Modified-Since: {SAME}\r\n"), PROCEED),
            (format!("If-Unmodified-Since: {SAME}\r\n"), PROCEED),
            (format!("If-Unmodified-Since: {AFTER}\r\n"), PROCEED),
            (format!("If-Unmodified-Since: {BEFORE}\r\n"), PreconditionFailed),
            ("If-Unmodified-Since: yesterday\r\n".into(), PROCEED),
            ("If-Range: \"a\"\r\n".into(), PROCEED),
            ("If-Range: \"b\"\r\n".into(), WHOLE),
            ("If-Range: W/\"a\"\r\n".into(), WHOLE),
            (format!("If-Range: {SAME}\r\n"), PROCEED),
            (format!("If-Range: {AFTER}\r\n"), WHOLE),
            (format!("If-Range: {BEFORE}\r\n"), WHOLE),
            ("If-Range: a\r\n".into(), WHOLE),
            ("If-Range:\r\n".into(), WHOLE),
            ("If-Range: \"a\"\r\nIf-Range: \"a\"\r\n".into(), WHOLE),
        ];
        for (fields, expected) in table {
            assert_eq!(verdict(&fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn seconds_are_written_as_the_date_that_they_are_read_from() {
        assert_eq!(http_date(784_111_777).to_string(), SAME);
        assert_eq!(seconds(SAME.as_bytes()), Some(784_111_777));
    }

    #[test]
    fn a_date_within_its_own_second_proves_nothing() {
        let field = format!("If-Range: {SAME}\r\n");
        assert_eq!(verdict_at(&field, 784_111_777), WHOLE);
        assert_eq!(verdict_at(&field, 784_111_778), PROCEED);
    }

    #[test]
    fn a_date_proves_nothing_of_a_file_whose_status_was_changed_in_another_second() {
        let copied = Validators { settled: None, ..OURS };
        assert_eq!(verdict_of(&format!("If-Range: {SAME}\r\n"), copied, NOW), WHOLE);
        assert_eq!(verdict_of("If-Range: \"a\"\r\n", copied, NOW), PROCEED);
        assert_eq!(verdict_of(&format!("If-Modified-Since: {SAME}\r\n"), copied, NOW), Verdict::NotModified);
    }

    #[test]
    fn a_weak_tag_matches_only_where_the_meaning_counts() {
        let weak = Validators { is_weak: true, ..OURS };
        for (field, expected) in [
            ("If-None-Match: \"a\"", Verdict::NotModified),
            ("If-None-Match: W/\"a\"", Verdict::NotModified),
            ("If-Match: \"a\"", Verdict::PreconditionFailed),
            ("If-Match: W/\"a\"", Verdict::PreconditionFailed),
            ("If-Match: *", PROCEED),
            ("If-Range: \"a\"", WHOLE),
            ("If-Range: W/\"a\"", WHOLE),
        ] {
            assert_eq!(verdict_of(&format!("{field}\r\n"), weak, NOW), expected, "{field}");
        }
    }

    #[test]
    fn without_a_date_of_ours_dates_are_ignored() {
        let dateless = Validators { modified: None, settled: None, ..OURS };
        for date in [SAME, BEFORE, AFTER] {
            for field in ["If-Modified-Since", "If-Unmodified-Since"] {
                assert_eq!(verdict_of(&format!("{field}: {date}\r\n"), dateless, NOW), PROCEED, "{field}");
            }
            assert_eq!(verdict_of(&format!("If-Range: {date}\r\n"), dateless, NOW), WHOLE);
        }
    }

    /// The order of the section, for every combination: tags come before dates, matching before not matching.
    #[test]
    fn all_combinations_follow_the_order_of_the_section() {
        let tags = [None, Some(true), Some(false)];
        let mut seen = 0;
        for (match_, none_match) in tags.iter().flat_map(|m| tags.iter().map(move |n| (*m, *n))) {
            for (unmodified, modified) in tags.iter().flat_map(|u| tags.iter().map(move |m| (*u, *m))) {
                let tag = |name: &str, same: Option<bool>| {
                    same.map_or(String::new(), |same| format!("{name}: \"{}\"\r\n", if same { "a" } else { "b" }))
                };
                let date = |name: &str, after: Option<bool>| {
                    after.map_or(String::new(), |after| format!("{name}: {}\r\n", if after { AFTER } else { BEFORE }))
                };
                let fields = tag("If-Match", match_)
                    + &tag("If-None-Match", none_match)
                    + &date("If-Unmodified-Since", unmodified)
                    + &date("If-Modified-Since", modified);
                let expected = match (match_, unmodified, none_match, modified) {
                    (Some(false), ..) | (None, Some(false), ..) => Verdict::PreconditionFailed,
                    (_, _, Some(true), _) | (_, _, None, Some(true)) => Verdict::NotModified,
                    _ => PROCEED,
                };
                assert_eq!(verdict(&fields), expected, "{fields:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 81);
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of rounds")]
    fn a_tag_is_found_in_a_random_list_exactly_when_it_is_in_it() {
        let mut chance = Chance::new(3);
        for _ in 0..20_000 {
            let tags: Vec<_> = (0..chance.below(6))
                .map(|_| ["\"a\"", "\"b\"", "\"\"", "W/\"a\"", "\",a\""][chance.below(5)])
                .collect();
            let separator = [",", ", ", " ,\t", ",,"][chance.below(4)];
            let list = tags.join(separator);
            let expected = tags.iter().any(|tag| tag.ends_with("\"a\"") && !tag.starts_with("\","));
            let verdict = verdict(&format!("If-None-Match: {list}\r\n"));
            assert_eq!(verdict == Verdict::NotModified, expected, "{list}");
        }
        for _ in 0..20_000 {
            let noise = chance.bytes(24, b"\"\"W/, a*");
            let end = Tags(&noise).map(|tag| tag.opaque.len() + usize::from(tag.weak) * 2).sum::<usize>();
            assert!(end <= noise.len());
        }
    }
}
