//! Loops that do nothing but what the machine does best: read memory, multiply and add. What they reach is the
//! ceiling that measured kernels are held against. Knows no clock.

use super::table;
use ir::abi::PANEL;

/// Reads all of `data` in `streams` interleaved parts (1, 2 or 4) and combines it, so that nothing can be left out.
pub fn read(data: &[u64], streams: usize) -> u64 {
    let (lines, rest) = data.as_chunks::<8>();
    let lines = match streams {
        4 => combine::<4>(lines),
        2 => combine::<2>(lines),
        _ => combine::<1>(lines),
    };
    rest.iter().fold(lines, |a, b| a ^ b)
}

fn combine<const STREAMS: usize>(lines: &[[u64; 8]]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512<const STREAMS: usize>(lines: &[[u64; 8]]) -> u64 {
            xor::<STREAMS>(lines)
        }
        #[target_feature(enable = "avx2")]
        fn avx2<const STREAMS: usize>(lines: &[[u64; 8]]) -> u64 {
            xor::<STREAMS>(lines)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            return unsafe { avx512::<STREAMS>(lines) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { avx2::<STREAMS>(lines) };
        }
    }
    xor::<STREAMS>(lines)
}

/// Two accumulators a stream: an addition then never waits for the one before it.
#[inline(always)]
fn xor<const STREAMS: usize>(lines: &[[u64; 8]]) -> u64 {
    let part = lines.len() / STREAMS / 2 * 2;
    let mut sums = [[[0u64; 8]; 2]; STREAMS];
    let streams: [&[[u64; 8]]; STREAMS] = std::array::from_fn(|s| &lines[s * part..][..part]);
    for i in (0..part).step_by(2) {
        for (sum, stream) in sums.iter_mut().zip(streams) {
            for (sum, line) in sum.iter_mut().zip(&stream[i..i + 2]) {
                for (sum, x) in sum.iter_mut().zip(line) {
                    *sum ^= x;
                }
            }
        }
    }
    let rest = lines[STREAMS * part..].as_flattened();
    let sums = sums.as_flattened().as_flattened();
    sums.iter().chain(rest).fold(0, |a, b| a ^ b)
}

/// Multiplies small matrices that stay in first-level cache, `times` times; returns the floating-point operations done.
pub fn multiply_add(times: usize) -> u64 {
    const ROWS: usize = 12;
    const INNER: usize = 128;
    const PANELS: usize = 2;
    #[repr(align(64))]
    struct Operands {
        a: [f32; ROWS * INNER],
        b: [f32; INNER * PANELS * PANEL],
        c: [f32; ROWS * PANELS * PANEL],
    }
    let mut o = Operands {
        a: [1.0; ROWS * INNER],
        b: [1.0; INNER * PANELS * PANEL],
        c: [0.0; ROWS * PANELS * PANEL],
    };
    for _ in 0..times {
        // SAFETY: the operands hold ROWS x INNER, PANELS panels of INNER rows, and ROWS x (PANELS * PANEL) elements,
        // and `b`, which follows 6144 bytes, is 64-byte aligned.
        unsafe {
            (table().gemm_f32)(
                ROWS,
                INNER,
                o.a.as_ptr(),
                INNER,
                o.b.as_ptr().cast(),
                PANELS,
                o.c.as_mut_ptr(),
                PANELS * PANEL,
            );
        }
    }
    std::hint::black_box(&o.c);
    (times * 2 * ROWS * INNER * PANELS * PANEL) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        for words in [0, 1, 7, 8, 63, 64, 65, 1000, 1024] {
            let data: Vec<u64> = (0..words)
                .map(|i| 1u64.rotate_left(i as u32 * 7) + i)
                .collect();
            let expected = data.iter().fold(0, |a, b| a ^ b);
            for streams in [1, 2, 4] {
                assert_eq!(
                    read(&data, streams),
                    expected,
                    "{words} words, {streams} streams"
                );
            }
        }
    }

    #[test]
    fn operations_are_counted() {
        assert_eq!(multiply_add(3), 3 * 2 * 12 * 128 * 32);
    }
}
