//! A toy layer under simulated faults: a handshake, masked bytes, and an end that the layer authenticates.

use super::*;
use crate::sim::veil::{END, HELLO, MASK, Veil, WELCOME, veiled};

fn veiled_lines() -> Service<Lines> {
    lines().layered(|| Box::new(Veil::default()))
}

/// A peer after its handshake.
fn shaken() -> Script {
    Script::new().send(HELLO).expect(WELCOME)
}

/// The reasons of all ends.
fn reasons(report: &Report) -> Vec<CloseReason> {
    report.closed.iter().map(|(_, reason)| *reason).collect()
}

#[test]
fn a_layer_carries_lines_and_both_ends_whatever_the_seed() {
    each_seed(300, veiled_lines, |mut sim, address| {
        let pause = Duration::from_millis(20);
        let script = shaken().send(veiled("a\nb")).wait(pause).send(veiled("c\n")).expect(veiled("a\nbc\n"));
        let peer = sim.connect(&address, script.send([END]).shutdown().expect([END]).expect_end());
        // The handshake, the first request and the end in one piece.
        let all = [HELLO, &veiled("x\n"), &[END]].concat();
        let answer = [WELCOME, &veiled("x\n"), &[END]].concat();
        let hasty = sim.connect(&address, Script::new().send(all).shutdown().expect(answer).expect_end());
        let report = sim.run();
        assert_eq!(reasons(&report), [CloseReason::PeerEnded; 2]);
        assert!(peer.saw_end() && hasty.saw_end() && !peer.was_reset());
    });
}

#[test]
fn a_peer_that_reads_slowly_gets_all_of_it_through_a_layer_whatever_the_seed() {
    each_seed(20, veiled_lines, |mut sim, address| {
        let slow = shaken().reads(50_000, Duration::from_millis(100));
        let peer = sim.connect(&address, slow.send(veiled("big\n")).send([END]).shutdown());
        let report = sim.run();
        let received = peer.received();
        let text = &received[WELCOME.len()..];
        assert!(
            text.len() == (1 << 20) + 1 && text[..1 << 20].iter().all(|byte| *byte == b'x' ^ MASK),
            "{}",
            text.len()
        );
        assert_eq!((text[1 << 20], reasons(&report)), (END, vec![CloseReason::PeerEnded]));
    });
}

#[test]
fn the_end_of_the_stream_without_the_end_of_the_layer_is_a_reset_after_complete_lines() {
    each_seed(200, veiled_lines, |mut sim, address| {
        let cut = shaken().send(veiled("a\nb\nc")).expect(veiled("a\nb\n")).shutdown();
        sim.connect(&address, cut);
        assert_eq!(reasons(&sim.run()), [CloseReason::Reset]);
    });
}

#[test]
fn handshakes_that_fail_stall_or_end_are_heard_of_by_no_handler() {
    let strict =
        || veiled_lines().deadlines(Deadlines { handshake: Some(Duration::from_secs(2)), ..Default::default() });
    each_seed(200, strict, |mut sim, address| {
        for script in [
            Script::new().send("HEY, listen"),
            Script::new().send("HE"),
            Script::new(),
            Script::new().send("HEL").shutdown(),
            Script::new().send("H").reset(),
        ] {
            sim.connect(&address, script);
        }
        let served = sim.connect(&address, shaken().send(veiled("a\n")).expect(veiled("a\n")).send([END]).shutdown());
        let report = sim.run();
        assert_eq!((reasons(&report), served.saw_end()), (vec![CloseReason::PeerEnded], true));
    });
}

#[test]
fn a_layered_peer_that_does_not_read_is_timed_out_and_a_stop_ends_the_others() {
    let strict =
        || veiled_lines().deadlines(Deadlines { write_progress: Some(Duration::from_secs(3)), ..Default::default() });
    each_seed(50, strict, |mut sim, address| {
        sim.connect(&address, shaken().reads(0, Duration::ZERO).send(veiled("big\n")));
        let stays =
            sim.connect(&address, shaken().send(veiled("a\n")).expect(veiled("a\n")).expect([END]).expect_end());
        let report = sim.run();
        let mut reasons = reasons(&report);
        reasons.sort_by_key(|reason| *reason == CloseReason::Stopped);
        assert_eq!(reasons, [CloseReason::TimedOut(Deadline::WriteProgress), CloseReason::Stopped]);
        assert!(stays.saw_end());
    });
}

#[test]
fn a_layered_peer_that_is_silent_too_long_reads_the_end_of_the_layer_whatever_the_kernel_refuses() {
    let strict = || veiled_lines().deadlines(Deadlines { idle: Some(Duration::from_secs(2)), ..Default::default() });
    each_seed(300, strict, |mut sim, address| {
        let idle = shaken().send(veiled("a\n")).expect(veiled("a\n")).expect([END]).expect_end();
        let silent = sim.connect(&address, idle);
        assert_eq!(reasons(&sim.run()), [CloseReason::TimedOut(Deadline::Idle)]);
        assert!(silent.saw_end() && !silent.was_reset());
    });
}
