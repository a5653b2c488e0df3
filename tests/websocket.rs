//! `glowplug echo --websocket` from outside: with a client of these tests, with clients that people use, and with the
//! Autobahn test suite.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use reactor::Backend;
use support::client::Client;
use support::command::{Glowplug, Scratch};
use support::on_every_backend;
use support::programs::{command, install_for_node, install_for_python, run};
use support::websocket::{self, BINARY, CLOSE, PING, PONG, TEXT, closed, expect, frame, handshake};

const ECHO: &str = "echo --websocket --port 0 --log-level off";

const LARGEST: usize = 16 * 1024 * 1024;

/// `Origin` is not looked at.
fn open(echo: &Glowplug) -> Client {
    websocket::open(echo, &handshake("/any/path", "Host: here\r\nOrigin: https://elsewhere.example\r\n"))
}

on_every_backend! {
    fn messages_come_back_as_they_are_and_pings_are_answered(backend: Backend) {
        let echo = Glowplug::start(backend, ECHO);
        let mut client = open(&echo);
        client.send(frame(TEXT, "Grüße"));
        expect(&mut client, TEXT, "Grüße");
        client.send_by_bytes(frame(BINARY, b"\0\xff"));
        expect(&mut client, BINARY, b"\0\xff");
        client.send([frame(0x01, "frag"), frame(PING, "?"), frame(0x00, ""), frame(0x80, "ments")].concat());
        expect(&mut client, PONG, "?");
        expect(&mut client, TEXT, "fragments");
        client.send([frame(PONG, "unasked"), frame(TEXT, "")].concat());
        expect(&mut client, TEXT, "");
        for length in [125, 126, 65_535, 65_536, 300_000] {
            let payload = vec![b'x'; length];
            client.send(frame(BINARY, &payload));
            expect(&mut client, BINARY, &payload);
        }
        client.send(frame(CLOSE, b"\x0b\xb9done"));
        assert_eq!(closed(&mut client), 3001, "the client's own code");
    }

    fn sixteen_mebibytes_come_back_and_one_byte_more_is_refused_at_its_head(backend: Backend) {
        let echo = Glowplug::start(backend, ECHO);
        for first in [TEXT, BINARY] {
            let mut client = open(&echo);
            let payload = vec![b'x'; LARGEST];
            // The answer starts when the message has arrived, so neither side waits for the other.
            client.send(frame(first, &payload));
            expect(&mut client, first, &payload);
            client.send([&[first, 0xff][..], &(LARGEST as u64 + 1).to_be_bytes()].concat());
            assert_eq!(closed(&mut client), 1009);
        }
    }

    fn a_client_that_breaks_the_protocol_is_told_its_code_and_nobody_else_notices(backend: Backend) {
        let mut echo = Glowplug::start(backend, "echo --websocket --port 0 --log-level debug");
        let mut other = open(&echo);
        for (frames, code) in [
            (frame(0x83, ""), 1002),
            (frame(0xc1, ""), 1002),
            (frame(0x80, ""), 1002),
            (vec![TEXT, 5], 1002),
            (frame(PING, [0; 126]), 1002),
            (frame(CLOSE, b"\x03\xed"), 1002),
            (frame(TEXT, b"\xc3("), 1007),
            (frame(CLOSE, b""), 1005),
            (frame(CLOSE, b"\x03\xe8"), 1000),
        ] {
            let mut client = open(&echo);
            client.send(&frames);
            assert_eq!(closed(&mut client), code, "{}", frames.escape_ascii());
        }
        echo.told("1007: the text is not UTF-8");
        other.send(frame(TEXT, "still here"));
        expect(&mut other, TEXT, "still here");
    }

    fn a_request_that_is_no_handshake_is_refused_with_its_status(backend: Backend) {
        let echo = Glowplug::start(backend, ECHO);
        let whole = handshake("/any/path", "Host: here\r\n");
        let without = |line: &str| whole.replace(line, "");
        for (request, status) in [
            (without("Upgrade: websocket\r\n"), 426),
            (without("Sec-WebSocket-Version: 13\r\n"), 426),
            (whole.replace("Version: 13", "Version: 8"), 426),
            (without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
            (without("Host: here\r\n"), 400),
            ("You said: what?\r\n".to_owned(), 400),
            (whole.replace("GET", "PUT"), 405),
            (whole.replace("/any", &"/any".repeat(2100)), 431),
        ] {
            let mut client = echo.connect();
            client.send(&request);
            let response = client.response();
            assert_eq!(response.status, status, "{request}");
            if status == 426 {
                assert_eq!(response.header("upgrade"), Some("websocket"));
                assert_eq!(response.header("connection"), Some("upgrade, close"));
                assert_eq!(response.header("sec-websocket-version"), Some("13"));
            }
            assert_eq!(client.rest(), b"");
        }
        // An answer to HEAD has no body.
        let mut client = echo.connect();
        client.send(whole.replace("GET", "HEAD"));
        assert_eq!((client.response_head().status, client.rest()), (405, Vec::new()));
    }

    fn a_stop_closes_with_1001(backend: Backend) {
        let echo = Glowplug::start(backend, ECHO);
        let mut client = open(&echo);
        client.send(frame(TEXT, "hello"));
        expect(&mut client, TEXT, "hello");
        let stopping = thread::spawn(move || echo.stop());
        assert_eq!(closed(&mut client), 1001);
        drop(client);
        assert_eq!(stopping.join().unwrap().code, Some(0));
    }

    fn every_model_echoes(backend: Backend) {
        for model in ["loops --loops 2", "threads", "processes"] {
            let echo = Glowplug::start(backend, &format!("{ECHO} --model {model}"));
            let mut clients: Vec<Client> = (0..4).map(|_| open(&echo)).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                let payload = vec![b'a' + number as u8; 100_000 * number];
                client.send(frame(TEXT, &payload));
                expect(client, TEXT, &payload);
            }
            for client in &mut clients {
                client.send(frame(CLOSE, b"\x03\xe8"));
                assert_eq!(closed(client), 1000, "{model}");
            }
        }
    }

    fn a_websocket_peer_that_reads_no_answer_costs_two_messages(backend: Backend) {
        let echo = Glowplug::start(backend, ECHO);
        let client = open(&echo);
        let message = frame(BINARY, vec![7; LARGEST / 2]);
        let mut writer = client.writer();
        // A write that blocks this long shows that the server has stopped reading. A slow server passes, too.
        writer.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let blocked = (0..60).map(|_| writer.write_all(&message)).find_map(Result::err);
        assert_eq!(blocked.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
        let status = fs::read_to_string(format!("/proc/{}/status", echo.pid())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is told");
        let kilobytes: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        assert!(kilobytes < 60_000, "{kilobytes} kB");
    }

    fn an_unfinished_message_that_holds_too_much_memory_is_closed_with_1013(backend: Backend) {
        let echo = Glowplug::start(backend, &format!("{ECHO} --memory 1M"));
        let mut other = open(&echo);
        let mut client = open(&echo);
        client.send(frame(0x01, vec![b'x'; 4 << 20]));
        assert_eq!(closed(&mut client), 1013);
        other.send(frame(TEXT, "still here"));
        expect(&mut other, TEXT, "still here");
    }

    #[ignore = "needs npm and node"]
    fn npms_ws_is_a_client(backend: Backend) {
        let scratch = Scratch::new();
        install_for_node(&["ws@8.18.3"], scratch.path());
        let echo = Glowplug::start(backend, ECHO);
        fs::write(scratch.join("client.js"), NODE_CLIENT).unwrap();
        let told = run("node", &["client.js", &format!("ws://{}/a/path", echo.tcp())], scratch.path());
        assert_eq!(told, "closed 4001\n");
        let stopped = start("node", &["client.js", &format!("ws://{}", echo.tcp()), "stay"], scratch.path());
        stopped.stops(echo, "closed 1001\n");
    }

    #[ignore = "needs python3 with pip"]
    fn pypis_websockets_is_a_client(backend: Backend) {
        let scratch = Scratch::new();
        install_for_python(&["websockets==15.0.1"], scratch.path());
        let echo = Glowplug::start(backend, ECHO);
        fs::write(scratch.join("client.py"), PYTHON_CLIENT).unwrap();
        let told = run("python3", &["client.py", &format!("ws://{}/a/path", echo.tcp())], scratch.path());
        assert_eq!(told, "closed 4001\n");
        let stopped = start("python3", &["client.py", &format!("ws://{}", echo.tcp()), "stay"], scratch.path());
        stopped.stops(echo, "closed 1001\n");
    }
}

/// A client that waits for the server to stop.
struct Running(Child);

impl Running {
    /// Stops the server when the client has connected, and compares the last line of the client's output.
    fn stops(self, echo: Glowplug, expected: &str) {
        let mut child = self.0;
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("UTF-8");
        assert_eq!(line, "open\n");
        let stopping = thread::spawn(move || echo.stop());
        line.clear();
        output.read_line(&mut line).expect("UTF-8");
        assert_eq!(line, expected);
        assert!(child.wait().expect("it was started").success());
        assert_eq!(stopping.join().unwrap().code, Some(0));
    }
}

fn start(program: &str, words: &[&str], directory: &Path) -> Running {
    let child = command(program, words, directory).stdout(Stdio::piped()).spawn();
    Running(child.unwrap_or_else(|error| panic!("{program}: {error}")))
}

/// Text and binary messages of several sizes, and in fragments; a ping; and a close with a code.
const NODE_CLIENT: &str = r#"
const WebSocket = require('ws');
const assert = require('assert');
const socket = new WebSocket(process.argv[2], { maxPayload: 1 << 25 });
const next = () => new Promise((resolve) => socket.once('message', (data, binary) => resolve([data, binary])));
socket.on('close', (code) => console.log(`closed ${code}`));
socket.on('open', async () => {
  assert.strictEqual(socket.extensions, '');
  if (process.argv[3] === 'stay') return console.log('open');
  for (const size of [0, 1, 125, 126, 65535, 65536, 16777216]) {
    for (const sent of ['ü'.repeat(size / 2), Buffer.alloc(size, 0xfe)]) {
      const answer = next();
      socket.send(sent);
      const [data, binary] = await answer;
      assert.strictEqual(binary, typeof sent !== 'string');
      assert(Buffer.from(sent).equals(data));
    }
  }
  const answer = next();
  for (const part of ['a', 'bc', '']) socket.send(part, { fin: part === '' });
  assert.strictEqual(String((await answer)[0]), 'abc');
  const pong = new Promise((resolve) => socket.once('pong', resolve));
  socket.ping('there?');
  assert.strictEqual(String(await pong), 'there?');
  socket.close(4001, 'bye');
});
"#;

/// As [`NODE_CLIENT`], in Python.
const PYTHON_CLIENT: &str = r#"
import asyncio, sys
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

async def main():
    async with connect(sys.argv[1], max_size=1 << 25) as socket:
        assert socket.protocol.extensions == []
        if sys.argv[2:] == ["stay"]:
            print("open", flush=True)
            try:
                await socket.recv()
            except ConnectionClosed as closed:
                return print("closed", closed.rcvd.code)
        for size in [0, 1, 125, 126, 65535, 65536, 16777216]:
            for sent in ["ü" * (size // 2), b"\xfe" * size]:
                await socket.send(sent)
                assert await socket.recv() == sent
        await socket.send(["a", "bc", ""])
        assert await socket.recv() == "abc"
        await (await socket.ping("there?"))
        await socket.close(4001, "bye")
        print("closed", socket.protocol.close_rcvd.code)

asyncio.run(main())
"#;

/// A CPython 2.7 with pip, on the path or by pyenv.
fn python_2_7() -> Option<String> {
    let is_one = |program: &String| {
        let asked = Command::new(program).args(["-c", "import sys, pip; print(sys.version_info[:2])"]).output();
        asked.is_ok_and(|output| output.stdout == b"(2, 7)\n")
    };
    let by_pyenv = Command::new("pyenv").args(["prefix", "2.7"]).output().ok();
    let by_pyenv = by_pyenv.and_then(|output| String::from_utf8(output.stdout).ok());
    let by_pyenv = by_pyenv.map(|prefix| format!("{}/bin/python2.7", prefix.trim()));
    ["python2.7".to_owned()].into_iter().chain(by_pyenv).find(is_one)
}

/// Runs these cases of the Autobahn test suite, which needs CPython 2.7. Checks that the outcome of each case is OK,
/// NON-STRICT or INFORMATIONAL. Returns the number of cases; `None` if the suite cannot run.
fn autobahn(cases: &[&str]) -> Option<usize> {
    let Some(python) = python_2_7() else {
        let _ = writeln!(std::io::stderr(), "left out: the Autobahn test suite, without a CPython 2.7 that has pip");
        return None;
    };
    let scratch = Scratch::new();
    let echo = Glowplug::start(Backend::Epoll, ECHO);
    let in_python = |words: &[&str]| {
        let mut command = Command::new(&python);
        command.args(words).current_dir(scratch.path()).stdin(Stdio::null());
        // Directory of the packages, for pip and for the interpreter.
        command.env("PYTHONUSERBASE", scratch.join("base")).env_remove("PYTHONPATH");
        let output = command.output().expect("it was there");
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {told}");
        told
    };
    in_python(&["-m", "pip", "install", "--quiet", "--user", "autobahntestsuite==25.10.1"]);
    let listed = cases.iter().map(|case| format!("\"{case}\"")).collect::<Vec<_>>().join(", ");
    let server = format!(r#"[{{"agent": "glowplug", "url": "ws://{}"}}]"#, echo.tcp());
    let order = format!(
        r#"{{"outdir": "reports", "servers": {server}, "cases": [{listed}], "exclude-cases": [], "exclude-agent-cases": {{}}}}"#
    );
    fs::write(scratch.join("order.json"), order).unwrap();
    let base = scratch.join("base/bin/wstest");
    in_python(&[base.to_str().unwrap(), "-m", "fuzzingclient", "-s", "order.json"]);
    let outcomes = in_python(&["-c", AUTOBAHN_OUTCOMES]);
    let bad = |line: &&str| !line.split(' ').skip(1).all(|word| ["OK", "NON-STRICT", "INFORMATIONAL"].contains(&word));
    let failed: Vec<&str> = outcomes.lines().filter(bad).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    Some(outcomes.lines().count())
}

/// Prints a line for each case: the number, the outcome, and the outcome of the close.
const AUTOBAHN_OUTCOMES: &str = "
import json
for case, outcome in json.load(open('reports/index.json'))['glowplug'].items():
    print('%s %s %s' % (case, outcome['behavior'], outcome['behaviorClose']))
";

/// The cases 9 are large or many messages. They measure more than they check, and take a minute:
///
/// `AUTOBAHN_CASES='9.*' cargo test --test websocket autobahn -- --ignored`
#[test]
#[ignore = "needs CPython 2.7 with pip"]
fn the_autobahn_test_suite_finds_nothing() {
    let asked = std::env::var("AUTOBAHN_CASES").ok();
    let usual = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
    let cases = asked.as_ref().map_or(usual.to_vec(), |asked| asked.split(',').collect());
    let Some(count) = autobahn(&cases) else { return };
    assert!(if asked.is_some() { count > 0 } else { count == 247 }, "{count} cases");
}
