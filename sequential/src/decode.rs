//! Decoders of the callback face, for reads that wait.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Polling, Poll};

use reactor::Input;

use crate::read::Read;
use crate::slot::{Answer, DETOUR, Decoding, Slot, Want};

/// Decodes values from an [`Input`], as a handler does in `on_data`: for codecs that both faces share.
///
/// `decode` takes a value out of the input and returns the value. While the value is incomplete, `decode` leaves the input
/// unchanged and returns `None`. An error is a value, too. A task makes a decoder once for its connection: awaiting the next value
/// allocates nothing.
///
/// ```
/// use reactor::Input;
/// use sequential::{Decoder, Peer};
///
/// /// A number of four bytes, the highest first.
/// fn number(input: &mut Input<'_>) -> Option<u32> {
///     input.take(4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")))
/// }
///
/// async fn sum(peer: &mut Peer) {
///     let (mut numbers, mut sum) = (Decoder::new(number), 0u32);
///     while let Some(number) = peer.decode(&mut numbers).await {
///         sum = sum.wrapping_add(number);
///         peer.send(sum.to_be_bytes());
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(sum));
/// ```
pub struct Decoder<T> {
    decode: Option<Decoding>,
    found: Rc<Cell<Option<T>>>,
}

impl<T: 'static> Decoder<T> {
    /// Makes a decoder that calls `decode` with the unread input, again after more has arrived, until it returns a value.
    pub fn new(mut decode: impl FnMut(&mut Input<'_>) -> Option<T> + 'static) -> Self {
        let found = Rc::<Cell<Option<T>>>::default();
        let place = found.clone();
        let decode = move |input: &mut Input<'_>| {
            let value = decode(input);
            let is_found = value.is_some();
            place.set(value);
            is_found
        };
        Decoder { decode: Some(Box::new(decode)), found }
    }
}

impl<T: 'static, E: 'static> Decoder<Result<T, E>> {
    /// Makes a decoder of a [`reactor::Decoder`], such as [`LengthPrefix`](reactor::LengthPrefix) or [`Lines`](reactor::Lines). `keep`
    /// makes a value of each item, which borrows the input. After an error no item follows: the task ends the conversation.
    ///
    /// ```
    /// use reactor::LengthPrefix;
    /// use sequential::{Decoder, Peer};
    ///
    /// /// Answers each frame with the number of its bytes.
    /// async fn lengths(peer: &mut Peer) {
    ///     let mut frames = Decoder::of(LengthPrefix::u16(1000), |frame| frame.body.len());
    ///     while let Some(Ok(length)) = peer.decode(&mut frames).await {
    ///         peer.send(format!("{length}\n"));
    ///     }
    /// }
    /// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(lengths));
    /// ```
    pub fn of<D>(mut decoder: D, mut keep: impl FnMut(D::Item<'_>) -> T + 'static) -> Self
    where
        D: reactor::Decoder<Error = E> + 'static,
    {
        Decoder::new(move |input| decoder.decode(input).map(|item| item.map(&mut keep)).transpose())
    }
}

impl<T> fmt::Debug for Decoder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// The future of [`Peer::decode`](crate::Peer::decode): a decoder's next value. Dropping the future loses no value: the decoder's
/// next future yields the value.
///
/// ```
/// use sequential::{Decode, Decoder, Peer, within};
/// use std::time::Duration;
///
/// async fn first_byte(peer: &mut Peer) {
///     let mut bytes = Decoder::new(|input| input.take(1).map(|byte| byte[0]));
///     let wait: Decode<'_, u8> = peer.decode(&mut bytes);
///     if let Ok(Some(byte)) = within(Duration::from_secs(5), wait).await {
///         peer.send(format!("{byte}\n"));
///     }
/// }
/// # reactor::Service::tcp("127.0.0.1:0", || sequential::Tasks::new(first_byte));
/// ```
#[must_use = "a read does nothing until it is awaited"]
pub struct Decode<'p, T> {
    slot: &'p Rc<Slot>,
    decoder: &'p mut Decoder<T>,
    read: Option<Read<'p>>,
}

impl<'p, T: 'static> Decode<'p, T> {
    pub(crate) fn new(slot: &'p Rc<Slot>, decoder: &'p mut Decoder<T>) -> Self {
        Decode { slot, decoder, read: None }
    }
}

impl<T: 'static> Future for Decode<'_, T> {
    type Output = Option<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        if this.read.is_none() {
            if let Some(value) = this.decoder.found.take() {
                return Poll::Ready(Some(value));
            }
            let decode = this.decoder.decode.take().expect("a decoder that has panicked decodes nothing more");
            this.slot.with_rest(|rest| rest.decoding = Some(decode));
            this.read = Some(Read::new(this.slot, Want::Decoded));
        }
        let Some(read) = &mut this.read else { return Poll::Pending };
        match read.poll_answer(cx) {
            Poll::Pending => {
                this.slot.raise(DETOUR);
                Poll::Pending
            }
            Poll::Ready(Answer::Found) => Poll::Ready(this.decoder.found.take()),
            Poll::Ready(_) => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Decode<'_, T> {
    fn drop(&mut self) {
        if self.read.is_some() {
            self.decoder.decode = self.slot.take_decoding();
        }
    }
}
