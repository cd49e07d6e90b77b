//! Configurations that a cluster agrees on: what a relay reads when it is shown one, and when it has
//! done so. Every other one has another certificate, so that a handshake that is repeated under the
//! wrong one is not the same.

use std::collections::BTreeMap;

use relay_core::config::Listener;
use relay_core::id::{Incarnation, NodeId};
use relay_core::time::{Duration, Instant};
use relay_core::units::Units;
use relay_views::view::Configuration;
use relay_views::{Command, View};

use crate::random::{Random, mix};
use crate::script::Options;
use crate::setup;

/// Reading a configuration's files takes less than this.
const READING: Duration = Duration::from_millis(30);

/// What the view does not show yet is proposed again after this time.
const REPEAT: Duration = Duration::from_millis(20);

/// One life's configurations.
pub struct Configurations {
    index: usize,
    options: Options,
    random: Random,
    /// When a generation has been read.
    reading: BTreeMap<u64, Instant>,
    held: Vec<u64>,
    said_at: Instant,
}

impl Configurations {
    /// Of a life that begins.
    pub fn new(index: usize, options: &Options, life: Incarnation) -> Self {
        Configurations {
            index,
            options: options.clone(),
            random: Random::new(mix(life.0 ^ 0x434f_4e46)),
            reading: BTreeMap::new(),
            held: Vec::new(),
            said_at: Instant::ZERO,
        }
    }

    /// The generation with which the relay asks to be a member: the one in force, or none.
    pub fn joins_with(&self, agreed: Option<&Configuration>) -> u64 {
        let active = agreed.map_or(0, |agreed| agreed.active.generation);
        if self.held.contains(&active) { active } else { 0 }
    }

    /// Reads what is in force and what is proposed, and has the relay hold it; what is to be said of it.
    pub fn attend(
        &mut self,
        now: Instant,
        (view, life): (&View, (NodeId, Incarnation)),
        units: &mut Units,
    ) -> Option<Command> {
        let agreed = &view.configuration;
        let active = Some(&agreed.active).filter(|active| active.generation > 0);
        for document in active.into_iter().chain(&agreed.proposed) {
            let generation = document.generation;
            if !self.held.contains(&generation) {
                let time = self.random.duration(READING);
                self.reading.entry(generation).or_insert(now + time);
            }
        }
        let read = self.reading.extract_if(.., |_, at| *at <= now);
        for generation in read.map(|(generation, _)| generation).collect::<Vec<_>>() {
            let listeners = self.listeners(generation);
            let held = units.handle_configuration(generation, &listeners);
            held.expect("all configurations have the same addresses");
            self.held.push(generation);
        }
        let proposed = agreed.proposed.as_ref()?.generation;
        let is_due = now - self.said_at >= REPEAT;
        let says = view.names(life.0, life.1) && !agreed.prepared.contains(life.0);
        if !says || !is_due || !self.held.contains(&proposed) {
            return None;
        }
        self.said_at = now;
        Some(Command::Prepared { node: life, generation: proposed })
    }

    fn listeners(&self, generation: u64) -> Vec<Listener> {
        let drawn = mix(generation ^ (self.index as u64) << 32);
        vec![setup::listener(self.index, &self.options, (generation, Random::new(drawn)))]
    }
}
