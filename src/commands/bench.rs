//! `satura bench`: latency and throughput, and how far they are from what the machine can do.

use super::{ModelArgs, print_json};
use anyhow::Context;
use ir::{Program, Task};
use runtime::{
    Session,
    kernels::probe::Product,
    pool::{Pool, default_threads},
};
use satura::{
    Opened, Source, compiler, ir,
    measure::{
        Work,
        latency::{Latency, peak_memory},
        roofline::{self, Bound, Ceilings},
        speed::{Encoding, Generation, Speed, Workload},
        trace::chrome,
    },
    runtime,
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{BufWriter, Write, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

/// Measure latency and throughput
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Tokens of the prompt (decoders)
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt: usize,

    /// Tokens to generate (decoders)
    #[arg(long = "gen", value_name = "N", default_value_t = 64)]
    generate: usize,

    /// Tokens that stand before the prompt; they are taken for granted, not run (decoders)
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,

    /// Sequences side by side
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,

    /// Tokens of each sequence (encoders); of several lengths, a batch of each
    #[arg(
        long,
        value_name = "S,..",
        value_delimiter = ',',
        default_value = "128"
    )]
    seq: Vec<usize>,

    /// Seconds to measure for
    #[arg(long, value_name = "T", default_value_t = 2.0)]
    seconds: f64,

    /// What the machine can do: besides the model, which takes two seconds; alone, which
    /// is what --roofline says without a value; or not at all
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = Roofline::Model,
        default_missing_value = "machine"
    )]
    roofline: Roofline,

    /// Measure each time that a line comes on stdin, until it ends, and print one line of JSON: to take turns with
    /// another program
    #[arg(long, requires = "json")]
    turns: bool,

    /// Then run a step of each kind launch by launch, and write what each launch took, named by what it computes, as a
    /// trace for Chrome (chrome://tracing, Perfetto)
    #[arg(long, value_name = "FILE", conflicts_with = "turns")]
    trace: Option<PathBuf>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What is held against the machine's ceilings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Roofline {
    Model,
    Machine,
    None,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.roofline == Roofline::Machine {
        machine(args.model.threads)?.print(args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let source = args.model.source()?;
    let opened = args.model.open(&source)?;
    let workload = workload(&args, &opened.model.description().task)?;
    let budget = Duration::try_from_secs_f64(args.seconds)?;
    let mut session = workload.session(&opened.model, args.model.threads)?;
    let program = match args.roofline {
        Roofline::Model => program(&source, args.model.precision.get()?)?,
        _ => None,
    };
    let measure = |session: &mut Session| -> anyhow::Result<Report> {
        let speed = workload.measure(session, budget)?;
        let mut report = opening(&opened, session.threads());
        tell(&speed, &mut report);
        match &program {
            Some(program) => match ceilings(&args.model, &opened.model, session.threads()) {
                Ok(ceilings) => tell_roofline(&speed, program, &ceilings, &mut report),
                Err(why) => report.say("roofline", format!("not measured: {why}")),
            },
            None if args.roofline == Roofline::Model => {
                report.say("roofline", "give the model's directory to see it");
            }
            None => {}
        }
        Ok(report)
    };
    if args.turns {
        for line in stdin().lines() {
            line?;
            writeln!(stdout(), "{}", measure(&mut session)?.json)?;
        }
    } else {
        measure(&mut session)?.print(args.json)?;
    }
    if let Some(path) = &args.trace {
        let steps = workload.launches(&mut session)?;
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        serde_json::to_writer(BufWriter::new(file), &chrome(&steps))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is printed, in both forms.
struct Report {
    json: Value,
    lines: Vec<(&'static str, String)>,
}

impl Report {
    fn say(&mut self, name: &'static str, text: impl Into<String>) {
        self.lines.push((name, text.into()));
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return print_json(&self.json);
        }
        for (name, value) in &self.lines {
            writeln!(stdout(), "{name:<14} {value}")?;
        }
        Ok(())
    }
}

/// What the command line asks of a model.
fn workload(args: &Args, task: &Task) -> anyhow::Result<Workload> {
    if *task == Task::CausalLm {
        return Ok(Workload::Generation(Generation {
            depth: args.depth,
            prompt: args.prompt,
            generate: args.generate,
            sequences: args.batch,
        }));
    }
    let lengths = args.seq.repeat(args.batch);
    if lengths.is_empty() || lengths.contains(&0) {
        anyhow::bail!(
            "--batch {} --seq {}: there is nothing to encode; give at least 1 and 1",
            args.batch,
            args.seq
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(",")
        );
    }
    Ok(Workload::Encoding(Encoding { lengths }))
}

/// What the model took until it could be measured.
fn opening(opened: &Opened, threads: usize) -> Report {
    let mut report = Report {
        json: json!({
            "architecture": opened.model.description().architecture,
            "load_ms": milliseconds(opened.load),
            "compile_ms": opened.compile.map(milliseconds),
            "threads": threads,
            "peak_memory_bytes": peak_memory(),
        }),
        lines: vec![],
    };
    report.say("threads", threads.to_string());
    let compile = opened.compile.map(|t| format!("{:.0} ms", milliseconds(t)));
    report.say("compile", compile.unwrap_or("cached".into()));
    report.say("load", format!("{:.1} ms", milliseconds(opened.load)));
    if let Some(bytes) = peak_memory() {
        report.say("peak memory", format!("{:.1} MB", bytes as f64 * 1e-6));
    }
    report
}

fn tell(speed: &Speed, report: &mut Report) {
    match speed {
        Speed::Generation {
            of,
            prefill,
            step,
            device: [on_prefill, on_step],
        } => {
            let first = prefill.median();
            let rate = (of.prompt * of.sequences) as f64 / first;
            report.json["depth"] = json!(of.depth);
            report.json["prompt"] = json!(of.prompt);
            report.json["gen"] = json!(of.generate);
            report.json["batch"] = json!(of.sequences);
            report.json["first_token_ms"] = json!(first * 1e3);
            report.json["prefill_tokens_per_s"] = json!(rate);
            let (prompt, depth) = (of.prompt, of.depth);
            let first = first * 1e3;
            let after = match depth {
                0 => format!("{first:.2} ms after a prompt of {prompt}"),
                _ => format!("{first:.2} ms after a prompt of {prompt} at {depth}"),
            };
            report.say("first token", after);
            report.say("prefill", format!("{rate:.0} tokens/s"));
            tell_device("prefill", on_prefill.as_ref(), report);
            if let Some(step) = step {
                let rate = of.sequences as f64 / step.median();
                report.json["decode_tokens_per_s"] = json!(rate);
                report.json["step_ms"] = percentiles(step);
                report.say("decode", format!("{rate:.1} tokens/s"));
                report.say("step", in_words(step));
                tell_device("step", on_step.as_ref(), report);
            }
        }
        Speed::Encoding {
            of,
            latency,
            device,
        } => {
            let (sequences, tokens) = (of.lengths.len(), of.lengths.iter().sum::<usize>());
            let rate = tokens as f64 / latency.median();
            report.json["lengths"] = json!(of.lengths);
            report.json["latency_ms"] = percentiles(latency);
            report.json["tokens_per_s"] = json!(rate);
            report.json["sequences_per_s"] = json!(sequences as f64 / latency.median());
            let times = in_words(latency);
            report.say(
                "latency",
                format!("{times} for {sequences} sequences, {tokens} tokens"),
            );
            report.say("throughput", format!("{rate:.0} tokens/s"));
            tell_device("latency", device.as_ref(), report);
        }
    }
}

/// What something took by the device's own clock, where it has one.
fn tell_device(what: &'static str, latency: Option<&Latency>, report: &mut Report) {
    if let Some(latency) = latency {
        report.json[format!("device_{what}_ms")] = percentiles(latency);
        report.say("on the device", format!("{what} {}", in_words(latency)));
    }
}

/// What the machine reaches that the model runs on: of a GPU only how fast it reads.
fn ceilings(
    args: &ModelArgs,
    model: &runtime::Model,
    threads: usize,
) -> Result<Ceilings, satura::Error> {
    match model.weights() {
        Some(weights) => Ok(Ceilings::measure(&Pool::new(threads), weights)),
        None => Ceilings::of_gpu(model.target(), args.cache().as_ref()),
    }
}

fn tell_roofline(speed: &Speed, program: &Program, ceilings: &Ceilings, report: &mut Report) {
    let (step, seconds) = speed.step();
    let seconds = speed.on_device().unwrap_or(seconds);
    let work = Work::of(program, step);
    let (least, bound) = ceilings.least(&work);
    let fraction = least / seconds;
    let (binding, achieved) = match bound {
        Bound::Memory => (
            "read",
            format!("{:.1} GB/s read", work.bytes / seconds * 1e-9),
        ),
        Bound::Compute => (
            "compute",
            format!("{:.1} GFLOP/s", work.flops / seconds * 1e-9),
        ),
    };
    let computes = ceilings.flops.map_or(String::new(), |flops| {
        format!(", computes {:.1} GFLOP/s", flops * 1e-9)
    });
    report.json["roofline"] = json!({
        "read_gb_per_s": ceilings.read * 1e-9,
        "flops_gflop_per_s": ceilings.flops.map(|flops| flops * 1e-9),
        "fraction": fraction,
        "bound": binding,
        "bytes_per_step": work.bytes,
        "flops_per_step": work.flops,
    });
    report.say(
        "roofline",
        format!(
            "{:.1} % of what binds ({binding}): {achieved}; this machine reads {:.1} GB/s{computes}",
            fraction * 100.0,
            ceilings.read * 1e-9,
        ),
    );
}

/// Why the machine's ceilings are not known.
const UNREAD: &str = "no memory to measure the speed of reading with; --roofline=none does without";

/// What the machine reaches, whatever the model.
fn machine(threads: Option<usize>) -> anyhow::Result<Report> {
    let pool = Pool::new(threads.unwrap_or_else(default_threads));
    let mut report = Report {
        json: json!({ "threads": pool.threads() }),
        lines: vec![],
    };
    report.say("threads", pool.threads().to_string());
    let read = roofline::read(&pool, &roofline::far().context(UNREAD)?) * 1e-9;
    report.json["read_gb_per_s"] = json!(read);
    report.say("read", format!("{read:.1} GB/s"));
    for product in Product::ALL {
        let (key, name) = match product {
            Product::F32 => ("f32_gflop_per_s", "f32"),
            Product::Bf16 => ("bf16_gflop_per_s", "bf16 pairs"),
            Product::I8 => ("i8_gop_per_s", "int8 fours"),
        };
        let rate = roofline::product(&pool, product).map(|rate| rate * 1e-9);
        report.json[key] = json!(rate);
        let text = rate.map_or("no instruction".into(), |r| format!("{r:.0} Gop/s"));
        report.say(name, text);
    }
    Ok(report)
}

/// The program of the model, which counts the work; an artifact does not hold it.
fn program(source: &Source, precision: compiler::Precision) -> anyhow::Result<Option<Program>> {
    if let Source::Artifact(_) = source {
        return Ok(None);
    }
    let checkpoint = source.checkpoint()?;
    let (mut program, about) = compiler::models::build(checkpoint.config(), &checkpoint)?;
    precision.apply(&mut program, about.vocabulary)?;
    Ok(Some(program))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percentiles(latency: &Latency) -> Value {
    let at = |q| latency.percentile(q) * 1e3;
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "runs": latency.runs() })
}

fn in_words(latency: &Latency) -> String {
    let at = |q| latency.percentile(q) * 1e3;
    format!(
        "{:.3} ms median, {:.3} p90, {:.3} p99",
        at(0.5),
        at(0.9),
        at(0.99)
    )
}
