//! A directory as a page: what is in it that would be served, directories first, then by name.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Dir, FileType};

use super::path;
use super::resolve::Failure;
use super::root::Root;

/// Names on one page. A directory of millions would otherwise take as much memory for each who asks.
const NAMES_MAX: usize = 10_000;

/// Looks like the system it is shown on, light or dark, and needs nothing else to be fetched.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.6 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.25rem;overflow-wrap:anywhere}\
table{border-collapse:collapse;width:100%}\
td{padding:.15rem .75rem .15rem 0;border-top:1px solid color-mix(in srgb,currentColor 15%,transparent)}\
td:first-child{overflow-wrap:anywhere}\
td+td{white-space:nowrap;text-align:right;opacity:.7;font-variant-numeric:tabular-nums}\
a{text-decoration:none}a:hover{text-decoration:underline}";

/// One row.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    /// So that directories come first.
    is_file: bool,
    name: Vec<u8>,
    size: u64,
    /// Seconds since 1970.
    modified: u64,
}

/// The page of the directory at `path`, which ends with a slash or is the root. Takes the disk's time.
pub(super) fn page(root: &Root, path: &[u8]) -> Result<Vec<u8>, Failure> {
    let anchor = root.anchor().ok_or(Failure::Absent)?;
    let mut rows = Vec::new();
    let mut more = 0;
    for entry in Dir::read_from(root.directory(&anchor, path)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        // Links are followed as they would be for a request, and what would not be served is not shown.
        let shown = matches!(
            entry.file_type(),
            FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Unknown
        );
        if name.starts_with(b".") || !shown {
            continue;
        }
        if rows.len() == NAMES_MAX {
            more += 1;
            continue;
        }
        let Ok(seen) = root.look(&anchor, &[path, name].concat()) else { continue };
        let is_file = match seen.kind {
            FileType::RegularFile => true,
            FileType::Directory => false,
            _ => continue,
        };
        let stamp = seen.stamp;
        let modified = u64::try_from(stamp.modified / 1_000_000_000).unwrap_or(0);
        rows.push(Row { is_file, name: name.to_vec(), size: stamp.size, modified });
    }
    rows.sort();
    Ok(html(path, &rows, more))
}

fn html(path: &[u8], rows: &[Row], more: usize) -> Vec<u8> {
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
        // Percent-encoded, it can end neither the attribute nor be taken for a scheme.
        page.extend_from_slice(b"<tr><td><a href=\"");
        path::encode(&row.name, &mut page);
        let slash = if row.is_file { "" } else { "/" };
        let size = if row.is_file { readable(row.size) } else { String::new() };
        let _ = writeln!(page, "{slash}\">{}{slash}</a><td>{size}<td>{}", escaped(&row.name), date(row.modified));
    }
    page.extend_from_slice(b"</table>\n");
    if more > 0 {
        let _ = writeln!(page, "<p>… and {more} more");
    }
    page
}

/// A name as text. What is no UTF-8 cannot be shown; its link works all the same.
fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(name).chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            // Neither a line of its own nor another direction than the page's.
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

/// `2026-11-23 08:57`, in UTC.
fn date(seconds: u64) -> String {
    // What no calendar here reaches is as good as the last day that one does.
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
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(u64::MAX), "9999-12-31 23:59");
    }

    #[test]
    fn a_name_can_be_nothing_but_a_name() {
        let row = |name: &str| Row { is_file: true, name: name.into(), size: 1, modified: 0 };
        let names = ["\"><script>alert('x')</script>&.html", "javascript:alert(1)", "a\u{202e}b\n", "ü ü"];
        let page = String::from_utf8(html(b"a<b/", &names.map(row), 3)).unwrap();
        assert!(!page.contains("<script") && !page.contains("\"javascript:"), "{page}");
        assert!(page.contains("<a href=\"javascript%3Aalert%281%29\">javascript:alert(1)</a>"), "{page}");
        assert!(page.contains("<title>/a&lt;b/</title>") && page.contains("a\u{fffd}b\u{fffd}<"), "{page}");
        assert!(page.contains("\"%C3%BC%20%C3%BC\">ü ü</a>") && page.contains("… and 3 more"), "{page}");
        assert!(page.contains("<a href=\"../\">"));
        assert!(!String::from_utf8(html(b"", &[], 0)).unwrap().contains("../"));
    }
}
