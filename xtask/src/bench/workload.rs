//! What is measured: four kinds of work, five loads.

use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::client::Client;
use crate::content;
use crate::lab::origin;

/// The small file of kept connections, which only the bench needs.
const SMALL: (&str, u64) = ("100b.bin", 100);
/// The file of a new connection, from [`origin::FILES`].
const ONE_KB: (&str, u64) = ("1k.bin", 1 << 10);
/// The file of a download, from [`origin::FILES`], and the length of an upload.
const BULK: (&str, u64) = ("64m.bin", 64 << 20);

/// One operation of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// TCP and a full TLS handshake, one request, close.
    Connection,
    /// One request on a connection that exists.
    Request,
    /// 64 MiB from the origin.
    Download,
    /// 64 MiB to the origin.
    Upload,
}

impl Operation {
    /// Whether it leaves its connection open for the next one.
    pub fn keeps_connection(self) -> bool {
        self != Operation::Connection
    }

    /// Does it on `client`; `index` is the thread's.
    pub fn run(self, client: &mut Client, index: u32) -> Result<()> {
        match self {
            Operation::Connection => client.get(ONE_KB.0, ONE_KB.1),
            Operation::Request => client.get(SMALL.0, SMALL.1),
            Operation::Download => client.get(BULK.0, BULK.1),
            Operation::Upload => client.put(&format!("up/bench-{index}.bin"), BULK.1),
        }
    }

    /// The unit of CPU time per operation: its name, and how many of it one second per operation is.
    pub fn unit(self) -> (&'static str, f64) {
        match self {
            Operation::Connection | Operation::Request => ("us", 1e6),
            Operation::Download | Operation::Upload => ("s/GB", 1e9 / BULK.1 as f64),
        }
    }
}

/// A load, the same for everybody who is compared.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// For tables.
    pub name: &'static str,
    /// What each thread does.
    pub operation: Operation,
    /// Threads with a connection each.
    pub threads: u32,
    /// Operations of each thread.
    pub operations: u32,
    /// From the planned begin of one operation to that of the next (open loop: a slow proxy gets no
    /// less work). None: the next one begins when the last one ends.
    pub interval: Option<Duration>,
}

/// All of them. A window lasts one to two seconds, so that CPU clocks of 10 ms are exact enough;
/// no interval is a multiple of the kernel's tick of 4 ms (HZ=250).
/// nginx ends a connection after 1000 requests: each thread does fewer.
pub const ALL: [Workload; 5] = [
    Workload {
        name: "new connection + 1 KiB, 400/s",
        operation: Operation::Connection,
        threads: 7,
        operations: 86,
        interval: Some(Duration::from_micros(17_500)),
    },
    Workload {
        name: "100 B request, 4000/s",
        operation: Operation::Request,
        threads: 15,
        operations: 400,
        interval: Some(Duration::from_micros(3750)),
    },
    Workload {
        name: "100 B request, 32 at a time",
        operation: Operation::Request,
        threads: 32,
        operations: 600,
        interval: None,
    },
    Workload {
        name: "download 4 x 64 MiB",
        operation: Operation::Download,
        threads: 1,
        operations: 4,
        interval: None,
    },
    Workload {
        name: "upload 4 x 64 MiB",
        operation: Operation::Upload,
        threads: 1,
        operations: 4,
        interval: None,
    },
];

/// Writes the small file; the others are there.
pub fn prepare_origin() -> Result<()> {
    let mut body = [0; SMALL.1 as usize];
    content::fill(1, 0, &mut body);
    Ok(fs::write(origin::root().join(SMALL.0), body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_has_the_files() {
        assert!(origin::FILES.contains(&ONE_KB) && origin::FILES.contains(&BULK));
    }

    #[test]
    fn the_origin_ends_no_connection_inside_a_window() {
        const KEEPALIVE_REQUESTS: u32 = 1000;
        assert!(ALL.iter().all(|workload| workload.operations < KEEPALIVE_REQUESTS));
    }
}
