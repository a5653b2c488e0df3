//! The client's output for people: coloured on a terminal, plain in a pipe, and the command's own messages beside the
//! room's.

use std::env;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reactor::Address;
use services::chat::{Ending, Note, Screen};

use super::editor::{Gate, Terminal};
use super::printer::Queue;

/// Colours that are legible on light and dark backgrounds, apart from the colours of errors and notices.
const COLOURS: [u8; 6] = [32, 33, 34, 35, 36, 95];
const ERROR: &str = "\x1b[31m";
const NOTICE: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// The result of a client's run.
#[derive(Default)]
pub struct Outcome {
    /// `None`: the client was told to stop, or its output has no reader.
    pub ending: Option<Ending>,
    /// In a pipe: a line was too long to be sent.
    pub unsent: bool,
    /// The error of standard output, if messages were lost.
    pub unprinted: Option<String>,
}

impl Outcome {
    pub fn of(ending: Ending) -> Self {
        Outcome { ending: Some(ending), ..Outcome::default() }
    }
}

/// The outcome, for the thread that waits for the client.
pub struct Pending(Arc<Mutex<Outcome>>);

impl Pending {
    pub fn take(&self) -> Outcome {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The client's screen. Its drop makes the line editor leave the terminal.
pub struct Front {
    name: String,
    /// The server's name in messages.
    server: String,
    seat: Seat,
    queue: Queue,
    outcome: Arc<Mutex<Outcome>>,
}

/// The member's input and output.
enum Seat {
    Pipe,
    /// A terminal. The editor starts when the server has welcomed the member, and then runs by itself.
    Terminal {
        gate: Arc<Gate>,
        editor: Option<Box<Terminal>>,
        colours: bool,
    },
}

impl Front {
    pub fn new(name: &str, server: &str, terminal: Option<Terminal>, queue: Queue) -> (Self, Pending) {
        let seat = match terminal {
            None => Seat::Pipe,
            Some(terminal) => {
                // https://no-color.org
                let colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
                Seat::Terminal { gate: terminal.gate(), editor: Some(Box::new(terminal)), colours }
            }
        };
        let outcome = Arc::new(Mutex::default());
        let pending = Pending(outcome.clone());
        (Front { name: name.to_owned(), server: server.to_owned(), seat, queue, outcome }, pending)
    }

    /// Prints the command's own message. In a pipe, messages of the room alone go to standard output.
    fn say(&self, words: &str) {
        match self.seat {
            Seat::Pipe => {
                // Standard error may have no reader.
                let _ = writeln!(io::stderr(), "{words}");
            }
            Seat::Terminal { .. } => {
                self.queue.put(&format!("{words}\n"));
            }
        }
    }

    fn has_colours(&self) -> bool {
        matches!(self.seat, Seat::Terminal { colours: true, .. })
    }
}

impl Screen for Front {
    fn connected(&mut self, _: &Address) {
        self.say(&format!("Now connected to chat server@ {}", self.server));
    }

    fn welcomed(&mut self, address: &str) {
        let coloured = if self.has_colours() { painted_name(&self.name) } else { self.name.clone() };
        let plain = self.name.clone();
        let Seat::Terminal { gate, editor, .. } = &mut self.seat else { return };
        let prompt = |name: &str| format!("[{name}@{address}]> ");
        gate.set_prompt(prompt(&plain), prompt(&coloured));
        if let (Some(terminal), Some(client)) = (editor.take(), self.queue.client())
            && let Err(error) = terminal.edit(self.queue.clone(), client.clone())
        {
            self.say(&format!("The line editor cannot start: {error}"));
        }
    }

    fn hear(&mut self, text: &str) -> bool {
        let mut line = if self.has_colours() { painted(text) } else { text.to_owned() };
        line.push('\n');
        self.queue.put(&line)
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::TooLong(error) => {
                if let Seat::Pipe = self.seat {
                    self.outcome.lock().unwrap_or_else(PoisonError::into_inner).unsent = true;
                }
                self.say(&format!("{error}: not sent"));
            }
            Note::NotSent => self.say("Not connected: not sent"),
            Note::Lost { cause, again } => {
                self.say(&format!("Lost the chat server @ {}: {cause}; next try in {}", self.server, rounded(*again)));
            }
        }
    }

    fn ended(&mut self, ending: Ending) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).ending = Some(ending);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Seat::Terminal { gate, .. } = &self.seat
            && let Some(nudge) = gate.end()
        {
            self.queue.put(nudge);
        }
    }
}

/// Formats a time to a tenth of a second.
fn rounded(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Colours a message: the name in its own colour, a notice pale, an error red. `text` contains no control sequences of
/// its own.
fn painted(text: &str) -> String {
    match text.as_bytes().first() {
        Some(b'#') => match text[1..].split_once('@') {
            Some((name, rest)) => format!("#{}@{rest}", painted_name(name)),
            None => text.to_owned(),
        },
        Some(b'(') => format!("{NOTICE}{text}{PLAIN}"),
        _ if text.starts_with("ERROR: ") => format!("{ERROR}{text}{PLAIN}"),
        _ => text.to_owned(),
    }
}

/// Colours a name. The colour depends on the name alone, so it is the same in every client.
fn painted_name(name: &str) -> String {
    // FNV-1a: any hash would do that is constant across machines.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let colour = COLOURS[(hash % COLOURS.len() as u32) as usize];
    format!("\x1b[{colour}m{name}{PLAIN}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_colour_and_nothing_but_colour_is_added() {
        let without_colours = |text: &str| {
            let mut plain = String::new();
            for (number, part) in text.split('\x1b').enumerate() {
                plain.push_str(if number == 0 { part } else { part.split_once('m').expect("it ends").1 });
            }
            plain
        };
        for text in
            ["#ann@127.0.0.1>>a@b", "#", "#ann", "(2 here: ann@unix)", "ERROR: unknown command", "", "hello", "ä"]
        {
            assert_eq!(without_colours(&painted(text)), text);
        }
        assert_eq!(painted("#ann@unix>>hi"), format!("#{}@unix>>hi", painted_name("ann")));
    }
}
