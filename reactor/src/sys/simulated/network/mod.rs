//! The simulated world behind the system calls: a clock that jumps, descriptors, listeners, connections and their
//! peers, and a poller. The seed decides the time and order of all events.

mod descriptors;
mod peers;
mod poller;
mod trace;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::faults::Faults;
use super::line::{Act, Line};
use crate::address::Address;
use crate::random::{Random, mixed};
use crate::sys::Interest;
use crate::token::ConnectionId;
use poller::Watch;
use trace::Call;

/// Simulated descriptors begin here, far above any real one, so the two kinds cannot be confused.
const FIRST_FD: i32 = 1 << 20;
/// Largest number of calls in one simulation: a longer simulation does not end by itself. A peer that takes a few large
/// writes in steps of three bytes needs millions.
const CALLS_MAX: u64 = 20_000_000;
/// Number of calls in a report of a failure, unless the variable sets another number.
const HISTORY: usize = 60;
/// The clock when a simulation begins, in nanoseconds.
const BEGAN: u64 = 1_000_000_000;
const HISTORY_VARIABLE: &str = "REACTOR_SIM_HISTORY";

/// An event without the loop's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    Connect(usize),
    Act(usize),
    Arrive(usize),
    Deliver(usize),
    Reset(usize),
    /// The outcome of our connect.
    Outcome(usize),
    Halt,
}

/// Called each time that the program connects to an address.
pub(crate) type Answer = Box<dyn FnMut() -> Remote>;

/// The reaction at an address.
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
    watched: BTreeMap<i32, Watch>,
    pub(crate) lines: Vec<Line>,
    pub(crate) ids: HashMap<ConnectionId, usize>,
    /// The remote address of each line.
    addresses: Vec<Address>,
    pub(crate) remotes: HashMap<Address, Answer>,
    /// The line of the last accept or connect.
    pub(crate) latest: Option<usize>,
    /// The interest of each link when the loop begins to wait, set by the checks around the driver.
    pub(crate) wanted: Vec<(ConnectionId, Interest)>,
    starved_until: u64,
    next_port: u16,
    quiet_since: u64,
    pub(crate) halt: Box<dyn FnMut()>,
    pub(crate) halting: bool,
    pub(crate) must_end_by: Option<u64>,
    pub(crate) drain: Option<Duration>,
    /// Connections that the loop allows itself.
    pub(crate) cap: usize,
    /// Bytes moved in total.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    spins: u32,
    pub(crate) waits: u64,
    pub(crate) calls: u64,
    pub(crate) fingerprint: u64,
    history: VecDeque<Call>,
    history_max: usize,
}

impl Network {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Network {
            seed,
            faults,
            random: Random::new(seed),
            now: BEGAN,
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

    // ---- time
    // ------------------------------------------------------------------------------------------------------

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Makes a call take a little time, during which events happen.
    pub(crate) fn tick(&mut self) {
        self.calls += 1;
        if self.calls > CALLS_MAX {
            self.violation("it does not end");
        }
        self.now += 200 + (self.random.next() & 1023);
        self.close_listeners();
        self.happen();
    }

    /// A callback may have taken long.
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
                    self.rouse(line);
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
            // The drain time counts from the turn that sees the stop, which a slow turn may delay a little.
            self.must_end_by = self.drain.map(|drain| self.now + drain.as_nanos() as u64 + 2_000_000_000);
            self.note("halt", 0, 0);
            (self.halt)();
        }
    }

    // ---- what was seen
    // ---------------------------------------------------------------------------------------------

    pub(crate) fn note(&mut self, call: &'static str, about: i64, came_to: i64) {
        let word = call.bytes().fold(0u64, |word, byte| word.wrapping_mul(31) ^ u64::from(byte));
        self.fingerprint = mixed(self.fingerprint ^ word ^ (about as u64) << 32 ^ came_to as u64 ^ self.now << 8);
        // The history keeps the last of several empty waits in a row.
        if call == "wait" && self.history.back().is_some_and(|call| (call.name, call.about) == ("wait", 0)) {
            self.history.pop_back();
        }
        if self.history.len() >= self.history_max {
            self.history.pop_front();
        }
        self.history.push_back(Call { at: self.now, name: call, about, came_to });
    }

    /// Ends the simulation with a description of the violation, and with everything needed to replay it.
    #[cold]
    pub(crate) fn violation(&self, what: &str) -> ! {
        panic!("seed {}: {what}\n{}\n", self.seed, self.trace().join("\n"));
    }

    /// The latest calls, one in each line: 60, or as many as the environment variable says.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.history.iter().map(|call| call.line(BEGAN)).collect()
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
