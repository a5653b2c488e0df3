//! The chat's side of a room on several nodes: a guest's question for its name, and the news of other nodes.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use reactor::ConnectionId;

use super::super::guest::{Guest, Speech};
use super::super::joining::{Turn, Waiting};
use super::super::news::News as Announced;
use super::super::said::{self, End, Way};
use super::super::{Chat, Context};
use super::Event;
use super::participant::{FromChat, News, NodeRequest};

/// News that wait for their announcement at most. Then the news of other nodes among them are counted as missed instead.
pub(in super::super) const NEWS_MAX: usize = 100_000;

/// Key of the handler's timer for requests that wait for room at the node, and the pause before the next attempt.
const REQUESTS: u64 = 0;
const REQUESTS_AFTER: Duration = Duration::from_millis(10);

/// A guest's question for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Asked {
    pub(in super::super) number: u64,
    pub(in super::super) answer: Option<Granted>,
}

/// The answer to a guest's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Granted {
    Yes,
    No,
}

impl Chat {
    /// Whether the guest has to ask, or to wait for the answer, before it joins.
    pub(in super::super) fn must_ask(&self, id: ConnectionId) -> bool {
        self.room.nodes().is_some() && self.asked.get(&id).is_none_or(|asked| asked.answer.is_none())
    }

    /// Asks all nodes for the name, unless the guest has asked before.
    pub(in super::super) fn ask(&mut self, way: Way, name: &[u8], cx: &mut Context<'_>) -> Result<Turn, End> {
        let name = std::str::from_utf8(name).map_err(|_| End::NotUtf8)?;
        let name = said::name(name, way)?;
        if self.room.nodes().is_some() && !self.asked.contains_key(&cx.id()) {
            let address = cx.peer().map_or_else(String::new, |peer| peer.host());
            let number = self.room.next_number();
            self.asked.insert(cx.id(), Asked { number, answer: None });
            let who = format!("{name}@{address}").into();
            self.ask_node(NodeRequest::Ask { number, who, id: cx.id() }, cx);
        }
        Ok(Turn::Asked)
    }

    /// Forgets a guest that has gone before it joined.
    pub(in super::super) fn forget_asked(&mut self, id: ConnectionId, cx: &mut Context<'_>) {
        if self.room.nodes().is_some()
            && let Some(Asked { number, answer }) = self.asked.remove(&id)
            && answer != Some(Granted::No)
        {
            self.ask_node(NodeRequest::Withdraw { number }, cx);
        }
    }

    /// Sends `request` to the node, behind all earlier requests of this loop. While the mailbox of the node's loop is full, requests wait
    /// here: one for each guest and member at most, since a member whose message waits is not read.
    pub(in super::super) fn ask_node(&mut self, request: NodeRequest, cx: &mut Context<'_>) {
        self.node_requests.push_back(request);
        if self.node_requests.len() == 1 {
            self.post_node_requests(cx);
        }
    }

    /// Sends waiting requests to the node until its mailbox is full.
    pub(in super::super) fn post_node_requests(&mut self, cx: &mut Context<'_>) {
        let Some(nodes) = self.room.nodes() else { return };
        while let Some(request) = self.node_requests.pop_front() {
            if let Err(FromChat(request)) = nodes.post(FromChat(request)) {
                self.node_requests.push_front(request);
                return cx.timers().set(REQUESTS, REQUESTS_AFTER);
            }
        }
        if !nodes.is_full() {
            self.resume_paused(cx);
        }
    }

    /// Members who talk are read again.
    fn resume_paused(&mut self, cx: &mut Context<'_>) {
        for id in self.paused.drain(..) {
            cx.at(id).resume_reading();
        }
    }

    /// Handles news of the node.
    pub(in super::super) fn hear_node(
        &mut self,
        to: ConnectionId,
        guest: Option<&mut Guest>,
        news: News,
        cx: &mut Context<'_>,
    ) {
        match (news, guest) {
            (News::Granted, Some(guest)) => self.answer(to, Granted::Yes, guest, cx),
            (News::Refused, Some(guest)) => self.answer(to, Granted::No, guest, cx),
            (News::Close, Some(guest)) if guest.seat.is_some() => self.send_away(to, End::Taken, cx),
            (News::Close, Some(guest)) => {
                // Granted, and not called yet.
                if let Some(asked) = self.asked.get_mut(&to) {
                    asked.answer = Some(Granted::No);
                    let number = asked.number;
                    self.ask_node(NodeRequest::Withdraw { number }, cx);
                    let _ = guest;
                }
            }
            (News::Granted | News::Refused | News::Close, None) => {}
            // Members whose messages wait here are read again when the node has them.
            (News::Resume, _) if self.node_requests.is_empty() => self.resume_paused(cx),
            (News::Resume, _) => {}
            (News::Room(event), _) => self.hear_others(event, cx),
        }
    }

    /// Calls the guest that has asked, as the turn's work allows.
    fn answer(&mut self, id: ConnectionId, answer: Granted, guest: &mut Guest, cx: &mut Context<'_>) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        asked.answer = Some(answer);
        if cx.serves_alone() {
            let wait = match answer {
                Granted::Yes => self.room.pay(self.cost_of_joining(), cx.now()),
                Granted::No => Duration::ZERO,
            };
            return cx.at(id).set_deadline(wait);
        }
        let by_deadline = guest.has_ended || matches!(guest.speech, Speech::WebSocket(_));
        self.waiting.push_back(Waiting { id, by_deadline });
        cx.request_turn();
    }

    /// Announces what has happened on other nodes, in order.
    pub(in super::super) fn hear_others(&mut self, event: Event, cx: &mut Context<'_>) {
        self.budget.look(cx);
        if self.news.len() >= NEWS_MAX {
            self.skip_news(cx);
        }
        let announced = match event {
            Event::Said(text) => {
                self.room.remember(&text);
                if self.news.is_empty() {
                    self.encoded.encode(|bytes| bytes.extend_from_slice(&text));
                    let deliveries = self.publish_except(ConnectionId::NONE, cx);
                    return self.budget.spend(deliveries, text.len());
                }
                Announced::Text(text)
            }
            Event::Missed(count) => Announced::Missed(count),
            Event::Came { node, number, who } => Announced::CameElsewhere { node, number, who },
            Event::Went { node, number, who } => Announced::WentElsewhere { node, number, who },
            Event::Alone => Announced::Link { is_alone: true },
            Event::Together => Announced::Link { is_alone: false },
            Event::Granted { .. } | Event::Refused { .. } | Event::Close { .. } | Event::IsThere { .. } => return,
        };
        self.put_out(announced, cx);
    }

    /// Applies the waiting news of other nodes to the list of members, and announces only their number. News of this node are
    /// announced at once, so that no guest is heard before its arrival.
    fn skip_news(&mut self, cx: &mut Context<'_>) {
        let (mut skipped, mut missed) = (0, 0_u64);
        while let Some(news) = self.news.pop_front() {
            match news {
                Announced::Came { .. } | Announced::Gone(_) | Announced::Link { .. } => {
                    self.announce(&news, cx);
                    continue;
                }
                Announced::Missed(count) => missed = missed.saturating_add(count),
                Announced::Text(_) => skipped += 1,
                Announced::CameElsewhere { node, number, who } => {
                    self.room.came_elsewhere(&node, number, &who);
                    skipped += 1;
                }
                Announced::WentElsewhere { node, number, .. } => {
                    self.room.went_elsewhere(&node, number);
                    skipped += 1;
                }
            }
            self.announced += 1;
        }
        if let Some(nodes) = self.room.nodes() {
            nodes.0.missed.fetch_add(skipped, Relaxed);
        }
        let missed = missed.saturating_add(skipped);
        self.announce(&Announced::Missed(missed), cx);
    }
}

/// The notice for members while the engine is away.
pub(in super::super) const ALONE: &str = "(Alone: the other servers cannot be reached)";
/// The notice for members when the engine is back.
pub(in super::super) const TOGETHER: &str = "(Together again)";
