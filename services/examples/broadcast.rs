//! A WebSocket service: each text goes to everybody, encoded once. Try it: `cargo run -p glowplug-services --example broadcast`,
//! and several times `python3 -m websockets ws://127.0.0.1:8803`.

use reactor::{Application, Context, Error, Handler, Input, Service, Topic};
use services::codec::websocket::{self, Buffers, CloseCode, Decoder, Event, Kind, handshake, origin::Origins};

struct Broadcast {
    everybody: Topic,
    buffers: Buffers,
}

impl Handler for Broadcast {
    type Connection = Option<Decoder>;

    fn on_open(&mut self, _: &mut Context<'_, Option<Decoder>>) -> Option<Decoder> {
        None
    }

    fn on_data(&mut self, decoder: &mut Option<Decoder>, input: &mut Input<'_>, cx: &mut Context<'_, Option<Decoder>>) {
        if decoder.is_none() {
            // Pages of other origins may not connect.
            let accept = |head| Origins::default().accept(&head, "127.0.0.1".parse().ok());
            match handshake::next(input).and_then(|head| head.map(accept).transpose()) {
                Ok(None) => return,
                Ok(Some(accepted)) => cx.write(accepted.answer()),
                Err(refusal) => {
                    cx.write(refusal.answer());
                    return cx.close();
                }
            };
            cx.subscribe(&self.everybody);
        }
        let decoder = decoder.get_or_insert_with(|| Decoder::new(64 * 1024));
        let (code, reason) = loop {
            match decoder.next(input, &mut self.buffers) {
                Ok(None) => return,
                Ok(Some(Event::Text(text))) => {
                    cx.publish_shared(&self.everybody, &websocket::shared(Kind::Text, text.as_bytes()));
                }
                Ok(Some(Event::Ping(payload))) => _ = cx.encode(|output| websocket::put(Kind::Pong, payload, output)),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Binary(_))) => break (CloseCode::UNSUPPORTED_DATA, "texts only"),
                Ok(Some(Event::Close(code, _))) => break (code, ""),
                Err(error) => break (error.code, error.reason),
            }
        };
        cx.encode(|output| websocket::put_close(code, reason, output));
        cx.close();
    }
}

fn main() -> Result<(), Error> {
    let mut app = Application::new()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8803".to_owned());
    let factory = || Broadcast { everybody: Topic::new("everybody"), buffers: Buffers::default() };
    let service = app.add_service(Service::tcp(&address, factory))?;
    println!("listening {}", service.address().expect("it listens"));
    app.handle_signals()?;
    app.run()
}
