//! The first of several waits.

use std::future::{Future, IntoFuture, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// The value of the wait that was ready first, of two waits.
///
/// ```
/// use sequential::First;
/// let won: First<u8, &str> = First::One(7);
/// assert_eq!(won, First::One(7));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First<A, B> {
    /// The wait that was named first.
    One(A),
    /// The wait that was named second.
    Other(B),
}

/// Waits until either of two waits is ready, and cancels the other wait. A cancelled read has taken no byte: its bytes go to the
/// next read. When both waits are ready, the wait named first wins. For three waits, write `first(a, first(b, c))`.
///
/// ```
/// use sequential::{First, Peer, Queue, first};
///
/// /// Passes on what comes from the peer and what comes from a queue, whichever comes first.
/// async fn both(peer: &mut Peer, news: &Queue<String>) {
///     loop {
///         match first(peer.until_eol(), news.take()).await {
///             First::One(Some(line)) => peer.send(&line),
///             First::Other(Some(text)) => peer.send(&text),
///             First::One(None) | First::Other(None) => return,
///         }
///     }
/// }
/// ```
pub async fn first<A: IntoFuture, B: IntoFuture>(one: A, other: B) -> First<A::Output, B::Output> {
    let (mut one, mut other) = (pin!(one.into_future()), pin!(other.into_future()));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(First::One(value)),
        Poll::Pending => other.as_mut().poll(cx).map(First::Other),
    })
    .await
}
