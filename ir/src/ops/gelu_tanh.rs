//! `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` (arXiv 1606.08415, tanh form), elementwise.
use super::*;
op! {
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` (arXiv 1606.08415, tanh form), elementwise.
    GeluTanh = "gelu_tanh"
}
composite! { GeluTanh(g, x) = {
    let coefficient = g.constant_like(x, 0.044715);
    let square = g.add(Mul, &[x, x])?;
    let cube = g.add(Mul, &[square, x])?;
    let bent = g.add(Mul, &[cube, coefficient])?;
    let sum = g.add(Add, &[x, bent])?;
    let scale = g.constant_like(x, (2.0 / std::f64::consts::PI).sqrt());
    let scaled = g.add(Mul, &[sum, scale])?;
    let tanh = g.add(Tanh, &[scaled])?;
    super::gelu::gate_half(g, x, tanh)
}; 20 }
