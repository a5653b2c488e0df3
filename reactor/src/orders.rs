//! Each protocol between loops, in every order in which two threads can meet. `RUSTFLAGS="--cfg loom" cargo test -p glowplug-reactor --lib
//! orders`. Descriptors of the kernel are modelled by a variable that both sides swap.

use loom::model;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread::spawn;
use std::sync::Arc;

use crate::mailbox::{Crowd, Mailbox, PostError, Receiver};
use crate::protocols::sync::Mutex;
use crate::protocols::{Alarm, Changes, Mask, Room};

/// A loop's wake-up: the alarm, and the descriptor that a wake-up writes.
struct Woken {
    alarm: Alarm,
    descriptor: AtomicUsize,
}

impl Woken {
    fn new() -> Self {
        Woken { alarm: Alarm::new(), descriptor: AtomicUsize::new(0) }
    }

    fn wake(&self) {
        if self.alarm.ring() {
            // The kernel orders writes and reads of one descriptor.
            self.descriptor.swap(1, Ordering::AcqRel);
        }
    }

    /// As the loop does after a wait. Whether it was woken.
    fn answer(&self) -> bool {
        let is_woken = self.descriptor.swap(0, Ordering::AcqRel) == 1;
        if is_woken {
            self.alarm.answer();
        }
        is_woken
    }

    fn is_woken(&self) -> bool {
        self.descriptor.fetch_add(0, Ordering::AcqRel) == 1
    }
}

#[test]
fn a_message_is_taken_or_the_descriptor_stays_readable() {
    model(|| {
        let woken = Arc::new(Woken::new());
        let messages: [Arc<AtomicUsize>; 2] = Default::default();
        let posters: Vec<_> = messages
            .iter()
            .map(|message| {
                let (woken, message) = (woken.clone(), message.clone());
                spawn(move || {
                    message.store(1, Ordering::Relaxed);
                    woken.wake();
                })
            })
            .collect();
        let mut taken = 0;
        for _ in 0..2 {
            if woken.answer() {
                taken = messages.iter().map(|message| message.load(Ordering::Relaxed)).sum();
            }
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
        assert!(taken == 2 || woken.is_woken(), "{taken} taken");
    });
}

#[test]
fn a_message_in_a_mailbox_is_taken_or_the_descriptor_stays_readable() {
    model(|| {
        let (woken, mailbox) = (Arc::new(Woken::new()), Arc::new(Mailbox::<u8>::new()));
        let poster = {
            let (woken, mailbox) = (woken.clone(), mailbox.clone());
            spawn(move || {
                mailbox.post(1).unwrap();
                woken.wake();
            })
        };
        let mut taken = Vec::new();
        if woken.answer() {
            mailbox.take(&mut taken, 1);
        }
        poster.join().unwrap();
        assert!(taken == [1] || woken.is_woken());
    });
}

/// A mailbox with one message, and no room for another.
fn full() -> (Arc<Mailbox<u8>>, Arc<Crowd>, loom::thread::JoinHandle<bool>) {
    let (mailbox, crowd) = (Arc::new(Mailbox::new()), Arc::new(Crowd::new()));
    mailbox.post(1).unwrap();
    let (to, with) = (mailbox.clone(), crowd.clone());
    let waits = spawn(move || matches!(with.post(&to, 2), Err(PostError::Full(2))));
    (mailbox, crowd, waits)
}

#[test]
fn who_finds_a_mailbox_full_hears_of_the_room_in_it() {
    model(|| {
        let (mailbox, crowd, waits) = full();
        mailbox.take(&mut Vec::new(), 1);
        let wakes = crowd.take();
        assert!(!waits.join().unwrap() || wakes);
    });
}

#[test]
fn who_finds_a_mailbox_full_hears_of_its_end() {
    model(|| {
        let (mailbox, crowd, waits) = full();
        drop(Receiver::new(mailbox));
        let wakes = crowd.take();
        assert!(!waits.join().unwrap() || wakes);
    });
}

#[test]
fn who_waits_for_a_descriptor_hears_of_the_one_that_becomes_free() {
    model(|| {
        let room = Arc::new(Room::new());
        room.add_descriptors(1);
        let freeing = {
            let room = room.clone();
            spawn(move || {
                room.add_descriptors(usize::MAX);
                room.is_waited_for()
            })
        };
        let has_to_wait = room.look(|| room.descriptors() >= 1);
        assert!(!has_to_wait || freeing.join().unwrap());
    });
}

#[test]
fn a_stop_that_waits_for_a_per_connection_loop_is_woken_at_its_end() {
    for stops in [false, true] {
        model(move || {
            let room = Arc::new(Room::new());
            room.set_per_connection(1);
            let leaving = {
                let room = room.clone();
                spawn(move || {
                    room.set_per_connection(0);
                    room.is_waited_for_by_a_stop()
                })
            };
            let has_to_wait = match stops {
                true => {
                    room.halt();
                    !room.have_per_connection_ended()
                }
                false => room.look(|| room.per_connection() >= 1),
            };
            assert!(!has_to_wait || leaving.join().unwrap());
        });
    }
}

#[test]
fn a_loop_that_is_told_to_halt_by_another_one_sees_it_when_it_is_woken() {
    model(|| {
        let (room, woken) = (Arc::new(Room::new()), Arc::new(Woken::new()));
        let halting = {
            let (room, woken) = (room.clone(), woken.clone());
            spawn(move || {
                room.halt();
                woken.wake();
            })
        };
        let sees = woken.answer() && room.is_halting();
        halting.join().unwrap();
        assert!(sees || woken.is_woken());
    });
}

#[test]
fn a_loop_that_ends_because_nobody_comes_leaves_nobody_behind() {
    model(|| {
        let (room, accepted) = (Arc::new(Room::new()), Arc::new(Mailbox::<u8>::new()));
        let accepting = {
            let (room, accepted) = (room.clone(), accepted.clone());
            spawn(move || {
                accepted.post(1).unwrap();
                room.close_listeners();
            })
        };
        let ends = room.nobody_comes(|| accepted.is_empty());
        accepting.join().unwrap();
        assert!(!ends, "somebody was accepted, and is in the queue");
    });
}

#[test]
fn who_knows_that_a_loop_has_come_has_a_list_with_it_or_knows_that_the_list_is_old() {
    model(|| {
        let (list, changes) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Changes::new()));
        let is_here = Arc::new(AtomicBool::new(false));
        let coming = {
            let (list, changes, is_here) = (list.clone(), changes.clone(), is_here.clone());
            spawn(move || {
                let mut list = list.lock().unwrap();
                list.push(7);
                changes.count();
                drop(list);
                is_here.store(true, Ordering::Release);
            })
        };
        let (copy, version) = {
            let list = list.lock().unwrap();
            (list.clone(), changes.version())
        };
        if is_here.load(Ordering::Acquire) {
            assert!(copy == [7] || changes.version() != version);
        }
        coming.join().unwrap();
    });
}

#[test]
fn what_is_published_by_who_knows_of_a_member_goes_to_its_loop() {
    model(|| {
        let (mask, knows) = (Arc::new(Mask::new()), Arc::new(AtomicBool::new(false)));
        let subscribing = {
            let (mask, knows) = (mask.clone(), knows.clone());
            spawn(move || {
                mask.set(4);
                knows.store(true, Ordering::Release);
            })
        };
        if knows.load(Ordering::Acquire) {
            assert!(mask.has(4));
        }
        subscribing.join().unwrap();
    });
}
