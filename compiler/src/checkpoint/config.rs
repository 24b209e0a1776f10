//! config.json with typed access: every error names the file, the key, what is there and what was expected. Knows the
//! spellings of transformers 4 and 5 and what no sane model exceeds; not which keys a model family needs.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::CheckpointError;
use super::json::Entries;
use super::source::Source;

/// Longest config.json that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// What is accepted for integers of these names, wherever a family reads them: a typing error or an attack is caught
/// here, before anything is sized by it.
const LIMITS: [(&[&str], RangeInclusive<usize>); 4] = [
    (
        &["num_hidden_layers", "n_layer", "n_layers", "num_layers"],
        1..=4096,
    ),
    (
        &[
            "num_attention_heads",
            "num_key_value_heads",
            "num_kv_heads",
            "n_head",
            "n_head_kv",
            "n_heads",
            "encoder_attention_heads",
        ],
        1..=65_536,
    ),
    (
        &[
            "hidden_size",
            "n_embd",
            "n_embed",
            "dim",
            "d_model",
            "word_embed_proj_dim",
            "vocab_size",
            "intermediate_size",
            "ffn_hidden_size",
            "n_inner",
            "hidden_dim",
            "ffn_dim",
            "moe_intermediate_size",
            "head_dim",
            "max_position_embeddings",
            "n_positions",
            "image_size",
            "patch_size",
            "num_channels",
        ],
        1..=1 << 24,
    ),
    (
        &[
            "type_vocab_size",
            "num_labels",
            "num_experts",
            "num_local_experts",
            "num_experts_per_tok",
        ],
        0..=65_536,
    ),
];

/// Any other integer: what a JSON number holds exactly.
const ANY: RangeInclusive<usize> = 0..=1 << 53;

/// A JSON object of a config file: the whole of it, or one nested object. `null` counts as absent.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    file: PathBuf,
    /// `""`, or the keys that lead to a nested object, each followed by a dot.
    path: String,
    pub(super) entries: Map<String, Value>,
}

impl Config {
    /// Name of the file in a checkpoint directory.
    pub const FILE: &str = "config.json";

    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// The file is absent, too long, no JSON object, or holds an integer beyond what any model has.
    pub fn read(dir: &Path) -> Result<Self, CheckpointError> {
        Self::from_source(&Source::Directory(dir.to_path_buf()), Self::FILE)
    }

    pub(super) fn from_source(source: &Source, name: &str) -> Result<Self, CheckpointError> {
        Self::parse(&source.path(name), &source.read(name, MAX_BYTES)?)
    }

    /// Parses the text of a config; `file` is what errors call it.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(file: &Path, json: &[u8]) -> Result<Self, CheckpointError> {
        let Entries(entries) = serde_json::from_slice::<Entries<Value>>(json)
            .map_err(|e| CheckpointError::malformed(file, format!("is not valid: {e}")))?;
        let config = Self {
            file: file.to_path_buf(),
            path: String::new(),
            entries: entries.into_iter().collect(),
        };
        // Anything but a number is left to the family that reads it: other models keep lists under the same names.
        for key in LIMITS
            .iter()
            .flat_map(|(keys, _)| *keys)
            .filter(|key| config.value(key).is_some_and(Value::is_number))
        {
            config.opt_usize(key)?;
        }
        Ok(config)
    }

    /// The file, for messages.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The value of `key`, unless absent or `null`.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there and not `null`.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The same with another value of `key`.
    pub fn with(&self, key: &str, value: Value) -> Config {
        let mut config = self.clone();
        config.entries.insert(key.into(), value);
        config
    }

    /// The error for a `key` whose value a family cannot use; `expected` completes "expected ...".
    pub fn invalid(&self, key: &str, expected: impl Into<String>) -> CheckpointError {
        let mut found = self
            .value(key)
            .map_or_else(|| "missing".to_string(), Value::to_string);
        if let Some((end, _)) = found.char_indices().nth(80) {
            found.truncate(end);
            found.push_str("...");
        }
        CheckpointError::Config {
            file: self.file.clone(),
            key: format!("{}{key}", self.path),
            found,
            expected: expected.into(),
        }
    }

    /// Whether `key` is there, `null` included.
    pub fn mentions(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let value = self.value(key);
        value
            .map(|value| read(value).ok_or_else(|| self.invalid(key, expected)))
            .transpose()
    }

    /// The integer at `key`, within what is sane for a key of that name.
    ///
    /// # Errors
    /// Like all getters: the key is missing (unless optional) or its value is of another kind.
    pub fn usize(&self, key: &str) -> Result<usize, CheckpointError> {
        self.opt_usize(key)?
            .ok_or_else(|| self.invalid(key, integer(&limit(key))))
    }

    /// The integer at `key`, or `default` where absent.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize, CheckpointError> {
        Ok(self.opt_usize(key)?.unwrap_or(default))
    }

    /// The integer at `key`, if any.
    pub fn opt_usize(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let limit = limit(key);
        self.get(key, &integer(&limit), |value| {
            usize::try_from(value.as_u64()?)
                .ok()
                .filter(|n| limit.contains(n))
        })
    }

    /// The number at `key`.
    pub fn f64(&self, key: &str) -> Result<f64, CheckpointError> {
        self.opt_f64(key)?
            .ok_or_else(|| self.invalid(key, "a number"))
    }

    /// The number at `key`, or `default` where absent.
    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64, CheckpointError> {
        Ok(self.opt_f64(key)?.unwrap_or(default))
    }

    /// The number at `key`, if any.
    pub fn opt_f64(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        self.get(key, "a number", Value::as_f64)
    }

    /// The number at `key`, or `default` where absent; none where it is `null`.
    pub fn f64_unless_null(&self, key: &str, default: f64) -> Result<Option<f64>, CheckpointError> {
        match self.mentions(key) {
            true => self.opt_f64(key),
            false => Ok(Some(default)),
        }
    }

    /// The integer at `key`, or `default` where absent; none where it is `null`.
    pub fn usize_unless_null(
        &self,
        key: &str,
        default: usize,
    ) -> Result<Option<usize>, CheckpointError> {
        match self.mentions(key) {
            true => self.opt_usize(key),
            false => Ok(Some(default)),
        }
    }

    /// The first of these keys that is there, or the first of all: names that one number goes by.
    pub fn any<'k>(&self, keys: &[&'k str]) -> &'k str {
        let there = keys.iter().find(|key| self.has(key));
        there.or(keys.first()).copied().unwrap_or_default()
    }

    /// The boolean at `key`, or `default` where absent.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool, CheckpointError> {
        Ok(self
            .get(key, "true or false", Value::as_bool)?
            .unwrap_or(default))
    }

    /// The string at `key`.
    pub fn str(&self, key: &str) -> Result<&str, CheckpointError> {
        self.opt_str(key)?
            .ok_or_else(|| self.invalid(key, "a string"))
    }

    /// The string at `key`, or `default` where absent.
    pub fn str_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, CheckpointError> {
        Ok(self.opt_str(key)?.unwrap_or(default))
    }

    /// The string at `key`, if any.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        self.get(key, "a string", Value::as_str)
    }

    /// The list of strings at `key`, if any.
    pub fn opt_strs(&self, key: &str) -> Result<Option<Vec<&str>>, CheckpointError> {
        self.get(key, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// The list of numbers at `key`, if any.
    pub fn opt_f64s(&self, key: &str) -> Result<Option<Vec<f64>>, CheckpointError> {
        self.get(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    /// The nested object at `key`, if any.
    pub fn opt_section(&self, key: &str) -> Result<Option<Config>, CheckpointError> {
        let entries = self.get(key, "an object", Value::as_object)?;
        Ok(entries.map(|entries| self.nested(key, entries.clone())))
    }

    pub(super) fn nested(&self, key: &str, entries: Map<String, Value>) -> Config {
        Config {
            file: self.file.clone(),
            path: format!("{}{key}.", self.path),
            entries,
        }
    }

    /// `total / parts`, such as the size of a head.
    ///
    /// # Errors
    /// `parts` does not divide `total`; both are integers of this config.
    pub fn quotient(&self, total: &str, parts: &str) -> Result<usize, CheckpointError> {
        let (n, d) = (self.usize(total)?, self.usize(parts)?);
        if d == 0 || n % d != 0 {
            return Err(self.invalid(total, format!("a multiple of `{parts}`, which is {d}")));
        }
        Ok(n / d)
    }

    /// The architecture, such as `LlamaForCausalLM`: the first of `architectures`.
    pub fn architecture(&self) -> Result<&str, CheckpointError> {
        let names = self.opt_strs("architectures")?.unwrap_or_default();
        let missing = || {
            self.invalid(
                "architectures",
                "a list that names the model's class, such as [\"LlamaForCausalLM\"]",
            )
        };
        names.first().copied().ok_or_else(missing)
    }

    /// The family, such as `llama`.
    pub fn model_type(&self) -> Result<&str, CheckpointError> {
        self.str("model_type")
    }

    /// The floating-point type the config names, such as `bfloat16`; each tensor's own type is what counts.
    pub fn dtype(&self) -> Result<Option<&str>, CheckpointError> {
        let key = if self.has("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        Ok(self
            .opt_str(key)?
            .map(|name| name.strip_prefix("torch.").unwrap_or(name)))
    }

    /// Whether the checkpoint asks for Python code of its own to be run. It never is: a caller that does not support
    /// the architecture natively should say that this is the reason.
    pub fn has_remote_code(&self) -> bool {
        self.has("auto_map")
    }

    /// The method, where weights are stored in a quantized form other than plain safetensors dtypes (`gptq`, `awq`, ...).
    pub fn quantization(&self) -> Result<Option<String>, CheckpointError> {
        let section = self.opt_section("quantization_config")?;
        section
            .map(|section| Ok(section.str_or("quant_method", "unnamed")?.to_string()))
            .transpose()
    }

    /// Names of the classes of a classification head, by index: `id2label`, or `LABEL_0`, ... as many as `num_labels`
    /// (2 where that is absent too).
    ///
    /// # Errors
    /// The keys of `id2label` are not 0, 1, ... n-1.
    pub fn labels(&self) -> Result<Vec<String>, CheckpointError> {
        let Some(names) = self.get("id2label", "an object", Value::as_object)? else {
            return Ok((0..self.usize_or("num_labels", 2)?)
                .map(|i| format!("LABEL_{i}"))
                .collect());
        };
        let label = |i: usize| {
            names
                .get(&i.to_string())
                .and_then(Value::as_str)
                .map(str::to_string)
        };
        let labels: Option<Vec<_>> = (0..names.len()).map(label).collect();
        let expected = || {
            format!(
                "an object with one name for each of 0 to {}",
                names.len().saturating_sub(1)
            )
        };
        labels
            .filter(|labels| !labels.is_empty())
            .ok_or_else(|| self.invalid("id2label", expected()))
    }

    /// The kind of each of `layers` layers (`full_attention`, `sliding_attention`, ...), if given.
    ///
    /// # Errors
    /// The list is of another length.
    pub fn layer_types(&self, layers: usize) -> Result<Option<Vec<&str>>, CheckpointError> {
        let types = self.opt_strs("layer_types")?;
        match types {
            Some(types) if types.len() != layers => Err(self.invalid(
                "layer_types",
                format!("a list of {layers} names, one a layer, not {}", types.len()),
            )),
            types => Ok(types),
        }
    }
}

fn limit(key: &str) -> RangeInclusive<usize> {
    LIMITS
        .iter()
        .find(|(keys, _)| keys.contains(&key))
        .map_or(ANY, |(_, limit)| limit.clone())
}

fn integer(limit: &RangeInclusive<usize>) -> String {
    format!("an integer from {} to {}", limit.start(), limit.end())
}
