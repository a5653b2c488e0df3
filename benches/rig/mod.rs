//! What the benchmarks share. `options` is how they begin and end; `process` starts and ends children; `server` pins
//! servers and loads together; `load` speaks to a load; `tree` reads what a server has cost and holds; `rounds` takes
//! slices in turns and `figures` says what many of them come to; `counts` takes system calls and instructions from who
//! watches a server.
#![allow(dead_code, reason = "each benchmark uses its part of this")]

pub mod counts;
pub mod figures;
pub mod load;
pub mod options;
pub mod process;
pub mod rounds;
pub mod server;
pub mod tree;

#[allow(unused_imports, reason = "as above")]
pub use server::{Asked, Rig, Served, Server};
