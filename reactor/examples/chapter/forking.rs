//! The chapter's first program: a process for each connection, which answers with its number. `chapter_forking 127.0.0.1:8811`, and
//! from another terminal `chapter_client 127.0.0.1:8811 "Hello echo server!"`, twice: the answers name two processes.

use reactor::{Application, Backend, Context, Handler, Input, Runner, Service};

struct ForkingServer;

impl Handler for ForkingServer {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            cx.write(format!("{}: ", std::process::id()));
            cx.write(line);
        }
    }
}

fn main() -> Result<(), reactor::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8811".to_owned());
    let mut app = Application::with(Backend::Auto, Runner::processes())?;
    let service = app.add_service(Service::tcp(&address, || ForkingServer))?;
    app.handle_signals()?;
    println!("listening {}", service.address().expect("it listens"));
    app.run()
}
