//! Two of our flows and two of the kernel's through one bottleneck.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::bench::client::Tls;
use crate::bench::pair;
use crate::lab::Congestion;

/// The flows find their balance before it is measured.
const SETTLE: Duration = Duration::from_secs(5);
/// Bytes per read and write.
const STEP: usize = 64 << 10;

/// What each flow got, in megabits per second.
pub struct Shares {
    /// Who carried the flows.
    pub name: &'static str,
    pub mbit: Vec<f64>,
}

impl Shares {
    /// Downloads through each of `proxies` at once, measured for `window`.
    pub fn measure(
        name: &'static str,
        proxies: &[&Tls],
        listener: &TcpListener,
        congestion: Congestion,
        window: Duration,
    ) -> Result<Shares> {
        let mut pairs = Vec::new();
        for (index, tls) in proxies.iter().enumerate() {
            pairs.push(pair::connect(tls, listener, index as u8, congestion)?);
        }
        let mut sockets = Vec::new();
        for (client, backend) in &pairs {
            sockets.extend([client.sock.try_clone()?, backend.try_clone()?]);
        }
        let counters: Vec<AtomicU64> = pairs.iter().map(|_| AtomicU64::new(0)).collect();
        let read = || counters.iter().map(|bytes| bytes.load(Relaxed)).collect::<Vec<_>>();
        let (before, after) = thread::scope(|scope| {
            for ((mut client, mut backend), received) in pairs.into_iter().zip(&counters) {
                scope.spawn(move || {
                    let block = vec![7; STEP];
                    while backend.write_all(&block).is_ok() {}
                });
                scope.spawn(move || {
                    let mut buffer = vec![0; STEP];
                    while let Ok(count @ 1..) = client.read(&mut buffer) {
                        received.fetch_add(count as u64, Relaxed);
                    }
                });
            }
            thread::sleep(SETTLE);
            let before = read();
            thread::sleep(window);
            let after = read();
            for socket in sockets {
                // The peer may have ended it already.
                let _ = socket.shutdown(Shutdown::Both);
            }
            (before, after)
        });
        let seconds = window.as_secs_f64();
        let bytes = after.iter().zip(&before).map(|(after, before)| after - before);
        Ok(Shares { name, mbit: bytes.map(|bytes| bytes as f64 * 8e-6 / seconds).collect() })
    }

    /// Jain's index: 1 when all get the same, 1/n when one gets everything.
    pub fn jain(&self) -> f64 {
        let sum: f64 = self.mbit.iter().sum();
        let squares: f64 = self.mbit.iter().map(|share| share * share).sum();
        sum * sum / (squares * self.mbit.len() as f64)
    }

    /// The first half of the flows against the second half.
    pub fn ratio(&self) -> f64 {
        let (first, second) = self.mbit.split_at(self.mbit.len() / 2);
        first.iter().sum::<f64>() / second.iter().sum::<f64>()
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "{:22} Jain {:.3}, first half / second half {:.2};",
            self.name,
            self.jain(),
            self.ratio()
        )?;
        self.mbit.iter().try_for_each(|share| write!(f, " {share:.1}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_of_equals_and_of_one() {
        let shares = |mbit: &[f64]| Shares { name: "", mbit: mbit.to_vec() };
        assert_eq!(shares(&[5.0; 4]).jain(), 1.0);
        assert_eq!(shares(&[8.0, 0.0, 0.0, 0.0]).jain(), 0.25);
        assert_eq!(shares(&[2.0, 2.0, 1.0, 1.0]).ratio(), 2.0);
    }
}
