//! Tasks under simulation: a task's reads and answers are equal under any splitting and delay of the bytes by the network.

use std::time::Duration;

use reactor::sim::{Script, Simulation};
use reactor::{Deadlines, Limits, Service, Topic};
use sequential::{First, Peer, Queue, Tasks, first, fork, publish, sleep, subscribe, within};

const SEEDS: u64 = 300;

async fn echo(peer: &mut Peer) {
    while let Some(line) = peer.until_eol().await {
        peer.send(b"You said: ");
        peer.send(&line);
    }
    peer.send(peer.rest());
}

fn patient() -> Deadlines {
    Deadlines { first_request: None, ..Deadlines::default() }
}

#[test]
fn the_echo_answers_every_line_under_every_seed() {
    for seed in 0..SEEDS {
        let mut sim = Simulation::new(seed);
        let service = Service::tcp("127.0.0.1:0", || Tasks::new(echo)).deadlines(patient());
        let address = sim.add_service(service).expect("it is free").address().expect("it listens").clone();
        let script = Script::new().send("one\ntw").send("o\nthree").shutdown();
        let script = script.expect("You said: one\nYou said: two\nthree").expect_end();
        let peers: Vec<_> = (0..5).map(|_| sim.connect(&address, script.clone())).collect();
        sim.connect(&address, Script::new().send("gone\nno e").reset());
        sim.run();
        peers.iter().for_each(|peer| assert!(peer.saw_end(), "seed {seed}"));
    }
}

/// Sleeps while bytes arrive, so the connection is paused and resumed over and over; a deadline and a queue cancel reads.
async fn busy(peer: &mut Peer) {
    let news = Queue::new(2);
    let teller = news.clone();
    fork(async move {
        while teller.put("news\n").await.is_ok() {
            sleep(Duration::from_millis(30)).await;
        }
    });
    let mut told = 0;
    loop {
        match within(Duration::from_millis(7), first(news.take(), peer.until_eol())).await {
            Ok(First::One(_)) => told += 1,
            Ok(First::Other(Some(line))) => {
                sleep(Duration::from_millis(u64::from(line[0] & 15))).await;
                if !peer.send_wait(&line).await {
                    break;
                }
            }
            Ok(First::Other(None)) => break,
            Err(_) => sleep(Duration::from_millis(3)).await,
        }
    }
    news.close();
    peer.send(peer.rest());
    assert!(told < 1_000_000);
}

#[test]
fn cancelled_reads_and_pauses_lose_no_byte_under_every_seed() {
    let lines: String = (0..200).map(|line| format!("{line} and some more\n")).collect();
    for seed in 0..SEEDS {
        let mut sim = Simulation::new(seed);
        let limits = Limits { input: 256, output_high: 512, output_low: 128, ..Limits::default() };
        let service = Service::tcp("127.0.0.1:0", || Tasks::new(busy)).deadlines(patient()).limits(limits);
        let address = sim.add_service(service).expect("it is free").address().expect("it listens").clone();
        let script =
            Script::new().send(lines.clone()).send("rest").shutdown().expect(lines.clone() + "rest").expect_end();
        let peer = sim.connect(&address, script);
        sim.connect(&address, Script::new().send(lines.clone()).reset());
        sim.run();
        assert!(peer.saw_end(), "seed {seed}");
    }
}

#[test]
fn a_stop_in_the_middle_ends_every_task_within_the_drain_time_under_every_seed() {
    for seed in 0..SEEDS {
        let mut sim = Simulation::new(seed);
        let service = Service::tcp("127.0.0.1:0", || Tasks::new(busy)).deadlines(patient());
        let address = sim.add_service(service).expect("it is free").address().expect("it listens").clone();
        for peer in 0..4 {
            sim.connect_after(
                Duration::from_millis(peer * 10),
                &address,
                Script::new().send("a\nb\nc\nd\ne\n").send("f\n"),
            );
        }
        sim.halt_after(Duration::from_millis(seed % 100));
        sim.run();
    }
}

/// Says to its own peer, by a topic of the connection, what the peer says, and takes its time after each message.
async fn shouting(peer: &mut Peer) {
    let room = Topic::new(peer.id().to_string());
    let mut said = subscribe(&room);
    loop {
        match first(peer.until_eol(), said.message()).await {
            First::One(Some(line)) => publish(&room, line.to_vec()),
            First::Other(Some(message)) => {
                sleep(Duration::from_millis(u64::from(message[0] & 3))).await;
                peer.send(message.to_ascii_uppercase());
            }
            First::One(None) | First::Other(None) => break,
        }
    }
    assert_eq!(said.missed(), 0);
}

#[test]
fn every_message_of_a_topic_is_heard_once_and_in_order_under_every_seed() {
    let lines: String = (0..40).map(|line| format!("line {line}\n")).collect();
    for seed in 0..SEEDS {
        let mut sim = Simulation::new(seed);
        let service = Service::tcp("127.0.0.1:0", || Tasks::new(shouting)).deadlines(patient());
        let address = sim.add_service(service).expect("it is free").address().expect("it listens").clone();
        // The end of the peer's half comes after the last message.
        let script = Script::new().send(lines.clone()).expect(lines.to_ascii_uppercase()).shutdown().expect_end();
        let peers: Vec<_> = (0..4).map(|_| sim.connect(&address, script.clone())).collect();
        sim.connect(&address, Script::new().send(lines.clone()).reset());
        sim.run();
        peers.iter().for_each(|peer| assert!(peer.saw_end(), "seed {seed}"));
    }
}
