//! A machine has room for one lab: whoever needs it for a while takes turns.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::process;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Locked while a lab is in use; outside of the lab's state, which comes and goes. Its content says
/// by whom, for people.
const LOCK: &str = "/run/relay-lab.lock";

/// The right to the machine's lab, for as long as this lives.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until nobody else uses the lab. `who` is what others are told who wait meanwhile.
    pub fn wait(who: &str) -> Result<Turn> {
        let mut options = OpenOptions::new();
        let mut lock =
            options.create(true).read(true).write(true).truncate(false).open(LOCK).context(LOCK)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).context(LOCK)?;
                let holder = if holder.is_empty() { "somebody" } else { holder.trim() };
                eprintln!("{who}: waits until the lab is free ({LOCK}): {holder} uses it");
                flock(&lock, FlockOperation::LockExclusive).context(LOCK)?;
            }
            taken => taken.context(LOCK)?,
        }
        lock.set_len(0).and_then(|()| lock.rewind()).context(LOCK)?;
        writeln!(lock, "{who} (process {})", process::id()).context(LOCK)?;
        Ok(Turn { _lock: lock })
    }
}
