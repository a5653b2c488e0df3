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
pub const GUARD: Duration = Duration::from_secs(120);

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

/// Makes tests of each function for every backend: `name::epoll`, `name::select`. A function of a `Transport` (of the promises)
/// also has tests with a layer below its connections: `name::epoll_layered`, `name::select_layered`.
macro_rules! on_every_backend {
    ($($(#[$attribute:meta])* fn $name:ident($below:ident: $kind:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            crate::support::on_every_backend!(@$kind [$(#[$attribute])*] $below $body);
        }
    )*};
    (@Backend [$($attribute:tt)*] $backend:ident $body:block) => {
        fn on($backend: reactor::Backend) $body

        crate::support::on_every_backend!(@test [$($attribute)*] epoll reactor::Backend::Epoll);
        crate::support::on_every_backend!(@test [$($attribute)*] select reactor::Backend::Select);
    };
    (@Transport [$($attribute:tt)*] $transport:ident $body:block) => {
        fn on($transport: crate::transport::Transport) $body

        crate::support::on_every_backend!(@test [$($attribute)*] epoll reactor::Backend::Epoll.into());
        crate::support::on_every_backend!(@test [$($attribute)*] select reactor::Backend::Select.into());
        crate::support::on_every_backend!(@test [$($attribute)*] epoll_layered
            crate::transport::Transport { backend: reactor::Backend::Epoll, layered: true });
        crate::support::on_every_backend!(@test [$($attribute)*] select_layered
            crate::transport::Transport { backend: reactor::Backend::Select, layered: true });
    };
    (@test [$($attribute:tt)*] $test:ident $below:expr) => {
        #[test]
        $($attribute)*
        fn $test() {
            on($below);
        }
    };
}
pub(crate) use on_every_backend;
