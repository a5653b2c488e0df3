//! Answers each line with `You said: <line>`, from top to bottom. Try it: `nc 127.0.0.1 8800`.

use reactor::{Application, Service};
use sequential::{Peer, Tasks};

async fn echo(peer: &mut Peer) {
    while let Some(line) = peer.until_eol().await {
        peer.send(b"You said: ");
        peer.send(&line);
    }
}

fn main() -> Result<(), reactor::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8800".to_owned());
    let mut app = Application::new()?;
    let service = app.add_service(Service::tcp(&address, || Tasks::new(echo)))?;
    app.handle_signals()?;
    println!("listening {}", service.address().expect("it listens"));
    app.run()
}
