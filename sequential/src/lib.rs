//! The sequential face of the reactor: each connection is served by an `async fn` that reads from top to bottom, on the reactor's
//! own loop. No second runtime, a single thread, no [`Send`], no `unsafe`, and nothing allocated for an await.
//!
//! ```no_run
//! use reactor::{Application, Service};
//! use sequential::{Peer, Tasks};
//!
//! async fn echo(peer: &mut Peer) {
//!     while let Some(line) = peer.until_eol().await {
//!         peer.send(b"You said: ");
//!         peer.send(&line);
//!     }
//! }
//!
//! fn main() -> Result<(), reactor::Error> {
//!     let mut app = Application::new()?;
//!     app.add_service(Service::tcp("127.0.0.1:8800", || Tasks::new(echo)))?;
//!     app.run()
//! }
//! ```
//!
//! [`Tasks`] is an ordinary [`Handler`](reactor::Handler), and uses the public face of the reactor alone. Services of both faces
//! share an application, and every [`Runner`](reactor::Runner), backend and limit applies to both.
//!
//! | wait | |
//! | --- | --- |
//! | [`Peer::until_eol`], [`until`](Peer::until), [`receive`](Peer::receive), [`some`](Peer::some), [`decode`](Peer::decode) | for input |
//! | [`Peer::send_wait`] | for room in the output; [`Peer::send`] and [`Peer::send_all`] do not wait |
//! | [`sleep`], [`within`] | for time; a deadline on any wait |
//! | [`first()`] | for the first of several waits |
//! | [`Subscription::message`] | for the next message of a topic |
//! | [`Queue`] | for a value from a task of the loop |
//! | [`fork()`], [`in_thread`] | for a second task, for a thread |
//! | [`Client::connect`], [`connect_name`](Client::connect_name) | for an outbound connection |
//!
//! Where to go on: [`Peer`] has the reads and sends, [`Tasks`] shares state among tasks, [`fork()`] runs several tasks, and the
//! `docs/sequential.md` of the repository says when to take which face. `examples/smtp.rs` is a mail server in 80 lines.
//!
//! Futures of any crate work, if they need no runtime of their own: a wake-up from any thread reaches the task through the
//! service's mailbox. Dropping a wait cancels the wait, and loses no byte and no value.

#![forbid(unsafe_code)]

mod arena;
mod client;
mod decode;
mod delivery;
mod first;
mod fork;
mod peer;
mod publish;
mod queue;
mod read;
mod requests;
mod slot;
mod station;
mod subscription;
mod tasks;
mod time;
mod waker;

pub use client::{Client, ConnectError};
pub use decode::{Decode, Decoder};
pub use first::{First, first};
pub use fork::{Forked, fork, in_thread};
pub use peer::{Item, Peer, Sender, TooLong};
pub use publish::publish;
pub use queue::{Closed, Put, Queue, Take};
pub use read::{Read, ReadWithin};
pub use subscription::{NextMessage, Subscription, subscribe};
pub use tasks::{Connection, Tasks};
pub use time::{Elapsed, Sleep, sleep, within};
pub use waker::Wake;

/// The README, whose code is tested here so that the page never drifts from the crate.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The guide's page about this crate, whose code is tested here.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sequential.md")]
struct Guide;
