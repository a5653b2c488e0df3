//! Back from Ctrl-Z: the shell had the terminal meanwhile and left it as it likes it. SIGCONT is a descriptor of the
//! loop.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use reactor::{Context, Handler, Input, Service};
use signal_hook::consts::SIGCONT;
use signal_hook::low_level::pipe;

use super::editor::Gate;
use super::printer::Queue;

struct Continued {
    told: Option<OwnedFd>,
    gate: Arc<Gate>,
    queue: Queue,
}

/// What gives the terminal back to the editor whenever the process goes on after a stop.
pub fn service(gate: Arc<Gate>, queue: Queue) -> io::Result<Service<impl Handler>> {
    let (told, teller) = UnixStream::pair()?;
    pipe::register(SIGCONT, teller)?;
    let told = Mutex::new(Some(OwnedFd::from(told)));
    let factory = move || {
        let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
        Continued { told, gate: gate.clone(), queue: queue.clone() }
    };
    Ok(Service::outbound(factory).named("continued"))
}

impl Handler for Continued {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        if let Some(told) = self.told.take() {
            cx.watch(told, ());
        }
    }

    /// It listens nowhere.
    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
        input.take_all();
        if let Some(repaint) = self.gate.continued() {
            self.queue.put(repaint);
        }
    }
}
