//! The Walsh-Hadamard transform of blocks of a row. Plain Rust, which each instruction set's compiler widens: sums and
//! differences have one order, so that all tables give the same bits.

/// Elements whose first sums and differences are taken in registers.
const FIRST: usize = 4;

/// See [`ir::abi::HadamardFn`].
///
/// # Safety
/// As `HadamardFn` states.
#[inline(always)]
pub(super) unsafe fn transform(n: usize, block: usize, x: *mut f32) {
    // SAFETY: the caller's: `n` elements that nothing else sees.
    let row = unsafe { std::slice::from_raw_parts_mut(x, n) };
    let scale = 1.0 / (block as f32).sqrt();
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
            *x *= scale;
        }
    }
}
