//! A server of the Redis protocol with values in memory and publish/subscribe: `redis ADDRESS`. Try it:
//! `redis-cli -p 6379 set greeting hello`, and in two terminals `subscribe news` and `publish news "it rains"`.

use std::collections::{BTreeSet, HashMap};

use reactor::{
    Application, Bytes, Context, Counted, Decimal, Error, Handler, Input, LengthPrefix, Limits, Service, Topic, Writer,
    Written,
};

/// A command: a count, and as many strings.
const COMMANDS: Counted =
    Counted::of(Decimal::within(1 << 20).after(b"*"), LengthPrefix::decimal(512 << 20).after(b"$").trailer(2));

fn put_bulk(writer: &mut Writer<'_>, bytes: &[u8]) {
    writer.put_u8(b'$');
    writer.put_decimal(bytes.len());
    writer.put(b"\r\n");
    writer.put(bytes);
    writer.put(b"\r\n");
}

fn put_integer(writer: &mut Writer<'_>, number: i64) {
    writer.put_u8(b':');
    writer.put_decimal(number);
    writer.put(b"\r\n");
}

/// Writes the head of a push to a subscriber: the kind and the channel. A message or the number of channels follows.
fn put_push(writer: &mut Writer<'_>, kind: &[u8], channel: &[u8]) {
    writer.put(b"*3\r\n");
    put_bulk(writer, kind);
    put_bulk(writer, channel);
}

#[derive(Default)]
struct Redis {
    values: HashMap<Bytes, Bytes>,
}

/// The channels of a client.
type Channels = BTreeSet<String>;

impl Redis {
    fn run(
        &mut self,
        parts: &[&[u8]],
        channels: &mut Channels,
        input: &Input<'_>,
        cx: &mut Context<'_, Channels>,
    ) -> Written {
        let Some((name, arguments)) = parts.split_first() else { return Written::Queued };
        match (&*name.to_ascii_uppercase(), arguments) {
            (b"PING", []) => cx.write(b"+PONG\r\n"),
            (b"PING" | b"ECHO", [text]) => cx.encode(|writer| put_bulk(writer, text)),
            (b"SET", [key, value]) => {
                // A large value is not copied: the map shares the loop's buffer with the value.
                self.values.insert(input.share(key), input.share(value));
                cx.write(b"+OK\r\n")
            }
            (b"GET", [key]) => match self.values.get(*key) {
                Some(value) => cx.encode(|writer| {
                    writer.put_u8(b'$');
                    writer.put_decimal(value.len());
                    writer.put(b"\r\n");
                    writer.put_shared(value.clone());
                    writer.put(b"\r\n");
                }),
                None => cx.write(b"$-1\r\n"),
            },
            (b"DEL", keys) => {
                let removed = keys.iter().filter(|key| self.values.remove(**key).is_some()).count();
                cx.encode(|writer| put_integer(writer, removed as i64))
            }
            (b"SUBSCRIBE", [_, ..]) => {
                for channel in arguments {
                    let channel = String::from_utf8_lossy(channel).into_owned();
                    cx.subscribe(&Topic::from(&*channel));
                    channels.insert(channel.clone());
                    cx.encode(|writer| {
                        put_push(writer, b"subscribe", channel.as_bytes());
                        put_integer(writer, channels.len() as i64);
                    });
                }
                Written::Queued
            }
            (b"UNSUBSCRIBE", given) => {
                let given = given.iter().map(|channel| String::from_utf8_lossy(channel).into_owned());
                let leaving: Vec<_> =
                    if arguments.is_empty() { channels.iter().cloned().collect() } else { given.collect() };
                for channel in leaving {
                    cx.unsubscribe(&Topic::from(&*channel));
                    channels.remove(&channel);
                    cx.encode(|writer| {
                        put_push(writer, b"unsubscribe", channel.as_bytes());
                        put_integer(writer, channels.len() as i64);
                    });
                }
                Written::Queued
            }
            (b"PUBLISH", [channel, message]) => {
                let mut push = reactor::Output::default();
                put_push(&mut push.writer(), b"message", channel);
                put_bulk(&mut push.writer(), message);
                let reached = cx.publish(&Topic::from(&*String::from_utf8_lossy(channel)), push.to_vec());
                cx.encode(|writer| put_integer(writer, reached as i64))
            }
            (b"QUIT", []) => {
                cx.write(b"+OK\r\n");
                cx.close();
                Written::Refused
            }
            (name, _) => {
                let name = name.escape_ascii().take(64).map(char::from).collect::<String>();
                cx.write(format!("-ERR unknown command, or wrong number of arguments: '{name}'\r\n"))
            }
        }
    }
}

impl Handler for Redis {
    type Connection = Channels;

    fn on_open(&mut self, _: &mut Context<'_, Channels>) -> Channels {
        Channels::new()
    }

    fn on_data(&mut self, channels: &mut Channels, input: &mut Input<'_>, cx: &mut Context<'_, Channels>) {
        loop {
            match COMMANDS.decode(input) {
                Ok(Some(parts)) => {
                    // Above the high-water mark, remaining commands stay in the input until the answers have left.
                    if self.run(&parts, channels, input, cx) != Written::Queued {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    cx.write(format!("-ERR Protocol error: {error}\r\n"));
                    return cx.close();
                }
            }
        }
    }
}

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:6379".to_owned());
    let mut app = Application::new()?;
    // A command has to be kept whole before it is run.
    let limits = Limits { input: 600 << 20, ..Limits::default() };
    // Clients of a database are silent for as long as they like.
    let deadlines = reactor::Deadlines { first_request: None, ..Default::default() };
    let service = Service::tcp(&address, Redis::default).named("redis").limits(limits).deadlines(deadlines);
    let redis = app.add_service(service)?;
    app.handle_signals()?;
    println!("listening {}", redis.address().expect("it listens"));
    app.run()
}
