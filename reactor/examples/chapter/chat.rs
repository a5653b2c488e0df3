//! The chapter's third program: a chat room. The first line of a client is its name. `chapter_chat 127.0.0.1:8813`, and from other
//! terminals `chapter_chat_client 127.0.0.1:8813 ann` and `chapter_chat_client 127.0.0.1:8813 bob`, or `nc`.

use reactor::{Application, CloseReason, Context, Handler, Input, Service, Topic};

struct Chat(Topic);

impl Handler for Chat {
    type Connection = String; // the name, once it has come

    fn on_open(&mut self, _: &mut Context<'_, String>) -> String {
        String::new()
    }

    fn on_data(&mut self, name: &mut String, input: &mut Input<'_>, cx: &mut Context<'_, String>) {
        while let Some(line) = input.until_eol() {
            let text = String::from_utf8_lossy(line).trim_end().to_owned();
            if !name.is_empty() {
                cx.publish_to_others(&self.0, format!("#{name}>>{text}\n"));
                continue;
            }
            cx.subscribe(&self.0);
            cx.publish_to_others(&self.0, format!("(Connected: New client ({}) from {text})\n", cx.members(&self.0)));
            *name = text;
        }
    }

    fn on_close(&mut self, name: String, _: CloseReason, cx: &mut Context<'_, String>) {
        cx.publish_to_others(&self.0, format!("(Now hung up: Client from {name})\n"));
    }
}

fn main() -> Result<(), reactor::Error> {
    let mut app = Application::new()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8813".to_owned());
    let service = app.add_service(Service::tcp(&address, || Chat(Topic::new("room"))))?;
    app.handle_signals()?;
    println!("listening {}", service.address().expect("it listens"));
    app.run()
}
