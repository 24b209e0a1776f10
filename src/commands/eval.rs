//! `satura eval`: perplexity, divergence from another model, token-classification scores.

use super::{ModelArgs, PrecisionArgs, Progress, print_json};
use anyhow::Context;
use runtime::{Model, Options, Session};
use satura::{
    ir::Task,
    measure::{Example, Perplexity, Scores, perplexity, tagging},
    runtime,
};
use serde_json::{Value, json};
use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

/// Measure quality: perplexity, divergence, precision and recall
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// What to measure on: plain text for a decoder; for a token classifier a JSON object a line with `text` and
    /// `spans` ([start, end, label], in characters)
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// A model that MODEL should be like, such as the original of a compressed one, as its files have it: also measure KL divergence and
    /// top-1 agreement, token by token
    #[arg(long, value_name = "MODEL")]
    against: Option<String>,

    /// Tokens of a window of text (decoders)
    #[arg(long, value_name = "N", default_value_t = 512)]
    window: usize,

    /// Look at the first N windows, or lines, only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let model = args.model.open(&args.model.source()?)?.model;
    match model.description().task {
        Task::CausalLm => decoder(&args, &model)?,
        Task::TokenClassification { .. } => tagger(&args, &model)?,
        _ => anyhow::bail!(
            "{}: eval measures decoders and token classifiers; this is a {}",
            model.origin(),
            model.description().architecture
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// Tokens that share a step: enough to keep matrix products busy.
const TOKENS_PER_STEP: usize = 512;

fn decoder(args: &Args, model: &Arc<Model>) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(&args.text).with_context(|| args.text.display().to_string())?;
    let mut tokens = satura::tokenizer(model)?.encode(&text, false)?.ids;
    if let Some(limit) = args.limit {
        tokens.truncate(limit.saturating_mul(args.window));
    }
    let sequences = (TOKENS_PER_STEP / args.window.max(1)).max(1);
    let options = Options {
        threads: args.model.threads,
        sequences,
        context: Some(args.window),
    };
    let mut session = Session::new(model, options)?;
    let mut other = match &args.against {
        Some(name) => {
            let against = ModelArgs {
                model: Some(name.clone()),
                precision: PrecisionArgs::default(),
                ..args.model.clone()
            };
            let opened = against.open(&against.source()?)?;
            Some(Session::new(&opened.model, options)?)
        }
        None => None,
    };
    let bar = Progress::new();
    let progress = |done, of| bar.step("windows", done, of);
    let found = perplexity(
        &mut session,
        other.as_mut(),
        sequences,
        &tokens,
        args.window,
        &progress,
    )?;
    drop(bar);
    if args.json {
        print_json(&perplexity_in_json(&found))
    } else {
        Ok(write!(stdout(), "{}", perplexity_in_words(&found))?)
    }
}

fn perplexity_in_json(found: &Perplexity) -> Value {
    let mut json = json!({ "perplexity": found.perplexity, "tokens": found.tokens });
    if let Some(a) = found.agreement {
        json["kl"] = json!({ "mean": a.kl.mean, "p99": a.kl.p99, "max": a.kl.max });
        json["top1_agreement"] = a.top1.into();
    }
    json
}

fn perplexity_in_words(found: &Perplexity) -> String {
    let mut text = format!(
        "perplexity       {:.4} over {} tokens\n",
        found.perplexity, found.tokens
    );
    if let Some(a) = found.agreement {
        text += &format!(
            "KL divergence    mean {:.3e}, 99 % of tokens below {:.3e}, largest {:.3e} nats\ntop-1 agreement  {:.2} %\n",
            a.kl.mean,
            a.kl.p99,
            a.kl.max,
            a.top1 * 100.0
        );
    }
    text
}

fn tagger(args: &Args, model: &Arc<Model>) -> anyhow::Result<()> {
    if args.against.is_some() {
        anyhow::bail!("--against compares decoders; measure both taggers one after the other");
    }
    let examples = Example::read(&args.text, args.limit)?;
    let tokenizer = satura::tokenizer(model)?;
    let options = Options {
        threads: args.model.threads,
        ..Options::default()
    };
    let mut session = Session::new(model, options)?;
    let bar = Progress::new();
    let progress = |done, of| bar.step("lines", done, of);
    let found = tagging(&mut session, &tokenizer, &examples, &progress)?;
    drop(bar);
    if args.json {
        print_json(&scores_in_json(&found))
    } else {
        Ok(write!(stdout(), "{}", scores_in_words(&found))?)
    }
}

fn scores_in_json(found: &Scores) -> Value {
    json!({
        "precision": found.precision,
        "recall": found.recall,
        "f1": found.f1,
        "token_accuracy": found.token_accuracy,
        "tokens": found.tokens,
        "entities": found.entities,
    })
}

fn scores_in_words(found: &Scores) -> String {
    format!(
        "precision       {:.5}\nrecall          {:.5}\nF1              {:.5} over {} entities\ntoken accuracy  {:.5} over {} tokens\n",
        found.precision, found.recall, found.f1, found.entities, found.token_accuracy, found.tokens
    )
}
