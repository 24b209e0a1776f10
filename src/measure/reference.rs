//! Stored inputs and outputs of a reference implementation, and how far from them a model may be. Reads the file and
//! the manifest beside it; runs nothing.

use super::Error;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Relative L2 error of f32 arithmetic, with room.
pub(super) const F32: f64 = 2e-4;

/// What is allowed where no manifest says otherwise.
const DEFAULT: Tolerance = Tolerance::RelativeL2(F32);

/// Names of the tensors that are inputs; all others are outputs.
const INPUTS: [&str; 5] = [
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "pixel_values",
];

/// What the names of hidden states begin with; a point and a number follow.
const HIDDEN: &str = "hidden_states";

/// How far an output may be from the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// `|got - want| <= absolute` everywhere, and `|got - want| <= relative * |want|` where `|want|` is at least a
    /// hundredth of the largest.
    Elements {
        /// Largest absolute error.
        absolute: f64,
        /// Largest relative error of elements that are not small.
        relative: f64,
    },
    /// `norm(got - want) <= this * norm(want)`.
    RelativeL2(f64),
}

/// An output as the reference has it.
#[derive(Clone, Debug)]
pub struct Expected {
    /// `logits`, `last_hidden_state`, `hidden_states.3`, ...
    pub name: String,
    /// Elements of a row.
    pub width: usize,
    /// Whether there is a row for each token, or one for each sequence.
    pub per_token: bool,
    /// `[B, S, width]` or `[B, width]`.
    pub data: Vec<f32>,
    /// What is allowed.
    pub tolerance: Tolerance,
}

impl Expected {
    /// Its number, if it is `hidden_states.N`.
    pub fn hidden_state(&self) -> Option<usize> {
        hidden_state(&self.name)
    }
}

/// N of `hidden_states.N`.
pub(super) fn hidden_state(name: &str) -> Option<usize> {
    name.strip_prefix(HIDDEN)?.strip_prefix('.')?.parse().ok()
}

/// See the module's text. All inputs are `[sequences, length]`.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Rows of the inputs.
    pub sequences: usize,
    /// Tokens of a row, padding included.
    pub length: usize,
    /// Token ids; none where the inputs are images.
    pub ids: Vec<u32>,
    /// Images, `[sequences, channels, height, width]`, where those are the inputs.
    pub pixels: Option<Vec<f32>>,
    /// 0 where a token is padding.
    pub mask: Option<Vec<u8>>,
    /// Segments.
    pub token_types: Option<Vec<u32>>,
    /// Positions.
    pub positions: Option<Vec<i32>>,
    /// Outputs to compare: hidden states first, in their order, then the others by name.
    pub outputs: Vec<Expected>,
    /// Greedy continuation of each row without its padding, all of one length.
    pub greedy: Option<Vec<Vec<u32>>>,
}

impl Reference {
    /// Reads `file`, and the tolerances of `manifest.json` beside it where there is one.
    ///
    /// # Errors
    /// A file that is damaged, lacks `input_ids`, or holds tensors of other types or shapes than the form has.
    pub fn open(file: &Path) -> Result<Reference, Error> {
        let bytes = std::fs::read(file).map_err(|source| Error::Io {
            file: file.into(),
            source,
        })?;
        let wrong = |why: String| Error::File {
            file: file.into(),
            why,
        };
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| wrong(format!("is not a safetensors file: {e}")))?;
        Reader { file, tensors }.read(tolerances(&file.with_file_name("manifest.json"))?)
    }

    /// Whether token `i` of all (`sequence * length + position`) takes part.
    pub fn is_kept(&self, i: usize) -> bool {
        self.mask.as_ref().is_none_or(|m| m[i] != 0)
    }
}

struct Reader<'a> {
    file: &'a Path,
    tensors: SafeTensors<'a>,
}

impl Reader<'_> {
    fn read(&self, tolerances: BTreeMap<String, Tolerance>) -> Result<Reference, Error> {
        if let Ok(pixels) = self.tensors.tensor("pixel_values") {
            return self.images(&pixels, &tolerances);
        }
        let ids = self.integers("input_ids")?.ok_or_else(|| {
            self.wrong("has no tensor `input_ids`; a reference holds inputs and outputs of a model")
        })?;
        let [sequences, length] = ids.shape[..] else {
            return Err(self.wrong(format!("`input_ids` is {:?}, not [B, S]", ids.shape)));
        };
        if ids.data.is_empty() {
            return Err(self.wrong("`input_ids` is empty"));
        }
        let outputs = self.outputs(sequences, length, &tolerances)?;
        let greedy = self.integers("greedy")?;
        let greedy = greedy
            .map(|g| match g.shape[..] {
                [rows, n] if rows == sequences && n > 0 => {
                    let data: Vec<u32> = self.cast("greedy", &g.data)?;
                    Ok(data.chunks(n).map(<[u32]>::to_vec).collect())
                }
                _ => Err(self.wrong(format!("`greedy` is {:?}, not [{sequences}, N]", g.shape))),
            })
            .transpose()?;
        if outputs.is_empty() && greedy.is_none() {
            return Err(
                self.wrong("holds no outputs to compare with, such as `logits` or `greedy`")
            );
        }
        Ok(Reference {
            sequences,
            length,
            mask: self.input("attention_mask", &ids.shape)?,
            token_types: self.input("token_type_ids", &ids.shape)?,
            positions: self.input("position_ids", &ids.shape)?,
            ids: self.cast("input_ids", &ids.data)?,
            pixels: None,
            outputs,
            greedy,
        })
    }

    /// The reference of a model that sees images; a row of an output for each token is of as many as the output has.
    fn images(
        &self,
        pixels: &TensorView<'_>,
        tolerances: &BTreeMap<String, Tolerance>,
    ) -> Result<Reference, Error> {
        let name = "pixel_values";
        let [sequences, ..] = *pixels.shape() else {
            return Err(self.wrong(format!(
                "`{name}` is {:?}, not [B, C, H, W]",
                pixels.shape()
            )));
        };
        let data = elements(pixels, Dtype::F32, f32::from_le_bytes)
            .ok_or_else(|| self.wrong_type(name, pixels, Dtype::F32))?;
        if data.is_empty() {
            return Err(self.wrong(format!("`{name}` is empty")));
        }
        let hidden = self.tensors.tensor("last_hidden_state");
        let length = hidden.ok().and_then(|t| t.shape().get(1).copied());
        let length = length.unwrap_or(1);
        Ok(Reference {
            sequences,
            length,
            ids: vec![],
            pixels: Some(data),
            mask: None,
            token_types: None,
            positions: None,
            outputs: self.outputs(sequences, length, tolerances)?,
            greedy: None,
        })
    }

    /// Everything that is no input and no continuation.
    fn outputs(
        &self,
        sequences: usize,
        length: usize,
        tolerances: &BTreeMap<String, Tolerance>,
    ) -> Result<Vec<Expected>, Error> {
        let mut names = self.tensors.names();
        names.sort_unstable_by_key(|name| (hidden_state(name).unwrap_or(usize::MAX), *name));
        let names = names
            .into_iter()
            .filter(|n| !INPUTS.contains(n) && *n != "greedy");
        names
            .map(|name| {
                let shared = hidden_state(name).and_then(|_| tolerances.get(HIDDEN));
                let tolerance = tolerances.get(name).or(shared);
                let tolerance = tolerance.copied().unwrap_or(DEFAULT);
                self.output(name, sequences, length, tolerance)
            })
            .collect()
    }

    fn output(
        &self,
        name: &str,
        sequences: usize,
        length: usize,
        tolerance: Tolerance,
    ) -> Result<Expected, Error> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|e| self.wrong(e.to_string()))?;
        let (per_token, width) = match *tensor.shape() {
            [b, s, width] if (b, s) == (sequences, length) && width > 0 => (true, width),
            [b, width] if b == sequences && width > 0 => (false, width),
            ref found if name == HIDDEN => {
                return Err(self.wrong(format!(
                    "`{name}` is {found:?}; store each hidden state as a tensor of its own, `{name}.0`, `{name}.1`, \
                     ..., of [{sequences}, {length}, N]"
                )));
            }
            ref found => {
                return Err(self.wrong(format!(
                    "output `{name}` is {found:?}; with these inputs it should be [{sequences}, {length}, N] or \
                     [{sequences}, N]"
                )));
            }
        };
        let data = elements(&tensor, Dtype::F32, f32::from_le_bytes)
            .ok_or_else(|| self.wrong_type(name, &tensor, Dtype::F32))?;
        if let Some(i) = data.iter().position(|x| !x.is_finite()) {
            return Err(self.wrong(format!("output `{name}` has {} at element {i}", data[i])));
        }
        Ok(Expected {
            name: name.into(),
            width,
            per_token,
            data,
            tolerance,
        })
    }

    fn integers(&self, name: &str) -> Result<Option<Integers>, Error> {
        let Ok(tensor) = self.tensors.tensor(name) else {
            return Ok(None);
        };
        let data = elements(&tensor, Dtype::I64, i64::from_le_bytes)
            .ok_or_else(|| self.wrong_type(name, &tensor, Dtype::I64))?;
        Ok(Some(Integers {
            shape: tensor.shape().to_vec(),
            data,
        }))
    }

    fn input<T: TryFrom<i64>>(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<T>>, Error> {
        let Some(found) = self.integers(name)? else {
            return Ok(None);
        };
        if found.shape != shape {
            let found = found.shape;
            return Err(self.wrong(format!("`{name}` is {found:?}, `input_ids` is {shape:?}")));
        }
        self.cast(name, &found.data).map(Some)
    }

    fn cast<T: TryFrom<i64>>(&self, name: &str, data: &[i64]) -> Result<Vec<T>, Error> {
        let cast = |x: &i64| {
            T::try_from(*x).map_err(|_| self.wrong(format!("`{name}` holds {x}, out of range")))
        };
        data.iter().map(cast).collect()
    }

    fn wrong_type(&self, name: &str, tensor: &TensorView<'_>, wanted: Dtype) -> Error {
        self.wrong(format!("`{name}` is {:?}, not {wanted:?}", tensor.dtype()))
    }

    fn wrong(&self, why: impl Into<String>) -> Error {
        Error::File {
            file: self.file.into(),
            why: why.into(),
        }
    }
}

struct Integers {
    shape: Vec<usize>,
    data: Vec<i64>,
}

/// The elements, little-endian in the file; `None` if they are not of `dtype`.
fn elements<T, const N: usize>(
    tensor: &TensorView<'_>,
    dtype: Dtype,
    read: impl Fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    let (chunks, _) = tensor.data().as_chunks::<N>();
    (tensor.dtype() == dtype).then(|| chunks.iter().map(|bytes| read(*bytes)).collect())
}

/// Tolerances by output, from the manifest at `file` if it exists.
fn tolerances(file: &Path) -> Result<BTreeMap<String, Tolerance>, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => {
            return Err(Error::Io {
                file: PathBuf::from(file),
                source,
            });
        }
    };
    let manifest: Value = serde_json::from_str(&text).map_err(|e| Error::File {
        file: file.into(),
        why: format!("is not JSON: {e}"),
    })?;
    let entries = manifest.get("tolerance").and_then(Value::as_object);
    let tolerance = |(name, entry): (&String, &Value)| {
        let absolute = entry.get("atol")?.as_f64()?;
        let relative = entry.get("rtol")?.as_f64()?;
        Some((name.clone(), Tolerance::Elements { absolute, relative }))
    };
    Ok(entries
        .into_iter()
        .flatten()
        .filter_map(tolerance)
        .collect())
}
