//! The choice of the poller, with the reason.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use super::poller::BACKENDS;
use crate::error::Error;

/// The environment variable that chooses a backend if the program does not.
const VARIABLE: &str = "REACTOR_BACKEND";

/// The interface by which the loop waits for readiness. A program behaves equally on each backend; only the cost
/// differs.
///
/// With `Auto`, the environment variable `REACTOR_BACKEND` chooses. Without the variable, the system does: epoll on
/// Linux, `select` elsewhere. Names are read in any case.
///
/// ```
/// use reactor::Backend;
/// assert_eq!("Select".parse::<Backend>()?, Backend::Select);
/// assert_eq!(Backend::Epoll.to_string(), "epoll");
/// assert_eq!(Backend::default(), Backend::Auto);
/// let error = "kqueue".parse::<Backend>().unwrap_err();
/// assert_eq!(error.to_string(), r#"unknown backend "kqueue": it is one of auto, epoll, select"#);
/// # Ok::<(), reactor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The backend in `REACTOR_BACKEND`, or else the best of the system.
    #[default]
    Auto,
    /// epoll(7), on Linux. The cost of a wait depends on the number of ready descriptors.
    Epoll,
    /// select(2), on every system. The cost of a wait depends on the number of watched descriptors.
    Select,
}

impl Backend {
    /// Returns the backend to use, never `Auto`, and the reason as text for the log. A choice in code wins over the
    /// environment.
    pub(crate) fn choose(self) -> Result<(Backend, String), Error> {
        self.choose_given(env::var_os(VARIABLE))
    }

    /// Chooses with this value of the variable. Unset and empty have one meaning.
    fn choose_given(self, variable: Option<OsString>) -> Result<(Backend, String), Error> {
        if self != Backend::Auto {
            return Ok((self, "asked for".to_owned()));
        }
        let name = variable.unwrap_or_default().to_string_lossy().into_owned();
        let asked = if name.is_empty() { Backend::Auto } else { name.parse()? };
        Ok(match asked {
            Backend::Auto if cfg!(target_os = "linux") => (default(), "the default on Linux".to_owned()),
            Backend::Auto => (default(), "the default on this system".to_owned()),
            chosen => (chosen, format!("{VARIABLE}={name}")),
        })
    }

    /// The name that the command and the environment use.
    pub(super) fn name(self) -> &'static str {
        BACKENDS.iter().find(|(backend, ..)| *backend == self).map_or("auto", |(_, name, _)| name)
    }
}

/// Returns the first backend of the list that exists on this system.
fn default() -> Backend {
    BACKENDS.iter().find(|(.., make)| make.is_some()).map_or(Backend::Select, |(backend, ..)| *backend)
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let mut all = std::iter::once(Backend::Auto).chain(BACKENDS.iter().map(|(backend, ..)| *backend));
        let found = all.find(|backend| backend.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::UnknownBackend { name: name.to_owned() })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(backend: Backend, variable: Option<&str>) -> (Backend, String) {
        backend.choose_given(variable.map(OsString::from)).unwrap()
    }

    #[test]
    fn code_wins_over_the_environment_and_that_over_the_default() {
        assert_eq!(chosen(Backend::Epoll, Some("select")), (Backend::Epoll, "asked for".into()));
        assert_eq!(chosen(Backend::Auto, Some("Select")), (Backend::Select, "REACTOR_BACKEND=Select".into()));
    }

    #[test]
    fn an_empty_variable_counts_as_unset_and_so_does_auto() {
        let default = chosen(Backend::Auto, None);
        assert_ne!(default.0, Backend::Auto);
        assert_eq!(chosen(Backend::Auto, Some("")), default);
        assert_eq!(chosen(Backend::Auto, Some("AUTO")), default);
    }

    #[test]
    fn a_name_that_is_none_is_quoted_in_the_error() {
        let error = Backend::Auto.choose_given(Some("poll".into())).unwrap_err().to_string();
        assert!(error.contains("\"poll\""), "{error}");
        assert!(Backend::Select.choose_given(Some("poll".into())).is_ok(), "not even read");
    }

    #[test]
    fn a_backend_reads_back_what_it_shows() {
        for backend in [Backend::Auto, Backend::Epoll, Backend::Select] {
            assert_eq!(backend.to_string().parse::<Backend>().unwrap(), backend);
        }
    }
}
