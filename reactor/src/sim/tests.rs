//! The simulator itself: the guarantees for its users, and some thousand seeds of the loop's own exercise.

mod layers;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::*;
use crate::buffer::Input;
use crate::context::Written;
use crate::limits::{Deadlines, Limits};
use crate::reason::Deadline;

/// Number of seeds of one test; four tests run side by side.
const SEEDS: u64 = 2500;

fn exercise_all(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        exercise(seed);
    }
}

#[test]
fn the_loop_keeps_its_promises_whatever_the_seed_a() {
    exercise_all(0..SEEDS);
}

#[test]
fn the_loop_keeps_its_promises_whatever_the_seed_b() {
    exercise_all(SEEDS..2 * SEEDS);
}

#[test]
fn the_loop_keeps_its_promises_whatever_the_seed_c() {
    exercise_all(2 * SEEDS..3 * SEEDS);
}

#[test]
fn the_loop_keeps_its_promises_whatever_the_seed_d() {
    exercise_all(3 * SEEDS..4 * SEEDS);
}

/// A stop came between a drained stream and its `on_drained`. The seed is valid while the exercise stays as it is:
/// another random draw changes every seed.
#[test]
fn what_was_found_once_stays_mended() {
    // The first four: a layer went on owing bytes to a broken socket, which is writable at once for ever; and a failure of the
    // layer's last words was told a turn later. 167,897 and 209,827: a check of the simulator itself, of a stop after the end of
    // the input. The last five: connections that stayed suspended or held memory, since the loop waited before it had compared
    // with the memory budget once more, or since the handler had closed them before their last words.
    for seed in
        [115_764, 220_968, 353_032, 649_294, 55_401, 167_897, 209_827, 107_216, 210_004, 236_798, 241_065, 267_020]
    {
        exercise(seed);
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..50 {
        let (one, other) = (exercise(seed), exercise(seed));
        assert_eq!((one.fingerprint, one.closed), (other.fingerprint, other.closed), "seed {seed}");
    }
}

/// Answers each line with the line itself, `big` with a megabyte, and `never` with nothing.
struct Lines;

impl Handler for Lines {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            match line {
                b"big\n" => drop(cx.write(vec![b'x'; 1 << 20])),
                b"never\n" => {}
                line => drop(cx.write(line)),
            }
        }
    }
}

fn each_seed(seeds: u64, service: impl Fn() -> Service<Lines>, test: impl Fn(Simulation, Address)) {
    for seed in 0..seeds {
        let mut sim = Simulation::new(seed);
        let address = sim.add_service(service()).unwrap().address().unwrap().clone();
        test(sim, address);
    }
}

fn lines() -> Service<Lines> {
    Service::tcp("127.0.0.1:0", || Lines)
}

#[test]
fn a_script_is_followed_and_its_expectations_are_met() {
    each_seed(200, lines, |mut sim, address| {
        let slow = Duration::from_millis(20);
        let script = Script::new().send("a\nb").wait(slow).send("c\n").expect("a\nbc\n").shutdown().expect_end();
        let peer = sim.connect(&address, script);
        let report = sim.run();
        assert_eq!(peer.received(), b"a\nbc\n");
        assert!(peer.saw_end() && !peer.was_reset());
        assert_eq!(report.closed.iter().map(|(_, reason)| *reason).collect::<Vec<_>>(), [CloseReason::PeerEnded]);
    });
}

#[test]
fn a_slow_reader_gets_all_of_it_in_its_own_time() {
    each_seed(20, lines, |mut sim, address| {
        let script = Script::new().reads(50_000, Duration::from_millis(100)).send("big\n").shutdown();
        let peer = sim.connect(&address, script);
        let report = sim.run();
        let received = peer.received();
        assert!(received.len() == 1 << 20 && received.iter().all(|byte| *byte == b'x'), "{}", received.len());
        assert!(report.elapsed > Duration::from_secs(2), "{:?}", report.elapsed);
    });
}

#[test]
fn one_who_does_not_read_is_timed_out() {
    let strict = || lines().deadlines(Deadlines { write_progress: Some(Duration::from_secs(3)), ..Default::default() });
    each_seed(50, strict, |mut sim, address| {
        sim.connect(&address, Script::new().reads(0, Duration::ZERO).send("big\n"));
        let report = sim.run();
        assert_eq!(report.closed[0].1, CloseReason::TimedOut(Deadline::WriteProgress));
    });
}

#[test]
fn a_reset_is_seen_and_so_is_a_door_that_is_none() {
    each_seed(50, lines, |mut sim, address| {
        let reset = sim.connect(&address, Script::new().send("a\n").expect("a\n").reset());
        let nowhere = sim.connect(&Address::Tcp(([127, 0, 0, 1], 1).into()), Script::new().send("a\n"));
        let report = sim.run();
        assert!(reset.was_reset() && nowhere.was_refused());
        assert_eq!(report.closed[0].1, CloseReason::Reset);
    });
}

#[test]
fn a_cap_refuses_those_who_are_too_many() {
    let small = || lines().limits(Limits { connections: Some(1), ..Limits::default() }).refusal("full\n");
    let mut sim = Simulation::with_faults(1, Faults::none());
    let address = sim.add_service(small()).unwrap().address().unwrap().clone();
    let stays = sim.connect(&address, Script::new().send("here\n").expect("here\n"));
    let late = Script::new().expect("full\n").expect_end();
    let late = sim.connect_after(Duration::from_secs(1), &address, late);
    sim.run();
    assert_eq!((stays.received(), late.received()), (b"here\n".to_vec(), b"full\n".to_vec()));
}

/// Sends each peer's input to a new connection to `far`, and drops the answers.
struct Caller {
    far: Address,
}

impl Handler for Caller {
    type Connection = bool;

    fn on_open(&mut self, _: &mut Context<'_, bool>) -> bool {
        false
    }

    fn on_data(&mut self, far: &mut bool, input: &mut Input<'_>, cx: &mut Context<'_, bool>) {
        if let (false, Some(said)) = (*far, input.take(5)) {
            let id = cx.connect(self.far.clone(), true);
            assert_ne!(cx.at(id).write(said), Written::Refused);
        }
    }
}

#[test]
fn a_remote_answers_as_it_was_told_to() {
    let far = Address::Tcp(([10, 1, 1, 1], 80).into());
    let mut sim = Simulation::with_faults(3, Faults::none());
    let to = far.clone();
    let caller = sim.add_service(Service::tcp("127.0.0.1:0", move || Caller { far: to.clone() })).unwrap();
    sim.remote(far, || Some(Script::new().expect("hello").send("bye").shutdown()));
    sim.connect(caller.address().unwrap(), Script::new().send("hello").wait(Duration::from_secs(1)).shutdown());
    let report = sim.run();
    assert_eq!(report.closed.len(), 2);
    assert!(report.closed.iter().all(|(_, reason)| *reason == CloseReason::PeerEnded), "{:?}", report.closed);
}

#[test]
fn a_descriptor_that_is_freed_lets_in_who_waits_before_the_listener_has_rested() {
    for seed in 0..50 {
        // The listener's descriptor, and two more.
        let mut sim = Simulation::with_faults(seed, Faults { descriptors: 3, ..Faults::none() });
        let address = sim.add_service(lines()).unwrap().address().unwrap().clone();
        let (short, long) = (Duration::from_millis(10), Duration::from_millis(300));
        for _ in 0..2 {
            sim.connect(&address, Script::new().send("a\n").expect("a\n").wait(long).shutdown().expect_end());
        }
        let waits = sim.connect_after(short, &address, Script::new().send("b\n").expect("b\n").shutdown().expect_end());
        let report = sim.run();
        assert_eq!(waits.received(), b"b\n");
        assert!(report.elapsed > long && report.elapsed < 2 * long, "seed {seed}: {:?}", report.elapsed);
    }
}

#[test]
#[should_panic(expected = "seed 5: peer 0 expected \"never\\n\" and got \"\" and the end")]
fn an_answer_that_never_comes_is_told_with_the_seed() {
    let mut sim = Simulation::with_faults(5, Faults::none());
    let address = sim.add_service(lines()).unwrap().address().unwrap().clone();
    sim.connect(&address, Script::new().send("never\n").expect("never\n"));
    sim.run();
}

#[test]
#[should_panic(expected = "seed 5: peer 0 expected \"b\\n\" and got \"a\\n\"")]
fn a_wrong_answer_is_told_with_the_seed() {
    let mut sim = Simulation::with_faults(5, Faults::none());
    let address = sim.add_service(lines()).unwrap().address().unwrap().clone();
    sim.connect(&address, Script::new().send("a\n").expect("b\n"));
    sim.run();
}

/// Does an action three times, an hour apart and without a connection; then waits for a century.
#[derive(Default)]
struct Alarm {
    rung: Vec<Duration>,
}

const AGAIN: u64 = 1;
const CANCELLED: u64 = 2;
const NEVER: u64 = 3;

impl Handler for Alarm {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        cx.timers().set(CANCELLED, Duration::from_secs(1));
        cx.timers().set(AGAIN, Duration::from_secs(3600));
    }

    fn on_open(&mut self, _: &mut Context<'_>) {
        panic!("a timer is no connection");
    }

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_>) {}

    fn on_timer(&mut self, key: u64, cx: &mut Context<'_>) {
        assert_eq!((key, cx.write("x"), cx.connections().len()), (AGAIN, Written::Refused, 0));
        self.rung.push(cx.now());
        if self.rung.len() < 3 {
            return cx.timers().set(AGAIN, Duration::from_secs(3600));
        }
        let hours: Vec<_> = self.rung.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(hours.iter().all(|hour| *hour >= Duration::from_secs(3600)), "{hours:?}");
        cx.timers().set(NEVER, Duration::from_secs(100 * 365 * 86_400));
        cx.halt();
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, (): (), cx: &mut Context<'_>) {
        assert!(cx.timers().cancel(CANCELLED));
    }
}

#[test]
fn a_timer_needs_no_connection_and_is_cancelled_or_ends_with_the_application() {
    for seed in 0..SEEDS {
        let mut sim = Simulation::new(seed);
        let handle = sim.add_service(Service::outbound(Alarm::default)).unwrap();
        handle.post(ConnectionId::NONE, ()).unwrap();
        // Otherwise the simulation would end when no peer has anything left to do.
        sim.halt_after(Duration::from_secs(86_400));
        let report = sim.run();
        assert!(report.closed.is_empty(), "seed {seed}: {:?}", report.closed);
        assert!(report.elapsed < Duration::from_secs(3 * 3600 + 60), "seed {seed}: {:?}", report.elapsed);
    }
}

/// Answers `n` with as many dots.
fn dots(bytes: &[u8]) -> Option<(usize, Script)> {
    let length = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let count: usize = std::str::from_utf8(&bytes[..length - 1]).unwrap().parse().unwrap();
    Some((length, Script::new().send(".".repeat(count) + "\n").react(dots)))
}

/// Connects to a server of dots for each peer, asks for 3, 1 and 2 of them, and tells the peer what came.
struct Asking;

impl Handler for Asking {
    type Connection = ConnectionId;

    fn on_open(&mut self, cx: &mut Context<'_, ConnectionId>) -> ConnectionId {
        let peer = cx.id();
        let server: Address = "10.9.9.9:7".parse().unwrap();
        let server = cx.connect(server, peer);
        cx.at(server).write(b"3\n1\n2\n");
        server
    }

    fn on_data(&mut self, other: &mut ConnectionId, input: &mut Input<'_>, cx: &mut Context<'_, ConnectionId>) {
        cx.at(*other).write(input.take_all());
    }
}

#[test]
fn a_peer_reacts_to_each_item_that_it_receives_however_it_arrives() {
    for seed in 0..200 {
        let mut sim = Simulation::with_faults(seed, Faults::none());
        let asking = sim.add_service(Service::tcp("127.0.0.1:0", || Asking)).unwrap();
        sim.remote("10.9.9.9:7".parse().unwrap(), || Some(Script::new().react(dots)));
        let peer = sim.connect(asking.address().unwrap(), Script::new().expect("...\n.\n..\n").reset());
        sim.run();
        assert_eq!(peer.received(), b"...\n.\n..\n");
    }
}

#[test]
fn the_trace_tells_callbacks_with_their_connection_and_their_bytes() {
    let mut sim = Simulation::with_faults(1, Faults::none());
    let echo = sim.add_service(Service::tcp("127.0.0.1:0", || Lines)).unwrap();
    let script = Script::new().send("a line of twenty-one\n").expect("a line of twenty-one\n").close();
    sim.connect(echo.address().unwrap(), script);
    let report = sim.run();
    let id = report.closed[0].0;
    let told = |words: String| report.trace.iter().any(|line| line.ends_with(&words));
    assert!(told(format!("  {id} on_open")), "{:#?}", report.trace);
    assert!(told(format!("  {id} on_data 21 bytes")), "{:#?}", report.trace);
    assert!(told(format!("  {id} on_close peer ended")), "{:#?}", report.trace);
}

/// Connects to a name, and echoes what the server says.
struct ByName(Arc<Mutex<Vec<String>>>);

impl Handler for ByName {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        for name in ["server:80", "nobody:80"] {
            cx.connect_to(name, ());
        }
    }

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        cx.write(input.take_all());
    }

    fn on_close(&mut self, _: (), reason: CloseReason, cx: &mut Context<'_>) {
        let id = cx.id();
        let said = cx.at(id).connect_error().map_or(reason.to_string(), |error| error.to_string());
        self.0.lock().unwrap().push(said);
    }
}

#[test]
fn a_handler_connects_by_name_and_goes_on_to_the_next_address() {
    for seed in 0..200 {
        let mut sim =
            Simulation::with_faults(seed, Faults { no_descriptors: 0.0, descriptors: usize::MAX, ..Faults::of(seed) });
        let said = Arc::<Mutex<Vec<String>>>::default();
        let tell = said.clone();
        let _ = sim.add_service(Service::outbound(move || ByName(tell.clone()))).unwrap();
        let address = |number: u8| Address::Tcp(([10, 0, 0, number], 80).into());
        // The first refuses, the second is silent.
        sim.name("server:80", [1, 2, 3].map(address).to_vec());
        sim.remote(address(2), || None);
        sim.remote(address(3), || Some(Script::new().send("hello").expect("hello").shutdown().expect_end()));
        sim.run();
        let mut said = said.lock().unwrap().clone();
        said.sort();
        assert_eq!(said, ["nobody:80: entity not found", "peer ended"], "seed {seed}");
    }
}

thread_local! {
    static PANICS_ARE_MEANT: Cell<bool> = const { Cell::new(false) };
}

/// Whether `run` panics. The panic prints nothing: the backtraces of a thousand panics take longer than all else.
pub(super) fn fails<R>(run: impl FnOnce() -> R) -> bool {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |panic| {
            if !PANICS_ARE_MEANT.get() {
                loud(panic);
            }
        }));
    });
    PANICS_ARE_MEANT.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    PANICS_ARE_MEANT.set(false);
    outcome.is_err()
}
