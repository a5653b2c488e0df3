//! The handle of one loop: mailboxes, waker, and the numbers that other loops may read.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Accepted, LoopKind, PUBLISHED_BYTES, Publication};
use crate::mailbox::{Crowd, Mailbox, PostError};
use crate::protocols::Mask;
use crate::stats::Counters;
use crate::sys::wake::Waker;

/// The handle of one loop, by which other loops and threads reach it.
pub(crate) struct LoopHandle {
    pub(crate) number: u32,
    pub(crate) kind: LoopKind,
    pub(crate) counters: Arc<Counters>,
    /// `None` once a per-connection loop has left: others may keep the handle for a while, and a waker holds a descriptor.
    pub(super) waker: RwLock<Option<Waker>>,
    pub(super) passed_on: Arc<Mailbox<Publication>>,
    pub(super) accepted: Arc<Mailbox<Accepted>>,
    pub(super) reporting: AtomicBool,
    pub(super) reopening: AtomicBool,
    /// Set when another loop has found a mailbox of this loop full, and waits for room.
    pub(super) crowd: Crowd,
    /// Connections of the loop, including connections on their way to the loop.
    load: AtomicUsize,
    /// Descriptors of the loop's connections, and a per-connection loop's own.
    pub(super) descriptors: AtomicUsize,
    /// Topics with members on the loop.
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

    /// The loop's waker, until the loop has ended.
    pub(crate) fn waker(&self) -> Option<Waker> {
        self.waker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes a publication on to the loop, without waking the loop.
    pub(crate) fn pass_on(&self, publication: Publication) -> Result<(), PostError<Publication>> {
        self.post(&self.passed_on, publication)
    }

    /// Posts to a mailbox of this loop, without waking the loop. If the mailbox is full, the loop wakes all other loops once
    /// the mailbox has room.
    pub(crate) fn post<M>(&self, mailbox: &Mailbox<M>, message: M) -> Result<(), PostError<M>> {
        self.crowd.post(mailbox, message)
    }

    /// Whether the loop has taken all publications that were passed on to it.
    pub(crate) fn is_read_out(&self) -> bool {
        self.passed_on.is_empty()
    }

    /// Whether another loop waits for room in a mailbox of this loop.
    pub(crate) fn is_sender_waiting(&self) -> bool {
        self.crowd.is_waiting()
    }

    /// Takes the mark that another loop waits for room: after `true` the caller must wake all loops.
    pub(crate) fn take_sender_waits(&self) -> bool {
        self.crowd.take()
    }

    pub(crate) fn take_reporting(&self) -> bool {
        self.reporting.swap(false, Ordering::AcqRel)
    }

    /// Asks the loop for a report.
    pub(crate) fn ask_for_report(&self) {
        self.reporting.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn take_reopening(&self) -> bool {
        self.reopening.swap(false, Ordering::AcqRel)
    }

    /// Replaces the waker.
    pub(super) fn set_waker(&self, waker: Waker) {
        *self.waker.write().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors.load(Ordering::Acquire)
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Counts a connection that the loop is going to serve.
    pub(crate) fn load_more(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection of the loop out.
    pub(crate) fn load_less(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets the topics with members on the loop, one bit each.
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
