//! The log: simplelog over queues that never block the loop, and the error line of a command that cannot run.
//!
//! Standard error stays silent until services listen, so a command that cannot run writes one line and nothing else.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{CombinedLogger, Config, SharedLogger};

use crate::Failure;
use crate::line::{in_one_line, stamped};
use crate::losses::{Account, Collected, Records};
use crate::sink::{About, Lines, Sink};

/// How long the process waits at its end for unwritten lines: plenty for a disk, and a pipe without a reader does not
/// delay the exit for longer.
pub const FLUSH_TIME: Duration = Duration::from_secs(1);

/// The queues of standard error, of the log file, and of the access log. A drop writes out the queued lines, within
/// [`FLUSH_TIME`].
pub struct Logging {
    stderr: Sink,
    file: Option<Sink>,
    access: Option<Sink>,
    /// In a process that forks: the pipe on which all children record their lost lines.
    records: Option<(Records, Collected)>,
}

impl Logging {
    /// Opens the log. A process that `forks` must have no other thread, so each caller writes its own lines.
    pub fn new(level: LevelFilter, file: Option<&Path>, forks: bool) -> Result<Self, Failure> {
        let records =
            forks.then(|| Records::new().and_then(|(records, reader)| Ok((records, Collected::new(reader)?))));
        let records =
            records.transpose().map_err(|error| format!("pipe for the lost lines of child processes: {error}"))?;
        let stderr = Sink::to_stderr(STDERR, account(&records, 0)).map_err(|error| format!("{STDERR}: {error}"))?;
        let mut logging = Logging { stderr, file: None, access: None, records };
        logging.collect(STDERR.to_owned(), vec![logging.reports()]);
        let name = file.map(|path| format!("log file {}", path.display())).unwrap_or_default();
        logging.collect(name.clone(), vec![logging.reports()]);
        if let Some(path) = file {
            let about = About { name: name.clone(), path: None, strict: false, tell: vec![logging.reports()] };
            let account = account(&logging.records, 1);
            let sink = Sink::to_file(path, about, account).map_err(|error| format!("{name}: {error}"))?;
            let sink = logging.file.insert(sink);
            sink.start(false);
        }
        let sinks = std::iter::once(&logging.stderr).chain(&logging.file);
        let logger =
            |sink: &Sink| -> Box<dyn SharedLogger> { Box::new(ToLines { level, lines: sink.lines().clone() }) };
        CombinedLogger::init(sinks.map(logger).collect())?;
        logging.tell_of_panics();
        Ok(logging)
    }

    fn collect(&self, name: String, tell: Vec<Lines>) {
        if let Some((_, collected)) = &self.records {
            collected.add(name, tell);
        }
    }

    /// Opens the access log of a service: a file, or standard output for `-`. Call at most once.
    pub fn access_log(&mut self, to: &Path) -> Result<Lines, Failure> {
        let is_stdout = to == Path::new("-");
        let name = if is_stdout { "access log".to_owned() } else { format!("access log {}", to.display()) };
        let tell = self.logs();
        self.collect(name.clone(), tell.clone());
        let account = account(&self.records, 2);
        let about = About { name: name.clone(), path: None, strict: true, tell };
        let sink = if is_stdout { Sink::to_stdout(about, account) } else { Sink::to_file(to, about, account) };
        let mut sink = sink.map_err(|error| format!("{name}: {error}"))?;
        sink.start(false);
        Ok(self.access.insert(sink).lines().clone())
    }

    /// Starts writing to standard error, first the lines held so far. Called when all services are bound.
    pub fn start(&mut self) {
        self.stderr.start(false);
    }

    /// Returns a receiver of requested reports, which go to standard error and to the log file at every log level.
    pub fn asked(&self) -> impl FnMut(&str) + Send + 'static {
        let logs = self.logs();
        move |report| logs.iter().for_each(|lines| lines.put(report))
    }

    /// Lines that go to standard error at every log level.
    pub fn reports(&self) -> Lines {
        self.stderr.lines().clone()
    }

    /// Standard error, and the log file if any.
    fn logs(&self) -> Vec<Lines> {
        std::iter::once(&self.stderr).chain(&self.file).map(|sink| sink.lines().clone()).collect()
    }

    /// Returns the action of SIGHUP: reopens the log file and the access log. `None` if the log has no file; then
    /// SIGHUP stays ignored if it was.
    pub fn reopening(&self) -> Option<impl Fn() + 'static> {
        let files = self.file.iter().chain(&self.access).filter(|sink| sink.is_file());
        let files: Vec<Lines> = files.map(|sink| sink.lines().clone()).collect();
        if files.is_empty() {
            return None;
        }
        let (tell, parent) = (self.logs(), std::process::id());
        let reopen = move || {
            // A file that a child cannot open, its parent cannot open either: only the parent reports the error.
            let tell = if std::process::id() == parent { &*tell } else { &[] };
            files.iter().for_each(|file| file.reopen(tell));
        };
        Some(reopen)
    }

    /// In a process that forks: the lost lines of the process and its children.
    pub fn losses(&self) -> Option<Collected> {
        self.records.as_ref().map(|(_, collected)| collected.clone())
    }

    /// Reports why the command cannot run: one line on standard error, and a line in the log file.
    pub fn fail(mut self, why: &dyn Display) -> ExitCode {
        log::error!("{why}");
        self.stderr.end_with(&error_line(why), FLUSH_TIME);
        ExitCode::FAILURE
    }

    /// Writes out all queued lines, for at most `within` in total.
    pub fn finish(&mut self, within: Duration) {
        let until = Instant::now() + within;
        if let Some((_, collected)) = self.records.take() {
            collected.finish();
        }
        // Standard error comes last, because the other outputs report their errors there.
        for sink in self.access.iter_mut().chain(&mut self.file) {
            sink.finish(until);
        }
        self.stderr.finish(until);
    }

    /// Logs panics without the logger, since the panic may come from the logger.
    fn tell_of_panics(&self) {
        let sinks = self.logs();
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(|location| format!(" at {location}")).unwrap_or_default();
            let said = panic.payload().downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
            let line = stamped(Level::Error, format!("panicked{place}: {}", said.unwrap_or("(no message)")));
            sinks.iter().for_each(|lines| lines.put(&line));
        }));
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.finish(FLUSH_TIME);
    }
}

const STDERR: &str = "standard error";

fn account(records: &Option<(Records, Collected)>, output: u8) -> Option<Account> {
    records.as_ref().map(|(records, _)| records.account(output))
}

/// Reports why the command cannot run, before a log exists.
pub fn fail_without(why: &(impl Display + ?Sized)) -> ExitCode {
    // Without standard error there is no place for a report.
    let _ = io::stderr().write_all(error_line(why).as_bytes());
    ExitCode::FAILURE
}

fn error_line(why: &(impl Display + ?Sized)) -> String {
    format!("error: {}\n", in_one_line(&why.to_string()))
}

/// An output of the log, for simplelog. Simplelog's own outputs write a record in pieces, and with a time of varying
/// width.
struct ToLines {
    level: LevelFilter,
    lines: Lines,
}

impl Log for ToLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.lines.put(&stamped(record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

impl SharedLogger for ToLines {
    fn level(&self) -> LevelFilter {
        self.level
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_its_text() {
        assert_eq!(error_line("unix:///a\nb: no"), "error: unix:///a\\nb: no\n");
    }
}
