//! The section `[limits]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use relay_core::relay::HoldTime;
use toml::Spanned;

use super::{Resolver, Result};
use crate::config::Limits;
use crate::config::error::ConfigError;
use crate::config::parse::{self, Hold};

/// A number, its bounds, and what it is when the file does not say.
struct Bounded(RangeInclusive<i64>, i64);

/// What a table of one core can carry.
const FLOWS: Bounded = Bounded(1..=1 << 20, 65_536);
/// A TLS record (RFC 8446 section 5.2) fits, a window scale of 8 covers it.
const BUFFER: Bounded = Bounded(32 << 10..=16 << 20, 4 << 20);
/// Longest `limits.hold_ms`; longer holds outlast every retransmission timer.
const HOLD_MS_MAX: f64 = 10_000.0;
/// Never (zero), or up to a year.
const IDLE_S: Bounded = Bounded(0..=366 * 86_400, 0);
/// Never, or up to a year; two hours is the least default that RFC 9293 section 3.8.4 allows.
const KEEPALIVE_S: Bounded = Bounded(0..=366 * 86_400, 7_200);
/// Never, or up to a year.
const STALLED_S: Bounded = Bounded(0..=366 * 86_400, 0);
/// No limit (zero), or up to what no core can do.
const ACCEPTS_PER_S: Bounded = Bounded(0..=1_000_000, 0);
/// Less is filled by a few flows, more is no machine's memory.
const REPLICATED_MB: Bounded = Bounded(16..=1 << 20, 1024);

impl Resolver<'_> {
    pub(super) fn limits(&self, limits: &parse::Limits) -> Result<Limits> {
        let seconds = |value, bounds| -> Result<Option<Duration>> {
            let seconds: u64 = self.bounded(value, bounds)?;
            Ok((seconds > 0).then_some(Duration::from_secs(seconds)))
        };
        let replicated_mb: u64 = self.bounded(&limits.replicated_mb, REPLICATED_MB)?;
        let accepts: u32 = self.bounded(&limits.accepts_per_s, ACCEPTS_PER_S)?;
        Ok(Limits {
            flows: self.bounded(&limits.flows, FLOWS)?,
            receive_buffer: self.bounded(&limits.receive_buffer, BUFFER)?,
            send_buffer: self.bounded(&limits.send_buffer, BUFFER)?,
            hold: self.hold(limits.hold_ms.as_ref())?,
            idle: seconds(&limits.idle_s, IDLE_S)?,
            keepalive: seconds(&limits.keepalive_s, KEEPALIVE_S)?,
            stalled: seconds(&limits.stalled_s, STALLED_S)?,
            accepts_per_second: (accepts > 0).then_some(accepts),
            replicated: replicated_mb << 20,
        })
    }

    fn bounded<T: TryFrom<i64>>(
        &self,
        value: &Option<Spanned<i64>>,
        Bounded(range, default): Bounded,
    ) -> Result<T> {
        self.integer(value.as_ref().unwrap_or(&Spanned::new(0..0, default)), range)
    }

    fn hold(&self, hold: Option<&Spanned<Hold>>) -> Result<HoldTime> {
        let Some(hold) = hold else { return Ok(HoldTime::Measured) };
        match hold.get_ref() {
            Hold::Milliseconds(ms) if (0.0..=HOLD_MS_MAX).contains(ms) => {
                Ok(HoldTime::Fixed(Duration::from_secs_f64(ms / 1e3)))
            }
            Hold::Word(word) if word == "measured" => Ok(HoldTime::Measured),
            Hold::Word(word) if word == "infinite" => Ok(HoldTime::Never),
            Hold::Milliseconds(ms) => Err(self.wrong_hold(hold, ms.to_string())),
            Hold::Word(word) => Err(self.wrong_hold(hold, format!("{word:?}"))),
        }
    }

    fn wrong_hold(&self, hold: &Spanned<Hold>, value: String) -> ConfigError {
        self.wrong(
            hold,
            format!("{value} is no time to hold"),
            format!("set it to 0 to {HOLD_MS_MAX} (milliseconds), \"measured\" or \"infinite\""),
        )
    }
}
