//! What a client and its backend do, and the bytes that they exchange.

use relay_core::time::{Duration, Instant};

use crate::random::mix;

/// One connection.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names the connection in the request; every byte follows from it.
    pub id: u64,
    /// When the client connects, from the begin of the run.
    pub start: Duration,
    /// Bytes from the client behind the request.
    pub up: u64,
    /// Bytes from the backend.
    pub down: u64,
    /// Who ends its stream first, while the other one goes on.
    pub first_to_close: End,
    pub version: Version,
    pub conduct: Conduct,
    /// The client reads nothing until this long after its start.
    pub client_reads_after: Duration,
    /// The backend reads nothing but the request until this long after it.
    pub backend_reads_after: Duration,
    /// Both ends read for so long, then not for so long, and so on; zero: always.
    pub naps: Duration,
    /// The client changes its keys before so many of a thousand records (TLS 1.3 only).
    pub rekeys: u32,
    /// The client writes records of at most this many bytes.
    pub record_max: u64,
    pub resumption: Resumption,
    pub groups: Groups,
    /// The client shows a certificate when it is asked for one.
    pub certificate: bool,
    /// The client has an odd TCP, whose habits follow from this seed.
    pub odd: Option<u64>,
}

/// Which session the client offers to resume: the last of those that the run's clients keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// None, and it keeps none.
    Never,
    /// That of a ticket.
    Ticket,
    /// One that the relays keep (TLS 1.2 only).
    SessionId,
}

/// Which groups the client offers for the key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    X25519,
    /// X25519MLKEM768, and X25519 besides.
    Hybrid,
    /// One with a share that the relays do not have, and X25519 without: they ask for another
    /// ClientHello (TLS 1.3, HelloRetryRequest).
    Retry,
}

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Backend,
}

/// The version of TLS that the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// What is special about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Nothing: both streams arrive whole and end with close_notify and FIN.
    Honest,
    /// The backend resets its connection after this many bytes.
    BackendResets { after: u64 },
    /// The client sends random bytes instead of TLS.
    Garbage,
    /// The client speaks HTTP without TLS.
    PlainHttp,
    /// The client asks for a name that the relays do not have.
    UnknownName,
    /// The client sends garbage instead of a record after this many bytes.
    GarbageAfter { bytes: u64 },
}

/// A request: id, up, down, who closes first, where the backend resets, when it reads.
pub const REQUEST: usize = 56;

/// What a backend reads from a request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub id: u64,
    pub up: u64,
    pub down: u64,
    pub backend_closes_first: bool,
    pub reset_after: Option<u64>,
    pub reads_after: Duration,
    pub naps: Duration,
}

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

impl Plan {
    /// A connection that moves `up` and `down` bytes.
    pub fn new(id: u64, up: u64, down: u64) -> Self {
        Plan {
            id,
            start: Duration::ZERO,
            up,
            down,
            first_to_close: End::Backend,
            version: Version::Tls13,
            conduct: Conduct::Honest,
            client_reads_after: Duration::ZERO,
            backend_reads_after: Duration::ZERO,
            naps: Duration::ZERO,
            rekeys: 0,
            record_max: 16_384,
            resumption: Resumption::Never,
            groups: Groups::X25519,
            certificate: false,
            odd: None,
        }
    }

    /// The bytes that begin the client's stream.
    pub fn request(&self) -> [u8; REQUEST] {
        let reset = match self.conduct {
            Conduct::BackendResets { after } => after,
            _ => u64::MAX,
        };
        let first = u64::from(self.first_to_close == End::Backend);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(0);
        let (pause, naps) = (nanos(self.backend_reads_after), nanos(self.naps));
        let mut request = [0; REQUEST];
        let words = [self.id, self.up, self.down, first, reset, pause, naps];
        for (slot, word) in request.chunks_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        request
    }
}

impl Request {
    /// Reads what [`Plan::request`] wrote.
    pub fn parse(bytes: &[u8; REQUEST]) -> Self {
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
            u64::from_be_bytes(word)
        };
        Request {
            id: word(0),
            up: word(1),
            down: word(2),
            backend_closes_first: word(3) == 1,
            reset_after: Some(word(4)).filter(|after| *after != u64::MAX),
            reads_after: Duration::from_nanos(word(5)),
            naps: Duration::from_nanos(word(6)),
        }
    }
}

/// Whether an end that began at `since` and naps for `naps` at a time is awake.
pub fn is_awake(now: Instant, since: Instant, naps: Duration) -> bool {
    naps.is_zero() || ((now - since).as_nanos() / naps.as_nanos()).is_multiple_of(2)
}

/// When such an end falls asleep or wakes up.
pub fn turns_over(now: Instant, since: Instant, naps: Duration) -> Option<Instant> {
    let past = (now - since).as_nanos().checked_div(naps.as_nanos())?;
    Some(since + naps * (u32::try_from(past).ok()? + 1))
}

/// The bytes of a stream from `offset` on.
pub fn content(id: u64, direction: Direction, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 2 * WORD);
    let skipped = (offset % WORD as u64) as usize;
    let mut at = offset / WORD as u64;
    while bytes.len() < skipped + length {
        bytes.extend_from_slice(&word(id, direction, at).to_le_bytes());
        at += 1;
    }
    bytes.truncate(skipped + length);
    bytes.drain(..skipped);
    bytes
}

/// The place of the first byte that differs from the stream's content.
pub fn difference(id: u64, direction: Direction, offset: u64, bytes: &[u8]) -> Option<u64> {
    let expected = content(id, direction, offset, bytes.len());
    if bytes == expected {
        return None;
    }
    let wrong = bytes.iter().zip(expected).zip(offset..).find(|((byte, right), _)| *byte != right);
    wrong.map(|(_, at)| at)
}

/// Bytes that follow from one number.
const WORD: usize = 8;

/// Eight bytes of a stream.
fn word(id: u64, direction: Direction, index: u64) -> u64 {
    mix(id << 1 ^ u64::from(direction == Direction::Up) ^ index << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_does_not_depend_on_where_it_is_cut() {
        let all = content(7, Direction::Up, 0, 100);
        for start in 0..40 {
            for length in 0..40 {
                let piece = content(7, Direction::Up, start as u64, length);
                assert_eq!(piece, all[start..start + length]);
                assert_eq!(difference(7, Direction::Up, start as u64, &piece), None);
            }
        }
        assert_ne!(content(7, Direction::Down, 0, 100), all);
    }

    #[test]
    fn the_first_byte_that_is_wrong_is_found() {
        let mut bytes = content(7, Direction::Down, 13, 60);
        bytes[41] ^= 1;
        bytes[50] ^= 1;
        assert_eq!(difference(7, Direction::Down, 13, &bytes), Some(13 + 41));
    }
}
