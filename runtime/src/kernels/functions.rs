//! Elementary functions over lanes, and over runs of elements. Each is one sequence of operations, whatever the width, so
//! that all instruction sets give the same bits. In all of them NaN stays NaN.

use super::lanes::{Lanes, ROUNDER};
use ir::abi::PANEL;

/// A function of one element.
pub(super) trait Function {
    /// Its value in each lane.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn of<V: Lanes>(x: V) -> V;
}

/// `x[0..n] = F(x[0..n])`.
///
/// # Safety
/// As [`ir::abi::ElementsFn`]; features as [`Lanes`].
#[inline(always)]
pub(super) unsafe fn apply<V: Lanes, F: Function>(n: usize, x: *mut f32) {
    // SAFETY: whole registers lie within the `n` elements; what is left is copied to and from a register's worth.
    unsafe {
        for i in (0..n / PANEL).map(|i| i * PANEL) {
            F::of(V::load(x.add(i))).store(x.add(i));
        }
        let (done, left) = (n / PANEL * PANEL, n % PANEL);
        if left > 0 {
            let mut last = [0.0; PANEL];
            std::ptr::copy_nonoverlapping(x.add(done), last.as_mut_ptr(), left);
            F::of(V::load(last.as_ptr())).store(last.as_mut_ptr());
            std::ptr::copy_nonoverlapping(last.as_ptr(), x.add(done), left);
        }
    }
}

/// [`exp`], [`tanh`] and [`erf`] as types.
macro_rules! function {
    ($($name:ident = $f:ident),+) => {
        $(
            /// See the function.
            pub(super) struct $name;
            impl Function for $name {
                #[inline(always)]
                unsafe fn of<V: Lanes>(x: V) -> V {
                    // SAFETY: the caller's.
                    unsafe { $f(x) }
                }
            }
        )+
    };
}
function!(Exp = exp, Tanh = tanh, Erf = erf);

/// `2^x` for `x <= 126`; below -125, `2^-125`.
///
/// `x = n + f` with `n` an integer, and the minimax polynomial of degree 5 for `2^f` on `-0.5..=0.5` that is exact at
/// zero with its slope: relative error below 2e-7.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp2<V: Lanes>(x: V) -> V {
    const POLYNOMIAL: [f32; 6] = [
        1.330_060_5e-3,
        9.669_691e-3,
        5.550_558_5e-2,
        2.402_228_2e-1,
        std::f32::consts::LN_2,
        1.0,
    ];
    // SAFETY: the caller vouches for the CPU features; there are no pointers.
    unsafe {
        // In this order NaN stays NaN.
        let x = V::splat(-125.0).max(x);
        let n = x.add(V::splat(ROUNDER));
        let f = x.sub(n.sub(V::splat(ROUNDER)));
        horner(&POLYNOMIAL, f).shift_exponent(n)
    }
}

/// The polynomial with these coefficients, highest degree first.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn horner<V: Lanes, const N: usize>(coefficients: &[f32; N], x: V) -> V {
    // SAFETY: the caller vouches for the CPU features; there are no pointers.
    unsafe {
        let mut p = V::splat(coefficients[0]);
        let mut i = 1;
        while i < N {
            p = p.fma(x, V::splat(coefficients[i]));
            i += 1;
        }
        p
    }
}

/// `tanh x`: the odd 13/6 rational minimax approximation of Eigen (`generic_fast_tanh_float`), error of a few ulp.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn tanh<V: Lanes>(x: V) -> V {
    // Beyond this the f32 result of the rational form is +-1.
    const SATURATES: f32 = 7.905_311;
    const ALPHA: [f32; 7] = [
        -2.760_768_4e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_3e-8,
        1.485_722_36e-5,
        6.372_619_4e-4,
        4.893_524_6e-3,
    ];
    const BETA: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3];
    // SAFETY: the caller vouches for the CPU features; there are no pointers.
    unsafe {
        // In this order NaN stays NaN.
        let x = V::splat(-SATURATES).max(V::splat(SATURATES).min(x));
        let x2 = x.mul(x);
        x.mul(horner(&ALPHA, x2)).div(horner(&BETA, x2))
    }
}

/// `e^x`: Cephes `expf`, relative error 1.2e-7; saturates at the ends of the f32 range.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(x: V) -> V {
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_66,
        0.5,
    ];
    // ln 2 in two parts, the first of few bits.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // SAFETY: the caller vouches for the CPU features; there are no pointers.
    unsafe {
        // In this order NaN stays NaN.
        let x = V::splat(-87.336_54).max(V::splat(88.376_26).min(x));
        let n = x.fma(V::splat(std::f32::consts::LOG2_E), V::splat(ROUNDER));
        let whole = n.sub(V::splat(ROUNDER));
        let r = whole.fma(V::splat(-LN_2[0]), x);
        let r = whole.fma(V::splat(-LN_2[1]), r);
        let p = horner(&POLYNOMIAL, r);
        p.fma(r.mul(r), r).add(V::splat(1.0)).shift_exponent(n)
    }
}

/// The error function: Eigen's rational approximation on `-4..=4`, a few ulp.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn erf<V: Lanes>(x: V) -> V {
    const ALPHA: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_6e-5,
        -7.349_906e-4,
        -2.954_6e-3,
        -1.609_603_4e-2,
    ];
    const BETA: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    // SAFETY: the caller vouches for the CPU features; there are no pointers.
    unsafe {
        // In this order NaN stays NaN.
        let x = V::splat(-4.0).max(V::splat(4.0).min(x));
        let x2 = x.mul(x);
        x.mul(horner(&ALPHA, x2)).div(horner(&BETA, x2))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lanes::Array, *};

    /// Checks `f` against `exact` where both are defined, over `from..to`.
    fn check(
        f: impl Fn(Array) -> Array,
        exact: impl Fn(f64) -> f64,
        range: std::ops::Range<f32>,
        tolerance: f64,
    ) {
        for i in 0..100_000 {
            let x = range.start + (range.end - range.start) * (i as f32 / 1e5);
            let (got, exact) = (f(Array([x; PANEL])).0[i % PANEL], exact(f64::from(x)));
            assert!(
                (f64::from(got) - exact).abs() <= tolerance * exact.abs(),
                "{x}: {got}, not {exact}"
            );
        }
    }

    #[test]
    fn elementary_functions_are_accurate() {
        // SAFETY: `Array` needs no CPU feature.
        check(|x| unsafe { exp2(x) }, f64::exp2, -125.0..126.0, 2e-7);
        // SAFETY: as above.
        check(|x| unsafe { tanh(x) }, f64::tanh, -12.0..12.0, 4e-7);
        // SAFETY: as above.
        check(|x| unsafe { exp(x) }, f64::exp, -87.3..88.3, 1.3e-7);
        // From tables (Abramowitz and Stegun 7.1).
        for (x, exact) in [
            (0.1, 0.112_462_916),
            (0.5, 0.520_499_878),
            (1.0, 0.842_700_793),
            (2.0, 0.995_322_265),
            (3.0, 0.999_977_91),
        ] {
            for sign in [1.0, -1.0] {
                // SAFETY: as above.
                let got = unsafe { erf(Array([sign * x; PANEL])) }.0[0];
                assert!((f64::from(sign * got) - exact).abs() < 2e-7, "{x}: {got}");
            }
        }
    }

    #[test]
    fn elementary_functions_at_the_edges() {
        // SAFETY: `Array` needs no CPU feature.
        let (exp2, tanh) = (
            |x| unsafe { exp2(Array([x; PANEL])).0[0] },
            |x| unsafe { tanh(Array([x; PANEL])).0[0] },
        );
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 2f32.powi(-125));
        assert_eq!(
            (tanh(0.0), tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)),
            (0.0, tanh(9.0), tanh(-9.0))
        );
        assert!(exp2(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }
}
