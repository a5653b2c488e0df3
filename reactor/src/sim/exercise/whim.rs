//! The handler of the exercise: each callback acts at random.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::checks::{Part, Told, Trial, pattern};
use crate::address::Address;
use crate::buffer::Input;
use crate::context::{Context, Written};
use crate::handler::Handler;
use crate::random::Random;
use crate::reason::CloseReason;
use crate::token::ConnectionId;
use crate::topics::Topic;

/// The actions that a random service may take.
#[derive(Clone, Copy)]
pub(super) struct Temper {
    /// Largest size of its writes.
    pub(super) most: usize,
    /// The share of callbacks with a drastic action, in per cent.
    pub(super) drastic: u64,
    pub(super) pauses: bool,
    /// Pauses and resumes other connections at every turn.
    pub(super) meddles: bool,
    pub(super) publishes: bool,
    /// Number of messages published at once.
    pub(super) talk: u64,
    pub(super) connects: bool,
    pub(super) panics: bool,
    pub(super) lingers: bool,
}

/// A handler that acts at random.
pub(super) struct Whim {
    pub(super) random: Random,
    pub(super) temper: Temper,
    pub(super) trial: Arc<Trial>,
    pub(super) others: Vec<ConnectionId>,
    pub(super) remotes: Vec<Address>,
    pub(super) connects_left: u32,
    pub(super) topic: Topic,
}

/// The payload of an intended panic, which is not reported.
struct Meant;

impl Whim {
    fn write(&mut self, to: ConnectionId, count: usize, shared: bool, cx: &mut Context<'_>) {
        let mut told = self.trial.told();
        let Some(told) = told.get_mut(&to).filter(|told| told.reason.is_none()) else { return };
        let at = told.own;
        let bytes: Vec<u8> = (at..at + count).map(|at| pattern(to, at)).collect();
        let outcome = match (to == cx.id(), shared) {
            (true, false) if count.is_multiple_of(2) => cx.write_vec(&mut bytes.clone()),
            (true, false) => cx.write(&bytes),
            (true, true) => cx.write_shared(Bytes::from(bytes.clone())),
            (false, false) if count.is_multiple_of(2) => cx.at(to).write_vec(&mut bytes.clone()),
            (false, false) => cx.at(to).write(&bytes),
            (false, true) => cx.at(to).write_shared(Bytes::from(bytes.clone())),
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
            // An empty message cannot be missed.
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
        let after = self.random.span(Duration::from_secs(3));
        let mut told = self.trial.told();
        if let Some(told) = told.get_mut(&id) {
            told.deadline = Some(cx.now() + after);
            cx.at(id).set_deadline(after);
        }
    }

    /// Random actions of any callback, beside its own work.
    fn whim(&mut self, cx: &mut Context<'_>) {
        if self.temper.meddles {
            let (one, other) = (self.other(), self.other());
            cx.at(one).pause_reading();
            self.set_deadline(one, cx);
            cx.at(other).resume_reading();
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
                7 if self.temper.pauses && self.random.chance(0.5) => cx.at(other).resume_reading(),
                7 if self.temper.pauses => {
                    cx.at(other).pause_reading();
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
                9 if self.random.chance(0.5) => {
                    let (key, span) = (self.random.below(4), self.random.span(Duration::from_secs(3)));
                    match self.random.below(6) {
                        0 => cx.timers().set(key, span),
                        1 if self.random.chance(0.1) => cx.timers().every(key, span + Duration::from_secs(1)),
                        2 => drop(cx.timers().cancel(key)),
                        3 => drop(cx.at(other).timers().cancel(key)),
                        _ => cx.at(other).timers().set(key, span),
                    }
                }
                9 if id != ConnectionId::NONE => self.set_deadline(cx.id(), cx),
                10 => match self.random.below(4) {
                    0 => cx.wait_for_output(),
                    1 => cx.at(other).wait_for_output(),
                    2 => cx.at(other).read_on(),
                    _ => cx.offer_again(),
                },
                12 if self.temper.publishes => (0..=self.random.below(self.temper.talk)).for_each(|_| self.publish(cx)),
                11 => {
                    let handle = cx.service_handle();
                    let _ = handle.post(other, ());
                }
                _ => {}
            }
        }
        if self.random.below(100) < self.temper.drastic {
            let other = self.other();
            match self.random.below(9) {
                0 | 1 => cx.close(),
                2 => cx.at(other).close(),
                3 => cx.abort(),
                4 => cx.at(other).abort(),
                5 => cx.finish(),
                6 => cx.at(other).finish(),
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

    fn on_timer(&mut self, key: u64, cx: &mut Context<'_>) {
        self.whim(cx);
        if self.random.chance(0.3) {
            cx.timers().cancel(key);
        }
    }

    fn on_connection_timer(&mut self, _: &mut (), _: u64, cx: &mut Context<'_>) {
        self.whim(cx);
    }

    fn on_stopping(&mut self, _: &mut (), cx: &mut Context<'_>) {
        self.whim(cx);
        if !self.temper.lingers || self.random.chance(0.7) {
            cx.close();
        }
    }

    fn on_message(&mut self, to: ConnectionId, _: Option<&mut ()>, _: (), cx: &mut Context<'_>) {
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
