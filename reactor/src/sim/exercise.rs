//! The loop's own exercise: a handler that does anything at any time, and peers that do too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{Faults, Peer, Report, Script, Simulation};
use crate::address::Address;
use crate::buffer::Input;
use crate::context::{Context, Written};
use crate::handler::Handler;
use crate::limits::{Deadlines, Limits, SlowPolicy};
use crate::random::{Random, mixed};
use crate::reason::CloseReason;
use crate::service::Service;
use crate::sys::simulated::Remote;
use crate::token::ConnectionId;
use crate::topics::Topic;

/// Runs one random service with random limits against random peers, under all the
/// faults that there are.
///
/// # Panics
/// When anything is not as it has to be.
pub fn exercise(seed: u64) -> Report {
    exercise_with(seed, Simulation::run)
}

/// The same, run like this.
pub(super) fn exercise_with(seed: u64, run: impl FnOnce(Simulation) -> Report) -> Report {
    let (sim, trial) = prepare(seed);
    let (network, books) = (sim.network.clone(), sim.books.clone());
    let report = run(sim);
    let checks = Checks { network, books, trial };
    checks.output();
    report
}

/// Bytes that show where one is missing, doubled or in the wrong place.
fn pattern(id: ConnectionId, at: usize) -> u8 {
    mixed(id.to_bits() ^ (at as u64 / 8).wrapping_mul(0x9E37_79B9)).to_le_bytes()[at % 8]
}

/// What a handler has told the loop, and heard of it, about one connection.
#[derive(Default)]
struct Told {
    /// What was written to it and not refused, and what was published while it was a member.
    written: Vec<Part>,
    /// Bytes of its own in that, which make a pattern.
    own: usize,
    /// What was written where messages were missed, in order.
    notices: Vec<Vec<u8>>,
    /// Some of them were published: whether it took the last ones nobody said.
    published: bool,
    member: bool,
    reason: Option<CloseReason>,
    deadline: Option<Duration>,
}

/// Bytes that leave whole, or, if they were published, not at all.
struct Part {
    bytes: Vec<u8>,
    message: bool,
}

#[derive(Default)]
struct Trial {
    told: Mutex<HashMap<ConnectionId, Told>>,
}

impl Trial {
    fn told(&self) -> MutexGuard<'_, HashMap<ConnectionId, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How wild a service is, by what it may do.
#[derive(Clone, Copy)]
struct Temper {
    /// Sizes that it writes.
    most: usize,
    /// Of a hundred callbacks, those that do something drastic.
    drastic: u64,
    pauses: bool,
    /// Pauses and resumes others at every turn.
    meddles: bool,
    publishes: bool,
    /// Messages at once.
    talk: u64,
    connects: bool,
    panics: bool,
    lingers: bool,
}

/// A handler that does anything.
struct Whim {
    random: Random,
    temper: Temper,
    trial: Arc<Trial>,
    others: Vec<ConnectionId>,
    remotes: Vec<Address>,
    connects_left: u32,
    topic: Topic,
}

/// A panic that says nothing, since it is meant.
struct Meant;

impl Whim {
    fn write(&mut self, to: ConnectionId, count: usize, shared: bool, cx: &mut Context<'_>) {
        let mut told = self.trial.told();
        let Some(told) = told.get_mut(&to).filter(|told| told.reason.is_none()) else { return };
        let at = told.own;
        let bytes: Vec<u8> = (at..at + count).map(|at| pattern(to, at)).collect();
        let outcome = match (to == cx.id(), shared) {
            (true, false) => cx.write(&bytes),
            (true, true) => cx.write_shared(Bytes::from(bytes.clone())),
            (false, false) => cx.write_to(to, &bytes),
            (false, true) => cx.write_shared_to(to, Bytes::from(bytes.clone())),
        };
        if outcome != Written::Refused {
            told.own += count;
            told.written.push(Part { bytes, message: false });
        }
    }

    fn publish(&mut self, cx: &mut Context<'_>) {
        let count = self.random.size(self.temper.most.min(20_000));
        let bytes: Vec<u8> = (0..count).map(|_| self.random.next() as u8).collect();
        let but = match self.random.below(3) {
            0 => {
                cx.publish_to_others(&self.topic, &bytes);
                cx.id()
            }
            1 => {
                cx.publish_shared(&self.topic, &Bytes::from(bytes.clone()));
                ConnectionId::NONE
            }
            _ => {
                cx.publish(&self.topic, &bytes);
                ConnectionId::NONE
            }
        };
        let mut told = self.trial.told();
        for (_, told) in told.iter_mut().filter(|(id, told)| told.member && told.reason.is_none() && **id != but) {
            told.published = true;
            // What has no bytes is not missed by anybody.
            if !bytes.is_empty() {
                told.written.push(Part { bytes: bytes.clone(), message: true });
            }
        }
    }

    fn other(&mut self) -> ConnectionId {
        if self.others.is_empty() {
            return ConnectionId::NONE;
        }
        self.others[self.random.index(self.others.len())]
    }

    fn set_deadline(&mut self, id: ConnectionId, cx: &mut Context<'_>) {
        let after = Duration::from_nanos(self.random.size(3_000_000_000) as u64);
        let mut told = self.trial.told();
        if let Some(told) = told.get_mut(&id) {
            told.deadline = Some(cx.now() + after);
            cx.set_deadline_id(id, after);
        }
    }

    /// What any callback may do besides its own business.
    fn whim(&mut self, cx: &mut Context<'_>) {
        if self.temper.meddles {
            let (one, other) = (self.other(), self.other());
            cx.pause_reading_id(one);
            self.set_deadline(one, cx);
            cx.resume_reading_id(other);
        }
        for _ in 0..self.random.below(3) {
            let (id, other) = (cx.id(), self.other());
            match self.random.below(13) {
                0..=3 => {
                    let (count, shared) = (self.random.size(self.temper.most), self.random.chance(0.3));
                    self.write(id, count, shared, cx);
                }
                4 => {
                    let (count, shared) = (self.random.size(self.temper.most), self.random.chance(0.3));
                    self.write(other, count, shared, cx);
                }
                5 if self.temper.pauses && id != ConnectionId::NONE => {
                    cx.pause_reading();
                    self.set_deadline(cx.id(), cx);
                }
                6 if self.temper.pauses => cx.resume_reading(),
                7 if self.temper.pauses && self.random.chance(0.5) => cx.resume_reading_id(other),
                7 if self.temper.pauses => {
                    cx.pause_reading_id(other);
                    self.set_deadline(other, cx);
                }
                8 if self.temper.connects && self.connects_left > 0 => {
                    self.connects_left -= 1;
                    let to = self.remotes[self.random.index(self.remotes.len())].clone();
                    let id = cx.connect(to, ());
                    self.trial.told().insert(id, Told::default());
                    self.others.push(id);
                    if self.random.chance(0.5) {
                        let count = self.random.size(self.temper.most);
                        self.write(id, count, false, cx);
                    }
                }
                9 if id != ConnectionId::NONE => self.set_deadline(cx.id(), cx),
                10 => match self.random.below(4) {
                    0 => cx.wait_for_output(),
                    1 => cx.wait_for_output_id(other),
                    2 => cx.read_on_id(other),
                    _ => cx.offer_again(),
                },
                12 if self.temper.publishes => (0..=self.random.below(self.temper.talk)).for_each(|_| self.publish(cx)),
                11 => {
                    let handle = cx.service_handle::<()>();
                    let _ = handle.post(other, ());
                }
                _ => {}
            }
        }
        if self.random.below(100) < self.temper.drastic {
            let other = self.other();
            match self.random.below(9) {
                0 | 1 => cx.close(),
                2 => cx.close_id(other),
                3 => cx.abort(),
                4 => cx.abort_id(other),
                5 => cx.finish(),
                6 => cx.finish_id(other),
                7 if self.temper.panics => std::panic::resume_unwind(Box::new(Meant)),
                8 if self.random.chance(0.1) => cx.halt(),
                _ => {}
            }
        }
    }
}

impl Handler for Whim {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        self.whim(cx);
    }

    fn on_open(&mut self, cx: &mut Context<'_>) {
        self.trial.told().insert(cx.id(), Told::default());
        self.others.push(cx.id());
        if self.others.len() > 8 {
            self.others.remove(0);
        }
        if self.temper.publishes && self.random.chance(0.7) {
            let member = cx.subscribe(&self.topic);
            if let Some(told) = self.trial.told().get_mut(&cx.id()) {
                told.member = member;
            }
        }
        self.whim(cx);
    }

    fn on_connected(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.whim(cx);
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        match self.random.below(8) {
            0 => {}
            1 | 2 => input.consume(self.random.index(input.len() + 1)),
            _ => input.consume(input.len()),
        }
        self.whim(cx);
    }

    fn on_end_of_input(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        input.consume(self.random.index(input.len() + 1));
        self.whim(cx);
        if self.temper.lingers && self.random.chance(0.3) {
            self.set_deadline(cx.id(), cx);
        } else {
            cx.close();
        }
    }

    fn on_drained(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.whim(cx);
    }

    fn on_missed(&mut self, _: &mut (), _: u64, cx: &mut Context<'_>) {
        if self.random.chance(0.1) {
            self.publish(cx);
        }
        let notice: Vec<u8> = (0..self.random.below(60)).map(|_| self.random.next() as u8).collect();
        let halves = notice.split_at(notice.len() / 2);
        let taken = [halves.0, halves.1].into_iter().take_while(|half| cx.write(half) != Written::Refused);
        let taken = taken.collect::<Vec<_>>().concat();
        if let Some(told) = self.trial.told().get_mut(&cx.id()) {
            told.notices.push(taken);
        }
    }

    fn on_too_slow(&mut self, _: &mut (), cx: &mut Context<'_>) {
        let count = self.random.size(100);
        self.write(cx.id(), count, false, cx);
    }

    fn on_deadline(&mut self, _: &mut (), cx: &mut Context<'_>) {
        let mut told = self.trial.told();
        if let Some(due) = told.get_mut(&cx.id()).and_then(|told| told.deadline.take()) {
            assert!(cx.now() >= due, "a deadline comes {:?} early", due - cx.now());
        }
        drop(told);
        self.whim(cx);
        if self.random.chance(0.3) {
            cx.close();
        } else {
            cx.resume_reading();
            self.set_deadline(cx.id(), cx);
        }
    }

    fn on_stopping(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.whim(cx);
        if !self.temper.lingers || self.random.chance(0.7) {
            cx.close();
        }
    }

    fn on_message(&mut self, to: ConnectionId, _: (), cx: &mut Context<'_>) {
        let count = self.random.size(self.temper.most);
        self.write(to, count, false, cx);
        self.whim(cx);
    }

    fn on_close(&mut self, _: (), reason: CloseReason, cx: &mut Context<'_>) {
        let id = cx.id();
        self.others.retain(|other| *other != id);
        if let Some(told) = self.trial.told().get_mut(&id) {
            told.reason = Some(reason);
        }
        if self.random.chance(0.3) {
            self.whim(cx);
        }
    }
}

/// A script of anything that a peer may do.
fn whims_of_a_peer(random: &mut Random) -> Script {
    let mut script = Script::new();
    let most = random.size(200_000);
    let span = |random: &mut Random| Duration::from_nanos(random.size(2_000_000_000) as u64);
    for _ in 0..random.size(12) {
        script = match random.below(10) {
            0..=4 => {
                let bytes: Vec<u8> = (0..random.size(most)).map(|_| random.next() as u8).collect();
                script.send(bytes)
            }
            5 | 6 => script.wait(span(random)),
            7 => script.receive(random.size(most)),
            8 => script.reads(random.size(100_000), Duration::from_nanos(random.size(50_000_000) as u64)),
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
        let some =
            |random: &mut Random| random.chance(0.6).then(|| Duration::from_nanos(random.size(40_000_000_000) as u64));
        let deadlines = Deadlines {
            first_request: some(&mut random),
            idle: some(&mut random),
            write_progress: some(&mut random),
            linger: Duration::from_nanos(random.size(8_000_000_000) as u64),
            connect: Some(Duration::from_nanos(random.size(40_000_000_000) as u64)),
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
        let service = if random.chance(0.5) { service.refusal("full\r\n") } else { service };
        let handle = sim.add_service(service).unwrap_or_else(|error| panic!("{error}"));
        addresses.extend(handle.addresses().iter().cloned());
    }
    if random.chance(0.4) {
        sim.memory(random.size(300_000));
    }
    if random.chance(0.2) {
        sim.descriptors = 1 + random.index(6);
    }
    sim.drain_timeout(Duration::from_nanos(random.size(30_000_000_000) as u64));
    if random.chance(0.3) {
        sim.halt_after(Duration::from_nanos(random.size(5_000_000_000) as u64));
    }
    if random.chance(0.1) {
        sim.add_loop(Duration::from_millis(1 + random.below(1000)), |_| {});
    }
    let hurry = random.size(5_000_000_000);
    let peers = if random.chance(0.5) { 1 + random.index(40) } else { random.size(8) };
    for _ in 0..peers {
        let to = &addresses[random.index(addresses.len())];
        let after = Duration::from_nanos(random.index(hurry) as u64);
        let script = whims_of_a_peer(&mut random);
        let _: Peer = sim.connect_after(after, to, script);
    }
    (sim, trial)
}

impl Told {
    /// Whether this is what left: everything in order, but messages that were missed where that was said, and those
    /// that waited for one that was too slow. Bytes that have not left.
    fn left_over(&self, taken: &[u8], missed: &[(usize, u64)], too_slow: bool) -> Result<usize, String> {
        if too_slow {
            // What had begun left, and then only what was its own.
            let fits = |kept: usize| {
                let parts = self.written.iter().enumerate().filter(|(at, part)| *at < kept || !part.message);
                self.in_order(parts.map(|(_, part)| part), taken, missed).is_ok()
            };
            let fits = (0..=self.written.len()).any(fits);
            return if fits { Ok(0) } else { Err("what left is not what was written before it was too slow".into()) };
        }
        self.in_order(self.written.iter(), taken, missed)
    }

    /// The same of these parts of what was written.
    fn in_order<'p>(
        &self,
        mut parts: impl Iterator<Item = &'p Part>,
        taken: &[u8],
        missed: &[(usize, u64)],
    ) -> Result<usize, String> {
        let (mut at, mut notices) = (0, missed.iter().zip(&self.notices).peekable());
        loop {
            // Nothing is in its place before that.
            while let Some((&(_, count), notice)) = notices.next_if(|((place, _), _)| *place == at) {
                for _ in 0..count {
                    match parts.next() {
                        Some(part) if part.message => {}
                        Some(_) => return Err(format!("an answer is among the {count} messages missed at {at}")),
                        None => return Err(format!("fewer than {count} messages were missed at {at}")),
                    }
                }
                let end = taken.len().min(at + notice.len());
                if !notice.starts_with(&taken[at..end]) {
                    return Err(format!("what left at {at} is not what was said of {count} missed messages"));
                }
                at = end;
                if at == taken.len() {
                    return Ok(parts.map(|part| part.bytes.len()).sum());
                }
            }
            let Some(part) = parts.next() else { break };
            let end = taken.len().min(at + part.bytes.len());
            if !part.bytes.starts_with(&taken[at..end]) {
                return Err(format!("what left between {at} and {end} is not what was written"));
            }
            let rest = part.bytes.len() - (end - at);
            at = end;
            if rest > 0 {
                return Ok(rest + parts.map(|part| part.bytes.len()).sum::<usize>());
            }
        }
        if at < taken.len() { Err("more has left than was written".into()) } else { Ok(0) }
    }
}

struct Checks {
    network: crate::sys::simulated::Shared,
    books: super::ledger::Books,
    trial: Arc<Trial>,
}

impl Checks {
    /// What left is what was written, in order, and all of it where the reason says so.
    fn output(&self) {
        let network = self.network.borrow();
        let told = self.trial.told();
        let mut ids: Vec<_> = network.ids.iter().collect();
        ids.sort();
        for (&id, &index) in ids {
            let line = &network.lines[index];
            let Some(told) = told.get(&id) else { continue };
            let entry = self.books.borrow().entries.get(&id).cloned().unwrap_or_default();
            let left_over = told.left_over(&line.taken, &entry.missed, entry.too_slow);
            let left_over = left_over.unwrap_or_else(|why| network.violation(&format!("connection {id}: {why}")));
            let all = matches!(told.reason, Some(CloseReason::PeerEnded | CloseReason::Closed | CloseReason::Stopped));
            if all && line.stage == crate::sys::simulated::Stage::Open && left_over > 0 && !told.published {
                let reason = told.reason;
                network
                    .violation(&format!("connection {id}: {left_over} bytes written never left, and it is {reason:?}"));
            }
            // Both halves have ended, and the peer has read to the end.
            let read_all = line.pace == (usize::MAX, 0) && !line.left && line.end_arrived;
            if told.reason == Some(CloseReason::PeerEnded) && read_all && (line.cut || !line.heard_end) {
                network.violation(&format!("connection {id} ended in order, and its peer did not see that"));
            }
        }
    }
}
