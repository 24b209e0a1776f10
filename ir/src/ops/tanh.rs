//! Hyperbolic tangent, elementwise.
use super::*;
op! {
    /// Hyperbolic tangent, elementwise.
    Tanh = "tanh"
}
elementwise! { Tanh(x) = x.tanh(); floats, 10 }
