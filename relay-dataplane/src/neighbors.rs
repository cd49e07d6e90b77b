//! Next hops from the kernel, so that an operator sets up addresses and routes as on any Linux box.
//!
//! The worker sends its frames past the kernel but needs to know the MAC address behind an IP
//! address. It asks here and never waits: a control-plane thread looks up the route and the
//! neighbour over netlink, has the kernel resolve what it does not know, and reports the answer,
//! again whenever it changes. Frames that bypass the kernel do not keep its entries alive, so the
//! thread uses each of them once in a while; the kernel then confirms that the neighbour is there.

mod netlink;
mod table;

use std::io;
use std::net::IpAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use futures::channel::mpsc;
use futures::stream::{self, Stream, StreamExt};

use netlink::{Neighbor, Netlink};
use table::{Key, Table};

/// Requests and results that may wait. A request that finds no room is not taken and may be made
/// again; a result is reported by a later turn.
const QUEUE: usize = 1024;
/// How often the thread looks at what is due.
const TICK: Duration = Duration::from_millis(250);
/// How long after the request, or the last look, an unknown address is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a known next hop stands before its route and entry are looked at again. Shorter than
/// the kernel's `gc_stale_time` of 60 s, after which it forgets entries that nobody uses.
const REFRESH: Duration = Duration::from_secs(5);

/// The MAC address to which frames for `ip` go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// As requested.
    pub ip: IpAddr,
    /// As requested.
    pub interface: String,
    /// Of the neighbour `ip`, or of the gateway on the way to it.
    pub mac: [u8; 6],
}

/// The service; dropping it ends its thread.
#[derive(Debug)]
pub struct Neighbors {
    requests: mpsc::Sender<Key>,
    results: Receiver<Resolved>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbors {
    /// Starts the thread in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the netlink socket or the thread cannot be made.
    pub fn start() -> io::Result<Neighbors> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (requests, requested) = mpsc::channel(QUEUE);
        let (report, results) = bounded(QUEUE);
        let (netlink, changes) = {
            let _context = runtime.enter();
            Netlink::connect()?
        };
        let thread = thread::Builder::new().name("neighbors".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let inputs = inputs(requested, changes);
                Resolver { netlink, table: Table::default(), report }.run(inputs).await;
            });
        })?;
        Ok(Neighbors { requests, results, thread: Some(thread) })
    }

    /// Asks for the next hop toward `ip` through `interface`; never waits. The answer comes by
    /// [`Neighbors::try_recv`] once it is known, and again each time that it changes, until so
    /// many others were asked for that this one is forgotten. Returns whether the request was
    /// taken; a full queue takes none.
    pub fn request(&mut self, ip: IpAddr, interface: &str) -> bool {
        self.requests.try_send(Key { ip, interface: interface.to_owned() }).is_ok()
    }

    /// The next answer, if there is one.
    pub fn try_recv(&self) -> Option<Resolved> {
        self.results.try_recv().ok()
    }
}

impl Drop for Neighbors {
    fn drop(&mut self) {
        self.requests.close_channel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Everything that moves the thread.
enum Input {
    Request(Key),
    Changed(Neighbor),
    Tick,
    /// The owner of the service, or the kernel's socket, is gone.
    End,
}

fn inputs(
    requests: mpsc::Receiver<Key>,
    changes: impl Stream<Item = Neighbor> + Unpin,
) -> impl Stream<Item = Input> + Unpin {
    let end = || stream::iter([Input::End]);
    let ticks = stream::unfold((), |()| async {
        tokio::time::sleep(TICK).await;
        Some((Input::Tick, ()))
    });
    stream::select(
        requests.map(Input::Request).chain(end()),
        stream::select(changes.map(Input::Changed).chain(end()), Box::pin(ticks)),
    )
}

struct Resolver {
    netlink: Netlink,
    table: Table,
    report: Sender<Resolved>,
}

impl Resolver {
    async fn run(&mut self, mut inputs: impl Stream<Item = Input> + Unpin) {
        while let Some(input) = inputs.next().await {
            match input {
                Input::Request(key) => {
                    self.table.request(&key, Instant::now());
                    self.resolve(&key).await;
                }
                Input::Changed(neighbor) => self.table.learn(&neighbor),
                Input::Tick => {
                    for key in self.table.due(Instant::now()) {
                        self.resolve(&key).await;
                    }
                }
                Input::End => return,
            }
            self.report_changes();
        }
    }

    /// Looks the next hop up; what the kernel does not know yet arrives as a change.
    async fn resolve(&mut self, key: &Key) {
        let outcome = self.netlink.next_hop(key.ip, &key.interface).await;
        let hop = match outcome {
            Ok(hop) => hop,
            Err(error) => {
                let now = Instant::now();
                if self.table.unroutable(key, now) {
                    let (ip, interface) = (key.ip, &key.interface);
                    tracing::warn!(%ip, interface, %error, "no next hop: check `ip route get {ip}`");
                }
                return;
            }
        };
        let known = self.netlink.neighbor(hop).await;
        self.table.routed(key, hop, Instant::now());
        if let Some(neighbor) = &known {
            self.table.learn(neighbor);
        }
        if known.is_none_or(|neighbor| !neighbor.confirmed) {
            self.netlink.probe(hop).await;
        }
    }

    fn report_changes(&mut self) {
        while !self.report.is_full() {
            let Some(resolved) = self.table.next_change() else { return };
            // Dropped only when the other end is: then the service ends.
            let _ = self.report.try_send(resolved);
        }
    }
}
