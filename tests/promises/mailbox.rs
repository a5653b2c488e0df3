//! Rule 23: messages of other threads. Wake-ups are few, mailboxes are bounded, and the end of the application is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use reactor::{Application, ConnectionId, Context, Handler, Input, PostError, Service};

use crate::stage::{Order, Plan, Stage};
use crate::support::application::serve;
use crate::support::{GUARD, on_every_backend};

/// Counts the messages of eight threads, and checks that each thread's numbers come in order.
struct Counter {
    next: [u64; 8],
    seen: Arc<AtomicU64>,
    turns: Arc<AtomicU64>,
}

impl Handler<(usize, u64)> for Counter {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_, (), (usize, u64)>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_, (), (usize, u64)>) {
        input.take_all();
    }

    fn on_message(
        &mut self,
        _: ConnectionId,
        _: Option<&mut ()>,
        (thread, number): (usize, u64),
        cx: &mut Context<'_, (), (usize, u64)>,
    ) {
        assert_eq!(self.next[thread], number);
        self.next[thread] += 1;
        self.turns.store(cx.stats().turns, SeqCst);
        self.seen.fetch_add(1, SeqCst);
    }
}

/// A service that only receives messages, and never replies.
struct Mute;

impl Handler<u8> for Mute {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_, (), u8>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_, (), u8>) {}
}

on_every_backend! {
    // Rule 23.
    fn a_million_messages_of_eight_threads_all_arrive_in_order_with_few_wake_ups(backend: Backend) {
        const EACH: u64 = 125_000;
        let (seen, turns) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, turn) = (seen.clone(), turns.clone());
        let running = serve(backend, move || Counter { next: [0; 8], seen: count.clone(), turns: turn.clone() });
        thread::scope(|scope| {
            for thread in 0..8 {
                let service = running.service.clone();
                scope.spawn(move || {
                    for number in 0..EACH {
                        service.post_wait(ConnectionId::NONE, (thread, number)).expect("the loop runs");
                    }
                });
            }
        });
        let start = Instant::now();
        while seen.load(SeqCst) < 8 * EACH {
            assert!(start.elapsed() < GUARD, "{} arrived", seen.load(SeqCst));
            thread::yield_now();
        }
        // At most one wake-up for each turn, since each turn clears the flag once.
        let turns = turns.load(SeqCst);
        assert!(turns < 8 * EACH / 10, "{turns} turns");
    }

    // Rule 23.
    fn a_full_mailbox_gives_the_message_back_and_takes_more_later(backend: Backend) {
        let stage = Stage::new(backend, Plan::new());
        let frozen = stage.freeze();
        let taken = Arc::new(AtomicU64::new(0));
        let mut posted = 0;
        let refused = loop {
            let taken = taken.clone();
            match stage.running.service.post(ConnectionId::NONE, Order(Box::new(move |_| {
                taken.fetch_add(1, SeqCst);
            }))) {
                Ok(()) => posted += 1,
                Err(error) => break error,
            }
            assert!(posted <= 1 << 20, "it is not bounded");
        };
        assert!(matches!(refused, PostError::Full(_)));
        drop(frozen);
        let order = refused.into_message();
        assert!(stage.running.service.post_wait(ConnectionId::NONE, order).is_ok(), "it runs");
        stage.wait_until("all were taken", move |_| taken.load(SeqCst) == posted + 1);
    }

    // Rule 23.
    fn who_posts_after_the_end_is_told(backend: Backend) {
        let stage = Stage::new(backend, Plan::new());
        let service = stage.running.service.clone();
        stage.end();
        assert!(matches!(service.post(ConnectionId::NONE, Order(Box::new(|_| {}))), Err(PostError::Closed(_))));
        assert!(matches!(service.post_wait(ConnectionId::NONE, Order(Box::new(|_| {}))), Err(PostError::Closed(_))));
        assert!(matches!(service.handle().publish(&"topic".into(), "bytes"), Err(PostError::Closed(_))));
    }

    // Rule 23.
    fn who_posts_to_an_application_that_never_runs_is_told(backend: Backend) {
        let mut application = Application::with_backend(backend).unwrap();
        let service = application.add_service(Service::outbound(|| Mute)).unwrap();
        drop(application);
        assert!(matches!(service.post_wait(ConnectionId::NONE, 7), Err(PostError::Closed(7))));
        assert!(matches!(service.handle().publish(&"topic".into(), "bytes"), Err(PostError::Closed(_))));
    }

    // Rule 23.
    fn what_was_posted_before_the_stop_is_handed_over_before_the_end(backend: Backend) {
        const MESSAGES: u64 = 20_000;
        let stage = Stage::new(backend, Plan::new());
        let handled = Arc::new(AtomicU64::new(0));
        let frozen = stage.freeze();
        for _ in 0..MESSAGES {
            let handled = handled.clone();
            stage.order(move |_| {
                handled.fetch_add(1, SeqCst);
            });
        }
        stage.running.handle.halt();
        drop(frozen);
        stage.end();
        assert_eq!(handled.load(SeqCst), MESSAGES);
    }
}
