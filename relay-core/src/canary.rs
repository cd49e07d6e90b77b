//! Rules that can be broken on purpose, one at a time, so that the simulator can show that its
//! checkers would notice. Without the feature `canary`, which no product enables, [`breaks`] is a
//! constant and all of this compiles to nothing.

/// A rule that is broken. The numbers are those of the table in docs/PROTOCOL.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// Rule 10: effects leave although no gate has acknowledged what determines them.
    ReleaseBeforeCommit,
    /// Rule 10: more of the server's flight leaves although no gate has acknowledged what determines
    /// it. Everything else still waits: the first answer, and the ACK of what the client has said.
    AnswerBeforeCommit,
    /// Rule 14: what was received is acknowledged, settled or not.
    AckBeforeSettled,
    /// Rule 6: an owner that hears of a higher term goes on, and a node acknowledges what owners
    /// of older terms send. Either half alone is harmless: the other one still holds.
    IgnoreTerms,
    /// Rule 13: a new owner forgets the entries of the log and frames the same plaintext anew.
    FrameAnew,
    /// Rules 11 and 13: a new owner goes on without the last entry of its log, of which perhaps no
    /// byte has left, so that its number seals something else.
    ForgetTail,
    /// Rule 15: a backup does not follow the key generation. The log itself cannot forget a
    /// KeyUpdate: its index, which every message names, would not fit any more.
    ForgetKeyUpdate,
    /// Rule 9: a peer counts as in sync before it was given any flow, be it new or restarted.
    CountUnbased,
    /// Rule 7: the base of a flow that is known adds its entries to the log that is there.
    MergeBase,
    /// Rule 7: a base leaves out the bytes that were acknowledged and are not settled.
    BaseWithoutData,
    /// Rule 4: the view names a learner before it is gated on.
    PromoteUngated,
    /// Rule 12: the ACK that completes the backend's handshake, and data, leave before EST is
    /// committed.
    EarlyThirdAck,
    /// Rule 12: a new owner dials again although its log has EST, as long as nothing shows that the
    /// backend has got anything.
    RedialAfterEst,
    /// Rule 14: SACK names what was handed to the replication, acknowledged or not.
    SackUnreplicated,
    /// Rule 16: a pure ACK carries the oldest sequence number that the peer has not acknowledged.
    OldSequence,
    /// Rule 10: a new owner speaks for a flow although a gate has not been given its base.
    SpeakUnbased,
    /// Rules 5 and 9: a backup takes over whatever it knows, in sync or not.
    TakeOverUnfit,
    /// Rule 17: a lease never ends.
    IgnoreLease,
    /// Rule 17: what came in during a pause is answered although the lease has ended meanwhile.
    KeepAnswers,
    /// Units: a frame that another relay forwarded is taken to show the way back.
    TrustForwarder,
    /// Units: the owner of any unit answers for the cluster's addresses.
    ClaimForAnyUnit,
    /// A new owner repeats a handshake under the configuration in force, not under the one under which
    /// it began.
    RepeatUnderAnother,
    /// Rule 20: TCP buffers keep the bytes that nobody needs any more.
    KeepPages,
}

/// Whether the rule of `canary` is broken in this thread.
#[cfg(feature = "canary")]
pub(crate) fn breaks(canary: Canary) -> bool {
    broken::BROKEN.get() == Some(canary)
}

/// Whether the rule of `canary` is broken: never, without the feature.
#[cfg(not(feature = "canary"))]
pub(crate) const fn breaks(_: Canary) -> bool {
    false
}

#[cfg(feature = "canary")]
pub use broken::set;

#[cfg(feature = "canary")]
mod broken {
    use core::cell::Cell;

    use super::Canary;

    std::thread_local! {
        pub static BROKEN: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// Breaks one rule in all nodes of this thread, or none.
    pub fn set(canary: Option<Canary>) {
        BROKEN.set(canary);
    }
}
