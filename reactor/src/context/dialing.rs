//! The beginning of connections that callbacks have opened. For a connection by name, the name is looked up, and each of its
//! addresses is tried in order.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::vec::IntoIter;

use super::{ConnectionRef, Core, OpenKind, PendingOpen, Timer};
use crate::address::{Address, AddressError, Peer};
use crate::cluster::LoopHandle;
use crate::driver::{Driver, Socket};
use crate::error::Errno;
use crate::layer::Layer;
use crate::lookup::{Answers, LookUps, Request};
use crate::reason::{CloseReason, Deadline};
use crate::recorder::What;
use crate::shared::dropped;
use crate::sys::affinity::Cores;
use crate::sys::sockets::address_with_zone;
use crate::sys::wake::Waker;
use crate::timer::TimerKey;
use crate::token::ConnectionId;

/// The connections of a loop that are begun by name and not established.
#[derive(Default)]
pub(crate) struct Dials {
    open: HashMap<ConnectionId, Dial>,
    answers: Answers,
}

struct Dial {
    name: String,
    /// The layer, until a socket has it.
    layer: Option<Box<dyn Layer>>,
    /// Addresses that have not been tried.
    left: IntoIter<Address>,
    /// Gives up the present address.
    timer: Option<TimerKey>,
    /// Why the connection was not established.
    error: Option<AddressError>,
    /// The look-up is skipped after the drop of this value.
    _wanted: Arc<()>,
}

/// The parts of an application that a look-up needs.
pub(crate) struct Resolver<'a> {
    pub(crate) look_ups: &'a Arc<LookUps>,
    pub(crate) cores: Option<&'a Cores>,
    pub(crate) waker: Option<Waker>,
}

impl Core {
    /// Begins a connection that a callback has opened; `adopt` gives the state to the handler of a service. No
    /// [`on_stopping`](crate::Handler::on_stopping) is called for it during a stop: a handler that opens another connection in that
    /// callback might go on for ever.
    #[inline(never)]
    pub(crate) fn begin(
        &mut self,
        driver: &mut impl Driver,
        PendingOpen { id, state, kind }: PendingOpen,
        adopt: impl FnOnce(u16, Box<dyn Any>) -> u32,
        resolver: Resolver<'_>,
        loop_handle: &LoopHandle,
    ) {
        let Some(link) = self.links.get_mut(id) else { return dropped(state) };
        link.state = adopt(link.service, state);
        self.recorder.note(id, What::Asked, self.now);
        let tuning = self.terms[link.service as usize].sockets.tuning(&self.bounds[link.bounds].limits);
        match kind {
            OpenKind::Connect(to, layer) => {
                link.begin(driver.connect(id, &to, &tuning), layer.is_some());
                layer.into_iter().for_each(|layer| driver.put_layer(id, layer));
            }
            OpenKind::Dial(name, layer) => self.dial(driver, id, (name, layer), resolver),
            OpenKind::Watch(descriptor) => driver.watch(id, descriptor),
            OpenKind::Adopt(socket, layer) => {
                if link.origin.is_counted_in() {
                    self.counters.count_accepted();
                    loop_handle.load_more();
                }
                let socket = Socket::owned(socket);
                link.begin(socket.fd(), layer.is_some());
                driver.count_in();
                driver.adopt(id, socket, false);
                layer.into_iter().for_each(|layer| driver.put_layer(id, layer));
            }
        }
        self.mark_dirty(id);
    }

    /// Begins connection `id` to a name.
    fn dial(
        &mut self,
        driver: &mut impl Driver,
        id: ConnectionId,
        (name, layer): (String, Option<Box<dyn Layer>>),
        resolver: Resolver<'_>,
    ) {
        let wanted = Arc::new(());
        let request = |waker| Request {
            id,
            name: name.clone(),
            wanted: Arc::downgrade(&wanted),
            answers: self.dials.answers.clone(),
            waker,
        };
        let with_zone = || address_with_zone(&name).map(Ok);
        let known = match (Address::without_look_up(&name).or_else(with_zone), resolver.waker) {
            (Some(known), _) => Some(known.map(|address| vec![address])),
            (None, Some(waker)) => {
                resolver.look_ups.ask(request(waker), resolver.cores);
                None
            }
            // The loop ends.
            (None, None) => Some(Ok(Vec::new())),
        };
        let dial = Dial { name, layer, left: Vec::new().into_iter(), timer: None, error: None, _wanted: wanted };
        self.dials.open.insert(id, dial);
        if let Some(known) = known {
            self.found(driver, id, known);
        }
    }

    /// Goes on with the connections whose look-ups have ended.
    #[inline(never)]
    pub(crate) fn take_found(&mut self, driver: &mut impl Driver) {
        if !self.dials.open.is_empty() {
            for found in self.dials.answers.take() {
                self.found(driver, found.id, found.addresses);
            }
        }
    }

    fn found(&mut self, driver: &mut impl Driver, id: ConnectionId, addresses: Result<Vec<Address>, AddressError>) {
        let (Some(dial), Some(link)) = (self.dials.open.get_mut(&id), self.links.get_mut(id)) else { return };
        match addresses {
            Ok(addresses) => dial.left = addresses.into_iter(),
            Err(error) => {
                dial.error = Some(error);
                link.over(CloseReason::LookUpFailed);
                return self.mark_dirty(id);
            }
        }
        self.try_next(driver, id);
    }

    /// Tries the next address of connection `id`. Returns `false` if none is left.
    fn try_next(&mut self, driver: &mut impl Driver, id: ConnectionId) -> bool {
        let (Some(dial), Some(link)) = (self.dials.open.get_mut(&id), self.links.get_mut(id)) else { return false };
        let Some(address) = dial.left.next().filter(|_| !link.is_over()) else { return false };
        link.peer = Peer::of(&address);
        let bounds = &self.bounds[link.bounds];
        let fd = driver.connect(id, &address, &self.terms[link.service as usize].sockets.tuning(&bounds.limits));
        link.begin(fd, dial.layer.is_some());
        if fd != crate::sys::Fd::NONE {
            dial.layer.take().into_iter().for_each(|layer| driver.put_layer(id, layer));
        }
        // Every address gets an equal part of the time that is left: a silent address leaves time for the others.
        let (others, span) = (dial.left.len() as u32, bounds.deadlines.connect);
        if let Some(span) = span.filter(|_| others > 0) {
            let left = (link.opened() + span).since(self.now);
            dial.timer = Some(self.wheel.insert(self.now + left / (others + 1), Timer::Dial(id)));
        }
        self.mark_dirty(id);
        true
    }

    /// An address of connection `id` has failed. Returns whether another address is tried.
    #[cold]
    #[inline(never)]
    pub(crate) fn dial_failed(&mut self, driver: &mut impl Driver, id: ConnectionId, cause: io::Error) -> bool {
        let Some(dial) = self.dials.open.get_mut(&id) else { return false };
        let Some(layer) = driver.disconnect(id) else { return false };
        dial.layer = dial.layer.take().or(layer);
        if let Some(timer) = dial.timer.take() {
            self.wheel.cancel(timer);
        }
        log::debug!("connection {id} to {}: {}: {cause}", dial.name, dial.tried(&self.links, id));
        dial.error = Some(AddressError { address: dial.name.clone(), cause });
        self.try_next(driver, id)
    }

    /// The present address of connection `id` has not answered in its part of the time.
    #[inline(never)]
    pub(crate) fn dial_overdue(&mut self, driver: &mut impl Driver, id: ConnectionId) {
        if let Some(dial) = self.dials.open.get_mut(&id) {
            dial.timer = None;
            self.dial_failed(driver, id, io::ErrorKind::TimedOut.into());
        }
    }

    /// Connection `id` is established, or has ended.
    pub(crate) fn end_dial(&mut self, id: ConnectionId) {
        if !self.dials.open.is_empty()
            && let Some(Dial { timer: Some(timer), .. }) = self.dials.open.remove(&id)
        {
            self.wheel.cancel(timer);
        }
    }

    /// The name of connection `id`, for the log, until the connection is established.
    pub(crate) fn dialed(&self, id: ConnectionId) -> Option<&str> {
        self.dials.open.get(&id).map(|dial| &*dial.name)
    }
}

impl Dial {
    fn tried(&self, links: &crate::link::Links, id: ConnectionId) -> Peer {
        links.get(id).map_or(Peer::Unresolved, |link| link.peer)
    }
}

impl ConnectionRef<'_> {
    /// The text that [`Context::connect_to`](crate::Context::connect_to) was given, until the connection is established.
    pub fn name(&self) -> Option<&str> {
        self.core.dialed(self.id)
    }

    /// Why a connection by name ([`Context::connect_to`](crate::Context::connect_to)) was not established: the name, and the
    /// resolver's error, or the system's error at the last address. For [`Handler::on_close`](crate::Handler::on_close); `None` for
    /// any other connection, and for any other reason.
    pub fn connect_error(&self) -> Option<AddressError> {
        let (dial, link) = (self.core.dials.open.get(&self.id)?, self.core.links.get(self.id)?);
        let cause = match (link.reason(), &dial.error) {
            (CloseReason::LookUpFailed, Some(error)) => copy(&error.cause),
            (CloseReason::ConnectFailed(errno), _) => errno.to_io(),
            (CloseReason::TimedOut(Deadline::Connect), _) => io::ErrorKind::TimedOut.into(),
            _ => return None,
        };
        Some(AddressError { address: dial.name.clone(), cause })
    }
}

/// A second error with equal kind and text.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => Errno(number).to_io(),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::*;
    use crate::{Application, Backend, Context, Deadlines, Handler, Input, Service};

    /// Connects to a name, says hello, and tells its peer, or why there is none.
    struct Client {
        name: String,
        tell: Sender<Result<Peer, (CloseReason, Option<String>)>>,
    }

    impl Handler for Client {
        type Connection = ();

        fn on_start(&mut self, cx: &mut Context<'_>) {
            let id = cx.connect_to(self.name.clone(), ());
            assert_eq!((cx.at(id).peer(), cx.at(id).exists()), (Some(Peer::Unresolved), true));
            cx.at(id).write("hello");
        }

        fn on_open(&mut self, _: &mut Context<'_>) {}

        fn on_connected(&mut self, _: &mut (), cx: &mut Context<'_>) {
            self.tell.send(Ok(cx.peer().expect("it is connected"))).expect("the test waits");
            cx.close();
        }

        fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_>) {}

        fn on_close(&mut self, _: (), reason: CloseReason, cx: &mut Context<'_>) {
            let id = cx.id();
            if reason != CloseReason::Closed {
                let error = cx.at(id).connect_error().map(|error| error.to_string());
                self.tell.send(Err((reason, error))).expect("the test waits");
            }
            cx.halt();
        }
    }

    type Outcome = Result<Peer, (CloseReason, Option<String>)>;

    /// Runs a client to its end, on each backend.
    fn on_each(
        name: &str,
        deadline: Duration,
        table: impl Fn() -> Option<Vec<SocketAddr>> + Clone + Send + Sync + 'static,
    ) -> Vec<Outcome> {
        [Backend::Epoll, Backend::Select]
            .map(|backend| {
                let (tell, outcome): (_, Receiver<Outcome>) = channel();
                let mut application = Application::with_backend(backend).unwrap();
                let table = table.clone();
                application.handle().0.look_ups.answer_by(Box::new(move |name| {
                    let error = AddressError { address: name.to_owned(), cause: io::ErrorKind::NotFound.into() };
                    match table() {
                        Some(all) if all.is_empty() => Some(Err(error)),
                        Some(all) => Some(Ok(all.into_iter().map(Address::Tcp).collect())),
                        None => None,
                    }
                }));
                let linger = Duration::from_millis(10);
                let deadlines = Deadlines { connect: Some(deadline), linger, ..Deadlines::default() };
                let name = name.to_owned();
                let client = move || Client { name: name.clone(), tell: tell.clone() };
                application.add_service(Service::outbound(client).deadlines(deadlines)).unwrap();
                application.run().unwrap();
                let all: Vec<_> = outcome.iter().collect();
                assert_eq!(all.len(), 1, "one outcome: {all:?}");
                all.into_iter().next().unwrap()
            })
            .into()
    }

    const LONG: Duration = Duration::from_secs(60);

    /// An address that refuses, held by a socket that does not listen.
    fn refusing() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    /// An address that never answers: its queue is full.
    fn silent() -> (Vec<socket2::Socket>, SocketAddr) {
        let (socket, address) = refusing();
        socket.listen(0).unwrap();
        let queued = (0..4).map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        });
        (queued.collect::<Vec<_>>().into_iter().chain([socket]).collect(), address)
    }

    #[test]
    fn each_address_is_tried_until_one_answers() {
        let (_held, refusing) = refusing();
        // Fails at once, without a socket.
        let unreachable = SocketAddr::from(([255, 255, 255, 255], 9));
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let table = move || Some(vec![refusing, unreachable, unreachable, refusing, address, refusing]);
        let outcome = on_each("name:80", LONG, table);
        assert_eq!(outcome, [Ok(Peer::Tcp(address)), Ok(Peer::Tcp(address))]);
        for _ in 0..2 {
            let mut heard = String::new();
            server.accept().unwrap().0.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "hello");
        }
    }

    #[test]
    fn a_silent_address_leaves_time_for_the_next() {
        let (_held, silent) = silent();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        // A third of the time is for the silent address.
        let table = move || Some(vec![silent, address, address]);
        assert!(
            on_each("name:80", Duration::from_secs(6), table).iter().all(|outcome| *outcome == Ok(Peer::Tcp(address)))
        );
    }

    #[test]
    fn if_no_address_answers_the_error_names_the_host_and_the_last_cause() {
        let (_held, refusing) = refusing();
        for outcome in on_each("name:80", LONG, move || Some(vec![refusing, refusing])) {
            let (reason, error) = outcome.unwrap_err();
            assert!(matches!(reason, CloseReason::ConnectFailed(errno) if errno.0 == libc_refused()), "{reason}");
            assert!(error.unwrap().starts_with("name:80: Connection refused"));
        }
    }

    fn libc_refused() -> i32 {
        let (_held, refusing) = refusing();
        TcpStream::connect(refusing).unwrap_err().raw_os_error().unwrap()
    }

    #[test]
    fn an_unknown_or_malformed_name_is_an_error_that_names_it() {
        for outcome in on_each("nobody.invalid:80", LONG, || Some(Vec::new())) {
            let (reason, error) = outcome.unwrap_err();
            assert_eq!(
                (reason, error.as_deref()),
                (CloseReason::LookUpFailed, Some("nobody.invalid:80: entity not found"))
            );
        }
        let table = [
            ("nowhere", "nowhere: it has no port: not of the form host:port"),
            ("name:http", "name:http: the port is not a number from 0 to 65535"),
            ("name:99999", "name:99999: the port is not a number from 0 to 65535"),
            (":80", ":80: it has no host: not of the form host:port"),
            ("::1:80", "::1:80: not of the form host:port or [v6]:port"),
        ];
        for (name, said) in table {
            for outcome in on_each(name, LONG, || unreachable!("nothing is looked up")) {
                assert_eq!(outcome.unwrap_err(), (CloseReason::LookUpFailed, Some(said.to_owned())));
            }
        }
    }

    #[test]
    fn the_deadline_counts_for_the_look_up_too() {
        for outcome in on_each("name:80", Duration::from_millis(50), || None) {
            let (reason, error) = outcome.unwrap_err();
            assert_eq!(
                (reason, error.as_deref()),
                (CloseReason::TimedOut(Deadline::Connect), Some("name:80: timed out"))
            );
        }
    }

    #[test]
    fn a_numeric_address_is_not_looked_up() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        assert!(on_each(&address.to_string(), LONG, || unreachable!("nothing is looked up")).iter().all(Result::is_ok));
        let Ok(server) = TcpListener::bind("[::1]:0") else { return };
        let port = server.local_addr().unwrap().port();
        for name in [format!("[::1]:{port}"), format!("tcp://[::1]:{port}"), format!("[::1%lo]:{port}")] {
            let outcome = on_each(&name, LONG, || unreachable!("nothing is looked up"));
            assert!(outcome.iter().all(Result::is_ok), "{name}: {outcome:?}");
        }
        let mut server = server.accept().unwrap().0;
        let _ = server.write_all(b"bye");
    }
}
