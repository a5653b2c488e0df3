//! The output of a connection as lent to encoders, which can only append.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Output;

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
/// assert_eq!(output.queued(), 4);
/// ```
pub struct Writer<'a> {
    output: &'a mut Output,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(crate) fn new(output: &'a mut Output) -> Self {
        Writer { output }
    }

    /// Appends a copy of `bytes`.
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

    /// The number of queued bytes, including bytes from before this callback.
    #[inline]
    pub fn queued(&self) -> usize {
        self.output.queued()
    }

    /// Whether no byte is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.output.is_empty()
    }
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
