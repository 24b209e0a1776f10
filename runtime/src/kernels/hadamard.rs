//! The Walsh-Hadamard transform of blocks of a row: [`walsh_hadamard`] as each instruction set's compiler widens it. Sums and
//! differences have one order, so that all tables give the same bits.

use ir::ops::walsh_hadamard;

/// See [`ir::abi::HadamardFn`].
///
/// # Safety
/// As `HadamardFn` states.
#[inline(always)]
pub(super) unsafe fn transform(n: usize, block: usize, x: *mut f32) {
    // SAFETY: the caller's: `n` elements that nothing else sees.
    let row = unsafe { std::slice::from_raw_parts_mut(x, n) };
    walsh_hadamard(row, block, 1.0 / (block as f32).sqrt());
}
