//! Each wait of a task: lines, bytes, time, values, the first of several.

use std::time::Duration;

use reactor::{Input, LengthPrefix, Limits};
use sequential::{Decoder, First, Peer, Queue, first, fork, in_thread, sleep, within};

use super::support::on_every_backend;
use super::{client, tasks, tasks_with, telling};

on_every_backend! {
    fn each_read_takes_its_item_however_the_bytes_are_cut(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let line = peer.until_eol().await.expect("a line");
            let word = peer.until(b' ').await.expect("a word");
            let five = peer.receive(5).await.expect("five bytes");
            let limited = peer.until_eol_within(3).await.expect("short").expect("a line");
            let longer = peer.until_eol_within(3).await;
            let capped = peer.until_within(b'd', 4).await.expect("four").expect("bytes");
            let some = peer.some().await.expect("bytes");
            peer.send(format!("{line:?} {word:?} {five:?} {limited:?} {} {capped:?} {some:?}", longer.is_err()));
        });
        let bytes = b"line\r\nword 12345abc\r\nabcd.";
        for cut in [1, 2, 3, 7, bytes.len()] {
            let mut client = client(&running);
            bytes.chunks(cut).for_each(|piece| client.send(piece));
            let answer = client.rest_as_text();
            assert_eq!(answer, r"Item(line\r\n) Item(word ) Item(12345) Item(abc\r\n) true Item(abcd) Item(.)", "{cut}");
        }
    }

    fn decoders_of_the_callback_face_work_and_lose_no_value(backend: Backend) {
        fn number(input: &mut Input<'_>) -> Option<u16> {
            input.take(2).map(|bytes| u16::from_be_bytes(bytes.try_into().expect("two bytes")))
        }
        let running = tasks(backend, async |peer: &mut Peer| {
            let mut numbers = Decoder::new(number);
            loop {
                // The first wait is always ready, so each decoding is cancelled when its value has come.
                let cancelled = first(std::future::ready(()), peer.decode(&mut numbers)).await;
                assert!(matches!(cancelled, First::One(())));
                match peer.decode(&mut numbers).await {
                    Some(number) => peer.send(format!("{number}\n")),
                    None => return peer.send(peer.rest()),
                }
            }
        });
        let mut client = client(&running);
        for number in [1u16, 256, 65535] {
            client.send(number.to_be_bytes());
            assert_eq!(client.line(), number.to_string());
        }
        client.send(b"\0\x07!");
        client.half_close();
        assert_eq!(client.rest_as_text(), "7\n!");
    }

    fn ready_decoders_of_the_callback_face_read_for_a_task(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let mut frames = Decoder::of(LengthPrefix::u16(10), |frame| frame.body.to_vec());
            loop {
                match peer.decode(&mut frames).await {
                    Some(Ok(body)) => {
                        peer.send(body);
                        peer.send("\n");
                    }
                    Some(Err(error)) => return peer.send(error.to_string()),
                    None => return,
                }
            }
        });
        let mut client = client(&running);
        client.send_by_bytes(b"\0\x03one\0\x05three");
        assert_eq!((client.line(), client.line()), ("one".into(), "three".into()));
        client.send(b"\0\x0bis too long");
        assert_eq!(client.rest_after_half_close(), b"an item is longer than 10 bytes");
    }

    fn the_first_wait_wins_and_the_cancelled_read_loses_no_byte(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let queue = Queue::new(1);
            let putter = queue.clone();
            fork(async move {
                loop {
                    if putter.put(()).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_micros(200)).await;
                }
            });
            let mut lost = 0;
            loop {
                // The queue first: it wins also in a poll for which a line was found already.
                match first(queue.take(), first(peer.until_eol(), sleep(Duration::from_millis(1)))).await {
                    First::One(_) | First::Other(First::Other(())) => lost += 1,
                    First::Other(First::One(Some(line))) => peer.send(&line),
                    First::Other(First::One(None)) => break,
                }
            }
            queue.close();
            peer.send(format!("cancelled: {}\n", lost > 0));
        });
        let mut client = client(&running);
        for round in 0..300 {
            let line = format!("{round}");
            client.send(&line.as_bytes()[..1]);
            client.send(&line.as_bytes()[1..]);
            assert_eq!(client.ask(""), line);
        }
        client.half_close();
        assert_eq!(client.rest_as_text(), "cancelled: true\n");
    }

    fn a_read_that_is_cancelled_in_the_poll_in_which_its_item_has_come_puts_it_back(backend: Backend) {
        use std::cell::Cell;
        use std::future::{Future, poll_fn};
        use std::pin::pin;
        use std::task::Poll;
        let running = tasks(backend, async |peer: &mut Peer| {
            let mut cancelled = 0;
            loop {
                let polls = Cell::new(0);
                {
                    // Ready at its second poll, which is that for which the line has come; the read is not looked at any more.
                    let mut read = pin!(peer.until_eol());
                    poll_fn(|cx| {
                        polls.set(polls.get() + 1);
                        if polls.get() == 2 {
                            return Poll::Ready(());
                        }
                        assert!(read.as_mut().poll(cx).is_pending());
                        Poll::Pending
                    })
                    .await;
                }
                cancelled += 1;
                let Some(line) = peer.until_eol().await else { break };
                peer.send(format!("{cancelled} "));
                peer.send(&line);
            }
        });
        let mut client = client(&running);
        for round in 1..=50 {
            assert_eq!(client.ask(&format!("line {round}")), format!("{round} line {round}"));
        }
        client.half_close();
        assert_eq!(client.rest_as_text(), "");
    }

    fn a_read_that_a_task_keeps_while_it_waits_for_something_else_loses_no_byte_and_does_not_spin(backend: Backend) {
        use std::future::{Future, poll_fn};
        use std::pin::pin;
        use std::task::Poll;
        let (tell, told) = telling();
        let running = tasks(backend, async move |peer: &mut Peer| {
            let sender = peer.sender();
            for _ in 0..3 {
                let mut read = pin!(peer.until_eol());
                // The read waits, and is not polled when its line comes: the task sleeps.
                assert!(poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx).is_pending())).await);
                let _ = tell.send(());
                sleep(Duration::from_millis(30)).await;
                let line = read.await.expect("a line comes");
                sender.send(&line);
            }
            sender.send(peer.some().await.expect("more has come").to_ascii_uppercase());
        });
        let mut client = client(&running);
        for text in ["one", "two", "three"] {
            told.next();
            assert_eq!(client.ask(text), text);
        }
        client.send("rest");
        assert_eq!(client.rest_as_text(), "REST");
    }

    fn a_set_of_futures_that_polls_only_woken_futures_gets_its_lines(backend: Backend) {
        use std::future::{Future, poll_fn};
        use std::pin::pin;
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};
        use std::task::{Context, Poll, Wake, Waker};

        /// The waker of a future in the set.
        struct Member(AtomicBool, Waker);
        impl Wake for Member {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
                self.1.wake_by_ref();
            }
        }

        /// Polls the future as a set does: only when the future was woken.
        async fn in_a_set<F: Future>(future: F) -> F::Output {
            let mut future = pin!(future);
            let mut member: Option<Arc<Member>> = None;
            poll_fn(|cx| {
                let member = member.get_or_insert_with(|| Arc::new(Member(AtomicBool::new(true), cx.waker().clone())));
                if !member.0.swap(false, Ordering::Relaxed) {
                    return Poll::Pending;
                }
                let waker = Waker::from(member.clone());
                future.as_mut().poll(&mut Context::from_waker(&waker))
            })
            .await
        }

        let running = tasks(backend, async |peer: &mut Peer| {
            while let Some(line) = in_a_set(peer.until_eol()).await {
                peer.send(&line);
            }
            peer.send("end\n");
        });
        let mut client = client(&running);
        for text in ["one", "two", "three"] {
            assert_eq!(client.ask(text), text);
        }
        client.half_close();
        assert_eq!(client.rest_as_text(), "end\n");
    }

    fn a_read_of_no_bytes_is_ready_at_once(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let nothing = peer.receive(0).await.expect("it waits for nothing");
            peer.send(format!("{} bytes\n", nothing.len()));
            while let Some(line) = peer.until_eol().await {
                assert!(peer.receive(0).await.expect("it waits for nothing").is_empty());
                peer.send(line.into_vec());
            }
        });
        let mut client = client(&running);
        assert_eq!(client.line(), "0 bytes");
        assert_eq!(client.ask("one"), "one");
        let long = "x".repeat(10_000);
        assert_eq!(client.ask(&long), long);
        assert_eq!(client.ask("two"), "two");
    }

    fn a_deadline_holds_on_any_wait_and_is_never_early(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let begun = std::time::Instant::now();
            let late = within(Duration::from_millis(40), peer.until_eol()).await;
            let waited = begun.elapsed() >= Duration::from_millis(40);
            peer.send(format!("{} {waited}\n", late.is_err()));
            let line = within(Duration::from_secs(60), peer.until_eol()).await.expect("in time").expect("a line");
            peer.send(&line);
            let queue = Queue::<()>::new(1);
            peer.send(format!("{}\n", within(Duration::from_millis(1), queue.take()).await.is_err()));
        });
        let mut client = client(&running);
        client.send("no end");
        assert_eq!(client.line(), "true true");
        assert_eq!(client.ask(""), "no end");
        assert_eq!(client.rest_as_text(), "true\n");
    }

    fn a_send_that_waits_holds_at_most_the_high_water_mark_and_a_piece(backend: Backend) {
        const PIECE: usize = 64 * 1024;
        let limits = Limits { output_high: 256 * 1024, output_low: 64 * 1024, output_max: 512 * 1024, ..Limits::default() };
        let running = tasks_with(backend, limits, async |peer: &mut Peer| {
            let piece = vec![b'x'; PIECE];
            while peer.until_eol().await.is_some() {
                for _ in 0..500 {
                    // Above `output_max` the connection would end.
                    assert!(peer.send_wait(&piece).await);
                }
            }
        });
        let mut client = client(&running);
        client.send("go\n");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(client.bytes(500 * PIECE).len(), 500 * PIECE);
        client.half_close();
        assert_eq!(client.rest(), b"");
    }

    fn a_value_comes_from_a_forked_task_and_from_a_thread(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let forked = fork(async {
                sleep(Duration::from_millis(5)).await;
                40
            });
            let from_thread = in_thread(|| {
                std::thread::sleep(Duration::from_millis(5));
                2
            });
            let sum = forked.await.expect("it does not panic") + from_thread.await.expect("a thread");
            peer.send(format!("{sum}\n"));
            let panicked = fork(async {
                panic!("on purpose");
            });
            let value: Option<()> = panicked.await;
            peer.send(format!("{value:?}\n"));
        });
        assert_eq!(client(&running).rest_as_text(), "42\nNone\n");
    }

    fn a_foreign_future_that_is_woken_from_another_thread_wakes_its_task(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            for round in 0..100 {
                let (mut thread, shared) = (None, std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
                std::future::poll_fn(|cx| {
                    if shared.load(std::sync::atomic::Ordering::Acquire) {
                        return std::task::Poll::Ready(());
                    }
                    let (waker, shared) = (cx.waker().clone(), shared.clone());
                    thread.get_or_insert_with(|| {
                        std::thread::spawn(move || {
                            shared.store(true, std::sync::atomic::Ordering::Release);
                            waker.wake();
                        })
                    });
                    std::task::Poll::Pending
                })
                .await;
                peer.send(format!("{round}\n"));
            }
        });
        let expected: String = (0..100).map(|round| format!("{round}\n")).collect();
        assert_eq!(client(&running).rest_as_text(), expected);
    }
}
