//! Cosine of radians, elementwise.
use super::*;
op! {
    /// Cosine of radians, elementwise.
    Cos = "cos"
}
elementwise! { Cos(x) = x.cos(); floats, 20 }
