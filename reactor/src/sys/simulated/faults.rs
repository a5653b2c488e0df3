//! The possible faults, and their frequency.

use std::time::Duration;

use crate::random::Random;

/// Largest number of events of one wait, as for epoll.
const EVENTS_PER_WAIT: usize = 256;

/// The faults of the simulated system. Each field is a probability between 0 and 1 unless stated otherwise. All faults
/// are within what a kernel may do.
///
/// ```
/// use reactor::sim::Faults;
/// let faults = Faults { short_reads: 0.9, ..Faults::none() };
/// assert_eq!(faults.short_writes, 0.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// A receive returns only a part of the arrived bytes.
    pub short_reads: f64,
    /// A send takes only a part of what fits.
    pub short_writes: f64,
    /// A call returns EAGAIN although the poller has reported readiness.
    pub blocked: f64,
    /// The poller reports a false event, drawn for each wait and descriptor.
    pub spurious_events: f64,
    /// The poller leaves a ready descriptor for the next wait.
    pub late_events: f64,
    /// A batch of events comes in any order. Otherwise in the order of descriptors.
    pub reordered: bool,
    /// Largest number of events of one wait, at least 1.
    pub batch: usize,
    /// As with `select`, errors of a descriptor that is watched without interest are not reported, and unread input is reported
    /// in every wait. Otherwise, as with epoll, input of a TCP connection is reported when it arrives (edge-triggered).
    pub select: bool,
    /// An accept fails because its connection has gone (ECONNABORTED, EPROTO, EPERM, EHOSTUNREACH).
    pub aborted_accepts: f64,
    /// An accept or a connect finds no free descriptor or memory (ENFILE, ENOBUFS, ENOMEM), and none becomes free for
    /// up to a second.
    pub no_descriptors: f64,
    /// Registering with the poller fails (ENOSPC).
    pub unwatchable: f64,
    /// A wait with a timeout returns up to 20 ms late.
    pub late_wakes: f64,
    /// A callback holds the loop for up to half a second.
    pub slow_callbacks: f64,
    /// The longest transit from one end to the other.
    pub latency: Duration,
    /// Limit on the descriptors of the process (EMFILE).
    pub descriptors: usize,
    /// Smallest and largest size of a kernel buffer, in bytes.
    pub buffers: (usize, usize),
}

impl Faults {
    /// A kernel without faults.
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

    /// Random faults that no peer should notice, chosen by the seed.
    pub fn of(seed: u64) -> Self {
        let any = Self::any(seed);
        let (least, most) = any.buffers;
        // No kernel has smaller buffers, and a buffer of a few bytes would make a peer too slow for any deadline.
        let buffers = (least.max(4096), most.max(4096));
        Faults { aborted_accepts: 0.0, unwatchable: 0.0, buffers, ..any }
    }

    /// As [`of`](Self::of), with lost connections, connections that cannot be watched, and buffers of a few bytes.
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
