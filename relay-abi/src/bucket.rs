//! The bucket of a flow: the unit of ownership.
//!
//! The last step of the hash is an exclusive-or with the destination port, so that the source port
//! of a backend leg can be chosen such that the backend's replies fall into the flow's bucket: the
//! low twelve bits of the port follow from the rest of the 4-tuple.

/// Number of buckets. A power of two, and not more than there are ports, see [`local_port`].
pub const BUCKETS: u32 = 4096;

const _: () = assert!(BUCKETS.is_power_of_two() && BUCKETS <= 1 << 16);

/// An address as four 32-bit words in host order; an IPv4 address is `[0, 0, 0xffff, address]`,
/// as in an IPv4-mapped IPv6 address.
pub type Words = [u32; 4];

/// The words of an IPv4 address.
#[inline(always)]
pub const fn v4(octets: [u8; 4]) -> Words {
    [0, 0, 0xffff, u32::from_be_bytes(octets)]
}

/// The words of an IPv6 address.
#[inline(always)]
pub const fn v6(o: &[u8; 16]) -> Words {
    [
        u32::from_be_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_be_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_be_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_be_bytes([o[12], o[13], o[14], o[15]]),
    ]
}

/// The bucket of a frame that arrives from `source:source_port` at `destination:destination_port`.
#[inline(always)]
pub const fn bucket(
    source: &Words,
    source_port: u16,
    destination: &Words,
    destination_port: u16,
) -> u32 {
    (mix(source, source_port, destination) ^ destination_port as u32) & (BUCKETS - 1)
}

/// The low twelve bits that a local port must have so that frames from `remote:remote_port` to
/// `local` fall into `bucket`. Every port that is congruent to it modulo [`BUCKETS`] will do.
#[inline(always)]
pub const fn local_port(remote: &Words, remote_port: u16, local: &Words, bucket: u32) -> u16 {
    ((mix(remote, remote_port, local) ^ bucket) & (BUCKETS - 1)) as u16
}

/// Murmur3's mixing over all words but the destination port.
#[inline(always)]
const fn mix(source: &Words, source_port: u16, destination: &Words) -> u32 {
    let mut h = 0x9e37_79b9 ^ source_port as u32;
    // Unrolled: the BPF verifier then needs no bounds on an index.
    h = round(h, source[0]);
    h = round(h, source[1]);
    h = round(h, source[2]);
    h = round(h, source[3]);
    h = round(h, destination[0]);
    h = round(h, destination[1]);
    h = round(h, destination[2]);
    h = round(h, destination[3]);
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[inline(always)]
const fn round(h: u32, word: u32) -> u32 {
    let k = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (h ^ k).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_port_puts_the_reply_into_the_bucket() {
        let (backend, snat) = (v4([10, 99, 2, 10]), v4([10, 99, 2, 100]));
        for wanted in 0..BUCKETS {
            let low = local_port(&backend, 8080, &snat, wanted);
            for high in 0..16u16 {
                let port = low | high << 12;
                assert_eq!(bucket(&backend, 8080, &snat, port), wanted);
            }
        }
    }

    #[test]
    fn source_ports_spread_over_the_buckets() {
        let (client, vip) = (v4([10, 99, 1, 10]), v4([10, 99, 1, 100]));
        let mut hits = [0u32; 16];
        for port in 1024..=u16::MAX {
            hits[(bucket(&client, port, &vip, 443) / (BUCKETS / 16)) as usize] += 1;
        }
        let mean = 64_512 / 16;
        assert!(hits.iter().all(|h| h.abs_diff(mean) < mean / 5), "{hits:?}");
    }
}
