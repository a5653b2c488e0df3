//! A load, as a child that is told what to do in lines, and says in one line what came of it.

use std::time::Duration;

use super::process::Process;

/// For a load to say its next line, beyond the slice itself. It gives up on a silent server after ten seconds.
const ANSWER: Duration = Duration::from_secs(60);

pub struct Load {
    process: Process,
    /// In complaints.
    name: String,
    /// Its first line: it is connected, and has had right answers.
    pub ready: Said,
}

impl Load {
    pub(super) fn ready(mut process: Process, server: &str) -> Result<Load, String> {
        let name = format!("load for {server}");
        let line = process.line(ANSWER).map_err(|why| format!("{name}: {why}"))?;
        let ready = Said { line, name: name.clone() };
        if ready.line.starts_with("ready ") { Ok(Load { process, name, ready }) } else { Err(ready.told("not ready")) }
    }

    /// Runs one slice; all that was asked has been answered, and rightly, when this returns.
    pub fn slice(&mut self, unit: &str, value: f64) -> Result<Said, String> {
        self.begin(unit, value)?;
        self.end(if unit == "seconds" { ANSWER + Duration::from_secs_f64(value) } else { ANSWER * 10 })
    }

    /// The same in two, for who has something to do meanwhile.
    pub fn begin(&mut self, unit: &str, value: f64) -> Result<(), String> {
        self.process.say(&format!("{unit} {value}\n")).map_err(|why| format!("{}: {why}", self.name))
    }

    pub fn end(&mut self, limit: Duration) -> Result<Said, String> {
        let line = self.process.line(limit).map_err(|why| format!("{}: {why}", self.name))?;
        Ok(Said { line, name: self.name.clone() })
    }

    /// One request on each connection, on the idle ones too: they have been there all the time.
    pub fn greet(&mut self) -> Result<(), String> {
        self.process.say("greet\n").map_err(|why| format!("{}: {why}", self.name))?;
        let said = self.end(ANSWER)?;
        if said.line == "greeted" { Ok(()) } else { Err(said.told("not greeted")) }
    }
}

/// What a load says: words, and `name=number` among them.
pub struct Said {
    line: String,
    name: String,
}

impl Said {
    pub fn get(&self, name: &str) -> Result<f64, String> {
        let number = |word: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        self.line.split_whitespace().find_map(number).ok_or_else(|| self.told(&format!("no {name}")))
    }

    /// All that comes after `name=`, which may have spaces in it.
    pub fn rest(&self, name: &str) -> &str {
        self.line.split_once(&format!(" {name}=")).map_or("", |(_, rest)| rest)
    }

    /// A complaint about it.
    pub fn told(&self, why: &str) -> String {
        format!("{}: {why}: {}", self.name, self.line)
    }
}
