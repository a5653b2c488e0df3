//! Child processes that speak in lines. Each wait has a limit, and each child is ended by its own handle, whatever
//! happened.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// For a server to end after SIGTERM, and for a watcher to write down what it saw.
pub const END: Duration = Duration::from_secs(10);

/// A child that does not outlive its value: dropping it, in a panic too, kills and reaps it.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// `errors`: where its standard error goes.
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
        // A thread, because a pipe has no read with a time limit. It ends with its child's output.
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

    /// Its next line of standard output.
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

    /// How it has ended, if within the limit. Asks every few milliseconds: nothing is measured meanwhile.
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
        // Both fail only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a watcher wrote to `path` once `complete` says that it is whole: strace does so after its server is gone.
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
