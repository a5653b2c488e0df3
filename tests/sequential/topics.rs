//! Awaiting the messages of topics, under every model that runs in this process.

use std::time::Duration;

use reactor::{Runner, Service, Topic};
use sequential::{First, Peer, Subscription, Tasks, Wake, first, publish, sleep, subscribe};

use super::support::application::{Running, serve_by};
use super::support::client::Client;
use super::support::on_every_backend;
use super::{client, patient, tasks, telling};

/// Says to everybody what anybody says, in capitals.
async fn shouting(peer: &mut Peer) {
    let room = Topic::new("room");
    let mut said = subscribe(&room);
    peer.send("welcome\n");
    loop {
        match first(peer.until_eol(), said.message()).await {
            First::One(Some(line)) => publish(&room, line.to_vec()),
            First::Other(Some(message)) => peer.send(message.to_ascii_uppercase()),
            First::One(None) | First::Other(None) => return,
        }
    }
}

/// Every client hears every line, in the order of each sender.
fn everybody_hears_everybody(running: &Running<Wake>) {
    let mut clients: Vec<Client> = (0..4).map(|_| client(running)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.line(), "welcome"));
    // Another loop learns of a member at the end of a turn: a first line that reaches all shows that all are known.
    for speaker in 0..clients.len() {
        clients[speaker].send(format!("one of {speaker}\ntwo of {speaker}\n"));
        for client in &mut clients {
            assert_eq!(client.line(), format!("ONE OF {speaker}"));
            assert_eq!(client.line(), format!("TWO OF {speaker}"));
        }
    }
}

fn serve(runner: Runner, backend: reactor::Backend) -> Running<Wake> {
    let make = || Service::tcp("127.0.0.1:0", || Tasks::new(shouting)).deadlines(patient());
    serve_by(backend, runner, make, |_| {})
}

on_every_backend! {
    fn tasks_of_one_loop_await_the_messages_of_a_topic(backend: Backend) {
        everybody_hears_everybody(&serve(Runner::default(), backend));
    }

    fn tasks_of_several_loops_await_the_messages_of_a_topic(backend: Backend) {
        everybody_hears_everybody(&serve(Runner::loops(2).expect("two are allowed"), backend));
    }

    fn tasks_in_threads_await_the_messages_of_a_topic(backend: Backend) {
        everybody_hears_everybody(&serve(Runner::threads(), backend));
    }

    fn a_slow_task_misses_the_oldest_messages_and_learns_how_many(backend: Backend) {
        const MORE: usize = 10;
        let running = tasks(backend, async |peer: &mut Peer| {
            let topic = Topic::new("numbers");
            let mut numbers = subscribe(&topic);
            // The subscription begins when the task waits next.
            sleep(Duration::ZERO).await;
            for number in 0..Subscription::MESSAGES + MORE {
                publish(&topic, format!("{number}"));
            }
            // All are published in one turn, and arrive before the task goes on.
            while numbers.try_message().is_none() {
                sleep(Duration::from_millis(1)).await;
            }
            while numbers.try_message().is_some() {}
            peer.send(format!("missed {}\n", numbers.missed()));
            publish(&topic, "one more");
            peer.send(numbers.message().await.expect("the application goes on"));
            peer.send(format!(", missed {}\n", numbers.missed()));
        });
        let mut client = client(&running);
        assert_eq!(client.line(), format!("missed {MORE}"));
        assert_eq!(client.line(), "one more, missed 0");
    }

    fn a_subscription_that_is_dropped_gets_nothing_more_and_a_new_one_begins_empty(backend: Backend) {
        let running = tasks(backend, async |peer: &mut Peer| {
            let topic = Topic::new("news");
            let mut news = subscribe(&topic);
            publish(&topic, "old\n");
            peer.send(news.message().await.expect("the application goes on"));
            drop(news);
            publish(&topic, "unheard\n");
            sleep(Duration::from_millis(5)).await;
            let mut news = subscribe(&topic);
            publish(&topic, "new\n");
            peer.send(news.message().await.expect("the application goes on"));
        });
        assert_eq!(client(&running).rest_as_text(), "old\nnew\n");
    }

    fn when_the_application_stops_a_subscription_yields_none_after_the_messages_that_wait(backend: Backend) {
        let (tell, told) = telling();
        let running = tasks(backend, async move |peer: &mut Peer| {
            let mut news = subscribe(&Topic::new("news"));
            let _ = tell.send(());
            while let Some(message) = news.message().await {
                peer.send(message);
            }
            peer.send("goodbye\n");
        });
        let mut client = client(&running);
        told.next();
        running.handle.publish(&Topic::new("news"), "something\n").expect("there is room");
        assert_eq!(client.line(), "something");
        running.handle.halt();
        assert_eq!(client.rest_as_text(), "goodbye\n");
        drop(client);
        running.join().expect("it ends well");
    }
}
