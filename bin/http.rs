//! `glowplug http`: one fixed answer to every request, or the files of a directory.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reactor::{Bytes, Service};
use services::http::{AccessLog, Addresses, BODY, Fetched, Files, Http, IDLE_TIMEOUT, REFUSAL, deadlines, limits};

use crate::Failure;
use crate::logging::Logging;
use crate::names::HTTP;
use crate::options::{Common, ListenAt, with_tls};
use crate::server::{Server, advised};

pub const PORT: &str = "8802";

const EXAMPLE: &str = concat!(
    "\
Example:
  glowplug http --port 7009 --root . --listing

Then, from another terminal: curl http://127.0.0.1:7009/

",
    with_tls!(),
    "\
\x20 glowplug http --port 7009 --tls-cert cert.pem --tls-key key.pem
  curl --cacert cert.pem https://localhost:7009/"
);

/// Give one fixed answer to every request, or serve the files of a directory
#[derive(Args)]
#[command(after_help = EXAMPLE, mut_arg("port", |port| port.required(false).default_value(PORT)))]
pub struct Options {
    #[command(flatten)]
    at: ListenAt,

    /// Body of the fixed answer
    #[arg(long, value_name = "TEXT", default_value = BODY, conflicts_with = "root")]
    body: String,

    #[command(flatten)]
    site: SiteOptions,
}

/// Options of the HTTP service, beside the fixed answer; `glowplug serve` takes them, too.
#[derive(Args, Default)]
#[command(next_help_heading = "HTTP options")]
pub struct SiteOptions {
    /// Serve the files below this directory, instead of the fixed answer
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// List the names in directories that have no index.html; only with --root
    #[arg(long, requires = "root")]
    listing: bool,

    /// Also follow symbolic links that are absolute or lead out of the directory; only with --root
    #[arg(long, requires = "root")]
    follow_links: bool,

    /// Send this Cache-Control field with every file; only with --root
    #[arg(long, value_name = "VALUE", requires = "root", value_parser = field_value)]
    cache_control: Option<String>,

    /// Append a line in the combined log format for each answer to this file, or to standard output (-); SIGHUP reopens the
    /// file
    #[arg(long, value_name = "FILE|-")]
    access_log: Option<PathBuf>,

    /// Largest number of HTTP connections from one IPv4 address or one IPv6 /64 network; further connections are refused
    /// [default: no limit]
    #[arg(long, value_name = "N")]
    max_connections_per_address: Option<NonZeroU32>,
}

impl SiteOptions {
    pub fn are_given(&self) -> bool {
        self.root.is_some() || self.access_log.is_some() || self.max_connections_per_address.is_some()
    }

    /// Merges these options with the options before the subcommand.
    pub fn or(self, before: SiteOptions) -> SiteOptions {
        SiteOptions {
            root: self.root.or(before.root),
            listing: self.listing || before.listing,
            follow_links: self.follow_links || before.follow_links,
            cache_control: self.cache_control.or(before.cache_control),
            access_log: self.access_log.or(before.access_log),
            max_connections_per_address: self.max_connections_per_address.or(before.max_connections_per_address),
        }
    }

    fn files(&self) -> Result<Option<Files>, Failure> {
        let Some(root) = &self.root else { return Ok(None) };
        let files = if self.follow_links { Files::at_following_links(root) } else { Files::at(root) };
        let mut files = files.map_err(|error| format!("root {}: {error}", root.display()))?;
        if self.listing {
            files = files.listing();
        }
        if let Some(value) = &self.cache_control {
            files = files.cache_control(value);
        }
        Ok(Some(files))
    }
}

/// Accepts a value for a header field. Other characters could begin another field.
fn field_value(text: &str) -> Result<String, String> {
    let text = text.trim_matches([' ', '\t']);
    let is_value = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_value { Ok(text.to_owned()) } else { Err("not the value of a header field".to_owned()) }
}

pub fn run(options: Options, common: &Common, logging: &mut Logging) -> Result<(), Failure> {
    let mut server = Server::new(common, &[(HTTP, &[options.at.place(common)])], logging)?;
    add(&mut server, options.body, &options.site, logging)?;
    server.run(logging)
}

pub fn add(server: &mut Server, body: String, site: &SiteOptions, logging: &mut Logging) -> Result<(), Failure> {
    let idle = server.common().idle_timeout_or(Some(IDLE_TIMEOUT));
    let files = site.files()?;
    let addresses = site.max_connections_per_address.map(Addresses::at_most);
    let counts = addresses.is_some();
    let log = site.access_log.as_deref().map(|to| logging.access_log(to)).transpose()?;
    let body = Bytes::from(body);
    let factory = move || {
        let mut http = match &files {
            Some(files) => Http::with_files(files.clone(), idle),
            None => Http::new(body.clone(), idle),
        };
        if let Some(addresses) = &addresses {
            http = http.addresses(addresses.clone());
        }
        if let Some(lines) = log.clone() {
            http = http.access_log(AccessLog::to(move |text| lines.put(text)));
        }
        http
    };
    let dress = |service: Service<Http, Fetched>| {
        // A request that has arrived is read before the poller is set up. No connection waits in the kernel for its
        // first bytes.
        let service = service.client_speaks_first(Duration::ZERO);
        let service = service.limits(limits()).deadlines(deadlines()).refusal(REFUSAL);
        if counts { service.shares_memory() } else { service }
    };
    server
        .add(HTTP, factory, dress)
        .map_err(|failure| advised(failure, "omit --max-connections-per-address, or choose another --model"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_value_is_one_and_nothing_else() {
        assert_eq!(field_value(" max-age=60 "), Ok("max-age=60".to_owned()));
        for text in ["", " ", "\t ", "max-age=60\r\n", "a\r\nSet-Cookie: b", "a\nb", "\u{fc}", "\0"] {
            assert!(field_value(text).is_err(), "{text:?}");
        }
    }
}
