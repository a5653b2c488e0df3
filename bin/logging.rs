//! The log: simplelog over queues that never block the loop, and the one line that says why the command cannot run.
//!
//! Standard error stays silent until services listen: a command that cannot run says so in one line and nothing else.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use log::LevelFilter;
use simplelog::{CombinedLogger, Config, ConfigBuilder, SharedLogger, WriteLogger};

use crate::Failure;
use crate::sink::{Lines, Sink};

/// The queues of standard error and of the log file. Dropped, it sees to it that everything is written, within limits.
pub struct Logging {
    stderr: Sink,
    file: Option<Sink>,
    access: Option<Sink>,
}

impl Logging {
    /// `direct` is for a process that must have no other thread: whoever has a line writes it.
    pub fn new(level: LevelFilter, file: Option<&Path>, direct: bool) -> Result<Self, Failure> {
        let stderr = Sink::to_stderr(direct);
        let file = file.map(|path| {
            Sink::to_file(path, stderr.lines().clone()).map_err(|error| format!("log file {}: {error}", path.display()))
        });
        let mut logging = Logging { stderr, file: file.transpose()?, access: None };
        let sinks = std::iter::once(&logging.stderr).chain(&logging.file);
        let logger = |sink: &Sink| -> Box<dyn SharedLogger> {
            WriteLogger::new(level, config(), Assembled { lines: sink.lines().clone(), line: Vec::new() })
        };
        CombinedLogger::init(sinks.map(logger).collect())?;
        if let Some(file) = &mut logging.file {
            file.start();
        }
        logging.tell_of_panics();
        Ok(logging)
    }

    /// Where a service writes down its answers: a file, or standard output for `-`. One at most.
    pub fn access_log(&mut self, to: &Path) -> Result<Lines, Failure> {
        let complain = self.reports();
        let sink = if to == Path::new("-") {
            Sink::to_stdout(complain)
        } else {
            Sink::to_file(to, complain).map_err(|error| format!("access log {}: {error}", to.display()))?
        };
        let mut sink = sink.strict("access log");
        sink.start();
        Ok(self.access.insert(sink).lines().clone())
    }

    /// Everything is bound: what standard error was spared so far follows, and then whatever comes.
    pub fn start(&mut self) {
        self.stderr.start();
    }

    /// For what belongs on standard error whatever the level.
    pub fn reports(&self) -> Lines {
        self.stderr.lines().clone()
    }

    /// What SIGHUP does: the log file and the access log are opened anew. `None` where there is neither: then SIGHUP has
    /// nothing to do, and stays ignored if it was.
    pub fn reopening(&self) -> Option<impl Fn() + 'static> {
        let files: Vec<Lines> = self
            .file
            .iter()
            .chain(&self.access)
            .filter(|sink| sink.is_file())
            .map(|sink| sink.lines().clone())
            .collect();
        (!files.is_empty()).then_some(move || files.iter().for_each(Lines::reopen))
    }

    /// Says why it cannot run, on standard error in one line, and in the log file.
    pub fn fail(mut self, why: &dyn Display) -> ExitCode {
        log::error!("{why}");
        self.stderr.discard();
        self.stderr.lines().put(&error_line(why));
        self.stderr.start();
        ExitCode::FAILURE
    }

    /// Not through the logger: it may be what panicked.
    fn tell_of_panics(&self) {
        let sinks: Vec<Lines> =
            std::iter::once(&self.stderr).chain(&self.file).map(|sink| sink.lines().clone()).collect();
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(|location| format!(" at {location}")).unwrap_or_default();
            let said = panic.payload().downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
            let line = format!("[ERROR] panicked{place}: {}\n", said.unwrap_or("(no message)"));
            sinks.iter().for_each(|lines| lines.put(&line));
        }));
    }
}

/// The same without a log.
pub fn fail_without(why: &(impl Display + ?Sized)) -> ExitCode {
    // If that is gone too, there is nobody left to tell.
    let _ = io::stderr().write_all(error_line(why).as_bytes());
    ExitCode::FAILURE
}

fn error_line(why: &(impl Display + ?Sized)) -> String {
    format!("error: {}\n", why.to_string().replace('\n', " "))
}

/// `2026-07-01T12:34:56.789012345Z [INFO] message`
fn config() -> Config {
    ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build()
}

/// Puts whole lines on the queue: simplelog writes a record piece by piece, the line's end last, holding a lock.
struct Assembled {
    lines: Lines,
    line: Vec<u8>,
}

impl Write for Assembled {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(piece);
        if self.line.ends_with(b"\n") {
            self.lines.put(&String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_its_text() {
        assert_eq!(error_line("unix:///a\nb: no"), "error: unix:///a b: no\n");
    }
}
