//! The common part of the end-to-end tests: each test is written once and runs on every backend.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses its part of this")]

pub mod application;
pub mod client;
pub mod command;
pub mod programs;
pub mod terminal;
pub mod websocket;

use std::time::Duration;

/// How long a test waits for an event. A generous guard against hanging, and never the reason why a test passes.
pub const GUARD: Duration = Duration::from_secs(20);

/// Whether system calls fail on purpose, here and in every process that a test starts.
pub fn under_chaos() -> bool {
    cfg!(feature = "chaos") && std::env::var_os("REACTOR_CHAOS").is_some_and(|orders| !orders.is_empty())
}

/// Leaves out the rest of a test under chaos, where failing calls change counts. The reason is printed past the capture
/// of the test's output. Bytes, order, ends and reasons stay equal, so no test of these may be left out.
macro_rules! unless_chaos {
    ($why:literal) => {
        if crate::support::under_chaos() {
            use std::io::Write as _;
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = writeln!(std::io::stderr(), "left out under chaos: {test} {}", $why);
            return;
        }
    };
}
pub(crate) use unless_chaos;

/// Makes a test of each function for every backend: `name::epoll`, `name::select`.
macro_rules! on_every_backend {
    ($($(#[$attribute:meta])* fn $name:ident($backend:ident: Backend) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn on($backend: reactor::Backend) $body

            #[test]
            $(#[$attribute])*
            fn epoll() {
                on(reactor::Backend::Epoll);
            }

            #[test]
            $(#[$attribute])*
            fn select() {
                on(reactor::Backend::Select);
            }
        }
    )*};
}
pub(crate) use on_every_backend;
