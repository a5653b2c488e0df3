//! The driver over a system that follows a script: the calls, the timeouts and the reports of one batch.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;

use super::super::*;
use super::scripted::{NO_DESCRIPTOR, NOT_PERMITTED, Scripted};
use crate::address::Peer;
use crate::buffer::Pool;
use crate::driver::Acceptor;
use crate::limits::Limits;
use crate::link::Origin;
use crate::sys::errno;

/// The driver, its links, and the system.
struct World {
    sys: Scripted,
    driver: Readiness<Scripted>,
    links: Links,
    pool: Pool,
}

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

impl World {
    fn new() -> Self {
        let sys = Scripted::new();
        let driver = Readiness::new(sys.clone(), 0, Arc::default());
        World { sys, driver, links: Links::new(0, 1), pool: Pool::default() }
    }

    fn link(&mut self, origin: Origin) -> ConnectionId {
        let now = self.driver.now();
        self.links.insert(Link::new(origin, Peer::Unix, 0, 0, now))
    }

    /// An accepted connection with this descriptor.
    fn connection(&mut self, fd: i32) -> ConnectionId {
        let id = self.link(Origin::Accepted);
        self.links.get_mut(id).expect("it is there").begin(Fd(fd), false);
        self.driver.count_in();
        self.driver.adopt(id, Socket(Fd(fd)), false);
        id
    }

    /// Watches a descriptor of a file. Returns the descriptor's number, too.
    fn watched(&mut self) -> (ConnectionId, i32) {
        let descriptor = OwnedFd::from(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap());
        let number = descriptor.as_raw_fd();
        let id = self.link(Origin::Watched);
        self.driver.watch(id, descriptor);
        (id, number)
    }

    /// The descriptor of a connection, as the driver knows it.
    fn descriptor(&self, id: ConnectionId) -> Fd {
        self.driver.slot(id).map_or(Fd::NONE, |slot| slot.fd)
    }

    fn listener(&mut self, fd: i32) -> usize {
        self.driver.listen(Fd(fd), "a listener", &Tuning::default())
    }

    /// Changes a link, and tells the driver.
    fn change(&mut self, id: ConnectionId, change: impl FnOnce(&mut Link)) {
        change(self.links.get_mut(id).expect("it is there"));
        self.driver.changed(id);
    }

    /// Queues bytes for the peer.
    fn write(&mut self, id: ConnectionId, bytes: &[u8]) {
        let link = self.links.get_mut(id).expect("it is there");
        link.writable_output(&mut self.pool, &limits()).expect("it is open").put(bytes);
    }

    /// The kernel takes no byte of the output for now.
    fn block(&mut self, id: ConnectionId) {
        let now = self.driver.now();
        let link = self.links.get_mut(id).expect("it is there");
        link.sent(Sent::Blocked(0), now, &limits(), &mut self.pool, || 0);
        self.driver.changed(id);
    }

    /// Events of the next wait, for connections.
    fn happen(&self, events: &[(ConnectionId, Ready)]) {
        let events = events.iter().map(|&(token, ready)| Event { token, ready });
        self.sys.0.borrow_mut().events.extend(events);
    }

    fn arrive(&self, fd: i32, outcomes: impl IntoIterator<Item = Moved>) {
        self.sys.0.borrow_mut().received.entry(fd).or_default().extend(outcomes);
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        let now = self.driver.now();
        self.driver.wait(&self.links, timeout, now).expect("the script has no failure of a wait");
    }

    /// Returns the driver's timeout for a wait of a minute at most.
    fn timeout(&mut self) -> Option<Duration> {
        self.wait(MINUTE);
        *self.sys.0.borrow().timeouts.last().expect("it has waited")
    }

    /// Takes the calls since the last `calls`.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.sys.0.borrow_mut().calls)
    }

    /// Waits, and returns the reports of the batch.
    fn batch(&mut self) -> Vec<String> {
        self.wait(MINUTE);
        self.reports()
    }

    /// Returns the remaining reports of this batch.
    fn reports(&mut self) -> Vec<String> {
        let mut reports = Vec::new();
        while let Some(completion) = self.driver.next(&self.links, &mut [0; 1000]) {
            let slot = |id: ConnectionId| id.slot();
            reports.push(match completion {
                Completion::Received { id, count } => format!("{} received {count}", slot(id)),
                Completion::Nothing { id } => format!("{} nothing", slot(id)),
                Completion::Ended { id } => format!("{} ended", slot(id)),
                Completion::Failed { id, errno } => format!("{} failed {}", slot(id), errno.0),
                Completion::Connected { id } => format!("{} connected", slot(id)),
                Completion::Sent { id, outcome: Sent::Failed(errno) } => {
                    format!("{} sent failed {}", slot(id), errno.0)
                }
                Completion::Sent { id, outcome } => format!("{} sent {outcome:?}", slot(id)),
                Completion::Accepted { listener, socket, .. } => format!("{listener} accepted {}", socket.0.0),
                Completion::Layer { id, event } => format!("{} layer {event:?}", slot(id)),
                Completion::Woken => "woken".into(),
            });
        }
        reports
    }
}

/// No mark stops reading.
fn limits() -> Limits {
    Limits { output_high: usize::MAX, output_max: usize::MAX, ..Limits::default() }
}

#[test]
fn the_driver_s_clocks_are_those_of_the_system() {
    let mut world = World::new();
    let now = world.sys.0.borrow().now;
    assert_eq!(world.driver.now(), now);
    assert_eq!(world.driver.coarse_now(), now + Duration::from_millis(1));
    assert_eq!(world.driver.waited_for_a_core(), Some(Duration::from_millis(7)));
}

#[test]
fn a_wait_lasts_as_long_as_the_loop_says_unless_the_driver_has_something_to_do_before() {
    let mut world = World::new();
    let id = world.connection(10);
    assert_eq!(world.timeout(), MINUTE);
    world.wait(None);
    assert_eq!(world.sys.0.borrow().timeouts.last(), Some(&None));

    world.driver.probe(id);
    assert_eq!(world.timeout(), AT_ONCE);
    assert_eq!(world.reports(), ["0 nothing"]);

    let refused = world.link(Origin::Outbound);
    let fd = world.driver.connect(refused, &Address::Tcp(([127, 0, 0, 1], 1).into()), &Tuning::default());
    assert_eq!(fd, Fd::NONE);
    assert_eq!(world.timeout(), AT_ONCE);
    assert_eq!(world.reports(), ["1 failed 24"]);

    let listener = world.listener(3);
    world.driver.probe_listener(listener);
    assert_eq!(world.timeout(), AT_ONCE);
    world.reports();
    world.driver.suspend(listener, NO_DESCRIPTOR);
    assert_eq!(world.timeout(), Some(Duration::from_secs(1)));
    world.sys.0.borrow_mut().now = world.driver.now() + Duration::from_secs(1);
    world.wait(MINUTE);
    assert_eq!(world.timeout(), MINUTE, "the suspension is over");
}

#[test]
fn a_connection_registered_for_nothing_is_asked_for_its_error_where_the_poller_does_not_report_one() {
    for (unasked, timeout, expected) in
        [(true, MINUTE, vec![]), (false, Some(Duration::from_millis(900)), vec!["0 failed 104"])]
    {
        let mut world = World::new();
        world.sys.0.borrow_mut().reports_errors_unasked = unasked;
        let (id, reading) = (world.connection(10), world.connection(11));
        assert_eq!(world.timeout(), MINUTE, "both are read");
        world.change(id, Link::pause);
        world.calls();
        assert_eq!(world.timeout(), timeout);
        assert_eq!(world.reports(), [""; 0]);
        world.sys.0.borrow_mut().errors.extend([(10, Errno(104)), (11, Errno(104))]);
        world.calls();
        world.sys.0.borrow_mut().now = world.driver.now() + Duration::from_millis(899);
        assert_eq!(world.batch(), [""; 0]);
        assert_eq!(world.calls(), [""; 0]);
        world.sys.0.borrow_mut().now = world.driver.now() + Duration::from_millis(1);
        assert_eq!(world.batch(), expected);
        assert_eq!(world.calls().len(), expected.len(), "the connection that is read is not asked");
        // A connection that is read again is not asked any more.
        world.change(id, Link::resume);
        world.change(id, |link| assert_eq!(link.step(1, &limits()), crate::link::Step::Deliver));
        world.wait(MINUTE);
        assert_eq!(world.timeout(), MINUTE);
        world.driver.release(reading, false);
    }
}

#[test]
fn a_batch_is_full_when_it_has_as_many_events_as_one_wait_returns() {
    let mut world = World::new();
    let id = world.connection(10);
    for (count, full) in [(0, None), (3, None), (4, Some(4)), (1, None)] {
        world.happen(&vec![(id, Ready::READABLE); count]);
        world.wait(MINUTE);
        assert_eq!(world.driver.full_batch(), full, "{count}");
        world.reports();
    }
}

#[test]
fn the_short_way_is_for_input_of_a_plainly_read_socket_alone() {
    let mut world = World::new();
    let (id, paused) = (world.connection(10), world.connection(11));
    world.change(paused, Link::pause);
    let (file, number) = world.watched();
    let listener = world.listener(3);
    world.wait(MINUTE);
    let event = |token| (token, Ready::READABLE);
    let short = |world: &mut World, event: (ConnectionId, Ready)| {
        world.happen(&[event]);
        world.wait(MINUTE);
        let taken = world.driver.next_received(&mut world.links, &mut [0; 1000]).map(|(link, count)| (link.id, count));
        world.reports();
        taken
    };
    world.arrive(10, [Moved::Bytes(5), Moved::Bytes(6), Moved::Bytes(7)]);
    world.arrive(11, [Moved::Bytes(5)]);
    world.arrive(number, [Moved::Bytes(5)]);
    assert_eq!(short(&mut world, event(id)), Some((id, 5)));
    assert_eq!(short(&mut world, (id, Ready::READABLE.and(Ready::HANGUP))), None);
    assert_eq!(short(&mut world, event(paused)), None);
    assert_eq!(short(&mut world, event(file)), None);
    assert_eq!(short(&mut world, event(ConnectionId::NONE)), None);
    assert_eq!(short(&mut world, event(listener_token(0, listener))), None);
    assert_eq!(short(&mut world, event(id)), Some((id, 7)), "the second was reported by the long way");
    // In a batch with a probe, the long way keeps account of the connections that were read.
    world.driver.probe(paused);
    assert_eq!(short(&mut world, event(id)), None);
    world.arrive(10, [Moved::Bytes(8)]);
    assert_eq!(short(&mut world, event(id)), Some((id, 8)));
    // An outcome without bytes is reported by the long way, without a second receive.
    world.arrive(10, [Moved::Ended]);
    world.calls();
    world.happen(&[event(id)]);
    world.wait(MINUTE);
    assert!(world.driver.next_received(&mut world.links, &mut [0; 1000]).is_none());
    assert_eq!(world.reports(), ["0 ended"]);
    assert_eq!(world.calls(), ["recv 10"]);
}

#[test]
fn a_connection_that_has_probably_sent_something_is_read_in_the_batch_that_accepts_it() {
    let mut world = World::new();
    let listener = world.listener(3);
    world.happen(&[(listener_token(0, listener), Ready::READABLE)]);
    world.sys.0.borrow_mut().accepted.push_back(Ok(Fd(10)));
    world.arrive(10, [Moved::Bytes(5)]);
    world.wait(MINUTE);
    let first = world.driver.next(&world.links, &mut [0; 1000]);
    assert!(matches!(first, Some(Completion::Accepted { .. })), "{first:?}");
    let id = world.link(Origin::Accepted);
    world.driver.adopt(id, Socket(Fd(10)), true);
    // Before the next connection is accepted, while the socket is in the processor's cache.
    world.sys.0.borrow_mut().accepted.push_back(Ok(Fd(11)));
    let second = world.driver.next(&world.links, &mut [0; 1000]);
    assert!(matches!(second, Some(Completion::Received { id: found, count: 5 }) if found == id), "{second:?}");
    let third = world.driver.next(&world.links, &mut [0; 1000]);
    assert!(matches!(third, Some(Completion::Accepted { .. })), "{third:?}");
    assert_eq!(world.driver.descriptors(), 2);
}

#[test]
fn probes_answer_for_every_connection_and_once_a_batch() {
    let mut world = World::new();
    let (reading, paused, gone) = (world.connection(10), world.connection(11), world.connection(12));
    world.change(paused, Link::pause);
    world.wait(MINUTE);
    world.calls();
    world.arrive(10, [Moved::Bytes(5), Moved::Ended]);
    [reading, paused, gone].into_iter().for_each(|id| world.driver.probe(id));
    world.driver.release(gone, false);
    world.links.remove(gone);
    assert_eq!(world.batch(), ["0 received 5", "1 nothing"]);
    // An event of the same batch answers, too.
    world.driver.probe(reading);
    world.happen(&[(reading, Ready::READABLE)]);
    assert_eq!(world.batch(), ["0 ended"]);
    // An event without input does not.
    world.driver.probe(reading);
    world.happen(&[(reading, Ready::READABLE)]);
    assert_eq!(world.batch(), ["0 nothing"]);
    // A probe in the midst of a batch waits for the next.
    world.wait(MINUTE);
    world.driver.probe(reading);
    assert_eq!(world.reports(), [""; 0]);
    assert_eq!(world.batch(), ["0 nothing"]);
}

#[test]
fn a_descriptor_is_counted_from_its_beginning_until_its_release_and_closed_after_the_batch() {
    let mut world = World::new();
    assert_eq!(world.driver.descriptors(), 0);
    let (one, (file, number)) = (world.connection(10), world.watched());
    world.sys.0.borrow_mut().connected.push_back(Ok(Fd(12)));
    let outbound = world.link(Origin::Outbound);
    world.driver.connect(outbound, &Address::Tcp(([127, 0, 0, 1], 1).into()), &Tuning::default());
    let listener = world.listener(3);
    assert_eq!(world.driver.descriptors(), 3);
    assert_eq!([one, file, outbound].map(|id| world.descriptor(id).0), [10, number, 12]);
    world.wait(MINUTE);
    world.calls();
    world.driver.release(one, true);
    world.driver.release(file, true);
    world.driver.release(outbound, false);
    assert_eq!(world.driver.descriptors(), 0);
    assert_eq!(world.descriptor(one), Fd::NONE);
    let expected = ["forget 10".into(), "reset 10".into(), format!("forget {number}"), "forget 12".into()];
    assert_eq!(world.calls(), expected);
    let mut held: Vec<i32> = world.driver.held().iter().map(|fd| fd.0).collect();
    held.sort_unstable();
    let mut all = vec![3, 10, 12, number, 1000];
    all.sort_unstable();
    assert_eq!(held, all, "still open, and the poller's own");
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["close 10".into(), format!("close {number}"), "close 12".into()]);
    world.driver.forget_listener(listener);
    assert_eq!(world.driver.held(), [Fd(1000)]);
    world.driver.count_in();
    world.driver.count_in();
    world.driver.count_out();
    assert_eq!(world.driver.descriptors(), 1);
    world.driver.close_accepted(Socket(Fd(20)));
    assert_eq!((world.driver.descriptors(), world.calls()), (0, vec!["forget 3".into(), "close 20".into()]));
}

#[test]
fn our_half_is_ended_and_acknowledgements_are_asked_for_at_a_socket_alone() {
    let mut world = World::new();
    let (one, (file, _)) = (world.connection(10), world.watched());
    world.sys.0.borrow_mut().unacknowledged = 77;
    world.calls();
    assert_eq!([one, file, ConnectionId::NONE].map(|id| world.driver.unacknowledged(id)), [77, 0, 0]);
    [one, file, ConnectionId::NONE].into_iter().for_each(|id| world.driver.finish(id));
    assert_eq!(world.calls(), ["unacknowledged 10", "finish 10"]);
    assert_eq!(world.driver.say_goodbye(one), Sent::Bytes(0));
    assert!(world.driver.agreed(one).is_none());
}

#[test]
fn a_connecting_socket_is_asked_for_the_outcome_once_it_is_writable_or_in_trouble() {
    let to = Address::Tcp(([127, 0, 0, 1], 1).into());
    for (ready, error, expected) in [
        (Ready::READABLE, Some(Errno(111)), None),
        (Ready::WRITABLE, None, Some("0 connected")),
        (Ready::WRITABLE, Some(Errno(111)), Some("0 failed 111")),
        (Ready::ERROR, Some(Errno(111)), Some("0 failed 111")),
        (Ready::HANGUP, None, Some("0 connected")),
    ] {
        let mut world = World::new();
        world.sys.0.borrow_mut().connected.push_back(Ok(Fd(12)));
        let id = world.link(Origin::Outbound);
        world.driver.connect(id, &to, &Tuning::default());
        world.wait(MINUTE);
        assert_eq!(world.calls(), ["connect", "register 12 -w"]);
        world.sys.0.borrow_mut().errors.extend(error.map(|errno| (12, errno)));
        world.happen(&[(id, ready)]);
        assert_eq!(world.batch().first().map(String::as_str), expected, "{ready:?}");
        assert_eq!(world.calls().len(), usize::from(expected.is_some()), "{ready:?}");
        assert_eq!(world.driver.disconnect(id).is_none(), expected.is_some_and(|report| report.contains("connected")));
    }
}

#[test]
fn a_socket_that_is_not_connected_yet_can_be_let_go() {
    let mut world = World::new();
    world.sys.0.borrow_mut().connected.extend([Ok(Fd(12)), Ok(Fd(13))]);
    let (id, to) = (world.link(Origin::Outbound), Address::Tcp(([127, 0, 0, 1], 1).into()));
    for (fd, call) in [(12, "register 12 -w"), (13, "register 13 -w")] {
        assert_eq!(world.driver.connect(id, &to, &Tuning::default()), Fd(fd));
        world.wait(MINUTE);
        assert!(world.calls().contains(&call.to_owned()));
        assert_eq!(world.descriptor(id), Fd(fd));
        assert!(matches!(world.driver.disconnect(id), Some(None)));
        assert_eq!(world.descriptor(id), Fd::NONE);
    }
    let connected = world.connection(10);
    assert!(world.driver.disconnect(connected).is_none());
    // A layer comes back with its socket, and waits for the connection like its link.
    world.sys.0.borrow_mut().connected.push_back(Ok(Fd(14)));
    world.driver.connect(id, &to, &Tuning::default());
    world.driver.put_layer(id, Box::<OneByte>::default());
    world.wait(MINUTE);
    let calls = world.calls();
    assert!(calls.contains(&"register 14 -w".into()), "{calls:?}");
    assert!(matches!(world.driver.disconnect(id), Some(Some(_))));
    assert_eq!(world.calls(), ["forget 14"], "no last words");
}

#[test]
fn the_poller_learns_of_a_connection_before_the_next_wait_and_of_a_change_only_if_there_is_one() {
    let mut world = World::new();
    let id = world.connection(10);
    assert_eq!(world.calls(), [""; 0]);
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["register 10 r-"]);
    world.driver.changed(id);
    world.wait(MINUTE);
    assert_eq!(world.calls(), [""; 0]);
    world.write(id, b"answer");
    world.block(id);
    world.change(id, Link::pause);
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["modify 10 -w"]);
    assert_eq!(world.driver.counters.interest_changes.get(), 1);
    // A connection that comes and goes within one turn is never known to the poller.
    let brief = world.connection(11);
    world.driver.release(brief, false);
    world.links.remove(brief);
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["close 11"]);
    // A registration that fails ends the connection.
    let failing = world.connection(12);
    world.sys.0.borrow_mut().registered.push_back(Err(Errno(12)));
    assert_eq!(world.batch(), ["1 failed 12"]);
    let socket = failing;
    world.driver.release(socket, false);
    assert_eq!(world.calls(), ["register 12 r-"], "it was not registered, so nothing is forgotten");
}

#[test]
fn a_file_that_no_poller_takes_is_ready_in_every_batch_while_it_is_read() {
    let mut world = World::new();
    let (file, number) = world.watched();
    world.sys.0.borrow_mut().registered.push_back(Err(NOT_PERMITTED));
    world.arrive(number, [Moved::Bytes(5), Moved::Bytes(6), Moved::Ended]);
    // The first wait registers it, and the batch has its event already.
    assert_eq!(world.batch(), ["0 received 5"]);
    assert_eq!(world.timeout(), AT_ONCE);
    assert_eq!(world.reports(), ["0 received 6"]);
    assert_eq!(world.calls(), [format!("register {number} r-"), format!("read {number}"), format!("read {number}")]);
    world.change(file, Link::pause);
    assert_eq!(world.timeout(), MINUTE);
    assert_eq!(world.reports(), [""; 0]);
    world.driver.release(file, false);
    world.links.remove(file);
    assert_eq!(world.timeout(), MINUTE);
    assert_eq!(world.calls(), [format!("close {number}")], "the poller has nothing to forget");
    // A socket is no such file, whatever the poller says.
    world.connection(10);
    world.sys.0.borrow_mut().registered.push_back(Err(NOT_PERMITTED));
    assert_eq!(world.batch(), ["0 failed 1"]);
}

#[test]
fn a_hung_up_connection_that_is_not_read_leaves_the_poller_and_comes_back_when_it_is_read() {
    let mut world = World::new();
    let id = world.connection(10);
    world.change(id, Link::pause);
    world.wait(MINUTE);
    world.calls();
    for _ in 0..2 {
        world.happen(&[(id, Ready::HANGUP)]);
        assert_eq!(world.batch(), [""; 0]);
    }
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["forget 10"]);
    world.arrive(10, [Moved::Ended]);
    world.change(id, Link::resume);
    world.change(id, |link| assert_eq!(link.step(1, &limits()), crate::link::Step::Deliver));
    world.happen(&[(id, Ready::HANGUP)]);
    assert_eq!(world.batch(), ["0 ended"]);
    assert_eq!(world.calls(), ["register 10 r-", "recv 10"]);
}

#[test]
fn an_error_is_told_by_what_is_done_with_the_socket_and_otherwise_by_itself() {
    let error = Ready::ERROR.and(Ready::HANGUP);
    let mut world = World::new();
    let (reads, waits, paused) = (world.connection(10), world.connection(11), world.connection(12));
    world.change(paused, Link::pause);
    world.change(waits, Link::pause);
    world.write(waits, b"answer");
    world.block(waits);
    world.wait(MINUTE);
    world.calls();
    world.arrive(10, [Moved::Bytes(5), Moved::Failed(Errno(104))]);
    world.sys.0.borrow_mut().sent.push_back(Moved::Failed(Errno(32)));
    world.sys.0.borrow_mut().errors.extend([(11, Errno(104)), (12, Errno(104))]);
    world.happen(&[(reads, error), (waits, error), (paused, error)]);
    assert_eq!(world.batch(), ["0 received 5", "1 sent failed 32", "2 failed 104"]);
    assert_eq!(world.calls()[..3], ["recv 10", "send 11 6", "error 12"]);
    world.happen(&[(reads, error)]);
    assert_eq!(world.batch(), ["0 failed 104"]);
}

#[test]
fn input_and_room_in_one_event_are_reported_one_after_the_other() {
    let mut world = World::new();
    let id = world.connection(10);
    world.write(id, b"answer");
    world.block(id);
    world.wait(MINUTE);
    world.calls();
    world.arrive(10, [Moved::Bytes(5)]);
    world.happen(&[(id, Ready::READABLE.and(Ready::WRITABLE))]);
    assert_eq!(world.batch(), ["0 received 5", "0 sent Bytes(6)"]);
    assert_eq!(world.calls(), ["recv 10", "send 10 6"]);
    // An event of a connection that is gone is counted, and nothing else.
    let stale = world.driver.counters.stale_events.get();
    world.driver.release(id, false);
    world.links.remove(id);
    world.happen(&[(id, Ready::READABLE.and(Ready::WRITABLE))]);
    assert_eq!(world.batch(), [""; 0]);
    assert_eq!(world.driver.counters.stale_events.get(), stale + 1);
}

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

#[test]
fn a_short_send_waits_for_room_and_is_counted() {
    let mut world = World::new();
    let id = world.connection(10);
    world.write(id, b"answer");
    for (moved, outcome, partial) in [
        (Moved::Bytes(6), Sent::Bytes(6), 0),
        (Moved::Bytes(5), Sent::Blocked(5), 1),
        (Moved::Blocked, Sent::Blocked(0), 1),
        (Moved::Failed(errno::RESET), Sent::Failed(errno::RESET), 1),
    ] {
        world.sys.0.borrow_mut().sent.push_back(moved);
        let link = world.links.get(id).unwrap();
        assert_eq!(world.driver.send(link), outcome);
        assert_eq!(world.driver.counters.partial_sends.get(), partial);
    }
    assert_eq!(world.driver.send_bytes(world.links.get(id).unwrap(), b"abc"), Sent::Bytes(3));
    assert_eq!(world.calls().last().map(String::as_str), Some("send 10 3"));
}

#[test]
fn pieces_leave_together_and_a_file_by_a_mebibyte_in_a_turn() {
    const FILE: u64 = (1 << 20) + 1;
    let mut world = World::new();
    let id = world.connection(10);
    let file = Arc::new(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap());
    world.write(id, b"head");
    let now = world.driver.now();
    let output = world.links.get_mut(id).unwrap().writable_output(&mut world.pool, &limits()).unwrap();
    output.put_file(file.clone(), 0..FILE);
    output.put_shared(Bytes::from(vec![0; 5000]));
    output.put(b"tail");
    let mut send = |outcome: Sent, call: &str| {
        let link = world.links.get_mut(id).unwrap();
        assert_eq!(world.driver.send(link), outcome);
        link.sent(outcome, now, &limits(), &mut world.pool, || 0);
        let calls = std::mem::take(&mut world.sys.0.borrow_mut().calls);
        assert_eq!(calls.last().map(String::as_str), Some(call));
    };
    send(Sent::Bytes(4), "sendmsg 10 4 more");
    send(Sent::Blocked(1 << 20), "sendfile 10 0 1048576");
    send(Sent::Bytes(1), "sendfile 10 1048576 1");
    send(Sent::Bytes(5004), "sendmsg 10 5004");

    // The end of the file comes before the end of the range.
    let output = world.links.get_mut(id).unwrap().writable_output(&mut world.pool, &limits()).unwrap();
    output.put_file(file, 0..1 << 20);
    world.sys.0.borrow_mut().sent.extend([Moved::Bytes(1 << 20), Moved::Ended, Moved::Bytes(9)]);
    for outcome in [Sent::Bytes(1 << 20), Sent::ShortFile, Sent::Blocked(9)] {
        let link = world.links.get(id).unwrap();
        assert_eq!(world.driver.send(link), outcome);
    }
}

#[test]
fn a_terminal_of_another_job_is_neither_read_nor_polled_and_looked_at_once_a_second() {
    let mut world = World::new();
    let (terminal, number) = world.watched();
    world.wait(MINUTE);
    world.calls();
    world.sys.0.borrow_mut().terminals.push(number);
    world.happen(&[(terminal, Ready::READABLE)]);
    assert_eq!(world.batch(), [""; 0]);
    assert_eq!(world.calls(), [format!("forget {number}")]);
    world.driver.changed(terminal);
    assert_eq!(world.timeout(), Some(Duration::from_secs(1)));
    world.sys.0.borrow_mut().now = world.driver.now() + Duration::from_secs(1);
    assert_eq!(world.timeout(), Some(Duration::from_secs(1)), "it is still another's");
    world.sys.0.borrow_mut().terminals.clear();
    world.sys.0.borrow_mut().now = world.driver.now() + Duration::from_millis(999);
    world.wait(MINUTE);
    world.wait(MINUTE);
    assert_eq!(world.calls(), [""; 0]);
    world.sys.0.borrow_mut().now = world.driver.now() + Duration::from_millis(1);
    world.wait(MINUTE);
    assert_eq!(world.timeout(), MINUTE);
    assert_eq!(world.calls(), [format!("register {number} r-")]);
    // A terminal that is not read is not looked at: its end leaves the poller as any other.
    world.sys.0.borrow_mut().terminals.push(number);
    world.change(terminal, Link::pause);
    world.happen(&[(terminal, Ready::HANGUP)]);
    assert_eq!(world.batch(), [""; 0]);
    assert_eq!(world.timeout(), MINUTE);
    world.change(terminal, Link::resume);
    world.change(terminal, |link| assert_eq!(link.step(1, &limits()), crate::link::Step::Deliver));
    world.wait(MINUTE);
    // A terminal that was released while it was another's is forgotten.
    world.happen(&[(terminal, Ready::READABLE)]);
    assert_eq!(world.batch(), [""; 0]);
    world.driver.release(terminal, false);
    world.links.remove(terminal);
    world.sys.0.borrow_mut().now = world.driver.now() + Duration::from_secs(1);
    world.wait(MINUTE);
    assert_eq!(world.timeout(), MINUTE);
}

#[test]
fn a_wake_up_is_read_and_reported() {
    let mut world = World::new();
    let id = world.connection(10);
    world.arrive(10, [Moved::Bytes(5)]);
    world.happen(&[(ConnectionId::NONE, Ready::READABLE), (id, Ready::READABLE)]);
    assert_eq!(world.batch(), ["woken", "0 received 5"]);
    assert_eq!(world.calls(), ["register 10 r-", "drain", "recv 10"]);
}

#[test]
fn the_end_of_a_driver_closes_what_is_left() {
    let mut world = World::new();
    let (released, _left) = (world.connection(10), world.connection(11));
    world.driver.release(released, false);
    let World { sys, driver, .. } = world;
    drop(driver);
    assert_eq!(sys.0.borrow().calls, ["close 10", "close 11"]);
}

/// A layer whose handshake is one byte of each side. All other bytes are plaintext, at most four at once; the end is a byte.
#[derive(Default)]
struct OneByte {
    ready: bool,
    plain: usize,
    owed: usize,
    agreed: bool,
}

impl Layer for OneByte {
    fn open(&mut self, wire: &[u8], plain: &mut [u8]) -> layer::Opened {
        self.plain += wire.len();
        if !std::mem::replace(&mut self.ready, true) {
            self.plain -= 1;
            self.owed += 1;
        }
        let count = self.plain.min(plain.len()).min(4);
        self.plain -= count;
        let follows = if self.plain > 0 { layer::Follows::Plain } else { layer::Follows::Wire };
        layer::Opened { plain: count, follows }
    }

    fn seal(&mut self, _: &[u8]) {}

    fn owes(&self) -> bool {
        self.owed > 0
    }

    fn owed(&mut self, wire: &mut Vec<u8>) {
        wire.resize(wire.len() + std::mem::take(&mut self.owed), 0);
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn finish(&mut self) {
        self.owed += 1;
    }

    fn agreed(&mut self) -> Option<Box<dyn Any>> {
        (!std::mem::replace(&mut self.agreed, true)).then(|| Box::new("agreed") as Box<dyn Any>)
    }
}

#[test]
fn sixteen_steps_of_handshakes_are_taken_in_a_turn_and_established_connections_go_on() {
    let mut world = World::new();
    world.sys.0.borrow_mut().events_per_wait = 100;
    let ids: Vec<ConnectionId> = (0..20).map(|number| world.connection(100 + number)).collect();
    for (&id, fd) in ids.iter().zip(100..) {
        world.driver.put_layer(id, Box::<OneByte>::default());
        world.links.get_mut(id).unwrap().begin(Fd(fd), true);
        // Four bytes of plaintext come along with the handshake of the first.
        world.arrive(fd, [Moved::Bytes(if fd == 100 { 5 } else { 1 })]);
    }
    let events: Vec<_> = ids.iter().map(|&id| (id, Ready::READABLE)).collect();
    world.happen(&events);
    world.wait(MINUTE);
    let mut reports = Vec::new();
    while let Some(completion) = world.driver.next(&world.links, &mut [0; 1000]) {
        // The handler hears of the connection before its first bytes.
        if let Completion::Connected { id } = completion {
            let now = world.driver.now();
            world.links.get_mut(id).unwrap().connected(now);
        }
        reports.push(completion);
    }
    let connected = reports.iter().filter(|report| matches!(report, Completion::Connected { .. })).count();
    assert_eq!(connected, 16);
    let is_text = |report: &Completion| matches!(report, Completion::Received { id, count: 4 } if *id == ids[0]);
    assert_eq!(reports.iter().filter(|report| is_text(report)).count(), 1, "in the same batch: {reports:?}");
    // The layers' own bytes leave at the end of the batch.
    assert_eq!(world.calls().iter().filter(|call| call.starts_with("send ")).count(), 16);

    // Four handshakes are left. A connection that is established is read, however many handshakes the turn has had.
    let more: Vec<ConnectionId> = (0..16).map(|number| world.connection(200 + number)).collect();
    for (&id, fd) in more.iter().zip(200..) {
        world.driver.put_layer(id, Box::<OneByte>::default());
        world.links.get_mut(id).unwrap().begin(Fd(fd), true);
        world.arrive(fd, [Moved::Bytes(1)]);
    }
    world.arrive(100, [Moved::Bytes(7)]);
    world.happen(&more.iter().map(|&id| (id, Ready::READABLE)).collect::<Vec<_>>());
    world.happen(&events[16..]);
    world.happen(&events[..1]);
    let reports = world.batch();
    assert_eq!(reports.iter().filter(|report| report.ends_with("connected")).count(), 16);
    assert!(reports.contains(&"0 received 4".to_owned()), "{reports:?}");
    // The layer has more plaintext, of which no event tells.
    assert_eq!(world.timeout(), AT_ONCE);
    assert!(world.reports().contains(&"0 received 3".to_owned()));
    world.calls();
    world.driver.release(ids[0], false);
    assert_eq!(world.calls(), ["forget 100", "send 100 1"], "last words");
    assert!(world.driver.agreed(ids[1]).is_some_and(|agreed| agreed.is::<&str>()));
    assert!(world.driver.agreed(ids[1]).is_none());
}

#[test]
fn a_part_of_a_file_that_is_not_in_memory_goes_through_the_layer_when_the_reader_thread_has_read_it() {
    const PART: usize = 100;
    let mut world = World::new();
    let id = world.connection(10);
    world.driver.put_layer(id, Box::<OneByte>::default());
    world.links.get_mut(id).unwrap().begin(Fd(10), true);
    world.arrive(10, [Moved::Bytes(1)]);
    world.happen(&[(id, Ready::READABLE)]);
    assert_eq!(world.batch()[0], "0 connected");
    let now = world.driver.now();
    let link = world.links.get_mut(id).unwrap();
    link.connected(now);
    let file = Arc::new(File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap());
    link.writable_output(&mut world.pool, &limits()).unwrap().put_file(file, 0..PART as u64);
    // The script's system never finds a file in memory.
    assert_eq!(world.driver.send(world.links.get(id).unwrap()), Sent::Blocked(0));
    let began = std::time::Instant::now();
    while world.sys.waker().writes() == 0 {
        assert!(began.elapsed() < Duration::from_secs(600), "the thread has read, and wakes the loop");
        std::thread::sleep(Duration::from_millis(1));
    }
    world.happen(&[(ConnectionId::NONE, Ready::READABLE)]);
    assert_eq!(world.batch(), ["woken"]);
    assert_eq!(world.driver.send(world.links.get(id).unwrap()), Sent::Bytes(PART));
}
