//! Backend to client: plaintext becomes records; what determines a record is committed before any
//! byte of it leaves (rules D1-D3).

use relay_abi::peer::{Delivered, Entry};

use crate::relay::{Hold, Log, Point};
use crate::tcp::Connection;
use crate::tls::{ContentType, DirectionState, MAX_PLAINTEXT, SealError, Sealer, Suite, Version};

/// Records that are left under a key when a TLS 1.3 key is changed, or a TLS 1.2 flow closed.
const RECORDS_LEFT_MIN: u64 = 1024;

/// Plaintext of a record that is sealed for a window that may be closed, in bytes.
const PROBE_LEN: usize = 64;

const CLOSE_NOTIFY: (u8, u8) = (1, 0);
const FATAL: u8 = 2;

/// The stream from the backend to the client.
pub struct Down {
    suite: Suite,
    /// Keys at W.
    keys: DirectionState,
    sealer: Sealer,
    log: Log,
    /// Index of the first entry whose record was not written to the client leg.
    sealed: u64,
    /// The place before that entry.
    at: Point,
    pub hold: Hold,
    record: Vec<u8>,
}

/// Why a flow cannot go on toward its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The re-created record differs from the one that was committed (rule 13).
    Diverged,
    /// No record may be sealed any more.
    Exhausted,
}

impl Down {
    /// The stream from the log's W on, with the keys at that point.
    pub fn new(
        suite: Suite,
        keys: &DirectionState,
        log: Log,
        hold: Hold,
    ) -> Result<Self, SealError> {
        Ok(Down {
            suite,
            keys: keys.clone(),
            sealer: Sealer::new(suite, keys)?,
            sealed: log.delivered().index,
            at: log.start(),
            log,
            hold,
            record: Vec::new(),
        })
    }

    /// The log from W on.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// W as this node knows it; gates may know less.
    pub fn delivered(&self) -> Delivered {
        self.log.delivered()
    }

    /// W's offset in the backend's stream with the FIN as one more byte.
    pub fn delivered_offset(&self) -> u64 {
        let delivered = self.log.delivered();
        delivered.backend + u64::from(delivered.fin)
    }

    /// Keys at [`Down::delivered`].
    pub fn keys(&self) -> &DirectionState {
        &self.keys
    }

    /// Whether every entry of the log was written to the client leg.
    pub fn is_caught_up(&self) -> bool {
        self.sealed == self.log.end_index()
    }

    /// Whether the next record to be re-created is of bytes that the backend has not sent again.
    pub fn lacks_plaintext(&self, backend: &Connection) -> bool {
        self.log.get(self.sealed).is_some_and(|placed| placed.end.backend > backend.received())
    }

    /// After a takeover: re-creates the records that the log names, as their plaintext comes in.
    pub fn replay(&mut self, client: &mut Connection, backend: &Connection) -> Result<(), Broken> {
        while let Some(placed) = self.log.get(self.sealed).copied() {
            if client.acked() >= placed.end.client && placed.entry != Entry::Fin {
                client.skip(placed.end.client - self.at.client);
            } else if self.lacks_plaintext(backend)
                || client.send_space() < (placed.end.client - self.at.client) as usize
            {
                break;
            } else {
                self.rewrite(&placed.entry, client, backend)?;
            }
            self.sealed += 1;
            self.at = placed.end;
        }
        Ok(())
    }

    /// Seals what the backend sent, as far as the client can take it, and returns the new entries,
    /// which the caller has to commit.
    pub fn extend(
        &mut self,
        client: &mut Connection,
        backend: &Connection,
    ) -> Result<Vec<Entry>, Broken> {
        let mut entries = Vec::new();
        while self.can_extend(client) && self.at.backend < backend.received() {
            if self.sealer.records_left() < RECORDS_LEFT_MIN {
                if self.suite.version() == Version::Tls12 {
                    return Err(Broken::Exhausted);
                }
                entries.extend(self.key_update(client)?);
                continue; // whether there is room for data, too, has to be asked again
            }
            let available = (backend.received() - self.at.backend) as usize;
            // Without bytes to send TCP would not ask after a window that is too small for a record,
            // and what opened it may have been lost, or may have been told to a former owner alone.
            let is_idle = client.acked() == client.written();
            let probe = if is_idle { self.suite.record_len(PROBE_LEN) } else { 0 };
            let budget = client.send_budget().max(probe).min(client.send_space());
            let length = available.min(budget.saturating_sub(self.suite.record_len(0)));
            let length = length.min(MAX_PLAINTEXT);
            // A window in use opens by two segments at a time. Records of that size would spend
            // nearly a percent of the path on headers and tags.
            let collects = length < available.min(MAX_PLAINTEXT) && client.is_supplied();
            if length == 0 || collects {
                break;
            }
            let tag = self.seal_data(backend, length)?;
            let entry = Entry::Data { length: length as u16, tag };
            self.append(entry, client);
            entries.push(entry);
        }
        if self.can_extend(client)
            && backend.fin_received()
            && self.at.backend == backend.received()
        {
            entries.extend(self.finish(CLOSE_NOTIFY, client)?);
        }
        Ok(entries)
    }

    /// Answers a KeyUpdate, or changes the key before its limit.
    pub fn key_update(&mut self, client: &mut Connection) -> Result<Option<Entry>, Broken> {
        if !self.can_extend(client) {
            return Ok(None);
        }
        self.align()?;
        self.record.clear();
        let tag = self.sealer.key_update(&mut self.record, false).map_err(Broken::from)?;
        let entry = Entry::KeyUpdate { request: false, tag };
        self.append(entry, client);
        Ok(Some(entry))
    }

    /// Seals a warning.
    pub fn warn(&mut self, alert: u8, client: &mut Connection) -> Result<Option<Entry>, Broken> {
        if !self.can_extend(client) {
            return Ok(None);
        }
        self.alert((1, alert), client).map(Some)
    }

    /// Ends the stream with a fatal alert. None when records of a former owner have not been
    /// re-created: an alert must not take their sequence number.
    pub fn fail(
        &mut self,
        alert: u8,
        client: &mut Connection,
    ) -> Result<Option<[Entry; 2]>, Broken> {
        if !self.can_extend(client) {
            return Ok(None);
        }
        self.finish((FATAL, alert), client).map(Some)
    }

    /// Moves W to what the client has acknowledged; returns whether it moved.
    pub fn deliver(&mut self, client: &Connection) -> bool {
        if !self.log.deliver(client.acked(), client.fin_acked()) {
            return false;
        }
        let at = self.log.start();
        if at.generation != self.keys.generation
            && let Some(keys) = self.keys.ratchet_to(self.suite, at.generation)
        {
            self.keys = keys;
        }
        self.keys.sequence = at.sequence;
        true
    }

    fn can_extend(&self, client: &Connection) -> bool {
        self.is_caught_up()
            && !self.log.is_finished()
            && self.log.has_room()
            && client.send_space() > self.suite.record_len(MAX_PLAINTEXT)
    }

    fn finish(&mut self, alert: (u8, u8), client: &mut Connection) -> Result<[Entry; 2], Broken> {
        let farewell = self.alert(alert, client)?;
        self.record.clear();
        self.append(Entry::Fin, client);
        Ok([farewell, Entry::Fin])
    }

    fn alert(&mut self, alert: (u8, u8), client: &mut Connection) -> Result<Entry, Broken> {
        let (level, description) = alert;
        let tag = self.seal(ContentType::Alert, &[level, description])?;
        let entry = Entry::Alert { level, description, tag };
        self.append(entry, client);
        Ok(entry)
    }

    /// Logs an entry whose record is in `self.record` and hands it to the client leg.
    fn append(&mut self, entry: Entry, client: &mut Connection) {
        let written = client.write(&self.record);
        debug_assert_eq!(written, self.record.len(), "can_extend() made sure that it fits");
        self.at = self.log.push(entry);
        self.sealed += 1;
        if entry == Entry::Fin {
            client.finish();
        }
        debug_assert_eq!(client.written(), self.at.client);
    }

    /// Re-creates one committed record, for which the client leg has room.
    fn rewrite(
        &mut self,
        entry: &Entry,
        client: &mut Connection,
        backend: &Connection,
    ) -> Result<(), Broken> {
        let (tag, committed) = match *entry {
            Entry::Data { length, tag } => (self.seal_data(backend, usize::from(length))?, tag),
            Entry::Alert { level, description, tag } => {
                (self.seal(ContentType::Alert, &[level, description])?, tag)
            }
            Entry::KeyUpdate { request, tag } => {
                self.align()?;
                self.record.clear();
                let made = self.sealer.key_update(&mut self.record, request)?;
                (made, tag)
            }
            Entry::Fin => {
                client.finish();
                return Ok(());
            }
        };
        if tag != committed {
            return Err(Broken::Diverged);
        }
        client.write(&self.record);
        Ok(())
    }

    fn seal_data(&mut self, backend: &Connection, length: usize) -> Result<[u8; 16], Broken> {
        self.align()?;
        let front = backend.peek(self.at.backend, length);
        let front = &front[..front.len().min(length)];
        let back = backend.peek(self.at.backend + front.len() as u64, length - front.len());
        if front.len() + back.len() != length {
            return Err(Broken::Diverged);
        }
        self.record.clear();
        Ok(self.sealer.seal(ContentType::ApplicationData, (front, back), &mut self.record)?)
    }

    fn seal(&mut self, kind: ContentType, plain: &[u8]) -> Result<[u8; 16], Broken> {
        self.align()?;
        self.record.clear();
        Ok(self.sealer.seal(kind, (plain, &[]), &mut self.record)?)
    }

    /// Brings the sealer to the current place: records that the client has acknowledged were
    /// skipped, not sealed.
    fn align(&mut self) -> Result<(), Broken> {
        let Point { sequence, generation, .. } = self.at;
        if (self.sealer.sequence(), self.sealer.generation()) == (sequence, generation) {
            return Ok(());
        }
        let mut keys = match generation == self.keys.generation {
            true => self.keys.clone(),
            false => self.keys.ratchet_to(self.suite, generation).ok_or(Broken::Diverged)?,
        };
        keys.sequence = sequence;
        self.sealer = Sealer::new(self.suite, &keys)?;
        Ok(())
    }
}

impl From<SealError> for Broken {
    fn from(_: SealError) -> Self {
        Broken::Exhausted
    }
}
