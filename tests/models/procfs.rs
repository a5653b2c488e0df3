//! Facts of a process from Linux's proc(5): children, descriptors, threads and sleep.

use std::fs;
use std::path::Path;

use rustix::process::Pid;

use crate::support::command::Glowplug;

/// The existing child processes of the command, zombies included.
pub fn children(glowplug: &Glowplug) -> Vec<Pid> {
    let pid = glowplug.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    children.split_whitespace().map(|child| child.parse().ok().and_then(Pid::from_raw).expect("a number")).collect()
}

/// The descriptors of a process: number and target.
pub fn descriptors(pid: Pid) -> Vec<(String, String)> {
    let pid = pid.as_raw_nonzero();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").map_while(Result::ok);
    let name = |path: &Path| path.file_name().expect("a number").to_string_lossy().into_owned();
    // A descriptor that is closed meanwhile is left out.
    let mut all: Vec<_> =
        open.filter_map(|fd| Some((name(&fd.path()), fs::read_link(fd.path()).ok()?.display().to_string()))).collect();
    all.sort();
    all
}

/// Descriptors that a child with one connection must not hold. Allowed are its connection, its channel, its poller, its
/// wake-up, the files that the parent had at the start, one descriptor of the site's directory, and one of a file
/// below. Another socket, or the reading end of the pipe for lost lines, is too many.
pub fn too_many(child: Pid, of_the_parent: &[(String, String)], site: &Path) -> Vec<(String, String)> {
    let is = |kind: &'static str| move |(_, to): &&(String, String)| to.starts_with(kind);
    let mut held = descriptors(child);
    let (mut sockets, mut directories, mut files) = (0, 0, 0);
    held.retain(|(fd, to)| match to {
        _ if to.starts_with("socket:") => {
            sockets += 1;
            sockets > 2 || of_the_parent.iter().any(|(_, parents)| parents == to)
        }
        // Standard input and output are the parent's.
        _ if to.starts_with("pipe:") && !matches!(&**fd, "0" | "1" | "2") && is_for_reading(child, fd) => true,
        _ if Path::new(to) == site => {
            directories += 1;
            directories > 1
        }
        _ if Path::new(to).starts_with(site) => {
            files += 1;
            files > 1
        }
        _ if to.starts_with("anon_inode:") => false,
        _ => !of_the_parent.iter().any(|(_, parents)| parents == to),
    });
    let of_child = descriptors(child);
    for kind in ["anon_inode:[eventpoll]", "anon_inode:[eventfd]"] {
        held.extend(of_child.iter().filter(is(kind)).skip(1).cloned());
    }
    held
}

/// Whether a descriptor is open only for reading. False for a descriptor that has been closed.
fn is_for_reading(pid: Pid, fd: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", pid.as_raw_nonzero())).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
    flags.is_some_and(|flags| flags.ends_with('0'))
}

fn status(pid: Pid, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
    value.expect("Linux tells").trim().to_owned()
}

pub fn is_asleep(pid: Pid) -> bool {
    status(pid, "State").starts_with('S')
}

/// Number of times that a process has slept.
pub fn times_slept(pid: Pid) -> u64 {
    status(pid, "voluntary_ctxt_switches").parse().expect("a number")
}

/// Number of a process's threads.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").count()
}

/// The names of a process's threads.
pub fn names_of_threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").map_while(Result::ok);
    // A thread that has ended meanwhile has no name.
    tasks.filter_map(|task| Some(fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned())).collect()
}

/// Whether the process has ended. The process that adopts an orphan may be slow to reap it.
pub fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}
