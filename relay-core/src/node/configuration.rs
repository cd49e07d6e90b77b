//! The configuration that all relays agree on: what is held, and what is in force.

use std::sync::Arc;

use relay_views::view::Configuration;

use super::{Command, Node};
use crate::config::{Listener, Side};
use crate::flow::ip_endpoint;
use crate::listeners::{Listeners, TooManyAddresses};
use crate::replica::Shadow;

impl Node {
    /// Takes in the listeners of a generation of the cluster's configuration, to hold them until a view has
    /// it in force. From then on new connections come in by them.
    ///
    /// # Errors
    /// When there is no room for their addresses.
    pub fn handle_configuration(
        &mut self,
        generation: u64,
        listeners: &[Listener],
    ) -> Result<(), TooManyAddresses> {
        let mut listeners = listeners.to_vec();
        listeners.iter_mut().for_each(|one| one.tls.keep_sessions_in(&self.sessions));
        self.settings.listeners.hold(generation, Arc::from(listeners))
    }

    /// What is held, and what is in force.
    pub fn listeners(&self) -> &Listeners {
        &self.settings.listeners
    }

    /// A view says what is in force.
    pub(super) fn agree_on(&mut self, configuration: &Configuration) {
        let withdrawn = configuration.withdrawn.as_ref().map(|withdrawn| withdrawn.generation);
        self.settings.listeners.agree(configuration.active.generation, withdrawn);
    }

    /// A connection of a former owner goes on here: its addresses may be of a listener that is gone.
    pub(super) fn answer_for(&mut self, shadow: &Shadow) {
        let backend = match shadow {
            Shadow::Open(open) => Some((Side::Backend, &open.backend)),
            Shadow::Opening(_) => None,
        };
        for (side, leg) in core::iter::once((Side::Client, shadow.client())).chain(backend) {
            let address = ip_endpoint(&leg.local).addr;
            let listeners = &mut self.settings.listeners;
            if !listeners.answer_for(side, address) && listeners.answer_also_for(side, address) {
                self.commands.push_back(Command::Serve(side, address));
            }
        }
    }
}
