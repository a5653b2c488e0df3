//! The contestants, as a list: the echo service under each model, by three makers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{Rig, Served};

/// The model: how a connection is served.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Model {
    Processes,
    Threads,
    Select,
    Epoll,
    TwoLoops,
    /// An async function for each connection, on one loop with epoll.
    Sequential,
}

impl Model {
    pub(crate) const ALL: [Model; 6] =
        [Model::Processes, Model::Threads, Model::Select, Model::Epoll, Model::TwoLoops, Model::Sequential];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Model::Processes => "a process each",
            Model::Threads => "a thread each",
            Model::Select => "select",
            Model::Epoll => "epoll",
            Model::TwoLoops => "epoll, 2 loops",
            Model::Sequential => "sequential",
        }
    }
}

/// The maker of a server.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Maker {
    Glowplug,
    /// Python 3 and its own library: a file in this directory.
    Python,
    /// Blocking calls in Rust and nothing else (`benches/peers/src/bare.rs`).
    Bare,
}

impl Maker {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Maker::Glowplug => "glowplug",
            Maker::Python => "Python",
            Maker::Bare => "bare",
        }
    }
}

pub(crate) struct Contestant {
    pub(crate) model: Model,
    pub(crate) maker: Maker,
    /// Arguments beyond the maker's common arguments.
    words: &'static [&'static str],
}

const fn by(maker: Maker, model: Model, words: &'static [&'static str]) -> Contestant {
    Contestant { model, maker, words }
}

/// In this directory, from whatever directory the benchmark is started.
macro_rules! script {
    ($name:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/benches/models/", $name)
    };
}

pub(crate) const ALL: [Contestant; 13] = [
    by(Maker::Python, Model::Processes, &[script!("fork_server.py")]),
    by(Maker::Bare, Model::Processes, &["fork", "echo"]),
    by(Maker::Glowplug, Model::Processes, &["--model", "processes", "--at-most", "6000"]),
    by(Maker::Python, Model::Threads, &[script!("thread_server.py")]),
    by(Maker::Bare, Model::Threads, &["threads", "echo"]),
    by(Maker::Glowplug, Model::Threads, &["--model", "threads", "--at-most", "6000"]),
    by(Maker::Python, Model::Select, &[script!("select_server.py")]),
    by(Maker::Glowplug, Model::Select, &["--backend", "select"]),
    by(Maker::Python, Model::Epoll, &[script!("epoll_server.py")]),
    by(Maker::Glowplug, Model::Epoll, &["--backend", "epoll"]),
    by(Maker::Glowplug, Model::TwoLoops, &["--backend", "epoll", "--loops", "2"]),
    by(Maker::Python, Model::Sequential, &[script!("asyncio_server.py")]),
    by(Maker::Glowplug, Model::Sequential, &["--backend", "epoll", "--style", "sequential"]),
];

impl Contestant {
    pub(crate) fn name(&self) -> String {
        format!("{}: {}", self.model.name(), self.maker.name())
    }

    pub(crate) fn served<'a>(&self, rig: &'a Rig, python: Option<&'a Python>) -> Result<Served<'a>, String> {
        let (program, before): (&Path, &[&str]) = match self.maker {
            Maker::Glowplug => (rig.glowplug()?, &["echo", "--raw", "--log-level", "warn"]),
            Maker::Bare => (&rig.peers, &[]),
            Maker::Python => (&python.ok_or("python3 is not installed")?.path, &[]),
        };
        let words = [before, self.words].concat();
        Ok(Served { name: self.name(), program, words })
    }
}

/// The interpreter itself, not a wrapper in front of it.
pub(crate) struct Python {
    path: PathBuf,
    pub(crate) version: String,
}

impl Python {
    pub(crate) fn find() -> Option<Python> {
        let asked = "import platform, sys; print(sys.executable); print(platform.python_version())";
        let said = Command::new("python3").args(["-c", asked]).output().ok().filter(|said| said.status.success())?;
        let text = String::from_utf8(said.stdout).ok()?;
        let (path, version) = text.trim().split_once('\n')?;
        Some(Python { path: path.into(), version: version.to_owned() })
    }
}
