//! What the end-to-end tests share: each test is written once and runs on every backend.
#![allow(dead_code, unused_macros, reason = "each test binary uses its part of this")]

pub mod application;
pub mod client;
pub mod command;

use std::time::Duration;

/// How long a test waits for what has to come. A guard against hanging, generous, and never what makes a test pass.
pub const GUARD: Duration = Duration::from_secs(20);

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
