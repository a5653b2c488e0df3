//! The reason of a TLS failure in words for the user of a client and the reader of a log.

use rustls::{CertificateError, Error, InvalidMessage};

/// One line. `handshake`: the failure came before the end of the handshake.
pub(crate) fn in_words(error: &Error, handshake: bool) -> String {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) if handshake => {
            "the other side does not speak TLS".to_owned()
        }
        Error::InvalidCertificate(cause) => certificate(cause).unwrap_or_else(|| error.to_string()),
        _ => error.to_string(),
    }
}

/// `None`: the library's text is clear enough.
fn certificate(cause: &CertificateError) -> Option<String> {
    Some(match cause {
        CertificateError::UnknownIssuer => "no trusted authority has signed the peer's certificate".to_owned(),
        CertificateError::Other(error) if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            "the peer's certificate is an authority's own (self-signed), and is not among the trusted ones".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / (24 * 60 * 60);
            format!("the peer's certificate expired {days} days ago")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let days = not_before.as_secs().saturating_sub(time.as_secs()) / (24 * 60 * 60);
            format!("the peer's certificate becomes valid in {days} days; is a clock wrong?")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

    use super::*;

    #[test]
    fn failures_that_users_meet_are_said_in_words() {
        let day = |number: u64| UnixTime::since_unix_epoch(Duration::from_secs(number * 24 * 60 * 60));
        let said = |cause| in_words(&Error::InvalidCertificate(cause), true);
        let expired = CertificateError::ExpiredContext { time: day(12), not_after: day(9) };
        assert_eq!(said(expired), "the peer's certificate expired 3 days ago");
        let early = CertificateError::NotValidYetContext { time: day(9), not_before: day(12) };
        assert!(said(early).starts_with("the peer's certificate becomes valid in 3 days"));
        assert!(said(CertificateError::UnknownIssuer).starts_with("no trusted authority"));
        assert_eq!(said(CertificateError::Revoked), "invalid peer certificate: Revoked");
        let plain = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(in_words(&plain, true), "the other side does not speak TLS");
        // In an established session the bytes are damaged.
        assert!(in_words(&plain, false).contains("InvalidContentType"));
    }
}
