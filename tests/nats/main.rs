//! The client of NATS, and the chat room on several servers, from outside.
//!
//! | | |
//! | --- | --- |
//! | `fake` | a scripted server on loopback |
//! | `encrypted` | a scripted server that speaks TLS after INFO |
//! | `real` | `nats-server` (ignored by default: the program must be installed) |
//! | `rooms` | chat servers with `nats-server` (ignored by default, too) |
//! | `recorder` | a participant that tells the test all that happens |
//! | `engine` | `nats-server` as a child process, alone and as a cluster |
//! | `cable` | a link that a test can cut |

#[path = "../support/mod.rs"]
mod support;

mod cable;
mod encrypted;
mod engine;
mod fake;
mod real;
mod recorder;
mod rooms;
mod server;
