//! ICMP errors about segments of our flows.

use super::Shard;
use crate::config::Side;
use crate::frame::Quote;
use crate::reason::Reason;
use crate::time::Instant;

impl Shard {
    /// Takes in what a router or host says about one of our segments.
    ///
    /// # Errors
    /// When it quotes no segment that is under way: anybody could have sent it.
    pub fn handle_complaint(&mut self, now: Instant, quote: &Quote) -> Result<(), Reason> {
        let (id, side) = *self.legs.get(&quote.tuple).ok_or(Reason::IcmpUnacceptable)?;
        let slot = self.flows.get_mut(&id).ok_or(Reason::IcmpUnacceptable)?;
        let leg = match side {
            Side::Client => Some(&mut slot.flow.client),
            Side::Backend | Side::Cluster => slot.flow.backend_mut(),
        };
        let leg = leg.ok_or(Reason::IcmpUnacceptable)?;
        let result = leg.connection.handle_complaint(now, quote.sequence, quote.complaint);
        self.touch(id);
        result
    }
}
