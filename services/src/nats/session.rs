//! The state of the client: the phase of its connection, subscriptions, requests, and the operations of a server.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use reactor::{CloseReason, ConnectionId, Layer};

use super::participant::{Cause, NoAnswer, Participant};
use super::retry::{Chance, Retry};
use super::server::Servers;
use super::tls::{Fault, InfoFirst};
use super::{AWAY_AFTER, Client, Context, PING_AFTER};
use crate::codec::nats::{Connect, Decoder, Info, Login, Message, Op, PING, PONG, Subscribe, Unsubscribe};
use crate::codec::text::append_clean;

/// Keys of the handler's timers: the end of an attempt, the next attempt, the check for signs of the server; a bit for the
/// numbers of requests; a bit for the participant's keys.
pub(super) const ATTEMPT: u64 = 0;
pub(super) const AGAIN: u64 = 1;
pub(super) const ALIVE: u64 = 2;
pub(super) const REQUEST: u64 = 1 << 62;
pub(super) const PARTICIPANT: u64 = 1 << 63;

/// The subscription for the answers to requests. The participant's subscriptions have other numbers.
const INBOX_SID: u64 = 0;
/// Longest text of a server's error that is kept, in characters.
const ERROR_MAX: usize = 200;
/// Beginnings of the server's errors after which the connection goes on.
const HARMLESS: [&str; 4] =
    ["permissions violation", "invalid subject", "invalid publish subject", "maximum subscriptions exceeded"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not connected, and waiting for the next attempt.
    Away,
    /// Waiting for an address, or for the connection.
    LookingUp,
    /// Connected; INFO has not arrived.
    Greeting,
    /// CONNECT and PING are sent.
    Proving,
    /// The server has answered.
    Up,
}

/// Makes the layer of each connection, and reports the cause of the latest failure.
pub(super) struct Way {
    pub(super) layer: LayerFor,
    pub(super) cause: Box<dyn FnMut() -> Option<String>>,
}

type LayerFor = Box<dyn FnMut(&str) -> Result<Box<dyn Layer>, String>>;

pub(super) struct Subscription {
    pub(super) subject: Vec<u8>,
    pub(super) queue: Option<Vec<u8>>,
    /// Messages after which the subscription ends; `None` without an end.
    pub(super) left: Option<u64>,
}

pub(super) struct Session {
    pub(super) name: String,
    pub(super) login: Option<Login>,
    pub(super) echo: bool,
    pub(super) decoder: Decoder,
    pub(super) way: Option<Way>,
    fault: Fault,
    pub(super) servers: Servers,
    pub(super) retry: Retry,
    pub(super) chance: Chance,
    /// The connection; none while the client is away.
    pub(super) wire: ConnectionId,
    pub(super) phase: Phase,
    pub(super) info: Info,
    /// The server's last error that ends the connection, and the client's own reason to end it.
    error: Option<String>,
    pub(super) blame: Option<Cause>,
    /// When the server's last byte arrived, and how many bytes had arrived then.
    last_sign: Duration,
    received: u64,
    /// A PING is not answered yet.
    has_pinged: bool,
    pub(super) subscriptions: BTreeMap<u64, Subscription>,
    pub(super) last_sid: u64,
    /// The beginning of the subjects for answers, with a dot at its end.
    pub(super) inbox: String,
    pub(super) last_request: u64,
    /// The participant's keys of the requests without an answer, by number.
    pub(super) requests: HashMap<u64, u64>,
    /// Messages for no subscription, and for no request.
    pub(super) ignored: u64,
}

impl Session {
    pub(super) fn new(servers: Servers, seed: u64) -> Self {
        let mut session = Session {
            name: String::new(),
            login: None,
            echo: true,
            decoder: Decoder::default(),
            way: None,
            fault: Fault::default(),
            servers,
            retry: Retry::new(),
            chance: Chance::new(seed),
            wire: ConnectionId::NONE,
            phase: Phase::Away,
            info: Info::default(),
            error: None,
            blame: None,
            last_sign: Duration::ZERO,
            received: 0,
            has_pinged: false,
            subscriptions: BTreeMap::new(),
            last_sid: INBOX_SID,
            inbox: String::new(),
            last_request: 0,
            requests: HashMap::new(),
            ignored: 0,
        };
        session.seed(seed);
        session
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.chance = Chance::new(seed);
        self.inbox = format!("{}.", self.new_inbox());
    }

    /// A subject that nobody else knows.
    pub(super) fn new_inbox(&mut self) -> String {
        format!("_INBOX.{:016x}{:016x}", self.chance.next(), self.chance.next())
    }

    /// The server's name for logs, without secrets.
    pub(super) fn server_name(&mut self) -> String {
        self.servers.current().map_or_else(|| "no server".to_owned(), |server| server.url.to_string())
    }

    pub(super) fn pause(&mut self) -> Duration {
        self.retry.pause(self.servers.count(), &mut self.chance)
    }

    // ---- the connection --------------------------------------------------------------------------------------------

    /// Forgets the former connection.
    pub(super) fn begin(&mut self) {
        (self.error, self.blame, self.has_pinged, self.received) = (None, None, false, 0);
        self.fault.borrow_mut().take();
    }

    /// Whether the client waits for an address.
    pub(super) fn is_looking_up(&self) -> bool {
        self.phase == Phase::LookingUp && self.wire == ConnectionId::NONE
    }

    pub(super) fn behind_info(&self, layer: Box<dyn Layer>) -> Box<dyn Layer> {
        Box::new(InfoFirst::new(layer, self.fault.clone()))
    }

    /// The connection, or the attempt, is over. Returns the numbers and keys of the requests without an answer.
    pub(super) fn end(&mut self) -> Vec<(u64, u64)> {
        (self.phase, self.wire) = (Phase::Away, ConnectionId::NONE);
        let mut requests: Vec<(u64, u64)> = self.requests.drain().collect();
        requests.sort_unstable();
        requests
    }

    /// Ends the connection at once, for this cause.
    pub(super) fn give_up<M: Send + 'static>(&mut self, cause: Cause, cx: &mut Context<'_, M>) {
        self.blame.get_or_insert(cause);
        cx.at(self.wire).abort();
    }

    /// The cause of an end. A handshake that has failed lingers, so that the attempt's time may end before the connection does.
    pub(super) fn cause_of(&mut self, reason: CloseReason) -> Cause {
        if let Some(text) = self.error.take() {
            return Cause::Refused(text);
        }
        let blame = self.blame.take();
        let is_handshake = reason == CloseReason::Handshake;
        if is_handshake || (self.phase == Phase::LookingUp && blame == Some(Cause::TooSlow)) {
            let fault = self.fault.borrow_mut().take();
            if let Some(known) = fault.or_else(|| self.way.as_mut().and_then(|way| (way.cause)())) {
                return Cause::Tls(known);
            }
        }
        let unknown =
            if is_handshake { Cause::Tls("the handshake has failed".to_owned()) } else { Cause::Ended(reason) };
        blame.unwrap_or(unknown)
    }

    /// Answers the server's first INFO.
    pub(super) fn greet<M: Send + 'static>(&mut self, info: Info, is_tls: bool, cx: &mut Context<'_, M>) {
        if info.tls_required && !is_tls {
            return self
                .give_up(Cause::Tls("the server requires TLS, and the URL does not begin with tls://".into()), cx);
        }
        self.info = info;
        self.servers.learn(&self.info);
        let login = self.login.as_ref().unwrap_or_else(|| self.servers.login());
        let connect = Connect { name: &self.name, echo: self.echo, login, tls: is_tls };
        cx.at(self.wire).encode(|writer| {
            connect.put(writer);
            writer.put(PING);
        });
        self.phase = Phase::Proving;
    }

    /// The connection is proved: subscribes anew.
    fn arrive<M: Send + 'static>(&mut self, cx: &mut Context<'_, M>) {
        self.phase = Phase::Up;
        self.retry.begin_anew();
        cx.timers().cancel(ATTEMPT);
        self.last_sign = cx.now();
        cx.timers().set(ALIVE, PING_AFTER);
        let inbox = format!("{}*", self.inbox);
        let (subscriptions, wire) = (&self.subscriptions, self.wire);
        cx.at(wire).encode(|writer| {
            // The subjects were valid when they were subscribed to first.
            if let Ok(subscribe) = Subscribe::new(&inbox, INBOX_SID) {
                subscribe.put(writer);
            }
            for (&sid, subscription) in subscriptions {
                if let Ok(subscribe) = subscription.subscribe(sid) {
                    subscribe.put(writer);
                }
                if subscription.left.is_some() {
                    Unsubscribe { sid, after: subscription.left }.put(writer);
                }
            }
        });
    }

    /// Bytes of the server have arrived.
    pub(super) fn heard<M: Send + 'static>(&mut self, cx: &mut Context<'_, M>) {
        self.last_sign = cx.now();
        self.received = cx.at(self.wire).received();
    }

    /// Looks for signs of the server, and asks for one.
    pub(super) fn is_alive<M: Send + 'static>(&mut self, cx: &mut Context<'_, M>) {
        if self.phase != Phase::Up {
            return;
        }
        // A long message arrives in pieces, of which the handler is not told.
        if cx.at(self.wire).received() != self.received {
            self.heard(cx);
        }
        let silent = cx.now().saturating_sub(self.last_sign);
        if silent >= AWAY_AFTER {
            return self.give_up(Cause::Silent, cx);
        }
        if silent >= PING_AFTER && !self.has_pinged {
            self.has_pinged = true;
            cx.at(self.wire).write(PING);
        }
        let next = if self.has_pinged { AWAY_AFTER } else { PING_AFTER };
        cx.timers().set(ALIVE, next.saturating_sub(silent).max(Duration::from_millis(1)));
    }
}

impl Subscription {
    pub(super) fn subscribe(&self, sid: u64) -> Result<Subscribe<'_>, crate::codec::nats::EncodeError> {
        let subscribe = Subscribe::new(&self.subject, sid)?;
        match &self.queue {
            Some(queue) => subscribe.queue(queue),
            None => Ok(subscribe),
        }
    }
}

impl<P: Participant> Client<P> {
    /// Handles an operation of the server.
    pub(super) fn operation(&mut self, op: Op<'_>, cx: &mut Context<'_, P::Message>) {
        match op {
            Op::Message(message) => self.message(&message, cx),
            Op::Ping => {
                cx.write(PONG);
            }
            Op::Pong => self.pong(cx),
            Op::Ok => {}
            Op::Info(info) if self.session.phase == Phase::Greeting => self.session.greet(*info, false, cx),
            Op::Info(info) => self.news(*info, cx),
            Op::Error(text) => self.error(text, cx),
        }
    }

    fn pong(&mut self, cx: &mut Context<'_, P::Message>) {
        self.session.has_pinged = false;
        match self.session.phase {
            Phase::Proving => self.session.arrive(cx),
            Phase::Up => return cx.timers().set(ALIVE, PING_AFTER),
            _ => return,
        }
        log::info!("NATS: connected to {}", self.session.server_name());
        let info = std::mem::take(&mut self.session.info);
        self.session.info = info.clone();
        self.with(cx, |participant, link| participant.connected(&info, link));
    }

    /// Later INFO: the cluster has changed, or the server is going to stop.
    fn news(&mut self, info: Info, cx: &mut Context<'_, P::Message>) {
        self.session.servers.learn(&info);
        let leaves = info.ldm && self.session.servers.count() > 1;
        self.session.info = info;
        if leaves {
            self.session.blame.get_or_insert(Cause::LameDuck);
            cx.close();
        }
    }

    fn error(&mut self, text: &[u8], cx: &mut Context<'_, P::Message>) {
        let mut clean = Vec::new();
        append_clean(&String::from_utf8_lossy(text), &mut clean);
        let text: String = String::from_utf8_lossy(&clean).chars().take(ERROR_MAX).collect();
        let lower = text.to_ascii_lowercase();
        if !HARMLESS.iter().any(|harmless| lower.starts_with(harmless)) {
            self.session.error = Some(text.clone());
        }
        if self.session.phase == Phase::Up {
            self.with(cx, |participant, link| participant.refused(&text, link));
        }
    }

    fn message(&mut self, message: &Message<'_>, cx: &mut Context<'_, P::Message>) {
        let session = &mut self.session;
        if session.phase != Phase::Up {
            session.ignored += 1;
        } else if message.sid == INBOX_SID {
            self.answer(message, cx);
        } else if let Some(subscription) = session.subscriptions.get_mut(&message.sid) {
            if let Some(left) = &mut subscription.left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    session.subscriptions.remove(&message.sid);
                }
            }
            self.with(cx, |participant, link| participant.message(message.sid, message, link));
        } else {
            session.ignored += 1;
        }
    }

    /// A message for the inbox: the answer to the request whose number ends the subject.
    fn answer(&mut self, message: &Message<'_>, cx: &mut Context<'_, P::Message>) {
        let session = &mut self.session;
        let number = message.subject.strip_prefix(session.inbox.as_bytes());
        let number = number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        let Some((number, key)) = number.and_then(|number| Some((number, session.requests.remove(&number)?))) else {
            session.ignored += 1;
            return;
        };
        cx.timers().cancel(REQUEST | number);
        let status = message.headers.as_ref().ok().and_then(|headers| headers.status());
        let is_nobody = status == Some(503) && message.payload.is_empty();
        let answer = if is_nobody { Err(NoAnswer::NoResponders) } else { Ok(message) };
        self.with(cx, |participant, link| participant.answered(key, answer, link));
    }
}
