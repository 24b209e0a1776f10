//! `satura explain`: the plan in an artifact, how it came about, and what it is predicted to take. Reads the artifact, so
//! that one for another machine can be explained too; runs it only where it is asked to measure.

use super::{HubArgs, bytes, count, print_json, time};
use anyhow::Context;
use satura::{
    Cache, Opening, Source,
    budget::{Certificate, certificate},
    compiler::{
        explain::{self, Explained},
        optimize::verdict::Verdict,
        predict::{self, Costs},
    },
    ir::{
        Description,
        artifact::{HEADER_BYTES, Header, Launch, Manifest, Section, Sections},
    },
    measure::{
        Step,
        prediction::{self, Prediction, Times},
        speed::Workload,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

/// Show what the compiler did to a model: the plan, the rewrites that fired, the sizes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  satura explain llama.satura
  satura explain models/llama           compiles it first, where it is not in the cache
  satura explain models/llama --block layer
                                        the rules that made its kernels of it, step by step
  satura explain llama.satura --measure what its steps were predicted to take, beside what they take here")]
pub struct Args {
    /// A file that `satura compile` wrote, a model directory, or an id of the Hugging Face hub (org/name)
    #[arg(value_name = "ARTIFACT")]
    artifact: String,

    #[command(flatten)]
    hub: HubArgs,

    /// Show how this block was derived instead, rule by rule, and why other rules did not fire: a graph's name, which
    /// `satura explain` shows, or its number
    #[arg(long, value_name = "BLOCK")]
    block: Option<String>,

    /// Run it, and show instead what its steps were predicted to take beside what they take here
    #[arg(long, conflicts_with = "block")]
    measure: bool,

    /// Sequences side by side
    #[arg(long, value_name = "B", default_value_t = 1, requires = "measure")]
    batch: usize,

    /// Threads to measure with; by default as many as costs were measured with, else one a core
    #[arg(long, value_name = "N", requires = "measure")]
    threads: Option<usize>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = args.hub.source(Some(&args.artifact))?;
    let (manifest, sections) = match &source {
        Source::Artifact(path) => {
            let (manifest, sections) = read(path)?;
            (manifest, Some(sections))
        }
        _ => {
            let how = Opening {
                cache: Cache::of_user(),
                ..Opening::default()
            };
            (satura::open(&source, &how)?.model.manifest().clone(), None)
        }
    };
    if let Some(block) = &args.block {
        let explained = explain::block(&manifest, block).with_context(|| args.artifact.clone())?;
        match args.json {
            true => print_json(&derivation(&explained))?,
            false => write!(io::stdout().lock(), "{explained}")?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let costs = Costs::of(&manifest).with_context(|| args.artifact.clone())?;
    if args.measure {
        return measure(&args, &source, &costs);
    }
    match args.json {
        true => print_object(&manifest, sections.as_ref(), &costs)?,
        false => io::stdout()
            .lock()
            .write_all(text(&manifest, sections.as_ref(), &costs).as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Steps that a model is judged by.
fn judged(manifest: &Manifest) -> Vec<Step> {
    let workloads = prediction::workloads(&manifest.description);
    workloads.iter().map(Workload::typical).collect()
}

/// What is predicted beside what is measured.
fn measure(args: &Args, source: &Source, costs: &Costs) -> anyhow::Result<ExitCode> {
    let how = Opening {
        cache: Cache::of_user(),
        ..Opening::default()
    };
    let model = satura::open(source, &how)?.model;
    let mut predictions = vec![];
    for mut workload in prediction::workloads(model.description()) {
        workload.repeat(args.batch);
        let threads = args.threads.or(costs.threads);
        predictions.push(prediction::measure(&model, costs, &workload, threads)?);
    }
    if args.json {
        let times = |t: &Times| {
            json!({
                "predicted_ms": t.predicted * 1e3,
                "measured_ms": t.measured * 1e3,
                "ratio": t.ratio(),
                "launches": t.launches,
            })
        };
        let prediction = |p: &Prediction| {
            let templates = p.templates.iter().map(|(name, t)| (*name, times(t)));
            json!({
                "tokens": p.step.tokens,
                "sequences": p.step.sequences,
                "keys": p.step.keys,
                "whole": times(&p.whole),
                "templates": templates.collect::<BTreeMap<_, _>>(),
            })
        };
        let steps: Vec<Value> = predictions.iter().map(prediction).collect();
        print_json(&json!({ "costs": costs.about, "steps": steps }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "costs: {}", costs.about)?;
    for p in &predictions {
        writeln!(out, "\n{}", words(&p.step))?;
        writeln!(out, "{:<12} launches   predicted    measured   ratio", "")?;
        let templates = p.templates.iter().map(|(name, t)| (*name, t));
        for (name, t) in templates.chain([("a step", &p.whole)]) {
            writeln!(
                out,
                "{name:<12} {:>8} {:>11} {:>11} {:>7.2}",
                t.launches,
                time(seconds(t.predicted)),
                time(seconds(t.measured)),
                t.ratio()
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// For people: how large a step is.
fn words(step: &Step) -> String {
    let Step {
        tokens, sequences, ..
    } = step;
    format!(
        "{tokens} tokens of {sequences} sequences, {:.0} keys each",
        step.keys
    )
}

/// The manifest of an artifact and where its parts are; checks what it reads, and no more.
pub fn read(path: &Path) -> anyhow::Result<(Manifest, Sections)> {
    let name = || path.display().to_string();
    let mut file = File::open(path).with_context(name)?;
    let about = file.metadata().with_context(name)?;
    anyhow::ensure!(about.is_file(), "{}: is not a file", path.display());
    let mut header = vec![];
    Read::by_ref(&mut file)
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut header)
        .with_context(name)?;
    let sections = Header::decode(&header, about.len())
        .with_context(name)?
        .sections;
    let Section { offset, len, .. } = sections.manifest;
    file.seek(SeekFrom::Start(offset)).with_context(name)?;
    let mut bytes = vec![];
    file.take(len).read_to_end(&mut bytes).with_context(name)?;
    sections
        .manifest
        .check("manifest", &bytes)
        .with_context(name)?;
    Ok((Manifest::decode(&bytes).with_context(name)?, sections))
}

/// What a launch runs: its name without the call it belongs to.
fn kernel(launch: &Launch) -> &str {
    launch
        .name
        .split_once(": ")
        .map_or(&*launch.name, |(_, kernel)| kernel)
}

fn kernels(manifest: &Manifest) -> BTreeMap<&str, usize> {
    let mut kernels = BTreeMap::new();
    for launch in &manifest.plan.launches {
        *kernels.entry(kernel(launch)).or_default() += 1;
    }
    kernels
}

/// What there is code for.
fn targets(manifest: &Manifest) -> String {
    let names = manifest.images.iter().map(|i| i.target.to_string());
    names.collect::<Vec<_>>().join(", ")
}

/// Different kernels.
fn entries(manifest: &Manifest) -> usize {
    let mut entries: Vec<u32> = manifest.plan.launches.iter().map(|l| l.kernel).collect();
    entries.sort_unstable();
    entries.dedup();
    entries.len()
}

/// The parts of the report that are not for programs.
fn for_people(manifest: &Manifest) -> impl Iterator<Item = &(String, String)> {
    let internal =
        |h: &str| h == certificate::JSON || h == predict::TABLE || h.starts_with(explain::BUILT);
    manifest.report.iter().filter(move |(h, _)| !internal(h))
}

fn derivation(explained: &Explained) -> Value {
    let e = &explained.explanation;
    let steps = e.recognised.steps.iter().chain(&e.rewritten.steps);
    let steps = steps.map(|s| {
        json!({ "rule": s.rule, "backwards": s.backwards, "value": s.value, "left": s.left, "right": s.right })
    });
    let rules = e.verdicts.iter().map(|(rule, verdict)| {
        let (fired, why) = match verdict {
            Verdict::Fired(n) => (*n, json!([])),
            Verdict::LeftOut => (0, json!(["left out"])),
            Verdict::NoOp(op) => (0, json!([format!("no {op} occurs")])),
            Verdict::Silent(reasons) if reasons.is_empty() => (0, json!(["its left side is nowhere"])),
            Verdict::Silent(reasons) => {
                let reasons = reasons.iter().map(|(why, n)| format!("{why} ({n} times)"));
                (0, reasons.collect())
            }
        };
        json!({ "rule": rule.name, "left": rule.lhs, "right": rule.rhs, "guard": rule.guard, "fired": fired, "why_not": why })
    });
    json!({
        "block": explained.name,
        "built": explained.built.to_string(),
        "steps": steps.collect::<Vec<_>>(),
        "optimized": e.optimized.to_string(),
        "rules": rules.collect::<Vec<_>>(),
    })
}

fn text(manifest: &Manifest, sections: Option<&Sections>, costs: &Costs) -> String {
    let Description {
        architecture,
        parameters,
        layers,
        hidden,
        context,
        ..
    } = &manifest.description;
    let plan = &manifest.plan;
    let mut lines = vec![
        format!(
            "{architecture}: {} parameters, {layers} layers of {hidden}, context {context}",
            count(*parameters)
        ),
        format!(
            "compiled by satura {} for {}",
            manifest.compiler,
            targets(manifest)
        ),
    ];
    if let Some(s) = sections {
        lines.push(format!(
            "weights {}, code {}, tokenizer {}, manifest {}",
            bytes(s.weights.len),
            bytes(s.code.len),
            bytes(s.tokenizer.len),
            bytes(s.manifest.len)
        ));
    }
    lines.push(format!(
        "a step: {} launches of {} kernels, at most {} of memory for values",
        plan.launches.len(),
        entries(manifest),
        bytes(plan.arena)
    ));
    for step in judged(manifest) {
        let predicted = time(seconds(prediction::predict(manifest, costs, step)));
        lines.push(format!("predicted: {predicted} for {}", words(&step)));
    }
    for (what, ports) in [("in", &plan.inputs), ("out", &plan.outputs)] {
        let ports = ports.iter().map(|p| format!("{}: {}", p.name, p.ty));
        lines.push(format!("{what}: {}", ports.collect::<Vec<_>>().join(", ")));
    }
    // One or two a layer, all alike.
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for state in &plan.states {
        let codes = match state.layout.coded() {
            true => ", kept as integers with a scale for each head",
            false => "",
        };
        *states.entry(format!("{}{codes}", state.ty)).or_default() += 1;
    }
    lines.extend(states.iter().map(|(ty, n)| format!("state: {n} of {ty}")));
    for (heading, text) in for_people(manifest) {
        lines.push(format!("\n{heading}"));
        lines.extend(text.lines().map(|line| format!("  {line}")));
    }
    lines.push("\nlaunches of a step:".into());
    for (kernel, n) in kernels(manifest) {
        lines.push(format!("  {n:>5} x {kernel}"));
    }
    lines.join("\n") + "\n"
}

fn print_object(
    manifest: &Manifest,
    sections: Option<&Sections>,
    costs: &Costs,
) -> anyhow::Result<()> {
    let d = &manifest.description;
    let port =
        |p: &satura::ir::artifact::Port| json!({ "name": &*p.name, "type": p.ty.to_string() });
    let plan = &manifest.plan;
    let report =
        for_people(manifest).map(|(heading, text)| json!({ "heading": heading, "text": text }));
    print_json(&json!({
        "architecture": d.architecture,
        "parameters": d.parameters,
        "layers": d.layers,
        "hidden": d.hidden,
        "context": d.context,
        "vocabulary": d.vocabulary,
        "compiler": manifest.compiler,
        "target": targets(manifest),
        "bytes": sections.map(|s| json!({
            "weights": s.weights.len,
            "code": s.code.len,
            "tokenizer": s.tokenizer.len,
            "manifest": s.manifest.len,
        })),
        "plan": {
            "launches": plan.launches.len(),
            "kernels": entries(manifest),
            "arena_bytes": plan.arena,
            "inputs": plan.inputs.iter().map(port).collect::<Vec<_>>(),
            "outputs": plan.outputs.iter().map(port).collect::<Vec<_>>(),
            "states": plan.states.iter().map(port).collect::<Vec<_>>(),
            "launches_by_kernel": kernels(manifest),
        },
        "predicted": judged(manifest).into_iter().map(|step| json!({
            "tokens": step.tokens,
            "keys": step.keys,
            "ms": prediction::predict(manifest, costs, step) * 1e3,
        })).collect::<Vec<_>>(),
        "certificate": Certificate::of(&manifest.report),
        "report": report.collect::<Vec<_>>(),
    }))
}
