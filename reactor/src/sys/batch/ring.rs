//! A ring of io_uring(7), for one purpose: many sends in one io_uring_enter(2). Every request has completed when the call returns, so
//! the kernel never keeps a pointer. The poller of the loop does everything else.
//!
//! - `IORING_SETUP_SINGLE_ISSUER` and `IORING_SETUP_DEFER_TASKRUN`: the loop's thread alone enters, and requests complete inside
//!   the call.
//! - `MSG_DONTWAIT`: a request that cannot move bytes at once fails with EAGAIN, and does not wait in the kernel.
//! - `IORING_SETUP_SUBMIT_ALL`: a refused request completes with its errno, and does not stop the requests behind it.
//!
//! The C library has no functions for these calls, so the layouts stand here, from `<linux/io_uring.h>`.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_long, c_void};

use super::super::call::{check, retry};
use super::super::kernel::{self, SEND_FLAGS};
use super::{Fd, Moved};
use crate::error::Errno;

/// Sends in one call. A ring takes 25 KiB of memory that is shared with the kernel.
const ENTRIES: u32 = 256;

const SETUP_FLAGS: u32 = 1 << 7 /* SUBMIT_ALL */ | 1 << 12 /* SINGLE_ISSUER */ | 1 << 13 /* DEFER_TASKRUN */;
const FEAT_SINGLE_MMAP: u32 = 1;
const OFFSET_RINGS: libc::off_t = 0;
const OFFSET_REQUESTS: libc::off_t = 0x1000_0000;
const ENTER_GETEVENTS: u32 = 1;
const OP_SEND: u8 = 26;
/// The longest send that a request can describe.
const LENGTH_MAX: usize = i32::MAX as usize;

/// `struct io_sqring_offsets` and `struct io_cqring_offsets`: offsets into the mapped memory, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    /// Submissions: flags. Completions: the overflow counter.
    fifth: u32,
    /// Submissions: the counter of dropped requests. Completions: the completions.
    sixth: u32,
    /// Submissions: the array of indices. Completions: flags.
    seventh: u32,
    reserved: u32,
    user_address: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    submissions: u32,
    completions: u32,
    flags: u32,
    thread: [u32; 2],
    features: u32,
    worker_ring: u32,
    reserved: [u32; 3],
    submission: Offsets,
    completion: Offsets,
}

/// `struct io_uring_sqe`, a request, as far as a send uses it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    message_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

/// `struct io_uring_cqe`, a completion: the result is a count or a negative errno.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// Memory that is shared with the kernel.
struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

impl Mapping {
    fn new(ring: &OwnedFd, offset: libc::off_t, length: usize) -> Result<Mapping, Errno> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: the kernel chooses an address that is free.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, ring.as_raw_fd(), offset) };
        check(start as isize)?;
        NonNull::new(start).map(|start| Mapping { start, length }).ok_or(Errno(libc::EFAULT))
    }

    /// The value at `offset` bytes from the beginning.
    fn at<T>(&self, offset: u32) -> NonNull<T> {
        debug_assert!(offset as usize + size_of::<T>() <= self.length);
        // SAFETY: the kernel gave the offset for memory of this length.
        unsafe { self.start.byte_add(offset as usize).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing points into the mapping after its owner, the ring, has been dropped.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}

/// The ring of one loop. Descriptor and memory are the process's: a forked child must close the descriptor.
pub(super) struct Ring {
    fd: OwnedFd,
    rings: Mapping,
    requests: Mapping,
    submission: Offsets,
    completion: Offsets,
}

// SAFETY: the memory belongs to the ring, whatever thread drops it. Calls from a thread that has not made the ring are refused by
// the kernel (EEXIST).
unsafe impl Send for Ring {}

impl Ring {
    /// Opens a ring for the calling thread, and tries it with one byte.
    ///
    /// # Errors
    /// The refused call, and the reason: ENOSYS, EINVAL before Linux 6.1; EPERM where a sandbox or the administrator refuses.
    pub(super) fn open() -> Result<Ring, (&'static str, Errno)> {
        let mut ring = Ring::set_up().map_err(|errno| ("io_uring_setup", errno))?;
        ring.try_out().map_err(|errno| ("io_uring_enter", errno))?;
        Ok(ring)
    }

    fn set_up() -> Result<Ring, Errno> {
        let mut parameters = Parameters { flags: SETUP_FLAGS, ..Parameters::default() };
        let given = &raw mut parameters;
        // SAFETY: the kernel reads and writes one `io_uring_params`, and keeps no pointer.
        let number = check(unsafe { libc::syscall(libc::SYS_io_uring_setup, c_long::from(ENTRIES), given) })?;
        // SAFETY: the call has just made the descriptor (close-on-exec, always), and no other code knows its number.
        let fd = unsafe { OwnedFd::from_raw_fd(number as RawFd) };
        if parameters.features & FEAT_SINGLE_MMAP == 0 || parameters.submissions != ENTRIES {
            return Err(Errno(libc::ENOSYS));
        }
        let Parameters { submission, completion, completions, .. } = parameters;
        let indices = submission.seventh as usize + ENTRIES as usize * size_of::<u32>();
        let results = completion.sixth as usize + completions as usize * size_of::<Completion>();
        let rings = Mapping::new(&fd, OFFSET_RINGS, indices.max(results))?;
        let requests = Mapping::new(&fd, OFFSET_REQUESTS, ENTRIES as usize * size_of::<Request>())?;
        for index in 0..ENTRIES {
            // SAFETY: the array of indices has ENTRIES elements. The kernel reads them only in io_uring_enter.
            unsafe { rings.at::<u32>(submission.seventh).add(index as usize).write(index) };
        }
        Ok(Ring { fd, rings, requests, submission, completion })
    }

    /// Some sandboxes allow the first call, and refuse the second.
    fn try_out(&mut self) -> Result<(), Errno> {
        let errno = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(libc::EIO));
        let (from, _to) = UnixStream::pair().map_err(errno)?;
        let mut outcomes = Vec::new();
        self.send_all(&mut [(Fd(from.as_raw_fd()), &b"!"[..])].into_iter(), &mut outcomes)?;
        match outcomes[..] {
            [Moved::Bytes(1)] => Ok(()),
            [Moved::Failed(errno)] => Err(errno),
            _ => Err(Errno(libc::EOPNOTSUPP)),
        }
    }

    pub(super) fn held(&self) -> Fd {
        Fd(self.fd.as_raw_fd())
    }

    /// A counter that the kernel reads and writes, too.
    fn counter(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the counter lies in memory that lives as long as `self`, and both sides access the counter atomically.
        unsafe { self.rings.at::<AtomicU32>(offset).as_ref() }
    }

    /// Makes the sends in order, [`ENTRIES`] in one call, and adds their outcomes. The bytes are the kernel's only until the method
    /// returns.
    ///
    /// # Errors
    /// The kernel takes no further requests. Requests that the kernel has not taken were sent one by one, so an outcome was added for
    /// every send that the iterator has returned.
    pub(super) fn send_all<'a>(
        &mut self,
        sends: &mut impl Iterator<Item = (Fd, &'a [u8])>,
        outcomes: &mut Vec<Moved>,
    ) -> Result<(), Errno> {
        loop {
            let first = self.counter(self.submission.tail).load(Ordering::Relaxed);
            let mut tail = first;
            for (fd, bytes) in sends.take(ENTRIES as usize) {
                let request = Request {
                    opcode: OP_SEND,
                    fd: fd.0,
                    address: bytes.as_ptr() as u64,
                    length: bytes.len().min(LENGTH_MAX) as u32,
                    message_flags: (SEND_FLAGS | libc::MSG_DONTWAIT) as u32,
                    user_data: outcomes.len() as u64,
                    ..Request::default()
                };
                // SAFETY: the place is one of ENTRIES, and the kernel has read the request that was there before.
                unsafe { self.request(tail).write(request) };
                outcomes.push(Moved::Blocked);
                tail = tail.wrapping_add(1);
            }
            if tail == first {
                return Ok(());
            }
            self.counter(self.submission.tail).store(tail, Ordering::Release);
            self.complete(tail.wrapping_sub(first), outcomes)?;
        }
    }

    fn request(&self, place: u32) -> NonNull<Request> {
        // SAFETY: the memory has ENTRIES requests.
        unsafe { self.requests.at::<Request>(0).add((place % ENTRIES) as usize) }
    }

    /// Submits all requests, and waits until each has completed: `owed` in number.
    fn complete(&mut self, mut owed: u32, outcomes: &mut [Moved]) -> Result<(), Errno> {
        let mut failure = None;
        while owed > 0 {
            let head = self.counter(self.submission.head).load(Ordering::Acquire);
            let tail = self.counter(self.submission.tail).load(Ordering::Relaxed);
            let waiting = tail.wrapping_sub(head);
            match self.enter(waiting, owed) {
                Ok(_) => {}
                Err(errno) if waiting > 0 && self.counter(self.submission.head).load(Ordering::Acquire) == head => {
                    // No memory for the requests, or none of them is allowed any more.
                    self.send_singly(head, tail, outcomes);
                    self.counter(self.submission.tail).store(head, Ordering::Release);
                    owed -= waiting;
                    failure = (![libc::EAGAIN, libc::EBUSY, libc::ENOMEM].contains(&errno.0)).then_some(errno);
                }
                // The kernel may still read the bytes of a request, and nothing else ends that.
                Err(_) if waiting == 0 => std::process::abort(),
                Err(_) => {}
            }
            owed -= self.reap(outcomes);
        }
        failure.map_or(Ok(()), Err)
    }

    fn enter(&self, submit: u32, complete: u32) -> Result<c_long, Errno> {
        let nothing = ptr::null::<c_void>();
        let fd = c_long::from(self.fd.as_raw_fd());
        // SAFETY: each request describes bytes that the caller lends until all requests have completed. No other pointer is given.
        retry(|| unsafe {
            libc::syscall(libc::SYS_io_uring_enter, fd, submit, complete, ENTER_GETEVENTS, nothing, 0usize)
        })
    }

    /// Makes the sends of the requests `head..tail` by send(2).
    #[cold]
    fn send_singly(&self, head: u32, tail: u32, outcomes: &mut [Moved]) {
        for place in (0..tail.wrapping_sub(head)).map(|count| head.wrapping_add(count)) {
            // SAFETY: the request was written by `send_all`, and lends bytes that live until `send_all` returns.
            let (request, bytes) = unsafe {
                let request = self.request(place).read();
                (request, slice::from_raw_parts(request.address as *const u8, request.length as usize))
            };
            outcomes[request.user_data as usize] = kernel::send_once(Fd(request.fd), bytes);
        }
    }

    /// Takes the completions, and returns their number.
    fn reap(&mut self, outcomes: &mut [Moved]) -> u32 {
        let head = self.counter(self.completion.head).load(Ordering::Relaxed);
        let tail = self.counter(self.completion.tail).load(Ordering::Acquire);
        // SAFETY: the mask was written when the ring was made, and never again.
        let mask = unsafe { self.rings.at::<u32>(self.completion.mask).read() };
        let count = tail.wrapping_sub(head);
        for place in (0..count).map(|count| head.wrapping_add(count)) {
            // SAFETY: the kernel has written this completion before it moved the tail, and the mask keeps the place inside.
            let completion =
                unsafe { self.rings.at::<Completion>(self.completion.sixth).add((place & mask) as usize).read() };
            let answer = match completion.result {
                // Nothing has moved: the poller reports when to try again.
                result if result == -libc::EINTR => Ok(0),
                result if result < 0 => Err(Errno(-result)),
                result => Ok(result as isize),
            };
            outcomes[completion.user_data as usize] = kernel::sent(answer);
        }
        self.counter(self.completion.head).store(tail, Ordering::Release);
        count
    }
}

const _: () = {
    assert!(size_of::<Parameters>() == 120 && size_of::<Offsets>() == 40);
    assert!(size_of::<Request>() == 64 && size_of::<Completion>() == 16);
    assert!(size_of::<c_int>() == 4);
};
