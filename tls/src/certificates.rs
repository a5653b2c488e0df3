//! Certificates and keys out of files, and which of them a client gets.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};

use crate::files::{Reading, read};
use crate::{Error, Pair};

/// The certificates of a server, replaced together. The first is for clients that name no server, or another.
#[derive(Debug)]
pub(crate) struct Certificates {
    keys: RwLock<Vec<Arc<CertifiedKey>>>,
    /// Held while files are read again: of two reloads, the one that reads later also replaces the certificates later.
    reload: Mutex<()>,
}

impl Certificates {
    /// Reads all pairs, or says which file cannot be used.
    pub(crate) fn new(pairs: &[Pair], provider: &CryptoProvider) -> Result<Self, Error> {
        let keys = load(pairs, provider, Reading::First)?;
        Ok(Certificates { keys: RwLock::new(keys), reload: Mutex::new(()) })
    }

    /// Reads all pairs again. After an error the old certificates stay.
    pub(crate) fn reload(&self, pairs: &[Pair], provider: &CryptoProvider) -> Result<(), Error> {
        let _alone = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = load(pairs, provider, Reading::Again)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
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

fn load(pairs: &[Pair], provider: &CryptoProvider, reading: Reading) -> Result<Vec<Arc<CertifiedKey>>, Error> {
    pairs.iter().map(|pair| load_one(pair, provider, reading).map(Arc::new)).collect()
}

/// Reads one pair, and checks that the key belongs to the certificate.
pub(crate) fn load_one(pair: &Pair, provider: &CryptoProvider, reading: Reading) -> Result<CertifiedKey, Error> {
    let chain = certificates("certificate", &pair.certificate, reading)?;
    let key = private_key(&pair.key, reading)?;
    let of_the_key = |cause: String| Error::File { kind: "private key", path: pair.key.clone(), cause };
    let of_the_certificate = |cause: String| Error::File {
        kind: "certificate",
        path: pair.certificate.clone(),
        cause: format!("the certificate makes no sense: {cause}"),
    };
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            of_the_key(format!("it does not belong to the certificate {}", pair.certificate.display()))
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(ref error))
            if format!("{error:?}").contains("UnsupportedCertVersion") =>
        {
            of_the_certificate("X.509 version 3 is needed, the version with a subjectAltName".to_owned())
        }
        rustls::Error::InvalidCertificate(cause) => of_the_certificate(format!("{cause:?}")),
        // The provider has one text for all such keys.
        rustls::Error::General(_) => of_the_key(
            "the key is damaged, or not of a supported kind: RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, Ed25519"
                .to_owned(),
        ),
        error => of_the_key(error.to_string()),
    }
    })
}

/// All certificates of a file, at least one.
pub(crate) fn certificates(
    kind: &'static str,
    path: &Path,
    reading: Reading,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(kind, path, reading)?;
    let failed = |cause: String| Error::File { kind, path: path.to_owned(), cause };
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(failed("it is not PEM, or has no certificate".to_owned())),
        Err(error) => Err(failed(format!("it is not PEM: {error}"))),
    }
}

fn private_key(path: &Path, reading: Reading) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = read("private key", path, reading)?;
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

/// The root certificates of a file, also as a list.
pub(crate) fn roots_of(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Error> {
    let mut roots = RootCertStore::empty();
    let given = certificates("root certificates", path, Reading::First)?;
    for certificate in &given {
        roots.add(certificate.clone()).map_err(|error| Error::File {
            kind: "root certificates",
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
    }
    Ok((roots, given))
}
