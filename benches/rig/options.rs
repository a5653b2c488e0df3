//! The beginning and the end of a benchmark, and the options of all benchmarks.

use std::path::PathBuf;
use std::process::ExitCode;

use super::figures::SLICE_SECONDS;

/// The options of a benchmark. Its own options go to `flag` and `set`; options in `Shared` are read here.
pub trait Options: Sized {
    /// Cargo's name of the benchmark.
    const NAME: &'static str;
    const USAGE: &'static str;

    /// The defaults, or the defaults of `--quick`.
    fn new(quick: bool) -> Self;

    fn shared(&mut self) -> &mut Shared;

    /// Takes an option without a value; false for an unknown name.
    fn flag(&mut self, _option: &str) -> bool {
        false
    }

    /// Takes an option with its value; false for an unknown name.
    fn set(&mut self, value: &Value<'_>) -> Result<bool, String>;
}

pub struct Shared {
    /// Slices of each contender in each case.
    pub rounds: usize,
    /// Length of a slice.
    pub seconds: f64,
    pub cpu: Option<usize>,
    pub glowplug: Option<PathBuf>,
    /// Whether the peers are built with hyper.
    pub hyper: bool,
}

impl Shared {
    pub fn new(rounds: usize, seconds: f64) -> Shared {
        Shared { rounds, seconds, cpu: None, glowplug: None, hyper: false }
    }

    /// Rounds and slices of a comparison, or of `--quick`.
    pub fn of_a_comparison(quick: bool) -> Shared {
        if quick { Shared::new(3, 0.1) } else { Shared::new(30, 0.3) }
    }

    fn set(&mut self, value: &Value<'_>) -> Result<bool, String> {
        match value.option {
            "--rounds" => self.rounds = value.number()?,
            "--seconds" => self.seconds = value.of(|text| text.parse().ok().filter(|s| SLICE_SECONDS.contains(s)))?,
            "--cpu" => self.cpu = Some(value.of(|text| text.parse().ok())?),
            "--glowplug" => self.glowplug = Some(value.path()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Options of a benchmark with cases: the shared ones, and `--only CASE`.
pub struct Cases {
    pub shared: Shared,
    only: String,
}

impl Cases {
    pub fn new(quick: bool) -> Cases {
        Cases { shared: Shared::of_a_comparison(quick), only: String::new() }
    }

    /// Takes `--only`; false for another option.
    pub fn set(&mut self, value: &Value<'_>) -> bool {
        let is_only = value.option == "--only";
        if is_only {
            self.only = value.text();
        }
        is_only
    }

    /// Whether the case of this name is wanted.
    pub fn has(&self, name: &str) -> bool {
        name.contains(&self.only)
    }
}

/// The value of an option, and the ways to read it.
pub struct Value<'a> {
    pub option: &'a str,
    text: &'a str,
}

impl Value<'_> {
    pub fn of<T>(&self, read: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
        read(self.text).ok_or_else(|| format!("{} does not take {}", self.option, self.text))
    }

    /// A number of at least one.
    pub fn number(&self) -> Result<usize, String> {
        self.of(|text| text.parse().ok().filter(|&n| n > 0))
    }

    /// A list of numbers of at least one.
    pub fn numbers(&self) -> Result<Vec<usize>, String> {
        self.of(|text| text.split(',').map(|n| n.parse().ok().filter(|&n| n > 0)).collect())
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(self.text)
    }

    pub fn text(&self) -> String {
        self.text.to_owned()
    }
}

/// The `main` of a benchmark.
pub fn main<O: Options>(run: impl FnOnce(O) -> Result<(), String>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        println!("{}", O::USAGE);
        return ExitCode::SUCCESS;
    }
    // `cargo bench` passes --bench; `cargo test --all-targets` runs this file too, and does not want minutes of load.
    if !arguments.iter().any(|a| a == "--bench") {
        println!("not measured: this is run by `cargo bench --bench {}`", O::NAME);
        return ExitCode::SUCCESS;
    }
    let outcome = parse(&arguments).map_err(|why| format!("{why}\n\n{}", O::USAGE)).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse<O: Options>(arguments: &[String]) -> Result<O, String> {
    // --quick comes first, so that other options win, whatever the order.
    let mut options = O::new(arguments.iter().any(|a| a == "--quick"));
    let mut words = arguments.iter().map(String::as_str);
    while let Some(option) = words.next() {
        if matches!(option, "--bench" | "--quick") || options.flag(option) {
            continue;
        }
        let text = words.next().ok_or_else(|| format!("{option}: unknown, or without its value"))?;
        let value = Value { option, text };
        if !options.shared().set(&value)? && !options.set(&value)? {
            return Err(format!("unknown option {option}"));
        }
    }
    Ok(options)
}
