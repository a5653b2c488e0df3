//! What is true of a link, a bit each.

/// What is true of a link, a bit each, so that the usual case (nothing special is) takes one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u32);

/// The peer has ended its half; and the handler has been told.
pub(super) const ENDED: Flags = Flags(1);
pub(super) const END_TOLD: Flags = Flags(1 << 1);
/// The handler wants no input.
pub(super) const PAUSED: Flags = Flags(1 << 2);
/// More is owed than the high-water mark; until it is less than the low one, nothing is read.
pub(super) const CHOKED: Flags = Flags(1 << 3);
/// The kernel did not take all; the driver says when it takes more.
pub(super) const BLOCKED: Flags = Flags(1 << 4);
/// `on_drained` is to be called.
pub(super) const DRAINED_DUE: Flags = Flags(1 << 5);
/// Kept bytes are to be offered again although nothing new arrived.
pub(super) const OFFER_DUE: Flags = Flags(1 << 6);
/// The connection has been of use: the first-request deadline is off.
pub(super) const USEFUL: Flags = Flags(1 << 7);
/// Something was received or owed since the application began to stop: worth lingering for.
pub(super) const ANSWERED: Flags = Flags(1 << 8);
/// Our half ends once what is owed has left, and reading goes on; and it has.
pub(super) const FINISHING: Flags = Flags(1 << 9);
pub(super) const HALF_FINISHED: Flags = Flags(1 << 10);
/// Sending has failed. What has arrived before is still delivered.
pub(super) const BROKEN: Flags = Flags(1 << 11);
/// Close with a reset.
pub(super) const RESET: Flags = Flags(1 << 12);
/// The next deadline may be earlier than the timer.
pub(super) const DEADLINE_CHANGED: Flags = Flags(1 << 13);
/// The handler's deadline is relative still: it counts from the end of the callback that set it.
pub(super) const DEADLINE_FRESH: Flags = Flags(1 << 14);

/// Not to be lingered for: once what is owed has left it is over.
pub(super) const BRIEF: Flags = Flags(1 << 15);

/// While closing: it has sent more than is thrown away, and is heard no longer.
pub(super) const DEAF: Flags = Flags(1 << 16);
/// To be closed once it is connected and what is owed has left.
pub(super) const CLOSE_DUE: Flags = Flags(1 << 17);
/// A member that is owed more than it may be, and is to be told so; that has been done.
pub(super) const TOO_SLOW: Flags = Flags(1 << 18);
pub(super) const SLOW_TOLD: Flags = Flags(1 << 19);
/// The handler is being told what was missed: what it writes comes in that place, whatever the state.
pub(super) const WRITING_NOTICE: Flags = Flags(1 << 20);
/// A member of a topic, and one that stays however slow it is: it need not make progress.
pub(super) const KEPT_AS_MEMBER: Flags = Flags(1 << 21);
/// A member of a topic.
pub(super) const MEMBER: Flags = Flags(1 << 22);
/// Not to get all of what is being handed out.
pub(super) const EXCEPTED: Flags = Flags(1 << 23);

/// What it published has not gone on to all loops yet; until it has, nothing is read, and nothing kept is offered.
pub(super) const HELD: Flags = Flags(1 << 24);

/// Over as soon as the peer has acknowledged all that was sent, unless more comes from it.
pub(super) const LAST_ACKNOWLEDGEMENT: Flags = Flags(1 << 25);
/// The memory budget is nearly used up, and this is one of the connections that hold most of it: nothing is read.
pub(super) const SUSPENDED: Flags = Flags(1 << 29);
/// Kept input has changed, so that what it holds is to be counted when it rests.
pub(super) const UNWEIGHED: Flags = Flags(1 << 31);
/// The connection is closed for want of memory.
pub(super) const OUT_OF_MEMORY: Flags = Flags(1 << 30);

/// The handler reads on however much this peer is owed: its input makes another connection owe more, and not this one.
/// Set once and for all by `read_on`.
pub(super) const RELAYED: Flags = Flags(1 << 26);
/// The handler waits until everything queued has left. Until then nothing is read, and nothing kept is offered.
pub(super) const WAITING: Flags = Flags(1 << 27);

/// What keeps an open link from being read whatever else is so, `CHOKED` without `RELAYED` aside.
pub(super) const HOLDS_BACK: Flags = PAUSED.and(HELD).and(WAITING);
/// What `reads` and `writes` depend on.
pub(super) const INTEREST: Flags =
    ENDED.and(PAUSED).and(CHOKED).and(OFFER_DUE).and(BLOCKED).and(DEAF).and(HELD).and(WAITING).and(SUSPENDED);
/// What gives an open link something to do besides sending.
pub(super) const ATTENTION: Flags =
    ENDED.and(PAUSED).and(CHOKED).and(OFFER_DUE).and(DRAINED_DUE).and(FINISHING).and(HELD).and(WAITING);
/// Anything that makes more of an answer than sending it.
pub(super) const NEEDS_STEPS: Flags = INTEREST.and(ATTENTION).and(HINDERED).and(DEADLINE_CHANGED).and(UNWEIGHED);
/// What keeps published messages from simply being put at the end of the output.
pub(super) const HINDERED: Flags = BLOCKED.and(BROKEN).and(FINISHING).and(CLOSE_DUE).and(TOO_SLOW).and(EXCEPTED);

impl Flags {
    pub(super) const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether any of these is true.
    #[inline]
    pub(super) fn has(self, any: Flags) -> bool {
        self.0 & any.0 != 0
    }

    #[inline]
    pub(super) fn only(self, these: Flags) -> Flags {
        Flags(self.0 & these.0)
    }

    #[inline]
    pub(super) fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }

    #[inline]
    pub(super) fn clear(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }

    /// More is owed than the high-water mark. That it had drained is no longer so, if nobody has been told yet.
    #[inline]
    pub(super) fn choke(&mut self) {
        *self = Flags(self.0 & !DRAINED_DUE.0 | CHOKED.0);
    }

    #[inline]
    pub(super) fn put(&mut self, flag: Flags, is: bool) {
        if is { self.set(flag) } else { self.clear(flag) }
    }

    /// Whether it was true. It no longer is.
    #[inline]
    pub(super) fn take(&mut self, flag: Flags) -> bool {
        let was = self.has(flag);
        self.clear(flag);
        was
    }
}
