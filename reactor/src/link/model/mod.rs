//! A model of everything around a link: the loop, the kernel, the handler and the peer. Handler and peer may act in any
//! order. The model records what each side has seen, knows nothing of the link's inner state, and checks the crate's
//! promises after every event (`promises`). Property tests and the fuzz target `link` run the model.

mod handler;
mod input;
mod output;
mod promises;
#[cfg(test)]
mod tests;
mod turn;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::buffer::{Input, Pool};
use crate::error::Errno;
use crate::limits::{Deadlines, Limits, PROGRESS_MIN};
use crate::operations::Operations;
use crate::reason::Deadline;
use crate::timer::Wheel;

/// The letters that the handler's part of an operation text may have. This table has all letters; *n* is the number after the letter.
///
/// | letter | event |
/// | --- | --- |
/// | | *before all others* |
/// | `o` `i` | `o`: the origin of the link; `i`: the idle deadline is *n* seconds, instead of none |
/// | | *the peer and the kernel* |
/// | `A` `F` `X` | `A`: *n* bytes arrive; `F`: the peer's FIN; `X`: the peer's reset |
/// | `K` `C` `B` | `K`: the kernel has room for *n* more bytes; `C`: the peer acknowledges *n* bytes; `B`: every later send fails |
/// | `O` `N` | `O`: the outbound connection is established; `N`: the connection is refused |
/// | | *the driver and the loop* |
/// | `R` `V` | `R`: the driver reports input, *n* bytes at most; `V`: the driver tries to send blocked output |
/// | `U` `T` `S` | `U`: the next turn; `T`: *n* tenths of a second pass; `S`: the application stops |
/// | | *the handler: in the callback that the event before has caused, or else in a callback of another connection* |
/// | `w` `k` | `w`: writes *n* bytes; `k`: consumes *n* bytes of the input |
/// | `z` `f` `x` | `z`: closes; `f`: finishes; `x`: aborts |
/// | `p` `r` `g` | `p`: pauses reading; `r`: resumes reading; `g`: asks for the unread input in the next turn |
/// | `n` `q` | `n`: reads on, however many bytes are queued; `q`: waits until the output is empty |
/// | `d` `e` `t` | `d`: sets a deadline of *n* seconds; `e`: clears the deadline; `t`: the callback takes *n* tenths of a second |
/// | `j` | the callback ends; the requests that follow belong to the next callback |
const REQUESTS: &[u8] = b"wkzfxprgdetnqj";

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

/// Runs the operations of `text`, and panics if the link breaks a promise.
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

/// The byte at offset `at` of either stream. Neighbours differ, so missing, repeated and misplaced bytes are noticed.
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
    /// Read and write interest at the last report to the driver.
    reported_interest: (bool, bool),
    kernel: Kernel,
    handler: HandlerState,
    /// Whether a callback of this link runs.
    in_callback: bool,
    /// Whether handler, peer and kernel do what they can to end the link: see [`World::settle`].
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
    /// Bytes that the peer has acknowledged since output was last blocked.
    acknowledged: u64,
    /// Bytes that the peer has acknowledged since the link's own FIN.
    acknowledged_since_fin: u64,
    broken: bool,
    /// Time of the failed send.
    broken_at: Option<Time>,
    blocked_at: Option<Time>,
    /// Time of the last byte in either direction.
    active: Time,
    /// Time of the last event that may extend the closing of a link: a byte, an acknowledgement, the FIN.
    heard: Time,
    connecting: bool,
    finished_at: Option<Time>,
}

/// The handler's observations and requests.
#[derive(Default)]
struct HandlerState {
    opened: Time,
    useful: bool,
    written: u64,
    consumed: u64,
    /// Whether a write has returned `AboveHighWater`, and `on_drained` has not come since.
    owes_drained: bool,
    overflowed: bool,
    /// Whether unread input must be offered once more.
    offer_owed: bool,
    /// Whether unread input must be offered once more without another event before: a reset is reported after that offer.
    offer_due: bool,
    lost: bool,
    paused: bool,
    relayed: bool,
    waiting: bool,
    end_called: bool,
    stopping: bool,
    stopping_called: bool,
    /// Whether the latest look for input, after the stop, found none while the link was reading.
    quiet: bool,
    /// Whether the output has drained after the stop, and no input has come since.
    streams: bool,
    closing: bool,
    finishing: bool,
    aborted: bool,
    /// The earliest and the latest time at which the handler's deadline may be reported.
    deadline: Option<(Time, Time)>,
    /// The span of a deadline that was set in this callback. It begins between the end of the callback and the end of the link's steps.
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
            reported_interest: (false, false),
            kernel: Kernel { active: now, heard: now, connecting: origin == Origin::Outbound, ..Kernel::default() },
            handler: HandlerState { opened: now, useful: origin != Origin::Accepted, ..HandlerState::default() },
            in_callback: false,
            settling: false,
        };
        let mut link = Link::new(origin, Peer::Unix, 0, 0, now);
        if origin == Origin::Refused {
            let refusal: Vec<u8> = (0..10).map(byte).collect();
            link.refuse(&Bytes::from(refusal), true, now, &mut world.pool);
            (world.handler.closing, world.handler.written) = (true, 10);
        }
        world.link = Some(link);
        world
    }

    fn link(&mut self) -> &mut Link {
        self.link.as_mut().expect("it has not ended")
    }

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

    /// The peer, the kernel and the handler do what they can to end the link, and the link must end.
    fn settle(&mut self) {
        self.settling = true;
        // A handler that has seen the end, and has gone on, gets no second call.
        if self.link.is_some() && (self.handler.end_called || self.handler.stopping_called) {
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
