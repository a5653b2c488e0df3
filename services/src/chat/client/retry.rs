//! How the client connects again: the look-up, the pauses between tries, and the cause that is reported.

use std::time::Duration;

use reactor::{CloseReason, ServiceHandle};

use super::Order;

/// Before the first try to connect again; twice as long before each one that follows, and never longer than the last.
/// Each is cut short by chance, by half at most, so that all the members of a server that comes back do not come back
/// at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Looks the server's addresses up, on some other thread, and posts [`Order::Found`].
type LookUp = Box<dyn FnMut(ServiceHandle<Order>)>;

/// How to connect again.
pub(super) struct Retry {
    pub(super) look_up: LookUp,
    chance: u64,
    pause: Duration,
}

impl Retry {
    /// `seed` decides how much of each pause is left out.
    pub(super) fn new(seed: u64, look_up: LookUp) -> Self {
        // A generator that must not begin with 0, and is poor as long as most of its bits are.
        let chance = (seed ^ 0x9E37_79B9_7F4A_7C15).max(1);
        Retry { look_up, chance, pause: FIRST_PAUSE }
    }

    /// Begins with the first pause again, after a connection that served.
    pub(super) fn begin_anew(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// Between a half and the whole of a step; steps double.
    pub(super) fn next_pause(&mut self) -> Duration {
        let step = self.pause;
        self.pause = (step * 2).min(LONGEST_PAUSE);
        // xorshift64: any chance will do.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        step / 2 + (step / 2).mul_f64((self.chance >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// The cause of a lost connection, in words.
pub(super) fn cause_of(reason: CloseReason) -> String {
    match reason {
        CloseReason::ConnectFailed(errno) | CloseReason::Failed(errno) => errno.to_string(),
        CloseReason::PeerEnded => "the server has hung up".to_owned(),
        CloseReason::Reset => "the server has reset the connection".to_owned(),
        other => other.to_string(),
    }
}
