//! What an operator sees of a loop: its counters, the callback that held it, and the last events of a connection that
//! ended badly.

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reactor::CloseReason;

use crate::stage::{Plan, Stage};
use crate::support::on_every_backend;

on_every_backend! {
    fn counters_are_readable_from_any_thread_while_a_callback_holds_the_loop(backend: Backend) {
        let (held, holds) = channel();
        let (let_go, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let stage = Stage::new(backend, Plan::new().data(move |input, _| {
            if input.take_all() == b"hold" {
                held.send(()).unwrap();
                let _ = wait.lock().unwrap().recv();
            }
        }));
        let handle = stage.running.service.handle().clone();
        let (mut client, _) = stage.open();
        client.write_all(b"hold").unwrap();
        holds.recv().unwrap();
        let stats = handle.stats();
        assert_eq!((stats.accepted, stats.received, stats.closed_total()), (1, 4, 0), "{stats}");
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
}
