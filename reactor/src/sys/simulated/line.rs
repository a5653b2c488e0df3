//! One simulated connection: the two directions, and what the kernel at our end knows of them. What it says follows
//! Linux (tcp_reset, tcp_recvmsg, tcp_poll): bytes before an error, an error once, then the end.

use std::collections::VecDeque;

use crate::error::Errno;
use crate::sys::{Fd, Moved};
use crate::token::ConnectionId;

/// What a peer does next.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Send(Vec<u8>),
    Wait(u64),
    /// Until so many bytes more have been received, or none can come.
    Await(usize),
    /// These have to be the next bytes.
    Expect(Vec<u8>),
    /// The program has to end its half.
    ExpectEnd,
    /// Half-close: FIN, and reading goes on.
    Shutdown,
    /// RST.
    Reset,
    /// close(2): FIN, and whatever comes then is answered by a reset.
    Close,
    /// At most so many bytes every so many nanoseconds; 0 bytes: does not read.
    Pace(usize, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The peer has not come yet.
    Away,
    /// In a listener's queue.
    Queued,
    /// Our connect is under way.
    Connecting,
    Open,
    /// Never came about.
    Refused,
}

/// A connection, for as long as the simulation runs.
pub(crate) struct Line {
    pub(crate) stage: Stage,
    /// SYNs that were dropped.
    pub(crate) knocks: u32,
    pub(crate) fd: Option<Fd>,
    pub(crate) id: ConnectionId,
    pub(crate) script: VecDeque<Act>,
    /// The peer's program waits for bytes.
    pub(crate) awaiting: bool,

    /// What the peer said: all of it, how much has reached our kernel, how much the loop has received.
    pub(crate) said: Vec<u8>,
    pub(crate) arrived: usize,
    pub(crate) read: usize,
    pub(crate) said_end: bool,
    pub(crate) end_arrived: bool,
    /// The loop has been told of the end.
    pub(crate) end_read: bool,
    /// Room of our kernel for what nobody has received.
    pub(crate) window: usize,
    pub(crate) arriving: bool,

    /// What our kernel took from the loop: all of it, and how much the peer's program has read.
    pub(crate) taken: Vec<u8>,
    pub(crate) delivered: usize,
    /// Of that, how much the script has asked for.
    pub(crate) expected: usize,
    /// Our FIN has been sent; the peer's program has seen it.
    pub(crate) finished: bool,
    pub(crate) heard_end: bool,
    /// Room of our kernel and of the peer's for what the peer's program has not read.
    pub(crate) room: usize,
    pub(crate) peer_room: usize,
    pub(crate) pace: (usize, u64),
    pub(crate) delivering: bool,

    /// SO_ERROR.
    pub(crate) error: Option<Errno>,
    /// Reset by the peer, or never came about: nothing moves any more.
    pub(crate) dead: bool,
    /// Our connect was refused.
    pub(crate) refused: bool,
    pub(crate) send_failed: bool,
    /// The loop has closed its descriptor.
    pub(crate) closed: bool,
    pub(crate) resets_on_close: bool,
    /// The peer's program has closed its end.
    pub(crate) left: bool,
    /// The peer's program was told of a reset; what it had not read is lost.
    pub(crate) cut: bool,
}

impl Line {
    pub(crate) fn new(stage: Stage, window: usize, room: usize, peer_room: usize) -> Self {
        Line {
            stage,
            knocks: 0,
            fd: None,
            id: ConnectionId::NONE,
            script: VecDeque::new(),
            awaiting: false,
            said: Vec::new(),
            arrived: 0,
            read: 0,
            said_end: false,
            end_arrived: false,
            end_read: false,
            window,
            arriving: false,
            taken: Vec::new(),
            delivered: 0,
            expected: 0,
            finished: false,
            heard_end: false,
            room,
            peer_room,
            pace: (usize::MAX, 0),
            delivering: false,
            error: None,
            dead: false,
            refused: false,
            send_failed: false,
            closed: false,
            resets_on_close: false,
            left: false,
            cut: false,
        }
    }

    /// Our kernel keeps at most so many bytes besides those for which the peer's has room.
    pub(crate) fn bound_unsent(&mut self, bytes: usize) {
        self.room = self.room.min(self.peer_room.saturating_add(bytes));
    }

    // ---- what a poller sees
    // ----------------------------------------------------------------------------------------

    pub(crate) fn is_readable(&self) -> bool {
        self.stage == Stage::Open && (self.arrived > self.read || self.end_arrived || self.dead || self.error.is_some())
    }

    /// Linux says so from a third of the buffer on.
    pub(crate) fn is_writable(&self) -> bool {
        let free = self.room.saturating_sub(self.taken.len() - self.delivered);
        self.stage == Stage::Open && (free * 3 >= self.room || self.dead || self.finished || self.error.is_some())
    }

    pub(crate) fn is_hung_up(&self) -> bool {
        self.stage == Stage::Open && (self.dead || (self.end_arrived && self.finished))
    }

    // ---- calls
    // -----------------------------------------------------------------------------------------------------

    /// One recv into `into`; `most`: the kernel gives no more this time.
    pub(crate) fn recv(&mut self, into: &mut [u8], most: usize) -> Moved {
        let count = (self.arrived - self.read).min(into.len()).min(most);
        if count > 0 {
            into[..count].copy_from_slice(&self.said[self.read..self.read + count]);
            self.read += count;
            return Moved::Bytes(count);
        }
        match self.error.take() {
            Some(errno) => Moved::Failed(errno),
            None if self.dead || self.end_arrived => Moved::Ended,
            None => Moved::Blocked,
        }
    }

    /// How many bytes one send takes now.
    pub(crate) fn can_take(&mut self) -> Result<usize, Moved> {
        self.send_failed = self.error.is_some() || self.dead || self.finished;
        if let Some(errno) = self.error.take() {
            return Err(Moved::Failed(errno));
        }
        if self.send_failed {
            return Err(Moved::Failed(Errno(libc::EPIPE)));
        }
        match self.room.saturating_sub(self.taken.len() - self.delivered) {
            0 => Err(Moved::Blocked),
            free => Ok(free),
        }
    }

    /// SIOCOUTQ: what the peer's kernel has no room for, and a FIN that it has not got.
    pub(crate) fn unacknowledged(&self) -> usize {
        if self.dead {
            return 0;
        }
        let waiting = (self.taken.len() - self.delivered).saturating_sub(self.peer_room);
        waiting + usize::from(self.finished && waiting > 0)
    }

    // ---- what happens on the way ---------------------------------------------------------------------------------

    /// A RST has come from the peer.
    pub(crate) fn reset(&mut self) {
        let both_ended = self.end_arrived && self.heard_end;
        if self.dead || both_ended {
            return;
        }
        self.error = Some(Errno(if self.end_arrived { libc::EPIPE } else { libc::ECONNRESET }));
        self.dead = true;
        self.cut = true;
        self.said.truncate(self.arrived);
    }

    /// Whether nothing of what the script waits for can come any more.
    pub(crate) fn is_mute(&self) -> bool {
        self.cut || self.heard_end || self.dead || self.stage == Stage::Refused
    }
}
