//! How a network card spreads what it receives over its queues: Toeplitz' hash, a table behind it
//! (receive-side scaling, as Microsoft's NDIS specifies it and Linux's ethtool shows it).
//!
//! The port that a connection to a backend comes from decides on which queue the replies arrive. Of the ports
//! that fall into the flow's bucket one is taken whose replies come to the worker that has the flow, so that
//! they need not cross over.

use crate::frame::{IpAddress, Tuple};

/// Longest key, in bytes; enough for the longest input.
pub const KEY_MAX: usize = 52;

/// Bytes of two IPv6 addresses and two ports.
const INPUT_MAX: usize = 36;

/// A card's hash, and the worker that each of its results means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    key: Vec<u8>,
    workers: Vec<u8>,
    own: u8,
}

impl Spread {
    /// A card with this key, whose table sends the results of its hash to queues of these workers. None
    /// when the key is too short for an input or the table is not a power of two long: then nothing is known.
    pub fn new(key: &[u8], workers: &[u8]) -> Option<Spread> {
        let fits = (INPUT_MAX + 4..=KEY_MAX).contains(&key.len());
        let sound = fits && workers.len().is_power_of_two();
        sound.then(|| Spread { key: key.to_vec(), workers: workers.to_vec(), own: 0 })
    }

    /// The same, as worker `own` sees it.
    #[must_use]
    pub fn seen_by(self, own: u8) -> Spread {
        Spread { own, ..self }
    }

    /// Whether a queue of this worker gets what the remote end of `tuple` sends.
    pub fn is_own(&self, tuple: &Tuple) -> bool {
        self.worker_of(tuple) == self.own
    }

    /// The worker whose queue gets what the remote end of `tuple` sends.
    fn worker_of(&self, tuple: &Tuple) -> u8 {
        let mut input = [0; INPUT_MAX];
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            input[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        for address in [tuple.remote.addr, tuple.local.addr] {
            match address {
                IpAddress::Ipv4(address) => put(&address.octets()),
                IpAddress::Ipv6(address) => put(&address.octets()),
            }
        }
        put(&tuple.remote.port.to_be_bytes());
        put(&tuple.local.port.to_be_bytes());
        let hash = toeplitz(&self.key, &input[..length]);
        self.workers[hash as usize & (self.workers.len() - 1)]
    }
}

/// For each bit of the input that is set, the 32 bits of the key that begin at its place.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let mut hash = 0;
    for (at, byte) in input.iter().enumerate() {
        // 40 bits of the key: of eight windows, each begins one bit later.
        let window = key[at..at + 5].iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for bit in (0..8).filter(|bit| byte & (0x80 >> bit) != 0) {
            hash ^= (window >> (8 - bit)) as u32;
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::IpEndpoint;

    /// The key and the vectors of "Verifying the RSS Hash Calculation" (NDIS).
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];
    const VECTORS: [(&str, &str, u32); 6] = [
        ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
        ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
        ("24.19.198.95:12898", "12.22.207.184:38024", 0x5c2b_394a),
        ("38.27.205.30:48228", "209.142.163.6:2217", 0xafc7_327f),
        ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x4020_7d3d),
        ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0xdde5_1bbf),
    ];

    fn endpoint(text: &str) -> IpEndpoint {
        let socket: core::net::SocketAddr = text.parse().unwrap();
        IpEndpoint::new(socket.ip().into(), socket.port())
    }

    #[test]
    fn the_hash_is_the_cards() {
        let table: Vec<u8> = (0..128).map(|entry| entry % 5).collect();
        let spread = Spread::new(&KEY, &table).unwrap();
        for (source, destination, hash) in VECTORS {
            let tuple = Tuple { local: endpoint(destination), remote: endpoint(source) };
            let own = table[hash as usize & 127];
            assert!(spread.clone().seen_by(own).is_own(&tuple), "{source}");
            assert!(!spread.clone().seen_by(own + 1).is_own(&tuple), "{source}");
        }
    }

    #[test]
    fn what_is_not_understood_is_not_used() {
        assert_eq!(Spread::new(&KEY[..39], &[0, 1]), None);
        assert_eq!(Spread::new(&KEY, &[0, 1, 0]), None);
        assert_eq!(Spread::new(&KEY, &[]), None);
        assert_eq!(Spread::new(&[0; KEY_MAX + 1], &[0, 1]), None);
    }
}
