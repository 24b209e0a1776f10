//! One safetensors file: its header read and checked, its bytes mapped. Knows neither configs nor other shards.
//!
//! Format: a little-endian `u64` header length, a JSON header `{name: {dtype, shape, data_offsets}}`, then the data,
//! which the tensors must cover without overlap or hole.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::CheckpointError;
use super::json::Entries;
use super::mmap::Bytes;

/// Longest header that is read, as in the reference implementation of the format.
const MAX_HEADER: u64 = 100_000_000;

/// A mapped safetensors file whose header holds what the format promises.
#[derive(Debug)]
pub(super) struct Shard {
    file: PathBuf,
    pub(super) bytes: Bytes,
}

/// Where a tensor lies in its shard.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Offsets from the start of the file.
    pub(super) begin: usize,
    pub(super) end: usize,
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// An entry of the header. `__metadata__` is one that does not describe a tensor.
#[derive(Deserialize)]
#[serde(from = "Value")]
struct Listed(Result<Info, String>);

impl From<Value> for Listed {
    fn from(value: Value) -> Self {
        Self(Info::deserialize(value).map_err(|e| e.to_string()))
    }
}

impl Shard {
    /// Checks the header of `bytes` and returns the shard with its tensors.
    pub(super) fn new(
        file: PathBuf,
        bytes: Bytes,
    ) -> Result<(Self, Vec<(String, Extent)>), CheckpointError> {
        let tensors =
            read_header(&bytes).map_err(|problem| CheckpointError::malformed(&file, problem))?;
        Ok((Self { file, bytes }, tensors))
    }

    /// Its name in the directory.
    pub(super) fn name(&self) -> Cow<'_, str> {
        self.file
            .file_name()
            .map_or(Cow::Borrowed(""), |name| name.to_string_lossy())
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}

fn read_header(bytes: &[u8]) -> Result<Vec<(String, Extent)>, String> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(
            "is a Git LFS pointer, not the weights; run `git lfs pull` in the model directory"
                .into(),
        );
    }
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!(
            "is {} bytes long; a safetensors file has at least 8",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(format!(
            "claims a header of {length} bytes; at most {MAX_HEADER} are allowed: not a safetensors file, or damaged"
        ));
    }
    let Some(header) = rest.get(..length as usize) else {
        let have = rest.len();
        return Err(format!(
            "is truncated: the header is {length} bytes long, the file ends after {have} of them"
        ));
    };
    // A copy, so that nobody changes the text under the parser.
    let header = header.to_vec();
    let data = 8 + header.len();
    if header.first() != Some(&b'{') {
        return Err("header does not start with `{`: not a safetensors file, or damaged".into());
    }
    let Entries(entries) = serde_json::from_slice::<Entries<Listed>>(&header)
        .map_err(|e| format!("header is not valid: {e}"))?;

    let mut tensors = Vec::with_capacity(entries.len());
    for (name, Listed(info)) in entries {
        if name == "__metadata__" {
            continue;
        }
        let extent = info
            .and_then(|info| extent(info, data, bytes.len()))
            .map_err(|problem| format!("tensor `{name}`: {problem}"))?;
        tensors.push((name, extent));
    }
    tensors.sort_by_key(|(_, extent)| (extent.begin, extent.end));
    let mut covered = data;
    for (name, extent) in &tensors {
        if extent.begin != covered {
            let what = if extent.begin < covered {
                "overlaps the tensor before it"
            } else {
                "leaves a hole before it"
            };
            let (begin, expected) = (extent.begin - data, covered - data);
            return Err(format!(
                "tensor `{name}` {what}: its data begins at offset {begin}, expected {expected}"
            ));
        }
        covered = extent.end;
    }
    if covered != bytes.len() {
        let (found, expected) = (bytes.len(), covered);
        return Err(format!(
            "is {found} bytes long, but its tensors end at byte {expected}: data that belongs to no tensor"
        ));
    }
    Ok(tensors)
}

/// Checks one entry of the header: dtype known, shape and offsets agree, all inside a file of `len` bytes whose data
/// begins at `data`.
fn extent(info: Info, data: usize, len: usize) -> Result<Extent, String> {
    let dtype = Dtype::deserialize(Value::String(info.dtype.clone()))
        .map_err(|_| format!("unknown dtype {:?}", info.dtype))?;
    let shape = info.shape;
    if shape.contains(&0) {
        return Err(format!("shape {shape:?} holds no element"));
    }
    let size = shape
        .iter()
        .try_fold(dtype.bitsize(), |bits, &dim| bits.checked_mul(dim))
        .ok_or_else(|| format!("shape {shape:?} overflows: its size in bits does not fit in 64"))?;
    let (begin, end) = info.data_offsets;
    let held = end
        .checked_sub(begin)
        .ok_or_else(|| format!("data_offsets [{begin}, {end}] end before they begin"))?;
    if !size.is_multiple_of(8) || size / 8 != held {
        let need = size.div_ceil(8);
        return Err(format!(
            "{dtype}{shape:?} takes {need} bytes, but data_offsets [{begin}, {end}] hold {held}"
        ));
    }
    match end.checked_add(data) {
        Some(stop) if stop <= len => Ok(Extent {
            dtype,
            shape,
            begin: begin + data,
            end: stop,
        }),
        _ => {
            let have = len - data;
            Err(format!(
                "data ends at offset {end}, but the file holds {have} bytes of data: truncated; download it again"
            ))
        }
    }
}
