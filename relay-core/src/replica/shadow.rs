//! What a backup keeps of a flow: enough to go on with it.

mod opening;

pub use opening::OpeningShadow;

use core::ops::Range;
use std::collections::BTreeMap;

use relay_abi::peer::{Base, DATA_MAX, Delivered, Direction, Entry, Leg, Mark, Message, Settled};

use crate::canary::{Canary, breaks};
use crate::id::{FlowId, NodeId};
use crate::reason::Reason;
use crate::relay::Log;
use crate::tls::{DirectionState, Secret, Suite};

/// Bytes of one stream that a shadow holds at most: a receive window of an owner, and some.
pub const SHADOW_STREAM_MAX: usize = 20 * 1024 * 1024;

/// A flow as a backup knows it.
#[derive(Clone)]
pub enum Shadow {
    /// In its TLS handshake, or behind it and without a backend.
    Opening(Box<OpeningShadow>),
    /// Established: the backend is chosen for good.
    Open(Box<OpenShadow>),
}

/// An established flow as a backup knows it.
#[derive(Clone)]
pub struct OpenShadow {
    pub client: Leg,
    pub backend: Leg,
    pub suite: Suite,
    pub server_name: Vec<u8>,
    /// Keys toward the client at `log.delivered()`.
    pub write: DirectionState,
    /// Keys from the client at `up`.
    pub read: DirectionState,
    pub up: Settled,
    pub log: Log,
    /// Handshake output that ends where the first base's log began.
    pub raw: Vec<u8>,
    pub created_ms: u64,
    /// Ciphertext from the client above `up.client`.
    pub up_data: Pieces,
    /// Plaintext from the backend above `log.delivered().backend`.
    pub down_data: Pieces,
    /// Where the wire ACK to the client lags.
    pub up_mark: Option<Mark>,
    /// The same toward the backend.
    pub down_mark: Option<Mark>,
}

/// Who has described a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    pub node: NodeId,
    /// The term in which it owned.
    pub term: u64,
}

impl OpenShadow {
    /// Whether nothing has happened since EST, as far as is known.
    pub fn is_fresh(&self) -> bool {
        (self.up.backend, self.log.end_index()) == (0, 0) && !self.up.fin
    }
}

/// All flows that a backup keeps, by the rules 7 and 8.
#[derive(Default)]
pub struct Shadows {
    flows: BTreeMap<FlowId, (Shadow, Author)>,
    /// Flows that were based since the stream began; None when all have been.
    named: Option<std::collections::BTreeSet<FlowId>>,
}

impl Shadows {
    /// Number of flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Who has described a flow.
    pub fn author(&self, id: FlowId) -> Option<Author> {
        self.flows.get(&id).map(|(_, author)| *author)
    }

    /// Every flow in the order of its id.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &Shadow)> {
        self.flows.iter().map(|(id, (shadow, _))| (*id, shadow))
    }

    /// Takes all flows out, in the order of their ids, with the node that has described them: this
    /// node becomes their owner, or throws them away.
    pub fn take(&mut self) -> Vec<(FlowId, Shadow, Author)> {
        self.named = None;
        let flows = core::mem::take(&mut self.flows).into_iter();
        flows.map(|(id, (shadow, from))| (id, shadow, from)).collect()
    }

    /// A new stream begins: flows that it does not base until its end are over.
    pub fn begin_bases(&mut self) {
        self.named = Some(Default::default());
    }

    /// Applies one message of `from`, the owner in the promised term. An error means that the message
    /// must not be acknowledged.
    pub fn apply(&mut self, from: Author, message: &Message<'_>) -> Result<(), Reason> {
        match message {
            // Neither belongs to a flow.
            Message::View(_) | Message::Session(_) | Message::Stray { .. } => Ok(()),
            Message::Opening(opening) => {
                let shadow = OpeningShadow::new(opening).ok_or(Reason::PeerMalformed)?;
                self.base(FlowId(opening.flow), (Shadow::Opening(Box::new(shadow)), from));
                Ok(())
            }
            Message::Transcript { flow, offset, input, consumed, journal } => {
                match self.flows.get_mut(&FlowId(*flow)) {
                    Some((Shadow::Opening(shadow), _)) => {
                        shadow.append((*offset, input), *consumed, journal)
                    }
                    _ => Err(Reason::PeerMalformed),
                }
            }
            Message::Base(base) => {
                let mut shadow = OpenShadow::new(base).ok_or(Reason::PeerMalformed)?;
                if breaks(Canary::MergeBase)
                    && let Some((Shadow::Open(mut old), _)) = self.flows.remove(&FlowId(base.flow))
                {
                    base.entries.iter().for_each(|entry| _ = old.log.push(*entry));
                    shadow.log = old.log;
                }
                if let Some((Shadow::Open(old), _)) = self.flows.remove(&FlowId(base.flow)) {
                    shadow.keep_bytes(*old);
                }
                self.base(FlowId(base.flow), (Shadow::Open(Box::new(shadow)), from));
                Ok(())
            }
            Message::BasesEnd => {
                if let Some(named) = self.named.take() {
                    self.flows.retain(|id, _| named.contains(id));
                }
                Ok(())
            }
            Message::End { flow } => {
                self.flows.remove(&FlowId(*flow));
                Ok(())
            }
            Message::Entries { flow, index, entries } => self.open(*flow)?.append(*index, entries),
            Message::Progress { flow, up, down, window } => {
                let shadow = self.open(*flow)?;
                shadow.client.window = *window;
                shadow.progress(*up, *down)
            }
            Message::Mark { flow, direction, mark } => {
                let shadow = self.open(*flow)?;
                match direction {
                    Direction::Up => shadow.up_mark = Some(*mark),
                    Direction::Down => shadow.down_mark = Some(*mark),
                }
                Ok(())
            }
            Message::Data { flow, direction, offset, fin, bytes } => {
                self.open(*flow)?.data(*direction, *offset, *fin, bytes)
            }
        }
    }

    /// Whatever was known about the flow is void (rule 7).
    fn base(&mut self, id: FlowId, shadow: (Shadow, Author)) {
        if let Some(named) = &mut self.named {
            named.insert(id);
        }
        self.flows.insert(id, shadow);
    }

    fn open(&mut self, id: u64) -> Result<&mut OpenShadow, Reason> {
        match self.flows.get_mut(&FlowId(id)) {
            Some((Shadow::Open(shadow), _)) => Ok(shadow),
            _ => Err(Reason::PeerMalformed),
        }
    }
}

impl Shadow {
    /// The client leg.
    pub fn client(&self) -> &Leg {
        match self {
            Shadow::Opening(shadow) => &shadow.client,
            Shadow::Open(shadow) => &shadow.client,
        }
    }
}

impl OpenShadow {
    fn new(base: &Base<'_>) -> Option<Self> {
        let suite = Suite::from_id(base.suite)?;
        let keys = |keys: &relay_abi::peer::Keys<'_>| {
            let secret = Secret::from_bytes(keys.secret)?;
            Some(DirectionState { generation: keys.generation, sequence: keys.sequence, secret })
        };
        let mut log = Log::new(base.down, suite.record_len(0));
        for entry in &base.entries {
            log.push(*entry);
        }
        Some(OpenShadow {
            client: base.client,
            backend: base.backend,
            suite,
            server_name: base.server_name.to_vec(),
            write: keys(&base.write)?,
            read: keys(&base.read)?,
            up: base.up,
            log,
            raw: base.raw.to_vec(),
            created_ms: base.created_ms,
            up_data: Pieces::default(),
            down_data: Pieces::default(),
            up_mark: None,
            down_mark: None,
        })
    }

    /// What was held of both streams goes on to be held: the log of a new owner replaces ours, but its
    /// bytes come later and in pieces, and bytes of a stream never change (rule 7).
    fn keep_bytes(&mut self, old: OpenShadow) {
        self.up_data = old.up_data;
        self.up_data.trim(self.up.client);
        self.down_data = old.down_data;
        self.down_data.trim(self.log.delivered().backend);
    }

    fn append(&mut self, index: u64, entries: &[Entry]) -> Result<(), Reason> {
        if index != self.log.end_index() {
            return Err(Reason::PeerMalformed);
        }
        for entry in entries {
            if !self.log.has_room() && matches!(entry, Entry::Data { .. }) {
                return Err(Reason::PeerMalformed);
            }
            self.log.push(*entry);
        }
        Ok(())
    }

    fn progress(&mut self, up: Settled, down: Delivered) -> Result<(), Reason> {
        if up.client >= self.up.client {
            if up.generation != self.read.generation && !breaks(Canary::ForgetKeyUpdate) {
                self.read =
                    self.read.ratchet_to(self.suite, up.generation).ok_or(Reason::PeerMalformed)?;
            }
            self.read.sequence = up.sequence;
            self.up = up;
            self.up_data.trim(up.client);
        }
        if !self.log.trim(down) {
            return Err(Reason::PeerMalformed);
        }
        let at = self.log.start();
        if at.generation != self.write.generation && !breaks(Canary::ForgetKeyUpdate) {
            self.write =
                self.write.ratchet_to(self.suite, at.generation).ok_or(Reason::PeerMalformed)?;
        }
        self.write.sequence = at.sequence;
        if at.client > self.raw_end() {
            self.raw.clear();
        }
        self.down_data.trim(at.backend);
        Ok(())
    }

    /// What a new owner would have of a stream: what is settled, and the held bytes above it. A FIN
    /// counts as one more byte.
    pub fn holds(&self, direction: Direction) -> Vec<Range<u64>> {
        let down = self.log.delivered();
        let (settled, pieces) = match direction {
            Direction::Up => (self.up.client + u64::from(self.up.fin), &self.up_data),
            Direction::Down => (down.backend + u64::from(down.fin), &self.down_data),
        };
        let held = pieces.iter().map(|(offset, bytes)| offset..offset + bytes.len() as u64);
        let fin = pieces.fin.map(|fin| fin..fin + 1);
        core::iter::once(0..settled).chain(held).chain(fin).collect()
    }

    /// Bytes of both streams that are held.
    pub fn held_bytes(&self) -> usize {
        self.up_data.bytes + self.down_data.bytes
    }

    /// Where the handshake output ended is where W was as long as nothing was delivered.
    fn raw_end(&self) -> u64 {
        if self.log.delivered().index == 0 { self.log.delivered().client } else { 0 }
    }

    fn data(
        &mut self,
        direction: Direction,
        offset: u64,
        fin: bool,
        bytes: &[u8],
    ) -> Result<(), Reason> {
        let (pieces, settled) = match direction {
            Direction::Up => (&mut self.up_data, self.up.client),
            Direction::Down => (&mut self.down_data, self.log.delivered().backend),
        };
        let end = offset.checked_add(bytes.len() as u64).ok_or(Reason::PeerMalformed)?;
        if fin {
            pieces.fin = Some(end);
        }
        if end <= settled {
            return Ok(());
        }
        let skip = settled.saturating_sub(offset);
        if bytes.len() > DATA_MAX || pieces.bytes + bytes.len() > SHADOW_STREAM_MAX {
            return Err(Reason::WindowExceeded);
        }
        pieces.insert(offset + skip, &bytes[skip as usize..]);
        Ok(())
    }
}

/// Bytes of a piece at most that is put behind another one: they are copied each time.
const JOINED_MAX: usize = 4096;

/// Pieces of a stream, which never overlap with different bytes: bytes of a stream are immutable.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    pieces: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
    /// Length of the stream, if its FIN was replicated.
    pub fin: Option<u64>,
}

impl Pieces {
    /// Offset and bytes of every piece in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().map(|(offset, bytes)| (*offset, bytes.as_slice()))
    }

    /// Keeps `bytes`, as a part of the piece before them if that has room: a sender of tiny
    /// segments must not cost many times what it sends.
    fn insert(&mut self, mut offset: u64, mut bytes: &[u8]) {
        if let Some((start, piece)) = self.pieces.range_mut(..=offset).next_back() {
            let end = start + piece.len() as u64;
            if offset <= end {
                let known = bytes.len().min((end - offset) as usize);
                (offset, bytes) = (offset + known as u64, &bytes[known..]);
                if piece.len() + bytes.len() <= DATA_MAX {
                    piece.extend_from_slice(bytes);
                    self.bytes += bytes.len();
                    return;
                }
            }
        }
        let known = self.pieces.get(&offset).map_or(0, Vec::len);
        if bytes.len() > known {
            self.bytes += bytes.len() - known;
            self.pieces.insert(offset, bytes.to_vec());
            self.join_next(offset);
        }
    }

    /// Appends what follows on the short piece at `offset`.
    fn join_next(&mut self, offset: u64) {
        let length = self.pieces.get(&offset).map_or(0, Vec::len);
        let end = offset + length as u64;
        let next = self.pieces.get(&end).map_or(usize::MAX, Vec::len);
        if length > 0 && next.saturating_add(length) <= JOINED_MAX {
            let next = self.pieces.remove(&end).unwrap_or_default();
            if let Some(piece) = self.pieces.get_mut(&offset) {
                piece.extend(next);
            }
        }
    }

    fn trim(&mut self, offset: u64) {
        while let Some(entry) = self.pieces.first_entry() {
            let start = *entry.key();
            if start >= offset {
                break;
            }
            let piece = entry.remove();
            self.bytes -= piece.len();
            let gone = (offset - start) as usize;
            if gone < piece.len() {
                self.insert(offset, &piece[gone..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_abi::peer::{Endpoint, Keys};

    use super::*;

    const FROM: Author = Author { node: NodeId(1), term: 1 };
    const DATA: Entry = Entry::Data { length: 100, tag: [0; 16] };

    /// A backup that knows one open flow with one entry.
    fn shadows() -> Shadows {
        let end = Endpoint { address: [1; 16], port: 1 };
        let leg = Leg {
            local: end,
            remote: end,
            next_hop: [0; 6],
            iss: 1,
            irs: 2,
            mss: 1460,
            send_scale: None,
            receive_scale: 0,
            sack: true,
            timestamps: None,
            window: 1000,
        };
        let keys = Keys { generation: 0, sequence: 0, secret: &[7; 32] };
        let base = Base {
            flow: 1,
            client: leg,
            backend: leg,
            suite: 0x1301,
            server_name: b"",
            write: keys,
            read: keys,
            up: Settled::default(),
            down: Delivered::default(),
            raw: b"",
            entries: vec![DATA],
            created_ms: 0,
        };
        let mut shadows = Shadows::default();
        shadows.apply(FROM, &Message::Base(base)).expect("a base");
        shadows
    }

    fn log_end(shadows: &Shadows) -> Option<u64> {
        shadows.iter().next().map(|(_, shadow)| match shadow {
            Shadow::Open(open) => open.log.end_index(),
            Shadow::Opening(_) => 0,
        })
    }

    #[test]
    fn rule_8_entries_are_appended_where_the_log_ends_or_not_at_all() {
        let mut shadows = shadows();
        let mut entries = |flow, index| {
            let message = Message::Entries { flow, index, entries: vec![DATA] };
            (shadows.apply(FROM, &message).is_ok(), log_end(&shadows))
        };
        assert_eq!(entries(1, 1), (true, Some(2)));
        for index in [0, 1, 3] {
            assert_eq!(entries(1, index), (false, Some(2)), "index {index}");
        }
        assert_eq!(entries(2, 2), (false, Some(2)), "another flow");
    }

    #[test]
    fn rule_7_flows_that_no_base_names_are_over_at_the_end() {
        let mut shadows = shadows();
        shadows.apply(FROM, &Message::BasesEnd).expect("nothing has begun");
        assert_eq!(shadows.len(), 1);
        shadows.begin_bases();
        assert_eq!(shadows.len(), 1, "until then they are the best that there is");
        shadows.apply(FROM, &Message::BasesEnd).expect("an end");
        assert!(shadows.is_empty());
    }

    #[test]
    fn tiny_pieces_become_few() {
        let (mut up, mut down) = (Pieces::default(), Pieces::default());
        for at in 0..20_000u64 {
            up.insert(7 + at, &[at as u8]);
            up.insert(7 + at, &[at as u8]);
            let at = 19_999 - at;
            down.insert(7 + at, &[at as u8]);
        }
        for pieces in [up, down] {
            assert_eq!(pieces.bytes, 20_000);
            assert!(pieces.pieces.len() <= 10, "{} pieces", pieces.pieces.len());
            let whole: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes).copied().collect();
            assert!(whole.iter().enumerate().all(|(at, byte)| *byte == at as u8));
        }
    }

    #[test]
    fn pieces_keep_what_is_not_settled() {
        let mut pieces = Pieces::default();
        pieces.insert(10, b"abcdef");
        pieces.insert(30, b"xyz");
        pieces.trim(12);
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [(12, &b"cdef"[..]), (30, b"xyz")]);
        assert_eq!(pieces.bytes, 7);
        pieces.trim(31);
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [(31, &b"yz"[..])]);
    }
}
