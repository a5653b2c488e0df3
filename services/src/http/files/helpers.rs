//! A few threads that wait for the disk, so that no loop ever does. They are the process's, whatever the number of
//! handlers; each is started when it is first needed, and they end with the last of those whom they help.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use reactor::{ConnectionId, ServiceHandle};

use super::document::Document;
use super::resolve::Patience;
use super::{Files, Outcome};

/// Threads at most: enough to keep a disk busy, and each sleeps nearly always.
const HELPERS: usize = 4;

/// What one of them needs of a stack: a path of names, a row of descriptors.
const STACK_BYTES: usize = 256 * 1024;

/// What a helper has found for a connection. It is posted to the handler, and means nothing to anybody else.
#[derive(Debug)]
pub struct Fetched {
    pub(super) path: Vec<u8>,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Default)]
pub(super) struct Helpers(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

/// At most one for each connection: whoever waits for one is not read from.
#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// Helpers that there are, and how many of them have nothing to do.
    helpers: usize,
    idle: usize,
    closed: bool,
}

/// Something to look at, and whom to tell.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) files: Files,
    pub(super) path: Vec<u8>,
    pub(super) known: Option<Arc<Document>>,
    pub(super) to: ConnectionId,
    pub(super) handler: ServiceHandle<Fetched>,
}

impl Helpers {
    /// Has somebody do it. Whether there is anybody.
    pub(super) fn ask(&self, job: Job) -> bool {
        let mut jobs = self.0.lock();
        if jobs.idle <= jobs.waiting.len() && jobs.helpers < HELPERS {
            let (queue, application) = (self.0.clone(), job.handler.handle().clone());
            let work = move || {
                // The loop is to go on while it reads.
                application.leave_core();
                drop(application);
                queue.work();
            };
            let thread = thread::Builder::new().name("files".to_owned()).stack_size(STACK_BYTES);
            jobs.helpers += usize::from(thread.spawn(work).is_ok());
        }
        if jobs.helpers == 0 {
            return false;
        }
        jobs.waiting.push_back(job);
        self.0.changed.notify_one();
        true
    }
}

impl Drop for Helpers {
    /// They are not waited for: one may be stuck in a file system that is gone.
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
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
            jobs.idle += 1;
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            jobs.idle -= 1;
        }
    }

    fn work(&self) {
        while let Some(Job { files, path, known, to, handler }) = self.next() {
            files.check_root(Patience::Disk);
            let outcome = files
                .look_again(&path, known.as_ref())
                .map_or_else(|| files.fetch(&path, known.as_deref(), Patience::Disk), Ok);
            // Whose loop has ended needs it no more.
            let _ = handler.post_wait(to, Fetched { path, outcome });
        }
    }
}
