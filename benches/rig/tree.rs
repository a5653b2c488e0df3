//! A server with all its descendants: CPU time and memory of the whole tree of processes.

use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

/// The unit of `stat`: USER_HZ, which is 100 wherever Linux runs.
const TICK_NANOS: u64 = 10_000_000;

/// A process and its descendants, including children that have ended without being waited for.
pub fn processes(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while next < all.len() {
        for task in tasks(all[next]).unwrap_or_default() {
            let children = read_to_string(task.join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    all
}

/// CPU time of the tree so far, in nanoseconds. It is exact for running threads, from the scheduler. For ended threads
/// and reaped children it is in ticks of 10 ms, so some seconds of work are needed.
pub fn cpu_nanos(root: u32) -> std::io::Result<u64> {
    let own = of_process(root)?;
    // A process that has ended since the list was made is in its parent's sum, or will be after its parent's wait.
    Ok(own + processes(root)[1..].iter().filter_map(|&pid| of_process(pid).ok()).sum::<u64>())
}

fn of_process(pid: u32) -> std::io::Result<u64> {
    let mut there = 0;
    for task in tasks(pid)? {
        there += read_to_string(task.join("schedstat")).map_or(0, |text| number(&text, 0));
    }
    let stat = read_to_string(format!("/proc/{pid}/stat"))?;
    // The name comes first and may hold spaces. After it, as the 12th word: utime, stime, cutime, cstime.
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let [user, system, user_of_children, system_of_children] = [11, 12, 13, 14].map(|n| number(words, n) * TICK_NANOS);
    // The ticks include ended threads, and are cut off; the scheduler excludes ended threads, and is exact.
    Ok(there.max(user + system) + user_of_children + system_of_children)
}

fn number(text: &str, word: usize) -> u64 {
    text.split_whitespace().nth(word).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn tasks(pid: u32) -> std::io::Result<Vec<PathBuf>> {
    read_dir(format!("/proc/{pid}/task"))?.map(|task| Ok(task?.path())).collect()
}

/// Bytes of memory: a page shared within the tree counts once in the sum, in part for each process.
pub fn proportional(root: u32) -> u64 {
    processes(root).iter().filter_map(|&pid| rollup(pid, "Pss:").ok()).sum()
}

/// Bytes of a process, counted page by page: the sums in `status` lag behind.
pub fn rollup(pid: u32, field: &str) -> Result<u64, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = read_to_string(Path::new(&path)).map_err(|why| format!("{path}: {why}"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix("kB"));
    let kib: Option<u64> = kib.and_then(|kib| kib.trim().parse().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| format!("no {field} in {path}"))
}
