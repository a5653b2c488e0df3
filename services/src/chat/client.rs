//! The chat's client: a handler that connects, sends the member's name and typed lines, and passes on the received
//! texts. The client speaks frames. Input and output for people belong to a [`Screen`].
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
use way::Kind;
pub use way::Line;

/// The context of the client's callbacks.
type Context<'a> = reactor::Context<'a, Line, Order>;

pub use screen::{Ending, Note, Order, Screen};

/// Longest frame of a server, in bytes: room for the answer to `/who` in a room of tens of thousands, and a bound
/// against a faulty server.
const HEARD_MAX: usize = 4 * 1024 * 1024;
/// Longest frame, and further bytes of one read.
const INPUT_MAX: usize = HEARD_MAX + 128 * 1024;
/// Time limit for the server's answer to the name.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for the server to close after a person at a keyboard has left.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest address in characters, whatever the server sends.
const ADDRESS_MAX: usize = 64;

/// A member of a chat room on another machine.
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
    /// Addresses of the server that have not been tried yet.
    untried: VecDeque<Address>,
    server: ConnectionId,
    state: State,
    /// The client was in the room before, so the server and the name are good.
    has_joined: bool,
    /// The client leaves by its own wish.
    leaving: bool,
    /// The server's last text, if it was an error before a close.
    error: Option<String>,
    /// `cause`: why the last attempt failed. `blame`: the fault of the present connection, if the loop cannot know it.
    cause: String,
    blame: Option<String>,
    /// How long the client waits for the server to close after leaving.
    patience: Option<Duration>,
    retry: Option<Retry>,
    /// `unsaid`: lines that have not been sent. `waiting`: told when they have been.
    unsaid: VecDeque<String>,
    waiting: Option<Sender<()>>,
    encoded: Encoded,
    clean: Vec<u8>,
    ended: bool,
    way: Option<way::Way>,
}

/// A descriptor to read lines from, unless lines are posted.
enum Keyboard {
    None,
    Waiting(OwnedFd),
    Watched(ConnectionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected.
    Away,
    /// Connected; the name has been sent.
    Greeting,
    Joined,
}

/// The key of the timer for the next attempt.
const CONNECT_AGAIN: u64 = 0;

/// Limits of the client: room for the longest text of a server.
pub fn limits() -> Limits {
    Limits { input: INPUT_MAX, ..Limits::default() }
}

impl<S: Screen> Client<S> {
    /// Makes a client called `name`, which tries these addresses in turn.
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

    /// Reads lines from `keyboard` up to its end, and then waits for the server's last texts. Without a keyboard, lines
    /// are posted as [`Order::Say`], and the client does not wait long after the last one.
    pub fn keyboard(mut self, keyboard: OwnedFd) -> Self {
        self.keyboard = Keyboard::Waiting(keyboard);
        self.patience = None;
        self
    }

    /// Makes the client reconnect after a lost connection, once it has been in the room, after a pause that grows from
    /// one second to thirty. `look_up` looks up the server's addresses each time. `seed` decides by how much each pause
    /// is shortened.
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

    /// Sends the unsent lines, as far as the server takes them. The typing person waits meanwhile.
    fn talk(&mut self, cx: &mut Context<'_>) {
        if self.state != State::Joined && !self.unsaid.is_empty() {
            let unsaid = std::mem::take(&mut self.unsaid);
            if unsaid.iter().any(|text| said(text) == Said::Quit) {
                return self.leave(cx);
            }
            // Typed lines do not wait for a server that may never come back; they can be typed again.
            self.screen.note(&Note::NotSent);
        }
        while let Some(text) = self.unsaid.pop_front() {
            if self.say(&text, cx) == Written::AboveHighWater {
                return;
            }
        }
        // After the last line, no more input is requested.
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

    /// Ends our half; the server's end follows.
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

    /// Reads complete lines, as far as the server takes them.
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

    /// Handles a text of the server. Returns whether more may follow.
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

    /// Handles the end of the connection to the server. The next step depends on the state, and on the side that ended
    /// it.
    fn hung_up(&mut self, reason: CloseReason, cx: &mut Context<'_>) {
        let was = std::mem::replace(&mut self.state, State::Away);
        self.server = ConnectionId::NONE;
        if self.ended || cx.is_stopping() {
            return;
        }
        self.hold_keyboard(true, cx);
        let (error, blame) = (self.error.take(), self.blame.take());
        let in_order = reason == CloseReason::PeerEnded;
        // The client itself has closed after its time limit.
        let in_time = reason != CloseReason::Aborted || blame.is_some();
        self.cause = blame.unwrap_or_else(|| self.cause_of(reason));
        match (was, error) {
            (State::Away | State::Greeting, None) => self.try_next(cx),
            // The server may still hold the name for the client's lost connection.
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
        // Lines typed for the lost server are dropped.
        self.talk(cx);
        cx.timers().set(CONNECT_AGAIN, again);
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

    /// Never called: the client has no listener.
    fn on_open(&mut self, _: &mut Context<'_>) -> Line {
        Line(Kind::Keyboard(Typed::default()))
    }

    fn on_connected(&mut self, line: &mut Line, cx: &mut Context<'_>) {
        if let Kind::Server(address) = &line.0 {
            self.state = State::Greeting;
            self.screen.connected(address);
            // A server whose output is full reads nothing, so the client reads on. Pausing the keyboard bounds the bytes queued for
            // the server.
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
                // An endless input, such as /dev/zero, must not delay the end.
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

    /// The server has taken the queued bytes.
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
        }
    }

    fn on_timer(&mut self, _: u64, cx: &mut Context<'_>) {
        self.look_up(cx);
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut Line>, order: Order, cx: &mut Context<'_>) {
        match order {
            Order::Say(text, waiting) => {
                // Pasted text may have several lines.
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
