//! Finds the first NaN or infinity among the elements of a tensor, at memory speed. Knows bytes and dtypes only.

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Bytes that one task scans.
const CHUNK: usize = 1 << 20;

/// Index and value of the first element of `bytes` that is not finite; `None` also for types that cannot hold one.
pub(super) fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<(usize, f32)> {
    // Adding one to the lowest exponent bit carries into the sign bit exactly where the exponent is all ones. It
    // takes two operations that every vector unit has at any width, and one branch a block instead of an element.
    match dtype {
        Dtype::F32 => scan::<4>(
            bytes,
            |block| {
                block.iter().fold(0, |bad, x| {
                    bad | ((u32::from_le_bytes(*x) & 0x7F80_0000) + 0x0080_0000)
                }) >> 31
                    != 0
            },
            f32::from_le_bytes,
        ),
        Dtype::BF16 => scan::<2>(
            bytes,
            |block| {
                block.iter().fold(0, |bad, x| {
                    bad | ((u16::from_le_bytes(*x) & 0x7F80) + 0x0080)
                }) >> 15
                    != 0
            },
            |x| bf16::from_le_bytes(x).to_f32(),
        ),
        Dtype::F16 => scan::<2>(
            bytes,
            |block| {
                block.iter().fold(0, |bad, x| {
                    bad | ((u16::from_le_bytes(*x) & 0x7C00) + 0x0400)
                }) >> 15
                    != 0
            },
            |x| f16::from_le_bytes(x).to_f32(),
        ),
        _ => None,
    }
}

fn scan<const N: usize>(
    bytes: &[u8],
    any: impl Fn(&[[u8; N]]) -> bool + Sync,
    value: impl Fn([u8; N]) -> f32 + Sync,
) -> Option<(usize, f32)> {
    let (elements, _) = bytes.as_chunks::<N>();
    let first_in = |(i, block): (usize, &[[u8; N]])| {
        if !any(block) {
            return None;
        }
        let j = block.iter().position(|&x| !value(x).is_finite())?;
        Some((i * (CHUNK / N) + j, value(block[j])))
    };
    elements
        .par_chunks(CHUNK / N)
        .enumerate()
        .find_map_first(first_in)
}
