//! The servers, each on a port of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::server::free_port;
use crate::rig::{Rig, Served, Server};

/// The guarantees of the three servers for that price.
pub(crate) const GUARANTEES: &str = "\
| | glowplug chat | redis | nats (core) |
| --- | --- | --- | --- |
| order | each sender's, and each topic's | each channel's | each publisher's |
| one message | UTF-8 text checked and cleaned of control characters, the sender's name before it | bytes | bytes |
| a member that does not read | at most 1 MiB queued (`--member-queue`), then by `--slow`: disconnected with an error text, or whole messages dropped and \
counted in their place | owed 32 MB at most, 8 MB for 60 s; then cut off | owed 64 MiB at most, 10 s for a write; then cut off |
| a notice for dropped messages | yes | no | no |
| memory for that | bounded for each member | bounded for each member | bounded for each member |";

pub(crate) enum Contender {
    Glowplug {
        name: &'static str,
        /// The protocol of all members and of the sender.
        way: &'static str,
        path: PathBuf,
    },
    /// A server with npm's `ws`, which does what the chat does for the messages of the load.
    Node,
    /// The cost of the kernel alone: equal bytes, in one send to each member, from a loop that does nothing else.
    Floor,
    Redis,
    Nats,
}

impl Contender {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Contender::Glowplug { name, .. } => name,
            Contender::Node => "node ws",
            Contender::Floor => "floor",
            Contender::Redis => "redis",
            Contender::Nats => "nats",
        }
    }

    pub(crate) fn program(&self) -> &'static str {
        match self {
            Contender::Glowplug { .. } => "glowplug",
            Contender::Node => "node",
            Contender::Floor => "peers",
            Contender::Redis => "redis-server",
            Contender::Nats => "nats-server",
        }
    }

    /// The way to install the server.
    pub(crate) fn advice(&self) -> String {
        match self {
            Contender::Node => "npm install --prefix DIR ws, and NODE_PATH=DIR/node_modules".to_owned(),
            _ => format!("apt-get install {}", self.program()),
        }
    }

    /// The server's version, if the server is installed.
    pub(crate) fn version(&self) -> Option<String> {
        if let Contender::Node = self {
            let script = "console.log(`ws ${require('ws/package.json').version} on node ${process.version}`)";
            let said = Command::new("node").args(["-e", script]).output().ok().filter(|said| said.status.success())?;
            return Some(String::from_utf8_lossy(&said.stdout).trim().to_owned());
        }
        let said = Command::new(self.program()).arg("--version").output().ok().filter(|said| said.status.success())?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    /// The protocol that the load speaks.
    pub(crate) fn way(&self) -> &'static str {
        match self {
            Contender::Glowplug { way, .. } => way,
            Contender::Node => "websocket",
            Contender::Floor => "floor",
            Contender::Redis => "redis",
            Contender::Nats => "nats",
        }
    }

    /// Starts the server and waits until it accepts.
    pub(crate) fn start(&self, rig: &Rig) -> Result<Server, String> {
        let name = self.name().to_owned();
        if let Contender::Glowplug { path, .. } = self {
            let words = vec!["chat", "serve", "--log-level", "warn"];
            return rig.serve(&Served { name, program: path, words }, &[]);
        }
        if let Contender::Floor = self {
            return rig.serve(&Served { name, program: &rig.peers, words: vec!["floor", "fanout"] }, &[]);
        }
        let port = free_port()?.to_string();
        if let Contender::Node = self {
            let script = rig.scratch.join("node_ws.js").display().to_string();
            std::fs::write(&script, include_str!("node_ws.js")).map_err(|why| format!("{script}: {why}"))?;
            let words = vec![script.as_str(), &port];
            return rig.serve_at(&Served { name, program: Path::new("node"), words }, format!("127.0.0.1:{port}"));
        }
        let [scratch, config, log] =
            ["", "nats.conf", "nats.log"].map(|file| rig.scratch.join(file).display().to_string());
        let mut words = vec!["--port", &port];
        if let Contender::Redis = self {
            // Without storage on disk, and without other work.
            words.extend(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", &scratch]);
            words.extend(["--loglevel", "warning", "--maxclients", "20000"]);
        } else {
            // NATS asks idle clients for a sign of life. The load answers once.
            let text = "ping_interval: \"1h\"\nmax_connections: 20000\nlogfile_size_limit: 1MB\n";
            std::fs::write(&config, text).map_err(|why| format!("{config}: {why}"))?;
            words.extend(["--addr", "127.0.0.1", "-c", &config, "-l", &log]);
        }
        rig.serve_at(&Served { name, program: Path::new(self.program()), words }, format!("127.0.0.1:{port}"))
    }
}
