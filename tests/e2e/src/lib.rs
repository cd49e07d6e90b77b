//! The harness of the end-to-end tests: a lab of one's own, from [`Fixture::up`] to the end of the
//! test. Tests of all programs take turns, since a machine has room for one lab.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let mut lab = e2e::Fixture::up(&e2e::Options::default())?;
//! let backend = lab.backend_listener()?;
//! let owner = lab.owner(None)?;
//! lab.kill(&owner, e2e::How::Powercut)?;
//! # drop(backend);
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod conversation;
pub mod counters;
pub mod crowd;
pub mod flood;
pub mod kernel;
pub mod watch;

use std::net::{TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
pub use xtask::lab::plan::Network;
use xtask::lab::plan::{
    BACKEND_NS, BACKEND_PORT, BACKEND_RAW_PORT, CLIENT_NS, ENDPOINT_HOST, SERVER_NAME, vip,
};
use xtask::lab::turn::Turn;
pub use xtask::lab::{Congestion, How, Lab, Mode, Options, network, origin, plan, relay};
use xtask::shell::inside;
pub use xtask::shell::wait_for;

/// Program for python3: frames that are wrong, toward a VIP; its own words say how to use it.
pub const BAD_FRAMES: &str = include_str!("bad_frames.py");
/// Program for python3: captured, forged and replayed datagrams between relays.
pub const BAD_DATAGRAMS: &str = include_str!("bad_datagrams.py");
/// Program for python3: a record that does not authenticate.
pub const BAD_RECORD: &str = include_str!("bad_record.py");
/// Program for python3: stops one thread of a process.
pub const HANG_THREAD: &str = include_str!("hang_thread.py");

/// How long a relay may take until another one owns its connections.
pub const TAKEOVER_LIMIT: Duration = Duration::from_secs(30);
/// How long a relay may take from its start until it could take over.
pub const SYNC_LIMIT: Duration = Duration::from_secs(60);

/// A lab that ends with its test.
pub struct Fixture {
    lab: Lab,
    // Fields are dropped in order: the lab is down before the next test may bring up its own.
    _turn: Turn,
}

impl Fixture {
    /// Waits for its turn and brings a lab up.
    pub fn up(options: &Options) -> Result<Fixture> {
        let turn = Turn::wait("e2e")?;
        let lab = Lab::up(options).inspect_err(|_| tear_down())?;
        Ok(Fixture { lab, _turn: turn })
    }

    /// A server's socket at the backend, for connections to the VIP's raw port.
    pub fn backend_listener(&self) -> Result<TcpListener> {
        let address = (Network::Backend.v4(ENDPOINT_HOST), BACKEND_RAW_PORT);
        inside(BACKEND_NS, || Ok(TcpListener::bind(address)?))
    }

    /// A TCP connection from the client to `port` of the VIP.
    pub fn connect(&self, ipv6: bool, port: u16) -> Result<TcpStream> {
        inside(CLIENT_NS, || Ok(TcpStream::connect((vip(ipv6), port))?))
    }

    /// A TCP connection to the origin that meets no relay.
    pub fn connect_to_origin(&self) -> Result<TcpStream> {
        let address = (Network::Backend.v4(ENDPOINT_HOST), BACKEND_PORT);
        inside(BACKEND_NS, || Ok(TcpStream::connect(address)?))
    }

    /// Address of a file of the origin, or of an upload under `up/`, behind the VIP.
    pub fn url(&self, path: &str) -> String {
        format!("https://{SERVER_NAME}/{path}")
    }

    /// Loses the owner and waits until another relay owns; returns the names of both.
    pub fn lose_owner(&mut self, how: How) -> Result<(String, String)> {
        let lost = self.owner(None)?;
        self.kill(&lost, how)?;
        let successor = wait_for("takeover", TAKEOVER_LIMIT, || self.owner(Some(&lost)))?;
        Ok((lost, successor))
    }

    /// Starts `relay` again and waits until it could take over.
    pub fn bring_back(&mut self, relay: &str) -> Result<()> {
        self.start(relay)?;
        self.await_backup(relay)
    }

    /// Waits until one more relay may be lost, as far as `owner` knows: the dead have no votes any more, so
    /// that those who are left are a majority, those who live have theirs, and all of them are in sync.
    pub fn await_margin(&self, owner: &str) -> Result<()> {
        wait_for("votes that follow the view", SYNC_LIMIT, || {
            let status: Value = serde_json::from_str(&self.ask(owner, &["status", "--json"])?)?;
            let members = status["council"]["members"].as_array().context("a list of members")?;
            let is_wrong =
                |member: &&Value| (member["state"] == "live") != (member["votes"] == true);
            ensure!(members.iter().find(is_wrong).is_none(), "{members:?}");
            let peers = status["peers"].as_array().context("a list of peers")?;
            let behind = |peer: &&Value| peer["alive"] == true && peer["in_sync"] == false;
            ensure!(peers.iter().find(behind).is_none(), "{peers:?}");
            Ok(())
        })
    }

    /// Waits until `relay` could take over.
    pub fn await_backup(&self, relay: &str) -> Result<()> {
        wait_for(&format!("return of {relay}"), SYNC_LIMIT, || {
            let status = self.status(relay)?;
            ensure!(status.is_ready_backup(), "{relay} is no backup in sync: {status:?}");
            Ok(())
        })
    }
}

impl Deref for Fixture {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl DerefMut for Fixture {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        tear_down();
    }
}

/// The next lab cleans up again, so a failure here must not hide the test's own.
fn tear_down() {
    if let Err(error) = Lab::down()
        && !thread::panicking()
    {
        eprintln!("the lab does not go down: {error:#}");
    }
}
