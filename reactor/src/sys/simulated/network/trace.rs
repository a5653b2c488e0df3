//! The latest calls of a simulation in words: `0.8.6 on_data 21 bytes`.

use std::time::Duration;

use crate::error::Errno;
use crate::reason::CloseReason;
use crate::token::ConnectionId;

/// A call: its time, its name, the object (a connection or a descriptor), and the outcome.
pub(super) struct Call {
    pub(super) at: u64,
    pub(super) name: &'static str,
    pub(super) about: i64,
    pub(super) came_to: i64,
}

/// The events of a peer, by the number of the happening less one.
const HAPPENINGS: [&str; 6] = ["connects", "acts", "sends", "reads", "resets", "answers the connect"];

impl Call {
    /// One line: the time since the beginning, then the call. `began` is the time at which the simulation began, in
    /// nanoseconds.
    pub(super) fn line(&self, began: u64) -> String {
        let time = Duration::from_nanos(self.at - began);
        format!("{:>12.6} s  {}", time.as_secs_f64(), self.words())
    }

    fn words(&self) -> String {
        let &Call { name, about, came_to, .. } = self;
        let id = ConnectionId::from_u64(about as u64);
        match name {
            "on_data" | "on_end_of_input" => format!("{id} {name} {came_to} bytes"),
            "on_missed" => format!("{id} {name} {came_to} messages"),
            "on_close" => {
                let reason = usize::try_from(came_to).ok().and_then(|kind| CloseReason::KIND_NAMES.get(kind));
                format!("{id} {name} {}", reason.unwrap_or(&"for an unknown reason"))
            }
            callback if callback.starts_with("on_") => format!("{id} {callback}"),
            "recv" | "send" => format!("descriptor {about} {name} {}", moved(came_to)),
            "register" | "modify" => format!("descriptor {about} {name} {}", interest(came_to)),
            "accept" | "connect" if came_to >= 0 => format!("{name} descriptor {came_to}"),
            "accept" | "connect" => format!("{name} {}", Errno(-came_to as i32)),
            "so_error" if came_to == 0 => format!("descriptor {about} {name} none"),
            "so_error" => format!("descriptor {about} {name} {}", Errno(came_to as i32)),
            "wait" => format!("wait {about} events, {:.6} s", Duration::from_nanos(came_to as u64).as_secs_f64()),
            "happens" => match usize::try_from(about - 1).ok().and_then(|number| HAPPENINGS.get(number)) {
                Some(event) => format!("peer {came_to} {event}"),
                None => "the application is told to stop".to_owned(),
            },
            "forget" | "finish" | "close" => format!("descriptor {about} {name}"),
            _ => name.to_owned(),
        }
    }
}

/// The outcome of a call that moves bytes, as `note` has it.
fn moved(came_to: i64) -> String {
    match came_to {
        0 => "would block".to_owned(),
        -1 => "the end".to_owned(),
        1.. => format!("{came_to} bytes"),
        _ => Errno((-1000 - came_to) as i32).to_string(),
    }
}

fn interest(bits: i64) -> &'static str {
    ["nothing", "read", "write", "read and write"].get(bits as usize).unwrap_or(&"nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_in_words() {
        let id = ConnectionId::from_u64(7);
        let line = |name, about, came_to| Call { at: 1_250_000_000, name, about, came_to }.line(1_000_000_000);
        assert_eq!(line("on_data", 7, 21), format!("    0.250000 s  {id} on_data 21 bytes"));
        assert_eq!(line("on_close", 7, 3), format!("    0.250000 s  {id} on_close reset"));
        assert_eq!(line("on_open", 7, 0), format!("    0.250000 s  {id} on_open"));
        assert_eq!(line("recv", 5, 21), "    0.250000 s  descriptor 5 recv 21 bytes");
        assert_eq!(line("send", 5, 0), "    0.250000 s  descriptor 5 send would block");
        assert_eq!(line("register", 5, 1), "    0.250000 s  descriptor 5 register read");
        assert_eq!(line("happens", 3, 4), "    0.250000 s  peer 4 sends");
    }
}
