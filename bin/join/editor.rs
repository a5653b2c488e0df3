//! The line editor: rustyline on a thread of its own. What is typed is posted to the loop; what arrives is printed
//! above the line, which stays as it is.
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

/// Lines that can be had back with the arrow keys.
const HISTORY_LINES: usize = 1000;
/// How long after an Esc key the rest of a longer sequence may take, in milliseconds. Without a limit, a lone Esc would
/// hold up everything that arrives until the next key.
const ESCAPE_MILLIS: u16 = 100;
/// How long the editor may take to leave the terminal once it is asked to. It does at once, unless it is in the middle
/// of a search or of a key that has not come as a whole.
const LEAVE_TIME: Duration = Duration::from_millis(500);
/// Wakes the editor up and shows nothing: up a line, and down again.
const NUDGE: &str = "\x1b[A\n";
/// The same, and the terminal marks what is pasted again.
const REPAINT: &str = "\x1b[?2004h\x1b[A\n";
/// What ends the mode in which a terminal marks what is pasted.
const PASTE_MARKS_OFF: &str = "\x1b[?2004l\r\n";

/// A terminal that a line can be edited on, and what it was like before.
pub struct Terminal {
    editor: Editor<Look, DefaultHistory>,
    gate: Arc<Gate>,
}

impl Terminal {
    /// A terminal and how to print on it; `None` if it can do nothing but lines (`TERM=dumb`).
    pub fn new() -> Result<Option<(Self, Writer)>, Failure> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)?
            .auto_add_history(true)
            .keyseq_timeout(Some(ESCAPE_MILLIS))
            .bell_style(BellStyle::None)
            // It paints through our callbacks only then. Whether in colour is for `Front` to say.
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

    /// For the one who sees to it that the terminal is left as it was.
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// Asks for lines, once everything that was printed before is there.
    pub fn edit(self, printed: Queue, client: ServiceHandle<Order>) -> io::Result<()> {
        let Terminal { editor, gate } = self;
        gate.lock().editing = true;
        gate.quiet();
        let for_thread = gate.clone();
        let editing = move || {
            // However it ends, the others learn of it.
            let _gone = Gone(&for_thread);
            printed.wait_until_written();
            edit(editor, &for_thread, &client);
        };
        let spawned = thread::Builder::new().name("editor".to_owned()).spawn(editing);
        spawned.map(drop).inspect_err(|_| gate.lock().editing = false)
    }
}

/// Prints above the line while the editor reads one, and otherwise directly. Never both: what the editor has not
/// printed yet comes first.
fn writer(gate: Arc<Gate>, mut stdout: File, mut above: impl ExternalPrinter + Send + 'static) -> Writer {
    Box::new(move |text| {
        let mut state = gate.wait_while(|state| match state.place {
            Place::Outside => state.editing && state.handed.is_some(),
            Place::Reading => state.handed.is_some(),
            Place::Entering | Place::Leaving => true,
        });
        if state.place == Place::Outside {
            // The editor does not begin in the middle of it. Not under the lock, which the loop takes, too.
            state.printing = true;
            let left = state.handed.take().unwrap_or_default();
            drop(state);
            let outcome = write_all(&mut stdout, &left).and_then(|()| write_all(&mut stdout, text));
            gate.lock().printing = false;
            gate.changed.notify_all();
            return outcome;
        }
        state.handed = Some(text.to_owned());
        // It takes one text at a time, and has taken the last. Under the lock, so that it does not stop reading just
        // now: it would print at once, in the middle of its own leaving.
        let sure = !std::mem::take(&mut state.unsure);
        let held = sure.then_some(state);
        // If it is gone by now, what was handed to it is left.
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
                // Until then there is no prompt: what is typed too fast for the server waits in the terminal.
                let _ = is_said.recv();
                continue;
            }
            Ok(Err(ReadlineError::Interrupted)) => return client.handle().halt(),
            // Ctrl-D, or the terminal is gone.
            Ok(Err(_)) => Order::Leave,
        };
        // If nobody takes it, the client has left already.
        let _ = client.post_wait(ConnectionId::NONE, order);
        return;
    }
}

/// Where the editor is, for those who print beside it and the one who ends it.
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// As the terminal was.
    before: Termios,
}

#[derive(Default)]
struct State {
    place: Place,
    /// As it is, and in colour.
    prompt: (String, String),
    /// The terminal while a line is read.
    raw: Option<Termios>,
    /// What the editor was given to print and has not printed yet.
    handed: Option<String>,
    /// It may have it still, though nothing is said to be handed to it.
    unsure: bool,
    /// Something is printed directly.
    printing: bool,
    /// The editor's thread is there.
    editing: bool,
    /// It is to leave.
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

    /// What the next line is asked for with.
    pub fn set_prompt(&self, plain: String, coloured: String) {
        self.lock().prompt = (plain, coloured);
    }

    /// The editor is to leave. What has to be printed for it to notice, if it is there.
    pub fn end(&self) -> Option<&'static str> {
        let mut state = self.lock();
        state.ended = true;
        self.changed.notify_all();
        state.editing.then_some(NUDGE)
    }

    /// The process goes on after a stop, and whoever had the terminal meanwhile has changed it. The editor puts it in
    /// order itself when it comes back from Ctrl-Z, but it may have done so before the process was really stopped. What
    /// has to be printed for the line to be seen again.
    pub fn continued(&self) -> Option<&'static str> {
        let mut state = self.lock();
        // What was handed over just before may have been printed at once, or not yet.
        state.unsure |= state.handed.take().is_some();
        self.changed.notify_all();
        // In the background either stops the process again, which is what becomes of an editor there.
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

    /// What is typed between two lines is not shown by the terminal, in the middle of what is printed then: the editor
    /// shows it with the next line.
    fn quiet(&self) {
        let mut quiet = self.before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        // If that fails, it is shown.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &quiet);
    }

    /// Puts the terminal back as it was, once the editor has left it; or if it does not leave, takes it: nothing else
    /// is running by now, and the process ends.
    pub fn restore(&self) {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, LEAVE_TIME, |state| state.editing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // There is nobody to tell if that fails.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        if state.editing {
            let left = state.handed.take().unwrap_or_default();
            last_words(io::stdout(), &format!("{PASTE_MARKS_OFF}{left}"));
        }
    }

    /// The prompt, if there is to be another line.
    fn enter(&self) -> Option<(String, String)> {
        let mut state = self.wait_while(|state| state.printing && !state.ended);
        if state.ended {
            return None;
        }
        state.place = Place::Entering;
        Some(state.prompt.clone())
    }

    /// The editor paints the line, and the terminal is its own. There is no other way to make it stop reading: it
    /// unwinds, and gives the terminal back on its way.
    fn painting(&self, after_print: bool) {
        let mut state = self.lock();
        if after_print {
            state.handed = None;
            self.changed.notify_all();
        }
        // Only where there is no line on the screen: before the first painting, and after what was printed in its
        // place.
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

/// What the editor unwinds with.
struct Ended;

/// The editor's thread is over, whatever ended it.
struct Gone<'a>(&'a Gate);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.lock().editing = false;
        self.0.leave();
    }
}

/// What the editor calls while it paints and when a line is done.
struct Look {
    gate: Arc<Gate>,
    /// It is about to paint because of a key. Without that, it paints because it has printed something.
    own: Cell<bool>,
}

impl Highlighter for Look {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        self.gate.painting(!self.own.take());
        Cow::Borrowed(prompt)
    }

    /// Asked after each key. Yes: paint the whole line, always, so that the next painting is known to be for that.
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
