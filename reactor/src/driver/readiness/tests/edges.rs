//! TCP connections with edges: input is reported when it arrives, and the driver remembers whatever it leaves unread.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use super::super::*;
use super::world::*;
use crate::address::Peer;
use crate::driver::Acceptor;
use crate::link::{Origin, Step};
use crate::sys::backend::Backend;
use crate::sys::fork::FORKS;
use crate::sys::kernel::Kernel;

/// Size of the scratch buffer of `World::reports`.
const FULL: Moved = Moved::Bytes(1000);

fn tcp() -> Peer {
    Peer::Tcp(([127, 0, 0, 1], 1).into())
}

/// An accepted TCP connection that the poller knows.
fn known(world: &mut World, fd: i32) -> ConnectionId {
    let id = world.connection_of(fd, Origin::Accepted, tcp());
    world.wait(MINUTE);
    assert_eq!(world.calls(), [format!("register {fd} r- edges")]);
    id
}

/// Handles the next completion by the short way. Returns the number of received bytes.
fn short(world: &mut World) -> Option<usize> {
    world.driver.next_received(&mut world.links, &mut [0; 1000]).map(|(_, count)| count)
}

#[test]
fn a_tcp_connection_has_edges_while_it_is_only_read_and_other_descriptors_never() {
    let mut world = World::new();
    let id = known(&mut world, 10);
    for (fd, origin, peer, call) in [
        (11, Origin::Refused, tcp(), "register 11 r- edges"),
        (12, Origin::Outbound, tcp(), "register 12 r- edges"),
        (13, Origin::Adopted, tcp(), "register 13 r-"),
        (14, Origin::Channel, tcp(), "register 14 r-"),
        (15, Origin::Accepted, Peer::Unix, "register 15 r-"),
    ] {
        let id = world.connection_of(fd, origin, peer);
        let now = world.driver.now();
        world.links.get_mut(id).unwrap().connected(now);
        world.wait(MINUTE);
        assert_eq!(world.calls(), [call]);
    }
    let layered = world.connection_of(16, Origin::Accepted, tcp());
    world.driver.put_layer(layered, Box::<OneByte>::default());
    world.listener(17);
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["register 17 r-", "register 16 r-"]);
    // While output waits, the poller reports the state.
    world.write(id, b"answer");
    world.block(id);
    world.wait(MINUTE);
    world.happen(&[(id, Ready::WRITABLE)]);
    assert_eq!(world.batch(), ["0 sent Bytes(6)"]);
    let now = world.driver.now();
    world.links.get_mut(id).unwrap().sent(Sent::Bytes(6), now, &limits(), &mut world.pool, || 0);
    world.driver.changed(id);
    world.wait(MINUTE);
    world.change(id, Link::pause);
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["modify 10 rw", "send 10 6", "modify 10 r- edges", "modify 10 --"]);
}

#[test]
fn after_a_full_buffer_the_next_batch_reads_on_without_an_event_and_after_less_it_does_not() {
    for short_way in [true, false] {
        let mut world = World::new();
        let id = known(&mut world, 10);
        world.arrive(10, [FULL, FULL, Moved::Bytes(999)]);
        world.happen(&[(id, Ready::READABLE)]);
        world.wait(MINUTE);
        if short_way {
            assert_eq!(short(&mut world), None, "received, and reported by the long way");
        }
        assert_eq!(world.reports(), ["0 received 1000"]);
        assert_eq!(world.timeout(), AT_ONCE);
        assert_eq!(world.reports(), ["0 received 1000"]);
        assert_eq!(world.timeout(), AT_ONCE);
        assert_eq!(world.reports(), ["0 received 999"]);
        assert_eq!(world.timeout(), MINUTE, "the socket is empty, so that no further receive says so");
        assert_eq!(world.calls(), ["recv 10"; 3]);
    }
}

#[test]
fn in_front_of_an_end_an_error_or_urgent_data_no_receive_is_the_last_before_one_without_bytes() {
    for ready in [Ready::ENDING, Ready::URGENT, Ready::ERROR, Ready::HANGUP] {
        for (last, report) in [(Moved::Ended, "0 ended"), (Moved::Blocked, "0 nothing")] {
            let mut world = World::new();
            let id = known(&mut world, 10);
            world.arrive(10, [Moved::Bytes(1), Moved::Bytes(2), Moved::Bytes(3), last]);
            world.happen(&[(id, Ready::READABLE.and(ready))]);
            world.wait(MINUTE);
            assert_eq!(short(&mut world), None, "the short way takes nothing but plain input");
            assert_eq!(world.reports(), ["0 received 1"], "{ready:?}");
            for expected in ["0 received 2", "0 received 3", report] {
                assert_eq!(world.timeout(), AT_ONCE);
                assert_eq!(world.reports(), [expected]);
            }
            assert_eq!(world.timeout(), MINUTE);
            assert_eq!(world.calls(), ["recv 10"; 4]);
        }
    }
}

#[test]
fn an_event_that_is_not_read_has_the_poller_look_again_even_if_the_connection_reads_on_in_the_same_batch() {
    for ready in [Ready::READABLE, Ready::READABLE.and(Ready::ENDING), Ready::URGENT, Ready::ENDING] {
        let mut world = World::new();
        let (id, other) = (known(&mut world, 10), known(&mut world, 11));
        world.arrive(10, [Moved::Bytes(1)]);
        world.arrive(11, [Moved::Bytes(1)]);
        world.happen(&[(id, ready), (other, Ready::READABLE)]);
        world.wait(MINUTE);
        // Two callbacks of this batch, before the event and after it.
        world.change(id, Link::hold);
        assert_eq!(short(&mut world), None);
        assert_eq!(world.reports(), ["1 received 1"]);
        world.change(id, Link::release_hold);
        world.wait(MINUTE);
        assert_eq!(world.calls(), ["recv 11", "modify 10 r- edges"], "{ready:?}");
        world.wait(MINUTE);
        assert_eq!(world.calls(), [""; 0], "once");
    }
}

#[test]
fn an_urgent_byte_alone_is_no_input_and_the_poller_is_not_asked_again() {
    let mut world = World::new();
    let id = known(&mut world, 10);
    for _ in 0..2 {
        world.happen(&[(id, Ready::URGENT)]);
        assert_eq!(world.batch(), [""; 0]);
        assert_eq!(world.timeout(), MINUTE);
        assert_eq!(world.calls(), [""; 0]);
    }
    on_every_backend(|mut real| {
        socket2::SockRef::from(&real.peer).send_out_of_band(b"!").unwrap();
        for _ in 0..20 {
            let now = real.driver.now();
            real.driver.wait(&real.links, Some(Duration::from_millis(10)), now).unwrap();
            assert!(!real.rest(&mut Vec::new()));
        }
        assert_eq!(real.driver.counters.interest_changes.get(), 0);
        (&real.peer).write_all(b"behind").unwrap();
        real.expect(b"behind");
    });
}

#[test]
fn a_receive_that_is_left_out_because_the_connection_does_not_read_has_the_poller_look_again() {
    let mut world = World::new();
    let (id, other) = (known(&mut world, 10), known(&mut world, 11));
    world.arrive(10, [FULL, FULL]);
    world.arrive(11, [FULL, FULL]);
    world.happen(&[(id, Ready::READABLE), (other, Ready::READABLE)]);
    assert_eq!(world.batch(), ["0 received 1000", "1 received 1000"]);
    world.calls();
    world.wait(MINUTE);
    world.change(id, Link::hold);
    assert_eq!(world.reports(), ["0 nothing", "1 received 1000"]);
    world.change(id, Link::release_hold);
    world.wait(MINUTE);
    assert_eq!(world.calls(), ["recv 11", "modify 10 r- edges"]);
}

#[test]
fn a_connection_that_is_to_be_read_without_an_event_and_has_one_is_read_once_in_a_batch() {
    let mut world = World::new();
    let (id, other) = (known(&mut world, 10), known(&mut world, 11));
    world.arrive(10, [FULL, FULL, Moved::Bytes(1)]);
    world.arrive(11, [Moved::Bytes(5), Moved::Bytes(6)]);
    world.happen(&[(id, Ready::READABLE)]);
    assert_eq!(world.batch(), ["0 received 1000"]);
    world.happen(&[(other, Ready::READABLE), (id, Ready::READABLE)]);
    world.wait(MINUTE);
    assert_eq!(short(&mut world), Some(5), "another connection takes the short way all the same");
    assert_eq!(short(&mut world), None);
    assert_eq!(world.reports(), ["0 received 1000"]);
    assert_eq!(world.timeout(), AT_ONCE, "the rest is not forgotten");
    assert_eq!(world.reports(), ["0 received 1"]);
    assert_eq!(world.timeout(), MINUTE);
    // A request of the loop that comes after the receive of an event is answered, too.
    world.arrive(10, [FULL, Moved::Bytes(2)]);
    world.happen(&[(id, Ready::READABLE)]);
    assert_eq!(world.batch(), ["0 received 1000"]);
    world.happen(&[(id, Ready::READABLE)]);
    world.wait(MINUTE);
    assert!(matches!(world.driver.next(&world.links, &mut [0; 1000]), Some(Completion::Received { count: 2, .. })));
    world.driver.probe(id);
    assert_eq!(world.reports(), [""; 0]);
    assert_eq!(world.batch(), ["0 nothing"]);
    assert_eq!(world.timeout(), MINUTE);
}

#[test]
fn a_connection_that_came_from_another_loop_is_received_from_once_in_a_batch() {
    for is_short in [true, false] {
        let mut world = World::new();
        let id = world.link(Origin::Accepted);
        world.links.get_mut(id).unwrap().begin(Fd(10), false);
        world.driver.count_in();
        // Between two batches, so the wait registers the connection.
        world.driver.adopt(id, Socket(Fd(10)), true);
        world.happen(&[(id, Ready::READABLE)]);
        world.arrive(10, [Moved::Bytes(5), Moved::Bytes(6)]);
        world.wait(MINUTE);
        if is_short {
            assert_eq!(short(&mut world), Some(5));
            assert_eq!(world.reports(), [""; 0]);
        } else {
            assert_eq!(world.reports(), ["0 received 5"]);
        }
        assert_eq!(world.timeout(), MINUTE);
    }
}

#[test]
fn a_request_to_read_is_for_the_next_batch_and_an_event_behind_it_still_takes_the_short_way() {
    let mut world = World::new();
    let id = known(&mut world, 10);
    world.arrive(10, [Moved::Bytes(5), Moved::Bytes(6)]);
    world.happen(&[(id, Ready::READABLE)]);
    world.wait(MINUTE);
    world.driver.probe(id);
    assert_eq!(short(&mut world), Some(5));
    assert_eq!(world.reports(), [""; 0]);
    assert_eq!(world.timeout(), AT_ONCE);
    assert_eq!(world.reports(), ["0 received 6"]);
    assert_eq!(world.timeout(), MINUTE);
    assert_eq!(world.calls(), ["recv 10"; 2]);
}

/// A driver with one accepted TCP connection, and the peer.
struct Real {
    driver: Readiness<Kernel>,
    links: Links,
    id: ConnectionId,
    peer: TcpStream,
}

impl Real {
    fn new(backend: Backend) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_nodelay(true).unwrap();
        let (near, address) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut driver = Readiness::new(Kernel::new(backend).unwrap(), 0, Arc::default());
        let mut links = Links::new(0, 1);
        let socket = Socket::owned(near.into());
        let mut link = Link::new(Origin::Accepted, Peer::Tcp(address), 0, 0, driver.now());
        link.begin(socket.fd(), false);
        let id = links.insert(link);
        driver.count_in();
        driver.adopt(id, socket, false);
        Real { driver, links, id, peer }
    }

    fn change(&mut self, change: impl FnOnce(&mut Link)) {
        change(self.links.get_mut(self.id).unwrap());
        self.driver.changed(self.id);
    }

    /// Waits for a batch, and appends its input to `got`. Returns whether the peer has ended.
    fn batch(&mut self, got: &mut Vec<u8>) -> bool {
        let now = self.driver.now();
        self.driver.wait(&self.links, Some(Duration::from_secs(60)), now).unwrap();
        assert!(self.driver.now().since(now) < Duration::from_secs(60), "no event, after {got:?}");
        self.rest(got)
    }

    /// Handles the rest of the batch.
    fn rest(&mut self, got: &mut Vec<u8>) -> bool {
        let (mut scratch, mut ended) = ([0; 1000], false);
        loop {
            if let Some((_, count)) = self.driver.next_received(&mut self.links, &mut scratch) {
                got.extend_from_slice(&scratch[..count]);
                continue;
            }
            match self.driver.next(&self.links, &mut scratch) {
                Some(Completion::Received { count, .. }) => got.extend_from_slice(&scratch[..count]),
                Some(Completion::Ended { .. }) => {
                    ended = true;
                    self.change(Link::end_of_input);
                }
                Some(Completion::Nothing { .. }) => {}
                Some(other) => panic!("{other:?}"),
                None => return ended,
            }
        }
    }

    /// Reads until `expected` has arrived, and no further event is at hand.
    fn expect(&mut self, expected: &[u8]) {
        let mut got = Vec::new();
        while got.len() < expected.len() {
            assert!(!self.batch(&mut got), "ended after {got:?}");
        }
        assert!(got == expected, "{got:?}");
    }
}

fn on_every_backend(test: impl Fn(Real)) {
    let _no_forks = FORKS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    for backend in [Backend::Epoll, Backend::Select] {
        test(Real::new(backend));
    }
}

#[test]
fn bytes_behind_an_urgent_byte_are_read_without_further_arrivals() {
    on_every_backend(|mut real| {
        for _ in 0..20 {
            let peer = socket2::SockRef::from(&real.peer);
            (&real.peer).write_all(b"before").unwrap();
            peer.send_out_of_band(b"!").unwrap();
            (&real.peer).write_all(b"behind").unwrap();
            real.expect(b"beforebehind");
        }
        // Two marks, the first of which becomes an ordinary byte, in its place.
        for _ in 0..20 {
            let peer = socket2::SockRef::from(&real.peer);
            let mut got = Vec::new();
            for text in [b"one", b"two"] {
                (&real.peer).write_all(text).unwrap();
                peer.send_out_of_band(b"!").unwrap();
            }
            (&real.peer).write_all(b"end.").unwrap();
            while !got.ends_with(b"end.") {
                assert!(!real.batch(&mut got));
            }
            got.retain(|&byte| byte != b'!');
            assert_eq!(got, b"onetwoend.");
        }
    });
}

#[test]
fn an_urgent_byte_in_the_line_stops_a_receive_and_not_the_connection() {
    on_every_backend(|mut real| {
        let fd = real.links.get(real.id).unwrap().descriptor;
        let lent = real.driver.sockets().lend(fd).map(|socket| socket.try_clone_to_owned().unwrap()).unwrap();
        socket2::SockRef::from(&lent).set_out_of_band_inline(true).unwrap();
        for _ in 0..20 {
            (&real.peer).write_all(b"before").unwrap();
            socket2::SockRef::from(&real.peer).send_out_of_band(b"!").unwrap();
            (&real.peer).write_all(b"behind").unwrap();
            real.expect(b"before!behind");
        }
    });
}

#[test]
fn an_end_that_comes_together_with_bytes_is_reported() {
    on_every_backend(|mut real| {
        real.peer.write_all(&[b'.'; 2500]).unwrap();
        real.peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        while !real.batch(&mut got) {}
        assert_eq!(got.len(), 2500);
    });
}

#[test]
fn input_of_many_buffers_is_read_to_its_end_whatever_its_length() {
    on_every_backend(|mut real| {
        for length in [999, 1000, 1001, 2000, 12_345, 50_000] {
            let mut writer = real.peer.try_clone().unwrap();
            let sender = std::thread::spawn(move || writer.write_all(&vec![b'.'; length]).unwrap());
            real.expect(&vec![b'.'; length]);
            sender.join().unwrap();
        }
    });
}

#[test]
fn input_that_arrives_during_a_pause_is_read_after_it_however_short_the_pause() {
    on_every_backend(|mut real| {
        for pauses_over_the_event in [true, false] {
            real.peer.write_all(b"early").unwrap();
            let mut got = Vec::new();
            let now = real.driver.now();
            if pauses_over_the_event {
                real.driver.wait(&real.links, Some(Duration::from_secs(60)), now).unwrap();
                real.change(Link::hold);
                real.rest(&mut got);
                assert_eq!(got, b"", "it is paused");
                real.change(Link::release_hold);
            } else {
                real.change(Link::hold);
                real.driver.wait(&real.links, Some(Duration::ZERO), now).unwrap();
                real.rest(&mut got);
                real.change(Link::release_hold);
            }
            real.expect(b"early");
        }
        assert_eq!(real.links.get_mut(real.id).unwrap().step(1, &limits()), Step::Rest);
    });
}
