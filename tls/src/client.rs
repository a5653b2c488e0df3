//! The client's side, which checks the certificate and the name of the server.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use reactor::Layer;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::certificates::{load_one, roots_of};
use crate::files::Reading;
use crate::layer::{Cause, Tls};
use crate::{Error, Pair, provider};

/// The root certificates that a client trusts.
///
/// ```
/// let roots = tls::Roots::File("ca.pem".as_ref());
/// # let _ = roots;
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// The root certificates of the system.
    System,
    /// The certificates of this PEM file alone.
    File(&'a Path),
}

/// Makes layers for [`Context::connect_layered`](reactor::Context::connect_layered). Clones share sessions, which later
/// connections resume.
///
/// ```no_run
/// # fn on_start(cx: &mut reactor::Context<'_>) -> Result<(), Box<dyn std::error::Error>> {
/// let client = tls::Client::new(tls::Roots::System)?;
/// let address = reactor::Address::resolve("example.org:443")?.remove(0);
/// cx.connect_layered(address, client.layer("example.org")?, ());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    cause: Cause,
}

impl Client {
    /// **Blocks** while the roots are read.
    ///
    /// # Errors
    /// [`Error::File`] when the file has no certificates; [`Error::NoRoots`] when the system has none.
    pub fn new(roots: Roots<'_>) -> Result<Self, Error> {
        let (roots, given) = match roots {
            Roots::File(path) => roots_of(path)?,
            Roots::System => (of_the_system()?, Vec::new()),
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = verifier.build().map_err(|error| Error::NoRoots { cause: error.to_string() })?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { verifier, given }))
            .with_no_client_auth();
        Ok(Client { config: Arc::new(config), cause: Cause::default() })
    }

    /// Sets the application protocols of the client (ALPN), the preferred protocol first. By default none.
    pub fn protocols(mut self, protocols: &[&str]) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Shows this certificate to servers that ask for one. **Blocks** while the files are read; a pipe has 5 s to bring its end.
    ///
    /// ```no_run
    /// let mine = tls::Pair::new("client.pem", "client.key");
    /// let client = tls::Client::new(tls::Roots::System)?.certificate(&mine)?;
    /// # let _ = client;
    /// # Ok::<(), tls::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::File`] as for [`Server::new`](crate::Server::new).
    pub fn certificate(mut self, pair: &Pair) -> Result<Self, Error> {
        let shown = SingleCertAndKey::from(load_one(pair, &provider(), Reading::First)?);
        let config = Arc::make_mut(&mut self.config);
        config.client_auth_cert_resolver = Arc::new(shown);
        // A session that began without the certificate must not be resumed with it.
        config.resumption = Resumption::default();
        Ok(self)
    }

    /// Makes the layer of one connection to the server `name`, a DNS name or an IP address. The handshake fails if the server's
    /// certificate is not for `name`.
    ///
    /// # Errors
    /// [`Error::Name`] when `name` is neither a DNS name nor an IP address.
    pub fn layer(&self, name: &str) -> Result<Box<dyn Layer>, Error> {
        let server = ServerName::try_from(name.to_owned()).map_err(|_| Error::Name { name: name.to_owned() })?;
        let tls = ClientConnection::new(self.config.clone(), server)?;
        Ok(Box::new(Tls::new(tls.into(), Some(self.cause.clone()))))
    }

    /// Takes the reason of the latest TLS failure of a layer of this client, in a handshake or later. `None` without a failure since
    /// the last call.
    pub fn take_cause(&self) -> Option<String> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The check of the library, with one exception: a server may present the very certificate that the client was given, even if the
/// certificate is marked as an authority's. `openssl req -x509` marks every certificate in this way.
#[derive(Debug)]
struct Verifier {
    verifier: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let outcome = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match outcome {
            // The library checks the mark after the dates and before the name.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(ref error)))
                if format!("{error:?}").contains("CaUsedAsEndEntity") && self.given.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn of_the_system() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first().map_or("there are none".to_owned(), ToString::to_string);
        return Err(Error::NoRoots { cause });
    }
    Ok(roots)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
