//! `satura verify`: compares outputs with stored ones, and names the layer where they part.

use super::{ModelArgs, Progress, print_json};
use compiler::{checkpoint::Checkpoint, models};
use runtime::Model;
use satura::{
    Source, compiler,
    ir::{Name, Tensor},
    measure::{
        Comparison, Divergence, Layers, OutputComparison, Parting, Reference, Tolerance, compare,
        compare_layers,
    },
    runtime,
};
use serde_json::{Value, json};
use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

/// Models of more parameters are interpreted only where that is asked for: it may take minutes.
const LARGE: u64 = 200_000_000;

/// Compare with stored outputs of a reference implementation; exit code 1 past tolerance
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// A safetensors file of inputs (input_ids, attention_mask, token_type_ids, position_ids) and outputs (logits,
    /// last_hidden_state, pooler_output, embedding, greedy, hidden_states.0, hidden_states.1, ...); tolerances come
    /// from manifest.json beside it, or are those of f32 arithmetic
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,

    /// Also compare each layer with the model's program as the reference interpreter evaluates it; done without
    /// asking where an output is past its tolerance, unless the model is large
    #[arg(long)]
    layers: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let reference = Reference::open(&args.reference)?;
    let source = args.model.source()?;
    let is_artifact = matches!(source, Source::Artifact(_));
    anyhow::ensure!(
        !(args.layers && is_artifact),
        "{source}: is compiled, and holds no program to compare layers with; give --layers the model's directory"
    );
    let opened = args.model.open(&source)?;
    let bar = Progress::new();
    let progress = |done, of| bar.step("comparing", done, of);
    let found = compare(&opened.model, &reference, args.model.threads, &progress)?;
    drop(bar);
    if !args.json {
        write!(stdout(), "{}", outputs_in_words(&found))?;
    }
    let small = opened.model.description().parameters <= LARGE;
    let wanted = args.layers || !found.passes() && small && !is_artifact;
    let layers = match wanted {
        true => Some(layers(&args, &source, &opened.model, (&reference, &found))?),
        false => None,
    };
    let passes = found.passes() && layers.iter().all(|l| l.first_divergence().is_none());
    if args.json {
        print_json(&in_json(&found, layers.as_ref(), passes))?;
    } else {
        let text = match layers {
            Some(layers) => layers_in_words(&args, &found, &layers),
            None if passes => String::new(),
            None => format!(
                "{}layers             not compared with the model's program: {}\n",
                parting_in_words(found.parting.as_ref()),
                match is_artifact {
                    true => "an artifact holds none; verify the model's directory",
                    false => "the model is large; --layers does it",
                }
            ),
        };
        write!(stdout(), "{text}")?;
    }
    Ok(match passes {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn layers(
    args: &Args,
    source: &Source,
    model: &Arc<Model>,
    outputs: (&Reference, &Comparison),
) -> anyhow::Result<Layers> {
    let checkpoint = source.checkpoint()?;
    anyhow::ensure!(
        checkpoint.digest()? == model.description().source,
        "{source}: the model's files changed while they were verified; try again"
    );
    let (mut program, description) = models::build(checkpoint.config(), &checkpoint)?;
    let precision = args.model.precision.get()?;
    precision.apply(&mut program, description.vocabulary)?;
    let bar = Progress::new();
    let layers = compare_layers(
        model,
        &program,
        &|name| tensor(&checkpoint, name),
        outputs,
        args.model.threads,
        &|done, of| bar.step("interpreting", done, of),
    )?;
    drop(bar);
    Ok(layers)
}

fn tensor(checkpoint: &Checkpoint, name: &Name) -> Option<Tensor> {
    let view = checkpoint.tensor(name).ok()?;
    let data = view.to_f32()?.into_iter().map(f64::from).collect();
    Some(Tensor::new(view.shape, data))
}

fn in_json(found: &Comparison, layers: Option<&Layers>, passes: bool) -> Value {
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
            "rows_not_compared": o.padded,
            "within_tolerance": o.divergence.is_none(),
            "first_divergence": o.divergence.as_ref().map(divergence),
        })
    };
    let greedy = found.greedy.map(|greedy| match greedy {
        Ok(()) => json!({ "equal": true }),
        Err((sequence, token)) => json!({ "equal": false, "sequence": sequence, "token": token }),
    });
    let parting = |p: &Parting| json!({ "layers": p.layers, "within": p.before, "past": p.after });
    let compared = |l: &Layers| {
        let layer = l.layers.iter().map(|l| {
            json!({
                "name": l.name,
                "max_absolute_error": l.max_absolute,
                "relative_l2_error": l.relative_l2,
                "within_tolerance": l.passes,
            })
        });
        json!({
            "sequence": l.sequence,
            "tokens": l.tokens,
            "of": l.of,
            "tolerance": { "relative_l2": l.tolerance },
            "first_divergence": l.first_divergence().map(|l| &l.name),
            "each": layer.collect::<Vec<_>>(),
        })
    };
    json!({
        "passes": passes,
        "outputs": found.outputs.iter().map(output).collect::<Vec<_>>(),
        "not_compared": found.skipped,
        "greedy": greedy,
        "parts_from_reference": found.parting.as_ref().map(parting),
        "layers_against_program": layers.map(compared),
    })
}

fn outputs_in_words(found: &Comparison) -> String {
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
    for o in found.outputs.iter().filter(|o| o.padded > 0) {
        text += &format!(
            "{:<18} {:>7} rows  not compared: they begin with padding, which the reference pools in place of a token\n",
            o.name, o.padded
        );
    }
    for name in &found.skipped {
        text += &format!(
            "{name:<18} not compared: it comes after the final norm, which is one with the head in compiled code\n"
        );
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

fn parting_in_words(parting: Option<&Parting>) -> String {
    let Some(Parting {
        layers,
        before,
        after,
    }) = parting
    else {
        return String::new();
    };
    let before = match before {
        Some(state) => format!("{state} before it is within tolerance"),
        None => "it takes the model's inputs".into(),
    };
    let layers = match &layers[..] {
        [layer] => layer.clone(),
        layers => format!("one of {}", layers.join(", ")),
    };
    format!("first to diverge   from the reference: {layers}; {before}, {after} after it is not\n")
}

fn layers_in_words(args: &Args, found: &Comparison, layers: &Layers) -> String {
    let mut text = String::new();
    let Layers {
        sequence,
        tokens,
        of,
        ..
    } = layers;
    if args.layers {
        text += "layers             compiled code against the program in f64, each layer on what compiled code gave \
                 before it\n";
        for l in &layers.layers {
            text += &format!(
                "  {:<30} largest error {:.2e}  relative L2 {:.2e}{}\n",
                l.name,
                l.max_absolute,
                l.relative_l2,
                if l.passes { "" } else { "  PAST TOLERANCE" }
            );
        }
    }
    text += &parting_in_words(found.parting.as_ref());
    let on = format!("{tokens} of the {of} tokens of sequence {sequence}");
    let most = layers.tolerance;
    text += &match (layers.first_divergence(), layers.largest()) {
        (Some(layer), _) => format!(
            "first to diverge   from the model's program: {}; on what the compiled layers before it gave, its compiled \
             code is off by relative L2 {:.2e} (at most {most:.1e} is its precision), on {on}. Please report this: \
             satura compiles or runs this layer wrongly, or that precision does not suffice for it\n",
            layer.name, layer.relative_l2
        ),
        (None, Some(layer)) => format!(
            "layers             compiled code does what the model's program says: no layer is off by more than relative \
             L2 {:.2e} ({}), on {on}\n",
            layer.relative_l2, layer.name
        ),
        (None, None) => String::new(),
    };
    if !found.passes() && layers.first_divergence().is_none() {
        text += &format!(
            "{:18} {} the cause is in {}the weights, in config.json or how satura reads it, or in the reference{}\n",
            "",
            if tokens == of {
                "so"
            } else {
                "as far as these tokens tell,"
            },
            if args.model.precision.get().is_ok_and(|p| p.rounds()) {
                "the rounding that was asked for, in "
            } else {
                ""
            },
            match found.parting {
                Some(_) => "",
                None =>
                    "; hidden_states.0, hidden_states.1, ... in the reference file would tell in which layer",
            }
        );
    }
    text
}
