//! Rules 33 and 34: what peers that do not read hold in the kernel is bounded.

use std::io::Read;
use std::net::TcpListener;

use reactor::{Address, Limits, Listener, Service};

use crate::stage::{Factory, Plan, Seen, Stage, narrow_client};
use crate::support::on_every_backend;

/// What the kernel may keep unsent in these tests.
const UNSENT: usize = 16 * 1024;
/// Beyond that: one segment of the loopback device (64 KiB), and the receive buffer of a narrow client.
const SLACK: usize = 128 * 1024;
/// Written to one peer at once. The kernel of itself takes megabytes of it.
const ANSWER: usize = 8 << 20;

fn limits() -> Limits {
    Limits { unsent: UNSENT, output_max: 2 * ANSWER, ..Limits::default() }
}

on_every_backend! {
    // Rule 33.
    fn the_kernel_keeps_little_for_a_peer_that_does_not_read(backend: Backend) {
        let bound: fn(Factory) -> _ = |factory| Service::tcp("127.0.0.1:0", factory);
        let inherited: fn(Factory) -> _ = |factory| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Service::on(Listener::try_from(listener).unwrap(), factory)
        };
        for make in [bound, inherited] {
            let stage = Stage::at(backend, Plan::new(), make, |service| service.limits(limits()), |_| {});
            let mut client = narrow_client(stage.address());
            let id = stage.next().id();
            stage.ask(move |cx| cx.write_to(id, vec![b'x'; ANSWER]));
            stage.is_quiet();
            let owed = stage.ask(move |cx| cx.queued_of(id));
            assert!(owed >= ANSWER - UNSENT - SLACK, "the kernel has taken {} bytes", ANSWER - owed);
            // It is sent all the same, and in full.
            client.read_exact(&mut vec![0; ANSWER]).unwrap();
            stage.wait_until("all has left", move |cx| cx.queued_of(id) == 0);
        }
    }

    // Rule 33.
    fn the_kernel_keeps_little_for_an_outbound_connection_too(backend: Backend) {
        let upstream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        upstream.set_recv_buffer_size(4096).unwrap();
        upstream.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        upstream.listen(1).unwrap();
        let upstream = TcpListener::from(upstream);
        let address = upstream.local_addr().unwrap();
        let stage = Stage::tuned(backend, Plan::new(), |service| service.limits(limits()), |_| {});
        let id = stage.ask(move |cx| cx.connect(Address::Tcp(address), ()));
        stage.until(|seen| *seen == Seen::Connected(id));
        let (mut peer, _) = upstream.accept().unwrap();
        stage.ask(move |cx| cx.write_to(id, vec![b'x'; ANSWER]));
        stage.is_quiet();
        let owed = stage.ask(move |cx| cx.queued_of(id));
        assert!(owed >= ANSWER - UNSENT - SLACK, "the kernel has taken {} bytes", ANSWER - owed);
        peer.read_exact(&mut vec![0; ANSWER]).unwrap();
    }
}
