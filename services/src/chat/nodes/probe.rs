//! The user of a client of NATS that looks, before a room begins, whether NATS has all that the room needs.

use std::time::Duration;

use super::bucket::{Kind, Outcome};
use super::creation::{Creation, Next, has_failed};
use super::lease::lease_key;
use super::participant::{outcome_of, send, subscribe};
use super::shared::Nodes;
use super::wire::{Content, Notice};
use super::{ASK_MAX, Answer, RETRY, Request};
use crate::nats::{Cause, Info, Link, Message, NoAnswer, NotSent, Participant, Publish};

/// Looks whether a room can begin: see [`Nodes::probe`]. Does once, in order, all that a node does later: subscribes, publishes, creates
/// the bucket, and stores, reads and deletes a value.
///
/// ```
/// use services::chat::{NodeProbe, Nodes};
/// use services::nats::Client;
/// fn client(nodes: &Nodes) -> Client<NodeProbe> {
///     Client::new(["nats://127.0.0.1:4222".parse().unwrap()], nodes.probe()).echo(false)
/// }
/// ```
#[derive(Debug)]
pub struct NodeProbe {
    nodes: Nodes,
    creation: Creation,
    /// The request without an answer, or the one that is repeated next.
    request: Request,
    /// When the client was connected.
    began_at: Duration,
}

/// The key of the timer for a request that is repeated.
const AGAIN: u64 = 0;

type ThisLink<'a, 'c> = Link<'a, 'c, ()>;

impl NodeProbe {
    pub(super) fn new(nodes: Nodes) -> Self {
        NodeProbe { nodes, creation: Creation::default(), request: Request::Create, began_at: Duration::ZERO }
    }

    fn fail(&self, why: &str, link: &mut ThisLink<'_, '_>) {
        // The first reason counts: a refusal comes before the request without an answer.
        let _ = self.nodes.0.failure.set(format!("NATS at {}: {why}", link.server()));
        link.halt();
    }

    fn ask(&mut self, request: Request, link: &mut ThisLink<'_, '_>) {
        self.request = request;
        self.ask_again(link);
    }

    fn ask_again(&mut self, link: &mut ThisLink<'_, '_>) {
        if let Err(error) = send(&self.request, self.creation.replicas, &self.nodes, 0, link) {
            self.fail(&error.to_string(), link);
        }
    }
}

impl Participant for NodeProbe {
    type Message = ();

    fn started(&mut self, link: &mut ThisLink<'_, '_>) {
        subscribe(&self.nodes, link);
    }

    fn connected(&mut self, _: &Info, link: &mut ThisLink<'_, '_>) {
        let (room, id) = (&self.nodes.0.room, &self.nodes.0.id);
        // The end of a node that nobody knows has no effect.
        let payload = Notice { changes: 0, said: 0, content: Content::Bye }.bytes();
        for subject in [format!("glowplug.{room}.{id}"), format!("glowplug.{room}.{id}.{id}")] {
            let sent =
                Publish::new(&subject, &payload).map_err(NotSent::from).and_then(|message| link.publish(&message));
            if let Err(error) = sent {
                return self.fail(&error.to_string(), link);
            }
        }
        self.began_at = link.now();
        self.ask(Request::Create, link);
    }

    fn lost(&mut self, cause: &Cause, link: &mut ThisLink<'_, '_>) {
        if !link.is_stopping() {
            self.fail(&cause.to_string(), link);
        }
    }

    fn message(&mut self, _: u64, _: &Message<'_>, _: &mut ThisLink<'_, '_>) {}

    fn failed(&mut self, cause: &Cause, link: &mut ThisLink<'_, '_>) {
        if has_failed(cause, link) {
            self.fail(&cause.to_string(), link);
        }
    }

    fn refused(&mut self, text: &str, link: &mut ThisLink<'_, '_>) {
        self.fail(&format!("the server says: {text}"), link);
    }

    fn timer(&mut self, _: u64, link: &mut ThisLink<'_, '_>) {
        self.ask_again(link);
    }

    fn answered(&mut self, _: u64, answer: Result<&Message<'_>, NoAnswer>, link: &mut ThisLink<'_, '_>) {
        let key = lease_key(&self.nodes.0.id);
        let kind = self.request.kind();
        let mut outcome = outcome_of(kind, answer);
        if kind == Kind::Create {
            outcome = match self.creation.next(outcome, link.now()) {
                Next::Take(outcome) => outcome,
                Next::AskAtOnce => return self.ask_again(link),
                Next::AskLater => return link.set_timer(AGAIN, RETRY),
            };
        }
        match (kind, outcome) {
            (Kind::Create, Outcome::Plain(Answer::Done)) => {
                self.ask(Request::Put { key, value: "probe".to_owned(), expected: 0 }, link);
            }
            // Conflict: the value was stored by an earlier request without an answer.
            (Kind::Put, Outcome::Plain(Answer::Stored(_) | Answer::Conflict)) => self.ask(Request::Get { key }, link),
            (Kind::Get, Outcome::Found { revision, .. }) => self.ask(Request::Delete { revision }, link),
            (Kind::Delete, Outcome::Plain(Answer::Done | Answer::Missing)) => link.halt(),
            (_, Outcome::Error(text) | Outcome::TooFewServers(text)) => self.fail(&text, link),
            // The bucket of a cluster that has lost a server has no leader for some seconds.
            (Kind::Put | Kind::Get | Kind::Delete, Outcome::Plain(Answer::Failed | Answer::NoBucket))
                if link.now() < self.began_at + ASK_MAX =>
            {
                link.set_timer(AGAIN, RETRY);
            }
            (kind, _) => {
                let request = match kind {
                    Kind::Create => "the request to create the bucket",
                    Kind::Put => "the request to store a value in the bucket",
                    Kind::Get => "the request to read a value of the bucket",
                    Kind::Delete => "the request to delete a value of the bucket",
                };
                let why = answer.err().map_or_else(|| "an answer that is none".to_owned(), |error| error.to_string());
                self.fail(&format!("{request}: {why}"), link);
            }
        }
    }
}
