//! `glowplug serve`, and `glowplug` alone: echo, chat and http in one application.

use clap::Args;
use services::http::BODY;

use crate::logging::Logging;
use crate::names;
use crate::options::{Addr, Common, HOST, Place};
use crate::server::{Server, advised};
use crate::{Failure, chat, echo, http, usage};

const EXAMPLE: &str = "\
ADDR is host:port, [v6]:port, unix:PATH or off.

Example:
  glowplug serve --echo off --chat unix:/tmp/chat.sock --http 127.0.0.1:8080";

/// Run echo, chat and http in one application
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Options {
    #[arg(long, value_name = "ADDR", help = help_of(names::ECHO, echo::PORT))]
    echo: Option<Addr>,

    #[arg(long, value_name = "ADDR", help = help_of(names::CHAT, chat::PORT))]
    chat: Option<Addr>,

    #[arg(long, value_name = "ADDR", help = help_of(names::HTTP, http::PORT))]
    http: Option<Addr>,

    #[command(flatten)]
    members: chat::Members,

    #[command(flatten)]
    site: http::SiteOptions,
}

fn help_of(name: &str, port: &str) -> String {
    format!("Where {name} listens, or off [default: {HOST}:{port}]")
}

impl Options {
    pub fn are_given(&self) -> bool {
        self.echo.is_some()
            || self.chat.is_some()
            || self.http.is_some()
            || self.members.are_given()
            || self.site.are_given()
    }

    /// Merges the options after the subcommand with the options before.
    pub fn or(self, before: Options) -> Options {
        Options {
            echo: self.echo.or(before.echo),
            chat: self.chat.or(before.chat),
            http: self.http.or(before.http),
            members: self.members.or(before.members),
            site: self.site.or(before.site),
        }
    }
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let echo = place(options.echo, echo::PORT);
    let chat = place(options.chat, chat::PORT);
    let http = place(options.http, http::PORT);
    let all = [(names::ECHO, &echo), (names::CHAT, &chat), (names::HTTP, &http)];
    let places: Vec<_> = all.iter().filter_map(|(name, place)| Some((*name, place.as_ref()?))).collect();
    if places.is_empty() {
        usage("every service is off: nothing to serve");
    }
    let mut server = Server::new(common, &places, logging)?;
    if echo.is_some() {
        echo::add(&mut server)?;
    }
    if chat.is_some() {
        chat::add(&mut server, options.members, logging.reports())
            .map_err(|failure| advised(failure, "--chat off leaves it out"))?;
    }
    if http.is_some() {
        http::add(&mut server, BODY.to_owned(), &options.site, logging)?;
    }
    server.run(logging)
}

fn place(given: Option<Addr>, port: &str) -> Option<Place> {
    match given {
        None => Some(Place::Tcp(format!("{HOST}:{port}"))),
        Some(Addr::At(place)) => Some(place),
        Some(Addr::Off) => None,
    }
}
