//! The answers of the chat's port to a browser: the page, and WebSocket handshakes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::SystemTime;

use data_encoding::BASE64;
use hmac_sha256::Hash;
use reactor::{Address, Bytes, Peer};

use super::Context;
use crate::codec::request::{Head, Method};
use crate::codec::websocket::handshake::{Accepted, Refusal};
use crate::codec::websocket::origin::Origins;

/// The page of the room: one document with inline style and script.
static PAGE: &str = include_str!("page.html");

/// The head of the page's answer, from the line after `Date` on.
static PAGE_FIELDS: LazyLock<String> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash_of("<style>", "</style>"),
        hash_of("<script>", "</script>"),
    );
    format!(
        "Server: glowplug\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Content-Security-Policy: {policy}\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Cache-Control: no-cache\r\nConnection: close\r\n\r\n",
        PAGE.len()
    )
});

/// The source expression of a policy that allows only the inline element between these tags.
fn hash_of(start: &str, end: &str) -> String {
    let (_, after) = PAGE.split_once(start).unwrap_or_default();
    let (content, _) = after.split_once(end).unwrap_or_default();
    format!("'sha256-{}'", BASE64.encode(&Hash::hash(content.as_bytes())))
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Page,
    /// The connection speaks WebSocket from now on.
    Accepted(Accepted),
    /// A path other than `/` and `/ws`.
    NotFound,
    /// A method that the page does not have.
    MethodNotAllowed,
    Refused(Refusal),
}

/// The answer to a request, for a server whose own address is `local`.
pub(super) fn answer(head: &Head<'_>, origins: &Origins, local: Option<IpAddr>) -> Answer {
    match (path(head.target), head.method) {
        ("/ws", _) => origins.accept(head, local).map_or_else(Answer::Refused, Answer::Accepted),
        ("/", Method::Get | Method::Head) => Answer::Page,
        ("/" | "*", _) => Answer::MethodNotAllowed,
        _ => Answer::NotFound,
    }
}

/// The path of a target, which is a path or a whole URI, without the query.
fn path(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |start| &rest[start..]),
        _ => target,
    };
    path.split('?').next().unwrap_or_default()
}

/// The server's own address on this connection; `None` on a Unix socket. An unknown address counts as private, for
/// which the rules are stricter.
pub(super) fn local(cx: &mut Context<'_>) -> Option<IpAddr> {
    let id = cx.id();
    match (cx.peer(), cx.at(id).local_address()) {
        (_, Some(Address::Tcp(address))) => Some(address.ip()),
        (Some(Peer::Tcp(_)), _) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => None,
    }
}

/// Writes the answer, and closes. `is_head`: the answer has no body.
pub(super) fn tell(answer: &Answer, is_head: bool, cx: &mut Context<'_>) {
    let method = if is_head { Method::Head } else { Method::Get };
    match *answer {
        Answer::Page => {
            tell_with_date("HTTP/1.1 200 OK", &PAGE_FIELDS, cx);
            if !is_head {
                cx.write_shared(Bytes::from_static(PAGE.as_bytes()));
            }
            cx.close();
        }
        Answer::NotFound => {
            let body = if is_head { "" } else { "404 Not Found\n" };
            tell_with_date(
                "HTTP/1.1 404 Not Found",
                &format!(
                    "Server: glowplug\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 14\r\n\
                     Connection: close\r\n\r\n{body}"
                ),
                cx,
            );
            cx.close();
        }
        Answer::MethodNotAllowed => {
            // The handshake's own refusal allows GET alone.
            let told = Refusal::MethodNotAllowed.answer_to(method).replace("Allow: GET\r\n", "Allow: GET, HEAD\r\n");
            tell_whole(&told, cx);
        }
        Answer::Refused(refusal) => refuse_to(method, refusal, cx),
        Answer::Accepted(_) => {}
    }
}

/// Refuses a request whose head has not been read, and closes.
pub(super) fn refuse(refusal: Refusal, cx: &mut Context<'_>) {
    refuse_to(Method::Get, refusal, cx);
}

/// Refuses a request with this method, and closes.
fn refuse_to(method: Method, refusal: Refusal, cx: &mut Context<'_>) {
    if let Some(peer) = cx.peer() {
        let status = refusal.answer().split("\r\n").next().unwrap_or_default();
        log::debug!("{}: answered {peer}: {}", cx.service(), status.trim_start_matches("HTTP/1.1 "));
    }
    tell_whole(refusal.answer_to(method), cx);
}

fn tell_whole(answer: &str, cx: &mut Context<'_>) {
    let (status, rest) = answer.split_once("\r\n").unwrap_or_default();
    tell_with_date(status, rest, cx);
    cx.close();
}

/// Writes an answer with the date after its status line.
fn tell_with_date(status: &str, rest: &str, cx: &mut Context<'_>) {
    let date = httpdate::fmt_http_date(SystemTime::now());
    cx.write(format!("{status}\r\nDate: {date}\r\n{rest}"));
}
