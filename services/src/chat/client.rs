//! The other end of the line: a member, as a handler that connects, gives its name, says what is typed and passes on
//! what it hears. It speaks frames. Who types and who reads is not its business: that is a [`Screen`].
//!
//! ```text
//!   keyboard, or Order::Say ──▶ frames ──▶ server ──▶ frames ──text──▶ Screen
//!
//!   Away ──connected, NAME──▶ Greeting ──CLIENT──▶ Joined ──lost──▶ Away (a timer, a look-up)
//! ```

mod retry;
mod screen;
mod way;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::time::Duration;

use reactor::{Address, CloseReason, ConnectionId, Handler, Input, Limits, ServiceHandle, Written};

use super::said::{Said, UNKNOWN_COMMAND, said};
use crate::codec::TooLong;
use crate::codec::frames::{Encoded, FRAME_MAX, next_within};
use crate::codec::text::append_clean;
use crate::codec::typed::Typed;
use retry::Retry;

/// The loop, as the client's callbacks reach it.
type Context<'a> = reactor::Context<'a, Line, Order>;

pub use screen::{Ending, Note, Order, Screen};

/// Bytes of text in one frame of the server's: room for the answer to `/who` in a room of tens of thousands, and a
/// bound for a server that is none.
const HEARD_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a frame and of what one read may bring beside it.
const INPUT_MAX: usize = HEARD_MAX + 128 * 1024;
/// Time for the server to answer the name.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the server to hang up once somebody at a keyboard has said that this is all.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);
/// Characters of an address: none is longer, whatever the server says.
const ADDRESS_MAX: usize = 64;

/// A member of a chat room, far from it.
///
#[cfg_attr(feature = "sim", doc = "```")]
#[cfg_attr(not(feature = "sim"), doc = "```text")]
/// use reactor::sim::{Script, Simulation};
/// use reactor::{Address, Service};
/// use services::chat::{Client, Ending, Note, Screen, client_limits};
///
/// struct Printed;
///
/// impl Screen for Printed {
///     fn connected(&mut self, to: &Address) {
///         println!("connected to {to}");
///     }
///     fn welcomed(&mut self, address: &str) {
///         println!("I am ann@{address}");
///     }
///     fn hear(&mut self, text: &str) -> bool {
///         println!("{text}");
///         true
///     }
///     fn note(&mut self, _: &Note) {}
///     fn ended(&mut self, ending: Ending) {
///         assert_eq!(ending, Ending::Closed);
///     }
/// }
///
/// let server: Address = "10.0.0.1:8801".parse()?;
/// let mut sim = Simulation::new(1);
/// let greeting = b"\0\0\0\x10CLIENT: 10.0.0.2\0\0\0\x04(hi)";
/// let script = Script::new().expect(b"\0\0\0\x09NAME: ann").send(greeting).shutdown();
/// sim.remote(server.clone(), move || Some(script.clone()));
/// let ann = move || Client::new("ann", vec![server.clone()], Printed);
/// sim.add_service(Service::outbound(ann).limits(client_limits()))?;
/// sim.run();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Client<S> {
    name: String,
    screen: S,
    keyboard: Keyboard,
    /// Addresses of the server that are still to be tried.
    untried: VecDeque<Address>,
    server: ConnectionId,
    state: State,
    /// It has been in the room, so the server and the name are good.
    has_joined: bool,
    /// It goes by its own wish.
    leaving: bool,
    /// The last words of the server, if they were an error that it hangs up after.
    error: Option<String>,
    /// Why the last try failed; and what is wrong with the connection at hand, if it is not up to the loop to say.
    cause: String,
    blame: Option<String>,
    /// How long it waits for the server to hang up once it has said that it leaves.
    patience: Option<Duration>,
    retry: Option<Retry>,
    /// Lines that are still to be said, and who waits until they have been.
    unsaid: VecDeque<String>,
    waiting: Option<Sender<()>>,
    encoded: Encoded,
    clean: Vec<u8>,
    ended: bool,
    way: Option<way::Way>,
}

/// A descriptor to read lines from, if nobody posts them.
enum Keyboard {
    None,
    Waiting(OwnedFd),
    Watched(ConnectionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected (yet).
    Away,
    /// Connected, the name is sent.
    Greeting,
    Joined,
}

/// What the client remembers of one of its connections.
#[derive(Debug)]
pub struct Line(Kind);

#[derive(Debug)]
enum Kind {
    Server(Address),
    Keyboard(Typed),
    /// Until the next try.
    Pause,
}

/// How much the client takes: the longest that a server may say.
pub fn limits() -> Limits {
    Limits { input: INPUT_MAX, ..Limits::default() }
}

impl<S: Screen> Client<S> {
    /// One that goes by `name` and tries these addresses in turn.
    pub fn new(name: impl Into<String>, server: Vec<Address>, screen: S) -> Self {
        Client {
            name: name.into(),
            screen,
            keyboard: Keyboard::None,
            untried: server.into(),
            server: ConnectionId::NONE,
            state: State::Away,
            has_joined: false,
            leaving: false,
            error: None,
            cause: String::new(),
            blame: None,
            patience: Some(FAREWELL_TIMEOUT),
            retry: None,
            unsaid: VecDeque::new(),
            waiting: None,
            encoded: Encoded::default(),
            clean: Vec::new(),
            ended: false,
            way: None,
        }
    }

    /// Says the lines that it reads from this descriptor, up to its end; then it hears the server out. Without one,
    /// somebody posts [`Order::Say`], and does not wait for long once that is all.
    pub fn keyboard(mut self, keyboard: OwnedFd) -> Self {
        self.keyboard = Keyboard::Waiting(keyboard);
        self.patience = None;
        self
    }

    /// Once it has been in the room, it connects again whenever the connection is lost, after a pause that grows from
    /// one second to thirty. Each time the server's addresses are looked up anew. `seed` decides how much of each pause
    /// is left out.
    pub fn reconnects(mut self, seed: u64, look_up: impl FnMut(ServiceHandle<Order>) + 'static) -> Self {
        self.retry = Some(Retry::new(seed, Box::new(look_up)));
        self
    }

    // ---- to the server ---------------------------------------------------------------------------------------------

    fn try_next(&mut self, cx: &mut Context<'_>) {
        match self.untried.pop_front() {
            Some(address) => self.server = self.connect(address, cx),
            None if self.has_joined => self.pause(cx),
            None => {
                let cause = std::mem::take(&mut self.cause);
                self.end(Ending::Unreachable(cause), cx);
            }
        }
    }

    /// Says what there is to say, as far as the server takes it. Whoever typed it waits meanwhile.
    fn talk(&mut self, cx: &mut Context<'_>) {
        if self.state != State::Joined && !self.unsaid.is_empty() {
            let unsaid = std::mem::take(&mut self.unsaid);
            if unsaid.iter().any(|text| said(text) == Said::Quit) {
                return self.leave(cx);
            }
            // Nothing that is typed waits for a server that may never come back; it can be typed again.
            self.screen.note(&Note::NotSent);
        }
        while let Some(text) = self.unsaid.pop_front() {
            if self.say(&text, cx) == Written::AboveHighWater {
                return;
            }
        }
        // After the last words, nobody is asked for more.
        if !self.leaving {
            self.waiting = None;
        }
    }

    fn say(&mut self, text: &str, cx: &mut Context<'_>) -> Written {
        if self.leaving {
            return Written::Refused;
        }
        if text.len() > FRAME_MAX {
            self.screen.note(&Note::TooLong(TooLong { what: "line", limit: FRAME_MAX }));
            return Written::Refused;
        }
        let written = self.send(text, cx);
        if said(text) == Said::Quit {
            self.leave(cx);
        }
        written
    }

    fn send(&mut self, text: &str, cx: &mut Context<'_>) -> Written {
        self.encoded.encode(|bytes| bytes.extend_from_slice(text.as_bytes()));
        cx.at(self.server).write(self.encoded.frame())
    }

    /// Ends our half; the server's follows.
    fn leave(&mut self, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.leaving, true) {
            return;
        }
        if self.state != State::Joined {
            return self.end(Ending::Left, cx);
        }
        cx.at(self.server).finish();
        if let Some(patience) = self.patience {
            cx.at(self.server).set_deadline(patience);
        }
        if let Keyboard::Watched(id) = self.keyboard {
            cx.at(id).close();
        }
    }

    /// The lines that are there, as far as the server takes them.
    fn read_keyboard(&mut self, typed: &mut Typed, input: &mut Input<'_>, cx: &mut Context<'_>) {
        while !self.leaving {
            let written = match typed.next(input) {
                None => return,
                Some(Ok(line)) => self.say(&String::from_utf8_lossy(line), cx),
                Some(Err(error)) => {
                    self.screen.note(&Note::TooLong(error));
                    Written::Queued
                }
            };
            if written == Written::AboveHighWater {
                return cx.pause_reading();
            }
        }
        input.take_all();
    }

    fn hold_keyboard(&mut self, held: bool, cx: &mut Context<'_>) {
        match self.keyboard {
            Keyboard::Watched(id) if held => cx.at(id).pause_reading(),
            Keyboard::Watched(id) => cx.at(id).resume_reading(),
            _ => {}
        }
    }

    // ---- from the server -------------------------------------------------------------------------------------------

    /// What the server says. Whether there may be more.
    fn heard(&mut self, text: &[u8], cx: &mut Context<'_>) -> bool {
        let text = String::from_utf8_lossy(text);
        self.clean.clear();
        append_clean(&text, &mut self.clean);
        let text = String::from_utf8_lossy(&self.clean).into_owned();
        match text.strip_prefix("CLIENT: ") {
            Some(address) if self.state == State::Greeting => {
                self.joined(address, cx);
                true
            }
            _ if text.starts_with("ERROR: ") && text != UNKNOWN_COMMAND => {
                self.error = Some(text);
                true
            }
            _ => self.screen.hear(&text),
        }
    }

    fn joined(&mut self, address: &str, cx: &mut Context<'_>) {
        let address: String = address.chars().take(ADDRESS_MAX).collect();
        cx.clear_deadline();
        (self.state, self.has_joined) = (State::Joined, true);
        if let Some(retry) = &mut self.retry {
            retry.begin_anew();
        }
        self.untried.clear();
        self.screen.welcomed(&address);
        self.hold_keyboard(false, cx);
    }

    /// The connection to the server is over. What follows depends on how far it had come, and on who wanted it.
    fn hung_up(&mut self, reason: CloseReason, cx: &mut Context<'_>) {
        let was = std::mem::replace(&mut self.state, State::Away);
        self.server = ConnectionId::NONE;
        if self.ended || cx.is_stopping() {
            return;
        }
        self.hold_keyboard(true, cx);
        let (error, blame) = (self.error.take(), self.blame.take());
        let in_order = reason == CloseReason::PeerEnded;
        // Its own patience was over; nobody else is to blame.
        let in_time = reason != CloseReason::Aborted || blame.is_some();
        self.cause = blame.unwrap_or_else(|| self.cause_of(reason));
        match (was, error) {
            (State::Away | State::Greeting, None) => self.try_next(cx),
            // The server may not have noticed yet that the one who has the name is gone.
            (State::Away | State::Greeting, Some(error)) if self.has_joined => {
                self.cause = error;
                self.try_next(cx);
            }
            (_, Some(error)) => self.end(Ending::Refused(error), cx),
            (State::Joined, None) if self.leaving && (in_order || !in_time) => self.end(Ending::Left, cx),
            (State::Joined, None) if !self.leaving && self.retry.is_some() => self.pause(cx),
            (State::Joined, None) if in_order => self.end(Ending::Closed, cx),
            (State::Joined, None) => {
                let cause = std::mem::take(&mut self.cause);
                self.end(Ending::Lost(cause), cx);
            }
        }
    }

    // ---- connecting again ------------------------------------------------------------------------------------------

    fn pause(&mut self, cx: &mut Context<'_>) {
        let Some(retry) = &mut self.retry else { return };
        let again = retry.next_pause();
        self.screen.note(&Note::Lost { cause: std::mem::take(&mut self.cause), again });
        // What was typed for a server that is gone is said to nobody.
        self.talk(cx);
        cx.timer(again, Line(Kind::Pause));
    }

    fn look_up(&mut self, cx: &mut Context<'_>) {
        if let Some(retry) = &mut self.retry {
            (retry.look_up)(cx.service_handle());
        }
    }

    fn end(&mut self, ending: Ending, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.screen.ended(ending);
            cx.halt();
        }
    }
}

impl<S: Screen> Handler<Order> for Client<S> {
    type Connection = Line;

    fn on_start(&mut self, cx: &mut Context<'_>) {
        if let Keyboard::Waiting(keyboard) = std::mem::replace(&mut self.keyboard, Keyboard::None) {
            let id = cx.watch(keyboard, Line(Kind::Keyboard(Typed::default())));
            self.keyboard = Keyboard::Watched(id);
            // Nobody would hear it yet.
            cx.at(id).pause_reading();
        }
        self.try_next(cx);
    }

    /// It listens nowhere.
    fn on_open(&mut self, _: &mut Context<'_>) -> Line {
        Line(Kind::Pause)
    }

    fn on_connected(&mut self, line: &mut Line, cx: &mut Context<'_>) {
        if let Kind::Server(address) = &line.0 {
            self.state = State::Greeting;
            self.screen.connected(address);
            // A server that waits to be read reads nothing itself. What waits for the server is bounded by pausing the
            // keyboard.
            cx.read_on();
            let name = format!("NAME: {}", self.name);
            self.send(&name, cx);
            cx.set_deadline(WELCOME_TIMEOUT);
        }
    }

    fn on_data(&mut self, line: &mut Line, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if let Kind::Keyboard(typed) = &mut line.0 {
            self.read_keyboard(typed, input, cx);
            if cx.is_stopping() {
                // An input that never ends, such as /dev/zero, does not hold up the end.
                input.take_all();
                cx.close();
            }
            return;
        }
        loop {
            match next_within(HEARD_MAX, input) {
                Ok(Some(text)) => {
                    if !self.heard(text, cx) {
                        return cx.pause_reading();
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    self.blame = Some("what answers there is no chat server".to_owned());
                    return cx.abort();
                }
            }
        }
    }

    fn on_end_of_input(&mut self, line: &mut Line, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if let Kind::Keyboard(typed) = &mut line.0 {
            if let Some(line) = typed.rest(input) {
                self.say(&String::from_utf8_lossy(line), cx);
            }
            self.leave(cx);
        }
        cx.close();
    }

    /// The server has taken what it was owed.
    fn on_drained(&mut self, _: &mut Line, cx: &mut Context<'_>) {
        self.talk(cx);
        if self.state == State::Joined {
            self.hold_keyboard(false, cx);
        }
    }

    fn on_deadline(&mut self, line: &mut Line, cx: &mut Context<'_>) {
        match line.0 {
            Kind::Server(_) => {
                let waited = WELCOME_TIMEOUT.as_secs();
                self.blame = (!self.leaving).then(|| format!("no answer to the name within {waited} seconds"));
                cx.abort();
            }
            Kind::Keyboard(_) => {}
            Kind::Pause => {
                cx.close();
                self.look_up(cx);
            }
        }
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut Line>, order: Order, cx: &mut Context<'_>) {
        match order {
            Order::Say(text, waiting) => {
                // Pasted, it may be several.
                self.unsaid.extend(text.lines().map(str::to_owned));
                self.waiting = Some(waiting);
                self.talk(cx);
            }
            Order::Leave => self.leave(cx),
            Order::GoOn => cx.at(self.server).resume_reading(),
            Order::Found(_) if self.ended || cx.is_stopping() => {}
            Order::Found(Ok(addresses)) => {
                self.untried = addresses.into();
                self.try_next(cx);
            }
            Order::Found(Err(cause)) => {
                self.cause = cause;
                self.try_next(cx);
            }
        }
    }

    fn on_close(&mut self, line: Line, reason: CloseReason, cx: &mut Context<'_>) {
        match line.0 {
            Kind::Server(_) => self.hung_up(reason, cx),
            Kind::Keyboard(_) => self.keyboard = Keyboard::None,
            Kind::Pause => {}
        }
    }
}

impl<S> std::fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("name", &self.name).field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
