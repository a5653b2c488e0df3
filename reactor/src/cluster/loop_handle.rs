//! The handle of one loop: its mailboxes, its waker, and the numbers that other loops may read.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Accepted, LoopKind, PUBLISHED_BYTES, Publication};
use crate::mailbox::{Crowd, Mailbox, PostError};
use crate::protocols::Mask;
use crate::stats::Counters;
use crate::sys::wake::Waker;

/// Where one loop is reached, and what others may know of it.
pub(crate) struct LoopHandle {
    pub(crate) number: u32,
    pub(crate) kind: LoopKind,
    pub(crate) counters: Arc<Counters>,
    /// `None` once a per-connection loop has left: others may keep its handle for a while, and a waker holds a descriptor.
    pub(super) waker: RwLock<Option<Waker>>,
    pub(super) passed_on: Arc<Mailbox<Publication>>,
    pub(super) accepted: Arc<Mailbox<Accepted>>,
    pub(super) reporting: AtomicBool,
    pub(super) reopening: AtomicBool,
    /// Another loop found a mailbox of this one full, and waits to hear that there is room.
    pub(super) crowd: Crowd,
    /// Connections of the loop, those on their way to it included.
    load: AtomicUsize,
    /// Descriptors of the loop's connections, and a per-connection loop's own.
    pub(super) descriptors: AtomicUsize,
    /// Topics with members on this loop.
    topics: Mask,
}

impl LoopHandle {
    pub(super) fn new(number: u32, kind: LoopKind, waker: Waker, descriptors: usize) -> Self {
        LoopHandle {
            number,
            kind,
            waker: RwLock::new(Some(waker)),
            counters: Arc::default(),
            passed_on: Arc::new(mailbox_of_published()),
            accepted: Arc::new(Mailbox::new()),
            reporting: AtomicBool::new(false),
            reopening: AtomicBool::new(false),
            crowd: Crowd::new(),
            load: AtomicUsize::new(0),
            descriptors: AtomicUsize::new(descriptors),
            topics: Mask::new(),
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.read().unwrap_or_else(PoisonError::into_inner) {
            waker.wake();
        }
    }

    /// The waker itself, while the loop is there.
    pub(crate) fn waker(&self) -> Option<Waker> {
        self.waker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes something on, without waking the loop.
    pub(crate) fn pass_on(&self, publication: Publication) -> Result<(), PostError<Publication>> {
        self.post(&self.passed_on, publication)
    }

    /// Posts to a mailbox of this loop, without waking it. Where there is no room, this loop wakes all others once it has made
    /// some.
    pub(crate) fn post<M>(&self, mailbox: &Mailbox<M>, message: M) -> Result<(), PostError<M>> {
        self.crowd.post(mailbox, message)
    }

    /// Whether all that was passed on to this loop has been taken.
    pub(crate) fn is_read_out(&self) -> bool {
        self.passed_on.is_empty()
    }

    /// Whether another loop waits for room in a mailbox of this one.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowd.is_waiting()
    }

    /// The same, once: who takes it wakes the others.
    pub(crate) fn take_sender_waits(&self) -> bool {
        self.crowd.take()
    }

    pub(crate) fn take_reporting(&self) -> bool {
        self.reporting.swap(false, Ordering::AcqRel)
    }

    /// Asks it for its report.
    pub(crate) fn ask_for_report(&self) {
        self.reporting.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn take_reopening(&self) -> bool {
        self.reopening.swap(false, Ordering::AcqRel)
    }

    /// From now on this wakes it.
    pub(super) fn set_waker(&self, waker: Waker) {
        *self.waker.write().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors.load(Ordering::Acquire)
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// It is going to have one connection more.
    pub(crate) fn load_more(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    /// One of its connections has ended.
    pub(crate) fn load_less(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Topics that the loop has members of, a bit for each.
    pub(crate) fn set_topics(&self, bits: u64) {
        self.topics.set(bits);
    }

    pub(crate) fn has_topics(&self, bits: u64) -> bool {
        self.topics.has(bits)
    }
}

pub(super) fn mailbox_of_published() -> Mailbox<Publication> {
    Mailbox::weighed(PUBLISHED_BYTES, |(_, bytes): &Publication| bytes.len())
}
