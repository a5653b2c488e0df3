//! Values of handlers that the loop drops outside a callback: a panic of such a drop must not end the loop.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

static EMPTY: Bytes = Bytes::new();

/// Bytes that a handler has shared. Dropping them may run the handler's code (`Bytes::from_owner`), so a panic in that is caught
/// and logged.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Option<Bytes>);

impl Shared {
    #[inline]
    pub(crate) fn new(bytes: Bytes) -> Self {
        Shared(Some(bytes))
    }

    pub(crate) fn into_bytes(mut self) -> Bytes {
        self.0.take().unwrap_or_default()
    }

    /// Removes the first `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        if let Some(bytes) = &mut self.0 {
            bytes::Buf::advance(bytes, count);
        }
    }
}

impl Deref for Shared {
    type Target = Bytes;

    #[inline]
    fn deref(&self) -> &Bytes {
        self.0.as_ref().unwrap_or(&EMPTY)
    }
}

impl Drop for Shared {
    #[inline]
    fn drop(&mut self) {
        if let Some(bytes) = self.0.take() {
            dropped(bytes);
        }
    }
}

/// Drops a value of a handler's own type outside a callback. A panic in that ends nothing: it is logged.
pub(crate) fn dropped(value: impl Sized) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        log::error!("a value of a handler panicked when it was dropped");
        // Dropping the payload could panic again, and so on.
        std::mem::forget(panic);
    }
}

/// Drops each value as [`dropped`] does: a drop of all at once would end the process at a second panic.
pub(crate) fn each_dropped(values: impl IntoIterator<Item = impl Sized>) {
    values.into_iter().for_each(dropped);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl AsRef<[u8]> for Bomb {
        fn as_ref(&self) -> &[u8] {
            b"bomb"
        }
    }

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("meant");
        }
    }

    #[test]
    fn an_owner_of_bytes_that_panics_harms_nobody() {
        let mut shared = Shared::new(Bytes::from_owner(Bomb));
        let copy = shared.clone();
        shared.advance(2);
        assert_eq!((&shared[..], &copy[..]), (&b"mb"[..], &b"bomb"[..]));
        drop((shared, copy));
        each_dropped([Bomb, Bomb]);
        assert_eq!(Shared::new(Bytes::from_static(b"x")).into_bytes(), "x");
    }
}
