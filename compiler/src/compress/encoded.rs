//! A weight said in a form: the numbers behind a [`Form`]. Knows how they decode, not where they come from.

use super::{Form, Matrix};
use half::{bf16, f16};
use ir::{DType, Element, Grid};
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
    /// Codes with scales.
    Grouped(Grouped),
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
    /// Of the rotated weight, which meets rotated inputs.
    Rotated {
        /// See [`Form::Rotated`].
        block: u32,
        /// What multiplies the rotated inputs.
        weight: Box<Encoded>,
    },
    /// Integers that meet rounded inputs.
    Dynamic(Grouped),
}

/// `codes [N, K]`, with the scale and zero point of their group, `[N, K / group]`, all row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Grouped {
    /// What codes are.
    pub element: Element,
    /// Codes along K that share a scale.
    pub group: usize,
    /// N and K.
    pub shape: [usize; 2],
    /// Each one that the element says.
    pub codes: Vec<i16>,
    /// Not negative.
    pub scales: Vec<f16>,
    /// As many; 0 where the element has none.
    pub zeros: Vec<i8>,
}

impl Grouped {
    /// Their form.
    pub fn form(&self) -> Form {
        Form::grouped(self.element, self.group as u32)
    }

    /// What the codes of group `i`, counted through all rows, can say.
    #[inline]
    pub fn grid(&self, i: usize) -> Grid {
        Grid {
            element: self.element,
            scale: self.scales[i].to_f32(),
            zero: self.zeros[i].into(),
        }
    }

    /// What they stand for, as [`ir::ops::Dequantize`] says.
    pub fn decode(&self) -> Matrix {
        let mut out = Matrix::zeros(self.shape[0], self.shape[1]);
        let groups = out.data.par_chunks_mut(self.group);
        let codes = self.codes.par_chunks(self.group);
        groups.zip(codes).enumerate().for_each(|(i, (to, codes))| {
            let grid = self.grid(i);
            for (x, code) in to.iter_mut().zip(codes) {
                *x = grid.value((*code).into());
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
            Encoded::Grouped(i) => i.form(),
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
            Encoded::Rotated { block, weight } => weight.form().rotated(*block as usize),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Encoded::Stored => 0,
            Encoded::Float { values, .. } => values.rows,
            Encoded::Grouped(i) | Encoded::Dynamic(i) => i.shape[0],
            Encoded::Product(left, _) | Encoded::Sum(left, _) => left.rows(),
            Encoded::Scaled { weight, .. } | Encoded::Rotated { weight, .. } => weight.rows(),
        }
    }

    /// The weight that it stands for, where `stored` is the checkpoint's.
    pub fn decode(&self, stored: &Matrix) -> Matrix {
        match self {
            Encoded::Stored => stored.clone(),
            Encoded::Float { values, .. } => values.clone(),
            Encoded::Grouped(i) | Encoded::Dynamic(i) => i.decode(),
            Encoded::Product(left, right) => left.decode(stored).times(&right.decode(stored)),
            Encoded::Sum(a, b) => {
                let (mut a, b) = (a.decode(stored), b.decode(stored));
                let pairs = a.data.par_iter_mut().zip(&b.data);
                pairs.for_each(|(a, b)| *a += b);
                a
            }
            Encoded::Rotated { block, weight } => {
                let block = *block as usize;
                weight.decode(&stored.clone().rotated(block)).rotated(block)
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
