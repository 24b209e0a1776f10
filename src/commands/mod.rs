//! The commands, one file each: `Args` says what it takes, `run` does it. Here is what they share: naming a model,
//! opening it, JSON, errors.

pub mod bench;
pub mod compile;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod inspect;
pub mod run;
pub mod verify;

use satura::{Opened, Opening, Source};
use serde_json::Value;
use std::io::Write;

/// A model to run, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// A model directory (config.json, tokenizer.json, *.safetensors) or a file that `satura compile` wrote;
    /// by default the small model built into satura
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,

    /// Threads to run on; by default one a core. Results do not depend on it
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Compile anew, and keep nothing in the cache folder
    #[arg(long)]
    pub no_cache: bool,

    /// Never use the network (nothing does so far)
    #[arg(long)]
    pub offline: bool,
}

impl ModelArgs {
    /// Opens it; compiles it first where need be. `quiet` shows no progress and no warnings.
    pub fn open(&self, _quiet: bool) -> anyhow::Result<Opened> {
        let source = Source::parse(self.model.as_deref())?;
        Ok(satura::open(&source, &Opening::default())?)
    }
}

/// Prints one JSON object, all that a command with `--json` writes to its output.
#[allow(dead_code, reason = "the commands that print JSON are being written")]
pub fn print_json(value: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Says on stderr what went wrong and why. Leaves out causes that a message already tells.
pub fn report(error: &anyhow::Error) {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    eprintln!("error: {told}");
}
