//! A small event loop for Unix: `epoll`, `select(2)`, callbacks, and no allocation on the way of a byte.
//!
//! An [`Application`] runs any number of [`Service`]s, each a [`Handler`] bound to an address. The loop moves the bytes
//! and keeps the promises (backpressure, half-close, deadlines, draining); the handler says what they mean.
//!
//! ```no_run
//! use reactor::{Application, Context, Handler, Input, Service};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Connection = ();
//!
//!     fn on_open(&mut self, _: &mut Context<'_>) {}
//!
//!     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
//!         while let Some(line) = input.until_eol() {
//!             cx.write(b"You said: ");
//!             cx.write(line);
//!         }
//!     }
//! }
//!
//! fn main() -> Result<(), reactor::Error> {
//!     let mut app = Application::new()?;
//!     app.add_service(Service::tcp("127.0.0.1:8800", || Echo))?;
//!     app.run()
//! }
//! ```
//!
//! The path of a byte, and the files it passes:
//!
//! ```text
//!  kernel ─▶ sys ─▶ driver ─▶ link ─▶ Input ─▶ Handler ─▶ Context ─▶ Output ─▶ link ─▶ driver ─▶ sys ─▶ kernel
//!            │       │         │                │                                │       │
//!            │       │         │                your code                        │       one send per connection and turn
//!            │       │         └── a state machine, no socket, no clock ─────────┘
//!            │       └── readiness in, completions out: the seam
//!            └── the only unsafe, the only libc; epoll or select
//! ```

mod token;

mod address;
mod error;
mod reason;
mod time;

mod buffer;
mod limits;
#[cfg(any(feature = "sim", feature = "chaos"))]
mod random;
mod recorder;
mod stats;
mod timer;
mod topics;

mod sys;

mod link;

mod driver;

mod context;
mod handler;
mod mailbox;
mod service;

mod event_loop;

mod application;

#[cfg(feature = "sim")]
pub mod sim;

/// Shared bytes, as the `bytes` crate has them: what [`Context::write_shared`] takes.
pub use bytes::Bytes;

pub use address::{Address, AddressError, Peer};
pub use application::Application;
pub use buffer::{Framed, Input, Output};
pub use context::{Context, Written};
pub use error::{Errno, Error};
pub use handler::Handler;
pub use limits::{Deadlines, Limits};
pub use mailbox::{Handle, PostError, ServiceHandle};
pub use reason::{CloseReason, Deadline};
pub use service::{Listener, Service, inherited_listeners};
pub use stats::{Lag, Stats};
pub use sys::backend::Backend;
pub use token::ConnectionId;
pub use topics::Topic;

/// The README's code, so that it never drifts.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
