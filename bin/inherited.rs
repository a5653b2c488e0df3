//! Listeners that a service manager has opened for this process (`LISTEN_FDS`), each given to the service that it is
//! for.

use std::collections::BTreeMap;

use reactor::Listener;

use crate::Failure;
use crate::names;

/// Listeners by the name of their service.
pub struct Inherited(BTreeMap<&'static str, Vec<Listener>>);

impl Inherited {
    /// Those that this process has, for the services that it runs. By name where the name is a service's, several for
    /// one service too; all others, in their order, for the services that are left, in theirs, or for the only one that
    /// there is. One that is left over is an error: whoever passes it expects it to be served.
    pub fn take(services: &[&'static str]) -> Result<Self, Failure> {
        assign(reactor::inherited_listeners()?, services).map(Inherited).map_err(|(name, listener)| {
            let called = name.map(|name| format!(" {name:?}")).unwrap_or_default();
            format!("inherited listener{called} {}: no service is left for it", listener.address()).into()
        })
    }

    /// Whether this service has one.
    pub fn has(&self, service: &str) -> bool {
        self.0.contains_key(service)
    }

    /// Those of one service; none if its address is to be used.
    pub fn of(&mut self, service: &str) -> Vec<Listener> {
        self.0.remove(service).unwrap_or_default()
    }
}

/// One listener as it was passed.
type Passed<L> = (Option<String>, L);

fn assign<L>(passed: Vec<Passed<L>>, services: &[&'static str]) -> Result<BTreeMap<&'static str, Vec<L>>, Passed<L>> {
    let mut assigned = BTreeMap::<_, Vec<L>>::new();
    // A service's name is never taken for another's: `echo` passed to `glowplug http` is a mistake.
    let is_named = |(name, _): &Passed<L>| name.as_ref().is_some_and(|name| names::ALL.contains(&name.as_str()));
    let (named, others): (Vec<_>, Vec<_>) = passed.into_iter().partition(is_named);
    for (name, listener) in named {
        match services.iter().find(|service| name.as_deref() == Some(**service)) {
            Some(service) => assigned.entry(*service).or_default().push(listener),
            None => return Err((name, listener)),
        }
    }
    for (name, listener) in others {
        match services.iter().find(|service| services.len() == 1 || !assigned.contains_key(*service)) {
            Some(service) => assigned.entry(*service).or_default().push(listener),
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
        assign(passed, services).map(|map| map.into_iter().collect()).map_err(|(_, number)| number)
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
    fn one_that_no_service_is_left_for_is_told() {
        assert_eq!(assigned(&["", "", ""], &["http", "echo"]), Err(2));
        assert_eq!(assigned(&["echo"], &["http"]), Err(0));
    }
}
