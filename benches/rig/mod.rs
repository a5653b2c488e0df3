//! What the benchmarks share. `process` starts and ends children; `server` pins servers and loads together and reads
//! what a server has cost; `counts` takes its system calls and instructions from who watches it; `figures` says what
//! many rounds come to.
#![allow(dead_code, reason = "each benchmark uses its part of this")]

pub mod counts;
pub mod figures;
pub mod process;
pub mod server;

#[allow(unused_imports, reason = "as above")]
pub use server::{Asked, Rig, Served, Server};
