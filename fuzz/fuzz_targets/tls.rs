//! Bytes of a client, in any pieces, for a server's layer. The layer must neither panic nor take bytes for plaintext that no client
//! has sealed, and answers in whole records.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use reactor::{Follows, Layer};

/// Kinds of records: change of the cipher, alert, handshake, sealed (RFC 8446 section 5.1).
const KINDS: std::ops::RangeInclusive<u8> = 20..=23;

fn server() -> &'static tls::Server {
    static SERVER: OnceLock<tls::Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tls_files");
        let pair = tls::Pair::new(files.join("localhost.pem"), files.join("localhost.key"));
        tls::Server::new(&[pair]).expect("the files are there").protocols(&["http/1.1"])
    })
}

/// Checks that the server's bytes are whole records.
fn check_records(mut wire: &[u8]) {
    while let [kind, _, _, high, low, rest @ ..] = wire {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        assert!(KINDS.contains(kind) && length <= rest.len(), "{wire:?}");
        wire = &rest[length..];
    }
    assert!(wire.is_empty(), "{wire:?}");
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The first byte gives the length of the pieces.
    let Some((&length, mut rest)) = bytes.split_first() else { return };
    let mut layer: Box<dyn Layer> = server().layer()();
    let (mut plain, mut wire) = (vec![0; 1 << 16], Vec::new());
    let mut follows = Follows::Wire;
    while !rest.is_empty() && !matches!(follows, Follows::Failure | Follows::End) {
        let (piece, left) = rest.split_at(rest.len().min(usize::from(length) + 1));
        rest = left;
        let opened = layer.open(piece, &mut plain);
        assert!(!layer.is_ready() && opened.plain == 0, "no client can guess the keys");
        layer.owed(&mut wire);
        assert!(!layer.owes(), "all owed bytes were taken");
        follows = opened.follows;
    }
    layer.finish();
    layer.owed(&mut wire);
    check_records(&wire);
});
