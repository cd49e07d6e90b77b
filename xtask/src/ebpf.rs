//! Builds the XDP program and checks that the checked-in object matches its sources.

use clap::Subcommand;

/// What to do with the XDP program.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum EbpfCommand {
    /// Build the XDP object.
    Build,
    /// Check that the checked-in object belongs to the checked-in sources.
    Check,
}

/// Runs one command.
pub fn run(command: EbpfCommand) -> anyhow::Result<()> {
    eprintln!("xtask ebpf {command:?}: not written yet");
    Ok(())
}
