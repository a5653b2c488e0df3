//! Lines that could not be written: how many, why, and who is told, once a second at most.
//!
//! A process that forks counts for all of its children: each writes a record of what it has lost into one pipe, which the
//! parent looks into once a second, and at the end. A child ends without another word, so it does not count by itself.

use std::fmt::Display;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use crate::line::stamped;
use crate::sink::Lines;

/// How often losses of one kind are told at most.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// Records that wait for the parent: more than processes lose lines in a second. Linux gives as much to anybody.
const PIPE_BYTES: usize = 1024 * 1024;
/// A record: how many lines, of which output, and why.
const RECORD: usize = 8;

/// Why a line was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The system said so when it was to be written.
    System(i32),
    /// Nobody reads, and the pipe or the terminal is full.
    Full,
    /// It is longer than what a pipe keeps in one piece.
    TooLong,
    /// The queue of the thread that writes was full.
    Behind,
}

impl Cause {
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) if error.kind() != io::ErrorKind::WouldBlock => Cause::System(code),
            _ => Cause::Full,
        }
    }

    fn number(self) -> i32 {
        match self {
            Cause::System(code) => code,
            Cause::Full => 0,
            Cause::TooLong => -1,
            Cause::Behind => -2,
        }
    }

    fn numbered(number: i32) -> Self {
        match number {
            0 => Cause::Full,
            -1 => Cause::TooLong,
            -2 => Cause::Behind,
            code => Cause::System(code),
        }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::System(code) => io::Error::from_raw_os_error(*code).fmt(f),
            Cause::Full => f.write_str("there was no room for them, since nobody reads it"),
            Cause::TooLong => f.write_str("a pipe takes no line of more than 4096 bytes in one piece"),
            Cause::Behind => f.write_str("they came faster than they were written"),
        }
    }
}

/// Losses of one output that nobody has been told of yet.
#[derive(Debug, Default)]
pub struct Tally {
    lost: u64,
    cause: Option<Cause>,
    told: Option<Instant>,
}

impl Tally {
    pub fn add(&mut self, lost: u64, cause: Cause) {
        if lost > 0 {
            self.lost += lost;
            self.cause = Some(cause);
        }
    }

    /// How long until they may be told; `None` where there is nothing to tell.
    pub fn due_in(&self) -> Option<Duration> {
        (self.lost > 0).then(|| self.told.map_or(Duration::ZERO, |told| TOLD_EVERY.saturating_sub(told.elapsed())))
    }

    /// The line that tells, if there is something to tell and it is time; at the `last` it is always time. Call
    /// [`Tally::is_told`] once it is written.
    pub fn line(&self, name: &str, last: bool) -> Option<String> {
        let is_due = self.due_in().is_some_and(|left| last || left.is_zero());
        let cause = self.cause.filter(|_| is_due)?;
        let lines = if self.lost == 1 { "line" } else { "lines" };
        Some(stamped(Level::Warn, format!("{name}: {} {lines} lost: {cause}", self.lost)))
    }

    pub fn is_told(&mut self) {
        (self.lost, self.told) = (0, Some(Instant::now()));
    }
}

/// Where the processes of one application say what they have lost.
#[derive(Debug)]
pub struct Records(Arc<PipeWriter>);

/// What one output of this process has lost.
#[derive(Debug)]
pub struct Account {
    records: Arc<PipeWriter>,
    output: u8,
    /// Lost, and not recorded: there was no room in the pipe.
    left: AtomicU32,
}

impl Records {
    /// With the end that the parent reads.
    pub fn new() -> io::Result<(Self, PipeReader)> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        #[cfg(target_os = "linux")]
        {
            // What there is does for most.
            let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES);
        }
        Ok((Records(Arc::new(writer)), reader))
    }

    /// For the output of this number.
    pub fn account(&self, output: u8) -> Account {
        Account { records: self.0.clone(), output, left: AtomicU32::new(0) }
    }
}

impl Account {
    pub fn add(&self, lost: u32, cause: Cause) {
        let lost = self.left.swap(0, Relaxed).saturating_add(lost).min(0x00ff_ffff);
        let mut record = [0; RECORD];
        record[..4].copy_from_slice(&(lost << 8 | u32::from(self.output)).to_le_bytes());
        record[4..].copy_from_slice(&cause.number().to_le_bytes());
        // So short a record is written whole or not at all.
        if (&*self.records).write(&record).is_err() {
            self.left.fetch_add(lost, Relaxed);
        }
    }
}

/// The parent's view of what all processes have lost.
#[derive(Clone)]
pub struct Collected(Arc<Mutex<Collection>>);

struct Collection {
    reader: PipeReader,
    outputs: Vec<Output>,
}

struct Output {
    name: String,
    tally: Tally,
    /// Who is told.
    tell: Vec<Lines>,
}

impl Collected {
    pub fn new(reader: PipeReader) -> Self {
        Collected(Arc::new(Mutex::new(Collection { reader, outputs: Vec::new() })))
    }

    /// Outputs have numbers in the order in which they come.
    pub fn add(&self, name: String, tell: Vec<Lines>) {
        let mut collection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        collection.outputs.push(Output { name, tally: Tally::default(), tell });
    }

    /// Looks what was lost, and tells of it what is due; at the end, all. Never blocks.
    pub fn tell(&self, last: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tell(last);
    }
}

impl Collection {
    fn tell(&mut self, last: bool) {
        let mut records = [0; 4096];
        while let Ok(count) = (&self.reader).read(&mut records) {
            if count == 0 {
                break;
            }
            for record in records[..count].as_chunks::<RECORD>().0 {
                let [a, b, c, d, cause @ ..] = *record;
                let lost = u32::from_le_bytes([b, c, d, 0]);
                if let Some(output) = self.outputs.get_mut(usize::from(a)) {
                    output.tally.add(lost.into(), Cause::numbered(i32::from_le_bytes(cause)));
                }
            }
        }
        for Output { name, tally, tell } in &mut self.outputs {
            if let Some(line) = tally.line(name, last)
                && tell.iter().filter(|lines| lines.try_put(&line)).count() > 0
            {
                tally.is_told();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn losses_are_told_with_their_cause_and_once_a_second_at_most() {
        let mut tally = Tally::default();
        assert_eq!((tally.line("x", true), tally.due_in()), (None, None));
        tally.add(1, Cause::Full);
        tally.add(2, Cause::System(Errno::NOSPC.raw_os_error()));
        let line = tally.line("the log", false).unwrap();
        assert!(line.ends_with(" [WARN] the log: 3 lines lost: No space left on device (os error 28)\n"), "{line}");
        tally.is_told();
        tally.add(1, Cause::Behind);
        assert_eq!(tally.line("the log", false), None);
        assert!(tally.due_in().is_some_and(|left| !left.is_zero()));
        assert!(tally.line("the log", true).unwrap().contains("the log: 1 line lost: "));
    }

    #[test]
    fn what_each_process_records_is_counted_and_nothing_is_lost_when_the_pipe_is_full() {
        let (records, mut reader) = Records::new().unwrap();
        let accounts = [records.account(0), records.account(1)];
        let mut added = 0;
        // More than the pipe holds: what finds no room is in a later record.
        for _ in 0..PIPE_BYTES / RECORD + 10 {
            accounts[1].add(1, Cause::TooLong);
            added += 1;
        }
        let mut all = vec![0; 64 * 1024];
        let mut counted = 0;
        while let Ok(count) = reader.read(&mut all) {
            for record in all[..count].as_chunks::<RECORD>().0 {
                assert_eq!((record[0], i32::from_le_bytes(*record.last_chunk().unwrap())), (1, -1));
                counted += u32::from_le_bytes([record[1], record[2], record[3], 0]);
            }
            // Now there is room for what found none.
            accounts[1].add(0, Cause::TooLong);
            if counted == added {
                break;
            }
        }
        assert_eq!(counted, added);
    }
}
