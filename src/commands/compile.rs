//! `satura compile`: from a model directory to one file that runs without it.

use super::{
    HubArgs, PrecisionArgs, Progress, budget, bytes, count, ms, note, print_json, target, time,
};
use crate::signals;
use satura::{
    Cache, Output, Source,
    budget::{Budget, Certificate, Found},
    compiler::{Options, optimize::ablation::Ablation},
    ir::Target,
    nvrtc,
    tune::Tables,
};
use serde_json::json;
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Compile a model into one file, which runs without the model's directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  satura compile models/llama -o llama.satura
  satura run llama.satura -p \"Once upon a time\"
  satura compile models/llama -o llama.satura --target x86-64-v3   for any machine with AVX2
  satura compile models/llama -o llama.satura --target sm_90a      for an H100 or H200
  satura compile models/llama -o llama.satura --calibrate text.txt --budget kl=0.01
                                                                   as fast as that divergence allows

The file appears when it is complete; a compilation that is interrupted leaves nothing behind.")]
pub struct Args {
    /// A model directory (config.json, tokenizer.json, *.safetensors), or an id of the Hugging Face hub (org/name)
    #[arg(value_name = "MODEL")]
    model: String,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// The machine to compile for: native (this one), x86-64-v2, x86-64-v3 (AVX2), x86-64-v4 (AVX-512), or a GPU: sm_80
    /// (A100 and its like), sm_90a (H100, H200), which needs NVRTC but no GPU
    #[arg(long, value_name = "TARGET", default_value = "native", value_parser = target)]
    target: Target,

    #[command(flatten)]
    precision: PrecisionArgs,

    /// Rewrite rules to go without, to see what they are worth: themes or names of rules, which `satura explain` shows
    #[arg(long, value_name = "THEME,..", conflicts_with = "budget")]
    without: Option<Ablation>,

    #[command(flatten)]
    hub: HubArgs,

    #[command(flatten)]
    calibration: budget::Calibration,

    /// What may be lost or spent, measured on text: kl=0.01 (nats a token), ppl=+1%, f1=-0.5 (points), latency=12ms (a
    /// token, or 128 tokens of an encoder), bytes=20MB. Each weight is then said in the form that is best for the whole
    #[arg(long, value_name = "BUDGET", requires = "calibrate")]
    budget: Option<Budget>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = args.hub.source(Some(&args.model))?;
    signals::reading(&args.model);
    let output = Output::new(&args.output)?;
    let nvrtc = match args.target.is_gpu() {
        true => Some(nvrtc::find(Cache::of_user().as_ref())?),
        false => None,
    };
    // Plans under a budget are measured whole, and written as they were measured.
    let costs = match Cache::of_user().filter(|_| args.budget.is_none()) {
        Some(cache) => Tables::of(&cache).of_target(&args.target),
        None => Ok(None),
    };
    let costs = costs.unwrap_or_else(|error| {
        eprintln!("warning: measured costs are not used: {error}");
        None
    });
    if let Some(table) = &costs {
        note(&format!("costs: {}", table.about()));
    }
    let options = Options {
        target: args.target.clone(),
        precision: args.precision.get()?,
        nvrtc,
        without: args.without.clone().unwrap_or_default(),
        costs,
    };
    let start = Instant::now();
    let (size, planned) = match args.budget {
        None => {
            let checkpoint = source.checkpoint()?;
            let bar = Progress::new();
            let progress = |stage, done, of| bar.show(stage, done, of);
            (output.compile(&checkpoint, &options, &progress)?, None)
        }
        Some(budget) => {
            let (size, planned) = planned(&args, &source, budget, &options, output)?;
            (size, Some(planned))
        }
    };
    let took = start.elapsed();
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
            "costs": options.costs.as_ref().map(|table| table.about()),
            "open_ms": planned.as_ref().map(|p| ms(p.opening)),
            "solve_ms": planned.as_ref().map(|p| ms(p.found.solving)),
            "measure_ms": planned.as_ref().map(|p| ms(p.found.measuring)),
            "measured": planned.as_ref().map(|p| p.found.measured),
            "certificate": planned.map(|p| p.certificate),
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
    if let Some(planned) = planned {
        let text = planned.certificate.text();
        let head: Vec<&str> = text
            .lines()
            .take_while(|l| !l.starts_with("weight "))
            .collect();
        let Found {
            measured,
            measuring,
            solving,
            ..
        } = planned.found;
        let plans = match measured {
            0 => "no plan measured".into(),
            _ => format!(
                "{measured} plans compiled and measured in {}",
                time(measuring)
            ),
        };
        writeln!(
            io::stdout(),
            "{}, solved in {}, {plans}: {}",
            planned.certificate.budget,
            time(solving),
            head.join("\n")
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A plan that was written.
struct Planned {
    certificate: Certificate,
    found: Found,
    /// Time until the model was known: statistics, alternatives, the original's times.
    opening: Duration,
}

/// Chooses a plan, and writes it.
fn planned(
    args: &Args,
    source: &Source,
    budget: Budget,
    options: &Options,
    output: Output,
) -> anyhow::Result<(u64, Planned)> {
    anyhow::ensure!(
        args.precision == PrecisionArgs::default(),
        "--budget chooses how weights are stored: leave out --weights, --activations, --group and --cache-type"
    );
    let start = Instant::now();
    let workshop = args.calibration.open(source, false)?;
    let opening = start.elapsed();
    let found = budget::search(&workshop, budget)?;
    let certificate = Certificate::new(&workshop, Some(budget), &found.trials[0]);
    let bar = Progress::new();
    let progress = |what, done, of| bar.step(what, done, of);
    let plan = &found.trials[0].plan;
    let size = output.fill(|file| workshop.write(plan, &certificate, options, file, &progress))?;
    let planned = Planned {
        certificate,
        found,
        opening,
    };
    Ok((size, planned))
}
