//! The example `redis`, by hand and by `redis-cli`: commands in pieces, publications, large values.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::support::{BACKENDS, Example};
use crate::{connect, pattern, peak_of, read_all, same};

fn redis(backend: &str) -> (Example, TcpStream) {
    let redis = Example::start("redis", backend, &["127.0.0.1:0"]);
    let client = connect(redis.address);
    (redis, client)
}

/// Sends, and reads as many bytes as are expected.
fn answers(client: &mut TcpStream, request: &[u8], expected: &[u8]) {
    client.write_all(request).expect("it is open");
    let mut received = vec![0; expected.len()];
    client.read_exact(&mut received).expect("it answers");
    assert_eq!(received.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn redis_answers_commands_in_any_pieces_and_names_what_it_cannot_read() {
    for backend in BACKENDS {
        let (redis, mut client) = redis(backend);
        answers(&mut client, b"*1\r\n$4\r\nping\r\n", b"+PONG\r\n");
        let set = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n";
        set[..30].iter().for_each(|byte| client.write_all(&[*byte]).expect("it is open"));
        answers(&mut client, &set[30..], b"+OK\r\n");
        let (get, del) = (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n");
        let both = [&get[..], del, get].concat();
        answers(&mut client, &both, b"$5\r\nvalue\r\n:1\r\n$-1\r\n");
        answers(
            &mut client,
            b"*1\r\n:7\r\n",
            b"-ERR Protocol error: an item begins with another byte than it should\r\n",
        );
        assert_eq!(read_all(&mut client), b"");
        assert_eq!(redis.terminate().code(), Some(0), "{backend}");
    }
}

#[test]
fn redis_pushes_what_is_published_to_those_who_subscribe() {
    for backend in BACKENDS {
        let (redis, mut subscriber) = redis(backend);
        let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
        answers(&mut subscriber, b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n", subscribed);
        let mut publisher = connect(redis.address);
        answers(&mut publisher, b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n$5\r\nhello\r\n", b":1\r\n");
        answers(&mut subscriber, b"", b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
        assert_eq!(redis.terminate().code(), Some(0), "{backend}");
    }
}

#[test]
fn a_large_value_is_kept_where_it_was_received_without_a_copy() {
    const SIZE: usize = 64 << 20;
    let (redis, mut client) = redis("epoll");
    client.write_all(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${SIZE}\r\n").as_bytes()).expect("it is open");
    let value = pattern(SIZE, 7);
    client.write_all(&value).expect("it is taken");
    answers(&mut client, b"\r\n", b"+OK\r\n");
    let peak = peak_of(redis.child.id());
    assert!(peak < SIZE + (SIZE / 4), "{peak} bytes for a value of {SIZE}");
    answers(&mut client, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", format!("${SIZE}\r\n").as_bytes());
    let mut back = vec![0; SIZE];
    client.read_exact(&mut back).expect("it answers");
    same(&back, &value);
}

#[test]
#[ignore = "needs redis-cli"]
fn redis_cli_sets_gets_subscribes_and_publishes() {
    let (redis, _client) = redis("epoll");
    let port = redis.address.port().to_string();
    let cli = |words: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port]).args(words).output().expect("redis-cli is there");
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).expect("it prints text")
    };
    assert_eq!(cli(&["ping"]), "PONG\n");
    assert_eq!(cli(&["set", "greeting", "hello there"]), "OK\n");
    assert_eq!(cli(&["get", "greeting"]), "hello there\n");
    assert_eq!(cli(&["get", "nothing"]), "\n");
    assert_eq!(cli(&["del", "greeting", "nothing"]), "1\n");
    assert!(cli(&["nonsense"]).starts_with("ERR unknown command"));
    let mut subscriber = Command::new("redis-cli");
    subscriber.args(["-p", &port, "subscribe", "news"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut subscriber = subscriber.spawn().expect("redis-cli is there");
    let mut lines = BufReader::new(subscriber.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().expect("it goes on").expect("it is text");
    // Which answer comes first says that it is subscribed.
    let subscribed: Vec<_> = (0..3).map(|_| next()).collect();
    assert!(subscribed.iter().any(|line| line.contains("news")), "{subscribed:?}");
    assert_eq!(cli(&["publish", "news", "it rains"]), "1\n");
    let message: Vec<_> = (0..3).map(|_| next()).collect();
    assert!(message.iter().any(|line| line.contains("it rains")), "{message:?}");
    subscriber.kill().expect("it is our child");
    let _ = subscriber.wait();
    assert_eq!(redis.terminate().code(), Some(0));
}
