//! Rules 16 to 18: a flooding connection gets one turn's share, and a connection without room is refused or waits.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reactor::{Backend, Bytes, CloseReason, Deadlines, Limits};

use crate::child::{Child, counters};
use crate::stage::{Client, Plan, QUIET, Seen, Stage, has_arrived, read_all, round_trip, send_until_stuck};
use crate::support::{GUARD, on_every_backend, unless_chaos};

/// Limits of one turn: bytes of one connection, accepted connections, and messages.
const BYTES_PER_TURN: usize = 64 * 1024;
const ACCEPTS_PER_TURN: usize = 64;
const MESSAGES_PER_TURN: usize = 1024;

/// Sends a line by each client, and waits until those at the beginning have their answers, and nobody else gets one in a while.
/// Returns the number of answered clients.
fn served(clients: &mut [Client]) -> usize {
    clients.iter_mut().for_each(|client| client.write_all(b"hello\n").expect("the kernel takes it"));
    let mut answered = vec![false; clients.len()];
    loop {
        let before = answered.clone();
        for (client, answered) in clients.iter_mut().zip(&mut answered) {
            *answered = *answered || has_answer(client);
        }
        // The loop accepts in order, and answers all whom it has accepted.
        let served = answered.iter().take_while(|answered| **answered).count();
        if served > 0 && answered == before && !answered[served..].contains(&true) {
            return served;
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// The refusal of a service that speaks HTTP and something else.
fn refusal(first: &[u8]) -> Option<Bytes> {
    match first {
        _ if first.starts_with(b"GET ") => Some(Bytes::from_static(b"503")),
        _ if b"GET ".starts_with(first) || b"quie".starts_with(first) => None,
        _ if first.starts_with(b"quiet") => Some(Bytes::new()),
        _ => Some(Bytes::from_static(b"full\r\n")),
    }
}

/// A service for one connection. `waiting` refused ones may wait for `patience`, and are refused by their first bytes.
fn capped(backend: Backend, waiting: usize, patience: Duration) -> Stage {
    let limits = Limits { connections: Some(1), refused_lingering: waiting, ..Limits::default() };
    let tune = move |service: reactor::Service<_, _>| service.limits(limits).refusal_by(patience, refusal);
    Stage::tuned(backend, Plan::echo(), tune, |_| {})
}

fn has_answer(client: &mut Client) -> bool {
    client.set_read_timeout(Some(QUIET)).expect("not zero");
    let outcome = client.read(&mut [0; 1]);
    client.set_read_timeout(Some(GUARD)).expect("not zero");
    match outcome {
        Ok(1) => client.read_exact(&mut [0; 5]).is_ok(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("{other:?}"),
    }
}

on_every_backend! {
    // Rule 16.
    fn work_that_is_left_over_has_one_call_in_each_turn_and_others_are_served_in_between(transport: Transport) {
        const TIMES: usize = 200;
        let turns = Arc::new(Mutex::new(Vec::new()));
        let seen = turns.clone();
        let plan = Plan::echo().turn(move |cx| {
            let mut seen = seen.lock().unwrap();
            seen.push(cx.turn());
            if seen.len() < TIMES {
                // Requested twice, called once.
                cx.request_turn();
                cx.request_turn();
            }
        });
        let stage = Stage::new(transport, plan);
        let (mut client, _) = stage.open();
        let asked = stage.ask(|cx| {
            cx.request_turn();
            cx.turn()
        });
        round_trip(&mut client, b"in between");
        let all = turns.clone();
        stage.wait_until("all is done", move |_| all.lock().unwrap().len() == TIMES);
        let turns = turns.lock().unwrap();
        assert!(turns[0] == asked + 1 && turns.windows(2).all(|pair| pair[1] == pair[0] + 1), "{asked}, {turns:?}");
    }

    // Rule 16.
    fn between_a_ping_and_its_answer_four_flooders_get_one_turn_each(transport: Transport) {
        let stage = Stage::new(transport, Plan::new());
        let flooders: Vec<_> = (0..4).map(|_| stage.open()).collect();
        let (mut client, id) = stage.open();
        // The first batch finds more than a turn's share of each flooder.
        let frozen = stage.freeze();
        for (flooder, _) in &flooders {
            assert!(send_until_stuck(flooder, &[b'x'; 1 << 20], 1 << 20) > 2 * BYTES_PER_TURN);
        }
        client.write_all(b"ping").unwrap();
        has_arrived(&client, 4);
        drop(frozen);
        let mut from = vec![0; flooders.len()];
        loop {
            match stage.next() {
                Seen::Data(who, bytes) if who == id => break assert!(b"ping".starts_with(&bytes)),
                Seen::Data(who, bytes) => {
                    let which = flooders.iter().position(|(_, id)| *id == who).unwrap();
                    from[which] += bytes.len();
                }
                other => panic!("{other:?}"),
            }
        }
        unless_chaos!("counts what others get meanwhile");
        assert!(from.iter().all(|bytes| *bytes <= BYTES_PER_TURN), "{from:?}");
    }

    // Rule 16: the remaining bytes come one turn after the other, without an event.
    fn what_is_left_for_the_next_turn_comes_without_an_event(transport: Transport) {
        let stage = Stage::new(transport, Plan::new());
        let (client, id) = stage.open();
        let frozen = stage.freeze();
        let sent = send_until_stuck(&client, &[b'x'; 1 << 20], 1 << 20);
        drop(frozen);
        assert_eq!(stage.data(id, sent).len(), sent);
    }

    // Rule 16.
    fn a_storm_of_connects_keeps_nobody_waiting(transport: Transport) {
        let stage = Stage::patient(transport, Plan::new());
        let (mut client, id) = stage.open();
        let frozen = stage.freeze();
        let crowd: Vec<Client> = (0..300).map(|_| stage.client()).collect();
        client.write_all(b"ping").unwrap();
        has_arrived(&client, 4);
        drop(frozen);
        let (mut opened, mut first) = (0, None);
        while opened < crowd.len() {
            match stage.next() {
                Seen::Data(who, _) if who == id => first = first.or(Some(opened)),
                Seen::Opened(_) => opened += 1,
                other => panic!("{other:?}"),
            }
        }
        unless_chaos!("counts who is let in first");
        assert!(first.is_some_and(|first| first <= 2 * ACCEPTS_PER_TURN), "{first:?} were let in first");
    }

    // Rule 16.
    fn a_flood_of_messages_keeps_nobody_waiting(transport: Transport) {
        let handled = Arc::new(AtomicUsize::new(0));
        let first = Arc::new(AtomicUsize::new(usize::MAX));
        let (counted, noted) = (handled.clone(), first.clone());
        let plan = Plan::new().data(move |input, _| {
            input.take_all();
            noted.store(counted.load(SeqCst), SeqCst);
        });
        let stage = Stage::new(transport, plan);
        let (mut client, id) = stage.open();
        let frozen = stage.freeze();
        // The first message makes the ping arrive while all other messages are waiting.
        stage.order(move |_| {
            client.write_all(b"ping").expect("it is open");
            drop(client);
        });
        for _ in 0..20_000 {
            let handled = handled.clone();
            stage.order(move |_| {
                handled.fetch_add(1, SeqCst);
            });
        }
        drop(frozen);
        stage.data(id, 4);
        let first = first.load(SeqCst);
        stage.ask(|_| {});
        assert_eq!(handled.load(SeqCst), 20_000);
        unless_chaos!("counts the messages before a ping");
        assert!(first <= 2 * MESSAGES_PER_TURN, "{first} messages first");
    }

    // Rule 17.
    fn without_descriptors_the_loop_is_quiet_and_takes_those_who_wait_when_there_is_room(transport: Transport) {
        unless_chaos!("counts how often accepting rests");
        let child = Child::start("starving", transport);
        let mut clients: Vec<Client> = (0..8).map(|_| child.client()).collect();
        let served = served(&mut clients);
        assert!(served < 8, "all are served");

        let began = Instant::now();
        let before = counters(&mut clients[0]);
        std::thread::sleep(4 * QUIET);
        let later = counters(&mut clients[0]);
        assert!(before.starved > 0, "it never happened");
        // The loop looks again once a second.
        let most = 5 + began.elapsed().as_secs();
        assert!(later.turns - before.turns <= most, "{} turns in {:?}", later.turns - before.turns, began.elapsed());
        assert!(later.warnings > 0, "nobody is told");
        // Logged once a second, however often accepting is tried: each client that leaves below makes the loop try
        // again.

        // A client that leaves makes room for the client that has waited longest.
        let (mut waiting, mut taken) = (clients.split_off(served), Vec::new());
        for _ in 0..waiting.len().min(clients.len()) {
            drop(clients.pop());
            let mut next = waiting.remove(0);
            let mut answer = [0; 6];
            next.read_exact(&mut answer).expect("it is its turn");
            round_trip(&mut next, b"again\n");
            taken.push(next);
        }
        let count = counters(taken.last_mut().expect("somebody left"));
        assert!(count.starved > later.starved, "it did not happen again");
        assert!(count.warnings - later.warnings <= began.elapsed().as_secs() + 1, "{} warnings", count.warnings);
        drop((waiting, taken));
        assert_eq!(child.terminate(), Some(0));
    }

    fn without_descriptors_the_loop_looks_again_once_a_second_and_that_takes_one_wait(transport: Transport) {
        unless_chaos!("counts turns");
        let child = Child::start("starving", transport);
        let mut clients: Vec<Client> = (0..8).map(|_| child.client()).collect();
        assert!(served(&mut clients) < 8, "all are served");
        let began = Instant::now();
        let (before, mut requests) = (counters(&mut clients[0]), 1);
        let later = loop {
            std::thread::sleep(Duration::from_millis(3200));
            requests += 1;
            match counters(&mut clients[0]) {
                later if later.starved >= before.starved + 2 => break later,
                _ => assert!(began.elapsed() < GUARD, "it does not look again"),
            }
        };
        let (looks, turns) = (later.starved - before.starved, later.turns - before.turns);
        assert!(looks <= began.elapsed().as_secs() + 1, "{looks} looks in {:?}", began.elapsed());
        // Each request for the counters takes a turn.
        assert!(turns <= looks + requests, "{turns} turns for {looks} looks");
        drop(clients);
        assert_eq!(child.terminate(), Some(0));
    }

    // Rule 18.
    fn one_over_an_explicit_cap_is_told_so_and_let_go(backend: Backend) {
        let capped = Limits { connections: Some(2), ..Limits::default() };
        let stage = Stage::tuned(backend, Plan::echo(), |service| service.limits(capped).refusal("full\r\n"), |_| {});
        let (mut one, one_id) = stage.open();
        let (mut two, _) = stage.open();
        assert_eq!(read_all(&mut stage.client()), b"full\r\n");
        // Even a client that has sent first is refused.
        let mut eager = stage.client();
        eager.write_all(&[b'x'; 10_000]).unwrap();
        assert_eq!(read_all(&mut eager), b"full\r\n");
        drop(eager);
        round_trip(&mut one, b"one");
        round_trip(&mut two, b"two");
        let stats = stage.stats();
        assert_eq!((stats.accepted, stats.refused), (2, 2));
        drop(one);
        stage.closed(one_id);
        round_trip(&mut stage.client(), b"three");
    }

    // Rule 18.
    fn few_of_those_refused_are_lingered_for(backend: Backend) {
        let capped = Limits { connections: Some(1), refused_lingering: 2, ..Limits::default() };
        let patient = Deadlines { linger: GUARD, ..Deadlines::default() };
        let tune = |service: reactor::Service<_, _>| service.limits(capped).deadlines(patient).refusal("full\r\n");
        let stage = Stage::tuned(backend, Plan::echo(), tune, |_| {});
        let (_one, _) = stage.open();
        let mut refused: Vec<Client> = (0..5).map(|_| stage.client()).collect();
        let answers: Vec<Vec<u8>> = refused.iter_mut().map(read_all).collect();
        assert!(answers.iter().all(|answer| answer == b"full\r\n"), "{answers:?}");
        // The refused clients hold their ends. The input of two is discarded, and the others are reset.
        refused.iter_mut().for_each(|client| client.write_all(b"but").expect("nobody has said no yet"));
        // A write after the reset fails, and earlier writes do not.
        let begin = Instant::now();
        let mut is_lingered_for = [true; 5];
        while is_lingered_for != [true, true, false, false, false] {
            assert!(begin.elapsed() < GUARD && is_lingered_for[..2] == [true; 2], "{is_lingered_for:?}");
            for (client, lingers) in refused.iter_mut().zip(&mut is_lingered_for) {
                *lingers = *lingers && client.write_all(b"why?").is_ok();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    // Rule 18.
    fn a_service_chooses_the_refusal_by_the_first_bytes_and_nobody_else_waits(backend: Backend) {
        let stage = capped(backend, 16, HOUR);
        let (mut one, _) = stage.open();
        let [mut browser, mut line, mut quiet, mut leaving, silent] = [(); 5].map(|()| stage.client());
        stage.wait_until("all are refused", |cx| cx.stats().refused == 5);
        round_trip(&mut one, b"meanwhile");
        for byte in b"GET " {
            browser.write_all(&[*byte]).expect("it is waited for");
            round_trip(&mut one, b"meanwhile");
        }
        assert_eq!(read_all(&mut browser), b"503");
        line.write_all(b"hello\n").expect("it is waited for");
        assert_eq!(read_all(&mut line), b"full\r\n");
        quiet.write_all(b"quiet").expect("it is waited for");
        assert_eq!(read_all(&mut quiet), b"");
        leaving.write_all(b"GE").expect("it is waited for");
        leaving.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(read_all(&mut leaving), b"", "its bytes never decide");
        drop((browser, line, quiet, leaving));
        let stats = stage.stats();
        assert_eq!((stats.accepted, stats.refused, stats.closed_total()), (1, 5, 0), "{stats}");
        // The silent client does not hold up a stop.
        drop(one);
        stage.end();
        drop(silent);
    }

    // Rule 18.
    fn a_refused_client_that_does_not_decide_is_closed_after_a_while_or_many_bytes(backend: Backend) {
        let stage = capped(backend, 16, Duration::from_millis(10));
        let (_one, _) = stage.open();
        assert_eq!(read_all(&mut stage.client()), b"");
        let limits = Limits { connections: Some(0), ..Limits::default() };
        let undecided = |_: &[u8]| None;
        let tune = move |service: reactor::Service<_, _>| service.limits(limits).refusal_by(HOUR, undecided);
        let stage = Stage::tuned(backend, Plan::echo(), tune, |_| {});
        let mut talker = stage.client();
        talker.write_all(&[b'x'; 8 * 1024]).expect("it is waited for");
        assert_eq!(read_all(&mut talker), b"");
    }

    // Rule 18: the number of refused connections that wait is bounded, and more of them are answered all the same.
    fn a_flood_of_refused_clients_waits_nowhere(backend: Backend) {
        unless_chaos!("a failed read of the first bytes leaves no time for another");
        const WAITING: usize = 4;
        let stage = capped(backend, WAITING, HOUR);
        let (mut one, _) = stage.open();
        let mut silent: Vec<Client> = (0..300).map(|_| stage.client()).collect();
        for client in &mut silent[WAITING..] {
            assert_eq!(read_all(client), b"");
        }
        round_trip(&mut one, b"meanwhile");
        let frozen = stage.freeze();
        let mut ready: Vec<Client> = (0..100).map(|_| stage.client()).collect();
        ready.iter_mut().for_each(|client| client.write_all(b"GET /").expect("the kernel takes it"));
        drop(frozen);
        for client in &mut ready {
            assert_eq!(read_all(client), b"503");
        }
        round_trip(&mut one, b"meanwhile");
        silent[0].write_all(b"x").expect("it is waited for");
        assert_eq!(read_all(&mut silent[0]), b"full\r\n");
        let stats = stage.stats();
        assert_eq!((stats.accepted, stats.refused, stats.closed_total()), (1, 400, 0), "{stats}");
    }

    // Rules 4 and 18.
    fn a_panic_in_the_choice_of_a_refusal_ends_that_connection_alone(backend: Backend) {
        let limits = Limits { connections: Some(1), ..Limits::default() };
        let choose = |_: &[u8]| panic!("no refusal");
        let tune = move |service: reactor::Service<_, _>| service.limits(limits).refusal_by(HOUR, choose);
        let stage = Stage::tuned(backend, Plan::echo(), tune, |_| {});
        let (mut one, _) = stage.open();
        let mut refused = stage.client();
        refused.write_all(b"x").expect("it is waited for");
        assert_eq!(read_all(&mut refused), b"");
        round_trip(&mut one, b"still here");
        stage.wait_until("it is counted", |cx| cx.stats().panics == 1);
    }

    // Rule 18.
    fn one_over_the_cap_of_the_application_is_refused_in_any_service(backend: Backend) {
        let stage = Stage::tuned(backend, Plan::echo(), |service| service.refusal("full\r\n"), |application| {
            application.max_connections(Some(1));
        });
        let (mut one, id) = stage.open();
        assert_eq!(read_all(&mut stage.client()), b"full\r\n");
        round_trip(&mut one, b"one");
        drop(one);
        stage.closed(id);
        round_trip(&mut stage.client(), b"two");
    }

    // Rule 18.
    fn at_the_cap_of_the_descriptor_limit_new_connections_wait_in_the_backlog_until_there_is_room(transport: Transport) {
        unless_chaos!("counts how often accepting rests");
        let child = Child::start_by("echo", transport, "ulimit -n 24 && exec \"$0\" \"$@\"");
        let mut clients: Vec<Client> = (0..16).map(|_| child.client()).collect();
        let served = served(&mut clients);
        assert!(served < 16, "all are served");
        let before = counters(&mut clients[0]);
        assert_eq!(before.starved, 0, "there are descriptors in reserve");
        // Only the leaving client acts. The waiting client has sent its line already.
        let mut next = clients.remove(served);
        drop(clients.remove(0));
        let mut answer = [0; 6];
        next.read_exact(&mut answer).expect("it is its turn");
        let later = if served > 1 { counters(&mut clients[0]) } else { counters(&mut next) };
        assert!(later.turns - before.turns < 20, "{} turns", later.turns - before.turns);
        drop((clients, next));
        assert_eq!(child.terminate(), Some(0));
    }

    // Rule 18.
    fn the_soft_descriptor_limit_is_raised_to_the_hard_one(backend: Backend) {
        let child = Child::start_by("echo", backend, "ulimit -S -n 64 && exec \"$0\" \"$@\"");
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.process.id())).expect("procfs");
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("it is a limit");
        let numbers: Vec<&str> = line.split_whitespace().rev().skip(1).take(2).collect();
        assert_eq!(numbers[0], numbers[1], "{line}");
        assert_ne!(numbers[0], "64");
        assert_eq!(child.terminate(), Some(0));
    }

    // Rule 18: a refused connection leaves nothing behind.
    fn refused_new_connections_do_not_count_as_connections_that_ended(backend: Backend) {
        let capped = Limits { connections: Some(1), ..Limits::default() };
        let stage = Stage::tuned(backend, Plan::echo(), |service| service.limits(capped).refusal("full\r\n"), |_| {});
        let (one, id) = stage.open();
        for _ in 0..5 {
            assert_eq!(read_all(&mut stage.client()), b"full\r\n");
        }
        drop(one);
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
        stage.wait_until("the last one has gone", |cx| cx.stats().refused == 5);
        let stats = stage.stats();
        assert_eq!((stats.accepted, stats.closed_total()), (1, 1), "{stats}");
    }
}
