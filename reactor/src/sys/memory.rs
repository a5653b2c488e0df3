//! The size of memory, a number that processes share, and returning memory to the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

/// Bytes that this process may use: the machine's memory, or a lower limit of its cgroup. Reads files of the kernel,
/// without a disk. `None` if the system does not say.
pub(crate) fn size() -> Option<usize> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&cgroups).into_iter().filter_map(|file| limit(&fs::read_to_string(file).ok()?));
    limits.chain(machine()).min()
}

fn machine() -> Option<usize> {
    // SAFETY: takes no pointer, and neither does the next call.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    // A process of 32 bits may run on a machine with more memory than it can number.
    Some(usize::try_from(pages).ok()?.saturating_mul(usize::try_from(page).ok()?)).filter(|&bytes| bytes > 0)
}

/// The files with the limits of a process in these cgroups: of its own cgroup and all above, in version 2 (`0::PATH`)
/// and in version 1 (`N:memory:PATH`). A container often sees its own cgroup as the root, whatever the path says.
fn limit_files(cgroups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            files.push(Path::new(root).join(group).join(file));
        }
    }
    files
}

/// Reads a limit. `max`, and the number that version 1 uses in its place (nearly 2^63), mean no limit.
fn limit(text: &str) -> Option<usize> {
    let bytes = text.trim().parse::<u64>().ok().filter(|&bytes| bytes > 0 && bytes < u64::MAX / 4)?;
    // More than a process of 32 bits can number is no limit for this process.
    usize::try_from(bytes).ok()
}

/// Returns free memory of the allocator to the system. By itself the GNU C library returns only the end of its heap,
/// and one small allocation there blocks all free memory before. Other allocators are left alone.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer, and touches only unused memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A number that this process shares with children forked later. The mapping is never removed. `None` if the system has
/// no page.
pub(crate) fn shared_counter() -> Option<&'static AtomicUsize> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANON);
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<AtomicUsize>(), access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is as long as the number, aligned to a page, zeroed (a valid number), never unmapped, and
    // only accessed as this atomic.
    Some(unsafe { &*page.cast::<AtomicUsize>() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::super::fork::FORKS;
    use super::super::process;
    use super::*;

    #[test]
    fn the_limits_of_a_cgroup_and_of_all_above_it_are_looked_at_in_both_versions() {
        let files = limit_files("12:cpu:/a\n4:blkio,memory:/jobs/one\n0::/system.slice/x.service\n");
        let expected = [
            "/sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/system.slice/x.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
        assert_eq!((limit("1073741824\n"), limit("3221225472\n")), (Some(1 << 30), Some(3 << 30)));
        assert_eq!(limit("1099511627776\n"), usize::try_from(1_u64 << 40).ok());
        assert_eq!((limit("max\n"), limit("9223372036854771712\n"), limit("0\n")), (None, None, None));
    }

    #[test]
    fn there_is_some_memory() {
        assert!(size().unwrap() > 1 << 20);
    }

    #[test]
    fn a_child_sees_what_its_parent_counts_and_the_other_way_round() {
        let _forks = FORKS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let counter = shared_counter().unwrap();
        counter.store(7, SeqCst);
        let status = process::status_of(move || {
            if counter.fetch_add(1, SeqCst) != 7 {
                std::process::abort();
            }
        });
        assert_eq!((status, counter.load(SeqCst)), (0, 8));
    }
}
