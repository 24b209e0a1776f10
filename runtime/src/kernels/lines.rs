//! Lines of packed panels: what the inner loop of a tile loads at once, and how rows meet it. A line is a row of [`PANEL`]
//! elements, or two rows of pairs. Knows no product.

use super::lanes::Lanes;
use super::weight::Weight;
use half::bf16;
use ir::{
    DType,
    abi::{Codec, PANEL},
};
use std::marker::PhantomData;

/// What a line is made of: [`PANEL`] of these.
pub(super) trait Packed: Copy {
    /// An element of the rows that it meets.
    type X: Copy;
    /// What a line is widened to.
    type Widened: Packed<X = Self::X>;
    /// Rows of the weight in a line.
    const DEPTH: usize;
    /// [`Codec::strip`].
    const STRIP: usize;
    /// Whether a block of panels is worth widening once when several row tiles read it.
    const NARROW: bool;
}

/// How a vector meets lines.
pub(super) trait Line<V: Lanes>: Packed {
    /// A line in registers.
    type Wide: Copy;
    /// As many elements of a row, in every lane.
    type Input: Copy;
    /// # Safety
    /// As [`Lanes::load`].
    unsafe fn load(p: *const Self) -> Self::Wide;
    /// # Safety
    /// There are [`Packed::DEPTH`] elements; features as [`Lanes`].
    unsafe fn input(x: *const Self::X) -> Self::Input;
    /// The same of one element, where the line's others are padding.
    ///
    /// # Safety
    /// There is one; features as [`Lanes`].
    unsafe fn last(x: *const Self::X) -> Self::Input;
    /// `sum`, continued by a product for each element.
    ///
    /// # Safety
    /// Features as [`Lanes`].
    unsafe fn fma(line: Self::Wide, x: Self::Input, sum: V) -> V;
    /// Stores the line's rows as f32, one after another.
    ///
    /// # Safety
    /// There is room; features as [`Lanes`].
    unsafe fn store(line: Self::Wide, to: *mut f32);
}

impl<W: Weight> Packed for W {
    type X = f32;
    type Widened = f32;
    const DEPTH: usize = 1;
    const STRIP: usize = <W as Weight>::STRIP;
    const NARROW: bool = size_of::<W>() < size_of::<f32>();
}

impl<V: Lanes, W: Weight> Line<V> for W {
    type Wide = V;
    type Input = V;

    #[inline(always)]
    unsafe fn load(p: *const W) -> V {
        // SAFETY: the caller's, here and below.
        unsafe { <W as Weight>::load(p) }
    }

    #[inline(always)]
    unsafe fn input(x: *const f32) -> V {
        // SAFETY: as `load`.
        unsafe { V::splat(*x) }
    }

    #[inline(always)]
    unsafe fn last(x: *const f32) -> V {
        // SAFETY: as `load`.
        unsafe { V::splat(*x) }
    }

    #[inline(always)]
    unsafe fn fma(line: V, x: V, sum: V) -> V {
        // SAFETY: as `load`.
        unsafe { x.fma(line, sum) }
    }

    #[inline(always)]
    unsafe fn store(line: V, to: *mut f32) {
        // SAFETY: as `load`.
        unsafe { line.store(to) }
    }
}

/// Elements of two rows of bf16, the first in the lower half, and rows of `X`, which is f32 or bf16. Sums take the `LATER` of
/// the two first, as instructions for pairs do, or the earlier one.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Pair<X, const LATER: bool>(u32, PhantomData<X>);

/// [`Pair`]s, widened: a line is [`PANEL`] numbers of the first row, then those of the second.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct WidePair<X, const LATER: bool>([f32; 2], PhantomData<X>);

/// Implements [`Packed`] for pairs that are widened to these.
macro_rules! pair {
    ($x:ty, $later:literal, $widened:ty) => {
        impl Packed for Pair<$x, $later> {
            type X = $x;
            type Widened = $widened;
            const DEPTH: usize = 2;
            const STRIP: usize = Codec::Plain(DType::BF16).strip();
            const NARROW: bool = true;
        }
    };
}
// In the order in which sums take them, rows are lines by themselves: a register less.
pair!(f32, false, f32);
pair!(f32, true, WidePair<f32, true>);
pair!(bf16, true, WidePair<bf16, true>);

impl<X: Copy, const LATER: bool> Packed for WidePair<X, LATER> {
    type X = X;
    type Widened = Self;
    const DEPTH: usize = 2;
    const STRIP: usize = 1;
    const NARROW: bool = false;
}

/// Implements [`Line`] for lines of two rows: both widened are `[V; 2]`.
macro_rules! pairs {
    ($ty:ident, |$p:ident| $load:expr) => {
        impl<V: Lanes, X: Copy + Into<f32>, const LATER: bool> Line<V> for $ty<X, LATER>
        where
            Self: Packed<X = X>,
        {
            type Wide = [V; 2];
            type Input = [V; 2];

            #[inline(always)]
            unsafe fn load($p: *const Self) -> [V; 2] {
                // SAFETY: the caller's, here and below.
                unsafe { $load }
            }

            #[inline(always)]
            unsafe fn input(x: *const X) -> [V; 2] {
                // SAFETY: as `load`.
                unsafe { [V::splat((*x).into()), V::splat((*x.add(1)).into())] }
            }

            #[inline(always)]
            unsafe fn last(x: *const X) -> [V; 2] {
                // SAFETY: as `load`.
                unsafe { [V::splat((*x).into()), V::splat(0.0)] }
            }

            #[inline(always)]
            unsafe fn fma(line: [V; 2], x: [V; 2], sum: V) -> V {
                // SAFETY: as `load`.
                unsafe {
                    let (first, second) = if LATER { (1, 0) } else { (0, 1) };
                    x[second].fma(line[second], x[first].fma(line[first], sum))
                }
            }

            #[inline(always)]
            unsafe fn store(line: [V; 2], to: *mut f32) {
                // SAFETY: as `load`.
                unsafe {
                    line[0].store(to);
                    line[1].store(to.add(PANEL));
                }
            }
        }
    };
}
pairs!(Pair, |p| V::load_pairs(p.cast()));
pairs!(WidePair, |p| [
    V::load(p.cast()),
    V::load(p.cast::<f32>().add(PANEL))
]);

/// [`Pair`]s that meet rows of bf16 two elements at a time, by an instruction for that, which takes the later first. Lines and
/// sums are the same, but that numbers below 2^-126 count as zero.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct PairDots(u32);

impl Packed for PairDots {
    type X = bf16;
    type Widened = PairDots;
    const DEPTH: usize = 2;
    const STRIP: usize = Codec::Plain(DType::BF16).strip();
    const NARROW: bool = false;
}
