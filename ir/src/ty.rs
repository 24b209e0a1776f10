//! A type is an element type and a shape of symbolic dims. Nothing else: no device, layout or quantization.

use crate::dim::{Dim, Sym};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// Signed 32-bit integer: token ids, positions, row indices.
    I32,
    /// Truth value, one byte.
    Bool,
    /// Signed 8-bit integer: codes of rounded weights. Only ops that move elements and
    /// [`Dequantize`](crate::ops::Dequantize) take it; kernels never see it.
    I8,
    /// Signed 16-bit integer: the same.
    I16,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 7] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::Bool,
        DType::I8,
        DType::I16,
    ];

    /// As printed.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::Bool => "bool",
            DType::I8 => "i8",
            DType::I16 => "i16",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::Bool | DType::I8 => 1,
        }
    }

    /// Whether elements are numbers that ops compute with.
    pub fn is_number(self) -> bool {
        self.is_float() || self == DType::I32
    }

    /// Whether elements are codes of rounded weights, which mean nothing without their scales.
    pub fn is_code(self) -> bool {
        matches!(self, DType::I8 | DType::I16)
    }

    /// Whether elements are real numbers.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// `x` rounded to the nearest representable value (ties to even; integers towards zero).
    pub fn round(self, x: f64) -> f64 {
        match self {
            DType::F32 => f64::from(x as f32),
            DType::F16 => half::f16::from_f32(to_odd(x)).to_f64(),
            DType::BF16 => half::bf16::from_f32(to_odd(x)).to_f64(),
            DType::I32 => f64::from(x as i32),
            DType::Bool => f64::from(u8::from(x != 0.0)),
            DType::I8 => f64::from(x as i8),
            DType::I16 => f64::from(x as i16),
        }
    }
}

/// `x` as f32, its last bit set where bits were lost, so that rounding again rounds as if once (Boldo and Melquiond 2008).
/// `half` itself forgets the last 32 bits of an f64, and takes what is just above a tie for one.
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) == x || !near.is_finite() {
        return near;
    }
    let above = f64::from(near).abs() > x.abs();
    f32::from_bits((near.to_bits() - u32::from(above)) | 1)
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dims, outermost first; row-major.
pub type Shape = Vec<Dim>;

/// Type of a value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Type {
    /// Of the elements.
    pub dtype: DType,
    /// Outermost first.
    pub shape: Shape,
}

impl Type {
    /// `dtype[shape]`.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Type {
        Type {
            dtype,
            shape: shape.into_iter().map(Into::into).collect(),
        }
    }

    /// `dtype[]`.
    pub fn scalar(dtype: DType) -> Type {
        Type {
            dtype,
            shape: vec![],
        }
    }

    /// Number of elements.
    pub fn numel(&self) -> Dim {
        self.shape.iter().cloned().fold(Dim::from(1), |a, d| a * d)
    }

    /// Elements of the last axis; 1 for a scalar.
    pub fn last(&self) -> Dim {
        self.shape.last().cloned().unwrap_or(Dim::from(1))
    }

    /// Number of elements over all axes but the last.
    pub fn rows(&self) -> Dim {
        let lead = self.shape.len().saturating_sub(1);
        self.shape[..lead]
            .iter()
            .cloned()
            .fold(Dim::from(1), |a, d| a * d)
    }

    /// The shape with every symbol replaced by `at` of it.
    pub fn at(&self, at: &dyn Fn(&Sym) -> i64) -> Vec<usize> {
        self.shape
            .iter()
            .map(|d| usize::try_from(d.eval(at)).unwrap_or(0))
            .collect()
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(","))
    }
}
impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An op refused its arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {why} (arguments: {args:?})")]
pub struct TypeError {
    /// The op's name.
    pub op: &'static str,
    /// What it wanted.
    pub why: String,
    /// What it got.
    pub args: Vec<Type>,
}
