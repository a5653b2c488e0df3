//! The faults and their probabilities: the variable `REACTOR_CHAOS`. It is read strictly, since a misspelt fault would
//! prove nothing and seem to prove something.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::random::mixed;
use crate::sys::process;

/// The variable that asks for faults.
pub(super) const VARIABLE: &str = "REACTOR_CHAOS";

/// The probability of each fault, from 0 (never) to 1 (always).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Odds {
    pub(super) short_io: f64,
    pub(super) eagain: f64,
    pub(super) eintr: f64,
    pub(super) emfile: f64,
    pub(super) spurious: f64,
}

/// The content of the variable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Orders {
    pub(super) odds: Odds,
    pub(super) seed: u64,
    /// The seed was drawn at random, because the variable names none.
    pub(super) seed_was_drawn: bool,
}

impl Odds {
    /// The probabilities by name, in the order of the report.
    fn by_name(&mut self) -> [(&'static str, &mut f64); 5] {
        let Odds { short_io, eagain, eintr, emfile, spurious } = self;
        [("short_io", short_io), ("eagain", eagain), ("eintr", eintr), ("emfile", emfile), ("spurious", spurious)]
    }
}

impl Orders {
    pub(super) fn of_environment() -> Result<Self, Error> {
        Self::given(env::var_os(VARIABLE))
    }

    /// Reads this value of the variable. Unset and empty both mean no faults.
    fn given(variable: Option<OsString>) -> Result<Self, Error> {
        let text = variable.unwrap_or_default().to_string_lossy().into_owned();
        let (mut odds, mut seed) = (Odds::default(), None);
        let mut asked = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let wrong = |why: &str| Error::Chaos { part: part.to_owned(), why: why.to_owned() };
            let (name, value) = part.split_once([':', '=']).unwrap_or((part, ""));
            if asked.contains(&name) {
                return Err(wrong("it was said before"));
            }
            asked.push(name);
            if name == "seed" {
                let number = part.strip_prefix("seed=").and_then(|number| number.parse().ok());
                seed = Some(number.ok_or_else(|| wrong("a seed is a whole number below 2^64: seed=7"))?);
                continue;
            }
            let Some((_, probability)) = odds.by_name().into_iter().find(|(known, _)| *known == name) else {
                return Err(wrong("no such fault: it is one of short_io, eagain, eintr, emfile, spurious"));
            };
            let given = part[name.len()..].strip_prefix(':').and_then(|_| value.parse().ok());
            *probability = given
                .filter(|given| (0.0..=1.0).contains(given))
                .ok_or_else(|| wrong(&format!("a probability is a number from 0 to 1: {name}:0.1")))?;
        }
        if !text.is_empty() && odds == Odds::default() {
            return Err(Error::Chaos { part: text, why: "nothing is to fail".to_owned() });
        }
        Ok(Orders { odds, seed: seed.unwrap_or_else(any_seed), seed_was_drawn: seed.is_none() })
    }
}

/// A different seed for each call.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    mixed(now.as_nanos() as u64 ^ u64::from(process::pid()) << 32)
}

/// Shows the orders in the syntax of the variable, so that a logged text can be used again.
impl fmt::Display for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut odds = self.odds;
        for (name, probability) in odds.by_name() {
            write!(f, "{name}:{probability},")?;
        }
        write!(f, "seed={}", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Result<Orders, Error> {
        Orders::given(Some(text.into()))
    }

    #[test]
    fn the_variable_says_how_often_each_fault_strikes_and_by_which_seed() {
        let orders = given("short_io:0.3,eagain:0.1,eintr:0.05,emfile:1,seed=7").unwrap();
        let odds = Odds { short_io: 0.3, eagain: 0.1, eintr: 0.05, emfile: 1.0, spurious: 0.0 };
        assert_eq!(orders, Orders { odds, seed: 7, seed_was_drawn: false });
        assert_eq!(given("seed=18446744073709551615,spurious:1e-3").unwrap().seed, u64::MAX);
    }

    #[test]
    fn unset_and_empty_are_no_faults_at_all() {
        assert_eq!(Orders::given(None).unwrap().odds, Odds::default());
        assert_eq!(given("").unwrap().odds, Odds::default());
    }

    #[test]
    fn what_is_told_asks_for_the_same_again() {
        let drawn = given("eintr:0.05,spurious:0.25").unwrap();
        assert!(drawn.seed_was_drawn);
        let again = given(&drawn.to_string()).unwrap();
        assert_eq!((again.odds, again.seed), (drawn.odds, drawn.seed));
    }

    #[test]
    fn whatever_is_wrong_is_quoted_under_the_name_of_the_variable() {
        for (text, part, why) in [
            ("shortio:0.3", "shortio:0.3", "one of short_io, eagain, eintr, emfile, spurious"),
            ("eagain:0.1, eintr:0.1", " eintr:0.1", "no such fault"),
            ("EAGAIN:0.1", "EAGAIN:0.1", "no such fault"),
            ("eagain:0.1,", "", "no such fault"),
            ("eagain", "eagain", "number from 0 to 1"),
            ("eagain:", "eagain:", "number from 0 to 1"),
            ("eagain=0.1", "eagain=0.1", "number from 0 to 1"),
            ("eagain:1.1", "eagain:1.1", "number from 0 to 1"),
            ("eagain:-0.1", "eagain:-0.1", "number from 0 to 1"),
            ("eagain:NaN", "eagain:NaN", "number from 0 to 1"),
            ("eagain:10%", "eagain:10%", "number from 0 to 1"),
            ("eagain:0.1,eintr:0.1,eagain:0.2", "eagain:0.2", "before"),
            ("eagain:0.1,seed=1,seed=1", "seed=1", "before"),
            ("eagain:0.1,seed:7", "seed:7", "whole number"),
            ("eagain:0.1,seed=", "seed=", "whole number"),
            ("eagain:0.1,seed=-7", "seed=-7", "whole number"),
            ("eagain:0.1,seed=18446744073709551616", "seed=18446744073709551616", "whole number"),
            ("seed=7", "seed=7", "nothing"),
            ("eagain:0", "eagain:0", "nothing"),
        ] {
            let error = given(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("REACTOR_CHAOS: {part:?}: ")) && error.contains(why), "{error}");
        }
    }
}
