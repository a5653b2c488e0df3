//! The flags of a link, grouped by the side of the connection, and the masks that the short ways test.

/// The facts about a link, one bit each, so that the usual case (no bit of a mask is set) takes one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u32);

/// The masks that may contain a flag. Each flag declares its masks.
#[derive(Clone, Copy)]
enum Mask {
    HoldsBack = 1,
    Interest = 1 << 1,
    Attention = 1 << 2,
    Hinders = 1 << 3,
    AfterAnswer = 1 << 4,
}

/// Declares the flags: one bit each, in order, and after `=>` the masks that contain the flag. A flag without `=>` does
/// not compile. A test in `flags/tests.rs` compares each mask with the methods that depend on the flags, so a flag in
/// the wrong masks fails.
macro_rules! flags {
    ($($(#[$doc:meta])* $flag:ident => [$($mask:ident),*];)*) => {
        #[derive(Clone, Copy)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Bit { $($flag),* }

        $($(#[$doc])* pub(super) const $flag: Flags = Flags(1 << Bit::$flag as u32);)*

        /// Every flag, with its name and its masks.
        const ALL: &[(Flags, &str, u8)] = &[$(($flag, stringify!($flag), 0 $(| Mask::$mask as u8)*)),*];
    };
}

flags! {
    // ---- reading ---------------------------------------------------------------------------------------------------

    /// The peer has ended its half.
    ENDED => [Interest, Attention];
    /// `on_end_of_input` has been called.
    END_REPORTED => [];
    /// The handler wants no input: `pause_reading`.
    PAUSED => [HoldsBack, Interest];
    /// More than `output_high` was queued. Reading stops until at most `output_low` is queued.
    CHOKED => [Interest];
    /// Reading goes on for any length of the output, because the input is written to another connection. Set by
    /// `read_on`, and never cleared. Cancels `CHOKED`: see `take_interest_change` and `is_held_back`.
    RELAYED => [];
    /// The handler waits until all queued output has left. Until then reading stops, and kept input is not offered.
    WAITING => [HoldsBack, Interest];
    /// Publications or posts of this connection wait for room at another loop. Until then reading stops, and kept input
    /// is not offered.
    HELD => [HoldsBack, Interest];
    /// The memory budget is nearly used up, and this connection is one of the largest holders: reading stops.
    SUSPENDED => [Interest];
    /// Kept input must be offered again, although nothing new has arrived.
    OFFER_DUE => [Interest, Attention];
    /// The peer has sent more than `linger_bytes` while closing: reading stops.
    DISCARD_LIMIT_REACHED => [Interest];
    /// Bytes take no short way: a layer stands between the socket and the handler, or the descriptor is no socket.
    INDIRECT => [];
    /// The connection was useful: the first-request deadline is off.
    USEFUL => [];

    // ---- writing ---------------------------------------------------------------------------------------------------

    /// The kernel did not take all output. The driver reports when the kernel takes more.
    BLOCKED => [Interest, Hinders];
    /// At most `output_low` is queued after more than `output_high` was: `on_drained` must be called.
    DRAINED_DUE => [Attention];
    /// Sending has failed. Input that arrived before is still delivered.
    BROKEN => [Attention, Hinders];

    // ---- closing ---------------------------------------------------------------------------------------------------

    /// Our half ends when the output has left; reading goes on.
    FINISHING => [Attention, Hinders];
    /// Our half has ended after `FINISHING`.
    HALF_FINISHED => [];
    /// Closes when the connection is established and its output has left.
    CLOSE_DUE => [Hinders];
    /// Closes with a reset.
    RESET => [];
    /// Closes without lingering when the output has left.
    NO_LINGER => [];
    /// Bytes were received or queued since the start of the stop: lingering is worth its time.
    ANSWERED => [];
    /// Over when the peer has acknowledged everything sent, unless more arrives.
    LAST_ACKNOWLEDGEMENT => [];

    // ---- topics ----------------------------------------------------------------------------------------------------

    /// A member of at least one topic.
    MEMBER => [];
    /// A member whose policy keeps it at any speed: the write-progress deadline does not apply.
    KEPT_AS_MEMBER => [];
    /// Left out of a part of the publications being delivered.
    EXCEPTED => [Hinders];
    /// More messages wait than `member_queue` allows, and the policy is to disconnect.
    TOO_SLOW => [Hinders];
    /// `on_too_slow` has been called.
    SLOW_REPORTED => [];
    /// `on_missed` is running: its writes take the place of the missed messages, in any state.
    WRITING_NOTICE => [];

    // ---- deadlines and memory --------------------------------------------------------------------------------------

    /// The next deadline may be earlier than the timer.
    DEADLINE_CHANGED => [AfterAnswer];
    /// The handler's deadline is still a span, which counts from the end of the callback that set it.
    DEADLINE_FRESH => [];
    /// Kept input has changed: the memory budget counts the link when it rests.
    UNWEIGHED => [AfterAnswer];
    /// The connection closes because memory is short.
    OUT_OF_MEMORY => [];
}

/// The flags that stop the reading of an open link, without the rule for `CHOKED` and `RELAYED`.
pub(super) const HOLDS_BACK: Flags = all_of(Mask::HoldsBack);
/// The flags that decide `reads` and `writes`.
pub(super) const INTEREST: Flags = all_of(Mask::Interest);
/// The flags that give an open link a step besides sending.
pub(super) const ATTENTION: Flags = all_of(Mask::Attention);
/// The flags that prevent published messages from being appended to the output, or sent past it, unchanged.
pub(super) const HINDERED: Flags = all_of(Mask::Hinders);
/// The flags with which a received piece is not simply lent to the handler.
pub(super) const NEEDS_STAGES: Flags = INTEREST.and(INDIRECT);
/// The flags with which a plain answer needs more than a send.
pub(super) const NEEDS_STEPS: Flags = NEEDS_STAGES.and(ATTENTION).and(HINDERED).and(all_of(Mask::AfterAnswer));

/// Returns the flags that declare `mask`.
const fn all_of(mask: Mask) -> Flags {
    let (mut bits, mut at) = (0, 0);
    while at < ALL.len() {
        let (flag, _, masks) = ALL[at];
        if masks & mask as u8 != 0 {
            bits |= flag.0;
        }
        at += 1;
    }
    Flags(bits)
}

impl Flags {
    pub(super) const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether any flag of `any` is set.
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

    /// Sets `CHOKED`, and cancels an `on_drained` that has not been called yet.
    #[inline]
    pub(super) fn choke(&mut self) {
        *self = Flags(self.0 & !DRAINED_DUE.0 | CHOKED.0);
    }

    #[inline]
    pub(super) fn put(&mut self, flag: Flags, is: bool) {
        if is { self.set(flag) } else { self.clear(flag) }
    }

    /// Clears the flag. Returns whether it was set.
    #[inline]
    pub(super) fn take(&mut self, flag: Flags) -> bool {
        let was = self.has(flag);
        self.clear(flag);
        was
    }
}

#[cfg(test)]
mod tests;
