//! A WebSocket client: frames made by hand, so that tests can send malformed ones, too.

use super::client::Client;
use super::command::Glowplug;

/// The first byte of a whole message or control frame.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// A client's frame, masked.
pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0xab, 0x80, 0xff];
    let payload = payload.as_ref();
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            frame.push(0xfe);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0xff);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The request of a handshake, with additional fields.
pub fn handshake(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\n{fields}Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A client whose handshake has been accepted.
pub fn open(server: &Glowplug, request: &str) -> Client {
    let mut client = server.connect();
    client.send(request);
    accepted(&mut client);
    client
}

/// Reads the answer to a handshake.
pub fn accepted(client: &mut Client) {
    let head: Vec<String> = (0..5).map(|_| client.line()).collect();
    assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols\r");
    assert!(head.contains(&"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r".to_owned()), "{head:?}");
    assert_eq!(head[4], "\r");
}

/// Reads a frame of the server. Returns the first byte of the frame and the payload.
pub fn received(client: &mut Client) -> (u8, Vec<u8>) {
    let head = client.bytes(2);
    let length = match head[1] {
        126 => u16::from_be_bytes(client.bytes(2).try_into().unwrap()).into(),
        127 => u64::from_be_bytes(client.bytes(8).try_into().unwrap()) as usize,
        short => usize::from(short),
    };
    (head[0], client.bytes(length))
}

/// Reads a frame and compares it. Long payloads are not shown.
pub fn expect(client: &mut Client, first: u8, payload: impl AsRef<[u8]>) {
    let (got, bytes) = received(client);
    assert!(got == first && bytes == payload.as_ref(), "{got:#x} and {} bytes", bytes.len());
}

/// Reads the next frame, a text.
pub fn text(client: &mut Client) -> String {
    let (first, payload) = received(client);
    let payload = String::from_utf8(payload).expect("UTF-8");
    assert_eq!(first, TEXT, "{payload}");
    payload
}

/// Sends a text.
pub fn say(client: &mut Client, text: impl AsRef<[u8]>) {
    client.send(frame(TEXT, text));
}

/// Reads the server's last frame, and returns its close code.
pub fn closed(client: &mut Client) -> u16 {
    let (first, payload) = received(client);
    assert_eq!(first, CLOSE, "{}", payload.escape_ascii());
    assert_eq!(client.rest(), b"");
    payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))
}
