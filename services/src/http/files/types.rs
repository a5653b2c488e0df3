//! Media types by file name.

/// The type of a file with an unknown ending.
const UNKNOWN: &str = "application/octet-stream";

/// Endings for which `mime_guess` has no type, a replaced type, or the type of another format. Each group names the
/// source of its types ("IANA" is the registry of media types). Some endings have no source: `ts`, `mts`, `m2ts`,
/// `m4v`, `mka` and `tgz` are listed because they are in use for the format.
const OURS: [(&str, &str); 41] = [
    // Fonts: RFC 8081, which replaces application/font-*.
    ("otf", "font/otf"),
    ("sfnt", "font/sfnt"),
    ("ttc", "font/collection"),
    ("ttf", "font/ttf"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    // Scripts: RFC 9239, which replaces application/javascript. WebAssembly: IANA. Source maps: ECMA-426.
    ("js", "text/javascript"),
    ("mjs", "text/javascript"),
    ("wasm", "application/wasm"),
    ("map", "application/json"),
    // Streams: MPEG-2 transport streams RFC 3555, playlists RFC 8216 section 4, segments and manifests IANA.
    ("ts", "video/mp2t"),
    ("mts", "video/mp2t"),
    ("m2ts", "video/mp2t"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m3u", "audio/mpegurl"),
    ("m4s", "video/iso.segment"),
    ("mpd", "application/dash+xml"),
    // Sound and pictures that move: RFC 4337; Matroska RFC 9559; Opus RFC 7845 section 9.
    ("m4a", "audio/mp4"),
    ("m4v", "video/mp4"),
    ("mkv", "video/matroska"),
    ("mka", "audio/matroska"),
    ("opus", "audio/ogg"),
    // Pictures and models: IANA.
    ("avif", "image/avif"),
    ("webp", "image/webp"),
    ("ico", "image/vnd.microsoft.icon"),
    ("psd", "image/vnd.adobe.photoshop"),
    ("stl", "model/stl"),
    ("usdz", "model/vnd.usdz+zip"),
    // Packages and archives: IANA; zstd RFC 8878, gzip RFC 6713. RPM has none there: freedesktop.org's shared-mime-info.
    ("deb", "application/vnd.debian.binary-package"),
    ("rpm", "application/x-rpm"),
    ("rar", "application/vnd.rar"),
    ("tgz", "application/gzip"),
    ("zst", "application/zstd"),
    ("p12", "application/pkcs12"),
    // Text and data: RFC 7763, RFC 9512, RFC 6350, RFC 6922, IANA.
    ("md", "text/markdown"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("vcf", "text/vcard"),
    ("sql", "application/sql"),
    ("toml", "application/toml"),
    // W3C, Web Application Manifest.
    ("webmanifest", "application/manifest+json"),
];

/// The `Content-Type` of a file, by the ending of its name. Text counts as UTF-8, as everywhere by now.
pub(super) fn content_type(path: &[u8]) -> (&'static str, &'static str) {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let ending = name.iter().rposition(|&byte| byte == b'.').map(|dot| &name[dot + 1..]);
    let ending = ending.and_then(|ending| std::str::from_utf8(ending).ok()).unwrap_or_default();
    let ours = OURS.iter().find(|(known, _)| known.eq_ignore_ascii_case(ending)).map(|(_, essence)| *essence);
    let essence = ours.or_else(|| mime_guess::from_ext(ending).first_raw()).unwrap_or(UNKNOWN);
    (essence, if essence.starts_with("text/") { "; charset=utf-8" } else { "" })
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
            ("a.ts", "video/mp2t"),
            ("a.woff", "font/woff"),
            ("a.WOFF2", "font/woff2"),
            ("a.otf", "font/otf"),
            ("a.m4s", "video/iso.segment"),
            ("a.m3u8", "application/vnd.apple.mpegurl"),
            ("a.rpm", "application/x-rpm"),
            ("a.deb", "application/vnd.debian.binary-package"),
            ("a.md", "text/markdown; charset=utf-8"),
            ("a.flac", "audio/flac"),
            ("a.pdf", "application/pdf"),
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

    #[test]
    fn the_table_has_each_ending_once_and_no_type_that_was_given_up() {
        for (at, (ending, essence)) in OURS.iter().enumerate() {
            assert!(OURS[..at].iter().all(|(other, _)| other != ending), "{ending}");
            assert!(ending.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{ending}");
            assert_eq!(essence.split('/').count(), 2, "{essence}");
            assert!(!essence.contains("font-") && *essence != "application/javascript", "{essence}");
        }
    }
}
