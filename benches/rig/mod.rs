//! The common part of the benchmarks. `options` has the beginning and the end; `process` starts and ends children;
//! `server` pins servers and loads together; `load` speaks to a load; `tree` reads CPU time and memory of a server;
//! `rounds` takes slices in turns and `figures` sums them up; `counts` takes system calls and instructions from a
//! server's watcher; `others` starts nginx and compiles the C loop; `site` has the cases of HTTP beside nginx.
#![allow(dead_code, reason = "each benchmark uses its part of this")]

pub mod counts;
pub mod figures;
pub mod load;
pub mod options;
pub mod others;
pub mod process;
pub mod rounds;
pub mod server;
pub mod site;
pub mod tree;

#[allow(unused_imports, reason = "as above")]
pub use server::{Asked, Rig, Served, Server};
