//! Rotation of blocks of a row: the Walsh-Hadamard transform.
use super::*;
use std::ops as arithmetic;
op! {
    /// `x` with each `block` consecutive elements of the last axis multiplied by the orthonormal Hadamard matrix in Sylvester's
    /// order, `h[i, j] = (-1)^(bits that i and j share) / sqrt(block)`. A rotation that is symmetric, its own inverse, and
    /// spreads one large element over its block, so that less is lost where the block is rounded (QuaRot, Ashkboos et al. 2024,
    /// arXiv 2404.00456). Kernels take sums and differences of elements 1, 2, 4, .. apart, then the product with
    /// `1 / sqrt(block)`.
    Hadamard = "hadamard" {
        /// A power of two, at least 2, that divides the last axis.
        block: i64,
    }
}
impl OpDef for Hadamard {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x] = arity(Self::NAME, args)?;
        let power = self.block > 1 && self.block & (self.block - 1) == 0;
        let divides = power && x.last().known().is_some_and(|n| n % self.block == 0);
        if x.dtype != DType::F32 || x.shape.is_empty() || !divides {
            let why = format!(
                "wants f32 and a block that is a power of two and divides the last axis, not {}",
                self.block
            );
            return Err(refuse(Self::NAME, why, args));
        }
        Ok(x.clone())
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let mut data = args[0].data.clone();
        let block = self.block as usize;
        walsh_hadamard(&mut data, block, 1.0 / (block as f64).sqrt());
        Ok(Tensor::new(out, data))
    }
    fn flops(&self, _: &[Type], out: &Type) -> Dim {
        out.numel() * (i64::from(self.block.max(1).ilog2()) + 1).into()
    }
}

/// Elements whose first sums and differences are taken beside each other.
const FIRST: usize = 4;

/// Replaces each `block` of a row by its product with Sylvester's Hadamard matrix, times `scale`: sums and differences of elements
/// 1, 2, 4, .. apart, in that order. `block` is a power of two.
#[inline(always)]
pub fn walsh_hadamard<T>(row: &mut [T], block: usize, scale: T)
where
    T: Copy
        + arithmetic::Add<Output = T>
        + arithmetic::Sub<Output = T>
        + arithmetic::Mul<Output = T>,
{
    for block in row.chunks_exact_mut(block) {
        let mut apart = 1;
        if block.len() >= FIRST {
            for four in block.as_chunks_mut::<FIRST>().0 {
                let [a, b, c, d] = *four;
                let (sums, differences) = ([a + b, c + d], [a - b, c - d]);
                *four = [
                    sums[0] + sums[1],
                    differences[0] + differences[1],
                    sums[0] - sums[1],
                    differences[0] - differences[1],
                ];
            }
            apart = FIRST;
        }
        while apart < block.len() {
            for pair in block.chunks_exact_mut(2 * apart) {
                let (low, high) = pair.split_at_mut(apart);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            apart *= 2;
        }
        for x in block {
            *x = *x * scale;
        }
    }
}
