//! Listeners over a system that follows a script: accepting, and resting when the system refuses.

use super::super::*;
use super::scripted::{NO_DESCRIPTOR, NOT_PERMITTED};
use super::world::*;
use crate::driver::Acceptor;

#[test]
fn at_most_64_connections_of_a_listener_are_accepted_in_a_turn() {
    let mut world = World::new();
    let listener = world.listener(3);
    assert_eq!(world.calls(), ["register 3 r-"]);
    // A connection that is lost before `accept` costs an attempt, too.
    let outcomes = std::iter::once(Err(NOT_PERMITTED)).chain((100..200).map(|fd| Ok(Fd(fd))));
    world.sys.0.borrow_mut().accepted.extend(outcomes);
    let event = (listener_token(0, listener), Ready::READABLE);
    world.happen(&[event]);
    let reports = world.batch();
    assert_eq!((reports.len(), world.driver.descriptors()), (63, 63));
    assert_eq!((reports[0].as_str(), reports[62].as_str()), ("0 accepted 100", "0 accepted 162"));
    world.happen(&[event]);
    assert_eq!(world.batch().len(), 37);
    assert_eq!(world.driver.descriptors(), 100);
}

#[test]
fn a_listener_rests_for_want_of_descriptors_until_one_is_freed_or_a_second_has_passed() {
    let mut world = World::new();
    let (listener, other) = (world.listener(3), world.listener(4));
    let id = world.connection(10);
    let event = |listener| (listener_token(0, listener), Ready::READABLE);
    world.wait(MINUTE);
    world.calls();
    let starve = |world: &mut World| {
        world.sys.0.borrow_mut().accepted.push_back(Err(NO_DESCRIPTOR));
        world.happen(&[event(listener)]);
        assert_eq!(world.batch(), [""; 0]);
        assert!(world.driver.is_suspended(listener) && !world.driver.is_suspended(other));
        assert_eq!(world.calls(), ["accept 3", "forget 3"]);
    };
    starve(&mut world);
    assert_eq!(world.driver.counters.accept_starved.get(), 1);
    world.happen(&[event(listener)]);
    assert_eq!(world.batch(), [""; 0], "an event from before means nothing");
    assert_eq!(world.calls(), [""; 0]);
    // A descriptor is freed: the poller tells of waiting connections.
    world.driver.release(id, false);
    world.links.remove(id);
    world.wait(MINUTE);
    assert!(!world.driver.is_suspended(listener));
    assert_eq!(world.calls(), ["forget 10", "close 10", "register 3 r-"]);
    assert_eq!(world.reports(), [""; 0]);

    // The time is over after this wait: the listener is looked at in this very batch.
    starve(&mut world);
    world.sys.0.borrow_mut().waits_take = SUSPENDED_REST;
    world.sys.0.borrow_mut().accepted.push_back(Ok(Fd(20)));
    assert_eq!(world.batch(), ["0 accepted 20"]);
    world.sys.0.borrow_mut().waits_take = Duration::ZERO;
    assert_eq!(world.calls(), ["register 3 r-", "accept 3", "accept 3"]);

    // A refused connection frees a descriptor, too. A probe during the rest holds afterwards.
    starve(&mut world);
    world.driver.probe_listener(listener);
    assert_eq!(world.calls(), [""; 0]);
    world.driver.close_accepted(Socket(Fd(20)));
    world.sys.0.borrow_mut().accepted.push_back(Ok(Fd(21)));
    assert_eq!(world.batch(), ["0 accepted 21"]);

    // The loop's own order to accept nobody holds after the rest, too.
    world.calls();
    starve(&mut world);
    world.driver.set_accepting(listener, false);
    world.sys.0.borrow_mut().now = world.driver.now() + SUSPENDED_REST;
    assert_eq!(world.batch(), [""; 0]);
    assert_eq!(world.calls(), [""; 0], "held");
    world.driver.set_accepting(listener, true);
    assert_eq!(world.calls(), ["register 3 r-"]);
    world.driver.set_accepting(listener, true);
    world.driver.set_accepting(listener, false);
    world.driver.suspend(listener, NO_DESCRIPTOR);
    world.driver.set_accepting(listener, true);
    world.sys.0.borrow_mut().now = world.driver.now() + SUSPENDED_REST;
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["forget 3", "register 3 r-"]);
    world.driver.forget_listener(listener);
    world.driver.suspend(listener, NO_DESCRIPTOR);
    world.driver.set_accepting(listener, true);
    assert!(!world.driver.is_suspended(listener));
    assert_eq!(world.calls(), ["forget 3"]);
    assert_eq!(world.timeout(), MINUTE);
}

#[test]
fn a_listener_that_the_poller_does_not_take_rests_and_is_tried_again() {
    let mut world = World::new();
    world.sys.0.borrow_mut().registered.push_back(Err(Errno(12)));
    let listener = world.listener(3);
    assert!(world.driver.is_suspended(listener));
    assert_eq!(world.calls(), ["register 3 r-"]);
    world.sys.0.borrow_mut().now = world.driver.now() + SUSPENDED_REST;
    world.wait(MINUTE);
    assert!(!world.driver.is_suspended(listener));
    assert_eq!(world.calls(), ["register 3 r-"]);
}
