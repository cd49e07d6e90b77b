//! Views and commands as bytes: entries and snapshots of the log, and messages that carry them.
//!
//! Fixed, big-endian, every length bounded; what no encoder writes is malformed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use relay_abi::bucket::BUCKETS;
use relay_abi::wire::{Malformed, Reader, Writer};

use crate::command::{Candidate, Command};
use crate::id::{Incarnation, NODE_IDS, NodeId, NodeSet, Seat};
use crate::view::{
    Bucket, Configuration, DOCUMENT_MAX, Document, Holder, Kind, MEMBERS_MAX, Member,
    OBJECTION_MAX, Objection, State, VIPS_MAX, View, Withdrawn,
};

/// Victims of one ejection.
const VICTIMS_MAX: usize = MEMBERS_MAX;

/// Stands for no node.
const NOBODY: u8 = u8::MAX;

impl View {
    /// The view as bytes: some 42 for each bucket, and the configuration.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.buckets.len() * 42);
        out.u64(self.number);
        out.u8(self.replicas);
        out.u8(self.members.len() as u8);
        for (node, member) in &self.members {
            out.u8(node.0);
            put_member(&mut out, member);
        }
        out.u8(self.retired.len() as u8);
        self.retired.iter().for_each(|seat| out.u64(seat.number()));
        out.u16(self.buckets.len() as u16);
        for bucket in &self.buckets {
            put_bucket(&mut out, bucket);
        }
        put_document(&mut out, &self.configuration.active);
        // As before any document could be dropped, where none was.
        let Configuration { proposed, withdrawn, .. } = &self.configuration;
        out.u8(u8::from(proposed.is_some()) | u8::from(withdrawn.is_some()) << 1);
        if let Some(document) = proposed {
            put_document(&mut out, document);
        }
        if let Some(withdrawn) = withdrawn {
            out.u64(withdrawn.generation);
            put_objection(&mut out, withdrawn.objection.as_ref());
        }
        out.u64(self.configuration.prepared.bits());
        out.u16(self.vips.len() as u16);
        for (vip, holder) in &self.vips {
            put_address(&mut out, *vip);
            put_node(&mut out, holder.node);
            out.u64(holder.changed);
        }
        out
    }

    /// The view that [`View::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<View, Malformed> {
        let mut reader = Reader::new(bytes);
        let from = &mut reader;
        let (number, replicas) = (from.u64()?, from.u8()?);
        let count = bounded(from.u8()?.into(), MEMBERS_MAX)?;
        let members = (0..count).map(|_| Ok((node(from)?, member(from)?)));
        let members = members.collect::<Result<BTreeMap<_, _>, Malformed>>()?;
        let count = bounded(from.u8()?.into(), MEMBERS_MAX)?;
        let retired = (0..count).map(|_| seat(from)).collect::<Result<_, _>>()?;
        let count = bounded(from.u16()?.into(), BUCKETS as usize)?;
        let buckets = (0..count).map(|_| bucket(from)).collect::<Result<Vec<_>, _>>()?;
        let active = document(from)?;
        let has = from.u8()?;
        bounded(has.into(), 3)?;
        let proposed = if has & 1 != 0 { Some(document(from)?) } else { None };
        let withdrawn = if has & 2 != 0 { Some(withdrawn(from)?) } else { None };
        let prepared = NodeSet::from_bits(from.u64()?);
        let configuration = Configuration { active, proposed, prepared, withdrawn };
        let count = bounded(from.u16()?.into(), VIPS_MAX)?;
        let vips = (0..count).map(|_| {
            let vip = address(from)?;
            Ok((vip, Holder { node: maybe_node(from)?, changed: from.u64()? }))
        });
        let vips = vips.collect::<Result<BTreeMap<_, _>, Malformed>>()?;
        reader.finish()?;
        let view = View { number, replicas, members, retired, buckets, configuration, vips };
        if view.flaw().is_some() { Err(Malformed) } else { Ok(view) }
    }
}

impl Command {
    /// The command as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.u8(self.tag());
        match self {
            Command::Configure { generation, bytes, vips } => {
                let (bytes, vips) = (bytes.clone(), vips.clone());
                put_document(&mut out, &Document { generation: *generation, bytes, vips });
            }
            Command::Drain { node } | Command::Undrain { node } | Command::Forget { node } => {
                out.u8(node.0);
            }
            Command::Eject { victims, by, seen } => {
                put_life(&mut out, *by);
                out.u64(*seen);
                out.u8(victims.len() as u8);
                victims.iter().for_each(|life| put_life(&mut out, *life));
            }
            Command::HandOver { seen, buckets, to } => {
                put_buckets(&mut out, *seen, buckets);
                out.u8(to.0);
            }
            Command::HandedOver { seen, buckets, from } => {
                put_buckets(&mut out, *seen, buckets);
                put_life(&mut out, *from);
            }
            Command::Hold { vip, seen, node } => {
                put_address(&mut out, *vip);
                out.u64(*seen);
                out.u8(node.0);
            }
            Command::Join(candidate) => put_candidate(&mut out, candidate),
            Command::Lose { seen, buckets } => put_buckets(&mut out, *seen, buckets),
            Command::Prepared { node, generation } => {
                put_life(&mut out, *node);
                out.u64(*generation);
            }
            Command::Promote { seen, buckets, owner, learner } => {
                put_buckets(&mut out, *seen, buckets);
                put_life(&mut out, *owner);
                put_life(&mut out, *learner);
            }
            Command::Withdraw { generation, objection } => {
                out.u64(*generation);
                put_objection(&mut out, objection.as_ref());
            }
            Command::Replicas { replicas } => out.u8(*replicas),
            Command::Weigh { node, weight } => {
                out.u8(node.0);
                out.u16(*weight);
            }
        }
        out
    }

    /// The command that [`Command::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Command, Malformed> {
        let mut reader = Reader::new(bytes);
        let from = &mut reader;
        let command = match from.u8()? {
            1 => {
                let Document { generation, bytes, vips } = document(from)?;
                Command::Configure { generation, bytes, vips }
            }
            2 => Command::Drain { node: node(from)? },
            3 => {
                let (by, seen) = (life(from)?, from.u64()?);
                let count = bounded(from.u8()?.into(), VICTIMS_MAX)?;
                let victims = (0..count).map(|_| life(from)).collect::<Result<_, _>>()?;
                Command::Eject { victims, by, seen }
            }
            4 => Command::Forget { node: node(from)? },
            5 => {
                let (seen, buckets) = buckets(from)?;
                Command::HandOver { seen, buckets, to: node(from)? }
            }
            6 => {
                let (seen, buckets) = buckets(from)?;
                Command::HandedOver { seen, buckets, from: life(from)? }
            }
            7 => Command::Hold { vip: address(from)?, seen: from.u64()?, node: node(from)? },
            8 => Command::Join(candidate(from)?),
            9 => {
                let (seen, buckets) = buckets(from)?;
                Command::Lose { seen, buckets }
            }
            10 => Command::Prepared { node: life(from)?, generation: from.u64()? },
            11 => {
                let (seen, buckets) = buckets(from)?;
                Command::Promote { seen, buckets, owner: life(from)?, learner: life(from)? }
            }
            12 => Command::Replicas { replicas: from.u8()? },
            13 => Command::Undrain { node: node(from)? },
            14 => Command::Weigh { node: node(from)?, weight: from.u16()? },
            15 => Command::Withdraw { generation: from.u64()?, objection: objection(from)? },
            _ => return Err(Malformed),
        };
        reader.finish()?;
        Ok(command)
    }

    fn tag(&self) -> u8 {
        match self {
            Command::Configure { .. } => 1,
            Command::Drain { .. } => 2,
            Command::Eject { .. } => 3,
            Command::Forget { .. } => 4,
            Command::HandOver { .. } => 5,
            Command::HandedOver { .. } => 6,
            Command::Hold { .. } => 7,
            Command::Join(_) => 8,
            Command::Lose { .. } => 9,
            Command::Prepared { .. } => 10,
            Command::Promote { .. } => 11,
            Command::Replicas { .. } => 12,
            Command::Undrain { .. } => 13,
            Command::Weigh { .. } => 14,
            Command::Withdraw { .. } => 15,
        }
    }
}

fn put_member(out: &mut Vec<u8>, member: &Member) {
    out.u64(member.incarnation.0);
    out.u64(member.seat.number());
    out.u8(member.kind as u8);
    out.bool(member.votes);
    out.u8(member.state as u8);
    out.u16(member.weight);
    out.u64(member.changed);
    out.u64(member.joined);
}

fn member(from: &mut Reader<'_>) -> Result<Member, Malformed> {
    Ok(Member {
        incarnation: Incarnation(from.u64()?),
        seat: seat(from)?,
        kind: kind(from)?,
        votes: from.bool()?,
        state: one_of(from, [State::Joining, State::Live, State::Draining, State::Dead])?,
        weight: from.u16()?,
        changed: from.u64()?,
        joined: from.u64()?,
    })
}

fn put_candidate(out: &mut Vec<u8>, candidate: &Candidate) {
    put_life(out, (candidate.node, candidate.incarnation));
    out.u64(candidate.seat.number());
    out.u8(candidate.kind as u8);
    out.bool(candidate.votes);
    out.u16(candidate.weight);
    out.u64(candidate.generation);
}

fn candidate(from: &mut Reader<'_>) -> Result<Candidate, Malformed> {
    let (node, incarnation) = life(from)?;
    Ok(Candidate {
        node,
        incarnation,
        seat: seat(from)?,
        kind: kind(from)?,
        votes: from.bool()?,
        weight: from.u16()?,
        generation: from.u64()?,
    })
}

fn seat(from: &mut Reader<'_>) -> Result<Seat, Malformed> {
    Seat::from_number(from.u64()?).ok_or(Malformed)
}

fn put_bucket(out: &mut Vec<u8>, bucket: &Bucket) {
    out.u64(bucket.term);
    out.u64(bucket.since);
    out.u64(bucket.changed);
    put_node(out, bucket.owner);
    put_node(out, bucket.heir);
    out.u64(bucket.in_sync.bits());
    out.u64(bucket.learners.bits());
}

fn bucket(from: &mut Reader<'_>) -> Result<Bucket, Malformed> {
    Ok(Bucket {
        term: from.u64()?,
        since: from.u64()?,
        changed: from.u64()?,
        owner: maybe_node(from)?,
        heir: maybe_node(from)?,
        in_sync: NodeSet::from_bits(from.u64()?),
        learners: NodeSet::from_bits(from.u64()?),
    })
}

fn put_document(out: &mut Vec<u8>, document: &Document) {
    out.u64(document.generation);
    out.u32(document.bytes.len() as u32);
    out.bytes(&document.bytes);
    out.u16(document.vips.len() as u16);
    document.vips.iter().for_each(|vip| put_address(out, *vip));
}

fn document(from: &mut Reader<'_>) -> Result<Document, Malformed> {
    let generation = from.u64()?;
    let count = usize::try_from(from.u32()?).map_err(|_| Malformed)?;
    let bytes = from.bytes(bounded(count, DOCUMENT_MAX)?)?.into();
    let count = bounded(from.u16()?.into(), VIPS_MAX)?;
    let vips = (0..count).map(|_| address(from)).collect::<Result<Arc<[_]>, _>>()?;
    Ok(Document { generation, bytes, vips })
}

fn withdrawn(from: &mut Reader<'_>) -> Result<Withdrawn, Malformed> {
    Ok(Withdrawn { generation: from.u64()?, objection: objection(from)? })
}

fn put_objection(out: &mut Vec<u8>, objection: Option<&Objection>) {
    put_node(out, objection.map(|objection| objection.node));
    if let Some(objection) = objection {
        out.prefixed(objection.reason.as_bytes());
    }
}

fn objection(from: &mut Reader<'_>) -> Result<Option<Objection>, Malformed> {
    let Some(node) = maybe_node(from)? else { return Ok(None) };
    let reason = std::str::from_utf8(from.prefixed()?).map_err(|_| Malformed)?;
    bounded(reason.len(), OBJECTION_MAX)?;
    Ok(Some(Objection { node, reason: reason.into() }))
}

fn put_buckets(out: &mut Vec<u8>, seen: u64, buckets: &[u16]) {
    out.u64(seen);
    out.u16(buckets.len() as u16);
    buckets.iter().for_each(|bucket| out.u16(*bucket));
}

fn buckets(from: &mut Reader<'_>) -> Result<(u64, Vec<u16>), Malformed> {
    let seen = from.u64()?;
    let count = bounded(from.u16()?.into(), BUCKETS as usize)?;
    Ok((seen, (0..count).map(|_| from.u16()).collect::<Result<_, _>>()?))
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            out.u8(4);
            out.bytes(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.u8(6);
            out.bytes(&v6.octets());
        }
    }
}

fn address(from: &mut Reader<'_>) -> Result<IpAddr, Malformed> {
    match from.u8()? {
        4 => from.array::<4>().map(IpAddr::from),
        6 => from.array::<16>().map(IpAddr::from),
        _ => Err(Malformed),
    }
}

fn put_life(out: &mut Vec<u8>, (node, incarnation): (NodeId, Incarnation)) {
    out.u8(node.0);
    out.u64(incarnation.0);
}

fn life(from: &mut Reader<'_>) -> Result<(NodeId, Incarnation), Malformed> {
    Ok((node(from)?, Incarnation(from.u64()?)))
}

fn put_node(out: &mut Vec<u8>, node: Option<NodeId>) {
    out.u8(node.map_or(NOBODY, |node| node.0));
}

fn maybe_node(from: &mut Reader<'_>) -> Result<Option<NodeId>, Malformed> {
    match from.u8()? {
        NOBODY => Ok(None),
        id if id < NODE_IDS => Ok(Some(NodeId(id))),
        _ => Err(Malformed),
    }
}

fn node(from: &mut Reader<'_>) -> Result<NodeId, Malformed> {
    maybe_node(from)?.ok_or(Malformed)
}

fn kind(from: &mut Reader<'_>) -> Result<Kind, Malformed> {
    one_of(from, [Kind::Relay, Kind::Witness])
}

fn one_of<T: Copy, const N: usize>(from: &mut Reader<'_>, all: [T; N]) -> Result<T, Malformed> {
    all.get(usize::from(from.u8()?)).copied().ok_or(Malformed)
}

fn bounded(count: usize, max: usize) -> Result<usize, Malformed> {
    if count <= max { Ok(count) } else { Err(Malformed) }
}
