//! A load: a child that takes commands in lines, and reports each result in a line.

use std::time::Duration;

use super::process::Process;

/// Limit for a load's next line, beyond the slice itself. A load gives up on a silent server after ten seconds.
const ANSWER: Duration = Duration::from_secs(60);

pub struct Load {
    process: Process,
    /// The name in errors.
    name: String,
    /// The first line: the load is connected, and has had right answers.
    pub ready: Said,
}

impl Load {
    pub(super) fn ready(mut process: Process, server: &str) -> Result<Load, String> {
        let name = format!("load for {server}");
        let line = process.line(ANSWER).map_err(|why| format!("{name}: {why}"))?;
        let ready = Said { line, name: name.clone() };
        if ready.line.starts_with("ready ") {
            Ok(Load { process, name, ready })
        } else {
            Err(ready.failure("not ready"))
        }
    }

    /// Runs a slice. When this returns, all requests have been answered, and rightly.
    pub fn slice(&mut self, unit: &str, value: f64) -> Result<Said, String> {
        self.begin(unit, value)?;
        self.end(if unit == "seconds" { ANSWER + Duration::from_secs_f64(value) } else { ANSWER * 10 })
    }

    /// Begins a slice. [`end`](Self::end) waits for the report, so a caller can work in between.
    pub fn begin(&mut self, unit: &str, value: f64) -> Result<(), String> {
        self.process.say(&format!("{unit} {value}\n")).map_err(|why| format!("{}: {why}", self.name))
    }

    pub fn end(&mut self, limit: Duration) -> Result<Said, String> {
        let line = self.process.line(limit).map_err(|why| format!("{}: {why}", self.name))?;
        Ok(Said { line, name: self.name.clone() })
    }

    /// Sends one request on each connection, on the idle connections too: so all of them are still connected.
    pub fn greet(&mut self) -> Result<(), String> {
        self.process.say("greet\n").map_err(|why| format!("{}: {why}", self.name))?;
        let said = self.end(ANSWER)?;
        if said.line == "greeted" { Ok(()) } else { Err(said.failure("not greeted")) }
    }
}

/// A line of a load: words, and `name=number` among them.
pub struct Said {
    line: String,
    name: String,
}

impl Said {
    pub fn get(&self, name: &str) -> Result<f64, String> {
        let number = |word: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        self.line.split_whitespace().find_map(number).ok_or_else(|| self.failure(&format!("no {name}")))
    }

    /// The text after `name=`, which may have spaces.
    pub fn rest(&self, name: &str) -> &str {
        self.line.split_once(&format!(" {name}=")).map_or("", |(_, rest)| rest)
    }

    /// An error about the line.
    pub fn failure(&self, why: &str) -> String {
        format!("{}: {why}: {}", self.name, self.line)
    }
}
