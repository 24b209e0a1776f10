//! Which files of a checkpoint hold its weights, and what a weight looks like from outside. Refuses pickles; does not
//! parse tensors.

use std::path::Path;

use half::{bf16, f16};
use ir::DType;
use safetensors::Dtype;
use serde::Deserialize;

use super::CheckpointError;
use super::json::Entries;
use super::source::Source;

/// The file of all weights.
pub const SINGLE: &str = "model.safetensors";

/// The file that says which weights lie where, of a checkpoint without [`SINGLE`].
pub const INDEX: &str = "model.safetensors.index.json";

/// Longest index that is read, in bytes: room for about a million tensors.
const MAX_INDEX: u64 = 128 << 20;

/// Endings of weights that other tools write.
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// A tensor of a checkpoint, where it lies.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// The file.
    pub file: &'a Path,
    /// Type of its elements in the file.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: &'a [usize],
    /// Its elements, little-endian, aligned to nothing.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// The type, if it is one that is computed with: f32, f16, bf16.
    pub fn float(&self) -> Option<DType> {
        match self.dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements as f32, exactly; `None` where [`TensorView::float`] is.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let pairs = || self.bytes.as_chunks().0.iter();
        Some(match self.float()? {
            DType::F16 => pairs().map(|&x| f16::from_le_bytes(x).to_f32()).collect(),
            DType::BF16 => pairs().map(|&x| bf16::from_le_bytes(x).to_f32()).collect(),
            _ => self
                .bytes
                .as_chunks()
                .0
                .iter()
                .map(|&x| f32::from_le_bytes(x))
                .collect(),
        })
    }
}

/// The files that hold the weights.
pub(super) struct Files {
    /// Sorted, each once.
    pub(super) shards: Vec<String>,
    /// What the index says: tensor, file. Empty where there is no index.
    pub(super) promised: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

/// Finds the weights: [`SINGLE`], or the shards that [`INDEX`] names.
pub(super) fn files(source: &Source) -> Result<Files, CheckpointError> {
    if source.has(SINGLE) {
        return Ok(Files {
            shards: vec![SINGLE.to_string()],
            promised: Vec::new(),
        });
    }
    if !source.has(INDEX) {
        return Err(no_weights(source)?);
    }
    let files = index(source)?;
    for shard in &files.shards {
        match source.check(shard) {
            Err(CheckpointError::Io { source: e, .. })
                if e.kind() == std::io::ErrorKind::NotFound =>
            {
                let of = files.shards.len();
                let problem = format!(
                    "names the shard {shard}, one of {of}, which is missing; download it too"
                );
                return Err(CheckpointError::malformed(&source.path(INDEX), problem));
            }
            checked => checked?,
        }
    }
    Ok(files)
}

/// Names of the files that the [`INDEX`] of `dir` sends to, sorted; they need not be there.
///
/// # Errors
/// There is no such index, or it names what is no plain safetensors file.
pub fn shards(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    Ok(index(&Source::Directory(dir.to_path_buf()))?.shards)
}

/// Reads [`INDEX`].
fn index(source: &Source) -> Result<Files, CheckpointError> {
    let path = source.path(INDEX);
    let Index {
        weight_map: Entries(promised),
    } = serde_json::from_slice(&source.read(INDEX, MAX_INDEX)?)
        .map_err(|e| CheckpointError::malformed(&path, format!("is not a valid index: {e}")))?;
    let mut shards: Vec<_> = promised.iter().map(|(_, file)| file.clone()).collect();
    shards.sort();
    shards.dedup();
    if shards.is_empty() {
        return Err(CheckpointError::malformed(
            &path,
            "names no weights: its weight_map is empty",
        ));
    }
    for shard in &shards {
        if shard.contains(['/', '\\', '\0']) || shard.starts_with("..") {
            let reason = format!(
                "it names {shard:?}, which leaves the model directory; only plain file names are followed"
            );
            return Err(CheckpointError::refused(&path, reason));
        }
        if !shard.ends_with(".safetensors") {
            return Err(CheckpointError::refused(
                &path,
                format!("it names {shard:?}, which is no safetensors file"),
            ));
        }
    }
    Ok(Files { shards, promised })
}

/// The error for a checkpoint without weights that can be read; says what is there instead.
fn no_weights(source: &Source) -> Result<CheckpointError, CheckpointError> {
    let names = source.list()?;
    if let Some(pickle) = names
        .iter()
        .find(|name| PICKLES.iter().any(|ending| name.ends_with(ending)))
    {
        let reason = "it is a pickle, and loading a pickle can run any code; convert it to safetensors \
                      (`model.save_pretrained(dir, safe_serialization=True)` in Python, on a machine you trust it on)";
        return Ok(CheckpointError::refused(&source.path(pickle), reason));
    }
    let others: Vec<_> = names
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .map(String::as_str)
        .collect();
    let found = if others.is_empty() {
        String::new()
    } else {
        format!("; there is {}", others.join(", "))
    };
    Ok(CheckpointError::malformed(
        source.root(),
        format!("has neither {SINGLE} nor {INDEX}{found}"),
    ))
}
