//! Text for standard output, which other processes share: it may block, and must stay blocking. So a thread writes. The
//! loop never waits, and pauses reading from the server while too much text is queued here.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reactor::{ConnectionId, Handle, ServiceHandle};
use services::chat::Order;

/// Queued bytes at which reading from the server pauses: some screens full, and enough to keep a pipe busy.
const QUEUE_MAX: usize = 256 * 1024;
/// Time until the next try, for a descriptor that another process has made non-blocking.
const RETRY: Duration = Duration::from_millis(10);

/// Time limit for a short text on a terminal.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);

/// Writes a text. An error ends the printer.
pub type Writer = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

/// The thread that writes.
pub struct Printer(Arc<Shared>);

/// The loop's side of the queue.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The client, to which the thread posts when the queue has room again.
    client: OnceLock<ServiceHandle<Order>>,
}

#[derive(Default)]
struct State {
    text: String,
    /// A part of the text is being written.
    writing: bool,
    /// Whether `put` has reported a full queue to the client. Cleared when the queue is written.
    is_full: bool,
    closing: bool,
    /// All text is written, or no more can be written.
    done: bool,
    /// The error that ended the printer.
    failed: Option<io::Error>,
}

impl Printer {
    /// Starts the thread. A write error halts the application.
    pub fn new(writer: Writer, application: Handle) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), client: OnceLock::new() });
        let for_thread = shared.clone();
        thread::Builder::new().name("printer".to_owned()).spawn(move || for_thread.write_all(writer, &application))?;
        Ok(Printer(shared))
    }

    pub fn queue(&self) -> Queue {
        Queue(self.0.clone())
    }

    /// Sets the client, which is told when the queue has room again.
    pub fn attach(&self, client: ServiceHandle<Order>) {
        // Called once.
        let _ = self.0.client.set(client);
    }

    /// Takes the error that ended the printer, if any.
    pub fn failure(&self) -> Option<io::Error> {
        self.0.lock().failed.take()
    }

    /// Waits until all text is written, for at most `limit`.
    pub fn finish(&self, limit: Option<Duration>) {
        let until = limit.map(|limit| Instant::now() + limit);
        let mut state = self.0.lock();
        state.closing = true;
        self.0.changed.notify_all();
        while !state.done {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return,
                Some(left) => {
                    self.0.changed.wait_timeout(state, left).map_or_else(|poisoned| poisoned.into_inner().0, |it| it.0)
                }
                None => self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Queue {
    /// The client, once it is set.
    pub fn client(&self) -> Option<&ServiceHandle<Order>> {
        self.0.client.get()
    }

    /// **Blocks** until all text is written.
    pub fn wait_until_written(&self) {
        let is_busy = |state: &mut State| !state.done && (state.writing || !state.text.is_empty());
        drop(self.0.changed.wait_while(self.0.lock(), is_busy));
    }

    /// Queues whole lines. Never blocks. Returns whether the queue has room for more; if not, the client is told later.
    pub fn put(&self, text: &str) -> bool {
        let mut state = self.0.lock();
        if state.done {
            return true;
        }
        state.text.push_str(text);
        self.0.changed.notify_all();
        state.is_full |= state.text.len() > QUEUE_MAX;
        !state.is_full
    }
}

impl Shared {
    fn write_all(&self, mut writer: Writer, application: &Handle) {
        let mut text = String::new();
        loop {
            {
                let mut state = self.lock();
                while state.text.is_empty() && !state.closing {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.text.is_empty() {
                    break;
                }
                // All queued messages leave in one write.
                std::mem::swap(&mut state.text, &mut text);
                state.writing = true;
            }
            if let Err(error) = writer(&text) {
                self.lock().failed = Some(error);
                application.halt();
                break;
            }
            text.clear();
            let was_full = {
                let mut state = self.lock();
                state.writing = false;
                self.changed.notify_all();
                std::mem::take(&mut state.is_full)
            };
            if was_full && let Some(client) = self.client.get() {
                // After the end of the loop the client does not need to know.
                let _ = client.post_wait(ConnectionId::NONE, Order::GoOn);
            }
        }
        let mut state = self.lock();
        (state.done, state.text) = (true, String::new());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer to standard output, whatever its kind.
pub fn standard_output() -> io::Result<Writer> {
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(Box::new(move |text| write_all(&mut stdout, text)))
}

/// Writes the whole text, even if another process has made the descriptor non-blocking.
pub fn write_all(to: &mut File, text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes to a terminal after everything else has ended. A stopped terminal delays the exit for [`LAST_WORDS_TIME`] at
/// most.
pub fn last_words(terminal: impl AsFd, text: &str) {
    let Ok(terminal) = terminal.as_fd().try_clone_to_owned() else { return };
    let (text, (done, is_done)) = (text.to_owned(), channel());
    let write = move || done.send(write_all(&mut File::from(terminal), &text));
    if thread::Builder::new().spawn(write).is_ok() {
        // Either outcome ends the wait.
        let _ = is_done.recv_timeout(LAST_WORDS_TIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::Application;

    /// A printer whose writer waits for the gate, and the written text.
    fn gated(gate: &Arc<Mutex<()>>) -> (Printer, Arc<Mutex<String>>) {
        let (written, gate) = (Arc::new(Mutex::new(String::new())), gate.clone());
        let into = written.clone();
        let writer: Writer = Box::new(move |text| {
            let _open = gate.lock().unwrap();
            into.lock().unwrap().push_str(text);
            Ok(())
        });
        (Printer::new(writer, Application::new().unwrap().handle()).unwrap(), written)
    }

    #[test]
    fn everything_is_written_in_order_and_the_queue_says_when_it_is_full() {
        let gate = Arc::default();
        let (printer, written) = gated(&gate);
        let stuck = gate.lock().unwrap();
        let (queue, line) = (printer.queue(), "x".repeat(1023) + "\n");
        // The writer may hold one batch already.
        let taken = (0..2000).take_while(|_| queue.put(&line)).count();
        assert!((255..=2 * 257).contains(&taken), "{taken} lines of 1 KiB");
        drop(stuck);
        printer.finish(None);
        assert_eq!(written.lock().unwrap().len(), (taken + 1) * 1024);
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let gate = Arc::default();
        let (printer, _) = gated(&gate);
        let stuck = gate.lock().unwrap();
        printer.queue().put("x\n");
        printer.finish(Some(Duration::from_millis(10)));
        drop(stuck);
    }

    #[test]
    fn when_nobody_reads_the_application_is_halted() {
        let app = Application::new().unwrap();
        let printer = Printer::new(Box::new(|_| Err(ErrorKind::BrokenPipe.into())), app.handle()).unwrap();
        printer.queue().put("x\n");
        app.run().unwrap();
        assert!(printer.queue().put("y\n"), "it takes what comes, for nobody");
        printer.finish(None);
    }
}
