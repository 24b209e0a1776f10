//! `satura pareto`: what divergence buys in time, for whole plans, measured; and how each weight takes part in it.

use super::{
    HubArgs, Progress,
    budget::{Calibration, watched},
    print_json, time,
};
use crate::signals;
use satura::budget::{self, Point, Survey};
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

/// Measure plans between the model as it is and the fastest one: time against divergence
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  satura pareto models/llama --calibrate text.txt --html report.html
  satura pareto models/llama --calibrate text.txt --json > report.json")]
pub struct Args {
    /// A model directory: config.json, tokenizer.json, *.safetensors
    #[arg(value_name = "MODEL")]
    model: String,

    #[command(flatten)]
    hub: HubArgs,

    #[command(flatten)]
    calibration: Calibration,

    /// Plans between the two ends
    #[arg(long, value_name = "N", default_value_t = 8)]
    plans: usize,

    /// Also N plans at random, to see how well divergence is predicted
    #[arg(long, value_name = "N", default_value_t = 0)]
    random: usize,

    /// Write a page with plots, which needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = args.hub.source(Some(&args.model))?;
    signals::reading(&args.model);
    let workshop = args.calibration.open(&source, false)?;
    let (bar, start) = (Progress::new(), Instant::now());
    let told = |what, done, of| bar.step(what, done, of);
    let survey = Survey::of(&workshop, args.plans, args.random, &told)?;
    drop(bar);
    watched(&format!(
        "{} plans measured in {}",
        survey.points.len(),
        time(start.elapsed())
    ));
    if let Some(file) = &args.html {
        let page = budget::page(&survey, &args.model);
        std::fs::write(file, page).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?;
    }
    if args.json {
        print_json(&serde_json::to_value(&survey)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<12} {:>9} {:>9} {:>10} {:>10} {:>8}",
        "plan", "ms", "predicted", "KL", "predicted", "MB"
    )?;
    for point in &survey.points {
        let Point {
            name,
            latency,
            predicted_latency,
            kl,
            predicted_kl,
            bytes,
            ..
        } = point;
        writeln!(
            out,
            "{name:<12} {:>9.3} {:>9.3} {:>10.2e} {predicted_kl:>10.2e} {:>8.1}",
            latency * 1e3,
            predicted_latency * 1e3,
            kl.mean,
            *bytes as f64 / 1e6
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
