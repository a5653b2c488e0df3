//! Answers each line with `You said: <line>`. Try it: `nc 127.0.0.1 8800`.

use reactor::{Application, Context, Handler, Input, Service};

struct Echo;

impl Handler for Echo {
    type Connection = ();

    fn on_open(&mut self, _: &mut Context<'_>) {}

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        while let Some(line) = input.until_eol() {
            cx.write(b"You said: ");
            cx.write(line);
        }
    }
}

fn main() -> Result<(), reactor::Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8800".to_owned());
    let mut app = Application::new()?;
    let echo = app.add_service(Service::tcp(&address, || Echo))?;
    app.handle_signals()?;
    println!("listening {}", echo.address().expect("it listens"));
    app.run()
}
