//! A link between a handler that may request anything at any time, and a peer that may do anything at any time. The
//! model plays the loop, the kernel, the handler and the peer. It knows what each has seen, and nothing of the link's
//! inner state, and checks the crate's promises. For property tests and for the fuzz target `link`.

mod handler;
mod promises;

use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::buffer::{Input, Pool};
use crate::error::Errno;
use crate::limits::{Deadlines, Limits, PROGRESS_MIN};
use crate::operations::Operations;
use crate::reason::Deadline;
use crate::timer::Wheel;

/// | | |
/// | --- | --- |
/// | `o` `i` | where the link comes from; whether it may be idle for ever; first of all |
/// | | *the peer and the kernel* |
/// | `A` `F` `X` | so many bytes arrive; the peer's FIN; its reset |
/// | `K` `C` `B` | the kernel has room for so many bytes more; so many were acknowledged; sending fails from now on |
/// | `O` `N` | the connection comes about; it does not |
/// | | *the driver and the loop* |
/// | `R` `V` | what has arrived is reported, at most so many bytes; what became of blocked output |
/// | `U` `T` `S` | the next turn; so many tenths of a second pass; the application stops |
/// | | *the handler, in the callback that what stands before brings about, or else in that of another connection* |
/// | `w` `k` | writes so many bytes; consumes so many |
/// | `z` `f` `x` `p` `r` `g` | closes, finishes, aborts, pauses, resumes, wants the rest offered again |
/// | `n` `q` | reads on whatever is queued, from now on; waits until everything queued has left |
/// | `d` `e` `t` | its deadline is in so many seconds; is not; the callback takes so many tenths of a second |
/// | `j` | the callback ends: further requests belong to the next one |
#[cfg(test)]
const LETTERS: &[u8] = b"AAAAFXKKKKCBONRRRRVVUUTTTSwwwwkkzfxprgdetnqq";
const REQUESTS: &[u8] = b"wkzfxprgdetnqj";

/// Courses of events that random operations hardly ever meet. The property test puts one among random operations.
#[cfg(test)]
const COURSES: [&str; 15] = [
    "",
    // The handler pauses while the end of the input is pending: in `on_drained`, between two turns, or within one.
    "w300 K9999 V w300 F R9 U p T1 r",
    "w300 K9999 V w300 F R9 p U T1 r",
    "A100 R99 w300 K9999 V w300 F R9 U p r",
    // Input is kept, and a reset comes before it is offered again: to be delivered, or in a pause.
    "A100 R99 g X R9 U",
    "A100 R99 g X R9 U p T5",
    "A100 R99 g B w10 U p T5",
    "A100 R99 gp X R9 T5",
    "A100 R99 p r p X R9 T5",
    // The stop comes while reading is paused by backpressure, with input in the kernel and without.
    "A100 R99 w300 S K9999 V R9 U",
    "w300 S A10 K9999 V R9 U",
    // While the stop looks for input, reading is paused by backpressure or by the handler; and nothing was found.
    "S w300 U K9999 V A10 U",
    "S p U A10 r U",
    // A stream drains twice; or it drains, reads kept input, and drains again.
    "w300 S K9999 V w300 U w300 U",
    "A100 R99 w300 S K9999 V j w300 U R9 U",
];

const TENTH: Duration = Duration::from_millis(100);
/// Largest size of one receive, in bytes.
const SCRATCH: u64 = 5000;
/// Largest number of steps from one event to rest: each callback once, the writes of each, and the end.
const STEPS_MAX: usize = 40;
/// Largest number of turns until a link ends when all sides want its end.
const TURNS_MAX: usize = 12;
/// Largest number of timers of one link that go off at one time: one for each deadline, and one for each that has moved.
/// After a long callback, seven for each of five extensions of the linger deadline: the looks before it are overdue, too.
const SWEEPS_MAX: usize = 10 + 5 * 7;

const RESET_BY_PEER: Errno = Errno(104);
const BROKEN_PIPE: Errno = Errno(32);
const REFUSED: Errno = Errno(111);

/// Runs the operations of the text, and panics if the link is wrong.
pub fn check(text: &[u8]) {
    let mut operations = Operations::of(text);
    let mut world = World::new(&mut operations);
    world.advance_link();
    while world.link.is_some()
        && let Some((letter, number)) = world.operations.next()
    {
        world.happen(letter, number);
    }
    world.settle();
}

/// The byte at this place of either stream, which reveals missing, doubled and misplaced bytes.
fn byte(at: u64) -> u8 {
    (at ^ (at >> 8)).wrapping_mul(31) as u8
}

struct World<'o, 't> {
    operations: &'o mut Operations<'t>,
    /// `None` when the link has ended.
    link: Option<Link>,
    pool: Pool,
    wheel: Wheel<()>,
    limits: Limits,
    deadlines: Deadlines,
    now: Time,
    turn: u32,
    deferred: bool,
    probing: bool,
    /// The driver's last knowledge: whether the link reads and writes.
    told: (bool, bool),
    kernel: Kernel,
    handler: Known,
    /// A callback of this link is running.
    in_callback: bool,
    /// All sides want the end.
    settling: bool,
}

/// The events below the link.
#[derive(Default)]
struct Kernel {
    arrived: u64,
    reported: u64,
    fin: bool,
    fin_reported: bool,
    reset: bool,
    failure_reported: bool,
    failed_at: Option<Time>,
    room: u64,
    sent: u64,
    unacknowledged: u64,
    /// Since output was last blocked, and since our FIN.
    acknowledged: u64,
    acknowledged_since_fin: u64,
    broken: bool,
    /// Time of the failed send.
    broken_at: Option<Time>,
    blocked_at: Option<Time>,
    /// `active`: when a byte last moved. `heard`: when any event came that a closing link may wait for.
    active: Time,
    heard: Time,
    connecting: bool,
    finished_at: Option<Time>,
}

/// The handler's observations and requests.
#[derive(Default)]
struct Known {
    opened: Time,
    useful: bool,
    written: u64,
    consumed: u64,
    /// A write returned `AboveHighWater`, and `on_drained` has not come yet.
    owes_drained: bool,
    overflowed: bool,
    /// Unread input must be offered once more.
    offer_owed: bool,
    /// Unread input must be offered once more, and nothing has to happen before: a reset comes after it.
    offer_due: bool,
    lost: bool,
    paused: bool,
    relayed: bool,
    waiting: bool,
    end_told: bool,
    stopping: bool,
    stopping_told: bool,
    /// Since the stop: the latest look found no input, and the handler was read; and the output drained after the latest input.
    quiet: bool,
    streams: bool,
    closing: bool,
    finishing: bool,
    aborted: bool,
    /// The handler's deadline: the earliest and the latest time.
    deadline: Option<(Time, Time)>,
    /// A span from the end of this callback until the deadline; the latest time is known after the link's steps.
    fresh: Option<Duration>,
}

impl<'o, 't> World<'o, 't> {
    fn new(operations: &'o mut Operations<'t>) -> Self {
        let origins = [Origin::Accepted, Origin::Outbound, Origin::Refused, Origin::Watched];
        let origin = origins[operations.next_of(b"o").map_or(0, |(_, origin)| origin) as usize % origins.len()];
        let idle = operations.next_of(b"i").map(|(_, seconds)| Duration::from_secs(1 + seconds % 100));
        let limits = Limits {
            input: 150,
            output_high: 200,
            output_low: 50,
            output_max: 600,
            linger_bytes: 40_000,
            ..Limits::default()
        };
        let now = Time(1_000_000_000);
        let mut world = World {
            operations,
            link: None,
            pool: Pool::default(),
            wheel: Wheel::new(now),
            limits,
            deadlines: Deadlines { idle, ..Deadlines::default() },
            now,
            turn: 1,
            deferred: false,
            probing: false,
            told: (false, false),
            kernel: Kernel { active: now, heard: now, connecting: origin == Origin::Outbound, ..Kernel::default() },
            handler: Known { opened: now, useful: origin != Origin::Accepted, ..Known::default() },
            in_callback: false,
            settling: false,
        };
        let mut link = Link::new(origin, Peer::Unix, 0, 0, now);
        if origin == Origin::Refused {
            let told: Vec<u8> = (0..10).map(byte).collect();
            link.refuse(&Bytes::from(told), true, now, &mut world.pool);
            (world.handler.closing, world.handler.written) = (true, 10);
        }
        world.link = Some(link);
        world
    }

    fn link(&mut self) -> &mut Link {
        self.link.as_mut().expect("it has not ended")
    }

    // ---- what happens ----------------------------------------------------------------------------------------------

    fn happen(&mut self, letter: u8, number: u64) {
        let kernel = &mut self.kernel;
        match letter {
            b'A' if !kernel.fin && !kernel.reset && !kernel.connecting => kernel.arrived += number.min(10_000),
            b'F' => kernel.fin |= !kernel.connecting,
            b'X' => kernel.reset |= !kernel.connecting,
            b'K' => kernel.room += number % 10_000,
            b'B' => kernel.broken = true,
            b'C' => {
                let count = number.min(kernel.unacknowledged);
                kernel.unacknowledged -= count;
                kernel.acknowledged += count;
                kernel.acknowledged_since_fin += count;
                if count > 0 {
                    kernel.heard = self.now;
                }
            }
            b'O' | b'N' => self.connect(letter == b'O'),
            b'R' => self.report_input(number),
            b'V' => self.report_output(),
            b'U' => self.next_turn(),
            b'T' => self.pass(number % 1000),
            b'S' => {
                self.handler.stopping = true;
                self.link().stop();
                self.advance_link();
            }
            _ if REQUESTS.contains(&letter) => {
                self.open(letter, number, None);
                self.end_callback();
                self.advance_link();
            }
            _ => {}
        }
    }

    fn connect(&mut self, succeeds: bool) {
        if !std::mem::take(&mut self.kernel.connecting) {
            return;
        }
        let now = self.now;
        if !succeeds {
            self.kernel.failure_reported = true;
            self.link().failed(REFUSED, now);
            return self.advance_link();
        }
        (self.handler.opened, self.kernel.active, self.kernel.heard) = (now, now, now);
        self.link().connected(now);
        if self.link().is_open() {
            self.callback(None);
        }
        self.advance_link();
    }

    /// Reports input as the driver does: bytes before an end or a failure, unless the link does not read.
    fn report_input(&mut self, most: u64) {
        let (now, probing) = (self.now, std::mem::take(&mut self.probing));
        let reads = self.link().reads();
        let kernel = &mut self.kernel;
        let waiting = kernel.arrived - kernel.reported;
        if reads && waiting > 0 {
            return self.receive(waiting.min(most.clamp(1, SCRATCH)));
        }
        if kernel.reset && !kernel.failure_reported && !kernel.connecting && (reads || !self.told.1) {
            (kernel.failure_reported, kernel.failed_at) = (true, Some(now));
            self.link().failed(RESET_BY_PEER, now);
        } else if reads && kernel.fin {
            assert!(!std::mem::replace(&mut kernel.fin_reported, true), "it reads after the end");
            self.link().end_of_input();
        } else if probing {
            self.handler.quiet = reads || kernel.fin_reported;
            self.link().nothing_arrived();
        } else {
            return;
        }
        self.advance_link();
        let is_told = self.handler.stopping_told || self.handler.closing || self.link.is_none();
        assert!(is_told || !self.handler.quiet, "nothing more arrives, and the stop is not told");
    }

    fn receive(&mut self, count: u64) {
        let bytes: Vec<u8> = (self.kernel.reported..self.kernel.reported + count).map(byte).collect();
        self.kernel.reported += count;
        self.handler.quiet = false;
        (self.kernel.active, self.kernel.heard) = (self.now, self.now);
        let (now, limits) = (self.now, self.limits.clone());
        if !self.link().received(bytes.len(), now) {
            self.link().discard(bytes.len(), &limits);
            assert!(self.handler.closing, "thrown away");
            return self.advance_link();
        }
        match self.link().kept.take() {
            None => {
                let mut input = Input::of(&bytes);
                self.data(&mut input);
                let kept = (!input.is_empty()).then(|| {
                    let mut kept = self.pool.take_kept();
                    kept.keep(&input);
                    kept
                });
                self.keep(kept, input.has_consumed());
            }
            Some(mut kept) => {
                kept.append(&bytes);
                self.lend(kept, true);
            }
        }
        self.advance_link();
    }

    /// Lends kept input, as new data or at the end of the input.
    fn lend(&mut self, mut kept: Box<Kept>, as_data: bool) {
        let mut input = kept.lend();
        let before = input.len();
        if as_data {
            self.data(&mut input);
        } else {
            self.compare_input(&input);
            assert_eq!(self.kernel.reported, self.kernel.arrived, "the end comes after everything before it");
            self.callback(Some(&mut input));
        }
        let (left, consumed) = (input.left(), input.len() < before);
        kept.settle(left);
        let kept = Some(kept).filter(|kept| kept.len() > 0);
        self.keep(kept, consumed);
    }

    fn keep(&mut self, kept: Option<Box<Kept>>, consumed: bool) {
        let (limits, now) = (self.limits.clone(), self.now);
        let link = self.link.as_mut().expect("it has not ended");
        if consumed {
            link.set_useful();
        }
        let Some(kept) = kept else { return };
        if link.is_open() {
            if kept.len() > limits.input && !link.is_to_be_held_back(&limits) {
                link.input_overflowed(limits.input, now);
                link.kept = Some(kept);
                return self.begin_to_close();
            }
            link.kept = Some(kept);
        }
    }

    fn report_output(&mut self) {
        if self.link().writes() && !self.kernel.connecting && (self.kernel.room > 0 || self.kernel.broken) {
            let outcome = self.transmit();
            self.sent(outcome);
            self.advance_link();
        }
    }

    fn next_turn(&mut self) {
        self.turn += 1;
        if std::mem::take(&mut self.deferred) {
            self.advance_link();
        }
        if self.link.is_some() && self.probing {
            self.report_input(SCRATCH);
        }
    }

    /// Lets time pass, with the events that are due by then.
    fn pass(&mut self, tenths: u64) {
        let until = self.now + TENTH * tenths as u32;
        let mut sweeps = 0;
        // Callbacks may take longer than the given time.
        while let Some(next) = self.wheel.next_deadline().filter(|next| *next <= until.max(self.now)) {
            if next > self.now {
                (self.now, sweeps) = (next, 0);
            }
            while self.wheel.expire(self.now).is_some() {
                if self.link.is_some() {
                    self.deadline();
                }
            }
            sweeps += 1;
            assert!(sweeps <= SWEEPS_MAX, "the timer never rests");
        }
        self.now = self.now.max(until);
        if self.link.is_some() {
            self.compare_time();
        }
    }

    /// Handles a timer as the loop does.
    fn deadline(&mut self) {
        let (now, deadlines) = (self.now, self.deadlines.clone());
        let unacknowledged = self.kernel.unacknowledged as usize;
        self.link().timer_gone();
        match self.link().next_due(&deadlines) {
            Some((at, due)) if at <= now => {
                self.link().set_deadline_changed();
                if self.link().due(due, now, unacknowledged) == Some(Due::Handler) {
                    let (earliest, _) = self.handler.deadline.take().expect("there is one");
                    assert!(earliest <= now, "on_deadline is early");
                    self.callback(None);
                }
                self.advance_link();
            }
            _ => self.arm(),
        }
    }

    fn arm(&mut self) {
        if let Some(link) = &mut self.link {
            link.arm(&self.deadlines, &mut self.wheel, ());
        }
    }

    // ---- the steps of a turn ---------------------------------------------------------------------------------------

    /// Advances the link as the loop does after any event: until it rests.
    fn advance_link(&mut self) {
        let limits = self.limits.clone();
        if self.link().has_plain_answer_only() {
            if let Some(count) = self.link().answer().map(<[u8]>::len) {
                let (outcome, now) = (self.transmit(), self.now);
                if outcome == Sent::Bytes(count)
                    && let Some(link) = &mut self.link
                {
                    link.answered(count, now, &mut self.pool);
                    (self.kernel.active, self.kernel.heard) = (now, now);
                } else {
                    self.sent(outcome);
                }
            }
            // Where the short way applies, the long way must have nothing to add.
            let whole = self.link().has_plain_answer_only() && self.link().output().is_none();
            let turn = self.turn;
            assert!(!whole || self.link().step(turn, &limits) == Step::Rest, "the short way leaves something undone");
        }
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps <= STEPS_MAX, "it never rests");
            let (turn, now) = (self.turn, self.now);
            match self.link().step(turn, &limits) {
                Step::Rest => break,
                Step::NextTurn => {
                    self.deferred = true;
                    break;
                }
                Step::Send => {
                    let outcome = self.transmit();
                    self.sent(outcome);
                }
                Step::Goodbye => panic!("no link of this world has a layer"),
                Step::Finish => {
                    let unacknowledged = self.kernel.unacknowledged as usize;
                    assert!(self.handler.closing || self.handler.finishing, "nobody wanted to");
                    let before = self.kernel.finished_at.replace(now);
                    assert!(before.is_none() || self.handler.finishing, "our half ends once");
                    let all = self.kernel.sent == self.handler.written;
                    assert!(all || self.kernel.broken_at.is_some(), "FIN before everything has left");
                    (self.kernel.heard, self.kernel.acknowledged_since_fin) = (now, 0);
                    self.link().finished(now, || unacknowledged);
                }
                Step::Overflowed => {
                    assert!(self.handler.overflowed, "nothing was refused");
                    self.begin_to_close();
                    self.link().close(now);
                }
                // A stream that has paused is looked at like any other connection.
                Step::Probe => (self.probing, self.handler.streams) = (true, false),
                Step::Drained => {
                    assert!(std::mem::take(&mut self.handler.owes_drained), "nothing had filled up");
                    assert!(self.link().queued() <= limits.output_high, "it has filled up again");
                    let told = self.handler.stopping_told;
                    assert!(!self.handler.streams || told, "a stream drains again before it is told of the stop");
                    self.handler.streams |= self.handler.stopping && !self.probing;
                    self.callback(None);
                }
                Step::Deliver => {
                    if let Some(kept) = self.link().kept.take() {
                        self.lend(kept, true);
                    }
                }
                Step::EndOfInput => {
                    assert!(self.kernel.fin_reported && !std::mem::replace(&mut self.handler.end_told, true));
                    assert!(!self.handler.paused, "the end is told in a pause");
                    let all_read = self.handler.consumed == self.kernel.reported;
                    assert!(all_read || !self.handler.offer_owed, "the end is told before what comes first");
                    let kept = self.link().kept.take().unwrap_or_else(|| self.pool.take_kept());
                    self.lend(kept, false);
                }
                Step::Stopping => {
                    assert!(self.handler.stopping && !std::mem::replace(&mut self.handler.stopping_told, true));
                    let handler = &self.handler;
                    let all_read = handler.quiet || self.kernel.fin_reported;
                    let asks_at_once = handler.paused || handler.streams || self.kernel.connecting;
                    assert!(all_read || asks_at_once, "the stop is told before what has arrived");
                    self.callback(None);
                }
                Step::Missed | Step::TooSlow => unreachable!("nobody publishes to it: see `buffer::backlog`"),
                Step::Close => return self.close(),
            }
        }
        if self.link().take_interest_change() {
            self.told = (self.link().reads(), self.link().writes());
        }
        let (now, unacknowledged) = (self.now, self.kernel.unacknowledged as usize);
        if self.link().take_deadline_change(now, || unacknowledged) {
            self.arm();
        }
        if let Some(span) = self.handler.fresh.take()
            && let Some((_, latest)) = &mut self.handler.deadline
        {
            *latest = now + span;
        }
        self.compare();
    }

    /// Sends once, like the driver.
    fn transmit(&mut self) -> Sent {
        let output = self.link.as_ref().and_then(Link::output).expect("something to send");
        let offered: Vec<u8> = match output.single() {
            Some(bytes) => bytes.to_vec(),
            None => {
                let mut slices = [IoSlice::new(&[]); 4];
                let filled = output.gather(&mut slices);
                slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
            }
        };
        let kernel = &mut self.kernel;
        assert!(!kernel.connecting && (kernel.finished_at.is_none() || offered.is_empty()), "sends when it cannot");
        let expected: Vec<u8> = (kernel.sent..kernel.sent + offered.len() as u64).map(byte).collect();
        assert!(offered == expected, "what is sent is what was written, in order");
        if offered.is_empty() {
            return Sent::Bytes(0);
        }
        if kernel.broken {
            return Sent::Failed(BROKEN_PIPE);
        }
        let taken = kernel.room.min(offered.len() as u64);
        kernel.room -= taken;
        kernel.sent += taken;
        kernel.unacknowledged += taken;
        if taken == offered.len() as u64 { Sent::Bytes(taken as usize) } else { Sent::Blocked(taken as usize) }
    }

    fn sent(&mut self, outcome: Sent) {
        let (now, limits, owed) = (self.now, self.limits.clone(), self.link().queued());
        let unacknowledged = self.kernel.unacknowledged as usize;
        let Some(link) = &mut self.link else { return };
        let lost = link.sent(outcome, now, &limits, &mut self.pool, || unacknowledged).bytes;
        let kernel = &mut self.kernel;
        match outcome {
            Sent::Bytes(_) => kernel.blocked_at = None,
            Sent::Blocked(_) if kernel.blocked_at.is_none() => {
                (kernel.blocked_at, kernel.acknowledged) = (Some(now), 0);
            }
            Sent::Blocked(_) | Sent::ShortFile => {}
            Sent::Failed(_) => {
                assert_eq!(lost, owed, "what is lost is counted");
                self.handler.lost |= lost > 0;
                (kernel.broken_at, kernel.blocked_at) = (Some(now), None);
                return;
            }
        }
        assert_eq!(lost, 0);
        // The wait for the output is over, whether input was kept or not.
        self.handler.waiting &= link.queued() > 0;
        let closes = self.handler.overflowed && !self.handler.closing && !link.is_open();
        kernel.active = now;
        if matches!(outcome, Sent::Bytes(1..) | Sent::Blocked(1..)) {
            kernel.heard = now;
        }
        if closes {
            self.begin_to_close();
        }
    }

    /// The peer, the kernel and the handler do what they can to end the link, and the link must end.
    fn settle(&mut self) {
        self.settling = true;
        // A handler that has seen the end, and has gone on, gets no second call.
        if self.link.is_some() && (self.handler.end_told || self.handler.stopping_told) {
            self.happen(b'z', 0);
        }
        for _ in 0..TURNS_MAX {
            for letter in [b'O', b'r', b'C', b'V', b'S', b'F', b'R', b'R', b'U', b'R'] {
                if self.link.is_none() {
                    return;
                }
                if letter == b'C' {
                    self.kernel.room = u64::MAX / 2;
                }
                self.happen(letter, u64::MAX);
            }
            let busy = self.kernel.reported < self.kernel.arrived;
            if busy && self.link.is_some() {
                (0..self.kernel.arrived / SCRATCH).for_each(|_| {
                    if self.link.is_some() {
                        self.report_input(SCRATCH);
                    }
                });
            }
        }
        assert!(self.link.is_none(), "it never ends: {:?}", self.link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::testing::{operations, seeds};
    use proptest::prelude::*;

    /// The limits, values between them, and the lengths of deadlines.
    const MARKS: [u64; 8] = [50, 150, 200, 201, 400, 600, 49, 301];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn whatever_the_peer_and_the_handler_do_the_promises_hold(
            origin in 0..6u8,
            idle in 0..200u8,
            before in operations(LETTERS, 4, 20, &MARKS),
            course in prop::sample::select(&COURSES),
            after in operations(LETTERS, 4, 40, &MARKS),
        ) {
            let idle = if idle < 100 { format!("i{idle}") } else { String::new() };
            check(format!("o{} {idle} {before} {course} {after}", origin.saturating_sub(2)).as_bytes());
        }
    }

    #[test]
    fn courses_that_random_operations_hardly_meet_hold() {
        COURSES.iter().for_each(|course| check(course.as_bytes()));
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("link").iter().for_each(|seed| check(seed));
    }
}
