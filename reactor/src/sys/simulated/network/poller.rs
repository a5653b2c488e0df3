//! The poller, and the conditions that must hold whenever the loop waits. Where the driver asks for edges, unread input is
//! reported once, unless the poller imitates `select`.

use std::time::Duration;

use super::super::line::{Act, Line, Stage};
use super::{FIRST_FD, File, Network};
use crate::error::Errno;
use crate::sys::{Event, Fd, Interest, Ready};
use crate::token::ConnectionId;

/// Allowed number of consecutive waits that return at once without effect. A few spurious events are no spinning.
const SPINS_MAX: u32 = 60;
/// How long everything but timers must be quiet before the application is told to stop, in nanoseconds.
const QUIET: u64 = 200_000_000_000;
/// Largest number of waits in one simulation: a longer simulation does not end by itself.
const WAITS_MAX: u64 = 20_000_000;

/// A registration.
pub(super) struct Watch {
    token: ConnectionId,
    interest: Interest,
    /// Something has arrived since the last event, or the interest was told since: with edges, nothing else makes an event.
    armed: bool,
}

impl Watch {
    fn new(token: ConnectionId, interest: Interest) -> Self {
        Watch { token, interest, armed: true }
    }
}

impl Network {
    /// Something has happened to the line, or a call has left bytes in the line that it should have taken: the next wait reports it.
    pub(crate) fn rouse(&mut self, index: usize) {
        let watch = self.lines[index].fd.and_then(|fd| self.watched.get_mut(&fd.0));
        watch.into_iter().for_each(|watch| watch.armed = true);
    }

    pub(crate) fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.file(fd, "register");
        if self.random.chance(self.faults.unwatchable) {
            return Err(Errno(libc::ENOSPC));
        }
        if self.watched.insert(fd.0, Watch::new(token, interest)).is_some() {
            self.violation(&format!("descriptor {} is registered twice", fd.0));
        }
        Ok(())
    }

    pub(crate) fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) {
        self.file(fd, "modify");
        if self.watched.insert(fd.0, Watch::new(token, interest)).is_none() {
            self.violation(&format!("the interest of descriptor {} is changed, which is not registered", fd.0));
        }
    }

    pub(crate) fn forget(&mut self, fd: Fd) {
        self.file(fd, "forget");
        if self.watched.remove(&fd.0).is_none() {
            self.violation(&format!("descriptor {} is to be forgotten, which is not registered", fd.0));
        }
    }

    /// Returns the ready descriptors, without late events and with spurious ones.
    pub(super) fn ready(&mut self, events: &mut Vec<Event>, spurious: bool) {
        let Network { files, watched, lines, faults, random, .. } = self;
        let mut late = Vec::new();
        for (&fd, &Watch { token, interest, armed }) in watched.iter() {
            let (mut readable, mut writable, mut others) = (false, false, Ready::default());
            match &files[(fd - FIRST_FD) as usize] {
                Some(File::Listener { queue, .. }) => readable = !queue.is_empty(),
                Some(File::Line(index)) => {
                    let line = &lines[*index];
                    readable = line.is_readable();
                    writable = line.is_writable();
                    let failed = line.error.is_some() && line.stage == Stage::Open;
                    others = others.with(Ready::HANGUP, line.is_hung_up() && !faults.select);
                    others = others.with(Ready::ERROR, failed && !faults.select);
                    let edges = interest.edges && !faults.select;
                    others = others.with(Ready::ENDING, edges && (line.end_arrived || line.dead));
                    if edges && !armed {
                        (readable, others) = (false, Ready::default());
                    }
                }
                None => {}
            }
            if spurious && random.chance(faults.spurious_events) {
                match lines.get(files_line(files, fd).unwrap_or(usize::MAX)) {
                    // A connect's outcome is never spurious: SO_ERROR would report a connection.
                    Some(line) if line.stage == Stage::Connecting => {}
                    _ if random.chance(0.5) => readable = true,
                    _ => writable = true,
                }
            }
            let asked = others.with(Ready::READABLE, readable && interest.read);
            let event = Event { token, ready: asked.with(Ready::WRITABLE, writable && interest.write) };
            if event.ready != Ready::default() {
                if random.chance(faults.late_events) { late.push(event) } else { events.push(event) }
            }
        }
        if events.is_empty() {
            events.extend(late.pop());
        }
        if faults.reordered || events.len() > faults.batch {
            random.shuffle(events);
        }
        events.truncate(faults.batch);
    }

    /// Lets time pass until a descriptor is ready, or until the timeout.
    pub(crate) fn wait(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
        asked: u64,
        awake: &dyn Fn() -> bool,
        wake: ConnectionId,
    ) {
        self.tick();
        self.waits += 1;
        self.check_interest();
        if self.waits > WAITS_MAX {
            self.violation("it does not end");
        }
        if self.must_end_by.is_some_and(|by| self.now > by) {
            self.violation("the drain time is over, and the loop goes on");
        }
        if self.lines.iter().any(Line::is_held_back) {
            self.violation("the loop waits, and the kernel keeps bytes back for others that do not follow");
        }
        let began = self.now;
        let until = timeout.map(|span| asked.saturating_add(span.as_nanos() as u64).max(self.now));
        let mut first = true;
        loop {
            self.happen();
            self.ready(events, first);
            if first && !events.is_empty() && self.faults.spurious_events > 0.0 {
                self.excuse();
            }
            first = false;
            if awake() {
                events.truncate(self.faults.batch - 1);
                let place = self.random.index(events.len() + 1);
                events.insert(place, Event { token: wake, ready: Ready::READABLE });
            }
            if !events.is_empty() {
                break;
            }
            if until.is_none_or(|until| until > self.now) {
                self.check_edges();
            }
            let next = self.next_time();
            let quiet = self.quiet_since + QUIET;
            match (next, until) {
                (Some(next), None) => self.now = next,
                (Some(next), Some(until)) if next <= until => self.now = self.now.max(next),
                (None, None) if !self.halting => {
                    self.check_queues();
                    self.order_halt();
                }
                (None, None) => self.violation("the loop waits for ever, and was told to stop"),
                (None, Some(until)) if until > quiet && !self.halting => {
                    self.now = self.now.max(quiet);
                    self.order_halt();
                }
                (_, Some(until)) => {
                    self.now = self.now.max(until);
                    if self.random.chance(self.faults.late_wakes) {
                        self.now += self.random.below(20_000_000);
                    }
                    break;
                }
            }
        }
        for watch in self.watched.values_mut() {
            watch.armed &= !events.iter().any(|event| event.token == watch.token);
        }
        self.note("wait", events.len() as i64, (self.now - began) as i64);
        // The passing of time is the purpose of a wait.
        if self.now > began + 1000 {
            self.progress();
        } else {
            self.spins += 1;
            if self.spins > SPINS_MAX {
                self.violation(&format!(
                    "busy loop: {} waits in a row came to nothing, the last to {events:?}",
                    self.spins
                ));
            }
        }
    }

    /// Checks, when nothing happens any more, that no connection waits at a listener that has room.
    pub(super) fn check_queues(&self) {
        let lines = self.files.iter().flatten().filter(|file| matches!(file, File::Line(_))).count();
        let room = lines < self.cap && self.count_open() < self.faults.descriptors;
        for file in self.files.iter().flatten() {
            if let File::Listener { address, queue, .. } = file
                && room
                && !queue.is_empty()
            {
                self.violation(&format!("{} peers wait at {address}, and there is room", queue.len()));
            }
        }
    }

    /// After the end of the program: lets pending bytes arrive, and peers finish their scripts.
    pub(crate) fn finish(&mut self) {
        self.close_listeners();
        while let Some(next) = self.next_time() {
            self.now = self.now.max(next);
            self.happen();
        }
        for (index, line) in self.lines.iter().enumerate() {
            if let Some(waits @ (Act::Expect(_) | Act::ExpectEnd)) = line.script.front() {
                self.violation(&format!("peer {index} still waits for {waits:?}"));
            }
        }
    }

    /// Checks, before time passes without an event, that no edge was lost: a connection that is read has no input of which the
    /// poller will not tell.
    fn check_edges(&self) {
        for (&fd, watch) in &self.watched {
            let line = files_line(&self.files, fd).map(|index| &self.lines[index]);
            let is_due = watch.interest.read && line.is_some_and(Line::is_readable);
            if is_due && watch.interest.edges && !watch.armed && !self.faults.select {
                self.violation(&format!("connection {} has unread input, and no event will tell of it", watch.token));
            }
        }
    }

    pub(super) fn check_interest(&mut self) {
        for (id, wanted) in std::mem::take(&mut self.wanted) {
            let Some(&index) = self.ids.get(&id) else { continue };
            let line = &self.lines[index];
            let Some(fd) = line.fd else { continue };
            match self.watched.get(&fd.0) {
                Some(watch) if watch.token == id && (watch.interest == wanted || line.layered) => {}
                None if line.layered => {}
                None if wanted == Interest::default() && line.is_hung_up() => {}
                None if self.faults.unwatchable > 0.0 => {}
                found => {
                    let found = format!("{:?}", found.map(|watch| (watch.token, watch.interest)));
                    self.violation(&format!("connection {id} wants {wanted:?}, and the poller knows {found}"));
                }
            }
        }
    }

    /// Notes that bytes have moved, so the loop does not spin.
    pub(crate) fn progress(&mut self) {
        self.spins = 0;
    }

    /// Notes that a fault prevented progress.
    pub(crate) fn excuse(&mut self) {
        self.spins = self.spins.saturating_sub(1);
    }
}

fn files_line(files: &[Option<File>], fd: i32) -> Option<usize> {
    match files.get((fd - FIRST_FD) as usize)? {
        Some(File::Line(index)) => Some(*index),
        _ => None,
    }
}
