//! TLS 1.3 for the loads. A client offers a single cipher suite and a single group, so that all servers do equal
//! cryptography. A load ends with an error if a handshake agrees on another suite or group.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedCipherSuite};

/// Limit of a handshake that blocks.
const PATIENCE: Duration = Duration::from_secs(10);

const SUITES: [(&str, SupportedCipherSuite); 3] = [
    ("aes128", cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("aes256", cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("chacha20", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
];
const GROUP: &dyn SupportedKxGroup = kx_group::X25519;

pub struct Tls {
    config: ClientConfig,
    suite: SupportedCipherSuite,
}

impl Tls {
    /// A client that trusts the certificate in `root` and offers one cipher suite: `aes128`, `aes256` or `chacha20`.
    pub fn new(root: &str, suite: &str) -> Result<Tls, String> {
        let (_, suite) =
            SUITES.into_iter().find(|(name, _)| *name == suite).ok_or(format!("no such suite: {suite}"))?;
        let named = |why: String| format!("{root}: {why}");
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(Path::new(root)).map_err(|why| named(why.to_string()))?;
        roots.add(certificate).map_err(|why| named(why.to_string()))?;
        let provider = CryptoProvider { cipher_suites: vec![suite], kx_groups: vec![GROUP], ..default_provider() };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(|why| why.to_string())?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Tls { config, suite })
    }

    /// The settings of a client that never resumes a session, or of a client that keeps its own tickets.
    pub fn client(&self, resumes: bool) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        if resumes {
            config.resumption = Resumption::in_memory_sessions(1);
        }
        Arc::new(config)
    }

    pub fn session(config: &Arc<ClientConfig>) -> Result<ClientConnection, String> {
        let name = ServerName::try_from("localhost").map_err(|why| why.to_string())?;
        ClientConnection::new(config.clone(), name).map_err(|why| why.to_string())
    }

    /// Whether a finished handshake agreed on the offered suite and group, and was of the expected kind.
    pub fn check(&self, session: &ClientConnection, kind: HandshakeKind) -> Result<(), String> {
        let (suite, group) = (session.negotiated_cipher_suite(), session.negotiated_key_exchange_group());
        if suite.map(|one| one.suite()) != Some(self.suite.suite()) || group.map(|one| one.name()) != Some(GROUP.name())
        {
            return Err(format!("agreed on {suite:?} and {group:?}"));
        }
        match session.handshake_kind() {
            Some(found) if found == kind => Ok(()),
            other => Err(format!("a handshake of the kind {other:?}, not {kind:?}")),
        }
    }

    /// Shakes hands, waiting, on a stream that blocks.
    fn shake_hands(&self, stream: &mut std::net::TcpStream) -> Result<ClientConnection, String> {
        let mut session = Tls::session(&self.client(false))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|why| why.to_string())?;
        while session.is_handshaking() {
            session.complete_io(stream).map_err(|why| format!("the handshake: {why}"))?;
        }
        self.check(&session, HandshakeKind::Full)?;
        Ok(session)
    }
}

/// A connection of a load, with or without TLS.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// From a stream that blocks and is connected to one that does not block.
    pub fn new(mut stream: std::net::TcpStream, tls: Option<&Tls>) -> Result<Stream, String> {
        let session = tls.map(|tls| tls.shake_hands(&mut stream)).transpose()?;
        stream.set_nonblocking(true).map_err(|why| why.to_string())?;
        let stream = TcpStream::from_std(stream);
        Ok(match session {
            Some(session) => Stream::Tls(Box::new(StreamOwned::new(session, stream))),
            None => Stream::Plain(stream),
        })
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &mut stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(bytes),
            Stream::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
