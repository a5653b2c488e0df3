//! Rules 1 to 4: an event reaches its own connection and no other, and each connection ends once.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reactor::{CloseReason, ConnectionId, Topic, Written};

use crate::child::Child;
use crate::stage::{Client, Plan, Seen, Stage, Transport, read_all, reset, round_trip, server_end};
use crate::support::{on_every_backend, under_chaos, unless_chaos};

/// The first connection with input ends all others.
fn first_takes_all(ids: Arc<Mutex<Vec<ConnectionId>>>) -> Plan {
    Plan::echo().data(move |input, cx| {
        cx.write(input.take_all());
        for other in std::mem::take(&mut *ids.lock().expect("nobody panics")) {
            if other != cx.id() {
                cx.at(other).abort();
            }
        }
    })
}

on_every_backend! {
    // Rule 1.
    fn who_is_closed_by_another_in_the_same_batch_hears_nothing_and_new_connections_get_only_their_own(transport: Transport) {
        let ids = Arc::new(Mutex::new(Vec::new()));
        let stage = Stage::patient(transport, first_takes_all(ids.clone()));
        let mut old: Vec<(Client, ConnectionId)> = (0..100).map(|_| stage.open()).collect();
        ids.lock().unwrap().extend(old.iter().map(|(_, id)| *id));

        let frozen = stage.freeze();
        for (client, _) in &mut old {
            client.write_all(b"old").unwrap();
        }
        let mut new: Vec<Client> = (0..50).map(|_| stage.client()).collect();
        for (number, client) in new.iter_mut().enumerate() {
            client.write_all(format!("new{number:02}").as_bytes()).unwrap();
        }
        drop(frozen);

        for (number, client) in new.iter_mut().enumerate() {
            let mut answer = [0; 5];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, format!("new{number:02}").as_bytes());
        }
        let stale = stage.stats().stale_events;
        let known: HashSet<ConnectionId> = old.iter().map(|(_, id)| *id).collect();
        let (mut closed, mut heard) = (HashSet::new(), HashMap::<ConnectionId, Vec<u8>>::new());
        for seen in stage.left_over() {
            assert!(!closed.contains(&seen.id()), "{seen:?} after its end");
            match seen {
                Seen::Data(id, bytes) => heard.entry(id).or_default().extend(bytes),
                Seen::Closed(id, reason, _) => {
                    assert_eq!(reason, CloseReason::Aborted);
                    closed.insert(id);
                }
                _ => {}
            }
        }
        let (of_old, of_new): (Vec<_>, Vec<_>) = heard.into_iter().partition(|(id, _)| known.contains(id));
        assert!(of_new.iter().all(|(_, bytes)| bytes.starts_with(b"new") && bytes.len() == 5), "{of_new:?}");
        assert_eq!((of_old.len(), closed.len()), (1, 99), "all said something, and whoever was first ended the others");
        let survivors: Vec<_> = known.difference(&closed).collect();
        assert_eq!(survivors, [&of_old[0].0]);
        assert!(b"old".starts_with(&of_old[0].1), "{of_old:?}");
        unless_chaos!("counts the events of one batch");
        assert_eq!(of_old[0].1, b"old");
        assert!(stale >= 99, "only {stale} events came too late");
    }

    // Rule 1, as the operating system does it.
    fn a_process_that_was_stopped_answers_each_client_with_its_own_bytes(transport: Transport) {
        let child = Child::start("echo", transport);
        let mut old: Vec<Client> = (0..200).map(|_| child.client()).collect();
        old.iter_mut().for_each(|client| round_trip(client, b"here\n"));
        child.signal(rustix::process::Signal::STOP);
        // Every other client sends a line and leaves before the process continues.
        let gone = old.split_off(100);
        for mut client in gone {
            client.write_all(b"last words\n").unwrap();
            reset(client);
        }
        for (number, client) in old.iter_mut().enumerate() {
            client.write_all(format!("old {number:03}\n").as_bytes()).unwrap();
        }
        let mut new: Vec<Client> = (0..100).map(|_| child.client()).collect();
        for (number, client) in new.iter_mut().enumerate() {
            client.write_all(format!("new {number:03}\n").as_bytes()).unwrap();
        }
        child.signal(rustix::process::Signal::CONT);
        for (kind, clients) in [("old", &mut old), ("new", &mut new)] {
            for (number, client) in clients.iter_mut().enumerate() {
                let mut answer = [0; 8];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(answer, format!("{kind} {number:03}\n").as_bytes());
                client.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(read_all(client), b"", "nobody else's");
            }
        }
        assert_eq!(child.terminate(), Some(0));
    }

    // Rule 1.
    fn a_stale_id_finds_nothing_although_its_slot_has_a_new_tenant(transport: Transport) {
        let stage = Stage::new(transport, Plan::echo());
        let (client, old) = stage.open();
        drop(client);
        stage.closed(old);
        let (mut client, new) = stage.open();
        assert_ne!(old, new);
        let outcome = stage.ask(move |cx| {
            cx.at(old).close();
            cx.at(old).abort();
            cx.at(old).pause_reading();
            (cx.at(old).write(b"ghost"), cx.at(old).queued(), cx.at(old).peer())
        });
        assert_eq!(outcome, (Written::Refused, 0, None));
        round_trip(&mut client, b"alive");
    }

    // Rule 2.
    fn a_duplicate_that_outlives_its_connection_wakes_nobody(transport: Transport) {
        let stage = Stage::new(transport, Plan::new());
        let (mut client, id) = stage.open();
        // The poller knows the descriptor by now.
        client.write_all(b"hello").unwrap();
        stage.data(id, 5);
        let Some(duplicate) = server_end(&client) else { return };
        stage.order(move |cx| cx.at(id).abort());
        stage.closed(id);
        // The duplicate keeps the socket open, so arriving bytes make the socket readable.
        client.write_all(b"is anybody there?").unwrap();
        stage.is_quiet();
        assert_eq!(stage.stats().stale_events, 0);
        drop(duplicate);
    }

    // Rule 2, for what is no socket.
    fn a_watched_pipe_that_is_held_by_another_wakes_nobody_once_it_is_closed(backend: Backend) {
        let stage = Stage::new(backend, Plan::new());
        let (read, mut write) = std::io::pipe().unwrap();
        let duplicate = read.try_clone().unwrap();
        let id = stage.ask(move |cx| cx.watch(read.into(), ()));
        write.write_all(b"one").unwrap();
        assert_eq!(stage.data(id, 3), b"one");
        stage.order(move |cx| cx.at(id).close());
        assert_eq!(stage.closed(id).0, CloseReason::Closed);
        write.write_all(b"two").unwrap();
        stage.is_quiet();
        assert_eq!(stage.stats().stale_events, 0);
        drop(duplicate);
    }

    // Rule 3.
    fn whatever_callbacks_do_to_each_other_each_connection_ends_once_and_then_hears_nothing(transport: Transport) {
        for seed in 1..=10 {
            random_sequence(transport, seed, 400);
        }
    }

    // Rule 3.
    fn closing_all_from_within_a_callback_ends_each_once(transport: Transport) {
        let ids = Arc::new(Mutex::new(Vec::new()));
        let all = ids.clone();
        let stage = Stage::new(transport, Plan::new().data(move |input, cx| {
            input.take_all();
            for &id in &*all.lock().expect("nobody panics") {
                cx.at(id).close();
                cx.at(id).close();
                assert_eq!(cx.at(id).write(b"late"), Written::Refused);
            }
            cx.close();
        }).closed(|cx| {
            // None of these calls can have an effect any more.
            cx.close();
            cx.abort();
            cx.resume_reading();
            cx.set_deadline(Duration::ZERO);
            assert_eq!(cx.write(b"later"), Written::Refused);
        }));
        let mut clients: Vec<(Client, ConnectionId)> = (0..20).map(|_| stage.open()).collect();
        ids.lock().unwrap().extend(clients.iter().map(|(_, id)| *id));
        let frozen = stage.freeze();
        clients.iter_mut().for_each(|(client, _)| client.write_all(b"x").unwrap());
        drop(frozen);
        for (client, _) in &mut clients {
            assert_eq!(read_all(client), b"");
        }
        drop(clients);
        let mut ends: HashMap<ConnectionId, usize> = HashMap::new();
        let mut data = 0;
        for seen in stage.end() {
            match seen {
                Seen::Closed(id, reason, _) => {
                    assert_eq!(reason, CloseReason::Closed);
                    *ends.entry(id).or_default() += 1;
                }
                Seen::Data(..) => data += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(data, 1, "whoever was first closed all others before they were heard");
        assert_eq!((ends.len(), ends.values().sum::<usize>()), (20, 20));
    }

    // Rule 4.
    fn a_panic_ends_its_connection_and_no_other(transport: Transport) {
        let stage = Stage::new(transport, Plan::new().data(|input, cx| {
            let bytes = input.take_all();
            cx.write(bytes);
            assert_ne!(bytes, b"!", "as it was asked to");
        }));
        let (mut good, _) = stage.open();
        let (mut bad, id) = stage.open();
        round_trip(&mut good, b"before");
        bad.write_all(b"!").unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::Panicked);
        let mut rest = Vec::new();
        // An end or a reset: both end the connection.
        let _ = bad.read_to_end(&mut rest);
        round_trip(&mut good, b"after");
        assert_eq!(stage.stats().panics, 1);
    }

    // Rule 4, as the documentation of `Service::shares_memory` has it.
    fn a_panic_under_a_lock_that_handlers_share_ends_its_connection_and_no_other(transport: Transport) {
        let lines = Mutex::new(0u64);
        let stage = Stage::new(transport, Plan::new().data(move |input, cx| {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            *lines += 1;
            let bytes = input.take_all();
            cx.write(bytes);
            assert_ne!(bytes, b"!", "as it was asked to");
        }));
        let (mut good, _) = stage.open();
        let (mut bad, id) = stage.open();
        round_trip(&mut good, b"before");
        bad.write_all(b"!").unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::Panicked);
        round_trip(&mut good, b"after");
        assert_eq!(stage.stats().panics, 1);
    }

    // Rule 4.
    fn a_panic_in_any_callback_is_counted_and_the_loop_goes_on(transport: Transport) {
        let plan = Plan::echo()
            .end(|_, _| panic!("at the end of input"))
            .deadline(|_| panic!("at the deadline"))
            .closed(|_| panic!("at the close"));
        let stage = Stage::tuned(transport, plan, |service| service, |application| {
            application.add_loop(Duration::from_millis(1), |cx| {
                cx.end_loop();
                panic!("in periodic work");
            });
        });
        let (client, id) = stage.open();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::Panicked);
        stage.order(|_| panic!("in a message"));
        stage.wait_until("four have panicked", |cx| cx.stats().panics == 4);
        let (mut client, _) = stage.open();
        round_trip(&mut client, b"alive");
    }

    // Rule 4.
    fn a_panic_in_on_open_leaves_no_connection_behind(transport: Transport) {
        let stage = Stage::new(transport, Plan::echo().open(|_| panic!("at the opening")));
        let mut client = stage.client();
        let _ = client.read(&mut [0; 1]);
        stage.wait_until("it is counted", |cx| cx.stats().closed_total() == 1);
        let seen = stage.end();
        assert!(matches!(seen[..], [Seen::Opened(_)]), "no state came into being, so none is given back: {seen:?}");
    }
}

/// Clients and callbacks act on each other at random, and the counters must add up.
fn random_sequence(transport: Transport, seed: u64, steps: usize) {
    const CLIENTS: usize = 12;
    let random = Arc::new(Mutex::new(seed));
    let below = move |limit: usize| {
        let mut state = random.lock().expect("nobody panics");
        // xorshift64.
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state % limit as u64) as usize
    };
    let ids: Arc<Mutex<Vec<ConnectionId>>> = Arc::default();
    let act = {
        let (below, ids) = (below.clone(), ids.clone());
        move |cx: &mut crate::stage::Context<'_>| {
            let topic = Topic::new("all");
            let id = {
                let ids = ids.lock().expect("nobody panics");
                ids[below(ids.len().max(1)).min(ids.len().saturating_sub(1))..].first().copied()
            };
            let id = id.unwrap_or(cx.id());
            match below(14) {
                0 => cx.at(id).close(),
                1 => cx.close(),
                2 => cx.at(id).abort(),
                3 => {
                    cx.at(id).write([b'x'; 3000]);
                }
                4 => {
                    cx.at(id).write(vec![b'y'; 300_000]);
                }
                5 => cx.at(id).pause_reading(),
                6 => cx.at(id).resume_reading(),
                7 => {
                    cx.publish(&topic, b"news");
                }
                8 => {
                    cx.subscribe(&topic);
                }
                9 => {
                    cx.unsubscribe(&topic);
                }
                10 => cx.set_deadline(Duration::from_millis(below(3) as u64)),
                11 => cx.at(id).finish(),
                _ => {}
            }
        }
    };
    let (open, data, end, drained, deadline, closed) =
        (ids.clone(), act.clone(), act.clone(), act.clone(), act.clone(), act.clone());
    let (first, some) = (act.clone(), below.clone());
    let plan = Plan::new()
        .open(move |cx| {
            open.lock().expect("nobody panics").push(cx.id());
            first(cx);
        })
        .data(move |input, cx| {
            input.consume(some(input.len() + 1));
            data(cx);
        })
        .end(move |_, cx| {
            end(cx);
            cx.close();
        })
        .drained(drained)
        .deadline(deadline)
        .closed(closed);
    let stage = Stage::tuned(
        transport,
        plan,
        |service| service,
        |application| {
            application.drain_timeout(Some(Duration::from_millis(200)));
        },
    );
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| stage.client()).collect();
    for _ in 0..steps {
        let which = below(clients.len());
        let mut client = &clients[which];
        client.set_nonblocking(true).unwrap();
        match below(10) {
            0..5 => drop(client.write(&vec![b'a'; below(2000) + 1])),
            5..7 => drop(client.read(&mut [0; 4096])),
            7 => drop(client.shutdown(std::net::Shutdown::Write)),
            8 => reset(std::mem::replace(&mut clients[which], stage.client())),
            _ => drop(std::mem::replace(&mut clients[which], stage.client())),
        }
        if below(20) == 0 {
            let act = act.clone();
            stage.order(move |cx| act(cx));
        }
    }
    drop(clients);
    let (mut opened, mut closed) = (HashSet::new(), HashSet::new());
    for seen in stage.end() {
        assert!(!closed.contains(&seen.id()), "seed {seed}: {seen:?} after its end");
        match seen {
            Seen::Opened(id) => assert!(opened.insert(id), "seed {seed}: {id} was opened twice"),
            Seen::Closed(id, ..) => assert!(closed.insert(id)),
            other => assert!(opened.contains(&other.id()), "seed {seed}: {other:?} before its beginning"),
        }
    }
    assert_eq!(opened, closed, "seed {seed}");
    // A listener that waits for a descriptor may wait longer than the drain time.
    assert!(opened.len() >= CLIENTS || under_chaos(), "seed {seed}");
}
