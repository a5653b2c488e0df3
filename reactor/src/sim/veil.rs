//! A toy layer of the simulator: a handshake, masked bytes, and an end that the layer authenticates.

use super::Script;
use crate::layer::{Follows, Layer, Opened};
use crate::random::Random;
use crate::sys::simulated::Act;

pub(super) const HELLO: &[u8] = b"HELO";
pub(super) const WELCOME: &[u8] = b"WELC";
pub(super) const MASK: u8 = 0x80;
/// The end of a half. No text has this byte after masking.
pub(super) const END: u8 = 0;

/// The layer of the server. Each byte of text is one masked byte of the wire.
#[derive(Default)]
pub(super) struct Veil {
    hello: Vec<u8>,
    plain: Vec<u8>,
    owed: Vec<u8>,
    ended: bool,
    finished: bool,
}

impl Layer for Veil {
    fn open(&mut self, mut wire: &[u8], plain: &mut [u8]) -> Opened {
        let hello = (HELLO.len() - self.hello.len()).min(wire.len());
        if hello > 0 {
            self.hello.extend_from_slice(&wire[..hello]);
            wire = &wire[hello..];
            if self.is_ready() {
                self.owed.extend_from_slice(WELCOME);
            }
        }
        for &byte in wire.iter().filter(|_| self.hello == HELLO) {
            self.ended |= byte == END;
            if !self.ended {
                self.plain.push(byte ^ MASK);
            }
        }
        let count = self.plain.len().min(plain.len());
        plain[..count].copy_from_slice(&self.plain[..count]);
        self.plain.drain(..count);
        let follows = match () {
            () if !self.plain.is_empty() => Follows::Plain,
            () if !HELLO.starts_with(&self.hello) => Follows::Failure,
            () if self.ended => Follows::End,
            () => Follows::Wire,
        };
        Opened { plain: count, follows }
    }

    fn seal(&mut self, plain: &[u8]) {
        self.owed.extend(veiled(plain));
    }

    fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    fn owed(&mut self, wire: &mut Vec<u8>) {
        wire.append(&mut self.owed);
    }

    fn is_ready(&self) -> bool {
        self.hello == HELLO
    }

    fn memory(&self) -> usize {
        self.plain.capacity() + self.owed.capacity()
    }

    fn finish(&mut self) {
        if self.is_ready() && !std::mem::replace(&mut self.finished, true) {
            self.owed.push(END);
        }
    }
}

pub(super) fn veiled(text: impl AsRef<[u8]>) -> Vec<u8> {
    text.as_ref().iter().map(|byte| byte ^ MASK).collect()
}

/// The text in the bytes that left a layered connection: without the hello, and without the end.
pub(super) fn unveiled(wire: &[u8]) -> Vec<u8> {
    let text = wire.get(WELCOME.len()..).unwrap_or_default();
    text.iter().map(|byte| byte ^ MASK).collect()
}

/// The script of a peer that speaks through the layer. Now and then the peer's hello is wrong, or its half ends without the layer's
/// end.
pub(super) fn through_a_layer(script: Script, random: &mut Random) -> Script {
    let hello: &[u8] = if random.chance(0.05) { b"HEY!" } else { HELLO };
    let mut acts = vec![Act::Send(hello.to_vec())];
    for act in script.acts {
        match act {
            // This byte would be the end.
            Act::Send(bytes) => acts.push(Act::Send(veiled(bytes).into_iter().map(|byte| byte.max(END + 1)).collect())),
            Act::Shutdown | Act::Close => {
                if random.chance(0.8) {
                    acts.push(Act::Send(vec![END]));
                }
                acts.push(act);
            }
            act => acts.push(act),
        }
    }
    Script { acts }
}
