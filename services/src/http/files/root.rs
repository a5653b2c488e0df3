//! The served directory, by its name. The directory may be replaced while it is served, by a symbolic link that is
//! switched, or by a rename and a new directory.
//!
//! Every path is resolved from an [`Anchor`]: a descriptor of the directory that had the root's name at the last check.
//! While requests come, each handler checks the name twice a second. A document that was loaded below another anchor is
//! loaded anew.

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
use super::resolve::{Failure, LOOK, NOT_NOW, READ, Reach, Resolver, Stamp, Way};

/// Spare descriptors for files, so that connected clients are still served when the process has used up all others:
/// enough for as many large files at once, and for the looks of a helper.
const RESERVE: usize = 16;

/// Attempts to resolve a path while directories on the path are renamed.
const RACES_MAX: usize = 16;

/// Names of a path that are examined to find the path's mount. A mount lies near the root, and a long path must not
/// delay the loop.
const NAMES_ON_THE_WAY: usize = 16;

/// A directory to serve, and the rule for its links.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    follows_links: bool,
    resolver: Resolver,
    /// The directory that has the name at present; `None` while no directory has the name.
    anchor: RwLock<Option<Arc<Anchor>>>,
    /// Number of anchors so far.
    anchors: AtomicU64,
    pub(super) devices: Devices,
    /// Closes files that are not on a local file system.
    pub(super) closer: Arc<Closer>,
    /// Spare descriptors, closed to make room.
    reserve: Mutex<Vec<OwnedFd>>,
    reserve_size: usize,
    /// Time of the last log line about a shortage of descriptors.
    shortage: Mutex<Option<Instant>>,
    /// The process that made the root. A process that was forked later serves one connection and does not need the
    /// reserve.
    process: u32,
}

/// A directory that has, or had, the root's name.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) directory: OwnedFd,
    pub(super) way: Way,
    /// Unique among the anchors of this root.
    pub(super) number: u64,
    pub(super) device: u64,
    inode: u64,
}

/// How a file may be checked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// The path stays in directories of one local file system and has no symbolic link: one `stat` suffices. The kernel
    /// had the path in memory within the last second, and keeps recently used paths longest.
    Plain,
    /// The path has links or crosses mounts, and the file is on a local file system: only the kernel's memory is asked.
    Cached,
    /// The file system may have to ask a server or a program: only a helper looks.
    Disk,
}

impl Root {
    /// # Errors
    /// If `path` is no directory, or one that this process may not search.
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
        // A directory without search permission has nothing to serve. A directory without read permission has no
        // listing.
        statat(&directory, c".", AtFlags::empty())?;
        root.replace(Some(root.anchor_at(directory, Reach::Disk)?));
        Ok(root)
    }

    fn anchor_at(&self, directory: OwnedFd, reach: Reach) -> rustix::io::Result<Anchor> {
        let Stamp { device, inode, .. } = see(&directory, reach)?.stamp;
        let otherwise = if self.follows_links { Way::Anywhere } else { Way::Walk };
        let way = match self.resolver {
            Resolver::Kernel => Way::probe(directory.as_fd(), self.follows_links).unwrap_or(otherwise),
            Resolver::Walk => otherwise,
        };
        Ok(Anchor { directory, way, number: self.anchors.fetch_add(1, Relaxed), device, inode })
    }

    /// The anchor of the last check.
    pub(super) fn anchor(&self) -> Option<Arc<Anchor>> {
        self.anchor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, anchor: Option<Anchor>) {
        let gone =
            std::mem::replace(&mut *self.anchor.write().unwrap_or_else(PoisonError::into_inner), anchor.map(Arc::new));
        // Closed here, after the lock was released.
        drop(gone);
    }

    /// Checks which directory has the root's name now. Returns whether the directory has changed or has gone.
    ///
    /// # Errors
    /// [`Failure::NotNow`] if the answer would need the disk.
    pub(super) fn check(&self, reach: Reach) -> Result<bool, Failure> {
        let known = self.anchor();
        let flags = LOOK | OFlags::DIRECTORY;
        let open = || match reach {
            Reach::Memory => openat2(CWD, &self.path, flags, Mode::empty(), ResolveFlags::CACHED),
            Reach::Disk => openat(CWD, &self.path, flags, Mode::empty()),
        };
        let opened = self.with_room(open).and_then(|directory| self.anchor_unless(known.as_deref(), directory, reach));
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
            // Not in memory, or this kernel cannot say.
            Err(Errno::AGAIN | Errno::INVAL | Errno::NOSYS | Errno::PERM | NOT_NOW) if reach == Reach::Memory => {
                Err(Failure::NotNow)
            }
            // Any other error says nothing about the directory.
            Err(_) => Ok(false),
        }
    }

    /// Returns `None` for the known directory.
    fn anchor_unless(
        &self,
        known: Option<&Anchor>,
        directory: OwnedFd,
        reach: Reach,
    ) -> rustix::io::Result<Option<Anchor>> {
        let Stamp { device, inode, .. } = see(&directory, reach)?.stamp;
        // While a directory is open, no other directory gets its inode number.
        if known.is_some_and(|known| (known.device, known.inode) == (device, inode)) {
            return Ok(None);
        }
        self.anchor_at(directory, reach).map(Some)
    }

    /// Restores the reserve as far as descriptors are free. Does nothing in a forked child, which needs no reserve.
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

    /// Returns the mount that a look at `path` has to wait for, as far as the kernel has the path in memory. `None`
    /// unless the mount's file system is known to be remote. Never waits.
    pub(super) fn far_mount(&self, path: &[u8]) -> Option<Mount> {
        let anchor = self.anchor()?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut deepest = None;
        for end in std::iter::once(0).chain(ends).chain([path.len()]).take(NAMES_ON_THE_WAY) {
            let way = if end == 0 { b"." } else { &path[..end] };
            let file =
                CString::new(way).ok().and_then(|way| anchor.way.look_cached(anchor.directory.as_fd(), &way).ok());
            let Some(file) = file else { break };
            let mount = see(&file, Reach::Memory).ok()?.mount;
            let is_local = self.devices.is_local(mount, &file, Reach::Memory);
            deepest = (is_local == Ok(false)).then_some(mount);
        }
        deepest
    }

    /// Frees spare descriptors for a file, and for the directories on its path. Returns whether the reserve had any to
    /// free.
    fn make_room(&self) -> bool {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = reserve.len().saturating_sub(2);
        reserve.drain(kept..).count() > 0
    }

    /// Repeats `attempt` while descriptors are short and the reserve has some. Logs a shortage at most once a second.
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
        log::warn!("no descriptor for files: {errno}; kept files are served, requests for others get 503");
    }

    /// Repeats `attempt` while a passing obstacle prevents success.
    pub(super) fn retrying<T>(&self, attempt: impl Fn() -> rustix::io::Result<T>) -> Result<T, Failure> {
        let mut races = 0;
        loop {
            match self.with_room(&attempt) {
                Err(Errno::AGAIN) if races < RACES_MAX => races += 1,
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Opens a directory to read its names. Waits for the disk.
    pub(super) fn directory(&self, anchor: &Anchor, path: &[u8]) -> Result<OwnedFd, Failure> {
        let (directory, _) = self.retrying(|| anchor.open_at(path, READ | OFlags::DIRECTORY, Reach::Disk))?;
        Ok(directory)
    }
}

impl Anchor {
    /// Whether the files at the paths of `document` are unchanged. Never waits with [`Reach::Memory`].
    pub(super) fn has_still(&self, document: &Document, reach: Reach) -> bool {
        self.number == document.anchor
            && document
                .renditions()
                .all(|rendition| self.is_still(&rendition.path, &rendition.stamp, rendition.sight, reach))
    }

    /// Whether the file at `path` still has `stamp`. Links are followed wherever they lead: the stamp identifies the
    /// file, whatever path leads to it.
    pub(super) fn is_still(&self, path: &CStr, stamp: &Stamp, sight: Sight, reach: Reach) -> bool {
        let stat = |flags| statat(&self.directory, path, flags).is_ok_and(|stat| Stamp::of(&stat) == *stamp);
        match (sight, reach) {
            (_, Reach::Disk) => stat(AtFlags::empty()),
            // A file that has become a link has changed.
            (Sight::Plain, Reach::Memory) => stat(AtFlags::SYMLINK_NOFOLLOW),
            (Sight::Cached, Reach::Memory) => {
                let file = self.way.look_cached(self.directory.as_fd(), path);
                file.and_then(|file| see(file, reach)).is_ok_and(|seen| seen.stamp == *stamp)
            }
            (Sight::Disk, Reach::Memory) => false,
        }
    }
}
