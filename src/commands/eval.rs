//! `satura eval`: perplexity, divergence from another model, token-classification scores.

use super::ModelArgs;
use std::process::ExitCode;

/// Measure quality: perplexity, divergence, precision and recall
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
    anyhow::bail!("`satura eval` is not built yet")
}
