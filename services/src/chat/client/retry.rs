//! Reconnecting: the look-up, the pauses between attempts, and the reported cause.

use std::time::Duration;

use reactor::{CloseReason, ServiceHandle};

use super::Order;

/// The pause before the first attempt, and the longest pause. Each pause is twice the former one, shortened at random
/// by up to a half, so that the members of a restarted server do not return all at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Looks up the server's addresses, on another thread, and posts [`Order::Found`].
type LookUp = Box<dyn FnMut(ServiceHandle<Order>)>;

/// The state of reconnecting.
pub(super) struct Retry {
    pub(super) look_up: LookUp,
    chance: u64,
    pause: Duration,
}

impl Retry {
    /// `seed` decides by how much each pause is shortened.
    pub(super) fn new(seed: u64, look_up: LookUp) -> Self {
        // The generator must not start with 0, and is poor while most of its bits are 0.
        let chance = (seed ^ 0x9E37_79B9_7F4A_7C15).max(1);
        Retry { look_up, chance, pause: FIRST_PAUSE }
    }

    /// Starts with the first pause again, after a successful connection.
    pub(super) fn begin_anew(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// Returns a pause between a half and the whole of a step; steps double.
    pub(super) fn next_pause(&mut self) -> Duration {
        let step = self.pause;
        self.pause = (step * 2).min(LONGEST_PAUSE);
        // xorshift64: any generator would do.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        step / 2 + (step / 2).mul_f64((self.chance >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// The cause of a lost connection as text.
pub(super) fn cause_of(reason: CloseReason) -> String {
    match reason {
        CloseReason::ConnectFailed(errno) | CloseReason::Failed(errno) => errno.to_string(),
        CloseReason::PeerEnded => "the server has hung up".to_owned(),
        CloseReason::Reset => "the server has reset the connection".to_owned(),
        other => other.to_string(),
    }
}
