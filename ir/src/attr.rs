//! Attributes: the constants an op carries. Plain values with total order and hash, so that the e-graph can hold
//! them as leaf children and rules can bind them.

use crate::{
    dim::Dim,
    element::Element,
    ty::{DType, Type},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An `f64` compared and hashed by its bits; NaNs are all one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Float(u64);

impl Float {
    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}
impl From<f64> for Float {
    fn from(x: f64) -> Float {
        Float(if x.is_nan() { f64::NAN } else { x }.to_bits())
    }
}
impl fmt::Debug for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

/// One attribute.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Attr {
    /// An integer: an axis, an index.
    Int(i64),
    /// A real number, printed with a point or an exponent.
    Float(Float),
    /// A shape or a permutation.
    Dims(Vec<Dim>),
    /// An element type.
    DType(DType),
    /// A whole type.
    Type(Type),
    /// What the elements of groups are.
    Element(Element),
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Int(i) => write!(f, "{i}"),
            Attr::Float(x) => write!(f, "{x:?}"),
            Attr::Dims(d) => {
                let dims: Vec<String> = d.iter().map(Dim::to_string).collect();
                write!(f, "[{}]", dims.join(","))
            }
            Attr::DType(d) => write!(f, "{d}"),
            Attr::Type(t) => write!(f, "{t}"),
            Attr::Element(e) => write!(f, "{e}"),
        }
    }
}
impl fmt::Debug for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

macro_rules! conversions {
    ($($variant:ident: $ty:ty),*) => {$(
        impl From<$ty> for Attr {
            fn from(x: $ty) -> Attr {
                Attr::$variant(x)
            }
        }
        impl TryFrom<Attr> for $ty {
            type Error = Attr;
            fn try_from(a: Attr) -> Result<$ty, Attr> {
                match a {
                    Attr::$variant(x) => Ok(x),
                    other => Err(other),
                }
            }
        }
    )*};
}
conversions!(Int: i64, Float: Float, Dims: Vec<Dim>, DType: DType, Type: Type, Element: Element);
