//! Connections with a layer over a system that follows a script: handshakes, and parts of files.

use std::fs::File;
use std::sync::Arc;

use super::super::*;
use super::world::*;

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
