//! The contenders, and how each is started.

use std::path::{Path, PathBuf};

use crate::Work;
use crate::rig::{Rig, Served, Server, others};

/// The body of the fixed answer, for nginx.
const BODY: &str = "Hello from Epoll Server!";

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Contender {
    /// `peers/loop.c`.
    C,
    /// The C loop that receives right after it has accepted.
    CAtOnce,
    /// The C loop that has the kernel accept with the first bytes, and receives at once.
    CDeferred,
    Mio,
    Glowplug,
    /// With `--defer-accept`.
    Deferred,
    Tokio,
    Nginx,
    Hyper,
    /// The control: mio in a second process.
    MioAgain,
}

impl Contender {
    pub(crate) const ALL: [Contender; 9] = [
        Contender::Mio,
        Contender::C,
        Contender::CAtOnce,
        Contender::CDeferred,
        Contender::Glowplug,
        Contender::Deferred,
        Contender::Tokio,
        Contender::Nginx,
        Contender::Hyper,
    ];

    pub(crate) fn named(name: &str) -> Option<Contender> {
        Contender::ALL.into_iter().find(|c| c.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::C => "c",
            Contender::CAtOnce => "c-at-once",
            Contender::CDeferred => "c-deferred",
            Contender::Mio => "mio",
            Contender::Glowplug => "glowplug",
            Contender::Deferred => "deferred",
            Contender::Tokio => "tokio",
            Contender::Nginx => "nginx",
            Contender::Hyper => "hyper",
            Contender::MioAgain => "mio-again",
        }
    }

    pub(crate) fn is_c(self) -> bool {
        matches!(self, Contender::C | Contender::CAtOnce | Contender::CDeferred)
    }

    /// Whether this contender does the work. Ways to accept show in short connections alone.
    pub(crate) fn does(self, work: Work) -> bool {
        match self {
            Contender::CAtOnce | Contender::CDeferred | Contender::Deferred => work == Work::Short,
            Contender::Nginx | Contender::Hyper => work != Work::Echo,
            _ => true,
        }
    }

    /// Whether a watcher can count this contender's calls: not nginx, whose worker is a child.
    pub(crate) fn can_be_counted(self) -> bool {
        self != Contender::Nginx
    }

    pub(crate) fn start(self, rig: &Rig, c_loop: Option<&Path>, work: Work) -> Result<Server, String> {
        if self == Contender::Nginx {
            return others::nginx(rig, BODY);
        }
        rig.serve(&self.serving(rig, c_loop, work)?, &[])
    }

    /// `REACTOR_BACKEND` in the environment chooses glowplug's poller.
    pub(crate) fn serving<'a>(self, rig: &'a Rig, c_loop: Option<&'a Path>, work: Work) -> Result<Served<'a>, String> {
        let mut words = match (self, work) {
            (Contender::Mio | Contender::MioAgain, Work::Echo) => vec!["mio", "echo"],
            (Contender::Mio | Contender::MioAgain, _) => vec!["mio", "http"],
            (Contender::Tokio, Work::Echo) => vec!["tokio", "echo"],
            (Contender::Tokio, _) => vec!["tokio", "http"],
            (Contender::Hyper, _) => vec!["hyper", "http"],
            (Contender::Glowplug | Contender::Deferred, Work::Echo) => vec!["echo", "--raw", "--log-level", "warn"],
            (Contender::Glowplug | Contender::Deferred, _) => vec!["http", "--log-level", "warn"],
            (Contender::C | Contender::CAtOnce | Contender::CDeferred, Work::Echo) => vec!["echo"],
            (Contender::C | Contender::CAtOnce | Contender::CDeferred, Work::Http) => vec!["http"],
            (Contender::C | Contender::CAtOnce | Contender::CDeferred, Work::Short) => vec!["http", "--close"],
            (Contender::Nginx, _) => return Err("nginx is started by its configuration".to_owned()),
        };
        match self {
            Contender::CAtOnce => words.push("--at-once"),
            Contender::CDeferred => words.extend(["--at-once", "--defer", "30"]),
            Contender::Deferred => words.extend(["--defer-accept", "30"]),
            _ => {}
        }
        let program = match self {
            Contender::Glowplug | Contender::Deferred => rig.glowplug()?,
            _ if self.is_c() => c_loop.ok_or("without a C compiler there is no C loop")?,
            _ => &rig.peers,
        };
        Ok(Served { name: format!("{} {}", self.name(), work.name()), program, words })
    }
}

/// The contenders that this machine can start, and the program of the C loop.
pub(crate) fn present(rig: &Rig, wanted: &[Contender]) -> Result<(Vec<Contender>, Option<PathBuf>), String> {
    let c_loop = if wanted.iter().any(|c| c.is_c()) { others::c_loop(rig)? } else { None };
    let has_nginx = others::has_nginx();
    let there = |contender: &Contender| match contender {
        Contender::Nginx => has_nginx,
        _ if contender.is_c() => c_loop.is_some(),
        _ => true,
    };
    let there: Vec<Contender> = wanted.iter().copied().filter(there).collect();
    for absent in wanted.iter().filter(|wanted| !there.contains(wanted)) {
        println!("{} is left out: it is not installed.", if absent.is_c() { "A C compiler" } else { absent.name() });
    }
    Ok((there, c_loop))
}
