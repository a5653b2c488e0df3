//! A simulated system: network, descriptors, poller and clock in memory, driven by a seed. The driver makes the calls
//! of the real system, and cannot tell the difference. A forbidden call ends the simulation.
//!
//! ```text
//! faults ── line ── network ── Simulated: Sys
//! how often a connection the world the calls
//! ```

mod faults;
mod line;
mod network;

use std::cell::RefCell;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::panicking;
use std::time::Duration;

use super::kernel::WAKE;
use super::listen::{ListenOptions, Listens};
use super::sockets::SocketCalls;
use super::wake::Waker;
use super::{Clock, Event, Fd, Interest, Moved, Poller, Sockets, Sys};
use crate::address::{Address, Peer};
use crate::error::{Errno, Error};
use crate::socket_options::Tuning;
use crate::time::Time;
use crate::token::ConnectionId;

pub use faults::Faults;
pub(crate) use line::{Act, Reaction, Stage};
pub(crate) use network::{Happening, Network, Remote};

/// The network, shared by both ends.
pub(crate) type Shared = Rc<RefCell<Network>>;

/// One loop's end of the simulated system.
pub(crate) struct Simulated {
    network: Shared,
    waker: Waker,
}

impl Simulated {
    pub(crate) fn new(network: Shared, waker: Waker) -> Self {
        Simulated { network, waker }
    }

    /// Makes one call, which takes a little time.
    fn call<R>(&mut self, call: impl FnOnce(&mut Network) -> R) -> R {
        let mut network = self.network.borrow_mut();
        network.tick();
        call(&mut network)
    }

    fn receive(&mut self, fd: Fd, into: &mut [u8]) -> Moved {
        self.call(|network| {
            let index = network.line_of(fd, "recv");
            let blocked = network.random.chance(network.faults.blocked);
            let short = network.random.chance(network.faults.short_reads);
            let most = if short { network.random.size(into.len()) } else { usize::MAX };
            let line = &mut network.lines[index];
            let moved = if blocked && line.error.is_none() { Moved::Blocked } else { line.recv(into, most) };
            match moved {
                Moved::Bytes(count) => {
                    network.received += count as u64;
                    network.progress();
                    network.start_arriving(index);
                }
                Moved::Blocked => network.excuse(),
                // The first report of the end is progress.
                Moved::Ended if std::mem::replace(&mut line.end_read, true) => {}
                Moved::Ended | Moved::Failed(_) => network.progress(),
            }
            if blocked || short {
                network.rouse(index);
            }
            network.note("recv", fd.0.into(), number(moved));
            moved
        })
    }

    fn transmit(&mut self, fd: Fd, pieces: &[IoSlice<'_>], more: bool) -> Moved {
        self.call(|network| {
            let index = network.line_of(fd, "send");
            let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
            if offered == 0 {
                network.violation("nothing is sent");
            }
            if network.lines[index].finished && !network.lines[index].dead {
                network.violation("bytes are sent after our half was ended");
            }
            let blocked = network.random.chance(network.faults.blocked);
            let short = network.random.chance(network.faults.short_writes);
            let most = if short { network.random.size(offered) } else { offered };
            let line = &mut network.lines[index];
            line.held = false;
            let moved = match line.can_take() {
                Err(moved) => moved,
                Ok(_) if blocked => Moved::Blocked,
                Ok(free) => {
                    let mut left = free.min(most);
                    let count = left;
                    for piece in pieces {
                        let part = left.min(piece.len());
                        line.taken.extend_from_slice(&piece[..part]);
                        left -= part;
                    }
                    line.held = more && count == offered;
                    network.sent += count as u64;
                    network.start_delivering(index);
                    Moved::Bytes(count)
                }
            };
            if moved == Moved::Blocked {
                network.excuse()
            } else {
                network.progress()
            }
            network.note("send", fd.0.into(), number(moved));
            moved
        })
    }
}

impl Clock for Simulated {
    fn now(&mut self) -> Time {
        self.call(|network| Time(network.now()))
    }

    /// Returns a time up to 4 ms behind. The loop reads this clock after each callback.
    fn coarse_now(&mut self) -> Time {
        let mut network = self.network.borrow_mut();
        network.callback_ended();
        Time(network.now() - network.now() % 4_000_000)
    }
}

impl Poller for Simulated {
    fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.call(|network| {
            network.note("register", fd.0.into(), bits(interest));
            network.register(fd, token, interest)
        })
    }

    fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.call(|network| {
            network.note("modify", fd.0.into(), bits(interest));
            network.modify(fd, token, interest);
        });
        Ok(())
    }

    fn forget(&mut self, fd: Fd) {
        self.call(|network| {
            network.note("forget", fd.0.into(), 0);
            network.forget(fd);
        });
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>, now: Time) -> Result<(), Errno> {
        let waker = &self.waker;
        self.network.borrow_mut().wait(events, timeout, now.0, &|| waker.is_ringing(), WAKE);
        Ok(())
    }

    fn events_per_wait(&self) -> usize {
        self.network.borrow().faults.batch
    }

    fn reports_errors_unasked(&self) -> bool {
        !self.network.borrow().faults.select
    }

    fn held(&self) -> Vec<Fd> {
        Vec::new()
    }
}

impl Sys for Simulated {
    fn drain_wake(&mut self) {
        self.call(Network::progress);
        self.waker.clear();
    }

    fn accept(&mut self, listener: Fd, tuning: &Tuning) -> Result<Option<(Fd, Peer)>, Errno> {
        self.call(|network| {
            let outcome = network.accept(listener, tuning.unsent);
            let came_to = match &outcome {
                Ok(Some((fd, _))) => fd.0.into(),
                Ok(None) => 0,
                Err(errno) => -i64::from(errno.0),
            };
            network.note("accept", listener.0.into(), came_to);
            outcome
        })
    }

    fn connect(&mut self, to: &Address, tuning: &Tuning) -> Result<Fd, Errno> {
        self.call(|network| {
            let outcome = network.connect(to, tuning.unsent);
            network.note("connect", 0, outcome.map_or_else(|errno| -i64::from(errno.0), |fd| fd.0.into()));
            outcome
        })
    }

    fn recv(&mut self, fd: Fd, into: &mut [u8]) -> Moved {
        self.receive(fd, into)
    }

    fn read(&mut self, _: Fd, _: &mut [u8]) -> Moved {
        panic!("a simulation has no descriptors of the real system to watch");
    }

    fn is_anothers_terminal(&mut self, _: Fd) -> bool {
        false
    }

    fn send(&mut self, fd: Fd, bytes: &[u8], more: bool) -> Moved {
        self.transmit(fd, &[IoSlice::new(bytes)], more)
    }

    fn send_vectored(&mut self, fd: Fd, pieces: &[IoSlice<'_>], more: bool) -> Moved {
        self.transmit(fd, pieces, more)
    }

    /// Sends a part of a real file.
    fn send_file(&mut self, fd: Fd, file: &File, at: u64, count: usize) -> Moved {
        let mut piece = vec![0; count.min(64 * 1024)];
        match file.read_at(&mut piece, at) {
            Ok(0) => Moved::Ended,
            Ok(count) => self.transmit(fd, &[IoSlice::new(&piece[..count])], false),
            Err(error) => Moved::Failed(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    fn read_file(&mut self, file: &File, at: u64, into: &mut [u8]) -> Moved {
        match file.read_at(into, at) {
            Ok(0) => Moved::Ended,
            Ok(count) => Moved::Bytes(count),
            Err(error) => Moved::Failed(Errno(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn take_error(&mut self, fd: Fd) -> Option<Errno> {
        self.call(|network| {
            let index = network.line_of(fd, "take_error");
            let errno = network.lines[index].error.take();
            if errno.is_some() {
                network.progress();
            }
            network.note("so_error", fd.0.into(), errno.map_or(0, |errno| errno.0.into()));
            errno
        })
    }

    fn sockets(&self) -> Sockets {
        Box::new(SimulatedSockets(self.network.clone()))
    }

    fn unacknowledged(&mut self, fd: Fd) -> usize {
        self.call(|network| {
            let index = network.line_of(fd, "unacknowledged");
            network.lines[index].unacknowledged()
        })
    }

    fn finish(&mut self, fd: Fd) {
        self.call(|network| {
            let index = network.line_of(fd, "finish");
            network.lines[index].finished = true;
            network.progress();
            network.start_delivering(index);
            network.note("finish", fd.0.into(), 0);
        });
    }

    fn reset_on_close(&mut self, fd: Fd) {
        self.call(|network| {
            let index = network.line_of(fd, "reset_on_close");
            network.lines[index].resets_on_close = true;
        });
    }

    fn close(&mut self, fd: Fd) {
        // After a failed check the teardown proves nothing more.
        if !panicking() {
            self.call(|network| {
                network.note("close", fd.0.into(), 0);
                network.close(fd);
            });
        }
    }
}

/// The calls of callbacks. Simulated descriptors are no descriptors of the real system, and real ones are not in the network.
struct SimulatedSockets(Shared);

impl SocketCalls for SimulatedSockets {
    fn local_address(&self, fd: Fd) -> Option<Address> {
        self.0.borrow().local_address(fd)
    }

    fn lend(&self, _: Fd) -> Option<BorrowedFd<'_>> {
        None
    }

    fn bound_unsent(&self, fd: Fd, _: Peer, bytes: usize) {
        let mut network = self.0.borrow_mut();
        let index = network.line_of(fd, "bound_unsent");
        network.lines[index].bound_unsent(bytes);
    }

    fn prepare(&self, _: &OwnedFd, _: &Tuning) -> Result<Peer, String> {
        Err("a simulation has no descriptors of the real system".to_owned())
    }
}

fn number(moved: Moved) -> i64 {
    match moved {
        Moved::Bytes(count) => count as i64,
        Moved::Blocked => 0,
        Moved::Ended => -1,
        Moved::Failed(errno) => -1000 - i64::from(errno.0),
    }
}

fn bits(interest: Interest) -> i64 {
    i64::from(interest.read) + 2 * i64::from(interest.write)
}

/// A listener of the simulated system. May be dropped on any thread, like a real listener; the network sees the drop at
/// the next call.
pub(crate) struct SimulatedListener {
    fd: Fd,
    address: Address,
    dropped: Arc<AtomicBool>,
}

impl SimulatedListener {
    pub(crate) fn bind(network: &Shared, address: &Address, options: &ListenOptions) -> Result<Self, Error> {
        let dropped = Arc::<AtomicBool>::default();
        let bound = network.borrow_mut().listen(address, options.backlog.max(0) as usize, dropped.clone());
        let (fd, address) = bound.map_err(|errno| Error::Bind { address: address.clone(), cause: errno.into() })?;
        Ok(SimulatedListener { fd, address, dropped })
    }
}

impl Listens for SimulatedListener {
    fn fd(&self) -> Fd {
        self.fd
    }

    fn address(&self) -> &Address {
        &self.address
    }

    /// `None` on systems that do not report the length of the accept queue. All other tests simulate a system that does.
    fn waiting(&self) -> Option<usize> {
        None
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
    }
}
