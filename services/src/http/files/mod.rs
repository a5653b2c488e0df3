//! Files below one directory, and how to get at them without making anybody wait.
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
//! One request is under way per connection: it stays in the input until its file is there. `names` are the handler's
//! own; the store, the helpers and the descriptors kept back are the process's, shared by the handlers of all loops and
//! threads, so that their bounds hold however many there are.

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
use reactor::{ConnectionId, Context};

use crate::codec::request::{Head, Status};
use document::Document;
use helpers::{Asked, Asker, Helpers, Page, Question};
use names::Names;
use resolve::{Failure, Patience};
use root::Root;
use store::Store;

pub use helpers::Fetched;
pub use resolve::Resolver;

pub(super) use respond::{Answered, Response};

/// How long a document is taken for complete: then its siblings, and the links on the way to it, are looked at again.
const COMPLETE_FOR: Duration = Duration::from_secs(1);

/// While the loop is busy, a document is looked at once in this time and not once in each turn.
const UNSEEN_FOR: Duration = Duration::from_millis(100);

/// Requests for files in one turn from which on the loop is called busy: below it, one `stat` for each turn is not
/// worth saving, and an edited file shows at once.
const BUSY: u32 = 16;

/// A directory to serve, and how. Clones share what is kept of its files, and the threads that wait for the disk, so
/// they are for the handlers of one service: 64 MiB and 1,024 descriptors at most, and 16 more for when there are no
/// others.
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

/// What there is at a path.
#[derive(Clone, Debug)]
enum Found {
    Document(Arc<Document>),
    /// Without the slash at the end of its name.
    Directory,
    /// A directory without an index, whose names are to be shown.
    Unlisted,
    Listing(Bytes),
}

type Outcome = Result<Found, Failure>;

impl Files {
    /// Serves what is below this directory. Symbolic links are followed as far as they lead to files below it, and are
    /// relative.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn at(root: impl AsRef<Path>) -> io::Result<Self> {
        Files::resolved_by(Resolver::default(), root, false)
    }

    /// The same, and symbolic links are followed wherever they lead.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn at_following_links(root: impl AsRef<Path>) -> io::Result<Self> {
        Files::resolved_by(Resolver::default(), root, true)
    }

    /// The same with a choice of who resolves paths. There is no reason for it but to try them.
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

    /// Shows what is in a directory that has no index.html.
    pub fn listing(mut self) -> Self {
        self.listing = true;
        self
    }

    /// Says this in `Cache-Control`, with every file. It has to be a field's value: visible characters and blanks.
    pub fn cache_control(mut self, value: &str) -> Self {
        self.cache_control = Some(value.into());
        // Ready answers say it.
        self.store = Arc::default();
        self
    }

    /// Looks which directory has the root's name. Whether that is known now.
    fn check_root(&self, patience: Patience) -> bool {
        let outcome = self.root.check(patience);
        if outcome == Ok(true) {
            // What was below the other directory is given back, its descriptors too.
            self.store.clear();
        }
        outcome.is_ok()
    }

    /// What is known of `path`, if it is complete and still as it was; for a helper, who may wait.
    fn look_again(&self, path: &[u8], known: Option<&Arc<Document>>) -> Option<Found> {
        let (kept, complete_for) = self.store.get(path)?;
        let is_known = known.is_some_and(|known| Arc::ptr_eq(known, &kept)) && kept.settled;
        let anchor = self.root.anchor().filter(|_| is_known && !complete_for.is_zero())?;
        anchor.has_still(&kept, Patience::Disk).then_some(Found::Document(kept))
    }

    fn fetch(&self, path: &[u8], known: Option<&Document>, patience: Patience) -> Outcome {
        let is_directory = path.is_empty() || path.ends_with(b"/");
        if !is_directory {
            let document = Document::load(&self.root, path, known, patience)?;
            return Ok(document.map_or(Found::Directory, |document| Found::Document(Arc::new(document))));
        }
        match Document::load(&self.root, &[path, b"index.html"].concat(), known, patience) {
            Ok(Some(document)) => Ok(Found::Document(Arc::new(document))),
            Ok(None) | Err(Failure::Absent) if self.listing => Ok(Found::Unlisted),
            Ok(None) => Err(Failure::Absent),
            Err(failure) => Err(failure),
        }
    }
}

impl Files {
    /// One page of a directory. Takes the disk's time.
    fn list(&self, page: &Page) -> Result<Bytes, Failure> {
        Ok(listing::page(&self.root, &page.path, &page.after)?.into())
    }
}

/// The files as one handler has them: what it has seen of them, and who waits for some.
#[derive(Debug)]
pub(super) struct Library {
    files: Files,
    names: Names,
    /// What came for those who waited.
    arrived: BTreeMap<ConnectionId, Fetched>,
    /// The path in question, and the page of a listing; kept, because there is one for each request.
    page: Page,
    /// Room for the head of an answer.
    room: Vec<u8>,
    pace: Pace,
}

/// What became of a lookup.
enum Lookup {
    Document(Arc<Document>),
    Directory,
    Listing(Bytes),
    Failed(Failure),
}

/// What is known of a request's answer before its body has come.
pub(super) enum Lookahead {
    /// There is something to serve.
    Served,
    /// The answer is this status, whatever the body says.
    Refused(Status),
    /// A helper has to look. The connection is to be paused, and the request to be offered again.
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

    /// Answers a `GET` or `HEAD`; or says, with nothing, that this has to wait for a helper. Then the connection is to
    /// be paused, and the request to be offered again.
    #[inline]
    pub(super) fn answer(&mut self, head: &Head<'_>, mut response: Response<'_, '_>) -> Option<Answered> {
        let (name, query) = path::split(head.target);
        let now = response.cx.now();
        let unseen_for = self.pace.step(now);
        if self.arrived.is_empty()
            && let Some(document) = self.names.fresh(name.as_bytes(), now, unseen_for, patience(response.cx))
        {
            return Some(response.document(head, &document, self.files.cache_control.as_deref(), &mut self.room));
        }
        self.answer_unseen(head, name, query, response)
    }

    /// The same, when what it asks for was not seen lately, or not by this name.
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

    /// Whether a `GET` or `HEAD` with a body is refused, without answering it.
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

    /// What there is at the path, of which this is the name; `None` when that has to be waited for.
    fn look(&mut self, name: &[u8], cx: &mut Context<'_>) -> Option<Lookup> {
        let (now, patience) = (cx.now(), patience(cx));
        let arrived = self.arrived.remove(&cx.id()).filter(|fetched| fetched.page == self.page);
        let mut outcome = match arrived {
            Some(fetched) => {
                // The helper has looked at the root's name first.
                self.names.anchor_at(&self.files.root, now);
                fetched.outcome
            }
            None => {
                let mut is_anchored = !self.names.is_adrift(now);
                if !is_anchored && self.files.check_root(patience) {
                    self.names.anchor_at(&self.files.root, now);
                    is_anchored = true;
                }
                let kept = self.files.store.get(&self.page.path);
                if is_anchored
                    && let Some((document, complete_for)) = &kept
                    && self.names.adopt(name, document, *complete_for, now, patience)
                {
                    return Some(Lookup::Document(document.clone()));
                }
                let known = kept.map(|(document, _)| document);
                if is_anchored { self.fetch(known, patience, cx)? } else { self.ask(known, false, cx)? }
            }
        };
        if is(&outcome, Failure::Busy) {
            // Its descriptors are used up, and this is what there was.
            if let Some((document, _)) = self.files.store.get(&self.page.path) {
                self.names.insert(name, &document, COMPLETE_FOR, now);
                return Some(Lookup::Document(document));
            }
            if self.files.store.drop_descriptors() {
                outcome = self.fetch(None, patience, cx)?;
            }
        }
        // One page is made for all who ask for it meanwhile, under every model.
        if matches!(outcome, Ok(Found::Unlisted)) {
            outcome = match patience {
                Patience::Disk => self.files.helpers.list(&self.files, self.asker(cx))?.map(Found::Listing),
                Patience::Memory => self.ask(None, true, cx)?,
            };
        }
        Some(self.keep(name, outcome, now))
    }

    /// Nothing when a helper is at it.
    fn fetch(&self, known: Option<Arc<Document>>, patience: Patience, cx: &mut Context<'_>) -> Option<Outcome> {
        self.files.root.refill();
        let outcome = self.files.fetch(&self.page.path, known.as_deref(), patience);
        if is(&outcome, Failure::NotNow) { self.ask(known, false, cx) } else { Some(outcome) }
    }

    /// The connection, as the one who asks for the page.
    fn asker(&self, cx: &mut Context<'_>) -> Asker {
        Asker { to: cx.id(), page: self.page.clone(), handler: cx.service_handle() }
    }

    /// Has a helper fetch it, or list it. Nothing, unless there is no helper to be had.
    fn ask(&self, known: Option<Arc<Document>>, is_listing: bool, cx: &mut Context<'_>) -> Option<Outcome> {
        let question = Question { files: self.files.clone(), known: known.clone(), is_listing, asker: self.asker(cx) };
        match self.files.helpers.ask(question) {
            Asked::Waits => return None,
            Asked::Refused => return Some(Err(Failure::NotNow)),
            Asked::NoHelper => {}
        }
        // Nobody to help: better late than not at all.
        self.files.check_root(Patience::Disk);
        let found = match is_listing {
            true => Ok(Found::Unlisted),
            false => self.files.fetch(&self.page.path, known.as_deref(), Patience::Disk),
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

    /// A helper is done. It is for a connection that still is there.
    pub(super) fn arrive(&mut self, to: ConnectionId, fetched: Fetched) {
        self.arrived.insert(to, fetched);
    }

    /// The connection is over.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        // Nearly always there is nothing to look for.
        if !self.arrived.is_empty() {
            self.arrived.remove(&id);
        }
    }
}

/// How long this loop may be kept waiting: one that serves one connection keeps nobody else waiting.
#[inline]
fn patience(cx: &Context<'_>) -> Patience {
    if cx.serves_alone() { Patience::Disk } else { Patience::Memory }
}

fn is(outcome: &Outcome, failure: Failure) -> bool {
    outcome.as_ref().is_err_and(|found| *found == failure)
}

/// What a client is told when there is nothing to give it.
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

/// How many requests come in a turn, and so how often files are looked at.
#[derive(Debug, Default)]
struct Pace {
    turn: Duration,
    requests: u32,
    before: u32,
}

impl Pace {
    /// One more request. For how long an entry may go unseen.
    #[inline]
    fn step(&mut self, now: Duration) -> Duration {
        if now != self.turn {
            (self.turn, self.before, self.requests) = (now, self.requests, 0);
        }
        self.requests += 1;
        if self.before >= BUSY { UNSEEN_FOR } else { Duration::ZERO }
    }
}
