//! `satura compile`: from a model directory to one file that runs without it.

use super::{Precision, Progress, bytes, count, ms, print_json, time};
use satura::{Output, Source, compiler::Options, ir::Target, runtime::devices::cpu};
use serde_json::json;
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

/// Compile a model into one file, which runs without the model's directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  satura compile models/llama -o llama.satura
  satura run llama.satura -p \"Once upon a time\"
  satura compile models/llama -o llama.satura --target x86-64-v3   for any machine with AVX2

The file appears when it is complete; a compilation that is interrupted leaves nothing behind.")]
pub struct Args {
    /// A model directory: config.json, tokenizer.json, *.safetensors
    #[arg(value_name = "MODEL")]
    model: String,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// The machine to compile for: native (this one), x86-64-v2, x86-64-v3 (AVX2) or x86-64-v4 (AVX-512)
    #[arg(long, value_name = "TARGET", default_value = "native", value_parser = target)]
    target: Target,

    #[command(flatten)]
    precision: Precision,

    /// Never use the network (nothing does so far)
    #[arg(long)]
    offline: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn target(name: &str) -> Result<Target, satura::ir::UnknownTarget> {
    match name {
        "native" => Ok(cpu::host()),
        _ => name.parse(),
    }
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = Source::parse(Some(&args.model))?;
    let checkpoint = source.checkpoint()?;
    let output = Output::new(&args.output)?;
    let options = Options {
        target: args.target,
        weights: args.precision.weights()?,
    };
    let bar = Progress::new();
    let start = Instant::now();
    let size = output.compile(&checkpoint, &options, &|stage, done, of| {
        bar.show(stage, done, of);
    })?;
    let took = start.elapsed();
    drop(bar);
    let (description, _) = super::explain::read(&args.output)?;
    let description = description.description;
    if args.json {
        print_json(&json!({
            "file": args.output.display().to_string(),
            "bytes": size,
            "compile_ms": ms(took),
            "architecture": description.architecture,
            "parameters": description.parameters,
            "target": options.target.to_string(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        io::stdout(),
        "{}: {}, {} with {} parameters, for {}, compiled in {}",
        args.output.display(),
        bytes(size),
        description.architecture,
        count(description.parameters),
        options.target,
        time(took)
    )?;
    Ok(ExitCode::SUCCESS)
}
