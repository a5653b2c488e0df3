//! Descriptors, and the calls that open and close them: a new descriptor gets the lowest free number, at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::line::Stage;
use super::{FIRST_FD, File, Happening, Network, Remote};
use crate::address::{Address, Peer};
use crate::error::Errno;
use crate::sys::Fd;

/// Errors of accept(2) and socket(2) when the system, not the process, has no descriptor or no memory.
const SCARCE: [i32; 3] = [libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
/// Errors of accept(2) for a connection that has gone, or that a packet filter or the network has refused.
const LOST: [i32; 4] = [libc::ECONNABORTED, libc::EPROTO, libc::EPERM, libc::EHOSTUNREACH];

impl Network {
    /// Opens a descriptor with the lowest free number, as POSIX requires.
    pub(super) fn open(&mut self, file: File) -> Fd {
        let free = self.files.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.files.push(None);
            self.files.len() - 1
        });
        self.files[place] = Some(file);
        Fd(FIRST_FD + place as i32)
    }

    /// Returns an error if a new descriptor is refused.
    pub(super) fn starved(&mut self) -> Option<Errno> {
        if self.files.iter().flatten().count() >= self.faults.descriptors {
            return Some(Errno(libc::EMFILE));
        }
        if self.now >= self.starved_until && self.random.chance(self.faults.no_descriptors) {
            self.starved_until = self.now + self.random.below(1_000_000_000);
        }
        (self.now < self.starved_until).then(|| Errno(SCARCE[self.random.index(SCARCE.len())]))
    }

    pub(super) fn file(&mut self, fd: Fd, call: &str) -> &mut File {
        let place = usize::try_from(fd.0 - FIRST_FD).unwrap_or(usize::MAX);
        if !matches!(self.files.get(place), Some(Some(_))) {
            self.violation(&format!("{call} of descriptor {}, which is not open", fd.0));
        }
        match self.files.get_mut(place) {
            Some(Some(file)) => file,
            _ => unreachable!("checked above"),
        }
    }

    /// The connection behind a descriptor.
    pub(crate) fn line_of(&mut self, fd: Fd, call: &str) -> usize {
        match self.file(fd, call) {
            File::Line(line) => *line,
            File::Listener { .. } => self.violation(&format!("{call} of descriptor {}, which is a listener", fd.0)),
        }
    }

    pub(crate) fn listen(
        &mut self,
        wanted: &Address,
        backlog: usize,
        dropped: Arc<AtomicBool>,
    ) -> Result<(Fd, Address), Errno> {
        let mut address = wanted.clone();
        if let Address::Tcp(tcp) = &mut address
            && tcp.port() == 0
        {
            tcp.set_port(self.next_port);
            self.next_port += 1;
        }
        let taken = |file: &File| matches!(file, File::Listener { address: other, .. } if *other == address);
        if self.files.iter().flatten().any(taken) {
            return Err(Errno(libc::EADDRINUSE));
        }
        let listener = File::Listener { address: address.clone(), backlog, queue: VecDeque::new(), dropped };
        Ok((self.open(listener), address))
    }

    /// Closes the listeners that their owners have dropped since the last call.
    pub(crate) fn close_listeners(&mut self) {
        for place in 0..self.files.len() {
            let Some(File::Listener { dropped, .. }) = &self.files[place] else { continue };
            if !dropped.load(Ordering::Acquire) {
                continue;
            }
            if self.watched.contains_key(&(FIRST_FD + place as i32)) {
                self.violation("a listener is closed before the poller has forgotten it");
            }
            let Some(File::Listener { queue, .. }) = self.files[place].take() else { continue };
            for line in queue {
                self.lines[line].cut = true;
                self.lines[line].closed = true;
                self.act(line);
            }
        }
    }

    pub(crate) fn accept(&mut self, listener: Fd, unsent: usize) -> Result<Option<(Fd, Peer)>, Errno> {
        let waits = match self.file(listener, "accept") {
            File::Listener { queue, .. } => !queue.is_empty(),
            File::Line(_) => self.violation("accept of a connection"),
        };
        // Linux takes a descriptor before it looks for a waiting connection.
        if let Some(errno) = self.starved() {
            return Err(errno);
        }
        if waits && self.random.chance(self.faults.blocked) {
            self.excuse();
            return Ok(None);
        }
        let aborted = self.random.chance(self.faults.aborted_accepts);
        let File::Listener { queue, .. } = self.file(listener, "accept") else { return Ok(None) };
        let Some(line) = queue.pop_front() else { return Ok(None) };
        self.progress();
        if aborted {
            self.lines[line].cut = true;
            self.lines[line].closed = true;
            self.act(line);
            return Err(Errno(LOST[self.random.index(LOST.len())]));
        }
        let fd = self.open(File::Line(line));
        self.lines[line].stage = Stage::Open;
        self.lines[line].bound_unsent(unsent);
        self.lines[line].fd = Some(fd);
        self.latest = Some(line);
        Ok(Some((fd, self.address_of(line))))
    }

    pub(crate) fn connect(&mut self, to: &Address, unsent: usize) -> Result<Fd, Errno> {
        self.latest = None;
        if let Some(errno) = self.starved() {
            return Err(errno);
        }
        let line = self.new_line(Stage::Connecting, to.clone(), Vec::new());
        let fd = self.open(File::Line(line));
        self.lines[line].bound_unsent(unsent);
        self.lines[line].fd = Some(fd);
        self.latest = Some(line);
        self.progress();
        self.soon(Happening::Outcome(line));
        Ok(fd)
    }

    pub(super) fn outcome(&mut self, index: usize) {
        if self.lines[index].closed {
            return;
        }
        self.rouse(index);
        let remote = match self.remotes.get_mut(&self.addresses[index]) {
            Some(remote) => remote(),
            None => Remote::Refuses,
        };
        let line = &mut self.lines[index];
        match remote {
            Remote::Silent => {}
            Remote::Refuses => {
                (line.stage, line.dead, line.refused) = (Stage::Open, true, true);
                line.error = Some(Errno(libc::ECONNREFUSED));
            }
            Remote::Answers(script) => {
                line.stage = Stage::Open;
                line.script = script.into();
                self.act(index);
            }
        }
    }

    pub(crate) fn close(&mut self, fd: Fd) {
        if self.watched.contains_key(&fd.0) {
            self.violation(&format!("descriptor {} is closed before the poller has forgotten it", fd.0));
        }
        let index = self.line_of(fd, "close");
        self.files[(fd.0 - FIRST_FD) as usize] = None;
        self.progress();
        let line = &mut self.lines[index];
        line.closed = true;
        line.fd = None;
        let unread = line.arrived > line.read;
        if line.dead || line.stage == Stage::Connecting || line.resets_on_close || unread {
            line.cut = true;
        } else {
            line.finished = true;
            self.start_delivering(index);
        }
        if self.lines[index].cut {
            self.act(index);
        }
        self.start_arriving(index);
    }

    pub(crate) fn count_open(&self) -> usize {
        self.files.iter().flatten().count()
    }
}
