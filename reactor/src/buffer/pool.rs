//! Emptied buffers, kept for the next connection, so the steady state allocates nothing.

use super::backlog::Backlog;
use super::{Kept, Output};
use crate::limits::Limits;

/// Largest capacity that the pool keeps, in bytes: enough for a fan-out to thousands of members, small beside a
/// process.
const RETAINED_MAX: usize = 16 * 1024 * 1024;
/// A buffer with a larger capacity is freed: one large answer must not occupy the pool.
const BUFFER_MAX: usize = 256 * 1024;
/// Largest number of buffers of each kind: a buffer costs its box and its place in the list, at any capacity.
const BUFFERS_MAX: usize = 16 * 1024;

/// The emptied buffers of one loop.
#[derive(Default)]
pub(crate) struct Pool {
    /// The output that came back last, outside the list and the count. Nearly every answer takes this output and gives
    /// it back.
    warm: Option<Box<Output>>,
    #[expect(clippy::vec_box, reason = "connections hold boxes: an idle one pays eight bytes")]
    outputs: Vec<Box<Output>>,
    #[expect(clippy::vec_box, reason = "as above")]
    kept: Vec<Box<Kept>>,
    #[expect(clippy::vec_box, reason = "as above")]
    backlogs: Vec<Box<Backlog>>,
    retained: usize,
}

impl Pool {
    #[inline]
    pub(crate) fn take_output(&mut self, limits: &Limits) -> Box<Output> {
        let mut output = self.warm.take().unwrap_or_else(|| self.take_cold());
        output.set_limits(limits);
        output
    }

    #[inline(never)]
    fn take_cold(&mut self) -> Box<Output> {
        let output = self.outputs.pop().unwrap_or_default();
        self.retained -= output.capacity();
        output
    }

    pub(crate) fn give_output(&mut self, mut output: Box<Output>) {
        output.clear();
        if let Some(backlog) = output.take_spare()
            && self.admits(self.backlogs.len(), backlog.capacity())
        {
            self.backlogs.push(backlog);
        }
        self.give_empty(output);
    }

    /// Takes back a completely sent output.
    #[inline]
    pub(crate) fn give_empty(&mut self, output: Box<Output>) {
        if self.warm.is_none() && output.capacity() <= BUFFER_MAX {
            self.warm = Some(output);
        } else {
            self.give_cold(output);
        }
    }

    #[inline(never)]
    fn give_cold(&mut self, output: Box<Output>) {
        if self.admits(self.outputs.len(), output.capacity()) {
            self.outputs.push(output);
        }
    }

    pub(crate) fn take_backlog(&mut self) -> Box<Backlog> {
        let backlog = self.backlogs.pop().unwrap_or_default();
        self.retained -= backlog.capacity();
        backlog
    }

    pub(crate) fn take_kept(&mut self) -> Box<Kept> {
        let kept = self.kept.pop().unwrap_or_default();
        self.retained -= kept.capacity();
        kept
    }

    pub(crate) fn give_kept(&mut self, mut kept: Box<Kept>) {
        kept.clear();
        if self.admits(self.kept.len(), kept.capacity()) {
            self.kept.push(kept);
        }
    }

    #[inline]
    fn admits(&mut self, held: usize, capacity: usize) -> bool {
        let room = held < BUFFERS_MAX && capacity <= BUFFER_MAX && self.retained + capacity <= RETAINED_MAX;
        if room {
            self.retained += capacity;
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Messages;

    fn limits(output_max: usize) -> Limits {
        Limits { output_max, ..Limits::default() }
    }

    #[test]
    fn a_buffer_comes_back_empty_with_its_capacity() {
        let mut pool = Pool::default();
        let mut output = pool.take_output(&limits(100));
        output.put(b"secret");
        let capacity = output.capacity();
        pool.give_output(output);
        let output = pool.take_output(&limits(100));
        assert!(output.is_empty() && output.capacity() == capacity);
        assert_eq!(pool.retained, 0);
    }

    #[test]
    fn the_books_are_right_however_many_buffers_are_out() {
        let mut pool = Pool::default();
        for round in 1..4 {
            let mut out: Vec<_> = (0..round).map(|_| pool.take_output(&limits(100))).collect();
            out.iter_mut().for_each(|output| output.put(&[0; 1000]));
            out.into_iter().for_each(|output| pool.give_output(output));
            // One output is warm, the others are kept and counted.
            assert_eq!((pool.warm.is_some(), pool.outputs.len()), (true, round - 1));
            assert_eq!(pool.retained, pool.outputs.iter().map(|output| output.capacity()).sum::<usize>());
        }
    }

    #[test]
    fn a_backlog_comes_back_empty_with_its_capacity() {
        let mut pool = Pool::default();
        let mut output = pool.take_output(&limits(1 << 20));
        let message = Messages { bytes: b"message", shared: None, lengths: &[7] };
        assert!(output.put_messages(message, || pool.take_backlog()));
        pool.give_output(output);
        assert!(pool.retained > 0, "what is kept is counted");
        let backlog = pool.take_backlog();
        assert!(backlog.is_empty() && backlog.capacity() > 0);
        assert_eq!(pool.retained, 0);
    }

    #[test]
    fn a_buffer_of_input_comes_back_empty_with_its_capacity() {
        let mut pool = Pool::default();
        let mut kept = pool.take_kept();
        kept.append(&[1; 1000]);
        let capacity = kept.capacity();
        pool.give_kept(kept);
        assert_eq!(pool.retained, capacity);
        let kept = pool.take_kept();
        assert_eq!((kept.len(), kept.capacity(), pool.retained), (0, capacity, 0));
    }

    #[test]
    fn the_pool_keeps_16_mebibytes_in_16384_buffers_of_each_kind_of_256_kibibytes_at_most() {
        let mut pool = Pool::default();
        assert!(pool.admits(16_383, 0) && !pool.admits(16_384, 0));
        assert!(!pool.admits(0, 262_145));
        for _ in 0..64 {
            assert!(pool.admits(0, 262_144));
        }
        assert_eq!(pool.retained, 16_777_216);
        assert!(pool.admits(0, 0) && !pool.admits(0, 1));
    }

    #[test]
    fn a_buffer_that_has_grown_large_is_freed() {
        let mut pool = Pool::default();
        let mut output = pool.take_output(&limits(usize::MAX));
        output.put(&vec![0; BUFFER_MAX + 1]);
        pool.give_output(output);
        assert_eq!(pool.take_output(&limits(1)).capacity(), 0);
    }
}
