//! The client of NATS, and the chat room on several servers, from outside.
//!
//! | | |
//! | --- | --- |
//! | `fake` | a scripted server on loopback |
//! | `encrypted` | a scripted server that speaks TLS after INFO |
//! | `engine` | `nats-server` (ignored by default: the program must be installed) |
//! | `rooms` | two chat servers with `nats-server` (ignored by default, too) |
//! | `recorder` | a participant that tells the test all that happens |

#[path = "../support/mod.rs"]
mod support;

mod encrypted;
mod engine;
mod fake;
mod recorder;
mod rooms;
mod server;
