//! `glowplug chat`: the chat room, and a client to join a room.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use reactor::SlowPolicy;
use services::chat::{
    Chat, Console, HISTORY_MAX, MEMBER_QUEUE, REFUSAL_PATIENCE, Room, deadlines, limits_for, refusal,
};
use services::codec::websocket::origin::{NotAnOrigin, Origins};

use crate::Failure;
use crate::join;
use crate::logging::Logging;
use crate::names::CHAT;
use crate::nodes::{Node, NodeOptions};
use crate::options::{Common, ListenAt, with_tls};
use crate::server::{Server, advised};
use crate::sink::Lines;

pub const PORT: &str = "8801";

const EXAMPLE: &str = concat!(
    "\
Example:
  glowplug chat serve --port 7008

Then open http://127.0.0.1:7008/ in a browser, or from another terminal:
  glowplug chat join --name ann --port 7008
or nc 127.0.0.1 7008, and type a name

One room on two servers, with nats-server -js:
  glowplug chat serve --port 7008 --nats nats://127.0.0.1:4222
  glowplug chat serve --port 7009 --nats nats://127.0.0.1:4222

",
    with_tls!(),
    "\
\x20 glowplug chat serve --port 7008 --tls-cert cert.pem --tls-key key.pem
  glowplug chat join --name ann --host localhost --port 7008 --tls --ca cert.pem"
);

/// Run a chat room, or join one
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
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Members of the chat")]
pub struct Members {
    /// Policy for a member that has more than --member-queue bytes queued: disconnect the member, or drop messages [default:
    /// disconnect]
    #[arg(long, value_name = "POLICY", ignore_case = true, value_parser = policy())]
    slow: Option<SlowPolicy>,

    /// Largest queue of a member that does not read, in bytes [default: 1048576]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=MEMBER_QUEUE_MAX))]
    member_queue: Option<u64>,

    /// Send a new member the last N messages, at most 256 KiB in total [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=HISTORY_MAX as i64))]
    history: Option<u32>,

    /// Let web pages of this origin (https:// and its host) join besides the chat's own page; may be repeated. Needed for a proxy
    /// that serves the chat under a host name of its own. * allows pages of any origin and requests for any host
    #[arg(long = "origin", value_name = "URL", value_parser = origin)]
    origins: Vec<String>,

    #[command(flatten)]
    nodes: NodeOptions,
}

impl Members {
    /// The node that the options ask for: see [`NodeOptions::node`].
    pub fn node(&self, common: &Common) -> Result<Option<Node>, Failure> {
        self.nodes.node(common)
    }

    pub fn are_given(&self) -> bool {
        *self != Members::default()
    }

    /// Merges the options after the subcommand with the options before.
    pub fn or(self, before: Members) -> Members {
        Members {
            slow: self.slow.or(before.slow),
            member_queue: self.member_queue.or(before.member_queue),
            history: self.history.or(before.history),
            origins: if self.origins.is_empty() { before.origins } else { self.origins },
            nodes: self.nodes.or(before.nodes),
        }
    }
}

fn origin(text: &str) -> Result<String, NotAnOrigin> {
    Origins::default().allow(text).map(|()| text.to_owned())
}

/// A terabyte: a larger value is a typing error.
const MEMBER_QUEUE_MAX: u64 = 1 << 40;

fn policy() -> impl TypedValueParser<Value = SlowPolicy> {
    PossibleValuesParser::new(["disconnect", "drop-oldest", "drop-newest"]).map(|name| match name.as_str() {
        "drop-oldest" => SlowPolicy::DropOldest,
        "drop-newest" => SlowPolicy::DropNewest,
        _ => SlowPolicy::Disconnect,
    })
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let mut server = Server::new(common, &[(CHAT, &[options.at.place(common)])], logging)?;
    let node = options.members.node(common)?;
    add(&mut server, options.members, node, logging.reports())
        .map_err(|failure| advised(failure, "--model loops and --model threads serve it"))?;
    server.run(logging)
}

/// Adds the room, and the console that reads standard input and replies through `answers`.
pub fn add(server: &mut Server, members: Members, node: Option<Node>, answers: Lines) -> Result<(), Failure> {
    let idle = server.common().idle_timeout_or(None);
    let member_queue = members.member_queue.map_or(MEMBER_QUEUE, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let mut origins = Origins::default();
    for origin in &members.origins {
        // The option's parser has let it through.
        let _ = origins.allow(origin);
    }
    let history = members.history.unwrap_or(0) as usize;
    let mut room = Room::default().with_history(history, member_queue).with_origins(origins);
    if let Some(node) = &node {
        room = room.with_nodes(node.nodes().clone());
    }
    let limits = limits_for(member_queue, members.slow.unwrap_or(SlowPolicy::Disconnect));
    let in_room = room.clone();
    // The first loop to start reads standard input. Duplicated before the chat is added, because the chat checks the
    // free descriptors.
    let typed = Mutex::new(io::stdin().as_fd().try_clone_to_owned().ok());
    let chat = server.add(
        CHAT,
        move || Chat::new(in_room.clone()),
        // Every member's loop shares the list of members.
        |service| {
            let service = service.limits(limits).deadlines(deadlines(idle)).urgent_in_line().shares_memory();
            service.refusal_by(REFUSAL_PATIENCE, refusal)
        },
    )?;
    if let Some(node) = node {
        node.add(server, chat.clone())?;
    }
    server.add_beside("console", move || {
        let (typed, answers) = (typed.lock().unwrap_or_else(PoisonError::into_inner).take(), answers.clone());
        Console::new(room.clone(), chat.clone(), typed, move |answer| answers.put(&format!("{answer}\n")))
    })
}
