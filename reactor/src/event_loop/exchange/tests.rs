//! One loop among several: the tests call the steps of a turn by hand.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::budget::Budget;
use crate::buffer::Input;
use crate::cluster::PUBLISHED_BYTES;
use crate::driver::{Acceptor, Readiness};
use crate::handle::{Handle, ServiceHandle};
use crate::handler::Handler;
use crate::mailbox::{Addressed, MAILBOX_MESSAGES, Receiver};
use crate::outbox::LoopsThread;
use crate::service::Service;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::sys::backend::Backend;
use crate::sys::fork::FORKS;
use crate::sys::listen::Listening;
use crate::sys::{Sys, System};
use crate::topics::Topic;

/// Counts the messages that the loop delivers.
struct Counting(Arc<AtomicUsize>);

impl Handler<u32> for Counting {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_, (), u32>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_, (), u32>) {
        input.take_all();
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, _: u32, _: &mut Context<'_, (), u32>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A loop at rest, the wakers of all loops, and the receivers of the other loops.
struct Stage {
    event_loop: EventLoop<Readiness<System>>,
    cluster: Arc<Cluster>,
    wakers: Vec<Waker>,
    /// Receivers of the other loops, by number; `None` for the loop itself.
    others: Vec<Option<(Inbox, Receiver<Addressed<u32>>)>>,
    service: ServiceHandle<u32>,
    delivered: Arc<AtomicUsize>,
    reports: Arc<Mutex<Vec<String>>>,
}

/// Loop `here` of `loops`, with a listener on a free port if the loop `listens`.
fn stage(loops: usize, here: usize, listens: bool) -> Stage {
    let system = System::new(Backend::Select).expect("a system");
    let wakers: Vec<Waker> = (0..loops)
        .map(|number| if number == here { system.waker() } else { Waker::new().expect("a descriptor") })
        .collect();
    let cluster = Arc::new(Cluster::new(wakers.clone()));
    let (delivered, reports) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (counter, list) = (delivered.clone(), reports.clone());
    let service = Service::outbound(move || Counting(counter.clone()));
    let service = if listens { service.and_tcp("127.0.0.1:0") } else { service };
    let (bound, parts) = service.bind(Handle(cluster.clone()), Listening::bind).expect("a free port");
    let loop_handle = cluster.fixed()[here].clone();
    let settings = Settings {
        drain_timeout: None,
        drain_margin: Duration::ZERO,
        connections: None,
        descriptors: usize::MAX,
        per_connection: usize::MAX,
        slow_callback: Duration::from_secs(3600),
        on_report: Arc::new(Mutex::new(move |report: &str| list.lock().unwrap().push(report.to_owned()))),
        budget: Arc::new(Budget::new(usize::MAX, None)),
    };
    let driver = Readiness::new(system, here as u32, loop_handle.counters.clone());
    let inbox = cluster.inbox(&loop_handle);
    let mut event_loop = EventLoop::new(driver, cluster.clone(), loop_handle, inbox, settings);
    let mut others = Vec::new();
    let mut own = None;
    for (number, mailbox) in parts.handle.receivers().enumerate() {
        if number == here {
            own = Some(mailbox);
            others.push(None);
        } else {
            others.push(Some((cluster.inbox(&cluster.fixed()[number]), mailbox)));
        }
    }
    event_loop.add_service(bound, parts.host(0, own.expect("a receiver for each loop")).expect("a handler"));
    Stage { event_loop, cluster, wakers, others, service: parts.handle.clone(), delivered, reports }
}

impl Stage {
    /// Posts `count` messages to loop `number`, as from a callback of this loop.
    fn post(&self, number: usize, count: usize) {
        let _here = LoopsThread::enter(self.event_loop.core.outbox.clone());
        (0..count).for_each(|_| self.service.post_to_loop(number, 0).expect("the message waits, or has room"));
    }

    /// Loop `number` takes its messages.
    fn take_messages(&self, number: usize) {
        let (_, mailbox) = self.others[number].as_ref().expect("another loop");
        mailbox.take(&mut Vec::new(), usize::MAX);
    }

    /// Publishes half of the bytes that a mailbox of publications holds.
    fn publish(&mut self, topic: &Topic) {
        let bytes = || Bytes::from(vec![0; PUBLISHED_BYTES / 2 + 1]);
        let outgoing = self.event_loop.core.outgoing.as_mut().expect("a cluster");
        outgoing.publish(topic, bytes, ConnectionId::NONE, None);
    }

    fn delivered(&self) -> usize {
        self.delivered.load(Ordering::Relaxed)
    }
}

/// An accepted connection, and the stream of its client.
fn accepted() -> (Accepted, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    ours.set_nonblocking(true).expect("a socket");
    theirs.set_nonblocking(true).expect("a socket");
    (Accepted { listener: 0, socket: Socket::owned(ours.into()), peer: Peer::Unix }, theirs)
}

fn is_open(mut client: &UnixStream) -> bool {
    client.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Counts the connections that get a loop.
struct Starts(Arc<AtomicUsize>);

impl Spawner for Starts {
    fn kind(&self) -> &'static str {
        "processes"
    }

    fn descriptors_each(&self) -> usize {
        1
    }

    fn spawn(&mut self, _: &mut Core, _: u16, accepted: Accepted, _: &dyn Fn() -> Vec<Fd>) -> Spawned {
        self.0.fetch_add(1, Ordering::Relaxed);
        Spawned::Copied(accepted.socket)
    }
}

#[test]
fn a_report_says_for_each_listener_whom_it_admits() {
    let mut stage = stage(1, 0, true);
    let address = stage.service.address().expect("a listener").clone();
    let says = |stage: &mut Stage, admits: &str| {
        let report = stage.event_loop.report();
        let line = format!("Counting at {address}: {admits}\n");
        assert!(report.to_lowercase().contains(&line.to_lowercase()), "{line}{report}");
    };
    says(&mut stage, "accepting connections");
    stage.event_loop.admission.at_cap = true;
    says(&mut stage, "new connections wait: at the limit");
    stage.event_loop.admission.at_cap = false;
    stage.event_loop.driver.suspend(0, Errno(24));
    says(&mut stage, "new connections wait: no descriptors or no memory");
}

#[test]
fn a_loop_that_another_loop_asks_for_a_report_writes_one() {
    let mut stage = stage(2, 1, false);
    stage.cluster.fixed()[1].ask_for_report();
    stage.event_loop.read_mail();
    stage.event_loop.read_mail();
    assert_eq!(stage.reports.lock().unwrap().len(), 1);
}

#[test]
fn the_log_names_the_loop_only_where_there_are_several() {
    assert_eq!(stage(1, 0, false).event_loop.which(), "");
    assert_eq!(stage(2, 1, false).event_loop.which(), "loop 1: ");
}

#[test]
fn the_accepting_loop_counts_the_loops_of_connections() {
    let mut stage = stage(1, 0, true);
    assert_eq!(stage.event_loop.open_connections(), 0);
    stage.event_loop.set_spawner(Box::new(Starts(Arc::default())));
    assert_eq!(stage.event_loop.open_connections(), 0);
    let _loops = [(); 2].map(|()| stage.cluster.enter(Waker::new().expect("a descriptor"), 1));
    assert_eq!(stage.event_loop.open_connections(), 2);
}

#[test]
fn a_loop_that_ends_wakes_the_loops_that_wait_for_room_in_its_mailbox() {
    for waits in [false, true] {
        let stage = stage(2, 0, false);
        let publication = || (Topic::new("room"), Shared::new(Bytes::from(vec![0; PUBLISHED_BYTES])));
        assert!(stage.cluster.fixed()[0].pass_on(publication()).is_ok());
        if waits {
            assert!(stage.cluster.fixed()[0].pass_on(publication()).is_err(), "the mailbox is full");
        }
        let before = stage.wakers[1].writes();
        drop(stage.event_loop);
        assert_eq!(stage.wakers[1].writes(), before + u64::from(waits));
    }
}

#[test]
fn a_loop_with_too_many_waiting_messages_takes_none_until_they_have_room() {
    let mut stage = stage(2, 0, false);
    stage.post(1, 2 * MAILBOX_MESSAGES);
    stage.event_loop.tell_others();
    stage.post(0, 1);
    stage.event_loop.read_mail();
    assert_eq!(stage.delivered(), 0);
    stage.take_messages(1);
    stage.event_loop.exchange.mail = false;
    stage.event_loop.tell_others();
    assert!(stage.event_loop.exchange.mail, "the loop takes messages at once");
    stage.event_loop.read_mail();
    assert_eq!(stage.delivered(), 1);
}

#[test]
fn a_loop_whose_messages_wait_for_room_does_not_turn_meanwhile() {
    let mut stage = stage(2, 0, false);
    stage.post(1, MAILBOX_MESSAGES + 1);
    stage.event_loop.exchange.mail = false;
    stage.event_loop.tell_others();
    assert!(stage.event_loop.core.outbox.is_behind() && !stage.event_loop.exchange.mail);
}

#[test]
fn a_loop_whose_publications_wait_turns_again_when_they_have_gone_on() {
    let (mut stage, topic) = (stage(2, 0, false), Topic::new("room"));
    stage.event_loop.core.join_cluster(&stage.cluster, &stage.cluster.fixed()[0]);
    stage.cluster.fixed()[1].set_topics(topic.bit());
    stage.publish(&topic);
    stage.publish(&topic);
    stage.event_loop.exchange.mail = false;
    stage.event_loop.tell_others();
    assert!(!stage.event_loop.exchange.mail, "the second publication waits");
    let (inbox, _) = stage.others[1].as_ref().expect("another loop");
    inbox.passed_on.take(&mut Vec::new(), usize::MAX);
    stage.event_loop.tell_others();
    assert!(stage.event_loop.exchange.mail);
}

#[test]
fn a_turn_without_publications_left_out_writes_no_line_about_them() {
    let mut stage = stage(2, 0, false);
    stage.event_loop.core.join_cluster(&stage.cluster, &stage.cluster.fixed()[0]);
    stage.event_loop.tell_others();
    let EventLoop { core, exchange, .. } = &mut stage.event_loop;
    assert!(exchange.refusals_log.passes(core.now), "no line was written in this second");
}

#[test]
fn a_loop_that_accepts_nothing_is_never_at_the_cap() {
    // Loop 0 without a listener; and loop 1, because loop 0 accepts for all loops.
    for (here, listens) in [(0, false), (1, true)] {
        let mut stage = stage(2, here, listens);
        stage.event_loop.config.descriptors = 0;
        stage.event_loop.mind_the_cap();
        assert!(!stage.event_loop.admission.at_cap, "loop {here}");
    }
}

#[test]
fn below_the_cap_there_is_room_for_the_descriptor_of_one_more_connection() {
    let mut stage = stage(1, 0, true);
    let (accepted, _client) = accepted();
    stage.cluster.count_handed();
    stage.event_loop.take_on(accepted);
    stage.event_loop.mind_the_cap();
    let open = stage.cluster.descriptors();
    assert!(open > 0);
    for (descriptors, at_cap) in [(open + 1, false), (open, true), (open + 1, false)] {
        stage.event_loop.config.descriptors = descriptors;
        stage.event_loop.mind_the_cap();
        assert_eq!(stage.event_loop.admission.at_cap, at_cap, "{open} of {descriptors}");
    }
}

#[test]
fn the_end_of_a_wait_at_the_cap_writes_no_line() {
    let mut stage = stage(1, 0, true);
    stage.event_loop.admission.at_cap = true;
    stage.event_loop.mind_the_cap();
    let EventLoop { core, admission, .. } = &mut stage.event_loop;
    assert!(!admission.at_cap && admission.at_cap_log.passes(core.now), "no line was written in this second");
}

/// A loop that starts a process for each connection, the number of started processes, and the client of an accepted
/// connection that waits for a process.
fn waiting_connection() -> (Stage, Arc<AtomicUsize>, UnixStream) {
    let mut stage = stage(1, 0, true);
    let starts: Arc<AtomicUsize> = Arc::default();
    stage.event_loop.set_spawner(Box::new(Starts(starts.clone())));
    let (accepted, client) = accepted();
    stage.event_loop.driver.count_in();
    stage.event_loop.admission.waiting.push(accepted);
    (stage, starts, client)
}

#[test]
fn a_connection_that_waits_for_a_process_gets_one_when_the_suspension_is_over() {
    // The child of a test with fork(2) would keep a copy of the socket open.
    let _forks = FORKS.read().unwrap_or_else(PoisonError::into_inner);
    let (mut stage, starts, client) = waiting_connection();
    stage.event_loop.try_again();
    assert_eq!((starts.load(Ordering::Relaxed), stage.event_loop.admission.waiting.len()), (1, 0));
    assert!(!is_open(&client), "the process has a copy, and this loop closes its own");
}

#[test]
fn a_connection_whose_listener_is_suspended_goes_on_waiting() {
    let (mut stage, starts, client) = waiting_connection();
    stage.event_loop.driver.suspend(0, Errno(24));
    stage.event_loop.try_again();
    let EventLoop { driver, admission, .. } = &mut stage.event_loop;
    assert_eq!((starts.load(Ordering::Relaxed), admission.waiting.len()), (0, 1));
    assert!(is_open(&client));
    admission.waiting.drain(..).for_each(|accepted| driver.close_accepted(accepted.socket));
}

#[test]
fn a_connection_that_is_handed_to_an_ended_loop_is_closed() {
    // The child of a test with fork(2) would keep a copy of the socket open.
    let _forks = FORKS.read().unwrap_or_else(PoisonError::into_inner);
    let mut stage = stage(2, 1, false);
    let (accepted, client) = accepted();
    assert!(stage.cluster.hand(&stage.cluster.fixed()[1], accepted).is_ok());
    assert!(is_open(&client));
    stage.event_loop.close_late();
    assert!(!is_open(&client));
}

/// A stopping child with its channel, and the other end of the channel.
fn child() -> (Stage, ConnectionId, UnixStream) {
    let mut stage = stage(1, 0, false);
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    ours.set_nonblocking(true).expect("a socket");
    let channel = stage.event_loop.take_channel(0, ours.into(), Peer::Unix, Box::new(()));
    stage.event_loop.settle();
    stage.event_loop.exchange.mail = false;
    (stage, channel, theirs)
}

/// A connection of the loop besides its channel. Returns the client's socket, too.
fn connected(stage: &mut Stage) -> (ConnectionId, UnixStream) {
    let (ours, client) = UnixStream::pair().expect("two sockets");
    ours.set_nonblocking(true).expect("a socket");
    let id = stage.event_loop.core.adopt_channel(0, ours.into(), Peer::Unix, Box::new(()));
    stage.event_loop.settle();
    (id, client)
}

fn is_stopped(stage: &Stage, channel: ConnectionId) -> bool {
    let link = stage.event_loop.core.links.get(channel);
    link.is_none_or(|link| link.awaits_stop() || link.awaits_probe() || !link.is_open())
}

#[test]
fn a_child_finishes_its_channel_one_turn_after_the_last_connection_has_ended() {
    let (mut stage, channel, _parent) = child();
    stage.event_loop.part();
    assert!(stage.event_loop.exchange.parting && stage.event_loop.exchange.mail, "one turn more");
    assert!(!is_stopped(&stage, channel));
    stage.event_loop.part();
    assert!(!is_stopped(&stage, channel), "a mailbox may have a message");
    stage.event_loop.exchange.mail = false;
    let publication = (Topic::new("room"), Shared::new(Bytes::from_static(b"last words")));
    assert!(stage.cluster.fixed()[0].pass_on(publication).is_ok());
    stage.event_loop.part();
    assert!(!is_stopped(&stage, channel), "the channel has not taken the publication");
    stage.event_loop.read_published();
    stage.event_loop.exchange.mail = false;
    stage.event_loop.part();
    assert!(is_stopped(&stage, channel));
}

#[test]
fn a_child_does_not_part_while_it_has_a_connection() {
    let (mut stage, _, _parent) = child();
    let (id, _client) = connected(&mut stage);
    assert!(stage.event_loop.core.links.get(id).is_some());
    stage.event_loop.part();
    assert!(!stage.event_loop.exchange.parting);
}

#[test]
fn a_child_whose_drain_time_is_over_aborts_its_connection_and_has_the_margin_for_its_channel() {
    let (mut stage, channel, _parent) = child();
    let (id, _client) = connected(&mut stage);
    let (drain_time, margin) = (Duration::from_secs(8), Duration::from_secs(1));
    stage.event_loop.config.drain_timeout = Some(drain_time);
    stage.event_loop.config.drain_margin = margin;
    stage.event_loop.core.halting = true;
    stage.event_loop.keep_stopping();
    let begin = stage.event_loop.core.now;
    let exists = |stage: &Stage, id| stage.event_loop.core.links.get(id).is_some();
    assert!(exists(&stage, id) && exists(&stage, channel));
    stage.event_loop.core.now = begin + (drain_time - margin);
    stage.event_loop.keep_stopping();
    assert!(!exists(&stage, id) && stage.event_loop.core.links.get(channel).is_some_and(|link| link.is_open()));
    assert!(stage.event_loop.exchange.parting, "the channel is the last one");
    stage.event_loop.exchange.mail = false;
    assert_eq!(stage.event_loop.timeout(), Some(margin), "the loop does not spin");
    stage.event_loop.core.now = begin + drain_time;
    stage.event_loop.keep_stopping();
    assert!(!exists(&stage, channel), "a parent that does not read holds up nothing");
}
