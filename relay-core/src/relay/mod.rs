//! Commit before release, for one stream at a time: which bytes are settled, which are replicated,
//! and where the records toward the client lie. Knows neither TCP nor TLS.

mod hold;
mod log;
mod ranges;

pub use hold::{Hold, HoldTime, MEASURED_MAX, MEASURED_MIN};
pub use log::{Log, Placed, Point};
pub use ranges::Ranges;
