//! A mail server for tests: takes mail by SMTP (RFC 5321) and prints each message. `smtp 127.0.0.1:8825`, and from another terminal
//! `curl smtp://127.0.0.1:8825 --mail-from a@example.org --mail-rcpt b@example.org -T letter.txt`.

use std::time::Duration;

use reactor::{Application, Service};
use sequential::{Item, Peer, Tasks, within};

/// RFC 5321, 4.5.3: a client may think for five minutes; a line of a command has 512 bytes, a line of text 1,000.
const PATIENCE: Duration = Duration::from_secs(300);
const LINE_MAX: usize = 1000;

/// The next line. `None` when the client is gone, is silent for too long, or sends a longer line.
async fn line(peer: &mut Peer) -> Option<Item> {
    match within(PATIENCE, peer.until_eol_within(LINE_MAX)).await {
        Ok(Ok(line)) => line,
        _ => {
            peer.send("421 too late, or too long\r\n");
            None
        }
    }
}

/// The text of a message, up to the line with a single dot.
async fn text(peer: &mut Peer) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        match &*line(peer).await? {
            b".\r\n" | b".\n" => return Some(text),
            // A dot at the beginning of a line is doubled on the way.
            [b'.', rest @ ..] => text.extend_from_slice(rest),
            line => text.extend_from_slice(line),
        }
        if text.len() > 10 << 20 {
            peer.send("552 the message is too long\r\n");
            return None;
        }
    }
}

/// The conversation.
async fn converse(peer: &mut Peer) {
    peer.send("220 ready\r\n");
    let (mut sender, mut recipients) = (None, Vec::new());
    while let Some(line) = line(peer).await {
        let command = String::from_utf8_lossy(&line).trim_end().to_owned();
        let answer = match command.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
            "HELO" | "EHLO" | "NOOP" => "250 ok\r\n",
            "MAIL" => {
                (sender, recipients) = (Some(command), Vec::new());
                "250 ok\r\n"
            }
            "RCPT" if sender.is_some() => {
                recipients.push(command);
                "250 ok\r\n"
            }
            "DATA" if !recipients.is_empty() => {
                peer.send("354 end with a dot\r\n");
                let Some(text) = text(peer).await else { return };
                println!("{}\n{}", sender.take().unwrap_or_default(), recipients.join("\n"));
                println!("{}", String::from_utf8_lossy(&text));
                recipients.clear();
                "250 taken\r\n"
            }
            "QUIT" => return peer.send("221 goodbye\r\n"),
            "RCPT" | "DATA" => "503 not yet\r\n",
            _ => "500 what?\r\n",
        };
        peer.send(answer);
    }
}

fn main() -> Result<(), reactor::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8825".to_owned());
    let mut app = Application::new()?;
    let service = app.add_service(Service::tcp(&address, || Tasks::new(converse)))?;
    app.handle_signals()?;
    println!("listening {}", service.address().expect("it listens"));
    app.run()
}
