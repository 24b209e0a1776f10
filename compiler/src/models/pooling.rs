//! How a sentence-transformers checkpoint makes one embedding of a sequence. Reads its module files; refuses modules
//! and modes it does not know.

use super::{ModelError, draft::Block};
use crate::checkpoint::{Checkpoint, CheckpointError, Config};
use ir::{
    Value, feed,
    ops::{Gather, Max, MaxRows, MeanRows, Mul, Rsqrt, Sum},
};
use serde::Deserialize;

const MODULES: &str = "modules.json";
const SETTINGS: &str = "1_Pooling/config.json";

/// Which of a sequence's rows an embedding is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Their mean.
    Mean,
    /// The first.
    First,
    /// The largest of each column.
    Max,
}

/// Modes as configs call them: a boolean each, or the short name (sentence-transformers 5) as the value of
/// `pooling_mode`.
const MODES: [(&str, &str, Option<Mode>); 6] = [
    ("pooling_mode_mean_tokens", "mean", Some(Mode::Mean)),
    ("pooling_mode_cls_token", "cls", Some(Mode::First)),
    ("pooling_mode_max_tokens", "max", Some(Mode::Max)),
    (
        "pooling_mode_mean_sqrt_len_tokens",
        "mean_sqrt_len_tokens",
        None,
    ),
    ("pooling_mode_weightedmean_tokens", "weightedmean", None),
    ("pooling_mode_lasttoken", "lasttoken", None),
];

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pooling {
    mode: Mode,
    /// Whether embeddings are scaled to unit length.
    pub(super) normalize: bool,
    /// Longest sequence, where the checkpoint says so.
    pub(super) context: Option<usize>,
}

/// What is done to a text, one after another.
#[derive(Deserialize)]
struct Module {
    path: String,
    r#type: String,
}

impl Module {
    /// Those of the checkpoint.
    fn all(checkpoint: &Checkpoint) -> Result<Vec<Module>, CheckpointError> {
        let Some(bytes) = checkpoint.file(MODULES)? else {
            return Ok(vec![]);
        };
        let modules = serde_json::from_slice(&bytes);
        modules.map_err(|e| malformed(checkpoint, format!("is no list of modules: {e}")))
    }

    fn name(&self) -> &str {
        self.r#type.rsplit('.').next().unwrap_or_default()
    }
}

fn malformed(checkpoint: &Checkpoint, problem: String) -> CheckpointError {
    let file = checkpoint.config().file().with_file_name(MODULES);
    CheckpointError::Malformed { file, problem }
}

/// The architecture of the checkpoint's model: what its config says, but the bare model of it where embeddings are pooled,
/// whatever head the config knows of.
///
/// # Errors
/// The config names no architecture, or the list of modules is none.
pub(super) fn architecture(
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<String, CheckpointError> {
    let said = config.architecture()?;
    let pools = Module::all(checkpoint)?
        .iter()
        .any(|m| m.name() == "Pooling");
    Ok(match said.split_once("For") {
        Some((base, _)) if pools => format!("{base}Model"),
        _ => said.to_string(),
    })
}

impl Pooling {
    /// The pooling that the checkpoint's module files describe; `None` where there are no such files.
    ///
    /// # Errors
    /// They name a module or a mode that is not covered.
    pub(super) fn read(checkpoint: &Checkpoint) -> Result<Option<Pooling>, ModelError> {
        let modules = Module::all(checkpoint)?;
        let mut normalize = false;
        let mut pools = false;
        for module in &modules {
            match (module.name(), module.path.as_str()) {
                ("Transformer", "") => {}
                ("Pooling", "1_Pooling") => pools = true,
                ("Normalize", _) => normalize = true,
                _ => {
                    let found = format!("`{}` at {:?}", module.r#type, module.path);
                    let known = "Transformer, Pooling at 1_Pooling, Normalize";
                    let problem = format!("names the module {found}; supported are {known}");
                    return Err(malformed(checkpoint, problem).into());
                }
            }
        }
        if !pools {
            return Ok(None);
        }
        let limits = checkpoint.settings("sentence_bert_config.json")?;
        if let Some(limits) = &limits
            && limits.bool_or("do_lower_case", false)?
        {
            let expected = "false: texts are given to the tokenizer as they are";
            return Err(limits.invalid("do_lower_case", expected).into());
        }
        const PROMPT: &str = "default_prompt_name";
        if let Some(prompts) = checkpoint.settings("config_sentence_transformers.json")?
            && prompts.has(PROMPT)
        {
            let expected = "null: no prompt is put in front of texts; do that yourself";
            return Err(prompts.invalid(PROMPT, expected).into());
        }
        let context = limits.map(|c| c.opt_usize("max_seq_length")).transpose()?;
        Ok(Some(Pooling {
            mode: mode(checkpoint)?,
            normalize,
            context: context.flatten(),
        }))
    }

    /// Embeddings `[B, H]` of the fed sequences of rows `x: [T, H]`.
    pub(super) fn apply(&self, b: &mut Block, x: Value) -> Result<Value, ModelError> {
        let starts = b.feed(feed::STARTS);
        let pooled = match self.mode {
            Mode::First => b.op(Gather, &[x, starts])?,
            Mode::Mean => {
                let ends = b.feed(feed::ENDS);
                b.op(MeanRows, &[x, starts, ends])?
            }
            Mode::Max => {
                let ends = b.feed(feed::ENDS);
                b.op(MaxRows, &[x, starts, ends])?
            }
        };
        if !self.normalize {
            return Ok(pooled);
        }
        let square = b.op(Mul, &[pooled, pooled])?;
        let square = b.op(Sum, &[square])?;
        // The reference divides by a norm of at least 1e-12.
        let least = b.scalar(1e-24);
        let square = b.op(Max, &[square, least])?;
        let scale = b.op(Rsqrt, &[square])?;
        b.product(pooled, scale)
    }
}

fn mode(checkpoint: &Checkpoint) -> Result<Mode, ModelError> {
    let settings = checkpoint.settings(SETTINGS)?;
    let settings = settings.ok_or_else(|| {
        let problem = format!("names a pooling module, but {SETTINGS} is missing; download it too");
        malformed(checkpoint, problem)
    })?;
    let expected = "pooling by mean, cls or max, one of them";
    if settings.has("pooling_mode") {
        let name = settings.str("pooling_mode")?;
        let known = MODES.iter().find(|(_, short, _)| *short == name);
        let mode = known.and_then(|(_, _, mode)| *mode);
        return mode.ok_or_else(|| settings.invalid("pooling_mode", expected).into());
    }
    let mut chosen = None;
    for (key, _, mode) in MODES {
        if settings.bool_or(key, false)? {
            match (chosen, mode) {
                (None, Some(mode)) => chosen = Some(mode),
                _ => return Err(settings.invalid(key, expected).into()),
            }
        }
    }
    chosen.ok_or_else(|| settings.invalid(MODES[0].0, expected).into())
}
