//! A participant that tells the test all that happens, and does what the test posts.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use reactor::{Backend, CloseReason, ConnectionId, Service};
use services::nats::{
    Cause, Client, Info, Link, Login, Message, NoAnswer, NotSent, Participant, Posted, Publish, Sent, Url, deadlines,
    limits,
};

use crate::support::GUARD;
use crate::support::application::{Running, serve_with};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Connected(String),
    Lost(Cause),
    Failed(Cause),
    Heard { sid: u64, subject: String, reply: Option<String>, fields: Vec<(String, String)>, payload: String },
    Refused(String),
    Answered(u64, Result<String, NoAnswer>),
    Drained,
    Did(Result<Sent, NotSent>),
}

/// A message with its header fields.
#[derive(Clone, Debug)]
pub struct Said {
    pub subject: String,
    pub fields: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

pub fn said(subject: &str, payload: impl AsRef<[u8]>) -> Said {
    Said { subject: subject.to_owned(), fields: Vec::new(), payload: payload.as_ref().to_vec() }
}

pub fn said_with(subject: &str, field: (&str, &str), payload: &str) -> Said {
    Said { fields: vec![(field.0.to_owned(), field.1.to_owned())], ..said(subject, payload) }
}

#[derive(Debug)]
pub enum Command {
    Publish(Said),
    Request(Said, Duration, u64),
    Subscribe(String),
    SubscribeIn(String, String),
    Unsubscribe(u64),
    Reconnect,
    /// The text of a message to this subject, published while the application stops.
    LastWords(String),
}

pub struct Recorder {
    events: Sender<Event>,
    last_words: Option<String>,
}

impl Recorder {
    fn tell(&self, event: Event) {
        // The test may have ended.
        let _ = self.events.send(event);
    }
}

fn publish(said: &Said, send: impl FnOnce(&Publish<'_>) -> Result<Sent, NotSent>) -> Result<Sent, NotSent> {
    let fields: Vec<(&str, &str)> = said.fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    send(&Publish::new(&said.subject, &said.payload)?.headers(&fields)?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Participant for Recorder {
    type Message = Command;

    fn connected(&mut self, _: &Info, link: &mut Link<'_, '_, Command>) {
        self.tell(Event::Connected(link.server()));
    }

    fn lost(&mut self, cause: &Cause, _: &mut Link<'_, '_, Command>) {
        self.tell(Event::Lost(cause.clone()));
    }

    fn failed(&mut self, cause: &Cause, _: &mut Link<'_, '_, Command>) {
        self.tell(Event::Failed(cause.clone()));
    }

    fn message(&mut self, sid: u64, message: &Message<'_>, _: &mut Link<'_, '_, Command>) {
        let fields = message.headers.map_or(Vec::new(), |headers| {
            headers.fields().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        });
        let (subject, reply) = (text(message.subject), message.reply.map(text));
        self.tell(Event::Heard { sid, subject, reply, fields, payload: text(message.payload) });
    }

    fn refused(&mut self, text: &str, _: &mut Link<'_, '_, Command>) {
        self.tell(Event::Refused(text.to_owned()));
    }

    fn answered(&mut self, key: u64, answer: Result<&Message<'_>, NoAnswer>, _: &mut Link<'_, '_, Command>) {
        self.tell(Event::Answered(key, answer.map(|message| text(message.payload))));
    }

    fn drained(&mut self, _: &mut Link<'_, '_, Command>) {
        self.tell(Event::Drained);
    }

    fn posted(&mut self, command: Command, link: &mut Link<'_, '_, Command>) {
        let outcome = match command {
            Command::Publish(said) => publish(&said, |message| link.publish(message)),
            Command::Request(said, within, key) => publish(&said, |message| link.request(message, within, key)),
            Command::Subscribe(subject) => link.subscribe(subject).map(|_| Sent::Queued),
            Command::SubscribeIn(subject, queue) => link.subscribe_in(subject, queue).map(|_| Sent::Queued),
            Command::Unsubscribe(sid) => {
                link.unsubscribe(sid);
                Ok(Sent::Queued)
            }
            Command::Reconnect => {
                link.reconnect();
                Ok(Sent::Queued)
            }
            Command::LastWords(subject) => {
                self.last_words = Some(subject);
                Ok(Sent::Queued)
            }
        };
        self.tell(Event::Did(outcome));
    }

    fn stopping(&mut self, link: &mut Link<'_, '_, Command>) {
        if let Some(subject) = &self.last_words {
            link.publish(&Publish::new(subject, b"bye").expect("it is valid")).expect("it is connected");
        }
    }
}

/// A running client.
pub struct Node {
    pub running: Running<Posted<Command>>,
    events: Receiver<Event>,
}

impl Node {
    pub fn start(backend: Backend, urls: &[String]) -> Self {
        Self::with(backend, urls, None, None)
    }

    pub fn with(backend: Backend, urls: &[String], login: Option<Login>, tls: Option<tls::Client>) -> Self {
        let (events, told) = channel();
        let urls: Vec<Url> = urls.iter().map(|url| url.parse().expect("it is a URL")).collect();
        let client = move || {
            let recorder = Recorder { events: events.clone(), last_words: None };
            let mut client = Client::new(urls.clone(), recorder).name("recorder").echo(false);
            if let Some(login) = &login {
                client = client.login(login.clone());
            }
            let Some(tls) = tls.clone() else { return client };
            let causes = tls.clone();
            client.layered(move |name| tls.layer(name).map_err(|error| error.to_string()), move || causes.take_cause())
        };
        let service = move || Service::outbound(client).limits(limits()).deadlines(deadlines());
        Node { running: serve_with(backend, service, |_| {}), events: told }
    }

    pub fn post(&self, command: Command) {
        self.running.service.post(ConnectionId::NONE, Posted::new(command)).expect("the mailbox has room");
    }

    /// Does something, and waits for its outcome. Other events in between are dropped.
    pub fn does(&self, command: Command) -> Result<Sent, NotSent> {
        self.post(command);
        self.until(|event| if let Event::Did(outcome) = event { Some(*outcome) } else { None })
    }

    pub fn subscribe(&self, subject: &str) {
        assert_eq!(self.does(Command::Subscribe(subject.to_owned())), Ok(Sent::Queued));
    }

    pub fn say(&self, said: Said) {
        assert_eq!(self.does(Command::Publish(said)), Ok(Sent::Queued));
    }

    /// Sends a request, and returns the payload of its answer.
    pub fn ask(&self, said: Said, key: u64) -> Result<String, NoAnswer> {
        self.post(Command::Request(said, GUARD, key));
        self.until(|event| match event {
            Event::Answered(number, answer) if *number == key => Some(answer.clone()),
            _ => None,
        })
    }

    /// The same for a request that a cluster without a leader does not answer, or whose connection may be lost.
    pub fn try_ask(&self, said: Said, key: u64) -> Option<String> {
        std::thread::sleep(Duration::from_millis(20));
        self.post(Command::Request(said, Duration::from_secs(2), key));
        self.until(|event| match event {
            Event::Answered(number, answer) if *number == key => Some(answer.clone().ok()),
            Event::Did(Err(_)) => Some(None),
            _ => None,
        })
    }

    /// The next event.
    pub fn next(&self) -> Event {
        self.events.recv_timeout(GUARD).expect("something happens")
    }

    /// Waits for an event of interest. Other events are dropped.
    pub fn until<T>(&self, mut find: impl FnMut(&Event) -> Option<T>) -> T {
        let (started, mut others) = (Instant::now(), Vec::new());
        loop {
            let left = GUARD.saturating_sub(started.elapsed());
            let Ok(event) = self.events.recv_timeout(left) else { panic!("in vain; there came {others:?}") };
            match find(&event) {
                Some(found) => return found,
                None => others.push(event),
            }
        }
    }

    pub fn connected(&self) -> String {
        self.until(|event| if let Event::Connected(server) = event { Some(server.clone()) } else { None })
    }

    /// The cause of the next attempt that fails although the server has accepted. Under chaos a connect may fail by itself.
    pub fn next_failure(&self) -> Cause {
        self.until(|event| match event {
            Event::Failed(Cause::Ended(CloseReason::ConnectFailed(_) | CloseReason::Failed(_))) => None,
            Event::Failed(cause) => Some(cause.clone()),
            _ => None,
        })
    }

    /// Waits for an attempt that the system refuses.
    pub fn unreachable(&self) {
        let is_refused = |cause: &Cause| matches!(cause, Cause::Ended(CloseReason::ConnectFailed(_)));
        self.until(|event| if let Event::Failed(cause) = event { is_refused(cause).then_some(()) } else { None });
    }

    /// The cause of the next attempt that fails for another reason than its time, which may be short on a busy machine.
    pub fn failed(&self) -> Cause {
        loop {
            match self.next_failure() {
                Cause::TooSlow => {}
                cause => return cause,
            }
        }
    }

    pub fn lost(&self) -> Cause {
        self.until(|event| if let Event::Lost(cause) = event { Some(cause.clone()) } else { None })
    }

    /// The next message, if it comes within a moment.
    pub fn heard_soon(&self) -> Option<(u64, String, String)> {
        match self.events.recv_timeout(Duration::from_millis(20)) {
            Ok(Event::Heard { sid, subject, payload, .. }) => Some((sid, subject, payload)),
            _ => None,
        }
    }

    /// The next message: its subscription, subject and payload.
    pub fn heard(&self) -> (u64, String, String) {
        self.until(|event| match event {
            Event::Heard { sid, subject, payload, .. } => Some((*sid, subject.clone(), payload.clone())),
            _ => None,
        })
    }
}
