//! Layers between a connection's bytes and the wire: TLS, for example. The reactor knows no such protocol; it knows when a
//! [`Layer`] is given bytes, and when the bytes that a layer owes to the wire leave.
//!
//! ```text
//! handler ─▶ Output ─▶ Layer::seal ─▶ Layer::owed ─▶ send
//! handler ◀─ Input  ◀──────────────── Layer::open ◀─ recv
//! ```
//!
//! Everything above the driver counts plaintext: limits, queues, counters, deadlines. `layered` has the driver's side of a
//! connection. `progress` translates acknowledged bytes of the wire into plaintext. `shared` has the state that the connections
//! of a loop share.

mod layered;
mod progress;
mod reader;
mod shared;

use std::any::Any;
use std::sync::Arc;

pub(crate) use layered::{Arrived, Layered};
pub(crate) use shared::Shared;

/// One connection's layer between plaintext and the wire, given to
/// [`Service::layered`](crate::Service::layered) or to
/// [`Context::connect_layered`](crate::Context::connect_layered).
///
/// A layer is a state machine without a socket. The loop calls the layer on its own thread; no method may block. A panic in a
/// layer ends the loop, so a layer reports unreadable input as [`Follows::Failure`].
///
/// An example that turns every bit over, and needs no handshake:
///
/// ```
/// use reactor::{Application, Context, Follows, Handler, Input, Layer, Opened, Service};
///
/// #[derive(Default)]
/// struct Inverted { plain: Vec<u8>, wire: Vec<u8> }
///
/// impl Layer for Inverted {
///     fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> Opened {
///         self.plain.extend(wire.iter().map(|byte| !byte));
///         let count = self.plain.len().min(plain.len());
///         plain[..count].copy_from_slice(&self.plain[..count]);
///         self.plain.drain(..count);
///         let follows = if self.plain.is_empty() { Follows::Wire } else { Follows::Plain };
///         Opened { plain: count, follows }
///     }
///     fn seal(&mut self, plain: &[u8]) { self.wire.extend(plain.iter().map(|byte| !byte)); }
///     fn owes(&self) -> bool { !self.wire.is_empty() }
///     fn owed(&mut self, wire: &mut Vec<u8>) { wire.append(&mut self.wire); }
///     fn is_ready(&self) -> bool { true }
///     fn finish(&mut self) {}
/// }
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Connection = ();
/// #     fn on_open(&mut self, _: &mut Context<'_>) {}
/// #     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) { cx.write(input.take_all()); }
/// # }
///
/// let mut app = Application::new()?;
/// app.add_service(Service::tcp("127.0.0.1:0", || Echo).layered(|| Box::new(Inverted::default())))?;
/// # Ok::<(), reactor::Error>(())
/// ```
pub trait Layer {
    /// Takes all of `wire`, which has arrived, and fills `plain` from its beginning. Plaintext for which `plain` has no room
    /// stays in the layer ([`Follows::Plain`]) until the next call, whose `wire` is empty. While the layer is not ready,
    /// `plain` is empty: plaintext that comes with the last message of the handshake stays in the layer, too. After
    /// [`Follows::End`] and [`Follows::Failure`] the method is not called again; [`seal`](Self::seal) is, after `End`.
    fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> Opened;

    /// Takes all of `plain`, at most 63 KiB, which is to leave. Called only while the layer is ready.
    fn seal(&mut self, plain: &[u8]);

    /// Whether bytes are owed to the wire: sealed ones, or the protocol's own, such as a handshake, a key update or an alert.
    fn owes(&self) -> bool;

    /// Appends all bytes that are owed to the wire, which then are no longer owed.
    fn owed(&mut self, wire: &mut Vec<u8>);

    /// Whether the handshake is done, so that plaintext can be sealed. [`Handler::on_open`](crate::Handler::on_open), or
    /// [`Handler::on_connected`](crate::Handler::on_connected), is called when this becomes true.
    fn is_ready(&self) -> bool;

    /// Heap bytes that the layer holds now: its own state, and bytes that wait for the rest of a record, for the handler, or for
    /// the wire. Counted with the [memory budget](crate::Application::memory) in whole KiB, and asked after each call of the
    /// other methods, so the answer has to be quick.
    fn memory(&self) -> usize {
        0
    }

    /// Our half ends after what has been sealed: from here on the layer owes its last words, if its protocol has any. The loop
    /// sends them, and then FIN. May be called more than once, and during the handshake.
    fn finish(&mut self);

    /// The result of the handshake, handed out once, when the layer has become ready. The handler reads it by
    /// [`Context::agreed`](crate::Context::agreed).
    fn agreed(&mut self) -> Option<Box<dyn Any>> {
        None
    }
}

/// The outcome of [`Layer::open`].
///
/// ```
/// use reactor::{Follows, Opened};
/// let opened = Opened { plain: 5, follows: Follows::Wire };
/// assert_eq!(opened, Opened { plain: 5, ..Opened::default() });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of plaintext that were put at the beginning of the buffer.
    pub plain: usize,
    /// What follows after the plaintext.
    pub follows: Follows,
}

/// What follows after the plaintext that a layer has handed over.
///
/// ```
/// assert_eq!(reactor::Follows::default(), reactor::Follows::Wire);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follows {
    /// Nothing until more arrives from the wire.
    #[default]
    Wire,
    /// More plaintext, which had no room. The loop calls again without waiting for the wire, so a layer that has no plaintext
    /// must not answer this.
    Plain,
    /// The end of the peer's half, authenticated by the protocol. The end of the stream without it is a truncation: the
    /// connection ends with [`CloseReason::Reset`](crate::CloseReason::Reset).
    End,
    /// The input makes no sense. Owed bytes (an alert) still leave, then the connection ends: with
    /// [`CloseReason::Handshake`](crate::CloseReason::Handshake) if the layer was not ready yet.
    Failure,
}

/// Makes a layer for each connection of a listener.
pub(crate) type Layers = Arc<dyn Fn() -> Box<dyn Layer> + Send + Sync>;
