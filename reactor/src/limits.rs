//! How much and how long: every bound a service puts on its connections, with its unit and its motive, and the one
//! place where each default is written.

use std::time::Duration;

/// How much one service takes from and keeps for its connections.
///
/// ```
/// use reactor::Limits;
/// let limits = Limits { connections: Some(500), ..Limits::default() };
/// assert!(limits.output_low < limits.output_high && limits.output_high < limits.output_max);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. One more is accepted, told [`Service::refusal`](crate::Service::refusal) and closed, so
    /// that it learns why. `None` (the default): as many as the descriptor limit leaves room for; at *that* cap a
    /// newcomer waits in the listener's backlog until there is room.
    pub connections: Option<usize>,
    /// Bytes of input kept because the handler has not consumed them, 128 KiB by default: an item longer than
    /// this never completes, so the connection ends with
    /// [`CloseReason::InputOverflow`](crate::CloseReason::InputOverflow), once answers from before have been sent.
    pub input: usize,
    /// Bytes owed to a peer above which the loop stops reading from it, 256 KiB by default: whoever doesn't read
    /// gets no further answers to pile up. A write that begins below is taken in full, whatever its size. A relay reads on:
    /// [`Context::read_on`](crate::Context::read_on).
    pub output_high: usize,
    /// Bytes owed below which reading goes on and [`Handler::on_drained`](crate::Handler::on_drained) is called, 64 KiB
    /// by default: low enough that stopping and starting cost little, high enough that the peer never runs dry.
    pub output_low: usize,
    /// Bytes owed beyond which no write is taken that begins above `output_high`, 8 MiB by default: the last line against
    /// a handler that doesn't look at [`Written`](crate::Written). So a peer is owed at most this, or `output_high` and one
    /// answer. The first write that does not fit is refused, and so is every one after it; what was accepted before is
    /// still sent, then the connection ends with
    /// [`CloseReason::OutputOverflow`](crate::CloseReason::OutputOverflow). A handler whose answers are large waits for
    /// its output: [`Context::wait_for_output`](crate::Context::wait_for_output).
    pub output_max: usize,
    /// Bytes owed to a member of a topic above which published messages do not pile up any more, 1 MiB by
    /// default: minutes of talk, and a thousand members that don't read cost a gigabyte at most. 32 bytes are reckoned
    /// for each message besides its own. One message is always taken when nothing is owed. What the handler itself
    /// writes to a member counts, and is not bounded by this but by `output_max`.
    pub member_queue: usize,
    /// What happens then, and to that member alone; the others don't notice. By default it is disconnected.
    pub slow_members: SlowPolicy,
    /// Bytes read and thrown away while a connection closes, 64 MiB by default: closing with unread bytes would make
    /// the kernel reset the connection, and the peer lose the answer that it has not read yet (RFC 9112 section 9.6).
    pub linger_bytes: u64,
    /// Refused newcomers that are lingered for at once, 16 by default: enough that an honest client learns why, too few
    /// to be a way around `connections`. The others are told, and closed at once.
    pub refused_lingering: usize,
    /// Bytes of output that the kernel takes for a peer and has not sent yet, 128 KiB by default. The rest waits in the
    /// connection's output, where the other limits bound it. Without this bound the kernel takes up to 4 MB for a peer
    /// that does not read. TCP: TCP_NOTSENT_LOWAT, which the kernel may exceed by one segment (64 KiB); on the way, and in
    /// the peer's own buffer, there may be more. Unix sockets: half of it as SO_SNDBUF, which Linux doubles and which
    /// counts all that the peer has not read. Linux and Android; elsewhere the system's own bounds hold. A smaller value
    /// costs more calls for one large answer.
    pub unsent: usize,
    /// The length of the listener's queue of connections not yet accepted, 4096 by default; the kernel caps it
    /// (`net.core.somaxconn` on Linux).
    pub backlog: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: None,
            input: 128 * 1024,
            output_high: 256 * 1024,
            output_low: 64 * 1024,
            output_max: 8 * 1024 * 1024,
            member_queue: 1024 * 1024,
            slow_members: SlowPolicy::Disconnect,
            linger_bytes: 64 * 1024 * 1024,
            refused_lingering: 16,
            unsent: 128 * 1024,
            backlog: 4096,
        }
    }
}

/// What happens to a member of a topic that is owed more than [`Limits::member_queue`].
///
/// ```
/// use reactor::{Limits, SlowPolicy};
/// let ticker = Limits { member_queue: 64 * 1024, slow_members: SlowPolicy::DropOldest, ..Limits::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPolicy {
    /// It is told so ([`Handler::on_too_slow`](crate::Handler::on_too_slow)) and closed: what has begun to leave is
    /// finished, and published messages that wait are dropped.
    Disconnect,
    /// The messages that have waited longest are dropped, and it is told how many
    /// ([`Handler::on_missed`](crate::Handler::on_missed)): for news that grow old. Only whole messages that have not
    /// begun to leave; never what was written to it alone. It stays for as long as it likes:
    /// [`Deadlines::write_progress`] does not go for it.
    DropOldest,
    /// The same with the latest: for a log, which is worth more without holes.
    DropNewest,
}

impl SlowPolicy {
    /// Whether a slow member stays a member.
    pub(crate) fn keeps(self) -> bool {
        self != SlowPolicy::Disconnect
    }
}

/// How long one service waits for its connections. `None` is for ever.
///
/// A handler has one more deadline for each connection, its own:
/// [`Context::set_deadline`](crate::Context::set_deadline).
///
/// ```
/// use reactor::Deadlines;
/// use std::time::Duration;
/// let deadlines = Deadlines { idle: Some(Duration::from_secs(60)), ..Deadlines::default() };
/// assert_eq!(deadlines.first_request, Some(Duration::from_secs(30)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the opening of an accepted connection until it is of use: the handler has consumed a byte of it, written to
    /// it or subscribed it. 30 s by default: nobody who means to speak needs longer, and the rest hold a descriptor.
    pub first_request: Option<Duration>,
    /// Without a byte moving either way. `None` by default: only the service knows whether silence is normal.
    pub idle: Option<Duration>,
    /// Within which a peer that is owed more than the kernel takes has to acknowledge
    /// 4096 bytes more. 30 s by default; one byte a minute does not defeat it. Looked at every 5 s at the latest, so a peer
    /// that stops reading ends at most 5 s after the deadline. Not for members of a topic whose
    /// [`SlowPolicy`] keeps them.
    pub write_progress: Option<Duration>,
    /// While closing, once our half has ended: within which the peer has to end its own. 5 s by default. A peer that
    /// takes 4096 bytes more of what the kernel still has for it gets that long again; so does, five times at most, one
    /// that sends as much. While the loop itself still owes the peer something, `write_progress` goes for it if that is
    /// longer. No other deadline runs while a connection closes.
    pub linger: Duration,
    /// For an outbound connection to come about, the handshake of its [`Layer`](crate::Layer) included. 30 s by default; the
    /// kernel's own limit is over two minutes.
    pub connect: Option<Duration>,
    /// For the handshake of an accepted connection whose service has a [`Layer`](crate::Layer). 10 s by default. The other
    /// deadlines begin when it is done.
    pub handshake: Option<Duration>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            first_request: Some(Duration::from_secs(30)),
            idle: None,
            write_progress: Some(Duration::from_secs(30)),
            linger: Duration::from_secs(5),
            connect: Some(Duration::from_secs(30)),
            handshake: Some(Duration::from_secs(10)),
        }
    }
}

/// Bytes that count as progress for [`Deadlines::write_progress`] and [`Deadlines::linger`].
pub(crate) const PROGRESS_MIN: u64 = 4096;
