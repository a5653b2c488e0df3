//! The contenders, and how each is started.

use crate::Work;
use crate::rig::{Rig, Served};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Contender {
    Mio,
    Glowplug,
    Tokio,
    /// The control: mio in a second process.
    MioAgain,
}

impl Contender {
    pub(crate) fn named(name: &str) -> Option<Contender> {
        [Contender::Mio, Contender::Glowplug, Contender::Tokio].into_iter().find(|c| c.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Mio => "mio",
            Contender::Glowplug => "glowplug",
            Contender::Tokio => "tokio",
            Contender::MioAgain => "mio again",
        }
    }

    /// `REACTOR_BACKEND` in the environment chooses glowplug's poller.
    pub(crate) fn serving(self, rig: &Rig, work: Work) -> Result<Served<'_>, String> {
        let words = match (self, work) {
            (Contender::Mio | Contender::MioAgain, _) => vec!["mio", work.name()],
            (Contender::Tokio, _) => vec!["tokio", work.name()],
            (Contender::Glowplug, Work::Http) => vec!["http", "--log-level", "warn"],
            (Contender::Glowplug, Work::Echo) => vec!["echo", "--raw", "--log-level", "warn"],
        };
        let program = if self == Contender::Glowplug { rig.glowplug()? } else { &rig.peers };
        Ok(Served { name: format!("{} {}", self.name(), work.name()), program, words })
    }
}
