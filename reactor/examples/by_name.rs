//! Connects to a server by its name, sends a line, and prints the answer: `by_name HOST:PORT TEXT`.

use std::io::Write;
use std::time::Duration;

use reactor::{Application, CloseReason, Context, Deadlines, Error, Handler, Input, Service};

struct Client {
    name: String,
    text: String,
}

impl Handler for Client {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        let server = cx.connect_to(self.name.clone(), ());
        cx.at(server).write(format!("{}\n", self.text));
        cx.at(server).finish();
    }

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
        let _ = std::io::stdout().write_all(input.take_all());
    }

    fn on_close(&mut self, _: (), _: CloseReason, cx: &mut Context<'_>) {
        let id = cx.id();
        if let Some(error) = cx.at(id).connect_error() {
            eprintln!("no server answers at {error}");
        }
        cx.halt();
    }
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or("localhost:8800".to_owned());
    let text = arguments.next().unwrap_or("hello".to_owned());
    let mut app = Application::new()?;
    let deadlines = Deadlines { connect: Some(Duration::from_secs(10)), ..Deadlines::default() };
    let client = move || Client { name: name.clone(), text: text.clone() };
    app.add_service(Service::outbound(client).deadlines(deadlines))?;
    app.run()
}
