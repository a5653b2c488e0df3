//! `glowplug chat`: the chat room.

use clap::{Args, Subcommand};
use services::chat::{Chat, Room, deadlines, limits};

use crate::Failure;
use crate::logging::Logging;
use crate::names::CHAT;
use crate::options::{Common, ListenAt, Place};
use crate::server::Server;

pub const PORT: &str = "8801";

const EXAMPLE: &str = "\
Example:
  glowplug chat serve --port 7008

Then, from another terminal: nc 127.0.0.1 7008, and type a name";

/// The chat room
#[derive(Subcommand)]
#[command(after_help = EXAMPLE)]
pub enum Command {
    Serve(Options),
}

/// Run the chat room
#[derive(Args)]
#[command(after_help = EXAMPLE, mut_arg("port", |port| port.required(false).default_value(PORT)))]
pub struct Options {
    #[command(flatten)]
    at: ListenAt,
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let mut server = Server::new(common, &[CHAT])?;
    add(&mut server, &options.at.place())?;
    server.run(logging)
}

pub fn add(server: &mut Server, place: &Place) -> Result<(), Failure> {
    let idle = server.common().idle_timeout_or(None);
    let room = Room::default();
    server.add(
        CHAT,
        place,
        move || Chat::new(room.clone()),
        |service| service.limits(limits()).deadlines(deadlines(idle)),
    )
}
