//! `satura bench`: latency and throughput, and how far they are from what the machine can do.

use super::{ModelArgs, print_json};
use ir::{Program, Task};
use runtime::{Chunk, EncoderInput, Options, Select, Session};
use satura::{
    Source, compiler, ir,
    measure::{
        Step, Work, argmax,
        latency::{Latency, peak_memory},
        roofline::{Bound, Ceilings},
    },
    runtime,
};
use serde_json::{Value, json};
use std::{
    io::{Write, stdout},
    process::ExitCode,
    time::{Duration, Instant},
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

    /// Sequences side by side (encoders)
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,

    /// Tokens of each sequence (encoders)
    #[arg(long, value_name = "S", default_value_t = 128)]
    seq: usize,

    /// Seconds to measure for
    #[arg(long, value_name = "T", default_value_t = 2.0)]
    seconds: f64,

    /// Measure what the machine can do, too; it takes half a second and as much memory as the weights
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    roofline: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let opened = args.model.open()?;
    let description = opened.model.description();
    let decodes = description.task == Task::CausalLm;
    let options = Options {
        threads: args.model.threads,
        ..Options::default()
    };
    let mut session = Session::new(&opened.model, options)?;
    let budget = Duration::try_from_secs_f64(args.seconds)?;
    let speeds = if decodes {
        decoder(&mut session, args.prompt, args.generate, budget)?
    } else {
        encoder(&mut session, args.batch, args.seq, budget)?
    };
    let mut report = Report {
        json: json!({
            "architecture": description.architecture,
            "load_ms": milliseconds(opened.load),
            "compile_ms": opened.compile.map(milliseconds),
            "threads": session.threads(),
            "peak_memory_bytes": peak_memory(),
        }),
        lines: vec![
            ("threads", session.threads().to_string()),
            (
                "compile",
                opened
                    .compile
                    .map_or("cached".into(), |t| format!("{:.0} ms", milliseconds(t))),
            ),
            ("load", format!("{:.1} ms", milliseconds(opened.load))),
        ],
    };
    speeds.tell(&mut report);
    if let Some(bytes) = peak_memory() {
        report
            .lines
            .push(("peak memory", format!("{:.1} MB", bytes as f64 * 1e-6)));
    }
    if args.roofline {
        match program(&args)? {
            Some(program) => speeds.tell_roofline(&program, session.threads(), &mut report),
            None => report
                .lines
                .push(("roofline", "give the model's directory to see it".into())),
        }
    }
    if args.json {
        print_json(&report.json)?;
    } else {
        for (name, value) in &report.lines {
            writeln!(stdout(), "{name:<14} {value}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is printed, in both forms.
struct Report {
    json: Value,
    lines: Vec<(&'static str, String)>,
}

/// What was measured.
enum Speeds {
    Decoder {
        prompt: usize,
        generate: usize,
        prefill: Latency,
        step: Option<Latency>,
    },
    Encoder {
        batch: usize,
        seq: usize,
        latency: Latency,
    },
}

/// Ids that spread over the vocabulary: neither one row of the embeddings nor special tokens only.
fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count)
        .map(|i| ((i * 7919 + 997) % vocabulary) as u32)
        .collect()
}

/// Prompts and continuations of them, each from an empty context, until `budget` is used up.
fn decoder(
    session: &mut Session,
    prompt: usize,
    generate: usize,
    budget: Duration,
) -> anyhow::Result<Speeds> {
    let ids = tokens(prompt, session.model().description().vocabulary);
    let (mut prefill, mut steps) = (vec![], vec![]);
    let start = Instant::now();
    // The first round touches memory for the first time and does not count.
    for round in 0.. {
        if round > 3 && start.elapsed() > budget {
            break;
        }
        session.reset(0)?;
        let once = Instant::now();
        let mut token = next(session, &ids)?;
        if round > 0 {
            prefill.push(once.elapsed());
        }
        for _ in 1..generate {
            let once = Instant::now();
            token = next(session, &[token])?;
            if round > 0 {
                steps.push(once.elapsed());
            }
        }
    }
    Ok(Speeds::Decoder {
        prompt,
        generate,
        prefill: Latency::new(prefill).expect("at least three rounds were timed"),
        step: Latency::new(steps),
    })
}

/// The likeliest token after `ids`.
fn next(session: &mut Session, ids: &[u32]) -> Result<u32, runtime::Error> {
    let chunk = Chunk {
        sequence: 0,
        tokens: ids,
        positions: None,
    };
    let logits = session.step(&[chunk], Select::Last)?;
    Ok(argmax(logits.row(0)) as u32)
}

fn encoder(
    session: &mut Session,
    batch: usize,
    seq: usize,
    budget: Duration,
) -> anyhow::Result<Speeds> {
    let ids = tokens(batch * seq, session.model().description().vocabulary);
    let input = |ids| EncoderInput {
        ids,
        ..EncoderInput::default()
    };
    let inputs: Vec<EncoderInput<'_>> = ids.chunks(seq.max(1)).map(input).collect();
    if inputs.is_empty() {
        anyhow::bail!(
            "--batch {batch} --seq {seq}: there is nothing to encode; give at least 1 and 1"
        );
    }
    let latency = Latency::measure(budget, 5, || session.encode(&inputs).map(drop))?;
    Ok(Speeds::Encoder {
        batch,
        seq,
        latency,
    })
}

impl Speeds {
    fn tell(&self, report: &mut Report) {
        match self {
            Speeds::Decoder {
                prompt,
                generate,
                prefill,
                step,
            } => {
                let first = prefill.median();
                let rate = *prompt as f64 / first;
                report.json["prompt"] = json!(prompt);
                report.json["gen"] = json!(generate);
                report.json["first_token_ms"] = json!(first * 1e3);
                report.json["prefill_tokens_per_s"] = json!(rate);
                report.lines.push((
                    "first token",
                    format!("{:.2} ms after a prompt of {prompt}", first * 1e3),
                ));
                report
                    .lines
                    .push(("prefill", format!("{rate:.0} tokens/s")));
                if let Some(step) = step {
                    report.json["decode_tokens_per_s"] = json!(1.0 / step.median());
                    report.json["step_ms"] = percentiles(step);
                    report
                        .lines
                        .push(("decode", format!("{:.1} tokens/s", 1.0 / step.median())));
                    report.lines.push(("step", in_words(step)));
                }
            }
            Speeds::Encoder {
                batch,
                seq,
                latency,
            } => {
                let rate = (batch * seq) as f64 / latency.median();
                report.json["batch"] = json!(batch);
                report.json["seq"] = json!(seq);
                report.json["latency_ms"] = percentiles(latency);
                report.json["tokens_per_s"] = json!(rate);
                report.json["sequences_per_s"] = json!(*batch as f64 / latency.median());
                report.lines.push((
                    "latency",
                    format!("{} for {batch} x {seq} tokens", in_words(latency)),
                ));
                report
                    .lines
                    .push(("throughput", format!("{rate:.0} tokens/s")));
            }
        }
    }

    /// Step of which the median is held against the machine's ceilings, and that median in seconds.
    fn step(&self) -> (Step, f64) {
        match self {
            Speeds::Decoder {
                prompt,
                generate,
                step: Some(latency),
                ..
            } => {
                // The middle one of the steps sees the prompt and half of what was generated.
                let keys = (prompt + generate / 2) as f64;
                (
                    Step {
                        tokens: 1,
                        selected: 1,
                        sequences: 1,
                        keys,
                    },
                    latency.median(),
                )
            }
            Speeds::Decoder {
                prompt, prefill, ..
            } => {
                let keys = (prompt + 1) as f64 / 2.0;
                (
                    Step {
                        tokens: *prompt,
                        selected: 1,
                        sequences: 1,
                        keys,
                    },
                    prefill.median(),
                )
            }
            Speeds::Encoder {
                batch,
                seq,
                latency,
            } => {
                let tokens = batch * seq;
                let step = Step {
                    tokens,
                    selected: tokens,
                    sequences: *batch,
                    keys: *seq as f64,
                };
                (step, latency.median())
            }
        }
    }

    fn tell_roofline(&self, program: &Program, threads: usize, report: &mut Report) {
        let (step, seconds) = self.step();
        let work = Work::of(program, step);
        let ceilings = Ceilings::measure(threads, work.bytes as u64);
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
        report.json["roofline"] = json!({
            "read_gb_per_s": ceilings.read * 1e-9,
            "flops_gflop_per_s": ceilings.flops * 1e-9,
            "fraction": fraction,
            "bound": binding,
            "bytes_per_step": work.bytes,
            "flops_per_step": work.flops,
        });
        report.lines.push((
            "roofline",
            format!(
                "{:.1} % of what binds ({binding}): {achieved}; this machine reads {:.1} GB/s, computes {:.1} GFLOP/s",
                fraction * 100.0,
                ceilings.read * 1e-9,
                ceilings.flops * 1e-9
            ),
        ));
    }
}

/// The program of the model, which counts the work; an artifact does not hold it.
fn program(args: &Args) -> anyhow::Result<Option<Program>> {
    let source = Source::parse(args.model.model.as_deref())?;
    if let Source::Artifact(_) = source {
        return Ok(None);
    }
    let checkpoint = source.checkpoint()?;
    let (program, _) = compiler::models::build(checkpoint.config(), &checkpoint)?;
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
