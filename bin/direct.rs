//! The log of a process without a writing thread: a process that forks must have no other thread, and another process
//! may get none. Each caller writes its own lines. Parent and children share the output, so each line is one write,
//! which the kernel does not mix with other writes.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::Level;
use rustix::event::Timespec;

use crate::line::stamped;
use crate::losses::{Account, Cause, Tally};
use crate::sink::Lines;
use crate::target::{has_room, open, write};

/// Bytes that a write puts into a pipe in one piece (`PIPE_BUF`). A pipe that reports room has room for this many bytes.
pub const ATOMIC_BYTES: usize = 4096;

/// Lines held until writing begins: far more than a start logs.
const HELD_LINES: usize = 1024;

pub struct Direct {
    output: Mutex<Output>,
    /// The output's name in messages.
    name: String,
    losses: Losses,
}

/// How losses are counted.
pub enum Losses {
    /// In a process that forks: the parent counts for all children.
    Recorded(Account),
    /// Counted here. Losses are reported to `tell`, and with `in_place` also to the output itself, when it takes lines
    /// again.
    Told { tally: Mutex<Tally>, tell: Vec<Lines>, in_place: bool },
}

struct Output {
    /// `None` if no descriptor could be opened: then every line is lost.
    to: Option<File>,
    /// Bytes of a write that stay in one piece.
    piece: usize,
    /// Set for a file: the path to reopen.
    path: Option<PathBuf>,
    /// Lines held until the start.
    held: Option<Vec<String>>,
    /// The last write ended inside a line.
    torn: bool,
}

impl Direct {
    /// Makes an output whose lines are held until [`Direct::start`].
    pub fn new(to: Option<File>, path: Option<PathBuf>, name: String, losses: Losses) -> Self {
        let mut output = Output { to: None, piece: ATOMIC_BYTES, path, held: Some(Vec::new()), torn: false };
        output.take(to);
        Direct { output: Mutex::new(output), name, losses }
    }

    fn lock(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whole lines as far as the output has room now. The rest is counted as lost.
    pub fn put(&self, text: &str) {
        let mut output = self.lock();
        for line in text.split_inclusive('\n') {
            self.put_line(&mut output, line);
        }
    }

    /// Writes a line if the output has room now. Returns whether the line was written or held; a refused line is not
    /// counted.
    pub fn try_put(&self, line: &str) -> bool {
        self.lock().put(line).is_ok()
    }

    fn put_line(&self, output: &mut Output, line: &str) {
        self.tell(output, false);
        if let Err(cause) = output.put(line) {
            match &self.losses {
                Losses::Recorded(account) => account.add(1, cause),
                Losses::Told { tally, .. } => tally.lock().unwrap_or_else(PoisonError::into_inner).add(1, cause),
            }
            self.tell(output, false);
        }
    }

    /// Reports the losses counted here, if a report is due.
    fn tell(&self, output: &mut Output, last: bool) {
        let Losses::Told { tally, tell, in_place } = &self.losses else { return };
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = tally.line(&self.name, last) else { return };
        let elsewhere = tell.iter().filter(|lines| lines.try_put(&line)).count() > 0;
        let here = *in_place && output.put(&line).is_ok();
        if elsewhere || here {
            tally.is_told();
        }
    }

    /// Reopens the file. Returns an error line if the file cannot be opened: then the old file stays in use.
    pub fn reopen(&self) -> Result<(), String> {
        let mut output = self.lock();
        let Some(path) = &output.path else { return Ok(()) };
        let opened = open(path).map_err(|error| not_anew(&self.name, &error))?;
        output.take(Some(opened));
        Ok(())
    }

    /// Writes the held lines. Later lines are written at once.
    pub fn start(&self) {
        let mut output = self.lock();
        for line in output.held.take().unwrap_or_default() {
            self.put_line(&mut output, &line);
        }
    }

    /// Drops the held lines.
    pub fn discard(&self) {
        if let Some(held) = &mut self.lock().held {
            held.clear();
        }
    }

    /// Reports the remaining losses at the end.
    pub fn finish(&self) {
        let mut output = self.lock();
        if output.held.is_none() {
            self.tell(&mut output, true);
        }
    }
}

/// An ERROR line for a file that could not be reopened.
pub fn not_anew(name: &str, error: &std::io::Error) -> String {
    stamped(Level::Error, format!("{name}: {error}; the old one stays in use"))
}

impl Output {
    fn take(&mut self, to: Option<File>) {
        // An append to a file stays in one piece at any length.
        let is_file = to.as_ref().is_some_and(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()));
        self.piece = if is_file { usize::MAX } else { ATOMIC_BYTES };
        (self.to, self.torn) = (to, false);
    }

    fn put(&mut self, line: &str) -> Result<(), Cause> {
        match &mut self.held {
            Some(held) if held.len() < HELD_LINES => held.push(line.to_owned()),
            Some(_) => return Err(Cause::Behind),
            None => return self.write(line),
        }
        Ok(())
    }

    /// Writes a line in one piece. Another process may take the room first: then the write waits for the reader, if the
    /// descriptor is blocking.
    fn write(&mut self, line: &str) -> Result<(), Cause> {
        let text = if self.torn { format!("\n{line}") } else { line.to_owned() };
        if text.len() > self.piece {
            return Err(Cause::TooLong);
        }
        let Some(to) = self.to.as_mut().filter(|to| has_room(to, Timespec::default())) else { return Err(Cause::Full) };
        let written = write(to, text.as_bytes());
        if written.bytes > 0 {
            self.torn = written.bytes < text.len();
        }
        written.error.map_or(Ok(()), |error| Err(Cause::of(&error)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn here(in_place: bool) -> Losses {
        Losses::Told { tally: Mutex::default(), tell: Vec::new(), in_place }
    }

    fn piped() -> (Direct, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (Direct::new(Some(OwnedFd::from(writer).into()), None, "the pipe".to_owned(), here(true)), reader)
    }

    fn filed(path: &std::path::Path) -> Direct {
        let direct = Direct::new(open(path).ok(), Some(path.to_owned()), "the file".to_owned(), here(true));
        direct.start();
        direct
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
        // Linux gives a pipe 64 KiB, and less to a user with many pipes.
        let written = (0..100).take_while(|_| direct.try_put(&line)).count();
        assert!((1..=16).contains(&written), "{written}");
        (0..5).for_each(|_| direct.put(&line));
        let mut text = vec![0; written * line.len()];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(text, line.repeat(written).as_bytes());
        direct.put("late\n");
        drop(direct);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let (missing, late) = rest.split_once('\n').unwrap();
        assert!(missing.contains(" [WARN] the pipe: 5 lines lost: the output is full"), "{missing}");
        assert_eq!(late, "late\n");
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
        assert!(text.contains("1 line lost: a pipe takes no line of more than 4096 bytes"), "{text}");
        assert!(text.ends_with("\nshort\n"), "{text}");
        let path = scratch();
        let direct = filed(&path);
        direct.put(&long);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), long);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_is_opened_anew_when_asked_and_two_append_to_one_without_mixing() {
        let (path, moved) = (scratch(), scratch());
        let [one, other] = [(); 2].map(|()| filed(&path));
        one.put("a\n");
        other.put("b\n");
        one.put("c\n");
        std::fs::rename(&path, &moved).unwrap();
        one.reopen().unwrap();
        one.put("d\n");
        other.put("e\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "d\n");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "a\nb\nc\ne\n");
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(moved).unwrap();
    }
}
