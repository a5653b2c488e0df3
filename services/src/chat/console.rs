//! The commands of an operator at a chat server: list the members, kick one, stop.
//!
//! Standard input is a connection of the loop. The console needs only the room and the chat's handle, so it finds a
//! member on any loop.

use std::os::fd::OwnedFd;

use reactor::{Handler, Input, ServiceHandle};

use super::{Command, Room};
use crate::codec::text::append_clean;
use crate::codec::typed::Typed;

type Context<'a> = reactor::Context<'a, Typed>;

const HELP: &str = "(/who tells who is here, /kick NAME sends one away, /quit stops the server)";

/// Lines of one turn: a file piped in has to wait, not the members.
const LINES_AT_ONCE: usize = 16;

/// A handler that carries out typed commands.
///
/// ```no_run
/// use reactor::{Application, Service};
/// use services::chat::{Chat, Console, Room};
/// use std::os::fd::AsFd;
/// use std::sync::Mutex;
///
/// let mut app = Application::new()?;
/// let room = Room::default();
/// let in_room = room.clone();
/// let chat = app.add_service(Service::tcp("127.0.0.1:8801", move || Chat::new(in_room.clone())))?;
/// let typed = Mutex::new(std::io::stdin().as_fd().try_clone_to_owned().ok());
/// app.add_service(Service::outbound(move || {
///     Console::new(room.clone(), chat.clone(), typed.lock().unwrap().take(), |answer| eprintln!("{answer}"))
/// }))?;
/// app.run()?;
/// # Ok::<(), reactor::Error>(())
/// ```
pub struct Console<A> {
    room: Room,
    chat: ServiceHandle<Command>,
    typed: Option<OwnedFd>,
    answer: A,
}

impl<A: FnMut(&str) + 'static> Console<A> {
    /// Reads `typed`, if any: with several loops, one of them gets the descriptor. Each answer goes to `answer` as one
    /// line. The end of the input stops nothing else.
    pub fn new(room: Room, chat: ServiceHandle<Command>, typed: Option<OwnedFd>, answer: A) -> Self {
        Console { room, chat, typed, answer }
    }

    fn obey(&mut self, line: &[u8], cx: &mut Context<'_>) {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (None, ..) => {}
            (Some("/who"), None, _) => (self.answer)(&self.room.who()),
            (Some("/kick"), Some(name), None) => self.kick(name),
            (Some("/quit"), None, _) => cx.halt(),
            _ => (self.answer)(HELP),
        }
    }

    fn kick(&mut self, name: &str) {
        let answer = match self.room.find(name) {
            None => match self.room.find_elsewhere(name) {
                Some(who) => format!("(Not kicked: {who}, who is on another server)"),
                None => format!("(Nobody here is called {})", clean(name)),
            },
            Some((who, connection)) => match self.chat.post(connection, Command::Kick) {
                Ok(()) => format!("(Kicked: {who})"),
                Err(error) => format!("(Not kicked: {who}, {error})"),
            },
        };
        (self.answer)(&answer);
    }
}

/// Cleans a typed or piped text; the names of members are clean already.
fn clean(text: &str) -> String {
    let mut clean = Vec::new();
    append_clean(text, &mut clean);
    String::from_utf8_lossy(&clean).into_owned()
}

impl<A: FnMut(&str) + 'static> Handler for Console<A> {
    type Connection = Typed;

    fn on_start(&mut self, cx: &mut Context<'_>) {
        if let Some(typed) = self.typed.take() {
            cx.watch(typed, Typed::default());
        }
    }

    /// Never called: the console has no listener.
    fn on_open(&mut self, _: &mut Context<'_>) -> Typed {
        Typed::default()
    }

    fn on_data(&mut self, typed: &mut Typed, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if cx.is_stopping() {
            // No member has typed this input, so no answer is awaited; and the input may never end.
            input.take_all();
            return cx.close();
        }
        for _ in 0..LINES_AT_ONCE {
            match typed.next(input) {
                Some(Ok(line)) => self.obey(line, cx),
                Some(Err(error)) => (self.answer)(&format!("({error})")),
                None => return,
            }
        }
        cx.offer_again();
    }

    fn on_end_of_input(&mut self, typed: &mut Typed, input: &mut Input<'_>, cx: &mut Context<'_>) {
        if let Some(line) = typed.rest(input) {
            self.obey(line, cx);
        }
        cx.close();
    }
}

impl<A> std::fmt::Debug for Console<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("room", &self.room).finish_non_exhaustive()
    }
}
