//! The chapter's fifth program: an echo server whose handler reads from top to bottom. `chapter_diesel 127.0.0.1:8815`, and from
//! another terminal `nc 127.0.0.1 8815`. In the chapter the handler begins with `remote_addr`, too.

use reactor::{Application, Service};
use sequential::{Peer, Tasks};

async fn handle(peer: &mut Peer) {
    let address = peer.address().map_or("nobody".to_owned(), |address| address.to_string());
    println!("{address} has connected");
    while let Some(message) = peer.until_eol().await {
        peer.send("You said: ");
        peer.send(&message);
    }
    println!("{address} has left");
}

fn main() -> Result<(), reactor::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8815".to_owned());
    let mut app = Application::new()?;
    let service = app.add_service(Service::tcp(&address, || Tasks::new(handle)))?;
    app.handle_signals()?;
    println!("listening {}", service.address().expect("it listens"));
    app.run()
}
