//! Publishes the lines of standard input to a subject of NATS, and prints the messages of other clients: `nats URL[,URL…] SUBJECT`.

use std::io::BufRead;
use std::process::ExitCode;

use reactor::{Application, ConnectionId, Service};
use services::nats::{Cause, Client, Info, Link, Message, Participant, Posted, Publish, Url, deadlines, limits};

struct Talk {
    subject: String,
}

impl Participant for Talk {
    /// A typed line; none at the end of the input.
    type Message = Option<String>;

    /// The client keeps subscriptions, so they are made once.
    fn started(&mut self, link: &mut Link<'_, '_, Self::Message>) {
        if let Err(error) = link.subscribe(&self.subject) {
            println!("not subscribed: {error}");
        }
    }

    fn connected(&mut self, info: &Info, link: &mut Link<'_, '_, Self::Message>) {
        println!("connected to {}, version {}", link.server(), info.version);
    }

    fn lost(&mut self, cause: &Cause, _: &mut Link<'_, '_, Self::Message>) {
        println!("lost: {cause}");
    }

    fn failed(&mut self, cause: &Cause, link: &mut Link<'_, '_, Self::Message>) {
        println!("{} is not reached: {cause}", link.server());
    }

    fn message(&mut self, _: u64, message: &Message<'_>, _: &mut Link<'_, '_, Self::Message>) {
        println!("{}: {}", message.subject.escape_ascii(), message.payload.escape_ascii());
    }

    fn posted(&mut self, line: Self::Message, link: &mut Link<'_, '_, Self::Message>) {
        let Some(line) = line else { return link.halt() };
        let said =
            Publish::new(&self.subject, line.as_bytes()).map_err(Into::into).and_then(|line| link.publish(&line));
        if let Err(error) = said {
            println!("not sent: {error}");
        }
    }
}

fn run(servers: &str, subject: &str) -> Result<(), Box<dyn std::error::Error>> {
    let servers: Vec<Url> = servers.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let subject = subject.to_owned();
    let client = move || Client::new(servers.clone(), Talk { subject: subject.clone() }).name("example").echo(false);
    let mut app = Application::new()?;
    app.handle_signals()?;
    let client = app.add_service(Service::outbound(client).limits(limits()).deadlines(deadlines()))?;
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = client.post_wait(ConnectionId::NONE, Posted::new(Some(line)));
        }
        let _ = client.post_wait(ConnectionId::NONE, Posted::new(None));
    });
    Ok(app.run()?)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let servers = arguments.next().unwrap_or("nats://127.0.0.1:4222".to_owned());
    let subject = arguments.next().unwrap_or("talk".to_owned());
    match run(&servers, &subject) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
