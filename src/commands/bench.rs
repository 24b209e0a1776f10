//! `satura bench`: latency and throughput, and how far they are from what the machine can do.

use super::ModelArgs;
use std::process::ExitCode;

/// Measure latency and throughput
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let _ = args.model.open()?;
    anyhow::bail!("`satura bench` is not built yet")
}
