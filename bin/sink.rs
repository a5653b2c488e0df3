//! Lines on their way to a terminal, a pipe or a file that may be slow or stuck. Whoever has a line to say never waits:
//! a bounded queue takes it, or it is counted as lost; a thread writes. Where there must be no thread, see [`Direct`].

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use crate::direct::{Direct, same_as};

/// Lines that wait to be written: one for each of some thousand connections that end at once, which is about a
/// megabyte.
const QUEUE_LINES: usize = 8192;
/// Bytes that are written at once, if so many wait: an access log at full speed is a hundred thousand lines a second.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the process stays for lines that are not yet written when it ends: plenty for a disk, and a pipe that
/// nobody reads does not keep it.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// Until a descriptor that somebody made non-blocking is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// One end of the queue, for anybody.
#[derive(Clone)]
pub struct Lines(Way);

#[derive(Clone)]
enum Way {
    Queue(Arc<Shared>),
    Direct(Arc<Direct>),
}

struct Shared {
    queue: SyncSender<Entry>,
    /// Lines that found the queue full since the last one that did not.
    lost: AtomicU64,
    reopen: AtomicBool,
    closing: AtomicBool,
}

/// Some whole lines; none at all to wake the writer up.
struct Entry {
    lost_before: u64,
    text: String,
}

impl Lines {
    /// Queues some whole lines, or writes them if there is room. Never blocks.
    pub fn put(&self, text: &str) {
        match &self.0 {
            Way::Queue(shared) => shared.put(text),
            Way::Direct(direct) => direct.put(text),
        }
    }

    /// Has the file opened anew, before the next line is written.
    pub fn reopen(&self) {
        match &self.0 {
            Way::Queue(shared) => {
                shared.reopen.store(true, SeqCst);
                shared.wake();
            }
            Way::Direct(direct) => direct.reopen(),
        }
    }

    fn is_direct(&self) -> bool {
        matches!(self.0, Way::Direct(_))
    }
}

impl Shared {
    fn put(&self, text: &str) {
        let lost_before = self.lost.swap(0, SeqCst);
        let entry = Entry { lost_before, text: text.to_owned() };
        if let Err(TrySendError::Full(entry) | TrySendError::Disconnected(entry)) = self.queue.try_send(entry) {
            self.lost.fetch_add(entry.lost_before + entry.text.lines().count() as u64, SeqCst);
        }
    }

    /// A full queue wakes the writer up as well.
    fn wake(&self) {
        let _ = self.queue.try_send(Entry { lost_before: 0, text: String::new() });
    }
}

/// The other end, and the thread that writes.
pub struct Sink {
    lines: Lines,
    state: State,
    /// It can be opened anew.
    is_file: bool,
}

enum State {
    /// Everything waits, up to the bound.
    Held(Receiver<Entry>, Output),
    /// Tells when the thread is done.
    Writing(Receiver<()>),
    /// Whoever has a line writes it.
    Direct,
    Finished,
}

impl Sink {
    /// A sink that writes nothing until it is started. A `direct` one never has a thread, nor have those that complain to
    /// it.
    pub fn to_stderr(direct: bool) -> Self {
        if direct {
            return Sink::direct(Direct::new(same_as(io::stderr()), None, None));
        }
        Sink::new(Output { to: Box::new(io::stderr()), path: None, lost: 0, complain: None, strict: None })
    }

    /// A sink for lines on standard output. What is wrong with it goes to `complain`.
    pub fn to_stdout(complain: Lines) -> Self {
        if complain.is_direct() {
            return Sink::direct(Direct::new(same_as(io::stdout()), None, Some(complain)));
        }
        Sink::new(Output { to: Box::new(io::stdout()), path: None, lost: 0, complain: Some(complain), strict: None })
    }

    /// A sink that appends to a file. What is wrong with it later on goes to `complain`.
    pub fn to_file(path: &Path, complain: Lines) -> io::Result<Self> {
        let to = open(path)?;
        if complain.is_direct() {
            let mut sink = Sink::direct(Direct::new(Some(to.into()), Some(path), Some(complain)));
            sink.is_file = true;
            return Ok(sink);
        }
        let (to, path) = (Box::new(to), Some(path.to_owned()));
        let mut sink = Sink::new(Output { to, path, lost: 0, complain: Some(complain), strict: None });
        sink.is_file = true;
        Ok(sink)
    }

    /// Before it is started: nothing but the lines themselves is ever written, since a program reads them. That some
    /// were lost is told to whom it complains to, under this name.
    pub fn strict(mut self, name: &'static str) -> Self {
        match (&mut self.state, &self.lines.0) {
            (State::Held(_, output), _) => output.strict = Some(name),
            (_, Way::Direct(direct)) => direct.set_strict(name),
            _ => {}
        }
        self
    }

    fn direct(direct: Direct) -> Self {
        Sink { lines: Lines(Way::Direct(Arc::new(direct))), state: State::Direct, is_file: false }
    }

    fn new(output: Output) -> Self {
        let (queue, entries) = sync_channel(QUEUE_LINES);
        let shared =
            Shared { queue, lost: AtomicU64::new(0), reopen: AtomicBool::new(false), closing: AtomicBool::new(false) };
        Sink { lines: Lines(Way::Queue(Arc::new(shared))), state: State::Held(entries, output), is_file: false }
    }

    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Whether its lines go to a file, which can be opened anew.
    pub fn is_file(&self) -> bool {
        self.is_file
    }

    /// Begins to write. Should there be no thread to be had, nothing is ever written, and the service goes on.
    pub fn start(&mut self) {
        let shared = match &self.lines.0 {
            Way::Queue(shared) => shared.clone(),
            Way::Direct(direct) => return direct.start(),
        };
        if let State::Held(entries, output) = std::mem::replace(&mut self.state, State::Finished) {
            let (done, is_done) = channel();
            let writer = move || {
                output.write_all_of(&entries, &shared);
                drop(done);
            };
            if thread::Builder::new().name("log".to_owned()).spawn(writer).is_ok() {
                self.state = State::Writing(is_done);
            }
        }
    }

    /// Forgets what waits, if nothing has been written yet.
    pub fn discard(&mut self) {
        match (&self.state, &self.lines.0) {
            (State::Held(entries, _), _) => entries.try_iter().for_each(drop),
            (_, Way::Direct(direct)) => direct.discard(),
            _ => {}
        }
    }

    /// Waits until everything is written, but not for long. What was held to the end is not written.
    pub fn finish(&mut self) {
        match (std::mem::replace(&mut self.state, State::Finished), &self.lines.0) {
            (State::Writing(is_done), Way::Queue(shared)) => {
                shared.closing.store(true, SeqCst);
                shared.wake();
                // Either outcome is the end: the thread hung up, or there was no more time.
                let _ = is_done.recv_timeout(FLUSH_TIME);
            }
            (State::Direct, Way::Direct(direct)) => direct.finish(),
            _ => {}
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Where the lines end up.
struct Output {
    to: Box<dyn Write + Send>,
    /// Of a file, which can be opened anew.
    path: Option<PathBuf>,
    /// Lines that could not be written.
    lost: u64,
    complain: Option<Lines>,
    /// What those who complain call it, if nothing else may stand in it.
    strict: Option<&'static str>,
}

impl Output {
    fn write_all_of(mut self, entries: &Receiver<Entry>, shared: &Shared) {
        let mut next = None;
        loop {
            // Looked at before the queue: what was put before the end is then in it.
            let closing = shared.closing.load(SeqCst);
            let entry = match next.take().map_or_else(|| entries.try_recv(), Ok) {
                Ok(entry) => entry,
                Err(_) => {
                    // Nothing waits, so this is where the lines are missing.
                    self.lost += shared.lost.swap(0, SeqCst);
                    self.note_losses();
                    if closing {
                        return;
                    }
                    let Ok(entry) = entries.recv() else { return };
                    entry
                }
            };
            if shared.reopen.swap(false, SeqCst) {
                self.reopen();
            }
            self.lost += entry.lost_before;
            if !entry.text.is_empty() {
                self.note_losses();
                let mut text = entry.text;
                while text.len() < BATCH_BYTES && next.is_none() {
                    match entries.try_recv() {
                        Ok(entry) if entry.lost_before == 0 => text.push_str(&entry.text),
                        Ok(entry) => next = Some(entry),
                        Err(_) => break,
                    }
                }
                self.write(&text);
            }
        }
    }

    fn note_losses(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        if let (Some(name), Some(lines)) = (self.strict, &self.complain) {
            if lost > 0 {
                lines.put(&format!("{name}: {lost} lines lost\n"));
            }
            return;
        }
        if lost > 0 && self.try_write(&format!("{lost} log lines lost\n")).is_err() {
            self.lost = lost;
        }
    }

    fn write(&mut self, text: &str) {
        if self.try_write(text).is_err() {
            self.lost += text.lines().count() as u64;
        }
    }

    /// `write_all`, for a descriptor that may be non-blocking: standard error often is somebody else's, too.
    fn try_write(&mut self, text: &str) -> io::Result<()> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The old file stays in use if there is no new one to be had.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => self.to = Box::new(file),
            Err(error) => {
                if let Some(lines) = &self.complain {
                    let name = self.strict.unwrap_or("log file");
                    lines.put(&format!("{name} {}: {error}; the old one stays in use\n", path.display()));
                }
            }
        }
    }
}

pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Writes into memory, once the gate is open.
    #[derive(Clone, Default)]
    struct Gated {
        gate: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock().unwrap();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Gated {
        fn sink(&self) -> Sink {
            Sink::new(Output { to: Box::new(self.clone()), path: None, lost: 0, complain: None, strict: None })
        }

        fn text(&self) -> String {
            String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn everything_queued_is_written_in_order_by_the_end() {
        let output = Gated::default();
        let mut sink = output.sink();
        sink.lines().put("held\n");
        sink.start();
        (0..1000).for_each(|number| sink.lines().put(&format!("{number}\n")));
        sink.finish();
        let expected: String =
            std::iter::once("held\n".to_owned()).chain((0..1000).map(|n| format!("{n}\n"))).collect();
        assert_eq!(output.text(), expected);
    }

    #[test]
    fn nobody_waits_for_a_stuck_output_and_it_is_told_how_many_lines_it_missed_and_where() {
        let output = Gated::default();
        let mut sink = output.sink();
        let lines = sink.lines().clone();
        (0..QUEUE_LINES + 12).for_each(|_| lines.put("early\n"));
        sink.start();
        // Once something is written there is room for more.
        while output.text().is_empty() {
            thread::yield_now();
        }
        lines.put("late\n");
        sink.finish();
        let text = output.text();
        let mut ends = text.lines().skip(QUEUE_LINES);
        assert_eq!((ends.next(), ends.next(), ends.next()), (Some("12 log lines lost"), Some("late"), None));
    }

    #[test]
    fn nothing_but_its_lines_stands_in_a_strict_one_and_somebody_else_hears_of_losses() {
        let (output, complaints) = (Gated::default(), Gated::default());
        let mut told = complaints.sink();
        told.start();
        let complain = Some(told.lines().clone());
        let to = Box::new(output.clone());
        let mut sink = Sink::new(Output { to, path: None, lost: 0, complain, strict: None }).strict("the log");
        (0..QUEUE_LINES + 12).for_each(|_| sink.lines().put("line\n"));
        sink.start();
        sink.finish();
        told.finish();
        assert_eq!(output.text(), "line\n".repeat(QUEUE_LINES));
        assert_eq!(complaints.text(), "the log: 12 lines lost\n");
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let output = Gated::default();
        let stuck = output.gate.lock().unwrap();
        let mut sink = output.sink();
        sink.start();
        sink.lines().put("x\n");
        sink.finish();
        drop(stuck);
    }

    #[test]
    fn what_is_discarded_or_never_started_is_not_written() {
        let output = Gated::default();
        let mut sink = output.sink();
        sink.lines().put("noise\n");
        sink.discard();
        sink.lines().put("error: why\n");
        sink.start();
        sink.finish();
        let mut silent = output.sink();
        silent.lines().put("noise\n");
        silent.finish();
        assert_eq!(output.text(), "error: why\n");
    }
}
