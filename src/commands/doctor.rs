//! `satura doctor`: what this machine has and what is used of it.

use super::ModelArgs;
use std::process::ExitCode;

/// Show what this machine has and what satura uses of it
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
    let _ = args.model.open(args.json)?;
    anyhow::bail!("`satura doctor` is not built yet")
}
