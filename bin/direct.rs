//! The log of a process that must have no other thread, since it forks: whoever has a line writes it. Parent and children
//! share what they write to, so each line is one write that the kernel keeps apart from those of the others.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sink::{Lines, open};

/// Bytes that one write puts into a pipe in one piece (`PIPE_BUF`), and for which there is room in one that takes any.
const ATOMIC_BYTES: usize = 4096;

/// Lines that wait until writing begins: far more than a start has to say.
const HELD_LINES: usize = 1024;

pub struct Direct(Mutex<Output>);

struct Output {
    /// None if there is no descriptor to be had: then everything is lost.
    to: Option<File>,
    /// How much of it stays in one piece.
    piece: usize,
    /// Of a file, which can be opened anew.
    path: Option<PathBuf>,
    /// What waits for the start.
    held: Option<Vec<String>>,
    /// Lines that were not written since the last one that was.
    lost: u64,
    /// The last write ended within a line.
    torn: bool,
    complain: Option<Lines>,
    strict: Option<&'static str>,
}

impl Direct {
    pub fn new(to: Option<OwnedFd>, path: Option<&Path>, complain: Option<Lines>) -> Self {
        let mut output = Output {
            to: None,
            piece: ATOMIC_BYTES,
            path: path.map(Path::to_owned),
            held: Some(Vec::new()),
            lost: 0,
            torn: false,
            complain,
            strict: None,
        };
        output.take(to.map(File::from));
        Direct(Mutex::new(output))
    }

    fn lock(&self) -> MutexGuard<'_, Output> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing but its lines is written, and losses are told elsewhere under this name.
    pub fn set_strict(&self, name: &'static str) {
        self.lock().strict = Some(name);
    }

    /// Writes some whole lines, those for which there is room now.
    pub fn put(&self, text: &str) {
        let mut output = self.lock();
        for line in text.split_inclusive('\n') {
            output.put(line);
        }
    }

    /// Opens the file anew. The old one stays in use if there is no new one to be had.
    pub fn reopen(&self) {
        let mut output = self.lock();
        let Some(path) = output.path.clone() else { return };
        match open(&path) {
            Ok(file) => output.take(Some(file)),
            Err(error) => {
                let name = output.strict.unwrap_or("log file");
                output.complain(&format!("{name} {}: {error}; the old one stays in use\n", path.display()));
            }
        }
    }

    /// Writes what waited, and from now on each line at once.
    pub fn start(&self) {
        let mut output = self.lock();
        for line in output.held.take().unwrap_or_default() {
            output.put(&line);
        }
    }

    /// Forgets what waits.
    pub fn discard(&self) {
        if let Some(held) = &mut self.lock().held {
            held.clear();
        }
    }

    /// Tells of what is missing at the end.
    pub fn finish(&self) {
        let mut output = self.lock();
        if output.held.is_none() {
            output.note_losses();
        }
    }
}

impl Output {
    fn take(&mut self, to: Option<File>) {
        // What is appended to a file stays in one piece whatever its length.
        let is_file = to.as_ref().is_some_and(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()));
        self.piece = if is_file { usize::MAX } else { ATOMIC_BYTES };
        (self.to, self.torn) = (to, false);
    }

    fn put(&mut self, line: &str) {
        if let Some(held) = &mut self.held {
            if held.len() < HELD_LINES {
                held.push(line.to_owned());
            } else {
                self.lost += 1;
            }
            return;
        }
        self.note_losses();
        // While there is no room to say what is missing, there is none for what comes after it.
        if (self.lost > 0 && self.strict.is_none()) || !self.write(line) {
            self.lost += 1;
        }
    }

    fn note_losses(&mut self) {
        match (self.lost, self.strict) {
            (0, _) => {}
            (lost, Some(name)) if self.is_ready() => {
                self.lost = 0;
                self.complain(&format!("{name}: {lost} lines lost\n"));
            }
            (_, Some(_)) => {}
            (lost, None) => {
                if self.write(&format!("{lost} log lines lost\n")) {
                    self.lost = 0;
                }
            }
        }
    }

    fn complain(&self, text: &str) {
        if let Some(lines) = &self.complain {
            lines.put(text);
        }
    }

    /// Whether there is room for a piece. Another process may take it before it is used: then the write waits for
    /// whoever reads.
    fn is_ready(&self) -> bool {
        let Some(to) = &self.to else { return false };
        let mut one = [PollFd::new(to, PollFlags::OUT)];
        poll(&mut one, Some(&Timespec::default())).is_ok_and(|count| count == 1)
            && one[0].revents().contains(PollFlags::OUT)
    }

    /// Whether all of it is written, in one piece.
    fn write(&mut self, line: &str) -> bool {
        let torn = if self.torn { "\n" } else { "" };
        if torn.len() + line.len() > self.piece || !self.is_ready() {
            return false;
        }
        let text = format!("{torn}{line}");
        let Some(to) = &mut self.to else { return false };
        loop {
            return match to.write(text.as_bytes()) {
                Ok(count) => {
                    if count > 0 {
                        self.torn = count < text.len();
                    }
                    count == text.len()
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => false,
            };
        }
    }
}

/// Another descriptor for the same.
pub fn same_as(descriptor: impl AsFd) -> Option<OwnedFd> {
    descriptor.as_fd().try_clone_to_owned().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn piped() -> (Direct, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (Direct::new(Some(writer.into()), None, None), reader)
    }

    fn scratch() -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("direct-{}-{number}", std::process::id()))
    }

    #[test]
    fn what_was_held_is_written_first_and_then_each_line_at_once_by_nobody_else() {
        let (direct, mut reader) = piped();
        direct.put("noise\n");
        direct.discard();
        direct.put("held\n");
        direct.start();
        direct.put("one\ntwo\n");
        let mut text = [0; 13];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"held\none\ntwo\n");
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_up_nobody_and_is_told_how_many_lines_it_missed_and_where() {
        let (direct, mut reader) = piped();
        direct.start();
        let line = format!("{}\n", "x".repeat(ATOMIC_BYTES - 1));
        // Linux gives a pipe 64 KiB, and less to who has many.
        (0..100).for_each(|_| direct.put(&line));
        let lost = direct.lock().lost;
        assert!((84..100).contains(&lost), "{lost}");
        let mut text = vec![0; (100 - lost as usize) * line.len()];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(text, line.repeat(100 - lost as usize).as_bytes());
        direct.put("late\n");
        drop(direct);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("{lost} log lines lost\nlate\n"));
    }

    #[test]
    fn a_line_that_a_pipe_would_not_keep_in_one_piece_is_lost_and_a_file_takes_it() {
        let long = format!("{}\n", "x".repeat(ATOMIC_BYTES));
        let (direct, mut reader) = piped();
        direct.start();
        direct.put(&long);
        direct.put("short\n");
        drop(direct);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1 log lines lost\nshort\n");
        let path = scratch();
        let direct = Direct::new(open(&path).ok().map(Into::into), Some(&path), None);
        direct.start();
        direct.put(&long);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), long);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_is_opened_anew_when_asked_and_two_append_to_one_without_mixing() {
        let (path, moved) = (scratch(), scratch());
        let [one, other] = [(); 2].map(|()| {
            let direct = Direct::new(open(&path).ok().map(Into::into), Some(&path), None);
            direct.start();
            direct
        });
        one.put("a\n");
        other.put("b\n");
        one.put("c\n");
        std::fs::rename(&path, &moved).unwrap();
        one.reopen();
        one.put("d\n");
        other.put("e\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "d\n");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "a\nb\nc\ne\n");
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(moved).unwrap();
    }
}
