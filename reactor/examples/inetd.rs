//! Serves the one connection that inetd, or a socket unit of systemd with `Accept=yes`, has started the program with: the socket is
//! standard input. Each line is sent back. Try it: `socat TCP-LISTEN:8800,reuseaddr,fork EXEC:inetd,nofork`.

use std::os::fd::AsFd;

use reactor::{Application, Backend, CloseReason, Context, Error, Handler, Input, Runner, Service};

struct Echo;

impl Handler for Echo {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        // Each further loop, or loop of a connection, has a handler, too.
        if cx.loop_number() != 0 {
            return;
        }
        let input = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor is free");
        if let Err(error) = cx.adopt(input, ()) {
            eprintln!("standard input: {error}");
            cx.halt();
        }
    }

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            cx.write(line);
        }
    }

    fn on_close(&mut self, _: (), _: CloseReason, cx: &mut Context<'_>) {
        cx.halt();
    }
}

fn main() -> Result<(), Error> {
    let runner = match std::env::args().nth(1).as_deref() {
        Some("threads") => Runner::threads(),
        Some("processes") => Runner::processes(),
        _ => Runner::default(),
    };
    let mut app = Application::with(Backend::Auto, runner)?;
    app.add_service(Service::outbound(|| Echo))?;
    app.handle_signals()?;
    app.run()
}
