//! Turns a request's target into a path below the root, by text alone: no file is looked at.
//!
//! The resulting path has a single meaning: percent-encodings are decoded once, `.` and `..` are resolved (RFC 3986
//! section 5.2.4), repeated slashes are merged, and no segment is hidden.

use crate::codec::request::Status;

/// Hidden files are not served, except this directory at the root (RFC 8615).
pub(super) const WELL_KNOWN: &[u8] = b".well-known";

/// Splits a target into its path and its query; the query includes the question mark.
#[inline]
pub(super) fn split(target: &str) -> (&str, &str) {
    target.split_at(memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len()))
}

/// Writes the path that a target without its query names into `path`. The path has no slash at its beginning, a slash
/// at its end if the target ends with one, and is empty for the root.
///
/// # Errors
/// 400 for a malformed path, or a path above the root; 404 for a name that is never served.
pub(super) fn read(target: &str, path: &mut Vec<u8>) -> Result<(), Status> {
    path.clear();
    let mut rest = origin_form(target);
    // `rest` begins with a slash, and each step takes one segment.
    while let Some(after) = rest.strip_prefix('/') {
        let (segment, following) = after.split_at(after.find('/').unwrap_or(after.len()));
        push(segment, !following.is_empty(), path)?;
        rest = following;
    }
    Ok(())
}

/// The path part of a whole URI, the form for proxies (RFC 9112 section 3.2.2).
fn origin_form(target: &str) -> &str {
    if target.starts_with('/') {
        return target;
    }
    let rest = target.split_once("://").map_or("", |(_, rest)| rest);
    // `http://host` has the path `/`.
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// Appends one segment. `is_directory`: a slash follows the segment.
fn push(segment: &str, is_directory: bool, path: &mut Vec<u8>) -> Result<(), Status> {
    let start = path.len();
    decode(segment.as_bytes(), path)?;
    match &path[start..] {
        // Several slashes count as one, as on any file system.
        b"" | b"." => path.truncate(start),
        b".." => {
            path.truncate(start);
            // The parent ends at the slash before the last slash.
            let parent = path.strip_suffix(b"/").ok_or(Status::BadRequest)?;
            path.truncate(parent.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1));
        }
        name if name.contains(&b'/') => return Err(Status::NotFound),
        [b'.', ..] if start > 0 || &path[start..] != WELL_KNOWN => return Err(Status::NotFound),
        _ if is_directory => path.push(b'/'),
        _ => {}
    }
    Ok(())
}

/// Decodes percent-encoded bytes and appends the result. NUL is refused, because a path ends at NUL for the kernel but
/// not for other code.
pub(super) fn decode(segment: &[u8], path: &mut Vec<u8>) -> Result<(), Status> {
    let mut rest = segment;
    while let Some(at) = memchr::memchr(b'%', rest) {
        path.extend_from_slice(&rest[..at]);
        let [high, low] = *rest[at + 1..].first_chunk().ok_or(Status::BadRequest)?;
        let digit = |byte| char::from(byte).to_digit(16).ok_or(Status::BadRequest);
        path.push((digit(high)? * 16 + digit(low)?) as u8);
        rest = &rest[at + 3..];
    }
    path.extend_from_slice(rest);
    if memchr::memchr(0, path).is_some() { Err(Status::BadRequest) } else { Ok(()) }
}

/// Encodes a path as the target that [`read`] turns into this path. Every byte with a special meaning is
/// percent-encoded, so the path cannot look like an authority, nor end a header or an attribute.
pub(super) fn encode(path: &[u8], into: &mut Vec<u8>) {
    for &byte in path {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => into.push(byte),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                into.extend_from_slice(&[b'%', DIGITS[byte as usize >> 4], DIGITS[byte as usize & 15]]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn reading(target: &str) -> Result<(String, String), u16> {
        let mut path = b"left over".to_vec();
        let (name, query) = split(target);
        read(name, &mut path).map_err(Status::code)?;
        Ok((String::from_utf8_lossy(&path).into_owned(), query.to_owned()))
    }

    #[test]
    fn a_target_is_one_path_or_none() {
        let table: &[(&str, Result<&str, u16>)] = &[
            ("/", Ok("")),
            ("/a", Ok("a")),
            ("/a/", Ok("a/")),
            ("/a/b.txt", Ok("a/b.txt")),
            ("/a%20b", Ok("a b")),
            ("/%61%2e%74", Ok("a.t")),
            ("/%C3%BC", Ok("ü")),
            ("/a+b", Ok("a+b")),
            ("/a%2541", Ok("a%41")),
            ("/a%253f", Ok("a%3f")),
            ("/a%3Fb", Ok("a?b")),
            // Slashes.
            ("//", Ok("")),
            ("//a", Ok("a")),
            ("/a//b", Ok("a/b")),
            ("/a///", Ok("a/")),
            ("//evil.example/", Ok("evil.example/")),
            ("/a%2Fb", Err(404)),
            ("/%2F", Err(404)),
            ("/%2e%2e%2fa", Err(404)),
            // Dots.
            ("/.", Ok("")),
            ("/a/.", Ok("a/")),
            ("/./a", Ok("a")),
            ("/a/./b", Ok("a/b")),
            ("/a/../b", Ok("b")),
            ("/a/b/..", Ok("a/")),
            ("/a/b/../..", Ok("")),
            ("/a/b/../../c", Ok("c")),
            ("/a//../b", Ok("b")),
            ("/a/%2e%2E/b", Ok("b")),
            ("/a/.%2e/b", Ok("b")),
            ("/..", Err(400)),
            ("/../", Err(400)),
            ("/../a", Err(400)),
            ("/%2e%2e/a", Err(400)),
            ("/a/../../a", Err(400)),
            ("/a/..//../a", Err(400)),
            ("//..", Err(400)),
            ("/...", Err(404)),
            ("/a/..b", Err(404)),
            ("/a../b", Ok("a../b")),
            // Backslashes are bytes like others.
            ("/a\\b", Ok("a\\b")),
            ("/..\\..\\a", Err(404)),
            ("/a\\..\\b", Ok("a\\..\\b")),
            ("/%5c%5cevil", Ok("\\\\evil")),
            // Hidden.
            ("/.git/config", Err(404)),
            ("/%2egit/config", Err(404)),
            ("/a/.htpasswd", Err(404)),
            ("/.well-known/x", Ok(".well-known/x")),
            ("/%2Ewell-known/x", Ok(".well-known/x")),
            ("/a/../.well-known/x", Ok(".well-known/x")),
            ("/a/.well-known/x", Err(404)),
            ("/.well-known/.x", Err(404)),
            ("/.well-knownx", Err(404)),
            // Malformed encodings, and encodings that no path may have.
            ("/%", Err(400)),
            ("/%1", Err(400)),
            ("/%zz", Err(400)),
            ("/%+1", Err(400)),
            ("/%%41", Err(400)),
            ("/%00", Err(400)),
            ("/a%00.txt", Err(400)),
            // A whole URI.
            ("http://host", Ok("")),
            ("http://host/", Ok("")),
            ("http://host/a/b", Ok("a/b")),
            ("HTTPS://host:1/a", Ok("a")),
            ("http://host?a/b", Ok("")),
            ("http://host/../a", Err(400)),
        ];
        for (target, expected) in table {
            assert_eq!(reading(target).map(|(path, _)| path), expected.map(str::to_owned), "{target}");
        }
    }

    #[test]
    fn a_query_is_no_part_of_the_path() {
        for (target, path, query) in
            [("/a?b", "a", "?b"), ("/?/../..", "", "?/../.."), ("/a?%zz", "a", "?%zz"), ("/a??", "a", "??")]
        {
            assert_eq!(reading(target), Ok((path.to_owned(), query.to_owned())), "{target}");
        }
    }

    /// The rule for any target whatever, and that encoding is its reverse.
    #[test]
    #[cfg_attr(miri, ignore = "thousands of rounds")]
    fn no_target_has_a_path_that_leads_anywhere_else_and_each_path_is_read_back_from_its_encoding() {
        let mut chance = Chance::new(11);
        let pieces =
            ["/", "..", ".", "%2e", "%2F", "a", "b.c", "\\", "%5C", "%00", "%", "?", "%25", ".well-known", "ü"];
        let mut taken = 0;
        for _ in 0..50_000 {
            let length = 1 + chance.below(8);
            let target: String = std::iter::once("/").chain((0..length).map(|_| pieces[chance.below(15)])).collect();
            let mut path = Vec::new();
            let Ok(_) = read(&target, &mut path) else { continue };
            taken += 1;
            assert!(!path.starts_with(b"/") && !path.contains(&0), "{target}");
            let segments: Vec<_> = path.strip_suffix(b"/").unwrap_or(&path).split(|&byte| byte == b'/').collect();
            for (index, segment) in segments.iter().enumerate() {
                let may_be_empty = segments.len() == 1;
                assert!(may_be_empty || !segment.is_empty(), "{target}");
                assert!(!segment.starts_with(b".") || (index == 0 && *segment == WELL_KNOWN), "{target}");
            }
            let (mut encoded, mut again) = (b"/".to_vec(), Vec::new());
            encode(&path, &mut encoded);
            assert!(!encoded.starts_with(b"//"));
            read(std::str::from_utf8(&encoded).unwrap(), &mut again).unwrap();
            assert_eq!(again, path, "{target}");
        }
        assert!(taken > 5_000, "{taken}");
    }
}
