//! A minimal record protocol as a [`Layer`], for tests of connections with a layer: a handshake, an authenticated end, an alert,
//! and a message that must be answered at once.

use reactor::{Follows, Layer, Opened};

/// The hellos of client and server, and the alert.
pub const HELLO: &[u8; 4] = b"HELO";
pub const WELCOME: &[u8; 4] = b"WELC";
pub const ALERT: &[u8; 4] = b"FAIL";
/// Values of the length field with another meaning.
pub const END: u16 = 0;
pub const UPDATE: u16 = 0xFFFF;
pub const RECORD_MAX: usize = 16 * 1024;

/// The layer of one side. A record is a length and as many bytes, of which the first ones are masked.
#[derive(Default)]
pub struct Records {
    is_client: bool,
    /// The server answers the client's hello by nothing.
    is_quiet: bool,
    ready: bool,
    ended: bool,
    failed: bool,
    finished: bool,
    wire: Vec<u8>,
    plain: Vec<u8>,
    owed: Vec<u8>,
}

impl Records {
    pub fn server() -> Box<dyn Layer> {
        Box::new(Records::default())
    }

    /// A server whose handshake is the client's hello alone. So a client without unread bytes has read all plaintext, and closes
    /// with a FIN.
    pub fn quiet_server() -> Box<dyn Layer> {
        Box::new(Records { is_quiet: true, ..Records::default() })
    }

    pub fn client() -> Box<dyn Layer> {
        Box::new(Records { is_client: true, owed: HELLO.to_vec(), ..Records::default() })
    }

    fn take_in(&mut self) {
        if !self.ready && !self.failed && self.wire.len() >= 4 {
            let expected = if self.is_client { WELCOME } else { HELLO };
            self.ready = self.wire.starts_with(expected);
            self.failed = !self.ready;
            self.wire.drain(..4);
            match (self.is_client, self.ready) {
                (false, true) if !self.is_quiet => self.owed.extend(WELCOME),
                (false, false) => self.owed.extend(ALERT),
                _ => {}
            }
        }
        let mut at = 0;
        while self.ready && !self.ended && !self.failed && self.wire.len() - at >= 2 {
            let length = u16::from_be_bytes([self.wire[at], self.wire[at + 1]]);
            match length {
                END => self.ended = true,
                UPDATE => {
                    self.owed.extend(UPDATE.to_be_bytes());
                    at += 2;
                }
                length if usize::from(length) > RECORD_MAX => {
                    self.failed = true;
                    self.owed.extend(ALERT);
                }
                length => {
                    let Some(bytes) = self.wire.get(at + 2..at + 2 + usize::from(length)) else { break };
                    append_masked(&mut self.plain, bytes);
                    at += 2 + usize::from(length);
                }
            }
        }
        self.wire.drain(..at);
        if self.wire.is_empty() {
            self.wire = Vec::new();
        }
    }
}

impl Layer for Records {
    fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> Opened {
        self.wire.extend(wire);
        self.take_in();
        let count = self.plain.len().min(plain.len());
        plain[..count].copy_from_slice(&self.plain[..count]);
        self.plain.drain(..count);
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
        let follows = match () {
            () if !self.plain.is_empty() => Follows::Plain,
            () if self.failed => Follows::Failure,
            () if self.ended => Follows::End,
            () => Follows::Wire,
        };
        Opened { plain: count, follows }
    }

    fn seal(&mut self, plain: &[u8]) {
        assert!(self.ready && plain.len() < 1 << 16);
        self.owed.extend(sealed(plain));
    }

    fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    fn owed(&mut self, wire: &mut Vec<u8>) {
        wire.append(&mut std::mem::take(&mut self.owed));
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn memory(&self) -> usize {
        self.wire.capacity() + self.plain.capacity() + self.owed.capacity()
    }

    fn finish(&mut self) {
        if self.ready && !std::mem::replace(&mut self.finished, true) {
            self.owed.extend(END.to_be_bytes());
        }
    }

    fn agreed(&mut self) -> Option<Box<dyn std::any::Any>> {
        Some(Box::new("records"))
    }
}

pub fn sealed(plain: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(sealed_length(plain.len()));
    for part in plain.chunks(RECORD_MAX) {
        wire.extend((part.len() as u16).to_be_bytes());
        append_masked(&mut wire, part);
    }
    wire
}

/// Appends the content of a record, masked or unmasked. A mask for every byte would take most of the time of these tests.
pub fn append_masked(to: &mut Vec<u8>, bytes: &[u8]) {
    let from = to.len();
    to.extend_from_slice(bytes);
    to[from..].iter_mut().take(64).for_each(|byte| *byte ^= 0x5A);
}

/// Bytes on the wire for `count` bytes of plaintext that are sealed together.
pub fn sealed_length(count: usize) -> usize {
    count + 2 * count.div_ceil(RECORD_MAX)
}

/// The plaintext of a server's bytes after its hello, and whether the end was authenticated.
pub fn opened(mut wire: &[u8]) -> (Vec<u8>, bool) {
    let mut plain = Vec::new();
    while let Some((length, rest)) = wire.split_at_checked(2) {
        let length = u16::from_be_bytes([length[0], length[1]]);
        if length == END {
            return (plain, rest.is_empty());
        }
        let length = if length == UPDATE { 0 } else { usize::from(length) };
        let part = rest.get(..length).unwrap_or(rest);
        append_masked(&mut plain, part);
        wire = &rest[part.len()..];
    }
    (plain, false)
}
