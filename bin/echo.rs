//! `glowplug echo`: sends a peer's words back to the peer.

use std::thread;

use clap::{Args, ValueEnum};
use reactor::Handler;
use sequential::{Peer, Tasks, TooLong};
use services::echo::{
    Echo, IdentifiedEcho, LINE_MAX, RawEcho, SAID, TOO_LONG, WEBSOCKET_REFUSAL, WebSocketEcho, deadlines, limits,
    websocket_limits,
};

use crate::Failure;
use crate::logging::Logging;
use crate::names::ECHO;
use crate::options::{Common, ListenAt, with_tls};
use crate::server::Server;

pub const PORT: &str = "8800";

const EXAMPLE: &str = concat!(
    "\
Example:
  glowplug echo --port 7007 --idle-timeout 60

Then, from another terminal: nc 127.0.0.1 7007

",
    with_tls!(),
    "\
\x20 glowplug echo --port 7007 --tls-cert cert.pem --tls-key key.pem
  openssl s_client -quiet -CAfile cert.pem -connect localhost:7007"
);

/// Answer each line with `You said: <line>`
#[derive(Args)]
#[command(after_help = EXAMPLE, mut_arg("port", |port| port.required(false).default_value(PORT)))]
pub struct Options {
    #[command(flatten)]
    at: ListenAt,

    /// Send every byte back unchanged (RFC 862), instead of answering lines
    #[arg(long)]
    raw: bool,

    /// Speak WebSocket (RFC 6455) on every path, and send each message of up to 16 MiB back. For test suites: web pages of every
    /// origin may connect
    #[arg(long, conflicts_with = "raw")]
    websocket: bool,

    /// Begin each answer with the process and the thread that serve the connection: `[process <pid>, thread <name>] `
    #[arg(long, conflicts_with_all = ["raw", "websocket"])]
    identify: bool,

    /// Program style of the handler: callbacks of the loop, or an async function for each connection on the same loop. The
    /// answers are equal
    #[arg(long, value_enum, default_value_t = Style::Callbacks, conflicts_with = "websocket")]
    style: Style,
}

/// How the handler of the echo is written.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "lower")]
enum Style {
    Callbacks,
    Sequential,
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let mut server = Server::new(common, &[(ECHO, &[options.at.place(common)])], logging)?;
    let is_sequential = options.style == Style::Sequential;
    if options.raw && is_sequential {
        add_as(&mut server, || Tasks::new(raw))?;
    } else if options.raw {
        add_as(&mut server, || RawEcho)?;
    } else if is_sequential {
        if options.identify {
            add_as(&mut server, || Tasks::new(lines(identity())))?;
        } else {
            add_as(&mut server, || Tasks::new(lines([])))?;
        }
    } else if options.identify {
        add_as(&mut server, || IdentifiedEcho::new(identity()))?;
    } else if options.websocket {
        let deadlines = deadlines(server.common().idle_timeout_or(None));
        server.add(ECHO, WebSocketEcho::default, |service| {
            service.limits(websocket_limits()).deadlines(deadlines).refusal(WEBSOCKET_REFUSAL)
        })?;
    } else {
        add(&mut server)?;
    }
    server.run(logging)
}

pub fn add(server: &mut Server) -> Result<(), Failure> {
    add_as(server, || Echo)
}

fn add_as<H: Handler<M>, M: Send + 'static>(
    server: &mut Server,
    factory: impl Fn() -> H + Send + Sync + 'static,
) -> Result<(), Failure> {
    let idle = server.common().idle_timeout_or(None);
    server.add(ECHO, factory, |service| service.limits(limits()).deadlines(deadlines(idle)))?;
    Ok(())
}

/// The process and the thread in which a handler is made, which are those that serve its connections.
fn identity() -> String {
    let thread = thread::current();
    format!("[process {}, thread {}] ", std::process::id(), thread.name().unwrap_or("without a name"))
}

/// The echo of lines, sequential, with `before` in front of each answer. Answers as [`Echo`] does.
fn lines(before: impl AsRef<[u8]> + 'static) -> impl AsyncFn(&mut Peer) {
    async move |peer| {
        loop {
            match peer.until_eol_within(LINE_MAX).await {
                Ok(Some(line)) => peer.send_all([before.as_ref(), SAID, &line]),
                Ok(None) => return end(peer, before.as_ref()),
                Err(TooLong) => return peer.send(TOO_LONG),
            }
        }
    }
}

/// Answers an unended last line, as [`Echo`] does.
fn end(peer: &Peer, before: &[u8]) {
    match peer.rest() {
        rest if rest.is_empty() => {}
        rest if rest.len() > LINE_MAX => peer.send(TOO_LONG),
        rest => peer.send_all([before, SAID, &rest]),
    }
}

/// The echo of bytes, sequential. Answers as [`RawEcho`] does.
async fn raw(peer: &mut Peer) {
    while let Some(bytes) = peer.some().await {
        peer.send(&bytes);
    }
}
