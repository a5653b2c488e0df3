//! The server's side: certificates, tickets, and a layer for each connection.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use reactor::Layer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ServerConfig, ServerConnection};

use crate::certificates::{Certificates, roots_of};
use crate::layer::Tls;
use crate::tickets::Tickets;
use crate::{Error, Pair, provider};

/// Makes the layers of a service's connections. Clones share certificates and ticket keys, also if the clones differ in ALPN:
///
/// ```no_run
/// let server = tls::Server::new(&[tls::Pair::new("cert.pem", "key.pem")])?;
/// let http = server.clone().protocols(&["http/1.1", "http/1.0"]);
/// // Service::tcp("0.0.0.0:443", …).layered(http.layer())
/// # Ok::<(), tls::Error>(())
/// ```
#[derive(Clone)]
pub struct Server {
    pairs: Arc<[Pair]>,
    certificates: Arc<Certificates>,
    config: Arc<ServerConfig>,
}

/// Whether clients need a certificate of their own.
///
/// ```
/// assert_ne!(tls::Clients::MayHaveOne, tls::Clients::MustHaveOne);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Clients may connect without a certificate. If a client presents a certificate, the certificate has to be valid.
    MayHaveOne,
    /// The handshake of a client without a valid certificate fails.
    MustHaveOne,
}

impl Server {
    /// Reads the files of all pairs. Clients that ask for no name, or for a name without a certificate, get the first pair.
    /// **Blocks** while the files are read; a pipe has 5 s to bring its end.
    ///
    /// # Errors
    /// [`Error::File`] for the first file that is missing, empty, larger than 16 MiB, not PEM or encrypted, and for a key that does
    /// not belong to its certificate.
    ///
    /// # Panics
    /// Without a pair.
    pub fn new(pairs: &[Pair]) -> Result<Self, Error> {
        assert!(!pairs.is_empty(), "a server has a certificate");
        let provider = provider();
        let certificates = Arc::new(Certificates::new(pairs, &provider)?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        config.ticketer = Arc::new(Tickets::new()?);
        // A ticket holds the whole session, so any process can resume the session.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Server { pairs: pairs.into(), certificates, config: Arc::new(config) })
    }

    /// Sets the application protocols of the service (ALPN), the preferred protocol first. The handshake of a client fails if the client
    /// names other protocols only. By default none: the protocols of clients are ignored.
    pub fn protocols(mut self, protocols: &[&str]) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Asks clients for a certificate that leads to one of the roots in this file. [`Agreed`](crate::Agreed) has it.
    /// **Blocks** while the file is read.
    ///
    /// # Errors
    /// [`Error::File`] when the file has no root certificates.
    pub fn client_certificates(mut self, roots: impl AsRef<Path>, clients: Clients) -> Result<Self, Error> {
        let path = roots.as_ref();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots_of(path)?.0), provider());
        let verifier = match clients {
            Clients::MayHaveOne => verifier.allow_unauthenticated(),
            Clients::MustHaveOne => verifier,
        };
        let verifier = verifier.build().map_err(|error| Error::File {
            kind: "root certificates",
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
        let before = &self.config;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.certificates.clone());
        config.alpn_protocols.clone_from(&before.alpn_protocols);
        // A session that began without a certificate must not be resumed here.
        config.ticketer = Arc::new(Tickets::new()?);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        self.config = Arc::new(config);
        Ok(self)
    }

    /// Returns the function that makes a layer for each connection, for [`Service::layered`](reactor::Service::layered).
    pub fn layer(&self) -> impl Fn() -> Box<dyn Layer> + Clone + Send + Sync + 'static {
        let config = self.config.clone();
        move || {
            let tls = ServerConnection::new(config.clone()).expect("no setting is refused that was not refused before");
            Box::new(Tls::new(tls.into(), None))
        }
    }

    /// Reads the files of all pairs again, for this server and its clones. Later connections get the new certificates; established
    /// connections and tickets stay valid. The roots of [`client_certificates`](Self::client_certificates) are not read again.
    /// **Blocks** while the files are read: a handler, and the function of
    /// [`Application::on_reopen`](reactor::Application::on_reopen), call `reload` on a thread.
    ///
    /// # Errors
    /// As [`Server::new`], and [`Error::File`] for a pipe, which can be read only once; then all old certificates stay.
    pub fn reload(&self) -> Result<(), Error> {
        self.certificates.reload(&self.pairs, &provider())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("pairs", &self.pairs).finish_non_exhaustive()
    }
}
