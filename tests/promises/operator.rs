//! A loop as an operator sees it: its counters, the slow callback, and the last events of a connection that ended
//! badly.

use std::io::Write;
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use reactor::{CloseReason, Limits};

use crate::stage::{Client, Plan, Stage};
use crate::support::{GUARD, on_every_backend, unless_chaos};

/// Part of the line about suspended accepting, which chaos causes.
const RESTS: &str = "new connections wait";
const HELD: &str = " held the loop for ";

/// The logged lines of all loops of this process.
struct Lines(Mutex<Vec<String>>);

static LINES: LazyLock<&'static Lines> = LazyLock::new(|| {
    let lines: &'static Lines = Box::leak(Box::new(Lines(Mutex::new(Vec::new()))));
    log::set_logger(lines).expect("nobody else sets one");
    log::set_max_level(LevelFilter::Warn);
    lines
});

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

impl Lines {
    /// Returns the lines that name `client`. Lines about slow callbacks are left out: on a busy machine any callback may be
    /// slow.
    fn about(&self, client: &Client) -> Vec<String> {
        let told = |line: &&String| line.contains(&client.local_addr().unwrap().to_string()) && !line.contains(HELD);
        self.0.lock().unwrap().iter().filter(told).cloned().collect()
    }
}

on_every_backend! {
    fn counters_are_readable_from_any_thread_while_a_callback_holds_the_loop(backend: Backend) {
        let (held, holds) = channel();
        let (let_go, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let stage = Stage::new(backend, Plan::new().data(move |input, _| {
            if input.take_all() == b"!" {
                held.send(()).unwrap();
                let _ = wait.lock().unwrap().recv();
            }
        }));
        let handle = stage.running.service.handle().clone();
        let (mut client, _) = stage.open();
        client.write_all(b"!").unwrap();
        holds.recv().unwrap();
        let stats = handle.stats();
        assert_eq!((stats.accepted, stats.received, stats.closed_total()), (1, 1, 0), "{stats}");
        drop(let_go);
        drop(client);
        stage.wait_until("it is counted as ended", |cx| cx.stats().closed_total() == 1);
        assert_eq!(handle.stats().closed(CloseReason::PeerEnded), 1);
    }

    fn the_turn_that_a_callback_made_long_is_in_the_lag(backend: Backend) {
        let longest = Duration::from_millis(40);
        let stage = Stage::new(backend, Plan::new());
        let before = stage.stats().lag;
        stage.ask(move |_| std::thread::sleep(longest));
        stage.wait_until("the turn is over", move |cx| cx.stats().lag.longest() >= longest);
        let lag = stage.stats().lag;
        assert!(lag.turns() > before.turns());
        let slow = lag.buckets().filter(|(end, _)| *end > longest).map(|(_, turns)| turns).sum::<u64>();
        let slow_before = before.buckets().filter(|(end, _)| *end > longest).map(|(_, turns)| turns).sum::<u64>();
        assert!(slow > slow_before, "{lag}");
        assert!(lag.quantile(1.0).unwrap() >= longest);
    }

    fn a_callback_that_held_the_loop_is_named_with_its_connection(backend: Backend) {
        let lines = *LINES;
        let stage = Stage::tuned(
            backend,
            Plan::new().data(|input, _| {
                if input.take_all().starts_with(b"s") {
                    std::thread::sleep(Duration::from_millis(60));
                }
            }),
            |service| service.named("sluggish"),
            |application| {
                application.slow_callback(Duration::from_millis(40));
            },
        );
        let (mut client, id) = stage.open();
        // Time in which the thread may have waited for a core does not count for a callback. So on a busy machine
        // several callbacks may pass before one is slow for certain.
        let begin = Instant::now();
        while stage.stats().slow_callbacks == 0 {
            assert!(begin.elapsed() < GUARD, "no slow callback was counted");
            client.write_all(b"slow").unwrap();
            stage.data(id, 4);
        }
        let address = client.local_addr().unwrap();
        let expected = format!("WARN sluggish: a callback of connection {id} from {address}{HELD}");
        assert!(lines.0.lock().unwrap().iter().any(|line| line.starts_with(&expected)));
    }

    fn a_connection_that_ends_in_a_panic_or_an_error_tells_its_last_events(backend: Backend) {
        let lines = *LINES;
        let stage = Stage::tuned(
            backend,
            Plan::new().data(|input, cx| {
                if input.as_slice().starts_with(b"panic") {
                    panic!("as the test has it");
                }
                if input.as_slice().ends_with(b".") {
                    cx.write(input.take_all());
                }
            }),
            |service| service.named("faulty").limits(Limits { input: 10, ..Limits::default() }),
            |_| {},
        );

        let (mut client, id) = stage.open();
        client.write_all(b"abc.").unwrap();
        stage.data(id, 4);
        client.write_all(b"panic").unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::Panicked);
        // The line may follow the callback.
        stage.ask(|_| {});
        let said = lines.about(&client);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("ERROR faulty: ") && said[0].ends_with("panicked: as the test has it"), "{said:?}");
        let expected = format!("WARN faulty: connection {id} from {} ended: panicked", client.local_addr().unwrap());
        assert!(said[1].starts_with(&expected), "{said:?}");
        assert!(said[1].contains("; before that: accepted "), "{said:?}");
        let panicked = said[1].clone();

        let (mut client, id) = stage.open();
        client.write_all(b"far too much").unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::InputOverflow { limit: 10 });
        stage.ask(|_| {});
        let said = lines.about(&client);
        assert!(said.len() == 1 && said[0].contains("over its limit"), "{said:?}");
        let overflowed = said[0].clone();

        let (client, id) = stage.open();
        client.shutdown(Shutdown::Both).unwrap();
        assert_eq!(stage.closed(id).0, CloseReason::PeerEnded);
        assert!(lines.about(&client).is_empty(), "that was routine");

        unless_chaos!("counts what one call moves");
        let told = ["; before that: accepted ", "received 4 bytes ", "sent 4 bytes ", "received 5 bytes "];
        let places = told.map(|what| panicked.find(what).unwrap_or_else(|| panic!("{what:?} in {panicked:?}")));
        assert!(places.is_sorted(), "{panicked:?}");
        assert!(overflowed.contains("received 12 bytes"), "{overflowed:?}");
    }

    fn connections_that_end_badly_do_not_fill_the_log(transport: Transport) {
        let lines = *LINES;
        let limits = Limits { input: 10, ..Limits::default() };
        let service = format!("flooded ({transport})");
        let plan = Plan::new().data(|_, _| {});
        let named = service.clone();
        let stage = Stage::tuned(transport, plan, |service| service.named(named).limits(limits), |_| {});
        let began = stage.ask(|cx| cx.now().as_secs());
        for _ in 0..100 {
            let (mut client, id) = stage.open();
            client.write_all(b"far too much").unwrap();
            stage.closed(id);
        }
        let seconds = stage.ask(|cx| cx.now().as_secs()) - began + 1;
        let badly = |line: &&String| line.contains(&service) && !line.contains(HELD) && !line.contains(RESTS);
        let told = lines.0.lock().unwrap().iter().filter(badly).count() as u64;
        assert!((1..=10 * seconds).contains(&told), "{told} lines in {seconds} seconds");
        assert_eq!(stage.stats().closed(CloseReason::InputOverflow { limit: 10 }), 100, "all are counted");
    }
}
