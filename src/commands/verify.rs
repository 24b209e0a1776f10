//! `satura verify`: compares outputs with stored ones.

use super::{ModelArgs, Progress, print_json};
use satura::measure::{Comparison, Divergence, OutputComparison, Reference, Tolerance, compare};
use serde_json::{Value, json};
use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
};

/// Compare with stored outputs of a reference implementation; exit code 1 past tolerance
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// A safetensors file of inputs (input_ids, attention_mask, token_type_ids, position_ids) and outputs (logits,
    /// last_hidden_state, pooler_output, embedding, greedy); tolerances come from manifest.json beside it, or are
    /// those of f32 arithmetic
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let reference = Reference::open(&args.reference)?;
    let opened = args.model.open()?;
    let bar = Progress::new();
    let progress = |done, of| bar.step("comparing", done, of);
    let found = compare(&opened.model, &reference, args.model.threads, &progress)?;
    drop(bar);
    if args.json {
        print_json(&in_json(&found))?;
    } else {
        write!(stdout(), "{}", in_words(&found))?;
    }
    Ok(if found.passes() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn in_json(found: &Comparison) -> Value {
    let divergence = |d: &Divergence| {
        json!({
            "sequence": d.sequence,
            "position": d.position,
            "element": d.element,
            "found": d.found,
            "expected": d.expected,
        })
    };
    let output = |o: &OutputComparison| {
        json!({
            "name": o.name,
            "rows": o.rows,
            "max_absolute_error": o.max_absolute,
            "relative_l2_error": o.relative_l2,
            "top1_agreement": o.top1,
            "tolerance": match o.tolerance {
                Tolerance::Elements { absolute, relative } => json!({ "absolute": absolute, "relative": relative }),
                Tolerance::RelativeL2(most) => json!({ "relative_l2": most }),
            },
            "within_tolerance": o.divergence.is_none(),
            "first_divergence": o.divergence.as_ref().map(divergence),
        })
    };
    let greedy = found.greedy.map(|greedy| match greedy {
        Ok(()) => json!({ "equal": true }),
        Err((sequence, token)) => json!({ "equal": false, "sequence": sequence, "token": token }),
    });
    json!({
        "passes": found.passes(),
        "outputs": found.outputs.iter().map(output).collect::<Vec<_>>(),
        "greedy": greedy,
    })
}

fn in_words(found: &Comparison) -> String {
    let mut text = String::new();
    for o in &found.outputs {
        let name = &o.name;
        text += &format!(
            "{name:<18} {:>7} rows  largest error {:.2e}  relative L2 {:.2e}",
            o.rows, o.max_absolute, o.relative_l2
        );
        if let Some(top1) = o.top1 {
            text += &format!("  top-1 agreement {:.2} %", top1 * 100.0);
        }
        let allowed = match o.tolerance {
            Tolerance::Elements { absolute, relative } => {
                format!("{absolute:.1e} and {relative:.1e} relative")
            }
            Tolerance::RelativeL2(most) => format!("relative L2 {most:.1e}"),
        };
        text += &match &o.divergence {
            None => format!("  within tolerance ({allowed})\n"),
            Some(d) => {
                let position = d
                    .position
                    .map_or(String::new(), |p| format!(", position {p}"));
                format!(
                    "  PAST TOLERANCE ({allowed})\n{:18} first at sequence {}{position}, element {}: {} instead of {}\n",
                    "", d.sequence, d.element, d.found, d.expected
                )
            }
        };
    }
    text += &match found.greedy {
        None => String::new(),
        Some(Ok(())) => "greedy             continuations equal\n".into(),
        Some(Err((sequence, token))) => {
            format!(
                "greedy             DIFFERS, first in sequence {sequence} at token {token} of the continuation\n"
            )
        }
    };
    text
}
