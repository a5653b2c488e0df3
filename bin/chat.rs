//! `glowplug chat`: the chat room, and whoever wants to be in it.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use clap::{Args, Subcommand};
use services::chat::{Chat, Console, Room, deadlines, limits};

use crate::Failure;
use crate::join;
use crate::logging::Logging;
use crate::names::CHAT;
use crate::options::{Common, ListenAt, Place};
use crate::server::Server;
use crate::sink::Lines;

pub const PORT: &str = "8801";

const EXAMPLE: &str = "\
Example:
  glowplug chat serve --port 7008

Then, from another terminal: glowplug chat join --name ann --port 7008
or nc 127.0.0.1 7008, and type a name";

/// The chat room
#[derive(Subcommand)]
#[command(after_help = EXAMPLE)]
pub enum Command {
    Serve(Options),
    Join(join::Options),
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
    add(&mut server, &options.at.place(), logging.reports())?;
    server.run(logging)
}

/// The room, and beside it the console: what is typed on standard input, answered by `answers`.
pub fn add(server: &mut Server, place: &Place, answers: Lines) -> Result<(), Failure> {
    let idle = server.common().idle_timeout_or(None);
    let room = Room::default();
    let in_room = room.clone();
    let chat = server.add(
        CHAT,
        place,
        move || Chat::new(in_room.clone()),
        |service| service.limits(limits()).deadlines(deadlines(idle)),
    )?;
    // Of several loops, the first to begin reads it.
    let typed = Mutex::new(io::stdin().as_fd().try_clone_to_owned().ok());
    server.add_beside("console", move || {
        let (typed, answers) = (typed.lock().unwrap_or_else(PoisonError::into_inner).take(), answers.clone());
        Console::new(room.clone(), chat.clone(), typed, move |answer| answers.put(&format!("{answer}\n")))
    })
}
