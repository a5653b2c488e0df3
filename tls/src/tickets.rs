//! Session tickets that every loop, thread and forked process of an application can read.
//!
//! The key of a ticket is derived from a secret, drawn at the start, and from the time: each period has a key of its own. So keys need
//! no exchange, and a forked process has the keys of its parent, however long ago the fork was. A ticket is valid in its period and
//! in the next period. The price: an attacker who reads the secret out of the memory can read recorded TLS 1.2 sessions that were
//! resumed since the start; TLS 1.3 sessions have a key exchange of their own.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

/// How long one key is used.
const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);
/// A client that sends more did not get it here.
const TICKET_MAX: usize = 16 * 1024;
const NUMBER_LENGTH: usize = 8;

pub(crate) struct Tickets {
    random: SystemRandom,
    secret: [u8; 32],
}

impl Tickets {
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let random = SystemRandom::new();
        let mut secret = [0; 32];
        random.fill(&mut secret).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        Ok(Tickets { random, secret })
    }

    fn key(&self, period: u64) -> Option<LessSafeKey> {
        let prk: Prk = Salt::new(HKDF_SHA256, &period.to_be_bytes()).extract(&self.secret);
        let okm = prk.expand(&[b"session tickets"], &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }

    fn encrypt_in(&self, period: u64, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let number = period.to_be_bytes();
        let mut sealed = plain.to_vec();
        let key = self.key(period)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(number), &mut sealed).ok()?;
        Some([&number[..], &nonce, &sealed].concat())
    }

    fn decrypt_in(&self, now: u64, cipher: &[u8]) -> Option<Vec<u8>> {
        let (number, rest) = cipher.split_first_chunk::<NUMBER_LENGTH>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let period = u64::from_be_bytes(*number);
        if cipher.len() > TICKET_MAX || !(period == now || now.checked_sub(1) == Some(period)) {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key(period)?.open_in_place(nonce, Aad::from(*number), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

fn period() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() / PERIOD.as_secs()
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_in(period(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_in(period(), cipher)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_for_its_period_and_the_next() {
        let tickets = Tickets::new().unwrap();
        let ticket = tickets.encrypt_in(100, b"a session").unwrap();
        for (now, expected) in
            [(99, None), (100, Some(b"a session".to_vec())), (101, Some(b"a session".to_vec())), (102, None)]
        {
            assert_eq!(tickets.decrypt_in(now, &ticket), expected, "{now}");
        }
        assert_eq!(Tickets::new().unwrap().decrypt_in(100, &ticket), None, "another secret");
    }

    #[test]
    fn a_ticket_that_was_changed_or_cut_is_none() {
        let tickets = Tickets::new().unwrap();
        let ticket = tickets.encrypt_in(7, b"a session").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt_in(7, &changed), None, "byte {at}");
            assert_eq!(tickets.decrypt_in(7, &ticket[..at]), None, "cut at {at}");
        }
        assert_eq!(tickets.decrypt_in(7, &vec![0; TICKET_MAX + 1]), None);
    }
}
