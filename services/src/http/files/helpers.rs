//! A few threads that wait for the disk, so that the loop never does. They are started when they are first needed, and
//! end with the handler.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use reactor::{ConnectionId, ServiceHandle};

use super::document::Document;
use super::resolve::Patience;
use super::{Files, Outcome};

/// Threads of one handler: enough to keep a disk busy, and each sleeps nearly always.
const HELPERS: usize = 4;

/// What one of them needs of a stack: a path of names, a row of descriptors.
const STACK_BYTES: usize = 256 * 1024;

/// What a helper has found for a connection. It is posted to the handler, and means nothing to anybody else.
#[derive(Debug)]
pub struct Fetched {
    pub(super) path: Vec<u8>,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) struct Helpers {
    files: Files,
    queue: Arc<Queue>,
    started: bool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

/// At most one for each connection: whoever waits for one is not read from.
#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

#[derive(Debug)]
struct Job {
    to: ConnectionId,
    path: Vec<u8>,
    known: Option<Arc<Document>>,
}

impl Helpers {
    pub(super) fn new(files: Files) -> Self {
        Helpers { files, queue: Arc::default(), started: false }
    }

    /// Has somebody look at `path` for a connection. Whether there is anybody.
    pub(super) fn ask(
        &mut self,
        to: ConnectionId,
        path: &[u8],
        known: Option<Arc<Document>>,
        handler: impl FnOnce() -> ServiceHandle<Fetched>,
    ) -> bool {
        if !self.started {
            self.started = self.start(&handler());
        }
        if self.started {
            self.queue.lock().waiting.push_back(Job { to, path: path.to_vec(), known });
            self.queue.changed.notify_one();
        }
        self.started
    }

    /// Whether at least one could be had.
    fn start(&self, handler: &ServiceHandle<Fetched>) -> bool {
        let started = (0..HELPERS).filter(|_| {
            let (files, queue, handler) = (self.files.clone(), self.queue.clone(), handler.clone());
            let work = move || work(&files, &queue, &handler);
            thread::Builder::new().name("files".to_owned()).stack_size(STACK_BYTES).spawn(work).is_ok()
        });
        started.count() > 0
    }
}

impl Drop for Helpers {
    /// They are not waited for: one may be stuck in a file system that is gone.
    fn drop(&mut self) {
        let mut jobs = self.queue.lock();
        jobs.closed = true;
        jobs.waiting.clear();
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none when there will be no more.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            if jobs.closed {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(files: &Files, queue: &Queue, handler: &ServiceHandle<Fetched>) {
    while let Some(Job { to, path, known }) = queue.next() {
        let outcome = files.fetch(&path, known.as_deref(), Patience::Disk);
        if handler.post_wait(to, Fetched { path, outcome }).is_err() {
            return;
        }
    }
}
