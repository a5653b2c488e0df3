//! The client with scripted servers, under every kind of fault.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::channel;

use reactor::Service;
use reactor::sim::{Faults, Script, Simulation};

use super::*;

const SEEDS: u64 = 200;

/// A screen that records all calls in order, and answers.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<String>>>);

impl Told {
    fn add(&self, text: String) {
        self.0.borrow_mut().push(text);
    }

    fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

type Handle = Rc<RefCell<Option<ServiceHandle<Order>>>>;

/// Types these lines after the welcome, and then leaves or stays.
struct Scripted {
    told: Told,
    handle: Handle,
    types: Vec<&'static str>,
    leaves: bool,
    /// Has no room after each line, and room again at once.
    narrow: bool,
}

impl Scripted {
    fn post(&self, order: Order) {
        let handle = self.handle.borrow();
        handle.as_ref().expect("it runs").post(ConnectionId::NONE, order).expect("the mailbox has room");
    }
}

impl Screen for Scripted {
    fn connected(&mut self, to: &Address) {
        self.told.add(format!("connected {to}"));
    }

    fn welcomed(&mut self, address: &str) {
        self.told.add(format!("welcome {address}"));
        for line in std::mem::take(&mut self.types) {
            self.post(Order::Say(line.to_owned(), channel().0));
        }
        if self.leaves {
            self.post(Order::Leave);
        }
    }

    fn hear(&mut self, text: &str) -> bool {
        self.told.add(text.to_owned());
        if self.narrow {
            self.post(Order::GoOn);
        }
        !self.narrow
    }

    fn note(&mut self, note: &Note) {
        self.told.add(match note {
            Note::Lost { cause, .. } => format!("lost: {cause}"),
            other => format!("{other:?}"),
        });
    }

    fn ended(&mut self, ending: Ending) {
        self.told.add(format!("{ending:?}"));
    }
}

const SERVER: &str = "10.0.0.1:8801";
const OTHER: &str = "10.0.0.2:8801";

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn frame(text: &str) -> Vec<u8> {
    let mut encoded = Encoded::default();
    encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
    encoded.frame().to_vec()
}

/// The expected name, and the server's first text.
fn welcome() -> Script {
    named().send(frame("CLIENT: 10.0.0.9"))
}

fn named() -> Script {
    Script::new().expect(frame("NAME: ann"))
}

#[derive(Default)]
struct Setting {
    types: Vec<&'static str>,
    leaves: bool,
    narrow: bool,
    reconnects: bool,
    /// The scripts of the connections to each address, in order; without a script the server is silent.
    servers: Vec<(&'static str, Vec<Option<Script>>)>,
}

fn run(seed: u64, setting: Setting) -> Vec<String> {
    // Bytes come in pieces and late, by the seed; but every server is reachable.
    let faults = Faults { no_descriptors: 0.0, descriptors: 100, ..Faults::of(seed) };
    let mut sim = Simulation::with_faults(seed, faults);
    let addresses: Vec<Address> = setting.servers.iter().map(|(text, _)| address(text)).collect();
    for (text, scripts) in setting.servers {
        let mut scripts = scripts.into_iter();
        sim.remote(address(text), move || scripts.next().flatten());
    }
    let told = Told::default();
    let handle = Rc::new(RefCell::new(None));
    // The factory must be `Send`, and its product need not be.
    let (types, leaves, narrow, reconnects) = (setting.types, setting.leaves, setting.narrow, setting.reconnects);
    thread_local! {
        static HERE: RefCell<Option<(Told, Handle)>> = const { RefCell::new(None) };
    }
    HERE.with(|here| *here.borrow_mut() = Some((told.clone(), handle.clone())));
    let service = Service::outbound(move || {
        let (told, handle) = HERE.with(|here| here.borrow().clone()).expect("on this thread");
        let screen = Scripted { told, handle, types: types.clone(), leaves, narrow };
        let client = Client::new("ann", addresses.clone(), screen);
        if !reconnects {
            return client;
        }
        let found = addresses.clone();
        client.reconnects(seed, move |service| {
            service.post(ConnectionId::NONE, Order::Found(Ok(found.clone()))).expect("the mailbox has room");
        })
    });
    *handle.borrow_mut() = Some(sim.add_service(service.limits(limits())).unwrap());
    sim.run();
    told.all()
}

#[test]
fn what_is_typed_arrives_in_order_and_the_server_is_heard_to_its_end() {
    for seed in 0..SEEDS {
        let script = welcome()
            .expect([frame("hello"), frame("two"), frame("lines")].concat())
            .send([frame("#ben@10.0.0.8>>hi"), frame("(bye)")].concat())
            .expect_end()
            .shutdown();
        let told = run(
            seed,
            Setting {
                types: vec!["hello", "two\nlines"],
                leaves: true,
                servers: vec![(SERVER, vec![Some(script)])],
                ..Setting::default()
            },
        );
        let expected = ["connected tcp://10.0.0.1:8801", "welcome 10.0.0.9", "#ben@10.0.0.8>>hi", "(bye)", "Left"];
        assert_eq!(told, expected, "seed {seed}");
    }
}

#[test]
fn after_quit_nothing_more_is_said() {
    for seed in 0..SEEDS {
        let script =
            welcome().expect([frame("a"), frame("/quit")].concat()).expect_end().send(frame("(Goodbye)")).shutdown();
        let told = run(
            seed,
            Setting {
                types: vec!["a\n/quit\nb", "c"],
                servers: vec![(SERVER, vec![Some(script)])],
                ..Setting::default()
            },
        );
        assert_eq!(told[2..], ["(Goodbye)", "Left"], "seed {seed}");
    }
}

#[test]
fn a_server_that_does_not_let_go_is_left_all_the_same() {
    let told = run(
        1,
        Setting {
            types: vec!["/quit"],
            servers: vec![(SERVER, vec![Some(welcome().wait(Duration::from_secs(3600)))])],
            ..Setting::default()
        },
    );
    assert_eq!(told.last().unwrap(), "Left");
}

#[test]
fn every_address_is_tried_and_the_last_cause_told() {
    for seed in 0..SEEDS {
        let welcoming = welcome().shutdown();
        let second = run(
            seed,
            Setting {
                servers: vec![(SERVER, vec![Some(named().shutdown())]), (OTHER, vec![Some(welcoming)])],
                ..Setting::default()
            },
        );
        assert_eq!(second[second.len() - 3..], ["connected tcp://10.0.0.2:8801", "welcome 10.0.0.9", "Closed"]);
        let none = run(seed, Setting { servers: vec![(SERVER, vec![]), (OTHER, vec![None])], ..Setting::default() });
        assert_eq!(none, ["Unreachable(\"timed out (connect)\")"], "seed {seed}");
    }
}

#[test]
fn a_refusal_is_told_in_the_servers_words_and_is_the_end() {
    for (reconnects, seed) in (0..SEEDS).map(|seed| (seed % 2 == 0, seed)) {
        for (said, script) in [("ERROR: the name is taken", named()), ("ERROR: kicked", welcome())] {
            let told = run(
                seed,
                Setting {
                    reconnects,
                    servers: vec![(SERVER, vec![Some(script.send(frame(said)).shutdown())])],
                    ..Setting::default()
                },
            );
            assert_eq!(told.last().unwrap(), &format!("Refused({said:?})"), "seed {seed}");
        }
    }
}

#[test]
fn an_unknown_command_is_answered_and_not_the_end() {
    let told = run(
        3,
        Setting {
            types: vec!["/dance"],
            leaves: true,
            servers: vec![(
                SERVER,
                vec![Some(welcome().expect(frame("/dance")).send(frame(UNKNOWN_COMMAND)).shutdown())],
            )],
            ..Setting::default()
        },
    );
    assert_eq!(told[2..], [UNKNOWN_COMMAND, "Left"]);
}

#[test]
fn nothing_that_a_server_says_can_drive_a_terminal() {
    for seed in 0..SEEDS {
        let evil = "CLIENT: \x1b]0;owned\x07";
        let script = Script::new()
            .send([frame(evil), frame("a\nb\r\x1b[2J\u{9b}31m\u{202e}"), frame("ERROR: \x1b[31m")].concat())
            .shutdown();
        let told = run(seed, Setting { servers: vec![(SERVER, vec![Some(script)])], ..Setting::default() });
        let all = told.join("\n");
        assert!(told.len() == 4 && told[1].contains("]0;owned"), "seed {seed}: {all:?}");
        assert!(!told.iter().any(|text| text.chars().any(char::is_control)), "seed {seed}: {all:?}");
    }
}

#[test]
fn what_is_no_chat_server_is_not_believed() {
    for seed in 0..SEEDS {
        let script = named().send("HTTP/1.1 400 Bad Request\r\n\r\n").shutdown();
        let told = run(seed, Setting { servers: vec![(SERVER, vec![Some(script)])], ..Setting::default() });
        assert_eq!(told.last().unwrap(), "Unreachable(\"what answers there is no chat server\")", "seed {seed}");
    }
    let silent = Script::new().wait(Duration::from_secs(3600));
    let told = run(1, Setting { servers: vec![(SERVER, vec![Some(silent)])], ..Setting::default() });
    assert_eq!(told.last().unwrap(), "Unreachable(\"no answer to the name within 30 seconds\")");
}

#[test]
fn a_screen_without_room_gets_everything_one_by_one() {
    for seed in 0..SEEDS {
        let texts: Vec<String> = (0..50).map(|number| format!("message {number}")).collect();
        let said: Vec<u8> = texts.iter().flat_map(|text| frame(text)).collect();
        let told = run(
            seed,
            Setting {
                narrow: true,
                servers: vec![(SERVER, vec![Some(welcome().send(said).shutdown())])],
                ..Setting::default()
            },
        );
        assert_eq!(told[2..52], texts, "seed {seed}");
        assert_eq!(told[52], "Closed");
    }
}

/// The server stops reading until its own output has been read.
#[test]
fn a_server_that_does_not_read_is_heard_although_much_is_owed_to_it() {
    let line: &str = "x".repeat(60_000).leak();
    for seed in 0..SEEDS {
        let texts: Vec<String> = (0..50).map(|number| format!("message {number}")).collect();
        let said: Vec<u8> = texts.iter().flat_map(|text| frame(text)).collect();
        let never = Duration::from_secs(1);
        let script = welcome().reads(0, never).wait(Duration::from_secs(5)).send(said).wait(Duration::from_secs(600));
        let setting =
            Setting { types: vec![line; 20], servers: vec![(SERVER, vec![Some(script)])], ..Setting::default() };
        let told = run(seed, setting);
        assert_eq!(told[2..told.len() - 1], texts, "seed {seed}");
        assert_eq!(told.last().unwrap(), "Lost(\"timed out (write progress)\")", "seed {seed}");
    }
}

#[test]
fn it_comes_back_after_each_loss_but_not_after_a_refusal() {
    for seed in 0..SEEDS {
        let scripts = vec![
            Some(welcome().send(frame("(one)")).shutdown()),
            // Unreachable for a while; then the old connection still holds the name.
            None,
            Some(named().send(frame("ERROR: the name is taken")).shutdown()),
            Some(named().reset()),
            Some(welcome().send(frame("(two)")).send(frame("ERROR: kicked")).shutdown()),
        ];
        let told = run(seed, Setting { reconnects: true, servers: vec![(SERVER, scripts)], ..Setting::default() });
        let heard: Vec<_> = told.iter().filter(|text| !text.starts_with("connected")).collect();
        let expected = [
            "welcome 10.0.0.9",
            "(one)",
            "lost: the server has hung up",
            "lost: timed out (connect)",
            "lost: ERROR: the name is taken",
            "lost: the server has reset the connection",
            "welcome 10.0.0.9",
            "(two)",
            "Refused(\"ERROR: kicked\")",
        ];
        assert_eq!(heard, expected, "seed {seed}");
    }
}

#[test]
fn pauses_double_from_a_second_to_thirty_and_chance_takes_up_to_half() {
    let retry = |seed| Retry::new(seed, Box::new(|_| {}));
    let mut one = retry(7);
    for whole in [1, 2, 4, 8, 16, 30, 30, 30] {
        let (pause, whole) = (one.next_pause(), Duration::from_secs(whole));
        assert!(whole / 2 <= pause && pause <= whole, "{pause:?} of {whole:?}");
    }
    assert_ne!(retry(3).next_pause(), retry(0x1234_5679).next_pause());
}
