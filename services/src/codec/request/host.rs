//! Which host a request is for (RFC 9110 section 7.2, RFC 3986 section 3.2.2): whether what stands in `Host`, or between
//! a scheme and a path, is one. Its meaning is nobody's business here, but what is none could mean anything.

/// Whether `value` is a host and perhaps a port, or nothing at all, which is what a client says whose target has no
/// host.
#[inline]
pub(super) fn is_host(value: &[u8]) -> bool {
    after_host(value).is_empty() || is_bracketed(value) || is_encoded(value)
}

/// What comes after the longest name, and perhaps a port, that `bytes` begins with.
///
/// A function of its own at run time too: among the variables of its callers, each byte costs half as much again.
#[inline(never)]
fn after_host(bytes: &[u8]) -> &[u8] {
    let rest = after_all(bytes, |byte| IN_NAME[byte as usize]);
    if rest.len() < bytes.len() { after_port(rest) } else { rest }
}

/// An IPv6 address in brackets and perhaps a port. A zone has no meaning to anybody else, and addresses of a future
/// version (RFC 3986) have none yet.
#[cold]
fn is_bracketed(value: &[u8]) -> bool {
    let Some(rest) = value.strip_prefix(b"[") else { return false };
    let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
    let is_address = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    std::str::from_utf8(&rest[..end]).is_ok_and(is_address) && after_port(&rest[end + 1..]).is_empty()
}

/// A name that has percent-encoded bytes in it. They are allowed, and nobody sends them.
#[cold]
fn is_encoded(value: &[u8]) -> bool {
    let mut rest = after_all(value, |byte| IN_NAME[byte as usize]);
    while let [b'%', high, low, after @ ..] = rest
        && high.is_ascii_hexdigit()
        && low.is_ascii_hexdigit()
    {
        rest = after_all(after, |byte| IN_NAME[byte as usize]);
    }
    rest.len() < value.len() && after_port(rest).is_empty()
}

/// What comes after a colon and what may be a port; all of `bytes` when they begin with none.
#[inline]
fn after_port(bytes: &[u8]) -> &[u8] {
    let [b':', digits @ ..] = bytes else { return bytes };
    let rest = after_all(digits, |byte| byte.is_ascii_digit());
    let length = digits.len() - rest.len();
    if length < 5 || is_large_port(&digits[..length]) { rest } else { bytes }
}

/// Of numbers as long as each other, the larger one comes later as text too.
#[cold]
fn is_large_port(digits: &[u8]) -> bool {
    digits.len() == 5 && *digits <= b"65535"[..]
}

/// What comes after the bytes of this kind at the beginning.
#[inline]
fn after_all(bytes: &[u8], is_kind: impl Fn(u8) -> bool) -> &[u8] {
    let mut rest = bytes;
    while let [byte, after @ ..] = rest
        && is_kind(*byte)
    {
        rest = after;
    }
    rest
}

/// The bytes of a registered name that stand for themselves: unreserved, and sub-delimiters.
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
