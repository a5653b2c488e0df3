//! The limits and deadlines of the chat's service, each with its reason.

use std::time::Duration;

use reactor::{Deadlines, Limits, SlowPolicy};

/// Default limit of a member's queue in bytes: minutes of talk, and a thousand members that do not read cost at most a
/// gigabyte.
pub const MEMBER_QUEUE: usize = 1024 * 1024;

/// Bytes that the kernel keeps unsent for a member: enough for a prompt answer, and few old messages before the notice
/// of missed ones.
const UNSENT: usize = 16 * 1024;

/// Bytes of input that may wait: the longest frame or line, and further bytes of one read.
const INPUT_MAX: usize = 192 * 1024;

/// Limits of the chat. A member that does not read has a queue of at most 1 MiB, and is then disconnected.
pub fn limits() -> Limits {
    limits_for(MEMBER_QUEUE, SlowPolicy::Disconnect)
}

/// Limits of the chat with another queue for members, and another policy.
pub fn limits_for(member_queue: usize, slow_members: SlowPolicy) -> Limits {
    let usual = Limits::default();
    // Answers are queued in addition to messages, so reading from a member stops long before messages reach their
    // limit.
    let output_high = usual.output_high.min(member_queue / 2);
    let output_low = usual.output_low.min(output_high / 4);
    Limits { input: INPUT_MAX, output_high, output_low, member_queue, slow_members, unsent: UNSENT, ..usual }
}

/// Deadlines of the chat. The handler itself waits 30 seconds for a name, and sends an error if none comes. Members may
/// be silent without limit, unless `idle` sets one.
pub fn deadlines(idle: Option<Duration>) -> Deadlines {
    Deadlines { first_request: None, idle, ..Deadlines::default() }
}
