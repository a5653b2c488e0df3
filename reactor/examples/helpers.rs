//! Gives each client a program of its own: `helpers ADDRESS loops|threads|processes PROGRAM [ARGUMENTS]`. The program's standard
//! input and output are one end of a pair of sockets. The handler adopts the other end, and passes bytes between client and
//! program. Try it: `helpers 127.0.0.1:8800 loops tr a-z A-Z`.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use reactor::{
    Application, Backend, CloseReason, ConnectionId, Context, Error, Handler, Input, Runner, Service, Written,
};

struct Helpers {
    program: Vec<String>,
}

/// A client, or the program of a client: the opposite side; and with a client, its program.
struct Side {
    other: ConnectionId,
    child: Option<Child>,
}

impl Helpers {
    /// Starts the program for this client.
    fn start(&self, client: ConnectionId, cx: &mut Context<'_, Side>) -> Result<Side, Box<dyn std::error::Error>> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs));
        let child = command.spawn()?;
        let other = cx.adopt(ours.into(), Side { other: client, child: None })?;
        // A program may be silent until it has read everything.
        cx.at(other).change_deadlines(|deadlines| deadlines.first_request = None);
        cx.at(other).read_on();
        cx.at(client).read_on();
        Ok(Side { other, child: Some(child) })
    }
}

impl Handler for Helpers {
    type Connection = Side;

    fn on_open(&mut self, cx: &mut Context<'_, Side>) -> Side {
        let client = cx.id();
        self.start(client, cx).unwrap_or_else(|error| {
            cx.write(format!("{error}\n"));
            cx.close();
            Side { other: ConnectionId::NONE, child: None }
        })
    }

    fn on_data(&mut self, side: &mut Side, input: &mut Input<'_>, cx: &mut Context<'_, Side>) {
        match cx.at(side.other).write(input.take_all()) {
            Written::Queued => {}
            Written::AboveHighWater => cx.pause_reading(),
            Written::Refused => cx.close(),
        }
    }

    fn on_drained(&mut self, side: &mut Side, cx: &mut Context<'_, Side>) {
        cx.at(side.other).resume_reading();
    }

    fn on_end_of_input(&mut self, side: &mut Side, _: &mut Input<'_>, cx: &mut Context<'_, Side>) {
        cx.at(side.other).finish();
    }

    fn on_close(&mut self, side: Side, _: CloseReason, cx: &mut Context<'_, Side>) {
        cx.at(side.other).close();
        if let Some(mut child) = side.child {
            // The program sees the end of its input, and ends. A thread waits for that, since the loop must not.
            std::thread::spawn(move || child.wait());
        }
    }
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8800".to_owned());
    let runner = match arguments.next().as_deref() {
        None | Some("loops") => Runner::loops(2)?,
        Some("threads") => Runner::threads(),
        Some("processes") => Runner::processes(),
        Some(other) => return Err(Error::Runner { why: format!("{other}: it is loops, threads or processes") }),
    };
    let program: Vec<String> = arguments.collect();
    let program = if program.is_empty() { vec!["cat".to_owned()] } else { program };
    let mut app = Application::with(Backend::Auto, runner)?;
    let helpers = app.add_service(Service::tcp(&address, move || Helpers { program: program.clone() }))?;
    app.handle_signals()?;
    println!("listening {}", helpers.address().expect("it listens"));
    app.run()
}
