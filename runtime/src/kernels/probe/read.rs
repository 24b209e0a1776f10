//! Reading memory, as wide as the processor's registers are.

/// Reads all of `data` in `streams` interleaved parts (1, 2 or 4) and combines it, so that nothing can be left out.
pub fn read(data: &[u8], streams: usize) -> u64 {
    let (lines, rest) = data.as_chunks::<64>();
    let lines = match streams {
        4 => combine::<4>(lines),
        2 => combine::<2>(lines),
        _ => combine::<1>(lines),
    };
    let mut last = [0; 64];
    last[..rest.len()].copy_from_slice(rest);
    lines ^ exclusive_or(&[last])
}

fn combine<const STREAMS: usize>(lines: &[[u8; 64]]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            return unsafe { x86::avx512::<STREAMS>(lines) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { x86::avx2::<STREAMS>(lines) };
        }
    }
    exclusive_or(lines)
}

fn exclusive_or(lines: &[[u8; 64]]) -> u64 {
    let words = lines.as_flattened().as_chunks().0;
    words.iter().fold(0, |a, b| a ^ u64::from_ne_bytes(*b))
}

/// With intrinsics, because the compiler turns the plain loop over streams into gathers, which are no way to read.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_loadu_si256, _mm256_setzero_si256, _mm256_storeu_si256,
        _mm256_xor_si256, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_storeu_si512,
        _mm512_xor_si512,
    };

    /// `name::<STREAMS>(lines)`: all words combined, `registers` to a line.
    macro_rules! reader {
        ($name:ident, $feature:literal, $vector:ty, $registers:literal, $zero:ident, $load:ident, $xor:ident,
         $store:ident) => {
            #[target_feature(enable = $feature)]
            pub(super) fn $name<const STREAMS: usize>(lines: &[[u8; 64]]) -> u64 {
                let part = lines.len() / STREAMS;
                let streams: [&[[u8; 64]]; STREAMS] =
                    std::array::from_fn(|s| &lines[s * part..][..part]);
                let mut sums = [[$zero(); $registers]; STREAMS];
                for i in 0..part {
                    for (sums, stream) in sums.iter_mut().zip(streams) {
                        let line = stream[i].as_ptr().cast::<$vector>();
                        for (r, sum) in sums.iter_mut().enumerate() {
                            // SAFETY: a line has as many vectors as it has sums; unaligned loads are allowed.
                            *sum = $xor(*sum, unsafe { $load(line.add(r)) });
                        }
                    }
                }
                let mut words = [0u64; 8];
                let rest = super::exclusive_or(&lines[STREAMS * part..]);
                sums.as_flattened().iter().fold(rest, |all, sum| {
                    // SAFETY: `words` has room for the widest vector; what a narrower one leaves is zero.
                    unsafe { $store(words.as_mut_ptr().cast::<$vector>(), *sum) };
                    words.iter().fold(all, |a, b| a ^ b)
                })
            }
        };
    }

    reader!(
        avx512,
        "avx512f",
        __m512i,
        1,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_xor_si512,
        _mm512_storeu_si512
    );
    reader!(
        avx2,
        "avx2",
        __m256i,
        2,
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_xor_si256,
        _mm256_storeu_si256
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        for words in [0, 1, 7, 8, 63, 64, 65, 1000, 1024] {
            let word = |i| 1u64.rotate_left(i as u32 * 7) + i;
            let data: Vec<u8> = (0..words).flat_map(|i| word(i).to_ne_bytes()).collect();
            let expected = (0..words).map(word).fold(0, |a, b| a ^ b);
            for streams in [1, 2, 4] {
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    let lines = data.as_chunks().0;
                    // SAFETY: the processor has the feature.
                    let found = unsafe { x86::avx2::<4>(lines) };
                    assert_eq!(found, exclusive_or(lines), "{words} words by AVX2");
                }
                assert_eq!(
                    read(&data, streams),
                    expected,
                    "{words} words, {streams} streams"
                );
            }
        }
    }
}
