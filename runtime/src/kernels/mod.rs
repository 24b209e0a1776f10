//! The hand-written kernels behind [`KernelTable`], chosen by CPU feature at run time.
//!
//! Kernels are written once over `lanes::Lanes` and compiled per instruction set (`Isa`). All tables give equal
//! bits. Nothing here knows models, artifacts or threads.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod avx2_dots;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod codes;
mod dots;
mod functions;
mod gemm;
mod grouped;
mod hadamard;
mod lanes;
mod lines;
mod packing;
mod panel;
pub mod probe;
mod quantize;
mod scratch;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod weight;

use codes::{Code, E4m3, Int};
use functions::Function;
use gemm::Tile;
use grouped::GroupedIsa;
use half::{bf16, f16};
use ir::abi::{ABI_VERSION, AttentionArgs, GroupedGemmFn, GroupedGemms, KernelTable};
use lanes::Lanes;
use lines::{Line, Pair, PairDots};
use panel::Panel;
use std::sync::OnceLock;
use weight::Weight;

/// An instruction set: its vector, its tile shapes, and the entries at which its CPU features begin to apply.
///
/// # Safety
/// The methods require the CPU features of the implementation.
trait Isa {
    /// The vector.
    type V: Lanes;
    /// Most rows of a register tile.
    const ROWS: usize;
    /// Panels side by side in the tile of [`Isa::ROWS`] rows.
    const PANELS: usize;

    /// [`gemm::tile`] over `rows <= ROWS` and all of `panels`, by the widest tiles that fit the registers.
    unsafe fn tiles<W: Line<Self::V>>(rows: usize, panels: usize, t: Tile<W>);
    /// [`gemm::widen`].
    unsafe fn widen<W: Line<Self::V>>(from: *const W, ld: usize, to: *mut f32, lines: usize);
    /// [`attention::attend`].
    unsafe fn attend<W: Weight>(args: &AttentionArgs);
    /// [`functions::apply`].
    unsafe fn apply<F: Function>(n: usize, x: *mut f32);
    /// [`hadamard::transform`].
    unsafe fn hadamard(n: usize, block: usize, x: *mut f32);
}

/// Implements [`Isa`]: `rows: panels` lists, for each number of rows, the tile widths to use, widest first, ending
/// with 1. A tile of r rows and p panels takes r * p accumulators, p weights and one or more inputs.
macro_rules! isa {
    ($(#[$doc:meta])* $name:ident, $lanes:ty, $features:tt, $most:literal x $wide:literal,
     $($rows:literal: $($panels:literal)+),+) => {
        $(#[$doc])*
        struct $name;
        impl Isa for $name {
            type V = $lanes;
            const ROWS: usize = $most;
            const PANELS: usize = $wide;

            #[inline]
            unsafe fn tiles<W: Line<$lanes>>(rows: usize, panels: usize, mut t: Tile<W>) {
                isa!(@feature $features
                    unsafe fn tile<W: Line<$lanes>, const M: usize, const P: usize>(t: &Tile<W>) {
                        // SAFETY: the caller vouches for the features and the tile.
                        unsafe { gemm::tile::<$lanes, W, M, P>(t) }
                    });
                let mut left = panels;
                match rows {
                    $($rows => {
                        $(while left >= $panels {
                            // SAFETY: the caller vouches for features and for `panels` panels.
                            unsafe { tile::<W, $rows, $panels>(&t) };
                            t.advance($panels);
                            left -= $panels;
                        })+
                    })+
                    _ => unreachable!("the caller cuts rows into tiles of at most ROWS"),
                }
            }

            isa!(@feature $features
                unsafe fn widen<W: Line<$lanes>>(from: *const W, ld: usize, to: *mut f32, lines: usize) {
                    // SAFETY: the caller's.
                    unsafe { gemm::widen::<$lanes, W>(from, ld, to, lines) }
                });

            isa!(@feature $features
                unsafe fn attend<W: Weight>(args: &AttentionArgs) {
                    // SAFETY: the caller's.
                    unsafe { attention::attend::<Self, W>(args) }
                });

            isa!(@feature $features
                unsafe fn apply<F: Function>(n: usize, x: *mut f32) {
                    // SAFETY: the caller's.
                    unsafe { functions::apply::<$lanes, F>(n, x) }
                });

            isa!(@feature $features
                unsafe fn hadamard(n: usize, block: usize, x: *mut f32) {
                    // SAFETY: the caller's.
                    unsafe { hadamard::transform(n, block, x) }
                });
        }
    };
    (@feature none $f:item) => { $f };
    (@feature $features:literal $f:item) => { #[target_feature(enable = $features)] $f };
}

isa!(
    /// Plain Rust.
    Portable, lanes::Array, none, 4 x 1, 1: 1, 2: 1, 3: 1, 4: 1);

#[cfg(target_arch = "x86_64")]
isa!(
    /// 16 registers of 256 bits: 12 accumulators at most.
    Avx2, avx2::Ymm2, "avx2,fma,f16c", 6 x 1,
    1: 4 2 1, 2: 2 1, 3: 2 1, 4: 1, 5: 1, 6: 1);

#[cfg(target_arch = "x86_64")]
isa!(
    /// 32 registers of 512 bits: 28 accumulators at most.
    Avx512, avx512::Zmm, "avx512f,avx2,fma,f16c", 14 x 2,
    1: 4 3 2 1, 2: 4 2 1, 3: 4 2 1, 4: 4 2 1, 5: 4 2 1, 6: 4 2 1, 7: 2 1,
    8: 2 1, 9: 2 1, 10: 2 1, 11: 2 1, 12: 2 1, 13: 2 1, 14: 2 1);

#[cfg(target_arch = "x86_64")]
isa!(
    /// The same with products of pairs of bf16.
    Avx512Bf16, avx512::Zmm, "avx512f,avx512bf16,avx2,fma,f16c", 14 x 2,
    1: 4 3 2 1, 2: 4 2 1, 3: 4 2 1, 4: 4 2 1, 5: 4 2 1, 6: 4 2 1, 7: 2 1,
    8: 2 1, 9: 2 1, 10: 2 1, 11: 2 1, 12: 2 1, 13: 2 1, 14: 2 1);

/// Implements [`GroupedIsa`]: `rows: panels` as in [`isa`], of integer rows and of f32 rows.
macro_rules! grouped {
    ($(#[$doc:meta])* $name:ident, $dots:ty, $features:tt, $most:literal,
     $($rows:literal: $($panels:literal)+),+; $($few:literal: $($wide:literal)+),+) => {
        $(#[$doc])*
        struct $name;
        impl GroupedIsa for $name {
            type D = $dots;
            const ROWS: usize = $most;

            grouped!(@tiles $features, $dots, integer_tiles, integer_tile,
                [BITS, WIDE] [const BITS: usize, const WIDE: bool] $($rows: $($panels)+),+);
            grouped!(@tiles $features, $dots, float_tiles, float_tile,
                [C] [C: Code] $($few: $($wide)+),+);

            isa!(@feature $features
                unsafe fn widen<C: Code>(panel: Panel, from: usize, rows: usize, to: *mut f32) {
                    // SAFETY: the caller's.
                    unsafe { grouped::widen::<$dots, C>(panel, from, rows, to) }
                });

            isa!(@feature $features
                unsafe fn quantize<const WIDE: bool>(k: usize, group: usize, x: *const f32, to: *mut u8) {
                    // SAFETY: the caller's.
                    unsafe { quantize::quantize::<WIDE>(k, group, x, to) }
                });
        }
    };
    (@tiles $features:tt, $dots:ty, $name:ident, $tile:ident, $of:tt $generics:tt $($rows:literal: $($panels:literal)+),+) => {
        grouped!(@each $features, $dots, $name, $tile, $of $of $generics $($rows: $($panels)+),+);
    };
    (@each $features:tt, $dots:ty, $name:ident, $tile:ident, [$($of:ident),+] $all:tt [$($generic:tt)+]
     $($rows:literal: $($panels:literal)+),+) => {
        #[inline]
        unsafe fn $name<$($generic)+>(rows: usize, panels: usize, mut t: grouped::Tile) {
            isa!(@feature $features
                unsafe fn tile<$($generic)+, const M: usize, const P: usize>(t: &grouped::Tile) {
                    // SAFETY: the caller vouches for the features and the tile.
                    unsafe { grouped::$tile::<$dots, $($of),+, M, P>(t) }
                });
            let mut left = panels;
            match rows {
                $($rows => {
                    $(while left >= $panels {
                        // SAFETY: the caller vouches for features and for `panels` panels.
                        unsafe { grouped!(@call tile $all $rows, $panels)(&t) };
                        t.advance($panels);
                        left -= $panels;
                    })+
                })+
                _ => unreachable!("the caller cuts rows into tiles"),
            }
        }
    };
    (@call $tile:ident [$($of:ident),+] $m:literal, $p:literal) => { $tile::<$($of),+, $m, $p> };
}

grouped!(
    /// Plain Rust.
    PortableGroups, dots::Integers, none, 1, 1: 1; 1: 1, 2: 1, 3: 1, 4: 1);

#[cfg(target_arch = "x86_64")]
grouped!(
    /// 16 registers of 256 bits.
    Avx2Groups, avx2_dots::Int2, "avx2,fma,f16c", 4, 1: 4 2 1, 2: 2 1, 3: 1, 4: 1; 1: 4 2 1, 2: 1, 3: 1, 4: 1);

#[cfg(target_arch = "x86_64")]
grouped!(
    /// The same with VNNI.
    AvxVnniGroups, vnni::Int256, "avx2,fma,f16c,avxvnni", 3,
    1: 2 1, 2: 1, 3: 1; 1: 2 1, 2: 1, 3: 1, 4: 1);

#[cfg(target_arch = "x86_64")]
grouped!(
    /// 32 registers of 512 bits: as many sums of integers as of floats.
    Vnni512Groups, vnni::Int512, "avx512f,avx512bw,avx512vnni,avx2,fma,f16c", 6,
    1: 4 2 1, 2: 4 2 1, 3: 2 1, 4: 2 1, 5: 2 1, 6: 2 1; 1: 4 2 1, 2: 4 2 1, 3: 2 1, 4: 2 1);

/// [`ir::abi::QuantizeFn`].
unsafe extern "C" fn quantize<G: GroupedIsa, const WIDE: bool>(
    k: usize,
    group: usize,
    x: *const f32,
    to: *mut u8,
) {
    // SAFETY: the caller's; the features are the table's.
    unsafe { G::quantize::<WIDE>(k, group, x, to) }
}

/// Products with integers of so many bits, which rows of integers meet.
const fn integers<I: Isa, G: GroupedIsa, const BITS: usize, const ZERO: bool>() -> GroupedGemms {
    GroupedGemms {
        q8: Some(grouped::integer_gemm::<G, BITS, ZERO, false>),
        q16: Some(grouped::integer_gemm::<G, BITS, ZERO, true>),
        ..floats(grouped::float_gemm::<I, G, Int<BITS>, ZERO>)
    }
}

/// Products with weights that rows of f32 alone meet.
const fn floats(f32: GroupedGemmFn) -> GroupedGemms {
    GroupedGemms {
        f32,
        q8: None,
        q16: None,
    }
}

/// [`ir::abi::ElementsFn`].
unsafe extern "C" fn elements<I: Isa, F: Function>(n: usize, x: *mut f32) {
    // SAFETY: the caller's; the features are the table's.
    unsafe { I::apply::<F>(n, x) }
}

/// [`ir::abi::HadamardFn`].
unsafe extern "C" fn hadamard<I: Isa>(n: usize, block: usize, x: *mut f32) {
    // SAFETY: the caller's; the features are the table's.
    unsafe { I::hadamard(n, block, x) }
}

extern "C" fn cos(x: f32) -> f32 {
    // In f64, so that the f32 result is correctly rounded but for rare ties, and large angles keep their meaning.
    f64::from(x).cos() as f32
}

extern "C" fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

const fn table_of<I: Isa, G: GroupedIsa>() -> KernelTable {
    KernelTable {
        version: ABI_VERSION as u64,
        gemm_f32: gemm::gemm::<I, f32, f32>,
        gemm_bf16: gemm::gemm::<I, Pair<f32, false>, Pair<f32, false>>,
        gemm_f16: gemm::gemm::<I, f16, f16>,
        attention_f32: attention::attention::<I, f32>,
        cos,
        sin,
        // One for each of `Element::ALL`, in its order.
        grouped: [
            integers::<I, G, 8, false>(),
            integers::<I, G, 4, false>(),
            integers::<I, G, 3, false>(),
            integers::<I, G, 8, true>(),
            integers::<I, G, 4, true>(),
            integers::<I, G, 3, true>(),
            floats(grouped::float_gemm::<I, G, Int<16>, false>),
            floats(grouped::float_gemm::<I, G, E4m3, false>),
            integers::<I, G, 7, false>(),
        ],
        quantize_q8: quantize::<G, false>,
        quantize_q16: quantize::<G, true>,
        fake_quantize: quantize::fake_quantize,
        exp: elements::<I, functions::Exp>,
        tanh: elements::<I, functions::Tanh>,
        erf: elements::<I, functions::Erf>,
        attention_bf16: attention::attention::<I, bf16>,
        attention_f16: attention::attention::<I, f16>,
        attention_q8: attention::attention::<I, i8>,
        quantize_head: quantize::quantize_head,
        gemm_bf16_rows: gemm::gemm::<I, Pair<bf16, true>, Pair<f32, true>>,
        hadamard: hadamard::<I>,
    }
}

/// A table with an instruction for products of pairs of bf16.
#[cfg(target_arch = "x86_64")]
fn with_dots(table: KernelTable) -> KernelTable {
    KernelTable {
        gemm_bf16_rows: gemm::gemm::<Avx512Bf16, PairDots, PairDots>,
        ..table
    }
}

/// Whether this processor is slower with products of pairs of bf16 than with widening them: Intel's are. Emerald Rapids does
/// 162 x 10^9 operations a second so on two cores, and 333 of f32; Zen 4 does twice as many as of f32.
#[cfg(target_arch = "x86_64")]
fn halves_dots() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx]
        .map(u32::to_le_bytes)
        .as_flattened()
        == b"GenuineIntel"
}

/// The fastest table this machine can run.
pub fn table() -> &'static KernelTable {
    static TABLE: OnceLock<KernelTable> = OnceLock::new();
    TABLE.get_or_init(|| tables().swap_remove(0).1)
}

/// Every table this machine can run, fastest first, with the name of its instruction set.
pub fn tables() -> Vec<(&'static str, KernelTable)> {
    let mut tables = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let v3 = has!("avx2") && has!("fma") && has!("f16c");
        let v4 = v3 && has!("avx512f") && has!("avx512bw");
        if v4 && has!("avx512vnni") {
            let table = table_of::<Avx512, Vnni512Groups>();
            tables.push(("avx512vnni", table));
            if has!("avx512bf16") {
                tables.insert(usize::from(halves_dots()), ("avx512bf16", with_dots(table)));
            }
        }
        if v4 {
            tables.push(("avx512", table_of::<Avx512, Avx2Groups>()));
        }
        if v3 && has!("avxvnni") {
            tables.push(("avxvnni", table_of::<Avx2, AvxVnniGroups>()));
        }
        if v3 {
            tables.push(("avx2", table_of::<Avx2, Avx2Groups>()));
        }
    }
    tables.push(("portable", table_of::<Portable, PortableGroups>()));
    tables
}
