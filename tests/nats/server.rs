//! A scripted server, one connection at a time.

use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};

use services::nats::Cause;

use crate::recorder::Node;
use crate::support::GUARD;

pub const INFO: &str = r#"{"server_id":"FAKE","version":"2.9.10","headers":true,"max_payload":1048576}"#;

pub struct Server(TcpListener);

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        // Linux applies the timeout to accept(2), too.
        socket2::SockRef::from(&listener).set_read_timeout(Some(GUARD)).expect("not zero");
        Server(listener)
    }

    /// The address, `host:port`.
    pub fn place(&self) -> String {
        self.0.local_addr().expect("it listens").to_string()
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.place())
    }

    /// Waits for the next connection.
    pub fn accept(&self) -> Peer<TcpStream> {
        let (stream, _) = self.0.accept().expect("a client comes");
        stream.set_read_timeout(Some(GUARD)).expect("not zero");
        Peer(BufReader::new(stream))
    }

    /// Accepts a client until it is connected. Returns its CONNECT. On a busy machine an attempt may take too long, and the client
    /// begins another one.
    pub fn greet(&self) -> (Peer<TcpStream>, String) {
        loop {
            let mut peer = self.accept();
            if let Ok(connect) = peer.greet(INFO) {
                return (peer, connect);
            }
        }
    }

    /// Lets `script` treat each connection, until an attempt has failed for another cause than its time.
    pub fn fail(&self, node: &Node, mut script: impl FnMut(&mut Peer<TcpStream>)) -> Cause {
        loop {
            let mut peer = self.accept();
            script(&mut peer);
            match node.next_failure() {
                Cause::TooSlow => {}
                cause => return cause,
            }
        }
    }
}

/// A client, as the server sees it. Pings are answered where lines are read.
pub struct Peer<S: Read + Write>(pub BufReader<S>);

impl<S: Read + Write> Peer<S> {
    /// Sends bytes. A client that has given up is noticed by the next read.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.get_mut().write_all(bytes.as_ref()).and_then(|()| self.0.get_mut().flush());
    }

    fn raw_line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        line.strip_suffix("\r\n").map(str::to_owned).ok_or(ErrorKind::UnexpectedEof.into())
    }

    /// The next line, without its ending.
    pub fn line(&mut self) -> String {
        loop {
            match self.raw_line().expect("a line comes").as_str() {
                "PING" => self.send("PONG\r\n"),
                line => return line.to_owned(),
            }
        }
    }

    /// The next line of a greeting; none if the client has given up.
    pub fn line_of_greeting(&mut self) -> Option<String> {
        self.raw_line().ok()
    }

    pub fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Takes exactly these bytes of a payload, and the end of its line.
    pub fn expect_payload(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len() + 2];
        self.0.read_exact(&mut got).expect("bytes come");
        assert!(got.strip_suffix(b"\r\n") == Some(bytes), "{}", got.escape_ascii());
    }

    pub fn greet(&mut self, info: &str) -> Result<String> {
        self.send(format!("INFO {info}\r\n"));
        self.prove()
    }

    /// The part of the greeting after INFO. Returns the client's CONNECT.
    pub fn prove(&mut self) -> Result<String> {
        let connect = self.raw_line()?;
        assert_eq!(self.raw_line()?, "PING");
        self.send("PONG\r\n");
        let inbox = self.raw_line()?;
        assert!(inbox.starts_with("SUB _INBOX.") && inbox.ends_with(".* 0"), "{inbox}");
        Ok(connect.strip_prefix("CONNECT ").expect("it is the first operation").to_owned())
    }

    /// Reads to the end of the client's half.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).expect("an end comes");
        rest.replace("PING\r\n", "")
    }
}
