//! Which media type a name stands for.

/// The type of a file of which nothing is known.
const UNKNOWN: &str = "application/octet-stream";

/// What `Content-Type` says of a file of this name, by its ending; text is UTF-8 here, as everywhere by now.
pub(super) fn content_type(path: &[u8]) -> (&'static str, &'static str) {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let ending = name.iter().rposition(|&byte| byte == b'.').map(|dot| &name[dot + 1..]);
    let ending = ending.and_then(|ending| std::str::from_utf8(ending).ok()).unwrap_or_default();
    let guess = match mime_guess::from_ext(ending).first_raw().unwrap_or(UNKNOWN) {
        // As modules are said to be. It is obsolete, and means the same (RFC 9239 section 6).
        "application/javascript" => "text/javascript",
        guess => guess,
    };
    (guess, if guess.starts_with("text/") { "; charset=utf-8" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_goes_by_the_last_ending_whatever_its_case() {
        let table = [
            ("a.html", "text/html; charset=utf-8"),
            ("a/b.HTM", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.svg", "image/svg+xml"),
            ("a.png", "image/png"),
            ("a.webm", "video/webm"),
            ("a.json", "application/json"),
            ("a.wasm", "application/wasm"),
            ("a.tar.gz", "application/gzip"),
            ("a.html.txt", "text/plain; charset=utf-8"),
            ("a.b/c", UNKNOWN),
            ("README", UNKNOWN),
            ("a.", UNKNOWN),
            ("a.\u{fc}", UNKNOWN),
            ("", UNKNOWN),
        ];
        for (path, expected) in table {
            let (essence, charset) = content_type(path.as_bytes());
            assert_eq!(format!("{essence}{charset}"), expected, "{path}");
        }
    }
}
