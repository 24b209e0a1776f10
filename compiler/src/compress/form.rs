//! How a weight may be said: a plan's vocabulary. Holds no numbers of any weight; [`Encoded`](super::Encoded) does.

use ir::{DType, Element};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a weight `[N, K]` is said. Small, comparable and storable: a plan is a form for each weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Form {
    /// As the checkpoint stores it.
    Stored,
    /// Each element as a float by itself.
    Float(DType),
    /// Codes, in groups along K that share an f16 scale; see [`ir::ops::Dequantize`].
    Grouped {
        /// What they are.
        element: Element,
        /// A multiple of 32 that divides K.
        group: u32,
    },
    /// `left [N, rank] * right [rank, K]`.
    Product {
        /// What the factors share.
        rank: u32,
        /// How the left factor is said; never as stored.
        left: Box<Form>,
        /// How the right factor is said; never as stored.
        right: Box<Form>,
    },
    /// The sum of two.
    Sum(Box<Form>, Box<Form>),
    /// Of the weight with its columns multiplied by scales, by which the inputs are divided.
    Scaled {
        /// Hundredths: scales are the root mean squares of the inputs to this power.
        power: u8,
        /// How the scaled weight is said.
        weight: Box<Form>,
    },
    /// Of the weight with each so many of its columns multiplied by a Hadamard matrix, as the inputs are; see [`ir::ops::Hadamard`].
    Rotated {
        /// A power of two that divides K.
        block: u32,
        /// How the rotated weight is said.
        weight: Box<Form>,
    },
    /// Integers, which meet inputs that are rounded to 8 bits as they come, each token's in the same groups.
    Dynamic(Box<Form>),
}

impl Form {
    /// Codes of an element in such groups.
    pub fn grouped(element: Element, group: u32) -> Form {
        Form::Grouped { element, group }
    }

    /// Integers of so many bits around zero in such groups.
    pub fn integers(bits: u8, group: u32) -> Form {
        Form::grouped(Element::Int { bits, zero: false }, group)
    }

    /// This form of a weight that is rotated in blocks.
    #[must_use]
    pub fn rotated(self, block: usize) -> Form {
        Form::Rotated {
            block: block as u32,
            weight: Box::new(self),
        }
    }

    /// A product of factors that are both said in one form.
    pub fn product(rank: u32, factors: Form) -> Form {
        Form::Product {
            rank,
            left: Box::new(factors.clone()),
            right: Box::new(factors),
        }
    }

    /// Bytes of a weight `[n, k]` that the checkpoint stores as `stored`.
    pub fn bytes(&self, [n, k]: [usize; 2], stored: DType) -> u64 {
        let elements = |dtype: DType| n as u64 * k as u64 * dtype.bytes() as u64;
        match self {
            Form::Stored => elements(stored),
            Form::Float(dtype) => elements(*dtype),
            Form::Grouped { element, group } => n as u64 * element.bytes(k as u64, *group),
            Form::Product { rank, left, right } => {
                let rank = *rank as usize;
                left.bytes([n, rank], stored) + right.bytes([rank, k], stored)
            }
            Form::Sum(a, b) => a.bytes([n, k], stored) + b.bytes([n, k], stored),
            Form::Scaled { weight, .. } => weight.bytes([n, k], stored) + 4 * k as u64,
            Form::Dynamic(form) => form.bytes([n, k], stored),
            Form::Rotated { weight, .. } => weight.bytes([n, k], stored),
        }
    }
}

/// `stored`, `bf16`, `q4/32`, `u4/32`, `r64(q8/32, q8/32)`, `q4/64 + r32(bf16, bf16)`, `q4/64 scaled by 50%`,
/// `q8/64 of q8 inputs`, `q4/32 rotated by 64`.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Stored => f.write_str("stored"),
            Form::Float(dtype) => write!(f, "{dtype}"),
            Form::Grouped { element, group } => write!(f, "{element}/{group}"),
            Form::Product { rank, left, right } => write!(f, "r{rank}({left}, {right})"),
            Form::Sum(a, b) => write!(f, "{a} + {b}"),
            Form::Scaled { power, weight } => write!(f, "{weight} scaled by {power}%"),
            Form::Dynamic(form) => write!(f, "{form} of q8 inputs"),
            Form::Rotated { block, weight } => write!(f, "{weight} rotated by {block}"),
        }
    }
}
