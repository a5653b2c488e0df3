//! One line for each answer, in the combined format that every log reader knows. Lines are collected here and handed on
//! at the end of each callback. The receiver of the lines must not block.
//!
//! `host - - [time] "request line" status bytes "referer" "user agent"`

use std::fmt;
use std::io::Write;

use reactor::Peer;

use super::clock::Clock;
use crate::codec::request::Head;

/// The access log of one handler: a line for each answer, in the combined log format.
///
/// ```
/// use services::http::{AccessLog, BODY, Http};
/// use std::sync::mpsc::channel;
///
/// // A thread of the program writes the lines: the receiver must not block the loop.
/// let (lines, to_write) = channel::<String>();
/// let handler = Http::new(BODY, None).access_log(AccessLog::to(move |whole| drop(lines.send(whole.to_owned()))));
/// std::thread::spawn(move || to_write.iter().for_each(|lines| print!("{lines}")));
/// ```
pub struct AccessLog {
    lines: Vec<u8>,
    take: Box<dyn FnMut(&str) + Send>,
}

/// The request's part of a log line. An unknown part is empty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked<'a> {
    pub(super) line: &'a [u8],
    pub(super) referer: &'a [u8],
    pub(super) user_agent: &'a [u8],
}

impl<'a> Asked<'a> {
    pub(super) fn of(head: &Head<'a>) -> Self {
        let line = head.raw.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let value = |name| head.values(name).next().unwrap_or_default();
        Asked {
            line: line.strip_suffix(b"\r").unwrap_or(line),
            referer: value("Referer"),
            user_agent: value("User-Agent"),
        }
    }
}

impl AccessLog {
    /// Makes a log that hands whole lines to `take`, at the end of each callback. `take` must not block.
    ///
    /// ```
    /// use services::http::{AccessLog, BODY, Http};
    /// let handler = Http::new(BODY, None).access_log(AccessLog::to(|lines| print!("{lines}")));
    /// ```
    pub fn to(take: impl FnMut(&str) + Send + 'static) -> Self {
        AccessLog { lines: Vec::new(), take: Box::new(take) }
    }

    pub(super) fn note(&mut self, peer: Option<Peer>, asked: Asked<'_>, status: u16, bytes: u64, clock: &Clock) {
        let lines = &mut self.lines;
        // Writing to memory never fails.
        let _ = match peer {
            Some(Peer::Tcp(address)) => write!(lines, "{}", address.ip()),
            _ => write!(lines, "unix"),
        };
        lines.extend_from_slice(b" - - [");
        lines.extend_from_slice(clock.log_date());
        lines.extend_from_slice(b"] ");
        quote(asked.line, lines);
        let _ = write!(lines, " {status} {bytes} ");
        quote(asked.referer, lines);
        lines.push(b' ');
        quote(asked.user_agent, lines);
        lines.push(b'\n');
    }

    /// Hands the collected lines on, at the end of a callback.
    pub(super) fn flush(&mut self) {
        if !self.lines.is_empty() {
            // The lines contain only ASCII.
            (self.take)(std::str::from_utf8(&self.lines).unwrap_or_default());
            self.lines.clear();
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

/// Writes `text` in quotes, escaped, so that `text` cannot end its field or its line, nor send control codes to a
/// terminal.
fn quote(text: &[u8], into: &mut Vec<u8>) {
    into.push(b'"');
    if text.is_empty() {
        into.push(b'-');
    }
    for &byte in text {
        match byte {
            b'"' | b'\\' => into.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => into.push(byte),
            _ => {
                let _ = write!(into, "\\x{byte:02X}");
            }
        }
    }
    into.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_line_is_what_log_readers_expect_whatever_the_client_sends() {
        let taken = Arc::new(Mutex::new(String::new()));
        let lines = taken.clone();
        let mut log = AccessLog::to(move |text| lines.lock().unwrap().push_str(text));
        let mut clock = Clock::new();
        clock.set(Duration::ZERO, UNIX_EPOCH + Duration::from_secs(784_111_777));
        let peer = Some(Peer::tcp("[::ffff:10.0.0.1]:4000".parse().unwrap()));
        let asked = Asked { line: b"GET /a HTTP/1.1", referer: b"http://x/\"\\\x1b[2J", user_agent: b"curl/8\n\xfc" };
        log.note(peer, asked, 200, 17, &clock);
        log.note(None, Asked::default(), 408, 0, &clock);
        assert_eq!(*taken.lock().unwrap(), "");
        log.flush();
        log.flush();
        let expected = "10.0.0.1 - - [06/Nov/1994:08:49:37 +0000] \"GET /a HTTP/1.1\" 200 17 \
            \"http://x/\\\"\\\\\\x1B[2J\" \"curl/8\\x0A\\xFC\"\n\
            unix - - [06/Nov/1994:08:49:37 +0000] \"-\" 408 0 \"-\" \"-\"\n";
        assert_eq!(*taken.lock().unwrap(), expected);
    }
}
