//! What a state of the model is: one flow, its nodes, every view, every message ever sent, and
//! what client and backend have seen.

use std::fmt;

use crate::rules::Broken;

/// Most nodes that a run may have.
pub const MAX_NODES: usize = 4;
/// Entries that a log can hold; a byte each.
pub const MAX_LOG: u8 = 8;
/// Most bytes in the modelled stream: the tag of an entry has a bit for each.
pub const MAX_BYTES: u8 = 4;

/// Which of a flow's streams is modelled. They share nothing but the log, so one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Backend to client: flush log, records, W.
    Down,
    /// Client to backend: EST, settled points, R.
    Up,
}

/// Size of a run, and what may go wrong in it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which stream.
    pub direction: Direction,
    /// Number of nodes, 2 to [`MAX_NODES`]. A fourth one starts outside of the view.
    pub nodes: u8,
    /// Bytes in the stream, at most [`MAX_BYTES`].
    pub bytes: u8,
    /// Most bytes of a record.
    pub record: u8,
    /// Control records (KeyUpdate, alert) that an owner may log.
    pub controls: u8,
    /// Views that consensus may commit, the first one included.
    pub views: u8,
    /// Crashes of nodes.
    pub crashes: u8,
    /// Restarts of crashed nodes, each a new incarnation.
    pub restarts: u8,
    /// Times that a node is made a learner.
    pub joins: u8,
    /// Whether owners tell backups the commit index (rule 10).
    pub commit_index: bool,
    /// Whether the backend may send other bytes when it retransmits (rule 13).
    pub mutable_peer: bool,
    /// Whether messages that can have no effect any more stay on the network. They only cost
    /// states; a run without them reaches the same ones (tests/exhaust.rs).
    pub keep_spent: bool,
    /// Whether only what client and backend can see counts, and not that an eligible node could not
    /// continue. Shows that the one leads to the other.
    pub only_seen: bool,
    /// The rule that this run leaves out.
    pub broken: Option<Broken>,
}

impl Config {
    /// Whether this run leaves `rule` out.
    pub fn breaks(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }
}

/// A set of nodes, or of bytes of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Set(u8);

impl Set {
    /// Nothing.
    pub const EMPTY: Set = Set(0);

    /// `member` alone.
    pub fn of(member: u8) -> Set {
        Set(1 << member)
    }

    /// Everything from `start` up to, not including, `end`.
    pub fn range(start: u8, end: u8) -> Set {
        Set(((1u16 << end) - 1) as u8).minus(Set(((1u16 << start) - 1) as u8))
    }

    /// Whether it has `member`.
    pub fn contains(self, member: u8) -> bool {
        self.0 >> member & 1 == 1
    }

    /// Both.
    pub fn union(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// What is in both.
    pub fn and(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// Without what `other` has.
    pub fn minus(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    /// With `member`.
    pub fn with(self, member: u8) -> Set {
        self.union(Set::of(member))
    }

    /// Without `member`.
    pub fn without(self, member: u8) -> Set {
        self.minus(Set::of(member))
    }

    /// Whether `other` has everything of this.
    pub fn is_within(self, other: Set) -> bool {
        self.minus(other) == Set::EMPTY
    }

    /// Members, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = u8> {
        (0..8).filter(move |member| self.contains(*member))
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// One entry of a flow's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Down: records end at this offset. The tag stands for the bytes themselves: which of them
    /// differ from what the backend sent first.
    Flush { end: u8, tag: Set },
    /// Down: one record without data.
    Control,
    /// Up: the backend that the flow talks to, with all that a new owner needs for it.
    Est(u8),
    /// Up: R, everything below this offset is settled.
    Settled(u8),
}

impl Entry {
    fn to_byte(self) -> u8 {
        match self {
            Entry::Flush { end, tag } => end | tag.0 << 4,
            Entry::Est(backend) => 5 + backend,
            Entry::Settled(offset) => 7 + offset,
            Entry::Control => 15,
        }
    }

    fn from_byte(byte: u8) -> Entry {
        match byte & 15 {
            15 => Entry::Control,
            offset @ 7.. => Entry::Settled(offset - 7),
            backend @ 5.. => Entry::Est(backend - 5),
            end => Entry::Flush { end, tag: Set(byte >> 4) },
        }
    }
}

/// A flow's log: at most [`MAX_LOG`] entries, the first in the lowest byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Log(u64);

impl Log {
    /// Without entries.
    pub const EMPTY: Log = Log(0);

    /// Number of entries.
    pub fn len(self) -> u8 {
        MAX_LOG - (self.0.leading_zeros() / 8) as u8
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Appends an entry; the callers know that there is room.
    pub fn push(&mut self, entry: Entry) {
        self.0 |= u64::from(entry.to_byte()) << (8 * self.len());
    }

    /// All entries, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Entry> {
        (0..self.len()).map(move |index| self.get(index))
    }

    /// Entry `index`, which exists.
    pub fn get(self, index: u8) -> Entry {
        Entry::from_byte((self.0 >> (8 * index)) as u8)
    }

    /// Its first `len` entries.
    pub fn prefix(self, len: u8) -> Log {
        if len >= self.len() { self } else { Log(self.0 & ((1 << (8 * len)) - 1)) }
    }

    /// End of the last flush.
    pub fn flushed(self) -> u8 {
        let end = |entry| if let Entry::Flush { end, .. } = entry { Some(end) } else { None };
        self.iter().filter_map(end).next_back().unwrap_or(0)
    }

    /// Number of control records.
    pub fn controls(self) -> u8 {
        self.iter().filter(|entry| *entry == Entry::Control).count() as u8
    }

    /// The backend of the last EST, and the length of the prefix that determines it.
    pub fn established(self) -> Option<(u8, u8)> {
        let est = |(entry, need)| if let Entry::Est(to) = entry { Some((to, need)) } else { None };
        (0..self.len()).rev().map(|index| (self.get(index), index + 1)).find_map(est)
    }

    /// R.
    pub fn settled(self) -> u8 {
        let offset = |entry| if let Entry::Settled(offset) = entry { Some(offset) } else { None };
        self.iter().filter_map(offset).max().unwrap_or(0)
    }

    /// The records that this log determines, for records of at most `size` bytes.
    pub fn records(self, size: u8) -> Records {
        Records { log: self, size, next: 0, at: 0 }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A TLS record: its place in the list is its sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// Offset of its first byte.
    pub start: u8,
    /// Offset behind its last byte.
    pub end: u8,
    /// Whether it is one without data.
    pub control: bool,
    /// Which of its bytes are not those that the backend sent first.
    pub altered: Set,
}

/// Framing: a pure function of the log.
pub struct Records {
    log: Log,
    size: u8,
    next: u8,
    at: u8,
}

impl Iterator for Records {
    /// A record and the length of the log prefix that determines it.
    type Item = (Record, u8);

    fn next(&mut self) -> Option<(Record, u8)> {
        while self.next < self.log.len() {
            match self.log.get(self.next) {
                Entry::Flush { end, tag } if self.at < end => {
                    let start = self.at;
                    self.at = (start + self.size).min(end);
                    let altered = tag.and(Set::range(start, self.at));
                    let record = Record { start, end: self.at, control: false, altered };
                    return Some((record, self.next + 1));
                }
                Entry::Control => {
                    self.next += 1;
                    let (start, end, altered) = (self.at, self.at, Set::EMPTY);
                    return Some((Record { start, end, control: true, altered }, self.next));
                }
                _ => self.next += 1,
            }
        }
        None
    }
}

/// What consensus commits (rule 1). Its number is its place in [`State::views`], counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// Changes iff the owner changes (rule 2).
    pub term: u8,
    /// The node that releases.
    pub owner: u8,
    /// Who may become owner; the owner itself included.
    pub in_sync: Set,
    /// Who is being taught.
    pub learners: Set,
    /// The incarnation that each node had when it was admitted.
    pub incarnations: [u8; MAX_NODES],
}

impl View {
    /// Everyone who is taught: in sync or learning, but the owner.
    pub fn followers(&self) -> Set {
        self.in_sync.union(self.learners).without(self.owner)
    }
}

/// Bytes of the stream that a node holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Held {
    /// Which.
    pub bytes: Set,
    /// Which of them are not what the backend sent first.
    pub altered: Set,
}

impl Held {
    /// Adds what is not held yet; what is held stays as it is.
    pub fn merge(&mut self, other: Held) {
        self.altered = self.altered.union(other.altered.minus(self.bytes));
        self.bytes = self.bytes.union(other.bytes);
    }
}

/// The newest acknowledgement of a peer, as an owner knows it (rule 8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ack {
    /// Whose life it is from.
    pub incarnation: u8,
    /// Length of its log.
    pub len: u8,
    /// Bytes that it holds.
    pub bytes: Set,
}

/// One relay. A crash leaves nothing of it but its incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Node {
    /// Whether it runs. A node that is paused or cut off is one that has no turn.
    pub alive: bool,
    /// Which of its lives this is.
    pub incarnation: u8,
    /// Number of the view that it knows of; 0 is none.
    pub view: u8,
    /// Highest term seen; lower ones are refused (rule 6).
    pub promised: u8,
    /// Term of its shadow, or of its ownership; 0 is blank.
    pub term: u8,
    /// The flow's log.
    pub log: Log,
    /// The flow's bytes.
    pub held: Held,
    /// Bytes that the receiving end has acknowledged to it: W, or what R may become.
    pub delivered: u8,
    /// Length of the log that it knows to be acknowledged by every gate.
    pub committed: u8,
    /// The owner's: acknowledgements of its gates.
    pub acks: [Option<Ack>; MAX_NODES],
    /// The owner's: who was sent a base in this term.
    pub based: Set,
    /// The owner's: learners that it has proposed for promotion (rule 4).
    pub proposed: Set,
    /// The owner's: gates that it no longer waits for, though no view says so. Broken rules only.
    pub dropped: Set,
    /// The owner's: the backend whose SYN-ACK it has seen, before EST.
    pub dialed: Option<u8>,
}

/// A message between nodes. Whatever was sent once can arrive late, twice, in any order, or never.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Message {
    /// A flow as a whole (rule 7).
    Base { to: Peer, log: Log, held: Held, delivered: u8 },
    /// One entry (rule 8), and the commit index.
    Append { to: Peer, index: u8, entry: u8, committed: u8 },
    /// Bytes that are replicated (rule 14).
    Data { to: Peer, held: Held },
    /// What a backup has applied.
    Ack { from: u8, to: Peer, len: u8, bytes: Set },
    /// To consensus: the owner wants a learner in sync, if this is still the view (rule 3).
    Promote { node: u8, incarnation: u8, view: u8 },
}

impl Message {
    /// An append.
    pub fn append(to: Peer, index: u8, entry: Entry, committed: u8) -> Message {
        Message::Append { to, index, entry: entry.to_byte(), committed }
    }

    /// The entry in an append.
    pub fn entry(byte: u8) -> Entry {
        Entry::from_byte(byte)
    }
}

/// The backup of a conversation in a term. In an acknowledgement it names its sender's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Peer {
    /// Who receives.
    pub node: u8,
    /// The backup's incarnation.
    pub incarnation: u8,
    /// The owner's term.
    pub term: u8,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The relays.
    pub nodes: [Node; MAX_NODES],
    /// What consensus has committed.
    pub views: Vec<View>,
    /// Every message ever sent, sorted.
    pub net: Vec<Message>,
    /// Down: what has left under each sequence number.
    pub released: Vec<Option<Record>>,
    /// Down: records that the client has received without a gap.
    pub client_records: u8,
    /// Down: bytes in them.
    pub client_bytes: u8,
    /// Bytes acknowledged to the sending end; it has forgotten them.
    pub acked: u8,
    /// Up: bytes that each of two backends has received.
    pub backends: [u8; 2],
    /// Whether the flow was reset, and is over.
    pub reset: bool,
    /// Crashes so far.
    pub crashes: u8,
    /// Restarts so far.
    pub restarts: u8,
    /// Joins so far.
    pub joins: u8,
}

impl State {
    /// All nodes but a fourth one in sync, node 0 the owner, the flow new and its base applied.
    pub fn new(config: &Config) -> State {
        let in_sync = Set::range(0, config.nodes.min(3));
        let mut nodes = [Node::default(); MAX_NODES];
        for (node, id) in nodes.iter_mut().zip(0..config.nodes) {
            node.alive = true;
            if in_sync.contains(id) {
                (node.view, node.promised, node.term) = (1, 1, 1);
            }
        }
        for backup in in_sync.without(0).iter() {
            let ack = Ack { incarnation: 0, len: 0, bytes: Set::EMPTY };
            nodes[0].acks[usize::from(backup)] = Some(ack);
            nodes[0].based = nodes[0].based.with(backup);
        }
        let incarnations = [0; MAX_NODES];
        let first = View { term: 1, owner: 0, in_sync, learners: Set::EMPTY, incarnations };
        State {
            nodes,
            views: vec![first],
            net: Vec::new(),
            released: Vec::new(),
            client_records: 0,
            client_bytes: 0,
            acked: 0,
            backends: [0; 2],
            reset: false,
            crashes: 0,
            restarts: 0,
            joins: 0,
        }
    }

    /// The newest view.
    pub fn view(&self) -> View {
        self.views[self.views.len() - 1]
    }

    /// The view that `node` knows of.
    pub fn installed(&self, node: u8) -> Option<View> {
        let number = usize::from(self.node(node).view);
        number.checked_sub(1).map(|index| self.views[index])
    }

    /// One node.
    pub fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    /// One node, to change it.
    pub fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// Puts a message on the network, where it stays.
    pub fn send(&mut self, message: Message) {
        if let Err(place) = self.net.binary_search(&message) {
            self.net.insert(place, message);
        }
    }

    /// Whether `node` lives the life that the newest view knows.
    pub fn is_current(&self, node: u8) -> bool {
        let incarnation = self.view().incarnations[usize::from(node)];
        self.node(node).alive && self.node(node).incarnation == incarnation
    }

    /// Members of the newest view that could take over: alive, in sync, of the right incarnation.
    pub fn eligible(&self) -> impl DoubleEndedIterator<Item = u8> {
        self.view().in_sync.iter().filter(|node| self.is_current(*node))
    }

    /// Whether `node` takes itself for the owner of the term that it has promised.
    pub fn is_owner(&self, config: &Config, node: u8) -> bool {
        let this = self.node(node);
        let Some(view) = self.installed(node).filter(|_| this.alive) else { return false };
        let current = view.incarnations[usize::from(node)] == this.incarnation;
        view.owner == node
            && (current || config.breaks(Broken::SameIncarnation))
            && this.promised == view.term
    }
}
