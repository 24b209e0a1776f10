//! `x / 2 * (1 + erf(x / sqrt 2))` (arXiv 1606.08415, exact form), elementwise.
use super::*;
op! {
    /// `x / 2 * (1 + erf(x / sqrt 2))` (arXiv 1606.08415, exact form), elementwise.
    Gelu = "gelu"
}
composite! { Gelu(g, x) = {
    let scale = g.constant_like(x, std::f64::consts::FRAC_1_SQRT_2);
    let scaled = g.add(Mul, &[x, scale])?;
    let erf = g.add(Erf, &[scaled])?;
    gate_half(g, x, erf)
}; 16 }

/// `x / 2 * (1 + t)`: what both forms of gelu end with.
pub(super) fn gate_half(g: &mut Graph, x: Value, t: Value) -> Result<Value, TypeError> {
    let half = g.constant_like(x, 0.5);
    let halved = g.add(Mul, &[x, half])?;
    let one = g.constant_like(x, 1.0);
    let gate = g.add(Add, &[one, t])?;
    g.add(Mul, &[halved, gate])
}
