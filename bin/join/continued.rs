//! Restores the editor's terminal after Ctrl-Z, because the shell has changed the terminal's settings meanwhile.
//! SIGCONT is a descriptor of the loop. So are the signals that would end the process while the editor holds the
//! terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use reactor::{Context, Handler, Input, Service};
use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGCONT, SIGIO, SIGPROF, SIGQUIT, SIGSYS, SIGTRAP, SIGUSR2, SIGVTALRM, SIGXCPU,
};
use signal_hook::low_level::pipe;

use super::editor::Gate;
use super::printer::Queue;

/// Signals that end a process by default, and that neither the loop nor a fault of the program uses. They make the
/// client leave, as SIGTERM does.
const LAST: [i32; 10] = [SIGQUIT, SIGABRT, SIGALRM, SIGUSR2, SIGVTALRM, SIGPROF, SIGXCPU, SIGIO, SIGSYS, SIGTRAP];

struct Continued {
    /// Descriptors for SIGCONT and for the [`LAST`] signals.
    signals: Option<[OwnedFd; 2]>,
    gate: Arc<Gate>,
    queue: Queue,
}

/// A service that gives the terminal back to the editor when the process continues after a stop.
pub fn service(gate: Arc<Gate>, queue: Queue) -> io::Result<Service<impl Handler>> {
    let descriptor = |signals: &[i32]| {
        let (watched, written) = UnixStream::pair()?;
        for signal in signals {
            pipe::register(*signal, written.try_clone()?)?;
        }
        io::Result::Ok(OwnedFd::from(watched))
    };
    let signals = Mutex::new(Some([descriptor(&[SIGCONT])?, descriptor(&LAST)?]));
    let factory = move || {
        let signals = signals.lock().unwrap_or_else(PoisonError::into_inner).take();
        Continued { signals, gate: gate.clone(), queue: queue.clone() }
    };
    Ok(Service::outbound(factory).named("continued"))
}

impl Handler for Continued {
    /// Whether the descriptor stands for the [`LAST`] signals.
    type Connection = bool;

    fn on_start(&mut self, cx: &mut Context<'_, bool>) {
        if let Some([continued, last]) = self.signals.take() {
            cx.watch(continued, false);
            cx.watch(last, true);
        }
    }

    /// Never called: the service has no listener.
    fn on_open(&mut self, _: &mut Context<'_, bool>) -> bool {
        false
    }

    fn on_data(&mut self, is_last: &mut bool, input: &mut Input<'_>, cx: &mut Context<'_, bool>) {
        input.take_all();
        if *is_last {
            return cx.halt();
        }
        if let Some(repaint) = self.gate.continued() {
            self.queue.put(repaint);
        }
    }
}
