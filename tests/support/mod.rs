//! What the end-to-end tests share: each test is written once and runs on every backend.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses its part of this")]

pub mod application;
pub mod client;
pub mod command;
pub mod terminal;

use std::time::Duration;

/// How long a test waits for what has to come. A guard against hanging, generous, and never what makes a test pass.
pub const GUARD: Duration = Duration::from_secs(20);

/// Whether system calls fail on purpose, here and in every process that a test starts.
pub fn under_chaos() -> bool {
    cfg!(feature = "chaos") && std::env::var_os("REACTOR_CHAOS").is_some_and(|orders| !orders.is_empty())
}

/// Leaves out the rest of a test under chaos, and says so past the capture of its output: what is counted there comes
/// out differently when calls fail. Bytes, order, ends and reasons do not, so no test of those may be left out.
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
