//! A few threads that wait for the disk, so that no loop ever does. They are the process's, whatever the number of
//! handlers; each is started when it is first needed, and they end with the last of those whom they help.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use reactor::{ConnectionId, ServiceHandle};

use super::document::Document;
use super::resolve::Patience;
use super::{Files, Found, Outcome};

/// Threads at most: enough to keep a disk busy, and each sleeps nearly always.
const HELPERS: usize = 4;

/// Of these, how many list directories: the others stay free for files.
const LISTERS: usize = 2;

/// What one of them needs of a stack: a path of names, a row of descriptors.
const STACK_BYTES: usize = 256 * 1024;

/// What a helper has found for a connection. It is posted to the handler, and means nothing to anybody else.
#[derive(Debug)]
pub struct Fetched {
    pub(super) page: Page,
    pub(super) outcome: Outcome,
}

/// A path; and of a directory that is listed, the name that the page begins after, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Page {
    pub(super) path: Vec<u8>,
    pub(super) after: Vec<u8>,
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
    /// Pages of directories that nobody has begun with.
    unlisted: VecDeque<(Page, Files)>,
    /// Who waits for each of these pages, and for those that are being made: one is made for all who ask meanwhile.
    readers: HashMap<Page, Vec<Asker>>,
    /// Helpers that are listing a directory.
    listers: usize,
    /// Helpers that there are, and how many of them have nothing to do.
    helpers: usize,
    idle: usize,
    closed: bool,
}

/// Something to look at, and whom to tell.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) files: Files,
    pub(super) page: Page,
    pub(super) known: Option<Arc<Document>>,
    /// There is a directory without an index: its names are wanted.
    pub(super) is_listing: bool,
    pub(super) asker: Asker,
}

/// Whom to tell.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) to: ConnectionId,
    pub(super) handler: ServiceHandle<Fetched>,
}

impl Asker {
    fn tell(self, page: Page, outcome: Outcome) {
        // Whose loop has ended needs it no more.
        let _ = self.handler.post_wait(self.to, Fetched { page, outcome });
    }
}

impl Helpers {
    /// Has somebody do it. Whether there is anybody.
    pub(super) fn ask(&self, job: Job) -> bool {
        let mut jobs = self.0.lock();
        if jobs.idle <= jobs.waiting.len() + jobs.unlisted.len() && jobs.helpers < HELPERS {
            let (queue, application) = (self.0.clone(), job.asker.handler.handle().clone());
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
        if job.is_listing {
            jobs.list(job);
        } else {
            jobs.waiting.push_back(job);
        }
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
    fn next(&self) -> Option<Task> {
        let mut jobs = self.lock();
        loop {
            if jobs.closed {
                return None;
            }
            if let Some(task) = jobs.next() {
                return Some(task);
            }
            jobs.idle += 1;
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            jobs.idle -= 1;
        }
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            match task {
                Task::Look(job) => self.look(job),
                Task::List(page, files) => self.list(page, &files),
            }
        }
    }

    fn look(&self, job: Job) {
        let Job { files, page, known, .. } = &job;
        files.check_root(Patience::Disk);
        let known = known.as_ref();
        let outcome = files
            .look_again(&page.path, known)
            .map_or_else(|| files.fetch(&page.path, known.map(Arc::as_ref), Patience::Disk), Ok);
        if matches!(outcome, Ok(Found::Unlisted)) {
            return self.lock().list(job);
        }
        job.asker.tell(job.page, outcome);
    }

    fn list(&self, page: Page, files: &Files) {
        files.check_root(Patience::Disk);
        let outcome = files.list(&page);
        let mut jobs = self.lock();
        jobs.listers -= 1;
        let readers = jobs.readers.remove(&page).unwrap_or_default();
        drop(jobs);
        // Another may have waited for this one to end.
        self.changed.notify_one();
        for reader in readers {
            reader.tell(
                page.clone(),
                outcome.as_ref().map(|page| Found::Listing(page.clone())).map_err(|failure| *failure),
            );
        }
    }
}

/// What one helper does next.
enum Task {
    Look(Job),
    List(Page, Files),
}

impl Jobs {
    /// One helper lists if there is something to list; the others do so only while there is nothing to look at.
    fn next(&mut self) -> Option<Task> {
        let looks = if self.listers == 0 && !self.unlisted.is_empty() { None } else { self.waiting.pop_front() };
        if let Some(job) = looks {
            return Some(Task::Look(job));
        }
        if self.listers >= LISTERS {
            return None;
        }
        let (page, files) = self.unlisted.pop_front()?;
        self.listers += 1;
        Some(Task::List(page, files))
    }

    /// Has the page made, unless it is being made already.
    fn list(&mut self, job: Job) {
        let Job { files, page, asker, .. } = job;
        match self.readers.get_mut(&page) {
            Some(readers) => readers.push(asker),
            None => {
                self.readers.insert(page.clone(), vec![asker]);
                self.unlisted.push_back((page, files));
            }
        }
    }
}
