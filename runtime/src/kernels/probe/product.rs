//! Register tiles that multiply and add operands in first-level cache, by each kind of product that processors have an
//! instruction for. They share nothing with the kernels that are held against them.

use std::hint::black_box;

/// What is multiplied and summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// f32, fused where the processor does that.
    F32,
    /// Pairs of bf16, summed in f32.
    Bf16,
    /// Fours of an unsigned and a signed byte, summed in i32.
    I8,
}

/// Steps of a tile, each one word of `a` a row and two registers of `b`.
const STEPS: usize = 128;

/// Most rows of a tile.
const ROWS: usize = 12;

/// As wide as the widest register.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

/// 24 kB, which first-level caches hold.
struct Operands {
    a: [[u32; ROWS]; STEPS],
    b: [[Line; 2]; STEPS],
    c: [[Line; 2]; ROWS],
}

/// A way to compute `c = a b` on this processor, in registers of a number of bytes.
#[derive(Clone, Copy)]
struct Tile {
    run: unsafe fn(&mut Operands),
    rows: usize,
    bytes: usize,
}

impl Product {
    /// All of them.
    pub const ALL: [Product; 3] = [Product::F32, Product::Bf16, Product::I8];

    /// Multiplies and adds, `times` tiles; gives the operations done, a multiply-add counting two, or `None` where the
    /// processor has no instruction for it.
    pub fn run(self, times: usize) -> Option<u64> {
        let tile = *self.tiles().first()?;
        black_box(self.multiply(tile, times));
        let elements = 2 * tile.bytes / self.bytes();
        Some((times * 2 * STEPS * tile.rows * elements) as u64)
    }

    /// What `times` tiles of ones leave.
    fn multiply(self, tile: Tile, times: usize) -> Operands {
        let one = match self {
            Product::F32 => 1f32.to_bits(),
            Product::Bf16 => 0x3f80_3f80,
            Product::I8 => 0x0101_0101,
        };
        let mut line = Line([0; 64]);
        for word in line.0.as_chunks_mut().0 {
            *word = one.to_ne_bytes();
        }
        let mut operands = Operands {
            a: [[one; ROWS]; STEPS],
            b: [[line; 2]; STEPS],
            c: [[Line([0; 64]); 2]; ROWS],
        };
        for _ in 0..times {
            // SAFETY: `tiles` gives those alone whose features the processor has.
            unsafe { (tile.run)(black_box(&mut operands)) };
        }
        operands
    }

    /// Bytes of an element.
    fn bytes(self) -> usize {
        match self {
            Product::F32 => 4,
            Product::Bf16 => 2,
            Product::I8 => 1,
        }
    }

    /// Those that this processor can run, the fastest first.
    fn tiles(self) -> Vec<Tile> {
        let mut tiles = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            let mut add = |has: bool, run: unsafe fn(&mut Operands), rows, bytes| {
                tiles.extend(has.then_some(Tile { run, rows, bytes }));
            };
            let (avx512, avx2) = (
                is_x86_feature_detected!("avx512f"),
                is_x86_feature_detected!("avx2"),
            );
            let fma = avx2 && is_x86_feature_detected!("fma");
            match self {
                Product::F32 => {
                    add(avx512, x86::avx512_f32, 12, 64);
                    add(fma, x86::avx2_f32, 6, 32);
                }
                Product::Bf16 => {
                    let has = avx512 && is_x86_feature_detected!("avx512bf16");
                    add(has, x86::avx512_bf16, 12, 64);
                }
                Product::I8 => {
                    let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
                    add(vnni, x86::avx512_i8, 12, 64);
                    let vnni = avx2 && is_x86_feature_detected!("avxvnni");
                    add(vnni, x86::avxvnni_i8, 6, 32);
                    add(avx2, x86::avx2_i8, 4, 32);
                }
            }
        }
        if self == Product::F32 {
            tiles.push(Tile {
                run: portable_f32,
                rows: 4,
                bytes: 16,
            });
        }
        tiles
    }
}

/// A tile of `$rows` x 2 registers: how a word of `a` becomes a register, and what a step adds to a sum.
macro_rules! tile {
    ($(#[$feature:meta])? $vis:vis $name:ident, $rows:literal, $sum:ty = $zero:expr, $operand:ty,
     |$word:ident| $broadcast:expr, |$acc:ident, $x:ident, $y:ident| $step:expr) => {
        $(#[$feature])?
        $vis fn $name(o: &mut Operands) {
            let mut sums: [[$sum; 2]; $rows] = [[$zero; 2]; $rows];
            for (a, b) in o.a.iter().zip(&o.b) {
                // SAFETY: a line is aligned and large enough for any register.
                let b = b.each_ref().map(|line| unsafe { line.0.as_ptr().cast::<$operand>().read() });
                for (sums, word) in sums.iter_mut().zip(a) {
                    let $word = *word;
                    let $x: $operand = $broadcast;
                    for (sum, $y) in sums.iter_mut().zip(b) {
                        let $acc = *sum;
                        *sum = $step;
                    }
                }
            }
            for (c, sum) in o.c.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                // SAFETY: as above.
                unsafe { c.0.as_mut_ptr().cast::<$sum>().write(*sum) };
            }
        }
    };
}

tile!(
    portable_f32,
    4,
    [f32; 4] = [0.0; 4],
    [f32; 4],
    |word| [f32::from_bits(word); 4],
    |sum, x, y| std::array::from_fn(|i| sum[i] + x[i] * y[i])
);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Operands;
    use std::{arch::x86_64::*, mem::transmute};

    tile!(
        #[target_feature(enable = "avx512f")]
        pub(super) avx512_f32,
        12,
        __m512 = _mm512_setzero_ps(),
        __m512,
        |word| _mm512_set1_ps(f32::from_bits(word)),
        |sum, x, y| _mm512_fmadd_ps(x, y, sum)
    );
    tile!(
        #[target_feature(enable = "avx2,fma")]
        pub(super) avx2_f32,
        6,
        __m256 = _mm256_setzero_ps(),
        __m256,
        |word| _mm256_set1_ps(f32::from_bits(word)),
        |sum, x, y| _mm256_fmadd_ps(x, y, sum)
    );
    tile!(
        #[target_feature(enable = "avx512f,avx512bf16")]
        pub(super) avx512_bf16,
        12,
        __m512 = _mm512_setzero_ps(),
        __m512bh,
        |word| {
            let words = _mm512_set1_epi32(word as i32);
            // SAFETY: registers of the same size, of which any bits are valid.
            unsafe { transmute::<__m512i, __m512bh>(words) }
        },
        |sum, x, y| _mm512_dpbf16_ps(sum, x, y)
    );
    tile!(
        #[target_feature(enable = "avx512f,avx512vnni")]
        pub(super) avx512_i8,
        12,
        __m512i = _mm512_setzero_si512(),
        __m512i,
        |word| _mm512_set1_epi32(word as i32),
        |sum, x, y| _mm512_dpbusd_epi32(sum, x, y)
    );
    tile!(
        #[target_feature(enable = "avx2,avxvnni")]
        pub(super) avxvnni_i8,
        6,
        __m256i = _mm256_setzero_si256(),
        __m256i,
        |word| _mm256_set1_epi32(word as i32),
        |sum, x, y| _mm256_dpbusd_avx_epi32(sum, x, y)
    );
    // Before VNNI, four products take three instructions.
    tile!(
        #[target_feature(enable = "avx2")]
        pub(super) avx2_i8,
        4,
        __m256i = _mm256_setzero_si256(),
        __m256i,
        |word| _mm256_set1_epi32(word as i32),
        |sum, x, y| _mm256_add_epi32(
            sum,
            _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1))
        )
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_is_computed_and_counted() {
        for product in Product::ALL {
            let sum = STEPS * 4 / product.bytes();
            let sum = match product {
                Product::I8 => sum as u32,
                _ => (sum as f32).to_bits(),
            };
            for tile in product.tiles() {
                let done = product.multiply(tile, 1);
                let mut lines = done.c[..tile.rows].as_flattened().iter();
                let expected = [sum.to_ne_bytes(); 16];
                let same = |l: &Line| l.0[..tile.bytes] == expected.as_flattened()[..tile.bytes];
                assert!(lines.all(same), "{product:?}, {} bytes", tile.bytes);
            }
            let [once, thrice] = [1, 3].map(|times| product.run(times));
            assert_eq!(thrice, once.map(|n| 3 * n));
            if let Some((tile, once)) = product.tiles().first().zip(once) {
                let per_sum = STEPS * 4 / product.bytes();
                let sums = tile.rows * 2 * tile.bytes / 4;
                assert_eq!(once as usize, 2 * per_sum * sums, "{product:?}");
            }
        }
        assert!(Product::F32.run(1).is_some());
    }
}
