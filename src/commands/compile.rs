//! `satura compile`: from a directory to one file that runs without it.

use super::ModelArgs;
use std::process::ExitCode;

/// Compile a model into one file
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
    anyhow::bail!("`satura compile` is not built yet")
}
