//! Choosing a backend and a source port for a flow.

use relay_abi::bucket::{self, BUCKETS};

use super::{Shard, bucket_of, words};
use crate::config::{Settings, Side};
use crate::flow::{Leg, Turn};
use crate::frame::{IpAddress, IpEndpoint, Tuple};
use crate::id::FlowId;
use crate::reason::{Counters, Reason};
use crate::replica::Replicas;
use crate::spread::Spread;
use crate::tcp::Connection;
use crate::time::Instant;

/// Ports below are not used as source ports.
const PORT_MIN: u16 = 1024;

impl Shard {
    /// Gives a flow a backend connection, or tells its client that there is none.
    ///
    /// # Errors
    /// When no backend has a free source port.
    pub(super) fn dial(
        &mut self,
        (now, replicas): (Instant, &mut Replicas),
        id: FlowId,
        counters: &mut Counters,
        settings: &Settings,
    ) -> Result<(), Reason> {
        let Some(slot) = self.flows.get_mut(&id) else { return Ok(()) };
        if let Some(old) = slot.dialed.take() {
            self.legs.remove(&old);
        }
        let client = *slot.flow.client.connection.tuple();
        let bucket = bucket_of(&client);
        // Of the configuration under which it began, if that is held still.
        let listener = slot.flow.listener.and_then(|place| settings.listeners.at(place));
        let count = listener.map_or(0, |listener| listener.backends.len());
        let tuple = (0..count).find_map(|turn| {
            let listener = listener?;
            let backend = listener.backends[(self.dialed + turn) % count];
            let spread = settings.backend_spread.as_ref();
            listener.snat.iter().find_map(|snat| self.source(*snat, (backend, bucket), spread))
        });
        self.dialed = self.dialed.wrapping_add(1);
        let next_hop = tuple.and_then(|tuple| self.hops.toward(Side::Backend, tuple.remote.addr));
        let Some(slot) = self.flows.get_mut(&id) else { return Ok(()) };
        let result = match tuple {
            Some(tuple) => {
                let (iss, offset) = self.numbers.initial(&tuple, now);
                let connection =
                    Connection::connect(&settings.backend_tcp, tuple, iss, offset, now);
                slot.flow.dial(Leg { connection, next_hop });
                slot.dialed = Some(tuple);
                self.legs.insert(tuple, (id, Side::Backend));
                Ok(())
            }
            None => {
                let effects = &mut self.effects;
                let mut turn = Turn::new((now, replicas), effects, counters, settings);
                slot.flow.fail_dialing(&mut turn);
                Err(Reason::PortExhausted)
            }
        };
        self.touch(id);
        result
    }

    /// A free source port whose replies fall into `bucket`, and if it can be come to this worker's queue.
    fn source(
        &mut self,
        snat: IpAddress,
        (backend, bucket): (IpEndpoint, u32),
        spread: Option<&Spread>,
    ) -> Option<Tuple> {
        if matches!(snat, IpAddress::Ipv4(_)) != matches!(backend.addr, IpAddress::Ipv4(_)) {
            return None;
        }
        let low = bucket::local_port(&words(backend.addr), backend.port, &words(snat), bucket);
        let turns = (1u32 << 16) / BUCKETS;
        let first = self.entropy.u32() % turns;
        let mut free = (0..turns).filter_map(|turn| {
            let high = (first + turn) % turns;
            let port = low | u16::try_from(high * BUCKETS).ok()?;
            let local = IpEndpoint::new(snat, port);
            let tuple = Tuple { local, remote: backend };
            (port >= PORT_MIN && !self.legs.contains_key(&tuple)).then_some(tuple)
        });
        let any = free.next()?;
        let is_own = |tuple: &Tuple| spread.is_none_or(|spread| spread.is_own(tuple));
        core::iter::once(any).chain(free).find(is_own).or(Some(any))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Unit;
    use crate::entropy::Entropy;
    use crate::id::Incarnation;

    fn endpoint(text: &str) -> IpEndpoint {
        let socket: core::net::SocketAddr = text.parse().unwrap();
        IpEndpoint::new(socket.ip().into(), socket.port())
    }

    #[test]
    fn replies_come_to_the_workers_own_queue_as_long_as_there_is_such_a_port() {
        let entropy = Entropy::new([3; 16]);
        let mut shard = Shard::new(([1; 32], [2; 32]), entropy, (Incarnation(1), Unit::WHOLE));
        let key: Vec<u8> = (0..40).map(|byte: u8| byte.wrapping_mul(37)).collect();
        let spread = Spread::new(&key, &[0, 1, 2, 3]).unwrap().seen_by(2);
        let (snat, backend) = (endpoint("10.99.2.100:0").addr, endpoint("10.99.2.10:8080"));
        let (mut own, mut others) = (0, 0);
        while let Some(tuple) = shard.source(snat, (backend, 77), Some(&spread)) {
            assert_eq!(bucket_of(&tuple), 77);
            match spread.is_own(&tuple) {
                true if others == 0 => own += 1,
                true => panic!("there was a better port"),
                false => others += 1,
            }
            shard.legs.insert(tuple, (FlowId(1), Side::Backend));
        }
        assert!(own > 0 && (15..=16).contains(&(own + others)), "{own} and {others}");
    }
}
