//! What an odd client does that hardly anybody does, drawn from a seed.

use relay_core::time::Duration;

use crate::random::Random;

/// How one odd client behaves. Rates in segments of a thousand.
#[derive(Clone, Debug)]
pub struct Habits {
    pub timestamps: bool,
    pub sack: bool,
    /// The shift of its windows, if it offers one.
    pub scale: Option<u8>,
    /// The largest segment that it takes, if it says so.
    pub mss: Option<u16>,
    /// So many bytes at the begin are sent one to three at a time.
    pub tiny: u64,
    /// Longest segment behind them.
    pub segment_max: u64,
    /// Segments that leave at once, and how far such bursts are apart at most.
    pub burst: u64,
    pub gap: Duration,
    /// Bursts whose segments leave in any order.
    pub shuffles: u32,
    /// Segments that begin with bytes that were sent before.
    pub overlaps: u32,
    pub doubles: u32,
    /// The FIN comes with the last bytes, if they are sent when it is known that they are.
    pub fin_with_data: bool,
    /// So many segments are acknowledged at once.
    pub acks_each: u32,
    /// But an ACK does not wait for longer (RFC 9293 section 3.8.6.3 allows half a second).
    pub ack_delay: Duration,
    /// The ACK of the handshake waits for data, or for so long.
    pub third_ack_delay: Duration,
    /// Bytes of its receive buffer.
    pub window: u64,
    /// And until this long after the begin.
    pub small_window: u64,
    pub opens_after: Duration,
    /// When a relay fails it says nothing for so long: at the worst moment, its machine sleeps.
    pub sulks: Duration,
}

impl Habits {
    /// Bytes that it sends in a second, about, when it is slow.
    pub fn pace(&self) -> u64 {
        let gap = u64::try_from(self.gap.as_micros()).unwrap_or(u64::MAX);
        1_000_000 / gap.max(1) * self.segment_max / 2
    }

    /// The habits of one client.
    pub fn draw(random: &mut Random) -> Self {
        let mut pick = |choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
        let mss = pick(&[0, 536, 1000, 1220]);
        let segment_max = pick(&[40, 300, 536, 1440]);
        let (burst, gap) = (1 + pick(&[0, 2, 9, 20]), pick(&[0, 200, 2_000, 15_000]));
        let (acks_each, ack_delay) = (pick(&[1, 1, 2, 5, 12]), pick(&[1, 40, 200, 450]));
        let (tiny, third) = (pick(&[0, 0, 60, 300, 700]), pick(&[0, 0, 5, 60]));
        let window = pick(&[3_000, 9_000, 30_000, 60_000]);
        let small_window = pick(&[0, 1, 3, 40, 600]);
        let opens_after = pick(&[0, 0, 0, 30, 500, 2_500]);
        let sulks = pick(&[0, 0, 30, 150, 700]);
        let rates = [pick(&[0, 300, 1000]), pick(&[0, 100, 500]), pick(&[0, 50, 300])];
        let [shuffles, overlaps, doubles] = rates.map(|rate| rate as u32);
        Habits {
            timestamps: random.chance(650),
            sack: random.chance(600),
            scale: random.chance(600).then(|| random.below(9) as u8),
            mss: (mss > 0).then_some(mss as u16),
            tiny,
            segment_max,
            burst,
            gap: Duration::from_micros(gap),
            shuffles,
            overlaps,
            doubles,
            fin_with_data: random.chance(500),
            acks_each: acks_each as u32,
            ack_delay: Duration::from_millis(ack_delay),
            third_ack_delay: Duration::from_millis(third),
            window,
            small_window,
            opens_after: Duration::from_millis(opens_after),
            sulks: Duration::from_millis(sulks),
        }
    }
}
