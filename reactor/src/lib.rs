//! A small event loop for Unix in 16,000 lines: `epoll`, `select(2)`, callbacks, no allocation on the path of a byte.
//!
//! An [`Application`] runs any number of [`Service`]s, each a [`Handler`] bound to an address. The loop moves the
//! bytes, and provides backpressure, half-close, deadlines and draining; the handler gives the bytes a meaning.
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
//! | term | meaning |
//! | --- | --- |
//! | [`Application`] | any number of services on one event loop, or on several ([`Runner`]) |
//! | [`Service`] | a handler bound to addresses, with [`Limits`] and [`Deadlines`] |
//! | [`Handler`] | the callbacks of a service; each loop has a handler of its own |
//! | connection | a peer that was accepted, a server that the handler has connected to, or a watched descriptor; [`ConnectionId`] names one |
//! | [`Context`] | the argument of each callback, by which the handler writes, closes, connects and publishes |
//! | [`Input`], [`Writer`] | the received bytes that no callback has consumed; the bytes queued for a peer |
//! | turn | one round of a loop: a wait for events, the callbacks of these events, and the sends that follow |
//! | [`Topic`] | a name: a message published to the name goes to all connections that have subscribed to it |
//!
//! Further reading:
//!
//! - [`guide`]: state, backpressure, timers, signals, logging, several loops, testing, and tables for users of tokio, mio and libuv.
//! - [`Handler`], [`Context`], [`Service`]: the pages for daily use. [`testing`]: unit tests of handlers, without a socket.
//! - `examples/` of the package has programs of a page each, such as `redis`, a server of requests, `proxy`, a relay, and `members`,
//!   one handler under every model: `cargo run --example redis`.
//!
//! The path of a byte, and the files it passes:
//!
//! ```text
//!  kernel ─▶ sys ─▶ driver ─▶ link ─▶ Input  ─▶ Handler    your code
//!            │      │         │                   │
//!            │      │         │                   ▼
//!  kernel ◀─ sys ◀─ driver ◀─ link ◀─ Output ◀─ Context    one send per connection and turn
//!            │      │         └── a state machine: no socket, no clock
//!            │      └── readiness in, completions out: the seam
//!            └── the only unsafe, the only libc: epoll or select
//! ```
//!
//! # Features, for tests
//!
//! Both features are off by default, and a build without a feature contains no code of that feature.
//!
//! **`sim`**: `reactor::sim` runs services over a simulated network and clock that follow a seed, and checks every
//! step.
//!
//! **`chaos`**: system calls on real sockets fail as often as the environment variable `REACTOR_CHAOS` says, in every
//! [`Application`] of the process. So any test that talks to a service runs under faults:
//!
//! ```text
//! export REACTOR_CHAOS=short_io:0.3,eagain:0.1,eintr:0.05,emfile:0.01,spurious:0.05
//! cargo test
//! ```
//!
//! Each fault is a probability from 0 to 1, and optional. All faults are within what a kernel may do, so a peer notices
//! only delays.
//!
//! | fault | effect |
//! | --- | --- |
//! | `short_io` | a receive, read or send moves fewer bytes than it could, at least one |
//! | `eagain` | a send, or a receive that the poller has announced, returns EAGAIN; the poller announces the socket again |
//! | `eintr` | a signal cuts a call or a wait short |
//! | `emfile` | an accept finds no descriptor: the listener rests until one is freed, or a second passes. 1: no connection is accepted |
//! | `spurious` | a wait returns at once without events. 1: no event ever arrives |
//!
//! A seed repeats the faults while the kernel's answers are equal; each loop draws its own numbers. Without a seed,
//! each application draws one and prints it, so that a failure can be repeated. The log names the expected faults at
//! the start (WARN), and the number of strikes of each fault at the end (INFO). An unreadable value is an error of
//! [`Application::new`]; an unset or empty variable changes nothing. **Without the feature the variable is ignored**,
//! so check the log before you trust a test that passes.

#![deny(unsafe_code)]

mod token;

mod address;
mod error;
mod reason;
mod time;

#[cfg(any(test, feature = "fuzzing"))]
mod operations;

mod budget;
mod limits;
mod socket_options;

mod buffer;
#[cfg(any(feature = "sim", feature = "chaos"))]
mod random;
mod recorder;
mod shared;
mod stats;
mod timer;
mod topics;

mod protocols;
mod published;

#[allow(unsafe_code)]
mod sys;

mod link;

mod layer;

mod driver;

mod mailbox;

mod lookup;

mod cluster;
mod handle;
#[cfg(all(test, loom))]
mod orders;
mod outbox;
mod outgoing;

mod context;
mod handler;
mod host;
mod service;
mod settings;

mod pressure;
mod report;

mod event_loop;

mod runner;

mod application;

pub mod guide;
pub mod testing;

#[cfg(feature = "sim")]
pub mod sim;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

/// Shared bytes of the `bytes` crate: the argument of [`Context::write_shared`].
pub use bytes::Bytes;

pub use address::{Address, AddressError, Peer};
pub use application::Application;
pub use buffer::{
    Counted, Decimal, Decoder, Delimiter, FixedLength, Frame, FrameError, Framed, Input, Integer, LengthPrefix, Lines,
    Output, Writer,
};
pub use context::{ConnectionRef, Context, NoHandler, Timers, Written};
pub use error::{Errno, Error};
pub use handle::{Handle, ServiceHandle};
pub use handler::Handler;
pub use layer::{Follows, Layer, Opened};
pub use limits::{Deadlines, Limits, SlowPolicy};
pub use mailbox::PostError;
pub use reason::{CloseReason, Deadline};
pub use runner::Runner;
pub use service::{Listener, Service, inherited_listeners};
pub use socket_options::{Keepalive, SocketOptions};
pub use stats::{Lag, Stats};
pub use sys::backend::Backend;
pub use sys::signal::reset_inherited_signals;
pub use token::ConnectionId;
pub use topics::Topic;

#[cfg(doctest)]
mod misuse;

/// Compiles the README's code as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
