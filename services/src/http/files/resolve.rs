//! Resolves a path to a file below the root, and never outside the root: not by a symbolic link, not by a link that
//! appears between two looks, not by a device that acts when it is opened.
//!
//! Two resolvers give equal answers. With `openat2(2)` and `RESOLVE_BENEATH` the kernel keeps the path below the root.
//! Where the call is missing (Linux before 5.6, gVisor) or forbidden (a strict seccomp filter), the path is walked one
//! name at a time, and links are read and followed here.
//!
//! ```text
//!   path ─▶ look (O_PATH: opens nothing) ─▶ a regular file? ─▶ open, without blocking ─▶ still one? ─▶ File, Stamp
//!                                             └─ a directory, or nothing that is served
//! ```

use std::collections::VecDeque;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat, statat};
use rustix::io::Errno;

use super::devices::{Sighting, see};
use super::path::WELL_KNOWN;
use super::root::{Anchor, Root, Sight};

/// Symbolic links on one path: as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Flags for a look, and for reading: no open here waits for a peer, creates a file, or takes a controlling terminal.
pub(super) const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
pub(super) const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The means by which the path of a request is resolved below the root. The results are equal.
///
/// ```
/// use services::http::Resolver;
/// assert_eq!(Resolver::default(), Resolver::Kernel);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// One call of `openat2`, where the kernel has it; otherwise as [`Resolver::Walk`].
    #[default]
    Kernel,
    /// One `openat` for each name of the path. For tests: some kernels have nothing else.
    Walk,
}

/// How paths are resolved below one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `openat2`. `resolves_cached`: the kernel can be restricted to names in memory (Linux 5.12).
    Kernel {
        flags: ResolveFlags,
        resolves_cached: bool,
    },
    Walk,
    /// `openat`: links may lead anywhere.
    Anywhere,
}

/// The storage that a call may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Memory alone: the call fails where it would wait for a disk.
    Memory,
    /// Disks, too: the call may wait.
    Disk,
}

/// Why a path cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing to serve: no such file, a device, a link that leads out of the root.
    Absent,
    /// The system denies access.
    Forbidden,
    /// The answer would need a disk.
    NotNow,
    /// No free descriptor, or the path changed during each attempt.
    Busy,
    Broken(io::ErrorKind),
}

/// The thing at a path.
#[derive(Debug)]
pub(super) enum Place {
    File(File, Stamp, Sight),
    Directory,
}

/// The parts of a file's status that change with the content.
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
    /// Finds the file at `path`, a relative path without `..`. A regular file is returned open.
    pub(super) fn find(&self, anchor: &Anchor, path: &[u8], reach: Reach) -> Result<Place, Failure> {
        let (place, is_plain) = self.retrying(|| anchor.open_at(path, LOOK, reach))?;
        let seen = see(&place, reach)?;
        let is_local = self.devices.is_local(seen.mount, &place, reach)?;
        // Opening the file may wait for a server or a program.
        if reach == Reach::Memory && !is_local {
            return Err(Failure::NotNow);
        }
        match seen.kind {
            FileType::Directory => return Ok(Place::Directory),
            FileType::RegularFile if !path.ends_with(b"/") => {}
            _ => return Err(Failure::Absent),
        }
        let sight = match (is_local, is_plain) {
            (true, true) => Sight::Plain,
            (true, false) => Sight::Cached,
            (false, _) => Sight::Disk,
        };
        // The path may lead elsewhere by now. `READ` does not wait for a peer, and only a regular file is used.
        let (file, _) = self.retrying(|| anchor.open_at(path, READ, reach))?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Failure::Absent);
        }
        Ok(Place::File(File::from(file), Stamp::of(&stat), sight))
    }

    /// Looks at the thing at `path` without opening it. Waits for the disk.
    pub(super) fn look(&self, anchor: &Anchor, path: &[u8]) -> Result<Sighting, Failure> {
        let (place, _) = self.retrying(|| anchor.open_at(path, LOOK, Reach::Disk))?;
        Ok(see(&place, Reach::Disk)?)
    }
}

impl Anchor {
    /// Opens `path` with `flags`. Returns also whether the path leads through no symbolic link and stays on one mount.
    pub(super) fn open_at(&self, path: &[u8], flags: OFlags, reach: Reach) -> rustix::io::Result<(OwnedFd, bool)> {
        let path = if path.is_empty() { b"." } else { path };
        let Way::Kernel { flags: rules, resolves_cached } = self.way else {
            return match (self.way, reach) {
                (_, Reach::Memory) => Err(NOT_NOW),
                (Way::Anywhere, _) => Ok((openat(&self.directory, path, flags, Mode::empty())?, false)),
                _ => walk(self, path, flags),
            };
        };
        let cached = match reach {
            Reach::Memory if !resolves_cached => return Err(NOT_NOW),
            Reach::Memory => ResolveFlags::CACHED,
            Reach::Disk => ResolveFlags::empty(),
        };
        let attempt = |more| match openat2(&self.directory, path, flags, Mode::empty(), rules | cached | more) {
            Err(Errno::AGAIN) if reach == Reach::Memory => Err(NOT_NOW),
            outcome => outcome,
        };
        match attempt(ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV) {
            Err(Errno::XDEV | Errno::LOOP) => {}
            outcome => return Ok((outcome?, true)),
        }
        if rules.is_empty() {
            return Ok((attempt(ResolveFlags::empty())?, false));
        }
        match attempt(ResolveFlags::NO_SYMLINKS) {
            // A link may lead through hidden names, and the kernel does not report the names.
            Err(Errno::LOOP) if reach == Reach::Memory => Err(NOT_NOW),
            Err(Errno::LOOP) => walk(self, path, flags),
            outcome => Ok((outcome?, false)),
        }
    }
}

/// Stands for "not in memory": no system call here returns this error.
pub(super) const NOT_NOW: Errno = Errno::INPROGRESS;

impl Way {
    /// Finds the abilities of this kernel. Returns `None` if `openat2` is missing or forbidden.
    pub(super) fn probe(directory: BorrowedFd<'_>, follows_links: bool) -> Option<Self> {
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = if follows_links { ResolveFlags::empty() } else { inside };
        let attempt = |more| openat2(directory, c".", LOOK, Mode::empty(), flags | more);
        attempt(ResolveFlags::empty()).ok()?;
        // Older kernels refuse the unknown flag.
        Some(Way::Kernel { flags, resolves_cached: attempt(ResolveFlags::CACHED).is_ok() })
    }

    /// Opens `path` for a look if the kernel has the whole path in memory. Links are followed as far as they may lead.
    pub(super) fn look_cached(self, directory: BorrowedFd<'_>, path: &CStr) -> rustix::io::Result<OwnedFd> {
        match self {
            Way::Kernel { flags, resolves_cached: true } => {
                openat2(directory, path, LOOK, Mode::empty(), flags | ResolveFlags::CACHED)
            }
            _ => Err(NOT_NOW),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        match errno {
            NOT_NOW => Failure::NotNow,
            // XDEV: out of the root. NXIO and NODEV: a socket, or a device without its driver.
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

/// A name on the path, and whether the name comes from a link.
type Step = (Vec<u8>, bool);

/// Opens `path` below the anchor with `flags`, one name at a time, so every link is read here. Each directory on the
/// way is held open, so a rename meanwhile leads nowhere else. Returns also whether the path had no link and stayed on
/// one file system.
fn walk(anchor: &Anchor, path: &[u8], flags: OFlags) -> rustix::io::Result<(OwnedFd, bool)> {
    let root = anchor.directory.as_fd();
    let mut below: Vec<OwnedFd> = Vec::new();
    let mut names: VecDeque<Step> = VecDeque::new();
    queue(path, false, &mut names);
    let (mut links, mut is_plain) = (0, true);
    while let Some((name, is_in_link)) = names.pop_front() {
        let here = below.last().map_or(root, AsFd::as_fd);
        if name == b"." {
            // The current place is a directory already.
            continue;
        }
        if name == b".." {
            // As with `RESOLVE_BENEATH`, a path that leads above the root is refused, even if the path would come back.
            below.pop().ok_or(Errno::XDEV)?;
            continue;
        }
        if is_in_link && is_hidden(&name, below.is_empty()) {
            return Err(Errno::NOENT);
        }
        let stat = statat(here, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        is_plain &= Stamp::of(&stat).device == anchor.device;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            (links, is_plain) = (links + 1, false);
            let target = readlinkat(here, name.as_slice(), Vec::new())?.into_bytes();
            match target.first() {
                _ if links > LINKS_MAX => return Err(Errno::LOOP),
                None => return Err(Errno::NOENT),
                Some(b'/') => return Err(Errno::XDEV),
                Some(_) => queue(&target, true, &mut names),
            }
        } else if names.is_empty() {
            return Ok((openat(here, name.as_slice(), flags | OFlags::NOFOLLOW, Mode::empty())?, is_plain));
        } else {
            let way = LOOK | OFlags::NOFOLLOW | OFlags::DIRECTORY;
            below.push(openat(here, name.as_slice(), way, Mode::empty())?);
        }
    }
    Ok((openat(below.last().map_or(root, AsFd::as_fd), c".", flags, Mode::empty())?, is_plain))
}

/// Whether a name in a link is hidden from requests. Volumes that are switched as a whole have a link to a directory
/// `..data`, which in turn is a link to a name with two leading dots, so such names are allowed.
fn is_hidden(name: &[u8], is_at_root: bool) -> bool {
    name.starts_with(b".") && !name.starts_with(b"..") && !(is_at_root && name == WELL_KNOWN)
}

/// Puts the names of `path` before the queued names. A slash or a dot at the end stands for a directory.
fn queue(path: &[u8], is_in_link: bool, names: &mut VecDeque<Step>) {
    for (from_end, name) in path.rsplit(|&byte| byte == b'/').enumerate() {
        let is_here = name.is_empty() || name == b".";
        match from_end {
            0 if is_here => names.push_front((b".".to_vec(), is_in_link)),
            _ if is_here => {}
            _ => names.push_front((name.to_vec(), is_in_link)),
        }
    }
}

// All tests here make system calls.
#[cfg(all(test, not(miri)))]
mod tests;
