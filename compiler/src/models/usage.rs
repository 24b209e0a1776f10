//! What a checkpoint's files say of its use: where a generation ends, how its authors sample, how conversations are
//! written, what is done to images. Reads generation_config.json, tokenizer_config.json, chat_template.jinja and
//! preprocessor_config.json; does none of it.

use super::ModelError;
use crate::checkpoint::{Checkpoint, CheckpointError, Config};
use ir::{Chat, Classes, Filter, Float, Generation, Image};
use serde_json::Value;

const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// Longest chat template, in bytes.
const MAX_TEMPLATE: usize = 1 << 20;

/// Ids that end a generation: those of generation_config.json, else those of config.json; one id or a list.
pub(super) fn eos(config: &Config, checkpoint: &Checkpoint) -> Result<Vec<u32>, ModelError> {
    const KEY: &str = "eos_token_id";
    let generation = checkpoint.settings(GENERATION)?;
    let config = generation.as_ref().filter(|g| g.has(KEY)).unwrap_or(config);
    let Some(value) = config.value(KEY) else {
        return Ok(vec![]);
    };
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match value.as_array() {
        Some(list) => list.iter().map(id).collect(),
        None => id(value).map(|id| vec![id]),
    };
    ids.ok_or_else(|| config.invalid(KEY, "a token id or a list of them").into())
}

/// What the logits of a classifier of texts or images say: as it was trained.
pub(super) fn classes(config: &Config) -> Result<Classes, CheckpointError> {
    const KEY: &str = "problem_type";
    match config.opt_str(KEY)? {
        None | Some("single_label_classification") => Ok(Classes::Exclusive),
        Some("multi_label_classification") => Ok(Classes::Independent),
        Some("regression") => Ok(Classes::Numbers),
        Some(_) => {
            let known = "single_label_classification, multi_label_classification or regression";
            Err(config.invalid(KEY, known))
        }
    }
}

/// How the checkpoint's authors generate: by sampling only where `do_sample` says so. Where there is no
/// generation_config.json, config.json may say it, as older checkpoints do.
pub(super) fn generation(
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<Generation, ModelError> {
    let own = checkpoint.settings(GENERATION)?;
    let config = own.as_ref().unwrap_or(config);
    let count = |key: &str| -> Result<Option<u32>, CheckpointError> {
        Ok(config.opt_usize(key)?.and_then(|n| u32::try_from(n).ok()))
    };
    let stop = match config.value("stop_strings") {
        Some(Value::String(one)) => vec![one.clone()],
        _ => config
            .opt_strs("stop_strings")?
            .unwrap_or_default()
            .into_iter()
            .map(str::to_string)
            .collect(),
    };
    let number = |key: &str, valid: fn(f64) -> bool, expected: &str| {
        let number = config.opt_f64(key)?;
        match number.is_none_or(|x| x.is_finite() && valid(x)) {
            true => Ok(number.map(Float::from)),
            false => Err(config.invalid(key, expected)),
        }
    };
    let sampled = config.bool_or("do_sample", false)?;
    let temperature = number("temperature", |x| x >= 0.0, "a number from 0 up")?;
    Ok(Generation {
        temperature: sampled.then(|| temperature.unwrap_or(1.0.into())),
        // What the reference takes where a config that samples is silent.
        top_k: count("top_k")?.or(sampled.then_some(50)),
        top_p: number(
            "top_p",
            |x| x > 0.0 && x <= 1.0,
            "a number above 0, at most 1",
        )?,
        min_p: number(
            "min_p",
            |x| (0.0..=1.0).contains(&x),
            "a number from 0 to 1",
        )?,
        repetition_penalty: number("repetition_penalty", |x| x > 0.0, "a number above 0")?,
        max_tokens: count("max_new_tokens")?,
        max_length: count("max_length")?,
        stop,
        ignored: ignored(config, sampled),
    })
}

/// Options that change what is generated and that nothing here follows, as the config sets them; the first few where
/// only sampling heeds them.
fn ignored(config: &Config, sampled: bool) -> Vec<String> {
    /// Options, and the values at which they change nothing.
    const OPTIONS: [(&str, &[f64]); 27] = [
        ("typical_p", &[1.0]),
        ("epsilon_cutoff", &[0.0]),
        ("eta_cutoff", &[0.0]),
        ("top_h", &[]),
        ("num_beams", &[1.0]),
        ("num_beam_groups", &[1.0]),
        ("diversity_penalty", &[0.0]),
        ("penalty_alpha", &[0.0]),
        ("dola_layers", &[]),
        ("encoder_repetition_penalty", &[1.0]),
        ("no_repeat_ngram_size", &[0.0]),
        ("encoder_no_repeat_ngram_size", &[0.0]),
        ("bad_words_ids", &[]),
        ("force_words_ids", &[]),
        ("constraints", &[]),
        ("min_length", &[0.0]),
        ("min_new_tokens", &[0.0]),
        ("max_time", &[]),
        ("forced_bos_token_id", &[]),
        ("forced_eos_token_id", &[]),
        ("exponential_decay_length_penalty", &[]),
        ("suppress_tokens", &[]),
        ("begin_suppress_tokens", &[]),
        ("sequence_bias", &[]),
        ("guidance_scale", &[1.0]),
        ("watermarking_config", &[]),
        ("token_healing", &[]),
    ];
    const SAMPLING: usize = 4;
    let skipped = if sampled { 0 } else { SAMPLING };
    let set = OPTIONS[skipped..].iter().filter_map(|(key, idle)| {
        let value = config.value(key)?;
        let idle = match value {
            Value::Number(x) => x.as_f64().is_some_and(|x| idle.contains(&x)),
            Value::Array(list) => list.is_empty(),
            Value::Null | Value::Bool(false) => true,
            _ => false,
        };
        let mut said = value.to_string();
        if said.chars().count() > 40 {
            said = said.chars().take(40).chain("...".chars()).collect();
        }
        (!idle).then(|| format!("{key} = {said}"))
    });
    set.collect()
}

/// The form of conversations: chat_template.jinja, or `chat_template` of tokenizer_config.json, which is one template or
/// a list of named ones.
pub(super) fn chat(checkpoint: &Checkpoint) -> Result<Option<Chat>, ModelError> {
    let config = checkpoint.settings(TOKENIZER)?;
    let template = match (checkpoint.file(TEMPLATE)?, &config) {
        (Some(bytes), _) => {
            let file = checkpoint.config().file().with_file_name(TEMPLATE);
            let text = String::from_utf8(bytes.into_owned());
            Some(text.map_err(|_| CheckpointError::Malformed {
                file,
                problem: "is not UTF-8".into(),
            })?)
        }
        (None, Some(config)) => named(config)?,
        (None, None) => None,
    };
    let Some(template) = template else {
        return Ok(None);
    };
    if template.len() > MAX_TEMPLATE {
        let file = checkpoint.config().file().with_file_name(TEMPLATE);
        let problem = format!(
            "is {} bytes long; at most {MAX_TEMPLATE} are read",
            template.len()
        );
        return Err(CheckpointError::Malformed { file, problem }.into());
    }
    // A token is its text, or an object that holds it.
    let token = |key: &str| {
        let value = config.as_ref()?.value(key)?;
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        Some((key.to_string(), text.to_string()))
    };
    let names = [
        "bos_token",
        "eos_token",
        "pad_token",
        "unk_token",
        "sep_token",
        "cls_token",
    ];
    Ok(Some(Chat {
        template,
        tokens: names.into_iter().filter_map(token).collect(),
    }))
}

/// The template of tokenizer_config.json: the one called `default` of several.
fn named(config: &Config) -> Result<Option<String>, ModelError> {
    const KEY: &str = "chat_template";
    let field = |entry: &Value, key: &str| Some(entry.get(key)?.as_str()?.to_string());
    Ok(match config.value(KEY) {
        None => None,
        Some(Value::String(template)) => Some(template.clone()),
        Some(Value::Array(list)) => {
            let default = list
                .iter()
                .find(|e| field(e, "name").as_deref() == Some("default"));
            default.or(list.first()).and_then(|e| field(e, "template"))
        }
        Some(_) => {
            let expected = "a template or a list of objects with name and template";
            return Err(config.invalid(KEY, expected).into());
        }
    })
}

/// What is done to images before the model sees them: as preprocessor_config.json says, where there is one.
///
/// # Errors
/// It asks for what is not covered, or for images of another size than the model's.
pub(super) fn image(
    checkpoint: &Checkpoint,
    image: Option<Image>,
) -> Result<Option<Image>, ModelError> {
    let file = checkpoint.settings("preprocessor_config.json")?;
    let Some(config) = file else { return Ok(image) };
    let Some(image) = image else { return Ok(None) };
    if config.bool_or("do_center_crop", false)? {
        return Err(config
            .invalid("do_center_crop", "false: images are resized only")
            .into());
    }
    let size = config.value("size");
    let side = |key: &str| size.and_then(|s| s.as_u64().or_else(|| s.get(key)?.as_u64()));
    let sides = [side("height"), side("width")];
    let model = [image.height, image.width].map(|n| Some(n as u64));
    if size.is_some() && sides != model {
        let expected = format!("the model's image_size, {} x {}", image.height, image.width);
        return Err(config.invalid("size", expected).into());
    }
    let filter = match config.usize_or("resample", 2)? {
        0 => Filter::Nearest,
        1 => Filter::Lanczos,
        2 => Filter::Bilinear,
        3 => Filter::Bicubic,
        _ => return Err(config.invalid("resample", "0, 1, 2 or 3").into()),
    };
    let of_channels = |key: &str, valid: fn(f64) -> bool| -> Result<Vec<Float>, CheckpointError> {
        let numbers = config.opt_f64s(key)?.unwrap_or(vec![0.5; image.channels]);
        if numbers.len() != image.channels || !numbers.iter().all(|x| valid(*x)) {
            let expected = format!("a list of {} numbers", image.channels);
            return Err(config.invalid(key, expected));
        }
        Ok(numbers.into_iter().map(Float::from).collect())
    };
    let (mut mean, mut std) = (
        of_channels("image_mean", f64::is_finite)?,
        of_channels("image_std", |x| x.is_finite() && x > 0.0)?,
    );
    if !config.bool_or("do_normalize", true)? {
        mean = vec![0.0.into(); image.channels];
        std = vec![1.0.into(); image.channels];
    }
    let scale = match config.bool_or("do_rescale", true)? {
        true => config.f64_or("rescale_factor", 1.0 / 255.0)?,
        false => 1.0,
    };
    Ok(Some(Image {
        filter,
        scale: scale.into(),
        mean,
        std,
        ..image
    }))
}
