//! A flight recorder: the last events of a loop, kept for a connection that ends badly. The loop records the driver's
//! events, and logs those of a failed connection.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::error::Errno;
use crate::time::Time;
use crate::token::ConnectionId;

/// Number of recorded events of a loop, 24 bytes each. Under full load the events cover the last few milliseconds, the last
/// time of a connection that has just ended badly; 96 KiB stay in the second-level cache.
pub(crate) const EVENTS: usize = 4096;
/// Number of recorded events of a per-connection loop.
pub(crate) const EVENTS_OF_ONE: usize = 64;
/// Number of events in a logged history: more would fill a log line with events that nobody reads.
const TOLD: usize = 16;
/// Limit on histories logged in a second: peers can cause histories, and each history is a line. The ends themselves are all
/// counted.
const HISTORIES_PER_SECOND: usize = 10;

/// An event of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Accepted,
    Asked,
    Connected,
    /// Number of received bytes.
    Received(u32),
    Ended,
    Failed(Errno),
    Sent(u32),
    /// Number of sent bytes; the kernel takes no more for now.
    Blocked(u32),
    SendFailed(Errno),
    ShortFile,
    Finished,
    Overdue,
}

#[derive(Clone, Copy)]
struct Event {
    id: ConnectionId,
    at: Time,
    what: What,
}

pub(crate) struct Recorder {
    /// Always full: unused entries belong to no connection. The length is a power of two.
    events: Box<[Event]>,
    /// Number of events; modulo the length, the place of the next event.
    next: usize,
    /// Rate limit for histories: the current second, and the number of histories logged in it.
    logged: (u64, usize),
}

impl Recorder {
    /// Makes a recorder for `events` events, a power of two.
    pub(crate) fn new(events: usize) -> Self {
        debug_assert!(events.is_power_of_two());
        let nothing = Event { id: ConnectionId::NONE, at: Time::default(), what: What::Asked };
        Recorder { events: vec![nothing; events].into(), next: 0, logged: (0, 0) }
    }

    #[inline]
    fn place(&self, number: usize) -> usize {
        number & (self.events.len() - 1)
    }

    /// Records an event. Two stores on a hot path: events are formatted and compared only on request.
    #[inline]
    pub(crate) fn note(&mut self, id: ConnectionId, what: What, at: Time) {
        let place = self.place(self.next);
        self.events[place] = Event { id, at, what };
        self.next = self.next.wrapping_add(1);
    }

    /// The last events of a connection for the log; `None` when the second's histories are used up.
    pub(crate) fn history_to_log(&mut self, id: ConnectionId, now: Time) -> Option<History> {
        let second = now.since(Time::default()).as_secs();
        if self.logged.0 != second {
            self.logged = (second, 0);
        }
        self.logged.1 += 1;
        (self.logged.1 <= HISTORIES_PER_SECOND).then(|| self.history(id, now))
    }

    /// The last events of a connection, oldest first.
    fn history(&self, id: ConnectionId, now: Time) -> History {
        let newest_first = (1..=self.events.len()).map(|back| self.events[self.place(self.next.wrapping_sub(back))]);
        let mut events = VecDeque::with_capacity(TOLD);
        for event in newest_first.filter(|event| event.id == id).take(TOLD) {
            events.push_front((event.what, now.since(event.at)));
        }
        History(events)
    }
}

/// The last events of a connection with their ages, oldest first.
pub(crate) struct History(VecDeque<(What, Duration)>);

impl fmt::Display for History {
    /// `accepted 120 ms ago, received 5 bytes 0 ms ago`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (what, ago) in &self.0 {
            write!(f, "{separator}{what} {} ms ago", ago.as_millis())?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("nothing that is remembered") } else { Ok(()) }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Accepted => f.write_str("accepted"),
            What::Asked => f.write_str("asked for"),
            What::Connected => f.write_str("connected"),
            What::Received(count) => write!(f, "received {count} bytes"),
            What::Ended => f.write_str("end of input"),
            What::Failed(errno) => write!(f, "failed ({errno})"),
            What::Sent(count) => write!(f, "sent {count} bytes"),
            What::Blocked(count) => write!(f, "sent {count} bytes and blocked"),
            What::SendFailed(errno) => write!(f, "sending failed ({errno})"),
            What::ShortFile => f.write_str("a file had become shorter"),
            What::Finished => f.write_str("our half ended"),
            What::Overdue => f.write_str("deadline"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::default() + Duration::from_millis(milliseconds)
    }

    #[test]
    fn of_all_that_happened_the_last_of_one_connection_is_told_in_order() {
        let [one, other] = [1, 2].map(|generation| ConnectionId::new(0, 0, generation));
        let mut recorder = Recorder::new(EVENTS);
        assert_eq!(recorder.history(one, at(9)).to_string(), "nothing that is remembered");
        recorder.note(one, What::Accepted, at(1));
        recorder.note(other, What::Accepted, at(1));
        recorder.note(one, What::Received(5), at(3));
        recorder.note(other, What::Failed(Errno(5)), at(3));
        recorder.note(one, What::Blocked(4), at(4));
        let told = "accepted 8 ms ago, received 5 bytes 6 ms ago, sent 4 bytes and blocked 5 ms ago";
        assert_eq!(recorder.history(one, at(9)).to_string(), told);
    }

    #[test]
    fn one_second_brings_a_few_histories_and_the_next_as_many() {
        let id = ConnectionId::new(0, 0, 1);
        let mut recorder = Recorder::new(EVENTS_OF_ONE);
        for second in [1, 2, 7] {
            let logged = (0..2 * HISTORIES_PER_SECOND).filter_map(|_| recorder.history_to_log(id, at(second * 1000)));
            assert_eq!(logged.count(), HISTORIES_PER_SECOND);
        }
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_tells_no_more_than_a_few() {
        let [one, other] = [1, 2].map(|generation| ConnectionId::new(0, 0, generation));
        let mut recorder = Recorder::new(EVENTS);
        recorder.note(one, What::Accepted, at(0));
        for _ in 1..EVENTS {
            recorder.note(other, What::Sent(1), at(1));
        }
        assert_eq!(recorder.history(one, at(1)).to_string(), "accepted 1 ms ago");
        recorder.note(other, What::Sent(2), at(1));
        assert_eq!(recorder.history(one, at(1)).to_string(), "nothing that is remembered");
        assert_eq!(recorder.history(other, at(1)).to_string().matches("sent 1 bytes").count(), TOLD - 1);
    }
}
