//! Matrices to try methods on.

use compiler::compress::Matrix;

/// Numbers in -1..1, the same every time.
pub fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Matrix::new(rows, columns, (0..rows * columns).map(|_| next()).collect())
}
