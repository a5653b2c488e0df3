//! `glowplug serve`, and `glowplug` alone: echo, chat and http in one application.

use clap::Args;
use services::http::BODY;

use crate::logging::Logging;
use crate::names;
use crate::options::{Addr, At, Common, HOST, Place, with_tls};
use crate::server::{Server, advised};
use crate::{Failure, chat, echo, http, usage};

const EXAMPLE: &str = concat!(
    "\
ADDR is host:port, [v6]:port, unix:PATH or off.
tls:ADDR speaks TLS, with the certificates of --tls-cert and --tls-key.
--echo, --chat and --http may be repeated: one service, and one room, then
listens at several addresses.

Example:
  glowplug serve --echo off --chat unix:/tmp/chat.sock --http 127.0.0.1:8080

",
    with_tls!(),
    "\
\x20 glowplug serve --http 127.0.0.1:8080 --http tls:127.0.0.1:8443 \\
    --tls-cert cert.pem --tls-key key.pem
  curl --cacert cert.pem https://localhost:8443/"
);

/// Run echo, chat and http in one application
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Options {
    #[arg(long, value_name = "ADDR", help = help_of(names::ECHO, echo::PORT))]
    echo: Vec<Addr>,

    #[arg(long, value_name = "ADDR", help = help_of(names::CHAT, chat::PORT))]
    chat: Vec<Addr>,

    #[arg(long, value_name = "ADDR", help = help_of(names::HTTP, http::PORT))]
    http: Vec<Addr>,

    #[command(flatten)]
    members: chat::Members,

    #[command(flatten)]
    site: http::SiteOptions,
}

fn help_of(name: &str, port: &str) -> String {
    format!("Address on which {name} listens, or off; may be repeated [default: {HOST}:{port}]")
}

impl Options {
    pub fn are_given(&self) -> bool {
        !self.echo.is_empty()
            || !self.chat.is_empty()
            || !self.http.is_empty()
            || self.members.are_given()
            || self.site.are_given()
    }

    /// Merges the options after the subcommand with the options before.
    pub fn or(self, before: Options) -> Options {
        Options {
            echo: either(self.echo, before.echo),
            chat: either(self.chat, before.chat),
            http: either(self.http, before.http),
            members: self.members.or(before.members),
            site: self.site.or(before.site),
        }
    }
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let echo = places(options.echo, echo::PORT);
    let chat = places(options.chat, chat::PORT);
    let http = places(options.http, http::PORT);
    let all = [(names::ECHO, &echo), (names::CHAT, &chat), (names::HTTP, &http)];
    let places: Vec<_> = all.iter().filter_map(|(name, at)| Some((*name, at.as_deref()?))).collect();
    if !common.has_tls() && places.iter().any(|(_, at)| at.iter().any(|at| at.tls)) {
        usage("tls: needs --tls-cert and --tls-key");
    }
    if places.is_empty() {
        usage("every service is off: nothing to serve");
    }
    let mut server = Server::new(common, &places, logging)?;
    let node = if chat.is_some() { options.members.node(common)? } else { None };
    if echo.is_some() {
        echo::add(&mut server)?;
    }
    if chat.is_some() {
        chat::add(&mut server, options.members, node, logging.reports())
            .map_err(|failure| advised(failure, "--chat off leaves it out"))?;
    }
    if http.is_some() {
        http::add(&mut server, BODY.to_owned(), &options.site, logging)?;
    }
    server.run(logging)
}

fn either(after: Vec<Addr>, before: Vec<Addr>) -> Vec<Addr> {
    if after.is_empty() { before } else { after }
}

/// Where a service listens; `None` if it is off.
fn places(given: Vec<Addr>, port: &str) -> Option<Vec<At>> {
    if given.is_empty() {
        return Some(vec![At { place: Place::Tcp(format!("{HOST}:{port}")), tls: false }]);
    }
    let count = given.len();
    let at: Vec<At> = given
        .into_iter()
        .filter_map(|addr| match addr {
            Addr::At(at) => Some(at),
            Addr::Off => None,
        })
        .collect();
    if at.len() < count && count > 1 {
        usage("off stands alone");
    }
    (!at.is_empty()).then_some(at)
}
