//! `satura inspect`: a model at a stage of its compilation, whether it is supported, and what memory it needs. Reads
//! headers, no weights, and of a model of the hub fetches no more.

use super::{HubArgs, PrecisionArgs, bytes, count, print_json, target};
use satura::{
    compiler::{Compilation, Options, schedule},
    ir::{
        Target,
        artifact::{Plan, Port},
        feed,
    },
};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

/// Show a model's program at a stage of compilation, its size and the memory it needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  satura inspect models/llama                      is it supported, how large, how much memory
  satura inspect models/llama --stage optimized    the program after rewriting")]
pub struct Args {
    /// A model directory, or an id of the Hugging Face hub (org/name); by default the small model built into satura
    #[arg(value_name = "MODEL")]
    model: Option<String>,

    /// Also print the program at this stage
    #[arg(long, value_enum)]
    stage: Option<Stage>,

    /// The machine to compile for, as in `satura compile`
    #[arg(long, value_name = "TARGET", default_value = "native", value_parser = target)]
    target: Target,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    precision: PrecisionArgs,

    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    /// As the model's family builds it
    Built,
    /// After rewriting: few kernels, fused
    Optimized,
    /// As kernels, each with its operands
    Scheduled,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options = Options {
        precision: args.precision.get()?,
        ..Options::new(args.target)
    };
    let source = args.hub.outline(args.model.as_deref());
    let name = match (&args.model, &source) {
        (None, Ok((source, _))) => source.to_string(),
        (name, _) => name.clone().unwrap_or_default(),
    };
    let found = source.and_then(|(source, _outline)| {
        let checkpoint = source.checkpoint()?;
        let compilation = Compilation::new(&checkpoint, &options, &|_, _, _| {})?;
        Ok((checkpoint.weight_bytes() as u64, compilation))
    });
    let (weights, compilation) = match found {
        Ok(found) => found,
        Err(error) if args.json => {
            let object = json!({ "model": name, "supported": false, "why": format!("{error:#}") });
            print_json(&object)?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error),
    };
    let plan = plan(&compilation)?;
    let per_token: u64 = plan.states.iter().map(one_row).sum();
    let description = &compilation.description;
    let stage = args.stage.map(|stage| text(stage, &compilation));
    let at_context = per_token * description.context as u64;
    if args.json {
        print_json(&json!({
            "model": name,
            "supported": true,
            "architecture": description.architecture,
            "parameters": description.parameters,
            "layers": description.layers,
            "hidden": description.hidden,
            "vocabulary": description.vocabulary,
            "context": description.context,
            "memory_bytes": {
                "weights": weights,
                "arena": plan.arena,
                "cache_per_token": per_token,
                "cache_at_context": at_context,
            },
            "launches": plan.launches.len(),
            "graphs": compilation.optimized.graphs.len(),
            "stage": stage.map_or(Value::Null, Value::String),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{name}: {}, supported", description.architecture)?;
    writeln!(
        out,
        "{} parameters, {} layers of {}, vocabulary {}, context {}",
        count(description.parameters),
        description.layers,
        description.hidden,
        description.vocabulary,
        description.context
    )?;
    writeln!(
        out,
        "memory: weights {}, values of a step at most {}",
        bytes(weights),
        bytes(plan.arena)
    )?;
    if per_token > 0 {
        writeln!(
            out,
            "        key/value cache {} a token, {} for the whole context",
            bytes(per_token),
            bytes(at_context)
        )?;
    }
    writeln!(
        out,
        "program: {} unique graphs, {} calls, {} launches a step",
        compilation.optimized.graphs.len(),
        compilation.optimized.calls.len(),
        plan.launches.len()
    )?;
    if let Some(stage) = stage {
        writeln!(out, "\n{}", stage.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan as it will be, but for where code and weights lie.
fn plan(compilation: &Compilation) -> anyhow::Result<Plan> {
    Ok(schedule::link(
        &compilation.optimized,
        &compilation.schedules,
        &|_, _| 0,
        &|_, _| 0,
    )?)
}

/// Bytes of one row of a key/value cache.
fn one_row(state: &Port) -> u64 {
    let row = state.bytes().eval(&|symbol| match &*symbol.name {
        feed::R => 1,
        _ => i64::from(symbol.max),
    });
    u64::try_from(row).unwrap_or(0)
}

fn text(stage: Stage, compilation: &Compilation) -> String {
    match stage {
        Stage::Built => compilation.built.to_string(),
        Stage::Optimized => compilation.optimized.to_string(),
        Stage::Scheduled => {
            let mut text = String::new();
            for name in compilation.optimized.graphs.keys() {
                let _ = write!(text, "graph {name}\n{}\n", compilation.schedules[name]);
            }
            text
        }
    }
}
