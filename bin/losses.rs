//! Lines that could not be written: the number, the cause, and a report at most once a second.
//!
//! A process that forks counts for all of its children: each child writes a record of its losses into one pipe. The
//! parent's loop watches the other end ([`Watcher`]), so nothing costs time while no line is lost. Remaining records
//! are read at the end. A child may end without notice, so children keep no count of their own.

use std::fmt::Display;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;
use reactor::{Context, Handler, Input};

use crate::line::stamped;
use crate::sink::Lines;

/// Shortest time between two reports of an output's losses.
const LOGGED_EVERY: Duration = Duration::from_secs(1);
/// Capacity of the pipe: more records than all processes write in a second. Linux allows this size to every user.
const PIPE_BYTES: usize = 1024 * 1024;
/// A record: number of lines, output, and cause.
const RECORD: usize = 8;

/// Why a line was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The write failed with this error.
    System(i32),
    /// The pipe or the terminal is full, because its reader does not read.
    Full,
    /// The line is longer than a pipe keeps in one piece.
    TooLong,
    /// The queue of the writing thread was full.
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
            Cause::Full => f.write_str("the output is full, and its reader does not read"),
            Cause::TooLong => f.write_str("a pipe takes no line of more than 4096 bytes in one piece"),
            Cause::Behind => f.write_str("they came faster than they were written"),
        }
    }
}

/// Losses of one output that are not reported yet.
#[derive(Debug, Default)]
pub struct Tally {
    lost: u64,
    cause: Option<Cause>,
    logged_at: Option<Instant>,
}

impl Tally {
    pub fn add(&mut self, lost: u64, cause: Cause) {
        if lost > 0 {
            self.lost += lost;
            self.cause = Some(cause);
        }
    }

    /// Time until the losses may be reported. `None` without losses.
    pub fn due_in(&self) -> Option<Duration> {
        (self.lost > 0).then(|| {
            self.logged_at.map_or(Duration::ZERO, |logged_at| LOGGED_EVERY.saturating_sub(logged_at.elapsed()))
        })
    }

    /// Returns the report if losses exist and a report is due; the `last` report is always due. Call [`Tally::is_told`]
    /// when the report is written.
    pub fn line(&self, name: &str, last: bool) -> Option<String> {
        let is_due = self.due_in().is_some_and(|left| last || left.is_zero());
        let cause = self.cause.filter(|_| is_due)?;
        let lines = if self.lost == 1 { "line" } else { "lines" };
        Some(stamped(Level::Warn, format!("{name}: {} {lines} lost: {cause}", self.lost)))
    }

    pub fn is_told(&mut self) {
        (self.lost, self.logged_at) = (0, Some(Instant::now()));
    }
}

/// The pipe on which the processes of one application record their losses.
#[derive(Debug)]
pub struct Records(Arc<PipeWriter>);

/// Counts the lines that one output of this process (standard error, the log file, the access log) has lost.
#[derive(Debug)]
pub struct Account {
    records: Arc<PipeWriter>,
    output: u8,
    /// Lost lines that are not recorded yet, because the pipe had no room.
    left: AtomicU32,
}

impl Records {
    /// Makes the pipe. The parent keeps the reading end.
    pub fn new() -> io::Result<(Self, PipeReader)> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        #[cfg(target_os = "linux")]
        {
            // Without the larger size the default suffices for most applications.
            let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES);
        }
        Ok((Records(Arc::new(writer)), reader))
    }

    /// The account of the output with number `output`.
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
        // A write of so few bytes is atomic: the pipe takes all or nothing.
        if (&*self.records).write(&record).is_err() {
            self.left.fetch_add(lost, Relaxed);
        }
    }
}

/// The parent's counts of the losses of all processes.
#[derive(Clone)]
pub struct Collected(Arc<Mutex<Collection>>);

struct Collection {
    /// `None` in a child, which does not read.
    reader: Option<PipeReader>,
    /// A duplicate of `reader`, for the loop. Made before the application compares its descriptors with the limit, so it counts.
    watched: Option<OwnedFd>,
    /// A part of a record that has been read.
    begun: Vec<u8>,
    outputs: Vec<Output>,
}

struct Output {
    name: String,
    tally: Tally,
    /// Outputs for the report.
    tell: Vec<Lines>,
}

impl Collected {
    pub fn new(reader: PipeReader) -> io::Result<Self> {
        let watched = Some(reader.as_fd().try_clone_to_owned()?);
        let (begun, outputs) = (Vec::new(), Vec::new());
        Ok(Collected(Arc::new(Mutex::new(Collection { reader: Some(reader), watched, begun, outputs }))))
    }

    fn lock(&self) -> MutexGuard<'_, Collection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an output. Outputs are numbered in the order of these calls.
    pub fn add(&self, name: String, tell: Vec<Lines>) {
        self.lock().outputs.push(Output { name, tally: Tally::default(), tell });
    }

    /// In a child: closes the parent's end of the pipe.
    pub fn leave_to_the_parent(&self) {
        self.lock().reader = None;
    }

    /// At the end: reads the remaining records and reports all losses. Never blocks.
    pub fn finish(&self) {
        let mut collection = self.lock();
        collection.read_all();
        collection.tell(true);
    }
}

/// The parent's handler of the pipe. It reads when a record arrives, and at most once in [`LOGGED_EVERY`]: a flood of
/// lost lines must not keep the loop busy.
pub struct Watcher(pub Collected);

impl Handler for Watcher {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        let pipe = self.0.lock().watched.take();
        if let Some(pipe) = pipe {
            // A child closes all descriptors that the loop watches.
            cx.watch(pipe, ());
        }
    }

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        let mut collection = self.0.lock();
        collection.count(input.take_all());
        collection.tell(false);
        cx.pause_reading();
        cx.set_deadline(LOGGED_EVERY);
    }

    fn on_deadline(&mut self, _: &mut (), cx: &mut Context<'_>) {
        if self.0.lock().tell(false) {
            return cx.resume_reading();
        }
        // The outputs of the log have no room for the report, so it is tried again later.
        cx.set_deadline(LOGGED_EVERY);
    }
}

impl Collection {
    fn read_all(&mut self) {
        let mut records = [0; 4096];
        while let Some(Ok(count @ 1..)) = self.reader.as_mut().map(|reader| reader.read(&mut records)) {
            self.count(&records[..count]);
        }
    }

    /// Counts records. A record is written whole, but the loop may read a part.
    fn count(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        let (records, begun) = self.begun.as_chunks::<RECORD>();
        for record in records {
            let [a, b, c, d, cause @ ..] = *record;
            let lost = u32::from_le_bytes([b, c, d, 0]);
            if let Some(output) = self.outputs.get_mut(usize::from(a)) {
                output.tally.add(lost.into(), Cause::numbered(i32::from_le_bytes(cause)));
            }
        }
        let counted = self.begun.len() - begun.len();
        self.begun.drain(..counted);
    }

    /// Reports the losses that are due. Returns whether all losses are reported.
    fn tell(&mut self, last: bool) -> bool {
        for Output { name, tally, tell } in &mut self.outputs {
            if let Some(line) = tally.line(name, last)
                && tell.iter().filter(|lines| lines.try_put(&line)).count() > 0
            {
                tally.is_told();
            }
        }
        self.outputs.iter().all(|output| output.tally.due_in().is_none())
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
        // More than the pipe holds: lines without room are part of a later record.
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
            // The pipe has room again.
            accounts[1].add(0, Cause::TooLong);
            if counted == added {
                break;
            }
        }
        assert_eq!(counted, added);
    }
}
