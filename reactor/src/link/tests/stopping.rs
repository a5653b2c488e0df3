//! The stop of the application.

use super::*;

#[test]
fn a_peer_that_speaks_while_its_last_acknowledgement_is_awaited_has_its_next_look_in_time() {
    let mut bench = Bench::open();
    bench.deadlines.linger = Duration::from_millis(60);
    bench.write(5000);
    assert_eq!(bench.step(), Step::Send);
    bench.sent(5000);
    bench.link.stop();
    bench.link.close(bench.now);
    bench.anchored(4000);
    assert_eq!(bench.step(), Step::Finish);
    bench.link.finished(bench.now, || 4000);
    bench.anchored(4000);
    let before = bench.link.next_due(&bench.deadlines).map(|(at, _)| at);
    assert!(!bench.received(10));
    assert!(bench.link.next_due(&bench.deadlines).map(|(at, _)| at) < before, "it lingers with looks as usual");
    assert!(bench.link.take_deadline_change(bench.now, || 4000), "the timer has to move");
}

#[test]
fn stopping_reads_what_has_arrived_before_the_handler_is_told() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    assert_eq!(bench.step(), Step::Rest, "until the driver has looked");
    assert!(bench.received(10));
    assert_eq!(bench.step(), Step::Probe, "there may be more");
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.close();
    bench.finished();
    assert_eq!(bench.step(), Step::Rest, "it was answered, so it is lingered for");
}

#[test]
fn stopping_is_told_to_a_handler_that_goes_on_after_the_end_of_the_input_which_the_driver_found_when_it_looked() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.link.end_of_input();
    assert_eq!((bench.step(), bench.step()), (Step::EndOfInput, Step::Stopping));
}

#[test]
fn stopping_tells_a_stream_that_fills_up_by_itself_instead_of_waiting_for_its_end() {
    let mut bench = Bench::open();
    let mut told = false;
    bench.link.stop();
    for turn in 1..4 {
        bench.turn = turn;
        bench.write(bench.limits.output_high + 1);
        assert_eq!(bench.step(), Step::Send);
        let owed = bench.link.queued();
        bench.sent(owed);
        told |= bench.step() == Step::Stopping;
    }
    assert!(told);
}

#[test]
fn stopping_answers_kept_requests_however_often_the_output_fills_up() {
    let mut bench = Bench::open();
    bench.link.stop();
    for turn in 1..10 {
        bench.turn = turn;
        bench.keep(b"another request");
        bench.write(bench.limits.output_high + 1);
        assert_eq!(bench.step(), Step::Send);
        let owed = bench.link.queued();
        bench.sent(owed);
        assert_eq!((bench.step(), bench.step()), (Step::Drained, Step::Deliver));
    }
}

#[test]
fn stopping_closes_at_once_who_is_owed_nothing() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.close();
    bench.finished();
    assert_eq!(bench.closes(), CloseReason::Stopped);
}

#[test]
fn stopping_lingers_for_who_has_not_taken_what_the_kernel_has() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.close();
    assert_eq!(bench.step(), Step::Finish);
    bench.link.finished(bench.now, || 1000);
    assert_eq!(bench.step(), Step::Rest);
    // The link is over when a look finds all but the FIN acknowledged.
    bench.pass(3, 1000);
    assert_eq!(bench.step(), Step::Rest);
    let acknowledged = bench.now;
    bench.pass(4, 1);
    assert!(bench.now.since(acknowledged) <= Duration::from_millis(100));
    assert_eq!(bench.closes(), CloseReason::Stopped);
}

#[test]
fn stopping_lingers_to_the_deadline_for_who_speaks_meanwhile() {
    let mut bench = Bench::open();
    bench.link.stop();
    assert_eq!(bench.step(), Step::Probe);
    bench.link.nothing_arrived();
    assert_eq!(bench.step(), Step::Stopping);
    bench.close();
    assert_eq!(bench.step(), Step::Finish);
    bench.link.finished(bench.now, || 1000);
    bench.received(10);
    bench.pass(3600, 0);
    assert_eq!(bench.now, Time(6 * SECOND));
}
