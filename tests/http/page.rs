//! `glowplug http` without a directory: the fixed answer, and malformed requests.

use std::io::{ErrorKind, Write};
use std::thread;

use super::support::command::Glowplug;
use super::support::{on_every_backend, unless_chaos};

const HTTP: &str = "http --port 0 --log-level off";
const GET: &str = "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";

/// `GET /` with additional header lines.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n")
}

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n")
}

on_every_backend! {
    fn every_get_has_the_fixed_answer(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        for target in ["/", "/any/path?query", "http://example.org/", "/%00"] {
            client.send(format!("GET {target} HTTP/1.1\r\nHost: example.org\r\n\r\n"));
            let response = client.response();
            assert_eq!(response.status_line, "HTTP/1.1 200 OK", "{target}");
            assert_eq!(response.body, "Hello from Epoll Server!");
            assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
            assert_eq!(response.header("content-length"), Some("24"));
            assert_eq!(response.header("server"), Some("glowplug"));
            let date = response.header("date").unwrap();
            assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        }
    }

    fn the_body_is_what_was_asked_for(backend: Backend) {
        let http = Glowplug::start(backend, &format!("{HTTP} --body Grüße"));
        let mut client = http.connect();
        client.send(GET);
        let response = client.response();
        assert_eq!((response.header("content-length"), response.body.as_str()), (Some("7"), "Grüße"));
    }

    fn pipelined_requests_are_answered_in_order(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        let methods = ["GET", "HEAD", "OPTIONS", "POST", "BREW"];
        let statuses = [200, 200, 200, 405, 501];
        let requests: String = (0..16)
            .map(|number| format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", methods[number % methods.len()]))
            .collect();
        client.send(requests);
        for number in 0..16 {
            let response =
                if methods[number % methods.len()] == "HEAD" { client.response_head() } else { client.response() };
            assert_eq!(response.status, statuses[number % methods.len()], "request {number}");
        }
        client.send(GET);
        assert_eq!(client.response().status, 200);
    }

    fn head_has_the_header_of_get_and_no_body(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        client.send(GET.replace("GET", "HEAD"));
        let head = client.response_head();
        client.send(GET);
        let get = client.response();
        let names = |headers: &[(String, String)]| headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!((head.status, names(&head.headers)), (200, names(&get.headers)));
        assert_eq!(head.header("content-length"), Some("24"));
    }

    fn an_error_in_answer_to_head_has_no_body_either(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        client.send("HEAD / HTTP/1.1\r\n\r\n");
        let answer = String::from_utf8(client.rest()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    fn a_method_that_does_not_apply_is_told_which_do(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE"] {
            client.send(GET.replace("GET", method));
            let response = client.response();
            assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
        }
        client.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
        let response = client.response();
        assert_eq!((response.header("allow"), response.body.as_str()), (Some("GET, HEAD, OPTIONS"), ""));
        assert!(matches!(response.status, 200 | 204));
    }

    fn a_connection_goes_on_or_ends_as_client_and_version_say(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        // The request, the `Connection` field of the answer, and whether the connection goes on.
        let table = [
            (get(""), None, true),
            (get("Connection: keep-alive\r\n"), None, true),
            (get("Connection: close\r\n"), Some("close"), false),
            (get("Connection: foo, Close\r\n"), Some("close"), false),
            ("GET / HTTP/1.0\r\n\r\n".to_owned(), Some("close"), false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n".to_owned(), Some("keep-alive"), true),
        ];
        for (request, connection, goes_on) in table {
            let mut client = http.connect();
            client.send(format!("{request}{GET}"));
            let response = client.response();
            assert_eq!((response.status, response.header("connection")), (200, connection), "{request:?}");
            if goes_on {
                assert_eq!(client.response().status, 200, "{request:?}");
            } else {
                assert_eq!(client.rest(), b"", "{request:?}: and no second answer");
            }
        }
    }

    fn a_body_is_skipped_and_the_next_request_is_found(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        client.send(post("Content-Length: 5\r\n") + "GET /" + GET);
        client.send(
            post("Transfer-Encoding: chunked\r\n") + "5\r\nGET /\r\n3;a=b\r\n\r\nx\r\n0\r\nTrailer: x\r\n\r\n" + GET,
        );
        client.send(get("Content-Length: 3\r\n") + "abc" + GET);
        let statuses: Vec<_> = (0..6).map(|_| client.response().status).collect();
        assert_eq!(statuses, [405, 200, 405, 200, 200, 200]);
    }

    fn whoever_waits_for_100_continue_hears_it_or_why_not(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        client.send(get("Content-Length: 3\r\nExpect: 100-continue\r\n"));
        assert_eq!(client.response_head().status, 100);
        client.send("abc");
        assert_eq!(client.response().status, 200);
        client.send(post("Content-Length: 3\r\nExpect: 100-continue\r\n"));
        assert_eq!(client.response().status, 405);
    }

    fn a_refusal_leaves_before_the_body_and_the_connection_goes_on_after_it(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        for (method, status) in [("POST", 405), ("PUT", 405), ("TRACE", 405), ("BREW", 501)] {
            let mut client = http.connect();
            let head = format!("{method} / HTTP/1.1\r\nHost: x\r\n");
            client.send(format!("{head}Content-Length: 100\r\n\r\n"));
            let response = client.response();
            assert_eq!((response.status, response.header("connection")), (status, None), "{method}");
            client.send("x".repeat(99));
            client.send(format!("x{GET}{head}Transfer-Encoding: chunked\r\n\r\n3\r\nab"));
            assert_eq!((client.response().status, client.response().status), (200, status), "{method}");
            client.send(format!("c\r\n0\r\nTrailer: x\r\n\r\n{GET}"));
            assert_eq!(client.response().status, 200, "{method}");
            // The head shows a length over the limit.
            client.send(format!("{head}Content-Length: 2000000\r\n\r\n"));
            assert_eq!(client.response().status, 413, "{method}");
        }
    }

    fn a_body_that_is_malformed_or_has_no_end_has_one_answer_and_ends_the_connection(backend: Backend) {
        let http = Glowplug::start(backend, &format!("{HTTP} --idle-timeout 0.3"));
        for rest in ["1\nx\r\n0\r\n\r\n", "1\r\nx\n0\r\n\r\n", "0\r\n\n", "x\r\n", "fffffff\r\n", ""] {
            let mut client = http.connect();
            client.send(post("Transfer-Encoding: chunked\r\n"));
            assert_eq!(client.response().status, 405, "{rest:?}");
            // When no more bytes come, the time limit of the body ends the connection.
            client.try_send(format!("{rest}{}", if rest.is_empty() { "" } else { GET })).ok();
            assert_eq!(client.rest_however_it_ends(), b"", "{rest:?}");
        }
        let mut client = http.connect();
        client.send(post("Transfer-Encoding: chunked\r\n"));
        assert_eq!(client.response().status, 405);
        let mut upload = client.writer();
        let sender = thread::spawn(move || {
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            // More bytes than are discarded while a connection is open, and while it closes.
            (0..100_000).all(|_| upload.write_all(chunk.as_bytes()).is_ok())
        });
        assert_eq!(client.rest_however_it_ends(), b"");
        assert!(!sender.join().unwrap(), "the server went on reading");
    }

    fn what_is_no_request_is_refused_with_its_status_and_the_end(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let line = |line: &str| format!("{line}\r\nHost: x\r\n\r\n");
        let table = [
            // The request line.
            (line("GET"), 400),
            (line("GET /"), 400),
            (line(" GET / HTTP/1.1"), 400),
            (line("GET  / HTTP/1.1"), 400),
            (line("GET / HTTP/1.1 "), 400),
            (line("GET x HTTP/1.1"), 400),
            (line("GET * HTTP/1.1"), 400),
            (line("G@T / HTTP/1.1"), 400),
            (line("GET / HTTP/2.0"), 505),
            (line("GET / http/1.1"), 400),
            (line("GET / HTTP/one"), 400),
            (line(&format!("GET /{} HTTP/1.1", "x".repeat(10_000))), 414),
            ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\r\n\r\n".to_owned(), 400),
            // The header.
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(), 400),
            (get("Name : x\r\n"), 400),
            (get("Folded: x\r\n y\r\n"), 400),
            (get("Na me: x\r\n"), 400),
            (get("no colon\r\n"), 400),
            (get(": no name\r\n"), 400),
            (get("Bare: x\ry\r\n"), 400),
            (get("Nul: x\0y\r\n"), 400),
            (get(&format!("Long: {}\r\n", "x".repeat(40_000))), 431),
            (get(&"Many: x\r\n".repeat(200)), 431),
            (get("Expect: miracles\r\n"), 417),
            // Where the body ends.
            (post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400),
            (post("Content-Length: 3\r\nContent-Length: 4\r\n"), 400),
            (post("Content-Length: 3, 4\r\n"), 400),
            (post("Content-Length: -1\r\n"), 400),
            (post("Content-Length: +3\r\n"), 400),
            (post("Content-Length: 0x3\r\n"), 400),
            (post("Content-Length:\r\n"), 400),
            (post("Transfer-Encoding: identity\r\n"), 400),
            (post("Transfer-Encoding: chunked, identity\r\n"), 400),
            (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
            (post("Transfer-Encoding: gzip, chunked\r\n"), 501),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
            (post("Content-Length: 99999999999999999999999\r\n"), 413),
            // Chunks.
            (get("Transfer-Encoding: chunked\r\n") + "x\r\n", 400),
            (get("Transfer-Encoding: chunked\r\n") + "-1\r\n", 400),
            (get("Transfer-Encoding: chunked\r\n") + "1\nx\r\n0\r\n\r\n", 400),
            (get("Transfer-Encoding: chunked\r\n") + "1;a=\"\r\nx\r\n0\r\n\r\n", 400),
            (get("Transfer-Encoding: chunked\r\n") + "1\r\nx\n0\r\n\r\n", 400),
            (get("Transfer-Encoding: chunked\r\n") + "1\r\nxy\r\n0\r\n\r\n", 400),
            (get("Transfer-Encoding: chunked\r\n") + "ffffffffffffffffff\r\n", 413),
        ];
        for (request, status) in table {
            let shown = &request[..request.len().min(100)];
            let mut client = http.connect();
            // Bytes after the malformed request have no meaning, and get no answer.
            client.send(format!("{request}{GET}"));
            let response = client.response();
            let chunk_too_large = status == 413 && response.status == 400;
            assert!(response.status == status || chunk_too_large, "{} for {shown:?}", response.status);
            assert_eq!(response.header("connection"), Some("close"), "{shown:?}");
            assert_eq!(client.rest(), b"", "{shown:?}");
        }
        let mut client = http.connect();
        client.send(GET);
        assert_eq!(client.response().status, 200);
    }

    fn a_request_as_people_type_it_is_taken(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        client.send("\r\nGET / HTTP/1.1\nHost: x\n\n\nGET / HTTP/1.1\nHost:x\r\n\n");
        assert_eq!([client.response().status, client.response().status], [200, 200]);
    }

    fn a_request_split_at_every_byte_is_one_request(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let request = "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: x\r\n\r\n";
        for cut in 1..request.len() {
            let mut client = http.connect();
            client.send(&request[..cut]);
            client.send(&request[cut..]);
            client.send(GET);
            assert_eq!([client.response().status, client.response().status], [405, 200], "split at {cut}");
        }
        let mut client = http.connect();
        client.send_by_bytes(format!("{request}{GET}"));
        assert_eq!([client.response().status, client.response().status], [405, 200]);
    }

    fn everything_asked_before_the_end_of_input_is_answered(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        client.send(GET.repeat(100));
        client.half_close();
        for _ in 0..100 {
            assert_eq!(client.response().status, 200);
        }
        assert_eq!(client.rest(), b"");

        let mut cut_short = http.connect();
        cut_short.send(&GET[..20]);
        cut_short.half_close();
        assert_eq!(cut_short.response().status, 400);
        assert_eq!(cut_short.rest(), b"");
    }

    fn a_request_that_dribbles_or_never_comes_has_408(backend: Backend) {
        let http = Glowplug::start(backend, &format!("{HTTP} --idle-timeout 0.3"));
        let bodies = ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n9\r\nabc"];
        let [get, head] = ["GET", "HEAD"].map(|method| format!("{method} / HTTP/1.1\r\nHost: x\r\n"));
        let begun = ["", "GET / HT", "HEAD / HT"].map(str::to_owned);
        let uploads = bodies.iter().flat_map(|body| [format!("{get}{body}"), format!("{head}{body}")]);
        for begun in begun.into_iter().chain(uploads) {
            // The time runs from the accept, and the bytes have come by then, however slowly this thread sends them.
            http.stand_still();
            let mut client = http.connect();
            client.send(&begun);
            http.go_on();
            let response = if begun.starts_with("HEAD") { client.response_head() } else { client.response() };
            assert_eq!((response.status, response.header("connection")), (408, Some("close")), "{begun:?}");
            assert_eq!(client.rest(), b"");
        }
        let mut client = http.connect();
        let mut dribble = client.writer();
        let feeder = thread::spawn(move || {
            let mut bytes = self::get("Endless: ").into_bytes();
            bytes.truncate(bytes.len() - 2);
            bytes.extend([b'x'; 20_000]);
            for byte in bytes.chunks(1) {
                if dribble.write_all(byte).is_err() {
                    return;
                }
                // The pace of the dribble. The server's deadline ends it.
                thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        assert_eq!(client.response().status, 408);
        client.writer().shutdown(std::net::Shutdown::Both).unwrap();
        feeder.join().unwrap();
    }

    fn an_early_error_reaches_a_client_that_is_still_uploading(backend: Backend) {
        let http = Glowplug::start(backend, HTTP);
        let mut client = http.connect();
        let mut upload = client.writer();
        let sender = thread::spawn(move || {
            let head = post("Content-Length: 30000000\r\n");
            let sent = upload.write_all(head.as_bytes()).and_then(|()| upload.write_all(&vec![b'x'; 30_000_000]));
            // The server may close before reading everything.
            if let Err(error) = sent {
                assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
            }
        });
        let response = client.response();
        assert_eq!((response.status, response.header("connection")), (413, Some("close")));
        sender.join().unwrap();
    }

    fn the_last_answer_before_a_stop_says_that_it_is_the_last(backend: Backend) {
        unless_chaos!("counts on the turn in which a service is told of the stop");
        let mut http = Glowplug::start(backend, "http --port 0 --drain-timeout 0");
        let mut client = http.connect();
        // Both came in one segment, so half of the second request has arrived when the first is answered.
        client.send(format!("{GET}{}", &GET[..20]));
        assert_eq!(client.response().status, 200);
        http.signal(rustix::process::Signal::TERM);
        http.told("stopping: 1 connection to finish");
        // The report comes one turn later, when the service knows of the stop too.
        http.signal(rustix::process::Signal::USR1);
        http.told("connections: 1\n");
        client.send(&GET[20..]);
        let response = client.response();
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
        assert_eq!(client.rest(), b"");
        // The server waits for an answered client that stays.
        drop(client);
        assert_eq!(http.end().code, Some(0));
    }
}
