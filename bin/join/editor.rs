//! The line editor: rustyline on a thread of its own. Typed lines are posted to the loop. Arriving text is printed
//! above the line being edited, which stays unchanged.
//!
//! ```text
//!            enter()              first paint          Enter               readline returns
//!   Outside ─────────▶ Entering ─────────────▶ Reading ─────▶ Leaving ────────────────────▶ Outside
//!   print directly     wait                    by the editor  wait                          print directly
//! ```

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use reactor::{ConnectionId, ServiceHandle};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::config::{BellStyle, ColorMode, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, ExternalPrinter, Helper};
use services::chat::Order;

use super::printer::{Queue, Writer, last_words, write_all};
use crate::Failure;

/// Typed lines that the arrow keys bring back.
const HISTORY_LINES: usize = 1000;
/// How long the editor waits after an Esc key for the rest of a key sequence, in milliseconds. Without a limit, a lone
/// Esc would delay all arriving text until the next key.
const ESCAPE_MILLIS: u16 = 100;
/// How long the editor may take to leave the terminal. It leaves at once, unless it is in the middle of a search or of
/// an incomplete key sequence.
const LEAVE_TIME: Duration = Duration::from_millis(500);
/// Wakes the editor and shows nothing: one line up, and down again.
const NUDGE: &str = "\x1b[A\n";
/// As [`NUDGE`], and makes the terminal mark pasted text again.
const REPAINT: &str = "\x1b[?2004h\x1b[A\n";
/// Makes the terminal stop marking pasted text.
const PASTE_MARKS_OFF: &str = "\x1b[?2004l\r\n";

/// A terminal with a line editor, and the terminal's former settings.
pub struct Terminal {
    editor: Editor<Look, DefaultHistory>,
    gate: Arc<Gate>,
}

impl Terminal {
    /// Opens the terminal. Returns the terminal and a writer to it. `None` if the terminal can only print lines
    /// (`TERM=dumb`).
    pub fn new() -> Result<Option<(Self, Writer)>, Failure> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)?
            .auto_add_history(true)
            .keyseq_timeout(Some(ESCAPE_MILLIS))
            .bell_style(BellStyle::None)
            // Only then does rustyline paint through our callbacks. `Front` decides on colours.
            .color_mode(ColorMode::Forced)
            .build();
        let gate = Arc::new(Gate::new(tcgetattr(io::stdin())?));
        let mut editor = Editor::with_config(config)?;
        let Ok(above) = editor.create_external_printer() else { return Ok(None) };
        editor.set_helper(Some(Look { gate: gate.clone(), own: Cell::new(false) }));
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let writer = writer(gate.clone(), stdout, above);
        Ok(Some((Terminal { editor, gate }, writer)))
    }

    /// The gate, for the code that restores the terminal.
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// Starts the editor, once all earlier text is printed.
    pub fn edit(self, printed: Queue, client: ServiceHandle<Order>) -> io::Result<()> {
        let Terminal { editor, gate } = self;
        gate.lock().editing = true;
        gate.quiet();
        let for_thread = gate.clone();
        let editing = move || {
            // Marks the editor as ended, however the thread ends.
            let _gone = Gone(&for_thread);
            printed.wait_until_written();
            edit(editor, &for_thread, &client);
        };
        let spawned = thread::Builder::new().name("editor".to_owned()).spawn(editing);
        spawned.map(drop).inspect_err(|_| gate.lock().editing = false)
    }
}

/// Makes a writer that prints above the line while the editor reads, and directly otherwise. Text that the editor has
/// not printed yet always comes first.
fn writer(gate: Arc<Gate>, mut stdout: File, mut above: impl ExternalPrinter + Send + 'static) -> Writer {
    Box::new(move |text| {
        let mut state = gate.wait_while(|state| match state.place {
            Place::Outside => state.editing && state.handed.is_some(),
            Place::Reading => state.handed.is_some(),
            Place::Entering | Place::Leaving => true,
        });
        if state.place == Place::Outside {
            // The flag `printing` keeps the editor from starting meanwhile. The lock is released, because the loop
            // takes the same lock.
            state.printing = true;
            let left = state.handed.take().unwrap_or_default();
            drop(state);
            let outcome = write_all(&mut stdout, &left).and_then(|()| write_all(&mut stdout, text));
            gate.lock().printing = false;
            gate.changed.notify_all();
            return outcome;
        }
        state.handed = Some(text.to_owned());
        // The editor takes one text at a time, and has taken the last. The lock is held so that the editor cannot stop
        // reading now: it would print in the middle of its own exit.
        let sure = !std::mem::take(&mut state.unsure);
        let held = sure.then_some(state);
        // If the editor has ended, the text stays in `handed`.
        let _ = above.print(text.to_owned());
        drop(held);
        Ok(())
    })
}

fn edit(mut editor: Editor<Look, DefaultHistory>, gate: &Gate, client: &ServiceHandle<Order>) {
    while let Some(prompt) = gate.enter() {
        let typed = catch_unwind(AssertUnwindSafe(|| editor.readline(&prompt)));
        gate.leave();
        let order = match typed {
            Err(ended) if ended.is::<Ended>() => return,
            Err(panic) => resume_unwind(panic),
            Ok(Ok(line)) => {
                let (said, is_said) = channel();
                if client.post_wait(ConnectionId::NONE, Order::Say(line, said)).is_err() {
                    return;
                }
                // The next prompt follows when the line is sent: text typed meanwhile waits in the terminal.
                let _ = is_said.recv();
                continue;
            }
            Ok(Err(ReadlineError::Interrupted)) => return client.handle().halt(),
            // Ctrl-D, or the terminal has gone.
            Ok(Err(_)) => Order::Leave,
        };
        // An error means that the client has left already.
        let _ = client.post_wait(ConnectionId::NONE, order);
        return;
    }
}

/// The state of the editor, shared with the threads that print and that end the editor.
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// The terminal's former settings.
    before: Termios,
}

#[derive(Default)]
struct State {
    place: Place,
    /// The prompt, plain and coloured.
    prompt: (String, String),
    /// The terminal's settings while a line is edited.
    raw: Option<Termios>,
    /// Text that the editor has taken and not printed yet.
    handed: Option<String>,
    /// The editor may still have a text, though `handed` is empty.
    unsure: bool,
    /// A thread prints directly.
    printing: bool,
    /// The editor's thread is running.
    editing: bool,
    /// The editor must leave.
    ended: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    Entering,
    Reading,
    Leaving,
}

impl Gate {
    fn new(before: Termios) -> Self {
        Gate { state: Mutex::default(), changed: Condvar::new(), before }
    }

    /// Sets the prompt of the next line.
    pub fn set_prompt(&self, plain: String, coloured: String) {
        self.lock().prompt = (plain, coloured);
    }

    /// Makes the editor leave. Returns text to print, which wakes a running editor.
    pub fn end(&self) -> Option<&'static str> {
        let mut state = self.lock();
        state.ended = true;
        self.changed.notify_all();
        state.editing.then_some(NUDGE)
    }

    /// Restores the editor's settings after a stop of the process, because another program has used the terminal
    /// meanwhile. The editor restores them itself after Ctrl-Z, but possibly before the process really stopped. Returns
    /// text to print, which shows the line again.
    pub fn continued(&self) -> Option<&'static str> {
        let mut state = self.lock();
        // Text handed to the editor just before the stop may be printed already, or not yet.
        state.unsure |= state.handed.take().is_some();
        self.changed.notify_all();
        // In the background either call stops the process again, as it should.
        match (&state.raw, state.place) {
            (Some(raw), Place::Reading) => {
                tcsetattr(io::stdin(), OptionalActions::Now, raw).ok()?;
                Some(REPAINT)
            }
            (_, Place::Outside) => {
                self.quiet();
                None
            }
            _ => None,
        }
    }

    /// Turns off the terminal's echo between two lines, so typed text does not appear in the middle of printed text.
    /// The editor shows the typed text with the next line.
    fn quiet(&self) {
        let mut quiet = self.before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        // On failure the typed text is shown at once.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &quiet);
    }

    /// Restores the terminal when the editor has left. If the editor does not leave in time, takes the terminal by
    /// force: nothing else runs by now, and the process ends.
    pub fn restore(&self) {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, LEAVE_TIME, |state| state.editing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // A failure cannot be reported at this point.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        if state.editing {
            let left = state.handed.take().unwrap_or_default();
            last_words(io::stdout(), &format!("{PASTE_MARKS_OFF}{left}"));
        }
    }

    /// Returns the prompt of the next line, or `None` at the end.
    fn enter(&self) -> Option<(String, String)> {
        let mut state = self.wait_while(|state| state.printing && !state.ended);
        if state.ended {
            return None;
        }
        state.place = Place::Entering;
        Some(state.prompt.clone())
    }

    /// Called when the editor paints the line; the terminal belongs to the editor then. To stop reading, the editor
    /// unwinds from here, and gives the terminal back on the way. No other way exists.
    fn painting(&self, after_print: bool) {
        let mut state = self.lock();
        if after_print {
            state.handed = None;
            self.changed.notify_all();
        }
        // Unwinds only while the screen shows no line: before the first painting, or after other text was printed.
        if state.ended && (after_print || state.place == Place::Entering) {
            drop(state);
            resume_unwind(Box::new(Ended));
        }
        if state.place == Place::Entering {
            state.place = Place::Reading;
            state.raw = tcgetattr(io::stdin()).ok();
            self.changed.notify_all();
        }
    }

    fn accepting(&self) {
        self.lock().place = Place::Leaving;
    }

    fn leave(&self) {
        self.lock().place = Place::Outside;
        self.changed.notify_all();
    }

    fn wait_while(&self, mut unless: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.lock(), |state| unless(state)).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The payload of the editor's unwinding.
struct Ended;

/// Marks the end of the editor's thread, whatever ended it.
struct Gone<'a>(&'a Gate);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.lock().editing = false;
        self.0.leave();
    }
}

/// Callbacks of the editor: while painting, and when a line is complete.
struct Look {
    gate: Arc<Gate>,
    /// The next painting is caused by a key. Otherwise the editor paints because it has printed text.
    own: Cell<bool>,
}

impl Highlighter for Look {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        self.gate.painting(!self.own.take());
        Cow::Borrowed(prompt)
    }

    /// Called after each key. Always asks for the whole line to be painted, so that the next painting is known to come
    /// from a key.
    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        self.own.set(true);
        true
    }
}

impl Validator for Look {
    fn validate(&self, _: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        self.gate.accepting();
        Ok(ValidationResult::Valid(None))
    }
}

impl Completer for Look {
    type Candidate = String;
}

impl Hinter for Look {
    type Hint = String;
}

impl Helper for Look {}
