//! Adds up statistics of inputs, step after step, in the precision of the products themselves.

use crate::compress::{Matrix, Moments};
use faer::{
    Accum, MatRef, Par,
    linalg::matmul::triangular::{BlockStructure, matmul},
};

/// Sums over the rows seen so far.
#[derive(Clone, Debug)]
pub struct Sums {
    rows: u64,
    /// The lower half of the sum of `x x^T`.
    second: Matrix,
    sum: Vec<f64>,
    max: Vec<f32>,
}

impl Sums {
    /// Of inputs of `k` elements; no row yet.
    pub fn new(k: usize) -> Sums {
        Sums {
            rows: 0,
            second: Matrix::zeros(k, k),
            sum: vec![0.0; k],
            max: vec![0.0; k],
        }
    }

    /// Adds rows of `k` elements, one after another; what is left over is not a row.
    pub fn add(&mut self, rows: &[f32]) {
        let k = self.sum.len();
        let n = rows.len() / k.max(1);
        let x = MatRef::from_row_major_slice(&rows[..n * k], n, k);
        matmul(
            self.second.view_mut(),
            BlockStructure::TriangularLower,
            Accum::Add,
            x.transpose(),
            BlockStructure::Rectangular,
            x,
            BlockStructure::Rectangular,
            1.0,
            Par::rayon(0),
        );
        for row in rows.chunks_exact(k.max(1)) {
            for ((sum, max), x) in self.sum.iter_mut().zip(&mut self.max).zip(row) {
                *sum += f64::from(*x);
                *max = max.max(x.abs());
            }
        }
        self.rows += n as u64;
    }

    /// Means over all rows; zero of none.
    pub fn moments(mut self) -> Moments {
        let (k, count) = (self.sum.len(), self.rows.max(1) as f64);
        for i in 0..k {
            for j in 0..=i {
                let mean = (f64::from(self.second.data[i * k + j]) / count) as f32;
                self.second.data[i * k + j] = mean;
                self.second.data[j * k + i] = mean;
            }
        }
        let mean = self.sum.iter().map(|s| (s / count) as f32);
        Moments::new(self.rows, self.second, mean.collect(), self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_by_hand() {
        let mut sums = Sums::new(2);
        sums.add(&[1.0, 2.0]);
        sums.add(&[3.0, -4.0, 0.0, 0.0]);
        let m = sums.moments();
        let third = |x: f32| x / 3.0;
        assert_eq!(m.rows(), 3);
        assert_eq!(
            m.second().expect("known").data,
            [10.0, -10.0, -10.0, 20.0].map(third)
        );
        assert_eq!(m.mean(), [4.0, -2.0].map(third));
        assert_eq!(m.max(), [3.0, 4.0]);
        let none = Sums::new(2).moments();
        assert_eq!(
            (none.rows(), &none.second().expect("known").data),
            (0, &vec![0.0; 4])
        );
    }
}
