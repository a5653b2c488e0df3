//! Sends that leave together, in one system call where the system can do so. The rules of single sends hold for each of them.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use reactor::{BatchSends, CloseReason, ConnectionId, Limits, SlowPolicy, Topic};

use crate::stage::{Client, Plan, Stage, Transport};
use crate::support::on_every_backend;

/// Connections of a test: each turn has as many sends.
const MANY: usize = 40;

/// Every connection is a member, and two sends of a turn leave together already.
fn stage(transport: Transport, topic: &Topic, limits: Limits) -> Stage {
    let topic = topic.clone();
    let plan = Plan::new().open(move |cx| {
        cx.subscribe(&topic);
    });
    Stage::tuned(
        transport,
        plan,
        move |service| service.limits(limits),
        |application| {
            application.batch_sends(BatchSends::Always);
        },
    )
}

fn read(client: &mut Client, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

fn rest(client: &mut Client) -> Vec<u8> {
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    all
}

on_every_backend! {
    // Rules 12 and 30.
    fn publications_and_writes_to_many_arrive_whole_and_in_the_order_of_their_calls(transport: Transport) {
        let topics = ["one", "two"].map(Topic::from);
        let stage = stage(transport, &topics[0], Limits::default());
        let (mut clients, ids): (Vec<_>, Vec<_>) = (0..MANY).map(|_| stage.open()).unzip();
        // Half of the members hear both topics, so the order of two topics shows.
        let (both, second) = (ids.clone(), topics[1].clone());
        stage.ask(move |cx| both.iter().step_by(2).all(|&id| cx.at(id).subscribe(&second)));
        for round in 0..100 {
            let (ids, topics) = (ids.clone(), topics.clone());
            stage.order(move |cx| {
                // Some turns have writes alone, some have publications alone, and most have both.
                if round % 3 != 0 {
                    cx.publish(&topics[0], format!("a{round:03}"));
                    cx.publish(&topics[1], format!("b{round:03}"));
                    cx.publish(&topics[0], format!("c{round:03}"));
                }
                if round % 5 != 0 {
                    for &id in &ids {
                        cx.at(id).write(format!("w{round:03}"));
                    }
                }
                if round % 7 == 0 {
                    cx.publish_except(&topics[0], format!("d{round:03}"), ids[3]);
                }
            });
        }
        for (at, client) in clients.iter_mut().enumerate() {
            for round in 0..100 {
                let is_sent = |letter: char| match letter {
                    'b' => round % 3 != 0 && at % 2 == 0,
                    'w' => round % 5 != 0,
                    'd' => round % 7 == 0 && at != 3,
                    _ => round % 3 != 0,
                };
                let expected: String =
                    "abcwd".chars().filter(|&letter| is_sent(letter)).map(|letter| format!("{letter}{round:03}")).collect();
                let heard = read(client, expected.len());
                assert_eq!(String::from_utf8_lossy(&heard), expected, "client {at}");
            }
        }
        let stats = stage.stats();
        assert_eq!(stats.unsent, 0);
    }

    // Rules 11, 12 and 14.
    fn a_member_that_does_not_read_and_one_that_is_gone_cost_the_others_nothing(transport: Transport) {
        let topic = Topic::new("news");
        let limits = Limits { member_queue: 32 << 20, slow_members: SlowPolicy::Disconnect, ..Limits::default() };
        let stage = stage(transport, &topic, limits);
        let mut slow = stage.narrow_client();
        let slow_id = stage.until(|seen| matches!(seen, crate::stage::Seen::Opened(_))).id();
        let mut gone = Some(stage.open().0);
        let (mut clients, ids): (Vec<_>, Vec<_>) = (0..MANY).map(|_| stage.open()).unzip();
        let message = |number: u32| -> Vec<u8> { number.to_be_bytes().repeat(8 * 1024) };
        let readers: Vec<_> = clients
            .drain(..)
            .map(|mut client| {
                thread::spawn(move || {
                    (0..100u32).for_each(|number| assert!(read(&mut client, 32 * 1024) == message(number)));
                    client
                })
            })
            .collect();
        for number in 0..100 {
            let (topic, message) = (topic.clone(), message(number));
            stage.ask(move |cx| cx.publish(&topic, message));
            if number == 50 {
                // Unread bytes, so the kernel resets the connection in the middle of the messages.
                gone = None;
            }
        }
        assert!(gone.is_none());
        let clients: Vec<Client> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        (0..100u32).for_each(|number| assert!(read(&mut slow, 32 * 1024) == message(number), "message {number}"));
        let all = [ids, vec![slow_id]].concat();
        assert!(stage.ask(move |cx| all.iter().all(|&id| cx.at(id).exists())));
        drop(clients);
    }

    // Rule 13.
    fn the_end_comes_after_the_last_bytes_where_many_are_closed_at_once(transport: Transport) {
        let topic = Topic::new("news");
        let stage = stage(transport, &topic, Limits::default());
        let (mut clients, ids): (Vec<_>, Vec<ConnectionId>) = (0..MANY).map(|_| stage.open()).unzip();
        let (told, was_told) = (Arc::new(AtomicBool::new(false)), ids.clone());
        let tell = told.clone();
        stage.order(move |cx| {
            cx.publish(&topic, "first, ");
            for &id in &was_told {
                cx.at(id).write("then this, ");
            }
            cx.publish(&topic, "last");
            for &id in &was_told {
                cx.at(id).close();
            }
            tell.store(true, SeqCst);
        });
        for client in &mut clients {
            assert_eq!(rest(client), b"first, then this, last");
            let _ = client.write(b"too late");
        }
        assert!(told.load(SeqCst));
        drop(clients);
        for _ in ids {
            let closed = stage.until(|seen| matches!(seen, crate::stage::Seen::Closed(..)));
            assert!(matches!(closed, crate::stage::Seen::Closed(_, CloseReason::Closed, 0)), "{closed:?}");
        }
    }
}
