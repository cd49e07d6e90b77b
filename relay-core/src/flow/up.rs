//! Client to backend: records are opened as they arrive and their plaintext goes on at once; they
//! settle when the backend has acknowledged it (rules U1-U4).

use std::collections::VecDeque;

use relay_abi::peer::Settled;

use crate::reason::Reason;
use crate::relay::Hold;
use crate::tcp::Connection;
use crate::tls::{
    ContentType, DirectionState, HEADER_LEN, OpenError, Opener, Suite, Version, record_header,
};

/// Records in a row that may carry no application data (rule 20).
const RECORDS_WITHOUT_DATA_MAX: u32 = 64;

const CLOSE_NOTIFY: [u8; 2] = [1, 0];
const WARNING: u8 = 1;
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
const UNEXPECTED: Violation = Violation::Alert(10, Reason::TlsMalformed);
const CHANGE_CIPHER_SPEC: u8 = 20;

/// The stream from the client to the backend.
pub struct Up {
    suite: Suite,
    opener: Opener,
    /// Keys at `settled`.
    keys: DirectionState,
    /// Client offset of the next record.
    read: u64,
    /// Points behind records that were opened and are not settled.
    points: VecDeque<Settled>,
    settled: Settled,
    /// Plaintext of this many bytes was produced.
    produced: u64,
    ended: bool,
    /// The client asked for a KeyUpdate that is not sealed yet (RFC 8446 section 4.6.3).
    owes_key_update: bool,
    pub hold: Hold,
    without_data: u32,
    record: Vec<u8>,
}

/// What the client asked for besides moving data, and besides a KeyUpdate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A TLS 1.2 renegotiation, which is refused.
    pub renegotiation: bool,
}

/// The client broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It is told by this fatal alert.
    Alert(u8, Reason),
    /// It sent a fatal alert itself, so nobody has to be told.
    Farewell,
    /// Its stream ended within a record: the backend must not take that for the end.
    Truncated,
}

impl From<OpenError> for Violation {
    fn from(error: OpenError) -> Self {
        Violation::Alert(error.alert(), error.reason())
    }
}

impl Up {
    /// The stream from `settled` on, with the keys at that point.
    pub fn new(
        suite: Suite,
        keys: &DirectionState,
        settled: Settled,
        hold: Hold,
    ) -> Result<Self, OpenError> {
        Ok(Up {
            suite,
            opener: Opener::new(suite, keys)?,
            keys: keys.clone(),
            read: settled.client,
            points: VecDeque::new(),
            settled,
            produced: settled.backend,
            ended: settled.ended,
            owes_key_update: settled.owes_key_update,
            hold,
            without_data: 0,
            record: Vec::new(),
        })
    }

    /// R as this node knows it; gates may know less.
    pub fn settled(&self) -> Settled {
        self.settled
    }

    /// R's offset in the client's stream with the FIN as one more byte.
    pub fn settled_offset(&self) -> u64 {
        self.settled.client + u64::from(self.settled.fin)
    }

    /// Keys at [`Up::settled`].
    pub fn keys(&self) -> &DirectionState {
        &self.keys
    }

    /// Whether the client waits for a KeyUpdate of ours.
    pub fn owes_key_update(&self) -> bool {
        self.owes_key_update
    }

    /// The KeyUpdate is in the log.
    pub fn pay_key_update(&mut self) {
        self.owes_key_update = false;
        for point in self.points.iter_mut().chain([&mut self.settled]) {
            point.owes_key_update = false;
        }
    }

    /// Plaintext bytes so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// Opens every record that has arrived whole and hands its plaintext to the backend leg.
    pub fn pump(
        &mut self,
        client: &Connection,
        backend: &mut Connection,
    ) -> Result<Asked, Violation> {
        let mut asked = Asked::default();
        while !self.ended {
            let available = client.received().saturating_sub(self.read);
            let mut header = [0; HEADER_LEN];
            if client.copy_received(self.read, &mut header) < HEADER_LEN {
                break;
            }
            let length = record_header(&header).map_err(Violation::from)?;
            let Some(length) = length.filter(|length| *length as u64 <= available) else { break };
            if backend.send_space() < length {
                break;
            }
            self.open(length, client, backend, &mut asked)?;
        }
        if !self.ended && client.fin_received() && self.is_stuck(client) {
            if self.read < client.received() {
                return Err(Violation::Truncated);
            }
            self.ended = true;
            let end = self.point();
            self.points.push_back(end);
        }
        if self.ended {
            backend.finish();
        }
        Ok(asked)
    }

    /// Moves R to what the backend has acknowledged; returns whether it moved.
    pub fn settle(&mut self, client: &Connection, backend: &Connection) -> bool {
        let before = self.settled;
        while let Some(point) = self.points.front().copied() {
            if point.backend > backend.acked() {
                break;
            }
            self.points.pop_front();
            if point.generation != self.keys.generation
                && let Some(keys) = self.keys.ratchet_to(self.suite, point.generation)
            {
                self.keys = keys;
            }
            self.keys.sequence = point.sequence;
            self.settled = point;
        }
        if self.settled.ended && client.fin_received() && backend.fin_acked() {
            // Whatever the client sent behind its close_notify is of no use to anybody.
            self.settled.client = client.received();
            self.settled.fin = true;
        }
        self.settled != before
    }

    /// Whether no whole record is left.
    fn is_stuck(&self, client: &Connection) -> bool {
        let mut header = [0; HEADER_LEN];
        let available = client.received().saturating_sub(self.read);
        if client.copy_received(self.read, &mut header) < HEADER_LEN {
            return true;
        }
        !matches!(record_header(&header), Ok(Some(length)) if length as u64 <= available)
    }

    fn open(
        &mut self,
        length: usize,
        client: &Connection,
        backend: &mut Connection,
        asked: &mut Asked,
    ) -> Result<(), Violation> {
        self.record.resize(length, 0);
        client.copy_received(self.read, &mut self.record);
        let mut record = core::mem::take(&mut self.record);
        let result = self.open_record(&mut record, backend, asked);
        self.record = record;
        result?;
        self.read += length as u64;
        if self.without_data > RECORDS_WITHOUT_DATA_MAX {
            return Err(UNEXPECTED);
        }
        let point = self.point();
        self.points.push_back(point);
        Ok(())
    }

    fn open_record(
        &mut self,
        record: &mut [u8],
        backend: &mut Connection,
        asked: &mut Asked,
    ) -> Result<(), Violation> {
        let tls13 = self.suite.version() == Version::Tls13;
        // RFC 8446 section 5: a stray change_cipher_spec is dropped, and it is not encrypted.
        if tls13 && record.first() == Some(&CHANGE_CIPHER_SPEC) {
            self.without_data += 1;
            return Ok(());
        }
        let (kind, plain) = self.opener.open(record).map_err(Violation::from)?;
        self.without_data += 1;
        match kind {
            ContentType::ApplicationData => {
                if !plain.is_empty() {
                    self.without_data = 0;
                }
                let written = backend.write(plain);
                debug_assert_eq!(written, plain.len(), "the caller made sure that it fits");
                self.produced += plain.len() as u64;
            }
            ContentType::Alert if *plain == CLOSE_NOTIFY => self.ended = true,
            ContentType::Alert if plain.first() == Some(&WARNING) && !tls13 => {}
            ContentType::Alert => return Err(Violation::Farewell),
            ContentType::Handshake if tls13 => match plain {
                [a, b, c, d, request @ 0..=1] if [*a, *b, *c, *d] == KEY_UPDATE => {
                    self.owes_key_update |= *request == 1;
                    self.opener.update().map_err(Violation::from)?;
                }
                _ => return Err(UNEXPECTED),
            },
            ContentType::Handshake => asked.renegotiation = true,
            ContentType::ChangeCipherSpec => return Err(UNEXPECTED),
        }
        Ok(())
    }

    fn point(&self) -> Settled {
        Settled {
            client: self.read,
            backend: self.produced,
            sequence: self.opener.sequence(),
            generation: self.opener.generation(),
            ended: self.ended,
            fin: false,
            owes_key_update: self.owes_key_update,
        }
    }
}
