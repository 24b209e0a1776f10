//! The element types of packed panels that stand by themselves, and of attention's keys and values: how each widens to f32.
//! Knows no product.

use super::lanes::Lanes;
use half::{bf16, f16};
use ir::{
    DType,
    abi::{Codec, PANEL},
};

/// An element of a packed panel; of attention's keys and values, too.
pub(super) trait Weight: Copy + Default {
    /// [`Codec::strip`].
    const STRIP: usize;
    /// Whether keys and values have scales.
    const SCALED: bool = false;
    /// Widens [`PANEL`] elements.
    ///
    /// # Safety
    /// As [`Lanes::load`].
    unsafe fn load<V: Lanes>(p: *const Self) -> V;
    /// [`Lanes::transpose8`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn transpose8<V: Lanes>(src: *const Self, stride: usize, dst: *mut Self) {
        for i in 0..8 {
            for j in 0..8 {
                // SAFETY: the caller's.
                unsafe { *dst.add(j * PANEL + i) = *src.add(i * stride + j) }
            }
        }
    }
}

macro_rules! weight {
    ($ty:ty, $dtype:ident, $load:ident $(, transpose: $transpose:ident)? $(, scaled: $scaled:literal)?) => {
        impl Weight for $ty {
            const STRIP: usize = Codec::Plain(DType::$dtype).strip();
            $(const SCALED: bool = $scaled;)?
            #[inline(always)]
            unsafe fn load<V: Lanes>(p: *const Self) -> V {
                // SAFETY: the caller's.
                unsafe { V::$load(p) }
            }
            $(
                #[inline(always)]
                unsafe fn transpose8<V: Lanes>(src: *const $ty, stride: usize, dst: *mut $ty) {
                    // SAFETY: the caller's.
                    unsafe { V::$transpose(src, stride, dst) }
                }
            )?
        }
    };
}
weight!(f32, F32, load, transpose: transpose8);
weight!(bf16, BF16, load_bf16);
weight!(f16, F16, load_f16);
weight!(i8, I8, load_i8, scaled: true);
