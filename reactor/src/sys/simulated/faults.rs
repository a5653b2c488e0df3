//! What may go wrong, and how often.

use std::time::Duration;

use crate::random::Random;

/// Events that one wait brings at most, as epoll's.
const EVENTS_PER_WAIT: usize = 256;

/// What the simulated system does to the loop, each a probability between 0 and 1 unless it says otherwise. All of it
/// is within what a kernel may do.
///
/// ```
/// use reactor::sim::Faults;
/// let faults = Faults { short_reads: 0.9, ..Faults::none() };
/// assert_eq!(faults.short_writes, 0.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// A receive brings only a part of what has arrived.
    pub short_reads: f64,
    /// A send takes only a part of what there is room for.
    pub short_writes: f64,
    /// A call says EAGAIN although the poller said that it was ready.
    pub blocked: f64,
    /// The poller reports, once for each wait and descriptor, what is not so.
    pub spurious_events: f64,
    /// The poller leaves a ready descriptor for the next wait.
    pub late_events: f64,
    /// A batch of events comes in any order. Otherwise, in that of the descriptors.
    pub reordered: bool,
    /// Events that one wait brings at most, at least 1.
    pub batch: usize,
    /// Errors of a descriptor that is watched for nothing are not reported, as with `select`.
    pub select: bool,
    /// An accept fails because its newcomer is gone (ECONNABORTED, EPROTO, EPERM, EHOSTUNREACH).
    pub aborted_accepts: f64,
    /// An accept or a connect finds no descriptor or no memory free (ENFILE, ENOBUFS, ENOMEM), and none comes free for
    /// up to a second.
    pub no_descriptors: f64,
    /// Registering with the poller fails (ENOSPC).
    pub unwatchable: f64,
    /// A wait with a timeout comes back up to 20 ms late.
    pub late_wakes: f64,
    /// A callback holds the loop for up to half a second.
    pub slow_callbacks: f64,
    /// The longest that anything takes from one end to the other.
    pub latency: Duration,
    /// Descriptors that the process may have (EMFILE).
    pub descriptors: usize,
    /// Bytes that each kernel buffer holds at least, and at most.
    pub buffers: (usize, usize),
}

impl Faults {
    /// A kernel on its best day.
    pub fn none() -> Self {
        Faults {
            short_reads: 0.0,
            short_writes: 0.0,
            blocked: 0.0,
            spurious_events: 0.0,
            late_events: 0.0,
            reordered: false,
            batch: EVENTS_PER_WAIT,
            select: false,
            aborted_accepts: 0.0,
            no_descriptors: 0.0,
            unwatchable: 0.0,
            late_wakes: 0.0,
            slow_callbacks: 0.0,
            latency: Duration::from_millis(1),
            descriptors: 1 << 16,
            buffers: (64 * 1024, 64 * 1024),
        }
    }

    /// Some of all that no peer should notice, of a strength that this seed decides.
    pub fn of(seed: u64) -> Self {
        let any = Self::any(seed);
        let (least, most) = any.buffers;
        // No kernel has smaller ones, and a peer behind one of a few bytes would be too slow for any deadline.
        let buffers = (least.max(4096), most.max(4096));
        Faults { aborted_accepts: 0.0, unwatchable: 0.0, buffers, ..any }
    }

    /// The same, and newcomers are lost, connections fail because nobody can watch them, and buffers hold a few
    /// bytes.
    pub(crate) fn any(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xFA17);
        let mut some = |most: f64| if random.chance(0.5) { most * random.below(1000) as f64 / 1000.0 } else { 0.0 };
        let faults = Faults {
            short_reads: some(0.9),
            short_writes: some(0.9),
            blocked: some(0.4),
            spurious_events: some(0.2),
            late_events: some(0.6),
            aborted_accepts: some(0.1),
            no_descriptors: some(0.05),
            unwatchable: some(0.02),
            late_wakes: some(0.5),
            slow_callbacks: some(0.05),
            ..Faults::none()
        };
        let smallest = random.size(16 * 1024);
        Faults {
            reordered: random.chance(0.7),
            batch: if random.chance(0.3) { random.size(8) } else { EVENTS_PER_WAIT },
            select: random.chance(0.3),
            latency: Duration::from_nanos(1 + random.below(30_000_000)),
            buffers: (smallest, smallest + random.size(128 * 1024)),
            descriptors: if random.chance(0.2) { 4 + random.index(12) } else { 1 << 16 },
            ..faults
        }
    }
}
