//! The client with scripted servers in virtual time, under every kind of fault.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reactor::Service;
use reactor::sim::{Faults, Script, Simulation};

use super::*;

const SEEDS: u64 = 100;
const SERVER: &str = "10.0.0.1:4222";
const OTHER: &str = "10.0.0.2:4222";
const INFO: &str = "INFO {\"version\":\"2.9.10\",\"headers\":true,\"max_payload\":1048576}\r\n";
/// How much later than planned an event of the simulated network may come, with late wake-ups.
const SLACK: Duration = Duration::from_millis(200);

/// The events of a test, with their times.
type Told = Arc<Mutex<Vec<(Duration, String)>>>;

/// Halts after `most` connections, losses, failures and messages together.
struct Timed {
    told: Told,
    most: usize,
}

impl Timed {
    fn tell(&self, text: String, link: &mut Link<'_, '_, ()>) {
        let mut told = self.told.lock().unwrap();
        told.push((link.now(), text));
        if told.len() > self.most {
            link.halt();
        }
    }
}

impl Participant for Timed {
    type Message = ();

    fn started(&mut self, link: &mut Link<'_, '_, ()>) {
        link.subscribe("a").unwrap();
        self.told.lock().unwrap().push((link.now(), "started".to_owned()));
    }

    fn connected(&mut self, _: &Info, link: &mut Link<'_, '_, ()>) {
        self.tell(format!("connected {}", link.server()), link);
    }

    fn lost(&mut self, cause: &Cause, link: &mut Link<'_, '_, ()>) {
        self.tell(format!("lost: {cause}"), link);
    }

    fn failed(&mut self, cause: &Cause, link: &mut Link<'_, '_, ()>) {
        self.tell(format!("failed: {cause}"), link);
    }

    fn message(&mut self, _: u64, message: &Message<'_>, link: &mut Link<'_, '_, ()>) {
        self.tell(String::from_utf8_lossy(message.payload).into_owned(), link);
    }
}

/// Runs a client until so much has happened. `scripts` has the scripts of each server's connections, the last one again and again;
/// without a script the server is silent.
fn run(seed: u64, faults: Faults, most: usize, scripts: [Vec<Option<Script>>; 2]) -> Vec<(Duration, String)> {
    let mut sim = Simulation::with_faults(seed, faults);
    let urls: Vec<Url> = [SERVER, OTHER].iter().map(|at| format!("nats://{at}").parse().unwrap()).collect();
    let used = scripts.iter().filter(|scripts| !scripts.is_empty()).count();
    for (at, scripts) in [SERVER, OTHER].iter().zip(scripts) {
        let mut next = 0;
        sim.remote(at.parse().unwrap(), move || {
            next += 1;
            scripts.get(next - 1).or(scripts.last()).cloned().flatten()
        });
    }
    let told = Told::default();
    let shared = told.clone();
    let client =
        move || Client::new(urls[..used].to_vec(), Timed { told: shared.clone(), most }).name("timed").seed(seed);
    sim.add_service(Service::outbound(client).limits(limits()).deadlines(deadlines())).unwrap();
    // The simulation ends when no peer has anything to do. The client of `echo` waits for 300 s, so that servers may wait for input.
    let echo = Service::tcp("127.0.0.1:0", || crate::echo::Echo).deadlines(crate::echo::deadlines(None));
    let echo = sim.add_service(echo).unwrap();
    sim.connect(echo.address().unwrap(), Script::new().wait(Duration::from_secs(300)));
    sim.run();
    let told = told.lock().unwrap();
    let start = told[0].0;
    told[1..].iter().map(|(at, text)| (*at - start, text.clone())).collect()
}

/// Greets, and goes on once the client has subscribed.
fn greeted(then: Script) -> Script {
    let proved = |heard: &[u8]| heard.ends_with(b"PING\r\n").then(|| (heard.len(), Script::new().send("PONG\r\n")));
    let subscribed = move |heard: &[u8]| heard.ends_with(b"SUB a 1\r\n").then(|| (heard.len(), then.clone()));
    Script::new().send(INFO).react(proved).react(subscribed)
}

fn texts(told: &[(Duration, String)]) -> Vec<&str> {
    told.iter().map(|(_, text)| text.as_str()).collect()
}

#[test]
fn a_silent_server_is_asked_after_three_seconds_and_given_up_after_eight() {
    // The first PING comes after 3 s and is answered after 4 s; the second one comes at 7 s, and is not.
    let four = Duration::from_secs(4);
    let script = Script::new().wait(four).expect("PING\r\n").send("PONG\r\n").wait(four).expect("PING\r\n");
    let script = greeted(script.wait(Duration::from_secs(60)));
    let told = run(1, Faults::none(), 2, [vec![Some(script)], vec![]]);
    assert_eq!(texts(&told), ["connected nats://10.0.0.1:4222", "lost: no sign of the server for 8 seconds"]);
    let took = told[1].0 - told[0].0;
    let expected = four + AWAY_AFTER;
    assert!((expected..expected + SLACK).contains(&took), "{took:?}");
}

#[test]
fn attempts_end_after_a_second_and_follow_each_other_within_one() {
    for seed in 1..=SEEDS {
        // The first connection is never answered, and the later ones get no INFO.
        let told = run(seed, Faults::none(), 12, [vec![None, Some(Script::new())], vec![]]);
        let mut before = Duration::ZERO;
        for (at, text) in &told {
            assert!(text.starts_with("failed: "), "{text}");
            let took = *at - before;
            assert!(took <= ATTEMPT_MAX + PAUSE_MAX + SLACK, "seed {seed}: {took:?}");
            before = *at;
        }
    }
}

#[test]
fn a_client_reaches_the_living_server_of_two_under_any_faults_and_hears_its_messages_in_order() {
    for seed in 1..=SEEDS {
        let messages: String =
            (0..20).map(|number| format!("MSG a 1 {}\r\n{number}\r\n", number.to_string().len())).collect();
        let living = greeted(Script::new().send(messages).wait(Duration::from_secs(1)).shutdown());
        let told = run(
            seed,
            Faults { no_descriptors: 0.0, descriptors: 100, ..Faults::of(seed) },
            30,
            [vec![None], vec![Some(living)]],
        );
        let heard: Vec<&str> = texts(&told).into_iter().filter(|text| text.parse::<u32>().is_ok()).collect();
        let in_order: Vec<String> = (0..20).map(|number| number.to_string()).cycle().take(heard.len()).collect();
        assert!(heard.len() >= 10 && heard == in_order, "seed {seed}: {told:?}");
    }
}
