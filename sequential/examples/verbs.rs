//! Each verb of a task as a command of one line, under any model: `verbs 127.0.0.1:8800 loop|loops|threads|processes`. Try it with
//! `nc 127.0.0.1 8800`: `sleep 50`, `within 10`, `first`, `fork 20`, `queue 5`, `thread`, `ask 127.0.0.1:8800`, `say hello`, `who`, `panic`.

use std::time::Duration;

use reactor::{Application, Backend, Error, Runner, Service, Topic};
use sequential::{Client, First, Peer, Queue, Tasks, first, fork, in_thread, publish, sleep, subscribe, within};

/// Answers each command, and passes on what others say.
async fn converse(peer: &mut Peer) {
    let room = Topic::new("room");
    let mut said = subscribe(&room);
    loop {
        let line = match first(peer.until_eol_within(200), said.message()).await {
            First::One(Ok(Some(line))) => String::from_utf8_lossy(&line).trim_end().to_owned(),
            First::One(_) => break,
            First::Other(Some(message)) => {
                peer.send(message);
                continue;
            }
            First::Other(None) => return peer.send("goodbye\n"),
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let number = rest.parse().unwrap_or(0);
        let answer = match verb {
            "sleep" => {
                sleep(Duration::from_millis(number)).await;
                "slept".to_owned()
            }
            // The line may come meanwhile; a line that comes too late is a command again.
            "within" => match within(Duration::from_millis(number), peer.until_eol()).await {
                Ok(Some(line)) => format!("in time: {}", String::from_utf8_lossy(&line).trim_end()),
                Ok(None) => break,
                Err(elapsed) => elapsed.to_string(),
            },
            "first" => match first(sleep(Duration::from_secs(3600)), async { 7 }).await {
                First::One(()) => "an hour has passed".to_owned(),
                First::Other(number) => format!("first: {number}"),
            },
            "fork" => {
                let half = fork(async move {
                    sleep(Duration::from_millis(1)).await;
                    number / 2
                });
                format!("half: {:?}", half.await)
            }
            "queue" => {
                let queue = Queue::new(2);
                let numbers = queue.clone();
                fork(async move {
                    for number in 1..=number {
                        let _ = numbers.put(number).await;
                    }
                    numbers.close();
                });
                let mut sum = 0;
                while let Some(number) = queue.take().await {
                    sum += number;
                }
                format!("sum: {sum}")
            }
            "thread" => match in_thread(|| std::thread::current().name() == Some("in_thread")).await {
                Ok(is_there) => format!("in a thread of its own: {is_there}"),
                Err(error) => error.to_string(),
            },
            "ask" => match Client::connect_name(rest).await {
                Ok(mut other) => {
                    other.send("fork 84\n");
                    let answer = other.until_eol().await;
                    answer.map_or("no answer".to_owned(), |line| format!("asked, {}", line.trim_ascii().escape_ascii()))
                }
                Err(error) => error.to_string(),
            },
            "say" => {
                publish(&room, format!("somebody says: {rest}\n"));
                continue;
            }
            "who" => format!("process {}, {:?}", std::process::id(), std::thread::current().id()),
            "panic" => panic!("as it was asked to"),
            _ => "what?".to_owned(),
        };
        peer.send(answer + "\n");
    }
    // The peer has ended its half; it may still read.
    peer.send(peer.rest());
    peer.send("the end\n");
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8800".to_owned());
    let runner = match arguments.next().as_deref() {
        None | Some("loop") => Runner::default(),
        Some("loops") => Runner::loops(2)?,
        Some("threads") => Runner::threads(),
        Some("processes") => Runner::processes(),
        Some(other) => return Err(Error::Runner { why: format!("{other}: it is loop, loops, threads or processes") }),
    };
    let mut app = Application::with(Backend::Auto, runner)?;
    let service = app.add_service(Service::tcp(&address, || Tasks::new(converse)))?;
    app.handle_signals()?;
    println!("listening {}", service.address().expect("it listens"));
    app.run()
}
