//! `glowplug http`: one fixed answer to every request.

use clap::Args;
use services::http::{BODY, Http, IDLE_TIMEOUT, REFUSAL, deadlines, limits};

use crate::Failure;
use crate::logging::Logging;
use crate::names::HTTP;
use crate::options::{Common, ListenAt, Place};
use crate::server::Server;

pub const PORT: &str = "8802";

const EXAMPLE: &str = "\
Example:
  glowplug http --port 7009 --body Moin!

Then, from another terminal: curl http://127.0.0.1:7009/";

/// Give one fixed answer to every request
#[derive(Args)]
#[command(after_help = EXAMPLE, mut_arg("port", |port| port.required(false).default_value(PORT)))]
pub struct Options {
    #[command(flatten)]
    at: ListenAt,

    /// What to answer
    #[arg(long, value_name = "TEXT", default_value = BODY)]
    body: String,
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let mut server = Server::new(common, &[HTTP])?;
    add(&mut server, &options.at.place(), options.body)?;
    server.run(logging)
}

pub fn add(server: &mut Server, place: &Place, body: String) -> Result<(), Failure> {
    let idle = server.common().idle_timeout_or(Some(IDLE_TIMEOUT));
    server.add(
        HTTP,
        place,
        move || Http::new(body.clone(), idle),
        |service| service.limits(limits()).deadlines(deadlines()).refusal(REFUSAL),
    )?;
    Ok(())
}
