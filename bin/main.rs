//! The `glowplug` command: turns the command line into services on a reactor. Each subcommand has a file. Below the
//! subcommands, [`server`] binds and runs, [`options`] holds the shared options, and [`logging`] never blocks the loop.

#![forbid(unsafe_code)]

mod chat;
mod commands;
mod completions;
mod direct;
mod echo;
mod http;
mod inherited;
mod join;
mod line;
mod logging;
mod losses;
mod names;
mod nodes;
mod options;
mod serve;
mod server;
mod sink;
mod target;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{FromArgMatches, Parser, Subcommand};

use logging::Logging;
use options::{Common, Model};

/// Why the command cannot run: one line with the object and the cause.
type Failure = Box<dyn std::error::Error>;

/// An echo service, a chat room and a web server on one small event loop
#[derive(Parser)]
#[command(version, after_help = EXAMPLE, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    serve: serve::Options,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLE: &str = "\
Without a command, `glowplug` runs `glowplug serve`.

Example:
  glowplug --http 127.0.0.1:8080 --log-level debug";

#[derive(Subcommand)]
enum Command {
    Serve(serve::Options),
    Echo(echo::Options),
    #[command(subcommand)]
    Chat(chat::Command),
    Http(http::Options),
    Completions(completions::Options),
}

fn main() -> ExitCode {
    // Runs before any write: standard output may be a file that has reached its size limit.
    reactor::reset_inherited_signals();
    let matches = commands::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Some(option) = commands::useless(&matches) {
        usage(&format!("{option} has no effect on this subcommand"));
    }
    let Common { model, loops, pin, at_most, .. } = cli.common;
    if model != Model::Loops && (loops.is_some() || pin) {
        usage("--loops and --pin need --model loops");
    }
    if model == Model::Loops && at_most.is_some() {
        usage("--at-most needs --model threads or --model processes");
    }
    if cli.common.tls_cert.len() != cli.common.tls_key.len() {
        usage("each --tls-cert goes with one --tls-key");
    }
    let command = match cli.command {
        None => Command::Serve(cli.serve),
        Some(Command::Serve(options)) => Command::Serve(options.or(cli.serve)),
        Some(_) if cli.serve.are_given() => {
            usage("before this subcommand only common options are allowed; the others belong to `glowplug serve`")
        }
        Some(Command::Completions(options)) => return completions::run(options),
        Some(Command::Chat(chat::Command::Join(options))) => return join::run(options, &cli.common),
        Some(command) => command,
    };
    let mut logging = match Logging::new(cli.common.log_level, cli.common.log_file.as_deref(), cli.common.forks()) {
        Ok(logging) => logging,
        Err(failure) => return logging::fail_without(&*failure),
    };
    let common = &cli.common;
    let outcome = match command {
        Command::Serve(options) => serve::run(options, common, &mut logging),
        Command::Echo(options) => echo::run(options, common, &mut logging),
        Command::Chat(chat::Command::Serve(options)) => chat::run(options, common, &mut logging),
        Command::Http(options) => http::run(options, common, &mut logging),
        Command::Chat(chat::Command::Join(_)) | Command::Completions(_) => unreachable!("done above"),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => logging.fail(&*failure),
    }
}

/// Reports wrong usage and exits, as the parser does.
fn usage(message: &str) -> ! {
    commands::command().error(ErrorKind::ArgumentConflict, message).exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Cli, clap::Error> {
        commands::command().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches))
    }

    #[test]
    fn the_options_make_sense_to_the_parser() {
        commands::command().debug_assert();
    }

    fn help_of(command: &mut clap::Command) -> Vec<String> {
        let mut all = vec![command.render_long_help().to_string()];
        all.extend(command.get_subcommands_mut().flat_map(help_of));
        all
    }

    #[test]
    fn every_help_shows_an_example_that_the_parser_takes() {
        let mut command = commands::command().disable_help_subcommand(true);
        for help in help_of(&mut command) {
            let (_, example) = help.split_once("Example:\n").unwrap_or_else(|| panic!("no example: {help}"));
            let line = example.lines().next().unwrap().trim();
            assert!(!line.contains(['\'', '"']), "words are split at blanks here: {line}");
            let words = line.split_whitespace().take_while(|word| !">|".contains(word));
            parse(words).map(drop).unwrap();
        }
    }

    #[test]
    fn common_options_precede_or_follow_the_subcommand() {
        for words in
            ["glowplug --idle-timeout 3 echo", "glowplug echo --idle-timeout 3", "glowplug chat --idle-timeout 3 serve"]
        {
            let cli = parse(words.split(' ')).unwrap_or_else(|error| panic!("{words}: {error}"));
            assert_eq!(cli.common.idle_timeout.unwrap().0, Some(std::time::Duration::from_secs(3)));
        }
    }
}
