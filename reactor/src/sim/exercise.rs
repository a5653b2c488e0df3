//! The loop's own exercise: a handler that acts at random, and peers that do, too.

mod checks;
mod whim;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::veil::{Veil, through_a_layer};
use super::{Faults, Peer, Report, Script, Simulation};
use crate::address::Address;
use crate::limits::{Deadlines, Limits, SlowPolicy};
use crate::random::Random;
use crate::service::Service;
use crate::sys::simulated::Remote;
use crate::topics::Topic;
use checks::{Checks, Trial};
use whim::{Temper, Whim};

/// Runs one random service with random limits against random peers, under all faults. The reactor's own test of itself.
///
/// ```
/// let report = reactor::sim::exercise(7);
/// assert_eq!(report.fingerprint, reactor::sim::exercise(7).fingerprint);
/// ```
///
/// # Panics
/// If any check fails.
pub fn exercise(seed: u64) -> Report {
    exercise_with(seed, Simulation::run)
}

/// As [`exercise`], with another way to run the simulation.
pub(super) fn exercise_with(seed: u64, run: impl FnOnce(Simulation) -> Report) -> Report {
    let (sim, trial) = prepare(seed);
    let (network, books) = (sim.network.clone(), sim.books.clone());
    let report = run(sim);
    let checks = Checks { network, books, trial };
    checks.output();
    report
}

/// A random script of a peer.
fn whims_of_a_peer(random: &mut Random) -> Script {
    let mut script = Script::new();
    let most = random.size(200_000);
    let span = |random: &mut Random| random.span(Duration::from_secs(2));
    for _ in 0..random.size(12) {
        script = match random.below(10) {
            0..=4 => {
                let bytes: Vec<u8> = (0..random.size(most)).map(|_| random.next() as u8).collect();
                script.send(bytes)
            }
            5 | 6 => script.wait(span(random)),
            7 => script.receive(random.size(most)),
            8 => script.reads(random.size(100_000), random.span(Duration::from_millis(50))),
            _ if random.chance(0.3) => script.reads(0, Duration::ZERO),
            _ => script.reads(usize::MAX, Duration::ZERO),
        };
    }
    match random.below(8) {
        0 => script,
        1 => script.reset(),
        2 => script.close(),
        3 => script.shutdown(),
        _ => script.reads(usize::MAX, Duration::ZERO).shutdown(),
    }
}

fn prepare(seed: u64) -> (Simulation, Arc<Trial>) {
    let mut sim = Simulation::with_faults(seed, Faults::any(seed));
    let mut random = Random::new(seed ^ 0x000E_8E2C_15E5);
    let trial = Arc::<Trial>::default();
    let mut addresses = Vec::new();
    let remotes: Vec<Address> = (1..4).map(|port| Address::Tcp(([10, 9, 9, 9], port).into())).collect();
    let mut answers = random.clone();
    let answering = move || match answers.below(6) {
        0 => Remote::Silent,
        1 => Remote::Refuses,
        _ => Remote::Answers(whims_of_a_peer(&mut answers).acts),
    };
    sim.network.borrow_mut().remotes.insert(remotes[0].clone(), Box::new(answering));
    let mut answers = Random::new(seed ^ 1);
    let answering = move || Remote::Answers(whims_of_a_peer(&mut answers).acts);
    sim.network.borrow_mut().remotes.insert(remotes[1].clone(), Box::new(answering));
    // Separate random numbers, so that a seed makes the same service and the same peers with layers and without.
    let mut veils = Random::new(seed ^ 0x7E11);
    for number in 0..random.within(1..3) {
        let temper = Temper {
            most: random.size(100_000),
            drastic: random.below(2) * random.below(20),
            pauses: random.chance(0.5),
            meddles: random.chance(0.1),
            publishes: random.chance(0.4),
            talk: random.size(30) as u64,
            connects: random.chance(0.4),
            panics: random.chance(0.3),
            lingers: random.chance(0.4),
        };
        let high = random.size(100_000);
        let limits = Limits {
            connections: random.chance(0.2).then(|| random.index(6)),
            input: random.size(100_000),
            output_high: high,
            output_low: random.index(high),
            output_max: high + random.size(1_000_000),
            linger_bytes: random.size(1_000_000) as u64,
            refused_lingering: random.index(3),
            unsent: random.size(100_000),
            backlog: random.size(64) as u32,
            member_queue: if random.chance(0.5) { random.size(2_000) } else { random.size(200_000) },
            slow_members: [SlowPolicy::Disconnect, SlowPolicy::DropOldest, SlowPolicy::DropNewest][random.index(3)],
        };
        let some = |random: &mut Random| random.chance(0.6).then(|| random.span(Duration::from_secs(40)));
        let deadlines = Deadlines {
            first_request: some(&mut random),
            idle: some(&mut random),
            write_progress: some(&mut random),
            linger: random.span(Duration::from_secs(8)),
            connect: Some(random.span(Duration::from_secs(40))),
            ..Deadlines::default()
        };
        let (own, seen, remotes) = (random.next(), trial.clone(), remotes.clone());
        let make = move || Whim {
            random: Random::new(own),
            temper,
            trial: seen.clone(),
            others: Vec::new(),
            remotes: remotes.clone(),
            connects_left: 20,
            topic: Topic::new("all"),
        };
        let service = Service::at(vec![Address::Tcp(([127, 0, 0, 1], 0).into())], make)
            .named(format!("whim {number}"))
            .limits(limits)
            .deadlines(deadlines);
        let service = if random.chance(0.3) { service.client_speaks_first(Duration::from_secs(1)) } else { service };
        let service = match random.index(4) {
            0 | 1 => service.refusal("full\r\n"),
            2 => {
                let (patience, enough) = (random.span(Duration::from_secs(4)), random.size(10_000));
                service
                    .refusal_by(patience, move |first| (first.len() >= enough).then_some(Bytes::from_static(b"full")))
            }
            _ => service,
        };
        let layered = veils.chance(0.25);
        let service = if layered { service.layered(|| Box::new(Veil::default())) } else { service };
        let handle = sim.add_service(service).unwrap_or_else(|error| panic!("{error}"));
        addresses.extend(handle.addresses().iter().map(|address| (address.clone(), layered)));
    }
    if random.chance(0.4) {
        sim.memory(random.size(300_000));
    }
    if random.chance(0.2) {
        sim.descriptors = 1 + random.index(6);
    }
    sim.drain_timeout(random.span(Duration::from_secs(30)));
    if random.chance(0.3) {
        sim.halt_after(random.span(Duration::from_secs(5)));
    }
    if random.chance(0.1) {
        sim.add_loop(Duration::from_millis(1 + random.below(1000)), |_| {});
    }
    let hurry = random.span(Duration::from_secs(5)).as_nanos() as u64;
    let peers = if random.chance(0.5) { 1 + random.index(40) } else { random.size(8) };
    for _ in 0..peers {
        let (to, layered) = &addresses[random.index(addresses.len())];
        let after = Duration::from_nanos(random.below(hurry));
        let script = whims_of_a_peer(&mut random);
        let script = if *layered { through_a_layer(script, &mut veils) } else { script };
        let _: Peer = sim.connect_after(after, to, script);
    }
    (sim, trial)
}
