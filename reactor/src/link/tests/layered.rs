//! A connection with a layer: the handshake, the layer's last bytes, and failures.

use super::*;
use crate::sys::errno;

impl Bench {
    fn in_handshake() -> Self {
        let mut bench = Bench::open();
        bench.link.begin(Fd(9), true);
        bench
    }

    fn layered() -> Self {
        let mut bench = Bench::in_handshake();
        bench.link.connected(bench.now);
        bench
    }

    fn hears(&mut self, event: LayerEvent) {
        self.link.layer_reported(event, self.now);
    }
}

#[test]
fn at_a_stop_a_handshake_that_the_peer_has_begun_goes_on_and_a_silent_peer_is_closed() {
    let mut silent = Bench::in_handshake();
    silent.link.stop();
    assert_eq!(silent.step(), Step::Probe);
    silent.link.nothing_arrived();
    assert_eq!(silent.closes(), CloseReason::Stopped);

    let mut late = Bench::in_handshake();
    late.link.stop();
    assert_eq!(late.step(), Step::Probe);
    late.hears(LayerEvent::Something);
    assert_eq!(late.step(), Step::Rest, "the bytes answer the probe");

    let mut begun = Bench::in_handshake();
    begun.hears(LayerEvent::Something);
    begun.link.stop();
    assert_eq!(begun.step(), Step::Probe);
    begun.link.nothing_arrived();
    assert_eq!(begun.step(), Step::Rest);
}

#[test]
fn bytes_without_plaintext_answer_the_probe_of_a_stop_and_another_follows() {
    let mut bench = Bench::layered();
    bench.hears(LayerEvent::Something);
    assert_eq!(bench.step(), Step::Rest, "outside a stop nobody has asked");
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.hears(LayerEvent::Something);
    assert_eq!(bench.step(), Step::Probe);
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.hears(LayerEvent::Something);
    assert_eq!(bench.step(), Step::Rest, "told once");
}

#[test]
fn the_last_words_of_a_layer_leave_before_fin() {
    let mut bench = Bench::layered();
    bench.close();
    assert_eq!(bench.step(), Step::Goodbye);
    bench.link.said_goodbye(true);
    assert!(bench.link.is_blocked() && bench.link.take_deadline_change(bench.now, || 0));
    assert_eq!(bench.step(), Step::Rest);
    bench.sent(0);
    assert!(!bench.link.is_blocked());
    bench.finished();

    let mut bench = Bench::layered();
    bench.link.finish();
    assert_eq!(bench.step(), Step::Goodbye);
    bench.link.said_goodbye(false);
    assert_eq!(bench.step(), Step::Finish);
}

#[test]
fn the_last_words_of_a_layer_leave_although_the_kernel_refuses_them_when_a_link_ends_by_itself() {
    type Ending = fn(&mut Bench);
    let endings: [(Ending, CloseReason); 3] = [
        (|bench| _ = bench.link.due(Due::Loop(Deadline::Idle), bench.now, 0), CloseReason::TimedOut(Deadline::Idle)),
        (
            |bench| assert!(bench.link.due(Due::Loop(Deadline::FirstRequest), bench.now, 0).is_some()),
            CloseReason::TimedOut(Deadline::FirstRequest),
        ),
        (|bench| bench.link.input_overflowed(7, bench.now), CloseReason::InputOverflow { limit: 7 }),
    ];
    for (end, reason) in endings {
        let mut bench = Bench::layered();
        end(&mut bench);
        assert_eq!(bench.step(), Step::Goodbye, "{reason}");
        bench.link.said_goodbye(true);
        assert_eq!(bench.step(), Step::Rest, "{reason}");
        assert!(bench.link.take_deadline_change(bench.now, || 0), "the wait is bounded");
        bench.sent(0);
        bench.finished();
        assert_eq!(bench.closes(), reason);

        let mut bench = Bench::layered();
        end(&mut bench);
        assert_eq!(bench.step(), Step::Goodbye, "{reason}");
        bench.link.said_goodbye(true);
        assert!(bench.link.due(Due::Loop(Deadline::Linger), Time(60 * SECOND), 0).is_some());
        assert_eq!(bench.closes(), reason, "the first reason stays");

        let mut plain = Bench::open();
        end(&mut plain);
        assert_eq!(plain.closes(), reason);
    }
}

#[test]
fn what_a_layer_owes_is_owed_at_the_linger_deadline_although_the_queue_is_empty() {
    let mut bench = Bench::layered();
    bench.close();
    assert_eq!(bench.step(), Step::Goodbye);
    bench.link.said_goodbye(true);
    assert!(bench.link.due(Due::Loop(Deadline::Linger), Time(60 * SECOND), 0).is_some());
    assert_eq!(bench.closes(), CloseReason::TimedOut(Deadline::Linger));
}

#[test]
fn a_layer_that_fails_lingers_so_that_its_alert_is_read() {
    for (mut bench, reason) in
        [(Bench::in_handshake(), CloseReason::Handshake), (Bench::layered(), CloseReason::Failed(errno::PROTOCOL))]
    {
        bench.hears(LayerEvent::Failed);
        assert_eq!((bench.link.describe(), bench.link.reason()), ("lingering", reason));
        assert!(bench.link.take_deadline_change(bench.now, || 0));
        bench.hears(LayerEvent::Failed);
        assert_eq!(bench.closes(), reason, "the first reason stays");
    }
}

#[test]
fn a_stream_without_its_authenticated_end_is_a_reset_unless_the_link_is_closing() {
    let mut handshake = Bench::in_handshake();
    handshake.hears(LayerEvent::Truncated);
    assert_eq!(handshake.closes(), CloseReason::Handshake);

    let mut open = Bench::layered();
    open.hears(LayerEvent::Truncated);
    assert_eq!(open.closes(), CloseReason::Reset);

    let mut closing = Bench::layered();
    closing.close();
    closing.hears(LayerEvent::Truncated);
    assert_eq!(closing.step(), Step::Goodbye);
    assert_eq!(closing.link.reason(), CloseReason::Closed);
}

#[test]
fn only_a_handshake_that_a_client_began_is_bounded_as_one() {
    for (origin, due) in [
        (Origin::Accepted, Deadline::Handshake),
        (Origin::Adopted, Deadline::Handshake),
        (Origin::Outbound, Deadline::Connect),
    ] {
        let mut bench = Bench::with(origin);
        bench.link.begin_handshake();
        (bench.deadlines.handshake, bench.deadlines.connect) =
            (Some(Duration::from_secs(3)), Some(Duration::from_secs(5)));
        let seconds = if due == Deadline::Handshake { 4 } else { 6 };
        assert_eq!(bench.next_due(), Some((seconds, Due::Loop(due))));
        bench.link.set_deadline(Some(Duration::from_secs(1)));
        bench.anchored(0);
        // No handler knows an accepted connection yet.
        let expected = if origin == Origin::Accepted { (4, Due::Loop(due)) } else { (2, Due::Handler) };
        assert_eq!(bench.next_due(), Some(expected));
    }
}
