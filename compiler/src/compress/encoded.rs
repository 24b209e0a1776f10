//! A weight said in a form: the numbers behind a [`Form`]. Knows how they decode, not where they come from.

use super::{Form, Matrix};
use half::{bf16, f16};
use ir::DType;
use rayon::prelude::*;

/// A weight `[N, K]` said in some form, with the numbers that a method chose.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// The checkpoint's own numbers.
    Stored,
    /// Floats, already rounded to the element type.
    Float {
        /// Of the elements.
        dtype: DType,
        /// What they are.
        values: Matrix,
    },
    /// Integers with scales.
    Integers(Integers),
    /// `left [N, r] * right [r, K]`.
    Product(Box<Encoded>, Box<Encoded>),
    /// The sum of two.
    Sum(Box<Encoded>, Box<Encoded>),
    /// `weight * diag(1 / scale)`: the inputs are divided by the scales.
    Scaled {
        /// See [`Form::Scaled`].
        power: u8,
        /// `[K]`, positive.
        scale: Vec<f32>,
        /// What multiplies the divided inputs.
        weight: Box<Encoded>,
    },
    /// Integers that meet rounded inputs.
    Dynamic(Integers),
}

/// `codes [N, K]` times the scale of their group, `[N, K / group]`, both row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// 8 (codes up to 127) or 4 (up to 7).
    pub bits: u8,
    /// Codes along K that share a scale.
    pub group: usize,
    /// N and K.
    pub shape: [usize; 2],
    /// Symmetric around zero.
    pub codes: Vec<i8>,
    /// Not negative.
    pub scales: Vec<f16>,
}

impl Integers {
    /// Their form.
    pub fn form(&self) -> Form {
        Form::integers(self.bits, self.group as u32)
    }

    /// What they stand for. A product of a code and an f16 is exact in f32.
    pub fn decode(&self) -> Matrix {
        let mut out = Matrix::zeros(self.shape[0], self.shape[1]);
        let groups = out.data.par_chunks_mut(self.group);
        let codes = self.codes.par_chunks(self.group);
        groups
            .zip(codes)
            .zip(&self.scales)
            .for_each(|((to, codes), scale)| {
                let scale = scale.to_f32();
                for (x, code) in to.iter_mut().zip(codes) {
                    *x = scale * f32::from(*code);
                }
            });
        out
    }
}

impl Encoded {
    /// Floats rounded to an element type.
    pub fn float(dtype: DType, values: &Matrix) -> Encoded {
        let round = |x: &f32| match dtype {
            DType::BF16 => bf16::from_f32(*x).to_f32(),
            DType::F16 => f16::from_f32(*x).to_f32(),
            _ => *x,
        };
        let data = values.data.par_iter().map(round).collect();
        Encoded::Float {
            dtype,
            values: Matrix::new(values.rows, values.columns, data),
        }
    }

    /// Its form.
    pub fn form(&self) -> Form {
        match self {
            Encoded::Stored => Form::Stored,
            Encoded::Float { dtype, .. } => Form::Float(*dtype),
            Encoded::Integers(i) => i.form(),
            Encoded::Product(left, right) => Form::Product {
                rank: right.rows() as u32,
                left: Box::new(left.form()),
                right: Box::new(right.form()),
            },
            Encoded::Sum(a, b) => Form::Sum(Box::new(a.form()), Box::new(b.form())),
            Encoded::Scaled { power, weight, .. } => Form::Scaled {
                power: *power,
                weight: Box::new(weight.form()),
            },
            Encoded::Dynamic(i) => Form::Dynamic(Box::new(i.form())),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Encoded::Stored => 0,
            Encoded::Float { values, .. } => values.rows,
            Encoded::Integers(i) | Encoded::Dynamic(i) => i.shape[0],
            Encoded::Product(left, _) | Encoded::Sum(left, _) => left.rows(),
            Encoded::Scaled { weight, .. } => weight.rows(),
        }
    }

    /// The weight that it stands for, where `stored` is the checkpoint's.
    pub fn decode(&self, stored: &Matrix) -> Matrix {
        match self {
            Encoded::Stored => stored.clone(),
            Encoded::Float { values, .. } => values.clone(),
            Encoded::Integers(i) | Encoded::Dynamic(i) => i.decode(),
            Encoded::Product(left, right) => left.decode(stored).times(&right.decode(stored)),
            Encoded::Sum(a, b) => {
                let (mut a, b) = (a.decode(stored), b.decode(stored));
                let pairs = a.data.par_iter_mut().zip(&b.data);
                pairs.for_each(|(a, b)| *a += b);
                a
            }
            Encoded::Scaled { scale, weight, .. } => {
                let mut w = weight.decode(stored);
                for row in w.data.chunks_mut(scale.len().max(1)) {
                    for (x, s) in row.iter_mut().zip(scale) {
                        *x /= s;
                    }
                }
                w
            }
        }
    }
}
