//! A client of the tests: blocking, over TCP or a Unix socket, with a guard on every wait.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;

use reactor::Address;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use super::GUARD;

pub struct Client {
    stream: BufReader<Socket>,
}

impl Client {
    /// Connects. Panics when the server refuses.
    pub fn connect(address: &Address) -> Self {
        Client::try_connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub fn try_connect(address: &Address) -> io::Result<Self> {
        let (domain, address) = match address {
            Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect_timeout(&address, GUARD)?;
        socket.set_read_timeout(Some(GUARD))?;
        socket.set_write_timeout(Some(GUARD))?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Client { stream: BufReader::new(socket) })
    }

    /// A client on a connected socket.
    pub fn from(socket: Socket) -> Self {
        Client { stream: BufReader::new(socket) }
    }

    /// The connection, for another thread to write to.
    pub fn writer(&self) -> Socket {
        self.stream.get_ref().try_clone().expect("a descriptor")
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("it can be sent");
    }

    /// Sends to a server that may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends each byte in a segment of its own.
    pub fn send_by_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        bytes.as_ref().chunks(1).for_each(|byte| self.send(byte));
    }

    /// Whether unread bytes, or an end, have arrived.
    pub fn has_input(&self) -> bool {
        let mut watched = [PollFd::new(self.stream.get_ref(), PollFlags::IN)];
        poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Ends this side: no more bytes will be sent.
    pub fn half_close(&mut self) {
        self.try_half_close().expect("it is connected");
    }

    /// Ends this side towards a server that may have reset the connection.
    pub fn try_half_close(&mut self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    /// The next line without its ending. Panics when no line comes.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).expect("a line comes");
        assert_eq!(line.pop(), Some(b'\n'), "{:?}", String::from_utf8_lossy(&line));
        String::from_utf8(line).expect("UTF-8")
    }

    /// Whether a line comes.
    pub fn gets_a_line(&mut self) -> bool {
        self.stream.read_until(b'\n', &mut Vec::new()).is_ok_and(|count| count > 0)
    }

    /// Exactly `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("that many come");
        bytes
    }

    /// Ends this side, and reads everything up to the end, with or without a reset.
    pub fn rest_after_half_close(&mut self) -> Vec<u8> {
        let _ = self.try_half_close();
        self.rest_or_reset()
    }

    /// Everything up to the end, with or without a reset.
    pub fn rest_or_reset(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
        bytes
    }

    /// Everything up to the orderly end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).expect("an orderly end");
        bytes
    }

    /// Everything up to the orderly end, as text.
    pub fn rest_as_text(&mut self) -> String {
        String::from_utf8_lossy(&self.rest()).into_owned()
    }

    /// Everything up to the end, orderly or not.
    pub fn rest_however_it_ends(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut bytes) {
            assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
        }
        bytes
    }

    /// Waits for the end, orderly or not.
    pub fn is_ended(&mut self) -> bool {
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        }
    }

    /// Sends a line, and returns the line of the answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n"));
        self.line()
    }

    /// Sends a line to a server that may end the connection instead of answering.
    pub fn try_ask(&mut self, line: &str) -> Option<String> {
        let mut answer = String::new();
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).ok()?;
        self.stream.read_line(&mut answer).ok()?;
        answer.strip_suffix('\n').map(str::to_owned)
    }

    // ---- frames -----------------------------------------------------------------------------------------------------

    pub fn send_frame(&mut self, text: impl AsRef<[u8]>) {
        self.send(frame(text));
    }

    /// The text of the next frame.
    pub fn frame(&mut self) -> String {
        let length = self.bytes(4).try_into().map(u32::from_be_bytes).expect("four bytes");
        String::from_utf8(self.bytes(length as usize)).expect("UTF-8")
    }

    // ---- HTTP -------------------------------------------------------------------------------------------------------

    /// Reads the next response, up to its Content-Length.
    pub fn response(&mut self) -> Response {
        let mut response = self.response_head();
        let length = response.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        response.body = String::from_utf8(self.bytes(length)).expect("UTF-8");
        response
    }

    /// The next response; `None` at the end. `is_bodiless`: no body follows, in spite of the Content-Length.
    pub fn try_response(&mut self, is_bodiless: bool) -> Option<Response> {
        if self.stream.fill_buf().ok()?.is_empty() {
            return None;
        }
        let mut response = self.response_head();
        let length = response.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        if !is_bodiless {
            response.body = String::from_utf8_lossy(&self.bytes(length)).into_owned();
        }
        Some(response)
    }

    /// A response without a body: to HEAD, and with 304.
    pub fn response_head(&mut self) -> Response {
        let line = |client: &mut Client| {
            let line = client.line();
            line.strip_suffix('\r').unwrap_or_else(|| panic!("no return at the end of {line:?}")).to_owned()
        };
        let status_line = line(self);
        let status = status_line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = line(self);
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a header line: {line:?}"));
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        Response { status_line, status, headers, body: String::new() }
    }
}

pub fn frame(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let mut frame = (text.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(text);
    frame
}

/// An HTTP response, header names in lower case.
pub struct Response {
    pub status_line: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} comes once");
        value
    }
}
