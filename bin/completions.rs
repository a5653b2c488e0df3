//! `glowplug completions`: the script with which a shell completes the command's options.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

const EXAMPLE: &str = "\
Example:
  glowplug completions bash > glowplug.bash

Then: source glowplug.bash";

/// Print completions for a shell
#[derive(Args)]
#[command(
    after_help = EXAMPLE,
    override_usage = "glowplug completions <SHELL>",
    help_template = "{about}\n\n{usage-heading} {usage}\n\nArguments:\n{positionals}{after-help}"
)]
pub struct Options {
    /// Shell for which the completions are
    shell: Shell,
}

pub fn run(options: Options) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut crate::commands::command(), "glowplug", &mut text);
    match std::io::stdout().write_all(&text).and_then(|()| std::io::stdout().flush()) {
        // The reader may have stopped early: `glowplug completions zsh | head`.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            crate::logging::fail_without(&format!("standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}
