//! `1 / (1 + e^-x)`, elementwise.
use super::*;
op! {
    /// `1 / (1 + e^-x)`, elementwise.
    Sigmoid = "sigmoid"
}
composite! { Sigmoid(g, x) = {
    let zero = g.constant_like(x, 0.0);
    let minus = g.add(Sub, &[zero, x])?;
    let exp = g.add(Exp, &[minus])?;
    let one = g.constant_like(x, 1.0);
    let below = g.add(Add, &[one, exp])?;
    g.add(Div, &[one, below])
}; 16 }
