//! Versions that `httparse` does not know: the classification of a request line without `HTTP/1.0` and `HTTP/1.1`, and
//! the head of a later HTTP/1, which is read as the latest known version (RFC 9110 section 2.5).

use super::{FIELDS_MAX, Head, Status, fault, within_limits};

/// The meaning of the third word of a request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// `HTTP/1.2` to `HTTP/1.9`
    LaterMinor,
    /// `HTTP/` and any other version number.
    Other,
    None,
}

/// The version that `line` names.
pub(super) fn of_line(line: &[u8]) -> Version {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let third = line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    let Some(version) = third.strip_prefix(b"HTTP/") else { return Version::None };
    let (major, minor) = match version.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&version[..dot], Some(&version[dot + 1..])),
        None => (version, None),
    };
    let is_number = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    match (major, minor) {
        (b"1", Some([b'2'..=b'9'])) => Version::LaterMinor,
        // Neither a known version, nor the syntax of a version (RFC 9112 section 2.3).
        (b"1", _) => Version::None,
        _ if is_number(major) && minor.is_none_or(is_number) => Version::Other,
        _ => Version::None,
    }
}

/// Parses the head at the beginning of `bytes`, whose request line has a later minor version and ends at `end`.
/// `httparse` reads the line with a known version in its place, and then the fields.
#[cold]
pub(super) fn read(bytes: &[u8], end: usize) -> Result<Option<(Head<'_>, usize)>, Status> {
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let ours = [&line[..line.len() - 1], b"1\r\n\r\n"].concat();
    let mut request = httparse::Request::new(&mut []);
    let (Ok(httparse::Status::Complete(_)), Some(method), Some(target)) =
        (request.parse(&ours), request.method, request.path)
    else {
        return Err(Status::BadRequest);
    };
    // The words have their former places, with a blank after each.
    let target = std::str::from_utf8(&bytes[method.len() + 1..][..target.len()]).map_err(|_| Status::BadRequest)?;
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(&bytes[end + 1..], &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            let length = end + 1 + length;
            Ok(Some((Head::weighed(method, target, false, fields, &bytes[..length])?, length)))
        }
        Ok(httparse::Status::Partial) => within_limits(bytes).map(|()| None),
        Err(error) => fault(error, bytes),
    }
}
