//! Certificates and keys out of files, and which of them a client gets.

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

use crate::{Error, Pair};

/// The certificates of a server, replaced together. The first is for clients that name no server, or another.
#[derive(Debug)]
pub(crate) struct Certificates(RwLock<Vec<Arc<CertifiedKey>>>);

impl Certificates {
    pub(crate) fn new(keys: Vec<Arc<CertifiedKey>>) -> Self {
        Certificates(RwLock::new(keys))
    }

    pub(crate) fn replace(&self, keys: Vec<Arc<CertifiedKey>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let fits = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let has_name = |key: &CertifiedKey| match (&name, key.end_entity_cert()) {
            (Some(name), Ok(leaf)) => {
                ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
            }
            _ => false,
        };
        // A name may have several certificates, one for each kind of key.
        let named = keys.iter().find(|key| keys.len() > 1 && has_name(key) && fits(key));
        named.or_else(|| keys.iter().find(|key| fits(key))).or(keys.first()).cloned()
    }
}

/// Reads all pairs, or says which file cannot be used. **Blocks** while the files are read.
pub(crate) fn load(pairs: &[Pair], provider: &CryptoProvider) -> Result<Vec<Arc<CertifiedKey>>, Error> {
    pairs.iter().map(|pair| load_one(pair, provider).map(Arc::new)).collect()
}

fn load_one(pair: &Pair, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let chain = certificates("certificate", &pair.certificate)?;
    let key = private_key(&pair.key)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let cause = format!("it does not belong to the certificate {}", pair.certificate.display());
            Error::File { kind: "private key", path: pair.key.clone(), cause }
        }
        rustls::Error::InvalidCertificate(cause) => Error::File {
            kind: "certificate",
            path: pair.certificate.clone(),
            cause: format!("the certificate makes no sense: {cause:?}"),
        },
        error => Error::File { kind: "private key", path: pair.key.clone(), cause: error.to_string() },
    })
}

fn read(kind: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |cause: String| Error::File { kind, path: path.to_owned(), cause };
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    match bytes.is_empty() {
        true => Err(failed("the file is empty".to_owned())),
        false => Ok(bytes),
    }
}

/// All certificates of a file, at least one.
pub(crate) fn certificates(kind: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(kind, path)?;
    let failed = |cause: String| Error::File { kind, path: path.to_owned(), cause };
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(failed("it is not PEM, or has no certificate".to_owned())),
        Err(error) => Err(failed(format!("it is not PEM: {error}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = read("private key", path)?;
    let failed = |cause: String| Error::File { kind: "private key", path: path.to_owned(), cause };
    let has = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    if has(b"ENCRYPTED") && has(b"-----BEGIN ") {
        return Err(failed("the key is encrypted; `openssl pkey` writes it without a passphrase".to_owned()));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => failed("it is not PEM, or has no private key".to_owned()),
        error => failed(format!("it is not PEM: {error}")),
    })
}

/// Root certificates of a file.
pub(crate) fn roots_of(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("root certificates", path)? {
        roots.add(certificate).map_err(|error| Error::File {
            kind: "root certificates",
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
    }
    Ok(roots)
}
