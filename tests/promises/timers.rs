//! Timers with keys, of a handler and of one connection; periodic work that receives its handler.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use reactor::{Application, Backend, CloseReason, ConnectionId, Handler, Input, Service, Written};

use crate::stage::{client_of, read_all, read_exactly};
use crate::support::application::{Running, serve_with};
use crate::support::{GUARD, on_every_backend};

type Context<'a> = reactor::Context<'a, u32, Order>;
/// The key of a timer that is told while the application is stopping, and then lets the loop end.
const WHILE_STOPPING: u64 = u64::MAX;

type Act = dyn FnOnce(&mut Clock, &mut Context<'_>) + Send;

/// An order to the handler.
struct Order(Box<Act>);

/// Reports each timer that goes off: the connection, the key, and the time since the order that set the timer.
struct Clock {
    tell: Sender<(ConnectionId, u64)>,
    /// Calls of periodic work.
    beats: u32,
    /// When a timer is expected at the earliest, by its key.
    due: Vec<(u64, Duration)>,
}

impl Clock {
    fn went_off(&mut self, key: u64, cx: &mut Context<'_>) {
        for (_, due) in self.due.iter().filter(|(other, _)| *other == key) {
            assert!(cx.now() >= *due, "timer {key} is {:?} early", *due - cx.now());
        }
        self.tell.send((cx.id(), key)).expect("the test waits for it");
    }
}

impl Handler<Order> for Clock {
    /// How many timers have gone off.
    type Connection = u32;

    fn on_open(&mut self, cx: &mut Context<'_>) -> u32 {
        cx.write(cx.id().to_u64().to_be_bytes());
        cx.at(cx.id()).timers().set(0, Duration::from_millis(1));
        0
    }

    fn on_data(&mut self, _: &mut u32, input: &mut Input<'_>, _: &mut Context<'_>) {
        input.take_all();
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut u32>, order: Order, cx: &mut Context<'_>) {
        order.0(self, cx);
    }

    fn on_timer(&mut self, key: u64, cx: &mut Context<'_>) {
        assert_eq!((cx.id(), cx.write("nobody")), (ConnectionId::NONE, Written::Refused));
        if key != WHILE_STOPPING {
            self.went_off(key, cx);
        } else if cx.is_stopping() {
            self.went_off(key, cx);
            cx.timers().cancel(key);
            cx.hold_end(false);
        }
    }

    fn on_connection_timer(&mut self, count: &mut u32, key: u64, cx: &mut Context<'_>) {
        *count += 1;
        cx.write(count.to_be_bytes());
        self.went_off(key, cx);
    }

    fn on_close(&mut self, _: u32, _: CloseReason, cx: &mut Context<'_>) {
        // Too late: nothing of it goes off.
        cx.at(cx.id()).timers().set(100, Duration::ZERO);
    }
}

fn start(
    backend: Backend,
    configure: impl FnOnce(&mut Application) + Send + 'static,
) -> (Running<Order>, Receiver<(ConnectionId, u64)>) {
    let (tell, told) = channel();
    let factory = move || Clock { tell: tell.clone(), beats: 0, due: Vec::new() };
    let service =
        move || Service::tcp("127.0.0.1:0", factory).every(Duration::from_millis(1), |clock, _| clock.beats += 1);
    (serve_with(backend, service, configure), told)
}

fn order(running: &Running<Order>, order: impl FnOnce(&mut Clock, &mut Context<'_>) + Send + 'static) {
    running.service.post(ConnectionId::NONE, Order(Box::new(order))).unwrap_or_else(|error| panic!("{error}"));
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

on_every_backend! {
    // Rules 19 and 20.
    fn any_number_of_timers_of_a_handler_go_off_in_order_and_never_early(backend: Backend) {
        let (running, told) = start(backend, |_| {});
        order(&running, |clock, cx| {
            for key in 0..1000 {
                let span = ms(20 + key % 50);
                clock.due.push((key, cx.now() + span));
                cx.timers().set(key, span);
            }
        });
        let mut keys: Vec<u64> = (0..1000).map(|_| told.recv_timeout(GUARD).expect("it goes off").1).collect();
        keys.sort();
        assert_eq!(keys, (0..1000).collect::<Vec<_>>(), "each once");
    }

    fn a_timer_counts_from_the_end_of_the_callback_that_sets_it(backend: Backend) {
        let (running, told) = start(backend, |_| {});
        let (tell, begun) = channel();
        order(&running, move |_, cx| {
            cx.timers().set(1, ms(30));
            std::thread::sleep(ms(60));
            tell.send(Instant::now()).unwrap();
        });
        let begun = begun.recv_timeout(GUARD).unwrap();
        told.recv_timeout(GUARD).expect("it goes off");
        // The clock after a callback is exact to some milliseconds.
        assert!(begun.elapsed() >= ms(20), "{:?} after the end", begun.elapsed());
    }

    // Rule 20. The second is due in the turn in which the first cancels it.
    fn a_timer_that_is_cancelled_or_set_again_does_not_go_off_for_the_first_time(backend: Backend) {
        let (running, told) = start(backend, |_| {});
        order(&running, |_, cx| {
            let mut timers = cx.timers();
            timers.set(1, ms(1));
            timers.set(2, ms(1));
            timers.set(3, Duration::MAX);
            timers.set(3, ms(40));
            timers.set(4, ms(1));
            assert!(timers.cancel(4) && !timers.cancel(4) && !timers.is_set(4) && timers.is_set(3));
            std::thread::sleep(ms(10));
        });
        let first = told.recv_timeout(GUARD).expect("it goes off").1;
        order(&running, move |_, cx| {
            cx.timers().cancel(3 - first);
        });
        let mut rest = vec![told.recv_timeout(GUARD).expect("it goes off").1];
        if rest[0] != 3 {
            // The order came late: the second has gone off before it.
            assert_eq!(rest[0], 3 - first);
            rest[0] = told.recv_timeout(GUARD).expect("it goes off").1;
        }
        assert_eq!(rest, [3]);
        order(&running, |_, cx| cx.timers().set(5, Duration::ZERO));
        assert_eq!(told.recv_timeout(GUARD).expect("it goes off").1, 5, "and nothing else before it");
    }

    fn a_repeating_timer_goes_off_until_it_is_cancelled(backend: Backend) {
        let (running, told) = start(backend, |_| {});
        order(&running, |_, cx| cx.timers().every(7, ms(2)));
        (0..5).for_each(|_| assert_eq!(told.recv_timeout(GUARD).expect("it goes off").1, 7));
        let (tell, cancelled) = channel();
        order(&running, move |_, cx| tell.send(cx.timers().cancel(7)).unwrap());
        assert!(cancelled.recv_timeout(GUARD).unwrap());
        order(&running, |_, cx| cx.timers().set(8, ms(10)));
        while told.recv_timeout(GUARD).expect("it goes off").1 != 8 {}
        order(&running, |_, cx| cx.timers().set(9, ms(10)));
        assert_eq!(told.recv_timeout(GUARD).expect("it goes off").1, 9, "the other one is gone");
    }

    fn a_timer_of_a_connection_is_lent_its_state_and_ends_with_it(backend: Backend) {
        let (running, told) = start(backend, |_| {});
        let mut client = client_of(running.address());
        let id = ConnectionId::from_u64(u64::from_be_bytes(read_exactly(&mut client)));
        assert_eq!(told.recv_timeout(GUARD).expect("the one of on_open"), (id, 0));
        assert_eq!(read_exactly(&mut client), 1u32.to_be_bytes());
        order(&running, move |_, cx| cx.at(id).timers().every(1, ms(1)));
        assert_eq!(read_exactly(&mut client), 2u32.to_be_bytes());
        assert_eq!(read_exactly(&mut client), 3u32.to_be_bytes());
        order(&running, move |_, cx| {
            cx.at(id).timers().set(2, ms(1));
            cx.at(id).close();
            // Closing connections have no timers.
            cx.at(id).timers().set(3, Duration::ZERO);
        });
        read_all(&mut client);
        drop(client);
        order(&running, |_, cx| cx.timers().set(50, ms(20)));
        let after = std::iter::from_fn(|| told.recv_timeout(GUARD).ok()).take_while(|(_, key)| *key != 50);
        assert!(after.into_iter().all(|(of, key)| of == id && key == 1), "nothing of it after its close");
    }

    fn periodic_work_receives_the_handler(backend: Backend) {
        let (running, _told) = start(backend, |_| {});
        let start = Instant::now();
        loop {
            let (tell, beats) = channel();
            order(&running, move |clock, _| tell.send(clock.beats).unwrap());
            if beats.recv_timeout(GUARD).unwrap() >= 3 {
                return;
            }
            assert!(start.elapsed() < GUARD, "the work is not called");
        }
    }

    // Rule 24.
    fn timers_hold_up_no_stop_and_are_no_connections(backend: Backend) {
        let (running, _told) = start(backend, |application| {
            application.drain_timeout(None);
        });
        let (tell, listed) = channel();
        order(&running, move |_, cx| {
            cx.timers().every(1, ms(1));
            cx.timers().set(2, Duration::from_secs(3600));
            tell.send((cx.connections().len(), cx.stats().open)).unwrap();
        });
        assert_eq!(listed.recv_timeout(GUARD).unwrap(), (0, 0));
        let stats = running.handle.stats();
        assert_eq!((stats.accepted, stats.connected, stats.ended, stats.closed_total()), (0, 0, 0, 0));
        running.handle.halt();
        running.join().expect("it ends well");
    }

    // Rule 24.
    fn a_loop_whose_end_a_handler_holds_up_goes_on_until_the_handler_lets_go(backend: Backend) {
        let (running, told) = start(backend, |application| {
            application.drain_timeout(None);
        });
        let (tell, is_held) = channel();
        order(&running, move |_, cx| {
            cx.hold_end(true);
            cx.timers().every(WHILE_STOPPING, ms(1));
            tell.send(()).unwrap();
        });
        is_held.recv_timeout(GUARD).unwrap();
        running.handle.halt();
        assert_eq!(told.recv_timeout(GUARD).expect("the loop goes on"), (ConnectionId::NONE, WHILE_STOPPING));
        running.join().expect("it ends well");
    }

    // Rule 24.
    fn nothing_holds_up_the_end_of_a_loop_beyond_the_drain_time(backend: Backend) {
        let (running, _told) = start(backend, |application| {
            application.drain_timeout(Some(ms(20)));
        });
        let (tell, is_held) = channel();
        order(&running, move |_, cx| {
            cx.hold_end(true);
            tell.send(()).unwrap();
        });
        is_held.recv_timeout(GUARD).unwrap();
        running.handle.halt();
        running.join().expect("it ends well");
    }
}
