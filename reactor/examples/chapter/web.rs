//! The chapter's fourth program: a web server on epoll with one answer. `chapter_web 127.0.0.1:8814`, and `curl -i http://127.0.0.1:8814/`.
//! A request is all up to the first empty line; `glowplug http` reads requests as HTTP/1.1 asks for.

use reactor::{Application, Backend, Context, Framed, Handler, Input, Service};

const RESPONSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 25\r\n\r\nHello from Epoll Server!\n";

struct EpollServer;

impl Handler for EpollServer {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        loop {
            let end_of_head = |bytes: &[u8], from: usize| {
                let from = from.saturating_sub(3);
                bytes[from..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4)
            };
            match input.scan(8192, end_of_head) {
                Framed::Item(_) => cx.write(RESPONSE),
                Framed::Incomplete => return,
                Framed::TooLong => return cx.close(),
            };
        }
    }
}

fn main() -> Result<(), reactor::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8814".to_owned());
    let mut app = Application::with_backend(Backend::Epoll)?;
    let service = app.add_service(Service::tcp(&address, || EpollServer))?;
    app.handle_signals()?;
    println!("listening {}", service.address().expect("it listens"));
    app.run()
}
