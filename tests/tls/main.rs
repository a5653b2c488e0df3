//! TLS over real sockets: the command's options, the clients' view, and the ends of connections. `memory` has the sessions'
//! memory, `rules` the loop's rules over rustls. The rules over a layer of the tests are in `promises/layers.rs`.

mod memory;
mod rules;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use reactor::Backend;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, StreamOwned};
use support::command::{Glowplug, Scratch, command, run};
use support::{GUARD, on_every_backend};

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls_files").join(name)
}

/// The options with the certificate of `localhost`.
fn localhost() -> String {
    format!("--tls-cert {} --tls-key {}", file("localhost.pem").display(), file("localhost.key").display())
}

/// A client that trusts the certificate of `localhost`, and keeps tickets.
fn client_config() -> Arc<ClientConfig> {
    trusting("localhost.pem", rustls::ALL_VERSIONS, &[])
}

fn trusting(root: &str, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file(root)).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn connect_as(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Stream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(GUARD)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket)
}

fn connect(address: SocketAddr) -> Stream {
    connect_as(address, "localhost", &client_config())
}

fn line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Starts a server. Returns its address with TLS.
fn start(backend: Backend, words: &str) -> (Glowplug, SocketAddr) {
    let mut server = Glowplug::spawn(command(backend, words));
    let line = server.line().expect("it listens");
    let (_, address) = line.trim().split_once("tls://").unwrap_or_else(|| panic!("no TLS: {line}"));
    let address = address.parse().unwrap();
    (server, address)
}

/// Reads to the end. Returns the bytes, and whether the end was authenticated.
fn rest(stream: &mut Stream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let outcome = stream.read_to_end(&mut all);
    (all, outcome.is_ok())
}

on_every_backend! {
    fn an_echo_answers_over_both_versions_and_ends_as_agreed(backend: Backend) {
        let (server, address) = start(backend, &format!("echo --port 0 {}", localhost()));
        for (version, number) in
            [(&rustls::version::TLS13, ProtocolVersion::TLSv1_3), (&rustls::version::TLS12, ProtocolVersion::TLSv1_2)]
        {
            // An echo ignores the other protocols that a client offers.
            let config = trusting("localhost.pem", &[version], &["what-nobody-speaks"]);
            let mut stream = connect_as(address, "localhost", &config);
            stream.write_all(b"hello\n").unwrap();
            assert_eq!(line(&mut stream), "You said: hello\n");
            assert_eq!(stream.conn.protocol_version(), Some(number));
            assert_eq!(stream.conn.alpn_protocol(), None);
            // The client's half ends in order, so a line without an ending is answered, too.
            stream.write_all(b"last").unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            assert_eq!(rest(&mut stream), (b"You said: last".to_vec(), true));
        }
        assert_eq!(server.stop().code, Some(0));
    }

    fn an_end_without_notice_is_a_truncation(backend: Backend) {
        let (mut server, address) = start(backend, &format!("echo --port 0 --log-level debug {}", localhost()));
        let mut stream = connect(address);
        stream.write_all(b"whole\nnot wh").unwrap();
        stream.flush().unwrap();
        assert_eq!(line(&mut stream), "You said: whole\n");
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let (answered, _) = rest(&mut stream);
        assert_eq!(answered, b"", "what was not whole is not answered");
        server.told("ended: reset");
    }

    fn sessions_are_resumed_under_every_model(backend: Backend) {
        for model in ["loops --loops 3", "threads", "processes"] {
            let (_server, address) = start(backend, &format!("echo --port 0 --model {model} {}", localhost()));
            for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
                let config = trusting("localhost.pem", &[version], &[]);
                let mut kinds = Vec::new();
                for _ in 0..3 {
                    let mut stream = connect_as(address, "localhost", &config);
                    stream.write_all(b"x\n").unwrap();
                    assert_eq!(line(&mut stream), "You said: x\n");
                    kinds.push(stream.conn.handshake_kind());
                }
                let expected = [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed].map(Some);
                assert_eq!(kinds, expected, "{model}, {version:?}");
            }
        }
    }

    fn a_name_gets_its_certificate_and_others_the_first(backend: Backend) {
        let other = format!("--tls-cert {} --tls-key {}", file("other.pem").display(), file("other.key").display());
        let (_server, address) = start(backend, &format!("http --port 0 {} {other}", localhost()));
        for (name, presented) in [
            ("localhost", "localhost.pem"),
            ("other.example", "other.pem"),
            ("any.wild.example", "other.pem"),
            ("unknown.example", "localhost.pem"),
        ] {
            let mut stream = connect_as(address, name, &client_config());
            // The client decides on trust; the test checks which certificate the server sends.
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let _ = stream.read(&mut [0; 1]);
            let shown = stream.conn.peer_certificates();
            if let Some(shown) = shown {
                assert_eq!(shown[0], CertificateDer::from_pem_file(file(presented)).unwrap(), "{name}");
            } else {
                assert_ne!(name, "localhost");
            }
        }
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string(), "-servername", "any.wild.example"])
            .stdin(Stdio::null())
            .output();
        if let Ok(output) = output {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("CN = other.example") || text.contains("CN=other.example"), "{text}");
        }
    }

    fn a_protocol_that_is_not_spoken_is_refused_and_http_is_agreed_on(backend: Backend) {
        let (_server, address) = start(backend, &format!("http --port 0 {}", localhost()));
        let config = trusting("localhost.pem", rustls::ALL_VERSIONS, &["h2", "http/1.1"]);
        let mut stream = connect_as(address, "localhost", &config);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let (answer, is_whole) = rest(&mut stream);
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"Hello from Epoll Server!"));
        assert!(is_whole);
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let config = trusting("localhost.pem", rustls::ALL_VERSIONS, &["h2"]);
        let mut stream = connect_as(address, "localhost", &config);
        let error = stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0])).unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    }

    fn garbage_costs_one_connection_and_an_alert_and_is_counted(backend: Backend) {
        let (mut server, address) = start(backend, &format!("http --port 0 --log-level debug {}", localhost()));
        let mut stream = connect(address);
        // A hello with a length that no hello has. The library fails without an alert of its own.
        let endless = [&[22, 3, 1, 0x40, 0, 1, 0xFF, 0xFF, 0xFF][..], &[0; 0x3FFC]].concat();
        for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 50], &[0xFF; 100_000], &endless] {
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(GUARD)).unwrap();
            let _ = client.write_all(garbage);
            let _ = client.shutdown(Shutdown::Write);
            let mut alert = Vec::new();
            let _ = client.read_to_end(&mut alert);
            // A record of type alert.
            assert_eq!(alert.first(), Some(&21), "{alert:?}");
            server.told("ended: handshake");
        }
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(rest(&mut stream).0.starts_with(b"HTTP/1.1 200 OK\r\n"));
        server.signal(Signal::USR1);
        server.told("handshake 4");
        let said = server.stop().stderr;
        assert!(!said.contains("recorded") && !said.contains("[WARN]") && !said.contains("[ERROR]"), "{said}");
    }

    fn certificates_are_loaded_anew_under_every_model_and_broken_ones_leave_the_old(backend: Backend) {
        for model in ["loops", "loops --loops 3", "threads", "processes"] {
            let scratch = Scratch::new();
            let (certificate, key) = (scratch.join("cert.pem"), scratch.join("key.pem"));
            let put = |name: &str| {
                fs::copy(file(&format!("{name}.pem")), &certificate).unwrap();
                fs::copy(file(&format!("{name}.key")), &key).unwrap();
            };
            put("localhost");
            let files = format!("--tls-cert {} --tls-key {}", certificate.display(), key.display());
            let (mut server, address) = start(backend, &format!("echo --port 0 --model {model} {files}"));
            let mut old = connect(address);
            let echoes = |stream: &mut Stream| {
                let mut answer = [0; 10];
                let outcome = stream.write_all(b"\n").and_then(|()| stream.read_exact(&mut answer));
                outcome.is_ok() && &answer == b"You said: "
            };
            // Without a ticket: a resumed session shows no certificate.
            let shown = || echoes(&mut connect_as(address, "localhost", &client_config()));
            assert!(echoes(&mut old) && shown(), "{model}");
            fs::write(&key, "not a key").unwrap();
            server.signal(Signal::HUP);
            server.told("the old certificates stay: private key");
            assert!(shown(), "{model}");
            put("other");
            server.signal(Signal::HUP);
            server.told("certificates loaded anew");
            assert!(!shown(), "{model}: the new one is not trusted");
            old.read_exact(&mut [0]).unwrap();
            assert!(echoes(&mut old), "{model}: an established connection goes on");
            drop(old);
            assert_eq!(server.stop().code, Some(0));
        }
    }

    fn one_room_listens_with_and_without_tls(backend: Backend) {
        let words = format!(
            "serve --echo off --http off --chat 127.0.0.1:0 --chat tls:127.0.0.1:0 {}",
            localhost()
        );
        let mut server = Glowplug::spawn(command(backend, &words));
        let plain = server.line().unwrap();
        let plain: SocketAddr = plain.trim().strip_prefix("listening chat tcp://").unwrap().parse().unwrap();
        let tls = server.line().unwrap();
        let tls: SocketAddr = tls.trim().strip_prefix("listening chat tls://").unwrap().parse().unwrap();
        let mut ann = TcpStream::connect(plain).unwrap();
        ann.set_read_timeout(Some(GUARD)).unwrap();
        ann.write_all(b"ann\n").unwrap();
        assert_eq!(line(&mut ann), "CLIENT: 127.0.0.1\n");
        let mut bob = connect(tls);
        bob.write_all(b"bob\n").unwrap();
        assert_eq!(line(&mut bob), "CLIENT: 127.0.0.1\n");
        assert_eq!(line(&mut ann), "(Connected: New client (2) from bob@127.0.0.1)\n");
        ann.write_all(b"hello\n").unwrap();
        assert_eq!(line(&mut bob), "#ann@127.0.0.1>>hello\n");
        bob.write_all(b"hi\n/quit\n").unwrap();
        assert_eq!(line(&mut ann), "#bob@127.0.0.1>>hi\n");
        assert_eq!(rest(&mut bob), (b"(Goodbye)\n".to_vec(), true));
    }

    fn over_max_connections_a_connection_is_closed_without_a_handshake(backend: Backend) {
        for words in ["chat serve", "http", "echo"] {
            let (mut server, address) = start(backend, &format!("{words} --port 0 --max-connections 1 {}", localhost()));
            let mut first = connect(address);
            first.conn.complete_io(&mut first.sock).expect("it has room");
            let mut second = TcpStream::connect(address).unwrap();
            second.set_read_timeout(Some(GUARD)).unwrap();
            // Whether the client has spoken makes no difference.
            let mut heard = Vec::new();
            second.read_to_end(&mut heard).expect("it ends in order");
            assert_eq!(heard, b"", "{words}");
            let mut third = connect(address);
            assert!(third.conn.complete_io(&mut third.sock).is_err(), "{words}");
            server.told("refused 1 connection, the last from 127.0.0.1:");
        }
    }

    fn chat_join_checks_the_certificate_and_the_name(backend: Backend) {
        for (name, host) in [("localhost", "localhost"), ("localhost", "127.0.0.1")] {
            let pair = format!(
                "--tls-cert {} --tls-key {}",
                file(&format!("{name}.pem")).display(),
                file(&format!("{name}.key")).display()
            );
            let (_server, address) = start(backend, &format!("chat serve --port 0 {pair}"));
            let join = format!("chat join --name ann --host {host} --port {}", address.port());
            let trusted = file(&format!("{name}.pem"));
            let ended = run(backend, &format!("{join} --tls --ca {}", trusted.display()));
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            let ended = run(backend, &format!("{join} --tls --ca {}", file("client.pem").display()));
            assert_eq!(ended.code, Some(1));
            assert!(ended.stderr.contains("Failed to connect to chat server @ port"), "{}", ended.stderr);
            assert!(ended.stderr.contains("no trusted authority has signed"), "{}", ended.stderr);
        }
        let pair = format!("--tls-cert {} --tls-key {}", file("other.pem").display(), file("other.key").display());
        let (_server, address) = start(backend, &format!("chat serve --port 0 {pair}"));
        let join = format!("chat join --name ann --host localhost --port {}", address.port());
        // A certificate of an authority, as openssl makes by default, which is also the server's own certificate.
        let ended = run(backend, &format!("{join} --tls --ca {}", file("other.pem").display()));
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("not valid for name"), "{}", ended.stderr);
        let ended = run(backend, &format!("{join} --tls --ca {}", file("client.pem").display()));
        assert!(ended.code == Some(1) && ended.stderr.contains("is an authority's own"), "{}", ended.stderr);
        let plain = Glowplug::start(backend, "chat serve --port 0");
        let port = plain.tcp().port();
        let trusted = file("localhost.pem");
        let join = format!("chat join --name ann --host localhost --port {port} --tls --ca {}", trusted.display());
        let ended = run(backend, &join);
        assert!(ended.code == Some(1) && ended.stderr.contains("does not speak TLS"), "{}", ended.stderr);
    }

    fn a_key_comes_through_a_pipe_at_the_start_and_never_again(backend: Backend) {
        for model in ["loops", "processes"] {
            let scratch = Scratch::new();
            let key = scratch.join("key");
            mknodat(CWD, &key, FileType::Fifo, Mode::from(0o600), 0).expect("a FIFO");
            let writer = {
                let (key, bytes) = (key.clone(), fs::read(file("localhost.key")).unwrap());
                std::thread::spawn(move || fs::write(key, bytes).unwrap())
            };
            let (certificate, key) = (file("localhost.pem"), key.display());
            let words =
                format!("echo --port 0 --model {model} --tls-cert {} --tls-key {key}", certificate.display());
            let (mut server, address) = start(backend, &words);
            writer.join().unwrap();
            server.signal(Signal::HUP);
            server.told("the old certificates stay: private key");
            let mut stream = connect(address);
            stream.write_all(b"hello\n").unwrap();
            assert_eq!(line(&mut stream), "You said: hello\n", "{model}");
            drop(stream);
            let ended = server.stop();
            assert_eq!(ended.code, Some(0), "{model}");
            assert!(ended.stderr.contains("only a regular file can be read again"), "{}", ended.stderr);
        }
    }

    fn a_certificate_that_no_address_uses_is_a_warning(backend: Backend) {
        let unused = format!("serve --echo 127.0.0.1:0 --chat off --http off {}", localhost());
        let server = Glowplug::start(backend, &unused);
        assert!(server.stop().stderr.contains("[WARN] no service uses the certificate"));
        let (server, _) = start(backend, &format!("echo --port 0 {}", localhost()));
        assert!(!server.stop().stderr.contains("no service uses the certificate"));
    }

    fn files_that_cannot_be_used_are_errors_with_their_names(backend: Backend) {
        let scratch = Scratch::new();
        let (empty, text) = (scratch.join("empty"), scratch.join("text"));
        fs::write(&empty, "").unwrap();
        fs::write(&text, "no certificate\n").unwrap();
        let (good, key, missing) = (file("localhost.pem"), file("localhost.key"), scratch.join("missing"));
        for (certificate, private, expected) in [
            (&missing, &key, "missing: No such file"),
            (&good, &missing, "missing: No such file"),
            (&empty, &key, "empty: the file is empty"),
            (&good, &empty, "empty: the file is empty"),
            (&text, &key, "text: it is not PEM"),
            (&good, &text, "text: it is not PEM"),
            (&key, &key, "localhost.key: it is not PEM, or has no certificate"),
            (&good, &file("encrypted.key"), "encrypted.key: the key is encrypted"),
            (&good, &file("other.key"), "other.key: it does not belong to the certificate"),
            (&good, &file("p521.key"), "p521.key: the key is damaged, or not of a supported kind: RSA"),
            (&file("version1.pem"), &key, "version1.pem: the certificate makes no sense: X.509 version 3"),
        ] {
            let words =
                format!("echo --port 0 --tls-cert {} --tls-key {}", certificate.display(), private.display());
            let ended = run(backend, &words);
            assert_eq!((ended.code, &ended.stdout[..]), (Some(1), ""), "{words}");
            let error = ended.stderr.trim_end();
            assert!(error.starts_with("error: ") && error.contains(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        for words in [
            format!("echo --port 0 --tls-cert {}", good.display()),
            format!("echo --port 0 --tls-key {}", key.display()),
            format!("echo --port 0 {} --tls-cert {}", localhost(), good.display()),
            "serve --echo tls:127.0.0.1:0 --chat off --http off".to_owned(),
            "chat join --name ann --ca x".to_owned(),
        ] {
            assert_eq!(run(backend, &words).code, Some(2), "{words}");
        }
    }

    fn a_unix_socket_speaks_tls_too(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("s");
        let words = format!(
            "serve --chat off --http off --echo tls:unix:{} {}",
            path.display(),
            localhost()
        );
        let mut server = Glowplug::spawn(command(backend, &words));
        assert_eq!(server.line().unwrap().trim(), format!("listening echo tls+unix://{}", path.display()));
        let socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(GUARD)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = StreamOwned::new(ClientConnection::new(client_config(), name).unwrap(), socket);
        stream.write_all(b"hello\n").unwrap();
        assert_eq!(line(&mut stream), "You said: hello\n");
        drop(stream);
        assert_eq!(server.stop().code, Some(0));
        assert!(!path.exists());
    }

    fn files_of_every_length_arrive_whole(backend: Backend) {
        let scratch = Scratch::new();
        let lengths = [0, 1, 16_383, 16_384, 64_511, 64_512, 64_513, 300_000, 5_000_000];
        for length in lengths {
            let bytes: Vec<u8> = (0..length).map(|at: usize| (at * 31 + at / 251) as u8).collect();
            fs::write(scratch.join(&length.to_string()), bytes).unwrap();
        }
        let (_server, address) =
            start(backend, &format!("http --port 0 --root {} {}", scratch.path().display(), localhost()));
        for length in lengths {
            let mut stream = connect(address);
            let request = format!("GET /{length} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let (answer, is_whole) = rest(&mut stream);
            let head = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
            assert!(answer[head..] == fs::read(scratch.join(&length.to_string())).unwrap(), "{length}");
            assert!(is_whole, "{length}");
        }
    }

    fn a_stop_ends_every_session_as_agreed(backend: Backend) {
        let (server, address) = start(backend, &format!("echo --port 0 {}", localhost()));
        let mut streams: Vec<_> = (0..20).map(|_| connect(address)).collect();
        for stream in &mut streams {
            stream.write_all(b"x\n").unwrap();
            assert_eq!(line(stream), "You said: x\n");
        }
        let silent = TcpStream::connect(address).unwrap();
        server.signal(Signal::TERM);
        for stream in &mut streams {
            assert_eq!(rest(stream), (Vec::new(), true));
        }
        drop((streams, silent));
        assert_eq!(server.end().code, Some(0));
    }
}

/// Raises the limit of open descriptors to the largest. Returns whether `count` sockets fit.
fn has_descriptors_for(count: usize) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.is_none_or(|most| most as usize > count + 100)
}

/// The messages of a client up to the first answer of the server, for a handshake that begins now and is finished later.
fn begin(address: SocketAddr, config: &Arc<ClientConfig>) -> Stream {
    let mut stream = connect_as(address, "localhost", config);
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock).unwrap();
    }
    stream
}

#[test]
#[ignore = "opens 2,000 connections, with a handshake each"]
fn two_thousand_idle_sessions_and_three_hundred_handshakes_at_once() {
    const AT_ONCE: usize = 300;
    if !has_descriptors_for(2000 + AT_ONCE) {
        let _ = writeln!(std::io::stderr(), "left out: 2,000 sessions, with too few descriptors");
        return;
    }
    // A turn on select looks at every descriptor.
    for (backend, sessions) in [(Backend::Epoll, 2000), (Backend::Select, 500)] {
        let (mut server, address) = start(backend, &format!("echo --port 0 {}", localhost()));
        let config = client_config();
        let mut speaker = connect_as(address, "localhost", &config);
        let mut speaks = |what: &str| {
            speaker.write_all(format!("{what}\n").as_bytes()).unwrap();
            assert_eq!(line(&mut speaker), format!("You said: {what}\n"));
        };
        speaks("first");
        let mut idle: Vec<Stream> = Vec::with_capacity(sessions);
        for number in 0..sessions {
            let mut stream = connect_as(address, "localhost", &config);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
            idle.push(stream);
            if number % 100 == 0 {
                speaks("among the idle");
            }
        }
        // Full handshakes, which have all arrived before the first is answered.
        let full = client_config();
        server.signal(Signal::STOP);
        let mut at_once: Vec<Stream> = (0..AT_ONCE).map(|_| begin(address, &full)).collect();
        server.signal(Signal::CONT);
        speaks("among the handshakes");
        for stream in &mut at_once {
            stream.write_all(b"x\n").unwrap();
            assert_eq!(line(stream), "You said: x\n");
        }
        // Every idle session is still there.
        for stream in &mut idle {
            stream.write_all(b"x\n").unwrap();
            assert_eq!(line(stream), "You said: x\n");
        }
        speaks("last");
        server.signal(Signal::USR1);
        server.told(&format!("echo: accepted {}, open {0}, closed 0, refused 0\n", sessions + AT_ONCE + 1));
        drop((idle, at_once));
    }
}

#[test]
fn a_pipe_that_nobody_writes_to_is_an_error_at_the_start() {
    let scratch = Scratch::new();
    let pipe = scratch.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).expect("a FIFO");
    let (key, pipe) = (file("localhost.key"), pipe.display());
    let ended = run(Backend::Auto, &format!("http --port 0 --tls-cert {pipe} --tls-key {}", key.display()));
    assert_eq!((ended.code, &ended.stdout[..]), (Some(1), ""));
    let error = format!("error: certificate {pipe}: no end of the file in 5 s; is a program writing to this pipe?\n");
    assert_eq!(ended.stderr, error);
}

#[test]
fn help_shows_how_to_make_a_certificate() {
    for words in ["echo --help", "chat serve --help", "http --help", "serve --help"] {
        let ended = run(Backend::Auto, words);
        // A terminal of 80 columns breaks no line, so the command can be pasted as it stands.
        let lines = ended.stdout.lines().skip_while(|line| !line.contains("openssl req -x509"));
        let command: Vec<&str> = lines.take_while(|line| !line.starts_with("  glowplug")).collect();
        assert!(command.iter().all(|line| line.len() <= 80), "{command:?}");
        let (last, others) = command.split_last().expect("a command");
        assert!(last.ends_with("-out cert.pem") && others.iter().all(|line| line.ends_with(" \\")), "{command:?}");
        assert!(ended.stdout.contains("--tls-cert"), "{}", ended.stdout);
    }
}
