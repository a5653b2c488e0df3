//! The world at the other end of the calls: a clock that jumps, descriptors, listeners, connections and their peers, and a
//! poller that tells of them. Everything happens at a time and in an order that the seed decides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::faults::Faults;
use super::line::{Act, Line, Stage};
use super::random::{Random, mixed};
use crate::address::{Address, Peer};
use crate::error::Errno;
use crate::sys::{Event, Fd, Interest};
use crate::token::ConnectionId;

/// Simulated descriptors begin here, far above any real one, so that neither is ever taken for the other.
const FIRST_FD: i32 = 1 << 20;
/// How long everything has to be quiet, timers apart, before the application is told to stop.
const QUIET: u64 = 200_000_000_000;
/// SYNs of one peer that are dropped before it gives up.
const KNOCKS: u32 = 6;
/// Waits in a row that come back at once and lead to nothing. A spurious event or two is no spinning.
const SPINS_MAX: u32 = 60;
/// Waits of one simulation: one that goes on for longer does not end by itself.
const WAITS_MAX: u64 = 2_000_000;
const CALLS_MAX: u64 = 5_000_000;
/// Calls that a report of a failure shows, unless the variable says otherwise.
const HISTORY: usize = 60;
const HISTORY_VARIABLE: &str = "REACTOR_SIM_HISTORY";

/// What happens without the loop's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    Connect(usize),
    Act(usize),
    Arrive(usize),
    Deliver(usize),
    Reset(usize),
    /// What becomes of our connect.
    Outcome(usize),
    Halt,
}

/// What answers where the program connects to.
pub(crate) enum Remote {
    Answers(Vec<Act>),
    Refuses,
    Silent,
}

enum File {
    Listener { address: Address, backlog: usize, queue: VecDeque<usize>, dropped: Arc<AtomicBool> },
    Line(usize),
}

pub(crate) struct Network {
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    pub(crate) random: Random,
    now: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    order: u64,
    files: Vec<Option<File>>,
    watched: BTreeMap<i32, (ConnectionId, Interest)>,
    pub(crate) lines: Vec<Line>,
    pub(crate) ids: HashMap<ConnectionId, usize>,
    /// Where each line connects to, or comes from.
    addresses: Vec<Address>,
    pub(crate) remotes: HashMap<Address, Box<dyn FnMut(&mut Random) -> Remote>>,
    /// The line that the last accept or connect has brought.
    pub(crate) latest: Option<usize>,
    /// What each link wants, as the loop begins to wait; told by whoever watches the driver.
    pub(crate) wanted: Vec<(ConnectionId, Interest)>,
    starved_until: u64,
    next_port: u16,
    quiet_since: u64,
    pub(crate) halt: Box<dyn FnMut()>,
    pub(crate) halting: bool,
    pub(crate) must_end_by: Option<u64>,
    pub(crate) drain: Option<Duration>,
    /// Connections that the loop lets itself have.
    pub(crate) cap: usize,
    /// Bytes that have moved, in all.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    spins: u32,
    pub(crate) waits: u64,
    pub(crate) calls: u64,
    pub(crate) fingerprint: u64,
    history: VecDeque<(u64, &'static str, i64, i64)>,
    history_max: usize,
}

impl Network {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Network {
            seed,
            faults,
            random: Random::new(seed),
            now: 1_000_000_000,
            agenda: BinaryHeap::new(),
            order: 0,
            files: Vec::new(),
            watched: BTreeMap::new(),
            lines: Vec::new(),
            ids: HashMap::new(),
            addresses: Vec::new(),
            remotes: HashMap::new(),
            latest: None,
            wanted: Vec::new(),
            starved_until: 0,
            next_port: 40_000,
            quiet_since: 0,
            halt: Box::new(|| {}),
            halting: false,
            must_end_by: None,
            drain: None,
            cap: usize::MAX,
            received: 0,
            sent: 0,
            spins: 0,
            waits: 0,
            calls: 0,
            fingerprint: seed,
            history: VecDeque::new(),
            history_max: std::env::var(HISTORY_VARIABLE).ok().and_then(|most| most.parse().ok()).unwrap_or(HISTORY),
        }
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// A call takes a little time, and meanwhile things happen.
    pub(crate) fn tick(&mut self) {
        self.calls += 1;
        if self.calls > CALLS_MAX {
            self.violation("it does not end");
        }
        self.now += 200 + (self.random.next() & 1023);
        self.close_listeners();
        self.happen();
    }

    /// It may have taken its time.
    pub(crate) fn callback_ended(&mut self) {
        if self.random.chance(self.faults.slow_callbacks) {
            let span = self.random.below(500_000_000);
            self.now += span;
            self.must_end_by = self.must_end_by.map(|by| by + span);
            self.note("slow", 0, 0);
        }
    }

    pub(crate) fn after(&mut self, span: u64, happening: Happening) {
        self.order += 1;
        self.agenda.push(Reverse((self.now.saturating_add(span), self.order, happening)));
    }

    pub(crate) fn latency(&mut self) -> u64 {
        let most = self.faults.latency.as_nanos() as u64;
        1 + self.random.below(most.max(1))
    }

    fn soon(&mut self, happening: Happening) {
        let span = self.latency();
        self.after(span, happening);
    }

    fn next_time(&self) -> Option<u64> {
        self.agenda.peek().map(|Reverse((at, ..))| *at)
    }

    fn happen(&mut self) {
        while self.next_time().is_some_and(|at| at <= self.now) {
            let Some(Reverse((_, _, happening))) = self.agenda.pop() else { return };
            self.quiet_since = self.now;
            self.note("happens", happening.number(), happening.line());
            match happening {
                Happening::Connect(line) => self.come(line),
                Happening::Act(line) => self.act(line),
                Happening::Arrive(line) => self.arrive(line),
                Happening::Deliver(line) => self.deliver(line),
                Happening::Reset(line) => {
                    self.lines[line].reset();
                    self.act(line);
                }
                Happening::Outcome(line) => self.outcome(line),
                Happening::Halt => self.order_halt(),
            }
        }
    }

    fn order_halt(&mut self) {
        if !self.halting {
            self.halting = true;
            // The drain time counts from when the loop sees it, which a slow turn may put off a little.
            self.must_end_by = self.drain.map(|drain| self.now + drain.as_nanos() as u64 + 2_000_000_000);
            self.note("halt", 0, 0);
            (self.halt)();
        }
    }

    // ---- peers -----------------------------------------------------------------------------------------------------

    pub(crate) fn new_line(&mut self, stage: Stage, address: Address, script: Vec<Act>) -> usize {
        let (least, most) = self.faults.buffers;
        let mut size = || least + self.random.below((most - least + 1) as u64) as usize;
        let mut line = Line::new(stage, size(), size(), size());
        line.script = script.into();
        self.lines.push(line);
        self.addresses.push(address);
        self.lines.len() - 1
    }

    pub(crate) fn address_of(&self, line: usize) -> Peer {
        match self.addresses[line] {
            Address::Tcp(_) => Peer::Tcp(SocketAddr::from(([10, 0, (line >> 8) as u8, line as u8], 50_000))),
            Address::Unix(_) => Peer::Unix,
        }
    }

    /// A peer knocks.
    fn come(&mut self, index: usize) {
        let wanted = &self.addresses[index];
        let found = self.files.iter_mut().flatten().find_map(|file| match file {
            File::Listener { address, backlog, queue, .. } if address == wanted => Some((*backlog, queue)),
            _ => None,
        });
        match found {
            None => {
                self.lines[index].stage = Stage::Refused;
                self.act(index);
            }
            // The SYN is dropped, and sent again, some times.
            Some((backlog, queue)) if queue.len() > backlog && self.lines[index].knocks < KNOCKS => {
                self.lines[index].knocks += 1;
                self.after(1_000_000_000 << self.lines[index].knocks, Happening::Connect(index));
            }
            Some((backlog, queue)) if queue.len() > backlog => {
                self.lines[index].stage = Stage::Refused;
                self.act(index);
            }
            Some((_, queue)) => {
                queue.push_back(index);
                self.lines[index].stage = Stage::Queued;
                self.act(index);
            }
        }
    }

    /// The peer's program goes on until it has to wait.
    fn act(&mut self, index: usize) {
        loop {
            let line = &mut self.lines[index];
            let Some(next) = line.script.front_mut() else { return };
            let gone = line.cut || line.dead || line.stage == Stage::Refused || line.left;
            match next {
                Act::Send(bytes) => {
                    let bytes = std::mem::take(bytes);
                    if !gone && !line.said_end {
                        line.said.extend_from_slice(&bytes);
                    }
                    self.start_arriving(index);
                }
                Act::Wait(span) => {
                    let span = *span;
                    self.lines[index].script.pop_front();
                    if !gone {
                        return self.after(span, Happening::Act(index));
                    }
                    continue;
                }
                Act::Await(count) => {
                    let count = *count;
                    if line.delivered - line.expected < count && !line.is_mute() && !line.left {
                        line.awaiting = true;
                        return;
                    }
                    line.expected = line.delivered.min(line.expected + count);
                }
                Act::Expect(bytes) => {
                    let bytes = std::mem::take(bytes);
                    if !self.expect(index, &bytes) {
                        self.lines[index].script[0] = Act::Expect(bytes);
                        return;
                    }
                }
                Act::ExpectEnd => {
                    if !line.heard_end {
                        if !line.is_mute() {
                            line.awaiting = true;
                            return;
                        }
                        self.violation(&format!("peer {index} expected the end and got a reset"));
                    }
                    let (delivered, expected) = (line.delivered, line.expected);
                    if delivered > expected {
                        let more = String::from_utf8_lossy(&line.taken[expected..delivered]).into_owned();
                        self.violation(&format!("peer {index} expected the end and got {more:?}"));
                    }
                }
                Act::Shutdown => {
                    line.said_end = true;
                    self.start_arriving(index);
                }
                Act::Reset => {
                    if !gone {
                        (line.cut, line.left) = (true, true);
                        self.soon(Happening::Reset(index));
                    }
                }
                Act::Close => {
                    if !gone {
                        line.left = true;
                        if line.taken.len() > line.delivered {
                            self.soon(Happening::Reset(index));
                        } else {
                            line.said_end = true;
                            self.start_arriving(index);
                        }
                    }
                }
                Act::Pace(bytes, span) => {
                    line.pace = (*bytes, *span);
                    self.start_delivering(index);
                }
            }
            let line = &mut self.lines[index];
            line.awaiting = false;
            line.script.pop_front();
        }
    }

    /// Whether these bytes have come. Others are a violation.
    fn expect(&mut self, index: usize, bytes: &[u8]) -> bool {
        let line = &mut self.lines[index];
        let got = &line.taken[line.expected..line.delivered];
        let count = got.len().min(bytes.len());
        if got[..count] != bytes[..count] || (count < bytes.len() && line.is_mute()) {
            let (wanted, got) = (String::from_utf8_lossy(bytes), String::from_utf8_lossy(&got[..count]).into_owned());
            let how = match line {
                Line { stage: Stage::Refused, .. } => " and was refused",
                Line { cut: true, .. } => " and was reset",
                Line { heard_end: true, .. } => " and the end",
                _ => "",
            };
            self.violation(&format!("peer {index} expected {wanted:?} and got {got:?}{how}"));
        }
        if count < bytes.len() {
            line.awaiting = true;
            return false;
        }
        line.expected += count;
        true
    }

    pub(crate) fn start_arriving(&mut self, index: usize) {
        let line = &mut self.lines[index];
        let more = line.said.len() > line.arrived || (line.said_end && !line.end_arrived);
        if more && !line.arriving && !line.dead {
            line.arriving = true;
            self.soon(Happening::Arrive(index));
        }
    }

    /// What the peer said reaches our kernel, in pieces, as far as there is room.
    fn arrive(&mut self, index: usize) {
        let line = &mut self.lines[index];
        line.arriving = false;
        if line.dead {
            return;
        }
        let left = line.said.len() - line.arrived;
        if line.closed {
            if left > 0 || !line.finished {
                // Nobody is there to take it: answered by a reset.
                line.cut = true;
                self.act(index);
            }
            line_end(&mut self.lines[index]);
            return;
        }
        let free = line.window.saturating_sub(line.arrived - line.read);
        if left > 0 && free == 0 {
            return; // A receive starts it again.
        }
        if left > 0 {
            let most = left.min(free);
            let count = if self.random.chance(0.5) { most } else { self.random.size(most) };
            self.lines[index].arrived += count;
        }
        line_end(&mut self.lines[index]);
        self.start_arriving(index);
    }

    pub(crate) fn start_delivering(&mut self, index: usize) {
        let line = &mut self.lines[index];
        let more = line.taken.len() > line.delivered || (line.finished && !line.heard_end);
        if more && !line.delivering && !line.cut && (line.pace.0 > 0 || line.left) {
            line.delivering = true;
            let span = self.latency().max(self.lines[index].pace.1);
            self.after(span, Happening::Deliver(index));
        }
    }

    /// The peer's program reads.
    fn deliver(&mut self, index: usize) {
        let line = &mut self.lines[index];
        line.delivering = false;
        if line.cut || line.dead {
            return;
        }
        let left = line.taken.len() - line.delivered;
        if line.left && left > 0 {
            line.cut = true;
            return self.soon(Happening::Reset(index));
        }
        if line.pace.0 == 0 && !line.left {
            return;
        }
        line.delivered += left.min(line.pace.0);
        if line.finished && line.delivered == line.taken.len() {
            line.heard_end = true;
        }
        if line.awaiting {
            self.act(index);
        }
        self.start_delivering(index);
    }

    // ---- descriptors -----------------------------------------------------------------------------------------------

    /// The lowest number that is free, as POSIX has it.
    fn open(&mut self, file: File) -> Fd {
        let free = self.files.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.files.push(None);
            self.files.len() - 1
        });
        self.files[place] = Some(file);
        Fd(FIRST_FD + place as i32)
    }

    /// Whether a new descriptor is refused, and how.
    fn starved(&mut self) -> Option<Errno> {
        if self.files.iter().flatten().count() >= self.faults.descriptors {
            return Some(Errno(libc::EMFILE));
        }
        if self.now >= self.starved_until && self.random.chance(self.faults.no_descriptors) {
            self.starved_until = self.now + self.random.below(1_000_000_000);
        }
        (self.now < self.starved_until).then_some(Errno(libc::ENFILE))
    }

    fn file(&mut self, fd: Fd, call: &str) -> &mut File {
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

    /// Listeners are closed by whoever holds them, and the network hears of it afterwards.
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

    pub(crate) fn accept(&mut self, listener: Fd) -> Result<Option<(Fd, Peer)>, Errno> {
        match self.file(listener, "accept") {
            File::Listener { queue, .. } if queue.is_empty() => return Ok(None),
            File::Listener { .. } => {}
            File::Line(_) => self.violation("accept of a connection"),
        }
        if self.random.chance(self.faults.blocked) {
            self.excuse();
            return Ok(None);
        }
        if let Some(errno) = self.starved() {
            return Err(errno);
        }
        let aborted = self.random.chance(self.faults.aborted_accepts);
        let File::Listener { queue, .. } = self.file(listener, "accept") else { return Ok(None) };
        let Some(line) = queue.pop_front() else { return Ok(None) };
        self.progress();
        if aborted {
            self.lines[line].cut = true;
            self.lines[line].closed = true;
            self.act(line);
            return Err(Errno(libc::ECONNABORTED));
        }
        let fd = self.open(File::Line(line));
        self.lines[line].stage = Stage::Open;
        self.lines[line].fd = Some(fd);
        self.latest = Some(line);
        Ok(Some((fd, self.address_of(line))))
    }

    pub(crate) fn connect(&mut self, to: &Address) -> Result<Fd, Errno> {
        self.latest = None;
        if let Some(errno) = self.starved() {
            return Err(errno);
        }
        let line = self.new_line(Stage::Connecting, to.clone(), Vec::new());
        let fd = self.open(File::Line(line));
        self.lines[line].fd = Some(fd);
        self.latest = Some(line);
        self.progress();
        self.soon(Happening::Outcome(line));
        Ok(fd)
    }

    fn outcome(&mut self, index: usize) {
        if self.lines[index].closed {
            return;
        }
        let remote = match self.remotes.get_mut(&self.addresses[index]) {
            Some(remote) => remote(&mut self.random),
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
        if line.dead || line.stage == Stage::Connecting {
            line.cut = true;
        } else if line.resets_on_close || line.arrived > line.read {
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

    // ---- the poller ------------------------------------------------------------------------------------------------

    pub(crate) fn register(&mut self, fd: Fd, token: ConnectionId, interest: Interest) -> Result<(), Errno> {
        self.file(fd, "register");
        if self.random.chance(self.faults.unwatchable) {
            return Err(Errno(libc::ENOSPC));
        }
        if self.watched.insert(fd.0, (token, interest)).is_some() {
            self.violation(&format!("descriptor {} is registered twice", fd.0));
        }
        Ok(())
    }

    pub(crate) fn modify(&mut self, fd: Fd, token: ConnectionId, interest: Interest) {
        self.file(fd, "modify");
        if self.watched.insert(fd.0, (token, interest)).is_none() {
            self.violation(&format!("the interest of descriptor {} is changed, which is not registered", fd.0));
        }
    }

    pub(crate) fn forget(&mut self, fd: Fd) {
        self.file(fd, "forget");
        if self.watched.remove(&fd.0).is_none() {
            self.violation(&format!("descriptor {} is to be forgotten, which is not registered", fd.0));
        }
    }

    /// What is ready: without the events that are late, with those that are spurious.
    fn ready(&mut self, events: &mut Vec<Event>, spurious: bool) {
        let Network { files, watched, lines, faults, random, .. } = self;
        let mut late = Vec::new();
        for (&fd, &(token, interest)) in watched.iter() {
            let mut event = Event { token, readable: false, writable: false, hangup: false, error: false };
            match &files[(fd - FIRST_FD) as usize] {
                Some(File::Listener { queue, .. }) => event.readable = !queue.is_empty(),
                Some(File::Line(index)) => {
                    let line = &lines[*index];
                    event.readable = line.is_readable();
                    event.writable = line.is_writable();
                    event.hangup = line.is_hung_up() && !faults.select;
                    event.error = line.error.is_some() && line.stage == Stage::Open && !faults.select;
                }
                None => {}
            }
            if spurious && random.chance(faults.spurious_events) {
                match lines.get(files_line(files, fd).unwrap_or(usize::MAX)) {
                    // What tells a connect's outcome is not spurious: SO_ERROR would say that it stands.
                    Some(line) if line.stage == Stage::Connecting => {}
                    _ if random.chance(0.5) => event.readable = true,
                    _ => event.writable = true,
                }
            }
            event.readable &= interest.read;
            event.writable &= interest.write;
            if event.readable || event.writable || event.hangup || event.error {
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

    /// Lets time pass until something is ready, or until then.
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
                events
                    .insert(place, Event { token: wake, readable: true, writable: false, hangup: false, error: false });
            }
            if !events.is_empty() {
                break;
            }
            let next = self.next_time();
            let quiet = self.quiet_since.max(self.now.min(self.quiet_since)) + QUIET;
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
        self.note("wait", events.len() as i64, (self.now - began) as i64);
        // Time that passes is what a wait is for.
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

    /// When nothing happens any more, nobody stands before a door that could be opened.
    fn check_queues(&self) {
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

    /// After the program has ended: what is under way arrives, and the peers do what they have left to do.
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

    fn check_interest(&mut self) {
        for (id, wanted) in std::mem::take(&mut self.wanted) {
            let Some(&index) = self.ids.get(&id) else { continue };
            let line = &self.lines[index];
            let Some(fd) = line.fd else { continue };
            match self.watched.get(&fd.0) {
                Some(&(token, interest)) if token == id && interest == wanted => {}
                None if wanted == Interest::default() && line.is_hung_up() => {}
                None if self.faults.unwatchable > 0.0 => {}
                found => {
                    let found = format!("{found:?}");
                    self.violation(&format!("connection {id} wants {wanted:?}, and the poller knows {found}"));
                }
            }
        }
    }

    /// Something was moved, so the loop does not spin.
    pub(crate) fn progress(&mut self) {
        self.spins = 0;
    }

    /// A fault was the cause that nothing moved.
    pub(crate) fn excuse(&mut self) {
        self.spins = self.spins.saturating_sub(1);
    }

    // ---- what was seen ---------------------------------------------------------------------------------------------

    pub(crate) fn note(&mut self, call: &'static str, about: i64, came_to: i64) {
        let word = call.bytes().fold(0u64, |word, byte| word.wrapping_mul(31) ^ u64::from(byte));
        self.fingerprint = mixed(self.fingerprint ^ word ^ (about as u64) << 32 ^ came_to as u64 ^ self.now << 8);
        // Of many waits in a row that came to nothing, the last is enough.
        if call == "wait" && self.history.back().is_some_and(|(_, call, events, _)| (*call, *events) == ("wait", 0)) {
            self.history.pop_back();
        }
        if self.history.len() >= self.history_max {
            self.history.pop_front();
        }
        self.history.push_back((self.now, call, about, came_to));
    }

    /// Ends the simulation with what is wrong, and all that is needed to see it again.
    #[cold]
    pub(crate) fn violation(&self, what: &str) -> ! {
        let mut history = String::new();
        for (at, call, about, came_to) in &self.history {
            history += &format!("  {:>14} {call:<10} {about:>8} {came_to}\n", at - 1_000_000_000);
        }
        panic!("seed {}: {what}\n{history}", self.seed);
    }
}

/// Once everything has arrived, so has the end.
fn line_end(line: &mut Line) {
    if line.said_end && line.arrived == line.said.len() {
        line.end_arrived = true;
    }
}

fn files_line(files: &[Option<File>], fd: i32) -> Option<usize> {
    match files.get((fd - FIRST_FD) as usize)? {
        Some(File::Line(index)) => Some(*index),
        _ => None,
    }
}

impl Happening {
    fn number(self) -> i64 {
        match self {
            Happening::Connect(_) => 1,
            Happening::Act(_) => 2,
            Happening::Arrive(_) => 3,
            Happening::Deliver(_) => 4,
            Happening::Reset(_) => 5,
            Happening::Outcome(_) => 6,
            Happening::Halt => 7,
        }
    }

    fn line(self) -> i64 {
        match self {
            Happening::Connect(line)
            | Happening::Act(line)
            | Happening::Arrive(line)
            | Happening::Deliver(line)
            | Happening::Reset(line)
            | Happening::Outcome(line) => line as i64,
            Happening::Halt => -1,
        }
    }
}
