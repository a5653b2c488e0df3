//! The cluster and the handles of its loops: wake-ups, counts, and the coming and going of per-connection loops.

use std::os::unix::net::UnixStream;
use std::thread;

use bytes::Bytes;

use super::*;

/// A cluster of `count` fixed loops, and their wakers.
fn of(count: usize) -> (Cluster, Vec<Waker>) {
    let wakers: Vec<Waker> = (0..count).map(|_| waker()).collect();
    (Cluster::new(wakers.clone()), wakers)
}

fn waker() -> Waker {
    Waker::new().expect("a descriptor for wake-ups")
}

/// Whether each loop was woken since the last question.
fn woken(wakers: &[Waker]) -> Vec<bool> {
    let rings = |waker: &Waker| {
        let before = waker.writes();
        waker.wake();
        let was_woken = waker.writes() == before;
        waker.clear();
        was_woken
    };
    wakers.iter().map(rings).collect()
}

fn publication(length: usize) -> Publication {
    (Topic::new("all"), Shared::new(Bytes::from(vec![0; length])))
}

fn connection() -> Accepted {
    let (near, _) = UnixStream::pair().expect("two sockets");
    Accepted { listener: 0, socket: Socket::owned(near.into()), peer: Peer::Unix }
}

#[test]
fn a_wake_up_reaches_the_loop_that_it_is_for_whether_it_is_fixed_or_not() {
    let (cluster, mut wakers) = of(2);
    wakers.push(waker());
    let entered = cluster.enter(wakers[2].clone(), 0);
    let nobody = [false, false, false];
    assert_eq!(cluster.fixed().iter().map(|loop_handle| loop_handle.number).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(woken(&wakers), nobody);
    cluster.wake(1);
    assert_eq!(woken(&wakers), [false, true, false]);
    cluster.wake(entered.number);
    assert_eq!(woken(&wakers), [false, false, true]);
    cluster.wake(entered.number + 1);
    assert_eq!(woken(&wakers), nobody);
    cluster.wake_all();
    assert_eq!(woken(&wakers), [true, true, true]);
    cluster.wake_others(0);
    assert_eq!(woken(&wakers), [false, true, true]);
    cluster.wake_others(entered.number);
    assert_eq!(woken(&wakers), [true, true, false]);
    entered.waker().expect("it has not ended").wake();
    assert_eq!(woken(&wakers), [false, false, true]);
    cluster.leave(&entered);
    assert!(entered.waker().is_none(), "the waker's descriptor is closed");
    entered.wake();
    assert_eq!(woken(&wakers), nobody);
}

#[test]
fn a_publication_of_another_thread_goes_to_the_first_loop_alone() {
    let (cluster, wakers) = of(2);
    let inboxes: Vec<Inbox> = cluster.fixed().iter().map(|loop_handle| cluster.inbox(loop_handle)).collect();
    assert!(inboxes[1].published.is_none());
    cluster.publish(publication(3)).expect("there is room");
    assert_eq!(woken(&wakers), [true, false]);
    let mut taken = Vec::new();
    assert!(!inboxes[0].published.as_ref().expect("the first loop takes it").take(&mut taken, 10));
    assert_eq!(taken.len(), 1);
    drop(inboxes);
    assert!(matches!(cluster.publish(publication(3)), Err(PostError::Closed(_))));
    assert_eq!(woken(&wakers), [false, false]);
}

#[test]
fn sixteen_mebibytes_wait_at_a_loop_and_a_sender_that_finds_no_room_is_noted_once() {
    let (cluster, _wakers) = of(1);
    let loop_handle = &cluster.fixed()[0];
    let inbox = cluster.inbox(loop_handle);
    assert!(loop_handle.is_read_out() && !loop_handle.is_sender_waiting() && !loop_handle.take_sender_waits());
    loop_handle.pass_on(publication((16 << 20) - 1)).expect("there is room");
    loop_handle.pass_on(publication(1)).expect("there is room");
    assert!(!loop_handle.is_read_out() && !loop_handle.is_sender_waiting());
    assert!(matches!(loop_handle.pass_on(publication(1)), Err(PostError::Full(_))));
    assert!(loop_handle.is_sender_waiting());
    assert!(loop_handle.take_sender_waits() && !loop_handle.take_sender_waits() && !loop_handle.is_sender_waiting());
    let mut taken = Vec::new();
    inbox.passed_on.take(&mut taken, 10);
    assert_eq!((taken.len(), loop_handle.is_read_out()), (2, true));
}

#[test]
fn a_stop_is_begun_once_and_wakes_every_loop() {
    let (cluster, wakers) = of(2);
    assert!(!cluster.is_halting());
    cluster.halt();
    assert_eq!((cluster.is_halting(), woken(&wakers)), (true, vec![true, true]));
    cluster.halt();
    assert_eq!(woken(&wakers), [false, false]);
}

#[test]
fn the_first_loop_that_stops_sets_the_end_of_the_drain_time() {
    let (cluster, _) = of(2);
    assert_eq!(cluster.drain_until(Some(Time(7))), Some(Time(7)));
    assert_eq!(cluster.drain_until(None), Some(Time(7)));
    let (cluster, _) = of(2);
    assert_eq!(cluster.drain_until(None), None);
    assert_eq!(cluster.drain_until(Some(Time(7))), None);
}

#[test]
fn nobody_comes_once_the_listeners_are_closed_and_the_queue_is_empty() {
    let (cluster, wakers) = of(2);
    let loop_handle = &cluster.fixed()[1];
    let inbox = cluster.inbox(loop_handle);
    assert!(cluster.hand(loop_handle, connection()).is_ok());
    assert!(!cluster.are_listeners_closed() && !cluster.nobody_comes(&inbox.accepted));
    cluster.close_listeners();
    assert_eq!(woken(&wakers), [true, true]);
    assert!(cluster.are_listeners_closed() && !cluster.nobody_comes(&inbox.accepted));
    assert_eq!(inbox.accepted.take_last().len(), 1);
    assert!(cluster.nobody_comes(&inbox.accepted));
    cluster.close_listeners();
    assert_eq!(woken(&wakers), [false, false]);
}

#[test]
fn reports_are_asked_of_all_fixed_loops_but_the_first_and_of_as_many_others_as_were_named() {
    let (cluster, mut wakers) = of(2);
    wakers.extend([waker(), waker()]);
    let entered = [cluster.enter(wakers[2].clone(), 0), cluster.enter(wakers[3].clone(), 0)];
    let asked = || {
        let entered = entered.iter().filter(|entered| entered.take_reporting()).count();
        (cluster.fixed()[0].take_reporting(), cluster.fixed()[1].take_reporting(), entered)
    };
    assert_eq!(asked(), (false, false, 0));
    for count in [0, 1, 2] {
        cluster.ask_for_reports(count);
        assert_eq!(asked(), (false, true, count));
        let woken = woken(&wakers);
        assert_eq!((woken[0], woken[1]), (false, true));
        assert_eq!(woken[2..].iter().filter(|&&was| was).count(), count);
    }
    assert_eq!(asked(), (false, false, 0));
}

#[test]
fn each_per_connection_loop_is_asked_to_open_its_log_files_anew() {
    let (cluster, mut wakers) = of(1);
    wakers.push(waker());
    let entered = cluster.enter(wakers[1].clone(), 0);
    assert!(!entered.take_reopening());
    cluster.ask_to_reopen();
    assert_eq!(woken(&wakers), [false, true]);
    assert!(entered.take_reopening() && !entered.take_reopening() && !cluster.fixed()[0].take_reopening());
}

#[test]
fn the_sum_of_the_counters_has_the_loops_that_have_ended_but_not_their_open_connections() {
    let (cluster, _wakers) = of(1);
    let entered = [cluster.enter(waker(), 0), cluster.enter(waker(), 0)];
    cluster.fixed()[0].counters.received.add(1);
    for entered in &entered {
        entered.counters.received.add(10);
        entered.counters.open.set(1);
    }
    assert_eq!((cluster.stats().received, cluster.stats().open), (21, 2));
    cluster.leave(&entered[0]);
    assert_eq!((cluster.stats().received, cluster.stats().open), (21, 1));
    cluster.leave(&entered[1]);
    assert_eq!((cluster.stats().received, cluster.stats().open), (21, 0));
}

#[test]
fn per_connection_loops_get_their_numbers_in_turn_and_an_id_never_comes_again() {
    let (cluster, _wakers) = of(1);
    let enter = || {
        let entered = cluster.enter(waker(), 0);
        let LoopKind::PerConnection { generation } = entered.kind else { panic!("it is not fixed") };
        (entered.number, generation)
    };
    assert_eq!(enter(), (LOOPS_MAX, 1));
    assert_eq!(enter(), (LOOPS_MAX + 1, 1));
    cluster.per_connection().came = u64::from(PER_CONNECTION_MAX) - 1;
    assert_eq!(enter(), (LOOPS_MAX + PER_CONNECTION_MAX - 1, 1));
    // The first two numbers are in use. In the second round ids begin at another generation.
    assert_eq!(enter(), (LOOPS_MAX + 2, 65_537));
    cluster.per_connection().came = 5 * u64::from(PER_CONNECTION_MAX) + 7;
    assert_eq!(enter(), (LOOPS_MAX + 7, 5 * 65_536 + 1));
    assert_eq!(cluster.per_connection_count(), 5);
}

#[test]
fn a_snapshot_is_current_until_a_loop_comes_or_goes() {
    let (cluster, _wakers) = of(1);
    assert!(!cluster.is_current(&Snapshot::empty()));
    let snapshot = cluster.snapshot();
    assert!(cluster.is_current(&snapshot) && snapshot.cluster.len() == 1);
    assert!(Arc::ptr_eq(&cluster.snapshot().cluster, &snapshot.cluster), "made once");
    let entered = cluster.enter(waker(), 0);
    assert!(!cluster.is_current(&snapshot));
    let snapshot = cluster.snapshot();
    assert!(cluster.is_current(&snapshot) && snapshot.cluster.len() == 2);
    cluster.leave(&entered);
    assert!(!cluster.is_current(&snapshot) && cluster.snapshot().cluster.len() == 1);
}

#[test]
fn the_end_of_the_last_per_connection_loop_is_waited_for() {
    let (cluster, _wakers) = of(1);
    assert_eq!(cluster.wait_for_per_connection(None), 0);
    let entered = [cluster.enter(waker(), 0), cluster.enter(waker(), 0)];
    assert_eq!((cluster.per_connection_count(), cluster.have_per_connection_ended()), (2, false));
    assert_eq!(cluster.wait_for_per_connection(Some(Duration::ZERO)), 2);
    thread::scope(|scope| {
        scope.spawn(|| entered.iter().for_each(|entered| cluster.leave(entered)));
        assert_eq!(cluster.wait_for_per_connection(None), 0);
    });
    assert_eq!((cluster.per_connection_count(), cluster.have_per_connection_ended()), (0, true));
}

#[test]
fn a_per_connection_loop_that_ends_wakes_the_accepting_loop_that_waits_for_room_or_for_a_stop() {
    let (cluster, wakers) = of(2);
    let entered = [cluster.enter(waker(), 3), cluster.enter(waker(), 3), cluster.enter(waker(), 3)];
    assert_eq!(cluster.descriptors(), 9);
    cluster.leave(&entered[0]);
    assert_eq!((cluster.descriptors(), woken(&wakers)), (6, vec![false, false]));
    assert!(cluster.look_for_room(|| true));
    cluster.leave(&entered[1]);
    assert_eq!((cluster.descriptors(), woken(&wakers)), (3, vec![true, false]));
    assert!(!cluster.look_for_room(|| false));
    cluster.halt();
    woken(&wakers);
    cluster.leave(&entered[2]);
    assert_eq!((cluster.descriptors(), woken(&wakers)), (0, vec![true, false]));
}

#[test]
fn fewer_descriptors_wake_the_accepting_loop_that_waits_for_room() {
    let (cluster, wakers) = of(2);
    let note = |number: usize, descriptors: usize| {
        let loop_handle = &cluster.fixed()[number];
        cluster.note_descriptors(loop_handle, descriptors);
        assert_eq!(loop_handle.descriptors(), descriptors);
        woken(&wakers)
    };
    let (nobody, first) = (vec![false, false], vec![true, false]);
    assert_eq!(note(1, 5), nobody);
    assert_eq!(note(0, 5), nobody);
    assert_eq!(cluster.descriptors(), 10);
    assert_eq!(note(1, 4), nobody, "it does not wait");
    assert!(cluster.look_for_room(|| true));
    assert_eq!(note(1, 4), nobody, "as many as before");
    assert_eq!(note(1, 6), nobody, "more");
    assert_eq!(note(0, 4), nobody, "the accepting loop looks by itself");
    assert_eq!(note(1, 3), first);
    assert_eq!(cluster.descriptors(), 7);
}

#[test]
fn a_connection_on_its_way_is_counted_until_its_loop_counts_it() {
    let (cluster, wakers) = of(2);
    let loop_handle = &cluster.fixed()[1];
    let inbox = cluster.inbox(loop_handle);
    assert!(cluster.hand(loop_handle, connection()).is_ok());
    assert_eq!((cluster.descriptors(), woken(&wakers)), (1, vec![false, false]));
    let mut taken = Vec::new();
    inbox.accepted.take(&mut taken, 10);
    assert_eq!(taken.len(), 1);
    cluster.has_counted();
    assert_eq!((cluster.descriptors(), woken(&wakers)), (0, vec![false, false]));
    // A loop that has ended gives the connection back, which wakes the accepting loop if it waits for room.
    assert!(cluster.look_for_room(|| true));
    drop(inbox);
    assert!(matches!(cluster.hand(loop_handle, connection()), Err(PostError::Closed(_))));
    assert_eq!((cluster.descriptors(), woken(&wakers)), (0, vec![true, false]));
}

#[test]
fn a_connection_goes_to_the_loop_with_the_fewest_and_among_equals_to_the_next_one() {
    let (cluster, _wakers) = of(3);
    let mut last = 0;
    let mut order = Vec::new();
    for _ in 0..6 {
        last = cluster.least_loaded(last);
        cluster.fixed()[last].load_more();
        order.push(last);
    }
    assert_eq!(order, [1, 2, 0, 1, 2, 0]);
    cluster.fixed()[1].load_less();
    assert_eq!(cluster.fixed().iter().map(|loop_handle| loop_handle.load()).collect::<Vec<_>>(), [2, 1, 2]);
    assert_eq!([0, 1, 2].map(|last| cluster.least_loaded(last)), [1, 1, 1]);
}

#[test]
fn topics_are_those_that_the_loop_has_set() {
    let (cluster, _wakers) = of(1);
    let loop_handle = &cluster.fixed()[0];
    assert!(!loop_handle.has_topics(u64::MAX));
    loop_handle.set_topics(0b0110);
    assert!(loop_handle.has_topics(0b0100) && !loop_handle.has_topics(0b1001));
}

#[test]
fn the_cores_of_the_loops_are_those_that_were_set() {
    let (cluster, _wakers) = of(1);
    assert!(cluster.cores().is_none());
    if let Ok(cores) = Cores::of_this_thread() {
        cluster.set_cores(cores.clone());
        assert!(cluster.cores() == Some(&cores));
    }
}

#[test]
fn in_a_child_process_its_own_loop_is_the_first_and_the_only_one() {
    let (cluster, wakers) = of(2);
    let inbox = cluster.inbox(&cluster.fixed()[0]);
    let (own, other) = (cluster.enter(waker(), 3), cluster.enter(waker(), 3));
    cluster.publish(publication(1)).expect("there is room");
    cluster.fixed()[0].pass_on(publication(1)).expect("there is room");
    for loop_handle in [&cluster.fixed()[1], &own, &other] {
        loop_handle.counters.received.add(10);
    }
    cluster.per_connection().counted.received = 100;
    assert!(cluster.look_for_room(|| true));
    let snapshot = cluster.snapshot();
    woken(&wakers);

    let here = waker();
    cluster.become_child(&own, here.clone());
    assert_eq!((cluster.first(), cluster.per_connection_count()), (own.number, 1));
    assert!(!cluster.is_current(&snapshot));
    assert_eq!(cluster.stats().received, 10, "the counters of the other loops are the parent's");
    let mut taken = Vec::new();
    inbox.published.as_ref().expect("the first loop's").take(&mut taken, 10);
    inbox.passed_on.take(&mut taken, 10);
    assert_eq!(taken.len(), 0, "the parent delivers its publications");
    assert!(cluster.inbox(&own).published.is_some());
    // Every wake-up is for this loop, and every topic may have members in the parent process.
    for number in [0, 1, cluster.first()] {
        cluster.wake(number);
        assert_eq!(woken(std::slice::from_ref(&here)), [true]);
    }
    assert_eq!(woken(&wakers), [false, false]);
    assert!(cluster.fixed()[0].has_topics(1));
    // No cap: nothing is accepted here.
    cluster.count_handed();
    cluster.has_counted();
    assert_eq!(woken(&[here]), [false]);
}
