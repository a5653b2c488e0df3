//! The host of a request (RFC 9110 section 7.2, RFC 3986 section 3.2.2): checks the syntax of the value of `Host`, or
//! of the authority in a target. The host's meaning does not matter here, but a malformed host could mean anything.

use super::syntax::leading;

/// Whether `value` is a host with an optional port. An empty value is valid: a client sends it for a target without a
/// host.
#[inline]
pub(super) fn is_host(value: &[u8]) -> bool {
    after_host(value).is_empty() || is_bracketed(value) || is_encoded(value)
}

/// Skips the longest name, with an optional port, at the beginning of `bytes`.
#[inline(always)]
fn after_host(bytes: &[u8]) -> &[u8] {
    let rest = after_name(bytes);
    if rest.len() < bytes.len() { after_port(rest) } else { rest }
}

/// Whether `value` is an IPv6 address in brackets with an optional port. A zone has a meaning only on the client's
/// machine, and addresses of future versions (RFC 3986) do not exist yet.
#[cold]
fn is_bracketed(value: &[u8]) -> bool {
    let Some(rest) = value.strip_prefix(b"[") else { return false };
    let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
    let is_address = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    std::str::from_utf8(&rest[..end]).is_ok_and(is_address) && after_port(&rest[end + 1..]).is_empty()
}

/// Whether `value` is a name with percent-encoded bytes. They are allowed, and rare.
#[cold]
fn is_encoded(value: &[u8]) -> bool {
    let mut rest = after_name(value);
    while let [b'%', high, low, after @ ..] = rest
        && high.is_ascii_hexdigit()
        && low.is_ascii_hexdigit()
    {
        rest = after_name(after);
    }
    rest.len() < value.len() && after_port(rest).is_empty()
}

/// Skips a colon and a port number. Returns all of `bytes` if they begin with no port.
#[inline]
fn after_port(bytes: &[u8]) -> &[u8] {
    let [b':', digits @ ..] = bytes else { return bytes };
    let length = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let rest = &digits[length..];
    if length < 5 || is_large_port(&digits[..length]) { rest } else { bytes }
}

/// For numbers of equal length, the order of texts is the order of numbers.
#[cold]
fn is_large_port(digits: &[u8]) -> bool {
    digits.len() == 5 && *digits <= b"65535"[..]
}

/// Skips the leading bytes of a name.
#[inline]
fn after_name(bytes: &[u8]) -> &[u8] {
    &bytes[leading(bytes, &IN_NAME)..]
}

/// Bytes that a registered name may contain unencoded: unreserved characters and sub-delimiters.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        byte += 1;
    }
    table
};
