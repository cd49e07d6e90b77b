//! Whether a cluster can do without one of its nodes, as one relay sees it.

use relay_abi::control::{CouncilMember, CouncilReport, StatusReport};

/// Words of [`CouncilMember`].
pub const RELAY: &str = "relay";
pub const DRAINING: &str = "draining";
const LIVE: &str = "live";

/// The member with this id.
pub fn member(status: &StatusReport, node: u8) -> Result<&CouncilMember, String> {
    let member = council(status)?.members.iter().find(|member| member.id == node);
    member.ok_or_else(|| format!("node {node} is no member of the cluster"))
}

/// Why `next` must not be taken away now; it may be draining.
pub fn check(status: &StatusReport, next: u8) -> Result<(), String> {
    is_complete(status, Some(next))?;
    has_margin(status, next)
}

/// Whether those who vote can decide without `next`.
pub fn has_margin(status: &StatusReport, next: u8) -> Result<(), String> {
    let votes = member(status, next)?.votes;
    let voters = council(status)?.members.iter().filter(|member| member.votes).count();
    // Those who are left have to be more than half.
    if votes && 2 * (voters - 1) <= voters {
        return Err(format!(
            "node {next} is one of {voters} voters, and without it they are no majority: add a \
             witness"
        ));
    }
    Ok(())
}

/// Why the node that was `before` is not back yet, or the cluster not as it was.
pub fn is_back(status: &StatusReport, before: &CouncilMember) -> Result<(), String> {
    let now = member(status, before.id)?;
    if now.incarnation == before.incarnation {
        return Err(format!(
            "it is {}, and in the life of before: does the hook restart it?",
            now.state
        ));
    }
    is_complete(status, None)?;
    match before.votes && !now.votes {
        true => Err("its vote does not count yet".to_owned()),
        false => Ok(()),
    }
}

/// Whether everybody is there and in sync, but for `leaving`, which may be draining.
fn is_complete(status: &StatusReport, leaving: Option<u8>) -> Result<(), String> {
    let council = council(status)?;
    if let Some(trouble) = &council.trouble {
        return Err(format!("node {} says: {trouble}", status.node));
    }
    if council.leader.is_none() {
        return Err("nobody leads the council: do enough nodes run?".to_owned());
    }
    for CouncilMember { id, state, .. } in &council.members {
        match state.as_str() {
            LIVE => {}
            DRAINING if leaving == Some(*id) => {}
            DRAINING => {
                return Err(format!(
                    "node {id} is draining: relay-ctl undrain {id}, or restart it first"
                ));
            }
            other => return Err(format!("node {id} is {other}: start it, or see its log")),
        }
    }
    are_in_sync(status, council)
}

fn are_in_sync(status: &StatusReport, council: &CouncilReport) -> Result<(), String> {
    let live = |member: &&CouncilMember| member.kind == RELAY && member.state == LIVE;
    let relays: Vec<&CouncilMember> = council.members.iter().filter(live).collect();
    for CouncilMember { id, incarnation, .. } in
        relays.iter().filter(|member| member.id != status.node)
    {
        let peer = status.peers.iter().find(|peer| peer.id == *id);
        let Some(peer) = peer.filter(|peer| peer.alive) else {
            return Err(format!("node {} hears nothing of node {id}", status.node));
        };
        // What the data plane says may be of the peer's former life.
        if !peer.in_sync || peer.incarnation.as_ref() != Some(incarnation) {
            return Err(format!("node {id} is not in sync"));
        }
    }
    // Alone there is nobody to be in sync with: the other one of two drains.
    let is_live = relays.iter().any(|member| member.id == status.node);
    match is_live && relays.len() > 1 && !status.in_sync {
        true => Err(format!("node {} is not in sync", status.node)),
        false => Ok(()),
    }
}

fn council(status: &StatusReport) -> Result<&CouncilReport, String> {
    status.council.as_deref().ok_or_else(|| "the relay has no council".to_owned())
}
