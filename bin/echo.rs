//! `glowplug echo`: sends a peer's words back to the peer.

use clap::Args;
use reactor::Handler;
use services::echo::{Echo, RawEcho, WEBSOCKET_REFUSAL, WebSocketEcho, deadlines, limits, websocket_limits};

use crate::Failure;
use crate::logging::Logging;
use crate::names::ECHO;
use crate::options::{Common, ListenAt};
use crate::server::Server;

pub const PORT: &str = "8800";

const EXAMPLE: &str = "\
Example:
  glowplug echo --port 7007 --idle-timeout 60

Then, from another terminal: nc 127.0.0.1 7007

With TLS, and a certificate of one's own for it:
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost -addext \\
    subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem
  glowplug echo --port 7007 --tls-cert cert.pem --tls-key key.pem
  openssl s_client -quiet -CAfile cert.pem -connect localhost:7007";

/// Answer each line with `You said: <line>`
#[derive(Args)]
#[command(after_help = EXAMPLE, mut_arg("port", |port| port.required(false).default_value(PORT)))]
pub struct Options {
    #[command(flatten)]
    at: ListenAt,

    /// Send every byte back unchanged instead (RFC 862)
    #[arg(long)]
    raw: bool,

    /// Speak WebSocket (RFC 6455) instead, on every path, and send each message of up to 16 MiB back. Pages of every
    /// origin may connect: for test suites
    #[arg(long, conflicts_with = "raw")]
    websocket: bool,
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let mut server = Server::new(common, &[(ECHO, &[options.at.place(common)])], logging)?;
    if options.raw {
        add_as(&mut server, || RawEcho)?;
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

fn add_as<H: Handler>(server: &mut Server, factory: fn() -> H) -> Result<(), Failure> {
    let idle = server.common().idle_timeout_or(None);
    server.add(ECHO, factory, |service| service.limits(limits()).deadlines(deadlines(idle)))?;
    Ok(())
}
