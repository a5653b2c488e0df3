//! Lists its clients and ends them, as Redis's `CLIENT LIST` and `CLIENT KILL ID` do: `clients LISTEN`. The loop knows all
//! connections, so the handler needs no registry and no lock.

use std::fmt::Write;

use reactor::{Application, ConnectionId, Context, Handler, Input, Service};

struct Clients;

/// A line for each of the handler's connections.
fn list(cx: &mut Context<'_>) -> String {
    let mut lines = String::new();
    for id in cx.connections() {
        let client = cx.at(id);
        let (Some(peer), age, idle) = (client.peer(), client.age().as_secs(), client.idle().as_secs()) else {
            continue;
        };
        // Writing to a string does not fail.
        let _ = writeln!(lines, "id={} addr={peer} age={age} idle={idle} in={}", id.to_u64(), client.received());
    }
    lines
}

/// Closes the client after its queued answers. Reports an id without a connection.
fn kill(id: ConnectionId, cx: &mut Context<'_>) -> String {
    if !cx.at(id).exists() {
        return "ERR no such client\n".to_owned();
    }
    cx.write("OK\n");
    cx.at(id).close();
    String::new()
}

impl Handler for Clients {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            let line = String::from_utf8_lossy(line);
            let answer = match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["CLIENT", "ID"] => format!("{}\n", cx.id().to_u64()),
                ["CLIENT", "LIST"] => list(cx),
                ["CLIENT", "KILL", "ID", id] => kill(id.parse().map(ConnectionId::from_u64).unwrap_or_default(), cx),
                _ => "ERR try CLIENT ID, CLIENT LIST or CLIENT KILL ID <number>\n".to_owned(),
            };
            cx.write(answer);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).ok_or("usage: clients LISTEN")?;
    let mut app = Application::new()?;
    let clients = app.add_service(Service::tcp(&listen, || Clients))?;
    app.handle_signals()?;
    println!("listening {}", clients.address().expect("it listens"));
    Ok(app.run()?)
}
