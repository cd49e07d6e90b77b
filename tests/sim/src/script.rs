//! What is done to the cluster, step by step, and what a run is made of.

use relay_core::config::Side;
use relay_core::relay::HoldTime;
use relay_core::time::Duration;
use relay_views::source::Manners;

use crate::keys::Keying;
use crate::network::Faults;
use crate::plan::{Groups, Plan};

/// Everything about a run but its seed.
#[derive(Clone, Debug)]
pub struct Options {
    pub plans: Vec<Plan>,
    pub steps: Vec<Step>,
    pub ipv6: bool,
    /// False: the backend answers every SYN with a reset.
    pub backend_listens: bool,
    /// When bytes are replicated.
    pub hold: HoldTime,
    /// Flows that are silent for this long are reset.
    pub idle_max: Option<Duration>,
    /// Bytes that backups hold at most, before windows get small.
    pub replicated_max: u64,
    /// What the relays' certificate has for a key.
    pub server_key: ServerKey,
    /// The relays demand a certificate of every client.
    pub client_auth: bool,
    /// Toward clients, backends and other relays.
    pub faults: [Faults; 3],
    /// Frames are damaged only until then.
    pub faults_until: Duration,
    /// Relays of the cluster; more than two need views.
    pub relays: usize,
    /// Views come from an oracle with these manners; None: two relays decide by silence.
    pub views: Option<Manners>,
    /// Units of ownership; more than one need views.
    pub units: u8,
    /// How relays come to the keys of their datagrams, where there are views.
    pub keying: Keying,
    /// The owner loses power at this event after the first step, see `every_event`.
    pub kill_at: Option<u64>,
    /// Garbage that reaches the relays' ports, in frames a second.
    pub noise: u32,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKey {
    Ed25519,
    EcdsaP256,
    Rsa2048,
}

/// One step: it waits for `when`, counted from the step before it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub when: When,
    pub action: Action,
}

/// When a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So much time after the step before.
    After(Duration),
    /// Endpoints have received so many bytes since the step before.
    Moved(u64),
    /// Relays have sent so many frames since the step before.
    Sent(u64),
    /// One relay serves and another one could take over.
    InSync,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only the waiting counts.
    Wait,
    /// A power cut after so many more frames of its next turn have left.
    Crash(Who, u64),
    /// A relay is asked to end: it hands over, leaves the view, and is gone.
    End(Who),
    /// Every machine without power starts again as a new incarnation.
    Restart,
    /// A machine gets no processor for so long.
    Pause(Who, Duration),
    /// The same, and what comes in meanwhile is lost: a virtual machine that is stopped.
    Freeze(Who, Duration),
    /// Nobody hears a machine's cluster interface for so long.
    Mute(Who, Duration),
    /// A machine's turns are at least so far apart, for so long: a slow processor. There is no slow
    /// disk: no relay writes to one, or reads from one, while it serves.
    Slow(Who, Duration, Duration),
    /// At most so many frames leave each interface in a turn, for so long: full rings.
    Clog(Who, usize, Duration),
    /// Nothing gets through in one direction between relays and the far end, for so long.
    Cut(Side, Way, Duration),
    /// Nothing gets through in one direction between one relay and one network, for so long. (In the
    /// cluster of two that is `Mute` of one or the other.)
    Sever(Side, Who, Way, Duration),
    /// One interface of a relay has no carrier for so long.
    Unplug(Side, Who, Duration),
    /// The council drains the owner; who was drained before is given back.
    Drain,
    /// The council is asked for another configuration, or to drop the one that is being prepared.
    Reconfigure,
    /// Cluster datagrams of the past are repeated, and forged ones are sent.
    Replay,
}

/// A direction, as relays see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// Which relay. Where there are several units each step is about one of them, most often the first one,
/// whose owner answers for the cluster's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Owner,
    Backup,
}

impl Step {
    /// A step.
    pub const fn new(when: When, action: Action) -> Self {
        Step { when, action }
    }
}

impl Options {
    /// Whether relays may be sent what no relay has sent.
    pub fn forges(&self) -> bool {
        let [_, _, cluster] = self.faults;
        self.noise > 0 || cluster.corruption > 0 || self.replays()
    }

    /// Whether a step repeats cluster datagrams.
    pub fn replays(&self) -> bool {
        self.steps.iter().any(|step| step.action == Action::Replay)
    }

    /// Whether the same seed gives the same bytes. The library signs with RSA and ECDSA, and makes
    /// keys of ML-KEM, with randomness that it takes from nobody. Then the same seed gives the same
    /// frames at the same times with other bytes in them; but ECDSA's signatures differ in length
    /// by a few bytes, so that what such a seed shows it may show only most of the times.
    pub fn is_reproducible(&self) -> bool {
        let is_hybrid = |plan: &Plan| plan.groups == Groups::Hybrid;
        self.server_key == ServerKey::Ed25519 && !self.plans.iter().any(is_hybrid)
    }

    /// A quiet network with 200 microseconds between any two machines.
    pub fn new(plans: Vec<Plan>, steps: Vec<Step>) -> Self {
        let quiet = Faults { delay: Duration::from_micros(200), ..Faults::default() };
        Options {
            plans,
            steps,
            ipv6: false,
            backend_listens: true,
            hold: HoldTime::Measured,
            idle_max: None,
            replicated_max: 1 << 30,
            server_key: ServerKey::Ed25519,
            client_auth: false,
            faults: [quiet; 3],
            faults_until: Duration::ZERO,
            relays: 2,
            views: None,
            units: 1,
            keying: Keying {
                late_max: Duration::from_millis(2),
                rotates: Duration::ZERO,
                skew: false,
            },
            kill_at: None,
            noise: 0,
        }
    }
}
