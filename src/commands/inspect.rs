//! `satura inspect`: the program of a model at a stage of compilation.

use super::ModelArgs;
use std::process::ExitCode;

/// Show a model at a stage of compilation
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
    anyhow::bail!("`satura inspect` is not built yet")
}
