//! Passes bytes between each client and a connection of its own to another server: `proxy LISTEN UPSTREAM`, both
//! `host:port` or `unix:PATH`. Backpressure goes both ways: reading from a side pauses while the opposite side does not
//! take the bytes. Reading does not depend on a side's own queued bytes (`read_on`), because a peer may send all before reading.
//! Memory is bounded by the pauses, to `Limits::output_high` and one receive buffer in each direction.

use reactor::{Address, Application, CloseReason, ConnectionId, Context, Handler, Input, Service, Written};

struct Proxy {
    upstream: Address,
}

/// The state of a connection: the connection of the opposite side.
struct Side {
    other: ConnectionId,
}

impl Handler for Proxy {
    type Connection = Side;

    fn on_open(&mut self, cx: &mut Context<'_, Side>) -> Side {
        let other = cx.connect(self.upstream.clone(), Side { other: cx.id() });
        cx.read_on();
        cx.at(other).read_on();
        Side { other }
    }

    fn on_data(&mut self, side: &mut Side, input: &mut Input<'_>, cx: &mut Context<'_, Side>) {
        match cx.at(side.other).write(input.take_all()) {
            Written::Queued => {}
            Written::AboveHighWater => cx.pause_reading(),
            Written::Refused => cx.close(),
        }
    }

    fn on_drained(&mut self, side: &mut Side, cx: &mut Context<'_, Side>) {
        cx.at(side.other).resume_reading();
    }

    /// The end of a side's input is passed on as a half-close. The opposite side may go on sending.
    fn on_end_of_input(&mut self, side: &mut Side, _: &mut Input<'_>, cx: &mut Context<'_, Side>) {
        cx.at(side.other).finish();
    }

    /// A relay does not know whether the peers owe each other an answer. So connections go on while the application stops,
    /// until their peers end them or the drain time is over.
    fn on_stopping(&mut self, _: &mut Side, _: &mut Context<'_, Side>) {}

    fn on_close(&mut self, side: Side, reason: CloseReason, cx: &mut Context<'_, Side>) {
        match reason {
            CloseReason::Reset | CloseReason::Aborted => cx.at(side.other).abort(),
            _ => cx.at(side.other).close(),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: proxy LISTEN UPSTREAM".into());
    };
    let upstream = Address::resolve(&upstream)?.remove(0);
    let mut app = Application::new()?;
    let proxy = app.add_service(Service::tcp(&listen, move || Proxy { upstream: upstream.clone() }))?;
    app.handle_signals()?;
    println!("listening {}", proxy.address().expect("it listens"));
    Ok(app.run()?)
}
