//! The client of the chapter's chat: reads standard input and the server on one loop. `chapter_chat_client ADDRESS NAME`.

use std::io::{Write, stdin, stdout};
use std::os::fd::AsFd;

use reactor::{Address, Application, CloseReason, ConnectionId, Context, Handler, Input, Service};

struct Client(Address, String, ConnectionId);

impl Handler for Client {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        self.2 = cx.connect(self.0.clone(), ());
        cx.at(self.2).write(format!("{}\n", self.1));
        cx.watch(stdin().as_fd().try_clone_to_owned().expect("a descriptor"), ());
    }

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        if cx.id() == self.2 {
            let _ = stdout().write_all(input.take_all()).and_then(|()| stdout().flush());
        } else {
            cx.at(self.2).write(input.take_all());
        }
    }

    fn on_close(&mut self, _: (), _: CloseReason, cx: &mut Context<'_>) {
        cx.halt();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, name) = (std::env::args().nth(1), std::env::args().nth(2).unwrap_or("guest".to_owned()));
    let server = Address::resolve(&address.unwrap_or("127.0.0.1:8813".to_owned()))?.remove(0);
    let mut app = Application::new()?;
    app.add_service(Service::outbound(move || Client(server.clone(), name.clone(), ConnectionId::NONE)))?;
    Ok(app.run()?)
}
