//! A directory as pages: the served names in the directory, sorted by bytes, up to [`NAMES_MAX`] on each page. A page
//! is requested by the last name of the page before, so each name is on one page, even if files come and go meanwhile.

use std::collections::BinaryHeap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Dir, FileType};

use super::path;
use super::resolve::Failure;
use super::root::Root;

/// Names on one page. A directory of millions needs memory, and lookups of size and date, only for this number of
/// names.
const NAMES_MAX: usize = 10_000;

/// Follows the light or dark scheme of the reader's system, and needs no further request.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.6 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.25rem;overflow-wrap:anywhere}\
table{border-collapse:collapse;width:100%}\
td{padding:.15rem .75rem .15rem 0;border-top:1px solid color-mix(in srgb,currentColor 15%,transparent)}\
td:first-child{overflow-wrap:anywhere}\
td+td{white-space:nowrap;text-align:right;opacity:.7;font-variant-numeric:tabular-nums}\
a{text-decoration:none}a:hover{text-decoration:underline}";

/// One row of the table.
#[derive(Debug)]
struct Row {
    name: Vec<u8>,
    is_file: bool,
    size: u64,
    /// Seconds since 1970; negative before.
    modified: i64,
}

/// Makes the page of the directory at `path`, with the names after `after`. `path` ends with a slash, or is empty for
/// the root. Waits for the disk.
pub(super) fn page(root: &Root, path: &[u8], after: &[u8]) -> Result<Vec<u8>, Failure> {
    let anchor = root.anchor().ok_or(Failure::Absent)?;
    let mut first = First::new(NAMES_MAX);
    for entry in Dir::read_from(root.directory(&anchor, path)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let kinds = [FileType::RegularFile, FileType::Directory, FileType::Symlink, FileType::Unknown];
        if !name.starts_with(b".") && name > after && kinds.contains(&entry.file_type()) {
            first.offer(name);
        }
    }
    let (names, more) = first.sorted();
    let next = names.last().filter(|_| more).cloned();
    // Links are followed as for a request, and a name that would not be served is left out.
    let row = |name: Vec<u8>| {
        let seen = root.look(&anchor, &[path, &name].concat()).ok()?;
        let is_file = match seen.kind {
            FileType::RegularFile => true,
            FileType::Directory => false,
            _ => return None,
        };
        let modified = i64::try_from(seen.stamp.modified.div_euclid(1_000_000_000)).unwrap_or_default();
        Some(Row { name, is_file, size: seen.stamp.size, modified })
    };
    let rows: Vec<Row> = names.into_iter().filter_map(row).collect();
    Ok(html(path, !after.is_empty(), &rows, next.as_deref()))
}

/// The first names in byte order, at most `max`.
struct First {
    /// The greatest kept name is on top.
    names: BinaryHeap<Vec<u8>>,
    max: usize,
    /// Whether further names follow.
    more: bool,
}

impl First {
    fn new(max: usize) -> Self {
        First { names: BinaryHeap::new(), max, more: false }
    }

    fn offer(&mut self, name: &[u8]) {
        if self.names.len() < self.max {
            return self.names.push(name.to_vec());
        }
        self.more = true;
        if let Some(mut last) = self.names.peek_mut()
            && name < last.as_slice()
        {
            *last = name.to_vec();
        }
    }

    fn sorted(self) -> (Vec<Vec<u8>>, bool) {
        (self.names.into_sorted_vec(), self.more)
    }
}

/// Reads the name in a query `?after=NAME`, percent-encoded. Empty without such a query.
pub(super) fn after(query: &str, into: &mut Vec<u8>) {
    into.clear();
    let fields = query.strip_prefix('?').unwrap_or_default().split('&');
    let named = fields.filter_map(|field| field.strip_prefix("after=")).next();
    if named.is_some_and(|name| path::decode(name.as_bytes(), into).is_err()) {
        into.clear();
    }
}

/// Writes the page. `next` is the name that the next page begins after.
fn html(path: &[u8], is_continued: bool, rows: &[Row], next: Option<&[u8]>) -> Vec<u8> {
    let mut page = Vec::new();
    let title = escaped(&[b"/", path].concat());
    // Writing to memory never fails.
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<h1>{title}</h1>\n<table>\n"
    );
    if !path.is_empty() {
        page.extend_from_slice(b"<tr><td><a href=\"../\">../</a><td><td>\n");
    }
    for row in rows {
        // A percent-encoded name can neither end the attribute nor look like a scheme.
        page.extend_from_slice(b"<tr><td><a href=\"");
        path::encode(&row.name, &mut page);
        let slash = if row.is_file { "" } else { "/" };
        let size = if row.is_file { readable(row.size) } else { String::new() };
        let _ = writeln!(page, "{slash}\">{}{slash}</a><td>{size}<td>{}", escaped(&row.name), date(row.modified));
    }
    page.extend_from_slice(b"</table>\n");
    if is_continued {
        page.extend_from_slice(b"<p><a href=\"./\">First page</a>\n");
    }
    if let Some(name) = next {
        page.extend_from_slice(b"<p><a rel=\"next\" href=\"?after=");
        path::encode(name, &mut page);
        page.extend_from_slice(b"\">Next page</a>\n");
    }
    page
}

/// A name as text. A name that is not UTF-8 is shown with replacement characters; its link works all the same.
fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(name).chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            // No line breaks, and no change of the text's direction.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            c => text.push(c),
        }
    }
    text
}

/// `1023 B`, `1.5 KiB`, `12 MiB`
fn readable(size: u64) -> String {
    if size < 1024 {
        return format!("{size} B");
    }
    let (mut tenths, mut unit) = (u128::from(size) * 10 / 1024, 0);
    while tenths >= 10_240 && unit < 5 {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    let unit = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit];
    if tenths < 100 { format!("{}.{} {unit}", tenths / 10, tenths % 10) } else { format!("{} {unit}", tenths / 10) }
}

/// Formats as `2026-11-23 08:57`, in UTC. Empty before 2 January 1970, when a time counts as absent.
fn date(seconds: i64) -> String {
    let Ok(seconds @ 86_400..) = u64::try_from(seconds) else { return String::new() };
    // A later time becomes the last day of the year 9999.
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    // `Mon, 23 Nov 2026 08:57:46 GMT`
    let text = httpdate::fmt_http_date(time);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|month| *month == &text[8..11]).map_or(0, |index| index + 1);
    format!("{}-{month:02}-{} {}", &text[12..16], &text[5..7], &text[17..22])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10_240, "10 KiB"),
            (1_048_575, "1023 KiB"),
            (1_048_576, "1.0 MiB"),
            (5_000_000_000, "4.6 GiB"),
            (u64::MAX, "15 EiB"),
        ];
        for (size, expected) in table {
            assert_eq!(readable(size), expected);
        }
    }

    #[test]
    fn dates_sort_as_text() {
        assert_eq!(date(784_111_777), "1994-11-06 08:49");
        assert_eq!(date(86_400), "1970-01-02 00:00");
        assert_eq!(date(i64::MAX), "9999-12-31 23:59");
        assert_eq!((date(86_399), date(-1), date(i64::MIN)), Default::default());
    }

    #[test]
    fn a_name_can_be_nothing_but_a_name() {
        let row = |name: &str| Row { is_file: true, name: name.into(), size: 1, modified: 0 };
        let names = ["\"><script>alert('x')</script>&.html", "javascript:alert(1)", "a\u{202e}b\n", "ü ü"];
        let page = String::from_utf8(html(b"a<b/", false, &names.map(row), Some("\">ü&".as_bytes()))).unwrap();
        assert!(!page.contains("<script") && !page.contains("\"javascript:"), "{page}");
        assert!(page.contains("<a href=\"javascript%3Aalert%281%29\">javascript:alert(1)</a>"), "{page}");
        assert!(page.contains("<title>/a&lt;b/</title>") && page.contains("a\u{fffd}b\u{fffd}<"), "{page}");
        assert!(page.contains("\"%C3%BC%20%C3%BC\">ü ü</a>") && page.contains("\"?after=%22%3E%C3%BC%26\""), "{page}");
        assert!(page.contains("<a href=\"../\">"));
        assert!(!String::from_utf8(html(b"", true, &[], None)).unwrap().contains("../"));
    }

    #[test]
    #[cfg_attr(miri, ignore = "thousands of rounds")]
    fn pages_show_every_name_once_and_sorted_whatever_the_order_in_the_directory() {
        let mut chance = crate::chance::Chance::new(5);
        for _ in 0..200 {
            let mut names: Vec<Vec<u8>> = (0..chance.below(60)).map(|_| chance.bytes(3, b"ab%&")).collect();
            names.retain(|name| !name.is_empty());
            let max = 1 + chance.below(7);
            let (mut shown, mut from, mut more) = (Vec::new(), Vec::new(), true);
            while more {
                let mut first = First::new(max);
                names.iter().filter(|name| **name > from).for_each(|name| first.offer(name));
                let page;
                (page, more) = first.sorted();
                assert!(page.len() <= max && (!more || page.len() == max));
                shown.extend_from_slice(&page);
                let Some(last) = page.last() else { break };
                let mut link = b"?after=".to_vec();
                path::encode(last, &mut link);
                after(std::str::from_utf8(&link).unwrap(), &mut from);
                assert_eq!(from, *last);
                // Each name appears once, as in a directory.
                names.retain(|name| name > last);
            }
            assert!(shown.is_sorted());
            assert!(names.is_empty(), "{names:?} on no page");
        }
    }

    #[test]
    fn a_query_names_what_comes_before_the_page() {
        let mut name = b"left over".to_vec();
        for (query, expected) in [
            ("", ""),
            ("?", ""),
            ("?after=a", "a"),
            ("?x=y&after=a%20b%2Fc", "a b/c"),
            ("?after=a+b", "a+b"),
            ("?after=a&after=b", "a"),
            ("?after=%zz", ""),
            ("?before=a", ""),
            ("?after", ""),
        ] {
            after(query, &mut name);
            assert_eq!(name, expected.as_bytes(), "{query}");
        }
    }
}
