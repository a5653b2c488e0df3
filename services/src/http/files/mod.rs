//! Files below one directory, served without making a loop wait for the disk.
//!
//! ```text
//!   target ─▶ names ──fresh─────────────────────────────────────────▶ document ─▶ answer
//!               ├─ a while old: one stat, still the same? ───────────────┤
//!               └─ not there ─▶ path                                     │
//!                                ├─ in the store, still the same? ───────┤
//!                                └─ not there, or changed: resolve, ─────┤
//!                                   from what the kernel has in memory   │
//!                                    └─ not in memory: a helper thread, ─┘
//!                                       and the connection is paused meanwhile
//! ```
//!
//! Each connection has at most one request under way: the request stays in the input until its file is there. `names`
//! belong to one handler. The store, the helpers and the kept descriptors belong to the process and are shared by the
//! handlers of all loops and threads, so their bounds hold for any number of handlers.

mod cache;
mod closer;
mod devices;
mod digest;
mod document;
mod encodings;
mod helpers;
mod listing;
mod names;
mod path;
mod resolve;
mod respond;
mod root;
mod store;
mod types;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reactor::ConnectionId;

use super::Context;
use crate::codec::request::{Head, Status};
use document::Document;
use helpers::{Asked, Asker, Helpers, Page, Question};
use names::Names;
use resolve::{Failure, Reach};
use root::Root;
use store::Store;

pub use helpers::Fetched;
pub use resolve::Resolver;

pub(super) use respond::{Answered, Response};

/// How long a document counts as complete. Afterwards its siblings and the links on its path are checked again.
const COMPLETE_FOR: Duration = Duration::from_secs(1);

/// A busy loop checks a document once in this time, instead of once in each turn.
const UNSEEN_FOR: Duration = Duration::from_millis(100);

/// Requests for files in one turn that make a loop busy. Below this number one `stat` for each turn costs little, and
/// an edited file shows at once.
const BUSY: u32 = 16;

/// A directory to serve, and how. Clones share the kept files and the threads that wait for the disk, so use clones for
/// the handlers of one service. All clones together keep at most 64 MiB and 1,024 descriptors, and 16 spare descriptors
/// for a process that has run out.
///
/// ```no_run
/// use services::http::{Files, Http};
/// let files = Files::at("public")?.listing().cache_control("max-age=60");
/// let handler = Http::with_files(files, None);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    root: Arc<Root>,
    store: Arc<Store>,
    helpers: Arc<Helpers>,
    listing: bool,
    cache_control: Option<Arc<str>>,
}

/// The thing at a path.
#[derive(Clone, Debug)]
enum Found {
    Document(Arc<Document>),
    /// A directory whose name in the request lacks the slash at the end.
    Directory,
    /// A directory without an index; a listing of its names is wanted.
    Unlisted,
    Listing(Bytes),
}

type Outcome = Result<Found, Failure>;

impl Files {
    /// Serves the files below directory `root`. A symbolic link is followed if the link is relative and leads to a file
    /// below `root`.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn at(root: impl AsRef<Path>) -> io::Result<Self> {
        Files::resolved_by(Resolver::default(), root, false)
    }

    /// Serves the files below directory `root`, and follows symbolic links wherever they lead.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn at_following_links(root: impl AsRef<Path>) -> io::Result<Self> {
        Files::resolved_by(Resolver::default(), root, true)
    }

    /// Serves the files below directory `root` with a choice of the path resolver. Only tests of resolvers need the
    /// choice.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn resolved_by(resolver: Resolver, root: impl AsRef<Path>, follows_links: bool) -> io::Result<Self> {
        let root = Root::open(root.as_ref(), follows_links, resolver)?;
        Ok(Files {
            root: Arc::new(root),
            store: Arc::default(),
            helpers: Arc::default(),
            listing: false,
            cache_control: None,
        })
    }

    /// Lists the names in a directory that has no index.html.
    pub fn listing(mut self) -> Self {
        self.listing = true;
        self
    }

    /// Sends `value` in a `Cache-Control` field with every file. `value` must be a valid field value: visible
    /// characters and blanks.
    pub fn cache_control(mut self, value: &str) -> Self {
        self.cache_control = Some(value.into());
        // The store's ready answers contain the field's former value.
        self.store = Arc::default();
        self
    }

    /// Checks which directory has the root's name now. Returns whether the answer is known.
    fn check_root(&self, reach: Reach) -> bool {
        let outcome = self.root.check(reach);
        if outcome == Ok(true) {
            // The files of the former directory are given back, with their descriptors.
            self.store.clear();
        }
        outcome.is_ok()
    }

    /// Returns the kept document of `path` if the document is complete and unchanged. For a helper, which may wait for
    /// the disk.
    fn look_again(&self, path: &[u8], known: Option<&Arc<Document>>) -> Option<Found> {
        let (kept, complete_for) = self.store.get(path)?;
        let is_known = known.is_some_and(|known| Arc::ptr_eq(known, &kept)) && kept.settled;
        let anchor = self.root.anchor().filter(|_| is_known && !complete_for.is_zero())?;
        anchor.has_still(&kept, Reach::Disk).then_some(Found::Document(kept))
    }

    fn fetch(&self, path: &[u8], known: Option<&Document>, reach: Reach) -> Outcome {
        let is_directory = path.is_empty() || path.ends_with(b"/");
        if !is_directory {
            let document = Document::load(&self.root, path, known, reach)?;
            return Ok(document.map_or(Found::Directory, |document| Found::Document(Arc::new(document))));
        }
        match Document::load(&self.root, &[path, b"index.html"].concat(), known, reach) {
            Ok(Some(document)) => Ok(Found::Document(Arc::new(document))),
            Ok(None) | Err(Failure::Absent) if self.listing => Ok(Found::Unlisted),
            Ok(None) => Err(Failure::Absent),
            Err(failure) => Err(failure),
        }
    }
}

impl Files {
    /// Makes one page of a directory's listing. Waits for the disk.
    fn list(&self, page: &Page) -> Result<Bytes, Failure> {
        Ok(listing::page(&self.root, &page.path, &page.after)?.into())
    }
}

/// A handler's view of the files: recently requested names, and the answers of helpers.
#[derive(Debug)]
pub(super) struct Library {
    files: Files,
    names: Names,
    /// Answers of helpers for waiting connections.
    arrived: BTreeMap<ConnectionId, Fetched>,
    /// The path of the current request, and its page of a listing. Kept to reuse the memory for each request.
    page: Page,
    /// Room for the head of an answer.
    room: Vec<u8>,
    pace: Pace,
}

/// The outcome of a lookup.
enum Lookup {
    Document(Arc<Document>),
    Directory,
    Listing(Bytes),
    Failed(Failure),
}

/// The part of the answer that is known before a request's body has come.
pub(super) enum Lookahead {
    /// The target can be served.
    Served,
    /// The answer is this status, whatever the body contains.
    Refused(Status),
    /// A helper has to look. The caller pauses the connection, and the request is offered again.
    Waiting,
}

impl Library {
    pub(super) fn new(files: Files) -> Self {
        Library {
            names: files.store.names(),
            arrived: BTreeMap::new(),
            page: Page::default(),
            room: Vec::new(),
            pace: Pace::default(),
            files,
        }
    }

    /// Answers a `GET` or `HEAD`. Returns `None` if the request must wait for a helper: the caller pauses the
    /// connection, and the request is offered again.
    #[inline]
    pub(super) fn answer(&mut self, head: &Head<'_>, mut response: Response<'_, '_>) -> Option<Answered> {
        let (name, query) = path::split(head.target);
        let now = response.cx.now();
        let unseen_for = self.pace.step(now);
        if self.arrived.is_empty()
            && let Some(document) = self.names.fresh(name.as_bytes(), now, unseen_for, reach(response.cx))
        {
            return Some(response.document(head, &document, self.files.cache_control.as_deref(), &mut self.room));
        }
        self.answer_unseen(head, name, query, response)
    }

    /// The slow path of [`answer`](Self::answer): the name was not seen lately, or not at all.
    #[cold]
    fn answer_unseen(
        &mut self,
        head: &Head<'_>,
        name: &str,
        query: &str,
        mut response: Response<'_, '_>,
    ) -> Option<Answered> {
        if let Err(status) = path::read(name, &mut self.page.path) {
            return Some(response.refuse(status));
        }
        listing::after(query, &mut self.page.after);
        let found = self.look(name.as_bytes(), response.cx)?;
        let cache_control = self.files.cache_control.as_deref();
        Some(match found {
            Lookup::Document(document) => response.document(head, &document, cache_control, &mut self.room),
            Lookup::Directory => response.redirect(&self.page.path, query),
            Lookup::Listing(page) => response.listing(page),
            Lookup::Failed(failure) => response.refuse(status_of(failure)),
        })
    }

    /// Whether a `GET` or `HEAD` with a body will be refused. Writes no answer.
    #[cold]
    pub(super) fn refusal(&mut self, head: &Head<'_>, cx: &mut Context<'_>) -> Lookahead {
        let (name, query) = path::split(head.target);
        if let Err(status) = path::read(name, &mut self.page.path) {
            return Lookahead::Refused(status);
        }
        listing::after(query, &mut self.page.after);
        match self.look(name.as_bytes(), cx) {
            None => Lookahead::Waiting,
            Some(Lookup::Failed(failure)) => Lookahead::Refused(status_of(failure)),
            Some(_) => Lookahead::Served,
        }
    }

    /// Looks up the current path, whose name in the request is `name`. Returns `None` if the request must wait.
    fn look(&mut self, name: &[u8], cx: &mut Context<'_>) -> Option<Lookup> {
        let (now, reach) = (cx.now(), reach(cx));
        let arrived = self.arrived.remove(&cx.id()).filter(|fetched| fetched.page == self.page);
        let mut outcome = match arrived {
            Some(fetched) => {
                // The helper has checked the root's name first.
                self.names.anchor_at(&self.files.root, now);
                fetched.outcome
            }
            None => {
                let mut is_anchored = !self.names.is_adrift(now);
                if !is_anchored && self.files.check_root(reach) {
                    self.names.anchor_at(&self.files.root, now);
                    is_anchored = true;
                }
                let kept = self.files.store.get(&self.page.path);
                if is_anchored
                    && let Some((document, complete_for)) = &kept
                    && self.names.adopt(name, document, *complete_for, now, reach)
                {
                    return Some(Lookup::Document(document.clone()));
                }
                let known = kept.map(|(document, _)| document);
                if is_anchored { self.fetch(known, reach, cx)? } else { self.ask(known, false, cx)? }
            }
        };
        if is(&outcome, Failure::Busy) {
            // The process has no free descriptor, so the kept document is served.
            if let Some((document, _)) = self.files.store.get(&self.page.path) {
                self.names.insert(name, &document, COMPLETE_FOR, now);
                return Some(Lookup::Document(document));
            }
            if self.files.store.drop_descriptors() {
                outcome = self.fetch(None, reach, cx)?;
            }
        }
        // One page is made for all connections that ask for the page meanwhile, under every model.
        if matches!(outcome, Ok(Found::Unlisted)) {
            outcome = match reach {
                Reach::Disk => self.files.helpers.list(&self.files, self.asker(cx))?.map(Found::Listing),
                Reach::Memory => self.ask(None, true, cx)?,
            };
        }
        Some(self.keep(name, outcome, now))
    }

    /// Looks up the current path. Returns `None` if a helper has taken over.
    fn fetch(&self, known: Option<Arc<Document>>, reach: Reach, cx: &mut Context<'_>) -> Option<Outcome> {
        self.files.root.refill();
        let outcome = self.files.fetch(&self.page.path, known.as_deref(), reach);
        if is(&outcome, Failure::NotNow) { self.ask(known, false, cx) } else { Some(outcome) }
    }

    /// The connection, as the asker for the current page.
    fn asker(&self, cx: &mut Context<'_>) -> Asker {
        Asker { to: cx.id(), page: self.page.clone(), handler: cx.service_handle() }
    }

    /// Lets a helper look up the path, or list the directory. Returns an outcome only without a helper.
    fn ask(&self, known: Option<Arc<Document>>, is_listing: bool, cx: &mut Context<'_>) -> Option<Outcome> {
        let question = Question { files: self.files.clone(), known: known.clone(), is_listing, asker: self.asker(cx) };
        match self.files.helpers.ask(question) {
            Asked::Waits => return None,
            Asked::Refused => return Some(Err(Failure::NotNow)),
            Asked::NoHelper => {}
        }
        // No helper can be started: waiting for the disk here is better than no answer.
        self.files.check_root(Reach::Disk);
        let found = match is_listing {
            true => Ok(Found::Unlisted),
            false => self.files.fetch(&self.page.path, known.as_deref(), Reach::Disk),
        };
        Some(match found {
            Ok(Found::Unlisted) => self.files.list(&self.page).map(Found::Listing),
            found => found,
        })
    }

    fn keep(&mut self, name: &[u8], outcome: Outcome, now: Duration) -> Lookup {
        match outcome {
            Ok(Found::Document(document)) => {
                let complete_for = self.files.store.put(&self.page.path, document.clone());
                self.names.insert(name, &document, complete_for, now);
                Lookup::Document(document)
            }
            other => {
                self.files.store.remove(&self.page.path);
                self.names.remove(name);
                match other {
                    Ok(Found::Listing(page)) => Lookup::Listing(page),
                    Err(failure) => Lookup::Failed(failure),
                    Ok(_) => Lookup::Directory,
                }
            }
        }
    }

    /// Stores a helper's answer for an open connection.
    pub(super) fn arrive(&mut self, to: ConnectionId, fetched: Fetched) {
        self.arrived.insert(to, fetched);
    }

    /// Forgets a closed connection.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        // Usually the map is empty.
        if !self.arrived.is_empty() {
            self.arrived.remove(&id);
        }
    }
}

/// Whether this loop may wait for a disk: only a loop with a single connection, which delays no other.
#[inline]
fn reach(cx: &Context<'_>) -> Reach {
    if cx.serves_alone() { Reach::Disk } else { Reach::Memory }
}

fn is(outcome: &Outcome, failure: Failure) -> bool {
    outcome.as_ref().is_err_and(|found| *found == failure)
}

/// The status of a failed lookup.
fn status_of(failure: Failure) -> Status {
    match failure {
        Failure::Absent => Status::NotFound,
        Failure::Forbidden => Status::Forbidden,
        Failure::NotNow | Failure::Busy => Status::ServiceUnavailable,
        Failure::Broken(kind) => {
            log::warn!("a file could not be read: {kind}");
            Status::InternalServerError
        }
    }
}

/// Counts requests in a turn, to decide how often files are checked.
#[derive(Debug, Default)]
struct Pace {
    turn: Duration,
    requests: u32,
    before: u32,
}

impl Pace {
    /// Counts one request. Returns how long an entry may go without a check.
    #[inline]
    fn step(&mut self, now: Duration) -> Duration {
        if now != self.turn {
            (self.turn, self.before, self.requests) = (now, self.requests, 0);
        }
        self.requests += 1;
        if self.before >= BUSY { UNSEEN_FOR } else { Duration::ZERO }
    }
}
