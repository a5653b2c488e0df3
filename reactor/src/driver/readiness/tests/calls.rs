//! The driver over a system that follows a script: the calls, the timeouts and the reports of one batch.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use super::super::*;
use super::scripted::{NO_DESCRIPTOR, NOT_PERMITTED};
use super::world::*;
use crate::driver::Acceptor;
use crate::link::Origin;
use crate::sys::errno;

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
    let (id, paused, ending) = (world.connection(10), world.connection(11), world.connection(12));
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
    world.arrive(10, [Moved::Bytes(5), Moved::Bytes(7), Moved::Bytes(8), Moved::Bytes(9)]);
    world.arrive(11, [Moved::Bytes(5)]);
    world.arrive(12, [Moved::Bytes(6)]);
    world.arrive(number, [Moved::Bytes(5)]);
    assert_eq!(short(&mut world, event(id)), Some((id, 5)));
    assert_eq!(short(&mut world, (ending, Ready::READABLE.and(Ready::HANGUP))), None);
    assert_eq!(short(&mut world, event(paused)), None);
    assert_eq!(short(&mut world, event(file)), None);
    assert_eq!(short(&mut world, event(ConnectionId::NONE)), None);
    assert_eq!(short(&mut world, event(listener_token(0, listener))), None);
    assert_eq!(short(&mut world, event(id)), Some((id, 7)));
    // The long way keeps account of a connection with a probe. Others of the batch take the short way.
    world.driver.probe(paused);
    assert_eq!(short(&mut world, event(id)), Some((id, 8)));
    world.driver.probe(id);
    assert_eq!(short(&mut world, event(id)), None, "the long way has received and reported");
    assert_eq!(world.batch(), ["0 nothing"]);
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
    // The socket is looked at once more, because the probe may have been asked for after the event.
    assert_eq!(world.batch(), ["0 nothing"]);
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
fn fin_shares_a_packet_with_the_last_bytes_of_a_connection_that_ends() {
    type Change = fn(&mut Link);
    let ends: [(&str, Change, &str); 5] = [
        ("open", |_| {}, ""),
        ("closing", |link| link.close(Time::default()), " more"),
        ("closing briefly", |link| link.close_briefly(Time::default()), " more"),
        ("finishing", Link::finish, " more"),
        ("a layer's last words come in between", |link| (link.begin_handshake(), link.finish()).0, ""),
    ];
    for (name, change, more) in ends {
        let mut world = World::new();
        let (one, two) = (world.connection(10), world.connection(11));
        for id in [one, two] {
            world.write(id, b"answer");
        }
        let output = world.links.get_mut(two).unwrap().writable_output(&mut world.pool, &limits()).unwrap();
        output.put_shared(Bytes::from(vec![0; 5000]));
        world.calls();
        for id in [one, two] {
            change(world.links.get_mut(id).unwrap());
            world.driver.send(world.links.get(id).unwrap());
        }
        assert_eq!(world.calls(), [format!("send 10 6{more}"), format!("sendmsg 11 5006{more}")], "{name}");
    }
    // The rest of an answer that the kernel has not taken at once.
    let mut world = World::new();
    let id = world.connection(10);
    world.write(id, b"answer");
    world.change(id, |link| link.close(Time::default()));
    world.block(id);
    world.wait(MINUTE);
    world.happen(&[(id, Ready::WRITABLE)]);
    world.calls();
    world.batch();
    assert_eq!(world.calls().last().map(String::as_str), Some("send 10 6 more"));
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
    send(Sent::Bytes(4), "send 10 4 more");
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
