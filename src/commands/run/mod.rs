//! `satura run`: runs a model on texts, by what the model is for. Here are its options and its inputs; the decoder's
//! and the encoder's half lie beside.

mod decode;
mod encode;
mod generate;

use super::ModelArgs;
use anyhow::Context;
use runtime::sample::{Sampler, SamplerOptions};
use satura::{
    Opened,
    ir::{self, Task},
    runtime::{self, Session},
};
use serde_json::{Map, Value, json};
use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What the default model is asked where no prompt is given.
const PROMPT: &str = "The socket module provides access to";

/// Longest file of prompts that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// Run a model on text: generate, tag, classify, fill masks or embed, by what the model is for
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  satura run                                           the built-in model, a prompt of its own
  satura run models/llama -p \"Once upon a time\" -n 64  continue a text
  satura run models/llama -p \"Once\" --temp 0.8 --top-p 0.95 --seed 7
  satura run models/ner -p \"int() raises a ValueError.\"  entities with spans, labels and scores
  satura run models/minilm --file lines.txt --json     an embedding for each line

The first run of a model directory compiles it and keeps the result in the cache folder
(SATURA_CACHE, by default ~/.cache/satura); later runs load that.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Text to run on; may be given several times
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,

    /// A file of texts, one a line; - reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The text that questions are answered from, for models that answer questions
    #[arg(long, value_name = "TEXT")]
    passage: Option<String>,

    /// An image to run on, for models that see images; may be given several times
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,

    /// Treat each text as what a user says, in the form that the model was trained on; without texts, hold a
    /// conversation with the standard input, a line a turn
    #[arg(long)]
    chat: bool,

    /// With --chat: what the model is told before the conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,

    /// Tokens to generate at most; by default what the model's authors say, else 64
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,

    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Sampling temperature; 0 always takes the most probable token. This and the next four are by default what the
    /// model's authors say (generation_config.json), else 0, 0, 1, 0 and 1
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temp: Option<f32>,

    /// Sample from the K most probable tokens only; 0 means all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Sample from the most probable tokens that together have probability P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,

    /// Sample from tokens at least P times as probable as the most probable one only
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// Make tokens that are there already less probable: logits divided by P where positive, else multiplied
    #[arg(
        long,
        value_name = "P",
        visible_alias = "repeat-penalty",
        allow_negative_numbers = true
    )]
    repetition_penalty: Option<f32>,

    /// Seed of the sampling; the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Go on after the model says that the text ends
    #[arg(long)]
    ignore_eos: bool,

    /// Tokens that prompt and continuation may have together; by default what the model allows
    #[arg(long, value_name = "N")]
    context: Option<usize>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // What needs no model is checked before one is compiled.
    args.sampler(&ir::Generation::default())?;
    let texts = args.texts()?;
    let source = args.model.source()?;
    let opened = args.model.open(&source)?;
    let sampler = args.sampler(&opened.model.description().generation)?;
    if opened.model.description().image.is_some() {
        anyhow::ensure!(
            texts.is_empty(),
            "this model sees images and reads no text: give --image FILE, neither -p nor --file"
        );
        encode::see(&args, &opened)?;
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(
        args.image.is_empty(),
        "--image is for models that see images; {} takes text",
        opened.model.description().architecture
    );
    let tokenizer = satura::tokenizer(&opened.model)?;
    match opened.model.description().task {
        Task::CausalLm => {
            generate::run(&args, &opened, &tokenizer, &sampler, &texts)?;
        }
        _ => encode::run(&args, &opened, &tokenizer, &texts)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// How a session is made.
    fn options(&self) -> runtime::Options {
        runtime::Options {
            threads: self.model.threads,
            context: self.context,
            ..runtime::Options::default()
        }
    }

    /// Chooses tokens as asked for, else as the model's authors do.
    fn sampler(&self, model: &ir::Generation) -> anyhow::Result<Sampler> {
        let number = |x: Option<ir::Float>| x.map(|x| x.get() as f32);
        Ok(Sampler::new(SamplerOptions {
            temperature: self.temp.or(number(model.temperature)).unwrap_or(0.0),
            top_k: self.top_k.or(model.top_k.map(|k| k as usize)).unwrap_or(0),
            top_p: self.top_p.or(number(model.top_p)).unwrap_or(1.0),
            min_p: self.min_p.or(number(model.min_p)).unwrap_or(0.0),
            repetition_penalty: self
                .repetition_penalty
                .or(number(model.repetition_penalty))
                .unwrap_or(1.0),
            seed: self.seed,
        })?)
    }

    fn texts(&self) -> anyhow::Result<Vec<String>> {
        let mut texts = self.prompt.clone();
        if let Some(file) = &self.file {
            texts.extend(lines(file)?);
        } else if texts.is_empty() && (self.chat || !self.image.is_empty()) {
            return Ok(texts);
        } else if texts.is_empty() && self.model.model.is_none() {
            texts.push(PROMPT.into());
        }
        anyhow::ensure!(
            !texts.is_empty(),
            "there is no text to run the model on; give some with -p TEXT or --file FILE, or an image with --image FILE"
        );
        anyhow::ensure!(
            texts.iter().all(|text| !text.is_empty()),
            "the prompt is empty; give some text with -p TEXT"
        );
        Ok(texts)
    }
}

/// The lines of a file but for empty ones.
fn lines(file: &Path) -> anyhow::Result<Vec<String>> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(MAX_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(MAX_FILE).read_to_string(&mut text))
    };
    read.with_context(|| format!("{} cannot be read as text", file.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let lines: Vec<String> = lines.map(str::to_string).collect();
    anyhow::ensure!(!lines.is_empty(), "{} has no text in it", file.display());
    Ok(lines)
}

/// What every `--json` of this command begins with.
fn about(opened: &Opened, session: &Session) -> Map<String, Value> {
    let description = opened.model.description();
    let task = match description.task {
        Task::CausalLm => "generation",
        Task::MaskedLm => "fill-mask",
        Task::QuestionAnswering => "question-answering",
        Task::TokenClassification { .. } => "token-classification",
        Task::SequenceClassification { .. } => "text-classification",
        Task::Embedding { .. } => "embedding",
    };
    let entries = [
        ("architecture", json!(description.architecture)),
        ("task", json!(task)),
        ("parameters", json!(description.parameters)),
        ("threads", json!(session.threads())),
        ("load_ms", json!(super::ms(opened.load))),
        ("compile_ms", json!(opened.compile.map(super::ms))),
    ];
    entries
        .map(|(key, value)| (key.to_string(), value))
        .into_iter()
        .collect()
}

/// How the model came here, for the line at the end.
fn origin(opened: &Opened) -> String {
    let loaded = format!("loaded in {}", super::time(opened.load));
    match opened.compile {
        Some(compile) => format!("compiled in {}, {loaded}", super::time(compile)),
        None => loaded,
    }
}
