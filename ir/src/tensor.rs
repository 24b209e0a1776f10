//! A concrete tensor for the reference interpreter: f64 values, whatever the type says. Slow on purpose.

/// Row-major values. Integers and truth values are held exactly as `f64`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Outermost first.
    pub shape: Vec<usize>,
    /// `shape` product of them.
    pub data: Vec<f64>,
}

impl Tensor {
    /// From values.
    ///
    /// # Panics
    /// When `data` does not fill `shape`.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Tensor {
        let shape = shape.into();
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "{} values for shape {shape:?}",
            data.len()
        );
        Tensor { shape, data }
    }

    /// Rank 0.
    pub fn scalar(x: f64) -> Tensor {
        Tensor::new([], vec![x])
    }

    /// Values of `f` at each index, outermost first.
    pub fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Tensor {
        let mut index = vec![0; shape.len()];
        let data = (0..shape.iter().product())
            .map(|_| {
                let x = f(&index);
                for (i, n) in index.iter_mut().zip(shape).rev() {
                    *i += 1;
                    if *i < *n {
                        break;
                    }
                    *i = 0;
                }
                x
            })
            .collect();
        Tensor {
            shape: shape.to_vec(),
            data,
        }
    }

    /// Offset of `index`, whose trailing axes are matched against this shape with size-1 axes repeated.
    pub fn offset(&self, index: &[usize]) -> usize {
        let lead = index.len() - self.shape.len();
        self.shape
            .iter()
            .zip(&index[lead..])
            .fold(0, |o, (n, i)| o * n + if *n == 1 { 0 } else { *i })
    }

    /// Elementwise `f` of tensors broadcast to `shape`.
    pub fn zip(args: &[Tensor], shape: &[usize], f: impl Fn(&[f64]) -> f64) -> Tensor {
        let mut xs = vec![0.0; args.len()];
        Tensor::from_fn(shape, |index| {
            for (x, a) in xs.iter_mut().zip(args) {
                *x = a.data[a.offset(index)];
            }
            f(&xs)
        })
    }

    /// `f` of each row (last axis), which becomes one value.
    pub fn reduce(&self, f: impl Fn(&[f64]) -> f64) -> Tensor {
        let mut shape = self.shape.clone();
        let n = shape.last().copied().unwrap_or(1);
        if let Some(last) = shape.last_mut() {
            *last = 1;
        }
        let rows = shape.iter().product();
        let data = (0..rows).map(|r| f(&self.data[r * n..][..n])).collect();
        Tensor { shape, data }
    }

    /// Largest absolute difference; infinite when shapes differ or either holds NaN where the other does not.
    pub fn max_abs_diff(&self, o: &Tensor) -> f64 {
        if self.shape != o.shape {
            return f64::INFINITY;
        }
        let diff = |(a, b): (&f64, &f64)| match a - b {
            _ if a.to_bits() == b.to_bits() => 0.0,
            d if d.is_nan() => f64::INFINITY,
            d => d.abs(),
        };
        self.data.iter().zip(&o.data).map(diff).fold(0.0, f64::max)
    }
}
