//! TLS after INFO, with a scripted server on rustls.

use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use services::nats::Cause;

use crate::recorder::{Node, said};
use crate::server::{INFO, Peer, Server};
use crate::support::on_every_backend;

pub fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/tls_files", name].iter().collect()
}

/// A client that trusts the tests' certificate.
pub fn trusting() -> tls::Client {
    tls::Client::new(tls::Roots::File(&file("localhost.pem"))).expect("it is a certificate")
}

fn config() -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(file("localhost.pem")).expect("it is a certificate");
    let key = PrivateKeyDer::from_pem_file(file("localhost.key")).expect("it is a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("the provider has them").with_no_client_auth().with_single_cert(vec![certificate], key);
    Arc::new(config.expect("the key belongs to the certificate"))
}

fn with_tls() -> String {
    INFO.replace("\"headers\"", "\"tls_required\":true,\"headers\"")
}

on_every_backend! {
    fn the_handshake_follows_the_servers_info(backend: Backend) {
        let server = Server::start();
        let port = server.place().rsplit_once(':').expect("it has a port").1.to_owned();
        let node = Node::with(backend, &[format!("tls://localhost:{port}")], None, Some(trusting()));
        // In two pieces, and not a byte of the client in between.
        let info = format!("INFO {}\r\n", with_tls());
        let (first, second) = info.split_at(20);
        let (mut peer, connect) = loop {
            let mut plain = server.accept();
            plain.send(first);
            plain.send(second);
            let connection = ServerConnection::new(config()).expect("the configuration is good");
            let mut peer = Peer(BufReader::new(StreamOwned::new(connection, plain.0.into_inner())));
            if let Ok(connect) = peer.prove() {
                break (peer, connect);
            }
        };
        assert!(connect.contains(r#""tls_required":true"#), "{connect}");
        node.connected();
        node.subscribe("a");
        peer.expect("SUB a 1");
        node.say(said("b", "secret"));
        for line in ["PUB b 6", "secret"] {
            peer.expect(line);
        }
        peer.send("MSG a 1 2\r\nhi\r\n");
        assert_eq!(node.heard(), (1, "a".into(), "hi".into()));
    }

    fn a_server_without_tls_or_without_info_is_not_spoken_to(backend: Backend) {
        let server = Server::start();
        let node = Node::with(backend, &[format!("tls://{}", server.place())], None, Some(trusting()));
        for (first, cause) in [
            (format!("INFO {INFO}\r\n"), "the server has no TLS"),
            ("PING\r\n".to_owned(), "the server does not begin with INFO"),
        ] {
            assert_eq!(server.fail(&node, |peer| peer.send(&first)), Cause::Tls(cause.into()));
        }
        let first = format!("INFO {}\r\nthis is no TLS, whatever it is", with_tls());
        assert!(matches!(server.fail(&node, |peer| peer.send(&first)), Cause::Tls(_)));
    }

    fn a_client_without_a_layer_does_not_speak_plaintext_to_a_tls_url(backend: Backend) {
        let server = Server::start();
        let node = Node::start(backend, &[format!("tls://{}", server.place())]);
        assert_eq!(node.failed(), Cause::Tls("the client has no TLS".into()));
    }
}
