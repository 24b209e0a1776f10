//! A Hugging Face checkpoint: typed config and memory-mapped weights, checked before anything is computed from them.
//! Knows files, names, shapes and bytes; not what a model does with them.
//!
//! Weights are not read when a checkpoint is opened: only config.json and the headers are. [`Checkpoint::expect`]
//! gives a weight whose shape is as the config implies, and [`Checkpoint::check_finite`] looks for NaN.

mod config;
mod digest;
mod error;
mod finite;
mod json;
mod mmap;
mod names;
mod rope;
mod shard;
mod source;
mod stamp;
mod weights;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;

pub use config::Config;
pub use digest::METADATA;
pub use error::CheckpointError;
pub use rope::Rope;
pub use weights::{INDEX, SINGLE, TensorView, shards};

use shard::{Extent, Shard};
use source::Source;
use stamp::Record;

/// Longest file beside the weights that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// A checkpoint whose headers are read and checked.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    config: Config,
    shards: Vec<Shard>,
    /// By name in the file; the number is the index of the shard.
    tensors: BTreeMap<String, (usize, Extent)>,
    prefixes: Vec<String>,
    /// The files as they were before any was read; none in memory.
    records: Vec<Record>,
}

impl Checkpoint {
    /// Opens a directory that holds config.json and `model.safetensors`, or `model.safetensors.index.json` and the
    /// shards it names. Costs time in the number of tensors, not in their size.
    ///
    /// A file must not be truncated while the checkpoint is open; one that was changed in any way since then is found by
    /// [`Checkpoint::unchanged`].
    ///
    /// # Errors
    /// A file is missing, damaged, a pickle, or outside the directory; see [`CheckpointError`].
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if !dir.is_dir() {
            let why = if dir.exists() {
                "is not a directory"
            } else {
                "does not exist"
            };
            let problem =
                format!("{why}; expected a directory with config.json and model.safetensors");
            return Err(CheckpointError::malformed(dir, problem));
        }
        Self::from_source(Source::Directory(dir.to_path_buf()))
    }

    /// The same from files in memory, by name.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_files(
        files: impl IntoIterator<Item = (String, Cow<'static, [u8]>)>,
    ) -> Result<Self, CheckpointError> {
        Self::from_source(Source::Memory(files.into_iter().collect()))
    }

    fn from_source(source: Source) -> Result<Self, CheckpointError> {
        // Before anything is read, so that what changes later is found.
        let mut records = digest::records(&source)?;
        let config = Config::from_source(&source, Config::FILE)?;
        let files = weights::files(&source)?;
        if let Source::Directory(_) = source {
            let shards = files.shards.iter().map(|name| Record::now(&source, name));
            records.extend(shards.collect::<Result<Vec<_>, _>>()?);
        }
        let mut shards: Vec<Shard> = Vec::with_capacity(files.shards.len());
        let mut tensors: BTreeMap<String, (usize, Extent)> = BTreeMap::new();
        for name in &files.shards {
            let (shard, own) = Shard::new(source.path(name), source.map(name)?)?;
            for (name, extent) in own {
                if let Some((other, _)) = tensors.get(&name) {
                    let other = shards[*other].file().display();
                    let problem = format!("holds tensor `{name}`, which {other} holds too");
                    return Err(CheckpointError::malformed(shard.file(), problem));
                }
                tensors.insert(name, (shards.len(), extent));
            }
            shards.push(shard);
        }
        for (tensor, file) in &files.promised {
            let holder = tensors.get(tensor).map(|(shard, _)| shards[*shard].name());
            if holder.as_deref() != Some(file.as_str()) {
                let problem =
                    format!("says that tensor `{tensor}` is in {file}, which does not hold it");
                return Err(CheckpointError::malformed(
                    &source.path(weights::INDEX),
                    problem,
                ));
            }
        }
        Ok(Self {
            source,
            config,
            shards,
            tensors,
            prefixes: Vec::new(),
            records,
        })
    }

    /// Checks that its files are those that were opened, and that nobody has written to them since.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] names the first that differs, and how.
    pub fn unchanged(&self) -> Result<(), CheckpointError> {
        let mut changes = self.records.iter();
        let changed = changes.find_map(|r| Some((&r.name, r.difference(&self.source)?)));
        match changed {
            None => Ok(()),
            Some((name, how)) => Err(CheckpointError::Changed {
                file: self.source.path(name),
                how,
            }),
        }
    }

    /// When the file that changed last did so, since 1970; zero for files in memory.
    pub fn last_change(&self) -> Duration {
        let found = self.records.iter().filter_map(|r| r.found.as_ref());
        let changes = found.map(|(_, stamp)| stamp.changed());
        changes.max().unwrap_or_default()
    }

    /// Lets names be given without, or with, any of these prefixes, whichever the file has: for BERT, `bert.`.
    /// `module.`, `_orig_mod.` and BERT's old `gamma` and `beta` are always understood.
    pub fn with_prefixes(mut self, prefixes: &[&str]) -> Self {
        self.prefixes = prefixes.iter().map(|prefix| prefix.to_string()).collect();
        self
    }

    /// The config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The content of another file of the checkpoint, such as `tokenizer.json`, if there is one. `name` may lead into a
    /// subdirectory and must not come from the checkpoint itself.
    ///
    /// # Errors
    /// The file cannot be read, or is longer than 1 GiB.
    pub fn file(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>, CheckpointError> {
        let there = self.source.has(name);
        there.then(|| self.source.read(name, MAX_FILE)).transpose()
    }

    /// Another JSON object of the checkpoint, such as `generation_config.json` or `1_Pooling/config.json`, if there
    /// is one.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn settings(&self, name: &str) -> Result<Option<Config>, CheckpointError> {
        self.source
            .has(name)
            .then(|| Config::from_source(&self.source, name))
            .transpose()
    }

    /// Names of all tensors, as in the files, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> usize {
        self.tensors
            .values()
            .map(|(_, extent)| extent.end - extent.begin)
            .sum()
    }

    /// Says that weights will not be read soon: what was read of their files no longer counts as this process's memory.
    pub fn release(&self) {
        self.shards.iter().for_each(|s| s.bytes.release());
    }

    /// The tensor of this name, if there is one under any of its spellings.
    ///
    /// # Errors
    /// There are several.
    pub fn find(&self, name: &str) -> Result<Option<TensorView<'_>>, CheckpointError> {
        let spellings = names::spellings(name, &self.prefixes);
        let found: Vec<_> = spellings
            .iter()
            .filter_map(|name| self.tensors.get_key_value(name))
            .collect();
        match found[..] {
            [] => Ok(None),
            [(name, (shard, extent))] => {
                let shard = &self.shards[*shard];
                let bytes = &shard.bytes[extent.begin..extent.end];
                Ok(Some(TensorView {
                    name,
                    file: shard.file(),
                    dtype: extent.dtype,
                    shape: &extent.shape,
                    bytes,
                }))
            }
            _ => {
                let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
                Err(self.name_error(
                    name,
                    format!("is ambiguous: it may be any of `{}`", names.join("`, `")),
                ))
            }
        }
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// There is none (the message lists near names), or several.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        self.find(name)?.ok_or_else(|| {
            let near = names::near(name, self.names());
            let problem = match self.prefixes[..] {
                [] => "is missing".to_string(),
                _ => format!(
                    "is missing, with or without the prefix `{}`",
                    self.prefixes.join("`, `")
                ),
            };
            self.name_error(
                name,
                format!(
                    "{problem}; nearest of {}: `{}`",
                    self.tensors.len(),
                    near.join("`, `")
                ),
            )
        })
    }

    /// The weight of this name, of any floating-point type that is computed with (f32, f16, bf16) and of this shape.
    /// `implied_by` says what in the config implies the shape, such as `vocab_size = 30522, hidden_size = 384`.
    ///
    /// # Errors
    /// The tensor is missing, of another shape, or of another type.
    pub fn expect(
        &self,
        name: &str,
        shape: &[usize],
        implied_by: &str,
    ) -> Result<TensorView<'_>, CheckpointError> {
        let tensor = self.tensor(name)?;
        if tensor.float().is_some() && tensor.shape == shape {
            return Ok(tensor);
        }
        Err(CheckpointError::Mismatch {
            file: tensor.file.to_path_buf(),
            tensor: tensor.name.to_string(),
            found: format!("{}{:?}", tensor.dtype, tensor.shape),
            expected: format!(
                "F32, F16 or BF16{shape:?}, by {implied_by} in {}",
                self.config.file().display()
            ),
        })
    }

    /// Checks that these tensors hold no NaN and no infinity. Reads all of them, in parallel.
    ///
    /// # Errors
    /// Names the first one that does, in the order given, and where.
    pub fn check_finite<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), CheckpointError> {
        let tensors = names
            .into_iter()
            .map(|name| self.tensor(name))
            .collect::<Result<Vec<_>, _>>()?;
        let broken = tensors
            .par_iter()
            .find_map_first(|t| Some((t, finite::first_not_finite(t.dtype, t.bytes)?)));
        let Some((tensor, (flat, value))) = broken else {
            return Ok(());
        };
        let mut index = vec![0; tensor.shape.len()];
        tensor
            .shape
            .iter()
            .zip(&mut index)
            .rev()
            .fold(flat, |rest, (dim, at)| {
                *at = rest % dim;
                rest / dim
            });
        let (file, tensor) = (tensor.file.to_path_buf(), tensor.name.to_string());
        Err(CheckpointError::NotFinite {
            file,
            tensor,
            index,
            value,
        })
    }

    /// Names of tensors that are none of `used` (given in any spelling), sorted: weights that a family did not
    /// ask for. A bias or a layer among them means that the config does not describe this checkpoint.
    pub fn unused<'a>(&self, used: impl IntoIterator<Item = &'a str>) -> Vec<&str> {
        let used: Vec<_> = used
            .into_iter()
            .flat_map(|name| names::spellings(name, &self.prefixes))
            .collect();
        let used: std::collections::BTreeSet<_> = used.iter().map(String::as_str).collect();
        self.names().filter(|name| !used.contains(name)).collect()
    }

    fn name_error(&self, name: &str, problem: String) -> CheckpointError {
        let file = match &self.shards[..] {
            [shard] => shard.file(),
            _ => self.source.root(),
        };
        CheckpointError::Name {
            file: file.to_path_buf(),
            tensor: name.to_string(),
            problem,
        }
    }
}
