//! How to test a service without a socket: a shared counter, under a thousand seeds of network faults.
//! `cargo run -p glowplug-reactor --features sim --example simulated`

use std::time::Duration;

use reactor::sim::{Script, Simulation};
use reactor::{Context, Deadlines, Framed, Handler, Input, Service};

/// `add` adds 1 and answers with the count. Any other line gets `what?` and ends the conversation.
struct Counter {
    count: u64,
}

impl Handler for Counter {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        loop {
            match input.until_eol_within(16) {
                Framed::Item(b"add\n") => {
                    self.count += 1;
                    cx.write(format!("{}\n", self.count));
                }
                Framed::Incomplete => return,
                Framed::Item(_) | Framed::TooLong => {
                    cx.write("what?\n");
                    return cx.close();
                }
            }
        }
    }
}

fn main() -> Result<(), reactor::Error> {
    for seed in 0..1000 {
        // The seed decides the faults and the splitting of the bytes; a failure names the seed.
        let mut sim = Simulation::new(seed);
        let deadlines = Deadlines { idle: Some(Duration::from_secs(60)), ..Deadlines::default() };
        let service = Service::tcp("127.0.0.1:0", || Counter { count: 0 }).deadlines(deadlines);
        let counter = sim.add_service(service)?.address().expect("it listens").clone();

        // The answers depend on the order of the peers, so each peer only has to get three answers.
        let peers: Vec<_> = (0..5)
            .map(|_| sim.connect(&counter, Script::new().send("add\nadd\n").send("add\n").receive(6).shutdown()))
            .collect();
        // A late peer connects after all other peers have ended, so the count and every byte are known.
        let late = Script::new().send("add\nsubtract\nadd\n").expect("16\nwhat?\n").shutdown().expect_end();
        sim.connect_after(Duration::from_secs(3600), &counter, late);
        // A peer that resets in the middle of a word must not disturb the other peers.
        sim.connect_after(Duration::from_secs(60), &counter, Script::new().send("ad").reset());

        let report = sim.run();
        assert_eq!(report.closed.len(), 7);
        let answers = peers.iter().map(|peer| String::from_utf8_lossy(&peer.received()).into_owned());
        let mut counts: Vec<u64> = answers
            .flat_map(|text| text.lines().map(|line| line.parse().expect("a count")).collect::<Vec<_>>())
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, (1..=15).collect::<Vec<_>>(), "seed {seed}");
    }
    println!("1000 seeds, an hour each: no failure");
    Ok(())
}
