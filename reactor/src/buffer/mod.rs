//! Bytes on their way in and out. An idle connection owns none of this: what arrives is lent from the loop's scratch
//! buffer and only an unread tail is kept; what leaves is queued in a box that goes back to the pool once it is empty.
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
//! A published message that cannot leave at once waits in the output's backlog (`backlog.rs`), and with it everything
//! that is written after it. The backlog knows where messages begin, so that the policy for slow members can drop some.

mod backlog;
mod blocks;
mod file;
mod input;
mod output;
mod payload;
mod pool;
mod writer;

pub use input::{Framed, Input};
pub use output::Output;
pub use writer::Writer;

pub(crate) use file::FilePart;
pub(crate) use input::Kept;
pub(crate) use output::{Messages, Offered, SHARE_MIN};
pub(crate) use pool::Pool;

/// What the targets of `fuzz/` call.
#[cfg(feature = "fuzzing")]
pub(crate) mod model {
    pub use super::input::model::check as input;
    pub use super::output::model::check as output;
}
