//! Addresses from any text. For property tests and for the fuzz target `address`.

use super::*;

/// Panics where a text that is taken for an address does not stand for just that one.
pub fn check(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(address) = text.parse::<Address>() else {
        let error = text.parse::<Address>().expect_err("it failed just now");
        return assert!(error.to_string().starts_with(text), "the error names {text:?}");
    };
    let spelt_out = text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
    let begins_with_an_at = matches!(&address, Address::Unix(path) if path.as_os_str().as_bytes().starts_with(b"@"));
    if !spelt_out && !begins_with_an_at {
        let again = address.to_string().parse::<Address>();
        assert_eq!(again.ok().as_ref(), Some(&address), "{text:?} reads back as shown");
    }
    assert_eq!(address.to_string().lines().count(), 1, "{address} is one line");
    match &address {
        Address::Unix(path) => {
            let named = text.strip_prefix("unix:").expect("what else is a path");
            assert_eq!(path.to_str(), Some(named.strip_prefix("//").unwrap_or(named)));
            assert_eq!(address.port(), None);
        }
        Address::Tcp(socket) => {
            let digits = text.rsplit(':').next().unwrap_or_default();
            assert_eq!(digits.parse(), address.port().ok_or(()).map_err(|()| unreachable!("TCP has ports")));
            let peer = Peer::tcp(*socket);
            assert_eq!(peer.to_string().parse().ok().map(Peer::tcp), Some(peer), "a peer reads back as shown");
            let host: IpAddr = peer.host().split('%').next().unwrap_or_default().parse().expect("a host is an address");
            let is_mapped = matches!(host, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
            assert!(peer.to_string().contains(&host.to_string()) && !is_mapped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::testing::seeds;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_address_reads_back_as_it_is_shown(
            v4 in any::<[u8; 4]>(), v6 in any::<[u16; 8]>(), zeros in 0..8usize, scope in 0..3u32, port: u16,
        ) {
            let mut v6 = v6;
            v6[..zeros].fill(0);
            let v6 = std::net::SocketAddrV6::new(v6.into(), port, 0, scope);
            for address in [SocketAddr::from((v4, port)), SocketAddr::from(v6)] {
                check(address.to_string().as_bytes());
                check(format!("tcp://{address}").as_bytes());
            }
        }

        #[test]
        fn any_text_is_an_address_or_is_not(
            text in "(tcp://|unix:|unix://|)(\\[?[0-9a-f:.%]{0,12}\\]?|[a-z/.]{0,8}|\\PC{0,6})(:[0-9]{0,6})?",
        ) {
            check(text.as_bytes());
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        seeds("address").iter().for_each(|seed| check(seed));
    }
}
