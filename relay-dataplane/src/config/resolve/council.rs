//! The section `[cluster.council]`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use relay_abi::peer::{VERSION_PAIR, VERSION_SHARED};
use relay_core::unit::UNITS_MAX;
use relay_views::id::NODE_IDS;
use relay_views::view::{Kind, MEMBERS_MAX};

use super::{Resolver, Result, Role, unusable};
use crate::config::error::ConfigError;
use crate::config::parse;
use crate::config::{Certificate, Council, Member, Peer, files};

/// Units of a cluster whose operator does not say how many.
const UNITS_DEFAULT: u8 = 1;

/// Versions of messages that `cluster.council.protocol` may name; the last one, if it is absent.
const PROTOCOLS: RangeInclusive<u8> = VERSION_SHARED..=VERSION_PAIR;

/// How long what was recorded on the cluster network can be read by who breaks into a relay.
const REDIAL_AFTER: Duration = Duration::from_secs(60 * 60);

/// What is known of this node before its council is looked at.
pub(super) struct Context<'a> {
    pub own: u8,
    /// What this process was started as.
    pub kind: Kind,
    pub workers: usize,
    pub worker_timeout: Duration,
    pub realtime: bool,
    /// The other relays; a witness knows them from the council's section alone.
    pub peers: Option<&'a [Peer]>,
}

impl Resolver<'_> {
    pub(super) fn council(
        &mut self,
        council: &parse::Council,
        context: &Context<'_>,
    ) -> Result<Council> {
        if council.directory.get_ref().is_empty() {
            let remedy = "name one of its own such as /var/lib/relay/votes";
            return Err(self.wrong(&council.directory, "there is no directory", remedy));
        }
        let members = self.members(council, context)?;
        let identity = self.identity(council)?;
        let (path, ca) = self.file(&council.ca)?;
        if !files::has_section(&ca.bytes, "CERTIFICATE") {
            return Err(self.wrong(
                &council.ca,
                format!("{} holds no certificate", path.display()),
                "name ca.pem, as `relay-ctl cluster init` wrote it",
            ));
        }
        let units = match &council.units {
            Some(units) => self.integer(units, 1..=i64::from(UNITS_MAX))?,
            None => UNITS_DEFAULT,
        };
        let protocol = match &council.protocol {
            Some(protocol) => {
                self.integer(protocol, (*PROTOCOLS.start()).into()..=(*PROTOCOLS.end()).into())?
            }
            None => *PROTOCOLS.end(),
        };
        Ok(Council {
            node: context.own,
            units,
            protocol,
            redial_after: REDIAL_AFTER,
            members,
            directory: self.directory.join(council.directory.get_ref()),
            identity,
            ca: ca.bytes,
            workers: context.workers,
            worker_timeout: context.worker_timeout,
            realtime: context.realtime,
            documents: None,
        })
    }

    fn identity(&mut self, council: &parse::Council) -> Result<Certificate> {
        let (path, chain) = self.file(&council.certificate)?;
        if !files::has_section(&chain.bytes, "CERTIFICATE") {
            return Err(self.wrong(
                &council.certificate,
                format!("{} holds no certificate", path.display()),
                "name the PEM file that `relay-ctl cluster certificate` wrote for this node",
            ));
        }
        let (path, key) = self.secret(&council.key)?;
        if !files::has_section(&key, "PRIVATE KEY") {
            return Err(self.wrong(
                &council.key,
                format!("{} holds no private key", path.display()),
                "name the key that `relay-ctl cluster certificate` wrote for this node",
            ));
        }
        Ok(Certificate { chain: chain.bytes, key })
    }

    fn members(&mut self, council: &parse::Council, context: &Context<'_>) -> Result<Vec<Member>> {
        self.some(&council.member, MEMBERS_MAX, "members")?;
        let list = council.member.get_ref();
        let mut by_id = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for member in list {
            let resolved = self.member(member)?;
            if !addresses.insert(resolved.address) {
                return Err(self.wrong(
                    &member.address,
                    format!("{} is already the address of another member", resolved.address),
                    "give each council its own address or port",
                ));
            }
            if by_id.insert(resolved.id, resolved).is_some() {
                return Err(self.wrong(
                    &member.id,
                    format!("{} is already the id of another member", member.id.get_ref()),
                    "give each node its own id",
                ));
            }
        }
        self.loopback(council, &by_id)?;
        self.own_kind(council, context, &by_id)?;
        if let Some(peers) = context.peers {
            self.relays(council, context, (peers, &by_id))?;
        }
        let first_alone = self.without_witness(council, &by_id)?;
        let mut members: Vec<_> = by_id.into_values().collect();
        for member in members.iter_mut().skip(1).filter(|_| first_alone) {
            member.votes = false;
        }
        Ok(members)
    }

    fn member(&mut self, member: &parse::CouncilMember) -> Result<Member> {
        let id = self.integer(&member.id, 1..=i64::from(NODE_IDS) - 1)?;
        let kind = match member.kind.as_ref().map(|kind| (kind, kind.get_ref().as_str())) {
            None | Some((_, "relay")) => Kind::Relay,
            Some((_, "witness")) => Kind::Witness,
            Some((kind, other)) => {
                let problem = format!("{other:?} is no kind of member");
                return Err(self.wrong(kind, problem, "set it to relay or witness"));
            }
        };
        let text = &member.address;
        let address = text.get_ref().parse().ok().filter(|to: &SocketAddr| to.port() != 0);
        let Some(address) = address else {
            return Err(self.wrong(
                text,
                format!("{:?} is no address and port", text.get_ref()),
                "write it as 192.0.2.1:7001 or [2001:db8::1]:7001",
            ));
        };
        if !address.ip().is_loopback() {
            if let Some(what) = unusable(address.ip()) {
                return Err(self.wrong(
                    text,
                    format!("{} is {what}", address.ip()),
                    "use a unicast address that every member can reach",
                ));
            }
            // A relay's council may well have the address of its datagrams.
            match self.roles.insert(address.ip(), Role::Node) {
                Some(other) if other != Role::Node => {
                    return Err(self.wrong(
                        text,
                        format!("{} is already {}", address.ip(), other.name()),
                        "give each role its own address",
                    ));
                }
                _ => {}
            }
        }
        Ok(Member { id, address, kind, votes: true })
    }

    /// A cluster on one machine is for trying things out.
    fn loopback(&self, council: &parse::Council, members: &BTreeMap<u8, Member>) -> Result<()> {
        let local = |member: &Member| member.address.ip().is_loopback();
        if members.values().all(local) || !members.values().any(local) {
            return Ok(());
        }
        let ip = |text: &str| text.parse::<SocketAddr>().is_ok_and(|to| to.ip().is_loopback());
        let wrong = council.member.get_ref().iter().find(|one| ip(one.address.get_ref()));
        match wrong.map(|member| &member.address) {
            None => Ok(()),
            Some(text) => Err(self.wrong(
                text,
                format!("{} is a loopback address, and others are not", text.get_ref()),
                "use a unicast address that every member can reach",
            )),
        }
    }

    fn own_kind(
        &self,
        council: &parse::Council,
        context: &Context<'_>,
        members: &BTreeMap<u8, Member>,
    ) -> Result<()> {
        let own = context.own;
        let (problem, remedy) = match (members.get(&own).map(|member| member.kind), context.kind) {
            (Some(written), started) if written == started => return Ok(()),
            (None, _) => (
                format!("this node, {own}, is not among the members"),
                "list every node, this one too: the list is the same everywhere",
            ),
            (Some(Kind::Witness), _) => (
                format!("this node, {own}, is a witness"),
                "start it with --witness, or change its kind to relay",
            ),
            (Some(Kind::Relay), _) => (
                format!("this node, {own}, is a relay"),
                "start it without --witness, or change its kind to witness",
            ),
        };
        Err(self.at_member(council, own, problem, remedy))
    }

    /// A mistake with the member `id`, or, if it is not listed, with the list.
    fn at_member(
        &self,
        council: &parse::Council,
        id: u8,
        problem: String,
        remedy: &str,
    ) -> ConfigError {
        let mut members = council.member.get_ref().iter();
        match members.find(|member| *member.id.get_ref() == i64::from(id)) {
            Some(member) => self.wrong(&member.id, problem, remedy),
            None => self.wrong(&council.member, problem, remedy),
        }
    }

    /// Whom this relay replicates to, and who decides about it, are the same relays.
    fn relays(
        &self,
        council: &parse::Council,
        context: &Context<'_>,
        (peers, members): (&[Peer], &BTreeMap<u8, Member>),
    ) -> Result<()> {
        let relays = members.values().filter(|member| member.kind == Kind::Relay);
        let relays: BTreeSet<u8> =
            relays.map(|member| member.id).filter(|id| *id != context.own).collect();
        let peers: BTreeSet<u8> = peers.iter().map(|peer| peer.id).collect();
        let Some(odd) = relays.symmetric_difference(&peers).next() else { return Ok(()) };
        let problem = match relays.contains(odd) {
            true => format!("relay {odd} is a member, but no cluster.peer"),
            false => format!("cluster.peer {odd} is no member of kind relay"),
        };
        Err(self.at_member(council, *odd, problem, "list the other relays in both places"))
    }

    /// Whether the first of two relays decides alone; the operator has to say so.
    fn without_witness(
        &self,
        council: &parse::Council,
        members: &BTreeMap<u8, Member>,
    ) -> Result<bool> {
        let said = council.without_witness.as_ref().filter(|said| *said.get_ref());
        let relays = members.values().filter(|member| member.kind == Kind::Relay).count();
        let pair = relays == 2 && members.len() == 2;
        let ids: Vec<u8> = members.keys().copied().collect();
        match (said, ids.as_slice()) {
            (Some(_), [_, _]) if pair => Ok(true),
            (None, [first, second]) if pair => Err(self.wrong(
                &council.member,
                format!(
                    "two relays and no witness: relay {first} would decide alone, and when it is \
                     lost, relay {second} takes nothing over and all connections are lost"
                ),
                "add a member of kind witness on a third machine, or accept that with \
                 cluster.council.without_witness = true",
            )),
            (Some(said), _) => Err(self.wrong(
                said,
                "it is for two relays without a witness",
                "remove it: these members decide by majority",
            )),
            _ => Ok(false),
        }
    }
}
