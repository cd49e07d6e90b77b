//! stub
use anyhow::Result;
/// Options.
#[derive(clap::Args)]
pub struct Options {}
/// Runs.
pub fn run(_: &Options) -> Result<()> {
    Ok(())
}
