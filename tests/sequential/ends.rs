//! How a task hears of the end of its input, of its peer and of the application.

use std::time::Duration;

use reactor::{CloseReason, Limits, Runner, Service};
use sequential::{Peer, Queue, Tasks, fork, sleep};
use socket2::Socket;

use super::support::application::serve_by;
use super::support::on_every_backend;
use super::{client, echo, patient, tasks, tasks_with, telling};

/// Ends the connection with a reset.
fn reset(socket: Socket) {
    socket.set_linger(Some(Duration::ZERO)).expect("it is a socket");
}

on_every_backend! {
    fn at_the_end_of_input_a_read_yields_none_and_the_peer_can_still_be_sent_to(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            while let Some(line) = peer.until_eol().await {
                peer.send(&line);
            }
            assert!(peer.until_eol().await.is_none(), "again, and at once");
            assert_eq!(peer.reason(), None);
            let rest = peer.rest();
            peer.send(b"rest: ");
            peer.send(&rest);
            assert!(peer.rest().is_empty(), "it is taken once");
        });
        let mut client = client(&running);
        client.send("one\ntwo\nthr");
        client.half_close();
        assert_eq!(client.rest_as_text(), "one\ntwo\nrest: thr");
    }

    fn the_echo_of_six_lines_leaves_an_unended_line_unanswered(backend: Backend) {
        let running = tasks(backend, echo);
        let mut client = client(&running);
        assert_eq!(client.ask("one"), "You said: one");
        client.send("two\nthree");
        client.half_close();
        assert_eq!(client.rest_as_text(), "You said: two\n");
    }

    fn an_end_of_input_that_arrives_while_the_task_sleeps_comes_after_the_unread_bytes(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            peer.send("go\n");
            sleep(Duration::from_millis(150)).await;
            while let Some(line) = peer.until_eol().await {
                peer.send(&line);
                sleep(Duration::from_millis(5)).await;
            }
            peer.send(peer.rest());
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "go");
        client.send("one\ntwo\nthree\nfour");
        client.half_close();
        assert_eq!(client.rest_as_text(), "one\ntwo\nthree\nfour");
    }

    fn what_was_unread_at_the_end_can_be_read_in_other_pieces(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            assert!(peer.until_eol().await.is_none());
            let word = peer.until(b' ').await.expect("a word");
            let two = peer.receive(2).await.expect("two bytes");
            assert!(peer.receive(3).await.is_none(), "there are two");
            let all = peer.some().await.expect("two bytes");
            assert!(peer.some().await.is_none());
            peer.send(format!("{word:?} {two:?} {all:?}"));
        });
        let mut client = client(&running);
        client.send("word 1234");
        client.half_close();
        assert_eq!(client.rest_as_text(), "Item(word ) Item(12) Item(34)");
    }

    fn when_the_peer_is_gone_a_read_yields_none_and_the_reason_is_told(backend: Backend) {
        let (tell, told) = telling();
        let running = tasks(backend, async move |peer: &mut Peer| {
            peer.send("go\n");
            let line = peer.until_eol().await;
            let again = peer.until_eol().await;
            let _ = tell.send((line.is_none(), again.is_none(), peer.reason(), peer.rest().to_vec()));
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "go");
        client.send("no end");
        while running.handle.stats().received < 6 {
            std::thread::sleep(Duration::from_millis(5));
        }
        reset(client.writer());
        drop(client);
        assert_eq!(told.next(), (true, true, Some(CloseReason::Reset), b"no end".to_vec()));
    }

    fn a_task_whose_peer_goes_while_it_sleeps_goes_on_and_takes_the_unread_bytes(backend: Backend) {
        let (tell, told) = telling();
        let running = tasks(backend, async move |peer: &mut Peer| {
            peer.send("go\n");
            while peer.reason().is_none() {
                sleep(Duration::from_millis(10)).await;
            }
            sleep(Duration::from_millis(10)).await;
            let line = peer.until_eol().await.map(|line| line.to_vec());
            let end = peer.until_eol().await.is_none();
            peer.send("nobody hears this");
            let _ = tell.send((line, end, peer.reason()));
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "go");
        client.send("last\n");
        // The bytes are read before the reset arrives, since a pause drops what the loop has not read.
        while running.handle.stats().received < 5 {
            std::thread::sleep(Duration::from_millis(5));
        }
        reset(client.writer());
        drop(client);
        assert_eq!(told.next(), (Some(b"last\n".to_vec()), true, Some(CloseReason::Reset)));
    }

    fn a_panic_costs_its_connection_and_no_other(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            while let Some(line) = peer.until_eol().await {
                assert!(&*line != b"panic\n", "a task panics on purpose");
                peer.send(&line);
            }
        });
        let (mut one, mut other) = (client(&running), client(&running));
        assert_eq!((one.ask("a"), other.ask("b")), ("a".into(), "b".into()));
        one.send("panic\n");
        assert!(one.is_ended());
        assert_eq!(other.ask("c"), "c");
        assert_eq!(running.handle.stats().panics, 1);
        assert_eq!(running.handle.stats().closed(CloseReason::Panicked), 1);
    }

    fn a_panic_of_a_task_that_another_connection_wakes_costs_the_tasks_own_connection(backend: Backend) {
        let running = {
            let make = || {
                let queue = Queue::new(4);
                let task = async move |peer: &mut Peer| {
                    let line = peer.until_eol().await;
                    if line.is_some_and(|line| &*line == b"wait\n") {
                        peer.send("waiting\n");
                        let word: Option<&str> = queue.take().await;
                        panic!("on purpose: {word:?}");
                    }
                    queue.put("boo").await.expect("it is open");
                    peer.send("put\n");
                    while let Some(line) = peer.until_eol().await {
                        peer.send(&line);
                    }
                };
                Tasks::new(task)
            };
            serve_by(backend, Runner::default(), move || Service::tcp("127.0.0.1:0", make).deadlines(patient()), |_| {})
        };
        let (mut one, mut other) = (client(&running), client(&running));
        assert_eq!(one.ask("wait"), "waiting");
        assert_eq!(other.ask("put"), "put");
        assert!(one.is_ended());
        assert_eq!(other.ask("still there"), "still there");
        assert_eq!(running.handle.stats().closed(CloseReason::Panicked), 1);
    }

    fn a_stop_lets_a_task_answer_what_has_arrived_and_finish(backend: Backend) {
        let (tell, told) = telling();
        let running = tasks(backend, async move |peer: &mut Peer| {
            while let Some(line) = peer.until_eol().await {
                let _ = tell.send(());
                sleep(Duration::from_millis(50)).await;
                peer.send(&line);
            }
            assert!(peer.is_stopping());
            peer.send("goodbye\n");
        });
        let mut client = client(&running);
        client.send("one\ntwo\n");
        told.next();
        running.handle.halt();
        assert_eq!(client.rest_as_text(), "one\ntwo\ngoodbye\n");
        drop(client);
        running.join().expect("it ends well");
    }

    fn a_task_that_sleeps_through_a_stop_reads_every_line_that_has_arrived(backend: Backend) {
        let (tell, told) = telling();
        let running = tasks(backend, async move |peer: &mut Peer| {
            assert!(peer.until_eol().await.is_some());
            let _ = tell.send(());
            sleep(Duration::from_millis(100)).await;
            while let Some(line) = peer.until_eol().await {
                peer.send(&line);
            }
            assert!(peer.is_stopping());
        });
        let mut client = client(&running);
        client.send("one\ntwo\nthree\nfour\n");
        told.next();
        running.handle.halt();
        assert_eq!(client.rest_as_text(), "two\nthree\nfour\n");
        running.join().expect("it ends well");
    }

    fn a_task_that_does_not_end_is_dropped_at_the_drain_deadline(backend: Backend) {
        struct Dropped(std::sync::mpsc::Sender<()>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (tell, told) = telling();
        let task = async move |peer: &mut Peer| {
            let _dropped = Dropped(tell.clone());
            peer.send("go\n");
            loop {
                sleep(Duration::from_secs(3600)).await;
            }
        };
        let make = move || Service::tcp("127.0.0.1:0", move || Tasks::new(task.clone()));
        let running = serve_by(backend, Runner::default(), make, |app| {
            app.drain_timeout(Some(Duration::from_millis(50)));
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "go");
        running.handle.halt();
        told.next();
        assert!(client.is_ended());
        running.join().expect("it ends well");
    }

    fn forked_tasks_do_not_hold_up_a_stop(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            fork(async {
                loop {
                    sleep(Duration::from_secs(1)).await;
                }
            });
            peer.send("go\n");
            peer.until_eol().await;
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "go");
        running.handle.halt();
        assert_eq!(client.rest(), b"");
        drop(client);
        running.join().expect("it ends well");
    }

    fn a_task_whose_peer_is_gone_ends_by_itself_although_the_application_stops(backend: Backend) {
        let (tell, told) = telling();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = std::sync::Arc::new(std::sync::Mutex::new(released));
        let running = tasks(backend, async move |peer: &mut Peer| {
            peer.send("go\n");
            while peer.until_eol().await.is_some() {}
            let _ = tell.send(peer.reason());
            while released.lock().expect("no panic").try_recv().is_err() {
                sleep(Duration::from_millis(1)).await;
            }
            let _ = tell.send(None);
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "go");
        reset(client.writer());
        drop(client);
        assert_eq!(told.next(), Some(CloseReason::Reset));
        running.handle.halt();
        release.send(()).expect("the task waits for it");
        assert_eq!(told.next(), None, "the task has ended by itself");
        running.join().expect("it ends well");
    }

    fn a_task_whose_peer_is_gone_goes_on_where_each_connection_has_a_thread(backend: Backend) {
        let (tell, told) = telling();
        let make = move || {
            let task = async move |peer: &mut Peer| {
                peer.send("go\n");
                while peer.until_eol().await.is_some() {}
                let _ = tell.send(peer.reason());
                sleep(Duration::from_millis(20)).await;
                let _ = tell.send(None);
            };
            Service::tcp("127.0.0.1:0", move || Tasks::new(task.clone())).deadlines(patient())
        };
        let running = serve_by(backend, Runner::threads(), make, |_| {});
        let mut client = client(&running);
        assert_eq!(client.line(), "go");
        reset(client.writer());
        drop(client);
        assert_eq!(told.next(), Some(CloseReason::Reset));
        assert_eq!(told.next(), None, "the task has ended by itself");
        running.handle.halt();
        running.join().expect("it ends well");
    }

    fn a_forked_task_that_panics_ends_alone(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            while let Some(line) = peer.until_eol().await {
                let forked = fork(async move {
                    sleep(Duration::from_millis(1)).await;
                    assert!(&*line != b"panic\n", "a task panics on purpose");
                });
                peer.send(if forked.await.is_some() { "done\n" } else { "panicked\n" });
            }
        });
        let mut client = client(&running);
        assert_eq!((client.ask("a"), client.ask("panic"), client.ask("b")), ("done".into(), "panicked".into(), "done".into()));
        let stats = running.handle.stats();
        assert_eq!((stats.panics, stats.closed_total(), stats.ended), (1, 0, 0));
    }

    fn a_line_over_the_limit_of_the_input_is_the_end_with_its_reason(backend: Backend) {
        let (tell, told) = telling();
        let limits = Limits { input: 1000, ..Limits::default() };
        let running = tasks_with(backend, limits, async move |peer: &mut Peer| {
            assert!(peer.until_eol().await.is_none());
            let _ = tell.send(peer.reason());
        });
        let mut client = client(&running);
        let _ = client.try_send(vec![b'x'; 4000]);
        assert_eq!(told.next(), Some(CloseReason::InputOverflow { limit: 1000 }));
    }

    fn unread_input_waits_at_the_peer_while_the_task_sleeps(backend: Backend) {
        let limits = Limits { input: 1000, ..Limits::default() };
        let running = tasks_with(backend, limits, async |peer: &mut Peer| {
            peer.send("go\n");
            sleep(Duration::from_millis(100)).await;
            let mut lines = 0;
            while peer.until_eol().await.is_some() {
                lines += 1;
            }
            peer.send(format!("{lines}\n"));
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "go");
        let mut writer = client.writer();
        let writer = std::thread::spawn(move || {
            use std::io::Write;
            writer.write_all(&b"0123456789\n".repeat(100_000)).expect("it is taken");
            writer.shutdown(std::net::Shutdown::Write).expect("it is open");
        });
        assert_eq!(client.rest_as_text(), "100000\n");
        writer.join().expect("it writes");
    }
}
