//! The page for browsers, the requests that are refused, and the origins that may not join.

use crate::support::client::{Client, Response};
use crate::support::command::{Glowplug, Scratch, eventually, run};
use crate::support::websocket::{handshake, say, text};
use crate::support::{on_every_backend, unless_chaos};
use crate::websocket::join;
use crate::{CHAT, host, join as join_on_lines, resident, response_of};

/// The answer to a request. The connection has ended afterwards.
fn asked(chat: &Glowplug, request: &str) -> Response {
    let mut client = chat.connect();
    client.send(request);
    response_of(&mut client, request)
}

on_every_backend! {
    fn the_room_is_one_document_that_may_load_nothing(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        for path in ["/", "/?name=ann"] {
            let page = asked(&chat, &format!("GET {path} HTTP/1.1\r\n{}\r\n", host(&chat)));
            assert_eq!(page.status_line, "HTTP/1.1 200 OK");
            assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
            assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
            let policy = page.header("content-security-policy").unwrap();
            for rule in ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
                assert!(policy.split("; ").any(|given| given == rule), "{rule}: {policy}");
            }
            assert_eq!((policy.matches("'sha256-").count(), policy.contains("unsafe")), (2, false), "{policy}");
            assert!(page.body.starts_with("<!DOCTYPE html>") && page.body.trim_end().ends_with("</html>"));
            assert_eq!((page.body.matches("<script").count(), page.body.matches("<style").count()), (1, 1));
            // The page loads nothing.
            for address in ["src=", "href=\"http", "url(", "@import", "import(", "fetch("] {
                assert!(!page.body.contains(address), "{address}");
            }
        }
        let head = asked(&chat, &format!("HEAD / HTTP/1.1\r\n{}\r\n", host(&chat)));
        assert_eq!((head.status, head.header("content-length").map(|length| length.len() > 3)), (200, Some(true)));
        // An HTTP/1.0 request, without a Host.
        assert_eq!(asked(&chat, "GET / HTTP/1.0\r\n\r\n").status, 200);
    }

    fn other_requests_are_refused_with_their_status(backend: Backend) {
        let chat = Glowplug::start(backend, CHAT);
        let host = host(&chat);
        let whole = handshake("/ws", &host);
        for (request, status, field) in [
            (format!("GET /ws HTTP/1.1\r\n{host}\r\n"), 426, ("upgrade", "websocket")),
            (whole.replace("Version: 13", "Version: 8"), 426, ("sec-websocket-version", "13")),
            (whole.replace("Connection: keep-alive, Upgrade\r\n", ""), 426, ("connection", "upgrade, close")),
            (format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\nabc"), 405, ("allow", "GET, HEAD")),
            (format!("BREW / HTTP/1.1\r\n{host}\r\n"), 405, ("allow", "GET, HEAD")),
            (format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"), 405, ("allow", "GET, HEAD")),
            (whole.replace("GET", "PUT"), 405, ("allow", "GET")),
            (format!("GET /favicon.ico HTTP/1.1\r\n{host}\r\n"), 404, ("content-length", "14")),
            (format!("HEAD /nowhere HTTP/1.1\r\n{host}\r\n"), 404, ("content-length", "14")),
            (format!("HEAD /ws HTTP/1.1\r\n{host}\r\n"), 405, ("allow", "GET")),
            (format!("HEAD * HTTP/1.1\r\n{host}\r\n"), 400, ("content-length", "16")),
            (format!("GET /ws/ HTTP/1.1\r\n{host}\r\n"), 404, ("content-length", "14")),
            (whole.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400, ("content-length", "16")),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, ("content-length", "16")),
            ("GET /\r\n\r\n".to_owned(), 400, ("content-length", "16")),
            (format!("GET / HTTP/1.1\r\n{host}no field\r\n\r\n"), 400, ("content-length", "16")),
            (format!("GET / HTTP/1.1\r\n{host}A: {}\r\n\r\n", "x".repeat(8 * 1024)), 431, ("content-length", "36")),
            (format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(8 * 1024)), 431, ("content-length", "36")),
        ] {
            let response = asked(&chat, &request);
            let shown = &request[..request.len().min(60)];
            assert_eq!(response.status, status, "{shown}");
            assert_eq!(response.header(field.0), Some(field.1), "{shown}");
        }
        // Half a head, and the end of input.
        let mut half = chat.connect();
        half.send("GET / HTTP/1.1\r\nHost: he");
        half.half_close();
        assert_eq!(half.response().status, 400);
        // A name that only looks like HTTP.
        let mut name = chat.connect();
        assert_eq!(name.ask("GET"), "CLIENT: 127.0.0.1");
        let mut lower = chat.connect();
        assert!(lower.ask("get / HTTP/1.1").starts_with("ERROR: bad name"));
        let mut unended = chat.connect();
        unended.send("BEN");
        unended.half_close();
        assert_eq!(unended.rest_as_text(), "CLIENT: 127.0.0.1\n");
        assert_eq!(name.line(), "(Connected: New client (2) from BEN@127.0.0.1)");
    }

    fn pages_of_other_sites_and_requests_for_other_hosts_may_not_join(backend: Backend) {
        let status = |chat: &Glowplug, fields: &str| {
            let mut client = chat.connect();
            client.send(handshake("/ws", fields));
            client.response_head().status
        };
        let chat = Glowplug::start(backend, CHAT);
        let own = chat.tcp().to_string();
        let port = chat.tcp().port();
        for (fields, expected) in [
            (format!("Host: {own}\r\n"), 101),
            (format!("Host: {own}\r\nOrigin: http://{own}\r\n"), 101),
            (format!("Host: {own}\r\nOrigin: https://{own}\r\n"), 101),
            (format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"), 101),
            (format!("Host: {own}\r\nOrigin: http://127.0.0.1\r\n"), 403),
            (format!("Host: {own}\r\nOrigin: http://evil.example\r\n"), 403),
            (format!("Host: {own}\r\nOrigin: null\r\n"), 403),
            (format!("Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n"), 403),
            (format!("Host: evil.example:{port}\r\n"), 403),
        ] {
            assert_eq!(status(&chat, &fields), expected, "{fields}");
        }
        let words = format!("{CHAT} --origin https://chat.example --origin http://app.example:3000");
        let chat = Glowplug::start(backend, &words);
        for (fields, expected) in [
            ("Host: chat.example\r\nOrigin: https://chat.example\r\n", 101),
            ("Host: 127.0.0.1\r\nOrigin: http://app.example:3000\r\n", 101),
            ("Host: app.example\r\n", 101),
            ("Host: 127.0.0.1\r\nOrigin: http://app.example\r\n", 403),
            ("Host: evil.example\r\nOrigin: https://chat.example\r\n", 403),
        ] {
            assert_eq!(status(&chat, fields), expected, "{fields}");
        }
        let chat = Glowplug::start(backend, &format!("{CHAT} --origin *"));
        assert_eq!(status(&chat, "Host: any.example\r\nOrigin: https://other.example\r\n"), 101);
        // A proxy serves the Unix socket, and checks its own hosts.
        let scratch = Scratch::new();
        let chat = Glowplug::start(backend, &format!("chat serve --unix {} --log-level off", scratch.join("chat").display()));
        assert_eq!(status(&chat, "Host: any.example\r\nOrigin: https://any.example\r\n"), 101);
        assert_eq!(status(&chat, "Host: any.example\r\nOrigin: https://other.example\r\n"), 403);
        let ended = run(backend, "chat serve --origin chat.example");
        assert_eq!(ended.code, Some(2));
        assert!(ended.stderr.contains("not an origin"), "{}", ended.stderr);
    }

    fn an_unfinished_request_that_holds_too_much_memory_gets_503(backend: Backend) {
        unless_chaos!("wants whole answers, and one that leaves in pieces may be cut while memory is short");
        let chat = Glowplug::start(backend, &format!("{CHAT} --memory 1M"));
        let mut ann = join_on_lines(&chat, "ann");
        // All requests together are more than twice the budget.
        let half = format!("GET / HTTP/1.1\r\n{}A: {}", host(&chat), "x".repeat(7_500));
        let mut clients: Vec<Client> = (0..300).map(|_| chat.connect()).collect();
        let mut statuses = Vec::new();
        clients.iter_mut().for_each(|client| drop(client.try_send(&half)));
        // A server that has read none of the halves would find all requests complete, and answer them.
        eventually("somebody is refused", || clients.iter().any(Client::has_input).then_some(()));
        for client in &mut clients {
            // A refused client sends nothing more: the server may have closed, and the reset would take the answer away.
            if !client.has_input() {
                let _ = client.try_send("\r\n\r\n");
            }
            let Some(response) = client.try_response(false) else { continue };
            statuses.push(response.status);
            if response.status == 503 {
                assert_eq!(response.header("retry-after"), Some("1"));
                assert_eq!(response.body, "503 Service Unavailable\n");
            }
        }
        assert!(statuses.contains(&503) && statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
        assert_eq!(ann.ask("/who"), "(1 here: ann@127.0.0.1)");
    }

    fn a_thousand_unfinished_handshakes_hold_little_and_the_others_are_served(backend: Backend) {
        unless_chaos!("measures memory");
        let chat = Glowplug::start(backend, CHAT);
        let (mut ann, mut ben) = (join(&chat, "ann"), join_on_lines(&chat, "ben"));
        text(&mut ann);
        let before = resident(chat.pid());
        let half = format!("GET /ws HTTP/1.1\r\n{}A: {}", host(&chat), "x".repeat(7_000));
        let mut clients: Vec<Client> = (0..1000).map(|_| chat.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&half);
            if number % 100 == 99 {
                say(&mut ann, number.to_string());
                assert_eq!(ben.line(), format!("#ann@127.0.0.1>>{number}"));
            }
        }
        // The answer shows that the request was read: a field without an end is too long.
        for client in &mut clients {
            client.send("x".repeat(500));
        }
        let held = resident(chat.pid()).saturating_sub(before);
        assert!(held < 24 << 20, "{held} bytes");
        clients.iter_mut().for_each(|client| client.send("x".repeat(1000)));
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 431));
    }
}
