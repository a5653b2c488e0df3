//! Child processes that speak in lines. Each wait has a limit, and each child is ended by its own handle, also after a
//! failure.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Limit for a server to end after SIGTERM, and for a watcher to write its counts.
pub const END: Duration = Duration::from_secs(10);

/// Descriptors of a benchmark and of a server besides the members, and those that the server reserves.
pub const OTHER_DESCRIPTORS: u64 = 64;

/// A child process. Dropping the value, in a panic too, kills and reaps the child.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// `errors`: the destination of standard error.
    pub fn start(words: &[OsString], errors: Stdio) -> Result<Process, String> {
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|why| format!("{}: {why}", Path::new(&words[0]).display()))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let (sender, lines) = channel();
        // A thread, because a pipe has no read with a time limit. The thread ends with the child's output.
        std::thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Process { child, stdin, lines })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output.
    pub fn line(&mut self, limit: Duration) -> Result<String, String> {
        self.lines.recv_timeout(limit).map_err(|why| match why {
            RecvTimeoutError::Timeout => format!("nothing said for {} s", limit.as_secs()),
            RecvTimeoutError::Disconnected => match self.wait(END) {
                Ok(Some(status)) => format!("it has ended: {status}"),
                Ok(None) => "it has closed its standard output".to_owned(),
                Err(why) => why.to_string(),
            },
        })
    }

    pub fn say(&mut self, line: &str) -> std::io::Result<()> {
        self.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(line.as_bytes()))
    }

    /// The exit status, if the child ends within the limit. Asks every few milliseconds: nothing is measured meanwhile.
    pub fn wait(&mut self, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a watcher's file once `complete` says that the file is whole: strace writes after its server has ended.
pub fn written(path: &Path, complete: impl Fn(&str) -> bool) -> Result<String, String> {
    let end = Instant::now() + END;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if complete(&text) {
            return Ok(text);
        }
        if Instant::now() >= end {
            return Err(format!("its watcher has left no counts in {}", path.display()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a command can be run here and succeeds.
pub fn works(prefix: &[String], words: &[&str]) -> bool {
    let mut all = prefix.iter().map(String::as_str).chain(words.iter().copied());
    let Some(program) = all.next() else { return false };
    let quiet =
        Command::new(program).args(all).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// Raises the limit of descriptors of this process and of its children to the hard limit, if `needed` fit in it.
pub fn raise_descriptor_limit(needed: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|hard| hard < needed) {
        return Err(format!("the limit of descriptors is {:?}, and {needed} are needed", limit.maximum));
    }
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).map_err(|why| format!("the limit of descriptors: {why}"))
}
