//! TLS for services and clients of the reactor: rustls as a layer between the bytes of a connection and its socket.
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod cause;
mod certificates;
mod client;
mod files;
mod layer;
mod server;
mod tickets;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use client::{Client, Roots};
pub use layer::Agreed;
pub use server::{Clients, Server};

/// The files of one certificate: PEM, the leaf first in the first file, its private key in the second.
///
/// ```
/// let pair = tls::Pair::new("cert.pem", "key.pem");
/// assert_eq!(pair.key, std::path::Path::new("key.pem"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The server's certificate, followed by the intermediate certificates up to a root.
    pub certificate: PathBuf,
    /// The private key, not encrypted: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

impl Pair {
    /// Names the files of a certificate and its key. [`Server::new`] opens them.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Pair { certificate: certificate.into(), key: key.into() }
    }
}

/// The reason why a file, a name or a setting cannot be used. The text is one line and names the file or the name.
///
/// ```
/// let error = tls::Server::new(&[tls::Pair::new("/no/cert.pem", "/no/key.pem")]).unwrap_err();
/// assert!(error.to_string().starts_with("certificate /no/cert.pem: "), "{error}");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read, or does not have the expected content.
    #[error("{kind} {}: {cause}", path.display())]
    File {
        /// The expected content, such as `certificate`.
        kind: &'static str,
        /// Its path.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
    /// The system has no root certificates.
    #[error("no root certificates of the system can be read: {cause}")]
    NoRoots {
        /// The cause.
        cause: String,
    },
    /// The name of a server is neither a DNS name nor an IP address.
    #[error("{name:?} is no name that a certificate could have")]
    Name {
        /// The name.
        name: String,
    },
    /// The library refuses a setting.
    #[error("TLS: {0}")]
    Setting(#[from] rustls::Error),
}

/// The one crypto provider. See ARCHITECTURE.md for the choice.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
