//! Clients that people use: programs in other languages, with packages installed for one test.

use std::path::Path;
use std::process::{Command, Stdio};

/// A program that also finds the packages installed in `directory`.
pub fn command(program: &str, words: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(words).current_dir(directory).stdin(Stdio::null()).env("PYTHONPATH", directory.join("python"));
    command
}

/// Runs a program until it exits with status 0. Returns its standard output.
pub fn run(program: &str, words: &[&str], directory: &Path) -> String {
    let output = command(program, words, directory).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {words:?}: {told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

/// Installs packages of PyPI into `directory`.
pub fn install_for_python(packages: &[&str], directory: &Path) {
    let words = ["-m", "pip", "install", "--quiet", "--target", "python"];
    run("python3", &[&words[..], packages].concat(), directory);
}

/// Installs packages of npm into `directory`.
pub fn install_for_node(packages: &[&str], directory: &Path) {
    let words = ["install", "--no-audit", "--no-fund", "--prefix", "."];
    run("npm", &[&words[..], packages].concat(), directory);
}
