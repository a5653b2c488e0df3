//! Compares the reader of heads with `httparse`, the parser of hyper. For a property test and for the fuzz target
//! `http_request`; `httparse` is a package of tests alone. This file knows nothing of its crate, so both can include the file.
//!
//! Both readers must accept and refuse the same bytes, and find the same words, fields and end. The project differs in one
//! point: a later HTTP/1 is accepted, and a wrong version is refused when its line is complete (`of_another_version`). The
//! stricter rules about fields and targets apply to heads that both readers accept: see `http/exchange/model.rs`.

/// The outcome of a reader: a head, `None` for the beginning of a head, `Err` for a refusal.
type Outcome<'h> = Result<Option<Parts<'h>>, &'static str>;

/// Method, target, whether the version is HTTP/1.0, the names and values of the fields, and the length of the head.
type Parts<'h> = (&'h [u8], &'h [u8], bool, Vec<(&'h [u8], &'h [u8])>, usize);

const REFUSED: &str = "refused";

/// Compares `read` with the reference, for `bytes` and for beginnings of `bytes`.
///
/// # Panics
/// If the outcomes differ.
pub(crate) fn compare(bytes: &[u8], read: impl for<'h> Fn(&'h [u8]) -> Outcome<'h>) {
    // Each beginning of a short head, and some of a long one.
    let step = bytes.len() / 64 + 1;
    for end in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
        let bytes = &bytes[..end];
        assert_eq!(read(bytes), expected(bytes), "{}", bytes.escape_ascii());
    }
}

const FIELDS_MAX: usize = 100;

/// The outcome that the reference and the project's rules give.
fn expected(bytes: &[u8]) -> Outcome<'_> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let (method, target) = (request.method.unwrap().as_bytes(), request.path.unwrap().as_bytes());
            Ok(Some((method, target, request.version == Some(0), pairs(request.headers), length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::Version) => of_another_version(bytes),
        Err(_) => Err(REFUSED),
    }
}

/// A head without a version that `httparse` knows. The line decides when it is complete; a later HTTP/1 is read as HTTP/1.1.
fn of_another_version(bytes: &[u8]) -> Outcome<'_> {
    let begin = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap();
    let Some(end) = bytes[begin..].iter().position(|&byte| byte == b'\n').map(|end| begin + end) else {
        return Ok(None);
    };
    let line = bytes[begin..end].strip_suffix(b"\r").unwrap_or(&bytes[begin..end]);
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let [method, target, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9']] = words[..] else {
        return Err(REFUSED);
    };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(&bytes[end + 1..], &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            Ok(Some((method, target, false, pairs(fields), end + 1 + length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(REFUSED),
    }
}

fn pairs<'h>(fields: &[httparse::Header<'h>]) -> Vec<(&'h [u8], &'h [u8])> {
    fields.iter().map(|field| (field.name.as_bytes(), field.value)).collect()
}
