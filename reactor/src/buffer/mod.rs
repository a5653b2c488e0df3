//! Input and output buffers. An idle connection owns no buffer: new input is borrowed from the loop's scratch buffer,
//! and only an unread rest is kept; output is queued in a box that goes back to the pool when it is empty.
//!
//! ```text
//!            scratch (one a loop)                            pool (one a loop)
//!   recv ──▶ ┌──────────────────┐                      ┌──▶ ▢ ▢ ▢ ──┐ taken by the first write
//!            │ new bytes        │── Input ─▶ handler ──┘            ▼
//!            └──────────────────┘   ▲                        ┌─ Output ────────────────┐
//!   left unread: ┌──────┐           │                        │ copied ▪ shared ▪ file  │──▶ send
//!                │ Kept │───────────┘ first, next time       └─────────────────────────┘
//!                └──────┘
//! ```
//!
//! A published message that cannot leave at once waits in the output's backlog (`backlog.rs`), and so do all later
//! writes. The backlog knows the boundaries of messages, so the policy for slow members can drop some.

mod backlog;
mod blocks;
mod decode;
mod file;
mod input;
mod integer;
mod output;
mod payload;
mod pool;
mod writer;

pub use decode::{Counted, Decimal, Decoder, Delimiter, FixedLength, Frame, FrameError, LengthPrefix, Lines};
pub use input::{Framed, Input};
pub use integer::Integer;
pub use output::Output;
pub use writer::Writer;

pub(crate) use file::FilePart;
pub(crate) use input::Kept;
pub(crate) use output::{Messages, Offered, SHARE_MIN};
pub(crate) use pool::Pool;

/// Entry points for the targets of `fuzz/`.
#[cfg(feature = "fuzzing")]
pub(crate) mod model {
    pub use super::decode::model::check as decoders;
    pub use super::input::model::check as input;
    pub use super::output::model::check as output;
}
