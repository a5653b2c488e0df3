//! From a path to what lies there, and never outside the root: not by a symbolic link, not by one that is put there
//! between two looks, not by a device that does something when it is opened.
//!
//! Two resolvers give the same answers. `openat2(2)` with `RESOLVE_BENEATH` has the kernel hold the line; where that
//! call is missing (Linux before 5.6, gVisor) or forbidden (a strict seccomp filter), the path is walked one name at a
//! time, and links are read and followed here.
//!
//! ```text
//!   path ─▶ look (O_PATH: opens nothing) ─▶ a regular file? ─▶ open, without blocking ─▶ still one? ─▶ File, Stamp
//!                                             └─ a directory, or nothing that is served
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat, statat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

/// Symbolic links on the way of one path: as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Times that a path is tried again when somebody renames directories while it is resolved.
const RACES_MAX: usize = 16;

/// Descriptors kept back for files, so that whoever is connected is still served when all others are used up: enough
/// for as many large files at once, and for a helper to look around.
const RESERVE: usize = 16;

/// How to look, and what to take: nothing here ever waits for a peer, creates, or becomes a controlling terminal.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Who resolves paths.
///
/// ```
/// use services::http::Resolver;
/// assert_eq!(Resolver::default(), Resolver::Kernel);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// The kernel where it can, otherwise [`Resolver::Walk`].
    #[default]
    Kernel,
    /// One name at a time.
    Walk,
}

/// The directory that is served, and how far its links lead.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    way: Way,
    /// Kept back; closed to make room.
    reserve: Mutex<Vec<OwnedFd>>,
    reserve_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `openat2`. `resolves_cached` says that it can be asked for what it has in memory alone (Linux 5.12).
    Kernel {
        flags: ResolveFlags,
        resolves_cached: bool,
    },
    Walk,
    /// `openat`: links lead anywhere.
    Anywhere,
}

/// How long a look may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// No disk is waited for.
    Memory,
    Disk,
}

/// Why there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing that is served: no such file, a device, a link that leads out.
    Absent,
    /// The system says that it is not for us.
    Forbidden,
    /// It would take a disk to know.
    NotNow,
    /// No descriptor, or no peace, to look at it now.
    Busy,
    Broken(io::ErrorKind),
}

/// What lies at a path.
#[derive(Debug)]
pub(super) enum Place {
    File(File, Stamp),
    Directory,
}

/// What of a file changes with its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Nanoseconds since 1970.
    pub(super) modified: i128,
    pub(super) changed: i128,
}

impl Root {
    /// # Errors
    /// When it is no directory, or none that may be read.
    pub(super) fn open(path: &Path, follows_links: bool, resolver: Resolver) -> io::Result<Self> {
        let directory = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let otherwise = if follows_links { Way::Anywhere } else { Way::Walk };
        let way = match resolver {
            Resolver::Kernel => Way::probe(directory.as_fd(), follows_links).unwrap_or(otherwise),
            Resolver::Walk => otherwise,
        };
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let reserve_size = RESERVE.min(usize::try_from(limit / 8).unwrap_or(RESERVE));
        let root = Root { directory, way, reserve: Mutex::default(), reserve_size };
        root.refill();
        Ok(root)
    }

    /// What lies at `path`, a relative one without `..`; if that is a regular file, open.
    pub(super) fn find(&self, path: &[u8], patience: Patience) -> Result<Place, Failure> {
        let seen = self.look(path, patience)?;
        match FileType::from_raw_mode(seen.st_mode) {
            FileType::Directory => return Ok(Place::Directory),
            FileType::RegularFile if !path.ends_with(b"/") => {}
            _ => return Err(Failure::Absent),
        }
        // Whatever has been put in its place since is not waited for, and if it is no file, not used.
        let file = self.retrying(|| self.open_at(path, READ, patience))?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Failure::Absent);
        }
        Ok(Place::File(File::from(file), Stamp::of(&stat)))
    }

    /// What lies at `path`, without opening it.
    pub(super) fn look(&self, path: &[u8], patience: Patience) -> Result<Stat, Failure> {
        let place = self.retrying(|| self.open_at(path, LOOK, patience))?;
        Ok(fstat(&place)?)
    }

    /// A directory, to read its names. Takes the disk's time.
    pub(super) fn directory(&self, path: &[u8]) -> Result<OwnedFd, Failure> {
        self.retrying(|| self.open_at(path, READ | OFlags::DIRECTORY, Patience::Disk))
    }

    /// Whether what lies at `path` is what it was. Links are followed to wherever they lead: the same file is the same
    /// file, however it is reached.
    pub(super) fn is_still(&self, path: &std::ffi::CStr, stamp: &Stamp) -> bool {
        statat(&self.directory, path, AtFlags::empty()).is_ok_and(|stat| Stamp::of(&stat) == *stamp)
    }

    /// Takes back what of the reserve was given away, as far as there is room.
    pub(super) fn refill(&self) {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        while reserve.len() < self.reserve_size {
            let Ok(spare) = fcntl_dupfd_cloexec(&self.directory, 0) else { return };
            reserve.push(spare);
        }
    }

    /// Makes room for a descriptor, once there is none, and for what may be opened on the way. Whether there was
    /// anything to give.
    fn make_room(&self) -> bool {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = reserve.len().saturating_sub(2);
        reserve.drain(kept..).count() > 0
    }

    /// Tries again while something is in the way that passes.
    fn retrying(&self, attempt: impl Fn() -> rustix::io::Result<OwnedFd>) -> Result<OwnedFd, Failure> {
        let mut races = 0;
        loop {
            match attempt() {
                Err(Errno::MFILE | Errno::NFILE) if self.make_room() => {}
                Err(Errno::AGAIN) if races < RACES_MAX && self.way != Way::Walk => races += 1,
                outcome => return Ok(outcome?),
            }
        }
    }

    fn open_at(&self, path: &[u8], flags: OFlags, patience: Patience) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        match self.way {
            Way::Kernel { resolves_cached: false, .. } | Way::Walk | Way::Anywhere if patience == Patience::Memory => {
                Err(NOT_NOW)
            }
            Way::Kernel { flags: resolve, .. } if patience == Patience::Memory => {
                let cached = resolve | ResolveFlags::CACHED;
                openat2(&self.directory, path, flags, Mode::empty(), cached)
                    .map_err(|errno| if errno == Errno::AGAIN { NOT_NOW } else { errno })
            }
            Way::Kernel { flags: resolve, .. } => openat2(&self.directory, path, flags, Mode::empty(), resolve),
            Way::Walk => walk(self.directory.as_fd(), path, flags),
            Way::Anywhere => openat(&self.directory, path, flags, Mode::empty()),
        }
    }
}

/// Stands for "not in memory", which no call here says by itself.
const NOT_NOW: Errno = Errno::INPROGRESS;

impl Way {
    /// What this kernel can do; nothing where `openat2` is missing or forbidden.
    fn probe(directory: BorrowedFd<'_>, follows_links: bool) -> Option<Self> {
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = if follows_links { ResolveFlags::empty() } else { inside };
        let attempt = |more| openat2(directory, c".", LOOK, Mode::empty(), flags | more);
        attempt(ResolveFlags::empty()).ok()?;
        // Older kernels don't know the flag, and say so.
        Some(Way::Kernel { flags, resolves_cached: attempt(ResolveFlags::CACHED).is_ok() })
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        match errno {
            NOT_NOW => Failure::NotNow,
            // Out of the root: XDEV. A socket, or a device without its driver: NXIO, NODEV.
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::NAMETOOLONG
            | Errno::NXIO
            | Errno::NODEV
            | Errno::INVAL => Failure::Absent,
            Errno::ACCESS | Errno::PERM => Failure::Forbidden,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => Failure::Busy,
            other => Failure::Broken(other.kind()),
        }
    }
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |seconds: i64, nanos: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        #[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
        Stamp {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            modified: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            changed: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}

/// Opens `path` below `root` with `flags`, one name at a time, so that every link is read here. A directory on the way
/// is held open, so what is renamed meanwhile leads nowhere else.
fn walk(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut below: Vec<OwnedFd> = Vec::new();
    let mut names: VecDeque<Vec<u8>> = VecDeque::new();
    queue(path, &mut names);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        let here = below.last().map_or(root, AsFd::as_fd);
        if name == b"." {
            // Where we are is a directory, and no further down than it was.
            continue;
        }
        if name == b".." {
            // As `RESOLVE_BENEATH` has it: what leads above the root leads out, even if it were to come back.
            below.pop().ok_or(Errno::XDEV)?;
            continue;
        }
        let stat = statat(here, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            let target = readlinkat(here, name.as_slice(), Vec::new())?.into_bytes();
            match target.first() {
                _ if links > LINKS_MAX => return Err(Errno::LOOP),
                None => return Err(Errno::NOENT),
                Some(b'/') => return Err(Errno::XDEV),
                Some(_) => queue(&target, &mut names),
            }
        } else if names.is_empty() {
            return openat(here, name.as_slice(), flags | OFlags::NOFOLLOW, Mode::empty());
        } else {
            let way = LOOK | OFlags::NOFOLLOW | OFlags::DIRECTORY;
            below.push(openat(here, name.as_slice(), way, Mode::empty())?);
        }
    }
    openat(below.last().map_or(root, AsFd::as_fd), c".", flags, Mode::empty())
}

/// Puts the names of `path` before the others. A slash or a dot at its end stands for a directory.
fn queue(path: &[u8], names: &mut VecDeque<Vec<u8>>) {
    for (from_end, name) in path.rsplit(|&byte| byte == b'/').enumerate() {
        let is_here = name.is_empty() || name == b".";
        match from_end {
            0 if is_here => names.push_front(b".".to_vec()),
            _ if is_here => {}
            _ => names.push_front(name.to_vec()),
        }
    }
}

// All of them are system calls.
#[cfg(all(test, not(miri)))]
mod tests;
