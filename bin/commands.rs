//! The shape of the command line: the common options of each subcommand. Serving subcommands take all, `chat join`
//! takes the options of a client, and `completions` takes none. Help and completions show no others.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory};

use crate::Cli;
use crate::options::Common;

/// Subcommands that serve.
const SERVING: [&str; 3] = ["serve", "echo", "http"];
/// Common options that `chat join` takes.
const OF_A_CLIENT: [&str; 3] = ["backend", "log_level", "log_file"];

/// The command with its subcommands. The root takes all common options, since they may precede the subcommand.
pub fn command() -> Command {
    let common = Common::augment_args(Command::new("common"));
    // An option of an innermost subcommand is global there, and no command inherits the option. Clap then accepts a
    // value before the subcommand, too.
    let with = |command: Command, last: bool, taken: fn(&str) -> bool| {
        let args = common.get_arguments().filter(|arg| taken(arg.get_id().as_str()));
        command.args(args.map(|arg| arg.clone().global(last)))
    };
    let command = SERVING
        .iter()
        .fold(Cli::command(), |command, name| command.mut_subcommand(name, |serving| with(serving, true, |_| true)));
    command.mut_subcommand("chat", |chat| {
        let chat = with(chat, false, |_| true);
        let chat = chat.mut_subcommand("serve", |serve| with(serve, true, |_| true));
        chat.mut_subcommand("join", |join| with(join, true, |id| OF_A_CLIENT.contains(&id)))
    })
}

/// Returns a common option that was given before a subcommand that does not take it. The parser itself refuses such an
/// option after the subcommand.
pub fn useless(matches: &ArgMatches) -> Option<String> {
    let (taken, levels): (&[&str], Vec<&ArgMatches>) = match matches.subcommand() {
        Some(("completions", _)) => (&[], vec![matches]),
        Some(("chat", chat)) if chat.subcommand_name() == Some("join") => (&OF_A_CLIENT, vec![matches, chat]),
        _ => return None,
    };
    let common = Common::augment_args(Command::new("common"));
    common.get_arguments().find_map(|arg| {
        let id = arg.get_id().as_str();
        let is_given = |level: &&ArgMatches| level.value_source(id) == Some(ValueSource::CommandLine);
        (!taken.contains(&id) && levels.iter().any(is_given)).then(|| format!("--{}", arg.get_long().unwrap_or(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the options that the help and the completions of this subcommand show.
    fn options_of(path: &[&str]) -> Vec<String> {
        let mut command = command();
        command.build();
        let found = path.iter().fold(&command, |command, name| command.find_subcommand(name).unwrap());
        let longs = found.get_arguments().filter_map(|arg| arg.get_long());
        longs.map(str::to_owned).filter(|long| !["help", "version"].contains(&long.as_str())).collect()
    }

    #[test]
    fn each_subcommand_offers_the_common_options_that_it_heeds_and_no_others() {
        let common = Common::augment_args(Command::new("common"));
        let all: Vec<_> = common.get_arguments().filter_map(|arg| arg.get_long()).collect();
        assert!(all.len() > 8, "{all:?}");
        for path in [&["serve"][..], &["echo"], &["http"], &["chat"], &["chat", "serve"], &[]] {
            let offered = options_of(path);
            assert!(all.iter().all(|long| offered.iter().any(|offered| offered == long)), "{path:?}: {offered:?}");
        }
        let join = ["name", "host", "port", "unix", "tls", "ca", "reconnect", "backend", "log-level", "log-file"];
        assert_eq!(options_of(&["chat", "join"]), join);
        assert!(options_of(&["completions"]).is_empty());
    }

    #[test]
    fn an_option_that_does_nothing_is_named_wherever_it_stands() {
        for (words, expected) in [
            ("glowplug --loops 2 chat join --name ann", Some("--loops")),
            ("glowplug chat --drain-timeout 2 join --name ann", Some("--drain-timeout")),
            ("glowplug --idle-timeout 2 completions bash", Some("--idle-timeout")),
            ("glowplug --backend select chat --log-level debug join --name ann", None),
            ("glowplug --loops 2 chat serve", None),
            ("glowplug --loops 2", None),
        ] {
            let matches = command().try_get_matches_from(words.split(' ')).unwrap();
            assert_eq!(useless(&matches).as_deref(), expected, "{words}");
        }
        for words in ["glowplug chat join --name ann --loops 2", "glowplug completions bash --backend select"] {
            assert!(command().try_get_matches_from(words.split(' ')).is_err(), "{words}");
        }
    }
}
