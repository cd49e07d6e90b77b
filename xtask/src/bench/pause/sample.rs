//! One pause.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::flow::Shape;
use super::trial::Pause;
use crate::lab::Congestion;

/// What one receiver noticed of one takeover.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// The variant of the relay.
    pub label: String,
    /// The timeout of the cluster, in milliseconds.
    pub outage_ms: u32,
    pub congestion: Congestion,
    pub shape: Shape,
    /// From the kill to the takeover, in milliseconds.
    pub detection_ms: f64,
    /// The pause in milliseconds; none when nothing was lost.
    pub pause_ms: Option<f64>,
}

impl Sample {
    /// What `pause` says.
    pub fn new((label, outage_ms, congestion): (&str, u32, Congestion), pause: &Pause) -> Sample {
        Sample {
            label: label.to_owned(),
            outage_ms,
            congestion,
            shape: pause.shape,
            detection_ms: pause.detection.as_secs_f64() * 1e3,
            pause_ms: pause.length.map(|length| length.as_secs_f64() * 1e3),
        }
    }

    /// The pause without the time until the takeover.
    pub fn beyond_ms(&self) -> Option<f64> {
        Some(self.pause_ms? - self.detection_ms)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Sample { outage_ms, congestion, shape, detection_ms, .. } = self;
        let (shape, congestion) = (shape.name(), congestion.as_str());
        write!(f, "{outage_ms:>4} ms {congestion:5} {shape:9}: detection {detection_ms:6.1}, ")?;
        match self.pause_ms {
            Some(pause) => write!(f, "pause {pause:7.1}"),
            None => write!(f, "nothing was lost"),
        }
    }
}
