//! Passive open without state: SYN cookies (RFC 4987 section 3.6).
//!
//! The whole state of a half-open connection travels in the SYN-ACK's sequence number: three bits
//! for the MSS, four for the window scale, one for SACK, and 24 of a keyed hash over all that
//! identifies the handshake. Where timestamps are used, the low six bits of ours carry six more
//! bits of the hash. All nodes have the same key, so any of them can complete a handshake that
//! another began.

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::hmac;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use ring::hmac;
use smoltcp::wire::{TcpControl, TcpSeqNumber, TcpTimestampRepr};

use super::config::Config;
use super::segment::{blank, syn_mss};
use super::state::Timestamps;
use crate::frame::{IpAddress, IpEndpoint, TcpRepr, Tuple};
use crate::reason::Reason;
use crate::time::Instant;

/// Length of an epoch; a cookie is good in its own and in the neighbouring ones, which leaves room
/// for the SYN-ACK's journey and for clocks that differ.
const EPOCH_SECONDS: u64 = 64;
/// The MSS values that a cookie can tell; a peer's is rounded down to one of them. They are those
/// of tunnels, Ethernet and jumbo frames, over both families.
const MSS_TABLE: [u16; 8] = [216, 536, 1220, 1360, 1440, 1460, 8940, 8960];
/// The window scale of a peer that does not scale: above every legal one.
const NO_SCALE: u8 = 15;
/// Bits of a timestamp that carry a part of the hash.
const TIMESTAMP_BITS: u32 = 0x3f;

/// Makes and checks SYN cookies. The key is common to the cluster.
#[derive(Clone)]
pub struct Cookies {
    key: hmac::Key,
}

impl core::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

/// A handshake that was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Our initial sequence number.
    pub iss: u32,
    /// The peer's initial sequence number.
    pub irs: u32,
    /// The peer's MSS, or a little less.
    pub peer_mss: u16,
    /// Shift of the peer's window field; `None` when windows are not scaled in either direction.
    pub send_wscale: Option<u8>,
    /// Shift of our window field, if windows are scaled.
    pub receive_wscale: u8,
    /// The peer understands SACK.
    pub sack: bool,
    /// Both sides use timestamps.
    pub timestamps: Option<Timestamps>,
}

impl Cookies {
    /// Cookies under a secret of the cluster.
    pub fn new(key: [u8; 32]) -> Self {
        Cookies { key: hmac::Key::new(hmac::HMAC_SHA256, &key) }
    }

    /// The SYN-ACK that answers `syn`. `now` is a clock on which all nodes agree within seconds.
    pub fn syn_ack(
        &self,
        now: Instant,
        tuple: &Tuple,
        syn: &TcpRepr,
        config: &Config,
    ) -> TcpRepr<'static> {
        let irs = syn.seq_number.0 as u32;
        let mss = syn_mss(tuple, syn);
        let index = MSS_TABLE.iter().rposition(|entry| *entry <= mss).unwrap_or(0);
        let scale = syn.window_scale.unwrap_or(NO_SCALE);
        let options = (index as u8) << 5 | (scale & 0xf) << 1 | u8::from(syn.sack_permitted);
        let hash = self.hash(tuple, irs, epoch(now), (options, syn.timestamp.is_some()));
        let iss = hash << 8 | u32::from(options);
        TcpRepr {
            src_port: tuple.local.port,
            dst_port: tuple.remote.port,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(iss as i32),
            ack_number: Some(syn.seq_number + 1),
            window_len: config.syn_window(),
            window_scale: syn.window_scale.map(|_| config.window_scale()),
            max_seg_size: Some(config.mss_for(tuple.remote.addr)),
            sack_permitted: syn.sack_permitted,
            timestamp: syn.timestamp.map(|theirs| {
                let clock = self.timestamps(tuple, 0).value(now);
                TcpTimestampRepr::new(sign_timestamp(clock, hash), theirs.tsval)
            }),
            ..blank()
        }
    }

    /// Checks the segment that completes a handshake. Anything else that belongs to no connection
    /// fails; it must be dropped silently, because the first segment of a client's data may
    /// overtake its ACK.
    pub fn check(
        &self,
        now: Instant,
        tuple: &Tuple,
        ack: &TcpRepr,
        config: &Config,
    ) -> Result<Accepted, Reason> {
        if matches!(ack.control, TcpControl::Syn | TcpControl::Rst) {
            return Err(Reason::CookieInvalid);
        }
        let acknowledged = ack.ack_number.ok_or(Reason::CookieInvalid)?;
        let iss = (acknowledged.0 as u32).wrapping_sub(1);
        let irs = (ack.seq_number.0 as u32).wrapping_sub(1);
        let options = iss as u8;
        let claim = (options, ack.timestamp.is_some());
        let is_good = |epoch: u64| {
            let hash = self.hash(tuple, irs, epoch, claim);
            let stamp = ack
                .timestamp
                .is_none_or(|stamp| stamp.tsecr & TIMESTAMP_BITS == hash >> 24 & TIMESTAMP_BITS);
            hash << 8 == iss & !0xff && stamp
        };
        let current = epoch(now);
        let epochs = [Some(current), current.checked_sub(1), current.checked_add(1)];
        if !epochs.into_iter().flatten().any(is_good) {
            return Err(Reason::CookieInvalid);
        }
        let scale = options >> 1 & 0xf;
        Ok(Accepted {
            iss,
            irs,
            peer_mss: MSS_TABLE[usize::from(options >> 5)],
            send_wscale: (scale != NO_SCALE).then_some(scale),
            receive_wscale: config.window_scale(),
            sack: options & 1 == 1,
            timestamps: ack.timestamp.map(|stamp| {
                let mut timestamps = self.timestamps(tuple, stamp.tsval);
                // Another node may have answered the SYN by a clock that is ahead of ours.
                timestamps.raise(now, stamp.tsecr);
                timestamps
            }),
        })
    }

    /// The timestamps of a connection have an origin that follows from its ends (RFC 7323 section
    /// 5.4) and not from the node.
    fn timestamps(&self, tuple: &Tuple, recent: u32) -> Timestamps {
        let mut message = [b't'; 37];
        message[..36].copy_from_slice(&identity(tuple));
        Timestamps { recent, offset: self.tag(&message) }
    }

    /// 32 bits that only who has the key can tell: 24 go into the sequence number, where the hash
    /// is shifted by the options, and six of the rest into the timestamp.
    fn hash(&self, tuple: &Tuple, irs: u32, epoch: u64, (options, stamped): (u8, bool)) -> u32 {
        let mut message = [0; 36 + 4 + 8 + 2];
        message[..36].copy_from_slice(&identity(tuple));
        message[36..40].copy_from_slice(&irs.to_be_bytes());
        message[40..48].copy_from_slice(&epoch.to_be_bytes());
        message[48] = options;
        message[49] = u8::from(stamped);
        self.tag(&message)
    }

    fn tag(&self, message: &[u8]) -> u32 {
        let tag = hmac::sign(&self.key, message);
        tag.as_ref().iter().take(4).fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    }
}

fn epoch(now: Instant) -> u64 {
    now.as_millis() / 1000 / EPOCH_SECONDS
}

/// The newest timestamp, not later than `clock`, that ends with bits of the hash.
fn sign_timestamp(clock: u32, hash: u32) -> u32 {
    let signed = clock & !TIMESTAMP_BITS | hash >> 24 & TIMESTAMP_BITS;
    if signed & TIMESTAMP_BITS > clock & TIMESTAMP_BITS {
        signed.wrapping_sub(TIMESTAMP_BITS + 1)
    } else {
        signed
    }
}

/// Both ends as bytes, IPv4 addresses in their IPv4-mapped form.
fn identity(tuple: &Tuple) -> [u8; 36] {
    let mut bytes = [0; 36];
    let (local, remote) = bytes.split_at_mut(18);
    for (part, IpEndpoint { addr, port }) in [(local, tuple.local), (remote, tuple.remote)] {
        let octets = match addr {
            IpAddress::Ipv4(address) => address.to_ipv6_mapped().octets(),
            IpAddress::Ipv6(address) => address.octets(),
        };
        part[..16].copy_from_slice(&octets);
        part[16..].copy_from_slice(&port.to_be_bytes());
    }
    bytes
}
