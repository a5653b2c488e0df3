//! The options for a chat room on several servers, and the client of NATS that they ask for.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use log::LevelFilter;
use reactor::{Application, Runner, Service, ServiceHandle};
use services::chat::{Command, Nodes};
use services::nats::{Client, Login, Participant, Posted, Url, deadlines, limits};

use crate::options::Common;
use crate::server::Server;
use crate::{Failure, usage};

/// The variable that has the credentials, if no option names a file and no URL has a login.
const CREDENTIALS: &str = "NATS_CREDENTIALS";
/// Longest login in bytes. NATS takes 4 KiB for a whole CONNECT by default.
const CREDENTIALS_MAX: u64 = 4096;
/// Longest name of a room or a node.
const NAME_MAX: usize = 64;

/// The room's other servers.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "One chat room on several servers")]
pub struct NodeOptions {
    /// NATS server (2.9 or newer, with JetStream) through which all servers with the same --room form one room:
    /// nats://HOST:PORT or tls://HOST:PORT, with user:password@ or token@ before HOST for a login; may be repeated for a cluster
    #[arg(long, value_name = "URL")]
    nats: Vec<String>,

    /// File with the login for NATS: user:password, or a token. Without this option, and without a login in a URL, the variable
    /// NATS_CREDENTIALS may contain the login. Neither shows in the list of processes
    #[arg(long, value_name = "FILE", requires = "nats")]
    nats_credentials: Option<PathBuf>,

    /// The certificates that the certificate of a tls:// server is checked against, PEM, instead of the system's
    #[arg(long, value_name = "FILE", requires = "nats")]
    nats_ca: Option<PathBuf>,

    /// Start alone if NATS cannot be reached, instead of exiting with an error
    #[arg(long, requires = "nats")]
    nats_optional: bool,

    /// Name of the room in NATS: 1 to 64 letters, digits, _ and - [default: lobby]
    #[arg(long, value_name = "NAME", requires = "nats")]
    room: Option<String>,

    /// Name of this server in NATS: 1 to 64 letters, digits, _ and - [default: the host's name with a random suffix]
    #[arg(long, value_name = "NAME", requires = "nats")]
    node: Option<String>,
}

/// A node of a room on several servers.
pub struct Node {
    nodes: Nodes,
    engine: Engine,
}

/// The settings of a client of NATS.
#[derive(Clone)]
struct Engine {
    urls: Vec<Url>,
    login: Option<Login>,
    tls: Option<tls::Client>,
}

impl NodeOptions {
    /// Merges the options after the subcommand with the options before.
    pub fn or(self, before: NodeOptions) -> NodeOptions {
        NodeOptions {
            nats: if self.nats.is_empty() { before.nats } else { self.nats },
            nats_credentials: self.nats_credentials.or(before.nats_credentials),
            nats_ca: self.nats_ca.or(before.nats_ca),
            nats_optional: self.nats_optional || before.nats_optional,
            room: self.room.or(before.room),
            node: self.node.or(before.node),
        }
    }

    /// The node that the options ask for. Wrong values end the process as wrong usage. Unless the node may start alone, waits until
    /// NATS has proved that the room can begin, for some milliseconds as a rule. Call before a service is bound: until then no
    /// client can connect.
    pub fn node(&self, common: &Common) -> Result<Option<Node>, Failure> {
        if self.nats.is_empty() {
            return Ok(None);
        }
        // The parser would repeat a wrong value, with its secrets.
        let urls = self.urls();
        let room = self.room.as_deref().unwrap_or("lobby");
        let host = self.node.clone().unwrap_or_else(host_name);
        let nodes = Nodes::new(room, &host).unwrap_or_else(|error| usage(&format!("--room and --node: {error}")));
        let tls = match urls.iter().any(Url::is_tls) {
            true => Some(tls::Client::new(self.nats_ca.as_deref().map_or(tls::Roots::System, tls::Roots::File))?),
            false => None,
        };
        let login = self.login(&urls)?;
        let engine = Engine { urls, login, tls };
        let node = Node { nodes, engine };
        if !self.nats_optional {
            node.prove(common)?;
        }
        Ok(Some(node))
    }

    fn urls(&self) -> Vec<Url> {
        let urls = self.nats.iter().map(|url| url.parse());
        urls.collect::<Result<_, _>>().unwrap_or_else(|error| usage(&format!("--nats: {error}")))
    }

    /// The login for all servers, if there is one besides the URLs' own. What was typed wins over the variable, and an empty variable
    /// counts as absent.
    fn login(&self, urls: &[Url]) -> Result<Option<Login>, Failure> {
        let text = match &self.nats_credentials {
            Some(path) => credentials(path).map_err(|error| format!("{}: {error}", path.display()))?,
            None if urls.iter().any(Url::has_login) => return Ok(None),
            None => match std::env::var(CREDENTIALS) {
                Ok(text) if text.is_empty() => return Ok(None),
                Ok(text) => text,
                Err(std::env::VarError::NotPresent) => return Ok(None),
                Err(error) => return Err(format!("{CREDENTIALS}: {error}").replace(['"'], "").into()),
            },
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err("the credentials for NATS are empty".into());
        }
        Ok(Some(match text.split_once(':') {
            Some((name, password)) => Login::User { name: name.to_owned(), password: password.to_owned() },
            None => Login::Token(text.to_owned()),
        }))
    }
}

impl Node {
    /// The node of the room.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Waits until NATS has proved that the room can begin. A signal that arrives meanwhile stops the application as soon as it runs.
    fn prove(&self, common: &Common) -> Result<(), Failure> {
        let mut app = Application::with(common.backend, Runner::loops(1)?)?;
        let (engine, nodes) = (self.engine.clone(), self.nodes.clone());
        app.add_service(outbound(move || engine.client(nodes.probe())))?;
        // The start, the counters and the end of this application are details: nobody has asked for a server that lives for milliseconds.
        let level = log::max_level();
        if level == LevelFilter::Info {
            log::set_max_level(LevelFilter::Warn);
        }
        let ran = app.run();
        log::set_max_level(level);
        ran?;
        self.nodes.failure().map_or(Ok(()), |why| Err(why.into()))
    }

    /// Adds the client of NATS that joins the room of `chat` to the other servers' rooms.
    pub fn add(self, server: &mut Server, chat: ServiceHandle<Command>) -> Result<(), Failure> {
        let Node { nodes, engine } = self;
        let of_room = nodes.clone();
        nodes.attach(server.add_client(outbound(move || engine.client(of_room.participant(&chat))))?);
        server.reports(move || nodes.report());
        Ok(())
    }
}

impl Engine {
    fn client<P: Participant>(&self, participant: P) -> Client<P> {
        let mut client = Client::new(self.urls.clone(), participant).name("glowplug chat").echo(false);
        if let Some(login) = &self.login {
            client = client.login(login.clone());
        }
        let Some(tls) = self.tls.clone() else { return client };
        let causes = tls.clone();
        client.layered(move |name| tls.layer(name).map_err(|error| error.to_string()), move || causes.take_cause())
    }
}

/// The service of a client of NATS.
fn outbound<P: Participant>(
    client: impl Fn() -> Client<P> + Send + Sync + 'static,
) -> Service<Client<P>, Posted<P::Message>> {
    Service::outbound(client).named("nats").limits(limits()).deadlines(deadlines())
}

/// The content of a file with credentials, at most [`CREDENTIALS_MAX`] bytes.
fn credentials(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(CREDENTIALS_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > CREDENTIALS_MAX {
        return Err(io::Error::other(format!("more than {CREDENTIALS_MAX} bytes are no credentials")));
    }
    Ok(text)
}

/// The host's name, with `-` in place of other characters than those of names, and a random suffix.
fn host_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
    let host: String = host.chars().map(plain).take(NAME_MAX - 5).collect();
    let suffix = RandomState::new().hash_one(std::process::id()) as u16;
    format!("{host}-{suffix:04x}")
}
