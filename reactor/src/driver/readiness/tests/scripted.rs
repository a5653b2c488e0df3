//! A system that does what a test has written down, and writes down each call of the driver.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Duration;

use crate::address::{Address, Peer};
use crate::error::Errno;
use crate::socket_options::Tuning;
use crate::sys::sockets::NoSockets;
use crate::sys::wake::Waker;
use crate::sys::{Clock, Event, Fd, Interest, Moved, Poller, Sockets, Sys};
use crate::time::Time;
use crate::token::ConnectionId;

/// EMFILE.
pub(super) const NO_DESCRIPTOR: Errno = Errno(24);
/// EPERM: no poller takes the descriptor, or a packet filter has dropped the connection.
pub(super) const NOT_PERMITTED: Errno = Errno(1);

/// The script, and the calls so far.
pub(super) struct Script {
    pub(super) calls: Vec<String>,
    pub(super) now: Time,
    /// Duration of each wait.
    pub(super) waits_take: Duration,
    /// Events of the next wait, and the largest number of events in a wait.
    pub(super) events: Vec<Event>,
    pub(super) events_per_wait: usize,
    /// Timeouts of the waits, in order.
    pub(super) timeouts: Vec<Option<Duration>>,
    /// Outcomes of receives and reads, by descriptor; then `Blocked`.
    pub(super) received: HashMap<i32, VecDeque<Moved>>,
    /// Outcomes of sends, in order; then all bytes leave.
    pub(super) sent: VecDeque<Moved>,
    /// Outcomes of accepts and connects, in order; then nobody comes, and no descriptor is left.
    pub(super) accepted: VecDeque<Result<Fd, Errno>>,
    pub(super) connected: VecDeque<Result<Fd, Errno>>,
    /// Outcomes of registrations, in order; then success.
    pub(super) registered: VecDeque<Result<(), Errno>>,
    /// SO_ERROR by descriptor, which asking clears.
    pub(super) errors: HashMap<i32, Errno>,
    pub(super) reports_errors_unasked: bool,
    /// Terminals of another job.
    pub(super) terminals: Vec<i32>,
    pub(super) unacknowledged: usize,
}

#[derive(Clone)]
pub(super) struct Scripted(pub(super) Rc<RefCell<Script>>, Waker);

impl Scripted {
    pub(super) fn new() -> Self {
        let script = Script {
            calls: Vec::new(),
            now: Time(1_000_000_000_000),
            waits_take: Duration::ZERO,
            events: Vec::new(),
            events_per_wait: 4,
            timeouts: Vec::new(),
            received: HashMap::new(),
            sent: VecDeque::new(),
            accepted: VecDeque::new(),
            connected: VecDeque::new(),
            registered: VecDeque::new(),
            errors: HashMap::new(),
            reports_errors_unasked: true,
            terminals: Vec::new(),
            unacknowledged: 0,
        };
        Scripted(Rc::new(RefCell::new(script)), Waker::new().expect("a descriptor for wake-ups"))
    }

    fn note(&self, call: String) {
        self.0.borrow_mut().calls.push(call);
    }
}

fn letters(interest: Interest) -> String {
    let (read, write) = (if interest.read { "r" } else { "-" }, if interest.write { "w" } else { "-" });
    format!("{read}{write}{}", if interest.edges { " edges" } else { "" })
}

impl Clock for Scripted {
    fn now(&mut self) -> Time {
        self.0.borrow().now
    }

    fn coarse_now(&mut self) -> Time {
        self.0.borrow().now + Duration::from_millis(1)
    }

    fn waited_for_a_core(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(7))
    }
}

impl Poller for Scripted {
    fn register(&mut self, fd: Fd, _: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.note(format!("register {} {}", fd.0, letters(interest)));
        self.0.borrow_mut().registered.pop_front().unwrap_or(Ok(()))
    }

    fn modify(&mut self, fd: Fd, _: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.note(format!("modify {} {}", fd.0, letters(interest)));
        Ok(())
    }

    fn forget(&mut self, fd: Fd) {
        self.note(format!("forget {}", fd.0));
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>, _: Time) -> Result<(), Errno> {
        let mut script = self.0.borrow_mut();
        script.timeouts.push(timeout);
        script.now = script.now + script.waits_take;
        events.append(&mut script.events);
        Ok(())
    }

    fn events_per_wait(&self) -> usize {
        self.0.borrow().events_per_wait
    }

    fn reports_errors_unasked(&self) -> bool {
        self.0.borrow().reports_errors_unasked
    }

    fn held(&self) -> Vec<Fd> {
        vec![Fd(1000)]
    }
}

impl Sys for Scripted {
    fn drain_wake(&mut self) {
        self.note("drain".into());
    }

    fn accept(&mut self, listener: Fd, _: &Tuning) -> Result<Option<(Fd, Peer)>, Errno> {
        self.note(format!("accept {}", listener.0));
        match self.0.borrow_mut().accepted.pop_front() {
            Some(outcome) => outcome.map(|fd| Some((fd, Peer::Unix))),
            None => Ok(None),
        }
    }

    fn connect(&mut self, _: &Address, _: &Tuning) -> Result<Fd, Errno> {
        self.note("connect".into());
        self.0.borrow_mut().connected.pop_front().unwrap_or(Err(NO_DESCRIPTOR))
    }

    fn recv(&mut self, fd: Fd, _: &mut [u8]) -> Moved {
        self.note(format!("recv {}", fd.0));
        self.0.borrow_mut().received.get_mut(&fd.0).and_then(VecDeque::pop_front).unwrap_or(Moved::Blocked)
    }

    fn read(&mut self, fd: Fd, _: &mut [u8]) -> Moved {
        self.note(format!("read {}", fd.0));
        self.0.borrow_mut().received.get_mut(&fd.0).and_then(VecDeque::pop_front).unwrap_or(Moved::Blocked)
    }

    fn is_anothers_terminal(&mut self, fd: Fd) -> bool {
        self.0.borrow().terminals.contains(&fd.0)
    }

    fn send(&mut self, fd: Fd, bytes: &[u8], more: bool) -> Moved {
        self.note(format!("send {} {}{}", fd.0, bytes.len(), if more { " more" } else { "" }));
        self.0.borrow_mut().sent.pop_front().unwrap_or(Moved::Bytes(bytes.len()))
    }

    fn send_vectored(&mut self, fd: Fd, pieces: &[IoSlice<'_>], more: bool) -> Moved {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.note(format!("sendmsg {} {length}{}", fd.0, if more { " more" } else { "" }));
        self.0.borrow_mut().sent.pop_front().unwrap_or(Moved::Bytes(length))
    }

    fn send_file(&mut self, fd: Fd, _: &File, at: u64, count: usize) -> Moved {
        self.note(format!("sendfile {} {at} {count}", fd.0));
        self.0.borrow_mut().sent.pop_front().unwrap_or(Moved::Bytes(count))
    }

    fn read_file(&mut self, _: &File, _: u64, _: &mut [u8]) -> Moved {
        Moved::Blocked
    }

    fn waker(&self) -> Waker {
        self.1.clone()
    }

    fn take_error(&mut self, fd: Fd) -> Option<Errno> {
        self.note(format!("error {}", fd.0));
        self.0.borrow_mut().errors.remove(&fd.0)
    }

    fn sockets(&self) -> Sockets {
        Box::new(NoSockets)
    }

    fn unacknowledged(&mut self, fd: Fd) -> usize {
        self.note(format!("unacknowledged {}", fd.0));
        self.0.borrow().unacknowledged
    }

    fn finish(&mut self, fd: Fd) {
        self.note(format!("finish {}", fd.0));
    }

    fn reset_on_close(&mut self, fd: Fd) {
        self.note(format!("reset {}", fd.0));
    }

    fn close(&mut self, fd: Fd) {
        self.note(format!("close {}", fd.0));
    }
}
