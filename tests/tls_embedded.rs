//! TLS in a program that embeds the reactor: certificates of clients, and connections to servers.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use reactor::{Address, Backend, CloseReason, Context, Deadline, Deadlines, Handler, Input, Service};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use support::application::{Running, serve_with};
use support::command::{Scratch, eventually};
use support::{GUARD, on_every_backend};
use tls::{Agreed, Clients, Pair, Roots};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls_files").join(name)
}

/// The certificate in `name`, in DER.
fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(name)).unwrap()
}

fn server() -> tls::Server {
    tls::Server::new(&[Pair::new(file("localhost.pem"), file("localhost.key"))]).unwrap()
}

/// A callback of a [`Witness`].
#[derive(Debug)]
enum Seen {
    Opened(Agreed),
    Connected(Agreed),
    Closed(CloseReason),
}

/// Reports the outcome of handshakes, and returns received bytes. At the start connects to the server, if one is given.
struct Witness {
    seen: Sender<Seen>,
    connect: Option<(Address, tls::Client)>,
}

impl Handler for Witness {
    type Connection = ();

    fn on_start(&mut self, cx: &mut Context<'_>) {
        if let Some((address, client)) = self.connect.take() {
            cx.connect_layered(address, client.layer("localhost").unwrap(), ());
        }
    }

    fn on_open(&mut self, cx: &mut Context<'_>) {
        let agreed = cx.agreed::<Agreed>().expect("the service speaks TLS alone").clone();
        let _ = self.seen.send(Seen::Opened(agreed));
    }

    fn on_connected(&mut self, _: &mut (), cx: &mut Context<'_>) {
        let agreed = cx.agreed::<Agreed>().expect("the connection has a layer").clone();
        let _ = self.seen.send(Seen::Connected(agreed));
    }

    fn on_data(&mut self, _: &mut (), input: &mut Input<'_>, cx: &mut Context<'_>) {
        cx.write(input.take_all());
    }

    fn on_close(&mut self, _: (), reason: CloseReason, _: &mut Context<'_>) {
        let _ = self.seen.send(Seen::Closed(reason));
    }
}

fn serve(backend: Backend, server: &tls::Server) -> (Running, Receiver<Seen>) {
    let ((seen, is_seen), layer) = (channel(), server.layer());
    let make = move || Witness { seen: seen.clone(), connect: None };
    (serve_with(backend, move || Service::tcp("127.0.0.1:0", make).layered(layer), |_| {}), is_seen)
}

/// A client that shows the certificate of this name, if any.
fn client(shown: Option<&str>, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("localhost.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match shown {
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![certificate(&format!("{name}.pem"))], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    })
}

/// Whether bytes come back over a connection of this client.
fn is_let_in(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(GUARD)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket);
    let mut echoed = [0; 5];
    let outcome = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut echoed));
    if let Err(error) = &outcome {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither an answer nor an end");
    }
    outcome.is_ok() && &echoed == b"hello"
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

on_every_backend! {
    fn a_client_must_or_may_have_a_certificate_which_is_at_hand_in_on_open(backend: Backend) {
        for (clients, without) in [(Clients::MustHaveOne, false), (Clients::MayHaveOne, true)] {
            let server = server().client_certificates(file("client.pem"), clients).unwrap();
            let (running, seen) = serve(backend, &server);
            for version in VERSIONS {
                assert_eq!(is_let_in(running.address(), &client(None, version)), without, "{clients:?}, {version:?}");
                // This certificate leads to another root.
                assert!(!is_let_in(running.address(), &client(Some("localhost"), version)), "{clients:?}, {version:?}");
                let config = client(Some("client"), version);
                // The second session is resumed from a ticket, and still has the certificate.
                for resumed in [false, true] {
                    assert!(is_let_in(running.address(), &config), "{clients:?}, {version:?}");
                    let agreed = loop {
                        match seen.recv_timeout(GUARD).expect("it was let in") {
                            Seen::Opened(agreed) if without && agreed.certificates.is_empty() => {}
                            Seen::Opened(agreed) => break agreed,
                            _ => {}
                        }
                    };
                    assert_eq!(agreed.certificates, [certificate("client.pem").to_vec()]);
                    assert_eq!((agreed.resumed, agreed.server_name.as_deref()), (resumed, Some("localhost")));
                }
            }
            let refused = if without { 2 } else { 4 };
            // A client hears of its refusal a little before the server counts it.
            let count = || running.handle.stats().closed(CloseReason::Handshake);
            eventually("the refusals to be counted", || (count() >= refused).then_some(()));
            assert_eq!(count(), refused);
        }
    }

    fn an_outbound_connection_has_the_servers_certificate_at_hand(backend: Backend) {
        let (running, _) = serve(backend, &server());
        let (seen, is_seen) = channel();
        let to = (Address::Tcp(running.address()), tls::Client::new(Roots::File(&file("localhost.pem"))).unwrap());
        let connecting = connecting(backend, to, seen, Deadlines::default());
        let Seen::Connected(agreed) = is_seen.recv_timeout(GUARD).unwrap() else { panic!("it is connected first") };
        assert_eq!(agreed.certificates, [certificate("localhost.pem").to_vec()]);
        assert_eq!((agreed.version, agreed.resumed), ("TLS 1.3", false));
        drop((connecting, running));
    }

    fn an_outbound_connection_shows_the_clients_certificate(backend: Backend) {
        let (running, seen_by_server) = serve(backend, &server().client_certificates(file("client.pem"), Clients::MustHaveOne).unwrap());
        let client = tls::Client::new(Roots::File(&file("localhost.pem"))).unwrap();
        let client = client.certificate(&Pair::new(file("client.pem"), file("client.key"))).unwrap();
        let (seen, _is_seen) = channel();
        let connecting = connecting(backend, (Address::Tcp(running.address()), client), seen, Deadlines::default());
        match seen_by_server.recv_timeout(GUARD).unwrap() {
            Seen::Opened(agreed) => assert_eq!(agreed.certificates, [certificate("client.pem").to_vec()]),
            other => panic!("{other:?}"),
        }
        drop((connecting, running));
    }

    // The connection to the server is established at once, so the deadline ends the handshake.
    fn an_outbound_handshake_has_the_time_of_connecting(backend: Backend) {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let (seen, is_seen) = channel();
        let to = silent.local_addr().unwrap();
        let to = (Address::Tcp(to), tls::Client::new(Roots::File(&file("localhost.pem"))).unwrap());
        let deadlines = Deadlines { connect: Some(Duration::from_millis(200)), ..Deadlines::default() };
        let connecting = connecting(backend, to, seen, deadlines);
        let (mut accepted, _) = silent.accept().unwrap();
        accepted.set_read_timeout(Some(GUARD)).unwrap();
        match is_seen.recv_timeout(GUARD).unwrap() {
            Seen::Closed(CloseReason::TimedOut(Deadline::Connect)) => {}
            other => panic!("{other:?}"),
        }
        // A hello, unless the machine was too slow for it, and the end.
        let mut heard = Vec::new();
        let _ = accepted.read_to_end(&mut heard);
        assert!(heard.first().is_none_or(|&kind| kind == 22), "a record of another kind than handshake");
        drop(connecting);
    }

    fn a_server_that_is_not_trusted_is_told_so_and_no_handler_hears_of_it(backend: Backend) {
        let (running, is_seen_by_server) = serve(backend, &server());
        let (seen, is_seen) = channel();
        let client = tls::Client::new(Roots::File(&file("client.pem"))).unwrap();
        let connecting = connecting(backend, (Address::Tcp(running.address()), client.clone()), seen, Deadlines::default());
        match is_seen.recv_timeout(GUARD).unwrap() {
            Seen::Closed(CloseReason::Handshake) => {}
            other => panic!("{other:?}"),
        }
        let cause = client.take_cause().expect("the library has a reason");
        assert!(cause.contains("certificate"), "{cause}");
        drop((connecting, running));
        assert!(is_seen_by_server.try_recv().is_err(), "the handshake was not done");
    }
}

/// An application that connects to a server.
fn connecting(backend: Backend, to: (Address, tls::Client), seen: Sender<Seen>, deadlines: Deadlines) -> Running {
    let to = std::sync::Mutex::new(Some(to));
    let make = move || Witness { seen: seen.clone(), connect: to.lock().unwrap().take() };
    serve_with(backend, move || Service::outbound(make).deadlines(deadlines), |_| {})
}

#[test]
fn roots_that_cannot_be_used_are_errors_with_their_names() {
    let scratch = Scratch::new();
    let text = scratch.join("text");
    fs::write(&text, "no certificate\n").unwrap();
    for path in [scratch.join("missing"), text, file("client.key")] {
        let error = server().client_certificates(&path, Clients::MustHaveOne).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        let client = tls::Client::new(Roots::File(&file("localhost.pem"))).unwrap();
        let error = client.certificate(&Pair::new(&path, file("client.key"))).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
