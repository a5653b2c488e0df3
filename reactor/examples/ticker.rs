//! Tells everybody who is connected the number of the second, once a second: periodic work and a topic.

use std::time::Duration;

use reactor::{Application, Context, Handler, Input, Service, Topic};

struct Ticker {
    seconds: Topic,
}

impl Handler for Ticker {
    type Connection = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.subscribe(&self.seconds);
    }

    /// A clock ignores the input of its peers.
    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, _: &mut Context<'_>) {
        input.take_all();
    }
}

fn main() -> Result<(), reactor::Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8803".to_owned());
    let period = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let mut app = Application::new()?;
    let ticker = app.add_service(Service::tcp(&address, || Ticker { seconds: Topic::new("seconds") }))?;
    let (seconds, mut number) = (Topic::new("seconds"), 0u64);
    app.add_loop(Duration::from_millis(period), move |cx| {
        number += 1;
        cx.publish(&seconds, format!("{number}\n").as_bytes());
    });
    app.handle_signals()?;
    println!("listening {}", ticker.address().expect("it listens"));
    app.run()
}
