//! Looks at every frame that a relay sends: no byte of a stream ever has two values, whichever
//! relay sends it. Toward clients that is what keeps a (key, sequence number) from protecting two
//! records; toward backends it keeps bytes from being doubled or lost.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
};

/// All streams from relays.
#[derive(Default)]
pub struct Wire {
    streams: BTreeMap<(SocketAddr, SocketAddr), Stream>,
    /// Hash of everything that was seen.
    digest: u64,
    pub frames: u64,
    /// By the port that was reset.
    pub resets: BTreeMap<u16, u32>,
    /// Of streams that are over.
    records: Records,
    pub conflicts: Vec<String>,
}

/// Both ends of a stream: the sender's first.
pub type Ends = (SocketAddr, SocketAddr);

/// A segment of TCP as it is on the wire.
pub struct Seen<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub packet: TcpPacket<&'a [u8]>,
}

#[derive(Default)]
struct Stream {
    first: u32,
    bytes: Vec<u8>,
    /// Which relays have sent each byte, one bit each; zero: nobody has.
    senders: Vec<u8>,
}

/// Records toward clients that were seen on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// All of them.
    pub seen: u64,
    /// Those of which more than one relay has sent bytes, which were equal.
    pub pairs: u64,
}

/// Content type, version, length.
const RECORD_HEADER: usize = 5;

/// Streams of a run are far shorter; what lies beyond belongs to no stream.
const STREAM_MAX: usize = 16 << 20;

impl Wire {
    /// A hash of all frames so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Takes in a segment that `relay` sent.
    pub fn watch(&mut self, relay: usize, seen: &Seen<'_>) {
        let packet = &seen.packet;
        if packet.rst() {
            *self.resets.entry(seen.destination.port()).or_default() += 1;
            return;
        }
        let sequence = packet.seq_number().0 as u32;
        let key = (seen.source, seen.destination);
        if packet.syn() {
            let first = sequence.wrapping_add(1);
            let stream = self.streams.entry(key).or_default();
            if stream.first != first {
                self.records.add(stream.records());
                *stream = Stream { first, ..Stream::default() };
            }
            return;
        }
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let offset = sequence.wrapping_sub(stream.first) as usize;
        if let Some(at) = stream.note(offset, packet.payload(), 1 << (relay % 8)) {
            let (from, to) = key;
            self.conflicts.push(format!("two values for byte {at} of the stream {from} > {to}"));
        }
    }

    /// The `length` bytes below `end` of a stream, if all of them were sent.
    pub fn sent(&self, ends: (SocketAddr, SocketAddr), end: u64, length: usize) -> Option<&[u8]> {
        let stream = self.streams.get(&ends)?;
        let end = usize::try_from(end).ok()?;
        let range = end.checked_sub(length)?..end;
        let is_sent = stream.senders.get(range.clone())?.iter().all(|senders| *senders != 0);
        is_sent.then(|| &stream.bytes[range])
    }

    /// The records of all streams from `port`, the service's.
    pub fn records(&self, port: u16) -> Records {
        let mut records = self.records;
        let streams = self.streams.iter().filter(|((from, _), _)| from.port() == port);
        streams.for_each(|(_, stream)| records.add(stream.records()));
        records
    }

    /// A client's handshake begins anew at another relay, with other keys: the SYN cookie still
    /// holds, but nothing of the handshake was replicated.
    pub fn forget(&mut self, client_port: u16) {
        for ((_, to), stream) in &mut self.streams {
            if to.port() == client_port {
                stream.bytes.clear();
                stream.senders.clear();
            }
        }
    }

    /// Adds bytes to the digest.
    pub fn mix(&mut self, bytes: &[u8]) {
        // One odd factor (of FNV-1a) for each word: every step can be undone, so two runs that differ in
        // one word differ in their digests.
        let add = |hash: u64, word| {
            (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29)
        };
        let (words, rest) = bytes.as_chunks();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let hash =
            words.iter().fold(self.digest ^ bytes.len() as u64, |hash, word| add(hash, *word));
        self.digest = crate::random::mix(add(hash, last));
    }
}

impl Records {
    fn add(&mut self, more: Records) {
        self.seen += more.seen;
        self.pairs += more.pairs;
    }
}

impl Stream {
    /// Notes bytes; returns the place of one that was another before.
    fn note(&mut self, offset: usize, bytes: &[u8], sender: u8) -> Option<usize> {
        let end = offset + bytes.len();
        if bytes.is_empty() || end > STREAM_MAX {
            return None;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
            self.senders.resize(end, 0);
        }
        let (known, senders) = (&mut self.bytes[offset..end], &mut self.senders[offset..end]);
        let is_other = |(known, (senders, byte)): (&u8, (&u8, &u8))| *senders != 0 && known != byte;
        let pairs = || known.iter().zip(senders.iter().zip(bytes));
        // All of them first, without a branch: hardly ever is there a conflict to be found.
        let any = pairs().fold(false, |any, pair| any | is_other(pair));
        let conflict = if any { pairs().position(is_other) } else { None };
        known.copy_from_slice(bytes);
        senders.iter_mut().for_each(|senders| *senders |= sender);
        conflict.map(|at| offset + at)
    }

    /// Follows the headers of TLS records from the begin of the stream.
    fn records(&self) -> Records {
        let (mut records, mut at) = (Records::default(), 0);
        while let Some([kind @ 20..=23, _, _, high, low]) =
            self.bytes.get(at..).and_then(|rest| rest.first_chunk::<RECORD_HEADER>())
        {
            let end = at + RECORD_HEADER + usize::from(u16::from_be_bytes([*high, *low]));
            let senders = &self.senders[at..end.min(self.senders.len())];
            records.seen += u64::from(*kind == 23);
            let is_pair = senders.iter().any(|senders| senders.count_ones() > 1);
            records.pairs += u64::from(*kind == 23 && is_pair);
            at = end;
        }
        records
    }
}

/// The TCP segment in a frame, if there is a whole one.
pub fn tcp(frame: &[u8]) -> Option<Seen<'_>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let (source, destination, payload): (IpAddr, IpAddr, &[u8]) = match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
            let is_tcp = packet.next_header() == IpProtocol::Tcp;
            is_tcp
                .then(|| (packet.src_addr().into(), packet.dst_addr().into(), packet.payload()))?
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
            let is_tcp = packet.next_header() == IpProtocol::Tcp;
            is_tcp
                .then(|| (packet.src_addr().into(), packet.dst_addr().into(), packet.payload()))?
        }
        _ => return None,
    };
    let packet = TcpPacket::new_checked(payload).ok()?;
    Some(Seen {
        source: SocketAddr::new(source, packet.src_port()),
        destination: SocketAddr::new(destination, packet.dst_port()),
        packet,
    })
}

/// One line about a segment, for traces.
pub fn describe(frame: &[u8]) -> Option<String> {
    let Seen { source, destination, packet } = tcp(frame)?;
    let flags = [
        (packet.syn(), "S"),
        (packet.fin(), "F"),
        (packet.rst(), "R"),
        (packet.psh(), "P"),
        (packet.ack(), "."),
    ];
    let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    let (seq, ack) = (packet.seq_number().0 as u32, packet.ack_number().0 as u32);
    let (len, window) = (packet.payload().len(), packet.window_len());
    let sacks = packet.selective_ack_ranges().unwrap_or_default();
    let sacks: Vec<_> = sacks.iter().flatten().collect();
    Some(format!("{source} > {destination} [{flags}] {seq}+{len} ack {ack} win {window} {sacks:?}"))
}
