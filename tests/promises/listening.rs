//! Handlers that listen to topics: each message once, in order, bounded, on every loop.

use reactor::{Bytes, Context, Handler, Input, Limits, Runner, Service, Topic};

use super::support::application::{Running, serve_by};
use super::support::client::Client;
use super::support::on_every_backend;

const COUNT: usize = 100;

/// Publishes each line [`COUNT`] times, and tells every peer what was heard: `say`, `quiet` and `tell` are commands.
struct Listener {
    topic: Topic,
    heard: usize,
    missed: u64,
}

impl Listener {
    fn new() -> Self {
        Listener { topic: Topic::new("lines"), heard: 0, missed: 0 }
    }
}

impl Handler for Listener {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        assert!(cx.listen(&self.topic) && !cx.listen(&self.topic));
    }

    fn on_publication(&mut self, topic: &Topic, message: &Bytes, _: &mut Context<'_>) {
        assert_eq!((topic, &message[..]), (&self.topic, &[b'x'; 100][..]));
        self.heard += 1;
    }

    fn on_publications_missed(&mut self, topic: &Topic, count: u64, _: &mut Context<'_>) {
        assert_eq!(topic, &self.topic);
        self.missed += count;
    }

    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.write("welcome\n");
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            match line {
                b"say\n" => {
                    let reached: usize = (0..COUNT).map(|_| cx.publish(&self.topic, [b'x'; 100])).sum();
                    cx.write(format!("said to {reached} members\n"));
                }
                b"quiet\n" => {
                    let was = cx.unlisten(&self.topic);
                    cx.write(format!("was listening: {was}\n"));
                }
                _ => {
                    cx.write(format!("heard {}, missed {}\n", self.heard, self.missed));
                }
            }
        }
    }
}

fn serve(backend: reactor::Backend, runner: Runner, member_queue: usize) -> Running {
    let limits = Limits { member_queue, ..Limits::default() };
    serve_by(backend, runner, move || Service::tcp("127.0.0.1:0", Listener::new).limits(limits), |_| {})
}

fn client(running: &Running) -> Client {
    let mut client = Client::connect(running.service.address().expect("it listens"));
    assert_eq!(client.line(), "welcome");
    client
}

/// Asks until the handler of the client's loop has heard so much: another loop hears later.
fn wait_for(client: &mut Client, told: &str) {
    while client.ask("tell") != told {}
}

on_every_backend! {
    fn a_handler_hears_each_message_once_and_is_no_member(backend: Backend) {
        let running = serve(backend, Runner::default(), 1 << 20);
        let mut client = client(&running);
        assert_eq!(client.ask("say"), "said to 0 members");
        wait_for(&mut client, "heard 100, missed 0");
        assert_eq!(client.ask("quiet"), "was listening: true");
        assert_eq!(client.ask("quiet"), "was listening: false");
        assert_eq!(client.ask("say"), "said to 0 members");
        assert_eq!(client.ask("tell"), "heard 100, missed 0");
    }

    fn a_handler_on_every_loop_hears_each_message(backend: Backend) {
        for runner in [Runner::loops(2).expect("two are allowed"), Runner::threads()] {
            let running = serve(backend, runner, 1 << 20);
            let (mut one, mut other) = (client(&running), client(&running));
            one.send("say\n");
            assert_eq!(one.line(), "said to 0 members");
            wait_for(&mut one, "heard 100, missed 0");
            wait_for(&mut other, "heard 100, missed 0");
        }
    }

    fn messages_beyond_the_queue_of_a_listener_are_counted(backend: Backend) {
        let running = serve(backend, Runner::default(), 1000);
        let mut client = client(&running);
        assert_eq!(client.ask("say"), "said to 0 members");
        wait_for(&mut client, "heard 10, missed 90");
        // The queue is empty again.
        assert_eq!(client.ask("say"), "said to 0 members");
        wait_for(&mut client, "heard 20, missed 180");
    }
}
