//! The journal: the answers of the crypto provider, in order, and the context of the connection
//! that is being served (see the module's documentation for the thread-local slot).
//!
//! Format: [`HEADER`], then entries of an operation (one byte), a length (two bytes, big endian)
//! and that many bytes. It is only ever appended to, so that a prefix that was replicated stays
//! valid. Besides the answers it holds a digest of the output after every record, so that a replay
//! that would send other bytes is noticed (another certificate, another version of rustls).

use std::cell::RefCell;
use std::sync::Arc;

use rustls::Error;
use rustls::crypto::{GetRandomFailed, SecureRandom};
use zeroize::{Zeroize, Zeroizing};

use super::crypto::{digest, rand};
use super::keys::Secret;
use super::sessions::Sessions;
use super::ticket::MAX_TICKET;

/// Longest journal. A handshake needs 180 to 2,200 bytes (RSA-4096 and X25519MLKEM768 at worst).
/// With a client's certificates, which sessions contain, it opens one ticket and seals two.
pub const MAX_JOURNAL: usize = 16 * 1024;
const _: () = assert!(3 * MAX_TICKET + 2_200 < MAX_JOURNAL);

/// Format of the journal, and the version of rustls, whose behaviour the journal depends on.
pub(super) const HEADER: [u8; 4] = [2, 0, 23, 46];

/// What is allocated at first: enough for most handshakes, so that secrets are rarely copied.
const USUAL_JOURNAL: usize = 1024;

/// Bytes of the SHA-256 digest that stand for the output. It guards against mistakes, not against
/// an attacker: whoever can write the journal knows its secrets anyway.
const DIGEST_LEN: usize = 8;

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    Random = 1,
    /// An ephemeral key (TLS 1.2): public and private part.
    GenerateKey = 2,
    /// The shared secret for such a key.
    Agree = 3,
    /// Key share and shared secret (TLS 1.3).
    KeyExchange = 4,
    Sign = 5,
    SealTicket = 6,
    OpenTicket = 7,
    Clock = 8,
    /// Digest of the output.
    Output = 9,
    /// When a session was stored.
    PutSession = 10,
    GetSession = 11,
}

/// Why a journal cannot be written or repeated. The connection is lost then: going on with other
/// answers could protect two plaintexts under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The journal does not tell what this handshake asks for, or is damaged.
    Diverged,
    /// The journal would be longer than [`MAX_JOURNAL`].
    TooLong,
    /// The private key of a TLS 1.2 key exchange, which `ring` does not export.
    KeyNotExported,
}

/// What a connection is given by its node.
#[derive(Clone, Default)]
pub(super) struct Environment {
    /// Replaces the system's randomness.
    pub entropy: Option<Arc<dyn SecureRandom>>,
    /// The node's; without them no session is stored.
    pub sessions: Option<Sessions>,
}

/// What belongs to one connection while rustls serves it.
#[derive(Default)]
pub(super) struct Context {
    journal: Zeroizing<Vec<u8>>,
    /// Everything before it was written or repeated; at the end of the journal unless replaying.
    position: usize,
    /// No answer may be new.
    replaying: bool,
    fault: Option<Fault>,
    environment: Environment,
    /// A ticket was opened, so that the session may be one of before.
    pub(super) ticket_opened: bool,
    /// No certificate has the name that the client asks for.
    pub(super) name_unknown: bool,
    /// The first traffic secrets (TLS 1.3): the client's and the server's.
    pub(super) client_secret: Option<Secret>,
    pub(super) server_secret: Option<Secret>,
}

impl Context {
    /// An empty journal.
    pub(super) fn new(environment: Environment) -> Context {
        let mut journal = Zeroizing::new(Vec::with_capacity(USUAL_JOURNAL));
        journal.extend_from_slice(&HEADER);
        Context { position: journal.len(), journal, environment, ..Context::default() }
    }

    /// Repeats `journal`, up to [`Self::finish_replay`].
    pub(super) fn replay(journal: &[u8], environment: Environment) -> Result<Context, Fault> {
        if journal.len() > MAX_JOURNAL {
            return Err(Fault::TooLong);
        }
        if !journal.starts_with(&HEADER) {
            return Err(Fault::Diverged);
        }
        let journal = Zeroizing::new(journal.to_vec());
        let position = HEADER.len();
        Ok(Context { journal, position, replaying: true, environment, ..Context::default() })
    }

    /// From here on answers are new. Fails unless the whole journal was repeated.
    pub(super) fn finish_replay(&mut self) -> Result<(), Fault> {
        if self.position != self.journal.len() {
            return Err(Fault::Diverged);
        }
        self.replaying = false;
        self.fault.map_or(Ok(()), Err)
    }

    pub(super) fn journal(&self) -> &[u8] {
        &self.journal
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Writes the digest of what a record made us send, or compares it with what was sent.
    pub(super) fn note_output(&mut self, output: &[u8]) -> Result<(), Fault> {
        let digest = digest::digest(&digest::SHA256, output);
        let digest = &digest.as_ref()[..DIGEST_LEN];
        match self.repeat(Operation::Output)? {
            None => self.write(Operation::Output, digest),
            Some(sent) if *sent == digest => Ok(()),
            Some(_) => Err(self.fail(Fault::Diverged)),
        }
    }

    /// The next answer while replaying, `None` when a new one is wanted.
    fn repeat(&mut self, operation: Operation) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !self.replaying {
            return Ok(None);
        }
        match self.next_entry(operation) {
            Some(answer) => Ok(Some(answer)),
            None => Err(self.fail(Fault::Diverged)),
        }
    }

    fn next_entry(&mut self, operation: Operation) -> Option<Zeroizing<Vec<u8>>> {
        let (&[tag, high, low], rest) = self.journal.get(self.position..)?.split_first_chunk()?;
        let answer = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
        let answer = (tag == operation as u8).then(|| Zeroizing::new(answer.to_vec()))?;
        self.position += 3 + answer.len();
        Some(answer)
    }

    fn write(&mut self, operation: Operation, answer: &[u8]) -> Result<(), Fault> {
        let [high, low] = match u16::try_from(answer.len()) {
            Ok(len) if self.journal.len() + 3 + answer.len() <= MAX_JOURNAL => len.to_be_bytes(),
            _ => return Err(self.fail(Fault::TooLong)),
        };
        self.reserve(3 + answer.len());
        self.journal.extend_from_slice(&[operation as u8, high, low]);
        self.journal.extend_from_slice(answer);
        self.position = self.journal.len();
        Ok(())
    }

    /// Growing in place would leave a copy of the secrets behind.
    fn reserve(&mut self, additional: usize) {
        let needed = self.journal.len() + additional;
        if needed > self.journal.capacity() {
            let mut journal = Zeroizing::new(Vec::with_capacity(2 * needed));
            journal.extend_from_slice(&self.journal);
            self.journal.zeroize();
            self.journal = journal;
        }
    }

    fn fail(&mut self, fault: Fault) -> Fault {
        *self.fault.get_or_insert(fault)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// Runs `call`, one call into rustls, for the connection of `context`.
pub(super) fn with_context<R>(context: &mut Context, call: impl FnOnce() -> R) -> R {
    /// Takes the context back also when `call` panics.
    struct Restore<'a> {
        context: &'a mut Context,
        outer: Option<Context>,
    }
    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            if let Some(context) = CURRENT.replace(self.outer.take()) {
                *self.context = context;
            }
        }
    }
    let outer = CURRENT.replace(Some(std::mem::take(context)));
    let _restore = Restore { context, outer };
    call()
}

/// The connection that rustls is serving, `None` outside of [`with_context`].
pub(super) fn current<R>(access: impl FnOnce(&mut Context) -> R) -> Option<R> {
    CURRENT.with_borrow_mut(|context| context.as_mut().map(access))
}

/// The answer to `operation`: the journal's, or that of `live`, which then goes into the journal.
pub(super) fn journaled(
    operation: Operation,
    live: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, Error>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let refused = |_| Error::General("the journal does not fit the handshake".into());
    let repeated = current(|context| context.repeat(operation)).unwrap_or(Err(Fault::Diverged));
    if let Some(answer) = repeated.map_err(refused)? {
        return Ok(answer);
    }
    let answer = live()?;
    let written = current(|context| context.write(operation, &answer));
    written.unwrap_or(Err(Fault::Diverged)).map_err(refused)?;
    Ok(answer)
}

/// Journals an answer that may be `None`: no byte at all then, else a one before the answer.
pub(super) fn optional(
    operation: Operation,
    live: impl FnOnce() -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let answer = journaled(operation, || {
        let mut answer = Zeroizing::new(Vec::new());
        if let Some(bytes) = live().map(Zeroizing::new) {
            answer.reserve_exact(1 + bytes.len());
            answer.push(1);
            answer.extend_from_slice(&bytes);
        }
        Ok(answer)
    });
    Some(answer.ok()?.split_first()?.1.to_vec())
}

/// Marks the connection as lost.
pub(super) fn fail(fault: Fault) {
    current(|context| context.fail(fault));
}

/// Fresh randomness for an answer: the configured source's, else the system's.
pub(super) fn fresh_random(buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
    use rand::SecureRandom as _;
    match configured_entropy() {
        Some(source) => source.fill(buffer),
        None => rand::SystemRandom::new().fill(buffer).map_err(|_| GetRandomFailed),
    }
}

/// The configured source of entropy, if any.
pub(super) fn configured_entropy() -> Option<Arc<dyn SecureRandom>> {
    current(|context| context.environment.entropy.clone()).flatten()
}

/// The sessions of the connection's node.
pub(super) fn sessions() -> Option<Sessions> {
    current(|context| context.environment.sessions.clone()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(context: &mut Context) -> Vec<u8> {
        let live = || {
            let mut bytes = Zeroizing::new(vec![0; 8]);
            fresh_random(&mut bytes)?;
            Ok(bytes)
        };
        with_context(context, || journaled(Operation::Random, live)).unwrap().to_vec()
    }

    #[test]
    fn a_panic_leaves_no_context_behind() {
        let mut context = Context::new(Environment::default());
        let answer = random(&mut context);
        let panicking = std::panic::AssertUnwindSafe(|| with_context(&mut context, || panic!()));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert_eq!(current(|_| ()), None);
        let mut replayed = Context::replay(context.journal(), Environment::default()).unwrap();
        assert_eq!(random(&mut replayed), answer);
        replayed.finish_replay().unwrap();
    }

    #[test]
    fn connections_do_not_see_each_other() {
        let [mut outer, mut inner] = [(); 2].map(|()| Context::new(Environment::default()));
        let empty = outer.journal().len();
        with_context(&mut outer, || random(&mut inner));
        assert_eq!(outer.journal().len(), empty);
        assert!(inner.journal().len() > empty);
        random(&mut outer);
        assert!(outer.journal().len() > empty);
    }

    #[test]
    fn nothing_is_answered_without_a_connection() {
        let answer = journaled(Operation::Random, || Ok(Zeroizing::new(vec![1])));
        assert!(answer.is_err());
    }

    #[test]
    fn the_journal_is_bounded() {
        let mut context = Context::new(Environment::default());
        let answer = Zeroizing::new(vec![0; 1000]);
        let append = |context: &mut Context| {
            with_context(context, || journaled(Operation::Sign, || Ok(answer.clone()))).is_ok()
        };
        let fitting = (0..).take_while(|_| append(&mut context)).count();
        assert_eq!(fitting, (MAX_JOURNAL - HEADER.len()) / 1003);
        assert_eq!(context.fault(), Some(Fault::TooLong));
        assert!(context.journal().len() <= MAX_JOURNAL);
        let long = vec![0; MAX_JOURNAL + 1];
        assert!(matches!(Context::replay(&long, Environment::default()), Err(Fault::TooLong)));
    }
}
