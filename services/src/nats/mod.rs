//! A client of [NATS](https://nats.io) on the reactor: a handler that connects to a server of a cluster, stays connected, and
//! lends a [`Link`] to its [`Participant`]. No second runtime; a thread only looks host names up.
//!
//! ```text
//!   Away ──connected──▶ Greeting ──INFO──▶ Proving ──PONG──▶ Up ──lost──▶ Away (a pause, the next server)
//!                          (CONNECT, PING)           (subscriptions, then Participant::connected)
//! ```
//!
//! The client is connected once the server has answered its first PING. Subscriptions outlive connections: the client makes them
//! again. Messages do not: while the client is away, [`Link::publish`] returns [`NotSent::Away`]. An attempt takes at most
//! [`ATTEMPT_MAX`], and the next one follows within [`PAUSE_MAX`]. A server without a sign for [`AWAY_AFTER`] is given up.
//!
//! TLS is a layer that the caller brings: [`Client::layered`]. NATS tells INFO in plaintext before the handshake, so INFO is
//! taken from the wire first. Servers with `handshake_first` are not supported.
//!
//! [`codec::nats`](crate::codec::nats) encodes and decodes the bytes. [`Client`] has an example; the example `nats` of the package
//! is a program of a page.

mod link;
mod participant;
mod retry;
mod server;
mod session;
mod tls;

#[cfg(all(test, feature = "sim"))]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use reactor::{Address, CloseReason, ConnectionId, Deadlines, Handler, Input, Layer, Limits};

use crate::codec::nats::{CONTROL_LINE_MAX, PAYLOAD_MAX};
pub use crate::codec::nats::{Headers, Info, Login, Message, Publish};
pub use link::{Link, NotSent, Sent};
use participant::Content;
pub use participant::{Cause, NoAnswer, Participant, Posted};
use server::Servers;
pub use server::{PORT, Url, UrlError};
use session::{Phase, Session, Way};

/// A server that has not sent a byte for this time is away: the client gives the connection up.
pub const AWAY_AFTER: Duration = Duration::from_secs(8);
/// The client sends PING after this time without a byte of the server.
pub const PING_AFTER: Duration = Duration::from_secs(3);
/// Time for an attempt: the look-up of a name, the connection, TLS, and the server's answer to the first PING.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(1);
/// Longest pause between the end of an attempt and the beginning of the next one.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Bytes that wait for the server at most. A message that does not fit is refused: [`NotSent::Full`].
pub const QUEUE_MAX: usize = 4 * 1024 * 1024;
/// Requests that wait for an answer at most.
pub const REQUESTS_MAX: usize = 1024;
/// Largest number of subscriptions of a client at one time.
pub const SUBSCRIPTIONS_MAX: usize = 1024;

/// Room for operations of the client's own, such as PONG, besides [`QUEUE_MAX`].
const QUEUE_OWN: usize = 1024 * 1024;

/// The client's context.
type Context<'a, M> = reactor::Context<'a, Wire, Posted<M>>;

/// Limits of the client's connection: room for a message of 1 MiB, the servers' default limit, and [`QUEUE_MAX`].
pub fn limits() -> Limits {
    Limits {
        input: PAYLOAD_MAX + CONTROL_LINE_MAX + 128 * 1024,
        output_max: QUEUE_MAX + QUEUE_OWN,
        ..Limits::default()
    }
}

/// Deadlines of the client's connection. The client keeps its own time besides: see [`ATTEMPT_MAX`] and [`AWAY_AFTER`].
pub fn deadlines() -> Deadlines {
    Deadlines { connect: Some(ATTEMPT_MAX), linger: ATTEMPT_MAX, ..Deadlines::default() }
}

/// The client's state of a connection. Has no content: the client itself keeps the session.
///
/// ```
/// /// The context of the client's callbacks, with messages of type `M` for the participant.
/// type Context<'a, M> = reactor::Context<'a, services::nats::Wire, services::nats::Posted<M>>;
/// ```
#[derive(Debug)]
pub struct Wire(());

/// A client of NATS: a handler for [`Service::outbound`](reactor::Service::outbound) with [`limits`] and [`deadlines`].
///
/// On an application with several loops the client of the first loop connects, and the others stay idle; messages posted to
/// [`ConnectionId::NONE`] reach the first loop.
///
#[cfg_attr(feature = "sim", doc = "```")]
#[cfg_attr(not(feature = "sim"), doc = "```text")]
/// use reactor::sim::{Script, Simulation};
/// use reactor::{Address, Service};
/// use services::nats::{Cause, Client, Info, Link, Message, Participant, Publish, deadlines, limits};
///
/// struct Greeter;
///
/// impl Participant for Greeter {
///     type Message = ();
///     fn started(&mut self, link: &mut Link<'_, '_, ()>) {
///         link.subscribe("greetings").expect("the subject is valid");
///     }
///     fn connected(&mut self, info: &Info, link: &mut Link<'_, '_, ()>) {
///         assert_eq!(info.version, "2.9.10");
///         link.publish(&Publish::new("greetings", b"hello").expect("the subject is valid")).expect("connected");
///     }
///     fn message(&mut self, _: u64, message: &Message<'_>, link: &mut Link<'_, '_, ()>) {
///         assert_eq!(message.payload, b"hello");
///         link.halt();
///     }
///     fn lost(&mut self, _: &Cause, _: &mut Link<'_, '_, ()>) {}
/// }
///
/// let server: Address = "10.0.0.1:4222".parse()?;
/// let mut sim = Simulation::new(1);
/// let script = Script::new()
///     .send(b"INFO {\"version\":\"2.9.10\",\"headers\":true,\"max_payload\":1048576}\r\n")
///     .react(|heard| heard.ends_with(b"PING\r\n").then(|| (heard.len(), Script::new().send(b"PONG\r\n"))))
///     .react(|heard| {
///         let text = b"SUB greetings 1\r\nPUB greetings 5\r\nhello\r\n";
///         heard.ends_with(text).then(|| (heard.len(), Script::new().send(b"MSG greetings 1 5\r\nhello\r\n")))
///     });
/// sim.remote(server, move || Some(script.clone()));
/// let client = || Client::new(["nats://10.0.0.1:4222".parse().unwrap()], Greeter).seed(1);
/// sim.add_service(Service::outbound(client).limits(limits()).deadlines(deadlines()))?;
/// sim.run();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Client<P: Participant> {
    participant: P,
    session: Session,
}

impl<P: Participant> Client<P> {
    /// Makes a client that connects to one of `servers`, or to another server of their cluster.
    pub fn new(servers: impl IntoIterator<Item = Url>, participant: P) -> Self {
        let servers = Servers::new(servers.into_iter().collect());
        Client { participant, session: Session::new(servers, RandomState::new().hash_one(std::process::id())) }
    }

    /// Sets the client's name, for the server's reports. Empty by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.session.name = name.into();
        self
    }

    /// Sets the login for all servers, in place of logins in URLs.
    pub fn login(mut self, login: Login) -> Self {
        self.session.login = Some(login);
        self
    }

    /// Makes the server send the client its own messages, too, where the client has subscribed to their subject (the default).
    pub fn echo(mut self, echo: bool) -> Self {
        self.session.echo = echo;
        self
    }

    /// Sets the most bytes of a received message, headers included; 1 MiB by default, as in [`limits`]. A longer message ends
    /// the connection. The service's [`Limits::input`] must have room for the message and 4 KiB.
    pub fn payload_max(mut self, bytes: usize) -> Self {
        self.session.decoder.payload_max = bytes;
        self
    }

    /// Sets the seed of pauses and inbox names, which are random by default. For tests and simulations.
    pub fn seed(mut self, seed: u64) -> Self {
        self.session.seed(seed);
        self
    }

    /// Sends every connection to a `tls://` server through a layer. `layer` makes the layer for a server's name, or tells why it
    /// cannot; `cause` returns the reason of the latest failed handshake, if the layer knows the reason. Without a call of this
    /// method `tls://` servers are never reached: [`Cause::Tls`].
    pub fn layered(
        mut self,
        layer: impl FnMut(&str) -> Result<Box<dyn Layer>, String> + 'static,
        cause: impl FnMut() -> Option<String> + 'static,
    ) -> Self {
        self.session.way = Some(Way { layer: Box::new(layer), cause: Box::new(cause) });
        self
    }

    /// Calls the participant with the link.
    fn with(&mut self, cx: &mut Context<'_, P::Message>, call: impl FnOnce(&mut P, &mut Link<'_, '_, P::Message>)) {
        call(&mut self.participant, &mut Link { session: &mut self.session, cx });
    }

    // ---- connecting ------------------------------------------------------------------------------------------------

    /// Tries the next server.
    fn attempt(&mut self, cx: &mut Context<'_, P::Message>) {
        if self.session.phase != Phase::Away || cx.is_stopping() {
            return;
        }
        let Some(server) = self.session.servers.advance() else { return };
        if server.wants_look_up() {
            let (place, handle) = ((server.url.host.clone(), server.url.port), cx.service_handle());
            server.is_looked_up = true;
            // Fails where the system has no thread to give: then the attempt takes too long.
            let look_up = move || {
                let found =
                    Address::resolve(&format!("{}:{}", place.0, place.1)).map_err(|error| error.cause.to_string());
                // Fails if the application has ended meanwhile.
                let _ = handle.post_wait(ConnectionId::NONE, Posted(Content::Found(place, found)));
            };
            let name = "nats look-up".to_owned();
            server.is_looked_up = std::thread::Builder::new().name(name).spawn(look_up).is_ok();
        }
        self.session.phase = Phase::LookingUp;
        cx.timers().set(session::ATTEMPT, ATTEMPT_MAX);
        self.connect(cx);
    }

    /// Connects to the next address of the current server, if one is known.
    fn connect(&mut self, cx: &mut Context<'_, P::Message>) {
        self.session.begin();
        let Some(server) = self.session.servers.current() else { return };
        let Some(address) = server.next_address() else { return };
        if !server.url.tls {
            self.session.wire = cx.connect(address, Wire(()));
            return;
        }
        let layer = match &mut self.session.way {
            Some(way) => (way.layer)(&server.tls_name),
            None => Err("the client has no TLS".to_owned()),
        };
        match layer {
            Ok(layer) => self.session.wire = cx.connect_layered(address, self.session.behind_info(layer), Wire(())),
            Err(why) => self.ended(Cause::Tls(why), cx),
        }
    }

    /// Handles the end of an attempt or of a connection, and plans the next attempt.
    fn ended(&mut self, cause: Cause, cx: &mut Context<'_, P::Message>) {
        let was_up = self.session.phase == Phase::Up;
        let requests = self.session.end();
        cx.timers().cancel(session::ATTEMPT);
        cx.timers().cancel(session::ALIVE);
        for (number, key) in requests {
            cx.timers().cancel(session::REQUEST | number);
            self.with(cx, |participant, link| participant.answered(key, Err(NoAnswer::Lost), link));
        }
        if was_up {
            log::info!("NATS: the connection to {} is lost: {cause}", self.session.server_name());
            self.with(cx, |participant, link| participant.lost(&cause, link));
        } else {
            self.session.retry.failures += 1;
            log::debug!("NATS: {} was not reached: {cause}", self.session.server_name());
            self.with(cx, |participant, link| participant.failed(&cause, link));
        }
        if !cx.is_stopping() {
            let pause = self.session.pause();
            cx.timers().set(session::AGAIN, pause);
        }
    }
}

impl<P: Participant> Handler<Posted<P::Message>> for Client<P> {
    type Connection = Wire;

    fn on_start(&mut self, cx: &mut Context<'_, P::Message>) {
        if cx.loop_number() == 0 {
            self.with(cx, |participant, link| participant.started(link));
            self.attempt(cx);
        }
    }

    /// Never called: the client has no listener.
    fn on_open(&mut self, _: &mut Context<'_, P::Message>) -> Wire {
        Wire(())
    }

    fn on_connected(&mut self, _: &mut Wire, cx: &mut Context<'_, P::Message>) {
        // A server that waits to be read reads nothing itself, and what waits for the server is bounded here.
        cx.read_on();
        self.session.phase = Phase::Greeting;
        if let Some(info) = cx.agreed::<Info>().cloned() {
            self.session.greet(info, true, cx);
        }
    }

    fn on_data(&mut self, _: &mut Wire, input: &mut Input<'_>, cx: &mut Context<'_, P::Message>) {
        self.session.heard(cx);
        // The participant may give the connection up in the middle of the input.
        while cx.id() == self.session.wire && self.session.blame.is_none() {
            match self.session.decoder.next(input) {
                Ok(Some(op)) => self.operation(op, cx),
                Ok(None) => return,
                Err(error) => {
                    self.session.blame = Some(Cause::Protocol(error));
                    return cx.abort();
                }
            }
        }
        input.take_all();
    }

    fn on_drained(&mut self, _: &mut Wire, cx: &mut Context<'_, P::Message>) {
        if self.session.phase == Phase::Up && cx.id() == self.session.wire {
            self.with(cx, |participant, link| participant.drained(link));
        }
    }

    fn on_stopping(&mut self, _: &mut Wire, cx: &mut Context<'_, P::Message>) {
        if self.session.phase == Phase::Up && cx.id() == self.session.wire {
            self.with(cx, |participant, link| participant.stopping(link));
        }
        cx.close();
    }

    fn on_timer(&mut self, key: u64, cx: &mut Context<'_, P::Message>) {
        match key {
            session::AGAIN => self.attempt(cx),
            session::ATTEMPT if self.session.is_looking_up() => {
                self.ended(Cause::TooSlow, cx);
            }
            session::ATTEMPT => self.session.give_up(Cause::TooSlow, cx),
            session::ALIVE => self.session.is_alive(cx),
            key if key & session::PARTICIPANT != 0 => {
                self.with(cx, |participant, link| participant.timer(key & !session::PARTICIPANT, link));
            }
            key => {
                if let Some(key) = self.session.requests.remove(&(key & !session::REQUEST)) {
                    self.with(cx, |participant, link| participant.answered(key, Err(NoAnswer::TimedOut), link));
                }
            }
        }
    }

    fn on_message(
        &mut self,
        _: ConnectionId,
        _: Option<&mut Wire>,
        posted: Posted<P::Message>,
        cx: &mut Context<'_, P::Message>,
    ) {
        match posted.0 {
            Content::Message(message) => self.with(cx, |participant, link| participant.posted(message, link)),
            Content::Found((host, port), found) => {
                let error = found.as_ref().err().cloned();
                let addresses = found.unwrap_or_default();
                for server in self.session.servers.named(&host, port) {
                    server.is_looked_up = false;
                    if error.is_none() {
                        server.found(addresses.clone());
                    }
                }
                let is_waiting = self.session.is_looking_up() && !cx.is_stopping();
                let is_current = self.session.servers.current().is_some_and(|server| server.url.host == host);
                match error {
                    _ if !is_waiting || !is_current => {}
                    None => self.connect(cx),
                    Some(error) => self.ended(Cause::Unresolved(error), cx),
                }
            }
        }
    }

    fn on_close(&mut self, _: Wire, reason: CloseReason, cx: &mut Context<'_, P::Message>) {
        if cx.id() == self.session.wire {
            let cause = self.session.cause_of(reason);
            self.ended(cause, cx);
        }
    }
}

impl<P: Participant> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.session.name)
            .field("phase", &self.session.phase)
            .finish_non_exhaustive()
    }
}
