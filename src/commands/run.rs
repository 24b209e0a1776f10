//! `satura run`: runs a model on texts, by what the model is for.

use super::ModelArgs;
use std::process::ExitCode;

/// Run a model: generate text, tag, classify, fill masks or embed
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
    anyhow::bail!("`satura run` is not built yet")
}
