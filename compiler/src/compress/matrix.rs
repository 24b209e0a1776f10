//! A dense matrix of f32, row-major: weights and moments as methods see them. Linear algebra is `faer`'s.

use faer::{MatMut, MatRef, Par};
use ir::ops::walsh_hadamard;
use rayon::prelude::*;

/// Multiply-adds up to which a product is one thread's: there are others beside it.
const ALONE: usize = 1 << 30;

/// Who computes so many multiply-adds.
pub(super) fn threads(work: usize) -> Par {
    match work <= ALONE {
        true => Par::Seq,
        false => Par::rayon(0),
    }
}

/// `rows` times `columns` numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Row after row.
    pub data: Vec<f32>,
}

impl Matrix {
    /// From its numbers, row after row.
    ///
    /// # Panics
    /// When there are not `rows * columns` of them.
    pub fn new(rows: usize, columns: usize, data: Vec<f32>) -> Matrix {
        assert_eq!(data.len(), rows * columns, "a {rows} x {columns} matrix");
        Matrix {
            rows,
            columns,
            data,
        }
    }

    /// All zero.
    pub fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix::new(rows, columns, vec![0.0; rows * columns])
    }

    /// The numbers of `f` at each row and column.
    pub fn from_fn(rows: usize, columns: usize, f: impl Fn(usize, usize) -> f32) -> Matrix {
        let mut data = Vec::with_capacity(rows * columns);
        for i in 0..rows {
            data.extend((0..columns).map(|j| f(i, j)));
        }
        Matrix::new(rows, columns, data)
    }

    /// A row.
    #[inline]
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.columns..][..self.columns]
    }

    /// The numbers on the diagonal.
    pub fn diagonal(&self) -> impl Iterator<Item = f32> + '_ {
        self.data.iter().step_by(self.columns + 1).copied()
    }

    /// As `faer` sees it.
    pub fn view(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.data, self.rows, self.columns)
    }

    /// As `faer` writes it.
    pub fn view_mut(&mut self) -> MatMut<'_, f32> {
        MatMut::from_row_major_slice_mut(&mut self.data, self.rows, self.columns)
    }

    /// A copy of what `faer` computed.
    pub fn of(m: MatRef<'_, f32>) -> Matrix {
        let mut out = Matrix::zeros(m.nrows(), m.ncols());
        out.view_mut().copy_from(m);
        out
    }

    /// Rows as columns.
    pub fn transposed(&self) -> Matrix {
        let mut out = Matrix::zeros(self.columns, self.rows);
        out.view_mut().copy_from(self.view().transpose());
        out
    }

    /// `self * other`.
    pub fn times(&self, other: &Matrix) -> Matrix {
        let mut out = Matrix::zeros(self.rows, other.columns);
        faer::linalg::matmul::matmul(
            out.view_mut(),
            faer::Accum::Replace,
            self.view(),
            other.view(),
            1.0,
            threads(self.rows * self.columns * other.columns),
        );
        out
    }

    /// Each row rotated, block by block; see [`ir::ops::Hadamard`].
    #[must_use]
    pub fn rotated(mut self, block: usize) -> Matrix {
        let scale = 1.0 / (block as f32).sqrt();
        for row in self.data.chunks_mut(self.columns.max(1)) {
            walsh_hadamard(row, block, scale);
        }
        self
    }

    /// `self - other`.
    pub fn minus(&self, other: &Matrix) -> Matrix {
        let pairs = self.data.par_iter().zip(&other.data);
        Matrix::new(self.rows, self.columns, pairs.map(|(a, b)| a - b).collect())
    }
}
