//! The closing side: flushing, lingering, half-closes, and refusals.

use super::*;

#[test]
fn closing_sends_what_is_owed_then_ends_its_half_and_waits_for_the_peers() {
    let mut bench = Bench::open();
    bench.write(10);
    bench.close();
    assert!(!bench.write(1), "a write after close is refused");
    assert_eq!(bench.step(), Step::Send);
    bench.sent(10);
    bench.finished();
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.link.reads(), "what the peer still sends is thrown away");
    assert!(!bench.received(100));
    bench.link.end_of_input();
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn a_peer_that_has_ended_is_not_lingered_for() {
    let mut bench = Bench::open();
    bench.link.end_of_input();
    assert_eq!(bench.step(), Step::EndOfInput);
    bench.close();
    bench.finished();
    assert_eq!(bench.closes(), CloseReason::PeerEnded);
}

#[test]
fn lingering_has_a_limit_in_bytes() {
    let mut bench = Bench::open();
    bench.limits.linger_bytes = 1000;
    bench.close();
    bench.finished();
    bench.received(1000);
    assert_eq!(bench.step(), Step::Rest);
    bench.received(1);
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn who_sends_without_end_while_it_is_still_owed_is_no_longer_heard_and_still_sent_to() {
    let mut bench = Bench::open();
    bench.limits.linger_bytes = 1000;
    bench.write(500);
    bench.close();
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(100);
    bench.received(1001);
    assert!(!bench.link.reads() && bench.link.writes());
    bench.sent(400);
    bench.finished();
    assert_eq!(bench.closes(), CloseReason::Closed);
}

#[test]
fn what_was_written_before_the_connection_stood_leaves_before_a_close_that_was_asked_for_then() {
    let mut bench = Bench::with(Origin::Outbound);
    bench.write(10);
    bench.close();
    assert!(!bench.write(1));
    assert_eq!(bench.step(), Step::Rest);
    bench.link.connected(bench.now);
    assert_eq!(bench.step(), Step::Send);
    bench.sent(10);
    bench.finished();
}

#[test]
fn who_closes_before_the_connection_stands_hears_no_more_of_it() {
    let mut bench = Bench::with(Origin::Outbound);
    bench.link.set_deadline(Some(Duration::from_secs(2)));
    bench.write(10);
    bench.close();
    bench.link.set_deadline(Some(Duration::from_secs(3)));
    bench.anchored(0);
    assert_eq!(bench.next_due(), Some((1 + 30, Due::Loop(Deadline::Connect))));
    bench.link.stop();
    assert_eq!(bench.step(), Step::Rest);
}

#[test]
fn our_half_can_end_while_reading_goes_on_and_both_ended_is_the_end() {
    let mut bench = Bench::open();
    bench.write(5);
    bench.link.finish();
    assert!(!bench.write(1));
    assert_eq!(bench.step(), Step::Send);
    bench.sent(5);
    bench.finished();
    assert_eq!(bench.step(), Step::Rest);
    assert!(bench.received(3), "the handler gets it");
    bench.link.end_of_input();
    assert_eq!(bench.step(), Step::EndOfInput);
    assert_eq!(bench.closes(), CloseReason::PeerEnded);
}

#[test]
fn a_refused_connection_gets_its_refusal_and_lingers_only_if_there_are_few() {
    for lingers in [true, false] {
        let mut bench = Bench::with(Origin::Refused);
        bench.link.refuse(&Bytes::from_static(b"full"), lingers, bench.now, &mut bench.pool);
        assert_eq!(bench.step(), Step::Send);
        bench.sent(4);
        bench.finished();
        assert_eq!(bench.step(), if lingers { Step::Rest } else { Step::Close });
    }
}

#[test]
fn who_is_closed_briefly_gets_all_it_is_owed_and_is_not_listened_to() {
    let mut bench = Bench::open();
    assert!(bench.write(4));
    bench.link.close_briefly(bench.now);
    assert_eq!(bench.step(), Step::Send);
    bench.blocked(1);
    assert_eq!(bench.step(), Step::Rest);
    bench.sent(3);
    bench.finished();
    assert_eq!((bench.step(), bench.link.reason(), bench.link.resets()), (Step::Close, CloseReason::Closed, false));
}

#[test]
fn a_refused_connect_tells_why() {
    let mut bench = Bench::with(Origin::Outbound);
    bench.link.failed(Errno(111), bench.now);
    assert_eq!(bench.closes(), CloseReason::ConnectFailed(Errno(111)));
}

#[test]
fn a_link_that_is_not_connected_waits_with_its_close_for_its_output_alone() {
    let mut bench = Bench::with(Origin::Outbound);
    bench.close();
    assert_eq!(bench.closes(), CloseReason::Closed);
    let mut bench = Bench::with(Origin::Outbound);
    bench.write(1);
    bench.close();
    assert_eq!(bench.step(), Step::Rest);
    bench.link.connected(bench.now);
    assert_eq!(bench.step(), Step::Send);
}

#[test]
fn a_limit_reached_while_the_link_closes_does_not_change_the_reason() {
    let mut bench = Bench::open();
    bench.write(1);
    bench.close();
    bench.link.close_because(CloseReason::Panicked, bench.now);
    assert_eq!(bench.link.reason(), CloseReason::Closed);
}

#[test]
fn a_refused_client_has_until_then_to_choose_its_refusal_and_lingers_if_it_may() {
    for lingers in [true, false] {
        let mut bench = Bench::with(Origin::Refused);
        bench.link.await_first_bytes(Time(4 * SECOND), lingers);
        assert_eq!(bench.next_due(), Some((4, Due::Handler)));
        bench.link.send_refusal(&Bytes::from_static(b"full"), bench.now, &mut bench.pool);
        assert_eq!(bench.step(), Step::Send);
        bench.sent(4);
        bench.finished();
        assert_eq!(bench.step(), if lingers { Step::Rest } else { Step::Close });
    }
}

#[test]
fn after_a_stop_the_link_lingers_only_if_bytes_were_on_their_way_in_or_out() {
    let states: [(&str, bool, Change); 5] = [
        ("nothing", false, |_| {}),
        ("output", true, |bench| _ = bench.write(1)),
        ("kept input", true, |bench| bench.keep(b"x")),
        ("no kept input", false, |bench| bench.keep(b"")),
        ("closing", true, |bench| bench.close()),
    ];
    for (name, lingers, change) in states {
        let mut bench = Bench::open();
        change(&mut bench);
        bench.link.stop();
        bench.close();
        let queued = bench.link.queued();
        bench.sent(queued);
        bench.finished();
        assert_eq!(bench.link.describe(), if lingers { "lingering" } else { "over" }, "{name}");
    }
}

#[test]
fn a_refusal_leaves_in_full_at_any_size() {
    let mut bench = Bench::open();
    let refusal = Bytes::from(vec![b'x'; 2 * bench.limits.output_max]);
    bench.link.refuse(&refusal, true, bench.now, &mut bench.pool);
    assert_eq!((bench.link.queued(), bench.step()), (refusal.len(), Step::Send));
    bench.sent(refusal.len());
    bench.finished();
}
