//! The clustered protocol, explored state by state.
pub mod check;
pub mod explore;
pub mod rules;
pub mod state;
pub mod step;
