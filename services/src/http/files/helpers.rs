//! A few threads that wait for the disk, so that no loop ever does. They are the process's, whatever the number of
//! handlers; each is started when it is first needed, and they end with the last of those whom they help.
//!
//! ```text
//!   a handler asks ─▶ is the path being looked at already? ─yes─▶ one more asker
//!                        └─no─▶ far ───── a file system that may have to ask somebody: 3 helpers each, 5 in all
//!                               looks ─── all others: 4 helpers for the names below one name of the root
//!                               listings  all others: 2 helpers, 1 below one name of the root
//! ```
//!
//! A helper may be stuck for as long as a server or a program does not answer, so nobody may have all of them. Where the
//! kernel cannot tell without waiting which file system a path leads to, the path's first name stands for it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use reactor::{ConnectionId, ServiceHandle};

use super::devices::Mount;
use super::document::Document;
use super::resolve::{Failure, Patience};
use super::{Files, Found, Outcome};

/// Threads at most: enough to keep a disk busy while others are stuck, and each sleeps nearly always.
const HELPERS: usize = 12;

/// Helpers that wait for file systems that are not local, in all and for each mount.
const FAR_HELPERS: usize = 5;
const MOUNT_HELPERS: usize = 3;

/// Helpers that look at paths with the same first name, other than far ones.
const NAME_HELPERS: usize = 4;

/// Helpers that list directories, other than far ones; one for each first name.
const LISTERS: usize = 2;

/// Askers that wait at the same time. Whose client has gone is still among them, so a file system that never answers
/// would have more and more of them.
const ASKERS_MAX: usize = 16 * 1024;

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

#[derive(Debug, Default)]
struct Jobs {
    /// Jobs that no helper has begun with, by what they wait for.
    far: VecDeque<Job>,
    looks: VecDeque<Job>,
    listings: VecDeque<Job>,
    /// The askers of each job, begun or not: a job is done once for all who ask meanwhile.
    askers: HashMap<Key, Vec<Asker>>,
    /// The number of askers.
    asked: usize,
    /// What each helper that has a job waits for.
    busy: Vec<Place>,
    /// Helpers that there are, and how many of them have nothing to do.
    helpers: usize,
    idle: usize,
    closed: bool,
}

/// What a job finds out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// What lies at a path.
    Look(Vec<u8>),
    /// The page of a directory without an index.
    List(Page),
}

#[derive(Debug)]
struct Job {
    key: Key,
    files: Files,
    known: Option<Arc<Document>>,
    place: Place,
}

/// Whom a job waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A mount whose file system is not local.
    Far(Mount),
    /// Whoever is behind this name of the root.
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
    /// There is a directory without an index: its names are wanted.
    pub(super) is_listing: bool,
    pub(super) asker: Asker,
}

/// Whom to tell.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) to: ConnectionId,
    pub(super) page: Page,
    pub(super) handler: ServiceHandle<Fetched>,
}

impl Asker {
    fn tell(self, outcome: Outcome) {
        // Whose loop has ended needs it no more.
        let _ = self.handler.post_wait(self.to, Fetched { page: self.page, outcome });
    }
}

/// What becomes of a question.
pub(super) enum Asked {
    /// The asker will be told.
    Waits,
    /// Too many wait already.
    Refused,
    /// There is no helper.
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
                // The loop is to go on while it reads.
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

    /// Has the asker wait for a page that is being made already; or makes the page, which takes the disk's time, and tells
    /// whoever asks meanwhile. For a loop that keeps nobody else waiting.
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
            job.files.check_root(Patience::Disk);
            let outcome = job.outcome();
            self.lock().end(&job);
            // A job of this kind may have waited for this one to end.
            self.changed.notify_one();
            if matches!((&job.key, &outcome), (Key::Look(_), Ok(Found::Unlisted))) {
                self.have_listed(job);
            } else {
                self.tell(&job.key, &outcome);
            }
        }
    }

    /// The job's path is that of a directory without an index: each asker wants a page of it.
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
    /// Takes the disk's time.
    fn outcome(&self) -> Outcome {
        let (files, known) = (&self.files, self.known.as_ref());
        match &self.key {
            Key::Look(path) => files
                .look_again(path, known)
                .map_or_else(|| files.fetch(path, known.map(Arc::as_ref), Patience::Disk), Ok),
            Key::List(page) => files.list(page).map(Found::Listing),
        }
    }
}

impl Jobs {
    fn waiting(&self) -> usize {
        self.far.len() + self.looks.len() + self.listings.len()
    }

    /// Puts the asker to those who wait for this job. Gives the asker back if there is no such job.
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

    /// The job is done: who asked for it.
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

    /// What one helper does next. Far jobs have helpers of their own, so they come first. One helper lists if there is
    /// something to list; the others do so only while there is nothing to look at.
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

    /// A helper is done with the job.
    fn end(&mut self, job: &Job) {
        if let Some(at) = self.busy.iter().position(|place| *place == job.place) {
            self.busy.swap_remove(at);
        }
    }
}

impl Place {
    /// Whether another helper may wait for it, beside those that are busy.
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
