//! Text on its way to standard output, which is somebody else's descriptor too: it may block, and it stays blocking. So
//! a thread writes; the loop never waits, and stops listening to the server while too much is waiting here.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reactor::{ConnectionId, Handle, ServiceHandle};
use services::chat::Order;

/// Bytes that wait to be printed before the server is listened to no more: some screens full, and enough that a pipe
/// never runs dry.
const CROWDED: usize = 256 * 1024;
/// Until a descriptor that somebody made non-blocking is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// For a few words on a terminal.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);

/// Writes what it is given; an error is the end.
pub type Writer = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

/// The thread that writes.
pub struct Printer(Arc<Shared>);

/// Where the loop puts text.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Who is told that there is room again.
    client: OnceLock<ServiceHandle<Order>>,
}

#[derive(Default)]
struct State {
    text: String,
    /// Some of it is on its way.
    writing: bool,
    /// Somebody was told that there is no room.
    crowded: bool,
    closing: bool,
    /// Everything is written, or nothing more can be.
    done: bool,
    /// Why nothing more can be written.
    failed: Option<io::Error>,
}

impl Printer {
    /// Nobody reads any more: the application is halted.
    pub fn new(writer: Writer, application: Handle) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), client: OnceLock::new() });
        let for_thread = shared.clone();
        thread::Builder::new().name("printer".to_owned()).spawn(move || for_thread.write_all(writer, &application))?;
        Ok(Printer(shared))
    }

    pub fn queue(&self) -> Queue {
        Queue(self.0.clone())
    }

    /// Whom to tell that there is room again.
    pub fn attach(&self, client: ServiceHandle<Order>) {
        // It is attached once.
        let _ = self.0.client.set(client);
    }

    /// Why something could not be written, if so.
    pub fn failure(&self) -> Option<io::Error> {
        self.0.lock().failed.take()
    }

    /// Waits until everything is written, or for so long.
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
    /// Who is told that there is room again.
    pub fn client(&self) -> Option<&ServiceHandle<Order>> {
        self.0.client.get()
    }

    /// **Blocks** until everything is written.
    pub fn wait_until_written(&self) {
        let is_busy = |state: &mut State| !state.done && (state.writing || !state.text.is_empty());
        drop(self.0.changed.wait_while(self.0.lock(), is_busy));
    }

    /// Takes some whole lines. Never blocks. Whether there is room for more; if not, the client is told when there is.
    pub fn put(&self, text: &str) -> bool {
        let mut state = self.0.lock();
        if state.done {
            return true;
        }
        state.text.push_str(text);
        self.0.changed.notify_all();
        state.crowded |= state.text.len() > CROWDED;
        !state.crowded
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
                // However many messages there are, they leave in one write.
                std::mem::swap(&mut state.text, &mut text);
                state.writing = true;
            }
            if let Err(error) = writer(&text) {
                self.lock().failed = Some(error);
                application.halt();
                break;
            }
            text.clear();
            let was_crowded = {
                let mut state = self.lock();
                state.writing = false;
                self.changed.notify_all();
                std::mem::take(&mut state.crowded)
            };
            if was_crowded && let Some(client) = self.client.get() {
                // After the end of the loop nobody is there to be told.
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

/// Straight to the descriptor, whatever it is.
pub fn standard_output() -> io::Result<Writer> {
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(Box::new(move |text| write_all(&mut stdout, text)))
}

/// `write_all`, for a descriptor that somebody else may have made non-blocking.
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

/// Writes to a terminal once everything else has ended. One whose screen nobody looks at any more does not keep the
/// process for that.
pub fn last_words(terminal: impl AsFd, text: &str) {
    let Ok(terminal) = terminal.as_fd().try_clone_to_owned() else { return };
    let (text, (done, is_done)) = (text.to_owned(), channel());
    let write = move || done.send(write_all(&mut File::from(terminal), &text));
    if thread::Builder::new().spawn(write).is_ok() {
        // Either outcome is the end.
        let _ = is_done.recv_timeout(LAST_WORDS_TIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::Application;

    /// A printer whose writer waits for the gate, and what it has written.
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
    fn everything_is_written_in_order_and_the_queue_says_when_it_is_crowded() {
        let gate = Arc::default();
        let (printer, written) = gated(&gate);
        let stuck = gate.lock().unwrap();
        let (queue, line) = (printer.queue(), "x".repeat(1023) + "\n");
        // One batch may be in the writer's hands already.
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
