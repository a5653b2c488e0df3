//! A process for each connection: a fork of this process, with a per-connection loop and a channel to this process.
//!
//! ```text
//!   client ═════ child: its loop ── ChildChannel ══ socket pair ══ Parent ── first loop: listeners, signals, outbound services
//!   client ═════ child: its loop ── ChildChannel ══ socket pair ══ Parent ┘
//! ```
//! Each child has a loop handle in the parent, and in a child the handle of the parent's first loop stands for all
//! other loops: the messages in their mailboxes are written to the channel. So loops on both sides publish as they do
//! between threads.

mod channel;
mod child;
mod parent;

use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::{BuildForGuest, Common, Running, own_listener};
use crate::cluster::{Accepted, LoopHandle};
use crate::context::Core;
use crate::driver::{Readiness, Socket};
use crate::error::Error;
use crate::event_loop::{EventLoop, Spawned, Spawner};
use crate::host::Hosted;
use crate::service::Bound;
use crate::settings::Reopen;
use crate::sys::fork::{self, Fork};
use crate::sys::{Fd, Sys, System};
use channel::{Frame, PARENT, lines};
use child::ChildChannel;
use parent::{Child, ChildQueue, ChildQueues, ForChildren, Parent};

/// Number of the channel's service in a child; the connection's service is number 0.
const LINE: u16 = 1;

/// The channel; and, for a moment, its other end and the connection itself.
pub(super) const DESCRIPTORS_EACH: usize = 3;

pub(super) struct Processes {
    /// The parts that a child's loop is made with.
    common: Common,
    services: Vec<(Bound, BuildForGuest)>,
    on_reopen: Reopen,
    /// The parent alone handles signals.
    deaf: bool,
    queues: ChildQueues,
    /// Number of the service of the channels.
    lines: u16,
}

impl Processes {
    /// Makes the first loop give each connection a process.
    pub(super) fn install(
        event_loop: &mut Running,
        common: Common,
        services: Vec<(Bound, BuildForGuest)>,
        on_reopen: Reopen,
        deaf: bool,
    ) {
        // The channels' service comes after those whose connections get a process.
        let (queues, number) = (ChildQueues::default(), services.len() as u16);
        let parent = Parent::new(common.cluster.clone(), queues.clone());
        let host = Hosted::new(parent, number, ForChildren(queues.clone()));
        event_loop.add_service(lines(), Box::new(host));
        common.cluster.look_ups.set_single(true);
        let processes = Processes { common, services, on_reopen, deaf, queues, lines: number };
        event_loop.set_spawner(Box::new(processes));
    }

    fn fork(
        &mut self,
        core: &mut Core,
        service: u16,
        accepted: &Accepted,
        held: &dyn Fn() -> Vec<Fd>,
    ) -> io::Result<()> {
        alone().map_err(io::Error::other)?;
        let (ours, theirs) = pair()?;
        let waker =
            self.common.cluster.fixed()[0].waker().ok_or_else(|| io::Error::other("the application has ended"))?;
        let loop_handle = self.common.cluster.enter(waker, 0);
        match fork::fork(self.deaf) {
            Ok(Fork::Parent(pid)) => {
                drop(theirs);
                let inbox = self.common.cluster.inbox(&loop_handle);
                loop_handle.set_topics(u64::MAX);
                let bound = &self.services[service as usize].0;
                let child = Child {
                    pid,
                    loop_handle: loop_handle.clone(),
                    service: bound.terms.name.clone(),
                    peer: accepted.peer,
                    counts: bound.terms.counts.clone(),
                    has_parted: false,
                    waited: Duration::ZERO,
                    is_reaped: false,
                };
                log::debug!("{}: process {} for {}", child.service, child.pid, child.peer);
                core.counters.count_accepted();
                let line = core.adopt_channel(self.lines, ours.into(), accepted.peer, Box::new(child));
                self.queues.borrow_mut().insert(line, ChildQueue { loop_handle, inbox, full: false });
                Ok(())
            }
            Ok(Fork::Child) => {
                let mut held = held();
                held.push(Socket::owned(ours.into()).fd());
                fork::abandon(held);
                let served = catch_unwind(AssertUnwindSafe(|| self.serve(service, accepted, theirs, &loop_handle)));
                match served {
                    Ok(Ok(())) => fork::leave(0),
                    Ok(Err(error)) => log::error!("{error}"),
                    // The panic hook has logged the panic.
                    Err(_) => {}
                }
                fork::leave(1)
            }
            Err(errno) => {
                self.common.cluster.leave(&loop_handle);
                Err(errno.into())
            }
        }
    }

    /// Runs in the child.
    fn serve(
        &self,
        service: u16,
        accepted: &Accepted,
        theirs: UnixStream,
        loop_handle: &Arc<LoopHandle>,
    ) -> Result<(), Error> {
        let Common { backend, cluster, settings } = self.common.clone();
        let system = System::new(backend)?;
        cluster.become_child(loop_handle, system.waker());
        let (bound, build) = &self.services[service as usize];
        let driver = Readiness::new(system, loop_handle.number, loop_handle.counters.clone());
        let inbox = cluster.inbox(loop_handle);
        let mut event_loop = EventLoop::new(driver, cluster.clone(), loop_handle.clone(), inbox, settings);
        event_loop.add_service(bound.for_another_loop(), build(loop_handle)?);
        let (line, mail, state) = ChildChannel::new(&cluster, loop_handle, self.on_reopen.clone());
        event_loop.add_service(lines(), Box::new(Hosted::<_, Frame>::new(line, LINE, mail)));
        state.is_at(event_loop.take_channel(LINE, theirs.into(), PARENT, Box::new(())));
        cluster.count_handed();
        let listener = own_listener(&self.services, service, accepted.listener);
        event_loop.run(Some(Accepted { listener, socket: accepted.socket.number(), peer: accepted.peer }))
    }
}

impl Spawner for Processes {
    fn kind(&self) -> &'static str {
        "processes"
    }

    fn descriptors_each(&self) -> usize {
        DESCRIPTORS_EACH
    }

    fn spawn(&mut self, core: &mut Core, service: u16, accepted: Accepted, held: &dyn Fn() -> Vec<Fd>) -> Spawned {
        match self.fork(core, service, &accepted, held) {
            Ok(()) => Spawned::Copied(accepted.socket),
            Err(cause) => Spawned::Failed(accepted.socket, cause),
        }
    }
}

/// Whether this process may fork.
pub(super) fn alone() -> Result<(), Error> {
    match fork::threads() {
        Some(threads) if threads > 1 => Err(Error::Runner {
            why: format!(
                "a process forks for each connection only while it has a single thread, and this one has {threads}"
            ),
        }),
        _ => Ok(()),
    }
}

/// Makes a channel: two non-blocking ends.
fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((ours, theirs))
}
