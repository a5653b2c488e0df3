//! A guest that speaks WebSocket: messages, and pings to a silent guest.

use std::time::Duration;

use reactor::Input;

use super::guest::{FIRST_MAX, Heard, Text};
use super::said::{End, Way};
use crate::codec::TooLong;
use crate::codec::frames::FRAME_MAX;
use crate::codec::websocket::{Buffers, CloseCode, Decoder, Event, ProtocolError};

/// Time without a byte from a member after which the member is pinged; after as much again the member is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Number of decoders that [`Decoders`] keeps.
const KEPT: usize = 4;

/// Free decoders, and the buffers of all decoders. A socket has a decoder only while a message is unfinished, so silent
/// members hold none.
#[derive(Debug, Default)]
pub(super) struct Decoders {
    buffers: Buffers,
    #[expect(clippy::vec_box, reason = "a box goes to a socket and comes back, without an allocation")]
    free: Vec<Box<Decoder>>,
}

impl Decoders {
    fn take(&mut self) -> Box<Decoder> {
        self.free.pop().unwrap_or_else(|| Box::new(Decoder::new(FRAME_MAX)))
    }

    /// Takes the decoder of a socket back, unless a message is unfinished. Call this when the guest's bytes have been
    /// read.
    pub(super) fn take_back(&mut self, socket: &mut Socket) {
        let Socket { decoder, first, is_first: false, .. } = socket else { return };
        *first = None;
        if let Some(idle) = decoder.take_if(|decoder| decoder.settle(&mut self.buffers))
            && self.free.len() < KEPT
        {
            self.free.push(idle);
        }
    }
}

/// The WebSocket side of one guest.
#[derive(Debug)]
pub(super) struct Socket {
    decoder: Option<Box<Decoder>>,
    /// The first message, from its display until the next one is requested.
    first: Option<Box<str>>,
    /// The first message has not been taken.
    is_first: bool,
    /// A ping was sent after the last byte arrived.
    is_pinged: bool,
    /// The arrival time of the last bytes, by the loop's clock.
    heard_at: Duration,
}

/// The state of a member after a time of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Ask again after this time.
    NotYet(Duration),
    /// Send a ping, and ask again after [`SILENCE`].
    Ping,
    /// The member has not answered the ping.
    Gone,
}

impl Socket {
    pub(super) fn new(now: Duration) -> Self {
        Socket { decoder: None, first: None, is_first: true, is_pinged: false, heard_at: now }
    }

    /// Notes the arrival of bytes.
    #[inline]
    pub(super) fn is_heard(&mut self, now: Duration) {
        (self.heard_at, self.is_pinged) = (now, false);
    }

    /// Checks whether the member is still there, when its deadline has passed.
    pub(super) fn look(&mut self, now: Duration) -> Silence {
        let silent = now.saturating_sub(self.heard_at);
        if std::mem::replace(&mut self.is_pinged, silent >= SILENCE) {
            return Silence::Gone;
        }
        if silent < SILENCE { Silence::NotYet(SILENCE - silent) } else { Silence::Ping }
    }

    /// Heap bytes that an unfinished message takes.
    pub(super) fn memory(&self) -> usize {
        self.decoder.as_ref().map_or(0, |decoder| size_of::<Decoder>() + decoder.memory())
    }

    /// Gives back the memory of an unfinished message: nothing more is read.
    pub(super) fn give_back(&mut self) {
        (self.decoder, self.first) = (None, None);
    }

    /// The length of the first message, while it waits to be taken.
    pub(super) fn shown(&self) -> usize {
        self.first.as_ref().map_or(0, |first| first.len())
    }

    /// The next message, ping or pong.
    pub(super) fn next<'s>(
        &'s mut self,
        input: &mut Input<'_>,
        decoders: &mut Decoders,
    ) -> Result<Option<Heard<'s>>, End> {
        if std::mem::take(&mut self.is_first) {
            // The decoder of the first message has the smaller limit, and is at rest between two messages.
            self.decoder = None;
            if self.first.is_some() {
                return Ok(self.first.as_deref().map(text));
            }
        }
        self.first = None;
        if self.decoder.is_none() && input.is_empty() {
            return Ok(None);
        }
        let decoder = self.decoder.get_or_insert_with(|| decoders.take());
        read(decoder, input, &mut decoders.buffers, End::Broken)
    }

    /// The first message, which stays to be taken by [`next`](Self::next), or a ping or pong before it.
    pub(super) fn first<'s>(
        &'s mut self,
        input: &mut Input<'_>,
        decoders: &mut Decoders,
    ) -> Result<Option<Heard<'s>>, End> {
        // After an empty message, the next message is again the first: a name comes after empty messages.
        if !std::mem::replace(&mut self.is_first, true) {
            (self.decoder, self.first) = (None, None);
        }
        if self.first.is_none() {
            if self.decoder.is_none() && input.is_empty() {
                return Ok(None);
            }
            let decoder = self.decoder.get_or_insert_with(|| Box::new(Decoder::new(FIRST_MAX)));
            let too_long = TooLong { what: "first message", limit: FIRST_MAX };
            let refused = |error: ProtocolError| match error.code {
                CloseCode::TOO_BIG => End::TooLong(too_long),
                _ => End::Broken(error),
            };
            match read(decoder, input, &mut decoders.buffers, refused)? {
                Some(Heard::Text(shown)) => {
                    self.first = Some(String::from_utf8_lossy(shown.bytes).into());
                }
                other => return Ok(other),
            }
        }
        Ok(self.first.as_deref().map(text))
    }
}

fn text(text: &str) -> Heard<'_> {
    Heard::Text(Text { way: Way::WebSocket, bytes: text.as_bytes() })
}

/// The next message, ping or pong.
fn read<'s>(
    decoder: &'s mut Decoder,
    input: &mut Input<'_>,
    buffers: &mut Buffers,
    refused: impl FnOnce(ProtocolError) -> End,
) -> Result<Option<Heard<'s>>, End> {
    match decoder.next(input, buffers).map_err(refused)? {
        None => Ok(None),
        Some(Event::Pong(_)) => Ok(Some(Heard::Pong)),
        Some(Event::Text(shown)) => Ok(Some(text(shown))),
        Some(Event::Ping(payload)) => Ok(Some(Heard::Ping(payload))),
        Some(Event::Binary(_)) => Err(End::Binary),
        Some(Event::Close(code, _)) => Err(End::Closed(code)),
    }
}
