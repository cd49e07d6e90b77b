//! The twenty rules of the protocol: where each is in this model, or why it is not; and the
//! rules that a run can leave out, to show that it would be noticed.

use crate::state::Direction;

/// A rule of the project and its place in this crate.
#[derive(Debug)]
pub struct Rule {
    /// Its number, as in the table of docs/PROTOCOL.md.
    pub number: u8,
    /// Transitions that follow it.
    pub transitions: &'static [&'static str],
    /// Invariants that fail without it.
    pub invariants: &'static [&'static str],
    /// What of it has no counterpart here, why, and where else it is checked.
    pub not_modelled: &'static str,
}

const fn rule(
    number: u8,
    transitions: &'static [&'static str],
    invariants: &'static [&'static str],
    not_modelled: &'static str,
) -> Rule {
    Rule { number, transitions, invariants, not_modelled }
}

/// All rules.
pub const RULES: [Rule; 20] = [
    rule(
        1,
        &["Install", "Remove"],
        &["CannotContinue"],
        "how votes make one list of views, and its persistence: an engine's work, its own tests",
    ),
    rule(2, &["Remove", "HandOver"], &["TwoOwners"], ""),
    rule(3, &["Remove", "AddLearner", "Deliver"], &["CannotContinue"], ""),
    rule(4, &["Propose", "DropLearner"], &["CannotContinue", "ByteLost"], ""),
    rule(5, &["Remove", "HandOver"], &["CannotContinue", "ByteLost"], ""),
    rule(
        6,
        &["Deliver", "Install"],
        &["NonceUsedTwice", "CannotContinue"],
        "that one thread does it: a transition is atomic by construction; relay-core has no threads",
    ),
    rule(
        7,
        &["SendBase", "Deliver"],
        &["CannotContinue", "Stuck"],
        "flows that a base does not name: there is one flow; relay-core/src/replica/shadow.rs, tests/sim",
    ),
    rule(8, &["Deliver"], &["CannotContinue"], ""),
    rule(9, &["Restart", "Install", "Deliver"], &["CannotContinue", "NonceUsedTwice"], ""),
    rule(
        10,
        &["Emit", "Acknowledge", "Send"],
        &["NonceUsedTwice", "CannotContinue", "StreamBroken"],
        "each kind of effect by itself (SACK, FIN, handshake flight): all wait for the same number; \
         tests/sim, tests/e2e",
    ),
    rule(11, &["Install", "SendBase"], &["CannotContinue", "Stuck"], ""),
    rule(
        12,
        &["Dial", "Establish", "Send"],
        &["ExecutedTwice", "CannotContinue"],
        "what is in EST besides the backend: relay-core/src/flow/persist.rs, tests/sim",
    ),
    rule(13, &["Flush", "Emit", "Reset"], &["NonceUsedTwice"], ""),
    rule(
        14,
        &["Acknowledge", "SendData", "Learn", "Settle"],
        &["ByteLost"],
        "which ranges a SACK names: relay-core/src/relay/hold.rs",
    ),
    rule(
        15,
        &[],
        &[],
        "keys are one generation here: relay-core/src/tls/tests/records.rs, tests/sim",
    ),
    rule(
        16,
        &[],
        &[],
        "there are no TCP sequence numbers here: relay-core/src/tcp/tests/takeover.rs, tests/sim",
    ),
    rule(
        17,
        &[],
        &[],
        "there are no clocks here, and no release depends on one: \
         relay-dataplane/tests/xdp_fixtures.rs, tests/sim, tests/e2e",
    ),
    rule(
        18,
        &["Crash", "Restart"],
        &["CannotContinue"],
        "the wait, the view that says \"lost\" (a flow without an eligible node ends here) and the loss of \
         a quorum: tests/sim, tests/e2e",
    ),
    rule(
        19,
        &["Remove", "Acknowledge"],
        &["ByteLost"],
        "T_eject and backing off: members are suspected at any time; relay-core/src/node/membership.rs",
    ),
    rule(
        20,
        &["SendData", "Remove"],
        &["CannotContinue"],
        "each bound by itself: relay-core/src/relay/ranges.rs, tests/sim",
    ),
];

/// A way to build the protocol wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// Rule 1: a voter forgets the newest view, and elects by the one before.
    WitnessAmnesia,
    /// Rule 2: the owner changes, the term does not.
    TermKept,
    /// Rule 2: a learner may become owner.
    LearnerOwner,
    /// Rule 3: a promotion is committed though the view has changed.
    PromoteWithoutCas,
    /// Rule 4: a learner is proposed before it is gated.
    PromoteUngated,
    /// Rule 6: messages of lower terms are taken.
    NoTermCheck,
    /// Rule 7: a base of a higher term does not replace the log; entries are sent instead.
    NoOverwrite,
    /// Rule 7: a base travels in pieces.
    TornBase,
    /// Rule 7: a base of the same term does not extend the log.
    NoSameTermCatchUp,
    /// Rule 8: appended to a shadow of any term.
    AppendAnyShadow,
    /// Rule 8: acknowledged before it is applied.
    AckBeforeApply,
    /// Rule 9: acknowledgements of an earlier term count.
    StaleAcks,
    /// Rule 9: a node that restarts is the same member as before.
    SameIncarnation,
    /// Rule 10: nothing waits.
    NoGate,
    /// Rule 10: one gate's acknowledgement is enough.
    AnyAck,
    /// Rule 10: the commit index runs ahead of what gates acknowledged.
    CommitIndexTooFar,
    /// Rule 11: a new owner does not wait for backups that it has not based yet.
    UnbasedNotWaited,
    /// Rule 12: data goes to a backend before EST is committed.
    EstUncommitted,
    /// Rule 12: another backend is dialed after EST.
    RedialAfterEst,
    /// Rule 13: a record leaves though it has not the tag of the log.
    TagIgnored,
    /// Rule 14: bytes are acknowledged when they are held here, not everywhere.
    DataAckEarly,
    /// Rule 14: R counts before the gates have it.
    SettleUngated,
    /// Rule 14: W follows the client's SACK.
    SackMovesDelivered,
    /// Rule 18: without a live member in sync, any shadow will do.
    StaleHeir,
    /// Rule 19: an owner goes on without a silent gate before a view says so.
    SoloWithoutView,
    /// Rule 20: a full backup forgets what it has acknowledged.
    EvictAcknowledged,
}

impl Broken {
    /// All, by rule.
    pub const ALL: [Broken; 26] = [
        Broken::WitnessAmnesia,
        Broken::TermKept,
        Broken::LearnerOwner,
        Broken::PromoteWithoutCas,
        Broken::PromoteUngated,
        Broken::NoTermCheck,
        Broken::NoOverwrite,
        Broken::TornBase,
        Broken::NoSameTermCatchUp,
        Broken::AppendAnyShadow,
        Broken::AckBeforeApply,
        Broken::StaleAcks,
        Broken::SameIncarnation,
        Broken::NoGate,
        Broken::AnyAck,
        Broken::CommitIndexTooFar,
        Broken::UnbasedNotWaited,
        Broken::EstUncommitted,
        Broken::RedialAfterEst,
        Broken::TagIgnored,
        Broken::DataAckEarly,
        Broken::SettleUngated,
        Broken::SackMovesDelivered,
        Broken::StaleHeir,
        Broken::SoloWithoutView,
        Broken::EvictAcknowledged,
    ];

    /// Number of the rule that is broken.
    pub fn rule(self) -> u8 {
        match self {
            Broken::WitnessAmnesia => 1,
            Broken::TermKept | Broken::LearnerOwner => 2,
            Broken::PromoteWithoutCas => 3,
            Broken::PromoteUngated => 4,
            Broken::NoTermCheck => 6,
            Broken::NoOverwrite | Broken::TornBase | Broken::NoSameTermCatchUp => 7,
            Broken::AppendAnyShadow | Broken::AckBeforeApply => 8,
            Broken::StaleAcks | Broken::SameIncarnation => 9,
            Broken::NoGate | Broken::AnyAck | Broken::CommitIndexTooFar => 10,
            Broken::UnbasedNotWaited => 11,
            Broken::EstUncommitted | Broken::RedialAfterEst => 12,
            Broken::TagIgnored => 13,
            Broken::DataAckEarly | Broken::SettleUngated | Broken::SackMovesDelivered => 14,
            Broken::StaleHeir => 18,
            Broken::SoloWithoutView => 19,
            Broken::EvictAcknowledged => 20,
        }
    }

    /// The streams in which it can show.
    pub fn directions(self) -> &'static [Direction] {
        match self {
            Broken::EstUncommitted | Broken::RedialAfterEst | Broken::SettleUngated => {
                &[Direction::Up]
            }
            Broken::TagIgnored | Broken::SackMovesDelivered => &[Direction::Down],
            _ => &[Direction::Down, Direction::Up],
        }
    }
}
