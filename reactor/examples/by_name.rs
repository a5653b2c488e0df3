//! Connects to a server by its name, sends a line, and prints the answer: `by_name HOST:PORT TEXT`. Looking a name up blocks, so a thread
//! looks up and posts the addresses to the handler. The handler tries the addresses in order.

use std::io::Write;
use std::thread;
use std::time::Duration;

use reactor::{Address, Application, CloseReason, ConnectionId, Context, Deadlines, Error, Handler, Input, Service};

struct Client {
    name: String,
    text: String,
    /// Addresses not tried yet.
    addresses: Vec<Address>,
}

/// The answer of the look-up.
type Found = Result<Vec<Address>, String>;

impl Client {
    fn try_next(&mut self, cx: &mut Context<'_, (), Found>) {
        match self.addresses.pop() {
            Some(address) => {
                cx.connect(address, ());
            }
            None => {
                eprintln!("no server answers at {}", self.name);
                cx.halt();
            }
        }
    }
}

impl Handler<Found> for Client {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_, (), Found>) {
        let (name, handle) = (self.name.clone(), cx.service_handle());
        thread::spawn(move || {
            let found = Address::resolve(&name).map_err(|error| error.to_string());
            // Fails if the application has ended meanwhile.
            let _ = handle.post_wait(ConnectionId::NONE, found);
        });
    }

    fn on_message(&mut self, _: ConnectionId, _: Option<&mut ()>, found: Found, cx: &mut Context<'_, (), Found>) {
        match found {
            Ok(mut addresses) => {
                addresses.reverse();
                self.addresses = addresses;
                self.try_next(cx);
            }
            Err(error) => {
                eprintln!("{error}");
                cx.halt();
            }
        }
    }

    fn on_open(&mut self, _: &mut Context<'_, (), Found>) {}

    fn on_connected(&mut self, _: &mut (), cx: &mut Context<'_, (), Found>) {
        cx.write(format!("{}\n", self.text));
        cx.finish();
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_, (), Found>) {
        let _ = std::io::stdout().write_all(input.take_all());
    }

    fn on_close(&mut self, _: (), reason: CloseReason, cx: &mut Context<'_, (), Found>) {
        match reason {
            CloseReason::ConnectFailed(_) | CloseReason::TimedOut(_) => self.try_next(cx),
            _ => cx.halt(),
        }
    }
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or("localhost:8800".to_owned());
    let text = arguments.next().unwrap_or("hello".to_owned());
    let client = move || Client { name: name.clone(), text: text.clone(), addresses: Vec::new() };
    let mut app = Application::new()?;
    let deadlines = Deadlines { connect: Some(Duration::from_secs(5)), ..Deadlines::default() };
    app.add_service(Service::outbound(client).deadlines(deadlines))?;
    app.run()
}
