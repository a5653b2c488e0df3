//! A few threads that wait for the disk, so that no loop has to. All handlers of the process share the threads. Each
//! thread starts when it is first needed, and all end with the last handler.
//!
//! ```text
//!   a handler asks ─▶ is the path being looked at already? ─yes─▶ one more asker
//!                        └─no─▶ far ───── a file system that may have to ask somebody: 3 helpers each, 5 in all
//!                               looks ─── all others: 4 helpers for the names below one name of the root
//!                               listings  all others: 2 helpers, 1 below one name of the root
//! ```
//!
//! A helper may be stuck for as long as a server or a program does not answer, so no place may occupy all helpers. If
//! the kernel cannot tell without waiting which file system a path leads to, the path's first name stands for the file
//! system.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use reactor::{ConnectionId, ServiceHandle};

use super::devices::Mount;
use super::document::Document;
use super::resolve::{Failure, Reach};
use super::{Files, Found, Outcome};

/// Largest number of threads: enough to keep a disk busy while some are stuck. Each thread sleeps nearly always.
const HELPERS: usize = 12;

/// Helpers that wait for file systems that are not local: in all, and for each mount.
const FAR_HELPERS: usize = 5;
const MOUNT_HELPERS: usize = 3;

/// Helpers that look at paths with the same first name, apart from far paths.
const NAME_HELPERS: usize = 4;

/// Helpers that list directories, apart from far ones. At most one lists for each first name.
const LISTERS: usize = 2;

/// Largest number of waiting askers. An asker stays counted when its client has gone, so a file system that never
/// answers would collect askers without end.
const ASKERS_MAX: usize = 16 * 1024;

/// Stack of one helper: room for a path of names and a row of descriptors.
const STACK_BYTES: usize = 256 * 1024;

/// A helper's answer for a connection: the message type of [`Http`](crate::http::Http). Only the handler can read the answer.
///
/// ```
/// /// The handle of a service of HTTP, by which helpers post opened files.
/// type Handle = reactor::ServiceHandle<services::http::Fetched>;
/// ```
#[derive(Debug)]
pub struct Fetched {
    pub(super) page: Page,
    pub(super) outcome: Outcome,
}

/// A path. For a listed directory also the name before the first name of the page, or nothing.
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

#[derive(Debug, Default)]
struct Jobs {
    /// Jobs that no helper has begun, by the kind of wait.
    far: VecDeque<Job>,
    looks: VecDeque<Job>,
    listings: VecDeque<Job>,
    /// Askers of each job, begun or not. A job is done once for all askers.
    askers: HashMap<Key, Vec<Asker>>,
    /// The number of askers.
    asked: usize,
    /// The place that each busy helper waits for.
    busy: Vec<Place>,
    /// `helpers`: running threads. `idle`: threads without a job.
    helpers: usize,
    idle: usize,
    closed: bool,
}

/// The subject of a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Look up the file at a path.
    Look(Vec<u8>),
    /// List a directory without an index.
    List(Page),
}

#[derive(Debug)]
struct Job {
    key: Key,
    files: Files,
    known: Option<Arc<Document>>,
    place: Place,
}

/// The file system, or the part of the root, that a job may be delayed by.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A mount whose file system is not local.
    Far(Mount),
    /// The file system behind this first name below the root.
    Look(Vec<u8>),
    List(Vec<u8>),
}

impl Place {
    fn of(key: &Key, files: &Files) -> Self {
        let (Key::Look(path) | Key::List(Page { path, .. })) = key;
        let first = || path.split(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
        match (files.root.far_mount(path), key) {
            (Some(mount), _) => Place::Far(mount),
            (None, Key::Look(_)) => Place::Look(first()),
            (None, Key::List(_)) => Place::List(first()),
        }
    }
}

/// A question to the helpers.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) files: Files,
    pub(super) known: Option<Arc<Document>>,
    /// The path is a directory without an index: a listing is wanted.
    pub(super) is_listing: bool,
    pub(super) asker: Asker,
}

/// The connection that waits for an answer.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) to: ConnectionId,
    pub(super) page: Page,
    pub(super) handler: ServiceHandle<Fetched>,
}

impl Asker {
    fn tell(self, outcome: Outcome) {
        // An ended loop does not need the answer.
        let _ = self.handler.post_wait(self.to, Fetched { page: self.page, outcome });
    }
}

/// The outcome of a question.
pub(super) enum Asked {
    /// A helper will post the answer.
    Waits,
    /// Too many askers are waiting already.
    Refused,
    /// No helper runs, and none could be started.
    NoHelper,
}

impl Helpers {
    pub(super) fn ask(&self, question: Question) -> Asked {
        let Question { files, known, is_listing, asker } = question;
        let page = &asker.page;
        let key = if is_listing { Key::List(page.clone()) } else { Key::Look(page.path.clone()) };
        let place = Place::of(&key, &files);
        let application = asker.handler.handle().clone();
        let mut jobs = self.0.lock();
        if jobs.asked >= ASKERS_MAX {
            return Asked::Refused;
        }
        let Some(asker) = jobs.join(&key, asker) else { return Asked::Waits };
        if jobs.idle <= jobs.waiting() && jobs.helpers < HELPERS {
            let queue = self.0.clone();
            let work = move || {
                // Otherwise the thread would take turns with the loop on the core of a pinned loop.
                application.leave_core();
                drop(application);
                queue.work();
            };
            let thread = thread::Builder::new().name("files".to_owned()).stack_size(STACK_BYTES);
            jobs.helpers += usize::from(thread.spawn(work).is_ok());
        }
        if jobs.helpers == 0 {
            return Asked::NoHelper;
        }
        jobs.begin(key.clone(), vec![asker]);
        jobs.queue(Job { key, files, known, place });
        self.0.changed.notify_one();
        Asked::Waits
    }

    /// Adds the asker to a page that is being made already, and returns `None`. Otherwise makes the page, which waits
    /// for the disk, and answers all askers that came meanwhile. For a loop that delays no other connection.
    pub(super) fn list(&self, files: &Files, asker: Asker) -> Option<Result<Bytes, Failure>> {
        let key = Key::List(asker.page.clone());
        let mut jobs = self.0.lock();
        let asker = jobs.join(&key, asker)?;
        jobs.begin(key.clone(), Vec::new());
        drop(jobs);
        let outcome = files.list(&asker.page);
        self.0.tell(&key, &outcome.clone().map(Found::Listing));
        Some(outcome)
    }
}

impl Drop for Helpers {
    /// The threads are not joined: a thread may be stuck in a file system that is gone.
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next job. Returns `None` when the queue is closed.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            if jobs.closed {
                return None;
            }
            if let Some(job) = jobs.next() {
                return Some(job);
            }
            jobs.idle += 1;
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            jobs.idle -= 1;
        }
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            job.files.check_root(Reach::Disk);
            let outcome = job.outcome();
            self.lock().end(&job);
            // Another job of this place may have waited for the end of this job.
            self.changed.notify_one();
            if matches!((&job.key, &outcome), (Key::Look(_), Ok(Found::Unlisted))) {
                self.have_listed(job);
            } else {
                self.tell(&job.key, &outcome);
            }
        }
    }

    /// Queues listings: the job's path is a directory without an index, and each asker wants a page of the listing.
    fn have_listed(&self, job: Job) {
        let Job { key, files, .. } = job;
        let mut jobs = self.lock();
        for asker in jobs.part(&key) {
            let key = Key::List(asker.page.clone());
            if let Some(asker) = jobs.join(&key, asker) {
                let place = Place::of(&key, &files);
                jobs.begin(key.clone(), vec![asker]);
                jobs.queue(Job { key, files: files.clone(), known: None, place });
            }
        }
        drop(jobs);
        self.changed.notify_all();
    }

    fn tell(&self, key: &Key, outcome: &Outcome) {
        let askers = self.lock().part(key);
        for asker in askers {
            asker.tell(outcome.clone());
        }
    }
}

impl Job {
    /// Does the job. Waits for the disk.
    fn outcome(&self) -> Outcome {
        let (files, known) = (&self.files, self.known.as_ref());
        match &self.key {
            Key::Look(path) => {
                files.look_again(path, known).map_or_else(|| files.fetch(path, known.map(Arc::as_ref), Reach::Disk), Ok)
            }
            Key::List(page) => files.list(page).map(Found::Listing),
        }
    }
}

impl Jobs {
    fn waiting(&self) -> usize {
        self.far.len() + self.looks.len() + self.listings.len()
    }

    /// Adds the asker to an existing job. Gives the asker back if the job does not exist.
    fn join(&mut self, key: &Key, asker: Asker) -> Option<Asker> {
        let Some(askers) = self.askers.get_mut(key) else { return Some(asker) };
        askers.push(asker);
        self.asked += 1;
        None
    }

    fn begin(&mut self, key: Key, askers: Vec<Asker>) {
        self.asked += askers.len();
        self.askers.insert(key, askers);
    }

    /// Removes a finished job. Returns its askers.
    fn part(&mut self, key: &Key) -> Vec<Asker> {
        let askers = self.askers.remove(key).unwrap_or_default();
        self.asked -= askers.len();
        askers
    }

    fn queue(&mut self, job: Job) {
        let queue = match job.place {
            Place::Far(_) => &mut self.far,
            Place::Look(_) => &mut self.looks,
            Place::List(_) => &mut self.listings,
        };
        queue.push_back(job);
    }

    /// Returns the next job for a helper. Far jobs have helpers of their own, so they come first. One helper prefers
    /// listings; the others list only while nothing is to be looked up.
    fn next(&mut self) -> Option<Job> {
        let is_lister_busy = self.busy.iter().any(|place| matches!(place, Place::List(_)));
        let Jobs { far, looks, listings, busy, .. } = self;
        let order = if is_lister_busy { [far, looks, listings] } else { [far, listings, looks] };
        let job = order.into_iter().find_map(|queue| {
            let at = queue.iter().position(|job| job.place.has_room(busy))?;
            queue.remove(at)
        })?;
        busy.push(job.place.clone());
        Some(job)
    }

    /// Notes that a helper has finished the job.
    fn end(&mut self, job: &Job) {
        if let Some(at) = self.busy.iter().position(|place| *place == job.place) {
            self.busy.swap_remove(at);
        }
    }
}

impl Place {
    /// Whether another helper may wait for this place, beside the busy helpers.
    fn has_room(&self, busy: &[Place]) -> bool {
        let alike = busy.iter().filter(|place| *place == self).count();
        let count = |is: fn(&Place) -> bool| busy.iter().filter(|place| is(place)).count();
        match self {
            Place::Far(_) => alike < MOUNT_HELPERS && count(|place| matches!(place, Place::Far(_))) < FAR_HELPERS,
            Place::Look(_) => alike < NAME_HELPERS,
            Place::List(_) => alike == 0 && count(|place| matches!(place, Place::List(_))) < LISTERS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_stuck_leaves_helpers_for_others() {
        let (mut busy, mut waiting) = (Vec::new(), Vec::new());
        let mount = |number| Place::Far(Mount::numbered(number));
        waiting.extend((0..20).map(|number| mount(number % 2)));
        waiting.extend((0..20).map(|_| Place::Look(b"dead".to_vec())));
        waiting.extend((0..20).map(|_| Place::List(b"dead".to_vec())));
        for place in waiting {
            if place.has_room(&busy) {
                busy.push(place);
            }
        }
        assert!(busy.len() < HELPERS, "{busy:?}");
        assert!(Place::Look(b"alive".to_vec()).has_room(&busy) && Place::List(b"alive".to_vec()).has_room(&busy));
        assert!(busy.contains(&mount(0)) && busy.contains(&mount(1)), "{busy:?}");
    }
}
