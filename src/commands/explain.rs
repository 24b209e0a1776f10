//! `satura explain`: the plan in an artifact, and how it came about.

use super::ModelArgs;
use std::process::ExitCode;

/// Show what the compiler did to a model
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
    anyhow::bail!("`satura explain` is not built yet")
}
