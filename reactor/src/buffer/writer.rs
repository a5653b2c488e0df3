//! The output of a connection as lent to encoders, which can only append.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Integer, Output};

/// Appends to the output of one connection. [`Context::output`](crate::Context::output) and
/// [`Context::encode`](crate::Context::encode) lend a writer to encoders that write many pieces.
///
/// The bytes leave after the callback, in one send. A writer is an [`io::Write`] that never fails, so `write!` works.
/// The queue behind a writer cannot be moved, swapped or replaced, so the order of bytes and
/// [`Limits::output_max`](crate::Limits::output_max) hold for every handler.
///
/// ```
/// use reactor::{Context, Handler, Input, Output, Writer};
/// use std::io::Write;
///
/// /// Numbers, one a line.
/// fn encode(numbers: &[u32], writer: &mut Writer<'_>) {
///     for number in numbers {
///         writeln!(writer, "{number}").unwrap();
///     }
/// }
///
/// struct Counting;
///
/// impl Handler for Counting {
///     type Connection = ();
///     fn on_open(&mut self, _: &mut Context<'_>) {}
///     fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
///         let count = input.take_all().len() as u32;
///         cx.encode(|writer| encode(&[count, count + 1], writer));
///     }
/// }
///
/// // Without a connection, for a test of the encoder:
/// let mut output = Output::default();
/// encode(&[7, 8], &mut output.writer());
/// assert_eq!(output.to_vec(), b"7\n8\n");
/// ```
pub struct Writer<'a> {
    output: &'a mut Output,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(crate) fn new(output: &'a mut Output) -> Self {
        Writer { output }
    }

    /// Appends a copy of `bytes` behind everything that is queued.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.output.put(bytes);
    }

    /// Appends `bytes` without copying them if they have 4 KiB or more. Shorter bytes are copied, which costs less.
    pub fn put_shared(&mut self, bytes: Bytes) {
        self.output.put_shared(bytes);
    }

    /// Appends a range of a file: see [`Output::put_file`].
    pub fn put_file(&mut self, file: Arc<File>, range: Range<u64>) {
        self.output.put_file(file, range);
    }

    /// Appends the decimal digits of `number`, with `-` before a negative one. Allocates nothing.
    ///
    /// ```
    /// let mut output = reactor::Output::default();
    /// let mut writer = output.writer();
    /// writer.put(b":");
    /// writer.put_decimal(-1234567);
    /// writer.put(b"\r\n");
    /// assert_eq!(output.to_vec(), b":-1234567\r\n");
    /// ```
    #[inline]
    pub fn put_decimal(&mut self, number: impl Integer) {
        number.in_decimal(|digits| self.output.put(digits));
    }

    /// Lends room for at most `max` bytes to an encoder that writes into a slice, and appends the bytes before the length that
    /// the encoder returns. The room is filled with zeros. Returns that length.
    ///
    /// # Panics
    /// When `encode` returns more than `max`. After a panic, also one of `encode`, nothing is appended.
    ///
    /// ```
    /// let mut output = reactor::Output::default();
    /// let length = output.writer().put_with(16, |room| {
    ///     room[..5].copy_from_slice(b"hello");
    ///     5
    /// });
    /// assert_eq!((length, output.to_vec()), (5, b"hello".to_vec()));
    /// ```
    pub fn put_with(&mut self, max: usize, encode: impl FnOnce(&mut [u8]) -> usize) -> usize {
        self.output.put_with(max, encode)
    }

    /// The number of queued bytes, including bytes from before this callback.
    #[inline]
    pub fn queued(&self) -> usize {
        self.output.queued()
    }

    /// Whether no byte is queued, from this callback or from before.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.output.is_empty()
    }
}

/// Declares the methods that append a number, named as in `bytes::BufMut`.
macro_rules! numbers {
    ($($name:ident $type:ty, $order:ident, $words:literal;)*) => {
        /// Numbers in binary, by the names that `bytes::BufMut` has.
        ///
        /// ```
        /// let mut output = reactor::Output::default();
        /// let mut writer = output.writer();
        /// writer.put_u8(1);
        /// writer.put_u16(2);
        /// writer.put_u32_le(3);
        /// assert_eq!(output.to_vec(), [1, 0, 2, 3, 0, 0, 0]);
        /// ```
        impl Writer<'_> {
            $(
                #[doc = concat!("Appends `number` ", $words, ".")]
                #[inline]
                pub fn $name(&mut self, number: $type) {
                    self.output.put(&number.$order());
                }
            )*
        }
    };
}

numbers! {
    put_u8 u8, to_be_bytes, "as one byte";
    put_i8 i8, to_be_bytes, "as one byte";
    put_u16 u16, to_be_bytes, "as 2 bytes, the highest first";
    put_u16_le u16, to_le_bytes, "as 2 bytes, the lowest first";
    put_i16 i16, to_be_bytes, "as 2 bytes, the highest first";
    put_i16_le i16, to_le_bytes, "as 2 bytes, the lowest first";
    put_u32 u32, to_be_bytes, "as 4 bytes, the highest first";
    put_u32_le u32, to_le_bytes, "as 4 bytes, the lowest first";
    put_i32 i32, to_be_bytes, "as 4 bytes, the highest first";
    put_i32_le i32, to_le_bytes, "as 4 bytes, the lowest first";
    put_u64 u64, to_be_bytes, "as 8 bytes, the highest first";
    put_u64_le u64, to_le_bytes, "as 8 bytes, the lowest first";
    put_i64 i64, to_be_bytes, "as 8 bytes, the highest first";
    put_i64_le i64, to_le_bytes, "as 8 bytes, the lowest first";
}

impl io::Write for Writer<'_> {
    /// Takes all of `bytes`, like [`Writer::put`].
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("queued", &self.queued()).finish_non_exhaustive()
    }
}
