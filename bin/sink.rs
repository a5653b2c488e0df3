//! Queues of lines for a terminal, a pipe or a file that may be slow or stuck. The caller never waits: a bounded queue
//! takes the line, or the line is counted as lost, and a thread writes. For a process without such a thread see
//! [`Direct`].

use std::fs::File;
#[cfg(test)]
use std::io::Write;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::Timespec;

use crate::direct::{ATOMIC_BYTES, Direct, Losses, not_anew};
use crate::line::stamped;
use crate::losses::{Account, Cause, Tally};
use crate::target::{Written, file_of, has_room, open, write};

/// Capacity of the queue in lines: one line for each of some thousand connections that end together, about a megabyte.
const QUEUE_LINES: usize = 8192;
/// Bytes of one write, if as many wait: an access log at full speed is a hundred thousand lines a second.
const BATCH_BYTES: usize = 64 * 1024;
/// How often a thread that waits for room checks for a request to reopen the file.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The queue's input. Any thread may hold a clone.
#[derive(Clone)]
pub struct Lines(Way);

#[derive(Clone)]
enum Way {
    Queue(Arc<Shared>),
    Direct(Arc<Direct>),
}

struct Shared {
    queue: SyncSender<Entry>,
    /// Lines lost to a full queue since the last queued line.
    lost: AtomicU64,
    reopen: AtomicBool,
    closing: AtomicBool,
    /// Set if no thread could be started: callers write through this output.
    instead: OnceLock<Direct>,
    /// Outputs for reports of errors.
    tell: Vec<Lines>,
}

/// Some whole lines. An empty text only wakes the writer.
struct Entry {
    lost_before: u64,
    text: String,
}

impl Lines {
    /// Queues whole lines, or writes them if the output has room. Never blocks.
    pub fn put(&self, text: &str) {
        match &self.0 {
            Way::Queue(shared) => shared.put(text),
            Way::Direct(direct) => direct.put(text),
        }
    }

    /// Queues or writes one line if there is room. Returns whether there was; a refused line is not counted as lost.
    pub fn try_put(&self, line: &str) -> bool {
        match &self.0 {
            Way::Queue(shared) => match shared.instead.get() {
                Some(direct) => direct.try_put(line),
                None => shared.queue.try_send(Entry { lost_before: 0, text: line.to_owned() }).is_ok(),
            },
            Way::Direct(direct) => direct.try_put(line),
        }
    }

    /// Reopens the file before the next line is written. Errors are reported to `tell`.
    pub fn reopen(&self, tell: &[Lines]) {
        let direct = match &self.0 {
            Way::Queue(shared) => match shared.instead.get() {
                Some(direct) => direct,
                None => return shared.ask_for_reopening(),
            },
            Way::Direct(direct) => direct,
        };
        if let Err(line) = direct.reopen() {
            tell.iter().for_each(|lines| lines.put(&line));
        }
    }
}

impl Shared {
    fn put(&self, text: &str) {
        if let Some(direct) = self.instead.get() {
            return direct.put(text);
        }
        let lost_before = self.lost.swap(0, SeqCst);
        let entry = Entry { lost_before, text: text.to_owned() };
        if let Err(TrySendError::Full(entry) | TrySendError::Disconnected(entry)) = self.queue.try_send(entry) {
            self.lost.fetch_add(entry.lost_before + entry.text.lines().count() as u64, SeqCst);
        }
    }

    fn ask_for_reopening(&self) {
        self.reopen.store(true, SeqCst);
        self.wake();
    }

    /// Wakes the writer. If the queue is full, the writer is awake already.
    fn wake(&self) {
        let _ = self.queue.try_send(Entry { lost_before: 0, text: String::new() });
    }
}

/// Properties of a sink.
pub struct About {
    /// The output's name in messages.
    pub name: String,
    /// Set for a file: the path to reopen.
    pub path: Option<PathBuf>,
    /// The output contains only the lines themselves, because a program reads them.
    pub strict: bool,
    /// Outputs for reports of losses.
    pub tell: Vec<Lines>,
}

/// The queue's output, and the thread that writes.
pub struct Sink {
    lines: Lines,
    state: State,
    /// The output is a file that can be reopened.
    is_file: bool,
}

enum State {
    /// Lines are queued up to the bound, and not written yet.
    Held(Receiver<Entry>, Output),
    /// The channel closes when the thread has finished.
    Writing(Receiver<()>),
    /// Callers write their lines directly.
    Direct,
    Finished,
}

impl Sink {
    /// A sink for standard error that writes nothing until [`Sink::start`]. A sink with an `account` never has a
    /// thread, and counts its losses in the account.
    ///
    /// Fails if the descriptor cannot be duplicated: then the process would have no output for errors.
    pub fn to_stderr(name: &str, account: Option<Account>) -> io::Result<Self> {
        let about = About { name: name.to_owned(), path: None, strict: false, tell: Vec::new() };
        Ok(Sink::to(file_of(io::stderr())?, about, account))
    }

    /// A sink for lines on standard output.
    pub fn to_stdout(about: About, account: Option<Account>) -> io::Result<Self> {
        Ok(Sink::to(file_of(io::stdout())?, about, account))
    }

    /// A sink that appends to a file.
    pub fn to_file(path: &Path, about: About, account: Option<Account>) -> io::Result<Self> {
        let to = open(path)?;
        Ok(Sink::to(to, About { path: Some(path.to_owned()), ..about }, account))
    }

    fn to(to: File, about: About, account: Option<Account>) -> Self {
        let Some(account) = account else { return Sink::new(Target::File(to), about) };
        let is_file = about.path.is_some();
        let direct = Direct::new(Some(to), about.path, about.name, Losses::Recorded(account));
        Sink { lines: Lines(Way::Direct(Arc::new(direct))), state: State::Direct, is_file }
    }

    fn new(to: Target, about: About) -> Self {
        let (queue, entries) = sync_channel(QUEUE_LINES);
        let shared = Shared {
            queue,
            lost: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            instead: OnceLock::new(),
            tell: about.tell.clone(),
        };
        let is_file = about.path.is_some();
        let output = Output { to, about, tally: Tally::default(), torn: false };
        Sink { lines: Lines(Way::Queue(Arc::new(shared))), state: State::Held(entries, output), is_file }
    }

    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Whether the sink writes to a file that can be reopened.
    pub fn is_file(&self) -> bool {
        self.is_file
    }

    /// Starts to write. If no thread can be started, callers write directly from now on, and a line reports so, unless
    /// `quietly` is set.
    pub fn start(&mut self, quietly: bool) {
        let shared = match &self.lines.0 {
            Way::Queue(shared) => shared.clone(),
            Way::Direct(direct) => return direct.start(),
        };
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Held(entries, output) => self.state = begin(entries, output, &shared, quietly),
            state => self.state = state,
        }
    }

    /// Drops the queued lines, if nothing has been written yet.
    fn discard(&mut self) {
        match (&self.state, &self.lines.0) {
            (State::Held(entries, _), _) => entries.try_iter().for_each(drop),
            (_, Way::Direct(direct)) => direct.discard(),
            _ => {}
        }
    }

    /// Writes a line before the process ends, in place of the queued ones. Where nothing has been written yet and the output has
    /// room within `time`, this thread writes: on a busy machine a new thread may get no turn in that time.
    pub fn end_with(&mut self, line: &str, time: Duration) {
        self.discard();
        match &mut self.state {
            State::Held(_, output) if line.len() <= ATOMIC_BYTES && output.to.has_room(time) => {
                output.to.write(line.as_bytes());
            }
            _ => {
                self.lines.put(line);
                self.start(true);
            }
        }
    }

    /// Waits until all lines are written, at most until `until`. A sink that was never started writes nothing.
    pub fn finish(&mut self, until: Instant) {
        match (std::mem::replace(&mut self.state, State::Finished), &self.lines.0) {
            (State::Writing(is_done), Way::Queue(shared)) => {
                shared.closing.store(true, SeqCst);
                shared.wake();
                // Either outcome ends the wait: the thread has finished, or the time is over.
                let _ = is_done.recv_timeout(until.saturating_duration_since(Instant::now()));
            }
            (State::Direct, Way::Direct(direct)) => direct.finish(),
            (State::Direct, Way::Queue(shared)) => shared.instead.get().into_iter().for_each(Direct::finish),
            _ => {}
        }
    }
}

/// Starts the writing thread. If that fails, callers write directly.
fn begin(entries: Receiver<Entry>, output: Output, shared: &Arc<Shared>, quietly: bool) -> State {
    let (done, is_done) = channel();
    // The thread takes the parts. Without a thread they stay here.
    let parts = Arc::new(Mutex::new(Some((entries, output))));
    let (of_thread, its_shared) = (parts.clone(), shared.clone());
    let writer = move || {
        let parts = of_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((entries, output)) = parts {
            output.write_all_of(&entries, &its_shared);
        }
        drop(done);
    };
    let error = match thread::Builder::new().name("log".to_owned()).spawn(writer) {
        Ok(_) => return State::Writing(is_done),
        Err(error) => error,
    };
    let parts = parts.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((entries, Output { to, about, .. })) = parts else { return State::Finished };
    let About { name, path, strict, tell } = about;
    let line = stamped(
        Level::Warn,
        format!(
            "{name}: no thread to write it ({error}): each line is written at once, and lost where there is no room"
        ),
    );
    let losses = Losses::Told { tally: Mutex::default(), tell, in_place: !strict };
    let direct = Direct::new(to.file(), path, name, losses);
    direct.start();
    if !quietly {
        match &*shared.tell {
            [] => direct.put(&line),
            tell => tell.iter().for_each(|lines| lines.put(&line)),
        }
    }
    let _ = shared.instead.set(direct);
    // From here on callers write directly, so the queue gets no further entries.
    if let Some(direct) = shared.instead.get() {
        entries.try_iter().for_each(|entry| direct.put(&entry.text));
    }
    State::Direct
}

/// The destination of writes.
enum Target {
    File(File),
    #[cfg(test)]
    Memory(Box<dyn Write + Send>),
}

impl Target {
    fn file(self) -> Option<File> {
        match self {
            Target::File(file) => Some(file),
            #[cfg(test)]
            Target::Memory(_) => None,
        }
    }

    fn has_room(&self, time: Duration) -> bool {
        match self {
            Target::File(file) => has_room(file, Timespec::try_from(time).unwrap_or_default()),
            #[cfg(test)]
            Target::Memory(_) => true,
        }
    }

    fn write(&mut self, text: &[u8]) -> Written {
        match self {
            Target::File(file) => write(file, text),
            #[cfg(test)]
            Target::Memory(memory) => write(memory, text),
        }
    }
}

/// The writing side of a sink.
struct Output {
    to: Target,
    about: About,
    /// Lines that could not be written.
    tally: Tally,
    /// The last write ended inside a line.
    torn: bool,
}

impl Output {
    fn write_all_of(mut self, entries: &Receiver<Entry>, shared: &Shared) {
        let mut next = None;
        loop {
            // Checked before the queue is read. A later request also queues an entry, or finds the queue full, so it
            // ends the wait below.
            if shared.reopen.swap(false, SeqCst) {
                self.reopen();
            }
            // Read before the queue, so every line from before the end is in the queue.
            let closing = shared.closing.load(SeqCst);
            let entry = match next.take().map_or_else(|| entries.try_recv(), Ok) {
                Ok(entry) => entry,
                Err(_) => {
                    // The queue is empty, so the lost lines belong at this place.
                    self.tally.add(shared.lost.swap(0, SeqCst), Cause::Behind);
                    self.tell(closing);
                    if closing {
                        return;
                    }
                    let received = match self.tally.due_in() {
                        Some(left) => entries.recv_timeout(left.max(Duration::from_millis(1))),
                        None => entries.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    };
                    match received {
                        Ok(entry) => entry,
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            };
            self.tally.add(entry.lost_before, Cause::Behind);
            if !entry.text.is_empty() {
                self.tell(false);
                let mut text = entry.text;
                // Lines after a request to reopen belong into the new file.
                while text.len() < BATCH_BYTES && next.is_none() && !shared.reopen.load(SeqCst) {
                    match entries.try_recv() {
                        Ok(entry) if entry.lost_before == 0 => text.push_str(&entry.text),
                        Ok(entry) => next = Some(entry),
                        Err(_) => break,
                    }
                }
                self.write(&text, shared);
            }
        }
    }

    /// Reports losses, if a report is due.
    fn tell(&mut self, last: bool) {
        let Some(line) = self.tally.line(&self.about.name, last) else { return };
        let elsewhere = self.about.tell.iter().filter(|lines| lines.try_put(&line)).count() > 0;
        let here = !self.about.strict && self.try_write(&line);
        if elsewhere || here {
            self.tally.is_told();
        }
    }

    /// Writes a line without waiting. Returns whether it was written.
    fn try_write(&mut self, line: &str) -> bool {
        let text = self.after_a_torn_line(line);
        let written = self.to.write(text.as_bytes());
        self.torn = if written.bytes > 0 { written.bytes < text.len() } else { self.torn };
        written.error.is_none()
    }

    fn after_a_torn_line(&self, text: &str) -> String {
        if self.torn { format!("\n{text}") } else { text.to_owned() }
    }

    /// Writes text, and waits for room. Standard error often is non-blocking because another process has set it so; a
    /// FIFO always is.
    fn write(&mut self, text: &str, shared: &Shared) {
        let all = self.after_a_torn_line(text);
        let mut rest = all.as_bytes();
        loop {
            let Written { bytes, error } = self.to.write(rest);
            rest = &rest[bytes..];
            match (error, &self.to) {
                (None, _) => return self.torn = false,
                // Checks when the output has room, and once a second for a request to reopen.
                (Some(error), Target::File(file)) if error.kind() == ErrorKind::WouldBlock => {
                    if !has_room(file, LOOK_AGAIN) && shared.reopen.swap(false, SeqCst) {
                        self.lose(text, &all, rest, Cause::Full);
                        return self.reopen();
                    }
                }
                (Some(error), _) => return self.lose(text, &all, rest, Cause::of(&error)),
            }
        }
    }

    /// Counts the lines of `text` that are not fully written, when `rest` of `all` is left.
    fn lose(&mut self, text: &str, all: &str, rest: &[u8], cause: Cause) {
        let written = all.len() - rest.len();
        if let Some(last) = written.checked_sub(1) {
            self.torn = all.as_bytes()[last] != b'\n';
        }
        // The end of an earlier torn line belongs to no line of this text.
        let rest = &rest[rest.len().saturating_sub(text.len())..];
        self.tally.add(rest.iter().filter(|&&byte| byte == b'\n').count() as u64, cause);
    }

    /// Reopens the file. If the file cannot be opened, the old file stays in use.
    fn reopen(&mut self) {
        let Some(path) = &self.about.path else { return };
        match open(path) {
            Ok(file) => (self.to, self.torn) = (Target::File(file), false),
            Err(error) => {
                let line = not_anew(&self.about.name, &error);
                self.about.tell.iter().for_each(|lines| lines.put(&line));
                if !self.about.strict {
                    self.try_write(&line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
