//! A hash of content, for entity tags: SipHash-2-4 with 128 bits (Aumasson and Bernstein, 2012). XXH128 would be faster
//! and SHA-256 stronger; SipHash is short, and two states of a file collide only by chance, once in 2¹²⁸. The key is
//! public and constant, so all machines agree. Hashing 16 KiB takes some ten microseconds, once for each change.

/// Hashes `bytes`.
pub(super) fn digest(bytes: &[u8]) -> u128 {
    hash(KEY, bytes)
}

/// `glowplug/etag/01`, in two words.
const KEY: [u64; 2] = [u64::from_le_bytes(*b"glowplug"), u64::from_le_bytes(*b"/etag/01")];

fn hash([key_0, key_1]: [u64; 2], bytes: &[u8]) -> u128 {
    let mut state = State([
        key_0 ^ 0x736f_6d65_7073_6575,
        // The last byte selects the output of 128 bits.
        key_1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        key_0 ^ 0x6c79_6765_6e65_7261,
        key_1 ^ 0x7465_6462_7974_6573,
    ]);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        state.take(u64::from_le_bytes(word.try_into().unwrap_or_default()));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    last[7] = bytes.len() as u8;
    state.take(u64::from_le_bytes(last));
    let low = state.end(0xee, 2);
    let high = state.end(0xdd, 1);
    u128::from(high) << 64 | u128::from(low)
}

struct State([u64; 4]);

impl State {
    fn take(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    /// Returns one half of the hash. `mark` goes into the word at `at`.
    fn end(&mut self, mark: u64, at: usize) -> u64 {
        self.0[at] ^= mark;
        (0..4).for_each(|_| self.round());
        self.0.iter().fold(0, |all, word| all ^ word)
    }

    fn round(&mut self) {
        let [v0, v1, v2, v3] = &mut self.0;
        *v0 = v0.wrapping_add(*v1);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v3);
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.wrapping_add(*v3);
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.wrapping_add(*v1);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v2 = v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first rows of `vectors_sip128` in the authors' reference implementation: the key is 00 01 … 0f, and the
    /// messages are nothing, 00, 00 01, and so on.
    #[test]
    fn it_is_the_hash_of_its_authors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let bytes: Vec<u8> = (0..64).collect();
        for (length, expected) in [
            (0, "a3817f04ba25a8e66df67214c7550293"),
            (1, "da87c1d86b99af44347659119b22fc45"),
            (2, "8177228da4a45dc7fca38bdef60affe4"),
            (15, "5493e99933b0a8117e08ec0f97cfc3d9"),
        ] {
            let hash = hash(key, &bytes[..length]);
            let text: String = hash.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text, expected, "of {length} bytes");
        }
    }

    #[test]
    fn lengths_and_places_count() {
        let hashes = [&b""[..], b"\0", b"\0\0", &[0; 8], &[0; 256], b"ab", b"ba"].map(digest);
        for (at, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..at].contains(hash), "{at}");
        }
    }
}
