//! Messages that callbacks post to other loops: no message is lost, order is kept, and reading pauses for a connection
//! that posts more than the other loop takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use reactor::{Backend, ConnectionId, Context, Handler, Input, PostError, Runner, Service, ServiceHandle};

use crate::stage::{client_of, round_trip};
use crate::support::application::{Running, serve_by};
use crate::support::{GUARD, on_every_backend};

/// Three times the capacity of a mailbox.
const FLOOD: usize = 200_000;

enum Message {
    Number(usize),
    /// Forwarded to the connection: the number, and how many times.
    Forward(ConnectionId, usize, usize),
    /// Goes back and forth between two connections, doubling each time, until a mailbox is full.
    Double(ConnectionId, ConnectionId),
    /// Holds the loop until the other end of the receiver is dropped.
    Freeze(Sender<()>, Receiver<()>),
}

/// Answers each line; `flood` posts [`FLOOD`] numbers to the most recently opened connection.
struct Poster {
    opened: Sender<ConnectionId>,
    latest: Arc<Mutex<ConnectionId>>,
    heard: Sender<usize>,
    lines: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Poster {
    fn post(&self, to: ConnectionId, message: Message, handle: &ServiceHandle<Message>) {
        if let Err(error) = handle.post(to, message) {
            assert!(matches!(error, PostError::Full(_)), "the loop is there");
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Handler<Message> for Poster {
    type Connection = ();

    fn on_open(&mut self, cx: &mut Context<'_, (), Message>) {
        *self.latest.lock().unwrap() = cx.id();
        let _ = self.opened.send(cx.id());
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_, (), Message>) {
        let handle = cx.service_handle();
        while let Some(line) = input.until_eol() {
            self.lines.fetch_add(1, Ordering::SeqCst);
            if line == b"flood\n" {
                let to = *self.latest.lock().unwrap();
                (0..FLOOD).for_each(|number| self.post(to, Message::Number(number), &handle));
            }
            cx.write(line);
        }
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, message: Message, cx: &mut Context<'_, (), Message>) {
        let handle = cx.service_handle();
        match message {
            Message::Number(number) => drop(self.heard.send(number)),
            Message::Forward(to, number, times) => {
                (0..times).for_each(|_| self.post(to, Message::Number(number), &handle));
            }
            Message::Double(here, there) => {
                if self.refused.load(Ordering::SeqCst) == 0 {
                    self.post(there, Message::Double(there, here), &handle);
                    self.post(there, Message::Double(there, here), &handle);
                }
            }
            Message::Freeze(frozen, thawed) => {
                let _ = frozen.send(());
                let _ = thawed.recv();
            }
        }
    }
}

struct Posting {
    running: Running<Message>,
    opened: Receiver<ConnectionId>,
    heard: Receiver<usize>,
    lines: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Posting {
    fn by(backend: Backend, runner: Runner) -> Self {
        let ((opened, is_opened), (heard, is_heard)) = (channel(), channel());
        let senders = Mutex::new((opened, heard));
        let (latest, lines, refused): (Arc<Mutex<ConnectionId>>, _, _) = Default::default();
        let factory = {
            let (latest, lines, refused) = (Arc::clone(&latest), Arc::clone(&lines), Arc::clone(&refused));
            move || {
                let (opened, heard) = senders.lock().unwrap().clone();
                let (latest, lines, refused) = (Arc::clone(&latest), Arc::clone(&lines), Arc::clone(&refused));
                Poster { opened, latest, heard, lines, refused }
            }
        };
        let running = serve_by(backend, runner, || Service::tcp("127.0.0.1:0", factory), |_| {});
        Posting { running, opened: is_opened, heard: is_heard, lines, refused }
    }

    fn open(&self) -> (TcpStream, ConnectionId) {
        let client = client_of(self.running.address());
        (client, self.opened.recv_timeout(GUARD).expect("it is served"))
    }

    /// Holds the loop of this connection until the returned sender is dropped.
    fn freeze(&self, id: ConnectionId) -> Sender<()> {
        let ((frozen, is_frozen), (thaw, thawed)) = (channel(), channel());
        self.running.service.post(id, Message::Freeze(frozen, thawed)).unwrap_or_else(|error| panic!("{error}"));
        is_frozen.recv_timeout(GUARD).expect("the loop comes to that");
        thaw
    }

    fn expect_numbers(&self, expected: impl Iterator<Item = usize>) {
        for number in expected {
            assert_eq!(self.heard.recv_timeout(GUARD), Ok(number));
        }
        assert_eq!(self.refused.load(Ordering::SeqCst), 0);
    }
}

on_every_backend! {
    fn a_flood_that_one_callback_posts_arrives_whole_and_in_order_and_the_poster_is_not_read_meanwhile(backend: Backend) {
        let posting = Posting::by(backend, Runner::loops(2).unwrap());
        // The first and the third connection are served by one loop, the second and the fourth by the other.
        let ((mut poster, _), _second, (mut beside, _), (_fourth, to)) =
            (posting.open(), posting.open(), posting.open(), posting.open());
        let thaw = posting.freeze(to);
        poster.write_all(b"flood\n").unwrap();
        // The answer shows that the callback has returned, and the next turn that its turn is over.
        let mut answer = [0; 6];
        poster.read_exact(&mut answer).unwrap();
        round_trip(&mut beside, b"a turn more\n");
        let before = posting.lines.load(Ordering::SeqCst);
        poster.write_all(b"flood\nflood\nflood\nflood\n").unwrap();
        for _ in 0..10 {
            round_trip(&mut beside, b"everybody else is served\n");
        }
        assert_eq!(posting.lines.load(Ordering::SeqCst), before + 10, "the poster is not read");
        drop(thaw);
        posting.expect_numbers((0..5).flat_map(|_| 0..FLOOD));
        poster.read_exact(&mut [0; 24]).unwrap();
        round_trip(&mut poster, b"and goes on\n");
    }

    fn a_flood_to_the_own_loop_and_to_connections_with_a_thread_each_arrives_whole(backend: Backend) {
        for runner in [Runner::loops(1).unwrap(), Runner::threads()] {
            let posting = Posting::by(backend, runner);
            let ((mut poster, _), (_to, _)) = (posting.open(), posting.open());
            poster.write_all(b"flood\n").unwrap();
            posting.expect_numbers(0..FLOOD);
            poster.read_exact(&mut [0; 6]).unwrap();
            round_trip(&mut poster, b"and goes on\n");
        }
    }

    fn what_on_message_passes_on_slows_down_the_thread_that_posts_and_nothing_is_lost(backend: Backend) {
        let posting = Posting::by(backend, Runner::loops(2).unwrap());
        let ((_by, by), (_to, to)) = (posting.open(), posting.open());
        let thaw = posting.freeze(to);
        let service = posting.running.service.clone();
        let thread = std::thread::spawn(move || {
            // The mailboxes of both loops, and the queues between them, are full long before the end.
            (0..2 * FLOOD).for_each(|number| service.post_wait(by, Message::Forward(to, number, 1)).unwrap_or_else(|_| panic!()));
        });
        drop(thaw);
        posting.expect_numbers(0..2 * FLOOD);
        thread.join().unwrap();
    }

    fn two_loops_that_cause_ever_more_messages_for_each_other_get_them_back_and_go_on(backend: Backend) {
        let posting = Posting::by(backend, Runner::loops(2).unwrap());
        let ((mut one, first), (mut other, second)) = (posting.open(), posting.open());
        posting.running.service.post(first, Message::Double(first, second)).unwrap_or_else(|_| panic!());
        while posting.refused.load(Ordering::SeqCst) == 0 {
            round_trip(&mut one, b"still served\n");
            round_trip(&mut other, b"still served\n");
        }
        // The remaining messages are delivered, and cause no further message.
        posting.running.service.post_wait(second, Message::Number(7)).unwrap_or_else(|_| panic!());
        assert_eq!(posting.heard.recv_timeout(GUARD), Ok(7));
        round_trip(&mut one, b"and afterwards\n");
    }

    fn a_loop_with_one_connection_that_ends_lets_go_of_who_waits_for_room_in_its_mailbox(backend: Backend) {
        let posting = Posting::by(backend, Runner::threads());
        let ((mut poster, _), (to, to_id)) = (posting.open(), posting.open());
        let thaw = posting.freeze(to_id);
        poster.write_all(b"flood\n").unwrap();
        poster.read_exact(&mut [0; 6]).unwrap();
        poster.write_all(b"more\n").unwrap();
        drop(to);
        drop(thaw);
        // Remaining messages have no receiver. Some were delivered before the loop ended.
        poster.read_exact(&mut [0; 5]).unwrap();
        round_trip(&mut poster, b"and goes on\n");
        assert_eq!(posting.refused.load(Ordering::SeqCst), 0);
    }
}
