//! Lines that could not be written: how many, why, and who is told, once a second at most.
//!
//! A process that forks counts for all of its children: each writes a record of what it has lost into one pipe. The parent's
//! loop watches the other end ([`Watcher`]), so nothing is done while no line is lost; the rest is read at the end. A child
//! ends without another word, so it does not count by itself.

use std::fmt::Display;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;
use reactor::{Context, Handler, Input};

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
    /// `None` in a child, which has nothing to read.
    reader: Option<PipeReader>,
    /// Read, and less than a record.
    begun: Vec<u8>,
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
        Collected(Arc::new(Mutex::new(Collection { reader: Some(reader), begun: Vec::new(), outputs: Vec::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Collection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Outputs have numbers in the order in which they come.
    pub fn add(&self, name: String, tell: Vec<Lines>) {
        self.lock().outputs.push(Output { name, tally: Tally::default(), tell });
    }

    /// In a child: closes the end of the pipe that only the parent reads.
    pub fn leave_to_the_parent(&self) {
        self.lock().reader = None;
    }

    /// At the end: reads the records that nobody has read yet, and tells of all losses. Never blocks.
    pub fn finish(&self) {
        let mut collection = self.lock();
        collection.read_all();
        collection.tell(true);
    }
}

/// The parent's handler of the pipe, which it reads as soon as a record is there, and at most once in [`TOLD_EVERY`]: many
/// lost lines must not keep the loop busy.
pub struct Watcher(pub Collected);

impl Handler for Watcher {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        let pipe = self.0.lock().reader.as_ref().and_then(|reader| reader.as_fd().try_clone_to_owned().ok());
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
        cx.set_deadline(TOLD_EVERY);
    }

    fn on_deadline(&mut self, _: &mut (), cx: &mut Context<'_>) {
        if self.0.lock().tell(false) {
            return cx.resume_reading();
        }
        // The outputs of the log have no room for the line: it is tried again.
        cx.set_deadline(TOLD_EVERY);
    }
}

impl Collection {
    fn read_all(&mut self) {
        let mut records = [0; 4096];
        while let Some(Ok(count @ 1..)) = self.reader.as_mut().map(|reader| reader.read(&mut records)) {
            self.count(&records[..count]);
        }
    }

    /// Counts records. They are written whole, but the loop may read a part of one.
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

    /// Tells of losses where it is time. Whether nothing is left to tell.
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
