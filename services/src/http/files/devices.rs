//! Decides which file systems a loop may ask directly. Opening a file, or asking for its status, waits for a server on
//! a network file system and for a program on FUSE, even if the kernel knows the path. Asking for the kind of file
//! system may wait too, so only a helper asks, once for each mount.

use std::os::fd::AsFd;
use std::sync::{PoisonError, RwLock};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, fstat, fstatfs, makedev, statx};
use rustix::io::Errno;

use super::resolve::{NOT_NOW, Reach, Stamp};

/// Number of remembered mounts. A tree has few; above this number all mounts are asked again.
const MOUNTS_MAX: usize = 64;

/// File systems that need only the kernel, and a disk for content outside the kernel's memory (linux/magic.h).
/// Overlayfs is included, because its lower file systems are nearly always local.
const LOCAL: [u32; 17] = [
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0x7371_7368, // SquashFS
    0xe0f5_e1e2, // EROFS
    0x0000_4d44, // FAT
    0x2011_bab0, // exFAT
    0x7366_746e, // NTFS, the kernel's own
    0x0000_9660, // ISO 9660
    0x1501_3346, // UDF
    0x3153_464a, // JFS
];

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): a mount number that no later mount gets. Older kernels ignore the flag, and may
/// reuse their numbers.
const UNIQUE_MOUNT: u32 = 0x4000;

/// A mount, as [`see`] names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    device: u64,
    number: u64,
}

/// The status of an open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    pub(super) kind: FileType,
    pub(super) stamp: Stamp,
    pub(super) mount: Mount,
}

/// Returns the status of `file`. With [`Reach::Memory`] the kernel's cached status is taken, and no file system is
/// asked.
pub(super) fn see(file: impl AsFd, reach: Reach) -> rustix::io::Result<Sighting> {
    let file = file.as_fd();
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID | StatxFlags::from_bits_retain(UNIQUE_MOUNT);
    let sync = match reach {
        Reach::Memory => AtFlags::STATX_DONT_SYNC,
        Reach::Disk => AtFlags::empty(),
    };
    match statx(file, c"", AtFlags::EMPTY_PATH | sync, wanted) {
        Ok(status) => Ok(Sighting::of(&status)),
        // Before Linux 4.11, and where the call is forbidden.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) if reach == Reach::Memory => Err(NOT_NOW),
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {
            let stat = fstat(file)?;
            let stamp = Stamp::of(&stat);
            let mount = Mount { device: stamp.device, number: 0 };
            Ok(Sighting { kind: FileType::from_raw_mode(stat.st_mode), stamp, mount })
        }
        Err(errno) => Err(errno),
    }
}

impl Sighting {
    fn of(status: &Statx) -> Self {
        let nanos = |time: &StatxTimestamp| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
        let device = makedev(status.stx_dev_major, status.stx_dev_minor);
        let stamp = Stamp {
            device,
            inode: status.stx_ino,
            size: status.stx_size,
            modified: nanos(&status.stx_mtime),
            changed: nanos(&status.stx_ctime),
        };
        let kind = FileType::from_raw_mode(u32::from(status.stx_mode));
        Sighting { kind, stamp, mount: Mount { device, number: status.stx_mnt_id } }
    }
}

#[cfg(test)]
impl Mount {
    /// One for tests.
    pub(super) fn numbered(number: u64) -> Self {
        Mount { device: 0, number }
    }
}

/// The known mounts, each with its kind of file system.
#[derive(Debug, Default)]
pub(super) struct Devices(RwLock<Vec<(Mount, bool)>>);

impl Devices {
    /// Whether the file system of `file`, which lies on `mount`, is local; [`NOT_NOW`] if that has to be asked first and
    /// nobody may wait.
    pub(super) fn is_local(&self, mount: Mount, file: impl AsFd, reach: Reach) -> rustix::io::Result<bool> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, is_local)) = known.iter().find(|(of, _)| *of == mount) {
            return Ok(*is_local);
        }
        drop(known);
        if reach == Reach::Memory {
            return Err(NOT_NOW);
        }
        #[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast, reason = "magic numbers have 32 bits")]
        let is_local = fstatfs(file).is_ok_and(|status| LOCAL.contains(&(status.f_type as u32)));
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOUNTS_MAX {
            known.clear();
        }
        known.push((mount, is_local));
        Ok(is_local)
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_mount_is_asked_about_by_one_who_may_wait_and_known_from_then_on() {
        let file = File::open(std::env::temp_dir()).unwrap();
        let mount = see(&file, Reach::Disk).unwrap().mount;
        let devices = Devices::default();
        assert_eq!(devices.is_local(mount, &file, Reach::Memory), Err(NOT_NOW));
        let is_local = devices.is_local(mount, &file, Reach::Disk).unwrap();
        assert_eq!(devices.is_local(mount, &file, Reach::Memory), Ok(is_local));
        // No disk lies behind it, but none of its files has content that the kernel keeps.
        let proc = File::open("/proc/self").unwrap();
        let mount = see(&proc, Reach::Disk).unwrap().mount;
        assert_eq!(devices.is_local(mount, &proc, Reach::Disk), Ok(false));
    }

    #[test]
    fn both_calls_say_the_same_of_a_file() {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let stamp = Stamp::of(&fstat(&file).unwrap());
        assert_eq!(see(&file, Reach::Disk).unwrap().stamp, stamp);
        if let Ok(sighting) = see(&file, Reach::Memory) {
            assert_eq!(sighting.stamp, stamp);
        }
    }
}
