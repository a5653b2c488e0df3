//! Back from Ctrl-Z: the shell had the terminal meanwhile and left it as it likes it. SIGCONT is a descriptor of the
//! loop, and so is SIGQUIT, which would otherwise end the process with the terminal in the editor's hands.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use reactor::{Context, Handler, Input, Service};
use signal_hook::consts::{SIGCONT, SIGQUIT};
use signal_hook::low_level::pipe;

use super::editor::Gate;
use super::printer::Queue;

struct Continued {
    /// Tells of SIGCONT, and of SIGQUIT.
    told: Option<[OwnedFd; 2]>,
    gate: Arc<Gate>,
    queue: Queue,
}

/// What gives the terminal back to the editor whenever the process goes on after a stop.
pub fn service(gate: Arc<Gate>, queue: Queue) -> io::Result<Service<impl Handler>> {
    let tell = |signal| {
        let (told, teller) = UnixStream::pair()?;
        pipe::register(signal, teller)?;
        io::Result::Ok(OwnedFd::from(told))
    };
    let told = Mutex::new(Some([tell(SIGCONT)?, tell(SIGQUIT)?]));
    let factory = move || {
        let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
        Continued { told, gate: gate.clone(), queue: queue.clone() }
    };
    Ok(Service::outbound(factory).named("continued"))
}

impl Handler for Continued {
    /// Whether it tells of SIGQUIT.
    type Connection = bool;

    fn on_start(&mut self, cx: &mut Context<'_>) {
        if let Some([continued, quit]) = self.told.take() {
            cx.watch(continued, false);
            cx.watch(quit, true);
        }
    }

    /// It listens nowhere.
    fn on_open(&mut self, _: &mut Context<'_>) -> bool {
        false
    }

    fn on_data(&mut self, is_quit: &mut bool, input: &mut Input<'_>, cx: &mut Context<'_>) {
        input.take_all();
        if *is_quit {
            return cx.halt();
        }
        if let Some(repaint) = self.gate.continued() {
            self.queue.put(repaint);
        }
    }
}
