//! `satura verify`: compares outputs with stored ones.

use super::ModelArgs;
use std::process::ExitCode;

/// Compare with stored outputs of a reference implementation
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
    anyhow::bail!("`satura verify` is not built yet")
}
