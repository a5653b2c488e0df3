//! The client's side: the server's certificate and name are checked.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use reactor::Layer;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::certificates::roots_of;
use crate::layer::{Cause, Tls};
use crate::{Error, provider};

/// Which roots a server's certificate has to lead to.
///
/// ```
/// let roots = tls::Roots::File("ca.pem".as_ref());
/// # let _ = roots;
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// Those of the system.
    System,
    /// Those of this file, PEM, and no others.
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
        let roots = match roots {
            Roots::File(path) => roots_of(path)?,
            Roots::System => of_the_system()?,
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Client { config: Arc::new(config), cause: Cause::default() })
    }

    /// The application protocols that it speaks (ALPN), the preferred one first. By default none.
    pub fn protocols(mut self, protocols: &[&str]) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// The layer of one connection to the server of this name, a DNS name or an IP address: its certificate has to have it.
    ///
    /// # Errors
    /// [`Error::Name`] when it is neither.
    pub fn layer(&self, name: &str) -> Result<Box<dyn Layer>, Error> {
        let server = ServerName::try_from(name.to_owned()).map_err(|_| Error::Name { name: name.to_owned() })?;
        let tls = ClientConnection::new(self.config.clone(), server)?;
        Ok(Box::new(Tls::new(tls.into(), Some(self.cause.clone()))))
    }

    /// Why the latest handshake failed, or connection, where it was TLS that failed; once.
    pub fn take_cause(&self) -> Option<String> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).take()
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
