//! A handler that may fail to be made: `greeter FILE ADDRESS loops|threads|processes`. The factory reads the greeting from FILE. Without
//! FILE, the application ends with an error. A line is answered with its length, by a thread that posts the answer to the service.
//! Try it: `echo hello > greeting; cargo run --example greeter greeting`, and `nc 127.0.0.1 8800`.

use std::{env, fs, io, thread};

use reactor::{Application, Backend, ConnectionId, Error, Handler, Input, Runner, Service, ServiceHandle};

type Context<'a> = reactor::Context<'a, (), usize>;

struct Greeter {
    greeting: String,
    service: ServiceHandle<usize>,
}

impl Greeter {
    fn new(file: &str, service: &ServiceHandle<usize>) -> io::Result<Greeter> {
        let words = fs::read_to_string(file)?;
        let greeting = format!("{} from {}\n", words.trim_end(), service.addresses()[0]);
        Ok(Greeter { greeting, service: service.clone() })
    }
}

impl Handler<usize> for Greeter {
    type Connection = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.write(&self.greeting);
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            let (service, id, line) = (self.service.clone(), cx.id(), line.to_vec());
            thread::spawn(move || service.post_wait(id, line.len()));
        }
    }

    fn on_message(&mut self, to: ConnectionId, _: Option<&mut ()>, length: usize, cx: &mut Context<'_>) {
        cx.at(to).write(format!("{length} bytes\n"));
    }
}

fn main() -> Result<(), Error> {
    let mut arguments = env::args().skip(1);
    let file = arguments.next().unwrap_or("greeting".to_owned());
    let address = arguments.next().unwrap_or("127.0.0.1:8800".to_owned());
    let runner = match arguments.next().as_deref() {
        Some("threads") => Runner::threads(),
        Some("processes") => Runner::processes(),
        _ => Runner::loops(2)?,
    };
    let mut app = Application::with(Backend::Auto, runner)?;
    let greeter = Service::try_new(move |service| Greeter::new(&file, service)).and_tcp(&address);
    println!("listening {}", app.add_service(greeter)?.addresses()[0]);
    app.handle_signals()?;
    app.run()
}
