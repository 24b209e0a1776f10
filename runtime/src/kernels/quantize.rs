//! Floats rounded to integers that share a scale: rows of activations, heads of keys and values, and what such integers stand
//! for. Knows no instruction set.

use super::dots::LINE;
use super::lanes::ROUNDER;

/// [`ir::abi::QuantizeFn`], of 8 bits or 16.
///
/// # Safety
/// As `QuantizeFn` states, and the CPU has the features of `V`.
#[inline(always)]
pub(super) unsafe fn quantize<const WIDE: bool>(
    k: usize,
    group: usize,
    x: *const f32,
    to: *mut u8,
) {
    let (groups, size) = (k / group, if WIDE { 2 } else { 1 });
    // SAFETY: the row's extents.
    unsafe {
        let scales = to.add((k * size).next_multiple_of(LINE)).cast::<f32>();
        let sums = scales.add(groups).cast::<i32>();
        for g in 0..groups {
            let x = std::slice::from_raw_parts(x.add(g * group), group);
            let to = to.add(g * group * size);
            let (scale, to_code) = scale(x, if WIDE { 32767.0 } else { 127.0 });
            let mut sum = 0;
            if WIDE {
                let fours = std::slice::from_raw_parts_mut(to.cast::<[i16; 4]>(), group / 4);
                for (to, x) in fours.iter_mut().zip(x.as_chunks::<4>().0) {
                    let codes = x.map(|x| code(x, to_code) as i16);
                    sum += codes.iter().map(|c| i32::from(*c)).sum::<i32>();
                    *to = [codes[0], codes[2], codes[1], codes[3]];
                }
            } else {
                let codes = std::slice::from_raw_parts_mut(to.cast::<i8>(), group);
                for (to, x) in codes.iter_mut().zip(x) {
                    *to = code(*x, to_code) as i8;
                    sum += i32::from(*to);
                }
            }
            *scales.add(g) = scale;
            *sums.add(g) = sum;
        }
    }
}

/// The scale of a group whose codes go up to `most`, and what an element is multiplied by to be a code.
#[inline(always)]
fn scale(x: &[f32], most: f32) -> (f32, f32) {
    // As integers magnitudes keep their order, and NaN is the largest.
    let peak = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max();
    let peak = f32::from_bits(peak.unwrap_or(0));
    let to_code = most / peak;
    match to_code < f32::INFINITY {
        true => (peak / most, to_code),
        // Nothing, or too little to be said, is zero; codes do not matter where the scale is NaN.
        false if !peak.is_nan() => (0.0, 0.0),
        false => (peak, 0.0),
    }
}

/// [`ir::abi::QuantizeHeadFn`].
///
/// # Safety
/// As `QuantizeHeadFn` states.
pub(super) unsafe extern "C" fn quantize_head(
    n: usize,
    x: *const f32,
    to: *mut u8,
    step: usize,
    scale: *mut f32,
) {
    // SAFETY: `n` elements on both sides, and a scale.
    unsafe {
        let x = std::slice::from_raw_parts(x, n);
        let (of_codes, to_code) = self::scale(x, 127.0);
        for (i, x) in x.iter().enumerate() {
            *to.add(i * step) = code(*x, to_code) as u8;
        }
        *scale = of_codes;
    }
}

/// An element's code, two's complement: the lowest bits of an integer in range. What is not even a number, the scale carries.
#[inline(always)]
fn code(x: f32, to_code: f32) -> u32 {
    (x * to_code + ROUNDER).to_bits()
}

/// [`ir::abi::FakeQuantizeFn`].
///
/// # Safety
/// As `FakeQuantizeFn` states.
pub(super) unsafe extern "C" fn fake_quantize(
    bits: usize,
    k: usize,
    group: usize,
    x: *const f32,
    to: *mut f32,
) {
    let most = ((1u32 << (bits - 1)) - 1) as f32;
    for g in (0..k).step_by(group) {
        // SAFETY: both sides are valid for `k` elements, of which `group` divides the number; they may be the same.
        unsafe {
            let (scale, to_code) = scale(std::slice::from_raw_parts(x.add(g), group), most);
            for i in g..g + group {
                *to.add(i) = scale * (*x.add(i) * to_code).round_ties_even();
            }
        }
    }
}
