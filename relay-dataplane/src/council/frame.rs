//! What travels on a link: frames behind a length. The first one each way is a greeting.
//!
//! ```text
//! frame     length:u32 (of what follows)  kind:u8  payload
//! greeting  kind 0: version:u16 node:u8 seat:u64 blank:u8 members:u64 units:u8
//! parcel    kind 1: what `Council` gave out, opaque here
//! ```

use std::io::{self, ErrorKind, Read};

use relay_abi::wire::{Malformed, Reader, Writer};
use relay_views::council::wire::MESSAGE_MAX;
use relay_views::id::{NodeId, NodeSet, Seat};

/// The longest frame behind its length: a parcel and its kind.
pub const FRAME_MAX: usize = MESSAGE_MAX + 1;

/// Of links. Councils of other versions do not talk to each other.
const VERSION: u16 = 2;

const GREETING: u8 = 0;
const PARCEL: u8 = 1;

/// Who speaks, and whether it knows a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The speaker.
    pub node: NodeId,
    /// Where it keeps its votes.
    pub seat: Seat,
    /// It never took part in anything: its log is blank, and it waits.
    pub blank: bool,
    /// Who belongs to the cluster, by its configuration.
    pub members: NodeSet,
    /// Units of ownership, by its configuration.
    pub units: u8,
}

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who speaks.
    Greeting(Greeting),
    /// For the council.
    Parcel(Vec<u8>),
}

impl Greeting {
    /// The greeting as a frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        payload.u16(VERSION);
        payload.u8(self.node.0);
        payload.u64(self.seat.number());
        payload.bool(self.blank);
        payload.u64(self.members.bits());
        payload.u8(self.units);
        put(out, GREETING, &payload);
    }

    fn read(payload: &[u8]) -> Result<Greeting, Malformed> {
        let mut from = Reader::new(payload);
        if from.u16()? != VERSION {
            return Err(Malformed);
        }
        let node = NodeId(from.u8()?);
        let seat = Seat::from_number(from.u64()?).ok_or(Malformed)?;
        let (blank, members) = (from.bool()?, NodeSet::from_bits(from.u64()?));
        let units = from.u8()?;
        from.finish()?;
        Ok(Greeting { node, seat, blank, members, units })
    }
}

/// Appends a parcel as a frame.
pub fn put_parcel(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, PARCEL, bytes);
}

fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    // Councils give out MESSAGE_MAX bytes at most; a longer one is refused by the other side.
    out.u32(u32::try_from(payload.len() + 1).unwrap_or(u32::MAX));
    out.u8(kind);
    out.bytes(payload);
}

/// Reads one frame.
///
/// # Errors
/// `InvalidData` for what no council of this version writes, and whatever `from` reports.
pub fn read(from: &mut impl Read) -> io::Result<Frame> {
    let invalid = |what: &'static str| io::Error::new(ErrorKind::InvalidData, what);
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if !(1..=FRAME_MAX).contains(&length) {
        return Err(invalid("a frame of impossible length"));
    }
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    // As much memory as bytes arrive: a length alone costs nothing.
    let mut payload = Vec::new();
    from.take(length as u64 - 1).read_to_end(&mut payload)?;
    if payload.len() + 1 != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    match kind {
        [GREETING] => Greeting::read(&payload)
            .map(Frame::Greeting)
            .map_err(|Malformed| invalid("a greeting of another version")),
        [PARCEL] => Ok(Frame::Parcel(payload)),
        _ => Err(invalid("a frame of unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        let (node, members) = (NodeId(3), [1, 3, 9].map(NodeId).into_iter().collect());
        Greeting { node, seat: Seat::new(node, 77), blank: true, members, units: 16 }
    }

    #[test]
    fn frames_come_back_as_they_were() {
        let mut bytes = Vec::new();
        greeting().put(&mut bytes);
        put_parcel(&mut bytes, b"abc");
        put_parcel(&mut bytes, b"");
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).unwrap(), Frame::Greeting(greeting()));
        assert_eq!(read(&mut from).unwrap(), Frame::Parcel(b"abc".to_vec()));
        assert_eq!(read(&mut from).unwrap(), Frame::Parcel(Vec::new()));
        assert_eq!(read(&mut from).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_no_council_writes_is_an_error() {
        let mut bytes = Vec::new();
        greeting().put(&mut bytes);
        let refused = |bytes: &[u8]| read(&mut { bytes }).unwrap_err().kind();
        for end in 0..bytes.len() {
            assert_eq!(refused(&bytes[..end]), ErrorKind::UnexpectedEof, "{end}");
        }
        let with = |place: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[place] = byte;
            bytes
        };
        // Length, kind, version, node id beyond the councils', `blank`.
        for (place, byte) in [(0, 1), (4, 2), (6, 9), (15, 64), (16, 2)] {
            assert_eq!(refused(&with(place, byte)), ErrorKind::InvalidData, "{place}");
        }
        assert_eq!(refused(&[0; 9]), ErrorKind::InvalidData);
    }
}
