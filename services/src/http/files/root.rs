//! The directory that is served, by its name: it may be replaced while it is served, by a symbolic link that is switched
//! or by a directory that is renamed and made anew.
//!
//! Everything below it is resolved from an [`Anchor`], a descriptor of the directory that had the name when it was last
//! looked at. Each handler has the name looked at twice a second as long as requests come, and takes what it finds; a
//! document that was loaded below another anchor is loaded anew.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

use super::closer::Closer;
use super::devices::{Devices, Mount, see};
use super::document::Document;
use super::resolve::{Failure, LOOK, NOT_NOW, Patience, READ, Resolver, Stamp, Way};

/// Descriptors kept back for files, so that whoever is connected is still served when all others are used up: enough
/// for as many large files at once, and for a helper to look around.
const RESERVE: usize = 16;

/// Times that a path is tried again when somebody renames directories while it is resolved.
const RACES_MAX: usize = 16;

/// Names of a path that are looked at for the mount that the path leads to. A mount lies near the root, and a long path must
/// not keep the loop.
const NAMES_ON_THE_WAY: usize = 16;

/// A directory to serve, and how far its links lead.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    follows_links: bool,
    resolver: Resolver,
    /// The directory that has the name; none while there is no such directory.
    anchor: RwLock<Option<Arc<Anchor>>>,
    /// How many anchors there have been.
    anchors: AtomicU64,
    pub(super) devices: Devices,
    /// Closes what is not on a local file system.
    pub(super) closer: Arc<Closer>,
    /// Kept back; closed to make room.
    reserve: Mutex<Vec<OwnedFd>>,
    reserve_size: usize,
    /// When a shortage of descriptors was last logged.
    shortage: Mutex<Option<Instant>>,
    /// A process that was forked since serves one connection, and has all of its descriptors for that.
    process: u32,
}

/// The directory that has the root's name, or had it.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) directory: OwnedFd,
    pub(super) way: Way,
    /// Unlike that of any other anchor of this root.
    pub(super) number: u64,
    pub(super) device: u64,
    inode: u64,
}

/// How a file may be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Its path leads through directories of one local file system, and no symbolic link: one `stat`. The kernel has had
    /// the path in memory within the last second, and keeps longest what was used last.
    Plain,
    /// Through links or several file systems, and it lies on a local one: only what the kernel has in memory is asked for.
    Cached,
    /// On a file system that may have to ask somebody else: a helper's work.
    Disk,
}

impl Root {
    /// # Errors
    /// When it is no directory, or none that may be searched.
    pub(super) fn open(path: &Path, follows_links: bool, resolver: Resolver) -> io::Result<Self> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let root = Root {
            path: path.to_owned(),
            follows_links,
            resolver,
            anchor: RwLock::default(),
            anchors: AtomicU64::new(0),
            devices: Devices::default(),
            closer: Arc::default(),
            reserve: Mutex::default(),
            reserve_size: RESERVE.min(usize::try_from(limit / 8).unwrap_or(RESERVE)),
            shortage: Mutex::default(),
            process: std::process::id(),
        };
        let directory = openat(CWD, path, LOOK | OFlags::DIRECTORY, Mode::empty())?;
        // One that may not be searched has nothing to serve. One that may not be read has no listing.
        statat(&directory, c".", AtFlags::empty())?;
        root.replace(Some(root.anchor_at(directory, Patience::Disk)?));
        Ok(root)
    }

    fn anchor_at(&self, directory: OwnedFd, patience: Patience) -> rustix::io::Result<Anchor> {
        let Stamp { device, inode, .. } = see(&directory, patience)?.stamp;
        let otherwise = if self.follows_links { Way::Anywhere } else { Way::Walk };
        let way = match self.resolver {
            Resolver::Kernel => Way::probe(directory.as_fd(), self.follows_links).unwrap_or(otherwise),
            Resolver::Walk => otherwise,
        };
        Ok(Anchor { directory, way, number: self.anchors.fetch_add(1, Relaxed), device, inode })
    }

    /// The directory as it was last seen.
    pub(super) fn anchor(&self) -> Option<Arc<Anchor>> {
        self.anchor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, anchor: Option<Anchor>) {
        let gone =
            std::mem::replace(&mut *self.anchor.write().unwrap_or_else(PoisonError::into_inner), anchor.map(Arc::new));
        // Closed when the lock is released.
        drop(gone);
    }

    /// Looks which directory has the name now. Whether it is another than before, or none.
    ///
    /// # Errors
    /// [`Failure::NotNow`] when that has to be waited for.
    pub(super) fn check(&self, patience: Patience) -> Result<bool, Failure> {
        let known = self.anchor();
        let flags = LOOK | OFlags::DIRECTORY;
        let open = || match patience {
            Patience::Memory => openat2(CWD, &self.path, flags, Mode::empty(), ResolveFlags::CACHED),
            Patience::Disk => openat(CWD, &self.path, flags, Mode::empty()),
        };
        let opened =
            self.with_room(open).and_then(|directory| self.anchor_unless(known.as_deref(), directory, patience));
        match opened {
            Ok(None) => Ok(false),
            Ok(anchor) => {
                self.replace(anchor);
                Ok(true)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG) => {
                self.replace(None);
                Ok(known.is_some())
            }
            // Not in memory; or this kernel does not tell.
            Err(Errno::AGAIN | Errno::INVAL | Errno::NOSYS | Errno::PERM | NOT_NOW) if patience == Patience::Memory => {
                Err(Failure::NotNow)
            }
            // Whatever is in the way says nothing of the directory.
            Err(_) => Ok(false),
        }
    }

    /// `None` if it is the one that is known.
    fn anchor_unless(
        &self,
        known: Option<&Anchor>,
        directory: OwnedFd,
        patience: Patience,
    ) -> rustix::io::Result<Option<Anchor>> {
        let Stamp { device, inode, .. } = see(&directory, patience)?.stamp;
        // While a directory is open, no other gets its number.
        if known.is_some_and(|known| (known.device, known.inode) == (device, inode)) {
            return Ok(None);
        }
        self.anchor_at(directory, patience).map(Some)
    }

    /// Takes back what of the reserve was given away, as far as there is room. Nothing in a forked child, which needs none.
    pub(super) fn refill(&self) {
        if std::process::id() != self.process {
            return;
        }
        let Some(anchor) = self.anchor() else { return };
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        while reserve.len() < self.reserve_size {
            let Ok(spare) = fcntl_dupfd_cloexec(&anchor.directory, 0) else { return };
            reserve.push(spare);
        }
    }

    /// The mount that a look at `path` has to wait for, as far as the kernel has the way there in memory: none unless its file
    /// system is known not to be local. Never waits.
    pub(super) fn far_mount(&self, path: &[u8]) -> Option<Mount> {
        let anchor = self.anchor()?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut deepest = None;
        for end in std::iter::once(0).chain(ends).chain([path.len()]).take(NAMES_ON_THE_WAY) {
            let way = if end == 0 { b"." } else { &path[..end] };
            let file =
                CString::new(way).ok().and_then(|way| anchor.way.look_cached(anchor.directory.as_fd(), &way).ok());
            let Some(file) = file else { break };
            let mount = see(&file, Patience::Memory).ok()?.mount;
            let is_local = self.devices.is_local(mount, &file, Patience::Memory);
            deepest = (is_local == Ok(false)).then_some(mount);
        }
        deepest
    }

    /// Makes room for a descriptor, once there is none, and for what may be opened on the way. Whether there was
    /// anything to give.
    fn make_room(&self) -> bool {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = reserve.len().saturating_sub(2);
        reserve.drain(kept..).count() > 0
    }

    /// Tries again as long as there is no descriptor, and some in reserve. A shortage is logged once a second at most.
    fn with_room<T>(&self, attempt: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        loop {
            match attempt() {
                Err(Errno::MFILE | Errno::NFILE) if self.make_room() => {}
                Err(errno @ (Errno::MFILE | Errno::NFILE)) => {
                    self.tell_shortage(errno);
                    return Err(errno);
                }
                outcome => return outcome,
            }
        }
    }

    fn tell_shortage(&self, errno: Errno) {
        let mut told = self.shortage.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| told.elapsed() < Duration::from_secs(1)) {
            return;
        }
        *told = Some(Instant::now());
        log::warn!("no descriptor for files: {errno}; files that are kept are served as they were, others get 503");
    }

    /// Tries again while something is in the way that passes.
    pub(super) fn retrying<T>(&self, attempt: impl Fn() -> rustix::io::Result<T>) -> Result<T, Failure> {
        let mut races = 0;
        loop {
            match self.with_room(&attempt) {
                Err(Errno::AGAIN) if races < RACES_MAX => races += 1,
                outcome => return Ok(outcome?),
            }
        }
    }

    /// A directory, to read its names. Takes the disk's time.
    pub(super) fn directory(&self, anchor: &Anchor, path: &[u8]) -> Result<OwnedFd, Failure> {
        let (directory, _) = self.retrying(|| anchor.open_at(path, READ | OFlags::DIRECTORY, Patience::Disk))?;
        Ok(directory)
    }
}

impl Anchor {
    /// Whether what lies at the paths of `document` is what it was. Never waits with [`Patience::Memory`].
    pub(super) fn has_still(&self, document: &Document, patience: Patience) -> bool {
        self.number == document.anchor
            && document
                .renditions()
                .all(|rendition| self.is_still(&rendition.path, &rendition.stamp, rendition.sight, patience))
    }

    /// Links are followed to wherever they lead: the same file is the same file, however it is reached.
    pub(super) fn is_still(&self, path: &CStr, stamp: &Stamp, sight: Sight, patience: Patience) -> bool {
        let stat = |flags| statat(&self.directory, path, flags).is_ok_and(|stat| Stamp::of(&stat) == *stamp);
        match (sight, patience) {
            (_, Patience::Disk) => stat(AtFlags::empty()),
            // One that has become a link leads somewhere else.
            (Sight::Plain, Patience::Memory) => stat(AtFlags::SYMLINK_NOFOLLOW),
            (Sight::Cached, Patience::Memory) => {
                let file = self.way.look_cached(self.directory.as_fd(), path);
                file.and_then(|file| see(file, patience)).is_ok_and(|seen| seen.stamp == *stamp)
            }
            (Sight::Disk, Patience::Memory) => false,
        }
    }
}
