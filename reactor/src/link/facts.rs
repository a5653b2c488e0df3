//! What is true of a link, a bit each.

/// What is true of a link, a bit each, so that the usual case (nothing special is) takes one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts(u32);

/// The peer has ended its half; and the handler has been told.
pub(super) const ENDED: Facts = Facts(1);
pub(super) const END_TOLD: Facts = Facts(1 << 1);
/// The handler wants no input.
pub(super) const PAUSED: Facts = Facts(1 << 2);
/// More is owed than the high-water mark; until it is less than the low one, nothing is read.
pub(super) const CHOKED: Facts = Facts(1 << 3);
/// The kernel did not take all; the driver says when it takes more.
pub(super) const BLOCKED: Facts = Facts(1 << 4);
/// `on_drained` is to be called.
pub(super) const DRAINED_DUE: Facts = Facts(1 << 5);
/// Kept bytes are to be offered again although nothing new arrived.
pub(super) const OFFER_DUE: Facts = Facts(1 << 6);
/// The connection has been of use: the first-request deadline is off.
pub(super) const USEFUL: Facts = Facts(1 << 7);
/// Something was received or owed since the application began to stop: worth lingering for.
pub(super) const ANSWERED: Facts = Facts(1 << 8);
/// Our half ends once what is owed has left, and reading goes on; and it has.
pub(super) const FINISHING: Facts = Facts(1 << 9);
pub(super) const HALF_FINISHED: Facts = Facts(1 << 10);
/// Sending has failed. What has arrived before is still delivered.
pub(super) const BROKEN: Facts = Facts(1 << 11);
/// Close with a reset.
pub(super) const RESET: Facts = Facts(1 << 12);
/// The next deadline may be earlier than the timer.
pub(super) const DEADLINE_CHANGED: Facts = Facts(1 << 13);
/// The handler's deadline is relative still: it counts from the end of the callback that set it.
pub(super) const DEADLINE_FRESH: Facts = Facts(1 << 14);

/// Not to be lingered for: once what is owed has left it is over.
pub(super) const BRIEF: Facts = Facts(1 << 15);

/// While closing: it has sent more than is thrown away, and is heard no longer.
pub(super) const DEAF: Facts = Facts(1 << 16);
/// To be closed once it is connected and what is owed has left.
pub(super) const CLOSE_DUE: Facts = Facts(1 << 17);
/// A member that is owed more than it may be, and is to be told so; that has been done.
pub(super) const TOO_SLOW: Facts = Facts(1 << 18);
pub(super) const SLOW_TOLD: Facts = Facts(1 << 19);
/// The handler is being told what was missed: what it writes comes in that place, whatever the state.
pub(super) const PLACING: Facts = Facts(1 << 20);
/// A member of a topic, and one that stays however slow it is: it need not make progress.
pub(super) const KEPT_AS_MEMBER: Facts = Facts(1 << 21);
/// A member of a topic.
pub(super) const MEMBER: Facts = Facts(1 << 22);
/// Not to get all of what is being handed out.
pub(super) const EXCEPTED: Facts = Facts(1 << 23);

/// What it published has not gone on to all loops yet; until it has, nothing is read, and nothing kept is offered.
pub(super) const HELD: Facts = Facts(1 << 24);

/// Over as soon as the peer has acknowledged all that was sent, unless more comes from it.
pub(super) const LAST_ACKNOWLEDGEMENT: Facts = Facts(1 << 25);
/// The memory budget is nearly used up, and this is one of the connections that hold most of it: nothing is read.
pub(super) const SUSPENDED: Facts = Facts(1 << 29);
/// Kept input has changed, so that what it holds is to be counted when it rests.
pub(super) const UNWEIGHED: Facts = Facts(1 << 31);
/// The connection is closed for want of memory.
pub(super) const OUT_OF_MEMORY: Facts = Facts(1 << 30);

/// The handler reads on however much this peer is owed: its input makes another connection owe more, and not this one.
/// Set once and for all by `read_on`.
pub(super) const RELAYED: Facts = Facts(1 << 26);
/// The handler waits until everything queued has left. Until then nothing is read, and nothing kept is offered.
pub(super) const WAITING: Facts = Facts(1 << 27);

/// What keeps an open link from being read whatever else is so, `CHOKED` without `RELAYED` aside.
pub(super) const HOLDS_BACK: Facts = PAUSED.and(HELD).and(WAITING);
/// What `reads` and `writes` depend on.
pub(super) const INTEREST: Facts =
    ENDED.and(PAUSED).and(CHOKED).and(OFFER_DUE).and(BLOCKED).and(DEAF).and(HELD).and(WAITING).and(SUSPENDED);
/// What gives an open link something to do besides sending.
pub(super) const ATTENTION: Facts =
    ENDED.and(PAUSED).and(CHOKED).and(OFFER_DUE).and(DRAINED_DUE).and(FINISHING).and(HELD).and(WAITING);
/// Anything that makes more of an answer than sending it.
pub(super) const UNEASY: Facts = INTEREST.and(ATTENTION).and(HINDERED).and(DEADLINE_CHANGED).and(UNWEIGHED);
/// What keeps published messages from simply being put at the end of the output.
pub(super) const HINDERED: Facts = BLOCKED.and(BROKEN).and(FINISHING).and(CLOSE_DUE).and(TOO_SLOW).and(EXCEPTED);

impl Facts {
    pub(super) const fn and(self, other: Facts) -> Facts {
        Facts(self.0 | other.0)
    }

    /// Whether any of these is true.
    #[inline]
    pub(super) fn has(self, any: Facts) -> bool {
        self.0 & any.0 != 0
    }

    #[inline]
    pub(super) fn only(self, these: Facts) -> Facts {
        Facts(self.0 & these.0)
    }

    #[inline]
    pub(super) fn set(&mut self, fact: Facts) {
        self.0 |= fact.0;
    }

    #[inline]
    pub(super) fn clear(&mut self, fact: Facts) {
        self.0 &= !fact.0;
    }

    /// More is owed than the high-water mark. That it had drained is no longer so, if nobody has been told yet.
    #[inline]
    pub(super) fn choke(&mut self) {
        *self = Facts(self.0 & !DRAINED_DUE.0 | CHOKED.0);
    }

    #[inline]
    pub(super) fn put(&mut self, fact: Facts, is: bool) {
        if is { self.set(fact) } else { self.clear(fact) }
    }

    /// Whether it was true. It no longer is.
    #[inline]
    pub(super) fn take(&mut self, fact: Facts) -> bool {
        let was = self.has(fact);
        self.clear(fact);
        was
    }
}
