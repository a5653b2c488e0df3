//! Listeners that a service manager has opened for this process (`LISTEN_FDS`), each assigned to a service.

use std::collections::BTreeMap;

use reactor::Listener;

use crate::Failure;
use crate::names;

/// Listeners by the name of the service. A listener whose own name begins with `tls-` speaks TLS.
pub struct Inherited(Assigned<Listener>);

impl Inherited {
    /// Takes the inherited listeners and assigns them to `services`. A listener with a service's name goes to that
    /// service; a service may get several. Other listeners go, in order, to the services without a listener, or all to
    /// a single service. A listener without a service is an error: the service manager expects it to be served.
    pub fn take(services: &[&'static str]) -> Result<Self, Failure> {
        assign(reactor::inherited_listeners()?, services).map(Inherited).map_err(|(name, listener)| {
            let called = name.map(|name| format!(" {name:?}")).unwrap_or_default();
            format!("inherited listener{called} {}: no service is left for it", listener.address()).into()
        })
    }

    /// Whether a listener speaks TLS by its name.
    pub fn any_tls(&self) -> bool {
        self.0.values().flatten().any(|(_, tls)| *tls)
    }

    /// Whether `service` has an inherited listener.
    pub fn has(&self, service: &str) -> bool {
        self.0.contains_key(service)
    }

    /// Takes the listeners of a service. Empty if the service is to bind its address.
    pub fn of(&mut self, service: &str) -> Vec<(Listener, bool)> {
        self.0.remove(service).unwrap_or_default()
    }
}

/// A listener with its name, as passed.
type Passed<L> = (Option<String>, L);

/// The listeners of each service, and for each whether its name begins with `tls-`.
type Assigned<L> = BTreeMap<&'static str, Vec<(L, bool)>>;

fn assign<L>(passed: Vec<Passed<L>>, services: &[&'static str]) -> Result<Assigned<L>, Passed<L>> {
    let mut assigned = Assigned::<L>::new();
    let bare = |name: &str| name.strip_prefix("tls-").unwrap_or(name).to_owned();
    // A service's name never matches another service: `echo` passed to `glowplug http` is a mistake.
    let is_named = |(name, _): &Passed<L>| name.as_ref().is_some_and(|name| names::ALL.contains(&bare(name).as_str()));
    let (named, others): (Vec<_>, Vec<_>) = passed.into_iter().partition(is_named);
    for (name, listener) in named {
        let tls = name.as_ref().is_some_and(|name| name.starts_with("tls-"));
        match services.iter().find(|service| name.as_deref().map(bare).as_deref() == Some(**service)) {
            Some(service) => assigned.entry(*service).or_default().push((listener, tls)),
            None => return Err((name, listener)),
        }
    }
    for (name, listener) in others {
        match services.iter().find(|service| services.len() == 1 || !assigned.contains_key(*service)) {
            Some(service) => assigned.entry(*service).or_default().push((listener, false)),
            None => return Err((name, listener)),
        }
    }
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Listeners are numbered in the order in which they are passed.
    fn assigned(names: &[&str], services: &[&'static str]) -> Result<Vec<(&'static str, Vec<usize>)>, usize> {
        let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let passed = names.iter().enumerate().map(|(number, text)| (name(text), number)).collect();
        let numbers = |all: Vec<(usize, bool)>| all.into_iter().map(|(number, _)| number).collect();
        let all = |map: Assigned<usize>| map.into_iter().map(|(name, all)| (name, numbers(all))).collect();
        assign(passed, services).map(all).map_err(|(_, number)| number)
    }

    #[test]
    fn listeners_go_by_name_and_the_rest_in_order() {
        let all = ["echo", "chat", "http"];
        assert_eq!(assigned(&[], &all), Ok(vec![]));
        assert_eq!(assigned(&["", ""], &all), Ok(vec![("chat", vec![1]), ("echo", vec![0])]));
        assert_eq!(
            assigned(&["http", "", "echo"], &all),
            Ok(vec![("chat", vec![1]), ("echo", vec![2]), ("http", vec![0])])
        );
        assert_eq!(assigned(&["", "echo"], &all), Ok(vec![("chat", vec![0]), ("echo", vec![1])]));
        assert_eq!(assigned(&["glowplug.socket"], &["http"]), Ok(vec![("http", vec![0])]));
        assert_eq!(assigned(&["", "other"], &["http"]), Ok(vec![("http", vec![0, 1])]));
        assert_eq!(assigned(&["chat", "chat", ""], &all), Ok(vec![("chat", vec![0, 1]), ("echo", vec![2])]));
    }

    #[test]
    fn a_listener_whose_name_begins_with_tls_speaks_tls() {
        let passed = ["tls-http", "http", "tls-echo", ""].map(|name| (Some(name.to_owned()), name));
        let all = assign(passed.to_vec(), &["echo", "chat", "http"]).unwrap();
        assert_eq!(all["http"], [("tls-http", true), ("http", false)]);
        assert_eq!((&all["echo"][..], &all["chat"][..]), (&[("tls-echo", true)][..], &[("", false)][..]));
    }

    #[test]
    fn one_that_no_service_is_left_for_is_told() {
        assert_eq!(assigned(&["", "", ""], &["http", "echo"]), Err(2));
        assert_eq!(assigned(&["echo"], &["http"]), Err(0));
    }
}
