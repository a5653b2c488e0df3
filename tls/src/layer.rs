//! rustls as a layer of the reactor.

use std::any::Any;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use reactor::{Follows, Layer, Opened};
use rustls::{Connection, HandshakeKind, ProtocolVersion};

use crate::cause::in_words;

/// The outcome of a handshake. Read with [`Context::agreed`](reactor::Context::agreed) in
/// [`Handler::on_open`](reactor::Handler::on_open) and [`Handler::on_connected`](reactor::Handler::on_connected).
///
/// ```
/// # struct Names; impl reactor::Handler for Names { type Connection = Option<String>;
/// fn on_open(&mut self, cx: &mut reactor::Context<'_, Option<String>>) -> Option<String> {
///     cx.agreed::<tls::Agreed>()?.server_name.clone()
/// }
/// # fn on_data(&mut self, _: &mut Option<String>, _: &mut reactor::Input<'_>, _: &mut reactor::Context<'_, Option<String>>) {} }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Agreed {
    /// The name that the client asked for (SNI). `None` on a client's side.
    pub server_name: Option<String>,
    /// The application's protocol (ALPN), if both sides named one.
    pub protocol: Option<Vec<u8>>,
    /// The certificates of the peer in DER, the peer's own first. On a server's side the list is empty unless the server asked for a
    /// certificate and the client had one.
    pub certificates: Vec<Vec<u8>>,
    /// The version of the protocol that both sides agreed on: `TLS 1.3` or `TLS 1.2`.
    pub version: &'static str,
    /// Whether the session was resumed from a ticket, without a full handshake.
    pub resumed: bool,
}

/// The reason of the last failure, shared by a client and its layers.
pub(crate) type Cause = Arc<Mutex<Option<String>>>;

/// Heap bytes of a session that is silent, with its read buffer of 4 KiB.
const SESSION: usize = 8 * 1024;

/// Bytes of the record that rustls is gathering: rustls holds them until the record is complete.
#[derive(Clone, Copy, Default)]
struct Gathered {
    header: [u8; HEADER],
    held: usize,
    /// Bytes that the record still lacks, once its header is complete.
    missing: usize,
}

/// Records that rustls is given at once. rustls has a list with a place for each record whose plaintext waits, and never gives a
/// place back.
const RECORDS: usize = 16;

/// The alert for a first message that makes no sense, as a record without encryption.
const DECODE_ERROR: [u8; HEADER + 2] = [21, 3, 3, 0, 2, 2, 50];

/// Length of a record's header, whose last two bytes are the length of the rest.
const HEADER: usize = 5;

impl Gathered {
    /// Follows ciphertext that rustls takes, up to the end of the last of `records` records. Returns the number of bytes.
    fn advance(&mut self, all: &[u8], mut records: usize) -> usize {
        let mut wire = all;
        while records > 0
            && let Some((first, rest)) = wire.split_first()
        {
            if self.held < HEADER {
                self.header[self.held] = *first;
                self.held += 1;
                wire = rest;
                if self.held == HEADER {
                    self.missing = u16::from_be_bytes([self.header[3], self.header[4]]).into();
                }
            } else {
                let count = self.missing.min(wire.len());
                (self.held, self.missing, wire) = (self.held + count, self.missing - count, &wire[count..]);
            }
            if self.held >= HEADER && self.missing == 0 {
                self.held = 0;
                records -= 1;
            }
        }
        all.len() - wire.len()
    }
}

/// A source without bytes at the moment.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::WouldBlock.into())
    }
}

pub(crate) struct Tls {
    tls: Connection,
    /// Received ciphertext for which rustls had no room, because plaintext has to be taken first.
    held: Vec<u8>,
    gathered: Gathered,
    /// Bytes of plaintext in rustls.
    unread: usize,
    /// rustls has gathered a record, for which its read buffer has grown.
    grown: bool,
    ended: bool,
    failed: bool,
    /// Bytes have been owed to the wire before, so the keys of the session may be in use.
    spoke: bool,
    /// An alert is owed for a failure for which rustls has none.
    alert: bool,
    cause: Option<Cause>,
}

impl Tls {
    pub(crate) fn new(mut tls: Connection, cause: Option<Cause>) -> Self {
        // The caller of `seal` takes the whole ciphertext at once, so the buffer needs no limit.
        tls.set_buffer_limit(None);
        Tls {
            tls,
            held: Vec::new(),
            gathered: Gathered::default(),
            unread: 0,
            grown: false,
            ended: false,
            failed: false,
            spoke: false,
            alert: false,
            cause,
        }
    }

    /// Gives `wire` to rustls and takes plaintext while `plain` has room. Returns the rest of `wire` and the number of plaintext bytes.
    fn advance<'w>(&mut self, mut wire: &'w [u8], plain: &mut [u8]) -> (&'w [u8], usize) {
        let mut filled = self.take(plain);
        while !wire.is_empty() && self.unread == 0 && !self.failed && !self.ended {
            let mut part = &wire[..{ self.gathered }.advance(wire, RECORDS)];
            let length = part.len();
            if self.tls.read_tls(&mut part).is_err() {
                // rustls takes no ciphertext while it holds too much plaintext.
                break;
            }
            let (taken, rest) = wire.split_at(length - part.len());
            self.gathered.advance(taken, usize::MAX);
            wire = rest;
            self.grown |= self.gathered.held > 0;
            match self.tls.process_new_packets() {
                Ok(state) => {
                    self.ended = state.peer_has_closed();
                    self.unread = state.plaintext_bytes_to_read();
                }
                Err(error) => self.fail(&error),
            }
            filled += self.take(&mut plain[filled..]);
        }
        (wire, filled)
    }

    fn take(&mut self, plain: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < plain.len() {
            match self.tls.reader().read(&mut plain[filled..]) {
                Ok(count) if count > 0 => filled += count,
                _ => break,
            }
        }
        self.unread = self.unread.saturating_sub(filled);
        filled
    }

    /// Has rustls shrink its buffer: rustls keeps the buffer of a large record until the next read.
    fn give_back(&mut self) {
        let _ = self.tls.read_tls(&mut Nothing);
    }

    fn has_plaintext(&mut self) -> bool {
        use std::io::BufRead;
        self.tls.reader().fill_buf().is_ok_and(|bytes| !bytes.is_empty())
    }

    fn fail(&mut self, error: &rustls::Error) {
        let words = in_words(error, self.tls.is_handshaking());
        log::debug!("TLS: {words}");
        self.failed = true;
        self.alert = !self.spoke && !self.tls.wants_write() && !matches!(error, rustls::Error::AlertReceived(_));
        if let Some(cause) = &self.cause {
            *cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
        }
    }
}

impl Layer for Tls {
    fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> Opened {
        let mut filled = 0;
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let (rest, count) = self.advance(&held, plain);
            filled = count;
            self.held = rest.to_vec();
        }
        if self.held.is_empty() {
            let (rest, count) = self.advance(wire, &mut plain[filled..]);
            filled += count;
            self.held = rest.to_vec();
        } else {
            self.held.extend_from_slice(wire);
        }
        if self.ended || self.failed {
            self.held = Vec::new();
        }
        if self.grown && self.held.is_empty() && self.gathered.held == 0 {
            self.grown = false;
            self.give_back();
        }
        let follows = match () {
            () if self.has_plaintext() => Follows::Plain,
            () if self.failed => Follows::Failure,
            () if self.ended => Follows::End,
            () if !self.held.is_empty() => Follows::Plain,
            () => Follows::Wire,
        };
        Opened { plain: filled, follows }
    }

    fn seal(&mut self, plain: &[u8]) {
        // The buffer has no limit, and the end of a connection is reported by `open`.
        let _ = self.tls.writer().write_all(plain);
    }

    fn owes(&self) -> bool {
        self.alert || self.tls.wants_write()
    }

    fn owed(&mut self, wire: &mut Vec<u8>) {
        self.spoke = true;
        if std::mem::take(&mut self.alert) {
            wire.extend_from_slice(&DECODE_ERROR);
        }
        while self.tls.wants_write() && self.tls.write_tls(wire).is_ok() {}
    }

    fn is_ready(&self) -> bool {
        !self.tls.is_handshaking()
    }

    fn memory(&self) -> usize {
        SESSION + self.held.capacity() + self.gathered.held + self.unread
    }

    fn finish(&mut self) {
        self.tls.send_close_notify();
    }

    fn agreed(&mut self) -> Option<Box<dyn Any>> {
        let server_name = match &self.tls {
            Connection::Server(tls) => tls.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        };
        let agreed = Agreed {
            server_name,
            protocol: self.tls.alpn_protocol().map(<[u8]>::to_vec),
            certificates: self.tls.peer_certificates().unwrap_or_default().iter().map(|one| one.to_vec()).collect(),
            version: match self.tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS 1.3",
            },
            resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
        };
        log::debug!(
            "{}{}{}",
            agreed.version,
            if agreed.resumed { ", resumed" } else { "" },
            agreed.server_name.as_ref().map(|name| format!(", for {name}")).unwrap_or_default()
        );
        Some(Box::new(agreed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_ciphertext_ends_with_the_last_of_a_number_of_records() {
        let wire = [23, 3, 3, 0, 1, 9].repeat(20);
        let mut gathered = Gathered::default();
        assert_eq!(gathered.advance(&wire[..4], 2), 4);
        assert_eq!(gathered.advance(&wire[4..], 2), 2 + 6);
        assert_eq!(gathered.advance(&wire[12..], RECORDS), 6 * RECORDS);
        assert_eq!((gathered.advance(&wire[..3], 1), gathered.held), (3, 3));
    }

    #[test]
    fn the_bytes_of_an_incomplete_record_are_known_however_they_arrive() {
        let record = |length: u16| [&[23, 3, 3][..], &length.to_be_bytes(), &vec![0; length.into()]].concat();
        let wire = [record(1000), record(0), record(16_000)].concat();
        for step in [1, 3, 7, 1005, 4096, wire.len()] {
            let mut gathered = Gathered::default();
            for (at, piece) in wire.chunks(step).enumerate() {
                assert_eq!(gathered.advance(piece, usize::MAX), piece.len());
                let end = at * step + piece.len();
                let begin = [wire.len(), 1010, 1005, 0].into_iter().find(|&begin| begin <= end).unwrap();
                assert_eq!(gathered.held, end - begin, "after {end} bytes in steps of {step}");
            }
        }
    }
}
