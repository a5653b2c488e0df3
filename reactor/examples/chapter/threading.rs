//! The chapter's second program: a thread for each connection, which answers with its name. `chapter_threading 127.0.0.1:8812`, and
//! from another terminal `chapter_client 127.0.0.1:8812 "Hello echo server!"`, twice: the answers name two threads.

use reactor::{Application, Backend, Context, Handler, Input, Runner, Service};

struct ThreadingServer;

impl Handler for ThreadingServer {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            let thread = std::thread::current();
            cx.write(format!("{} {:?}: ", thread.name().unwrap_or("thread"), thread.id()));
            cx.write(line);
        }
    }
}

fn main() -> Result<(), reactor::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8812".to_owned());
    let mut app = Application::with(Backend::Auto, Runner::threads())?;
    let service = app.add_service(Service::tcp(&address, || ThreadingServer))?;
    app.handle_signals()?;
    println!("listening {}", service.address().expect("it listens"));
    app.run()
}
