//! A single handler under every runner: `members ADDRESS loops|threads|processes [AT_MOST [CONNECTIONS]]`. Each line is answered with itself;
//! `!text` goes to everybody else; `who` names the serving process and thread; `panic`, `abort` and `hang` show the cost to other
//! members, and `halt` ends the application. Try it: `nc 127.0.0.1 8800`, several times.

use std::time::Duration;

use reactor::{Application, Backend, Bytes, Context, Error, Handler, Input, Limits, Runner, Service, Topic};

struct Member {
    everybody: Topic,
}

impl Handler for Member {
    type Connection = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe(&self.everybody);
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            match line {
                b"who\n" => {
                    let (process, thread) = (std::process::id(), std::thread::current().id());
                    cx.write(format!("process {process}, {thread:?}\n"));
                }
                b"panic\n" => panic!("as it was asked to"),
                b"abort\n" => std::process::abort(),
                b"hang\n" => loop {
                    std::thread::park();
                },
                b"halt\n" => cx.halt(),
                [b'!', text @ ..] => {
                    cx.publish_to_others(&self.everybody, text);
                }
                line => {
                    cx.write(line);
                }
            }
        }
    }
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8800".to_owned());
    let runner = match arguments.next().as_deref() {
        None | Some("loops") => Runner::loops(2)?,
        Some("threads") => Runner::threads(),
        Some("processes") => Runner::processes(),
        Some(other) => return Err(Error::Runner { why: format!("{other}: it is loops, threads or processes") }),
    };
    let mut number = || arguments.next().and_then(|number| number.parse().ok());
    let (most, connections) = (number(), number());
    let runner = most.map_or(runner, |most| runner.at_most(most));
    let mut app = Application::with(Backend::Auto, runner)?;
    // High limits: a member that reads late loses no message.
    let limits = Limits { connections, member_queue: 256 << 20, output_max: 512 << 20, ..Limits::default() };
    // A line of a connection over the limit is answered, and the end follows.
    let refusal = |first: &[u8]| first.ends_with(b"\n").then_some(Bytes::from_static(b"full\n"));
    let member = || Member { everybody: Topic::new("everybody") };
    let service = Service::tcp(&address, member).named("members").limits(limits);
    let members = app.add_service(service.refusal_by(Duration::from_secs(60), refusal))?;
    app.handle_signals()?;
    app.drain_timeout(Some(Duration::from_secs(2)));
    app.on_report(|report| println!("{report}end of report"));
    println!("listening {}", members.address().expect("it listens"));
    app.run()
}
