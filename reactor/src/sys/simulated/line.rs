//! One simulated connection: its two directions, and our kernel's knowledge of them. The behaviour follows Linux
//! (tcp_reset, tcp_recvmsg, tcp_poll): bytes before an error, an error once, then the end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::error::Errno;
use crate::sys::{Fd, Moved};
use crate::token::ConnectionId;

/// The next action of a peer.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Send(Vec<u8>),
    Wait(u64),
    /// Waits until this many further bytes have been received, or none can come.
    Await(usize),
    /// The next bytes must be these.
    Expect(Vec<u8>),
    /// The program must end its half.
    ExpectEnd,
    /// Half-close: FIN, and reading goes on.
    Shutdown,
    /// RST.
    Reset,
    /// close(2): FIN, and later bytes are answered by a reset.
    Close,
    /// Waits until the function returns what to do next.
    React(Reaction),
    /// Reads at most this many bytes in this many nanoseconds; 0 bytes: does not read.
    Pace(usize, u64),
}

/// The answer to bytes that no earlier act has taken: how many of them are taken now, and what the peer does. `None` while more
/// bytes are needed.
type React = dyn Fn(&[u8]) -> Option<(usize, Vec<Act>)> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Reaction(pub(crate) Arc<React>);

impl fmt::Debug for Reaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reaction")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The peer has not connected yet.
    Away,
    /// In a listener's queue.
    Queued,
    /// Our connect is under way.
    Connecting,
    Open,
    /// The connection was never established.
    Refused,
}

/// A connection, for as long as the simulation runs.
pub(crate) struct Line {
    pub(crate) stage: Stage,
    /// Number of dropped SYNs.
    pub(crate) knocks: u32,
    pub(crate) fd: Option<Fd>,
    pub(crate) id: ConnectionId,
    /// The handler sees other bytes than the network, through a layer.
    pub(crate) layered: bool,
    pub(crate) script: VecDeque<Act>,
    /// The peer's program waits for bytes.
    pub(crate) awaiting: bool,

    /// Bytes of the peer: `said` is all of them, `arrived` the number in our kernel, `read` the number that the loop
    /// has received.
    pub(crate) said: Vec<u8>,
    pub(crate) arrived: usize,
    pub(crate) read: usize,
    pub(crate) said_end: bool,
    pub(crate) end_arrived: bool,
    /// The loop has received the end.
    pub(crate) end_read: bool,
    /// Room in our kernel for unreceived bytes.
    pub(crate) window: usize,
    pub(crate) arriving: bool,

    /// Bytes of the loop: `taken` is all that our kernel took, `delivered` the number that the peer's program has read.
    pub(crate) taken: Vec<u8>,
    pub(crate) delivered: usize,
    /// The part of `delivered` that the script has asked for.
    pub(crate) expected: usize,
    /// The last bytes were sent with `more`: the kernel keeps them back until the next attempt to send, our FIN or a close.
    pub(crate) held: bool,
    /// `finished`: our FIN has been sent. `heard_end`: the peer's program has seen it.
    pub(crate) finished: bool,
    pub(crate) heard_end: bool,
    /// Room of our kernel, and of the peer's kernel, for bytes that the peer's program has not read.
    pub(crate) room: usize,
    pub(crate) peer_room: usize,
    pub(crate) pace: (usize, u64),
    pub(crate) delivering: bool,

    /// SO_ERROR.
    pub(crate) error: Option<Errno>,
    /// Reset by the peer, or never established: no byte moves any more.
    pub(crate) dead: bool,
    /// Our connect was refused.
    pub(crate) refused: bool,
    pub(crate) send_failed: bool,
    /// The loop has closed its descriptor.
    pub(crate) closed: bool,
    pub(crate) resets_on_close: bool,
    /// The peer's program has closed its end.
    pub(crate) left: bool,
    /// The peer's program has seen a reset; its unread bytes are lost.
    pub(crate) cut: bool,
}

impl Line {
    pub(crate) fn new(stage: Stage, window: usize, room: usize, peer_room: usize) -> Self {
        Line {
            stage,
            knocks: 0,
            fd: None,
            id: ConnectionId::NONE,
            layered: false,
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
            held: false,
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

    /// Our kernel keeps at most this many bytes beyond the room of the peer's kernel.
    pub(crate) fn bound_unsent(&mut self, bytes: usize) {
        self.room = self.room.min(self.peer_room.saturating_add(bytes));
    }

    // ---- what a poller sees
    // ----------------------------------------------------------------------------------------

    pub(crate) fn is_readable(&self) -> bool {
        self.stage == Stage::Open && (self.arrived > self.read || self.end_arrived || self.dead || self.error.is_some())
    }

    /// Linux reports a socket writable from a third of the buffer on.
    pub(crate) fn is_writable(&self) -> bool {
        let free = self.room.saturating_sub(self.taken.len() - self.delivered);
        self.stage == Stage::Open && (free * 3 >= self.room || self.dead || self.finished || self.error.is_some())
    }

    pub(crate) fn is_hung_up(&self) -> bool {
        self.stage == Stage::Open && (self.dead || (self.end_arrived && self.finished))
    }

    /// Whether bytes wait for others that must follow. Linux would send the bytes after 200 ms.
    pub(crate) fn is_held_back(&self) -> bool {
        self.held && self.fd.is_some() && !self.finished && !self.dead
    }

    // ---- calls
    // -----------------------------------------------------------------------------------------------------

    /// One recv into `into`. The kernel returns at most `most` bytes this time.
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

    /// The number of bytes that one send takes now.
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

    /// SIOCOUTQ: the bytes that exceed the room of the peer's kernel, and a FIN that has not arrived.
    pub(crate) fn unacknowledged(&self) -> usize {
        if self.dead {
            return 0;
        }
        let waiting = (self.taken.len() - self.delivered).saturating_sub(self.peer_room);
        waiting + usize::from(self.finished && waiting > 0)
    }

    // ---- what happens on the way ---------------------------------------------------------------------------------

    /// A RST of the peer has arrived.
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

    /// Whether nothing that the script waits for can come any more.
    pub(crate) fn is_mute(&self) -> bool {
        self.cut || self.heard_end || self.dead || self.stage == Stage::Refused
    }
}
