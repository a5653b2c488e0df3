//! The flags of a link, grouped by the side of the connection that they belong to, and the masks that the short ways test.

/// What is true of a link, a bit each, so that the usual case (no bit of a mask is set) takes one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u32);

/// The masks that a flag can be in. Each flag lists its own where it is declared.
#[derive(Clone, Copy)]
enum Mask {
    HoldsBack = 1,
    Interest = 1 << 1,
    Attention = 1 << 2,
    Hinders = 1 << 3,
    AfterAnswer = 1 << 4,
}

/// Declares the flags: a bit each, in order, and after `=>` the masks that the flag is in. A flag without `=>` does not
/// compile. A flag in the wrong masks fails a test of `flags/tests.rs`, which compares each mask with the methods that depend
/// on the flags.
macro_rules! flags {
    ($($(#[$doc:meta])* $flag:ident => [$($mask:ident),*];)*) => {
        #[derive(Clone, Copy)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Bit { $($flag),* }

        $($(#[$doc])* pub(super) const $flag: Flags = Flags(1 << Bit::$flag as u32);)*

        /// Every flag, its name, and the masks that it is in.
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
    /// More than `output_high` was queued. Nothing is read until at most `output_low` is.
    CHOKED => [Interest];
    /// The handler reads on however much its own peer is owed, because its input is written to another connection. Set by
    /// `read_on`, and never cleared. Cancels `CHOKED`: see `take_interest_change` and `is_held_back`.
    RELAYED => [];
    /// The handler waits until everything queued has left. Until then nothing is read, and kept input is not offered.
    WAITING => [HoldsBack, Interest];
    /// Publications or posts of this connection wait for room at another loop. Until they have gone on, nothing is read, and
    /// kept input is not offered.
    HELD => [HoldsBack, Interest];
    /// The memory budget is nearly used up, and this connection is one of the largest holders: nothing is read.
    SUSPENDED => [Interest];
    /// Kept input is to be offered again although nothing new has arrived.
    OFFER_DUE => [Interest, Attention];
    /// The peer has sent more than `linger_bytes` while closing: nothing more is read.
    DISCARD_LIMIT_REACHED => [Interest];
    /// The peer has sent something of its handshake.
    GREETED => [];
    /// The connection has been of use: the first-request deadline is off.
    USEFUL => [];

    // ---- writing ---------------------------------------------------------------------------------------------------

    /// The kernel did not take all output. The driver reports when the kernel takes more.
    BLOCKED => [Interest, Hinders];
    /// At most `output_low` is queued after more than `output_high` was: `on_drained` is to be called.
    DRAINED_DUE => [Attention];
    /// Sending has failed. Input that arrived before is still delivered.
    BROKEN => [Hinders];

    // ---- closing ---------------------------------------------------------------------------------------------------

    /// Our half ends once the output has left; reading goes on.
    FINISHING => [Attention, Hinders];
    /// Our half has ended after `FINISHING`.
    HALF_FINISHED => [];
    /// Closes as soon as the connection stands and its output has left.
    CLOSE_DUE => [Hinders];
    /// Closes with a reset.
    RESET => [];
    /// Closes without lingering once the output has left.
    NO_LINGER => [];
    /// Bytes were received or queued since the application began to stop: lingering is worth its time.
    ANSWERED => [];
    /// Over as soon as the peer has acknowledged everything sent, unless more arrives.
    LAST_ACKNOWLEDGEMENT => [];

    // ---- topics ----------------------------------------------------------------------------------------------------

    /// A member of at least one topic.
    MEMBER => [];
    /// A member whose policy keeps it however slow it is: the write-progress deadline does not apply.
    KEPT_AS_MEMBER => [];
    /// Left out of a part of the publications that are being handed out.
    EXCEPTED => [Hinders];
    /// More messages wait than `member_queue` allows, and the policy is to disconnect.
    TOO_SLOW => [Hinders];
    /// `on_too_slow` has been called.
    SLOW_REPORTED => [];
    /// `on_missed` is being called: its writes take the place of the missed messages, whatever the state.
    WRITING_NOTICE => [];

    // ---- deadlines and memory --------------------------------------------------------------------------------------

    /// The next deadline may be earlier than the timer.
    DEADLINE_CHANGED => [AfterAnswer];
    /// The handler's deadline is still a span: it counts from the end of the callback that set it.
    DEADLINE_FRESH => [];
    /// Kept input has changed: the memory budget counts the link when it rests.
    UNWEIGHED => [AfterAnswer];
    /// The connection closes because memory is short.
    OUT_OF_MEMORY => [];
}

/// The flags that keep an open link from being read, `CHOKED` without `RELAYED` aside.
pub(super) const HOLDS_BACK: Flags = all_of(Mask::HoldsBack);
/// The flags that `reads` and `writes` depend on.
pub(super) const INTEREST: Flags = all_of(Mask::Interest);
/// The flags that give an open link a step besides sending.
pub(super) const ATTENTION: Flags = all_of(Mask::Attention);
/// The flags that keep published messages from being appended to the output, or sent past it, as they are.
pub(super) const HINDERED: Flags = all_of(Mask::Hinders);
/// The flags with which a plain answer needs more than to be sent.
pub(super) const NEEDS_STEPS: Flags = INTEREST.and(ATTENTION).and(HINDERED).and(all_of(Mask::AfterAnswer));

/// Every flag that is declared to be in this mask.
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

    /// Sets `CHOKED`, and takes back an `on_drained` that has not been called yet.
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
