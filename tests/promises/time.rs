//! Rules 19 to 21: no deadline comes early, waits are few, and no connection stays open for nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use reactor::{Address, CloseReason, ConnectionId, Deadline, Deadlines};

use crate::stage::{Client, Plan, Seen, Stage, at_pace, read_all, read_exactly, round_trip, server_end};
use crate::support::{GUARD, on_every_backend, unless_chaos};

const DAY: Duration = Duration::from_secs(86_400);

/// No deadlines; a test sets the deadline that it checks.
fn none() -> Deadlines {
    Deadlines { first_request: None, write_progress: None, connect: None, idle: None, ..Deadlines::default() }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

on_every_backend! {
    // Rule 19.
    fn a_deadline_is_never_early_and_costs_at_most_two_waits(transport: Transport) {
        const TIMES: usize = 60;
        let times = Arc::new(Mutex::new(Vec::new()));
        let (begin, go_on) = (times.clone(), times.clone());
        // Not multiples of a timer's tick.
        let span = |number: usize| Duration::from_micros(1_000 + 137 * number as u64);
        let plan = Plan::new()
            .open(move |cx| {
                begin.lock().expect("nobody panics").push(cx.now());
                cx.set_deadline(span(0));
            })
            .deadline(move |cx| {
                let mut times = go_on.lock().expect("nobody panics");
                times.push(cx.now());
                if times.len() <= TIMES {
                    cx.set_deadline(span(times.len() - 1));
                }
            });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
        let before = stage.stats().turns;
        let (_client, id) = stage.open();
        for _ in 0..TIMES {
            assert_eq!(stage.next(), Seen::Deadline(id));
        }
        let turns = stage.stats().turns - before;
        let times = times.lock().unwrap();
        for (number, pair) in times.windows(2).enumerate() {
            assert!(pair[1] - pair[0] >= span(number), "{:?} instead of {:?}", pair[1] - pair[0], span(number));
        }
        assert!(turns as usize <= 2 * TIMES + 5, "{turns} turns for {TIMES} timers");
    }

    // Rule 19. Each turn could be early.
    fn a_deadline_is_never_early_however_often_the_loop_turns(transport: Transport) {
        let times = Arc::new(Mutex::new(Vec::new()));
        let (begin, go_on) = (times.clone(), times.clone());
        let span = Duration::from_micros(2_700);
        let plan = Plan::echo()
            .open(move |cx| {
                begin.lock().expect("nobody panics").push(cx.now());
                cx.set_deadline(span);
            })
            .deadline(move |cx| {
                go_on.lock().expect("nobody panics").push(cx.now());
                cx.set_deadline(span);
            });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
        let (mut client, _) = stage.open();
        while times.lock().unwrap().len() < 30 {
            round_trip(&mut client, b"tick");
        }
        let times = times.lock().unwrap();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= span), "{times:?}");
    }

    // Rule 19.
    fn a_deadline_set_late_in_a_slow_callback_counts_from_then(transport: Transport) {
        let plan = Plan::new().open(|cx| {
            thread::sleep(ms(200));
            cx.set_deadline(ms(100));
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
        let start = Instant::now();
        let _client = stage.client();
        let opened = stage.next();
        assert_eq!(stage.next(), Seen::Deadline(opened.id()));
        // The clock after a callback may lag by its tick.
        assert!(start.elapsed() >= ms(200 + 100 - 20), "after {:?}", start.elapsed());
    }

    // Rule 19.
    fn a_slow_callback_is_counted(transport: Transport) {
        let plan = Plan::new().data(|input, _| {
            if input.take_all().starts_with(b"s") {
                thread::sleep(ms(60));
            }
        });
        let stage = Stage::tuned(transport, plan, |service| service, |application| {
            application.slow_callback(ms(40));
        });
        let (mut client, id) = stage.open();
        // Time in which the thread may have waited for a core does not count, so on a busy machine several callbacks may pass before one
        // is slow for certain.
        let start = Instant::now();
        while stage.stats().slow_callbacks == 0 {
            assert!(start.elapsed() < GUARD, "no slow callback was counted");
            client.write_all(b"slow").unwrap();
            stage.data(id, 4);
        }
    }

    // Rule 19.
    fn time_in_which_others_had_the_core_is_not_held_against_a_callback(backend: Backend) {
        let (tell, lasted) = std::sync::mpsc::channel();
        // Takes 30 ms of a core, however long that lasts.
        let plan = Plan::new().data(move |input, _| {
            input.take_all();
            let (start, before) = (Instant::now(), time_on_a_core());
            while time_on_a_core() - before < ms(30) {
                std::hint::spin_loop();
            }
            let _ = tell.send(start.elapsed());
        });
        let stage = Stage::tuned(backend, plan, |service| service, |application| {
            application.slow_callback(ms(100));
            keep_to_one_core();
        });
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    keep_to_one_core();
                    while !is_over.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let (mut client, _) = stage.open();
            let (start, mut long) = (Instant::now(), 0);
            // By wall-clock time, each of these callbacks is slow. On a machine that is never busy enough, none is.
            while long < 5 && start.elapsed() < GUARD {
                client.write_all(b"x").unwrap();
                long += usize::from(lasted.recv_timeout(GUARD).unwrap() > ms(120));
            }
            is_over.store(true, Relaxed);
        });
        assert_eq!(stage.stats().slow_callbacks, 0);
    }

    // Rule 19.
    fn a_timer_of_thirty_days_and_one_of_for_ever_neither_fire_nor_spin(transport: Transport) {
        for span in [30 * DAY, 400 * 365 * DAY, Duration::MAX] {
            let plan = Plan::new().open(move |cx| cx.set_deadline(span));
            let endless = Deadlines { idle: Some(span), linger: span, ..none() };
            let stage = Stage::tuned(transport, plan, move |service| service.deadlines(endless), |_| {});
            let (_client, _) = stage.open();
            stage.is_quiet();
            assert_eq!(stage.left_over(), []);
        }
    }

    // Rule 20. Missed ticks are left out: a loop that caught up would make one call for each period.
    fn periodic_work_that_was_held_up_leaves_the_missed_ticks_out(backend: Backend) {
        let times = Arc::new(Mutex::new(Vec::new()));
        let noted = times.clone();
        let stage = Stage::tuned(backend, Plan::new(), |service| service, move |application| {
            application.add_loop(ms(20), move |cx| {
                let mut times = noted.lock().expect("nobody panics");
                times.push(cx.now());
                match times.len() {
                    3 => thread::sleep(ms(110)),
                    10 => cx.end_loop(),
                    _ => {}
                }
            });
        });
        let looked = times.clone();
        stage.wait_until("ten times", move |_| looked.lock().expect("nobody panics").len() == 10);
        let times = times.lock().unwrap();
        // Each call after the one that was held up waits for a tick of its own, and the first of these ticks is still to come. A loop
        // that caught up would make five calls at once. The lateness of a call does not matter.
        assert!(times[9] - times[3] > ms(5 * 20), "{times:?}");
    }

    // Rule 20. The work takes most of its period, and the schedule does not move.
    fn periodic_work_keeps_to_its_schedule_however_long_it_takes(backend: Backend) {
        let times = Arc::new(Mutex::new(Vec::new()));
        let noted = times.clone();
        let stage = Stage::tuned(backend, Plan::new(), |service| service, move |application| {
            application.add_loop(ms(16), move |cx| {
                noted.lock().expect("nobody panics").push(cx.now());
                thread::sleep(ms(5));
            });
        });
        // A call that is less late than the call before it comes less than a period after that call. A schedule that counts from the
        // latest call, or from its end, never has two calls so near.
        let on_schedule = move |_: &mut crate::stage::Context<'_>| {
            let times = times.lock().expect("nobody panics");
            times.windows(2).filter(|pair| pair[1] - pair[0] < ms(16)).count() >= 3
        };
        stage.wait_until("it keeps to its schedule", on_schedule);
    }

    // Rule 20.
    fn periodic_work_ends_itself_from_inside(backend: Backend) {
        let times = Arc::new(AtomicUsize::new(0));
        let count = times.clone();
        let stage = Stage::tuned(backend, Plan::new(), |service| service, move |application| {
            application.add_loop(ms(1), move |cx| {
                if count.fetch_add(1, SeqCst) == 2 {
                    cx.end_loop();
                }
            });
        });
        let looked = times.clone();
        stage.wait_until("three times", move |_| looked.load(SeqCst) >= 3);
        stage.is_quiet();
        assert_eq!(times.load(SeqCst), 3);
    }

    // Rule 20.
    fn a_deadline_that_is_called_off_never_comes(transport: Transport) {
        let plan = Plan::new()
            .open(|cx| {
                cx.set_deadline(ms(1));
                cx.clear_deadline();
            })
            .deadline(|cx| {
                // Also from inside its own callback.
                cx.set_deadline(Duration::ZERO);
                cx.clear_deadline();
            })
            .data(|input, cx| {
                input.take_all();
                cx.set_deadline(Duration::ZERO);
            });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
        let (mut client, id) = stage.open();
        stage.sees_nothing();
        client.write_all(b"now").unwrap();
        assert_eq!(stage.data(id, 3), b"now");
        assert_eq!(stage.next(), Seen::Deadline(id));
        stage.sees_nothing();
        stage.is_quiet();
    }

    // Rule 20. Both timers are due in one turn, and the first cancels the second.
    fn a_timer_that_is_due_in_the_same_turn_can_be_cancelled(transport: Transport) {
        let ids: Arc<Mutex<Vec<_>>> = Arc::default();
        let (all, others) = (ids.clone(), ids.clone());
        let plan = Plan::new()
            .open(move |cx| {
                all.lock().expect("nobody panics").push(cx.id());
            })
            .deadline(move |cx| {
                let me = cx.id();
                others.lock().expect("nobody panics").iter().filter(|id| **id != me).for_each(|id| cx.at(*id).abort());
            });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
        let clients: Vec<_> = (0..10).map(|_| stage.open()).collect();
        // Counted from the end of one callback, so all are due together.
        stage.order(move |cx| ids.lock().expect("nobody panics").iter().for_each(|id| cx.at(*id).set_deadline(ms(5))));
        let first = stage.next();
        assert!(matches!(first, Seen::Deadline(_)), "{first:?}");
        for _ in 0..9 {
            let seen = stage.next();
            assert!(matches!(seen, Seen::Closed(_, CloseReason::Aborted, 0)), "{seen:?}");
        }
        drop(clients);
        assert!(matches!(stage.next(), Seen::End(id, 0) if id == first.id()));
    }

    // Rule 21.
    fn who_never_completes_a_first_request_is_closed_although_it_drips(transport: Transport) {
        let short = Deadlines { first_request: Some(ms(300)), ..none() };
        let stage = Stage::tuned(transport, Plan::lines(), |service| service.deadlines(short), |_| {});
        let (client, id) = stage.open();
        let dripping = thread::spawn(move || {
            while (&client).write(b"x").is_ok() {
                thread::sleep(ms(10));
            }
        });
        assert_eq!(stage.closed(id).0, CloseReason::TimedOut(Deadline::FirstRequest));
        dripping.join().unwrap();
        // A client that has made a request may take its time. The request has come when the client is accepted, however slow this thread is.
        let frozen = stage.freeze();
        let mut client = stage.client();
        client.write_all(b"a request\n").unwrap();
        drop(frozen);
        let id = stage.until(|seen| matches!(seen, Seen::Opened(_))).id();
        assert_eq!(stage.data(id, 10), b"a request\n");
        thread::sleep(ms(350));
        assert_eq!(stage.left_over(), []);
        client.write_all(b"another\n").unwrap();
        assert_eq!(stage.data(id, 8), b"another\n");
    }

    // Rule 21.
    fn who_is_silent_for_too_long_is_closed_and_who_speaks_is_not(transport: Transport) {
        at_pace(ms(200), |pace| {
            let short = Deadlines { idle: Some(ms(300)), ..none() };
            let stage = Stage::tuned(transport, Plan::new(), |service| service.deadlines(short), |_| {});
            let (mut silent, silent_id) = stage.open();
            let (mut busy, busy_id) = stage.open();
            let ends = |seen: &[Seen]| seen.iter().filter(|seen| matches!(seen, Seen::Closed(..))).map(Seen::id).collect::<Vec<_>>();
            let mut ended = Vec::new();
            // Twice the time, or longer.
            for step in 0.. {
                busy.write_all(b"x").map_err(|error| format!("who speaks is closed: {error}"))?;
                pace.step();
                thread::sleep(ms(40));
                ended.extend(ends(&stage.left_over()));
                if step > 15 && !ended.is_empty() {
                    break;
                }
            }
            if ended != [silent_id] {
                return Err(format!("{ended:?} are closed, and {silent_id} is silent"));
            }
            assert_eq!(read_all(&mut silent), b"");
            assert_eq!(stage.closed(busy_id).0, CloseReason::TimedOut(Deadline::Idle));
            assert_eq!(stage.stats().closed(CloseReason::TimedOut(Deadline::Idle)), 2);
            Ok(())
        });
    }

    // Rules 5 and 19. More connections than one batch reports.
    fn bytes_that_came_during_a_stall_are_heard_before_the_deadlines_that_it_made_pass(transport: Transport) {
        unless_chaos!("has one look for bytes, which may be told that there are none");
        const DEADLINE: Duration = Duration::from_secs(1);
        let plan = Plan::new().data(|input, cx| {
            cx.clear_deadline();
            cx.write(input.take_all());
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(none()), |_| {});
        let (mut clients, ids): (Vec<Client>, Vec<ConnectionId>) = (0..600).map(|_| stage.open()).unzip();
        let frozen = stage.freeze_after(move |cx| ids.iter().for_each(|&id| cx.at(id).set_deadline(DEADLINE)));
        clients.iter_mut().for_each(|client| client.write_all(b"during").unwrap());
        // The sleep lets the deadlines pass. No result depends on its length.
        thread::sleep(DEADLINE + ms(200));
        drop(frozen);
        for client in &mut clients {
            assert_eq!(&read_exactly::<6>(client), b"during");
            round_trip(client, b"after");
        }
    }

    // Rule 21.
    fn who_takes_a_byte_now_and_then_makes_no_progress(transport: Transport) {
        let short = Deadlines { write_progress: Some(ms(300)), ..none() };
        let plan = Plan::new().open(|cx| {
            cx.write_shared(vec![b'x'; 32 << 20].into());
        });
        let stage = Stage::tuned(transport, plan, |service| service.deadlines(short), |_| {});
        let mut client = stage.narrow_client();
        let id = stage.next().id();
        let over = Arc::new(AtomicUsize::new(0));
        let is_over = over.clone();
        let sipping = thread::spawn(move || {
            let outcome = loop {
                match client.read(&mut [0; 1]) {
                    Ok(1) if is_over.load(SeqCst) == 0 => thread::sleep(ms(10)),
                    Ok(1) => {}
                    other => break other,
                }
            };
            outcome.map_err(|error| error.kind())
        });
        let (reason, owed) = stage.closed(id);
        over.store(1, SeqCst);
        assert_eq!(reason, CloseReason::TimedOut(Deadline::WriteProgress));
        assert_eq!(stage.stats().unsent as usize, owed);
        assert_eq!(sipping.join().unwrap(), Err(ErrorKind::ConnectionReset));
    }

    // Rule 21.
    fn who_reads_steadily_makes_progress_however_slowly(transport: Transport) {
        at_pace(ms(700), |pace| {
            let short = Deadlines { write_progress: Some(ms(1000)), ..none() };
            let plan = Plan::new().open(|cx| {
                cx.write_shared(vec![b'x'; 5 << 20].into());
            });
            let stage = Stage::tuned(transport, plan, |service| service.deadlines(short), |_| {});
            let mut client = stage.client();
            let id = stage.next().id();
            let mut some = vec![0; 16 * 1024];
            let mut received = 0;
            while received < 5 << 20 {
                received += client.read(&mut some).map_err(|error| format!("after {received} bytes: {error}"))?;
                pace.step();
                thread::sleep(ms(8));
            }
            assert!(!stage.left_over().iter().any(|seen| matches!(seen, Seen::Closed(..))));
            drop(client);
            assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
            Ok(())
        });
    }

    // Rule 21.
    fn a_connection_that_does_not_come_about_in_time_is_given_up(backend: Backend) {
        // The listener's queue has room for one connection. The system does not answer a further connect.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let deaf = TcpListener::from(socket);
        let address = deaf.local_addr().unwrap();
        let _queued: Vec<_> = (0..4).map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        }).collect();
        let short = Deadlines { connect: Some(ms(200)), ..none() };
        let stage = Stage::tuned(backend, Plan::new(), |service| service.deadlines(short), |_| {});
        let id = stage.ask(move |cx| {
            let id = cx.connect(Address::Tcp(address), ());
            cx.at(id).write(b"hello");
            id
        });
        assert_eq!(stage.next(), Seen::Closed(id, CloseReason::TimedOut(Deadline::Connect), 5));
    }

    // Rule 21.
    fn a_pulled_cable_is_found_by_probes(transport: Transport) {
        let stage = Stage::new(transport, Plan::new());
        let (client, _) = stage.open();
        let Some(server) = server_end(&client) else { return };
        let server = socket2::SockRef::from(&server);
        assert!(server.keepalive().unwrap());
        let found_after = server.tcp_keepalive_time().unwrap()
            + server.tcp_keepalive_interval().unwrap() * server.tcp_keepalive_retries().unwrap();
        assert!(found_after <= Duration::from_secs(180), "{found_after:?}");
        assert!(server.tcp_nodelay().unwrap());
    }
}

/// CPU time of this thread.
fn time_on_a_core() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Restricts the calling thread to the first of its cores.
fn keep_to_one_core() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let allowed = sched_getaffinity(None).expect("it is told");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|&core| allowed.is_set(core)).expect("there is one"));
    sched_setaffinity(None, &one).expect("it may be used");
}
