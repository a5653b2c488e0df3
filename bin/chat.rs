//! `glowplug chat`: the chat room, and whoever wants to be in it.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use reactor::SlowPolicy;
use services::chat::{Chat, Console, HISTORY_MAX, MEMBER_QUEUE, Room, deadlines, limits_for};

use crate::Failure;
use crate::join;
use crate::logging::Logging;
use crate::names::CHAT;
use crate::options::{Common, ListenAt};
use crate::server::{Server, advised};
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

    #[command(flatten)]
    members: Members,
}

/// How the room treats its members.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq)]
#[command(next_help_heading = "Members of the chat")]
pub struct Members {
    /// What happens to a member that is owed more than --member-queue: it is disconnected, or messages to it are dropped
    /// [default: disconnect]
    #[arg(long, value_name = "POLICY", ignore_case = true, value_parser = policy())]
    slow: Option<SlowPolicy>,

    /// Bytes that a member may be owed while it does not read [default: 1048576]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=MEMBER_QUEUE_MAX))]
    member_queue: Option<u64>,

    /// Tell a newcomer the last N messages, of 256 KiB together at most [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=HISTORY_MAX as i64))]
    history: Option<u32>,
}

impl Members {
    pub fn are_given(&self) -> bool {
        *self != Members::default()
    }

    /// What was given after the subcommand, and before it.
    pub fn or(self, before: Members) -> Members {
        Members {
            slow: self.slow.or(before.slow),
            member_queue: self.member_queue.or(before.member_queue),
            history: self.history.or(before.history),
        }
    }
}

/// A terabyte: more than that is a slip of the hand.
const MEMBER_QUEUE_MAX: u64 = 1 << 40;

fn policy() -> impl TypedValueParser<Value = SlowPolicy> {
    PossibleValuesParser::new(["disconnect", "drop-oldest", "drop-newest"]).map(|name| match name.as_str() {
        "drop-oldest" => SlowPolicy::DropOldest,
        "drop-newest" => SlowPolicy::DropNewest,
        _ => SlowPolicy::Disconnect,
    })
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let mut server = Server::new(common, &[(CHAT, &options.at.place())], logging)?;
    add(&mut server, options.members, logging.reports())
        .map_err(|failure| advised(failure, "--model loops and --model threads serve it"))?;
    server.run(logging)
}

/// The room, and beside it the console: what is typed on standard input, answered by `answers`.
pub fn add(server: &mut Server, members: Members, answers: Lines) -> Result<(), Failure> {
    let idle = server.common().idle_timeout_or(None);
    let member_queue = members.member_queue.map_or(MEMBER_QUEUE, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let room = Room::default().with_history(members.history.unwrap_or(0) as usize, member_queue);
    let limits = limits_for(member_queue, members.slow.unwrap_or(SlowPolicy::Disconnect));
    let in_room = room.clone();
    // Of several loops, the first to begin reads it. Before the chat: that is told whether descriptors are left.
    let typed = Mutex::new(io::stdin().as_fd().try_clone_to_owned().ok());
    let chat = server.add(
        CHAT,
        move || Chat::new(in_room.clone()),
        // Who is in the room, every member's loop has to know.
        |service| service.limits(limits).deadlines(deadlines(idle)).urgent_in_line().shares_memory(),
    )?;
    server.add_beside("console", move || {
        let (typed, answers) = (typed.lock().unwrap_or_else(PoisonError::into_inner).take(), answers.clone());
        Console::new(room.clone(), chat.clone(), typed, move |answer| answers.put(&format!("{answer}\n")))
    })
}
