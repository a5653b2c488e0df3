//! The sequential face over real sockets, on every backend: what a task reads and sends, how it hears of ends, and that a wait which
//! is cancelled loses nothing. The simulator's seeds and the counts of allocations are tests of the package `sequential`.

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod instructions;
mod misuse;
mod others;
mod runners;
mod topics;
mod waits;

use std::sync::mpsc::{Receiver, Sender, channel};

use reactor::{Backend, Deadlines, Limits, Runner, Service};
use sequential::{Peer, Tasks, Wake};
use support::GUARD;
use support::application::{Running, serve_by};
use support::client::Client;

/// Patient with silent peers, since tests wait for each other.
pub(crate) fn patient() -> Deadlines {
    Deadlines { first_request: None, ..Deadlines::default() }
}

/// Serves each connection by a call of `task`.
pub(crate) fn tasks<S>(backend: Backend, task: S) -> Running<Wake>
where
    S: AsyncFn(&mut Peer) + Clone + Send + Sync + 'static,
{
    tasks_with(backend, Limits::default(), task)
}

pub(crate) fn tasks_with<S>(backend: Backend, limits: Limits, task: S) -> Running<Wake>
where
    S: AsyncFn(&mut Peer) + Clone + Send + Sync + 'static,
{
    let make = move || {
        Service::tcp("127.0.0.1:0", move || Tasks::new(task.clone())).named("tasks").limits(limits).deadlines(patient())
    };
    serve_by(backend, Runner::default(), make, |_| {})
}

pub(crate) fn client<M: Send + 'static>(running: &Running<M>) -> Client {
    Client::connect(running.service.address().expect("it listens"))
}

/// The reports of tasks to the test.
pub(crate) struct Told<T>(Receiver<T>);

impl<T> Told<T> {
    pub(crate) fn next(&self) -> T {
        self.0.recv_timeout(GUARD).expect("a task tells something")
    }
}

pub(crate) fn telling<T>() -> (Sender<T>, Told<T>) {
    let (sender, receiver) = channel();
    (sender, Told(receiver))
}

/// The six lines of the README.
pub(crate) async fn echo(peer: &mut Peer) {
    while let Some(line) = peer.until_eol().await {
        peer.send(b"You said: ");
        peer.send(&line);
    }
}
