//! Three services on the reactor: [`echo`], [`chat`] and [`http`]. They use only the reactor's public API. The command
//! above them chooses addresses and limits.
//!
//! [`nats`] is a client for servers of NATS, on the same loop.
//!
//! Each service has a handler with `new`, and matching `limits()` and `deadlines()`. The formats of its bytes are in
//! [`codec`], which knows no connection, no clock and no handler.
//!
//! ```no_run
//! use reactor::{Application, Service};
//! use services::{chat, echo, http};
//! use std::time::Duration;
//!
//! let mut app = Application::new()?;
//! app.add_service(
//!     Service::tcp("127.0.0.1:8800", || echo::Echo).limits(echo::limits()).deadlines(echo::deadlines(None)),
//! )?;
//! let room = chat::Room::default();
//! app.add_service(
//!     Service::tcp("127.0.0.1:8801", move || chat::Chat::new(room.clone()))
//!         .limits(chat::limits())
//!         .deadlines(chat::deadlines(None)),
//! )?;
//! app.add_service(
//!     Service::tcp("127.0.0.1:8802", || http::Http::new(http::BODY, Some(http::IDLE_TIMEOUT)))
//!         .limits(http::limits())
//!         .deadlines(http::deadlines())
//!         .refusal(http::REFUSAL),
//! )?;
//! app.run()?;
//! # Ok::<(), reactor::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod codec;

pub mod chat;
pub mod echo;
pub mod http;
pub mod nats;

/// Compiles the README's code as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod chance;
#[cfg(any(test, feature = "fuzzing"))]
mod pieces;
