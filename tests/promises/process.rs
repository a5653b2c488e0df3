//! Rules 22, 25, 26, 28 and 29: the loop among signals, many descriptors, started programs and listening sockets; every
//! descriptor and every byte is accounted for.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use reactor::{Address, Application, Context, Error, Handler, Input, Service, Written};
use rustix::process::Signal;

use crate::child::{Child, LINES, STARTS};
use crate::stage::{Client, Plan, Seen, Stage, client_of, pattern, read_all, reset, round_trip, same};
use crate::support::{GUARD, on_every_backend};

fn same_service(
    service: Service<crate::stage::Witness, crate::stage::Order>,
) -> Service<crate::stage::Witness, crate::stage::Order> {
    service
}

struct Nobody;

impl Handler for Nobody {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_>) {}
}

on_every_backend! {
    // Rule 22.
    fn a_storm_of_signals_loses_nothing(transport: Transport) {
        let child = Child::start("echo", transport);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    child.signal(Signal::USR1);
                    thread::sleep(Duration::from_micros(500));
                }
            });
            let talking: Vec<_> = (0..3).map(|_| scope.spawn(|| {
                let mut client = child.client();
                for number in 0..500 {
                    round_trip(&mut client, format!("line {number}\n").as_bytes());
                }
                // Covers blocked sends and partial reads as well.
                let lines = LINES.repeat(32);
                thread::scope(|scope| {
                    let writer = client.try_clone().unwrap();
                    let lines = &lines;
                    scope.spawn(move || {
                        (&writer).write_all(lines).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    same(&read_all(&mut client), lines);
                });
            })).collect();
            let outcomes: Vec<_> = talking.into_iter().map(|client| client.join()).collect();
            over.store(true, SeqCst);
            assert!(outcomes.iter().all(Result::is_ok));
        });
        assert_eq!(child.terminate(), Some(0));
    }

    // Rule 25. For epoll the test shows nothing more.
    fn descriptors_beyond_1024_are_served(backend: Backend) {
        let stage = Stage::patient(backend, Plan::echo());
        // Occupies low numbers, so the loop's descriptors are high. Other tests free some numbers meanwhile, so more
        // may be needed.
        let (mut held, mut clients) = (Vec::new(), Vec::<Client>::new());
        while clients.len() < 100 || !clients.iter().any(|client| client.as_raw_fd() > 1200) {
            held.extend((0..11).map(|_| std::fs::File::open("/dev/null").unwrap()));
            clients.push(stage.open().0);
        }
        for _ in 0..3 {
            clients.iter_mut().for_each(|client| round_trip(client, b"high"));
        }
        let bytes = pattern(4 << 20);
        let mut last = clients.pop().unwrap();
        thread::scope(|scope| {
            let writer = last.try_clone().unwrap();
            let bytes = &bytes;
            scope.spawn(move || {
                (&writer).write_all(bytes).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            same(&read_all(&mut last), bytes);
        });
    }

    // Rule 26.
    fn no_descriptor_goes_to_a_program_that_is_started(backend: Backend) {
        let (upstream, address) = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            (listener, address)
        };
        let stage = Stage::new(backend, Plan::echo());
        let (mut client, _) = stage.open();
        let id = stage.ask(move |cx| cx.connect(Address::Tcp(address), ()));
        stage.until(|seen| *seen == Seen::Connected(id));
        round_trip(&mut client, b"both ends are here");
        let starts = STARTS.read().unwrap_or_else(|failed| failed.into_inner());
        let listing = std::process::Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
        drop(starts);
        let listing = String::from_utf8(listing.stdout).unwrap();
        assert!(listing.contains("->"), "{listing}");
        assert!(!listing.contains("socket:") && !listing.contains("anon_inode:"), "{listing}");
        drop(upstream);
    }

    // Rule 28.
    fn a_port_is_bound_again_at_once_and_a_taken_one_is_noticed(backend: Backend) {
        // An own loopback address, so that no other socket gets the port when it is free.
        let host = if backend == reactor::Backend::Epoll { "127.0.0.77:0" } else { "127.0.0.79:0" };
        let plan = Plan::new().open(|cx| cx.close());
        let stage = Stage::at(backend, plan, move |factory| Service::tcp(host, factory), same_service, |_| {});
        let address = stage.address();
        // The side that closes first keeps its port in TIME_WAIT.
        let mut client = stage.client();
        assert_eq!(read_all(&mut client), b"");
        drop(client);
        let mut second = Application::with_backend(backend).unwrap();
        let taken = second.add_service(Service::tcp(&address.to_string(), || Nobody)).unwrap_err();
        match taken {
            Error::Bind { address: at, cause } => {
                assert_eq!((at, cause.kind()), (Address::Tcp(address), ErrorKind::AddrInUse));
            }
            other => panic!("{other:?}"),
        }
        let no_process_starts = STARTS.write().unwrap_or_else(|failed| failed.into_inner());
        stage.end();
        let again = Stage::at(backend, Plan::echo(), move |factory| {
            Service::tcp(&address.to_string(), factory)
        }, same_service, |_| {});
        drop(no_process_starts);
        assert_eq!(again.address(), address);
        round_trip(&mut again.client(), b"again");
    }

    // Rule 28.
    fn a_silent_client_is_noticed_unless_the_service_says_that_clients_speak_first(backend: Backend) {
        let stage = Stage::new(backend, Plan::echo());
        let _silent = stage.client();
        assert!(matches!(stage.next(), Seen::Opened(_)));
        let stage = Stage::tuned(backend, Plan::echo(), |service| service.client_speaks_first(GUARD), |_| {});
        let mut client = stage.client();
        stage.sees_nothing();
        round_trip(&mut client, b"now");
    }

    // Rule 29.
    fn nothing_is_left_of_applications_that_came_and_went(backend: Backend) {
        assert_eq!(Child::start("come and go", backend).wait(), Some(0));
    }

    // Rule 29.
    fn every_connection_and_every_byte_is_accounted_for(transport: Transport) {
        let totals = Arc::new(Mutex::new((0, 0)));
        let count = totals.clone();
        let plan = Plan::new().data(move |input, cx| {
            let bytes = input.take(input.len() / 2).unwrap_or_default();
            let mut totals = count.lock().expect("nobody panics");
            totals.0 += bytes.len();
            // Refused when sending has failed, while received bytes are still delivered.
            if cx.write(bytes) != Written::Refused {
                totals.1 += bytes.len();
            }
            match bytes.len() % 7 {
                0 => cx.pause_reading(),
                1 => cx.close(),
                2 => cx.abort(),
                _ => {}
            }
        });
        let stage = Stage::new(transport, plan);
        for size in (1..200).map(|number| number * 37) {
            let mut client = stage.client();
            client.write_all(&pattern(size)).unwrap();
            match size % 3 {
                0 => drop(client),
                1 => reset(client),
                _ => {
                    let id = stage.until(|seen| matches!(seen, Seen::Data(..))).id();
                    stage.order(move |cx| cx.at(id).close());
                }
            }
        }
        stage.wait_until("all were accepted", |cx| cx.stats().accepted == 199);
        // Paused connections stay until they are closed.
        stage.wait_until("all are closed", |cx| {
            cx.connections().into_iter().for_each(|id| cx.at(id).close());
            cx.stats().closed_total() == 199
        });
        let stats = stage.stats();
        let (consumed, written) = *totals.lock().unwrap();
        assert_eq!(stats.received, consumed as u64 + stats.unread, "{stats}");
        assert_eq!(written as u64, stats.sent + stats.unsent, "{stats}");
        assert_eq!(stats.accepted, 199);
        stage.wait_until("nobody is left", |cx| cx.stats().open == 0);
    }

    // Rule 29.
    fn several_applications_live_in_one_process(backend: Backend) {
        let stages: Vec<Stage> = (0..4).map(|_| Stage::new(backend, Plan::echo())).collect();
        for stage in &stages {
            round_trip(&mut client_of(stage.address()), b"each");
        }
        stages.into_iter().for_each(|stage| drop(stage.end()));
    }
}
