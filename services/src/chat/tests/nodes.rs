//! The room and its node while the loop of the other one has no room for messages.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use reactor::{Application, ServiceHandle};

use super::*;
use crate::chat::nodes::{ALONE, Event, NEWS_MAX, News};
use crate::nats::{Client, Posted, Url};

/// Collects what is posted.
struct Collector<M>(Sender<M>, Arc<AtomicUsize>);

impl<M: Send + 'static> Handler<M> for Collector<M> {
    type Connection = ();

    fn on_open(&mut self, _: &mut reactor::Context<'_, (), M>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut reactor::Context<'_, (), M>) {}

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, message: M, _: &mut reactor::Context<'_, (), M>) {
        let _ = self.0.send(message);
        self.1.fetch_add(1, Relaxed);
    }
}

/// Lets the other application run, and waits until it has taken so many messages.
struct Go {
    go: Sender<()>,
    count: Arc<AtomicUsize>,
    fillers: usize,
}

/// A service of another application, whose loop takes nothing until it is let go.
struct Behind<M: Send + 'static> {
    handle: ServiceHandle<M>,
    fillers: usize,
    go: Go,
    taken: Receiver<M>,
    thread: JoinHandle<()>,
}

impl<M: Send + 'static> Behind<M> {
    fn new(filler: impl Fn() -> M) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let ((go, gone), (tell, taken), (give, given)) = (channel(), channel(), channel());
        let thread = std::thread::spawn(move || {
            let mut app = Application::new().unwrap();
            let tell = Mutex::new(tell);
            let service = Service::outbound(move || Collector(tell.lock().unwrap().clone(), counted.clone()));
            give.send(app.add_service(service).unwrap()).unwrap();
            gone.recv().unwrap();
            app.run().unwrap();
        });
        let handle: ServiceHandle<M> = given.recv().unwrap();
        let mut fillers = 0;
        while handle.post(ConnectionId::NONE, filler()).is_ok() {
            fillers += 1;
        }
        let go = Go { go, count, fillers };
        Behind { handle, fillers, go, taken, thread }
    }
}

/// Waits in virtual time, and then lets the other application take its messages.
struct LetsGo {
    go: Go,
    act: Option<Box<dyn FnOnce() + Send>>,
}

impl Handler for LetsGo {
    type Connection = ();

    fn on_open(&mut self, _: &mut reactor::Context<'_, ()>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut reactor::Context<'_, ()>) {}

    fn on_start(&mut self, cx: &mut reactor::Context<'_, ()>) {
        cx.timers().set(0, SECOND * 5);
        cx.timers().set(1, SECOND * 10);
    }

    fn on_timer(&mut self, key: u64, _: &mut reactor::Context<'_, ()>) {
        match key {
            0 => self.act.take().into_iter().for_each(|act| act()),
            _ => {
                self.go.go.send(()).unwrap();
                while self.go.count.load(Relaxed) < self.go.fillers {
                    std::thread::yield_now();
                }
            }
        }
    }
}

#[test]
fn requests_to_the_node_wait_while_its_loop_has_no_room_and_arrive_in_order() {
    let behind = Behind::new(|| Posted::new(FromChat(NodeRequest::Withdraw { number: 0 })));
    let nodes = Nodes::new("room", "node").unwrap();
    nodes.attach(behind.handle.clone());
    let mut sim = Simulation::new(1);
    let room = Room::default().with_nodes(nodes);
    let service = Service::tcp("127.0.0.1:0", move || Chat::new(room.clone()));
    let chat = sim.add_service(service.limits(limits()).deadlines(deadlines(None))).unwrap();
    let go = Mutex::new(Some(behind.go));
    sim.add_service(Service::outbound(move || LetsGo { go: go.lock().unwrap().take().unwrap(), act: None })).unwrap();
    let script = Script::new().send("ann\n").wait(SECOND).reset();
    sim.connect(chat.address().unwrap(), script);
    sim.connect_after(SECOND / 2, chat.address().unwrap(), Script::new().send("ben\n").wait(SECOND * 100));
    sim.halt_after(SECOND * 20);
    sim.run();
    let node_requests: Vec<NodeRequest> = (0..behind.fillers + 3)
        .map(|_| behind.taken.recv_timeout(SECOND * 60).unwrap().into_message().unwrap().0)
        .skip(behind.fillers)
        .collect();
    assert!(
        matches!(&node_requests[0], NodeRequest::Ask { number: 1, who, .. } if who.starts_with("ann@")),
        "{node_requests:?}"
    );
    assert!(
        matches!(&node_requests[1], NodeRequest::Ask { number: 2, who, .. } if who.starts_with("ben@")),
        "{node_requests:?}"
    );
    assert!(matches!(&node_requests[2], NodeRequest::Withdraw { number: 1 }), "{node_requests:?}");
    behind.handle.handle().halt();
    behind.thread.join().unwrap();
}

#[test]
fn answers_and_news_of_the_node_wait_while_the_rooms_loop_has_no_room_and_arrive_in_order() {
    let behind = Behind::new(|| Command::Kick);
    let nodes = Nodes::new("room", "node").unwrap();
    let mut sim = Simulation::new(1);
    let (of_node, chat) = (nodes.clone(), behind.handle.clone());
    let url: Url = "nats://10.0.0.1:4222".parse().unwrap();
    let client = move || Client::new([url.clone()], of_node.participant(&chat)).seed(1);
    let service = Service::outbound(client).limits(crate::nats::limits()).deadlines(crate::nats::deadlines());
    let client = sim.add_service(service).unwrap();
    let ask = move || {
        let node_request = NodeRequest::Ask { number: 1, who: "ann@unix".into(), id: ConnectionId::NONE };
        client.post(ConnectionId::NONE, Posted::new(FromChat(node_request))).unwrap();
    };
    let (go, ask) = (Mutex::new(Some(behind.go)), Mutex::new(Some(Box::new(ask) as Box<dyn FnOnce() + Send>)));
    sim.add_service(Service::outbound(move || LetsGo {
        go: go.lock().unwrap().take().unwrap(),
        act: ask.lock().unwrap().take(),
    }))
    .unwrap();
    sim.halt_after(SECOND * 20);
    sim.run();
    let news: Vec<Command> =
        (0..behind.fillers + 2).map(|_| behind.taken.recv_timeout(SECOND * 60).unwrap()).skip(behind.fillers).collect();
    let texts: Vec<String> = news.iter().map(|command| format!("{command:?}")).collect();
    assert_eq!(texts, ["Node(FromNode(Room(Alone)))", "Node(FromNode(Granted))"]);
    behind.handle.handle().halt();
    behind.thread.join().unwrap();
}

/// A node that grants each name, and tells the room that the engine is away, before the grant or after it.
struct Granting {
    chat: ServiceHandle<Command>,
    is_alone_first: bool,
}

impl Handler<Posted<FromChat>> for Granting {
    type Connection = ();

    fn on_open(&mut self, _: &mut reactor::Context<'_, (), Posted<FromChat>>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut reactor::Context<'_, (), Posted<FromChat>>) {}

    fn on_message(
        &mut self,
        _: ConnectionId,
        _: Option<&mut ()>,
        posted: Posted<FromChat>,
        _: &mut reactor::Context<'_, (), Posted<FromChat>>,
    ) {
        let Some(FromChat(NodeRequest::Ask { id, .. })) = posted.into_message() else { return };
        let tell = |to: Option<ConnectionId>, news| {
            let command = Command::Node(FromNode(news));
            match to {
                Some(id) => self.chat.post(id, command),
                None => self.chat.post_to_loop(0, command),
            }
            .unwrap();
        };
        let (grant, alone) = ((Some(id), News::Granted), (None, News::Room(Event::Alone)));
        let both = if self.is_alone_first { [alone, grant] } else { [grant, alone] };
        both.into_iter().for_each(|(to, news)| tell(to, news));
    }
}

#[test]
fn a_guest_whose_name_is_granted_while_the_engine_goes_away_is_told_so_once() {
    for is_alone_first in [false, true] {
        let nodes = Nodes::new("room", "node").unwrap();
        let mut sim = Simulation::new(1);
        let room = Room::default().with_nodes(nodes.clone());
        let service = Service::tcp("127.0.0.1:0", move || Chat::new(room.clone()));
        let chat = sim.add_service(service.limits(limits()).deadlines(deadlines(None))).unwrap();
        let of_node = chat.clone();
        let granting = move || Granting { chat: of_node.clone(), is_alone_first };
        nodes.attach(sim.add_service(Service::outbound(granting)).unwrap());
        let script = Script::new().send("ann\n").wait(SECOND).send("/quit\n").wait(SECOND);
        let ann = sim.connect(chat.address().unwrap(), script);
        sim.halt_after(SECOND * 5);
        sim.run();
        let lines = heard(&ann);
        let count = lines.iter().filter(|line| *line == ALONE).count();
        assert_eq!((count, lines.len()), (1, 3), "{lines:?}");
    }
}

/// A chat to which another node tells more than its members can be told at once, when a member's input begins with `!`.
struct Flooded(Chat);

impl Handler<Command> for Flooded {
    type Connection = Guest;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Guest {
        self.0.on_open(cx)
    }

    fn on_data(&mut self, guest: &mut Guest, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if guest.seat.is_some() && input.as_slice().starts_with(b"!") {
            input.take_all();
            for number in 0..NEWS_MAX as u64 + 10 {
                let (node, who) = ("other".into(), "eve@unix".into());
                self.0.hear_others(Event::Came { node, number, who }, cx);
                assert!(self.0.news.len() <= NEWS_MAX);
            }
            let (node, who) = ("other".into(), "eve@unix".into());
            return self.0.hear_others(Event::Went { node, number: 3, who }, cx);
        }
        self.0.on_data(guest, input, cx);
    }

    fn on_turn(&mut self, cx: &mut Context<'_>) {
        self.0.on_turn(cx);
    }

    fn on_deadline(&mut self, guest: &mut Guest, cx: &mut Context<'_>) {
        self.0.on_deadline(guest, cx);
    }

    fn on_message(&mut self, to: ConnectionId, guest: Option<&mut Guest>, command: Command, cx: &mut Context<'_>) {
        self.0.on_message(to, guest, command, cx);
    }

    fn on_close(&mut self, guest: Guest, reason: CloseReason, cx: &mut Context<'_>) {
        self.0.on_close(guest, reason, cx);
    }
}

#[test]
fn more_news_of_other_nodes_than_can_be_announced_are_counted_as_missed_and_the_list_of_members_stays_right() {
    let nodes = Nodes::new("room", "node").unwrap();
    let mut sim = Simulation::new(1);
    let (room, looked_at) = (Room::default().with_nodes(nodes.clone()), nodes.clone());
    let service = Service::<Flooded, Command>::tcp("127.0.0.1:0", move || Flooded(Chat::new(room.clone())));
    let chat = sim.add_service(service.limits(limits()).deadlines(deadlines(None))).unwrap();
    let of_node = chat.clone();
    let granting = move || Granting { chat: of_node.clone(), is_alone_first: true };
    nodes.attach(sim.add_service(Service::outbound(granting)).unwrap());
    let script = Script::new().send("ann\n").wait(SECOND).send("!").wait(SECOND * 60);
    let ann = sim.connect(chat.address().unwrap(), script);
    sim.halt_after(SECOND * 50);
    sim.run();
    let lines = heard(&ann);
    let missed = lines.iter().filter(|line| **line == format!("(Missed: {} messages)", NEWS_MAX)).count();
    let told = lines.iter().filter(|line| line.contains("eve@unix")).count();
    assert_eq!((missed, told), (1, 11), "{:?}", &lines[..lines.len().min(20)]);
    assert_eq!(looked_at.count(), NEWS_MAX + 9);
}
